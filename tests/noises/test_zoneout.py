"""Zoneout against np.where, its gradients through time, its mean, and the life of the layer."""

import copy
import json
import pickle

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, frozen, normal, same_bits

import fastdrop as fd
from fastdrop._cpu import calls, run

KEY = fd.Key(42)
NEW, PREVIOUS, G = (normal(6, 50, 33, seed=seed) for seed in range(3))
CASES = [
    ((), 0.3),
    ((), 0.0),
    ((), 1.0),
    ((), 1e-11),
    ((1,), 0.3),
    ((0, 2), 0.5),
    ((0, 1, 2), 0.5),
    ((), np.linspace(0, 1, 33)),
    ((1,), np.linspace(0, 1, 33)),
]


@pytest.mark.parametrize(("shared", "p"), CASES)
@pytest.mark.parametrize("key", [KEY, KEY.antithetic()])
def test_it_is_where_of_dropouts_mask(shared, p, key):
    options = {"shared_axes": shared}
    kept = fd.keep_mask(NEW.shape, p, key, **options)
    y = fd.zoneout(NEW, PREVIOUS, p, key, **options)
    assert same_bits(y, np.where(kept, NEW, PREVIOUS))
    dnew, dprevious = fd.zoneout_backward(G, p, key, **options)
    assert same_bits(dnew, np.where(kept, G, np.float32(0)))
    assert same_bits(dprevious, np.where(kept, np.float32(0), G))
    part = np.s_[2:4, 7:, :]
    window = NEW.shape, (2, 7, 0)
    got = fd.zoneout(NEW[part], PREVIOUS[part], p, key, window=window, **options)
    assert same_bits(got, y[part].copy())
    for gradient, whole in zip(
        fd.zoneout_backward(G[part], p, key, window=window, **options), (dnew, dprevious), strict=True
    ):
        assert same_bits(gradient, whole[part].copy())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_in_place(layout):
    lay = LAYOUTS[layout]
    kept = fd.keep_mask(NEW.shape, 0.3, KEY)
    expected = np.where(kept, NEW, PREVIOUS)
    assert np.array_equal(fd.zoneout(frozen(lay(NEW)), frozen(lay(PREVIOUS)), 0.3, KEY), expected)
    for place in range(2):
        arrays = [lay(NEW), lay(PREVIOUS)]
        assert fd.zoneout(*arrays, 0.3, KEY, out=arrays[place]) is arrays[place]
        assert np.array_equal(arrays[place], expected)
    given = lay(G)
    dnew, dprevious = fd.zoneout_backward(given, 0.3, KEY, out=given)
    assert dnew is given
    assert np.array_equal(dnew, np.where(kept, G, 0))
    assert np.array_equal(dprevious, np.where(kept, 0, G))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_keeps_its_elements(dtype):
    new, previous = (normal(40, 33, dtype=dtype, seed=seed) for seed in range(2))
    kept = fd.keep_mask(new.shape, 0.3, KEY)
    assert same_bits(fd.zoneout(new, previous, 0.3, KEY), np.where(kept, new, previous))
    mean = fd.Zoneout(0.3, rng=KEY).eval()(new, previous)
    wide = np.result_type(dtype, np.float32)
    assert mean.dtype == dtype
    exact = np.float32(0.3) * previous.astype(wide) + np.float32(0.7) * new.astype(wide)
    step = 2.0**-7 if np.dtype(dtype).name == "bfloat16" else np.finfo(dtype).eps
    assert np.abs(mean.astype(wide) - exact).max() <= 2 * max(step, 2e-8) * np.abs(exact).max()


