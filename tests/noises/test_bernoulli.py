import re
from itertools import pairwise

import numpy as np
import pytest
from arrays import LAYOUTS, examples, frozen, normal, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdrop as fd
from fastdrop._arrays.numbers import rate
from fastdrop._stream import reference

KEY = fd.Key(42, 3)
EDGE_RATES = [0, 2**-33, 1e-3, 0.1, 0.25, 0.5, 0.9, 1 - 2**-33, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", EDGE_RATES)
def test_equals_the_reference_for_every_rate(p, dtype):
    for size in (0, 1, 1023, 1024, 1025, 10**5 + 3):
        x = normal(size, dtype=dtype)
        assert same_bits(fd.dropout(x, p, KEY), reference.dropout(x, p, KEY))


@pytest.mark.parametrize("key", [KEY, KEY.antithetic()], ids=["plain", "antithetic"])
def test_a_threshold_is_exact(key):
    """An element is kept if U is the threshold, and dropped if it is one less."""
    u = reference.uniforms(np.arange(1100, dtype=np.uint64), key)
    for i in (0, 5, 1023, 1024, 1099):
        at, above = (fd.keep_mask(1100, int(u[i] + n) / 2**32, key)[i] for n in (np.uint64(0), np.uint64(1)))
        assert at
        assert not above


@pytest.mark.parametrize("p", EDGE_RATES)
def test_many_tiles_for_every_rate(p):
    x = normal(10**6 + 7 if p in (0.1, 0.5) else 10**5 + 7)
    assert same_bits(fd.dropout(x, p, KEY), reference.dropout(x, p, KEY))


@pytest.mark.parametrize("layout_out", [None, *LAYOUTS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_input_and_output(layout, layout_out):
    x = normal(70, 33, 31)
    expected = reference.dropout(x, 0.3, KEY)
    given_x = frozen(LAYOUTS[layout](x))
    out = (
        None
        if layout_out is None
        else LAYOUTS[layout_out](np.zeros_like(x)).astype(given_x.dtype, copy=False)
    )
    y = fd.dropout(given_x, 0.3, KEY, out=out)
    assert out is None or y is out
    assert np.array_equal(y, expected)
    assert y.dtype == given_x.dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place(layout):
    x = normal(70, 33, 31)
    given_x = LAYOUTS[layout](x.copy())
    assert fd.dropout(given_x, 0.3, KEY, out=given_x) is given_x
    assert np.array_equal(given_x, reference.dropout(x, 0.3, KEY))


def test_broadcast_input():
    x = np.broadcast_to(np.float32(1), (100, 70))
    assert same_bits(fd.dropout(x, 0.3, KEY), reference.dropout(np.ascontiguousarray(x), 0.3, KEY))


def test_zero_dimensional_and_lists():
    assert fd.dropout(np.float32(3), 0, 1).shape == ()
    values = {float(fd.dropout(np.array(3.0), 0.5, seed)) for seed in range(20)}
    assert values == {0.0, 6.0}
    assert fd.dropout([1.0, 2.0], 0, 1).tolist() == [1, 2]
    window = ((), ())
    assert fd.dropout(np.array(3.0), 0.5, 1, window=window) == fd.dropout(np.array(3.0), 0.5, 1)


def test_never_returns_its_input():
    for p in (0, 0.5, 1):
        x = normal(10)
        y = fd.dropout(x, p, KEY)
        assert y is not x
        assert not np.shares_memory(x, y)


def test_nan_and_inf_vanish_where_dropped_and_stay_where_kept():
    x = np.full(10_000, np.nan, np.float32)
    x[::2] = np.inf
    for function in (fd.dropout, fd.dropout_backward):
        y = function(x, 0.5, KEY)
        keep = fd.keep_mask(x.shape, 0.5, KEY)
        assert (y[~keep].view(np.uint32) == 0).all()
        assert np.array_equal(y[keep], x[keep], equal_nan=True)


def test_a_larger_p_drops_a_superset():
    masks = [fd.keep_mask(50_000, p, KEY) for p in (0, 0.01, 0.1, 0.25, 0.3, 0.5, 0.9, 1)]
    for more, fewer in pairwise(masks):
        assert (fewer <= more).all()


def test_a_longer_batch_has_the_shorter_ones_mask_as_its_prefix():
    assert np.array_equal(fd.keep_mask((70, 33), 0.3, KEY)[:20], fd.keep_mask((20, 33), 0.3, KEY))


def test_the_mask_does_not_depend_on_the_dtype():
    x = np.ones(5000)
    assert np.array_equal(fd.dropout(x, 0.1, KEY) != 0, fd.dropout(x.astype(np.float32), 0.1, KEY) != 0)


def test_int_keys_are_seeds():
    x = normal(100)
    assert same_bits(fd.dropout(x, 0.5, 7), fd.dropout(x, 0.5, fd.Key(7)))
    assert same_bits(fd.dropout(x, 0.5, np.int64(7)), fd.dropout(x, 0.5, fd.Key(7)))


@pytest.mark.parametrize("p", EDGE_RATES)
def test_backward_is_forward_and_the_adjoint(p):
    x, g = normal(3000, dtype=np.float64), normal(3000, dtype=np.float64, seed=1)
    ones = np.ones(3000)
    assert same_bits(fd.dropout_backward(ones, p, KEY), fd.dropout(ones, p, KEY))
    forward, backward = fd.dropout(x, p, KEY) @ g, x @ fd.dropout_backward(g, p, KEY)
    assert forward == pytest.approx(backward, rel=1e-12)


@pytest.mark.parametrize("p", EDGE_RATES)
def test_keep_mask_is_where_dropout_keeps(p):
    for shape in (0, 1, 1000, (13, 99), ()):
        mask = fd.keep_mask(shape, p, KEY)
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, fd.dropout(np.ones(shape), p, KEY) != 0)
        assert np.array_equal(mask, reference.keep_mask(mask.shape, p, KEY))
        bits = fd.keep_mask(shape, p, KEY, packed=True)
        assert np.array_equal(bits, np.packbits(mask))
        for found, packed in ((mask, False), (bits, True)):
            out = np.full(found.shape, 9, np.uint8).view(found.dtype)
            assert fd.keep_mask(shape, p, KEY, packed=packed, out=out) is out
            assert np.array_equal(out, found)


@pytest.mark.parametrize("key", [KEY, fd.Key(7).antithetic()])
@pytest.mark.parametrize("p", [2.0**-32, 0.25, 0.3, 1 - 2.0**-32])
def test_packed_masks_are_the_bits_of_masks(p, key):
    """Of any size, and from any index on, also within a byte of the full mask."""
    sizes = [*range(1, 20), 127, 128, 1000, 1023, 1024, 1025, 2049, 5000, 300_000]
    for size in sizes:
        for start in (0, 1, 8, 40, 1016, 1024, 4099):
            window = ((size + 5000,), (start,))
            mask = fd.keep_mask(size, p, key, window=window)
            bits = fd.keep_mask(size, p, key, packed=True, window=window)
            assert np.array_equal(bits, np.packbits(mask)), (size, start)
    assert np.array_equal(mask[:50], reference.keep_mask((4149,), p, key)[4099:])


def test_keep_mask_refuses_outputs():
    for out, packed, message in (
        (np.ones(4, bool), False, r"out must be bool \(3,\) for this mask, got bool \(4,\)"),
        (np.ones(3, np.uint8), False, r"out must be bool \(3,\) for this mask, got uint8"),
        (np.ones(3, bool), True, r"out must be uint8 \(1,\) for this mask, got bool"),
        (np.broadcast_to(True, 3), False, "writable"),
    ):
        with pytest.raises(ValueError, match=message):
            fd.keep_mask(3, 0.5, KEY, packed=packed, out=out)
    with pytest.raises(TypeError, match="out must be an ndarray, or an array on a GPU, got list"):
        fd.keep_mask(3, 0.5, KEY, out=[True] * 3)


@settings(max_examples=examples(200))
@given(data=st.data(), full=st.lists(st.integers(0, 9), max_size=4))
def test_any_window_has_the_bits_of_the_whole(data, full):
    origin = [data.draw(st.integers(0, n)) for n in full]
    shape = [data.draw(st.integers(0, n - o)) for n, o in zip(full, origin, strict=True)]
    block = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
    x = normal(*full)
    whole = fd.dropout(x, 0.3, KEY)
    window = (full, origin)
    assert same_bits(fd.dropout(x[*block, ...], 0.3, KEY, window=window), whole[*block, ...].copy())
    assert np.array_equal(
        fd.keep_mask(shape, 0.3, KEY, window=window), fd.keep_mask(full, 0.3, KEY)[*block, ...]
    )


@pytest.mark.parametrize("row", [0, 1, 2**31, 2**32, 2**54 - 2])
def test_windows_of_arrays_past_any_memory(row):
    x = normal(2, 512)
    window = ((2**54, 512), (row, 0))  # 2**63 elements
    assert same_bits(fd.dropout(x, 0.3, KEY, window=window), reference.dropout(x, 0.3, KEY, window))


def test_the_last_elements_of_the_largest_array():
    x = normal(1500)
    window = ((2**64,), (2**64 - 1500,))
    assert same_bits(fd.dropout(x, 0.3, KEY, window=window), reference.dropout(x, 0.3, KEY, window))


@pytest.mark.parametrize("p", [-0.1, 1.2, np.nan, np.inf, -1, 2, np.float32(1.5), 10**400])
def test_refuses_rates_outside_0_to_1(p):
    out = np.full(3, 7.0)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got"):
        fd.dropout(np.ones(3), p, 1, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("p", ["0.5", None, 0.5j, [0.5]])
def test_refuses_rates_that_are_no_numbers(p):
    with pytest.raises(
        TypeError,
        match=r"p must be a real number in \[0, 1\], got .*; use (float|a number|one number, or np.array)",
    ):
        fd.dropout(np.ones(3), p, 1)


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [
        (np.int64, "x.astype(np.float32)"),
        (np.uint8, "x.astype(np.float32)"),
        (np.bool_, "x.astype(np.float32)"),
        (np.longdouble, "x.astype(np.float64)"),
        (np.clongdouble, "x.astype(np.complex128)"),
        ("U3", "an array of numbers"),
    ],
)
def test_refuses_other_dtypes(dtype, hint):
    with pytest.raises(TypeError, match=rf"dropout needs float16, .*, got .*; use {re.escape(hint)}"):
        fd.dropout(np.zeros(3, dtype), 0.5, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fd.dropout([1.0, None], 0.5, 1),
            TypeError,
            r"use np.array\(x, np.float32\), of numbers alone",
        ),
        (
            lambda: fd.dropout(0.5, np.ones((4, 6)), 1),
            ValueError,
            r"shape \(\), got \(4, 6\); x comes before p",
        ),
        (lambda: fd.keep_mask((4, 6.0), 0.5, 1), TypeError, "shape must be an integer, got float 6.0"),
        (lambda: fd.keep_mask(-1, 0.5, 1), ValueError, "shape must have lengths of at least 0, got -1"),
        (lambda: fd.normal((2, -3), 1), ValueError, r"shape must have lengths of at least 0, got \(2, -3\)"),
        (lambda: fd.normal(3, 1, dtype=int), TypeError, "dtype must be one of floats, got int64"),
        (lambda: fd.surviving_rows(np.ones(3), 0.5, 1), TypeError, "samples must be an integer, got ndarray"),
        (
            lambda: fd.embedding_dropout([0], np.ones((3, 2), int), 0.5, 1),
            TypeError,
            "weight must be of float16",
        ),
    ],
)
def test_messages_name_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_refuses_masked_arrays():
    masked = np.ma.masked_array(np.ones(3), [0, 1, 0])
    with pytest.raises(TypeError, match=r"no masked arrays; use x\.filled"):
        fd.dropout(masked, 0.5, 1)
    with pytest.raises(TypeError, match="out must be an ndarray, got MaskedArray"):
        fd.dropout(np.ones(3), 0.5, 1, out=masked)


