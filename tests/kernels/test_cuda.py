"""The CUDA backend against reference and CPU: on a GPU if there is one, else on vectors of this CPU."""

import functools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import exact
import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, normal
from arrays import same_bits as same_to_the_payload
from device_arrays import empty_like, install, ndarray
from every_layer import CASES
from every_noise import FUNCTIONS, check_refused_on_a_gpu, is_plain

import fastdrop as fd
from fastdrop._arrays.device import DeviceArray
from fastdrop._arrays.plan import Density, Rows
from fastdrop._backends import combined
from fastdrop._cpu import calls as cpu_calls
from fastdrop._noises._noise import NOISES, Noise
from fastdrop._noises.concrete import _numbers
from fastdrop._stream.keys import stream

KEY = fd.Key(7, draw=3)
BIG = ((1 << 33, 50), ((1 << 32) - 1, 7))


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    return install(monkeypatch)


def same_bits(got, expected):
    """Whether arrays have the same bits, but for the payloads of NaNs, which a GPU chooses."""
    got, expected = np.asarray(got), np.asarray(expected)
    number = got == got
    if got.shape != expected.shape or not np.array_equal(number, expected == expected):
        return False
    return same_to_the_payload(got[number], expected[number])


def near(got, expected, tolerance):
    """Whether an array is what was expected, within a tolerance: 0 for bits."""
    if np.ndim(tolerance) == 0:
        return same_bits(got, np.ascontiguousarray(expected))
    error = np.abs(got.astype(expected.dtype) - expected)
    return got.shape == expected.shape and bool((error <= tolerance).all())


def check(function, arrays, *args, exactly=None, **kwargs):
    """Whether a function of arrays gives on the GPU what it gives on the CPU, and what it should.

    New and in place; the first argument is an array, or several of them, of which one may be None.
    """
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    expected, tolerance = (exactly or getattr(exact, function.__name__))(*arrays, *args, **kwargs)
    on_cpu = function(*arrays, *args, **kwargs)
    given = [None if a is None else ndarray(a) for a in arrays]
    y = function(*given, *args, **kwargs)
    assert isinstance(y, ndarray)
    assert same_bits(y.get(), on_cpu)
    assert near(y.get(), expected, tolerance)
    assert all(a is None or same_bits(b.get(), a) for a, b in zip(arrays, given, strict=True))
    assert function(*given, *args, out=given[0], **kwargs) is given[0]
    assert same_bits(given[0].get(), on_cpu)


def differentiated(g, x, bias, *args, **kwargs):
    return fd.bias_act_dropout_backward(g, x, bias, *args, **kwargs)[0]


class Call(NamedTuple):
    """A function of arrays of one shape, how many it takes, its noise, and a rate or nothing."""

    function: Callable
    arrays: int
    noise: Noise
    rate: tuple = (0.3,)


def calls(dtype=np.float32):
    """The noises that CUDA takes and that need no more than arrays of one shape, and one's gradient."""
    taken = [n for n in NOISES.values() if "CUDA" not in n.lacks and np.dtype(dtype).name in n.dtypes]
    taken = [n for n in taken if is_plain(n) and n.takes("window") and n.takes("shared_axes")]
    found = [Call(n.function, 1 + len(n.like), n, (0.3,) if n.rate else ()) for n in taken]
    alpha = [call.noise for call in found if call.function is fd.alpha_dropout]
    return found + [Call(noise.backward, 1, noise) for noise in alpha]


def operands(call, *shape, dtype=np.float32):
    arrays = tuple(normal(*shape, dtype=dtype, seed=seed) for seed in range(call.arrays))
    if call.function in (fd.dropout, fd.zoneout):  # NaNs leave no trace where they aren't chosen
        arrays[0].ravel()[: arrays[0].size // 3] = np.nan
    return arrays


def check_call(call, arrays, key, **options):
    check(call.function, arrays, *call.rate, key, **options)


BERNOULLI = [call for call in calls() if (call.noise.kind, call.noise.rate) == ("Bernoulli", "p")]


def representatives():
    """The calls, all but one of each kind with as many arrays marked slow; `test_dtypes` has them all."""
    seen = set()
    for call in calls():
        kind = (call.noise.kind, call.noise.by_element, call.arrays)
        marks = [pytest.mark.slow] if kind in seen else []
        seen.add(kind)
        yield pytest.param(call, id=call.function.__name__, marks=marks)


every_noise = pytest.mark.parametrize("call", list(representatives()))


@pytest.mark.parametrize("p", [0, 1e-3, 0.1, 0.25, 0.5, 0.9, 1])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()], ids=str)
def test_rates(p, key):
    for call in BERNOULLI:
        check(call.function, operands(call, 1100), p, key)
        check(call.function, operands(call, 7, 5), p, key, shared_axes=0)
    if p < 1:
        check(fd.gaussian_dropout, normal(100), p, key)
    check(fd.gaussian_noise, normal(100), p, key)
    check(fd.information_dropout, normal(100), p, key)
    for logit in (10 * p - 5, 80.0 * (p - 0.5)):
        check(fd.concrete_dropout, normal(100), logit, key, temperature=0.1 + p)


# Tiles of one rate, of two that meet between accesses or within one, of a few, and of many.
RUNS = [3136, 1536, 1024, 1000, 700, 513, 260, 150, 116, 60, 33, 1]


