"""DropConnect: products with weights that are dropped, for each example anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import PLAIN, to_array
from fastdrop._rates import FULL, rate
from fastdrop.functional import dropout
from fastdrop.random import Key, as_key_or_seed

# Elements that are dropped at a time, and of how many examples: see benchmarks/dropconnect.py. Fewer cost
# calls, more leave the cache; one example at a time makes the products of backward dot products of vectors.
_BUFFER = 1 << 20
_EXAMPLES = 16


def drop_connect(
    x: ArrayLike,
    weight: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: ArrayLike | None = None,
    per_example: bool = True,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return ``x @ weight + bias`` with each weight and bias dropped with probability p, for each example.

    Parameters
    ----------
    x : array_like of shape (n, features_in)
        float32 or float64.
    weight : array_like of shape (features_in, features_out)
        Of x's dtype.
    p : float
        Probability to drop, in [0, 1].
    key : Key or int
        As in `dropout`.
    bias : array_like of shape (features_out,), optional
        Of x's dtype.
    per_example : bool, default True
        Draw for each example, rather than once for the batch.
    out : ndarray of shape (n, features_out), optional
        Where to write: of x's dtype, and free of overlap with the other arrays.

    Returns
    -------
    ndarray of shape (n, features_out)
        ``y[b] = x[b] @ dropped[b] + dropped_bias[b]``, where `dropped` is what `dropout` makes of the
        weights repeated to (n, features_in, features_out), and dropped_bias what it makes of the bias
        repeated to (n, features_out) under ``key.fold_in(0)``. The array of three axes never exists as
        a whole: its parts take about ``2**20`` elements, or one row of weights if that is longer. If not
        per_example the weights and the bias are dropped as they are, once.

    Raises
    ------
    TypeError
        If an array is neither float32 nor float64 or not of x's dtype, p is not real, or key is neither
        a Key nor an int.
    ValueError
        If shapes don't fit, p is outside [0, 1], or out overlaps another array.

    See Also
    --------
    drop_connect_inference : the mean of an activation over all masks.

    References
    ----------
    Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013, algorithm 1. There p is
    the probability to keep, and kept weights are not scaled.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, weight = np.ones((2, 3)), np.arange(6.0).reshape(3, 2)
    >>> fd.drop_connect(x, weight, 0.5, fd.Key(42))
    array([[12., 16.],
           [ 0., 12.]])
    >>> dropped = fd.dropout(np.broadcast_to(weight, (2, 3, 2)), 0.5, fd.Key(42))
    >>> (x[:, None] @ dropped)[:, 0]
    array([[12., 16.],
           [ 0., 12.]])
    """
    x, weight = dense_arrays(x, weight)
    arrays = [x, weight]
    if bias is not None:
        arrays.append(bias := checked_array("bias", bias, weight.shape[1:], x.dtype))
    per_example = _varies(p) and per_example
    y = _output(out, (len(x), weight.shape[1]), arrays)
    if per_example:
        _product(x, weight, p, key, y)
    else:
        np.matmul(x, dropout(weight, p, key), out=y)
    if bias is not None:
        repeated = np.broadcast_to(bias, y.shape) if per_example else bias
        y += dropout(repeated, p, _bias_key(key))
    return y