@pytest.mark.parametrize("key", [None, 1.5, "a", True, np.random.default_rng(0)])
def test_refuses_other_keys(key):
    out = np.full(3, 7.0)
    with pytest.raises(TypeError, match=r"key must be a fastdrop.Key or an int, got .*; use fastdrop.Key"):
        fd.dropout(np.ones(3), 0.5, key, out=out)
    assert (out == 7).all()


def bad_outputs():
    base = np.full(100, 7, np.float32)
    x = base[:20].reshape(4, 5)
    yield x, np.zeros((5, 4), np.float32), ValueError, r"the result's shape \(4, 5\), got \(5, 4\)"
    yield x, np.zeros(20, np.float32), ValueError, r"the result's shape \(4, 5\), got \(20,\)"
    yield x, np.zeros((4, 5)), ValueError, "the result's dtype float32, got float64"
    yield x, np.zeros((4, 5), ">f4"), ValueError, "the result's dtype float32, got >f4"
    yield x, frozen(np.zeros((4, 5), np.float32)), ValueError, "writable, got a read-only array"
    yield x, base[1:21].reshape(4, 5), ValueError, "must be x or not overlap it"
    yield x, x[::-1], ValueError, "must be x or not overlap it"
    yield x[:, :4], x[:, 1:], ValueError, "must be x or not overlap it"
    yield x, [[0.0] * 5] * 4, TypeError, "out must be an ndarray, got list"
    repeated = np.lib.stride_tricks.as_strided(np.zeros(5, np.float32), (4, 5), (0, 4))
    yield x, repeated, ValueError, "must not overlap itself"
    sliding = np.lib.stride_tricks.as_strided(np.zeros(9, np.float32), (4, 5), (4, 4))
    yield x, sliding, ValueError, "must not overlap itself"


