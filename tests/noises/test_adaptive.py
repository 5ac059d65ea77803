"""Adaptive dropout: rates by importance, observed drop rates, the running mean, the layer's life."""

import copy
import json
import pickle

import numpy as np
import pytest
from arrays import normal, same_bits

import fastdrop as fd
from fastdrop._noises._layer import UNSTEPPED

KEY = fd.Key(42)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("units", [1, 2, 7, 1000])
def test_rates_have_the_mean_and_fall_with_importance(p, units):
    for seed in range(5):
        importance = np.random.default_rng(seed).exponential(size=units) ** 3
        rates = fd.importance_rates(importance, p)
        assert rates.mean() == pytest.approx(p, abs=1e-12)
        assert ((rates >= 0) & (rates <= 0.95)).all()
        in_order = rates[np.argsort(importance)]
        assert (np.diff(in_order) <= 1e-15).all()
        if 0 < p < 0.5 and units > 1:
            assert in_order[0] > in_order[-1] > 0  # the most important unit isn't spared altogether


def test_rates_are_the_formula_where_none_is_cut():
    importance = np.array([0.0, 1.0, 3.0, 4.0])
    falling = 1 / (1 + importance / 2)
    np.testing.assert_allclose(
        fd.importance_rates(importance, 0.2), 0.2 * falling / falling.mean(), rtol=1e-14
    )


def test_cut_rates_leave_their_share_to_the_others():
    rates = fd.importance_rates([0.0, 1.0, 9.0], 0.6, max_rate=0.7)
    assert rates[0] == rates[1] == 0.7
    assert rates[2] == pytest.approx(0.4)


@pytest.mark.parametrize("importance", [[0.0, 0.0, 0.0], [3.0, 3.0, 3.0], [1e-300] * 3])
def test_equal_importance_gives_the_nominal_rate(importance):
    np.testing.assert_allclose(fd.importance_rates(importance, 0.3), 0.3, rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "axis", "others"),
    [((20_000, 6), -1, (0,)), ((400, 6, 10, 5), 1, (0, 2, 3)), ((20_000, 6), 1, (0,))],
)
def test_each_unit_is_dropped_at_its_rate(shape, axis, others):
    scale = np.linspace(0.1, 3, 6).reshape([-1 if a == axis % len(shape) else 1 for a in range(len(shape))])
    x = np.abs(normal(*shape, dtype=np.float64)) * scale + 1e-9
    layer = fd.AdaptiveDropout(0.4, axis=axis, rng=1)
    y = layer(x)
    n = x.size / 6
    dropped = (y == 0).sum(others)
    assert layer.rates.mean() == pytest.approx(0.4)
    assert (np.abs(dropped - n * layer.rates) < 4 * np.sqrt(n * layer.rates * (1 - layer.rates))).all()
    assert (np.abs(dropped - n * 0.4) > 4 * np.sqrt(n * 0.24)).sum() >= 4  # it would see the nominal rate
    importance = np.abs(x).mean(others)
    np.testing.assert_allclose(layer.importance, importance, rtol=1e-12)  # the first input counts in full
    np.testing.assert_allclose(layer.rates, fd.importance_rates(importance, 0.4), rtol=1e-12)
    kept = y != 0
    q = np.broadcast_to(1 - layer.rates.reshape(scale.shape), shape)
    np.testing.assert_allclose(y[kept], (x / q)[kept], rtol=1e-8)


def test_gradients_are_the_masks_and_central_differences_at_fixed_rates():
    x, g = normal(50, 4, dtype=np.float64), normal(50, 4, dtype=np.float64, seed=1)
    layer = fd.AdaptiveDropout(0.4, rng=KEY)
    layer(x)
    dx = layer.backward(g)
    assert same_bits(dx, fd.dropout(g, layer.rates, KEY))
    difference = fd.dropout(x + 1e-6 * g, layer.rates, KEY) - fd.dropout(x - 1e-6 * g, layer.rates, KEY)
    assert (dx * x).sum() == pytest.approx((difference * x).sum() / 2e-6, rel=1e-6)


def test_importance_is_a_running_mean_that_is_corrected_for_its_start():
    layer = fd.AdaptiveDropout(0.5, adaptation_rate=0.1, rng=1)
    assert layer.importance is None
    inputs = [np.abs(normal(10, 3, dtype=np.float64, seed=s)) for s in range(5)]
    weights = np.array([0.9 ** (4 - i) for i in range(5)])
    for x in inputs:
        layer(x)
        layer(x, training=False)  # doesn't count
    means = np.array([x.mean(0) for x in inputs])
    np.testing.assert_allclose(layer.importance, weights @ means / weights.sum(), rtol=1e-12)


def test_what_is_not_finite_leaves_a_units_importance_as_it_was():
    layer = fd.AdaptiveDropout(0.5, rng=1)
    x = np.ones((10, 3)) * [1.0, 2.0, 3.0]
    layer(x)
    before = layer.importance
    x[3, 0], x[4, 1] = np.nan, np.inf
    y = layer(x)
    np.testing.assert_allclose(layer.importance, before, rtol=1e-14)
    assert np.isfinite(layer.rates).all()
    assert np.isfinite(y[:3]).all()


def test_empty_batches_and_no_units():
    layer = fd.AdaptiveDropout(0.5, rng=1)
    assert layer(np.ones((0, 3))).shape == (0, 3)
    np.testing.assert_allclose(layer.rates, 0.5)
    assert fd.AdaptiveDropout(0.5)(np.ones((3, 0))).shape == (3, 0)


