"""What the bases give every layer: which forward a backward belongs to, what calls take, axes and windows."""

import copy
import inspect
import pickle
import re
import weakref

import numpy as np
import pytest
from arrays import same_bits
from every_layer import CASES, classes

import fastdrop as fd
from fastdrop._noises import _layer

every_layer = pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
OWN_EVALUATION = (fd.DropConnect, fd.StandoutDropout, fd.Zoneout)
KEEPS_INPUTS = (
    fd.ConcreteDropout,
    fd.InformationDropout,
    fd.VariationalDropout,
    fd.StandoutDropout,
    fd.DropConnect,
)


def bits(gradients):
    """Of one gradient or several."""
    return [g.tobytes() for g in (gradients if isinstance(gradients, tuple) else (gradients,))]


def gradient(y, seed=9):
    return np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)


def one_by_one(kind, count):
    """Outputs of a layer, and the gradients of a backward after each forward."""
    layer, found = CASES[kind].make(42), []
    for variant in range(count):
        y = layer(*CASES[kind].arguments(variant))
        found.append((y, bits(layer.backward(gradient(y)))))
    return found


@every_layer
def test_backward_is_that_of_the_latest_forward_without_one(kind):
    expected = one_by_one(kind, 3)
    assert expected[0][1] != expected[1][1] or kind is fd.GaussianNoise
    layer = CASES[kind].make(42)
    for variant, (y, _) in enumerate(expected):
        assert same_bits(layer(*CASES[kind].arguments(variant)), y)
        layer(*CASES[kind].arguments(7), training=False)  # leaves nothing behind
    layer.eval()(*CASES[kind].arguments(7))
    layer.train()
    copies = copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    for each in (layer, *copies):
        for y, wanted in reversed(expected):
            assert bits(each.backward(gradient(y))) == wanted
        with pytest.raises(RuntimeError, match="needs a training forward that no backward has gone through"):
            each.backward(gradient(y))


@every_layer
def test_a_backward_that_fails_leaves_its_forward(kind):
    ((y, wanted),) = one_by_one(kind, 1)
    layer = CASES[kind].make(42)
    layer(*CASES[kind].arguments(0))
    g = gradient(y)
    with pytest.raises(ValueError, match="g must have the last forward's shape"):
        layer.backward(g[:1])
    with pytest.raises(TypeError):
        layer.backward(g.astype(int), out=np.empty(g.shape, int))
    with pytest.raises((TypeError, ValueError), match="out must"):
        layer.backward(g, out=g[:1])
    assert bits(layer.backward(g)) == wanted


@every_layer
def test_in_evaluation_mode_backward_passes_the_gradient(kind):
    layer, g = CASES[kind].make(42).eval(), np.ones((8, 9), np.float32)
    if kind not in OWN_EVALUATION:
        assert layer.backward(g) is g  # with no forward at all
    layer.train()
    y = layer(*CASES[kind].arguments(0))
    layer.eval()(*CASES[kind].arguments(1))
    layer.backward(gradient(y))
    wanted = one_by_one(kind, 1)[0][1]
    assert bits(layer.train().backward(gradient(y))) == wanted


@every_layer
def test_forwards_without_backward_are_bounded(kind, monkeypatch):
    monkeypatch.setattr(_layer, "MOST_FORWARDS", 4)
    expected = one_by_one(kind, 7)
    layer = CASES[kind].make(42)
    inputs = []
    for variant in range(7):
        arguments = CASES[kind].arguments(variant)
        inputs.append(weakref.ref(arguments[-1]))
        layer(*arguments)
        del arguments
    assert sum(x() is not None for x in inputs) == (4 if kind in KEEPS_INPUTS else 0)
    for y, wanted in expected[:2:-1]:
        assert bits(layer.backward(gradient(y))) == wanted
    with pytest.raises(RuntimeError, match="none is left"):
        layer.backward(gradient(y))
    assert not any(x() is not None for x in inputs)


@pytest.mark.parametrize("kind", [*KEEPS_INPUTS, fd.AdaptiveDropout], ids=lambda kind: kind.__name__)
def test_arrays_that_wait_are_bounded_in_memory_but_for_the_latest(kind, monkeypatch):
    layer = CASES[kind].make(42)
    y = layer(*CASES[kind].arguments(0))
    each = layer._forwards[-1].nbytes()
    assert each >= {fd.AdaptiveDropout: 9 * 8}.get(kind, CASES[kind].arguments(0)[-1].nbytes)
    monkeypatch.setattr(_layer, "MOST_BYTES", 3 * each)
    for variant in range(6):
        layer(*CASES[kind].arguments(variant))
    assert len(layer._forwards) == 3
    for _ in range(3):
        layer.backward(gradient(y))
    monkeypatch.setattr(_layer, "MOST_BYTES", 1)
    for variant in range(3):
        layer(*CASES[kind].arguments(variant))
        assert len(layer._forwards) == 1  # the backward of one forward always goes
    layer.load_state_dict(layer.state_dict())
    assert (list(layer._forwards), layer._bytes) == ([], 0)


