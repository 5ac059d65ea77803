"""Layers by any sequence of calls against a model: plain data and a list of the forwards that wait.

The model never holds a layer. Each result of the layer is compared with that of a new one, which is given
the model's state first and so has no history. `FUNCTIONS` says for some layers what a forward is without any
layer.
"""

import copy
import json
import os
import pickle
from typing import NamedTuple

import numpy as np
import pytest
from arrays import examples, same_bits
from every_layer import CASES, classes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import fastdrop as fd
from fastdrop._noises._layer import LearnedLayer

FUNCTIONS = {
    fd.AlphaDropout: lambda x, state, key: fd.alpha_dropout(x, state["p"], key),
    fd.Dropout: lambda x, state, key: fd.dropout(x, state["p"], key),
    fd.DropPath: lambda x, state, key: fd.drop_path(x, state["p"], key),
    fd.GaussianDropout: lambda x, state, key: fd.gaussian_dropout(x, state["p"], key),
    fd.GaussianNoise: lambda x, state, key: fd.gaussian_noise(x, state["std"], key),
    fd.InvertedDropout: lambda x, state, key: fd.dropout(x, state["p"], key),
    fd.SpatialDropout2D: lambda x, state, key: fd.dropout(x, state["p"], key, shared_axes=(2, 3)),
}
# Layers whose gradient in evaluation depends on the forward's input, and one whose gradient does not. The
# others return what they get.
REMEMBER, MEAN = {fd.DropConnect, fd.StandoutDropout}, {fd.Zoneout}
FIXED = {fd.CurriculumDropout, fd.StandoutDropout}  # whose number nobody sets
SCHEDULE = fd.schedules.Linear(0.4, steps=3)


class Waiting(NamedTuple):
    """A forward that waits for its backward: the state before it, its arguments, and its output's shape."""

    state: dict
    arguments: tuple
    shape: tuple


def tuples(found):
    return found if isinstance(found, tuple) else (found,)


def all_same(found, expected):
    pairs = zip(tuples(found), tuples(expected), strict=True)
    return all(same_bits(np.asarray(a), np.asarray(b)) for a, b in pairs)


