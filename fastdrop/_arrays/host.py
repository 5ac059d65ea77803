"""Arrays of NumPy: checks of arguments, views as kernels take them, and flat pieces for the kernels.

`fastdrop._arrays.device` has the functions for arrays on a GPU under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.device import is_there
from fastdrop._arrays.hints import as_floats, refuse_foreign, wrong_dtype
from fastdrop._arrays.numbers import check_mask, check_mask_target

PLAIN = frozenset({np.dtype(np.float32), np.dtype(np.float64)})  # the dtypes that kernels take as they are
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})
_CARRIERS = {"float16": np.dtype(np.int16), "bfloat16": np.dtype(np.uint16)}
_COMPUTED_AS = {np.int16: np.float32, np.uint16: np.float32}
BUFFER = 1 << 16  # elements of the buffer through which arrays go that are not in C order
_ROWS = 1 << 16  # elements of the rows that are summed at a time, while they are in the cache
# Bits of ndarray.flags.num, which is read once where three flags would be read one by one.
_OWNED = 0x004
READY = 0x101  # C-contiguous and aligned: kernels can work on such an array where it lies in memory
_WRITABLE = READY | 0x400


def to_array(x: ArrayLike, name: str = "") -> NDArray[Any]:
    """Return x as a plain array, in any byte order, or raise an error if its dtype is not taken.

    The error has the argument's name if one is given.
    """
    a = unmasked(x)
    if a.dtype not in PLAIN and not _taken(a.dtype):
        raise TypeError(wrong_dtype(name, str(a.dtype), as_floats(x, a, name or "x")))
    return a


@lru_cache(maxsize=64)  # NumPy takes a microsecond and more to name a dtype
def _taken(dtype: np.dtype[Any]) -> bool:
    """Return whether functions take arrays of a dtype, in any byte order."""
    return dtype.name in _DTYPES


def unmasked(x: ArrayLike) -> NDArray[Any]:
    """Return x as a plain array of any dtype: of a subclass, or of what has `__array__`, the data."""
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError("dropout takes no masked arrays; use x.filled(0) or x.data")
    if is_there(x):
        raise TypeError("this function takes no arrays on a GPU; copy x to the host")
    refuse_foreign(x)
    return np.asarray(x)


def real_array(x: ArrayLike, what: str, name: str = "") -> NDArray[Any]:
    """Return what `to_array` returns, or raise an error if that is complex."""
    a = to_array(x, name)
    refuse_complex(a, what)
    return a


def refuse_complex(x: Any, what: str) -> None:
    """Raise an error if an array is complex."""
    if x.dtype.kind == "c":
        raise TypeError(f"{what} needs real numbers, got {x.dtype}; use x.real and x.imag")


def output(out: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return `out` as a plain array, or raise an error if x's result can't be written to it."""
    if _flags_of_usual(out, x, x.flags.num):
        return out
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}; {_fitting(x)}")
    for name in ("shape", "dtype"):
        got, allowed = getattr(out, name), getattr(x, name)
        if got != allowed:
            raise ValueError(f"out must have the result's {name} {allowed}, got {got}; {_fitting(x)}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array; use out.copy()")
    if not _same_elements(x, out) and np.shares_memory(x, out):
        raise ValueError("out must be x or not overlap it, got a shifted view of it; use np.empty_like(x)")
    if overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got strides {out.strides}; {_fitting(x)}")
    return np.asarray(out)


def _flags_of_usual(out: Any, x: NDArray[Any], flags: int) -> int:
    """Return the flags of an `out` that fits x in the usual way, which is quickly seen, else 0."""
    if type(out) is np.ndarray and out.shape == x.shape and out.dtype is x.dtype:
        own: int = out.flags.num
        apart = out is x or own & flags & _OWNED or not np.may_share_memory(x, out)
        return own if apart and own & _WRITABLE == _WRITABLE else 0
    return 0


def _fitting(x: NDArray[Any]) -> str:
    """Return advice where `out` doesn't fit a result like x, which the caller may never have seen."""
    return f"use np.empty({x.shape}, {str(x.dtype)!r})"


# A decorator of functions that compute with NumPy, which shall warn as little as kernels do. A BLAS may also
# compute with what lies beside small matrices in its vectors, and NumPy then warns of an invalid value that
# is nowhere in the result. A context would take .7 us longer.
without_warnings = np.errstate(all="ignore")


def plain_pair(x: Any, out: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], bool] | None:
    """Return what the quick ways of small calls work on; None for arrays that they don't take.

    That is the array that the caller gets, then x and the array to write to, both as lanes. They are flat if
    kernels can take both where they lie in memory, and last is whether they are.
    """
    if type(x) is not np.ndarray or not x.size:
        return None
    lanes = x.dtype in PLAIN
    if not lanes and not _half(x.dtype):
        return None
    flags = x.flags.num
    if out is None:
        given = y = np.empty(x.shape, x.dtype)
    elif own := _flags_of_usual(out, x, flags):
        given, y, flags = out, out, flags & own
    else:
        given, y = out, output(out, x)
        flags &= y.flags.num
    if not lanes:
        x, y = as_lanes(x), as_lanes(y)
    if flags & READY != READY:
        return given, x, y, False
    return (given, x, y, True) if x.ndim == 1 else (given, x.ravel(), y.ravel(), True)