@pytest.mark.parametrize("length", RUNS)
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()], ids=str)
def test_rates_that_change_within_tiles(length, key):
    """Where a row of so many elements has one rate. The CPU's rates are held to the reference."""
    rng = np.random.default_rng(length)
    rates = rng.choice([0, 1e-9, 0.1, 0.25, 0.5, 0.75, 0.9, 1], (5, 1))
    for dtype in (np.float32, np.float16, np.float64) if length in (1536, 700) else (np.float32,):
        x = normal(9, 5, length, dtype=dtype)
        for window in (None, ((9, 5, length + 6), (0, 0, 3)), ((20, 5, length), (7, 0, 0))):
            expected = fd.dropout(x, rates, key, window=window)
            assert same_bits(fd.dropout(ndarray(x), rates, key, window=window).get(), expected)
        other = normal(9, 5, length, dtype=dtype, seed=1)
        y = fd.dropout_add(ndarray(x), ndarray(other), rates, key)
        assert same_bits(y.get(), fd.dropout_add(x, other, rates, key))


LISTED = [
    ((3, 40), {"rows": [5, 0, 5]}),
    ((3, 4), {"rows": [5, 0, 1 << 40]}),
    ((3, 2, 5, 4), {"rows": [5, 0, 7], "shared_axes": (1, 3)}),
    ((5,), {"indices": [7, 1 << 62, 0, 7, 1024]}),
    ((70,), {"offsets": [0, 20, 20, 70], "rows": [8, 1, 9]}),
]


@every_noise
@pytest.mark.parametrize(("shape", "where"), LISTED, ids=str)
def test_listed_draws(call, shape, where):
    """Against the CPU, whose listed draws are tested against windows."""
    exactly = lambda *args, **options: (call.function(*args, **options), 0)  # noqa: E731
    check(call.function, operands(call, *shape), *call.rate, KEY, **where, exactly=exactly)


def test_rates_beside_listed_draws():
    x, rates = normal(3, 20), np.linspace(0, 1, 20)
    exactly = lambda *args, **options: (fd.dropout(*args, **options), 0)  # noqa: E731
    for p in (rates, rates[:3, None]):
        check(fd.dropout, x, p, KEY, rows=[9, 0, 9], exactly=exactly)
    check(fd.dropout, x, rates[:3, None], KEY, rows=[9, 0, 9], shared_axes=1, exactly=exactly)


@every_noise
def test_sizes(call):
    for size in (0, 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025, 2049):
        check_call(call, operands(call, size), KEY)
    check_call(call, operands(call, 0, 3), KEY, shared_axes=0)


# what is compiled for float16 and float64 differs from the others in how elements lie in words alone
SLOW = [np.float16, np.float64, np.complex128]


def each(dtypes):
    """The dtypes as parameters, of which some are slow."""
    marks = {dtype: [pytest.mark.slow] if dtype in SLOW else [] for dtype in dtypes}
    return pytest.mark.parametrize(
        "dtype", [pytest.param(d, marks=marks[d], id=np.dtype(d).name) for d in dtypes]
    )


@each(DTYPES)
def test_dtypes(dtype):
    for call in calls(dtype):
        check_call(call, operands(call, 3, 50, dtype=dtype), KEY)
        check_call(call, operands(call, 3, 50, dtype=dtype), KEY.antithetic(), shared_axes=1)


@every_noise
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((700,), ((1 << 40,), ((1 << 35) + 1000,))),
        ((5, 1), ((10, 4), (2, 3))),
        ((3, 40), BIG),
        ((2, 3, 40), ((4, 5, 60), (1, 2, 20))),
        ((2, 3, 4, 5), ((3, 4, 5, 6), (1, 1, 1, 1))),
        ((2, 2, 30), ((2**24, 2**24, 2**16), (2**24 - 2, 2**24 - 2, 2**16 - 30))),
    ],
)
def test_windows(call, shape, window):
    check_call(call, operands(call, *shape), KEY, window=window)
    check_call(call, operands(call, *shape), KEY, window=window, shared_axes=-1)


@every_noise
def test_shared_axes(call):
    x, window = operands(call, 3, 4, 5, 6), ((7, 9, 11, 6), (3, 4, 5, 0))
    for shared in (0, 1, 2, (2, 3), (0, 2), (1, 3), (0, 1, 2, 3), (0, 2, 3)):
        check_call(call, x, KEY, shared_axes=shared)
    check_call(call, x, KEY, shared_axes=(0, 2), window=window)
    check_call(call, x, KEY, shared_axes=(1, 3), window=window)


@pytest.mark.parametrize("most", [1000, 100, 7])
def test_more_elements_than_a_launch_takes(most, monkeypatch):
    """Arrays whose draws are shared are cut where they have 2**31 elements; here sooner."""
    from fastdrop._cuda import run

    monkeypatch.setattr(run, "_MOST", most)
    run._spreads.cache_clear()
    x = normal(3, 4, 5, 6)
    for shared in (0, 1, (2, 3), (0, 2), (1, 3), (0, 1, 2, 3), (0, 2, 3)):
        check(fd.dropout, x, 0.3, KEY, shared_axes=shared)
        check(fd.gaussian_noise, x, 0.3, KEY, shared_axes=shared)
    check(fd.dropout, normal(3, 40, dtype=np.complex64), 0.3, KEY)
    run._spreads.cache_clear()


