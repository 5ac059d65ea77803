"""Draws shared along axes, rates by element, windows and dtypes, against the reference bit for bit."""

import re

import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, blocks, examples, frozen, normal, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdrop as fd
from fastdrop._cpu import calls as cpu_calls
from fastdrop._cpu import run
from fastdrop._stream import reference
from fastdrop._stream.keys import TILE

KEY = fd.Key(42, 3)


@st.composite
def calls(draw):
    """Arguments of a call: x, p, shared axes, layout of x and of out, window; out of every family."""
    shape, window = draw(blocks(most=4))
    ndim = len(shape)
    shared = draw(st.lists(st.integers(-ndim, ndim - 1), unique_by=lambda a: a % ndim)) if ndim else []
    mask = tuple(1 if axis - ndim in shared or axis in shared else n for axis, n in enumerate(shape))
    p = draw(st.sampled_from([0.0, 1e-3, 0.25, 0.3, 0.5, 0.9, 1.0, "row", "full", "column"]))
    if isinstance(p, str):
        shapes = {"row": mask[-1:], "full": mask, "column": mask[:1] + (1,) * (ndim - 1) if ndim else ()}
        p = np.random.default_rng(draw(st.integers(0, 9))).random(shapes[p])
        p.flat[:2] = [0, 1][: p.size]
    layouts = list(LAYOUTS) if ndim else ["contiguous"]
    dtype = draw(st.sampled_from(DTYPES))
    layout = draw(st.sampled_from(layouts))
    layout_out = draw(st.sampled_from([None, "in place", *layouts]))
    return shape, dtype, p, tuple(shared), layout, layout_out, window


