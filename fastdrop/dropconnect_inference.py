"""DropConnect's outputs over all masks: their moments, and the mean of an activation of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._rates import rate
from fastdrop.dropconnect import checked_array, dense_arrays
from fastdrop.random import Key, as_key_or_seed, natural
from fastdrop.variational import local_reparameterization


def drop_connect_moments(
    x: ArrayLike, weight: ArrayLike, p: float, *, bias: ArrayLike | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the mean and the variance that each output of `drop_connect` has over the masks.

    Parameters
    ----------
    x, weight, bias
        As in `drop_connect`.
    p : float
        Probability to drop, in [0, 1).

    Returns
    -------
    mean : ndarray of shape (n, features_out)
        ``x @ weight + bias``.
    variance : ndarray of shape (n, features_out)
        ``p / (1 - p) * (x**2 @ weight**2 + bias**2)``.

    Raises
    ------
    TypeError, ValueError
        As `drop_connect`, or if p is 1, where kept weights are infinite.

    References
    ----------
    Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013, algorithm 2, for weights
    that are scaled in training.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0], [1.0]])
    >>> fd.drop_connect_moments(x, weight, 0.5)
    (array([[5.]]), array([[13.]]))
    """
    x, weight = dense_arrays(x, weight)
    rate(p)
    if p >= 1:
        raise ValueError(f"p must be below 1 for the moments, got {p}; the variance is p / (1 - p)")
    mean, variance = x @ weight, np.square(x) @ np.square(weight)
    if bias is not None:
        bias = checked_array("bias", bias, weight.shape[1:], x.dtype)
        mean += bias
        variance += np.square(bias)
    variance *= float(p) / (1 - float(p))
    return mean, variance


def drop_connect_inference(
    x: ArrayLike,
    weight: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: ArrayLike | None = None,
    activation: Callable[[NDArray[Any]], NDArray[Any]],
    samples: int = 100,
) -> NDArray[Any]:
    """Return the mean of an activation of `drop_connect` over the masks, by normals of its moments.

    An output is a sum of as many independent terms as there are inputs, and so about normal if these are
    many and none of them outweighs the others.

    Parameters
    ----------
    x, weight, bias
        As in `drop_connect`.
    p : float
        Probability to drop, in [0, 1).
    key : Key or int
        As in `dropout`. Sample s takes the normals of ``key.fold_in(s)``.
    activation : callable
        Makes an array of one of shape (n, features_out).
    samples : int, default 100
        How many normals are drawn for each output. The mean's error falls with their square root.

    Returns
    -------
    ndarray
        Of the activation's shape and x's dtype. One sample is held at a time; they are summed in float64.

    Raises
    ------
    TypeError, ValueError
        As `drop_connect_moments`, or if samples is not an integer above 0.

    References
    ----------
    Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013, algorithm 2.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, weight = np.ones((1, 100)), np.full((100, 1), 0.01)
    >>> def relu(u):
    ...     return np.maximum(u - 1, 0)
    >>> relu(x @ weight)  # of the mean
    array([[0.]])
    >>> fd.drop_connect_inference(x, weight, 0.5, fd.Key(42), activation=relu, samples=1000).round(3)
    array([[0.04]])
    """
    if natural("samples", samples) == 0:
        raise ValueError("samples must be above 0, got 0")
    mean, variance = drop_connect_moments(x, weight, p, bias=bias)
    key = as_key_or_seed(key)
    total: Any = 0.0
    for sample in range(samples):
        draw = local_reparameterization(mean, variance, key.fold_in(sample))
        total = total + np.asarray(activation(draw), np.float64)
    return np.asarray(total / samples, mean.dtype)