def test_the_default_bounds():
    layer, x = fd.Dropout(0.5, rng=1), np.ones(3)
    for _ in range(1030):
        layer(x)
    assert len(layer._forwards) == 1024
    for draw in range(1029, 5, -1):
        assert same_bits(layer.backward(x), fd.dropout(x, 0.5, fd.Key(1, draw)))
    with pytest.raises(RuntimeError):
        layer.backward(x)


def test_lengths_belong_to_their_forward():
    layer, x = fd.TemporalDropout(1.0, rng=1), np.ones((2, 3, 4))
    layer(x, lengths=[1, 2])
    layer(x)
    assert not layer.backward(x).any()
    assert layer.backward(x).sum(-1).tolist() == [[0, 4, 4], [0, 0, 4]]


def test_pickles_name_no_private_module():
    for kind in classes():
        layer = CASES[kind].make(42)
        layer(*CASES[kind].arguments(0))
        layer.eval()(*CASES[kind].arguments(0))
        assert b"fastdrop._" not in pickle.dumps(layer)


NO_MODES = [fd.Key(9), 0.1, "no", 1, 0, np.ones(3), np.float64(1), [], {}]


@every_layer
@pytest.mark.parametrize("bad", NO_MODES, ids=lambda bad: type(bad).__name__)
def test_what_is_no_mode_is_refused(kind, bad):
    layer, arguments = CASES[kind].make(42), CASES[kind].arguments(0)
    before = layer.state_dict()
    for training in (True, False):
        layer.train(training)
        message = r"training must be True, False or None, got .*; a layer has its own .* fastdrop\.\w+\("
        with pytest.raises(TypeError, match=message):
            layer(*arguments, bad)
        with pytest.raises(TypeError, match=r"mode must be True or False, got .*; use train\(\) or eval\(\)"):
            layer.train(bad)
        assert layer.training is training
    layer.training = bad
    with pytest.raises(TypeError, match="training must be"):
        layer(*arguments)
    with pytest.raises(TypeError, match="training must be"):
        layer.backward(arguments[0])
    assert layer.state_dict() == before


def test_the_errors_say_what_was_given_and_what_to_write():
    layer, x = fd.Dropout(0.5, rng=1), np.ones(3)
    with pytest.raises(TypeError) as error:
        layer(x, fd.Key(9))
    assert str(error.value) == (
        "training must be True, False or None, got Key(9); a layer has its own p and key, "
        "fastdrop.dropout(x, p, key) takes others"
    )
    with pytest.raises(
        TypeError, match=r"got array\(\[1., 1., 1.\]\); .*masks = layer\(\); masks\.input\(x\)"
    ):
        fd.RecurrentDropout()(x)
    with pytest.raises(TypeError, match="mode must be True or False, got None"):
        layer.train(None)


@every_layer
def test_numpy_bools_are_modes(kind):
    layer, arguments = CASES[kind].make(42), CASES[kind].arguments(0)
    layer(*arguments, np.True_)
    assert layer.key == fd.Key(42, 1)
    layer(*arguments, np.False_)
    assert layer.train(np.False_).training is False
    layer.training = np.True_
    layer(*arguments)
    assert layer.key == fd.Key(42, 2)


@pytest.mark.parametrize("kind", [*classes(), fd.RecurrentDropout], ids=lambda kind: kind.__name__)
def test_errors_name_functions_that_exist(kind):
    for call in (kind._function, getattr(kind, "_gradient", "dropout_backward(g, p, key)")):
        name = re.match(r"\w+", call)[0]
        taken = re.findall(r"\w+", call.partition("(")[2])
        assert name in fd.__all__
        parameters = list(inspect.signature(getattr(fd, name)).parameters)
        positional = [p for p in taken if p in parameters]
        assert len(positional) >= 2 or "alpha" in call or "rates" in call
        assert positional == [p for p in parameters if p in positional]  # in this order


def test_a_call_is_the_forward_of_a_class_of_the_users():
    class Twice(fd.Dropout):
        def forward(self, x, training=None, *, out=None, window=None):
            return 2 * super().forward(x, training, out=out, window=window)

    assert same_bits(Twice(0.5, rng=1)(np.ones(9)), 2 * fd.dropout(np.ones(9), 0.5, fd.Key(1)))


@every_layer
def test_a_call_is_forward(kind):
    assert kind.__call__ is kind.forward


# --- Shared axes and windows

WITH_AXES = [kind for kind in classes() if "shared_axes" in inspect.signature(kind).parameters]
WITH_WINDOW = [kind for kind in classes() if "window" in inspect.signature(kind.forward).parameters]
NAMES = {"ids": lambda kind: kind.__name__}


