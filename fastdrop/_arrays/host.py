"""Arrays on their way to the kernels: checked, viewed as lanes, cut into flat pieces."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.device import DeviceArray, device_output, empty_like

Window: TypeAlias = tuple[Sequence[int], Sequence[int]]
Axes: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

PLAIN = frozenset({np.dtype(np.float32), np.dtype(np.float64)})  # what the kernels take as it is
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})
_CARRIERS = {"float16": np.dtype(np.int16), "bfloat16": np.dtype(np.uint16)}
_LANES = {np.int16: np.float32, np.uint16: np.float32}
BUFFER = 1 << 16  # elements of the buffer through which arrays that are not C-order go
# bits of ndarray.flags.num
_OWNED = 0x004
READY = 0x101  # C-contiguous and aligned: the kernels can work on it as it lies in memory
_WRITABLE = READY | 0x400


def to_array(x: ArrayLike) -> NDArray[Any]:
    """X as a plain array of a dtype that is taken, in any byte order."""
    if type(x) is not np.ndarray:
        if hasattr(x, "__cuda_array_interface__"):
            raise TypeError("this function takes no arrays on a GPU; copy x to the host")
        x = unmasked(x)
    if x.dtype not in PLAIN and x.dtype.name not in _DTYPES:
        allowed = "float16, bfloat16, float32, float64, complex64 or complex128"
        raise TypeError(f"dropout needs {allowed}, got {x.dtype}; use x.astype(np.float32)")
    return x


def unmasked(x: ArrayLike) -> NDArray[Any]:
    """X as a plain array of any dtype: the data of subclasses, and of what has `__array__`."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("dropout takes no masked arrays; use x.filled(0) or x.data")
    return np.asarray(x)


def any_array(x: ArrayLike) -> NDArray[Any]:
    """As `to_array`, or a `DeviceArray` where x is on a GPU, which goes through the same hands."""
    if type(x) is not np.ndarray and hasattr(x, "__cuda_array_interface__"):
        return DeviceArray(x)  # type: ignore[return-value]
    return to_array(x)


def real_array(x: ArrayLike, what: str) -> NDArray[Any]:
    """As `to_array`, but no complex numbers."""
    return _real(to_array(x), what)


def any_real_array(x: ArrayLike, what: str) -> NDArray[Any]:
    """As `any_array`, but no complex numbers."""
    return _real(any_array(x), what)


def _real(x: NDArray[Any], what: str) -> NDArray[Any]:
    if x.dtype.kind == "c":
        raise TypeError(f"{what} needs real numbers, got {x.dtype}; use x.real and x.imag")
    return x


def like(x: NDArray[Any], other: ArrayLike, name: str, of: str = "x") -> NDArray[Any]:
    """The other array, checked to be where x is and to have x's shape and dtype."""
    other = any_array(other)
    same_place(x, other, name)
    for what in ("shape", "dtype"):
        got, allowed = getattr(other, what), getattr(x, what)
        if got != allowed:
            raise ValueError(f"{name} must have {of}'s {what} {allowed}, got {got}")
    return other


def same_place(x: Any, other: Any, name: str) -> None:
    """Refuse an array that isn't where x is: in memory, or on a GPU."""
    if type(other) is not type(x):
        raise TypeError(f"{name} must be on a GPU if x is and only then; copy one of them")


def output(out: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """The plain array to write x's result to: out, or its base class's view of it."""
    if type(out) is np.ndarray and out.shape == x.shape and out.dtype is x.dtype:  # the usual case first
        flags = out.flags.num
        apart = out is x or flags & x.flags.num & _OWNED or not np.may_share_memory(x, out)
        if apart and flags & _WRITABLE == _WRITABLE:
            return out
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}; use np.empty_like(x)")
    for name in ("shape", "dtype"):
        got, allowed = getattr(out, name), getattr(x, name)
        if got != allowed:
            raise ValueError(f"out must have x's {name} {allowed}, got {got}; use np.empty_like(x)")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array; use out.copy()")
    if not _same_elements(x, out) and np.shares_memory(x, out):
        raise ValueError("out must be x or not overlap it, got a shifted view of it; use np.empty_like(x)")
    if _overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got strides {out.strides}; use np.empty_like(x)")
    return np.asarray(out)


def target(out: Any, *arrays: Any) -> NDArray[Any]:
    """The plain array to write to: a new one like the first array, or out, checked against all of them."""
    if type(arrays[0]) is not np.ndarray:
        on_device = [empty_like(arrays[0])] if out is None else [device_output(out, a) for a in arrays]
        return on_device[0]  # type: ignore[return-value]
    if out is None:
        return np.empty(arrays[0].shape, arrays[0].dtype)
    for other in arrays[1:]:
        output(out, other)
    return output(out, arrays[0])


def overlap(out: Any, x: Any) -> bool:
    """Whether an array of a caller's may share memory with x."""
    if type(x) is np.ndarray:
        return bool(np.may_share_memory(out, x))
    return device_output(out, x).overlaps(x)


def result(y: Any, out: Any) -> NDArray[Any]:
    """What a caller gets: out if given, else the new array, on a GPU its library's."""
    found: NDArray[Any] = out if out is not None else y if type(y) is np.ndarray else y.owner
    return found


