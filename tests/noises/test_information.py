"""Information dropout: against plain NumPy on `fastdrop.normal`, its gradients, divergence and layer."""

import copy
import json

import exact
import ml_dtypes
import numpy as np
import pytest
from arrays import LAYOUTS, frozen, normal, same_bits
from gradients import central_differences
from scipy import integrate, stats

import fastdrop as fd

KEY = fd.Key(42, 3)
X, G = normal(12, 7, dtype=np.float64), normal(12, 7, dtype=np.float64, seed=1)
ALPHAS = [0.3, np.array(0.3), np.linspace(0, 1, 7), np.linspace(0.1, 1, 12)[:, None], np.abs(G)]
REAL = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize("alpha", ALPHAS, ids=np.shape)
@pytest.mark.parametrize("dtype", REAL)
def test_it_is_the_formula(dtype, alpha):
    x = X.astype(dtype)
    y = fd.information_dropout(x, alpha, KEY)
    assert y.dtype == dtype
    assert not np.array_equal(y, x)
    expected, tolerance = exact.information_dropout(x, np.asarray(alpha), KEY)
    assert (np.abs(y.astype(np.float64) - expected) <= tolerance).all()
    z = fd.normal(x.shape, KEY)
    if dtype is np.float64:
        np.testing.assert_allclose(y, x * np.exp(alpha * z), rtol=1e-13)
        np.testing.assert_allclose(
            fd.information_dropout(x, alpha, KEY.antithetic()), x * np.exp(-alpha * z), rtol=1e-13
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("alpha", [0.4, np.linspace(0, 1, 33)], ids=np.shape)
@pytest.mark.parametrize("shared", [(), 1])
def test_same_bits_for_layouts_windows_and_threads(layout, dtype, alpha, shared, monkeypatch, in_pieces_of):
    x = normal(7, 40, 33, dtype=dtype)
    whole = fd.information_dropout(x, alpha, KEY, shared_axes=shared)
    laid = frozen(LAYOUTS[layout](x))
    assert same_bits(fd.information_dropout(laid, alpha, KEY, shared_axes=shared).astype(x.dtype), whole)
    window, options = (x.shape, (2, 5, 0)), {"shared_axes": shared}
    part = fd.information_dropout(x[2:5, 5:], alpha, KEY, window=window, **options)
    assert same_bits(part, whole[2:5, 5:].copy())
    out = x.copy()
    assert fd.information_dropout(out, alpha, KEY, out=out, **options) is out
    assert same_bits(out, whole)
    z = fd.normal(x.shape, KEY, dtype=np.float64, shared_axes=shared)
    near = x.astype(np.float64) * np.exp(alpha * z)
    np.testing.assert_allclose(
        whole.astype(np.float64), near, rtol=3 * float(ml_dtypes.finfo(dtype).eps) + 4e-6
    )
    from fastdrop._cpu import run

    in_pieces_of(1000, 2)
    monkeypatch.setattr(run, "_UNITS", 3000)
    assert same_bits(fd.information_dropout(x, alpha, KEY, **options), whole)


@pytest.mark.parametrize("shared", [(), 0, (0, 1)])
@pytest.mark.parametrize("alpha", ALPHAS, ids=np.shape)
def test_gradients_are_central_differences(alpha, shared):
    axes = (shared,) if isinstance(shared, int) else shared
    alpha = np.array(alpha, np.float64)
    alpha += 0.1  # in place, so that it stays an array
    for axis in axes:
        if alpha.ndim == 2 or (alpha.ndim == 1 and axis == 1):
            alpha = alpha.mean(axis - 2, keepdims=True)
    x, options = X.copy(), {"shared_axes": shared, "window": ((20, 7), (3, 0))}

    def loss():
        return (fd.information_dropout(x, alpha, KEY, **options) * G).sum()

    dx, dalpha = fd.information_dropout_backward(G, x, alpha, KEY, **options)
    np.testing.assert_allclose(dx, central_differences(loss, x), rtol=1e-6, atol=1e-8)
    assert dalpha.shape == alpha.shape
    np.testing.assert_allclose(dalpha, central_differences(loss, alpha), rtol=1e-6, atol=1e-8)
    assert np.abs(dalpha).max() > 0.1
    assert same_bits(dx, fd.information_dropout(G, alpha, KEY, **options))
    if alpha.ndim == 0:
        found = fd.information_dropout_backward(G, x, float(alpha), KEY, **options)[1]
        assert type(found) is float
        assert found == pytest.approx(float(dalpha), rel=1e-12)
    given = G.copy()
    assert fd.information_dropout_backward(given, x, alpha, KEY, out=given, **options)[0] is given
    assert same_bits(given, dx)


@pytest.mark.parametrize("dtype", REAL)
def test_the_gradient_of_alpha_is_summed_in_float64(dtype):
    x, g = normal(300, 40, dtype=dtype), normal(300, 40, dtype=dtype, seed=1)
    z, wide = fd.normal(x.shape, KEY), (x.astype(np.float64), g.astype(np.float64))
    each = wide[0] * wide[1] * np.exp(0.5 * z) * z
    dx, dalpha = fd.information_dropout_backward(g, x, np.full(40, 0.5), KEY)
    assert (dx.dtype, dalpha.dtype) == (dtype, np.float64)
    np.testing.assert_allclose(dalpha, each.sum(0), atol=1e-5 * np.abs(each).sum(0).max())
    assert fd.information_dropout_backward(g, x, 0.5, KEY)[1] == pytest.approx(each.sum(), abs=1e-2)


def test_gradients_are_pytorchs():
    torch = pytest.importorskip("torch")
    tx, ta, z = (torch.tensor(a, requires_grad=True) for a in (X, np.abs(G[0]), fd.normal(X.shape, KEY)))
    (tx * torch.exp(ta * z)).backward(torch.tensor(G))
    dx, dalpha = fd.information_dropout_backward(G, X, np.abs(G[0]), KEY)
    np.testing.assert_allclose(dx, tx.grad, rtol=1e-12)
    np.testing.assert_allclose(dalpha, ta.grad, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_finite_for_every_alpha(dtype):
    x = np.ones(1000, dtype)
    assert same_bits(fd.information_dropout(x, 0.0, KEY), x)
    for alpha in (30.0, 1e6, np.full(1000, 1e6)):
        y = fd.information_dropout(x, alpha, KEY)
        assert np.isfinite(y).all()
        assert (y > 0).all()
        assert y.max() > 1e30


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_empty_and_0d(shape):
    x = np.ones(shape)
    dx, dalpha = fd.information_dropout_backward(x, x, 0.5, KEY)
    assert dx.shape == shape
    assert dalpha == pytest.approx(float((dx * fd.normal(shape, KEY)).sum()))


@pytest.mark.parametrize("prior", [(0.0, 1.0), (-0.7, 0.4)])
def test_the_divergence_from_a_log_normal_prior_is_that_of_quadrature(prior):
    for mean, alpha in ((0.3, 0.2), (-1.0, 1.5)):
        p, q = stats.norm(mean, alpha), stats.norm(*prior)
        ends = mean - 12 * alpha, mean + 12 * alpha
        expected = integrate.quad(lambda v, p=p, q=q: p.pdf(v) * (p.logpdf(v) - q.logpdf(v)), *ends)[0]
        found, _ = fd.information_kl(np.log(alpha), mean, prior_mean=prior[0], prior_std=prior[1])
        assert found == pytest.approx(expected, rel=1e-8)
    assert fd.information_kl(np.log(prior[1]), prior[0], prior_mean=prior[0], prior_std=prior[1])[0] == 0


def test_the_divergence_from_a_log_uniform_prior_is_less_the_entropy():
    log_alpha = np.array([-3.0, -0.5, 0.7])
    entropy = np.array([stats.norm(0, np.exp(a)).entropy() for a in log_alpha])
    kl, _ = fd.information_kl(log_alpha)
    np.testing.assert_allclose(kl + entropy, stats.norm.entropy())


@pytest.mark.parametrize("mean", [None, 0.3, X[:, :1]], ids=np.shape)
def test_slopes_of_the_divergence_are_central_differences(mean):
    log_alpha, options = np.linspace(-2, 1, 7), {"prior_mean": 0.2, "prior_std": 0.7}
    kl, slope = fd.information_kl(log_alpha, mean, **options)
    above, below = (fd.information_kl(log_alpha + d, mean, **options)[0] for d in (1e-6, -1e-6))
    assert kl.shape == slope.shape == np.broadcast_shapes((7,), np.shape(mean) if mean is not None else ())
    np.testing.assert_allclose(slope, (above - below) / 2e-6, rtol=1e-6, atol=1e-8)
    if mean is not None:
        above, below = (fd.information_kl(log_alpha, mean + d, **options)[0] for d in (1e-6, -1e-6))
        expected = np.broadcast_to((mean - 0.2) / 0.7**2, kl.shape)
        np.testing.assert_allclose((above - below) / 2e-6, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("alpha", [0.3, np.linspace(0.1, 1, 7), np.full((12, 1), 0.5)], ids=np.shape)
def test_the_layer_is_the_function_and_its_gradients(alpha):
    layer = fd.InformationDropout(alpha, rng=KEY)
    log_alpha = layer.log_alpha.copy()
    y = layer(X)
    layer.log_alpha -= 1  # backward takes that of its forward
    expected = fd.information_dropout_backward(G, X, np.exp(log_alpha), KEY)
    assert same_bits(y, fd.information_dropout(X, np.exp(log_alpha), KEY))
    assert same_bits(layer.backward(G), expected[0])

    def loss():
        return (fd.InformationDropout(np.exp(log_alpha), rng=KEY)(X) * G).sum()

    slope = central_differences(loss, log_alpha)
    np.testing.assert_allclose(layer.log_alpha_grad, slope, rtol=1e-6, atol=1e-8)
    layer.zero_grad()
    assert not layer.log_alpha_grad.any()
    assert layer.eval()(X) is X
    assert layer.backward(G) is G


@pytest.mark.parametrize("mean", [None, X])
def test_the_regularizer_adds_its_gradient(mean):
    log_alpha = np.linspace(-2, 0, 7)

    def value():
        return fd.InformationDropout(np.exp(log_alpha)).regularizer(0.1, mean, prior_std=0.5)

    layer = fd.InformationDropout(np.exp(log_alpha))
    assert layer.regularizer(0.1, mean, prior_std=0.5) == pytest.approx(value())
    assert value() == pytest.approx(0.1 * fd.information_kl(log_alpha, mean, prior_std=0.5)[0].sum())
    expected = central_differences(value, log_alpha)
    np.testing.assert_allclose(layer.log_alpha_grad, expected, rtol=1e-6, atol=1e-9)


def test_alpha_is_learned():
    """Up to 1, where alpha**2 / 2, the mean of log(y)**2 / 2, less log(alpha) of the prior is smallest."""
    layer, x = fd.InformationDropout(0.1, rng=KEY), np.ones(2000)
    for _ in range(200):
        z = np.log(layer(x)) / layer.alpha
        layer.zero_grad()
        layer.backward(layer.alpha * z / np.exp(layer.alpha * z) / x.size)  # of mean((alpha * z)**2) / 2
        layer.regularizer()
        layer.log_alpha -= 0.1 * layer.log_alpha_grad
    assert layer.alpha == pytest.approx(1, abs=0.05)


def test_the_life_of_a_layer():
    layer, x = fd.InformationDropout([0.5, 1.0], shared_axes=0, rng=KEY), np.ones((5, 2))
    layer(x)
    state = json.loads(json.dumps(layer.state_dict()))
    other = fd.InformationDropout([9.0, 9.0], shared_axes=0)
    other.load_state_dict(state)
    assert same_bits(other(x), layer(x))
    assert same_bits(copy.deepcopy(layer)(x), layer(x))
    again = eval(repr(layer), vars(fd))
    assert again.state_dict() == layer.state_dict()
    assert again.shared_axes == (0,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.information_dropout(X, -1.0, 1), ValueError, "alpha must be finite and >= 0, got -1.0"),
        (lambda: fd.information_dropout(X, np.nan, 1), ValueError, "alpha must be finite and >= 0, got nan"),
        (lambda: fd.information_dropout(X, -G, 1), ValueError, "alpha must be finite.* in an array"),
        (lambda: fd.information_dropout(X, "1", 1), TypeError, "alpha must be a real number, got str"),
        (lambda: fd.information_dropout(X, np.ones(2), 1), ValueError, r"alpha must broadcast.*\(12, 7\)"),
        (
            lambda: fd.information_dropout(X, np.ones(7), 1, shared_axes=1),
            ValueError,
            r"alpha must broadcast to the mask's shape \(12, 1\)",
        ),
        (lambda: fd.information_dropout(X * 1j, 0.5, 1), TypeError, "information dropout needs real numbers"),
        (lambda: fd.information_dropout(np.arange(3), 0.5, 1), TypeError, "got int64"),
        (lambda: fd.information_dropout_backward(X, X[:2], 0.5, 1), ValueError, "g must be x's float64"),
        (lambda: fd.InformationDropout(0.0), ValueError, "alpha must be above 0 and finite, got 0.0"),
        (lambda: fd.InformationDropout(rng=1)(X, out=X[:]), ValueError, "out must not overlap x"),
        (lambda: fd.information_kl(0.0, 0.0, prior_std=0.0), ValueError, "prior_std must be above 0"),
        (lambda: fd.information_kl(0.0, "a"), TypeError, "mean must be real"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
