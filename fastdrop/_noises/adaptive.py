"""Adaptive dropout: each unit has a rate that falls with its importance, its mean absolute activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import real_array, without_warnings
from fastdrop._arrays.numbers import rate, reals
from fastdrop._arrays.plan import Window
from fastdrop._noises._layer import ArrayLayer, Forward, RateLayer
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.bernoulli import dropout, dropout_backward
from fastdrop._stream.keys import Rng, integer, natural, shown
from fastdrop.schedules import ScheduledRate


@without_warnings
def importance_rates(importance: ArrayLike, p: float, *, max_rate: float = 0.95) -> NDArray[np.float64]:
    """Return a rate for each unit, which falls with its importance, of mean p.

    Parameters
    ----------
    importance : array_like of shape (units,)
        Finite numbers >= 0, for example the mean of a unit's absolute activations.
    p : float
        Mean of the rates, in [0, max_rate].
    max_rate : float, default 0.95
        The largest rate, in [0, 1].

    Returns
    -------
    ndarray of float64, shape (units,)
        ``min(max_rate, c / (1 + importance / mean(importance)))``, with c such that the mean is p: equal
        importance gives p everywhere, and a unit of none at most twice what an average one gets.

    Raises
    ------
    TypeError, ValueError
        If importance isn't 1-D, finite and not negative, or a rate is outside its range.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.importance_rates([1.0, 1.0, 2.0], 0.5).round(3)
    array([0.556, 0.556, 0.389])
    """
    rate(max_rate, "max_rate")
    rate(p)
    if p > max_rate:
        raise ValueError(f"p must be at most max_rate {max_rate}, got {p}; their mean can't reach it")
    found = reals("importance", importance)
    wrong = found[~((found >= 0) & np.isfinite(found))]
    if found.ndim != 1 or wrong.size:
        got = f"{wrong[0]} in an array" if found.ndim == 1 else f"shape {found.shape}"
        raise ValueError(f"importance must be 1-D, finite and >= 0, got {got}")
    mean = found.mean() if found.size else 0.0
    falling = 1 / (1 + found / mean) if mean > 0 else np.ones_like(found)
    return _clipped_to_mean(falling, float(p), float(max_rate))


def _clipped_to_mean(weights: NDArray[np.float64], mean: float, most: float) -> NDArray[np.float64]:
    """Return the weights times a constant, cut to `most`; the constant is such that their mean is `mean`."""
    ordered = np.sort(weights)[::-1]
    rest = np.cumsum(ordered[::-1])[::-1]
    # constants[k] is right if the k largest weights are cut: the others then share what is left of the sum.
    constants = (weights.size * mean - np.arange(weights.size) * most) / rest
    fitting = np.flatnonzero(constants * ordered <= most)
    return np.minimum(weights * constants[fitting[0]], most) if fitting.size else np.full_like(weights, most)


class AdaptiveDropout(ArrayLayer, RateLayer):
    """Dropout that spares important units: those whose activations are large on average.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    In training each forward first takes its input into the importance of the units, a running mean of
    absolute activations, then drops each unit at its own rate. The rates' mean is p, and no gradient goes
    through them.

    Parameters
    ----------
    p : float or callable, default 0.5
        Mean rate, in [0, max_rate], or a schedule of it.
    adaptation_rate : float, default 0.01
        Weight of a new input in the running mean, in (0, 1]. The mean is corrected for its start, so that
        the first input counts in full.
    max_rate : float, default 0.95
        The largest rate of a unit.
    axis : int, default -1
        Axis of the units: 1 for channels of images (n, c, h, w).
    rng
        As in `Dropout`.

    Attributes
    ----------
    importance : ndarray of float64, shape (units,), or None
        None before the first training forward. A unit whose mean activation isn't finite keeps its own.
    rates : ndarray of float64, shape (units,), or None
        Those of the last training forward. Each backward uses those of its own forward.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not as above; in forward, if x is complex or has another number of units.

    See Also
    --------
    importance_rates : how rates follow from importance.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.AdaptiveDropout(0.5, rng=42)
    >>> x = np.ones((1000, 3)) * [1.0, 1.0, 2.0]
    >>> y = layer(x)
    >>> layer.rates.round(3), (y == 0).mean(0).round(2)
    (array([0.556, 0.556, 0.389]), array([0.55, 0.58, 0.39]))
    """

    _function = "dropout(x, rates, key)"
    _gradient = "dropout_backward(g, layer.rates, layer.key)"

    def __init__(
        self,
        p: ScheduledRate = 0.5,
        *,
        adaptation_rate: float = 0.01,
        max_rate: float = 0.95,
        axis: SupportsIndex = -1,
        rng: Rng = None,
    ) -> None:
        rate(adaptation_rate, "adaptation_rate")
        if adaptation_rate == 0:
            raise ValueError("adaptation_rate must be in (0, 1], got 0; use Dropout for rates that stay")
        self.adaptation_rate, self.max_rate, self.axis = adaptation_rate, max_rate, integer("axis", axis)
        self.rates: NDArray[np.float64] | None = None
        self._mean: NDArray[np.float64] | None = None
        self._inputs = 0
        super().__init__(p, rng)

    def _checked(self, value: Any) -> Any:
        importance_rates((), value, max_rate=self.max_rate)
        return float(value)

    @property
    def importance(self) -> NDArray[np.float64] | None:
        """The running mean of each unit's absolute activations."""
        return None if self._mean is None else self._mean / self._weight(self._inputs)

    def _weight(self, inputs: int) -> float:
        """Return the sum of the weights that so many inputs have in the running mean."""
        return 1 - (1 - self.adaptation_rate) ** inputs

    def _with(self, x: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
        """Return the running mean and the number of inputs after one more input."""
        others = tuple(a for a in range(x.ndim) if a != self.axis % x.ndim)
        units = x.shape[self.axis]
        before = np.zeros(units) if self._mean is None else self._mean
        if before.size != units:
            raise ValueError(f"x must have {before.size} units along axis {self.axis}, got {units}")
        if not x.size:
            return before, max(self._inputs, 1)
        now = np.abs(x).mean(others, dtype=np.float64)
        now = np.where(np.isfinite(now), now, before / self._weight(max(self._inputs, 1)))
        return before + self.adaptation_rate * (now - before), self._inputs + 1

    @without_warnings
    def _begin(self, x: ArrayLike, window: Window | None = None, kept: Any = None) -> Forward:
        a = real_array(x, "adaptive dropout")
        if not -a.ndim <= self.axis < a.ndim:
            raise ValueError(f"x must have an axis {self.axis}, got shape {a.shape}")
        mean, inputs = self._with(a)
        rates = importance_rates(mean / self._weight(inputs), self._value, max_rate=self.max_rate)
        return super()._begin(a, window, (rates, mean, inputs))

    def _done(self, forward: Forward) -> None:
        rates, mean, inputs = forward.kept
        super()._done(forward._replace(kept=(rates,)))  # which may raise: a warning, made an error
        self.rates, self._mean, self._inputs = rates, mean, inputs

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        ndim = len(forward.shape)
        shape = [-1 if a == self.axis % ndim else 1 for a in range(ndim)]
        return dropout(x, forward.kept[0].reshape(shape), forward.key, out=out)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs for the same rates and masks, as plain JSON-able data."""
        with self._lock:
            mean = None if self._mean is None else self._mean.tolist()
            return super().state_dict() | {"mean": mean, "inputs": self._inputs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned; see `Dropout.load_state_dict`."""
        mean, inputs = self._running_mean(state)
        with self._lock:
            super().load_state_dict(state)
            self._mean, self._inputs, self.rates = mean, inputs, None

    def _arguments(self) -> dict[str, Any]:
        options = {"adaptation_rate": self.adaptation_rate, "max_rate": self.max_rate, "axis": self.axis}
        return super()._arguments() | options

    def _running_mean(self, state: Mapping[str, Any]) -> tuple[NDArray[np.float64] | None, int]:
        """Return the running mean and the number of inputs of a state, or raise an error."""
        given = state if isinstance(state, Mapping) else {}
        mean, inputs = given.get("mean"), given.get("inputs", 0)
        try:
            count = natural("inputs", inputs, 1 << 63)
            found = None if mean is None else reals("mean", mean).copy()
        except (TypeError, ValueError) as error:
            raise ValueError(f"state has a bad entry: {error}") from None
        if (found is not None) != (count > 0) or (found is not None and not self._usable(found, count)):
            wanted = "a mean of numbers >= 0, of a finite sum, for inputs > 0, and None for 0"
            raise ValueError(f"state must have {wanted}, got {shown(mean)} for {inputs}")
        return found, count

    def _usable(self, mean: NDArray[np.float64], inputs: int) -> bool:
        """Return whether a forward can make rates from a running mean."""
        with np.errstate(all="ignore"):
            importance = mean / self._weight(inputs)
            return mean.ndim == 1 and bool((importance >= 0).all()) and bool(np.isfinite(importance.sum()))


register(
    Noise(
        "adaptive_dropout",
        dropout,
        dropout_backward,
        dtypes=REAL,
        by_element=True,
        self_adjoint=True,
        layers=(AdaptiveDropout,),
        beside=(importance_rates,),
        moments="dropout",
        lacks={
            "CUDA": "the importance of the units is counted on the host",
            "torch module": "the importance of the units is counted by NumPy, outside any graph",
        },
    )
)
