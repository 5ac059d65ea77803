"""Pure functions of (array, rate, key): what layers and integrations are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import (
    PLAIN,
    Axes,
    Window,
    any_array,
    as_lanes,
    copy,
    lanes_dtype,
    output,
    own_mask,
    pieces,
    result,
    target,
    to_array,
    unmasked,
    unpacked,
)
from fastdrop._blocks import DROP, cpu, drop, fuse
from fastdrop._rates import Rate, rate
from fastdrop.random import Key, stream


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
    if type(x) is not np.ndarray or x.dtype not in PLAIN:
        x = any_array(x)
        y, plain = target(out, x), False
    else:
        y = np.empty(x.shape, x.dtype) if out is None else output(out, x)
        plain = shared_axes == () and window is None
    if plain and not isinstance(p, np.ndarray):  # the quick way for small calls
        threshold, scale = rate(p)
        philox_key, draw = stream(key)
        drop(x, y, 0, threshold, scale, philox_key, draw)
    else:
        fuse(DROP, x, y, p, key, shared_axes, window)
        return result(y, out)
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
    fuse(DROP, mask, mask, p, key, shared_axes, window)
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
    given = unmasked(mask)
    keep = unpacked(given, x) if packed else own_mask(given, x)
    return masked(x, keep, 1 / (1 - p) if p < 1 else 0.0, out)


def masked(x: NDArray, keep: NDArray, scale: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """X times a scale where a mask that broadcasts to it is not 0, else +0."""
    y = target(out, x)
    a, b = as_lanes(x), as_lanes(y)
    dtype = lanes_dtype(a)
    keep = np.broadcast_to(keep, x.shape).reshape(x.shape + (1,) * (a.ndim - x.ndim))
    for part, kept, piece, _ in pieces(a, keep, b):
        factors = np.multiply(kept, scale, dtype=dtype)
        v = copy(part, piece)
        cpu().units(v, v, v, piece, factors, 1, max(part.size, 1))
    return y if out is None else out