def test_which_layers_have_them():
    plain = {fd.Dropout, fd.InvertedDropout, fd.CurriculumDropout, fd.GaussianDropout, fd.GaussianNoise}
    plain |= {fd.AlphaDropout, fd.ConcreteDropout, fd.InformationDropout, fd.VariationalDropout, fd.Zoneout}
    maps = {fd.SpatialDropout1D, fd.SpatialDropout2D, fd.SpatialDropout3D, fd.FeatureAlphaDropout}
    assert set(WITH_AXES) == plain
    assert set(WITH_WINDOW) == plain | maps | {fd.DropPath, fd.StandoutDropout, fd.DropConnect}


def with_axes(kind, shared_axes):
    """The case's layer, with shared axes: what its `repr` shows and these."""
    rest = repr(CASES[kind].make(42)).removesuffix("rng=Key(42))")
    layer = eval(f"{rest}shared_axes={shared_axes!r}, rng=Key(42))", vars(fd))
    for _ in range(kind is fd.CurriculumDropout):
        layer.step()
    return layer


@pytest.mark.parametrize("kind", WITH_AXES, **NAMES)
def test_elements_along_shared_axes_share_their_noise(kind):
    ones = [np.full((6, 1, 5, 3), value) for value in (1.0, 0.0)][: len(CASES[kind].shapes)]
    repeated = [np.repeat(a, 4, axis=1) for a in ones]
    layer, plain = with_axes(kind, (1, -1)), with_axes(kind, ())
    y, g = layer(*repeated), np.ones((6, 4, 5, 3))
    assert (y == y[:, :1, :, :1]).all()
    assert not (y == y[:1]).all()
    # sums of noise may be rounded once or twice
    np.testing.assert_allclose(y[:, 0, :, 0], plain(*(a[..., :1] for a in ones))[:, 0, :, 0], rtol=1e-15)
    dx = layer.backward(g)
    for found, one in zip(bits(dx), bits(plain.backward(g[:, :1, :, :1])), strict=True):
        found = np.frombuffer(found).reshape(g.shape)
        assert (found[:, :1, :, :1] == found).all()
        assert found[:, 0, :, 0].tobytes() == one


@pytest.mark.parametrize("kind", WITH_AXES, **NAMES)
def test_shared_axes_are_shown_where_set_and_no_state(kind):
    plain, layer = with_axes(kind, ()), with_axes(kind, [0, 2])
    assert "shared_axes" not in repr(plain)
    assert "shared_axes=(0, 2), rng=" in repr(layer)
    assert eval(repr(layer), vars(fd)).shared_axes == layer.shared_axes == (0, 2)
    assert layer.state_dict() == plain.state_dict()
    assert with_axes(kind, 1).shared_axes == (1,)
    for bad in ("x", 1.5, [None]):
        with pytest.raises(TypeError, match="shared_axes must be an int or a tuple of ints, got"):
            with_axes(kind, bad)
    with pytest.raises(ValueError, match="shared_axes"):
        with_axes(kind, 9)(*CASES[kind].arguments(0))


@pytest.mark.parametrize("kind", WITH_WINDOW, **NAMES)
def test_a_window_is_of_a_call_and_its_backward(kind):
    whole, parts, arguments = CASES[kind].make(42), CASES[kind].make(42), CASES[kind].arguments(0)
    y, (rows, *others) = whole(*arguments), arguments[0].shape
    g = gradient(y)
    origins = [0, 2, rows - 3]
    full, origin = [rows, *others], [0] * len(arguments[0].shape)
    for first in origins:
        parts.key, origin[0] = fd.Key(42), first
        block = [a[first : first + 3] for a in arguments]
        assert same_bits(parts(*block, window=(full, origin)), y[first : first + 3])
    origin[0], full[0] = 1, 1  # the layer has its own copies
    dx = whole.backward(g)
    for first in reversed(origins):
        found = parts.backward(g[first : first + 3])
        pairs = zip(*((a if isinstance(a, tuple) else (a,)) for a in (found, dx)), strict=True)
        assert all(same_bits(part, of_whole[first : first + 3]) for part, of_whole in pairs)
    key = parts.key
    for bad in ("x", (1, 2), ((rows, *others), (rows, *origin[1:])), 5):
        with pytest.raises((TypeError, ValueError), match="window"):
            parts(*block, window=bad)
    assert parts.key == key
    assert same_bits(parts(*block, False, window="x"), CASES[kind].make(1)(*block, False))  # of no use there


@pytest.mark.parametrize("kind", [fd.Dropout, fd.ConcreteDropout, fd.VariationalDropout])
@pytest.mark.parametrize("draw", [2**63 - 1, 2**64 - 1])
def test_a_key_without_a_next_draw_is_refused_before_anything_is_written(kind, draw):
    layer, out = kind(0.5, rng=fd.Key(1, draw)), np.zeros(5)
    with pytest.raises(ValueError, match="draw must be in"):
        layer(np.ones(5), out=out)
    assert not out.any()
    assert layer.key == fd.Key(1, draw)
