"""Concrete dropout: its noise, its mask against formulas, gradients, the learned rate, the layer's life."""

import copy
import json
import math
import pickle

import ml_dtypes
import naive
import numpy as np
import pytest
from arrays import LAYOUTS, frozen, normal, same_bits
from scipy import stats

import fastdrop as fd
from fastdrop._stream import reference

KEY = fd.Key(42, 3)
TEMPERATURES = [0.1, 2 / 3]
BITS = {np.float32: 32, np.float64: 64}


def logit(p):
    return math.log(p / (1 - p))


def sigmoid(v):
    return np.exp(-np.logaddexp(0, -v))


def indices(size, start=0):
    return np.arange(size, dtype=np.uint64) + np.uint64(start)


def by_reference(x, a, t, key=KEY, bits=64, start=0):
    """The mask's formula in the domain of logarithms, from the reference's noise."""
    v = (a + reference.logistics(indices(x.size, start), key, bits)) / t
    return x * np.exp(-np.logaddexp(0, v) + np.logaddexp(0, a)).reshape(x.shape)


def noise_of(size, dtype=np.float64, key=KEY):
    """The logistic noise, from a mask at rate 1/2 and temperature 1."""
    y = fd.concrete_dropout(np.ones(size, dtype), 0.0, key, temperature=1.0)
    return np.log((2 - y) / y)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()], ids=str)
def test_the_references_noise_is_the_oracles(bits, key):
    for start in (0, 2**40 - 3):
        exact = [naive.logistic(start + i, key.seed, key.draw, bits) for i in range(100)]
        np.testing.assert_allclose(reference.logistics(indices(100, start), key, bits), exact, rtol=1e-9)