@pytest.mark.parametrize(("x", "out", "error", "message"), list(bad_outputs()))
def test_refuses_outputs_that_do_not_fit(x, out, error, message):
    before = np.array(out)
    with pytest.raises(error, match=message):
        fd.dropout(x, 0.5, 1, out=out)
    assert np.array_equal(out, before)


def test_takes_outputs_that_interleave_with_x():
    base = normal(100)
    expected = reference.dropout(base[::2].copy(), 0.5, KEY)
    fd.dropout(base[::2], 0.5, KEY, out=base[1::2])
    assert np.array_equal(base[1::2], expected)


def outputs_that_share_memory_with_rates():
    """Calls, each of memory of 64 rows of 4,096 rates: x, p, out and other arguments."""
    yield lambda b: (np.ones((4096, 64)).T, b, b, {})
    yield lambda b: (np.ones((64, 4096)), b[0], b, {})
    yield lambda b: (b, b[0], b, {})
    yield lambda b: (b, b[:, :1], b, {})
    yield lambda b: (np.ones(100_000), b.ravel()[:100_000], b.ravel()[1024:101_024], {})
    yield lambda b: (np.ones((64, 4096)), b[0], b, {"rows": np.arange(64)[::-1].copy()})
    yield lambda b: (np.ones((64, 4096)), b[0], b, {"shared_axes": 0})