def test_what_is_not_chosen_vanishes():
    nan = np.full(NEW.shape, np.nan, np.float32)
    kept = fd.keep_mask(NEW.shape, 0.3, KEY)
    assert np.array_equal(np.isnan(fd.zoneout(nan, PREVIOUS, 0.3, KEY)), kept)
    assert np.array_equal(np.isnan(fd.zoneout(NEW, nan, 0.3, KEY)), ~kept)
    dnew, dprevious = fd.zoneout_backward(nan, 0.3, KEY)
    assert (dnew[~kept] == 0).all()
    assert (dprevious[kept] == 0).all()
    for p, chosen in ((0.0, NEW), (1.0, PREVIOUS)):
        pair = (NEW, nan) if p == 0 else (nan, PREVIOUS)
        assert same_bits(fd.zoneout(*pair, p, KEY), chosen)
        layer = fd.Zoneout(p, rng=1)
        for training in (True, False):
            assert same_bits(layer.train(training)(*pair), chosen)
            gradients = layer.backward(nan)
            assert np.isnan(gradients[int(p)]).all()
            assert not gradients[1 - int(p)].any()


def test_threads_streaming_and_pieces_give_the_same_bits(monkeypatch, in_pieces_of):
    new, previous = normal(70, 1030), normal(70, 1030, seed=1)
    expected = fd.zoneout(new, previous, 0.3, KEY), *fd.zoneout_backward(new, 0.3, KEY)
    monkeypatch.setattr(calls, "STREAM_FROM", 1)
    monkeypatch.setattr(run, "_UNITS", 3000)
    for threads in (1, 5):
        in_pieces_of(5000, threads)
        got = fd.zoneout(new, previous, 0.3, KEY), *fd.zoneout_backward(new, 0.3, KEY)
        assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (2, 0, 3)])
def test_empty_and_0_d(shape):
    new, previous = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    assert fd.zoneout(new, previous, 1.0, KEY).shape == shape
    assert all(a.shape == shape for a in fd.zoneout_backward(new, 0.3, KEY))


def rate_deviation(replaced, p):
    return (replaced.sum() - replaced.size * p) / np.sqrt(replaced.size * p * (1 - p))


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_the_rate_is_that_of_keeping_the_previous_value(p):
    y = fd.zoneout(np.zeros(1 << 18, np.float32), np.ones(1 << 18, np.float32), p, KEY)
    assert abs(rate_deviation(y, p)) < 5
    if p != 0.5:
        assert abs(rate_deviation(1 - y, p)) > 100  # of the paper's other reading, the test says no


def test_evaluation_is_the_mean_of_training():
    layer = fd.Zoneout(0.3, rng=7)
    new, previous = normal(8, 5, dtype=np.float64), normal(8, 5, dtype=np.float64, seed=1)
    n = 4000
    mean = sum(layer(new, previous) for _ in range(n)) / n
    error = np.abs(new - previous) * np.sqrt(0.3 * 0.7 / n)
    assert (np.abs(mean - layer.eval()(new, previous)) < 5 * error).all()
    assert (np.abs(mean - (0.3 * new + 0.7 * previous)) > 5 * error).any()
    g = normal(8, 5, dtype=np.float64, seed=2)
    dnew, dprevious = layer.backward(g)
    np.testing.assert_allclose(dnew, 0.7 * g, rtol=1e-9)
    np.testing.assert_allclose(dprevious, 0.3 * g, rtol=1e-9)
    assert layer.backward(g, out=g)[0] is g
    assert same_bits(g, dnew)


def through_time(w, x, rng, training, keys_of=lambda keys: keys, own=True):
    """Loss and gradient of the docstring's network, and of its weights in evaluation."""
    zone, states, news, keys = fd.Zoneout(0.4, rng=rng).train(training), [np.zeros(x.shape[1])], [], []
    for t in range(len(x)):
        keys.append(zone.key)
        news.append(np.tanh(x[t] + w * states[t]))
        states.append(zone(news[t], states[t]))
    dw, dh = np.zeros_like(w), 2 * states[-1]
    keys = keys_of(keys)
    for t in reversed(range(len(x))):
        dnew, dprevious = zone.backward(dh) if own else fd.zoneout_backward(dh, zone.p, keys[t])
        da = dnew * (1 - news[t] ** 2)
        dw += da * states[t]
        dh = dprevious + da * w
    return (states[-1] ** 2).sum(), dw