@settings(max_examples=examples(300))
@given(call=calls(), draw=st.integers(0, 3))
def test_every_call_is_the_reference(call, draw):
    shape, dtype, p, shared, layout, layout_out, window = call
    key, x = fd.Key(7, draw), normal(*shape, dtype=dtype)
    expected = reference.dropout(x, p, key, window, shared)
    given_x = LAYOUTS[layout](x) if shape else x.copy()
    out = None
    if layout_out == "in place":
        out = given_x
    elif layout_out is not None:
        out = (LAYOUTS[layout_out](np.zeros_like(x)) if shape else np.zeros_like(x)).astype(
            given_x.dtype, copy=False
        )
    if layout_out != "in place":
        given_x = frozen(given_x)
    y = fd.dropout(given_x, p, key, shared_axes=shared, out=out, window=window)
    assert out is None or y is out
    assert y.dtype == given_x.dtype
    assert same_bits(np.ascontiguousarray(y).astype(dtype).reshape(shape), expected)
    mask = fd.keep_mask(shape, p, key, shared_axes=shared, window=window)
    assert np.array_equal(mask, reference.keep_mask(shape, p, key, window, shared))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [(), (1,), (0,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_bigger_arrays_and_a_broadcast_input(shared, dtype):
    x = normal(6, 11, 1031, dtype=dtype)
    for p in (0.1, np.linspace(0, 1, 1 if 2 in shared else 1031)):
        assert same_bits(
            fd.dropout(x, p, KEY, shared_axes=shared), reference.dropout(x, p, KEY, None, shared)
        )
    one = np.broadcast_to(x[:1, :1, :1], x.shape)
    assert same_bits(
        fd.dropout(one, 0.1, KEY, shared_axes=shared), reference.dropout(one, 0.1, KEY, None, shared)
    )


@pytest.mark.parametrize("width", [1, 7, 31, 64, 300, 512])
@pytest.mark.parametrize("more", [0, 1, 100, 500, 1000])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rows_of_a_window_that_lie_in_one_tile(width, more, p):
    x, window = normal(40, width), ((45, width + more), (3, more // 2))
    assert same_bits(fd.dropout(x, p, KEY, window=window), reference.dropout(x, p, KEY, window))
    listed = [3, 4, 4, 5, 3, 44, 0, 1, 43, 3]
    full = reference.dropout(np.ones((45, width), np.float32), p, KEY)
    assert same_bits(fd.dropout(np.ones((10, width), np.float32), p, KEY, rows=listed), full[listed])


@pytest.mark.parametrize("width", [1, 16, 33, 64, 65, 100, 129])
@pytest.mark.parametrize("first", [0, 1, 16, 31, 33, 63])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normals_of_rows_are_those_of_the_array(width, first, dtype):
    full = fd.gaussian_noise(np.zeros((20, 200), dtype), 1.0, KEY)
    x, window = np.zeros((12, width), dtype), ((20, 200), (5, first))
    assert same_bits(fd.gaussian_noise(x, 1.0, KEY, window=window), full[5:17, first : first + width])


@pytest.mark.parametrize("shared", [(1,), (2,), (0, 2), (1, 2), (1, 3), (0, 1, 2)])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.float32])
@pytest.mark.parametrize("inner", [1, 7, 700])
def test_draws_that_many_short_blocks_share(shared, dtype, inner):
    x = normal(3, 5, 4, inner, dtype=dtype)
    assert same_bits(
        fd.dropout(x, 0.3, KEY, shared_axes=shared), reference.dropout(x, 0.3, KEY, None, shared)
    )


@pytest.mark.parametrize("shape", [(3, 5, 28), (3, 5, 32), (40, 5, 12), (1, 1003, 2), (2, 3, 5004)])
@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64, np.complex128])
def test_units_of_any_length_past_the_caches(shape, shared, dtype, monkeypatch, in_pieces_of):
    in_pieces_of(101, 2)
    monkeypatch.setattr(cpu_calls, "STREAM_FROM", 1)
    x = normal(*shape, dtype=dtype)
    assert same_bits(
        fd.dropout(x, 0.3, KEY, shared_axes=shared), reference.dropout(x, 0.3, KEY, None, (shared,))
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shared", [(), (1,), (0,), (2,), (0, 2)])
def test_threads_streaming_and_blocks_give_the_same_bits(threads, shared, monkeypatch, in_pieces_of):
    monkeypatch.setattr(cpu_calls, "STREAM_FROM", 1)
    monkeypatch.setattr(run, "_UNITS", 3000)
    in_pieces_of(5000, threads)
    x = normal(13, 21, 260)
    for p in (0.3, np.linspace(0, 1, 1 if 2 in shared else 260)):
        assert same_bits(
            fd.dropout(x, p, KEY, shared_axes=shared), reference.dropout(x, p, KEY, None, shared)
        )


def test_shared_elements_are_equal_and_nothing_bigger_is_held():
    import tracemalloc

    x = np.ones((64, 128, 512), np.float32)
    y = np.empty_like(x)
    fd.dropout(x, 0.5, KEY, shared_axes=1, out=y)
    tracemalloc.start()
    try:
        fd.dropout(x, 0.5, KEY, shared_axes=1, out=y)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (y == y[:, :1]).all()
    assert peak < 2**20  # y has 16 MiB


def lying(a, order):
    """An array like a, whose axes lie in memory in an order."""
    y = np.empty([a.shape[axis] for axis in order], a.dtype).transpose(np.argsort(order))
    y[:] = a
    return y


BY_COLUMNS = [
    ((16, 2), (1, 0)),
    ((70, 1500), (1, 0)),
    ((1500, 70), (1, 0)),
    ((129, 33), (1, 0)),
    ((2, 35, 9), (0, 2, 1)),
    ((5, 4, 50), (2, 0, 1)),
    ((3, 67, 5, 7), (0, 2, 3, 1)),
    ((1, 300, 1, 41), (0, 2, 3, 1)),
]


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_that_are_neighbours_in_memory_stay_where_they_are(dtype, pieces, in_pieces_of):
    if pieces:
        in_pieces_of(1, 3)
    for shape, order in BY_COLUMNS:
        x = lying(normal(*shape, dtype=dtype), order)
        x[0, :2] = np.nan
        for key in (KEY, KEY.antithetic()):
            out = lying(x, order)
            fd.dropout(x, 0.3, key, out=out)
            assert same_bits(out, reference.dropout(x, 0.3, key))
        window = (shape[0] + 5, *shape[1:]), (3, *(0 for _ in shape[1:]))
        expected = reference.dropout(x, 0.1, KEY, window)
        assert same_bits(fd.dropout(x, 0.1, KEY, window=window, out=x), expected)


@pytest.mark.parametrize(("shape", "order"), BY_COLUMNS)
def test_what_lies_by_columns(shape, order):
    def goes(x, y):
        return run.drop_columns(x, y, 0, (1 << 30, 1.0, 1, 2))

    x = lying(normal(*shape), order)
    assert goes(x, x)
    assert not goes(x, np.empty(shape, np.float32))
    assert not goes(x.astype(">f4"), x.astype(">f4"))
    assert not goes(np.ascontiguousarray(x), np.ascontiguousarray(x))
    few = x[:, :15] if order[0] == 0 else x[:3]
    assert not goes(lying(few, order), lying(few, order))
    assert not goes(x[..., ::2], x[..., ::2]) or x.shape[-1] == 2


@pytest.mark.parametrize("width", [1, 7, 100, 768, 1024, 1025, 5000, 8192, 8193])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rates_that_repeat_after_any_number_of_elements(width, threads, dtype, in_pieces_of):
    in_pieces_of(9500, threads)
    x, p = normal(31_000 // width + 1, width, dtype=dtype), np.linspace(0, 1, width) ** 2
    assert same_bits(fd.dropout(x, p, KEY), reference.dropout(x, p, KEY))
    window = (len(x) + 2, 3 * width), (1, width // 2)
    assert same_bits(fd.dropout(x, p, KEY, window=window), reference.dropout(x, p, KEY, window))
    maps = np.repeat(x[:7, :, None], 5, axis=2)
    assert same_bits(fd.dropout(maps, p[:, None], KEY), reference.dropout(maps, p[:, None], KEY))


def test_scalar_p_and_an_array_filled_with_it_give_the_same_bits():
    x = normal(50, 3000)
    for p in (0.0, 2**-33, 0.1, 0.25, 0.5, 1 - 2**-33, 1.0):
        for shape in ((3000,), (50, 1), (50, 3000), (1, 1)):
            assert same_bits(fd.dropout(x, np.full(shape, p), KEY), fd.dropout(x, p, KEY))
    assert same_bits(fd.dropout(x, np.array(0.1), KEY), fd.dropout(x, 0.1, KEY))


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rates_by_sample_and_channel_on_both_sides_of_a_row_of_its_own(dtype, pieces, in_pieces_of):
    """Rates of long runs and of rows of tiles are read once, others for each element."""
    if pieces:
        in_pieces_of(700, 3)
    shapes = (
        *(((5, n), (5, 1)) for n in (2, 256, TILE - 1, TILE, TILE + 1, 1500, cpu_calls._LONG + 1)),
        *(((70, n), (70, 1)) for n in (31, 32, 33, 96)),
        *(((13, n), (n,)) for n in (2, 8, 9, 256, 512, 768)),  # some repeat with each tile, some don't
        ((3, 4, 700), (4, 1)),
        ((3, 5, 96), (5, 1)),
        ((3, 4, 5, 9), (1, 4, 1, 1)),
        ((3, 4, 700), (3, 1, 1)),
        ((3, 4, 50), (3, 1, 50)),
    )
    # float32 has all, each other dtype every third: which rows there are doesn't depend on the dtype
    for shape, rates in shapes if dtype is np.float32 else shapes[DTYPES.index(dtype) % 3 :: 3]:
        x, p = normal(*shape, dtype=dtype), np.linspace(0, 1, np.prod(rates)).reshape(rates)
        x.ravel()[:3] = np.nan
        for key in (KEY, KEY.antithetic()):
            assert same_bits(fd.dropout(x, p, key), reference.dropout(x, p, key))
        window = ((*[n + 3 for n in shape[:-1]], shape[-1]), (1,) * (len(shape) - 1) + (0,))
        assert same_bits(fd.dropout(x, p, KEY, window=window), reference.dropout(x, p, KEY, window))


def test_layouts_are_remembered_by_what_they_depend_on_alone():
    """Calls in any order get their own masks: nothing of one call stays for another."""
    x, calls = normal(6, 8), []
    for shape in ((6, 8), (8, 6), (48,), (2, 3, 8)):
        for shared in ((), (0,), (-1,)):
            for origin in (None, 1, 2):
                full = tuple(n + 3 for n in shape)
                window = None if origin is None else (full, (origin,) * len(shape))
                calls.append((x.reshape(shape), shared, window))
    for order in (calls, calls[::-1], calls):
        for part, shared, window in order:
            for a in (part, part.astype(np.complex64)):
                y = fd.dropout(a, 0.3, KEY, shared_axes=shared, window=window)
                assert same_bits(y, reference.dropout(a, 0.3, KEY, window, shared))
    for wrong in (1.0, (0, 1.0), "1"):  # equal to a number that is remembered, or not
        with pytest.raises(TypeError, match="shared_axes must be an int"):
            fd.dropout(x, 0.3, KEY, shared_axes=wrong)
    with pytest.raises(TypeError, match="window must be"):
        fd.dropout(x, 0.3, KEY, window=((20.0, 20.0), (1.0, 1.0)))


def test_rates_by_element_where_upper_digits_tie():
    """T is U, or differs in the last digit alone: only all 32 digits decide."""
    x = np.ones(3000, np.float32)
    u = reference.uniforms(np.arange(3000, dtype=np.uint64), KEY).astype(np.float64)
    for shift in (-1, 0, 1):
        p = np.clip((u + shift) / 2**32, 0, 1)
        assert np.array_equal(fd.dropout(x, p, KEY) == 0, np.full(3000, shift == 1))


def test_rates_of_rows_where_upper_digits_tie():
    """As above, for one element of each row of 32: the others are decided early."""
    x, rows = np.ones((94, 32), np.float32), np.arange(94)
    u = reference.uniforms(np.arange(x.size, dtype=np.uint64), KEY).astype(np.float64).reshape(x.shape)
    places = rows % 32
    for shift in (-1, 0, 1):
        p = np.clip((u[rows, places] + shift) / 2**32, 0, 1)[:, None]
        y = fd.dropout(x, p, KEY)
        assert same_bits(y, reference.dropout(x, p, KEY))
        assert np.array_equal(y[rows, places] == 0, np.full(94, shift == 1))


def test_rates_that_repeat_with_each_tile_are_whole_again_after_a_tie():
    """A tile that needs the lower digits leaves the upper ones for the next."""
    x = np.ones((6, 1024), np.float32)
    u = reference.uniforms(np.arange(x.size, dtype=np.uint64), KEY).reshape(x.shape)
    for tile in (0, 3, 5):
        p = u[tile] / 2**32
        for key in (KEY, KEY.antithetic()):
            assert same_bits(fd.dropout(x, p, key), reference.dropout(x, p, key))


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        *(
            (dtype, wrong)
            for dtype in (np.float32, np.float64)
            for wrong in (-np.inf, np.nan, np.inf, 1.0000002)
        ),
        (np.float64, -1e-300),
        (np.float32, -1e-40),
        (np.float64, np.nextafter(1, 2)),
    ],
)
def test_a_wrong_rate_is_found_wherever_it_is_before_anything_is_written(dtype, wrong):
    shapes = (37, 5), (1, 5), (37, 1), (37, 2050), (3, 1, 4096), (3, 4, 1)
    for full, shape in zip(((37, 5),) * 3 + ((37, 2050), (3, 2, 4096), (3, 4, 4096)), shapes, strict=True):
        x, p, out = np.ones(full, np.float32), np.full(shape, 0.5, dtype), np.full(full, 7, np.float32)
        for at in {0, p.size // 2, p.size - 1}:
            q = p.copy()
            q.flat[at] = wrong
            with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got \S+ in an array"):
                fd.dropout(x, q, KEY, out=out)
            assert (out == 7).all()


def test_float32_rates_are_those_numbers_in_float64():
    x = normal(5, 3000)
    for shape in ((3000,), (5, 1), (5, 3000)):
        p = np.random.default_rng(3).random(shape, np.float32)
        p.flat[:3] = 0, 1, 2**-33
        assert same_bits(fd.dropout(x, p, KEY), fd.dropout(x, p.astype(np.float64), KEY))


def test_16_bit_floats_are_rounded_once():
    for dtype, carrier in ((np.float16, np.int16), (ml_dtypes.bfloat16, np.uint16)):
        every = np.arange(2**16).astype(np.uint16).view(dtype)
        y = fd.dropout(every, 0.3, KEY)
        with np.errstate(invalid="ignore"):  # NumPy warns of signalling NaNs
            expected = reference.dropout(every, 0.3, KEY)
            nan = np.isnan(every.astype(np.float32))
        assert np.array_equal(y[~nan].view(carrier), expected[~nan].view(carrier))
        keep = fd.keep_mask(2**16, 0.3, KEY)
        assert np.isnan(y[nan & keep].astype(np.float32)).all()  # and quiet
        assert (y[nan & ~keep].view(carrier) == 0).all()


def test_a_block_of_a_huge_array():
    """At any origin; a walk over the whole would never end."""
    x = np.ones((1000, 1000), np.float32)
    y = np.empty_like(x)
    full = (10**6, 10**6)
    for origin in ((0, 0), (123_456, 654_321), (999_000, 999_000)):
        fd.dropout(x, 0.3, KEY, out=y, window=(full, origin))
        corner = reference.dropout(x[-3:, -700:], 0.3, KEY, (full, (origin[0] + 997, origin[1] + 300)))
        assert same_bits(y[-3:, -700:].copy(), corner)


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        (2, ValueError, r"shared_axes must be in \[-2, 2\) for an array of 2 axes, got 2"),
        ((0, -3), ValueError, "shared_axes must be in"),
        ((0, 0), ValueError, "must not repeat an axis"),
        ((0, -2), ValueError, "must not repeat an axis"),
        ((0.0,), TypeError, "shared_axes must be an int or a tuple of ints"),
        ("01", TypeError, "shared_axes must be an int or a tuple of ints"),
        (None, TypeError, "shared_axes must be an int or a tuple of ints"),
    ],
)
def test_refuses_axes(axes, error, message):
    out = np.full((3, 4), 7.0)
    with pytest.raises(error, match=message):
        fd.dropout(np.ones((3, 4)), 0.5, 1, shared_axes=axes, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (
            np.full(3, 0.5),
            ValueError,
            r"p must broadcast to the mask's shape \(3, 4\), got \(3,\); use p\[:, None\]$",
        ),
        (np.full(2, 0.5), ValueError, r"p must broadcast to the mask's shape \(3, 4\), got \(2,\)$"),
        (np.full((2, 3, 4), 0.5), ValueError, r"p must broadcast to the mask's shape \(3, 4\)"),
        (np.array([0, 1, 0.5, 1.5]), ValueError, r"p must be in \[0, 1\], got 1.5 in an array"),
        (np.array([0, 1, 0.5, np.nan]), ValueError, r"p must be in \[0, 1\], got nan in an array"),
        (np.array(["a"] * 4), TypeError, "p must be an array of real numbers"),
        (np.full(4, 0.5j), TypeError, "p must be an array of real numbers"),
    ],
)
def test_refuses_arrays_of_rates(p, error, message):
    out = np.full((3, 4), 7.0)
    with pytest.raises(error, match=message):
        fd.dropout(np.ones((3, 4)), p, 1, out=out)
    assert (out == 7).all()
    with pytest.raises(ValueError, match="p must broadcast to the mask's shape"):
        fd.dropout(np.ones((3, 4)), np.full((3, 4), 0.5), 1, shared_axes=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed", [False, True])
def test_apply_mask_is_onnx_dropout(dtype, packed):
    for shape in ((), (1,), (7, 11), (300, 333)):
        x = normal(*shape, dtype=dtype)
        mask = np.random.default_rng(1).random(shape) < 0.7
        given_mask = np.packbits(mask) if packed else mask
        out = np.empty_like(x)
        assert fd.apply_mask(x, given_mask, 0.3, packed=packed, out=out) is out
        real = np.dtype(np.float32 if x.dtype.itemsize == 2 or dtype == np.complex64 else np.float64)
        real = np.dtype(np.float32) if dtype == np.float32 else real
        wide = x.astype(real) if x.dtype.kind != "c" else x
        expected = (mask * wide * real.type(1 / 0.7)).astype(dtype)
        assert np.array_equal(out, expected)
        assert (np.asarray(out)[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("packed", [False, True])
def test_masks_of_any_size_far_and_near(dtype, packed, monkeypatch):
    monkeypatch.setattr("fastdrop._cpu.calls.SMALL", 1)
    monkeypatch.setattr("fastdrop._cpu.calls.FETCH_FROM", 1 << 12)
    monkeypatch.setattr("fastdrop._cpu.calls.STREAM_FROM", 1 << 14)
    rng = np.random.default_rng(2)
    for size in [*range(1, 36), 1023, 1024, 1041, 5000, 9001, 40_007]:
        x, mask = normal(size + 3, dtype=dtype), rng.random(size) < 0.6
        given_mask = np.packbits(mask) if packed else mask
        for first in (0, 1, 3):  # at other addresses
            out = np.full(size + 6, 7, dtype)
            y = out[first : first + size]
            fd.apply_mask(x[first : first + size], given_mask, 0.5, packed=packed, out=y)
            assert same_bits(y, np.where(mask, x[first : first + size] * dtype(2), dtype(0)))
            assert (out[:first] == 7).all()
            assert (out[first + size :] == 7).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("packed", [False, True])
def test_a_mask_may_lie_where_the_result_goes(dtype, packed):
    for size in (64, 1000, 100_000):
        memory, mask = np.zeros(4 * size, np.uint8), np.random.default_rng(1).random(size) < 0.5
        given_mask = np.packbits(mask) if packed else mask
        own = memory[: given_mask.size]
        own[:] = given_mask
        out = memory[: size * np.dtype(dtype).itemsize].view(dtype)
        x = normal(size, dtype=dtype)
        expected = fd.apply_mask(x, given_mask, 0.5, packed=packed)
        assert same_bits(fd.apply_mask(x, own, 0.5, packed=packed, out=out), expected)


def test_apply_mask_broadcasts_and_selects():
    x = np.array([[np.nan, 1.0], [-1.0, np.inf]])
    assert fd.apply_mask(x, [[False], [True]], 0.5).tolist() == [[0, 0], [-2, np.inf]]
    assert not np.signbit(fd.apply_mask(-np.ones(3), np.zeros(3, bool), 0.5)).any()
    assert fd.apply_mask(np.ones(3), np.ones(3, bool), 1.0).tolist() == [0, 0, 0]
    kept = fd.keep_mask((50, 60), 0.5, KEY)
    assert same_bits(fd.apply_mask(normal(50, 60), kept, 0.5), fd.dropout(normal(50, 60), 0.5, KEY))


@pytest.mark.parametrize(
    ("shape", "fix"),
    [
        ((3,), "; use p[:, None, None]"),
        ((8, 3), "; use p[:, :, None, None]"),
        ((3, 5), "; use p[:, :, None]"),
        ((8, 5), ""),
        ((5, 5, 8, 3, 5), ""),
    ],
)
def test_rates_of_other_axes_than_the_last(shape, fix):
    x, p = np.ones((8, 3, 5, 6)), np.full(shape, 0.5)
    with pytest.raises(ValueError, match=f"{re.escape(f'(8, 3, 5, 6), got {shape}{fix}')}$"):
        fd.dropout(x, p, 1)
    if fix:
        assert fd.dropout(x, eval(fix.removeprefix("; use ")), 1).shape == x.shape


def test_rates_that_fit_two_axes():
    with pytest.raises(ValueError, match=r"got \(3,\)$"):
        fd.dropout(np.ones((3, 3, 4)), np.full(3, 0.5), 1)


@pytest.mark.parametrize(
    ("mask", "packed", "error", "message"),
    [
        (np.ones(3), False, TypeError, "mask must be of bool or uint8, got float64"),
        (np.ones(4, bool), False, ValueError, r"mask must broadcast to x's shape \(3,\), got \(4,\)"),
        (np.ones((2, 3), bool), False, ValueError, "mask must broadcast"),
        (np.ones(2, np.uint8), True, ValueError, r"packed mask for 3 elements must be uint8 \(1,\)"),
        (np.ones(1, bool), True, ValueError, "packed mask"),
    ],
)
def test_apply_mask_refuses(mask, packed, error, message):
    with pytest.raises(error, match=message):
        fd.apply_mask(np.ones(3), mask, 0.5, packed=packed)
