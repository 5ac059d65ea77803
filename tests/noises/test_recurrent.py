"""Masks of a recurrent cell: which draws they are, and gradients through an LSTM in NumPy."""

import copy
import json
import pickle

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, frozen, normal, same_bits

import fastdrop as fd

KEY = fd.Key(42)
TIMES, BATCH, FEATURES, UNITS = 5, 3, 4, 6
GATES = 4
PLACES = ("input", "recurrent", "output", "update")


def gate_key(place, gate=0, key=KEY):
    return key.fold_in(PLACES.index(place)).fold_in(gate)


@pytest.fixture
def noise():
    return fd.RecurrentDropout(0.2, 0.3, 0.5, 0.4, rng=KEY)


@pytest.mark.parametrize("place", PLACES)
def test_masks_are_dropout_under_the_keys_that_are_told(noise, place):
    p = noise.p[PLACES.index(place)]
    mask, x = getattr(noise(), place), normal(7, 11)
    gates = GATES if place in ("input", "recurrent") else None
    for step in (None, 3):
        keys = [gate_key(place, gate) for gate in range(gates or 1)]
        keys = [key if step is None else key.fold_in(step) for key in keys]
        expected = np.stack([fd.dropout(x, p, key) for key in keys])
        g = normal(*expected.shape, seed=1)
        gradient = sum(fd.dropout(part, p, key) for part, key in zip(g, keys, strict=True))
        if gates is None:
            expected, g = expected[0], g[0]
        assert same_bits(mask(x, step), expected)
        assert same_bits(mask(x, step), expected)  # and at the next time
        np.testing.assert_allclose(mask.backward(g, step), gradient, rtol=1e-6)
        out = np.empty_like(expected)
        assert mask(x, step, out=out) is out
        assert same_bits(out, expected)
    assert not np.array_equal(mask(x, 3) == 0, mask(x, 4) == 0)
    assert not np.array_equal(mask(x, 3) == 0, mask(x) == 0)


@pytest.mark.parametrize("place", PLACES)
def test_whole_sequences_share_the_mask_of_a_step(noise, place):
    mask, x = getattr(noise(), place), normal(TIMES, 7, 11)
    steps = [mask(part) for part in x]
    whole = mask(x)
    axis = 0 if mask.gates is None else 1
    assert same_bits(whole, np.stack(steps, axis))
    g = normal(*whole.shape, seed=1)
    gradients = [mask.backward(g.take(t, axis)) for t in range(TIMES)]
    assert same_bits(mask.backward(g), np.stack(gradients))
    shorter = mask(x[:, :4])  # a longer batch has the mask of a shorter one
    assert same_bits(shorter, whole[..., :4, :].copy())


def test_tied_gates_share_the_first_gates_mask(noise):
    tied = fd.RecurrentDropout(0.2, 0.3, 0.5, 0.4, tied=True, rng=KEY)
    x = normal(7, 11)
    for place in PLACES:
        one, many = getattr(tied(True), place), getattr(noise(True), place)
        expected = many(x) if many.gates is None else many(x)[0]
        assert same_bits(one(x), expected)
        assert same_bits(one.backward(x), expected)
        tied.key = noise.key = KEY


def agreement(a, b, p):
    """Deviation of the count of equal decisions from that of independent ones."""
    n, same = a.size, p**2 + (1 - p) ** 2
    return ((a == b).sum() - n * same) / np.sqrt(n * same * (1 - same))


def test_gates_places_steps_and_sequences_are_independent():
    noise, x = fd.RecurrentDropout(0.3, 0.3, 0.3, 0.3, rng=KEY), np.ones((64, 512), np.float32)
    kept = []
    for _ in range(2):
        masks = noise()
        kept += [*(masks.input(x) > 0), *(masks.recurrent(x) > 0), masks.output(x) > 0, masks.update(x) > 0]
        kept += [*(masks.recurrent(x, 0) > 0), masks.update(x, 0) > 0, masks.update(x, 1) > 0]
    for i, a in enumerate(kept):
        for b in kept[:i]:
            assert abs(agreement(a, b, 0.3)) < 5
        assert agreement(a, a, 0.3) > 100  # of a mask with itself the test says no
        assert abs((a.sum() - a.size * 0.7) / np.sqrt(a.size * 0.21)) < 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(noise, dtype):
    masks, x = noise(), normal(7, 11, dtype=dtype)
    y = masks.recurrent(x)
    assert y.dtype == dtype
    assert same_bits(y[2], fd.dropout(x, 0.3, gate_key("recurrent", 2)))
    assert masks.recurrent.backward(y).dtype == dtype
    eval_masks = noise(False)
    assert eval_masks.recurrent.backward(y).dtype == dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(noise, layout):
    masks, x = noise(), normal(TIMES, 7, 11)
    given = frozen(LAYOUTS[layout](x))
    for mask in masks:
        assert np.array_equal(mask(given), mask(x))
        y = mask(x)
        assert np.array_equal(mask.backward(frozen(LAYOUTS[layout](y))), mask.backward(y))


