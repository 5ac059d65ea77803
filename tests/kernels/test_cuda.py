"""The CUDA backend against reference and CPU: on a GPU if there is one, else in CUDA's simulator."""

import functools
import os
import subprocess
import sys

import exact
import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, normal, same_bits
from device_arrays import SIMULATED, empty_like, install, ndarray
from numba import cuda

import fastdrop as fd
from fastdrop._arrays.device import DeviceArray
from fastdrop._arrays.plan import Density, Rows
from fastdrop._cpu import calls as cpu_calls
from fastdrop._cuda import launch
from fastdrop._noises.concrete import _numbers
from fastdrop._stream.keys import stream

RUNS = SIMULATED or cuda.is_available()
on_device = pytest.mark.skipif(not RUNS, reason="needs a GPU or NUMBA_ENABLE_CUDASIM=1")
KEY = fd.Key(7, draw=3)
BIG = ((1 << 33, 50), ((1 << 32) - 1, 7))


@pytest.fixture(autouse=True)
def library(monkeypatch):
    if RUNS:
        install(monkeypatch)


@pytest.mark.skipif(RUNS, reason="this process has a GPU or the simulator")
def test_in_the_simulator():
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert ", 1 skipped" in done.stdout.splitlines()[-1]  # this test


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


def calls(dtype=np.float32):
    """Functions of x's like with a rate, and how many other arrays of x's shape they take."""
    real = {fd.alpha_dropout: 0, fd.alpha_dropout_backward: 0, fd.concrete_dropout: 0}
    both = {fd.dropout: 0, fd.gaussian_dropout: 0, fd.gaussian_noise: 0, fd.dropout_add: 1, fd.zoneout: 1}
    return both if np.dtype(dtype).kind == "c" else both | real


def operands(function, *shape, dtype=np.float32):
    arrays = tuple(normal(*shape, dtype=dtype, seed=seed) for seed in range(1 + calls()[function]))
    if function in (fd.dropout, fd.zoneout):  # NaNs leave no trace where they aren't chosen
        arrays[0].ravel()[: arrays[0].size // 3] = np.nan
    return arrays


every_noise = pytest.mark.parametrize("function", calls(), ids=lambda f: f.__name__)


@on_device
@pytest.mark.parametrize("p", [0, 1e-3, 0.1, 0.25, 0.5, 0.9, 1])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()], ids=str)
def test_rates(p, key):
    for function in (fd.dropout, fd.dropout_add, fd.zoneout, fd.alpha_dropout, fd.alpha_dropout_backward):
        check(function, operands(function, 1100), p, key)
        check(function, operands(function, 7, 5), p, key, shared_axes=0)
    if p < 1:
        check(fd.gaussian_dropout, normal(100), p, key)
    check(fd.gaussian_noise, normal(100), p, key)
    for logit in (10 * p - 5, 80.0 * (p - 0.5)):
        check(fd.concrete_dropout, normal(100), logit, key, temperature=0.1 + p)


@on_device
@every_noise
def test_sizes(function):
    for size in (0, 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025, 2049):
        check(function, operands(function, size), 0.3, KEY)
    check(function, operands(function, 0, 3), 0.3, KEY, shared_axes=0)


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    for function in calls(dtype):
        check(function, operands(function, 3, 50, dtype=dtype), 0.3, KEY)
        check(function, operands(function, 3, 50, dtype=dtype), 0.3, KEY.antithetic(), shared_axes=1)


@on_device
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
def test_windows(function, shape, window):
    check(function, operands(function, *shape), 0.25, KEY, window=window)
    check(function, operands(function, *shape), 0.25, KEY, window=window, shared_axes=-1)


@on_device
@every_noise
def test_shared_axes(function):
    x, window = operands(function, 3, 4, 5, 6), ((7, 9, 11, 6), (3, 4, 5, 0))
    for shared in (0, 1, 2, (2, 3), (0, 2), (1, 3), (0, 1, 2, 3), (0, 2, 3)):
        check(function, x, 0.3, KEY, shared_axes=shared)
    check(function, x, 0.3, KEY, shared_axes=(0, 2), window=window)
    check(function, x, 0.3, KEY, shared_axes=(1, 3), window=window)


@on_device
@every_noise
def test_a_grid_smaller_than_the_work(function, monkeypatch):
    monkeypatch.setattr(launch, "BLOCKS", 1)
    monkeypatch.setattr(launch, "THREADS", 32)
    check(function, operands(function, 3000), 0.3, KEY)
    check(function, operands(function, 6, 30, 5), 0.3, KEY, shared_axes=1)


@on_device
@pytest.mark.parametrize("shape", [(4, 1, 1), (6,), (1, 5, 1), (3, 4, 5, 6), (1,), (5, 6), (3, 1, 1, 6)])
def test_rates_by_element(shape):
    p = np.random.default_rng(1).random(shape)
    p.flat[0] = 1
    for function in (fd.dropout, fd.dropout_add, fd.zoneout):
        x = operands(function, 3, 4, 5, 6)
        check(function, x, p, KEY)
        check(function, x, p, KEY.antithetic(), window=((4, 4, 6, 6), (1, 0, 1, 0)))


