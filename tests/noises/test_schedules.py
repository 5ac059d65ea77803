"""Schedules: their formulas, and layers whose rate follows them, saved and resumed."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
from every_layer import CASES

import fastdrop as fd
from fastdrop import schedules

X = np.ones((6, 5, 4, 4))
ALL = [
    schedules.Constant(0.3),
    schedules.Linear(0.5, steps=4),
    schedules.Cosine(0.5, steps=4, start=0.1),
    schedules.Curriculum(0.5, gamma=0.3),
    schedules.Annealed(0.5, gamma=0.3),
    schedules.Early(0.5, steps=3),
    schedules.Early(0.5, steps=3, linear=True),
    schedules.Late(0.5, steps=3),
    schedules.Step(0.5, boundaries=(2, 5), rates=(0.2, 0.1)),
]
LAYERS = [
    lambda p: fd.Dropout(p, rng=1),
    lambda p: fd.SpatialDropout2D(p, rng=1),
    lambda p: fd.AlphaDropout(p, rng=1),
    lambda p: fd.FeatureAlphaDropout(p, rng=1),
    lambda p: fd.GaussianDropout(p, rng=1),
    lambda p: fd.GaussianNoise(p, rng=1),
    lambda p: fd.DropPath(p, rng=1),
    lambda p: fd.DropBlock2D(p, block_size=2, rng=1),
]


def own(step):
    return min(0.9, 0.1 * step)


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (schedules.Constant(0.3), lambda t: 0.3),
        (schedules.Linear(0.5, steps=10), lambda t: min(0.5 * t / 10, 0.5)),
        (schedules.Linear(0.5, steps=0), lambda t: 0.5),
        (schedules.Cosine(0.5, 10, 0.1), lambda t: 0.3 - 0.2 * np.cos(np.pi * min(t, 10) / 10)),
        (schedules.Cosine(0.5, 0), lambda t: 0.5),
        (schedules.Curriculum(0.5, 0.01), lambda t: 0.5 * (1 - np.exp(-0.01 * t))),
        (schedules.Annealed(0.5, 0.01), lambda t: 0.5 * np.exp(-0.01 * t)),
        (schedules.Early(0.5, 10), lambda t: 0.5 if t < 10 else 0),
        (schedules.Early(0.5, 10, linear=True), lambda t: max(0.5 * (1 - t / 10), 0)),
        (schedules.Late(0.5, 10), lambda t: 0 if t < 10 else 0.5),
        (schedules.Step(0.5, (3, 9), (0.2, 0.1)), lambda t: 0.5 if t < 3 else 0.2 if t < 9 else 0.1),
    ],
    ids=lambda value: repr(value) if isinstance(value, schedules.Schedule) else "formula",
)
def test_formulas(schedule, formula):
    for t in (0, 1, 2, 3, 8, 9, 10, 11, 10**6):
        assert schedule(t) == pytest.approx(formula(t), abs=1e-15)
        assert 0 <= schedule(t) <= 1


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize(
    "schedule", [*ALL, own], ids=lambda value: getattr(value, "__name__", None) or repr(value)
)
def test_layers_follow_it(make, schedule):
    layer = make(schedule)
    for step in range(7):
        assert layer.schedule is schedule
        assert layer._value == schedule(step)
        plain = make(schedule(step))
        plain.key = layer.key
        y = layer(X)
        assert y.tobytes() == plain(X).tobytes()
        layer.step()
        assert layer.backward(X).tobytes() == plain.backward(X).tobytes()  # at the rate of the forward
    assert make(0.3).schedule is None


def test_a_layer_without_one_stays_as_it_is():
    layer = fd.Dropout(0.3, rng=1)
    before = layer.state_dict()
    layer.step()
    assert layer.state_dict() == before


@pytest.mark.parametrize(
    "schedule", [*ALL, own], ids=lambda value: getattr(value, "__name__", None) or repr(value)
)
def test_saved_and_loaded_it_continues_bit_for_bit(schedule):
    layer = fd.Dropout(schedule, rng=1)
    for _ in range(3):
        layer(X)
        layer.step()
    state = json.loads(json.dumps(layer.state_dict()))
    loaded = fd.Dropout(own if schedule is own else 0.9, rng=7)
    loaded.load_state_dict(state)
    for other in (loaded, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other.schedule == schedule
        theirs, ours = copy.deepcopy(other), copy.deepcopy(layer)
        for _ in range(4):
            assert theirs.p == ours.p
            assert theirs(X).tobytes() == ours(X).tobytes()
            theirs.step()
            ours.step()


def unstepped_warnings(layer, forwards):
    """How many warnings so many training forwards give, and where they point to."""
    x = np.ones((2, 4, 4, 4))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(forwards):
            layer(x)
            layer(x, training=False)
    assert {each.filename for each in found} <= {__file__}
    assert all("was never stepped in 100 training forwards" in str(each.message) for each in found)
    return len(found)


@pytest.mark.parametrize("kind", [k for k in CASES if k._takes_schedules and len(CASES[k].shapes) == 1])
def test_a_schedule_that_is_never_stepped_is_warned_of_once(kind):
    if kind is fd.CurriculumDropout:
        layer = kind(0.5, gamma=0.1, rng=1)
    else:
        layer = CASES[kind].make(1)
        layer._assign(schedules.Linear(0.5, steps=10))
    x = CASES[kind].arguments()
    for _ in range(99):
        layer(*x)
    name = (
        rf"{kind.__name__} was never stepped .* so that still {kind._parameter} = 0.0; call layer\.step\(\)"
    )
    with pytest.warns(UserWarning, match=name) as found:
        layer(*x)
    assert [each.filename for each in found] == [__file__]
    for _ in range(201):
        layer(*x)


def test_zones_that_are_never_stepped_are_warned_of():
    zone, x = fd.Zoneout(schedules.Late(0.5, 3), rng=1), np.ones(3)
    for _ in range(99):
        zone(x, x)
    with pytest.warns(UserWarning, match="schedule of Zoneout was never stepped"):
        zone(x, x)


def test_no_warning_of_what_is_stepped_constant_or_evaluated():
    rising = schedules.Linear(0.5, steps=10)
    stepped, loaded = fd.Dropout(rising, rng=1), fd.Dropout(rng=1)
    stepped.step()
    loaded.load_state_dict(stepped.state_dict())
    for layer in (stepped, loaded, fd.Dropout(schedules.Constant(0.3)), fd.Dropout(0.3)):
        assert unstepped_warnings(layer, 300) == 0
    layer = fd.Dropout(rising, rng=1)
    assert unstepped_warnings(layer, 99) == 0
    assert unstepped_warnings(copy.deepcopy(layer), 50) == unstepped_warnings(layer, 500) == 1
    layer.p = schedules.Late(0.5, 3)  # another one
    assert unstepped_warnings(layer, 100) == 1


def test_where_a_schedule_rules_a_number_is_refused_and_constant_ends_it():
    layer = fd.Dropout(schedules.Linear(0.5, steps=4), rng=1)
    layer.step()
    before = layer.state_dict()
    message = r"p follows Linear\(p=0.5, steps=4\), got 0.3; .* fastdrop\.schedules\.Constant\(0.3\)"
    with pytest.raises(ValueError, match=message):
        layer.p = 0.3
    assert layer.state_dict() == before
    layer.p = schedules.Constant(0.3)
    layer.step()
    assert layer.p == 0.3
    noise = fd.GaussianNoise(own, rng=1)
    with pytest.raises(ValueError, match="std follows <function own"):
        noise.std = 0.1
    drop = fd.CurriculumDropout(0.5, gamma=1.0)
    with pytest.raises(ValueError, match="p follows Curriculum"):
        drop.p = 0.3
    free = fd.Dropout(0.1)
    free.p = 0.3
    assert free.schedule is None


def test_states():
    layer = fd.Dropout(schedules.Step(0.5, [2], [0.1]), rng=1)
    assert layer.state_dict()["p"] == {
        "schedule": "Step",
        "p": 0.5,
        "boundaries": [2],
        "rates": [0.1],
        "step": 0,
    }
    layer = fd.Dropout(own, rng=1)
    layer.step()
    assert layer.state_dict()["p"] == {"schedule": "own", "step": 1}
    plain = fd.Dropout(0.2, rng=3)
    layer.load_state_dict(plain.state_dict())
    assert (layer.schedule, layer.p) == (None, 0.2)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"schedule": "own", "step": 1}, "schedule 'own' of its own; build the layer with it"),
        ({"schedule": "Linear", "p": 0.5, "steps": 3}, "step must be an integer, got NoneType"),
        ({"schedule": "Linear", "p": 0.5, "steps": 3, "step": -1}, "step must be in .*, got -1"),
        ({"schedule": "Linear", "p": 1.5, "steps": 3, "step": 1}, r"p must be in \[0, 1\], got 1.5"),
        ({"schedule": "Linear", "p": 0.5, "pace": 3, "step": 1}, "unexpected keyword argument 'pace'"),
        (
            {"schedule": "Linear", "p": 0.5, "steps": 3, "step": True},
            "step must be an integer, got bool True",
        ),
        ({"schedule": ["Linear"], "step": 1}, r"schedule \['Linear'\] of its own"),
        ({"step": 1}, "schedule None"),
        ([0.5], "p must be a real number"),
    ],
)
def test_a_bad_state_leaves_the_layer_as_it_was(entry, message):
    layer = fd.Dropout(schedules.Late(0.5, 1), rng=1)
    layer.step()
    before = layer.state_dict()
    with pytest.raises(ValueError, match=message):
        layer.load_state_dict(before | {"p": entry, "draw": 5})
    assert layer.state_dict() == before


def test_a_schedule_that_leaves_the_range():
    layer = fd.Dropout(lambda step: 0.6 * step, rng=1)
    layer.step()
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.2"):
        layer.step()
    assert layer.p == 0.6
    with pytest.raises(TypeError, match="p must be a real number"):
        fd.Dropout(lambda step: "a lot")
    with pytest.raises(ValueError, match="below 1 for Gaussian dropout"):
        fd.GaussianDropout(schedules.Constant(1.0))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.Constant(1.2), ValueError, r"p must be in \[0, 1\], got 1.2"),
        (lambda: schedules.Linear(0.5, steps=-1), ValueError, "steps must be in .*, got -1"),
        (lambda: schedules.Linear(0.5, steps=1.5), TypeError, "steps must be an integer, got float"),
        (lambda: schedules.Cosine(0.5, 3, start=-1), ValueError, r"start must be in \[0, 1\], got -1"),
        (lambda: schedules.Cosine(0.5, 3.0), TypeError, "steps must be an integer"),
        (lambda: schedules.Early(0.5, -3), ValueError, "steps must be in"),
        (lambda: schedules.Late(0.5, -3), ValueError, "steps must be in"),
        (lambda: schedules.Curriculum(0.5, -1.0), ValueError, "gamma must be finite and >= 0, got -1.0"),
        (lambda: schedules.Annealed(0.5, np.inf), ValueError, "gamma must be finite and >= 0, got inf"),
        (lambda: schedules.Annealed(0.5, "fast"), TypeError, "gamma must be a real number, got str"),
        (lambda: schedules.Step(0.5, (3, 2), (0.1, 0.2)), ValueError, "boundaries must rise"),
        (lambda: schedules.Step(0.5, (3,), (0.1, 0.2)), ValueError, "as many as rates"),
        (lambda: schedules.Step(0.5, (3,), (1.1,)), ValueError, r"rates must be in \[0, 1\], got 1.1"),
    ],
)
def test_bad_parameters(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_one_scheduler_for_many_layers():
    layers = [make(schedules.Linear(0.5, steps=4)) for make in LAYERS]
    scheduler = fd.Scheduler([*layers, layers[0], fd.Dropout(0.3)])
    for step in range(1, 6):
        scheduler.step()
        assert {layer._value for layer in layers} == {min(0.125 * step, 0.5)}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (fd.Dropout(rng=1), r"layers must be a list of layers, got Dropout; use \[layer\]"),
        ([fd.Dropout(rng=1), 3], r"layers must be layers of fastdrop, got int, which has no step\(\)"),
    ],
)
def test_what_a_scheduler_cannot_advance(layers, message):
    with pytest.raises(TypeError, match=message):
        fd.Scheduler(layers)


LINEAR = schedules.Linear(0.5, steps=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fd.InvertedDropout(LINEAR),
            r"keep_prob .*; use fastdrop\.Dropout\(schedule\), of rates to drop",
        ),
        (lambda: fd.CurriculumDropout(LINEAR, gamma=1), r"p .*; use fastdrop\.Dropout\(schedule\)"),
        (lambda: fd.ConcreteDropout(LINEAR), r"p .*; use schedule\(step\)"),
        (lambda: fd.RecurrentDropout(0.5, LINEAR), r"p_recurrent .*; use schedule\(step\)"),
        (lambda: fd.StandoutDropout(LINEAR), r"alpha .*; use schedule\(step\)"),
    ],
)
def test_layers_that_follow_none(make, message):
    with pytest.raises(TypeError, match=message.replace(".*", r"must not be a schedule, got Linear\(.*\)")):
        make()


def test_the_class_of_a_schedule_is_none():
    with pytest.raises(TypeError, match=r"schedule, got the class Linear; use an instance of it$"):
        fd.Dropout(schedules.Linear)


def test_curriculum_dropout():
    layer = fd.CurriculumDropout(0.5, gamma=0.2, rng=42)
    for epoch in range(5):
        assert layer.p == pytest.approx(0.5 * (1 - np.exp(-0.2 * epoch)))
        assert layer(X).tobytes() == fd.dropout(X, layer.p, fd.Key(42, epoch)).tobytes()
        layer.on_epoch_end()
    assert repr(layer) == "CurriculumDropout(p=0.5, gamma=0.2, rng=Key(42, draw=5))"
    loaded = fd.CurriculumDropout(gamma=1.0)
    loaded.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    assert (loaded.p, repr(loaded)) == (layer.p, repr(layer))
    layer.load_state_dict(layer.state_dict() | {"p": 0.25})
    assert repr(layer) == "CurriculumDropout(p=0.25, rng=Key(42, draw=5))"


def test_repr_makes_an_equal_layer():
    layer = fd.Dropout(schedules.Curriculum(0.5, gamma=0.1), rng=3)
    assert repr(layer) == "Dropout(p=Curriculum(p=0.5, gamma=0.1), rng=Key(3))"
    again = eval(repr(layer), vars(fd) | vars(schedules))
    assert again.state_dict() == layer.state_dict()
