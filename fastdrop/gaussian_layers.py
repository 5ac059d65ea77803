"""Layers of Gaussian noise, multiplied and added."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastdrop.gaussian import (
    checked_std,
    gaussian_dropout,
    gaussian_noise,
    gaussian_noise_backward,
    std_of,
)
from fastdrop.layers import Dropout, NoiseLayer
from fastdrop.random import Key, Rng
from fastdrop.schedules import ScheduledRate


class GaussianDropout(Dropout):
    """Gaussian dropout: in training x is multiplied with normal noise of mean 1.

    Parameters
    ----------
    p : float or callable, default 0.5
        The rate, or a schedule of it, of the dropout that has the noise's variance p / (1 - p), in [0, 1).
    std : float, optional
        The noise's standard deviation, instead of p.
    alpha : float, optional
        The noise's variance, instead of p.
    rng
        As in `Dropout`.

    Attributes
    ----------
    p : float
        May be set between calls.
    std, alpha : float
        Standard deviation and variance of the noise.

    Raises
    ------
    TypeError, ValueError
        If p, std or alpha is not real, or outside its range, or more than one is given.

    See Also
    --------
    VariationalDropout : learns alpha.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.GaussianDropout(0.2, rng=42)
    >>> layer.alpha, layer.std
    (0.25, 0.5)
    >>> y = layer(np.ones(100_000))
    >>> round(float(y.mean()), 2), round(float(y.std()), 2)
    (1.0, 0.5)
    >>> np.array_equal(layer.backward(np.ones(100_000)), y)
    True
    """

    def __init__(
        self,
        p: ScheduledRate | None = None,
        *,
        std: float | None = None,
        alpha: float | None = None,
        rng: Rng = None,
    ) -> None:
        given = [name for name, value in (("p", p), ("std", std), ("alpha", alpha)) if value is not None]
        if len(given) > 1:
            raise ValueError(f"give one of p, std and alpha, got {' and '.join(given)}")
        if std is not None:
            alpha = float(checked_std(std)) ** 2
        if alpha is not None:
            variance = float(checked_std(alpha, "alpha"))
            p = variance / (1 + variance)
        super().__init__(0.5 if p is None else p, rng=rng)

    def _checked(self, value: float) -> float:
        std_of(value)
        return float(value)

    @property
    def alpha(self) -> float:
        """Variance of the noise."""
        return self.p / (1 - self.p)

    @property
    def std(self) -> float:
        """Standard deviation of the noise."""
        return math.sqrt(self.alpha)

    def _drop(self, x: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        return gaussian_dropout(x, p, key, out=out)


class GaussianNoise(NoiseLayer):
    """Additive normal noise in training.

    Parameters
    ----------
    std : float or callable, default 0.1
        Standard deviation, finite and not negative, or a function of the step.
    rng
        As in `Dropout`.

    References
    ----------
    Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7 (1995).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.GaussianNoise(0.1, rng=42)
    >>> y = layer(np.ones(100_000))
    >>> round(float(y.mean()), 2), round(float(y.std()), 2)
    (1.0, 0.1)
    >>> layer.backward(np.ones(100_000)).max()  # the gradient passes as it is
    np.float64(1.0)
    """

    _parameter = "std"

    def __init__(self, std: ScheduledRate = 0.1, *, rng: Rng = None) -> None:
        super().__init__(std, rng)

    def _checked(self, value: float) -> float:
        return float(checked_std(value))

    @property
    def std(self) -> float:
        """Standard deviation of the noise."""
        return float(self._value)

    @std.setter
    def std(self, std: ScheduledRate) -> None:
        self._set(std)

    def _drop(self, x: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        return gaussian_noise(x, p, key, out=out)

    def _drop_backward(self, g: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        return gaussian_noise_backward(g, p, key, out=out)
