"""Hostile arguments to everything public: documented exceptions only, and no write outside `out`."""

import inspect

import numpy as np
import pytest
from every_layer import CASES, classes
from hostile import LENGTHS, STRANGE, Tries, arguments, arrays, fuzz, hostile
from hypothesis import given
from hypothesis import strategies as st

import fastdrop as fd

pytestmark = [pytest.mark.hypothesis, pytest.mark.filterwarnings("ignore")]

FUNCTIONS = [getattr(fd, name) for name in fd.__all__ if inspect.isfunction(getattr(fd, name))]
FUNCTIONS += [f for f in vars(fd.moments).values() if getattr(f, "__module__", "") == fd.moments.__name__]
FUNCTIONS = [f for f in FUNCTIONS if inspect.isfunction(f)]
# these call a function of the user's as often as he asks, and raise what it raises
GUESTS = {fd.mc_predict, fd.predictive_log_likelihood}
GUESTS |= {fd.get_num_threads, fd.set_num_threads, fd.warmup}  # these are of no array
FUNCTIONS = [f for f in FUNCTIONS if f.__name__[0] != "_" and f not in GUESTS]
SCHEDULES = [fd.schedules.Linear, fd.schedules.Cosine, fd.schedules.Curriculum, fd.schedules.Step]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_functions(function):
    tries = Tries(function)

    @fuzz(25)
    @given(data=st.data())
    def one(data):
        given_arguments, zone = arguments(function, data.draw)
        accepted = tries.attempt(function, **given_arguments)
        if zone is not None:
            assert zone.untouched()
            assert zone.distinct or not accepted or zone.out.size < 2 or not _overlaps(zone.out)

    one()
    tries.check()


def _overlaps(out):
    places = {sum(i * s for i, s in zip(at, out.strides, strict=True)) for at in np.ndindex(out.shape)}
    return len(places) < out.size


@pytest.mark.parametrize(
    "function", [*FUNCTIONS, *classes(), fd.Key, *SCHEDULES], ids=lambda f: f.__qualname__
)
def test_each_argument_alone(function):
    """Everything hostile in turn, beside arguments that fit."""
    tries = Tries(function)

    @fuzz(2)
    @given(data=st.data())
    def one(data):
        found = {name: v for name, v in arguments(function, data.draw, 0)[0].items() if name != "out"}
        for name in inspect.signature(function).parameters:
            for bad in hostile(name):
                tries.attempt(function, **(found | {name: bad}))

    one()
    tries.check(0)


@pytest.mark.parametrize("kind", [*classes(), fd.Key, *SCHEDULES], ids=lambda kind: kind.__name__)
def test_constructors(kind):
    tries = Tries(kind)

    @fuzz(25)
    @given(data=st.data())
    def one(data):
        tries.attempt(kind, **arguments(kind, data.draw)[0])

    one()
    tries.check()


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_forwards_and_backwards(kind):
    """And whatever was refused has changed nothing."""
    forwards, backwards, shapes = Tries(kind.forward), Tries(kind.backward), CASES[kind].shapes
    shape = np.shape(CASES[kind].make(0)(*CASES[kind].arguments()))
    outputs = st.one_of(st.none(), arrays(shape, np.float32), st.sampled_from(STRANGE))
    gradients = st.one_of(arrays(shape, np.float32), arrays(shape), arrays(), st.sampled_from(STRANGE))

    @fuzz(60, quick=60)  # of products few have a backward
    @given(data=st.data())
    def one(data):
        layer, draw = CASES[kind].make(1), data.draw
        fits = [st.builds(np.full, st.just(each), st.floats(-2, 2, width=32)) for each in shapes]
        others = [(arrays(each), arrays(each, np.float32), arrays()) for each in shapes]
        kinds = [(fit, fit, fit, *other) for fit, other in zip(fits, others, strict=True)]
        inputs = [draw(st.one_of(*each, st.sampled_from(STRANGE))) for each in kinds]
        before = layer.state_dict()
        training = draw(st.sampled_from([None, True, False]))
        layer.train(training is not False)  # so that there is a backward
        if forwards.attempt(layer.forward, *inputs, training, out=draw(outputs)):
            backwards.attempt(layer.backward, draw(gradients), out=draw(outputs))
            return
        assert layer.state_dict() == before
        with pytest.raises(RuntimeError):
            layer.train().backward(np.ones(3))

    one()
    forwards.check()
    backwards.check()


def test_numbers_of_threads():
    tries, before = Tries(fd.set_num_threads), fd.get_num_threads()

    @fuzz(25)
    @given(count=st.sampled_from([*LENGTHS[:5], *LENGTHS[6:]]))
    def one(count):
        tries.attempt(fd.set_num_threads, count)

    try:
        one()
    finally:
        fd.set_num_threads(before)
    tries.check()


def test_a_fuzzer_fails_that_tries_nothing_or_one_side_only():
    for calls in ([], [lambda: 1], [lambda: fd.Key("1")]):
        tries = Tries(fd.Key)
        for call in calls:
            tries.attempt(call)
        with pytest.raises(AssertionError):
            tries.check()


def refusal(message):
    raise ValueError(message)


@pytest.mark.parametrize("message", ["shapes (3,) (4,)", "p must be in [0, 1]", "got 1.5", "must got " * 200])
def test_a_fuzzer_fails_where_a_message_lacks_what_is_allowed_or_what_was_got(message):
    with pytest.raises(AssertionError):
        Tries(refusal).attempt(refusal, message)
    assert not Tries(refusal).attempt(refusal, "p must be in [0, 1], got 1.5")
