"""DropConnect: products with weights that are dropped, for each example anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import PLAIN, target, unmasked, without_warnings
from fastdrop._arrays.listed import Listed, Runs, numbers_of_rows
from fastdrop._arrays.numbers import FULL, flag, rate
from fastdrop._arrays.plan import Window, window_given, window_of
from fastdrop._noises._layer import ArrayLayer, Forward, RateLayer, unchanging
from fastdrop._noises._noise import PRODUCT, Noise, register
from fastdrop._noises.bernoulli import dropout
from fastdrop._noises.variational import local_reparameterization
from fastdrop._stream.keys import Key, Rng, as_key_or_seed, natural
from fastdrop.schedules import ScheduledRate

# So many weights are dropped at a time, of so many examples at most: benchmarks/drop_connect.py measures
# both. With fewer weights the calls cost more than their work, and more weights do not fit the cache. With
# one example at a time the matrix products of backward would become products of vectors, which are slow.
_BUFFER = 1 << 20
_EXAMPLES = 16


@without_warnings
def drop_connect(
    x: ArrayLike,
    weight: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: ArrayLike | None = None,
    per_example: bool = True,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
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
    window : (full_shape, origin), optional
        x is rows of a longer batch: ``((n, features_in), (row, 0))`` for those from a row on.
    rows : array_like of int, optional
        The number of each row of x, as in `dropout`: example i gets the weights of example ``rows[i]``.

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
    per_example = _varies(p) & flag("per_example", per_example)  # both raise errors
    examples = _examples(window_given(window, rows), x, weight.shape[1])
    y = _output(out, (len(x), weight.shape[1]), arrays)
    if per_example:
        _product(x, weight, p, key, examples, y)
    else:
        np.matmul(x, dropout(weight, p, key), out=y)
    if bias is not None:
        if per_example:
            own = examples.window(y.shape, y.shape)
            y += dropout(np.broadcast_to(bias, y.shape), p, _bias_key(key), window=own)
        else:
            y += dropout(bias, p, _bias_key(key))
    return y if out is None else out


@without_warnings
def drop_connect_backward(
    g: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: bool = False,
    per_example: bool = True,
    window: Window | None = None,
    rows: ArrayLike | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Return the gradients of `drop_connect` with respect to x, the weights and the bias.

    Parameters
    ----------
    g : array_like of shape (n, features_out)
        Gradient with respect to the output, of x's dtype.
    x, weight, p, key, per_example, window, rows
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
    bias, per_example = flag("bias", bias), _varies(p) & flag("per_example", per_example)
    examples = _examples(window_given(window, rows), x, weight.shape[1])
    if per_example:
        dx, dweight = _product_backward(g, x, weight, p, key, examples)
        own = examples.window(g.shape, g.shape)
        dbias = dropout(g, p, _bias_key(key), window=own).sum(0) if bias else None
        return dx, dweight, dbias
    dx, dweight = g @ dropout(weight, p, key).T, dropout(x.T @ g, p, key)
    return dx, dweight, dropout(g.sum(0), p, _bias_key(key)) if bias else None


class _Examples(NamedTuple):
    """Which examples of a full batch an input has: from the first on, or those with the numbers listed."""

    batch: int
    first: int
    listed: NDArray[np.int64] | None = None

    def window(self, whole: tuple[int, ...], block: tuple[int, ...], *origin: int) -> Window:
        """Return where a block of the examples' array lies, whose shape is `whole`, among all examples.

        The block is whole along the last axis.
        """
        first, *others = origin or (0,) * len(whole)
        if self.listed is None:
            return (self.batch, *whole[1:]), (self.first + first, *others)
        strides = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
        starts = self.listed[first : first + block[0]] * strides[0]
        starts += sum(o * s for o, s in zip(others, strides[1:], strict=True))
        return cast(Window, Runs.of_length(math.prod(block[1:]), starts))


def _examples(window: Window | None, x: NDArray[Any], features_out: int) -> _Examples:
    if isinstance(window, Listed):
        numbers = numbers_of_rows(window.rows, len(x), max(x.shape[1], 1) * features_out)
        # As in a full batch that is longer than the examples that are done together.
        return _Examples(_EXAMPLES, 0, numbers)
    if window is None:
        return _Examples(len(x), 0)
    full, origin = window_of(window, x.shape)
    if full[1] != x.shape[1]:
        raise ValueError(f"window must have x's {x.shape[1]} features, got {full[1]}; give whole rows")
    return _Examples(full[0], origin[0])


def _product(
    x: NDArray[Any],
    weight: NDArray[Any],
    p: float,
    key: Key | SupportsIndex,
    examples: _Examples,
    y: NDArray[Any],
) -> None:
    """Each example times its own dropped weights, into y."""
    weight, y[...] = np.ascontiguousarray(weight), 0  # made contiguous once, since each example reads it
    weights = np.broadcast_to(weight, (len(x), *weight.shape))
    for part, inputs, block in _dropped(weights, p, key, examples):
        y[part] += (x[part, None, inputs] @ block)[:, 0]


def _product_backward(
    g: NDArray[Any],
    x: NDArray[Any],
    weight: NDArray[Any],
    p: float,
    key: Key | SupportsIndex,
    examples: _Examples,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The gradients of `_product` with respect to x and the weights, both from dropped copies of g."""
    weight = np.ascontiguousarray(weight)
    gs, weights = (np.broadcast_to(a, (len(x), *weight.shape)) for a in (g[:, None], weight))
    dx, dweight = np.empty_like(x), np.zeros_like(weight)
    finite = np.isfinite(weight).all()
    for part, inputs, block in _dropped(gs, p, key, examples):
        by_input = block.swapaxes(0, 1)
        dweight[inputs] += (x[part, inputs].T[:, None] @ by_input)[:, 0]
        if finite:
            dx[part, inputs] = (by_input @ weight[inputs, :, None])[..., 0].T
    if not finite:  # a dropped weight must give 0, but an infinite one times a dropped g is NaN
        for part, inputs, block in _dropped(weights, p, key, examples):
            dx[part, inputs] = (block @ g[part, :, None])[..., 0]
    return dx, dweight