@pytest.mark.parametrize("call", list(outputs_that_share_memory_with_rates()))
def test_out_may_share_memory_with_rates(call):
    memory = np.random.default_rng(0).random((64, 4096))
    x, p, _, options = call(memory.copy())
    expected = fd.dropout(x, p, KEY, **options)
    x, p, out, _ = call(memory.copy())
    assert fd.dropout(x, p, KEY, out=out, **options) is out
    assert same_bits(out.copy(), expected)


def test_a_state_may_share_memory_with_its_rates():
    b = np.random.default_rng(0).random((64, 4096))
    expected = fd.zoneout(np.ones_like(b), np.zeros_like(b), b[0].copy(), KEY)
    assert same_bits(fd.zoneout(np.ones_like(b), np.zeros_like(b), b[0], KEY, out=b), expected)


def test_takes_subclasses_as_plain_arrays(tmp_path):
    out = np.memmap(tmp_path / "out", np.float32, "w+", shape=(100,))
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(100,))
    x[:] = normal(100)
    assert fd.dropout(x, 0.5, KEY, out=out) is out
    assert np.array_equal(out, reference.dropout(np.array(x), 0.5, KEY))
    assert type(fd.dropout(x, 0.5, KEY)) is np.ndarray


class ArrayLike:
    """What pandas, xarray and others are to NumPy: no array, but with one."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype, copy=copy)


X = normal(2, 3, 8, 8)
# each of x and a further array of its shape
FUNCTIONS = {
    "dropout": lambda x, _: fd.dropout(x, 0.3, KEY),
    "dropout_backward": lambda x, _: fd.dropout_backward(x, 0.3, KEY, shared_axes=1),
    "gaussian_dropout": lambda x, _: fd.gaussian_dropout(x, 0.3, KEY),
    "gaussian_noise": lambda x, _: fd.gaussian_noise(x, 0.3, KEY),
    "gaussian_noise_backward": lambda x, _: fd.gaussian_noise_backward(x, 0.3, KEY),
    "alpha_dropout": lambda x, _: fd.alpha_dropout(x, 0.3, KEY),
    "drop_path": lambda x, _: fd.drop_path(x, 0.3, KEY),
    "drop_block": lambda x, _: fd.drop_block(x, 0.3, KEY, block_size=2),
    "dropout_add": lambda x, other: fd.dropout_add(x, other, 0.3, KEY),
    "bias_act_dropout": lambda x, other: fd.bias_act_dropout(x, None, 0.3, KEY, residual=other),
    "bias_act_dropout_backward": lambda x, g: fd.bias_act_dropout_backward(g, x, None, 0.3, KEY)[0],
    "local_reparameterization": lambda x, other: fd.local_reparameterization(x, other, KEY),
    "apply_mask": lambda x, other: fd.apply_mask(x, other, 0.3),
    "Dropout": lambda x, _: fd.Dropout(0.3, rng=KEY)(x),
    "SpatialDropout2D": lambda x, _: fd.SpatialDropout2D(0.3, rng=KEY)(x),
    "DropPath": lambda x, _: fd.DropPath(0.3, rng=KEY)(x),
}


def other_for(name):
    if name == "apply_mask":
        return X > 0
    return X**2 if name == "local_reparameterization" else X[::-1].copy()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_takes_what_has_an_array_as_a_plain_array(name):
    call, other = FUNCTIONS[name], other_for(name)
    expected = call(X, other)
    assert type(expected) is np.ndarray
    for like in (ArrayLike, lambda a: a.view(np.recarray), memoryview):
        y = call(like(X), like(other))
        assert type(y) is np.ndarray
        assert same_bits(y, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_refuses_masked_arrays_in_every_place(name):
    call, other = FUNCTIONS[name], other_for(name)
    with pytest.raises(TypeError, match=r"no masked arrays; use x\.filled"):
        call(np.ma.masked_array(X, X > 1), other)
    if call.__code__.co_varnames[1] != "_":
        with pytest.raises(TypeError, match=r"no masked arrays; use x\.filled"):
            call(X, np.ma.masked_array(other, X > 1))


def test_refuses_masked_rates():
    rates = np.ma.masked_array(np.full(8, 0.3), [1, 0] * 4)
    for call in (fd.dropout, fd.gaussian_dropout, fd.gaussian_noise):
        with pytest.raises(TypeError, match="must not be a masked array"):
            call(X, rates, KEY)
    expected = fd.dropout(X, 0.3, KEY)
    for plain in (rates.filled(0.3), np.full(8, 0.3).view(np.recarray)):
        assert same_bits(fd.dropout(X, plain, KEY), expected)


def test_matrices_come_back_as_arrays_but_are_written_to_as_outputs():
    with pytest.warns(PendingDeprecationWarning):
        x = np.matrix(normal(4, 5))
    y = fd.dropout(x, 0.3, KEY)
    assert type(y) is np.ndarray
    assert same_bits(y, fd.dropout(np.array(x), 0.3, KEY))
    out = x.copy()
    assert fd.dropout(x, 0.3, KEY, out=out) is out
    assert np.array_equal(out, y)


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        (((10,), (8,)), ValueError, r"got block \(3,\) at \(8,\) in \(10,\)"),
        (((10,), (-1,)), ValueError, r"got block \(3,\) at \(-1,\) in \(10,\)"),
        (((10, 3), (0, 0)), ValueError, "window must place the block inside"),
        (((10,), ()), ValueError, "window must place the block inside"),
        (((2**65,), (0,)), ValueError, r"at most 2\*\*64 elements"),
        (((10.0,), (0,)), TypeError, r"window must be \(full_shape, origin\)"),
        (((10,),), TypeError, r"window must be \(full_shape, origin\)"),
        (5, TypeError, r"window must be \(full_shape, origin\)"),
    ],
)
def test_refuses_windows_that_do_not_fit(window, error, message):
    out = np.full(3, 7.0)
    with pytest.raises(error, match=message):
        fd.dropout(np.ones(3), 0.5, 1, out=out, window=window)
    assert (out == 7).all()


def test_peak_memory_of_an_out_call_is_small():
    import tracemalloc

    x = np.ones(2**22, np.float32)
    y = np.empty_like(x)
    fd.dropout(x, 0.1, KEY, out=y)
    tracemalloc.start()
    try:
        fd.dropout(x, 0.1, KEY, out=y)
        fd.dropout(x[::-1], 0.1, KEY, out=y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_threshold_is_round_half_even():
    assert rate(2**-33)[0] == 0
    assert rate(2**-33 * 1.5)[0] == 1
    assert rate(1 - 2**-34)[0] == 2**32
    assert rate(np.float16(0.5)) == rate(0.5) == (2**31, 2.0)
