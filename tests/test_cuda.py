"""The CUDA backend against the CPU's: on a GPU if there is one, else in a process with CUDA's simulator."""

import functools
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, normal, same_bits
from device_arrays import SIMULATED, empty_like, install, ndarray
from numba import cuda

import fastdrop as fd
from fastdrop import _cpu, _cuda
from fastdrop._device import DeviceArray
from fastdrop.random import stream

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


def check(function, x, *args, **kwargs):
    """Whether a function of arrays gives the same on the GPU, new and in place."""
    expected = function(x, *args, **kwargs)
    given = ndarray(x)
    y = function(given, *args, **kwargs)
    assert isinstance(y, ndarray)
    assert same_bits(y.get(), expected)
    assert same_bits(given.get(), x)
    assert function(given, *args, out=given, **kwargs) is given
    assert same_bits(given.get(), expected)


@on_device
@pytest.mark.parametrize("p", [0, 1e-3, 0.1, 0.25, 0.5, 0.9, 1])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()])
def test_masks_over_rates(p, key):
    check(fd.dropout, normal(1100), p, key)


@on_device
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 31, 32, 33, 1023, 1024, 1025, 2049])
def test_masks_over_sizes(size):
    check(fd.dropout, normal(size), 0.3, KEY)


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_over_dtypes(dtype):
    x = normal(3, 50, dtype=dtype)
    x[0, :20] = np.nan
    y = fd.dropout(ndarray(x), 0.5, KEY).get()
    np.testing.assert_array_equal(y.astype(np.complex128), fd.dropout(x, 0.5, KEY).astype(np.complex128))
    check(fd.dropout_backward, normal(3, 50, dtype=dtype), 0.1, KEY, shared_axes=1)


@on_device
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
def test_windows(shape, window):
    check(fd.dropout, normal(*shape), 0.25, KEY, window=window)
    check(fd.gaussian_noise, normal(*shape), 0.25, KEY, window=window)


@on_device
@pytest.mark.parametrize("shared", [0, 1, 2, (2, 3), (0, 2), (1, 3), (0, 1, 2, 3), (0, 2, 3)])
def test_shared_axes(shared):
    x = normal(3, 4, 5, 6)
    window = ((7, 9, 11, 6), (3, 4, 5, 0))
    for function in (fd.dropout, fd.gaussian_dropout, fd.gaussian_noise):
        check(function, x, 0.3, KEY, shared_axes=shared)
        check(function, x, 0.3, KEY, shared_axes=shared, window=window)


@on_device
def test_a_grid_smaller_than_the_work(monkeypatch):
    monkeypatch.setattr(_cuda, "BLOCKS", 1)
    monkeypatch.setattr(_cuda, "THREADS", 32)
    check(fd.dropout, normal(3000), 0.3, KEY)
    check(fd.gaussian_noise, normal(3000), 0.3, KEY)
    check(fd.dropout, normal(6, 3, 5), 0.3, KEY, shared_axes=1)


@on_device
@pytest.mark.parametrize("shape", [(4, 1, 1), (6,), (1, 5, 1), (3, 4, 5, 6), (1,), (5, 6), (3, 1, 1, 6)])
def test_rates_by_element(shape):
    p = np.random.default_rng(1).random(shape)
    p.flat[0] = 1
    check(fd.dropout, normal(3, 4, 5, 6), p, KEY)
    check(fd.dropout, normal(3, 4, 5, 6), p, KEY.antithetic(), window=((4, 4, 6, 6), (1, 0, 1, 0)))


@on_device
def test_rates_by_unit():
    p = np.random.default_rng(1).random((4, 1, 1)).astype(np.float32)
    check(fd.dropout, normal(3, 4, 5, 6), p, KEY, shared_axes=(2, 3))
    check(fd.dropout, normal(3, 4, 5, dtype=np.complex64), p[:, 0], KEY, shared_axes=2)


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [fd.gaussian_dropout, fd.gaussian_noise])
def test_gaussian(function, dtype):
    for size in (1, 31, 32, 33, 300):
        check(function, normal(size, dtype=dtype), 0.3, KEY)
    check(function, normal(4, 9, dtype=dtype), 0.3, KEY.antithetic(), shared_axes=0)


