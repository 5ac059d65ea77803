"""Pure functions of (array, rate, key): the only validation and the only choice of backend."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop.random import Key, signed, stream

Window: TypeAlias = tuple[Sequence[int], Sequence[int]]

FULL = 1 << 32  # thresholds count 32-bit uniforms: dropped iff U(i) < round(p * FULL)
_DTYPES = frozenset({np.float32, np.float64})
# bits of ndarray.flags.num
_OWNED = 0x004
_READY = 0x101  # C-contiguous and aligned: the kernel can work on it as it lies in memory
_WRITABLE = _READY | 0x400
_BUFFER = 1 << 16  # elements of the buffer through which arrays that are not C-order go


def dropout(
    x: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return x with each element dropped with probability p and the others scaled by 1/(1 - p).

    Inverted Bernoulli dropout. The mask is a pure function of the key and of each element's C-order
    position, so nothing is stored: `dropout_backward` with the same key is the exact adjoint.

    Parameters
    ----------
    x : array_like of float32 or float64, any shape
        Strides, memory order and byte order don't change the mask.
    p : float
        Probability to drop, in [0, 1], exact to 2**-33.
    key : Key or int
        The same key gives the same mask; an int is the seed of a `Key`.
    out : ndarray, optional
        Where to write: of x's shape and dtype, and either x itself or free of overlap with it.
    window : (full_shape, origin), optional
        x is the block at `origin` of an array of `full_shape`, and gets the mask that it has there.

    Returns
    -------
    ndarray
        `out`, or a new C-order array. Dropped elements are +0.0 whatever x holds there; kept ones
        are ``x * s``, with s = 2**32 / (2**32 - round(p * 2**32)) rounded once to x's dtype.

    Raises
    ------
    TypeError
        If x has another dtype, p is not a real number, or key is neither a Key nor an int.
    ValueError
        If p is outside [0, 1] or NaN, or `out` or `window` doesn't fit x.

    See Also
    --------
    dropout_backward : its gradient.
    keep_mask : the mask itself.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10 for the scaling at training time.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout(np.ones(8, np.float32), 0.5, fd.Key(42))
    array([0., 0., 2., 2., 2., 2., 2., 2.], dtype=float32)
    >>> whole = fd.dropout(np.ones((4, 3)), 0.5, fd.Key(42))
    >>> lower = fd.dropout(np.ones((2, 3)), 0.5, fd.Key(42), window=((4, 3), (2, 0)))
    >>> np.array_equal(whole[2:], lower)
    True
    """
    if type(x) is not np.ndarray or x.dtype.type not in _DTYPES:
        x = _input(x)
    threshold, scale = rate(p)
    philox_key, draw = stream(key)
    y = np.empty(x.shape, x.dtype) if out is None else _output(out, x)
    if window is None:
        _drop(x, y, 0, threshold, scale, philox_key, draw)
    else:
        for part, target, start in _spans(x, y, window):
            _drop(part, target, start, threshold, scale, philox_key, draw)
    return y if out is None else out


