import copy
import gc
import json
import pickle
import tracemalloc

import numpy as np
import pytest

import fastdrop as fd
from fastdrop._noises import _layer

X = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32)
G = np.random.default_rng(1).standard_normal((50, 33)).astype(np.float32)
MAKERS = [lambda: fd.Dropout(0.3, rng=42), lambda: fd.InvertedDropout(0.7, rng=42)]


@pytest.fixture(params=MAKERS, ids=["Dropout", "InvertedDropout"])
def layer(request):
    return request.param()


def equal(a, b):
    return a.tobytes() == b.tobytes()


def test_forward_and_backward_are_the_functions_with_consecutive_draws(layer):
    for draw in range(3):
        key = fd.Key(42, draw)
        assert layer.key == key
        assert equal(layer(X), fd.dropout(X, layer.p, key))
        assert equal(layer.backward(G), fd.dropout_backward(G, layer.p, key))


def test_evaluation_returns_its_input_and_draws_nothing(layer):
    layer.eval()
    assert layer(X) is X
    assert layer.backward(G) is G
    assert layer.key == fd.Key(42)
    assert layer.train()(X) is not X
    assert layer.key == fd.Key(42, 1)


def test_shared_axes_may_be_an_array(layer):
    assert type(layer)(0.5, shared_axes=np.array([0, 1])).shared_axes == (0, 1)


def test_training_argument_is_for_one_call(layer):
    assert layer.forward(X, training=False) is X
    assert layer.training
    layer.eval()
    assert layer.forward(X, True) is not X
    assert not layer.training


def test_backward_of_a_forward_in_evaluation_mode_leaves_training_forwards_alone(layer):
    y = layer(np.ones_like(X))
    layer.eval()(X)
    assert layer.backward(G) is G
    assert equal(layer.train().backward(np.ones_like(X)), y)


def test_in_evaluation_mode_a_training_forward_has_its_own_gradient(layer):
    """As the mode is changed between the two, or for saliency under Monte Carlo dropout."""
    y = layer(np.ones_like(X))
    assert equal(layer.eval().backward(np.ones_like(X)), y)
    assert layer.backward(G) is G
    layer(X)
    first, second = layer(np.ones_like(X), training=True), layer(np.ones_like(X), training=True)
    assert equal(layer.backward(np.ones_like(X)), second)
    assert equal(layer.backward(np.ones_like(X)), first)
    assert layer.backward(G) is G


def test_in_evaluation_mode_forgotten_forwards_do_not_count(layer, monkeypatch):
    monkeypatch.setattr(_layer, "MOST_FORWARDS", 2)
    layer(X)
    layer.eval()(X)
    layer(X, training=True)
    y = [layer(np.ones_like(X), training=True) for _ in range(2)]
    assert equal(layer.backward(np.ones_like(X)), y[1])
    assert equal(layer.backward(np.ones_like(X)), y[0])
    assert layer.backward(G) is G


def test_backward_uses_the_rate_and_key_of_its_forward(layer):
    y = layer(np.ones_like(X))
    layer.p, layer.key = 0.9, fd.Key(5)
    assert equal(layer.backward(np.ones_like(X)), y)


def test_backward_before_forward_raises(layer):
    with pytest.raises(
        RuntimeError, match=r"take layer\.key .*fastdrop\.dropout_backward\(g, p, layer\.key\)"
    ):
        layer.backward(G)


def test_a_forward_in_evaluation_has_no_backward_in_training_mode(layer):
    layer(X, training=False)
    with pytest.raises(RuntimeError, match="needs a training forward"):
        layer.backward(G)


def test_backward_refuses_another_shape(layer):
    layer(X)
    with pytest.raises(ValueError, match=r"last forward's shape \(50, 33\), got \(33, 50\)"):
        layer.backward(G.T)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_draws_advance_whatever_p_is(p):
    layer = fd.Dropout(p, rng=1)
    y = layer(X)
    assert layer.key == fd.Key(1, 1)
    assert y is not X
    assert np.array_equal(y, X if p == 0 else np.zeros_like(X))
    assert np.array_equal(layer.backward(G), G if p == 0 else np.zeros_like(G))


def test_out_and_in_place(layer):
    expected = copy.deepcopy(layer)(X)
    x = X.copy()
    assert layer(x, out=x) is x
    assert equal(x, expected)
    g = np.ones_like(X)
    assert layer.backward(g, out=g) is g
    assert equal(g, fd.dropout(np.ones_like(X), layer.p, fd.Key(42)))


def test_a_refused_forward_changes_nothing(layer):
    layer(X)
    with pytest.raises(TypeError, match="got int64"):
        layer(np.arange(3))
    assert layer.key == fd.Key(42, 1)
    assert layer.backward(G).shape == G.shape


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_with_the_same_masks(layer, remake):
    layer(X)
    other = remake(layer)
    assert equal(other.backward(G), layer.backward(G))
    assert equal(other(X), layer(X))
    assert repr(other) == repr(layer)


