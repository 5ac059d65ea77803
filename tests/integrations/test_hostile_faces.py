"""Hostile arguments to the functions of fastdrop.torch, fastdrop.dask and fastdrop.autograd."""

import inspect

import numpy as np
import pytest
from hostile import Tries, arguments, fuzz
from hypothesis import given
from hypothesis import strategies as st

import fastdrop as fd

pytestmark = [pytest.mark.hypothesis, pytest.mark.filterwarnings("ignore")]


def functions(face):
    """Every public function of a face that takes arrays, or nothing where what it needs isn't there."""
    try:
        module = __import__(f"fastdrop.{face}", fromlist=["dropout"])
    except ImportError:
        return []
    names = [name for name in fd.__all__ if inspect.isfunction(getattr(module, name, None))]
    mark = getattr(pytest.mark, face) if face != "autograd" else ()
    return [pytest.param(getattr(module, name), id=f"{face}.{name}", marks=mark) for name in names]


def as_tensor(a):
    torch = pytest.importorskip("torch")
    if isinstance(a, float):
        return torch.tensor(a)
    try:
        return torch.from_numpy(np.ascontiguousarray(a))
    except (TypeError, ValueError):  # a dtype that isn't PyTorch's
        return a


def as_chunks(a):
    da = pytest.importorskip("dask.array")
    if type(a) is not np.ndarray or a.dtype.kind not in "fciu":
        return a
    return da.from_array(a, chunks=tuple(max(2, -(-n // 3)) for n in a.shape))  # whose last may be smaller


def fuzzed(function, converted, computed):
    """Try a function with arrays converted, all or the first one, and compute what it returns."""
    tries = Tries(function)

    def call(**given_arguments):
        computed(function(**given_arguments))

    @fuzz(60)
    @given(data=st.data())
    def one(data):
        made = arguments(function, data.draw, 1)[0]
        first = next(iter(made), None)
        every = data.draw(st.sampled_from([True, True, True, False]))
        for name, value in made.items():
            learned = converted is as_tensor and name in ("logit", "alpha") and type(value) is float
            if (isinstance(value, np.ndarray) or learned) and (every or name == first):
                made[name] = converted(value)
        tries.attempt(call, **made)

    one()
    tries.check()


@pytest.mark.parametrize("function", functions("torch"))
def test_torch(function):
    fuzzed(function, as_tensor, lambda y: None)


@pytest.mark.parametrize("function", functions("dask"))
def test_dask(function):
    import dask

    fuzzed(function, as_chunks, lambda y: dask.compute(y, scheduler="sync"))


@pytest.mark.parametrize("function", functions("autograd"))
def test_autograd(function):
    fuzzed(function, lambda a: a, lambda y: None)
