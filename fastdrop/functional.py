"""Pure functions of (array, rate, key): what layers and integrations are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import (
    PLAIN,
    Axes,
    Window,
    as_lanes,
    copy,
    lanes_dtype,
    output,
    own_mask,
    pieces,
    to_array,
    unpacked,
)
from fastdrop._blocks import cpu, drop, drop_units
from fastdrop._rates import FULL, Rate, rate
from fastdrop.random import Key, natural, stream

SPATIAL_FORMATS = ("channels_first", "channels_last")


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
    if type(x) is not np.ndarray or x.dtype.type not in PLAIN:
        x = to_array(x)
    y = np.empty(x.shape, x.dtype) if out is None else output(out, x)
    if shared_axes != () or type(p) is np.ndarray or window is not None or x.dtype.type not in PLAIN:
        drop_units(x, y, p, key, shared_axes, window)
    else:
        threshold, scale = rate(p)  # type: ignore[arg-type]
        drop(x, y, 0, threshold, scale, *stream(key))
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
    drop_units(mask, mask, p, key, shared_axes, window)
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
    x = to_array(x)
    rate(p)
    given = np.asarray(mask)
    keep = unpacked(given, x) if packed else own_mask(given, x)
    return _masked(x, keep, 1 / (1 - p) if p < 1 else 0.0, out)


def _masked(x: NDArray, keep: NDArray, scale: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """X times a scale where a mask that broadcasts to it is not 0, else +0."""
    y = np.empty(x.shape, x.dtype) if out is None else output(out, x)
    a, b = as_lanes(x), as_lanes(y)
    dtype = lanes_dtype(a)
    keep = np.broadcast_to(keep, x.shape).reshape(x.shape + (1,) * (a.ndim - x.ndim))
    for part, kept, target, _ in pieces(a, keep, b):
        factors = np.multiply(kept, scale, dtype=dtype)
        cpu().units(copy(part, target), target, factors, 1, max(part.size, 1))
    return y if out is None else out


def drop_path(
    x: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    mode: str = "row",
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return x with whole samples dropped: stochastic depth of a residual branch.

    Parameters
    ----------
    x : array_like, at least 1-D
        Samples along the first axis, of a dtype that `dropout` takes.
    p : float or ndarray
        Probability to drop. For layer l of L the paper takes ``p_L * l / L``.
    key, out, window
        As in `dropout`.
    mode : {"row", "batch"}, default "row"
        Draw for each sample, or once for all.

    Returns
    -------
    ndarray
        As `dropout` with every axis shared but the first, or every axis.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if mode is another or x has no axis.

    See Also
    --------
    surviving_rows : which samples stay, so that the branch need not be computed for the others.

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.drop_path(np.ones((4, 3)), 0.5, fd.Key(7))
    array([[0., 0., 0.],
           [2., 2., 2.],
           [0., 0., 0.],
           [2., 2., 2.]])
    """
    axes = path_axes(np.ndim(x), mode)
    return dropout(x, p, key, shared_axes=axes, out=out, window=window)


def path_axes(ndim: int, mode: str) -> tuple[int, ...]:
    """The axes along which `drop_path` shares its draws."""
    if mode not in ("row", "batch"):
        raise ValueError(f'mode must be "row" or "batch", got {mode!r}')
    if ndim == 0:
        raise ValueError("drop_path needs samples along a first axis, got a 0-d array; use x[None]")
    return tuple(range(1 if mode == "row" else 0, ndim))


