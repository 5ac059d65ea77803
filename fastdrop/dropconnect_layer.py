"""DropConnect as a layer: a key, and references to the caller's weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import target
from fastdrop.dropconnect import checked_array, drop_connect, drop_connect_backward
from fastdrop.layers import Dropout
from fastdrop.random import Key, Rng
from fastdrop.schedules import ScheduledRate


class DropConnect(Dropout):
    """A dense layer whose weights are dropped in training, for each example anew.

    In evaluation it returns ``x @ weight + bias``, the mean of what it returns in training. The mean of an
    activation of that is another: `drop_connect_inference` computes it.

    The layer keeps a reference to its last input, which the weights' gradient needs: don't change that in
    place before backward. The weights it refers to are the caller's: update them in place. If that is done
    between forward and backward, the gradient is that of the weights as they then are.

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

    def __init__(
        self,
        p: ScheduledRate = 0.5,
        *,
        weight: NDArray[Any],
        bias: NDArray[Any] | None = None,
        per_example: bool = True,
        rng: Rng = None,
    ) -> None:
        super().__init__(p, rng=rng)
        for name, array in (("weight", weight), ("bias", bias)):
            if array is not None and not isinstance(array, np.ndarray):
                kind = type(array).__name__
                raise TypeError(f"{name} must be an ndarray, which the layer refers to, got {kind}")
        checked_array("weight", weight, ("features_in", "features_out"))
        if bias is not None:
            checked_array("bias", bias, weight.shape[1:], weight.dtype)
        self.weight, self.bias, self.per_example = weight, bias, per_example
        self.weight_grad = np.zeros_like(weight)
        self.bias_grad = None if bias is None else np.zeros_like(bias)
        self._last_x: ArrayLike = ()

    def zero_grad(self) -> None:
        """Set the gradients to 0."""
        self.weight_grad.fill(0)
        if self.bias_grad is not None:
            self.bias_grad.fill(0)

    def forward(
        self, x: ArrayLike, training: bool | None = None, *, out: NDArray[Any] | None = None
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

        Raises
        ------
        TypeError, ValueError
            As `fastdrop.drop_connect`; the key is then not advanced.
        """
        with self._turn:
            if self.training if training is None else training:
                y = super().forward(x, True, out=out)
            else:
                y = self._drop(x, 0.0, Key(0), out)
                self._last_shape, self._last_value = y.shape, 0.0
                self._last_seed, self._last_draw = 0, 0  # backward is that of training at p = 0
            self._last_x = x
            return y

    def _drop(self, x: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        return drop_connect(x, self.weight, p, key, bias=self.bias, per_example=self.per_example, out=out)

    def _drop_backward(self, g: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        has_bias = self.bias is not None
        dx, dweight, dbias = drop_connect_backward(
            g, self._last_x, self.weight, p, key, bias=has_bias, per_example=self.per_example
        )
        y = target(out, dx)
        np.copyto(y, dx)
        self.weight_grad += dweight
        if self.bias_grad is not None:
            self.bias_grad += dbias
        return y if out is None else out

    def __repr__(self) -> str:
        weight, bias = (None if a is None else f"{a.dtype} {a.shape}" for a in (self.weight, self.bias))
        arrays = f"weight={weight}, bias={bias}, per_example={self.per_example}"
        return f"{type(self).__name__}(p={self._shown}, {arrays}, rng={self.key})"