@pytest.mark.parametrize("shape", [(4, 1, 1), (6,), (1, 5, 1), (3, 4, 5, 6), (1,), (5, 6), (3, 1, 1, 6)])
def test_rates_by_element(shape):
    p = np.random.default_rng(1).random(shape)
    p.flat[0] = 1
    for call in BERNOULLI:
        if call.noise.by_element:
            x = operands(call, 3, 4, 5, 6)
            check(call.function, x, p, KEY)
            check(call.function, x, p, KEY.antithetic(), window=((4, 4, 6, 6), (1, 0, 1, 0)))


def test_rates_by_unit():
    p = np.random.default_rng(1).random((4, 1, 1)).astype(np.float32)
    for call in BERNOULLI:
        if call.noise.by_element:
            x = operands(call, 3, 4, 5, 6)
            check(call.function, x, p, KEY, shared_axes=(2, 3))
            x = operands(call, 3, 4, 5, dtype=np.complex64)
            check(call.function, x, p[:, 0], KEY, shared_axes=2)


RATES = [
    ((5, 60), (), {}),
    ((5, 60), (1, 1), {}),
    ((5, 60), (60,), {"window": ((1 << 33, 80), ((1 << 32) - 1, 7))}),
    ((5, 60), (5, 60), {"rows": [5, 0, 7, 7, 1]}),
    ((5, 4), (5, 1), {"rows": [5, 0, 7, 7, 1]}),
    ((2, 3, 90, 4), (3, 1, 4), {}),
    ((2, 3, 90, 4), (2, 1, 90, 1), {}),
    ((2, 3, 5, 4), (2, 1, 1, 4), {"shared_axes": 2}),
]


def rates_there(shape, kind):
    p = np.random.default_rng(1).random(shape).astype(kind)
    if p.size > 2:
        p.flat[:3] = 1, 0, 2.0**-20
    return p


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=str)
def test_rates_on_the_gpu(kind, driver, monkeypatch):
    """They give the bits of the same rates on the host, and nothing is copied there."""
    for shape, given, where in RATES:
        p = rates_there(given, kind)
        for call in BERNOULLI:
            if call.noise.by_element:
                x = operands(call, *shape)
                expected = call.function(*x, p, KEY, **where)
                with monkeypatch.context() as changed:
                    if "rows" not in where:  # which are copied
                        changed.setattr(driver, "upload", None)
                    y = call.function(*map(ndarray, x), ndarray(p), KEY, **where)
                assert same_bits(y.get(), expected), (call.function, shape, given)


@each(DTYPES)
def test_dtypes_beside_rates_on_the_gpu(dtype):
    p = rates_there((4, 1), np.float32)
    for options in ({}, {"shared_axes": 2}):
        x = normal(3, 4, 50, dtype=dtype)
        y = fd.dropout(ndarray(x), ndarray(p), KEY, **options)
        assert same_bits(y.get(), fd.dropout(x, p, KEY, **options))
        assert same_bits(fd.dropout(ndarray(x), p, KEY, **options).get(), y.get())


def test_masks_and_gradients_of_rates_on_the_gpu():
    p, x = rates_there((40,), np.float64), normal(3, 40)
    for packed in (False, True):
        expected = fd.keep_mask(x.shape, p, KEY, packed=packed)
        out = ndarray(np.zeros_like(expected))
        assert fd.keep_mask(x.shape, ndarray(p), KEY, packed=packed, out=out) is out
        assert np.array_equal(out.get(), expected)
    y = fd.dropout_backward(ndarray(x), ndarray(p), KEY)
    assert same_bits(y.get(), fd.dropout_backward(x, p, KEY))
    assert same_bits(fd.zoneout(ndarray(x), ndarray(-x), ndarray(p), KEY).get(), fd.zoneout(x, -x, p, KEY))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -1e-9, 1.0000001])
def test_numbers_on_the_gpu_that_are_no_rates_give_nan(wrong):
    p, x = np.asarray([0.5, wrong, 1.0]), np.ones((60, 3), np.float32)
    for shape, axis in (((3,), 1), ((3, 1), 0)):
        y = fd.dropout(
            ndarray(np.ascontiguousarray(x if axis else x.T)), ndarray(p.reshape(shape)), KEY
        ).get()
        first, second, third = y.T if axis else y
        assert np.isnan(second).all()
        assert sorted({*first.tolist()}) == [0, 2]
        assert not third.any()


def test_rates_on_the_gpu_that_do_not_fit():
    x = normal(4, 5)
    with pytest.raises(TypeError, match=r"p must be a real number .*; it is on a GPU, so copy p to the host"):
        fd.dropout(x, ndarray(np.full(5, 0.5)), KEY)
    with pytest.raises(TypeError, match="p must be on a GPU if x is and only then"):
        fd.zoneout(x, x, ndarray(np.full(5, 0.5)), KEY)
    with pytest.raises(ValueError, match=r"p must broadcast to the mask's shape \(4, 5\), got \(4,\)"):
        fd.dropout(ndarray(x), ndarray(np.full(4, 0.5)), KEY)
    with pytest.raises(TypeError, match=r"p on a GPU must be of float16, .*, got complex64; use floats"):
        fd.dropout(ndarray(x), ndarray(np.full(5, 0.5, np.complex64)), KEY)
    with pytest.raises(TypeError, match=r"p on a GPU must be of float16, .*, got int32; use floats"):
        fd.dropout(ndarray(x), ndarray(np.zeros(5, np.int32)), KEY)


@each(DTYPES)
def test_densities_by_element(dtype):
    numbers = np.random.default_rng(1).random((4, 1))
    for call in calls(dtype):
        if call.noise.kind == "density" and call.noise.by_element:
            x = operands(call, 3, 4, 5, dtype=dtype)
            for shared in ((), 2):
                check(call.function, x, numbers, KEY, shared_axes=shared)


