"""Pure functions of (array, rate, key): the only validation and the only choice of backend."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop.random import TILE, Key, signed, stream

Window: TypeAlias = tuple[Sequence[int], Sequence[int]]
Axes: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Rate: TypeAlias = float | NDArray[Any]

FULL = 1 << 32  # thresholds count 32-bit uniforms: dropped iff U(i) < round(p * FULL)
_PLAIN = frozenset({np.float32, np.float64})  # what the kernels take as it is
_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64", "complex64", "complex128"})
# bits of ndarray.flags.num
_OWNED = 0x004
_READY = 0x101  # C-contiguous and aligned: the kernel can work on it as it lies in memory
_WRITABLE = _READY | 0x400
_UNITS = 1 << 16  # whose factors stay in the cache
_BUFFER = 1 << 16  # elements of the buffer through which arrays that are not C-order go


def dropout(
    x: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return x with each element dropped with probability p and the others scaled by 1/(1 - p).

    Inverted Bernoulli dropout. The mask is a pure function of the key and of each element's C-order
    position, so nothing is stored: `dropout_backward` with the same key is the exact adjoint.

    Parameters
    ----------
    x : array_like, any shape
        float16, bfloat16 (of ml_dtypes), float32, float64, complex64 or complex128. Strides, memory
        order, byte order and dtype don't change the mask. 16-bit floats are computed in float32 and
        rounded once.
    p : float or ndarray
        Probability to drop, in [0, 1], exact to 2**-33. An array must broadcast to the mask's shape:
        x's, with length 1 along the shared axes.
    key : Key or int
        The same key gives the same mask; an int is the seed of a `Key`.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one draw: the spatial axes for spatial dropout, time for
        temporal dropout. The mask's index is then the position in the mask's shape.
    out : ndarray, optional
        Where to write: of x's shape and dtype, and either x itself or free of overlap with it.
    window : (full_shape, origin), optional
        x is the block at `origin` of an array of `full_shape`, and gets the mask that it has there.
        An array p belongs to the block.

    Returns
    -------
    ndarray
        `out`, or a new C-order array. Dropped elements are +0.0 whatever x holds there; kept ones
        are ``x * s``, with s = 2**32 / (2**32 - round(p * 2**32)) rounded once to x's dtype.

    Raises
    ------
    TypeError
        If x has another dtype, p is not real, or key is neither a Key nor an int.
    ValueError
        If p is outside [0, 1] or NaN or doesn't broadcast, an axis is out of range or repeated, or
        `out` or `window` doesn't fit x.

    See Also
    --------
    dropout_backward : its gradient.
    keep_mask : the mask itself.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10 for the scaling at training time. Tompson et al., "Efficient Object
    Localization Using Convolutional Networks", arXiv 1411.4280, section 3 for shared draws.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout(np.ones(8, np.float32), 0.5, fd.Key(42))
    array([0., 0., 2., 2., 2., 2., 2., 2.], dtype=float32)
    >>> whole = fd.dropout(np.ones((4, 3)), 0.5, fd.Key(42))
    >>> lower = fd.dropout(np.ones((2, 3)), 0.5, fd.Key(42), window=((4, 3), (2, 0)))
    >>> np.array_equal(whole[2:], lower)
    True
    >>> fd.dropout(np.ones((2, 4, 3)), 0.5, fd.Key(42), shared_axes=1)[:, :2]
    array([[[0., 0., 2.],
            [0., 0., 2.]],
           [[2., 2., 2.],
            [2., 2., 2.]]])
    """
    if type(x) is not np.ndarray or x.dtype.type not in _PLAIN:
        x = _input(x)
    y = np.empty(x.shape, x.dtype) if out is None else _output(out, x)
    if shared_axes != () or type(p) is np.ndarray or window is not None or x.dtype.type not in _PLAIN:
        _drop_units(x, y, p, key, shared_axes, window)
    else:
        threshold, scale = rate(p)  # type: ignore[arg-type]
        _drop(x, y, 0, threshold, scale, *stream(key))
    return y if out is None else out


