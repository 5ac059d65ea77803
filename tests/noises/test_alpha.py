"""Alpha dropout: its formula with dropout's own mask, and what it keeps."""

import copy
import json

import numpy as np
import pytest
from arrays import LAYOUTS, normal, same_bits

import fastdrop as fd
from fastdrop import moments

KEY = fd.Key(42, 3)

LIMIT = -1.7580993408473766
REAL = [np.float16, np.float32, np.float64]


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("shared", [(), (1,), (0, 2), (0, 1, 2)])
def test_the_formula(dtype, p, shared):
    x, g = normal(7, 50, 33, dtype=dtype), normal(7, 50, 33, dtype=dtype, seed=1)
    kept = fd.keep_mask(x.shape, p, KEY, shared_axes=shared)
    p_realised = round(p * 2**32) / 2**32
    a = ((1 - p_realised) * (1 + p_realised * LIMIT**2)) ** -0.5
    exact = a * np.where(kept, x.astype(float), LIMIT) - a * p_realised * LIMIT
    tolerance = 4 * np.finfo(dtype).eps
    y = fd.alpha_dropout(x, p, KEY, shared_axes=shared)
    assert y.dtype == dtype
    assert np.allclose(y.astype(float), exact, rtol=tolerance, atol=tolerance * abs(a))
    dx = fd.alpha_dropout_backward(g, p, KEY, shared_axes=shared)
    assert np.allclose(dx.astype(float), a * g * kept, rtol=tolerance, atol=0)
    assert not np.signbit(dx[~kept]).any()
    for layout in LAYOUTS.values():
        got = fd.alpha_dropout(layout(x), p, KEY, shared_axes=shared)
        assert same_bits(np.ascontiguousarray(got).astype(dtype), y)


def test_known_numbers_and_the_limit():
    assert (fd.alpha_dropout(np.full(3, 7.0), 0, 1) == 7).all()
    two = np.unique(fd.alpha_dropout(np.zeros(100), 0.5, KEY).round(6))
    assert two.tolist() == [-0.779194, 0.779194]
    assert np.ptp(fd.alpha_dropout_backward(np.ones(100), 0.5, KEY)) == pytest.approx(0.886405, abs=1e-6)
    for function in (fd.alpha_dropout, fd.alpha_dropout_backward):
        assert (function(np.full(9, np.nan), 1.0, KEY) == 0).all()


def test_a_window_and_what_is_not_finite():
    x = normal(40, 33)
    whole = fd.alpha_dropout(x, 0.3, KEY)
    assert same_bits(fd.alpha_dropout(x[7:20], 0.3, KEY, window=(x.shape, (7, 0))), whole[7:20].copy())
    wild = np.full(1000, np.nan, np.float32)
    kept = fd.keep_mask(1000, 0.3, KEY)
    y = fd.alpha_dropout(wild, 0.3, KEY)
    assert np.isnan(y[kept]).all()
    assert (y[~kept] == y[~kept][0]).all()


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_mean_0_and_variance_1_through_16_selu_layers(p):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 400))
    plain = x
    for depth in range(16):
        w = rng.standard_normal((400, 400)) / 20
        x = fd.alpha_dropout(selu(x @ w), p, fd.Key(1, depth))
        plain = fd.dropout(selu(plain @ w), p, fd.Key(1, depth))
    assert abs(x.mean()) < 0.1
    assert x.var() == pytest.approx(1, abs=0.15)
    assert not (abs(plain.mean()) < 0.1 and plain.var() == pytest.approx(1, abs=0.15))  # dropout doesn't


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_moments(p):
    x = np.array([-1.0, 0.0, 2.0])
    y = fd.alpha_dropout(np.broadcast_to(x, (10**6, 3)), p, KEY)
    exact = moments.alpha_dropout(p, x)
    assert (np.abs(y.mean(0) - exact.mean) < 5 * np.sqrt(exact.variance / len(y))).all()
    spread = np.sqrt((exact.kurtosis + 2) / len(y))
    of_mean = 25 / len(y)  # its own error, squared: at p = 1/2 the spread is 0
    assert (np.abs(y.var(0) / exact.variance - 1) < 5 * spread + of_mean).all()
    z = fd.normal(10**6, fd.Key(9))
    over_all = fd.alpha_dropout(z, p, KEY)
    assert abs(over_all.mean()) < 5e-3
    assert abs(over_all.var() - 1) < 0.01
    assert fd.alpha_dropout(np.ones(10**6), 0.3, KEY).std() == pytest.approx(1.0882, abs=2e-3)


def test_features_are_dropped_whole():
    for shape, axes in (((6, 5), ()), ((6, 5, 3), (2,)), ((6, 5, 3, 4), (2, 3))):
        x = normal(*shape)
        y = fd.FeatureAlphaDropout(0.4, rng=KEY)(x)
        assert same_bits(y, fd.alpha_dropout(x, 0.4, KEY, shared_axes=axes))
    last = np.moveaxis(x, 1, -1).copy()
    layer = fd.FeatureAlphaDropout(0.4, data_format="channels_last", rng=KEY)
    assert same_bits(np.moveaxis(layer(last), -1, 1).copy(), y)
    assert same_bits(
        np.moveaxis(layer.backward(last), -1, 1).copy(),
        fd.alpha_dropout_backward(x, 0.4, KEY, shared_axes=(2, 3)),
    )


def test_refuses():
    with pytest.raises(TypeError, match=r"alpha dropout needs real numbers, got complex128; use x.real"):
        fd.alpha_dropout(np.ones(3, complex), 0.5, 1)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 2"):
        fd.alpha_dropout(np.ones(3), 2, 1)
    with pytest.raises(TypeError, match="p must be a real number"):
        fd.alpha_dropout(np.ones(3), np.full(3, 0.5), 1)
    with pytest.raises(ValueError, match="needs axes for samples and channels"):
        fd.FeatureAlphaDropout()(np.ones(3))
    with pytest.raises(ValueError, match="data_format must be one of"):
        fd.FeatureAlphaDropout(data_format="last")


@pytest.mark.parametrize("make", [fd.AlphaDropout, fd.FeatureAlphaDropout, fd.GaussianNoise])
def test_the_life_of_layers_with_an_affine_noise(make):
    layer, x, g = make(0.3, rng=42), normal(9, 4), normal(9, 4, seed=1)
    y, dx = layer(x), layer.backward(g)
    layer.key = fd.Key(42)
    layer(x)
    slope = (layer.backward(np.ones_like(g)) * g).astype(np.float32)
    assert np.allclose(dx, slope)
    again = make(0.3, rng=42)
    assert same_bits(again(x), y)
    state = json.loads(json.dumps(layer.state_dict()))
    other = make(0.5)
    other.load_state_dict(state)
    assert same_bits(other(x), layer(x))
    assert same_bits(copy.deepcopy(layer)(x), layer(x))
    assert eval(repr(layer), {**vars(fd)}).state_dict() == layer.state_dict()
    assert layer.eval()(x) is x
    assert layer.backward(g) is g