def test_published_numbers():
    """A change to any of them is a new stream version."""
    expected = [0.5033648582594134, 1.166091169441999, 1.3522459815592773, 1.6794270462390834]
    np.testing.assert_allclose(reference.logistics(indices(4), fd.Key(42), 64), expected, rtol=1e-12)
    np.testing.assert_allclose(noise_of(4, key=fd.Key(42)), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("a", [-80.0, -5.0, -1.0, 0.0, 2.0, 5.0])
def test_masks_are_the_formulas(dtype, t, a):
    for size in (1, 31, 1025, 4099):
        x = normal(size, dtype=dtype)
        exact = by_reference(x.astype(np.float64), a, t, bits=BITS[dtype])
        got = fd.concrete_dropout(x, a, KEY, temperature=t)
        assert got.dtype == dtype
        # the noise is known to some eps, of itself or absolutely, and the temperature divides it
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(got, exact, rtol=300 * eps / t, atol=1e-35)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("p", [0.05, 0.1, 0.3, 0.5, 0.8])
def test_more_than_half_is_dropped_with_the_rates_probability(p, t):
    n = 1_000_000
    y = fd.concrete_dropout(np.ones(n, np.float32), logit(p), KEY, temperature=t)
    count = (y < 0.5 / (1 - p)).sum()
    assert abs(count - n * p) < 4 * math.sqrt(n * p * (1 - p))
    assert abs(count - n * (p + 0.01)) > 4 * math.sqrt(n * p * (1 - p))  # it would see a wrong rate


@pytest.mark.parametrize(
    ("t", "p", "mean"),
    [(0.1, 0.1, 0.99869), (0.1, 0.5, 1.0), (0.1, 0.8, 1.0078), (2 / 3, 0.1, 0.950), (2 / 3, 0.8, 1.244)],
)
def test_means(t, p, mean):
    y = fd.concrete_dropout(np.ones(4_000_000), logit(p), KEY, temperature=t)
    assert abs(y.mean() - mean) < 5 * y.std() / 2000 + 5e-4


def test_the_noise_is_logistic():
    z = noise_of(1_000_000)
    assert stats.kstest(z, stats.logistic.cdf).pvalue > 1e-6
    assert stats.kstest(z * 1.02, stats.logistic.cdf).pvalue < 1e-6
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5e-3
    other = noise_of(1_000_000, key=KEY.next())
    assert abs(np.corrcoef(z, other)[0, 1]) < 5e-3


def test_antithetic_keys_mirror_it():
    x = normal(5000, dtype=np.float64)
    y = fd.concrete_dropout(x, 0.0, KEY) + fd.concrete_dropout(x, 0.0, KEY.antithetic())
    np.testing.assert_allclose(y, 2 * x, rtol=1e-13)  # z and 1 - z


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_it_is_finite_for_every_logit(dtype):
    x = np.ones(100_000, dtype)
    limits = np.finfo(np.float32)
    for t in (1e-6, 0.1, 2 / 3, 10.0, 1e30):
        for a in [*np.linspace(-80, 80, 9), float(limits.max), float(limits.min), 1e-30]:
            y = fd.concrete_dropout(x, a, KEY, temperature=t)
            wide = y.astype(np.float64)
            assert not np.isnan(wide).any()
            assert (wide >= 0).all()
            if dtype in BITS:
                assert np.isfinite(y).all()
                dx, slope = fd.concrete_dropout_backward(x, x, a, KEY, temperature=t)
                assert np.isfinite(dx).all()
                assert math.isfinite(slope) or t < 1e-3 or a > 70


@pytest.mark.parametrize("shared", [(), (1,), (0, 2), 2])
@pytest.mark.parametrize("t", TEMPERATURES)
def test_gradients_are_central_differences(shared, t):
    x, g = normal(4, 6, 5, dtype=np.float64), normal(4, 6, 5, dtype=np.float64, seed=1)
    options = {"temperature": t, "shared_axes": shared}

    def loss(x, a):
        return (fd.concrete_dropout(x, a, KEY, **options) * g).sum()

    a = -0.7
    dx, slope = fd.concrete_dropout_backward(g, x, a, KEY, **options)
    assert slope == pytest.approx((loss(x, a + 1e-5) - loss(x, a - 1e-5)) / 2e-5, rel=1e-6)
    direction = normal(4, 6, 5, dtype=np.float64, seed=2)
    difference = (loss(x + 1e-5 * direction, a) - loss(x - 1e-5 * direction, a)) / 2e-5
    assert (dx * direction).sum() == pytest.approx(difference, rel=1e-6)
    assert same_bits(dx, fd.concrete_dropout(g, a, KEY, **options))


@pytest.mark.parametrize("t", TEMPERATURES)
def test_gradients_are_pytorchs(t):
    torch = pytest.importorskip("torch")
    x, g = normal(500, dtype=np.float64), normal(500, dtype=np.float64, seed=1)
    dx, slope = fd.concrete_dropout_backward(g, x, 0.3, KEY, temperature=t)
    tx, ta = torch.tensor(x, requires_grad=True), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z = torch.sigmoid((ta + torch.tensor(reference.logistics(indices(500), KEY, 64))) / t)
    y = tx * (1 - z) / (1 - torch.sigmoid(ta))
    np.testing.assert_allclose(
        fd.concrete_dropout(x, 0.3, KEY, temperature=t), y.detach(), rtol=1e-10, atol=1e-15
    )
    y.backward(torch.tensor(g))
    np.testing.assert_allclose(dx, tx.grad, rtol=1e-10, atol=1e-15)
    assert slope == pytest.approx(float(ta.grad), rel=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_same_bits_for_layouts_windows_and_threads(layout, dtype, in_pieces_of):
    x = normal(7, 40, 33, dtype=dtype)
    for shared in ((), 1):
        whole = fd.concrete_dropout(x, 1.0, KEY, shared_axes=shared)
        laid = frozen(LAYOUTS[layout](x))
        assert same_bits(fd.concrete_dropout(laid, 1.0, KEY, shared_axes=shared).astype(x.dtype), whole)
        window = (x.shape, (2, 5 if shared == () else 0, 1))
        part = fd.concrete_dropout(x[2:5, window[1][1] :, 1:], 1.0, KEY, shared_axes=shared, window=window)
        assert same_bits(part, whole[2:5, window[1][1] :, 1:].copy())
        out = x.copy()
        assert fd.concrete_dropout(out, 1.0, KEY, shared_axes=shared, out=out) is out
        assert same_bits(out, whole)

    whole = fd.concrete_dropout(x, 1.0, KEY)
    in_pieces_of(1000, 2)
    assert same_bits(fd.concrete_dropout(x, 1.0, KEY), whole)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_empty_and_0d(shape):
    x = np.ones(shape)
    y = fd.concrete_dropout(x, 0.0, KEY)
    assert y.shape == shape
    dx, slope = fd.concrete_dropout_backward(x, x, 0.0, KEY)
    assert dx.shape == shape
    assert slope == pytest.approx(float((y * (0.5 - 10 * (1 - y / 2))).sum()))


def layer(p=0.2, **options):
    return fd.ConcreteDropout(p, rng=KEY, **options)


def test_the_layer_is_the_function_and_learns():
    x, g = normal(30, 8, dtype=np.float64), normal(30, 8, dtype=np.float64, seed=1)
    drop = layer()
    for draw in range(2):
        key = fd.Key(42, 3 + draw)
        assert drop.key == key
        assert same_bits(drop(x), fd.concrete_dropout(x, float(drop.logit), key))
        dx, slope = fd.concrete_dropout_backward(g, x, float(drop.logit), key)
        drop.zero_grad()
        assert same_bits(drop.backward(g), dx)
        assert drop.logit_grad == slope
        drop.key = key
        drop(x)
        drop.backward(g)  # adds up
        assert drop.logit_grad == 2 * slope
        drop.logit -= 0.01 * drop.logit_grad
    assert drop.p == pytest.approx(1 / (1 + math.exp(-float(drop.logit))))
    assert drop.eval()(x) is x
    assert drop.backward(g) is g


def test_backward_takes_the_logit_and_input_of_its_forward():
    x, g = normal(30, dtype=np.float64), normal(30, dtype=np.float64, seed=1)
    drop = layer()
    drop(x)
    before = float(drop.logit)
    drop.logit -= 1.0
    assert same_bits(drop.backward(g), fd.concrete_dropout(g, before, KEY))
    with pytest.raises(RuntimeError, match=r"concrete_dropout_backward\(g, x, logit, layer\.key\)"):
        layer().backward(g)


def test_spatial_form_shares_its_draws():
    x = np.ones((3, 4, 5, 6))
    y = layer(temperature=2 / 3, shared_axes=(2, 3))(x)
    assert (y == y[:, :, :1, :1]).all()
    assert len(np.unique(y[:, :, 0, 0])) == 12


def test_a_gradient_that_could_not_be_added_to_is_refused():
    drop, weight = fd.ConcreteDropout(0.1, rng=1), np.ones((3, 2))
    for bad in ([[0.0, 0.0]] * 3, 0.0, None, np.zeros((3, 2), int)):
        with pytest.raises(
            TypeError, match="weight_grad must be an ndarray of floats, which is added to, got"
        ):
            drop.regularizer(weight, bad, weight_scale=0.1, entropy_scale=0.1)
    with pytest.raises(ValueError, match=r"weight_grad must have the weights' shape \(3, 2\), got \(2,\)"):
        drop.regularizer(weight, np.zeros(2), weight_scale=0.1, entropy_scale=0.1)
    assert drop.logit_grad == 0


def test_a_rate_that_is_set_sets_the_logit():
    drop = fd.ConcreteDropout(0.1, rng=1)
    drop.p = 0.3
    assert drop.p == pytest.approx(0.3, rel=1e-15)
    assert float(drop.logit) == pytest.approx(math.log(0.3 / 0.7))
    for bad, message in ((1.0, r"p must be inside \(0, 1\)"), (np.nan, r"p must be in \[0, 1\]")):
        with pytest.raises(ValueError, match=message):
            drop.p = bad
    with pytest.raises(TypeError, match="p must not be a schedule"):
        drop.p = fd.schedules.Constant(0.3)
    assert drop.p == pytest.approx(0.3, rel=1e-15)


def test_regularizer_and_its_gradients():
    weight = normal(7, 4, dtype=np.float64)
    for a in (-6.0, -1.0, 0.0, 3.0):

        def value(a, weight):
            drop = layer()
            drop.logit = a
            return drop.regularizer(weight, np.zeros_like(weight), weight_scale=0.3, entropy_scale=0.2)

        drop, weight_grad = layer(), np.ones_like(weight)
        drop.logit = a
        p = 1 / (1 + math.exp(-a))
        closed = 0.3 * (weight**2).sum() / (1 - p) + 0.2 * 7 * (p * math.log(p) + (1 - p) * math.log(1 - p))
        found = drop.regularizer(weight, weight_grad, weight_scale=0.3, entropy_scale=0.2)
        assert found == pytest.approx(closed, rel=1e-12)
        slope = 0.3 * (weight**2).sum() * p / (1 - p) + 0.2 * 7 * p * (1 - p) * a
        assert float(drop.logit_grad) == pytest.approx(slope, rel=1e-12)
        difference = (value(a + 1e-5, weight) - value(a - 1e-5, weight)) / 2e-5
        assert float(drop.logit_grad) == pytest.approx(difference, rel=1e-6)
        np.testing.assert_allclose(weight_grad - 1, 2 * 0.3 * weight / (1 - p), rtol=1e-12)
    for a in (-80.0, 80.0, 1e4):
        drop = layer()
        drop.logit = a
        assert math.isfinite(
            drop.regularizer(weight, np.zeros_like(weight), weight_scale=1e-9, entropy_scale=1.0)
        )
        assert math.isfinite(drop.logit_grad)
    channels = layer().regularizer(weight, np.zeros_like(weight), weight_scale=0, entropy_scale=1, features=3)
    assert channels == pytest.approx(3 * (0.2 * math.log(0.2) + 0.8 * math.log(0.8)))


@pytest.mark.parametrize("weight_grad", [np.zeros((2, 2)), np.zeros((3, 2), int)], ids=["shape", "dtype"])
def test_a_failed_regularizer_changes_nothing(weight_grad):
    drop = layer()
    with pytest.raises((ValueError, TypeError)):
        drop.regularizer(np.ones((3, 2)), weight_grad, weight_scale=1.0, entropy_scale=1.0)
    assert drop.logit_grad == 0
    assert not weight_grad.any()


def test_the_entropy_alone_draws_the_rate_as_the_authors_code_does():
    """Adam(1e-3) from p = .1; figures of the authors' code."""
    drop, weight = layer(0.1), np.zeros((1, 1))
    m = v = 0.0
    for step in range(1, 2001):
        drop.zero_grad()
        drop.regularizer(weight, weight.copy(), weight_scale=0.0, entropy_scale=1.0)
        g = float(drop.logit_grad)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        drop.logit -= 1e-3 * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
        if step in FIGURES:
            assert abs(drop.p - FIGURES[step]) < 1e-3


FIGURES = {1000: 0.2362, 1500: 0.3258, 2000: 0.4038}


def test_saved_and_loaded_it_continues_bit_for_bit():
    x = normal(100)
    drop = layer(temperature=2 / 3)
    drop(x)
    drop.logit += 0.123
    loaded = fd.ConcreteDropout(temperature=2 / 3)
    loaded(x)
    loaded.load_state_dict(json.loads(json.dumps(drop.state_dict())))
    with pytest.raises(RuntimeError):
        loaded.backward(x)
    for other in (loaded, pickle.loads(pickle.dumps(drop)), copy.deepcopy(drop)):
        assert other.logit == drop.logit
        assert same_bits(other(x), copy.deepcopy(drop)(x))


@pytest.mark.parametrize("logit", [2**70, np.array(2**70), np.array(2.0**70)])
def test_a_logit_is_any_real_number(logit):
    assert same_bits(fd.concrete_dropout(normal(9), logit, KEY), fd.concrete_dropout(normal(9), 2.0**70, KEY))


def test_a_failed_forward_draws_nothing():
    drop, x = layer(), normal(10)
    for wrong in (np.ones(3, int), np.ones(3, complex)):
        with pytest.raises(TypeError):
            drop(wrong)
    with pytest.raises(ValueError, match="out must not overlap x"):
        drop(x, out=x)
    assert drop.key == KEY


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.ConcreteDropout(0.0), ValueError, r"p must be inside \(0, 1\), got 0.0"),
        (lambda: fd.ConcreteDropout(1), ValueError, r"p must be inside \(0, 1\), got 1"),
        (lambda: fd.ConcreteDropout("half"), TypeError, "p must be a real number"),
        (lambda: fd.ConcreteDropout(temperature=0.0), ValueError, "temperature must be finite and at least"),
        (lambda: fd.ConcreteDropout(temperature=np.nan), ValueError, "temperature must be finite"),
        (lambda: fd.ConcreteDropout(temperature="hot"), TypeError, "temperature must be a real number"),
        (lambda: fd.concrete_dropout(np.ones(3), np.inf, 0), ValueError, "logit must be finite, got inf"),
        (lambda: fd.concrete_dropout(np.ones(3), [0.0], 0), TypeError, "logit must be a real number"),
        (lambda: fd.concrete_dropout(np.ones(3), 1j, 0), TypeError, "logit must be a real number"),
        (lambda: fd.concrete_dropout(np.ones(3), True, 0), TypeError, "logit must be a real number, got"),
        (lambda: fd.concrete_dropout(np.ones(3), 10**400, 0), ValueError, "logit must be a float, got an"),
        (lambda: fd.concrete_dropout(np.ones(3, complex), 0.0, 0), TypeError, "needs real numbers"),
        (
            lambda: fd.concrete_dropout_backward(np.ones(3), np.ones(2), 0.0, 0),
            ValueError,
            "g must be x's float64",
        ),
        (lambda: setattr(layer(), "logit", np.nan), ValueError, "logit must be finite"),
        (lambda: setattr(layer(), "logit", [0.0, 1.0]), ValueError, r"logit must have the shape \(\)"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr_makes_an_equal_layer():
    drop = layer(0.3, temperature=0.5, shared_axes=(1, 2))
    again = eval(repr(drop), vars(fd))
    assert (again.temperature, again.shared_axes, again.key) == (0.5, (1, 2), KEY)
    assert again.p == pytest.approx(drop.p)
