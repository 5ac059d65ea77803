"""Variational dropout: its gradients by central differences, its divergence by quadrature."""

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
from arrays import normal, same_bits
from scipy import integrate

import fastdrop as fd

KEY = fd.Key(42)
X, G = normal(40, 7, dtype=np.float64), normal(40, 7, dtype=np.float64, seed=1)


def slopes(function, at, step=1e-6):
    """Central differences of a function of an array."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        e = np.zeros_like(at)
        e[place] = step
        found[place] = (function(at + e) - function(at - e)) / (2 * step)
    return found


@pytest.mark.parametrize("alpha", [0.3, np.linspace(0.1, 2, 7), np.full((40, 1), 0.5)])
def test_gradients_of_x_and_of_log_alpha(alpha):
    def loss(x, log_alpha):
        layer = fd.VariationalDropout(np.exp(log_alpha), rng=KEY)
        return (layer(x) * G).sum()

    layer = fd.VariationalDropout(alpha, rng=KEY)
    y = layer(X)
    dx = layer.backward(G)
    log_alpha = np.log(np.asarray(alpha))
    assert np.allclose(
        dx[:3], slopes(lambda part: loss(np.vstack([part, X[3:]]), log_alpha), X[:3]), rtol=1e-6
    )
    assert np.allclose(layer.log_alpha_grad, slopes(lambda a: loss(X, a), log_alpha), rtol=1e-6)
    closed = (
        (G * (y - X) / 2).sum() if np.ndim(alpha) == 0 else (G * (y - X) / 2).sum(0 if alpha.ndim == 1 else 1)
    )
    assert np.allclose(layer.log_alpha_grad.ravel(), closed)
    layer.key = KEY
    layer(X)
    with pytest.raises(ValueError, match="out must not overlap x"):
        layer.backward(G, out=X)
    layer.backward(G)  # gradients add up
    assert np.allclose(layer.log_alpha_grad.ravel(), 2 * closed)
    layer.zero_grad()
    assert not layer.log_alpha_grad.any()


def test_an_alpha_that_is_set_sets_its_logarithm():
    layer = fd.VariationalDropout(0.5, rng=KEY)
    layer.alpha = 2.0
    assert float(layer.log_alpha) == np.log(2.0)
    for bad, message in ((0.0, "alpha must be above 0"), (np.ones(3), r"log_alpha must have the shape \(\)")):
        with pytest.raises(ValueError, match=message):
            layer.alpha = bad
    assert float(layer.log_alpha) == np.log(2.0)


def test_one_alpha_is_gaussian_dropout():
    y = fd.VariationalDropout(0.25, rng=KEY)(X)
    assert np.allclose(y, fd.gaussian_dropout(X, 0.2, KEY))


def divergence(alpha):
    """E log|e| - log(alpha) / 2 for e ~ N(1, alpha), but for a constant, by quadrature."""
    s = np.sqrt(alpha)

    def integrand(z):
        return np.log(abs(1 + s * z)) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    ends = [-12, -1 / s, 12] if 1 / s < 12 else [-12, 12]
    parts = [integrate.quad(integrand, a, b, limit=200)[0] for a, b in pairwise(ends)]
    return sum(parts) - np.log(alpha) / 2


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_the_divergence_is_that_of_quadrature():
    log_alpha = np.arange(-4, 5.0)
    exact = np.array([divergence(a) for a in np.exp(log_alpha)])
    limit = divergence(1e8)
    kl, slope = fd.variational_kl(log_alpha)
    assert np.abs(kl - (exact - limit)).max() < 0.01
    assert np.abs(kl - 1.1 * (exact - limit)).max() > 0.01
    assert np.allclose(slope, slopes(lambda a: fd.variational_kl(a)[0].sum(), log_alpha), rtol=1e-6)
    far = fd.variational_kl([-1e4, 1e4])
    assert np.isfinite(far).all()


def test_the_regularizer_adds_its_gradient():
    layer = fd.VariationalDropout(np.linspace(0.1, 2, 7), rng=KEY)
    value = layer.regularizer(0.1)
    kl, slope = fd.variational_kl(layer.log_alpha)
    assert value == pytest.approx(0.1 * kl.sum())
    assert np.allclose(layer.log_alpha_grad, 0.1 * slope)


def test_alpha_is_learned():
    """Down to where the loss (variance - .25)**2 has its minimum, in a plain loop."""
    layer = fd.VariationalDropout(2.0, rng=KEY)
    ones = np.ones(2000)
    for _ in range(300):
        noise = layer(ones) - 1
        layer.zero_grad()
        layer.backward(4 * (np.square(noise).mean() - 0.25) * noise / ones.size)
        layer.log_alpha -= 0.2 * layer.log_alpha_grad
    assert layer.alpha == pytest.approx(0.25, abs=0.03)


def test_the_life_of_a_layer():
    layer = fd.VariationalDropout([0.5, 1.0], rng=KEY)
    x = np.ones((5, 2))
    layer(x)
    state = json.loads(json.dumps(layer.state_dict()))
    other = fd.VariationalDropout([9.0, 9.0])
    other.load_state_dict(state)
    assert same_bits(other(x), layer(x))
    assert same_bits(copy.deepcopy(layer)(x), layer(x))
    assert eval(repr(layer), {**vars(fd)}).state_dict() == layer.state_dict()
    g = np.ones_like(x)
    assert layer.eval()(x) is x
    assert layer.backward(g) is g
    assert not layer.log_alpha_grad.any()
    before = layer.state_dict()
    for bad in (
        [1.0],
        [np.inf, 1.0],
        "x",
        [None, 1.0],
        [1420.0, 1.0],  # alpha overflows
        [-800.0, 1.0],  # alpha is 0
        ["0.5", "0.5"],
        [True, False],
        {"schedule": "Constant", "p": 0.5, "step": 0},
    ):
        with pytest.raises(ValueError, match="log_alpha"):
            layer.load_state_dict(before | {"log_alpha": bad})
    assert layer.state_dict() == before


def test_updates_between_forward_and_backward_do_not_matter():
    layer = fd.VariationalDropout(0.5, rng=KEY)
    y = layer(X)
    layer.log_alpha += 1
    assert same_bits(layer.backward(X), y)


def test_local_reparameterization():
    mean, variance = normal(40, 7, dtype=np.float64), np.square(normal(7, dtype=np.float64, seed=5)) + 0.1
    y = fd.local_reparameterization(mean, variance, KEY)
    dmean, dvariance = fd.local_reparameterization_backward(G, variance, KEY)
    assert dmean is G
    expected = slopes(lambda v: (fd.local_reparameterization(mean, v, KEY) * G).sum(), variance)
    assert np.allclose(dvariance.sum(0), expected, rtol=1e-6)
    assert fd.local_reparameterization(mean.astype(np.float32), variance, KEY).dtype == np.float32
    samples = fd.local_reparameterization(np.zeros((200_000, 7)), variance, KEY)
    assert np.allclose(samples.var(0), variance, rtol=0.03)
    assert np.allclose(y - mean, np.sqrt(variance) * fd.normal((40, 7), KEY))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.VariationalDropout(0.0), ValueError, "alpha must be above 0 and finite, got 0.0"),
        (lambda: fd.VariationalDropout([1, np.inf]), ValueError, "alpha must be above 0 and finite, got inf"),
        (lambda: fd.VariationalDropout("1"), TypeError, "alpha must be real"),
        (
            lambda: fd.VariationalDropout(np.ones(6), rng=1)(X),
            ValueError,
            r"broadcast to .*\(40, 7\)",
        ),
        (lambda: fd.VariationalDropout(rng=1)(X, out=X[:]), ValueError, "out must not overlap x"),
        (lambda: fd.local_reparameterization(X, -X * X, KEY), ValueError, "variance must be finite and >= 0"),
        (lambda: fd.local_reparameterization(X, X * 1j, KEY), TypeError, "variance must be real"),
        (lambda: fd.local_reparameterization(X * 1j, X * X, KEY), TypeError, "means must be real"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_log_alpha_keeps_its_shape():
    layer = fd.VariationalDropout(np.ones(3))
    layer.log_alpha = np.full(3, -1.0)
    assert np.allclose(layer.alpha, np.exp(-1))
    with pytest.raises(ValueError, match=r"log_alpha must have the shape \(3,\), got \(\)"):
        layer.log_alpha = 0.0


@pytest.mark.parametrize(
    ("variance", "message"),
    [
        ([1.0, 0.0], "variance must be above 0, where it has a gradient, got 0"),
        ([0.0, -1.0], r"variance must be finite and >= 0, got -1\.0"),
        ([1.0, np.inf], "variance must be finite and >= 0, got inf"),
        ([1.0, np.nan], "variance must be finite and >= 0, got nan"),
        (np.array([1, np.longdouble("1e-400")]), "variance must be above 0, where it has a gradient, got 0"),
    ],
    ids=str,
)
def test_variances_without_a_gradient(variance, message):
    with pytest.raises(ValueError, match=message):
        fd.local_reparameterization_backward(np.ones(2), variance, KEY)


def test_a_block_has_the_normals_that_it_has_in_the_whole():
    mean, variance = normal(6, 5), np.abs(normal(6, 5, seed=1)) + 0.1
    block, window = np.s_[2:5, 1:4], ((6, 5), (2, 1))
    y = fd.local_reparameterization(mean, variance, KEY)
    part = fd.local_reparameterization(mean[block], variance[block], KEY, window=window)
    assert same_bits(part, y[block].copy())
    _, dvariance = fd.local_reparameterization_backward(mean, variance, KEY)
    _, of_part = fd.local_reparameterization_backward(mean[block], variance[block], KEY, window=window)
    assert same_bits(of_part, dvariance[block].copy())
