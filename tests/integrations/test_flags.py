"""Options that are True or False, of everything public: nothing else passes for one of them."""

import inspect
from importlib import import_module

import numpy as np
import pytest
from arrays import normal
from hostile import fitting

import fastdrop as fd
from fastdrop._arrays.numbers import flag

X, KEY = normal(4, 5), fd.Key(1)
COMMON = {"x": X, "g": X, "p": 0.3, "std": 0.1, "key": KEY, "rng": 1, "shape": 3, "mask": X > 0, "steps": 3}
COMMON |= {"f": lambda x, key: fd.dropout(x, 0.5, key), "n": 2, "y": X, "tau": 1.0, "block_size": 2}
FACES = ["fastdrop", "fastdrop.moments", "fastdrop.schedules"]
FACES += ["fastdrop.torch", "fastdrop.dask", "fastdrop.autograd"]


def flags():
    """Every public function or class with each of its options that are True or False by default."""
    for face in FACES:
        try:
            module = import_module(face)
        except ImportError:
            continue
        mark = getattr(pytest.mark, face[9:]) if face[9:] in ("torch", "dask") else ()
        for name, each in sorted(vars(module).items()):
            if name[0] == "_" or not getattr(each, "__module__", "").startswith("fastdrop"):
                continue
            for option in inspect.signature(each).parameters.values() if callable(each) else ():
                if isinstance(option.default, bool):
                    yield pytest.param(face, name, option.name, marks=mark, id=f"{face}.{name}-{option.name}")


def call(face, name, **options):
    """A call with the options, beside arguments that fit, whose lazy arrays are computed."""
    function = getattr(import_module(face), name)
    found = COMMON | fitting(function.__name__, np.float32)
    if name == "apply_mask":
        found |= {"x": X[0, :1], "mask": np.ones(1, np.uint8)}  # which fits, packed or not
    elif name == "scaled_dot_product_attention":
        found |= dict.fromkeys(("query", "key", "value"), np.stack([X, X]))
    elif name == "GaussianDropout":
        del found["std"]  # which takes the place of p
    found = {each: found[each] for each in inspect.signature(function).parameters if each in found}
    if face == "fastdrop.torch":
        torch = pytest.importorskip("torch")
        found = {each: torch.tensor(a) if isinstance(a, np.ndarray) else a for each, a in found.items()}
    elif face == "fastdrop.dask":
        da = pytest.importorskip("dask.array")
        found = {each: da.asarray(a) if isinstance(a, np.ndarray) else a for each, a in found.items()}
        return pytest.importorskip("dask").compute(function(**(found | options)))
    return function(**(found | options))


def wrong(face):
    yield from ("no", "", 0, 1, None, np.array([True, False]), np.array(True), 10**5000, "no" * 99)
    if face == "fastdrop.torch":
        yield from pytest.importorskip("torch").tensor([[True, False], [True, True]])


@pytest.mark.parametrize(("face", "name", "option"), list(flags()))
def test_a_flag_is_true_or_false(face, name, option):
    for bad in wrong(face):
        with pytest.raises(TypeError, match=f"^{option} must be True or False, got .{{1,90}}$"):
            call(face, name, **{option: bad})
    for good in (True, False, np.True_, np.False_):
        call(face, name, **{option: good})


def test_there_are_flags_everywhere():
    found = {each.values[0] for each in flags()}
    assert {"fastdrop", "fastdrop.moments", "fastdrop.schedules"} <= found
    assert len(list(flags())) > 25


def test_a_flag_is_a_bool_and_an_error_names_it():
    assert flag("packed", np.True_) is flag("packed", True) is True
    assert flag("packed", np.False_) is flag("packed", False) is False
    with pytest.raises(TypeError, match=r"^packed must be True or False, got 'no'; use packbits$"):
        flag("packed", "no", hint="use packbits")
    with pytest.raises(TypeError, match=r"^training must be None, got Key\(1\)$"):
        flag("training", KEY, "None")
