"""Standout: probabilities by pre-activation, both forms, training and evaluation."""

import copy
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from arrays import LAYOUTS, normal, same_bits

import fastdrop as fd

KEY = fd.Key(42)
H, A = normal(200, 30, dtype=np.float64), normal(200, 30, dtype=np.float64, seed=1)


def keep_prob(a, alpha, beta):
    return 1 / (1 + np.exp(-(alpha * a + beta)))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (2.0, -0.5), (-1.0, 1.0), (0.0, 0.3)])
def test_each_element_is_kept_with_its_probability(alpha, beta):
    a = np.repeat(np.linspace(-3, 3, 7), 20_000)
    pi = fd.standout_keep_prob(a, alpha=alpha, beta=beta)
    np.testing.assert_allclose(pi, keep_prob(a, alpha, beta), rtol=1e-13)
    kept = fd.standout_dropout(np.ones_like(a), a, KEY, alpha=alpha, beta=beta).reshape(7, -1).sum(1)
    n, q = 20_000, pi[::20_000]
    assert (np.abs(kept - n * q) < 5 * np.sqrt(n * q * (1 - q))).all()
    if alpha:  # it would see the same probability everywhere
        assert (np.abs(kept - n * q.mean()) > 5 * np.sqrt(n * q * (1 - q))).any()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("inverted", [False, True])
def test_it_is_dropout_at_those_rates(dtype, inverted):
    h = H.astype(dtype)
    y = fd.standout_dropout(h, A, KEY, inverted=inverted)
    by_rates = fd.dropout(h, 1 - keep_prob(A, 1, 0), KEY)
    assert y.dtype == h.dtype
    if inverted:
        assert same_bits(y, by_rates)
    else:
        assert same_bits(y, np.where(by_rates == 0, 0, h).astype(dtype))


PRECISIONS = [(np.float16, np.float32), (ml_dtypes.bfloat16, np.float32), (np.float32, np.float32)]


@pytest.mark.parametrize(("dtype", "real"), [*PRECISIONS, (np.float64, np.float64), (np.int8, np.float64)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-2.5, 0.7), (0.0, -1.0), (1e35, 0.0)])
def test_rates_have_the_precision_of_a(dtype, real, alpha, beta):
    """An element is kept as the exact rate says, unless U is within some roundings of it."""
    a = (3 * normal(100_003, dtype=np.float64)).astype(dtype)
    v = -(alpha * a.astype(np.longdouble) + beta)
    rates = 1 / (1 + np.exp(np.clip(v * -1, -700, 700)))
    kept = fd.standout_dropout(np.ones(a.shape, np.float32), a, KEY, alpha=alpha, beta=beta) != 0
    slack = 0 if abs(alpha) > 1e30 else 4 * np.finfo(real).eps * (1 + np.abs(v) * rates * (1 - rates))
    most, least = np.minimum(rates + slack + 2.0**-31, 1), np.maximum(rates - slack - 2.0**-31, 0)
    ones = np.ones(a.shape)
    assert not (kept & (fd.dropout(ones, least.astype(np.float64), KEY) == 0)).any()
    assert not (~kept & (fd.dropout(ones, most.astype(np.float64), KEY) != 0)).any()
    assert kept.any()
    assert not kept.all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("inverted", [False, True])
def test_each_way_to_the_rates_gives_the_same_bits(dtype, inverted):
    """Where arrays lie so that one kernel can't read a and write y, the rates are an array first."""
    options = {"alpha": 1.3, "beta": -0.4, "inverted": inverted}
    for size in (1, 7, 8, 15, 16, 17, 1000, 1024, 1031, 70_001):
        h, a = normal(size, dtype=np.float32), normal(size, dtype=dtype, seed=1)
        want = fd.standout_dropout(h, a, KEY, **options)
        for given_h, given_a in (
            (np.repeat(h, 2)[::2], a),
            (h, np.repeat(a, 2)[::2]),
            (h, a.astype(a.dtype.newbyteorder())),
        ):
            assert same_bits(fd.standout_dropout(given_h, given_a, KEY, **options), want)
        if dtype == np.float32:
            own = a.copy()
            assert same_bits(fd.standout_dropout(h, own, KEY, out=own, **options), want)
        rows = fd.standout_dropout(h[:, None], a[:, None], KEY, rows=np.arange(size), **options)
        assert same_bits(rows[:, 0], want)