def test_state_goes_through_json_and_resumes_bit_for_bit(layer):
    layer(X)
    state = json.loads(json.dumps(layer.state_dict()))
    other = type(layer)(rng=0)
    other.load_state_dict(state)
    assert other.state_dict() == state
    for _ in range(3):
        assert equal(other(X), layer(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "state must have version 1, got 2"),
        ({"layer": "Other"}, "state must have layer '.*Dropout', got 'Other'"),
        ({"p": 1.5}, "p must be in"),
        ({"p": "0.5"}, "bad entry: p must be a real number"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"draw": 1.5}, "bad entry: draw must be an integer"),
        ({"extra": 1}, "state must have the entries"),
    ],
)
def test_a_bad_state_is_refused_and_the_layer_as_it_was(layer, change, message):
    before = layer.state_dict()
    with pytest.raises(ValueError, match=message):
        layer.load_state_dict(before | change)
    assert layer.state_dict() == before


@pytest.mark.parametrize("state", [{}, None, [], "state"])
def test_a_state_of_another_kind_is_refused(layer, state):
    with pytest.raises(ValueError, match="state must have the entries"):
        layer.load_state_dict(state)


def test_loading_forgets_the_last_forward(layer):
    layer(X)
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError):
        layer.backward(G)


def test_what_is_kept_between_forward_and_backward_is_small():
    """Under 400 bytes of everything that forward leaves behind; a mask would be 2 MiB here."""
    x = np.ones((2048, 1024), np.float32)
    y = np.empty_like(x)
    for make in MAKERS:
        make()(x, out=y)  # fills the caches of rates and keys
        layer = make()
        layer.key = fd.Key(2**63, 10**6)
        fd.dropout(x, layer.p, layer.key, out=y)
        gc.collect()
        tracemalloc.start()
        try:
            layer(x, out=y)
            gc.collect()
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        ours = snapshot.filter_traces([tracemalloc.Filter(True, "*fastdrop/*.py")])  # not the tracer's own
        assert 0 < sum(trace.size for trace in ours.traces) < 400


def test_repr_makes_an_equal_layer(layer):
    layer(X)
    other = eval(repr(layer), {"Key": fd.Key, **vars(fd)})
    assert other.state_dict() == layer.state_dict()


def test_fresh_layers_differ():
    assert fd.Dropout().key != fd.Dropout().key


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_rates_outside_0_to_1_are_refused_when_built_and_when_set(p):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got"):
        fd.Dropout(p)
    layer = fd.Dropout(0.3)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got"):
        layer.p = p
    assert layer.p == 0.3
    with pytest.raises(ValueError, match=r"keep_prob must be in \[0, 1\], got"):
        fd.InvertedDropout(p)
    kept = fd.InvertedDropout(0.3)
    with pytest.raises(ValueError, match=r"keep_prob must be in \[0, 1\], got"):
        kept.keep_prob = p
    assert kept.keep_prob == 0.3


def test_layers_without_a_rate_have_no_p():
    for layer in (fd.GaussianNoise(0.1), fd.VariationalDropout(0.5), fd.StandoutDropout()):
        assert not hasattr(layer, "p")
        with pytest.raises(AttributeError, match=f"has no p that could be set, but {layer._parameter}"):
            layer.p = 0.5


def test_rates_of_another_type_are_refused():
    for bad in ("0.5", None):
        with pytest.raises(TypeError, match="p must be a real number"):
            fd.Dropout(bad)
        with pytest.raises(TypeError, match="keep_prob must be a real number"):
            fd.InvertedDropout(bad)


def test_inverted_dropout_is_dropout_of_the_rest():
    assert equal(fd.InvertedDropout(0.8, rng=3)(X), fd.Dropout(0.2, rng=3)(X))
    layer = fd.InvertedDropout(rng=3)
    layer.keep_prob = 0.8
    assert equal(layer(X), fd.Dropout(0.2, rng=3)(X))


@pytest.mark.parametrize("keep_prob", [0.0, 1e-9, 0.1, 0.3, 1 / 3, 0.123456789012345, 0.7, 1.0])
def test_a_probability_to_keep_is_shown_as_it_was_given(keep_prob):
    layer = fd.InvertedDropout(keep_prob, rng=1)
    assert layer.p == 1 - keep_prob
    assert 1 - layer.keep_prob == layer.p
    assert len(str(layer.keep_prob)) <= len(str(keep_prob))
    assert eval(repr(layer), {"Key": fd.Key, **vars(fd)}).p == layer.p