@on_device
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", [fd.gaussian_dropout, fd.gaussian_noise])
def test_gaussian_with_an_array(function, dtype):
    std, x = np.random.default_rng(1).random((4, 1)), np.ones((3, 4, 5), dtype)
    for shared in ((), 2):
        y = function(ndarray(x), std, KEY, shared_axes=shared).get()
        expected = function(x, std, KEY, shared_axes=shared)
        np.testing.assert_allclose(y, expected, rtol=0, atol=8 * np.finfo(dtype).eps)


@on_device
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("function", [fd.alpha_dropout, fd.alpha_dropout_backward])
def test_alpha(function, dtype):
    for p in (0, 0.3, 1):
        check(function, normal(700, dtype=dtype), p, KEY)
    check(function, normal(5, 6, 7, dtype=dtype), 0.3, KEY, shared_axes=(1, 2))


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_add(dtype):
    x, residual = normal(40, 30, dtype=dtype), normal(40, 30, dtype=dtype, seed=1)
    for p, key, axes in ((0.3, KEY, ()), (0, KEY.antithetic(), ()), (0.5, KEY, 1), (1, KEY, ())):
        y = fd.dropout_add(ndarray(x), ndarray(residual), p, key, shared_axes=axes)
        assert same_bits(y.get(), fd.dropout_add(x, residual, p, key, shared_axes=axes))
    dx, dresidual = fd.dropout_add_backward(g := ndarray(x), 0.3, KEY)
    assert dresidual is g
    assert same_bits(dx.get(), fd.dropout(x, 0.3, KEY))


@on_device
@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        ("none", np.float32),
        ("relu", np.float16),
        ("gelu", np.float32),
        ("gelu", np.float64),
        ("gelu_tanh", np.float32),
        ("silu", ml_dtypes.bfloat16),
    ],
)
def test_bias_act_dropout(activation, dtype):
    x, g, residual = (normal(9, 70, dtype=dtype, seed=s) for s in range(3))
    bias = normal(70, dtype=dtype, seed=3)
    options = {"activation": activation}
    for b, other, axes in ((bias, None, ()), (None, residual, ()), (bias, residual, 0)):
        gb, gother = (None if a is None else ndarray(a) for a in (b, other))
        y = fd.bias_act_dropout(ndarray(x), gb, 0.3, KEY, residual=gother, shared_axes=axes, **options)
        expected = fd.bias_act_dropout(x, b, 0.3, KEY, residual=other, shared_axes=axes, **options)
        assert same_bits(y.get(), expected)
        backward = functools.partial(fd.bias_act_dropout_backward, shared_axes=axes, **options)
        dx, db = backward(ndarray(g), ndarray(x), gb, 0.3, KEY)
        dx_expected, db_expected = backward(g, x, b, 0.3, KEY)
        assert same_bits(dx.get(), dx_expected)
        if b is None:
            assert db is None
        else:
            rounding = 8 * float(ml_dtypes.finfo(dtype).eps)
            np.testing.assert_allclose(db.get().astype(float), db_expected.astype(float), rounding, rounding)


@on_device
@pytest.mark.parametrize("name", ["concrete", "concrete_slope"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()])
def test_concrete(name, dtype, key):
    x, y = normal(300, dtype=dtype), np.empty(300, dtype)
    numbers = 1 / 0.1, 0.3, 1 / 0.9, 1.2, 0.1
    layout = 100, 1 << 35, 17, numbers
    _cpu.add_noise(name, x, y, *layout, *stream(key))
    given, result = ndarray(x), empty_like(y)
    _cuda.add_noise(name, DeviceArray(given).lanes, DeviceArray(result).lanes, *layout, *stream(key))
    assert same_bits(result.get(), y)


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
    with pytest.raises(TypeError, match="NumPy array"):
        fd.dropout(ndarray(x), ndarray(x), 1)
    with pytest.raises(TypeError, match="no arrays on a GPU"):
        fd.drop_block(ndarray(x), 0.5, 1, block_size=1)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        fd.dropout(ndarray(x), 1.5, 1)
