"""Standout: dropout by a network that shares the layer's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import real_array, target
from fastdrop._arrays.numbers import flag, holds_reals, real
from fastdrop._arrays.plan import Indices, Pass, Window, window_given
from fastdrop._backends import cpu, gated, planned
from fastdrop._noises._layer import Forward, NoiseLayer, passed, unchanging
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._stream.keys import Key, Rng

# Alpha and beta from here on take float64.
_LARGE = 1e30
_MOST = np.finfo(np.float64).max


def standout_dropout(
    h: ArrayLike,
    a: ArrayLike,
    key: Key | SupportsIndex,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    inverted: bool = False,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return h with each element kept with a probability that its pre-activation tells.

    Parameters
    ----------
    h : array_like, any shape
        Activations, of a real dtype that `dropout` takes.
    a : array_like of real numbers, h's shape
        Pre-activations of the same units, ``x @ weight``: the standout network has the layer's own weights.
    key : Key or int
        As in `dropout`.
    alpha, beta : float
        The probability to keep is ``sigmoid(alpha * a + beta)``; replications differ in where beta stands.
    inverted : bool, default False
        Divide what is kept by its probability, so that h is the mean. The paper doesn't.
    out, window, rows, indices, offsets
        As in `dropout`; out may be h, and a belongs to the block.

    Returns
    -------
    ndarray
        h, or that divided, where it is kept, and +0.0 elsewhere. A gradient isn't taken through the
        probabilities, as in the paper's algorithm 1.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if a is of another shape, not real or not finite, or alpha or beta isn't finite.

    See Also
    --------
    standout_keep_prob : the probabilities, with which the paper multiplies in evaluation.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Ba and Frey, "Adaptive Dropout for Training Deep Neural Networks", NeurIPS 2013, section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> a = np.array([-9.0, -1.0, 0.0, 1.0, 9.0, 9.0])
    >>> fd.standout_dropout(np.ones(6), a, fd.Key(42))
    array([0., 0., 1., 1., 1., 1.])
    """
    inverted = inverted is not False and flag("inverted", inverted)
    window = window_given(window, rows, indices, offsets)
    x = real_array(h, "standout")
    pre, slope, shift = _gate(a, alpha, beta)
    _check_shape(pre, x)
    plan = planned(x, out, (), window)
    gated(Pass(scale=None if inverted else 1.0), plan, pre, slope, shift, key)
    return plan.result  # type: ignore[no-any-return]