@on_device
def test_rates_by_unit():
    p = np.random.default_rng(1).random((4, 1, 1)).astype(np.float32)
    for function in (fd.dropout, fd.dropout_add, fd.zoneout):
        check(function, operands(function, 3, 4, 5, 6), p, KEY, shared_axes=(2, 3))
        check(function, operands(function, 3, 4, 5, dtype=np.complex64), p[:, 0], KEY, shared_axes=2)


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [fd.gaussian_dropout, fd.gaussian_noise])
def test_gaussian_with_an_array(function, dtype):
    """Not the CPU's bits: that multiplies the normals, and adds 1 or x, in further passes."""
    std, x = np.random.default_rng(1).random((4, 1)), normal(3, 4, 5, dtype=dtype)
    for shared in ((), 2):
        y = function(ndarray(x), std, KEY, shared_axes=shared)
        assert near(y.get(), *getattr(exact, function.__name__)(x, std, KEY, shared_axes=shared))


@on_device
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
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


@on_device
@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        ("none", np.float32),
        ("none", np.float64),
        ("relu", np.float16),
        ("relu", np.float32),
        ("gelu", np.float32),
        ("gelu", np.float64),
        ("gelu_tanh", np.float32),
        ("silu", ml_dtypes.bfloat16),
        ("silu", np.float32),
    ],
)
def test_bias_act_dropout(activation, dtype):
    x, g, residual = (normal(9, 70, dtype=dtype, seed=s) for s in range(3))
    bias, rates = normal(70, dtype=dtype, seed=3), np.linspace(0, 1, 70)
    window = (19, 75), (2, 3)
    for b, other, p, options in (
        (bias, None, 0.3, {}),
        (None, residual, 0.3, {}),
        (bias, residual, 0.3, {"shared_axes": 0}),
        (bias, residual, rates, {}),
        (bias, None, 0.1, {"window": window}),
    ):
        on_gpu = None if other is None else ndarray(other)

        def act(x, bias, *args, other=other, on_gpu=on_gpu, **kwargs):
            residual = other if isinstance(x, np.ndarray) else on_gpu
            return fd.bias_act_dropout(x, bias, *args, residual=residual, **kwargs)

        exactly = functools.partial(exact.bias_act_dropout, residual=other)
        options = options | {"activation": activation}
        check(act, (x, b), p, KEY, exactly=exactly, **options)
        check(differentiated, (g, x, b), p, KEY, exactly=exact.bias_act_dropout_backward, **options)


@on_device
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
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


@on_device
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()], ids=str)
def test_concrete_slope(dtype, key):
    """The kernel of the logit's gradient, which no function reaches yet, against a difference."""
    x, y, logit, t = normal(300, dtype=dtype), np.empty(300, dtype), -0.7, 2 / 3
    what, rows = Density("logistic", "concrete_slope", _numbers(logit, t)), Rows(100, 1 << 35, 17)
    cpu_calls.noise(what, x, y, rows, *stream(key))
    given, result = DeviceArray(ndarray(x)), empty_like(y)
    part = launch.Part(given.lanes, given.lanes, None, 0, DeviceArray(result).lanes, 0)
    launch.noise(what, part, rows, stream(key))
    assert same_bits(result.get(), y)
    window, x = ((300, 1 << 35), (0, 17)), x.reshape(3, 100)
    above, below = (exact.concrete_dropout(x, logit + d, key, t, window=window)[0] for d in (1e-5, -1e-5))
    np.testing.assert_allclose(y.reshape(3, 100), (above - below) / 2e-5, rtol=2e-4, atol=2e-6)


@on_device
def test_layers():
    x, g = normal(6, 5, 4), normal(6, 5, 4, seed=1)
    for make in (
        lambda: fd.Dropout(0.3, rng=1),
        lambda: fd.SpatialDropout1D(0.3, data_format="channels_last", rng=1),
        lambda: fd.GaussianDropout(0.3, rng=1),
        lambda: fd.GaussianNoise(0.3, rng=1),
        lambda: fd.AlphaDropout(0.3, rng=1),
        lambda: fd.FeatureAlphaDropout(0.3, rng=1),
        lambda: fd.DropPath(0.3, rng=1),
    ):
        ours, theirs = make(), make()
        for _ in range(2):
            assert same_bits(ours(ndarray(x)).get(), theirs(x))
            assert same_bits(ours.backward(ndarray(g)).get(), theirs.backward(g))
        assert ours(given := ndarray(x), training=False) is given


@on_device
def test_refusals():
    x = np.ones((4, 5), np.float32)
    with pytest.raises(ValueError, match="C order"):
        fd.dropout(ndarray(x, strides=(4, 16)), 0.5, 1)
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
    with pytest.raises(TypeError, match=r"NumPy array.*to the host once"):
        fd.dropout(ndarray(x), ndarray(x), 1)
    for std in (fd.gaussian_dropout, fd.gaussian_noise):
        with pytest.raises(TypeError, match="real number"):
            std(ndarray(x), ndarray(x), 1)
    with pytest.raises(TypeError, match="use concrete_dropout"):
        fd.concrete_dropout_backward(ndarray(x), ndarray(x), 0.0, 1)
    layer = fd.ConcreteDropout(0.5, rng=1)
    with pytest.raises(TypeError, match="no arrays on a GPU"):
        layer(ndarray(x))
    assert layer.key == fd.Key(1)
    with pytest.raises(TypeError, match="no arrays on a GPU"):
        fd.drop_block(ndarray(x), 0.5, 1, block_size=1)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        fd.dropout(ndarray(x), 1.5, 1)