class Machine(RuleBasedStateMachine):
    """Of the layer class `kind`."""

    kind: type
    states = Bundle("states")

    @initialize(seed=st.integers(0, 5))
    def build(self, seed):
        self.layer = CASES[self.kind].make(seed)
        self.training = True
        self.waiting = []
        self.evaluated, self.older = None, 0
        self.state = self.layer.state_dict()
        self.learns = isinstance(self.layer, LearnedLayer)
        self.grad = np.zeros_like(self.layer._grad) if self.learns else None
        self.left_behind, self.forks = [], 0

    def new(self, state, training=True):
        """Return a layer without a history."""
        layer = CASES[self.kind].make(99)
        if isinstance(state[self.kind._parameter], dict):
            setattr(layer, self.kind._parameter, SCHEDULE)
        layer.load_state_dict(state)
        return layer.train(training)

    def trains(self, training):
        return self.training if training is None else training

    @rule(variant=st.integers(0, 3), training=st.sampled_from([None, None, None, True, False]))
    def forward(self, variant, training):
        arguments = CASES[self.kind].arguments(variant)
        y = self.layer(*arguments, training)
        if self.trains(training):
            self.train_on(arguments, y)
            return
        if not self.training:
            self.evaluated = Waiting(self.state, arguments, np.shape(y)) if self.kind in REMEMBER else None
            self.older = len(self.waiting)  # which no backward in evaluation belongs to
        if self.kind not in REMEMBER | MEAN:
            assert y is arguments[0]
            return
        assert all_same(y, self.new(self.state, False)(*arguments))

    def train_on(self, arguments, y):
        new = self.new(self.state)
        assert all_same(y, new(*arguments))
        self.waiting.append(Waiting(self.state, arguments, np.shape(y)))
        seed, draw = self.state["seed"], self.state["draw"]
        if self.kind in FUNCTIONS:
            state = self.state | {self.kind._parameter: getattr(new, self.kind._parameter)}
            assert all_same(y, FUNCTIONS[self.kind](*arguments, state, fd.Key(seed, draw)))
        if CASES[self.kind].follows_inputs:
            self.state = new.state_dict()
            assert (self.state["seed"], self.state["draw"]) == (seed, draw + 1)
        else:
            self.state = self.state | {"draw": draw + 1}

    @rule(seed=st.integers(0, 3))
    def backward(self, seed):
        waiting, trained = self.evaluated, self.training or len(self.waiting) > self.older
        if trained:
            waiting = self.waiting[-1] if self.waiting else None
        elif self.kind in MEAN:
            g = np.random.default_rng(seed).standard_normal(3)
            assert all_same(self.layer.backward(g), self.new(self.state, False).backward(g))
            return
        elif self.kind not in REMEMBER:
            g = np.ones(3)
            assert self.layer.backward(g) is g
            return
        if waiting is None:
            with pytest.raises(RuntimeError, match=r"backward"):
                self.layer.backward(np.ones(3))
            return
        with pytest.raises(ValueError, match="shape"):
            self.layer.backward(np.ones((3, 1, 4, 1, 5, 9), np.float32))  # and it goes on waiting
        g = np.random.default_rng(seed).standard_normal(waiting.shape).astype(np.float32)
        new = self.new(waiting.state, trained)
        new(*waiting.arguments)
        assert all_same(self.layer.backward(g), new.backward(g))
        if self.learns:
            self.grad = self.grad + new._grad
        if trained:
            self.waiting.pop()
            self.older = min(self.older, len(self.waiting))
        else:
            self.evaluated = None

    @rule(mode=st.booleans())
    def train(self, mode):
        assert (self.layer.train() if mode else self.layer.eval()) is self.layer
        self.training = mode

    @rule()
    def step(self):
        self.layer.step()
        number = self.state[self.kind._parameter]
        if isinstance(number, dict):
            self.state = self.state | {self.kind._parameter: number | {"step": number["step"] + 1}}

    @precondition(lambda self: self.kind not in FIXED)
    @rule(value=st.sampled_from([0.0, 0.25, 0.5, 0.75, SCHEDULE]))
    def set_number(self, value):
        name = self.kind._parameter
        if value is SCHEDULE and not self.kind._takes_schedules:
            with pytest.raises(TypeError, match=r"schedule|real"):
                setattr(self.layer, name, value)
            return
        if isinstance(self.state[name], dict) and value is not SCHEDULE:
            with pytest.raises(ValueError, match="follows"):
                setattr(self.layer, name, value)
            return
        given = np.full_like(self.layer._value, value) if self.learns else value
        setattr(self.layer, name, given)
        state = self.layer.state_dict()
        if value is SCHEDULE:
            assert state[name]["step"] == 0
        else:
            assert np.all(np.asarray(state[name]) == value)
        self.state = self.state | {name: state[name]}

    @rule(target=states)
    def save(self):
        return json.dumps(self.layer.state_dict())

    @rule(text=states, elsewhere=st.booleans())
    def load(self, text, elsewhere):
        if elsewhere:
            self.layer = CASES[self.kind].make(77).train(self.training)
        state = json.loads(text)
        number = state[self.kind._parameter]
        if isinstance(number, dict) and self.kind is not fd.CurriculumDropout:
            setattr(self.layer, self.kind._parameter, SCHEDULE)
        self.layer.load_state_dict(state)
        self.state, self.waiting, self.evaluated, self.older = state, [], None, 0
        if self.learns:
            self.grad = np.zeros_like(self.grad)

    @rule(text=consumes(states), entry=st.sampled_from(["seed", "draw", "version", "layer"]))
    def load_what_is_bad(self, text, entry):
        with pytest.raises(ValueError, match=r"got|must"):
            self.layer.load_state_dict(json.loads(text) | {entry: None})

    @rule(how=st.sampled_from([copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]))
    def copy(self, how):
        """Go on with a copy; the original stays where it is."""
        self.left_behind = [*self.left_behind[-2:], (self.layer, self.state, len(self.waiting))]
        self.layer = how(self.layer)

    @precondition(lambda self: hasattr(os, "fork") and not self.forks)
    @rule()
    def fork(self):
        """A child's next output is the parent's; what the child does doesn't reach the parent."""
        arguments = CASES[self.kind].arguments(5)
        expected = self.new(self.state)(*arguments)
        self.forks += 1  # once in each sequence, since it takes the time of all else
        child = os.fork()
        if not child:
            code = 2
            try:
                code = int(not all_same(self.layer(*arguments, True), expected))
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    @invariant()
    def it_is_as_the_model(self):
        assert self.layer.state_dict() == self.state
        assert self.layer.training is self.training
        assert len(self.layer._forwards) == len(self.waiting)
        if self.learns:
            assert same_bits(self.layer._grad, self.grad)

    def teardown(self):
        for layer, state, waiting in getattr(self, "left_behind", ()):
            assert layer.state_dict() == state
            assert len(layer._forwards) == waiting


# Hypothesis marks its own tests, but not those that run a machine; `make fuzz` goes by the mark.
@pytest.mark.hypothesis
# Python 3.12 and later warn of each fork of a process with threads, as those of a test run may be.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_any_sequence_of_calls(kind):
    machine = type(kind.__name__, (Machine,), {"kind": kind})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples(8), stateful_step_count=30))
