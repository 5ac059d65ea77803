"""Copies of layers are exact, and processes that are forked draw anew where nobody chose a key."""

import copy
import inspect
import json
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from every_layer import CASES

import fastdrop as fd

WORKERS = Path(__file__).parents[1] / "workers.py"
REMAKE = {"deepcopy": copy.deepcopy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer))}
REQUIRED = {fd.CurriculumDropout: {"gamma": 1.0}, fd.DropConnect: {"weight": np.ones((2, 2))}}
UNSEEDED, CHOSEN = ("None", "None, of masks"), ("int", "Generator", "loaded", "chosen")


@pytest.mark.parametrize("remake", REMAKE.values(), ids=REMAKE)
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("rng", [None, 42])
def test_a_copy_is_exact(kind, remake, rng):
    case = CASES[kind]
    layer, x = case.make(rng), case.arguments()
    layer(*x)
    twin = remake(layer)
    assert twin.state_dict() == layer.state_dict()
    for _ in range(3):
        y = layer(*x)
        assert np.array_equal(twin(*x), y)
        assert np.array_equal(twin.backward(y), layer.backward(y))
    assert twin.key == layer.key


@pytest.mark.parametrize("kind", [*CASES, fd.RecurrentDropout], ids=lambda kind: kind.__name__)
def test_the_docs_say_first_that_layers_of_one_seed_draw_alike(kind):
    _, second, *_ = inspect.cleandoc(kind.__doc__).split("\n\n")
    assert second.startswith("Layers of one seed draw the same noise")
    first, other = (kind(**REQUIRED.get(kind, {}), rng=fd.Key(42).fold_in(name)) for name in ("a", "b"))
    assert first.key != other.key


@pytest.mark.parametrize("kind", CASES)
def test_reseed_is_as_if_built_with_that_rng(kind):
    case = CASES[kind]
    layer, x = case.make(42), case.arguments()
    assert layer.reseed(7) is layer
    other = case.make(7)
    assert layer.key == other.key
    assert np.array_equal(layer(*x), other(*x))
    assert layer.reseed(fd.Key(3, draw=5)).key == fd.Key(3, draw=5)
    assert layer.reseed(np.random.default_rng(1)).key == case.make(np.random.default_rng(1)).key
    assert layer.reseed().key != layer.reseed().key
    key = layer.key
    with pytest.raises(TypeError, match="rng must be None, an int"):
        layer.reseed("7")
    assert layer.key == key


def test_a_forward_before_reseed_keeps_its_backward():
    layer = fd.Dropout(0.5, rng=1)
    y = layer(np.ones(100))
    assert np.array_equal(layer.reseed(2).backward(np.ones(100)), y)


def test_reseeding_within_a_sequence_begins_another():
    layer, x = fd.TemporalDropout(0.5, rng=1), np.ones((2, 50))
    layer(x)
    layer.reseed(2)
    y = layer(x)
    assert np.array_equal(y, fd.TemporalDropout(0.5, rng=2)(x))
    other = fd.TemporalDropout(0.5, rng=9)
    other.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    assert np.array_equal(other(x), y)


def keys_in_workers(way):
    """The keys that layers have in this process and in its workers."""
    if way == "loky":
        pytest.importorskip("joblib")
    elif way not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {way}")
    done = subprocess.run([sys.executable, WORKERS, way], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["parent"], found.get("inherited"), found["passed"]


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver", "loky"])
def test_layers_in_workers(way):
    """What workers inherit draws anew where nobody chose a key. What they are passed is an exact copy."""
    parent, inherited, passed = keys_in_workers(way)
    assert [{name: found[name] for name in parent} for found in passed] == [parent] * 2
    assert len({parent["None"], *(found["reseeded"] for found in passed)}) == 3
    if inherited is None:
        return
    for name in UNSEEDED:
        assert len({parent[name], *(found[name] for found in inherited)}) == 3
    for name in CHOSEN:
        assert {found[name] for found in inherited} == {parent[name]}
