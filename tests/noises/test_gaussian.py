"""Gaussian dropout and noise: every call against the reference, and the semantics of the family."""

import exact as in_numpy
import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, blocks, examples, frozen, normal, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fastdrop as fd
from fastdrop import moments
from fastdrop._stream import reference

KEY = fd.Key(42, 3)
STD = 0.75


def noise_of(*layout):
    return in_numpy.noise_of(reference.normals, *layout)


@st.composite
def calls(draw):
    shape, window = draw(blocks())
    ndim = len(shape)
    shared = draw(st.lists(st.integers(0, ndim - 1), unique=True)) if ndim else []
    layouts = list(LAYOUTS) if ndim else ["contiguous"]
    by_feature = bool(ndim) and draw(st.booleans())
    chosen = [draw(st.sampled_from(values)) for values in (DTYPES, layouts, [None, "in place", *layouts])]
    return shape, tuple(shared), by_feature, chosen, window


@settings(max_examples=examples(150))
@given(call=calls(), draw=st.integers(0, 3))
def test_every_call_is_the_reference(call, draw):
    shape, shared, by_feature, (dtype, layout, layout_out), window = call
    key, x = fd.Key(7, draw), normal(*shape, dtype=dtype)
    std = np.linspace(0, 2, 1 if len(shape) - 1 in shared else shape[-1]) if by_feature else STD
    p = std**2 / (1 + std**2)
    bits = 64 if x.real.dtype == np.float64 else 32
    exact = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)
    factor = 1 + std * noise_of(shape, key, window, shared, bits)
    for function, number in ((fd.gaussian_dropout, p), (fd.gaussian_noise, std)):
        given_x = LAYOUTS[layout](x) if shape else x.copy()
        out = None
        if layout_out == "in place":
            out = given_x
        elif layout_out is not None:
            out = (LAYOUTS[layout_out](np.zeros_like(x)) if shape else np.zeros_like(x)).astype(given_x.dtype)
        if layout_out != "in place":
            given_x = frozen(given_x)
        y = function(given_x, number, key, shared_axes=shared, out=out, window=window)
        assert out is None or y is out
        assert y.dtype == given_x.dtype
        if function is fd.gaussian_dropout:
            expected = exact * factor
        elif x.dtype.kind != "c":
            expected = exact + factor - 1
        else:
            deeper = (*window[0], 2), (*window[1], 0)
            parts = noise_of((*shape, 2), key, deeper, shared, bits)
            expected = exact + (parts[..., 0] + 1j * parts[..., 1]) * std / np.sqrt(2)
        eps = ml_dtypes.finfo(x.real.dtype).eps
        bound = 2 * float(eps) * (np.abs(exact) * 8 + 30)
        assert (np.abs(y.astype(expected.dtype) - expected) <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_in_place_is_a_copy(dtype):
    """Else the second function of the test above would get what the first one wrote."""
    x = normal(3, 3, dtype=dtype)
    assert [name for name, laid in LAYOUTS.items() if np.shares_memory(laid(x), x)] == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_windows_and_cuts_give_the_same_bits(dtype):
    x = normal(9, 50, 33, dtype=dtype)
    for function in (fd.gaussian_dropout, fd.gaussian_noise):
        for shared in ((), (1,)):
            whole = function(x, 0.3, KEY, shared_axes=shared)
            for layout in LAYOUTS.values():
                got = function(layout(x), 0.3, KEY, shared_axes=shared)
                assert same_bits(np.ascontiguousarray(got).astype(dtype), whole)
            part = function(x[2:5, 3:40, 5:], 0.3, KEY, shared_axes=shared, window=(x.shape, (2, 3, 5)))
            assert same_bits(part, whole[2:5, 3:40, 5:].copy())


def test_normals_do_not_depend_on_the_precision():
    wide, single = (fd.normal(2**20, KEY, dtype=dtype) for dtype in (np.float64, np.float32))
    pairs = wide.reshape(-1, 2, 2, 8)  # cosines and sines of one radius
    radius = np.broadcast_to(np.hypot(pairs[:, :, :1], pairs[:, :, 1:]), pairs.shape).ravel()
    step = 2.0**-33 / (np.exp(-(radius**2) / 2) * np.maximum(radius, 1e-4))  # what further digits change
    change = np.abs(wide - single)
    assert (change <= 1.01 * step + 4 * np.finfo(np.float32).eps * radius).all()
    assert change[radius < 4.05].max() < 2e-5
    assert same_bits(single.astype(np.float16), fd.normal(2**20, KEY, dtype=np.float16))
    assert same_bits(fd.gaussian_noise(np.zeros(1000), 1.0, KEY), wide[:1000].copy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_backward_is_the_adjoint(dtype):
    x, g = normal(40, 50, dtype=dtype), normal(40, 50, dtype=dtype, seed=1)
    ones = np.ones_like(x)
    assert same_bits(fd.gaussian_dropout_backward(ones, 0.3, KEY), fd.gaussian_dropout(ones, 0.3, KEY))
    y, dx = fd.gaussian_dropout(x, 0.3, KEY), fd.gaussian_dropout_backward(g, 0.3, KEY)
    assert np.vdot(y, g) == pytest.approx(np.vdot(x, dx), rel=1e-4)
    assert fd.gaussian_noise_backward(g, 0.3, KEY) is g
    out = np.empty_like(g)
    assert fd.gaussian_noise_backward(g, 0.3, KEY, out=out) is out
    assert same_bits(out, g)


def test_what_keras_asserts():
    y = fd.gaussian_dropout(np.ones((20, 500)), 0.3, 1337)
    assert y.std() == pytest.approx(np.sqrt(0.3 / 0.7), abs=0.02)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_moments(p):
    y = fd.gaussian_dropout(np.full(10**6, -2.0), p, KEY)
    exact = moments.gaussian_dropout(p, -2.0)
    assert abs(y.mean() - exact.mean) < 5 * np.sqrt(exact.variance / y.size)
    assert abs(y.var() / exact.variance - 1) < 5 * np.sqrt(2 / y.size)
    assert abs(stats.skew(y)) < 5 * np.sqrt(6 / y.size)
    assert abs(stats.kurtosis(y)) < 5 * np.sqrt(24 / y.size)
    assert abs(y.var() / moments.gaussian_dropout(p * 1.03, -2.0).variance - 1) > 5 * np.sqrt(2 / y.size)


def test_complex_noise_is_circular():
    z = fd.gaussian_noise(np.zeros(10**6, np.complex64), 2.0, KEY)
    for part in (z.real, z.imag):
        assert part.var(dtype=float) == pytest.approx(2, rel=0.01)
    assert abs(np.corrcoef(z.real, z.imag)[0, 1]) < 5e-3
    turned = fd.gaussian_dropout(np.full(1000, 1 + 2j), 0.3, KEY)
    assert np.allclose(turned.imag, 2 * turned.real)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fd.gaussian_dropout(np.ones(3), 1.0, 1),
            ValueError,
            "p must be below 1 for Gaussian dropout",
        ),
        (lambda: fd.gaussian_dropout(np.ones(3), -0.1, 1), ValueError, r"p must be in \[0, 1\], got -0.1"),
        (lambda: fd.gaussian_dropout(np.ones(3), np.nan, 1), ValueError, "got nan"),
        (
            lambda: fd.gaussian_dropout(np.ones(3), np.array([0, 0.5, 1]), 1),
            ValueError,
            r"in \[0, 1\), got 1.0",
        ),
        (lambda: fd.gaussian_dropout(np.ones(3), np.array(["a"] * 3), 1), TypeError, "array of real numbers"),
        (
            lambda: fd.gaussian_dropout(np.ones(3), np.full(2, 0.5), 1),
            ValueError,
            r"mask's shape \(3,\), got \(2,\)",
        ),
        (lambda: fd.gaussian_noise(np.ones(3), -1.0, 1), ValueError, "std must be finite and >= 0, got -1.0"),
        (lambda: fd.gaussian_noise(np.ones(3), np.inf, 1), ValueError, "got inf"),
        (lambda: fd.gaussian_noise(np.ones(3), "1", 1), TypeError, "std must be a real number, got str"),
        (
            lambda: fd.gaussian_noise(np.ones(3), np.array([0, 1, -1.0]), 1),
            ValueError,
            "got -1.0 in an array",
        ),
        (lambda: fd.gaussian_noise(np.arange(3), 1.0, 1), TypeError, "got int64"),
        (lambda: fd.normal(3, 1, dtype=int), TypeError, "got int64"),
        (lambda: fd.GaussianDropout(1.0), ValueError, "p must be below 1"),
        (lambda: fd.GaussianDropout(0.5, std=1.0), ValueError, "give one of p, std and alpha, got p and std"),
        (lambda: fd.GaussianDropout(alpha=-1.0), ValueError, "alpha must be finite and >= 0, got -1.0"),
        (lambda: fd.GaussianDropout(std=1e308), ValueError, r"std must be below 9.491e\+07, .*, got 1e\+308"),
        (lambda: fd.GaussianDropout(std=1e8), ValueError, r"std must be below 9.491e\+07, .*, got 1000"),
        (
            lambda: fd.GaussianDropout(alpha=1e16),
            ValueError,
            r"alpha must be below 9.007e\+15, .*, got 1e\+16",
        ),
        (lambda: fd.GaussianDropout(np.full(2, 0.5)), TypeError, "p must be .*, got ndarray; use one number"),
        (
            lambda: fd.GaussianDropout(std=np.ones(2)),
            TypeError,
            "std must be .*, got ndarray; use one number",
        ),
        (lambda: fd.GaussianDropout(alpha=np.ones(2)), TypeError, "alpha must be .*, got ndarray; use one"),
        (lambda: fd.GaussianNoise(np.ones(2)), TypeError, "std must be .*, got ndarray; use one number"),
        (lambda: fd.GaussianNoise(-1.0), ValueError, "std must be finite and >= 0"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_one_variance_by_three_names():
    for layer in (fd.GaussianDropout(0.2), fd.GaussianDropout(std=0.5), fd.GaussianDropout(alpha=0.25)):
        assert layer.p == pytest.approx(0.2)
        assert layer.std == pytest.approx(0.5)
        assert layer.alpha == pytest.approx(0.25)
    assert fd.GaussianDropout().p == 0.5
    assert fd.GaussianDropout(alpha=1e6).alpha == pytest.approx(1e6)
    layer = fd.GaussianDropout(rng=1)
    layer.std = 0.5
    assert layer.p == pytest.approx(0.2)
    layer.alpha = 1.0
    assert layer.p == 0.5
    for name, bad in (("std", -1.0), ("std", 1e9), ("alpha", np.nan), ("alpha", 1e16)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            setattr(layer, name, bad)
    assert layer.p == 0.5
    layer = fd.GaussianNoise(0.3)
    layer.std = 0.5
    assert layer.std == 0.5
    with pytest.raises(ValueError, match="std must be finite"):
        layer.std = np.nan