@pytest.mark.parametrize("training", [True, False])
def test_gradients_through_time_are_central_differences(training):
    w, x = normal(20, dtype=np.float64), normal(6, 20, dtype=np.float64, seed=1)
    _, dw = through_time(w, x, KEY, training)
    differences = np.empty_like(w)
    for i in range(len(w)):
        e = np.zeros_like(w)
        e[i] = 1e-5
        ends = [through_time(w + s * e, x, KEY, training)[0] for s in (1, -1)]
        differences[i] = (ends[0] - ends[1]) / 2e-5
    assert np.abs(dw).max() > 0.1
    np.testing.assert_allclose(dw, differences, rtol=1e-6, atol=1e-8)
    if training:  # with the keys of other steps it is another gradient
        _, same = through_time(w, x, KEY, training, own=False)
        assert same_bits(same, dw)
        _, wrong = through_time(w, x, KEY, training, lambda keys: keys[::-1], own=False)
        assert not np.allclose(wrong, differences, rtol=1e-2)


def test_the_life_of_the_layer():
    layer = fd.Zoneout(0.3, rng=KEY)
    with pytest.raises(
        RuntimeError, match=r"Zoneout.backward needs .*fastdrop\.zoneout_backward\(g, p, layer.key\)"
    ):
        layer.backward(G)
    for draw in range(2):
        key = fd.Key(42, draw)
        assert layer.key == key
        assert same_bits(layer(NEW, PREVIOUS), fd.zoneout(NEW, PREVIOUS, 0.3, key))
        got = layer.backward(G)
        assert all(same_bits(a, b) for a, b in zip(got, fd.zoneout_backward(G, 0.3, key), strict=True))
    layer.key = fd.Key(42, 1)
    layer(NEW, PREVIOUS)
    other = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    assert same_bits(other.backward(G)[1], layer.backward(G)[1])
    resumed = fd.Zoneout(rng=0)
    resumed.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    assert repr(resumed) == repr(layer) == "Zoneout(p=0.3, rng=Key(42, draw=2))"
    out = np.empty_like(NEW)
    assert layer(NEW, PREVIOUS, out=out) is out
    assert same_bits(out, resumed(NEW, PREVIOUS))
    layer.p = 0.9
    assert same_bits(layer.backward(G)[0], resumed.backward(G)[0])  # that of its forward
    assert layer.eval()(NEW, PREVIOUS, out=out) is out
    assert layer.key == fd.Key(42, 3)
    np.testing.assert_allclose(layer.backward(G)[1], 0.9 * G, rtol=1e-6)
    layer.train()(NEW, PREVIOUS)
    with pytest.raises(ValueError, match=r"last forward's shape \(6, 50, 33\)"):
        layer.backward(G[0])


def test_a_refused_forward_changes_nothing():
    layer = fd.Zoneout(0.3, rng=KEY)
    layer(NEW, PREVIOUS)
    for training in (True, False):
        with pytest.raises(ValueError, match=r"previous must have new's shape \(6, 50, 33\), got \(50, 33\)"):
            layer(NEW, PREVIOUS[0], training)
        with pytest.raises(ValueError, match="previous must have new's dtype float32, got float64"):
            layer(NEW, PREVIOUS.astype(float), training)
    assert layer.key == fd.Key(42, 1)
    assert same_bits(layer.backward(G)[0], fd.zoneout_backward(G, 0.3, KEY)[0])


def test_refusals():
    with pytest.raises(TypeError, match="got int64"):
        fd.zoneout(np.arange(3), np.arange(3), 0.3, KEY)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.2"):
        fd.zoneout(NEW, PREVIOUS, 1.2, KEY)
    with pytest.raises(ValueError, match="shifted view"):
        fd.zoneout(NEW[1:], PREVIOUS[1:], 0.3, KEY, out=NEW[:-1])
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got nan"):
        fd.Zoneout(np.nan)
