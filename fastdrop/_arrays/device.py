"""Arrays on a GPU: checks of arguments, and new arrays for results.

Any library's array is taken that has `__cuda_array_interface__`. A result is an array of the same library.
This file has the functions of `fastdrop._arrays.host` under the same names.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np

# The types as which kernels take them: integers for 16-bit floats, reals for the parts of complex numbers.
_CARRIERS = {"float16": "<i2", "void16": "<u2", "complex64": "<f4", "complex128": "<f8"}
_DTYPES = frozenset({"float32", "float64", *_CARRIERS})


class Elements(NamedTuple):
    """Flat elements of a device array, as kernels take them."""

    pointer: int
    size: int
    typestr: str

    def part(self, at: int, size: int) -> Elements:
        """Return the `size` elements from the place `at` on."""
        return Elements(self.pointer + at * int(self.typestr[-1]), size, self.typestr)

    @property
    def real(self) -> type[np.floating]:
        """The type that kernels compute with."""
        return np.float64 if self.typestr == "<f8" else np.float32

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.size,),
            "typestr": self.typestr,
            "data": (self.pointer, False),
            "strides": None,
            "version": 2,  # it names no CUDA stream: kernels are launched on the stream of the array's owner
        }


class DeviceArray:
    """A C-order array on a GPU: what kernels need to know of it, and the object that the caller gave.

    Raises
    ------
    TypeError
        If it is of a dtype that isn't taken, or has a mask.
    ValueError
        If it isn't in C order.
    """

    def __init__(self, owner: Any) -> None:
        about = owner.__cuda_array_interface__
        self.owner = owner
        self.shape: tuple[int, ...] = tuple(about["shape"])
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.dtype = np.dtype(about["typestr"])  # V2 for bfloat16, for which NumPy has no name
        self.pointer, self.read_only = about["data"]
        self.cuda_stream: int = about.get("stream") or _cuda_stream_of(owner)
        if about.get("mask") is not None:
            raise TypeError("dropout takes no masked arrays; use x without its mask")
        if self.dtype.name not in _DTYPES or not self.dtype.isnative:
            allowed = "float16, bfloat16, float32, float64, complex64 or complex128"
            raise TypeError(f"dropout needs {allowed}, got {self.dtype} on a GPU")
        strides = about.get("strides")
        if strides is not None and self.size and not self._in_c_order(strides):
            raise ValueError(
                f"arrays on a GPU must be in C order, got shape {self.shape} with strides {strides}; "
                "use x.contiguous() in PyTorch, cupy.ascontiguousarray(x) in CuPy"
            )

    def _in_c_order(self, strides: tuple[int, ...]) -> bool:
        step = self.dtype.itemsize
        for length, stride in zip(reversed(self.shape), reversed(strides), strict=True):
            if length > 1 and stride != step:
                return False
            step *= length
        return True

    @property
    def lanes(self) -> Elements:
        """The flat elements, as kernels take them."""
        typestr = _CARRIERS.get(self.dtype.name, self.dtype.str)
        return Elements(self.pointer, self.size * (1 + (self.dtype.kind == "c")), typestr)

    def overlaps(self, other: DeviceArray) -> bool:
        """Return whether two arrays share memory."""
        mine, others = self.size * self.dtype.itemsize, other.size * other.dtype.itemsize
        return bool(self.pointer < other.pointer + others and other.pointer < self.pointer + mine)


def _cuda_stream_of(owner: Any) -> int:
    """Return the CUDA stream that an array's library works on now, if its interface does not say.

    0 is the default stream.
    """
    if _library(owner) != "torch":
        return 0
    stream: int = sys.modules["torch"].cuda.current_stream(owner.device).cuda_stream
    return stream


def _library(owner: Any) -> str:
    return type(owner).__module__.partition(".")[0]


def to_array(x: Any) -> DeviceArray:
    """Return x as a `DeviceArray`."""
    return x if isinstance(x, DeviceArray) else DeviceArray(x)


def target(out: Any, x: DeviceArray, other: DeviceArray | None = None) -> DeviceArray:
    """Return the array to write to: out, checked against x and the other array, or a new one like x."""
    if out is None:
        return empty_like(x)
    if other is not None:
        device_output(out, other)
    return device_output(out, x)


def given(y: DeviceArray) -> Any:
    """Return a new array as its caller gets it: an array of x's library."""
    return y.owner


def overlap(out: Any, x: DeviceArray) -> bool:
    """Return whether a caller's array may share memory with x."""
    return device_output(out, x).overlaps(x)


def real_type(x: DeviceArray) -> np.dtype[Any]:
    """Return the dtype that x's elements are computed in."""
    return np.dtype(x.lanes.real)


def as_bias(bias: DeviceArray, x: DeviceArray) -> DeviceArray:
    """Return a bias, or raise an error unless its type is that of x's computation: nothing converts it."""
    if real_type(bias) != real_type(x):
        raise ValueError(f"bias must have x's dtype {x.dtype} or {real_type(x)}, got {bias.dtype}")
    return bias


def no_bias(x: DeviceArray) -> None:
    """Return None, which stands for no bias: CUDA has kernels without one."""


def empty_like(x: DeviceArray) -> DeviceArray:
    """Return a new array like x, of the library of x's owner."""
    library = _library(x.owner)
    if library in ("cupy", "torch"):
        return DeviceArray(sys.modules[library].empty_like(x.owner))
    if library in ("numba", "numba_cuda"):
        return DeviceArray(sys.modules["numba.cuda"].device_array_like(x.owner))
    kind = f"{type(x.owner).__module__}.{type(x.owner).__qualname__}"
    raise TypeError(f"a result like x needs an array of CuPy, PyTorch or Numba, got {kind}; use out=")


def device_output(out: Any, x: DeviceArray) -> DeviceArray:
    """Return `out` as a `DeviceArray`, or raise an error if x's result can't be written to it."""
    if not hasattr(out, "__cuda_array_interface__"):
        raise TypeError(f"out must be on a GPU as x is, got {type(out).__name__}")
    y = DeviceArray(out)
    for name in ("shape", "dtype"):
        got, allowed = getattr(y, name), getattr(x, name)
        if got != allowed:
            raise ValueError(f"out must have x's {name} {allowed}, got {got}")
    if y.read_only:
        raise ValueError("out must be writable, got a read-only array; use a copy")
    if y.pointer != x.pointer and y.overlaps(x):
        raise ValueError("out must be x or not overlap it, got a shifted view of it")
    return y