def _dropped(
    whole: NDArray[Any], p: float, key: Key | SupportsIndex, examples: _Examples
) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Parts of a 3-D array along its first two axes, dropped in a buffer, and which they are.

    How many inputs a part has depends on the whole batch, so that rows have the sums that they have there.
    """
    n, features_in, features_out = whole.shape
    inputs = _fitting(features_in, min(examples.batch, _EXAMPLES) * features_out)
    count = _fitting(n, inputs * features_out)
    buffer = np.empty(count * inputs * features_out, whole.dtype)
    for b in range(0, n, count):
        for i in range(0, features_in, inputs):
            part = whole[b : b + count, i : i + inputs]
            block = buffer[: part.size].reshape(part.shape)
            np.copyto(block, part)
            dropout(block, p, key, out=block, window=examples.window(whole.shape, block.shape, b, i, 0))
            yield slice(b, b + count), slice(i, i + inputs), block


def _fitting(rows: int, length: int) -> int:
    """Return how many rows of a length fit the buffer, which is at least one."""
    return max(1, min(rows, _BUFFER // max(length, 1)))


def _varies(p: float) -> bool:
    """Return whether examples have different masks, as they do unless all is kept or all is dropped."""
    return 0 < rate(p)[0] < FULL


def _bias_key(key: Key | SupportsIndex) -> Key:
    return as_key_or_seed(key).fold_in(0)


def dense_arrays(x: ArrayLike, weight: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the input and the weights of a dense layer as arrays, or raise an error."""
    inputs = checked_array("x", x, ("n", "features_in"))
    return inputs, checked_array("weight", weight, (inputs.shape[1], "features_out"), inputs.dtype)


