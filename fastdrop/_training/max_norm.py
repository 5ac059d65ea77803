"""Max-norm regularization: a bound on the norm of the weights into each unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import real_array, target
from fastdrop._arrays.numbers import positive
from fastdrop._arrays.plan import Axes, axes_in

# The squares of weights above _BIG may be no floats; the greatest float divided by _UNIT is below it.
_BIG, _UNIT = 2.0**500, 2.0**600


def max_norm(weight: ArrayLike, c: float, *, axis: Axes = 0, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return the weights, with those into each unit scaled down to a Euclidean norm of at most c.

    To be called after each update; dropout allows larger steps with it.

    Parameters
    ----------
    weight : array_like, at least 1-D
        Finite, and of a real dtype that `dropout` takes.
    c : float
        Largest norm, above 0 and finite.
    axis : int or sequence of int, default 0
        Axes along which the weights into one unit lie: 0 for weights of shape (features_in,
        features_out), (1, 2, 3) for the kernels (channels_out, channels_in, h, w) of a convolution.
    out : ndarray, optional
        Where to write: of the weights' shape and dtype, and either the weights themselves or free of
        overlap.

    Returns
    -------
    ndarray
        ``weight * min(1, c / norm)``, computed in float64 and rounded once. Weights whose norm is at most
        c keep their bits.

    Raises
    ------
    TypeError
        If the weights are of another dtype, or c is not real.
    ValueError
        If c is not above 0 or not finite, an axis is out of range, or out doesn't fit.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 5.1.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.max_norm(np.array([[3.0, 0.3], [4.0, 0.4]]), 1.0)
    array([[0.6, 0.3],
           [0.8, 0.4]])
    """
    w, c = real_array(weight, "max_norm"), positive("c", c)
    y = target(out, w)
    axes = tuple(axes_in(axis, w.ndim, "axis"))
    wide = np.asarray(w, np.float64)
    unit: Any = 1.0
    if w.dtype == np.float64 and np.abs(wide).max(initial=0) > _BIG:
        unit = np.where(np.abs(wide).max(axes, keepdims=True) > _BIG, _UNIT, 1.0)  # of each vector its own
    norms = np.sqrt(np.square(wide if type(unit) is float else wide / unit).sum(axes, keepdims=True))
    most = c / unit
    y[...] = wide * (most / np.maximum(norms, most))  # most / most is 1, so short vectors keep their bits
    return y if out is None else out