def test_extreme_pre_activations():
    a = np.array([-1e3, 1e3, -40.0, 40.0])
    assert fd.standout_dropout(np.ones(4), a, KEY).tolist() == [0, 1, 0, 1]
    h = np.array([np.nan, np.inf, np.nan, -np.inf])
    assert fd.standout_dropout(h, a, KEY, inverted=True).tolist() == [0, np.inf, 0, -np.inf]


def test_pre_activations_of_rare_types():
    a = np.linspace(-4, 4, 9)
    h = np.ones(9)
    few = a.astype(ml_dtypes.float8_e5m2)
    assert same_bits(fd.standout_dropout(h, few, KEY), fd.standout_dropout(h, few.astype(np.float32), KEY))
    far = np.array([np.longdouble("1e400"), -np.longdouble("1e400")])
    if np.isfinite(far).all():
        kept = fd.standout_keep_prob(far)
        assert kept[0] == 1
        assert 0 < kept[1] < 1e-300
        assert fd.standout_dropout(np.ones(2), far, KEY).tolist() == [1, 0]
        with pytest.raises(ValueError, match="a must be finite, got inf"):
            fd.standout_keep_prob(far * np.inf)
    layer = fd.StandoutDropout(rng=KEY).eval()
    assert layer(np.array([np.inf]), np.array([-1e9])).tolist() == [np.inf]  # no probability is 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_in_place(layout):
    want = fd.standout_dropout(H, A, KEY)
    laid = LAYOUTS[layout](H)
    assert same_bits(fd.standout_dropout(laid, LAYOUTS[layout](A), KEY).astype(np.float64), want)
    if laid.flags.writeable:
        assert fd.standout_dropout(laid, A, KEY, out=laid) is laid
        assert np.array_equal(laid, want)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_layer(inverted):
    layer = fd.StandoutDropout(1.5, -0.2, inverted=inverted, rng=KEY)
    options = {"alpha": 1.5, "beta": -0.2, "inverted": inverted}
    for draw in range(2):
        key = fd.Key(42, draw)
        assert same_bits(layer(H, A), fd.standout_dropout(H, A, key, **options))
        assert same_bits(layer.backward(A), fd.standout_dropout_backward(A, A, key, **options))
    pi = keep_prob(A, 1.5, -0.2)
    layer.eval()
    if inverted:
        assert layer(H, A) is H
        assert layer.backward(A) is A
    else:
        np.testing.assert_allclose(layer(H, A), H * pi, rtol=1e-12)
        np.testing.assert_allclose(layer.backward(A), A * pi, rtol=1e-12)
        out = H.copy()
        assert layer(out, A, out=out) is out
        np.testing.assert_allclose(out, H * pi, rtol=1e-12)
    assert layer.key == fd.Key(42, 2)


def test_evaluation_is_the_mean_of_training():
    h, a = np.ones(200_000), np.full(200_000, 0.7)
    layer = fd.StandoutDropout(rng=KEY)
    pi = keep_prob(0.7, 1, 0)
    assert abs(layer(h, a).mean() - layer(h, a, False).mean()) < 5 * np.sqrt(pi * (1 - pi) / h.size)