def dropout_backward(
    g: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return the gradient of `dropout` with respect to its input.

    Dropout is linear and its mask is recomputed from the key: neither x, y nor a mask is needed.

    Parameters
    ----------
    g : array_like of float32 or float64
        Gradient with respect to the output of `dropout`, of the same shape as its input.
    p, key, out, window
        As given to `dropout`; `out` may be g.

    Returns
    -------
    ndarray
        ``g * s`` where the element was kept, +0.0 where it was dropped (also where g is not finite).

    Raises
    ------
    TypeError, ValueError
        As `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout_backward(np.full(4, 0.5), 0.75, key=7)
    array([0., 2., 0., 2.])
    """
    return dropout(g, p, key, out=out, window=window)


def keep_mask(
    shape: SupportsIndex | Sequence[SupportsIndex],
    p: float,
    key: Key | SupportsIndex,
    *,
    packed: bool = False,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return the mask that `dropout` applies: True where an element is kept.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array to which the mask belongs.
    p, key, window
        As in `dropout`.
    packed : bool, default False
        Return the bits in `numpy.packbits` order instead.

    Returns
    -------
    ndarray
        bool of the given shape, or uint8 of shape ``(ceil(size / 8),)`` if packed.

    Raises
    ------
    TypeError, ValueError
        As `dropout`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.keep_mask(8, 0.5, fd.Key(42))
    array([False, False,  True,  True,  True,  True,  True,  True])
    >>> fd.keep_mask(8, 0.5, fd.Key(42), packed=True)
    array([63], dtype=uint8)
    """
    threshold, _ = rate(p)
    philox_key, draw = stream(key)
    mask = np.ones(shape, np.uint8)
    for part, target, start in [(mask, mask, 0)] if window is None else _spans(mask, mask, window):
        _drop(part, target, start, threshold, 1.0, philox_key, draw)
    return np.packbits(mask) if packed else mask.view(np.bool_)


def _drop(
    x: NDArray, y: NDArray, start: int, threshold: int, scale: float, philox_key: int, draw: int
) -> None:
    """Drop the elements of x, whose indices run from `start` in C order, into y."""
    if not 0 < threshold < FULL:
        np.copyto(y, x if threshold == 0 else 0)
    elif x.flags.num & y.flags.num & _READY == _READY and x.dtype.isnative:
        _cpu().elements(x.ravel(), y.ravel(), start, threshold, scale, philox_key, draw)
    else:
        for part, target, first in _pieces(x, y):
            np.copyto(target, part)
            _cpu().elements(target, target, signed(start + first), threshold, scale, philox_key, draw)


@cache
def _cpu() -> ModuleType:
    """The CPU backend, imported at first use since Numba takes longer to import than NumPy."""
    from fastdrop import _cpu

    return _cpu


def _pieces(x: NDArray, y: NDArray) -> Iterator[tuple[NDArray, NDArray, int]]:
    """1-D pieces of x and y in C order, with the position of their first element.

    Those of y are fit for the kernel: views where y is, else a buffer that the iterator writes back.
    """
    with np.nditer(  # type: ignore[call-overload]
        [x, y],
        flags=["external_loop", "buffered", "delay_bufalloc", "zerosize_ok"],
        op_flags=[["readonly"], ["writeonly", "contig", "aligned", "nbo"]],
        order="C",
        buffersize=_BUFFER,
    ) as pieces:
        pieces.reset()
        first = 0
        for part, target in pieces:
            yield part, target, first
            first += part.size


def _spans(x: NDArray, y: NDArray, window: Window) -> Iterator[tuple[NDArray, NDArray, int]]:
    """Parts of x and y that are runs of consecutive elements of the full array, and where they start."""
    full, origin = _window(window, x.shape)
    strides = [math.prod(full[axis + 1 :]) for axis in range(x.ndim)]
    outer = x.ndim
    while outer > 1 and x.shape[outer - 1] == full[outer - 1]:
        outer -= 1
    outer = max(outer - 1, 0)
    first = sum(o * s for o, s in zip(origin, strides, strict=True))
    for place in np.ndindex(x.shape[:outer]):
        start = first + sum(i * s for i, s in zip(place, strides, strict=False))
        yield x[*place, ...], y[*place, ...], signed(start)


def _input(x: ArrayLike) -> NDArray[Any]:
    if type(x) is not np.ndarray:
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError("dropout takes no masked arrays; use x.filled(0) or x.data")
        x = np.asarray(x)
    if x.dtype.type not in _DTYPES:
        raise TypeError(f"dropout needs float32 or float64, got {x.dtype}; use x.astype(np.float32)")
    return x


def rate(p: float, name: str = "p") -> tuple[int, float]:
    """T = round(p * 2**32), the number of 32-bit uniforms that drop, and the scale of what is kept.

    p is checked here. The scale is that of the realised rate: 2**32 / (2**32 - T).
    """
    if type(p) is not float and not isinstance(p, (float, int, np.floating, np.integer)):
        raise TypeError(f"{name} must be a real number in [0, 1], got {type(p).__name__}; use float({name})")
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {p}")
    return _rate(float(p))


@lru_cache(maxsize=1024)
def _rate(p: float) -> tuple[int, float]:
    threshold = round(p * FULL)
    return threshold, FULL / max(FULL - threshold, 1)


def _output(out: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
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


def _same_elements(a: NDArray, b: NDArray) -> bool:
    return a.strides == b.strides and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]


def _overlaps_itself(a: NDArray) -> bool:
    """Whether two elements may share memory: true of any axis shorter than what it steps over."""
    reach = a.itemsize
    axes = zip(a.strides, a.shape, strict=True)
    for stride, length in sorted((abs(stride), length) for stride, length in axes if length > 1):
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False


def _window(window: Window, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
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