def drop_connect_backward(
    g: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: bool = False,
    per_example: bool = True,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Return the gradients of `drop_connect` with respect to x, the weights and the bias.

    Parameters
    ----------
    g : array_like of shape (n, features_out)
        Gradient with respect to the output, of x's dtype.
    x, weight, p, key, per_example
        As given to `drop_connect`.
    bias : bool, default False
        Whether there was a bias.

    Returns
    -------
    dx : ndarray of shape (n, features_in)
        ``dx[b] = dropped[b] @ g[b]``.
    dweight : ndarray of shape (features_in, features_out)
        The sum over b of ``np.outer(x[b], g[b])``, dropped as the weights were for b.
    dbias : ndarray of shape (features_out,), or None
        The sum over b of ``g[b]``, dropped as the bias was for b; None without a bias.

    Raises
    ------
    TypeError, ValueError
        As `drop_connect`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, weight = np.ones((2, 3)), np.arange(6.0).reshape(3, 2)
    >>> dx, dweight, dbias = fd.drop_connect_backward(np.ones((2, 2)), x, weight, 0.5, 42, bias=True)
    >>> dx
    array([[ 0., 10., 18.],
           [ 2.,  0., 10.]])
    >>> dweight
    array([[2., 2.],
           [2., 2.],
           [2., 4.]])
    >>> dbias
    array([0., 4.])
    """
    x, weight = dense_arrays(x, weight)
    g = checked_array("g", g, (len(x), weight.shape[1]), x.dtype)
    if _varies(p) and per_example:
        dx, dweight = _product_backward(g, x, weight, p, key)
        return dx, dweight, dropout(g, p, _bias_key(key)).sum(0) if bias else None
    dx, dweight = g @ dropout(weight, p, key).T, dropout(x.T @ g, p, key)
    return dx, dweight, dropout(g.sum(0), p, _bias_key(key)) if bias else None


def _product(
    x: NDArray[Any], weight: NDArray[Any], p: float, key: Key | SupportsIndex, y: NDArray[Any]
) -> None:
    """Each example times its own dropped weights, into y."""
    weight, y[...] = np.ascontiguousarray(weight), 0  # it is read for each example
    for examples, inputs, block in _dropped(np.broadcast_to(weight, (len(x), *weight.shape)), p, key):
        y[examples] += np.matmul(x[examples, None, inputs], block)[:, 0]


def _product_backward(
    g: NDArray[Any], x: NDArray[Any], weight: NDArray[Any], p: float, key: Key | SupportsIndex
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The gradients of `_product` with respect to x and the weights, both from dropped copies of g."""
    weight = np.ascontiguousarray(weight)
    dx, dweight = np.empty_like(x), np.zeros_like(weight)
    finite = np.isfinite(weight).all()
    for examples, inputs, block in _dropped(np.broadcast_to(g[:, None], (len(x), *weight.shape)), p, key):
        by_input = block.swapaxes(0, 1)
        dweight[inputs] += np.matmul(x[examples, inputs].T[:, None], by_input)[:, 0]
        if finite:
            dx[examples, inputs] = np.matmul(by_input, weight[inputs, :, None])[..., 0].T
    if not finite:  # where such a weight is dropped it must give 0, and a dropped g times it is NaN
        for examples, inputs, block in _dropped(np.broadcast_to(weight, (len(x), *weight.shape)), p, key):
            dx[examples, inputs] = np.matmul(block, g[examples, :, None])[..., 0]
    return dx, dweight


def _dropped(
    whole: NDArray[Any], p: float, key: Key | SupportsIndex
) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Parts of a 3-D array along its first two axes, dropped in a buffer, and which they are."""
    n, features_in, features_out = whole.shape
    inputs = _fitting(features_in, min(n, _EXAMPLES) * features_out)
    examples = _fitting(n, inputs * features_out)
    buffer = np.empty(examples * inputs * features_out, whole.dtype)
    for b in range(0, n, examples):
        for i in range(0, features_in, inputs):
            part = whole[b : b + examples, i : i + inputs]
            block = buffer[: part.size].reshape(part.shape)
            np.copyto(block, part)
            dropout(block, p, key, out=block, window=(whole.shape, (b, i, 0)))
            yield slice(b, b + examples), slice(i, i + inputs), block


def _fitting(rows: int, length: int) -> int:
    """How many of rows of a length fit the buffer, at least one."""
    return max(1, min(rows, _BUFFER // max(length, 1)))


def _varies(p: float) -> bool:
    """Whether masks differ: not where everything is kept, or everything is dropped."""
    return 0 < rate(p)[0] < FULL


def _bias_key(key: Key | SupportsIndex) -> Key:
    return as_key_or_seed(key).fold_in(0)


def dense_arrays(x: ArrayLike, weight: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """The input and the weights of a dense layer, checked."""
    inputs = checked_array("x", x, ("n", "features_in"))
    return inputs, checked_array("weight", weight, (inputs.shape[1], "features_out"), inputs.dtype)


def checked_array(
    name: str, given: ArrayLike, shape: tuple[int | str, ...], dtype: np.dtype[Any] | None = None
) -> NDArray[Any]:
    """An array checked to be of a shape, in which a name is any length, and of a dtype that products take."""
    got = np.asarray(given).dtype
    if got not in PLAIN:
        raise TypeError(f"{name} must be of float32 or float64, got {got}; use {name}.astype(np.float32)")
    if dtype is not None and got != dtype:
        raise TypeError(
            f"{name} must be of the others' dtype {dtype}, got {got}; use {name}.astype(np.{dtype})"
        )
    array = to_array(given)
    lengths = zip(shape, array.shape, strict=False)
    if array.ndim != len(shape) or any(want != n for want, n in lengths if not isinstance(want, str)):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} must have the shape ({wanted}), got {array.shape}")
    return array


def _output(out: NDArray[Any] | None, shape: tuple[int, ...], arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """A new array for a product, or out, checked."""
    dtype = arrays[0].dtype
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}; use np.empty({shape}, x.dtype)")
    if out.shape != shape or out.dtype != dtype:
        got = f"{out.dtype} {out.shape}"
        raise ValueError(f"out must be {dtype} {shape}, got {got}; use np.empty({shape}, x.dtype)")
    if any(np.may_share_memory(out, array) for array in arrays):
        raise ValueError(f"out must not overlap another array; use np.empty({shape}, x.dtype)")
    return out