@each([np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_backward(dtype):
    g = normal(40, 30, dtype=dtype)
    check(fd.dropout_backward, g, 0.3, KEY, exactly=exact.dropout)
    check(fd.gaussian_dropout_backward, g, 0.3, KEY, exactly=exact.gaussian_dropout)
    given = ndarray(g)
    assert fd.gaussian_noise_backward(given, 0.3, KEY) is given
    dx, dresidual = fd.dropout_add_backward(given, 0.3, KEY)
    assert dresidual is given
    assert near(dx.get(), *exact.dropout(g, 0.3, KEY))
    p, zeros = np.linspace(0, 1, 30), np.zeros_like(g)
    dnew, dprevious = fd.zoneout_backward(given, p, KEY)
    assert near(dnew.get(), *exact.zoneout(g, zeros, p, KEY))
    assert near(dprevious.get(), *exact.zoneout(zeros, g, p, KEY))


ACTIVATIONS = [
    ("relu", np.float32),
    ("none", np.float32),
    ("none", np.float64),
    ("gelu", np.float32),
    ("gelu", np.float64),
    ("gelu_tanh", np.float32),
    ("relu", np.float16),
    ("silu", np.float32),
    ("gelu", ml_dtypes.bfloat16),
]


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [pytest.param(*case, marks=[pytest.mark.slow] if case[1] in SLOW else []) for case in ACTIVATIONS],
)
def test_bias_act_dropout(activation, dtype):
    x, g, residual = (normal(9, 70, dtype=dtype, seed=s) for s in range(3))
    bias, rates = normal(70, dtype=dtype, seed=3), np.linspace(0, 1, 70)
    window = (19, 75), (2, 3)
    ways = [
        (bias, None, 0.3, {}),
        (None, residual, 0.3, {}),
        (bias, residual, 0.3, {"shared_axes": 0}),
        (bias, residual, rates, {}),
        (bias, None, 0.1, {"window": window}),
    ]
    # relu of float32 has all, the others every second: where things lie doesn't depend on the activation
    number = ACTIVATIONS.index((activation, dtype))
    for b, other, p, options in ways if number == 0 else ways[number % 2 :: 2]:
        on_gpu = None if other is None else ndarray(other)

        def act(x, bias, *args, other=other, on_gpu=on_gpu, **kwargs):
            residual = other if isinstance(x, np.ndarray) else on_gpu
            return fd.bias_act_dropout(x, bias, *args, residual=residual, **kwargs)

        exactly = functools.partial(exact.bias_act_dropout, residual=other)
        options = options | {"activation": activation}
        check(act, (x, b), p, KEY, exactly=exactly, **options)
        check(differentiated, (g, x, b), p, KEY, exactly=exact.bias_act_dropout_backward, **options)


@pytest.mark.parametrize(
    ("dtype", "of_bias"),
    [(np.float32, np.float32), (np.float32, np.float16), (ml_dtypes.bfloat16, np.float32)],
)
def test_biases_of_whole_tiles(dtype, of_bias):
    """Of rows whose biases are read together, by 16 bytes, and of others."""
    for shape, window in [
        ((48, 64), None),
        ((34, 94), None),
        ((2, 2048), None),
        ((2, 2100), ((4, 4096), (1, 20))),
    ]:
        x, bias = normal(*shape, dtype=dtype), normal(shape[1], dtype=of_bias, seed=1)
        options = {} if window is None else {"window": window}
        check(fd.bias_act_dropout, (x, bias), 0.3, KEY, activation="relu", **options)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_factors_of_whole_tiles(dtype):
    """Of elements that have one draw, or neighbours, and of others."""
    for shape, shared in [((4, 6, 16, 32), (2, 3)), ((4, 6, 16, 32), 1), ((4, 6, 15, 30), 3), ((600, 7), 0)]:
        check(fd.dropout, normal(*shape, dtype=dtype), 0.3, KEY, shared_axes=shared)


def test_biases_of_whole_tiles_in_the_middle_of_an_array():
    """There a tile may begin at a multiple of 16 bytes where its biases don't."""
    x, bias, window = normal(2, 2100), normal(2100, seed=1), ((4, 4096), (1, 21))
    given, made = (ndarray(np.append(np.float32(0), a)) for a in (x, np.zeros_like(x)))
    views = [
        ndarray(x, data=(a.__cuda_array_interface__["data"][0] + 4, False), owner=a) for a in (given, made)
    ]
    options = {"activation": "relu", "window": window}
    fd.bias_act_dropout(views[0], ndarray(bias), 0.3, KEY, out=views[1], **options)
    assert same_bits(made.get()[1:].reshape(x.shape), fd.bias_act_dropout(x, bias, 0.3, KEY, **options))


@pytest.mark.parametrize("nbytes", [4, 8])
def test_biases_at_addresses_that_no_wide_read_takes(nbytes):
    x, bias = normal(48, 64), normal(64, seed=1)
    memory = ndarray(np.append(np.zeros(nbytes // 4, np.float32), bias))
    view = ndarray(bias, data=(memory.__cuda_array_interface__["data"][0] + nbytes, False), owner=memory)
    y = fd.bias_act_dropout(ndarray(x), view, 0.3, KEY, activation="relu")
    assert same_bits(y.get(), fd.bias_act_dropout(x, bias, 0.3, KEY, activation="relu"))


@pytest.mark.parametrize("nbytes", [1, 2, 4, 8])
@pytest.mark.parametrize("packed", [False, True])
def test_keep_mask_at_addresses_that_no_wide_write_takes(packed, nbytes):
    expected = fd.keep_mask(3000, 0.3, KEY, packed=packed)
    memory = ndarray(np.zeros(expected.size + nbytes, expected.dtype))
    view = ndarray(expected, data=(memory.__cuda_array_interface__["data"][0] + nbytes, False), owner=memory)
    fd.keep_mask(3000, 0.3, KEY, packed=packed, out=view)
    assert np.array_equal(memory.get()[nbytes:], expected)
    assert not memory.get()[:nbytes].any()


MASKS = [
    (1100, {}),
    (4099, {}),
    (3100, {"window": ((9000,), (1008,))}),
    (3100, {"window": ((9000,), (1009,))}),
    ((3, 2100), {"window": ((4, 5000), (1, 40))}),
    ((3, 4, 5), {"shared_axes": 1}),
    ((3, 4, 5, 7), {"shared_axes": (0, 2)}),
    ((3, 40), {"window": BIG}),
    ((3, 40), {"rows": [5, 0, 5]}),
    ((3, 4), {"rows": [5, 0, 1 << 40]}),
    ((0, 3), {}),
    ((), {}),
]


@pytest.mark.parametrize(("shape", "options"), MASKS, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_keep_mask(shape, options, packed):
    last = np.linspace(0, 1, 7) if shape == (3, 4, 5, 7) else 0.9
    for p in (0, 0.3, last, 1):
        for key in (KEY, KEY.antithetic()):
            expected = fd.keep_mask(shape, p, key, packed=packed, **options)
            for number in (0, 1):
                out = ndarray(np.full_like(expected, number))
                assert fd.keep_mask(shape, p, key, packed=packed, out=out, **options) is out
                assert np.array_equal(out.get().view(np.uint8), expected.view(np.uint8))


def test_masks_do_not_fit():
    for out, packed, what in (
        (np.ones((3, 5), bool), False, r"out must be bool \(3, 4\) for this mask, got bool \(3, 5\)"),
        (np.ones((3, 4), np.uint8), False, r"out must be bool \(3, 4\) for this mask, got uint8"),
        (np.ones((3, 4), bool), True, r"out must be uint8 \(2,\) for this mask, got bool"),
    ):
        for given in (out, ndarray(out)):
            with pytest.raises(ValueError, match=what):
                fd.keep_mask((3, 4), 0.5, KEY, packed=packed, out=given)
    with pytest.raises(ValueError, match="writable"):
        fd.keep_mask(3, 0.5, KEY, out=ndarray(np.ones(3, bool), data=(4096, True)))
    with pytest.raises(TypeError, match="mask must be of bool or uint8"):
        fd.keep_mask(3, 0.5, KEY, out=ndarray(np.ones(3)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_apply_mask(dtype):
    x = normal(3, 4, 50, dtype=dtype)
    x[0, 0, :9] = np.nan
    generator = np.random.default_rng(1)
    for shape in ((3, 4, 50), (50,), (4, 1), (3, 1, 50), (1, 1, 1), ()):
        keep = generator.random(shape) < 0.6
        for mask in (keep, keep.astype(np.uint8) * 7):
            for p in (0.3, 1):
                expected = fd.apply_mask(x, mask, p)
                given = ndarray(x)
                assert same_bits(fd.apply_mask(given, ndarray(mask), p).get(), expected)
                assert fd.apply_mask(given, ndarray(mask), p, out=given) is given
                assert same_bits(given.get(), expected)
    bits = np.packbits(generator.random(x.shape) < 0.6)
    got = fd.apply_mask(ndarray(x), ndarray(bits), 0.3, packed=True)
    assert same_bits(got.get(), fd.apply_mask(x, bits, 0.3, packed=True))
    empty = ndarray(np.empty((0, 3), dtype))
    assert fd.apply_mask(empty, ndarray(np.ones(3, bool)), 0.3).get().shape == (0, 3)


@each([np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3, 33), (200, 7)])
def test_sums(dtype, shape):
    """Kahan's sums have the error of one addition, and are rounded once."""
    g, x, bias = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype)
    dx, db = fd.bias_act_dropout_backward(ndarray(g), ndarray(x), ndarray(bias), 0.3, KEY)
    columns = dx.get().astype(np.float64)
    total = columns.sum(0)
    tolerance = exact.rounding(total, dtype, 4 * np.abs(total) + 1e-4 * np.abs(columns).sum(0))
    assert near(db.get(), total, tolerance)
    assert fd.bias_act_dropout_backward(ndarray(g), ndarray(x), None, 0.3, KEY)[1] is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()], ids=str)
@pytest.mark.parametrize(
    ("function", "number", "what"),
    [
        (
            partial(exact.concrete_dropout, temperature=2 / 3),
            -0.7,
            Density("logistic", "concrete_slope", _numbers(-0.7, 2 / 3)),
        ),
        (exact.information_dropout, 0.4, Density("normal", "exponential_slope", (0.4,))),
    ],
    ids=["concrete", "information"],
)
def test_slopes(dtype, key, function, number, what):
    """The kernels of learned numbers' gradients against a difference."""
    x, y, rows = normal(300, dtype=dtype), np.empty(300, dtype), Rows(100, 1 << 35, 17)
    cpu_calls.noise(what, x, y, rows, *stream(key))
    from fastdrop._cuda import launch

    given, result = DeviceArray(ndarray(x)), empty_like(y)
    arrays, place = (given.lanes, DeviceArray(result).lanes), launch.Place(0, 0)
    launch.noise((what.draw, what.formula), what.numbers, *arrays, rows, stream(key), place)
    assert same_bits(result.get(), y)
    window, x = ((300, 1 << 35), (0, 17)), x.reshape(3, 100)
    above, below = (function(x, number + d, key, window=window)[0] for d in (1e-5, -1e-5))
    np.testing.assert_allclose(y.reshape(3, 100), (above - below) / 2e-5, rtol=2e-4, atol=2e-6)


def summed(terms, shape):
    """Sums over the axes along which an array of the shape is broadcast, and the sums of magnitudes."""
    lead = terms.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + axis for axis, n in enumerate(shape) if n == 1)
    return [np.asarray(each.sum(axes)).reshape(shape) for each in (terms, np.abs(terms))]


def check_total(found, terms, dtype):
    """Check that the gradient of a number is the sum of its terms, in an array's precision."""
    real = np.float64 if dtype == np.float64 else np.float32
    expected, magnitudes = summed(terms, found.shape)
    assert isinstance(found, ndarray)
    assert found.dtype == real
    error = np.abs(found.get().astype(np.float64) - expected)
    assert (error <= 100 * np.finfo(real).eps * magnitudes + np.finfo(real).eps * np.abs(expected)).all()


WHERE = [
    ((), {}),
    ((3, 0, 5), {}),
    ((5000,), {}),  # summed in three steps
    ((3, 40), {"window": BIG}),
    ((6, 4, 5, 3), {"shared_axes": (1, 3)}),
    ((6, 4, 5, 3), {"shared_axes": 0}),
]


@each([np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_gradients_of_learned_numbers(dtype, driver):
    for shape, options in WHERE:
        g, x = normal(*shape, dtype=dtype, seed=1), normal(*shape, dtype=dtype)
        product, arrays = exact.wide(g) * exact.wide(x), (ndarray(g), ndarray(x))
        for backward, number, slope, more in (
            (fd.concrete_dropout_backward, -0.7, exact.concrete_slope, {"temperature": 2 / 3}),
            (fd.information_dropout_backward, 0.4, exact.information_slope, {}),
        ):
            dx, slope_of_number = backward(*arrays, number, KEY, **options, **more)
            assert same_bits(dx.get(), backward(g, x, number, KEY, **options, **more)[0])
            check_total(slope_of_number, slope(product, number, KEY, **options, **more), dtype)
            again = backward(*arrays, number, KEY, **options, **more)[1]
            assert same_bits(again.get(), slope_of_number.get())
    assert all(same_bits(a.get(), b) for a, b in zip(arrays, (g, x), strict=True))


@pytest.mark.parametrize(("shape", "where"), LISTED, ids=str)
def test_gradients_of_learned_numbers_of_listed_draws(shape, where):
    """Against the CPU, whose listed draws are tested against windows."""
    g, x = normal(*shape, seed=1), normal(*shape)
    for backward, number in ((fd.concrete_dropout_backward, -0.7), (fd.information_dropout_backward, 0.4)):
        found, expected = (
            backward(*arrays, number, KEY, **where) for arrays in ((ndarray(g), ndarray(x)), (g, x))
        )
        assert same_bits(found[0].get(), expected[0])
        np.testing.assert_allclose(found[1].get(), expected[1], rtol=2e-5)


OF_ELEMENTS = [
    ((5, 6), (6,), {}),
    ((5, 6), (5, 1), {}),
    ((5, 6), (5, 6), {}),
    ((5, 6), (1, 1), {}),
    ((2, 3, 90, 4), (3, 1, 4), {}),
    ((2, 3, 90, 4), (2, 1, 90, 1), {}),
    ((2, 3, 5, 4), (3, 1, 1), {"shared_axes": (2, 3)}),
    ((2, 3, 5, 4), (2, 1, 1, 4), {"shared_axes": 2}),
]


@pytest.mark.parametrize(("shape", "numbers", "options"), OF_ELEMENTS, ids=str)
def test_gradients_of_numbers_by_element(shape, numbers, options):
    g, x = normal(*shape, seed=1), normal(*shape)
    alpha = np.random.default_rng(2).random(numbers)
    terms = exact.information_slope(g * x, alpha, KEY, **options)
    host = fd.information_dropout_backward(g, x, alpha, KEY, **options)
    for given in (alpha, ndarray(alpha), ndarray(alpha.astype(np.float32))):
        dx, slope = fd.information_dropout_backward(ndarray(g), ndarray(x), given, KEY, **options)
        assert slope.shape == numbers
        check_total(slope, terms, np.float32)
        assert same_bits(dx.get(), host[0])
        assert same_bits(fd.information_dropout(ndarray(g), given, KEY, **options).get(), host[0])


@each([np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_learned_numbers_on_the_gpu(dtype, kind, driver, monkeypatch):
    """A number that the host doesn't know gives the bits of one that it knows.

    In float64 the numbers that a logit stands for differ by an ulp, as our exponential does from C's.
    """

    def equal(y, expected):
        if dtype == np.float64:
            np.testing.assert_allclose(y.get(), expected.get(), rtol=1e-14, atol=1e-300)
        else:
            assert same_bits(y.get(), expected.get())

    monkeypatch.setattr(driver, "upload", None)
    x = normal(3, 40, dtype=dtype)
    options = {"shared_axes": 1}, {}, {"window": BIG}
    for number in (-0.75, 3.5, 0.0, 90.0, -200.0):
        learned = ndarray(np.asarray(number, kind))
        for more in options:
            y = fd.concrete_dropout(ndarray(x), learned, KEY, **more)
            equal(y, fd.concrete_dropout(ndarray(x), number, KEY, **more))
        found = fd.concrete_dropout_backward(ndarray(x), ndarray(x), learned, KEY)
        expected = fd.concrete_dropout_backward(ndarray(x), ndarray(x), number, KEY)
        for ours, theirs in zip(found, expected, strict=True):
            equal(ours, theirs)
    for number in (0.0, 0.5):
        learned = ndarray(np.asarray(number, kind))
        for more in options:
            y = fd.information_dropout(ndarray(x), learned, KEY, **more)
            assert same_bits(y.get(), fd.information_dropout(x, number, KEY, **more))


def test_learned_numbers_beside_listed_draws():
    for x, where in ((normal(3, 4), {"rows": [5, 0, 1 << 40]}), (normal(3, 40), {"rows": [5, 0, 5]})):
        for function, number in ((fd.concrete_dropout, -0.75), (fd.information_dropout, 0.5)):
            y = function(ndarray(x), ndarray(np.float32(number)), KEY, **where)
            assert same_bits(y.get(), function(x, number, KEY, **where))
        alpha = np.linspace(0, 1, x.shape[1])
        y = fd.information_dropout(ndarray(x), ndarray(alpha), KEY, **where)
        assert same_bits(y.get(), fd.information_dropout(x, alpha, KEY, **where))


@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_gives_nan(logit):
    y = fd.concrete_dropout(ndarray(normal(200)), ndarray(np.float32(logit)), KEY)
    assert np.isnan(y.get()).all()


def learned_layers(alpha=0.3):
    return (
        fd.ConcreteDropout(0.3, rng=KEY),
        fd.InformationDropout(alpha, rng=KEY),
        fd.VariationalDropout(alpha, rng=KEY),
    )


def gradient_of(layer):
    return layer.logit_grad if isinstance(layer, fd.ConcreteDropout) else layer.log_alpha_grad


@pytest.mark.parametrize("alpha", [0.3, np.linspace(0.1, 0.9, 5)], ids=np.shape)
def test_learned_layers(alpha):
    """Their gradients are on the GPU, and are those of layers on the host."""
    x, g = normal(40, 5), normal(40, 5, seed=1)
    for ours, theirs in zip(learned_layers(alpha), learned_layers(alpha), strict=True):
        for layer, move in ((ours, ndarray), (theirs, np.array)):
            for step in range(2):
                layer(move(x))
                layer.backward(move(g))
                if step == 0:
                    weight = np.ones((5, 2))
                    options = {"weight_scale": 0.5, "entropy_scale": 0.1}
                    given = (weight, weight.copy()) if isinstance(layer, fd.ConcreteDropout) else ()
                    layer.regularizer(*given, **options if given else {})
        found = gradient_of(ours)
        assert isinstance(found, ndarray)
        assert found.shape == gradient_of(theirs).shape
        np.testing.assert_allclose(found.get(), gradient_of(theirs), rtol=1e-5)
        ours.regularizer(*given, **options if given else {})
        theirs.regularizer(*given, **options if given else {})
        np.testing.assert_allclose(gradient_of(ours).get(), gradient_of(theirs), rtol=1e-5)
        ours.zero_grad()
        assert isinstance(gradient_of(ours), np.ndarray)
        assert not gradient_of(ours).any()


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_the_gradient_of_variational_dropout(dtype):
    x, g = normal(300, dtype=dtype), normal(300, dtype=dtype, seed=1)
    layer = fd.VariationalDropout(0.3, rng=KEY)
    layer(ndarray(x))
    layer.backward(ndarray(g))
    check_total(layer.log_alpha_grad, exact.variational_slope((x.conj() * g).real, 0.3, KEY), np.float32)


def test_learned_layers_remember_bytes_of_a_gpu_and_refuse_overlaps():
    x = ndarray(normal(4, 5))
    for layer in learned_layers():
        with pytest.raises(ValueError, match="out must not overlap x"):
            layer(x, out=x)
        assert layer.key == KEY
        layer(x)
        with pytest.raises(ValueError, match="out must not overlap x"):
            layer.backward(ndarray(normal(4, 5)), out=x)
        with pytest.raises(TypeError, match="both be on a GPU, or none"):
            layer.backward(normal(4, 5))


def test_learned_numbers_that_do_not_fit():
    x = normal(4, 5)
    for call in (
        lambda: fd.concrete_dropout(x, ndarray(np.float32(0)), 1),
        lambda: fd.information_dropout(x, ndarray(np.float32(0)), 1),
    ):
        with pytest.raises(TypeError, match="must be on a GPU if x is and only then"):
            call()
    with pytest.raises(TypeError, match=r"logit on a GPU must be one number, got the shape \(1,\)"):
        fd.concrete_dropout(ndarray(x), ndarray(np.zeros(1)), 1)
    with pytest.raises(TypeError, match="needs real numbers"):
        fd.concrete_dropout(ndarray(x), ndarray(np.complex64(0)), 1)
    with pytest.raises(ValueError, match="alpha must broadcast"):
        fd.information_dropout(ndarray(x), ndarray(np.zeros(4)), 1)
    for backward in (fd.concrete_dropout_backward, fd.information_dropout_backward):
        for g, given in ((ndarray(x), x), (x, ndarray(x))):
            with pytest.raises(TypeError, match="both be on a GPU, or none"):
                backward(g, given, 0.5, 1)
        with pytest.raises(ValueError, match="shape"):
            backward(ndarray(x), ndarray(x[:2]), 0.5, 1)
        with pytest.raises(TypeError, match="needs real numbers"):
            backward(ndarray(x.astype(np.complex64)), ndarray(x.astype(np.complex64)), 0.5, 1)
    with pytest.raises(ValueError, match="alpha must broadcast"):
        fd.information_dropout_backward(ndarray(x), ndarray(x), np.zeros(4), 1)


ON_GPU = [n for n in NOISES.values() if "CUDA" not in n.lacks]


@pytest.mark.parametrize(
    "kind", [c for noise in ON_GPU for c in noise.layers], ids=lambda kind: kind.__name__
)
def test_layers(kind):
    ours, theirs, inputs = CASES[kind].make(1), CASES[kind].make(1), CASES[kind].arguments()
    for _ in range(2):
        y = ours(*map(ndarray, inputs))
        assert same_bits(y.get(), theirs(*inputs))
        g = normal(*y.shape, seed=1)
        found, expected = ours.backward(ndarray(g)), theirs.backward(g)
        for dx, exactly in zip(
            *((a if isinstance(a, tuple) else (a,)) for a in (found, expected)), strict=True
        ):
            assert same_bits(dx.get(), exactly)
    if len(inputs) == 1:
        assert ours(given := ndarray(inputs[0]), training=False) is given


@pytest.mark.parametrize("noise", [n for n in FUNCTIONS if "CUDA" in n.lacks], ids=lambda noise: noise.name)
def test_noises_that_are_not_for_a_gpu_say_so(noise):
    check_refused_on_a_gpu(noise, ndarray)


def test_arrays_on_a_gpu_that_only_the_driver_knows(driver, monkeypatch):
    x, other, bias, mask = (ndarray(np.ones(4, dtype)) for dtype in (*[np.float32] * 3, bool))
    calls = [
        lambda: fd.dropout(x, 0.5, KEY, out=other),
        lambda: fd.dropout(x, other, KEY),
        lambda: fd.dropout_add(x, other, 0.5, KEY),
        lambda: fd.bias_act_dropout(x, bias, 0.5, KEY),
        lambda: fd.apply_mask(x, mask, 0.5),
        lambda: fd.information_dropout(x, other, KEY),
        lambda: fd.information_dropout_backward(x, x, other, KEY),
        lambda: combined(x, other, "plus"),
    ]
    for call in calls:
        call()
    elsewhere = [a.__cuda_array_interface__["data"][0] for a in (other, bias, mask)]
    monkeypatch.setattr(driver, "device_of", lambda pointer: int(pointer in elsewhere))
    fd.dropout(x, 0.5, KEY)
    for call in calls:
        with pytest.raises(ValueError, match="must be on x's GPU 0, got one on GPU 1; copy it there"):
            call()


def test_refusals():
    x = np.ones((4, 5), np.float32)
    with pytest.raises(TypeError, match="int32"):
        fd.dropout(ndarray(x.astype(np.int32)), 0.5, 1)
    with pytest.raises(TypeError, match="on a GPU"):
        fd.dropout(ndarray(x), 0.5, 1, out=x)
    with pytest.raises(TypeError, match="ndarray"):
        fd.dropout(x, 0.5, 1, out=ndarray(x))
    with pytest.raises(ValueError, match="shape"):
        fd.dropout(ndarray(x), 0.5, 1, out=ndarray(x[:2]))
    with pytest.raises(TypeError, match="residual"):
        fd.dropout_add(ndarray(x), x, 0.5, 1)
    for std in (fd.gaussian_dropout, fd.gaussian_noise):
        with pytest.raises(TypeError, match="real number"):
            std(ndarray(x), ndarray(x), 1)
    mask = np.ones(5, bool)
    with pytest.raises(TypeError, match="mask must be on a GPU if x is"):
        fd.apply_mask(ndarray(x), mask, 0.5)
    with pytest.raises(TypeError, match="mask must be on a GPU if x is"):
        fd.apply_mask(x, ndarray(mask), 0.5)
    with pytest.raises(TypeError, match="mask must be of bool or uint8, got float32"):
        fd.apply_mask(ndarray(x), ndarray(x), 0.5)
    with pytest.raises(ValueError, match="mask must broadcast"):
        fd.apply_mask(ndarray(x), ndarray(mask[:4]), 0.5)
    with pytest.raises(ValueError, match=r"must be uint8 \(3,\), got bool"):
        fd.apply_mask(ndarray(x), ndarray(mask[:3]), 0.5, packed=True)
    with pytest.raises(TypeError, match="no arrays on a GPU"):
        fd.drop_block(ndarray(x), 0.5, 1, block_size=1)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        fd.dropout(ndarray(x), 1.5, 1)
    there = ndarray(x[0])
    with pytest.raises(ValueError, match="bias must have x's dtype float32, got float64"):
        fd.bias_act_dropout(ndarray(x), ndarray(np.ones(5)), 0.5, 1)
    with pytest.raises(ValueError, match="bias must have x's dtype float16 or float32, got float64"):
        fd.bias_act_dropout(ndarray(x.astype(np.float16)), ndarray(np.ones(5)), 0.5, 1)
    with pytest.raises(ValueError, match="out must not overlap bias, which a GPU still reads"):
        fd.bias_act_dropout(ndarray(x[0]), there, 0.5, 1, out=there)