def standout_dropout_backward(
    g: ArrayLike,
    a: ArrayLike,
    key: Key | SupportsIndex,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    inverted: bool = False,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the gradient of `standout_dropout` with respect to h.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    a, key, alpha, beta, inverted, window, rows, indices, offsets
        As given to `standout_dropout`.
    out : ndarray, optional
        Where to write; may be g.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.standout_dropout_backward(np.ones(4), np.zeros(4), fd.Key(42))
    array([0., 0., 1., 1.])
    """
    window = window_given(window, rows, indices, offsets)
    options: dict[str, Any] = {"alpha": alpha, "beta": beta, "inverted": inverted}
    return standout_dropout(g, a, key, **options, out=out, window=window)


def standout_keep_prob(a: ArrayLike, *, alpha: float = 1.0, beta: float = 0.0) -> NDArray[np.float64]:
    """Return the probability with which `standout_dropout` keeps each unit.

    Parameters
    ----------
    a : array_like of real numbers
        Pre-activations.
    alpha, beta : float
        Finite.

    Returns
    -------
    ndarray of float64
        ``sigmoid(alpha * a + beta)``.

    Raises
    ------
    TypeError, ValueError
        If a number isn't real or not finite.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.standout_keep_prob([-1.0, 0.0, 1.0], alpha=2.0, beta=1.0).round(3)
    array([0.269, 0.731, 0.953])
    """
    pre, slope, shift = _gate(a, alpha, beta)
    # sigmoid(v) = 1 - sigmoid(-v), of which `gate` makes the latter
    kept: NDArray[np.float64] = cpu().gate(pre.astype(np.float64), (-slope, -shift))
    return kept


def _gate(a: ArrayLike, alpha: float, beta: float) -> tuple[NDArray[Any], float, float]:
    """Return pre-activations as the kernels of standout take them, alpha and beta; or raise an error.

    They are float64 unless float32 has enough digits for them.
    """
    given = np.asarray(a)
    if not holds_reals(given.dtype):
        raise TypeError(f"a must be of real numbers, got {given.dtype}; use a.astype(np.float32)")
    slope, shift = _finite("alpha", alpha), _finite("beta", beta)
    kind, size = given.dtype.kind, given.dtype.itemsize
    if size > 8:  # a long double, which may be beyond all others
        if not np.isfinite(given).all():
            raise ValueError(f"a must be finite, got {given[~np.isfinite(given)].flat[0]}")
        given = np.clip(given, -_MOST, _MOST)
    dtype: Any = np.float64
    if size <= 4 and kind not in "iu" and max(abs(slope), abs(shift)) < _LARGE:
        dtype = given.dtype.newbyteorder("=") if size > 1 else np.float32
    pre = np.require(given, dtype, ["C", "A"])
    if not cpu().are_finite(pre):
        raise ValueError(f"a must be finite, got {pre[~np.isfinite(pre)].flat[0]}")
    return pre, slope, shift


def _check_shape(a: NDArray[Any], h: NDArray[Any]) -> None:
    """Raise an error unless pre-activations are of the shape of activations."""
    if a.shape != h.shape:
        raise ValueError(f"a must have h's shape {h.shape}, got {a.shape}")


def _finite(name: str, value: Any) -> float:
    number = value if type(value) is float else real(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


class StandoutDropout(NoiseLayer):
    """Dropout by a network that shares the layer's weights: large pre-activations are kept.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    The layer keeps references to pre-activations until their backward: don't change them before that. In
    evaluation mode a backward is that of the forward before it, in that mode too, and there is one for each.

    Parameters
    ----------
    alpha, beta : float
        The probability to keep is ``sigmoid(alpha * a + beta)``.
    inverted : bool, default False
        Divide what is kept by its probability, and leave evaluation alone. The paper's own form multiplies
        with the probability in evaluation.
    rng
        As in `Dropout`.

    References
    ----------
    Ba and Frey, "Adaptive Dropout for Training Deep Neural Networks", NeurIPS 2013.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.StandoutDropout(rng=42)
    >>> a = np.array([-9.0, -1.0, 0.0, 1.0, 9.0, 9.0])
    >>> layer(np.maximum(a, 0), a)
    array([0., 0., 0., 1., 9., 9.])
    >>> layer.backward(np.ones(6))
    array([0., 0., 1., 1., 1., 1.])
    >>> layer.eval()(np.maximum(a, 0), a).round(3)
    array([0.   , 0.   , 0.   , 0.731, 8.999, 8.999])
    """

    _parameter = "alpha"
    _takes_schedules = False
    _function = "standout_dropout(h, a, key)"
    _gradient = "standout_dropout_backward(g, a, layer.key)"

    def __init__(
        self, alpha: float = 1.0, beta: float = 0.0, *, inverted: bool = False, rng: Rng = None
    ) -> None:
        super().__init__(alpha, rng)
        self.beta, self.inverted = _finite("beta", beta), flag("inverted", inverted)

    def _checked(self, value: Any) -> Any:
        return _finite("alpha", value)

    @property
    def alpha(self) -> float:
        """What the pre-activations are multiplied with."""
        return float(self._value)

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._set(alpha)

    def forward(
        self,
        h: ArrayLike,
        a: ArrayLike,
        training: bool | None = None,
        *,
        out: NDArray[Any] | None = None,
        window: Window | None = None,
        rows: ArrayLike | None = None,
        indices: Indices | None = None,
        offsets: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Return h with elements dropped in training; in evaluation h times the probability to keep.

        Parameters
        ----------
        h, a : array_like
            Activations and pre-activations, as in `fastdrop.standout_dropout`.
        training : bool, optional
            For this call alone; by default `self.training`.
        out : ndarray, optional
            As in `fastdrop.standout_dropout`; written in evaluation too, unless inverted.
        window, rows, indices, offsets
            As in `Dropout.forward`.

        Raises
        ------
        TypeError, ValueError
            If training is neither a bool nor None, or as `fastdrop.standout_dropout`, or if out overlaps a;
            the key is then not advanced.
        """
        if out is not None and np.may_share_memory(out, a):
            raise ValueError("out must not overlap a, which backward needs; use np.empty_like(h)")
        with self._lock:
            trains = self._trains(training)
            if not trains and self.inverted:
                y = passed(h)
                self._note_evaluation()
                return y
            given = unchanging(window, rows, indices, offsets)
            gate = np.asarray(passed(a))
            if trains:
                forward = self._begin(h, given, gate)
                y = self._dropped(h, forward, out)
                self._done(forward)
                return y
            forward = Forward(self._key, self._value, np.shape(passed(h)), given, gate)
            y = self._expected(h, forward, out)
            self._note_evaluation(forward)
            return y

    __call__ = forward

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient with respect to a forward's h, in either mode; see `Dropout.backward`."""
        with self._lock:
            evaluates = self._evaluates()
            if evaluates and self.inverted:
                return passed(g)
            forward = self._latest(g)
            dh = (self._expected if evaluates else self._dropped)(g, forward, out)
            self._finish(forward)
            return dh

    def _dropped(self, h: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        """Return what a training forward makes of h, and its backward of a gradient."""
        key, alpha, _, window, a = forward
        options: dict[str, Any] = {"alpha": alpha, "beta": self.beta, "inverted": self.inverted}
        return standout_dropout(h, a, key, **options, out=out, window=window)

    def _expected(self, h: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        """Return what evaluation makes of h, and of a gradient."""
        x = real_array(h, "standout")
        kept = standout_keep_prob(forward.kept, alpha=forward.value, beta=self.beta)
        _check_shape(kept, x)
        y = target(out, x)
        np.multiply(x, kept, out=y, casting="unsafe")
        return y if out is None else out

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs for the same rates and masks, as plain JSON-able data."""
        with self._lock:
            return super().state_dict() | {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned; see `Dropout.load_state_dict`."""
        try:
            beta = _finite("beta", state["beta"]) if isinstance(state, Mapping) and "beta" in state else 0.0
        except (TypeError, ValueError) as error:
            raise ValueError(f"state has a bad entry: {error}") from None
        with self._lock:
            super().load_state_dict(state)
            self.beta = beta

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"beta": self.beta, "inverted": self.inverted}


register(
    Noise(
        "standout_dropout",
        standout_dropout,
        standout_dropout_backward,
        dtypes=REAL,
        like=("a",),
        rate="",
        self_adjoint=True,
        layers=(StandoutDropout,),
        beside=(standout_keep_prob,),
        lacks={
            "CUDA": "the probabilities are computed on the host",
        },
    )
)
