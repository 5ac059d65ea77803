"""Shared draws over space and time, and the life of every structured layer."""

import copy
import json

import numpy as np
import pytest
from arrays import DTYPES, normal, same_bits
from scipy import stats

import fastdrop as fd

KEY = fd.Key(42)
SPATIAL = [fd.SpatialDropout1D, fd.SpatialDropout2D, fd.SpatialDropout3D]
LAYERS = [
    (lambda: fd.SpatialDropout1D(0.3, rng=42), (5, 4, 7)),
    (lambda: fd.SpatialDropout2D(0.3, data_format="channels_last", rng=42), (5, 4, 7, 6)),
    (lambda: fd.SpatialDropout3D(0.3, rng=42), (5, 4, 2, 3, 4)),
    (lambda: fd.DropPath(0.3, rng=42), (9, 4, 2)),
    (lambda: fd.DropPath(0.3, mode="batch", rng=42), (9, 4)),
    (lambda: fd.DropBlock2D(0.3, block_size=3, rng=42), (3, 4, 9, 8)),
    (lambda: fd.TemporalDropout(0.3, rng=42), (5, 6, 7)),
    (lambda: fd.TemporalDropout(0.3, time_major=True, rng=42), (6, 5, 7)),
    (lambda: fd.GaussianDropout(0.3, rng=42), (9, 4)),
]


@pytest.fixture(params=LAYERS, ids=lambda pair: repr(pair[0]()))
def layer_and_shape(request):
    make, shape = request.param
    return make(), shape