def _same_elements(a: NDArray, b: NDArray) -> bool:
    """Whether two arrays of one shape and dtype lie in memory alike."""
    return a.strides == b.strides and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]


def _overlaps_itself(a: NDArray) -> bool:
    """Whether two elements may share memory: true of any axis shorter than what it steps over."""
    if a.size == 0:
        return False
    reach = a.itemsize
    axes = zip(a.strides, a.shape, strict=True)
    for stride, length in sorted((abs(stride), length) for stride, length in axes if length > 1):
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False


def own_mask(mask: NDArray, x: NDArray) -> NDArray:
    """A mask of the user's as bools, checked to broadcast to x."""
    if mask.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"mask must be of bool or uint8, got {mask.dtype}; use mask.astype(bool)")
    try:
        fits = np.broadcast_shapes(mask.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask must broadcast to x's shape {x.shape}, got {mask.shape}")
    keep: NDArray = mask != 0
    return keep


def unpacked(mask: NDArray, x: NDArray) -> NDArray:
    """A packed mask of the user's as bytes of x's shape."""
    length = -(-x.size // 8)
    if mask.dtype != np.uint8 or mask.shape != (length,):
        got = f"{mask.dtype} {mask.shape}"
        raise ValueError(f"a packed mask for {x.size} elements must be uint8 ({length},), got {got}")
    return np.unpackbits(mask, count=x.size).reshape(x.shape)


def window_of(window: Window, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Full shape and origin as ints, checked to hold a block of the shape."""
    try:
        full, origin = ([operator.index(n) for n in part] for part in window)
    except (TypeError, ValueError, AttributeError):
        raise TypeError(f"window must be (full_shape, origin), two tuples of ints, got {window!r}") from None
    ends = [o + n for o, n in zip(origin, shape, strict=False)]
    inside = all(o >= 0 and end <= f for f, o, end in zip(full, origin, ends, strict=False))
    if not (len(full) == len(origin) == len(shape) and inside):
        at = f"{tuple(origin)} in {tuple(full)}"
        raise ValueError(f"window must place the block inside the full array, got block {shape} at {at}")
    if math.prod(full) > 1 << 64:
        raise ValueError(f"window's full shape must have at most 2**64 elements, got {tuple(full)}")
    return full, origin


def axes_in(axes: Axes, ndim: int, name: str = "shared_axes") -> set[int]:
    """Axes as numbers from 0, checked against the number of axes."""
    try:
        # not isinstance(axes, SupportsIndex), which takes 7 us
        numbers = [operator.index(axis) for axis in ((axes,) if hasattr(axes, "__index__") else axes)]
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of ints, got {axes!r}") from None
    found = {axis + ndim if axis < 0 else axis for axis in numbers}
    if not found <= set(range(ndim)):
        raise ValueError(f"{name} must be in [-{ndim}, {ndim}) for an array of {ndim} axes, got {axes}")
    if len(found) < len(numbers):
        raise ValueError(f"{name} must not repeat an axis, got {axes}")
    return found


def as_lanes(a: NDArray) -> NDArray:
    """A view as the kernels take it: 16-bit floats as integers, complex ones with an axis of two reals."""
    if a.dtype in PLAIN:
        return a
    if a.dtype.kind == "c":
        return a[..., None].view(np.dtype(f"f{a.itemsize // 2}").newbyteorder(a.dtype.byteorder))
    carrier = _CARRIERS.get(a.dtype.name)
    return a if carrier is None else a.view(carrier.newbyteorder(a.dtype.byteorder))


def lanes_dtype(a: NDArray) -> np.dtype[Any]:
    """The native dtype that an array has in lanes: that of its factors."""
    return np.dtype(_LANES.get(a.dtype.type, a.dtype.type))


def ready(x: NDArray, y: NDArray) -> bool:
    """Whether the kernels can work on x and y as they lie in memory."""
    return bool(x.flags.num & y.flags.num & READY == READY) and x.dtype.isnative


def pieces(*arrays: NDArray, fit: bool = False) -> Iterator[tuple[Any, ...]]:
    """1-D pieces of arrays that broadcast, in C order, and the position of their first element.

    The last array is written to. Its pieces are fit for the kernels: views where it is, else a buffer
    that the iterator writes back. So are those of the others, but the first is read as it lies unless
    it shall be fit too.
    """
    kernel = ["contig", "aligned", "nbo"]
    flags = [["readonly", *kernel] for _ in arrays[:-1]] + [["writeonly", *kernel]]
    if not fit:
        flags[0] = ["readonly"]
    with np.nditer(  # type: ignore[call-overload]
        arrays,
        flags=["external_loop", "buffered", "delay_bufalloc", "zerosize_ok"],
        op_flags=flags,
        order="C",
        buffersize=BUFFER,
    ) as pieces:
        pieces.reset()
        first = 0
        for parts in pieces:
            yield *parts, first
            first += parts[0].size


def copy(part: NDArray, target: NDArray) -> NDArray:
    """The part in its target, where kernels can work on it in place."""
    np.copyto(target, part)
    return target


def flat(x: NDArray, y: NDArray) -> Iterator[tuple[NDArray, NDArray, int]]:
    """1-D parts of x and y for the kernels, the whole where possible, and their first position."""
    if ready(x, y):
        yield x.ravel(), y.ravel(), 0
        return
    for part, target, first in pieces(x, y):
        yield copy(part, target), target, first
