"""What to write instead: the hints of errors about objects that aren't the arrays and numbers they should be.

Each kind of object has one hint, which every function and layer gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop._stream.keys import Key, integer, shown

# By the package that defines a class: what takes its objects, and how they become arrays. That isn't done for
# the user, since an array in the place of a tensor has lost its gradient, one in the place of a lazy array is
# computed at once, and one in the place of a sparse matrix may not fit the memory.
_TAKEN_BY = {
    "torch": ("fastdrop.torch", "x.numpy(force=True) without a gradient"),
    "autograd": ("fastdrop.autograd", ""),
    "dask": ("fastdrop.dask", "x.compute()"),
    "scipy.sparse": ("x.data with indices=", "x.toarray()"),
}


def refuse_foreign(x: Any, elsewhere: bool = True) -> None:
    """Raise an error that says what to use, if x isn't for functions and layers of NumPy arrays.

    It is called where x is no ndarray, in training, in evaluation and backward, so that all say the same.
    `elsewhere` is whether another module has the function too, for such objects.
    """
    if x is None:
        raise TypeError("an array is needed, got None")
    for kind in type(x).__mro__:
        library, _, rest = kind.__module__.partition(".")
        hint = _TAKEN_BY.get(library) or _TAKEN_BY.get(f"{library}.{rest.partition('.')[0]}")
        if hint and not getattr(x, "is_cuda", False):  # a CUDA tensor is an array on a GPU
            fix = ", or ".join(filter(None, hint if elsewhere else hint[1:]))
            got = f"{type(x).__name__} of {library}{fix and '; use '}{fix}"
            raise TypeError(f"NumPy arrays are needed, got {got}")


def wrong_dtype(name: str, got: str, fix: str = "") -> str:
    """Return the error about a dtype that isn't taken, by the argument's name if it has one."""
    what = f"{name} must be of" if name else "dropout needs"
    allowed = "float16, bfloat16, float32, float64, complex64 or complex128"
    return f"{what} {allowed}, got {got}{fix and '; '}{fix}"


def as_floats(x: Any, array: NDArray[Any], name: str) -> str:
    """Return the hint for an array whose dtype isn't taken, and which was made of x, of a name."""
    if array.dtype.kind in "SU":
        return "use an array of numbers"
    if array.dtype != object:
        kind = {"f": "float64", "c": "complex128"}.get(array.dtype.kind, "float32")
        method = hasattr(x, "astype")
        return f"use {name}.astype(np.{kind})" if method else f"use np.array({name}, np.{kind})"
    if hasattr(x, "to_numpy"):
        return f"use {name}.to_numpy(np.float32), of columns of numbers alone"
    if not array.ndim:
        return f"use an array of numbers, which NumPy doesn't make of {type(x).__name__}"
    given = f"{name}.tolist()" if hasattr(x, "tolist") else name
    return f"use np.array({given}, np.float32), of numbers alone and rows of one length"


def as_number(name: str, value: Any) -> str:
    """Return the hint for an object where a real number is needed, or an array of them may be."""
    if isinstance(value, Key):
        return f"{name} comes before the key"
    if getattr(value, "is_cuda", False) or hasattr(value, "__cuda_array_interface__"):
        return f"it is on a GPU, so copy {name} to the host"
    several = hasattr(value, "__array__") and np.ndim(value) > 0
    if several and isinstance(value, np.ndarray):
        return "use one number, since no array is taken here"
    if several and type(value).__module__.startswith("torch"):
        return f"use one number, {name}.numpy() in functions of arrays, or {name} in those of fastdrop.torch"
    if several or isinstance(value, (list, tuple)):
        return f"use one number, or np.array({name}) in functions that take arrays of {name}"
    if callable(value) and not isinstance(value, type):
        rule = "only layers of NumPy arrays take a schedule"
        return f"{rule}; use schedule(step), in a module of PyTorch module.{name} = schedule(step)"
    return f"use float({name})" if hasattr(value, "__float__") or isinstance(value, str) else "use a number"


def refuse_schedule(name: str, value: Any, fix: str = "use schedule(step)") -> None:
    """Raise an error if a layer is given a schedule for a number that can't follow one."""
    if callable(value):
        raise TypeError(f"{name} must not be a schedule, got {shown(value)}; {fix}")


def checked_dtype(dtype: Any) -> np.dtype[Any]:
    """Return what a caller gave for a dtype as one, or raise an error."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
        return found
    except TypeError:
        of_torch = type(dtype).__module__ == "torch"
        fix = f'; use "{str(dtype).removeprefix("torch.")}"' if of_torch else ""
        raise TypeError(f"dtype must be a NumPy dtype, got {shown(dtype)}{fix}") from None


def checked_shape(shape: Any) -> Any:
    """Return a shape for NumPy to look at, or raise an error if it is none, or an array that has one."""
    given = shape
    if hasattr(shape, "shape"):
        numbers = isinstance(shape, (np.ndarray, np.integer)) and shape.dtype.kind in "iu"
        if not numbers or shape.ndim > 1:
            got = f"{type(shape).__name__} of shape {tuple(shape.shape)}"
            raise TypeError(f"shape must be an int or a tuple of ints, got {got}; use x.shape")
        given = shape.tolist()
    for length in given if isinstance(given, Sequence) else (given,):
        if integer("shape", length) < 0:
            raise ValueError(f"shape must have lengths of at least 0, got {shown(shape)}")
    return shape
