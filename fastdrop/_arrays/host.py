"""Arrays of NumPy on their way to the kernels: checked, viewed as lanes, cut into flat pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PLAIN = frozenset({np.dtype(np.float32), np.dtype(np.float64)})  # what the kernels take as it is
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})
_CARRIERS = {"float16": np.dtype(np.int16), "bfloat16": np.dtype(np.uint16)}
_COMPUTED_AS = {np.int16: np.float32, np.uint16: np.float32}
BUFFER = 1 << 16  # elements of the buffer through which arrays that are not C-order go
_ROWS = 1 << 16  # elements that are summed while they are in the cache
# bits of ndarray.flags.num
_OWNED = 0x004
READY = 0x101  # C-contiguous and aligned: the kernels can work on it as it lies in memory
_WRITABLE = READY | 0x400

WHERE = "in memory"  # where these arrays are, for messages


def to_array(x: ArrayLike) -> NDArray[Any]:
    """X as a plain array of a dtype that is taken, in any byte order."""
    x = unmasked(x)
    if x.dtype not in PLAIN and x.dtype.name not in _DTYPES:
        allowed = "float16, bfloat16, float32, float64, complex64 or complex128"
        raise TypeError(f"dropout needs {allowed}, got {x.dtype}; use x.astype(np.float32)")
    return x


def unmasked(x: ArrayLike) -> NDArray[Any]:
    """X as a plain array of any dtype: the data of subclasses, and of what has `__array__`."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("dropout takes no masked arrays; use x.filled(0) or x.data")
    if hasattr(x, "__cuda_array_interface__"):
        raise TypeError("this function takes no arrays on a GPU; copy x to the host")
    return np.asarray(x)


def real_array(x: ArrayLike, what: str) -> NDArray[Any]:
    """As `to_array`, but no complex numbers."""
    a = to_array(x)
    refuse_complex(a, what)
    return a


def refuse_complex(x: Any, what: str) -> None:
    """Refuse an array of complex numbers."""
    if x.dtype.kind == "c":
        raise TypeError(f"{what} needs real numbers, got {x.dtype}; use x.real and x.imag")


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


def flat_pair(x: Any, out: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """An array to write to, and x and this array flat, where kernels take both as they lie; else None."""
    if type(x) is not np.ndarray or x.dtype not in PLAIN or not x.size:
        return None
    y = np.empty(x.shape, x.dtype) if out is None else output(out, x)
    if x.flags.num & y.flags.num & READY != READY:
        return None
    given = y if out is None else out
    return (given, x, y) if x.ndim == 1 else (given, x.ravel(), y.ravel())


def flat_like(other: Any, x: Any, out: Any) -> NDArray[Any] | None:
    """Another array like x flat, where kernels take it as it lies and it may be beside out; else None."""
    if type(other) is not np.ndarray or other.dtype is not x.dtype or other.shape != x.shape:
        return None
    if other.flags.num & READY != READY:
        return None
    if out is not None:
        output(out, other)
    return other if other.ndim == 1 else other.ravel()


def target(out: Any, x: NDArray[Any], other: NDArray[Any] | None = None) -> NDArray[Any]:
    """The plain array to write to: a new one like x, or out, checked against x and the other array."""
    if out is None:
        return np.empty(x.shape, x.dtype)
    if other is not None:
        output(out, other)
    return output(out, x)


def given(y: NDArray[Any]) -> NDArray[Any]:
    """A new array as its caller gets it."""
    return y


def overlap(out: NDArray[Any], x: NDArray[Any]) -> bool:
    """Whether an array of a caller's may share memory with x."""
    return bool(np.may_share_memory(out, x))


def real_type(x: NDArray[Any]) -> np.dtype[Any]:
    """The dtype of the numbers that x's lanes are computed with."""
    return x.dtype if x.dtype in PLAIN else lanes_dtype(as_lanes(x))


def as_bias(bias: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """A bias in the type that x has in lanes."""
    return bias.astype(real_type(x))


def column_sums(y: NDArray[Any]) -> NDArray[Any]:
    """The sums over all axes but the last: of some rows in y's type, then of those in float64."""
    rows = y.reshape(math.prod(y.shape[:-1]), y.shape[-1])
    step = max(1, _ROWS // max(y.shape[-1], 1))
    wide = lanes_dtype(as_lanes(y))
    parts = [rows[i : i + step].sum(0, dtype=wide) for i in range(0, len(rows), step)]
    return np.asarray(parts, np.float64).sum(0) if parts else np.zeros(y.shape[-1:])


def no_bias(x: NDArray[Any]) -> NDArray[Any]:
    """What stands for a bias where there is none: kernels always add one."""
    return np.zeros(x.shape[-1:], real_type(x))


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
    return np.dtype(_COMPUTED_AS.get(a.dtype.type, a.dtype.type))


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