def test_layers_go_through_the_life_of_a_layer(layer_and_shape):
    layer, shape = layer_and_shape
    x, g = normal(*shape, dtype=np.float64), normal(*shape, dtype=np.float64, seed=1)
    ones = np.ones(shape)
    mask = layer(ones)
    assert layer.key == fd.Key(42, 1)
    assert same_bits(layer.backward(ones), mask)  # backward(ones) == forward(ones)
    layer.key = fd.Key(42)
    layer(ones)
    assert layer.backward(g).ravel() @ x.ravel() == pytest.approx((mask * x).ravel() @ g.ravel())
    assert not same_bits(layer(ones), mask)
    state = json.loads(json.dumps(layer.state_dict()))
    other = copy.deepcopy(layer)
    other.key = fd.Key(0)
    other.load_state_dict(state)
    assert same_bits(other(x), layer(x))
    assert eval(repr(layer), {**vars(fd)}).state_dict() == layer.state_dict()
    assert layer.eval()(x) is x
    assert layer.backward(g) is g
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 2"):
        type(layer)(2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_take_every_dtype_in_place(layer_and_shape, dtype):
    layer, shape = layer_and_shape
    x = normal(*shape, dtype=dtype)
    expected = copy.deepcopy(layer)(x)
    assert expected.dtype == x.dtype
    assert layer(x, out=x) is x
    assert same_bits(x, expected)


@pytest.mark.parametrize("make", SPATIAL)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_spatial_units_are_those_of_elements(make, p):
    """Draws of (n, c), whatever the space; the same in both data formats."""
    space = (3, 4, 5)[: make.spatial]
    units = fd.dropout(np.ones((6, 7)), p, KEY)
    first = make(p, rng=KEY)(np.ones((6, 7, *space)))
    last = make(p, data_format="channels_last", rng=KEY)(np.ones((6, *space, 7)))
    assert np.array_equal(first, np.broadcast_to(units.reshape(6, 7, *[1] * len(space)), first.shape))
    assert np.array_equal(last, np.broadcast_to(units.reshape(6, *[1] * len(space), 7), last.shape))


@pytest.mark.parametrize("make", SPATIAL)
def test_spatial_layers_refuse(make):
    layer, axes = make(), make.spatial + 2
    with pytest.raises(ValueError, match=rf"needs {axes} axes, got shape .*; use x\[None\] for one sample"):
        layer(np.ones((2,) * (axes - 1)))
    with pytest.raises(ValueError, match=f"needs {axes} axes, got shape"):
        layer(np.ones((2,) * (axes + 1)))
    with pytest.raises(ValueError, match=r"data_format must be one of \('channels_first', .*, got 'nchw'"):
        make(data_format="nchw")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_which_maps_are_dropped(p):
    """Each channel as often as any other, and independently of the others."""
    kept = fd.dropout(np.ones((20_000, 32, 1)), p, KEY, shared_axes=2)[:, :, 0] != 0

    def uniform(kept):
        scores = (kept.sum(0) - len(kept) * (1 - p)) / np.sqrt(len(kept) * p * (1 - p))
        return 1e-6 < stats.chi2.sf((scores**2).sum(), kept.shape[1]) < 1 - 1e-6

    def independent(kept):
        correlation = np.corrcoef(kept.T)[np.triu_indices(kept.shape[1], 1)] * np.sqrt(len(kept))
        return np.abs(correlation).max() < 5.5  # of 496 pairs

    assert uniform(kept)
    assert independent(kept)
    stuck, twin = kept.copy(), kept.copy()
    stuck[:, 3] = p >= 0.5
    twin[:1000, 3] = twin[:1000, 4]
    twin[:, 5] = np.where(np.arange(len(kept)) % 10 == 0, twin[:, 6], twin[:, 5])
    assert not uniform(stuck)
    assert not independent(twin)


@pytest.mark.parametrize("time_major", [False, True])
def test_steps_are_the_whole_sequence(time_major):
    x, g = normal(5, 6, 7), normal(5, 6, 7, seed=1)
    whole, steps = (fd.TemporalDropout(0.3, time_major=time_major, rng=3) for _ in range(2))
    for _ in range(3):
        y, dx = whole(x), whole.backward(g)
        time = 0 if time_major else 1
        for t in range(x.shape[time]):
            assert np.array_equal(steps(x.take(t, time)), y.take(t, time))
            assert np.array_equal(steps.backward(g.take(t, time)), dx.take(t, time))
        assert steps.key == whole.key
        steps.reset_state()
    assert not np.array_equal(whole(x), y)


def test_steps_go_on_after_a_state_is_loaded_and_evaluation_leaves_them():
    layer = fd.TemporalDropout(0.3, rng=3)
    ones = np.ones((5, 7))
    y = layer(ones)
    other = fd.TemporalDropout(0.3)
    other.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    assert layer(ones, training=False) is ones
    assert same_bits(layer(ones), y)
    assert same_bits(other(ones), y)
    for step in (layer, other):
        step.reset_state()
    assert same_bits(layer(ones), other(ones))
    with pytest.raises(ValueError, match="bad entry: sequence must be an integer"):
        layer.load_state_dict(layer.state_dict() | {"sequence": "x"})


@pytest.mark.parametrize("time_major", [False, True])
def test_padding_is_neither_drawn_nor_touched(time_major):
    lengths = [6, 0, 3, 1, 6]
    x = normal(5, 6, 7)
    padding = np.arange(6) >= np.array(lengths)[:, None]
    x[padding] = np.nan
    given_x = x.swapaxes(0, 1).copy() if time_major else x.copy()
    layer, full = (fd.TemporalDropout(0.3, time_major=time_major, rng=3) for _ in range(2))
    expected = full(given_x)
    for function in (lambda a: layer(a, lengths=lengths, out=a), lambda a: layer.backward(a, out=a)):
        a = given_x.copy()
        assert function(a) is a
        a, b = (v.swapaxes(0, 1) if time_major else v for v in (a, expected))
        assert np.isnan(a[padding]).all()
        assert np.array_equal(a[~padding], b[~padding])


@pytest.mark.parametrize(
    ("x", "lengths", "error", "message"),
    [
        (np.ones((2, 3, 4)), [1], ValueError, "lengths must have one entry for each of 2 samples, got 1"),
        (np.ones((2, 3, 4)), [1, 4], ValueError, r"lengths must be in \[0, 4\), got 4"),
        (np.ones((2, 3, 4)), [1, -1], ValueError, "lengths must be in"),
        (np.ones((2, 3, 4)), [1, 1.5], TypeError, "lengths must be an integer, got float"),
        (np.ones((2, 3)), [1, 1], ValueError, "lengths go with whole sequences of 3 axes"),
        (np.ones(3), None, ValueError, r"needs 3 axes, or 2 for a step, got shape \(3,\)"),
    ],
)
def test_temporal_refuses(x, lengths, error, message):
    layer = fd.TemporalDropout(0.3, rng=3)
    with pytest.raises(error, match=message):
        layer(x, lengths=lengths)
    assert layer.key == fd.Key(3)


@pytest.mark.parametrize(
    "axis", [np.int64(1), np.uint8(1), np.array(1), np.array([1])], ids=["int64", "uint8", "0-d", "1-D"]
)
@pytest.mark.parametrize("name", ["dropout", "gaussian_noise", "dropout_add"])
def test_an_axis_may_be_an_integer_of_numpy_by_itself(name, axis):
    """Compared with an empty tuple it gives an empty array, which NumPy 2.2 takes for no bool."""
    function, x = getattr(fd, name), np.ones((3, 4))
    arrays = (x, x) if name == "dropout_add" else (x,)
    y = function(*arrays, 0.5, KEY, shared_axes=axis)
    assert same_bits(y, function(*arrays, 0.5, KEY, shared_axes=1))