def test_in_place_and_evaluation():
    x = normal(30, 4)
    one, other = fd.AdaptiveDropout(0.5, rng=1), fd.AdaptiveDropout(0.5, rng=1)
    y = x.copy()
    assert one(y, out=y) is y
    assert same_bits(y, other(x))
    assert one.eval()(x) is x
    assert one.backward(x) is x
    with pytest.raises(RuntimeError, match=r"dropout_backward\(g, layer\.rates, layer\.key\)"):
        fd.AdaptiveDropout().backward(x)


def test_saved_and_loaded_it_continues_bit_for_bit():
    layer = fd.AdaptiveDropout(fd.schedules.Linear(0.6, steps=5), adaptation_rate=0.2, rng=1)
    for seed in range(3):
        layer(normal(30, 4, seed=seed))
        layer.step()
    loaded = fd.AdaptiveDropout(0.1, adaptation_rate=0.2)
    loaded.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    for other in (loaded, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        ours = copy.deepcopy(layer)
        for seed in range(3, 6):
            x = normal(30, 4, seed=seed)
            assert same_bits(other(x), ours(x))
            assert same_bits(other.backward(x), ours.backward(x))
            other.step()
            ours.step()


@pytest.mark.parametrize(
    "entry",
    [
        {"mean": [1.0, np.nan]},
        {"mean": [[1.0]]},
        {"mean": [-1.0]},
        {"mean": "x"},
        {"inputs": 0},
        {"inputs": 1.5},
        {"inputs": None},
        {"mean": None},  # after inputs
        {"mean": [1e308] * 4},  # whose sum overflows when rates are made of it
        {"mean": [1e307], "inputs": 1},  # which overflows when it is corrected for its start
        {"mean": [True] * 4},
    ],
    ids=str,
)
def test_a_bad_state_leaves_the_layer_as_it_was(entry):
    layer = fd.AdaptiveDropout(0.5, rng=1)
    layer(normal(30, 4))
    before = layer.state_dict()
    with pytest.raises(ValueError, match="state"):
        layer.load_state_dict(before | entry)
    assert layer.state_dict() == before


def test_a_failed_forward_changes_nothing():
    layer = fd.AdaptiveDropout(0.5, rng=1)
    layer(normal(30, 4))
    before = layer.state_dict()
    for wrong, error in (
        (np.ones((3, 5), np.float32), ValueError),
        (np.float32(1), ValueError),
        (np.ones((3, 4), int), TypeError),
        (np.ones((3, 4), complex), TypeError),
    ):
        with pytest.raises(error):
            layer(wrong)
    with pytest.raises(ValueError, match="out must have"):
        layer(normal(30, 4), out=np.ones(3, np.float32))
    assert layer.state_dict() == before


def test_a_warning_made_an_error_changes_nothing():
    layer = fd.AdaptiveDropout(lambda step: 0.5, rng=1)
    x = normal(30, 4)
    for _ in range(UNSTEPPED - 1):
        layer(x)
    before = layer.key, str(layer.rates), str(layer.importance), layer._inputs
    with pytest.raises(UserWarning, match="never stepped"):
        layer(x)
    assert (layer.key, str(layer.rates), str(layer.importance), layer._inputs) == before


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.importance_rates([1.0], 0.96), ValueError, "p must be at most max_rate 0.95, got 0.96"),
        (lambda: fd.importance_rates([1.0], 1.5), ValueError, r"p must be in \[0, 1\], got 1.5"),
        (lambda: fd.importance_rates([-1.0], 0.5), ValueError, "importance must be 1-D, finite and >= 0"),
        (lambda: fd.importance_rates([np.inf], 0.5), ValueError, "importance must be 1-D"),
        (lambda: fd.importance_rates(1.0, 0.5), ValueError, r"importance must be 1-D.*, got shape \(\)$"),
        (lambda: fd.importance_rates(np.ones((99, 9)), 0.5), ValueError, r"1-D.*, got shape \(99, 9\)$"),
        (lambda: fd.importance_rates([1.0] * 99 + [-2], 0.5), ValueError, "1-D.*, got -2.0 in an array$"),
        (lambda: fd.AdaptiveDropout(0.99), ValueError, "p must be at most max_rate"),
        (
            lambda: fd.AdaptiveDropout(0.5, adaptation_rate=0),
            ValueError,
            r"adaptation_rate must be in \(0, 1\]",
        ),
        (lambda: fd.AdaptiveDropout(0.5, axis=1.5), TypeError, "axis must be an integer, got float 1.5"),
        (lambda: fd.AdaptiveDropout(0.5, axis="1"), TypeError, "axis must be an integer, got str '1'"),
        (lambda: fd.AdaptiveDropout(0.5, max_rate=1.5), ValueError, r"max_rate must be in \[0, 1\]"),
        (
            lambda: fd.AdaptiveDropout(0.5, axis=1)(np.ones(3)),
            ValueError,
            r"x must have an axis 1, got shape \(3,\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr_makes_an_equal_layer():
    layer = fd.AdaptiveDropout(0.3, adaptation_rate=0.2, max_rate=0.8, axis=1, rng=3)
    again = eval(repr(layer), vars(fd))
    assert (again.state_dict(), again.axis, again.max_rate) == (layer.state_dict(), 1, 0.8)