@pytest.mark.parametrize("tied", [False, True])
def test_evaluation_drops_nothing_and_draws_nothing(tied):
    noise = fd.RecurrentDropout(0.2, 0.3, 0.5, 0.4, tied=tied, rng=KEY).eval()
    masks, x = noise(), normal(7, 11)
    assert noise.key == KEY
    assert masks.output(x) is x
    assert masks.update.backward(x, 3) is x
    if tied:
        assert masks.recurrent(x) is x
    else:
        assert same_bits(masks.recurrent(x).copy(), np.stack([x] * GATES))
        assert np.shares_memory(masks.recurrent(x), x)
        np.testing.assert_allclose(masks.recurrent.backward(np.stack([x] * GATES)), GATES * x)
    assert noise(True).output(x) is not x
    assert noise.key == KEY.next()


def test_rates_0_and_1():
    x = np.full((7, 11), np.nan)
    masks = fd.RecurrentDropout(1.0, 0.0, 1.0, 0.0, rng=KEY)()
    assert not masks.input(x).any()
    assert not masks.input.backward(np.full((GATES, 7, 11), np.nan)).any()
    assert not masks.output(x).any()
    assert np.isnan(masks.recurrent(x)).all()
    assert masks.update(x) is not x  # in training never the input itself


# An LSTM: gates i, f, o and the candidate, with the masks of Gal and Ghahramani, and of Semeniuta et al.


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def arrays():
    shapes = {
        "x": (TIMES, BATCH, FEATURES),
        "h": (BATCH, UNITS),
        "c": (BATCH, UNITS),
        "W": (GATES, FEATURES, UNITS),
        "U": (GATES, UNITS, UNITS),
        "b": (GATES, 1, UNITS),
    }
    return {name: normal(*s, dtype=np.float64, seed=i) for i, (name, s) in enumerate(shapes.items())}


READOUT = normal(TIMES, BATCH, UNITS, dtype=np.float64, seed=9)


def run(a, masks, step_of):
    """The loss, and what backward needs of each step."""
    h, c, loss, steps = a["h"], a["c"], 0.0, []
    for t in range(TIMES):
        xs, hs = masks.input(a["x"][t]), masks.recurrent(h)
        gates = xs @ a["W"] + hs @ a["U"] + a["b"]
        i, f, o = sigmoid(gates[:3])
        n = np.tanh(gates[3])
        update, before = masks.update(n, step_of(t)), c
        c = f * c + i * update
        h = o * np.tanh(c)
        loss += (masks.output(h) * READOUT[t, : len(h)]).sum()
        steps.append((xs, hs, i, f, o, n, update, before, c))
    return loss, steps


def by_gate(a, b):
    """a.T @ b for each gate, where a may be one for all."""
    return np.matmul(a.mT, b)


def gradients(a, masks, step_of, recurrent_backward=None):
    """Of the loss with respect to every array, by backpropagation through time."""
    recurrent_backward = recurrent_backward or (lambda g, t: masks.recurrent.backward(g))
    _, steps = run(a, masks, step_of)
    d = {name: np.zeros_like(value) for name, value in a.items()}
    dh, dc = np.zeros_like(a["h"]), np.zeros_like(a["c"])
    for t in reversed(range(TIMES)):
        xs, hs, i, f, o, n, update, before, c = steps[t]
        dh = dh + masks.output.backward(READOUT[t, : len(dh)])
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        dn = masks.update.backward(dc * i, step_of(t))
        slopes = i * (1 - i), f * (1 - f), o * (1 - o), 1 - n**2
        da = np.stack([dc * update, dc * before, dh * np.tanh(c), dn]) * slopes
        d["W"] += by_gate(xs, da)
        d["U"] += by_gate(hs, da)
        d["b"] += da.sum(1, keepdims=True)
        dxs, dhs = da @ a["W"].mT, da @ a["U"].mT
        if masks.input.gates is None:
            dxs, dhs = dxs.sum(0), dhs.sum(0)
        d["x"][t] = masks.input.backward(dxs)
        dh, dc = recurrent_backward(dhs, t), dc * f
    d["h"], d["c"] = dh, dc
    return d


def differences(a, masks, step_of, name):
    result = np.empty_like(a[name])
    for place in np.ndindex(a[name].shape):
        value, ends = a[name][place], []
        for a[name][place] in (value + 1e-5, value - 1e-5):
            ends.append(run(a, masks, step_of)[0])
        result[place] = (ends[0] - ends[1]) / 2e-5
        a[name][place] = value
    return result


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("step_of", [lambda t: None, lambda t: t], ids=["per sequence", "per step"])
def test_gradients_through_an_lstm_are_central_differences(training, tied, step_of):
    a, masks = arrays(), fd.RecurrentDropout(0.2, 0.3, 0.4, 0.3, tied=tied, rng=KEY)(training)
    for name, gradient in gradients(a, masks, step_of).items():
        assert np.abs(gradient).max() > 0.1
        wanted = differences(a, masks, step_of, name)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-8, err_msg=name)