def dropout_backward(
    g: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return the gradient of `dropout` with respect to its input.

    Dropout is linear and its mask is recomputed from the key: neither x, y nor a mask is needed.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output of `dropout`, of the same shape as its input.
    p, key, shared_axes, out, window
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
    return dropout(g, p, key, shared_axes=shared_axes, out=out, window=window)


def keep_mask(
    shape: SupportsIndex | Sequence[SupportsIndex],
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    packed: bool = False,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return the mask that `dropout` applies: True where an element is kept.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array to which the mask belongs.
    p, key, shared_axes, window
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
    mask = np.ones(shape, np.uint8)
    _drop_units(mask, mask, p, key, shared_axes, window)
    return np.packbits(mask) if packed else mask.view(np.bool_)


def apply_mask(
    x: ArrayLike, mask: ArrayLike, p: float, *, packed: bool = False, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return x dropped by a mask of your own: kept elements times 1/(1 - p), the others +0.0.

    Parameters
    ----------
    x : array_like, any shape
        Of a dtype that `dropout` takes.
    mask : array_like of bool or uint8
        True or nonzero where x is kept; broadcastable to x. If packed, its bits as `numpy.packbits`
        orders them, flat: uint8 of shape ``(ceil(x.size / 8),)``.
    p : float
        The probability to drop that the mask was drawn with, in [0, 1].
    packed : bool, default False
        Whether the mask is packed.
    out : ndarray, optional
        As in `dropout`.

    Returns
    -------
    ndarray
        ``x * (1 / (1 - p))`` where kept, the factor rounded once to x's precision. That equals ONNX's
        ``mask * x * scale``, but +0.0 where that has -0.0 or NaN in dropped elements.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if the mask is of another dtype or doesn't fit x.

    References
    ----------
    Open Neural Network Exchange, operator Dropout, version 13.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.apply_mask(np.arange(4.0), [True, False, True, True], 0.5)
    array([0., 0., 4., 6.])
    >>> fd.apply_mask(np.arange(4.0), np.array([0b10110000], np.uint8), 0.5, packed=True)
    array([0., 0., 4., 6.])
    """
    x = _input(x)
    rate(p)
    y = np.empty(x.shape, x.dtype) if out is None else _output(out, x)
    keep = _unpacked(np.asarray(mask), x) if packed else _own_mask(np.asarray(mask), x)
    a, b = _as_lanes(x), _as_lanes(y)
    dtype = _lanes_dtype(a)
    scale = dtype.type(1 / (1 - p) if p < 1 else 0)
    keep = np.broadcast_to(keep, x.shape).reshape(x.shape + (1,) * (a.ndim - x.ndim))
    for part, kept, target, _ in _pieces(a, keep, b):
        _cpu().units(_copy(part, target), target, np.multiply(kept, scale, dtype=dtype), 1, max(part.size, 2))
    return y if out is None else out


def _own_mask(mask: NDArray, x: NDArray) -> NDArray:
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


def _unpacked(mask: NDArray, x: NDArray) -> NDArray:
    length = -(-x.size // 8)
    if mask.dtype != np.uint8 or mask.shape != (length,):
        got = f"{mask.dtype} {mask.shape}"
        raise ValueError(f"a packed mask for {x.size} elements must be uint8 ({length},), got {got}")
    return np.unpackbits(mask, count=x.size).reshape(x.shape)


def _drop(
    x: NDArray, y: NDArray, start: int, threshold: int, scale: float, philox_key: int, draw: int
) -> None:
    """Drop the elements of x, whose indices run from `start` in C order, into y."""
    if not 0 < threshold < FULL:
        np.copyto(y, x if threshold == 0 else 0)
    elif _ready(x, y):  # the quick way for small calls
        _cpu().elements(x.ravel(), y.ravel(), start, threshold, scale, philox_key, draw)
    else:
        for part, target, first in _flat(x, y):
            _cpu().elements(part, target, signed(start + first), threshold, scale, philox_key, draw)


@cache
def _cpu() -> ModuleType:
    """The CPU backend, imported at first use since Numba takes longer to import than NumPy."""
    from fastdrop import _cpu

    return _cpu


def _pieces(*arrays: NDArray) -> Iterator[tuple[Any, ...]]:
    """1-D pieces of arrays that broadcast, in C order, and the position of their first element.

    The last array is written to. Its pieces are fit for the kernels: views where it is, else a buffer
    that the iterator writes back. So are those of all but the first, which is read as it lies.
    """
    fit = ["contig", "aligned", "nbo"]
    flags = [["readonly"], *[["readonly", *fit]] * (len(arrays) - 2), ["writeonly", *fit]]
    with np.nditer(  # type: ignore[call-overload]
        arrays,
        flags=["external_loop", "buffered", "delay_bufalloc", "zerosize_ok"],
        op_flags=flags,
        order="C",
        buffersize=_BUFFER,
    ) as pieces:
        pieces.reset()
        first = 0
        for parts in pieces:
            yield *parts, first
            first += parts[0].size


def _copy(part: NDArray, target: NDArray) -> NDArray:
    """The part in its target, where kernels can work on it in place."""
    np.copyto(target, part)
    return target


def _ready(x: NDArray, y: NDArray) -> bool:
    """Whether the kernels can work on x and y as they lie in memory."""
    return bool(x.flags.num & y.flags.num & _READY == _READY) and x.dtype.isnative


def _flat(x: NDArray, y: NDArray) -> Iterator[tuple[NDArray, NDArray, int]]:
    """1-D parts of x and y for the kernels, the whole where possible, and their first position."""
    if _ready(x, y):
        yield x.ravel(), y.ravel(), 0
        return
    for part, target, first in _pieces(x, y):
        yield _copy(part, target), target, first


def _drop_units(
    x: NDArray, y: NDArray, p: Rate, key: Key | SupportsIndex, shared_axes: Axes, window: Window | None
) -> None:
    """Drop x into y with draws shared along axes, rates by element, a window, or another dtype."""
    full, origin = _window((x.shape, (0,) * x.ndim) if window is None else window, x.shape)
    shared = _axes(shared_axes, x.ndim)
    mask_shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
    philox_key, draw = stream(key)
    a, b = _as_lanes(x), _as_lanes(y)
    dtype = _lanes_dtype(a)
    thresholds, scales = _rates(p, mask_shape, dtype)
    place = _Place(
        [1 if axis in shared else n for axis, n in enumerate(full)],
        [0 if axis in shared else o for axis, o in enumerate(origin)],
    )
    if a.ndim > x.ndim:  # real and imaginary parts share their draw
        place, shared = _Place([*place.full, 1], [*place.origin, 0]), {*shared, x.ndim}
        thresholds, scales = (r[..., None] if isinstance(r, np.ndarray) else r for r in (thresholds, scales))
    if not shared:
        _drop_block(a, b, thresholds, scales, place, philox_key, draw)
        return

    for rows in _blocks(a.shape, math.prod(mask_shape), shared):
        part, target, moved = a[rows], b[rows], place.moved(0 if 0 in shared else rows.start)
        shape = tuple(1 if axis in shared else n for axis, n in enumerate(part.shape))
        t, s = (r[rows] if isinstance(r, np.ndarray) and 0 not in shared else r for r in (thresholds, scales))
        factors = np.ones(shape, dtype)
        _drop_block(factors, factors, t, s, moved, philox_key, draw)
        _spread(part, factors, target)


def _blocks(shape: tuple[int, ...], units: int, shared: set[int]) -> list[slice]:
    """Slices along the first axis whose factors stay in the cache; one where that axis is shared."""
    step = shape[0] if 0 in shared else max(1, _UNITS * shape[0] // max(units, 1))
    return [slice(i, min(i + step, shape[0])) for i in range(0, shape[0], max(step, 1))]


class _Place(NamedTuple):
    """Where a block lies in a full array."""

    full: list[int]
    origin: list[int]

    def moved(self, rows: int) -> _Place:
        return _Place(self.full, [self.origin[0] + rows, *self.origin[1:]])

    def runs(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Places in a block of a shape from which on indices are consecutive, and the first index."""
        strides = [math.prod(self.full[axis + 1 :]) for axis in range(len(shape))]
        outer = len(shape)
        while outer > 1 and shape[outer - 1] == self.full[outer - 1]:
            outer -= 1
        first = sum(o * s for o, s in zip(self.origin, strides, strict=True))
        for place in np.ndindex(shape[: max(outer - 1, 0)]):
            yield place, first + sum(i * s for i, s in zip(place, strides, strict=False))


def _drop_block(
    x: NDArray, y: NDArray, thresholds: Any, scales: Any, place: _Place, philox_key: int, draw: int
) -> None:
    """Drop a block of a bigger array into y, with one rate or one for each element."""
    for at, start in place.runs(x.shape):
        run: Any = (*at, ...)
        if isinstance(thresholds, np.ndarray):
            _drop_by(x[run], y[run], thresholds[run], scales[run], start, philox_key, draw)
        else:
            _drop(x[run], y[run], signed(start), thresholds, scales, philox_key, draw)


def _drop_by(
    x: NDArray, y: NDArray, thresholds: NDArray, scales: NDArray, start: int, philox_key: int, draw: int
) -> None:
    """As `_drop` with rates that have x's shape."""
    repeated = 0  # leading axes along which the rates repeat
    while repeated < x.ndim and (thresholds.strides[repeated] == 0 or x.shape[repeated] == 1):
        repeated += 1
    period = math.prod(x.shape[repeated:])
    if repeated and x.size and period <= _BUFFER:
        cycles = [np.resize(rates[(0,) * repeated], period + TILE) for rates in (thresholds, scales)]
        for part, target, first in _flat(x, y):
            at = signed(start + first)
            _cpu().elements_by(part, target, *cycles, period, first % period, at, philox_key, draw)
        return
    for part, t, s, target, first in _pieces(x, thresholds, scales, y):
        at, size = signed(start + first), max(part.size, 1)
        _cpu().elements_by(_copy(part, target), target, t, s, size, 0, at, philox_key, draw)


def _spread(x: NDArray, factors: NDArray, y: NDArray) -> None:
    """Multiply x by factors that broadcast to it, into y; 0 gives +0."""
    if not _ready(x, y):
        for part, f, target, _ in _pieces(x, factors, y):
            _cpu().units(_copy(part, target), target, f, 1, max(part.size, 2))
        return
    lead, shared, inner = _collapsed(x.shape, factors.shape)
    rows = np.broadcast_to(factors, x.shape[:lead] + factors.shape[lead:])
    for at in np.ndindex(x.shape[:lead]):
        _cpu().units(x[at].ravel(), y[at].ravel(), rows[at].ravel(), shared, inner)


def _collapsed(shape: tuple[int, ...], units: tuple[int, ...]) -> tuple[int, int, int]:
    """How many axes lead the last three runs of axes (drawn, shared, drawn), and the last two's lengths."""
    axis, lengths = len(shape), [1, 1]
    for run in (1, 0):
        while axis and (shape[axis - 1] == 1 or (shape[axis - 1] == units[axis - 1]) == run):
            axis -= 1
            lengths[run] *= shape[axis]
    while axis and shape[axis - 1] == units[axis - 1]:
        axis -= 1
    return axis, lengths[0], lengths[1]


_CARRIERS = {"float16": np.dtype(np.int16), "bfloat16": np.dtype(np.uint16)}
_LANES = {np.int16: np.float32, np.uint16: np.float32}


def _as_lanes(a: NDArray) -> NDArray:
    """A view as the kernels take it: 16-bit floats as integers, complex ones with an axis of two reals."""
    if a.dtype.kind == "c":
        return a[..., None].view(np.dtype(f"f{a.itemsize // 2}").newbyteorder(a.dtype.byteorder))
    carrier = _CARRIERS.get(a.dtype.name)
    return a if carrier is None else a.view(carrier.newbyteorder(a.dtype.byteorder))


def _lanes_dtype(a: NDArray) -> np.dtype[Any]:
    """The native dtype that an array has in lanes: that of its factors."""
    return np.dtype(_LANES.get(a.dtype.type, a.dtype.type))


def _rates(p: Rate, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Threshold and scale: two numbers, or for an array p two arrays of the mask's shape."""
    counting = dtype.type is np.uint8  # a mask is counted, not scaled
    if not isinstance(p, np.ndarray):
        threshold, scale = rate(p)
        return threshold, 1.0 if counting else scale
    if p.dtype.kind not in "fiu":
        raise TypeError(f"p must be an array of real numbers in [0, 1], got {p.dtype}; use p.astype(float)")
    wrong = p[~((p >= 0) & (p <= 1))]
    if wrong.size:
        raise ValueError(f"p must be in [0, 1], got {wrong.flat[0]} in an array")
    try:
        fits = np.broadcast_shapes(p.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"p must broadcast to the mask's shape {shape}, got {p.shape}")
    counts = np.rint(p.astype(np.float64) * FULL)
    scales = np.where(counts < FULL, 1 if counting else FULL / np.maximum(FULL - counts, 1), 0).astype(dtype)
    thresholds = np.minimum(counts, FULL - 1).astype(np.uint32)
    return np.broadcast_to(thresholds, shape), np.broadcast_to(scales, shape)


def _axes(axes: Axes, ndim: int) -> set[int]:
    try:
        numbers = (
            [operator.index(axes)] if isinstance(axes, SupportsIndex) else [operator.index(a) for a in axes]
        )
    except TypeError:
        raise TypeError(f"shared_axes must be an int or a tuple of ints, got {axes!r}") from None
    found = {axis + ndim if axis < 0 else axis for axis in numbers}
    if not found <= set(range(ndim)):
        raise ValueError(f"shared_axes must be in [-{ndim}, {ndim}) for an array of {ndim} axes, got {axes}")
    if len(found) < len(numbers):
        raise ValueError(f"shared_axes must not repeat an axis, got {axes}")
    return found


def _input(x: ArrayLike) -> NDArray[Any]:
    if type(x) is not np.ndarray:
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError("dropout takes no masked arrays; use x.filled(0) or x.data")
        x = np.asarray(x)
    if x.dtype.name not in _DTYPES:
        allowed = "float16, bfloat16, float32, float64, complex64 or complex128"
        raise TypeError(f"dropout needs {allowed}, got {x.dtype}; use x.astype(np.float32)")
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