def checked_array(
    name: str, given: ArrayLike, shape: tuple[int | str, ...], dtype: np.dtype[Any] | None = None
) -> NDArray[Any]:
    """An array checked to be of a shape, in which a name is any length, and of a dtype that products take."""
    array = unmasked(given)
    got = array.dtype
    if got not in PLAIN:
        raise TypeError(f"{name} must be of float32 or float64, got {got}; use {name}.astype(np.float32)")
    if dtype is not None and got != dtype:
        raise TypeError(
            f"{name} must be of the others' dtype {dtype}, got {got}; use {name}.astype(np.{dtype})"
        )
    wrong = [n for want, n in zip(shape, array.shape, strict=False) if want != n and type(want) is int]
    if wrong or array.ndim != len(shape):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name} must have the shape ({wanted}), got {array.shape}")
    return array


def _output(out: NDArray[Any] | None, shape: tuple[int, ...], arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Return `out` after a check, or a new array for a product."""
    y = target(out, np.empty(shape, arrays[0].dtype))
    if any(np.may_share_memory(y, array) for array in arrays):
        raise ValueError(f"out must not overlap another array; use np.empty({shape}, x.dtype)")
    return y


@without_warnings
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
    samples = natural("samples", samples, 1 << 63)
    if samples == 0:
        raise ValueError("samples must be above 0, got 0")
    mean, variance = drop_connect_moments(x, weight, p, bias=bias)
    key = as_key_or_seed(key)
    total: Any = 0.0
    for sample in range(samples):
        draw = local_reparameterization(mean, variance, key.fold_in(sample))
        total = total + np.asarray(activation(draw), np.float64)
    return np.asarray(total / samples, mean.dtype)


class DropConnect(ArrayLayer, RateLayer):
    """A dense layer whose weights are dropped in training, for each example anew.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    In evaluation it returns ``x @ weight + bias``, the mean of what it returns in training. The mean of an
    activation of that is another: `drop_connect_inference` computes it.

    The layer keeps references to its inputs until their backward, as the weights' gradient needs them:
    don't change them in place before that. The weights it refers to are the caller's: update them in place.
    If that is done between forward and backward, the gradient is that of the weights as they then are.

    In evaluation mode backward is that of the dense layer, also to the weights: of the forward before it,
    in that mode too, and one for each.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1].
    weight : ndarray of shape (features_in, features_out)
        float32 or float64. A pickle or deep copy of the layer has its own copy.
    bias : ndarray of shape (features_out,), optional
        Of the weights' dtype.
    per_example : bool, default True
        Draw for each example, rather than once for the batch.
    rng
        As in `Dropout`.

    Attributes
    ----------
    weight_grad : ndarray
        Gradient with respect to the weights, which `backward` adds to and `zero_grad` clears.
    bias_grad : ndarray or None
        The same for the bias.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not as in `Dropout`, or weight or bias is no ndarray, or of another dtype or shape.

    See Also
    --------
    fastdrop.drop_connect : the function under it.

    References
    ----------
    Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> weight = np.arange(6.0).reshape(3, 2)
    >>> layer = fd.DropConnect(0.5, weight=weight, rng=42)
    >>> y = layer(np.ones((2, 3)))
    >>> y
    array([[12., 16.],
           [ 0., 12.]])
    >>> dx = layer.backward(y)  # of the loss sum(y**2) / 2
    >>> weight -= 0.1 * layer.weight_grad
    >>> layer.zero_grad()
    >>> layer.eval()(np.ones((1, 3))).round(1)
    array([[ 1.2, -2.2]])
    >>> layer
    DropConnect(p=0.5, weight=float64 (3, 2), bias=None, per_example=True, rng=Key(42, draw=1))
    """

    _function = "drop_connect(x, weight, p, key)"
    _gradient = "drop_connect_backward(g, x, weight, p, layer.key)"
    _passes_in_evaluation = False

    def __init__(
        self,
        p: ScheduledRate = 0.5,
        *,
        weight: NDArray[Any],
        bias: NDArray[Any] | None = None,
        per_example: bool = True,
        rng: Rng = None,
    ) -> None:
        super().__init__(p, rng)
        for name, array in (("weight", weight), ("bias", bias)):
            if array is not None and not isinstance(array, np.ndarray):
                kind = type(array).__name__
                raise TypeError(f"{name} must be an ndarray, which the layer refers to, got {kind}")
        checked_array("weight", weight, ("features_in", "features_out"))
        if bias is not None:
            checked_array("bias", bias, weight.shape[1:], weight.dtype)
        self.weight, self.bias, self.per_example = weight, bias, flag("per_example", per_example)
        self.weight_grad = np.zeros_like(weight)
        self.bias_grad = None if bias is None else np.zeros_like(bias)

    def zero_grad(self) -> None:
        """Set the gradients to 0."""
        with self._lock:
            self.weight_grad.fill(0)
            if self.bias_grad is not None:
                self.bias_grad.fill(0)

    def forward(
        self,
        x: ArrayLike,
        training: bool | None = None,
        *,
        out: NDArray[Any] | None = None,
        window: Window | None = None,
        rows: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Return x times the weights plus the bias, which are dropped in training.

        Parameters
        ----------
        x : array_like of shape (n, features_in)
            Of the weights' dtype.
        training : bool, optional
            For this call alone; by default `self.training`.
        out : ndarray, optional
            As in `fastdrop.drop_connect`; written in evaluation too.
        window, rows
            As in `fastdrop.drop_connect`. They are of this call, and of the backward that belongs to it.

        Raises
        ------
        TypeError, ValueError
            If training is neither a bool nor None, or as `fastdrop.drop_connect`; the key is then not
            advanced.
        """
        return self._forward(x, training, out, unchanging(window, rows))

    __call__ = forward

    def _begin(self, x: ArrayLike, window: Window | None = None, kept: Any = None) -> Forward:
        inputs = unmasked(x)
        return super()._begin(inputs, window, inputs)._replace(shape=self._shape(inputs))

    def _shape(self, inputs: NDArray[Any]) -> tuple[int, ...]:
        """Return the shape of what forward returns."""
        return *inputs.shape[:1], self.weight.shape[1]

    def _evaluate(self, x: ArrayLike, out: NDArray[Any] | None) -> NDArray[Any]:
        inputs = unmasked(x)
        # With a rate of 0, all else is as in training.
        forward = Forward(self._key, 0.0, self._shape(inputs), kept=inputs)
        y = self._drop(x, forward, out)
        self._note_evaluation(forward)
        return y

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        return drop_connect(
            x, self.weight, forward.value, forward.key, bias=self.bias, out=out, **self._options(forward)
        )

    def _options(self, forward: Forward) -> dict[str, Any]:
        return {"per_example": self.per_example, "window": forward.window}

    def _drop_backward(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        own, bias = self._options(forward), self.bias is not None
        dx, dweight, dbias = drop_connect_backward(
            g, forward.kept, self.weight, forward.value, forward.key, bias=bias, **own
        )
        y = target(out, dx)
        np.copyto(y, dx)
        self.weight_grad += dweight
        if self.bias_grad is not None:
            self.bias_grad += dbias
        return y if out is None else out

    def __repr__(self) -> str:
        weight, bias = (None if a is None else f"{a.dtype} {a.shape}" for a in (self.weight, self.bias))
        options = f"weight={weight}, bias={bias}, per_example={self.per_example}"
        return f"{type(self).__name__}(p={self._arguments()['p']}, {options}, rng={self.key})"


register(
    Noise(
        "drop_connect",
        drop_connect,
        drop_connect_backward,
        dtypes=PRODUCT,
        layers=(DropConnect,),
        beside=(drop_connect_moments, drop_connect_inference),
        moments="drop_connect_moments",
        lacks={
            "CUDA": "its products are NumPy's",
            "torch function": "its products are NumPy's; there, drop the weights that a product takes",
            "torch module": "its products are NumPy's; there, drop the weights that a product takes",
        },
    )
)