def test_the_gradient_of_the_state_needs_the_same_mask_at_every_step():
    """dh = sum over gates of (da U^T) m_h / q by that formula, and not with another mask at each step."""
    a, masks = arrays(), fd.RecurrentDropout(0.2, 0.3, 0.4, 0.3, rng=KEY)()
    factors = np.stack(
        [
            fd.keep_mask((BATCH, UNITS), 0.3, gate_key("recurrent", k)) / (1 - round(0.3 * 2**32) / 2**32)
            for k in range(GATES)
        ]
    )

    def unchanged(t):
        return None

    got = gradients(a, masks, unchanged)
    formula = gradients(a, masks, unchanged, lambda g, t: (g * factors).sum(0))
    wrong = gradients(a, masks, unchanged, masks.recurrent.backward)
    for name in a:
        np.testing.assert_allclose(got[name], formula[name], rtol=1e-12, atol=1e-12)
    for name in set(a) - {"b"}:
        assert not np.allclose(got[name], wrong[name], rtol=1e-2)


def test_a_feature_dropped_for_a_gate_has_no_gradient_over_the_whole_sequence():
    a = arrays()
    masks = fd.RecurrentDropout(0.0, 0.5, rng=KEY)()
    a = {name: (v[:, :1] if name == "x" else v[:1] if name in "hc" else v) for name, v in a.items()}
    dU = gradients(a, masks, lambda t: None)["U"]
    kept = masks.recurrent(np.ones((1, UNITS)))[:, 0] > 0
    assert 0 < kept.sum() < kept.size
    assert np.array_equal(np.abs(dU).sum(2) > 0, kept)


def test_the_life_of_the_layer(noise):
    x = normal(7, 11)
    for draw in range(2):
        key = fd.Key(42, draw)
        assert noise.key == key
        expected = fd.dropout(x, 0.5, gate_key("output", key=key))
        assert same_bits(noise().output(x), expected)
    state = json.loads(json.dumps(noise.state_dict()))
    assert state["p"] == [0.2, 0.3, 0.5, 0.4]
    resumed = fd.RecurrentDropout(rng=0)
    resumed.load_state_dict(state)
    assert repr(resumed) == repr(noise)
    assert eval(repr(noise), {"Key": fd.Key, **vars(fd)}).state_dict() == noise.state_dict()
    for other in (resumed, copy.deepcopy(noise), pickle.loads(pickle.dumps(noise))):
        assert same_bits(other().update(x), copy.copy(noise)().update(x))
    masks = noise()
    assert pickle.loads(pickle.dumps(masks)) == masks
    noise.p = (0.1, 0.1, 0.1, 0.1)
    assert noise().input.p == 0.1
    assert masks.input.p == 0.2  # made before
    mirrored = fd.RecurrentDropout(p_output=0.5, rng=KEY.antithetic())().output(np.ones(9))
    plain = fd.RecurrentDropout(p_output=0.5, rng=KEY)().output(np.ones(9))
    assert np.array_equal(mirrored + plain, np.full(9, 2.0))


@pytest.mark.parametrize("change", [{"p": [0.1, 0.2]}, {"p": [0.1, 0.2, 0.3, 2]}, {"p": 0.5}, {"draw": -1}])
def test_a_bad_state_is_refused(noise, change):
    before = noise.state_dict()
    with pytest.raises(ValueError, match="must be"):
        noise.load_state_dict(before | change)
    assert noise.state_dict() == before


def test_refusals(noise):
    with pytest.raises(ValueError, match=r"p_recurrent must be in \[0, 1\], got 1.2"):
        fd.RecurrentDropout(0.1, 1.2)
    with pytest.raises(TypeError, match="p_update must be a real number"):
        fd.RecurrentDropout(p_update="0.5")
    with pytest.raises(ValueError, match="gates must be at least 1, got 0"):
        fd.RecurrentDropout(gates=0)
    with pytest.raises(TypeError, match="p must be the four rates"):
        noise.p = 0.5
    with pytest.raises(TypeError, match=r"use that of a mask: masks\.recurrent\.backward"):
        noise.backward(np.ones(3))
    masks = noise()
    with pytest.raises(ValueError, match=r"first axis of 4 gates, got shape \(3, 5\)"):
        masks.input.backward(np.ones((3, 5)))
    with pytest.raises(TypeError, match="got int64"):
        masks.input(np.arange(3))
    with pytest.raises(TypeError, match="data must be an integer"):
        masks.update(np.ones(3), 1.5)
    with pytest.raises(AttributeError):
        masks.update.p = 0.1