def drop_path_backward(
    g: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    mode: str = "row",
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return the gradient of `drop_path` with respect to its input: the same function of g.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    p, key, mode, out, window
        As given to `drop_path`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.drop_path_backward(np.ones((4, 1)), 0.5, fd.Key(7)).ravel()
    array([0., 2., 0., 2.])
    """
    return drop_path(g, p, key, mode=mode, out=out, window=window)


def surviving_rows(samples: int, p: float, key: Key | SupportsIndex) -> tuple[NDArray[np.intp], float]:
    """Return which samples `drop_path` keeps in row mode, and the scale of what is kept.

    Parameters
    ----------
    samples : int
        Length of the batch.
    p : float
        Probability to drop.
    key : Key or int
        As given to `drop_path`.

    Returns
    -------
    rows : ndarray of intp
        Indices of the samples that stay, ascending.
    scale : float
        1 / (1 - p) of the realised rate, by which `drop_path` multiplies them; 1 where p is 1.

    Examples
    --------
    A residual branch f that is computed for the surviving samples only:

    >>> import numpy as np, fastdrop as fd
    >>> x, f = np.ones((4, 3)), np.square
    >>> rows, scale = fd.surviving_rows(len(x), 0.5, fd.Key(7))
    >>> rows, scale
    (array([1, 3]), 2.0)
    >>> y = x.copy()
    >>> y[rows] += f(x[rows]) * scale
    >>> np.array_equal(y, x + fd.drop_path(f(x), 0.5, fd.Key(7)))
    True
    """
    threshold, scale = rate(p)
    return np.flatnonzero(keep_mask(samples, p, key)), 1.0 if threshold == FULL else scale


def drop_block(
    x: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    block_size: int = 7,
    shared_channels: bool = False,
    data_format: str = "channels_first",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return images with square blocks dropped, and the rest scaled to keep the mask's mean at 1.

    Parameters
    ----------
    x : array_like, 4-D
        Images, of a dtype that `dropout` takes.
    p : float
        The nominal rate. Blocks overlap, so that fewer elements are dropped: see Notes.
    key, out
        As in `dropout`. There is no window: the scale needs the whole mask.
    block_size : int, default 7
        Side of a block, at most that of the image along each axis.
    shared_channels : bool, default False
        Drop the same blocks in all channels of an image, rather than others in each.
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, h, w) or (n, h, w, c).

    Returns
    -------
    ndarray
        ``x * M * M.size / M.sum()``, with +0.0 where the mask M is 0.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if x isn't 4-D or an option isn't as above.

    Notes
    -----
    Blocks of height a and width b start at each of the (H - a + 1)(W - b + 1) places where they fit
    with probability gamma = p H W / (a b) / ((H - a + 1)(W - b + 1)), at most 1. An element that n
    starts cover is dropped with probability 1 - (1 - gamma)**n.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv
    1810.12890, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.drop_block(np.ones((1, 1, 5, 6)), 0.3, fd.Key(4), block_size=2)
    >>> (y[0, 0] != 0).astype(int)
    array([[1, 1, 1, 1, 0, 0],
           [1, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 1, 1],
           [0, 0, 1, 1, 1, 1],
           [1, 1, 1, 1, 1, 1]])
    >>> round(float(y.mean()), 12)
    1.0
    """
    x = to_array(x)
    mask = block_mask(x.shape, p, key, block_size, shared_channels, data_format)
    kept = np.count_nonzero(mask)
    return _masked(x, mask, mask.size / kept if kept else 0.0, out)


def drop_block_backward(
    g: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    block_size: int = 7,
    shared_channels: bool = False,
    data_format: str = "channels_first",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the gradient of `drop_block` with respect to its input: the same function of g.

    Parameters
    ----------
    g : array_like, 4-D
        Gradient with respect to the output.
    p, key, block_size, shared_channels, data_format, out
        As given to `drop_block`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> g = np.ones((1, 1, 5, 6))
    >>> dx = fd.drop_block_backward(g, 0.3, fd.Key(4), block_size=2)
    >>> np.array_equal(dx, fd.drop_block(g, 0.3, fd.Key(4), block_size=2))
    True
    """
    options: dict[str, Any] = {"block_size": block_size, "shared_channels": shared_channels}
    return drop_block(g, p, key, data_format=data_format, out=out, **options)


def block_mask(
    shape: tuple[int, ...],
    p: float,
    key: Key | SupportsIndex,
    block_size: int,
    shared_channels: bool,
    data_format: str,
) -> NDArray[np.bool_]:
    """The mask of `drop_block`, with one channel where they share it."""
    if data_format not in SPATIAL_FORMATS:
        raise ValueError(f"data_format must be one of {SPATIAL_FORMATS}, got {data_format!r}")
    if len(shape) != 4:
        raise ValueError(f"drop_block needs images of 4 axes, got shape {shape}; use x[None] for one image")
    size = natural("block_size", block_size)
    if size < 1:
        raise ValueError(f"block_size must be at least 1, got {size}")
    rate(p)
    last = data_format == "channels_last"
    height, width = axes = (1, 2) if last else (2, 3)
    starts, sides = list(shape), [min(size, shape[axis]) for axis in axes]
    if shared_channels:
        starts[3 if last else 1] = 1
    for axis, side in zip(axes, sides, strict=True):
        starts[axis] -= max(side - 1, 0)
    places = math.prod(starts[axis] for axis in axes)
    area = math.prod(sides)
    gamma = min(1.0, p * shape[height] * shape[width] / (area * places)) if area * places else 0.0
    dropped = ~keep_mask(starts, gamma, key)
    for axis, side in zip(axes, sides, strict=True):
        dropped = _dilated(dropped, axis, side)
    return ~dropped


def _dilated(seeds: NDArray[np.bool_], axis: int, side: int) -> NDArray[np.bool_]:
    """Whether any of the last `side` places along an axis is a seed, with side - 1 more places."""
    length = seeds.shape[axis]
    shape = tuple(n + max(side - 1, 0) if a == axis else n for a, n in enumerate(seeds.shape))
    grown = np.zeros(shape, np.bool_)
    for shift in range(side):
        part = tuple(slice(shift, shift + length) if a == axis else slice(None) for a in range(len(shape)))
        grown[part] |= seeds
    return grown