@lru_cache(maxsize=64)
def _half(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is of 16-bit floats in the machine's byte order."""
    return dtype.name in _CARRIERS and dtype.isnative


def flat_like(other: Any, x: Any, out: Any) -> NDArray[Any] | None:
    """Return another array like the caller's x, as flat lanes, or None if the quick way can't take it."""
    if type(other) is not np.ndarray or other.dtype is not x.dtype or other.shape != x.shape:
        return None
    if other.flags.num & READY != READY:
        return None
    if out is not None:
        output(out, other)
    return as_lanes(other) if other.ndim == 1 else as_lanes(other).ravel()


def plain_bias(bias: Any, x: NDArray[Any]) -> NDArray[Any] | None:
    """Return a bias of the caller's x as kernels take it, or None if the quick way can't take it."""
    if bias is None:
        return no_bias(x)
    if type(bias) is not np.ndarray or bias.shape != x.shape[-1:] or bias.flags.num & READY != READY:
        return None
    if bias.dtype is real_type(x):
        return bias
    return as_bias(bias, x) if bias.dtype is x.dtype else None


def target(out: Any, x: NDArray[Any], other: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return the plain array to write to: out, checked against x and the other one, or a new one like x."""
    if out is None:
        return np.empty(x.shape, x.dtype)
    if other is not None:
        output(out, other)
    return output(out, x)


def given(y: NDArray[Any]) -> NDArray[Any]:
    """Return a new array as its caller gets it, which on the host is the array itself."""
    return y


def place_for(x: NDArray[Any]) -> NDArray[Any]:
    """Return an array to write a result over it."""
    return x


def overlap(out: NDArray[Any], x: NDArray[Any]) -> bool:
    """Return whether a caller's array may share memory with x."""
    return bool(np.may_share_memory(out, x))


def real_type(x: NDArray[Any]) -> np.dtype[Any]:
    """Return the dtype that x's elements are computed in."""
    return lanes_dtype(as_lanes(x))


def as_bias(bias: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return a bias in the type that x is computed in."""
    return bias.astype(real_type(x))


@without_warnings
def column_sums(y: NDArray[Any]) -> NDArray[Any]:
    """Return the sums over all axes but the last.

    Rows that fit the cache are summed in the type that y is computed in, and these sums in float64.
    """
    rows = y.reshape(math.prod(y.shape[:-1]), y.shape[-1])
    step = max(1, _ROWS // max(y.shape[-1], 1))
    wide = lanes_dtype(as_lanes(y))
    parts = [rows[i : i + step].sum(0, dtype=wide) for i in range(0, len(rows), step)]
    return np.asarray(parts, np.float64).sum(0) if parts else np.zeros(y.shape[-1:])


def no_bias(x: NDArray[Any]) -> NDArray[Any]:
    """Return a bias of zeros, which stands for no bias: kernels on the CPU always add one."""
    return np.zeros(x.shape[-1:], real_type(x))


def _same_elements(a: NDArray, b: NDArray) -> bool:
    """Return whether two arrays of one shape and dtype are the same elements in memory."""
    return a.strides == b.strides and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]


def overlaps_itself(a: NDArray) -> bool:
    """Return whether two elements may share memory: if a stride is shorter than smaller strides reach."""
    if a.size == 0:
        return False
    reach = a.itemsize
    axes = zip(a.strides, a.shape, strict=True)
    for stride, length in sorted((abs(stride), length) for stride, length in axes if length > 1):
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False


def mask_of(given: ArrayLike, x: NDArray[Any], packed: bool) -> NDArray[Any]:
    """Return a user's mask, of bytes that broadcast to x or packed, or raise an error if it doesn't fit."""
    mask = unmasked(given)
    check_mask(mask, x, packed)
    return mask if packed else mask.view(np.uint8)


def mask_target(out: Any, shape: tuple[int, ...], packed: bool) -> NDArray[Any]:
    """Return the array to write a mask to, or raise an error if it doesn't fit."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be an ndarray, or an array on a GPU, got {type(out).__name__}")
    check_mask_target(out, shape, packed)
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array; use out.copy()")
    return out


def as_lanes(a: NDArray) -> NDArray:
    """Return a view as kernels take it: integers for 16-bit floats, another axis for complex parts."""
    if a.dtype in PLAIN:
        return a
    lanes = _as_lanes(a.dtype)
    return a[..., None].view(lanes) if a.dtype.kind == "c" else a.view(lanes)


@lru_cache(maxsize=64)
def _as_lanes(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a view by `as_lanes`, of the same byte order."""
    if dtype.kind == "c":
        return np.dtype(f"f{dtype.itemsize // 2}").newbyteorder(dtype.byteorder)
    return _CARRIERS.get(dtype.name, dtype).newbyteorder(dtype.byteorder)


def lanes_dtype(a: NDArray) -> np.dtype[Any]:
    """Return the dtype that a view by `as_lanes` is computed in, which is also that of its factors."""
    return a.dtype if a.dtype in PLAIN else np.dtype(_COMPUTED_AS.get(a.dtype.type, a.dtype.type))


def pieces(*arrays: NDArray, fit: bool = False) -> Iterator[tuple[Any, ...]]:
    """Yield 1-D pieces of arrays that broadcast, in C order, and the position of their first element.

    The last array is written to. Its pieces are such that kernels can work on them: views if the array
    allows it, else a buffer that the iterator writes back. The same holds for the pieces of the others,
    but the first array has pieces that are read as they lie, unless `fit` is True.
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
    """Copy a part to its target, where kernels can work on it in place; return the target."""
    np.copyto(target, part)
    return target