def test_gradients_are_central_differences():
    layer = fd.StandoutDropout(rng=KEY)
    g = normal(200, 30, dtype=np.float64, seed=2)
    for mode in (True, False):
        layer.train(mode).key = KEY
        layer(H, A)
        dh = layer.backward(g)
        ends = []
        for step in (1e-5, -1e-5):
            layer.key = KEY
            ends.append((layer(H + step * A, A) * g).sum())
        assert (dh * A).sum() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_saved_and_loaded_it_continues_bit_for_bit():
    layer = fd.StandoutDropout(1.5, 0.1, rng=KEY)
    layer(H, A)
    loaded = fd.StandoutDropout(beta=0.1)
    loaded.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    for other in (loaded, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert same_bits(other(H, A), copy.deepcopy(layer)(H, A))
    again = eval(repr(layer), vars(fd))
    assert (again.alpha, again.beta, again.key) == (1.5, 0.1, layer.key)


def test_a_failed_forward_draws_nothing_and_backward_is_still_that_of_the_one_before():
    layer = fd.StandoutDropout(rng=KEY)
    with pytest.raises(RuntimeError, match=r"standout_dropout_backward\(g, a, layer\.key\)"):
        layer.backward(H)
    layer(H, A)
    for wrong, error in (
        (A[:3], ValueError),
        (A.astype(complex), TypeError),
        (np.full_like(A, np.nan), ValueError),
    ):
        with pytest.raises(error, match="a must"):
            layer(H, wrong)
        with pytest.raises(error, match="a must"):
            layer(H, wrong, training=False)
    with pytest.raises(ValueError, match="out must not overlap a"):
        layer(H, A, out=A)
    assert layer.key == fd.Key(42, 1)
    assert same_bits(layer.backward(A), fd.standout_dropout_backward(A, A, KEY))


def test_a_state_has_both_numbers_of_the_gate():
    layer, other = fd.StandoutDropout(2.0, 1.0, rng=KEY), fd.StandoutDropout()
    other.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    assert (other.alpha, other.beta) == (2.0, 1.0)
    assert same_bits(other(H, A), layer(H, A))
    for bad in ("1", None, float("nan")):
        with pytest.raises(ValueError, match="state has a bad entry: beta must be"):
            other.load_state_dict(layer.state_dict() | {"beta": bad})
    with pytest.raises(ValueError, match="state must have the entries"):
        other.load_state_dict({})
    assert (other.alpha, other.beta) == (2.0, 1.0)


def test_a_layers_alpha_can_be_set():
    layer = fd.StandoutDropout(rng=KEY)
    layer.alpha = 2
    assert same_bits(layer(H, A), fd.standout_dropout(H, A, KEY, alpha=2.0))
    with pytest.raises(ValueError, match="alpha must be finite"):
        layer.alpha = np.inf
    assert layer.alpha == 2.0


def test_in_evaluation_each_backward_has_a_forward_of_that_mode():
    layer = fd.StandoutDropout(rng=KEY).eval()
    with pytest.raises(RuntimeError, match="needs a forward in evaluation, one for each backward"):
        layer.backward(H)
    layer(H, A)
    with pytest.raises(ValueError, match="last forward's shape"):
        layer.backward(A[:3])
    layer(H, -A, training=True)  # comes last, and so has the next backward
    assert same_bits(layer.backward(A), fd.standout_dropout_backward(A, -A, KEY))
    np.testing.assert_allclose(layer.backward(A), A * keep_prob(A, 1, 0), rtol=1e-12)
    with pytest.raises(RuntimeError, match="one for each backward"):
        layer.backward(A)
    layer.train()(H, -A)
    layer(H, A, training=False)  # in training mode it leaves nothing behind
    assert same_bits(layer.backward(A), fd.standout_dropout_backward(A, -A, KEY.next()))
    with pytest.raises(RuntimeError, match="one for each backward"):
        layer.eval().backward(A)


def test_a_large_alpha_keeps_or_drops():
    a = np.array([-10.0, 0.0, 10.0])
    assert np.array_equal(fd.standout_keep_prob(a, alpha=1e308, beta=-1e308).round(9), [0, 0, 1])
    layer = fd.StandoutDropout(rng=KEY)
    layer.load_state_dict(layer.state_dict() | {"alpha": 1e308})
    assert np.array_equal(layer(np.ones(3), a)[[0, 2]], [0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.StandoutDropout(np.nan), ValueError, "alpha must be finite, got nan"),
        (lambda: fd.StandoutDropout(1.0, "b"), TypeError, "beta must be a real number, got str"),
        (lambda: fd.standout_keep_prob(["a"]), TypeError, "a must be of real numbers"),
        (lambda: fd.standout_dropout(np.ones(3, complex), np.ones(3), 0), TypeError, "needs real numbers"),
        (
            lambda: fd.standout_dropout(np.ones(3), np.ones(1), 0),
            ValueError,
            r"a must have h's shape \(3,\), got",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_block_has_the_mask_that_it_has_in_the_whole():
    h, a = normal(6, 5), normal(6, 5, seed=1)
    whole = fd.standout_dropout(h, a, KEY, alpha=0.5, inverted=True)
    window = ((6, 5), (2, 1))
    part = fd.standout_dropout(h[2:5, 1:4], a[2:5, 1:4], KEY, alpha=0.5, inverted=True, window=window)
    assert same_bits(part, whole[2:5, 1:4].copy())
    assert not same_bits(part, fd.standout_dropout(h[2:5, 1:4], a[2:5, 1:4], KEY, alpha=0.5, inverted=True))
