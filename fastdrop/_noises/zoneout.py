"""Zoneout: units of a recurrent network that keep their previous value for a step."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import host
from fastdrop._arrays.host import to_array
from fastdrop._arrays.numbers import Rate, realised
from fastdrop._arrays.plan import Axes, Indices, Pass, Window, integers_in, window_given
from fastdrop._backends import fuse, fused, planned
from fastdrop._noises._layer import Forward, NoiseLayer, RateLayer, unchanging
from fastdrop._noises._noise import Noise, register
from fastdrop._noises.bernoulli import dropout
from fastdrop._stream.keys import Key, Rng
from fastdrop.schedules import ScheduledRate

_REPLACE, _KEEP = Pass("replace", scale=1.0), Pass(scale=1.0)


def zoneout(
    new: ArrayLike,
    previous: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return new with each element replaced, with probability p, by that of previous.

    Parameters
    ----------
    new : array_like, any shape
        What a recurrent cell computed for this step: its hidden or its cell state. Of a dtype that
        `dropout` takes.
    previous : array_like
        The state of the step before, of new's shape and dtype.
    p, key, shared_axes, window, rows, indices, offsets
        As in `dropout`, whose mask this is: what would be dropped keeps its previous value. Each step
        needs a key of its own, such as ``key.fold_in(t)``.
    out : ndarray, optional
        Where to write: of new's shape and dtype, and either new or previous itself or free of overlap.

    Returns
    -------
    ndarray
        Of elements of new and previous as they are: nothing is scaled, and what isn't chosen leaves no
        trace, be it NaN. With p = 0 it equals new, with p = 1 previous.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if previous isn't like new.

    See Also
    --------
    Zoneout : the layer, which in evaluation returns the mean.

    References
    ----------
    Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
    arXiv 1606.01305, section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.zoneout(np.arange(1.0, 7), -np.arange(1.0, 7), 0.5, fd.Key(42))
    array([-1., -2.,  3.,  4.,  5.,  6.])
    """
    window = window_given(window, rows, indices, offsets)
    other = "previous", previous, "new"
    return fused(_REPLACE, new, out, p, key, shared_axes, window, other=other)  # type: ignore[no-any-return]


def zoneout_backward(
    g: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the gradients of `zoneout` with respect to new and to previous.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    p, key, shared_axes, window, rows, indices, offsets
        As given to `zoneout`.
    out : ndarray, optional
        Where to write the gradient of new; may be g.

    Returns
    -------
    dnew : ndarray
        g where the new element was taken, +0.0 elsewhere.
    dprevious : ndarray
        The rest of g. A cell that reads previous too has another part of that gradient.

    Raises
    ------
    TypeError, ValueError
        As `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.zoneout_backward(np.arange(1.0, 7), 0.5, fd.Key(42))
    (array([0., 0., 3., 4., 5., 6.]), array([1., 2., 0., 0., 0., 0.]))
    """
    window = window_given(window, rows, indices, offsets)
    of_new = planned(g, out, shared_axes, window)
    # NumPy's zeros are pages that the system clears at their first use, which costs no pass of its own.
    zeros = np.zeros(of_new.x.shape, of_new.x.dtype) if of_new.arrays is host else dropout(g, 1.0, key)
    other = "g", of_new.arrays.given(of_new.x), "g"
    of_previous = planned(zeros, of_new.arrays.place_for(zeros), shared_axes, window, other=other)
    fuse(_REPLACE, of_previous, p, key)  # first, since the gradient of new may be written over g
    fuse(_KEEP, of_new, p, key)
    return of_new.result, of_previous.result


class Zoneout(NoiseLayer, RateLayer):
    """Zoneout: in training each element keeps its previous value with probability p.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    In evaluation forward returns the mean of that, ``p * previous + (1 - p) * new``, and backward the
    gradients of the mean.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to keep the previous value, in [0, 1], or a schedule of it. The paper has 0.5 for cell
        states and 0.05 for hidden states of a character model: two layers, each with its own rng.
    shared_axes
        As in `Dropout`.
    rng
        As in `Dropout`. Each training forward, a step of a sequence, takes the next draw.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not as in `Dropout`.

    See Also
    --------
    fastdrop.zoneout : the function under it.

    References
    ----------
    Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
    arXiv 1606.01305.

    Examples
    --------
    Backpropagation through time, where the first backward is that of the last step:

    >>> import numpy as np, fastdrop as fd
    >>> x, w, zone = np.ones((4, 3)), 0.5, fd.Zoneout(0.5, rng=42)
    >>> states, news = [np.zeros(3)], []
    >>> for t in range(4):
    ...     news.append(np.tanh(x[t] + w * states[t]))
    ...     states.append(zone(news[t], states[t]))
    >>> dw, dh = 0.0, np.ones(3)  # of the loss states[-1].sum()
    >>> for t in reversed(range(4)):
    ...     dnew, dh = zone.backward(dh)
    ...     da = dnew * (1 - news[t] ** 2)
    ...     dw += float(da @ states[t])
    ...     dh += da * w
    >>> round(dw, 4)
    0.1943
    >>> zone(np.ones(2), np.zeros(2), training=False)
    array([0.5, 0.5])
    """

    _function = "zoneout(new, previous, p, key)"
    _gradient = "zoneout_backward(g, p, layer.key)"

    def __init__(self, p: ScheduledRate = 0.5, *, shared_axes: Axes = (), rng: Rng = None) -> None:
        super().__init__(p, rng)
        self.shared_axes = integers_in(shared_axes)

    def forward(
        self,
        new: ArrayLike,
        previous: ArrayLike,
        training: bool | None = None,
        *,
        out: NDArray[Any] | None = None,
        window: Window | None = None,
        rows: ArrayLike | None = None,
        indices: Indices | None = None,
        offsets: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Return elements of new and previous in training, and their mean in evaluation.

        Parameters
        ----------
        new, previous, out
            As in `fastdrop.zoneout`; out is written in evaluation too.
        training : bool, optional
            For this call alone; by default `self.training`.
        window, rows, indices, offsets
            As in `Dropout.forward`.

        Raises
        ------
        TypeError, ValueError
            If training is neither a bool nor None, or as `fastdrop.zoneout`; the key is then not advanced.
        """
        with self._lock:
            if not self._trains(training):
                y = _mean(new, previous, self._value, out)
                self._note_evaluation()
                return y
            forward = self._begin(new, unchanging(window, rows, indices, offsets))
            y = zoneout(new, previous, self._value, out=out, **self._draws(forward))
            self._done(forward)
            return y

    __call__ = forward

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the gradients with respect to a training forward's new and previous; see `Dropout.backward`.

        In evaluation mode they are those of the mean, at the rate that p is, unless the latest forward was
        one in training.

        Parameters
        ----------
        g, out
            As in `fastdrop.zoneout_backward`.

        Raises
        ------
        RuntimeError
            If there is no training forward that no backward has gone through yet.
        ValueError
            If g has another shape than that forward's output.
        """
        with self._lock:
            if self._evaluates():
                g = to_array(g)
                dprevious = _mean(np.zeros_like(g), g, self._value, None)
                return _mean(g, np.zeros_like(g), self._value, out), dprevious
            forward = self._latest(g)
            gradients = zoneout_backward(g, forward.value, out=out, **self._draws(forward))
            self._finish(forward)
            return gradients

    def _draws(self, forward: Forward) -> dict[str, Any]:
        """Return the arguments from which the functions of zoneout draw a forward's mask."""
        return {"key": forward.key, "shared_axes": self.shared_axes, "window": forward.window}

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | ({"shared_axes": self.shared_axes} if self.shared_axes else {})


def _mean(new: ArrayLike, previous: ArrayLike, p: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """Return the mean of `zoneout` at the realised rate, rounded once."""
    plan = planned(to_array(new), out, other=("previous", previous, "new"))
    share, dtype = realised(p), plan.x.dtype
    if share in (0, 1):  # NaN and Inf of the state that is never chosen must not reach the mean
        np.copyto(plan.y, plan.other if share else plan.x)
    else:
        wide = np.result_type(dtype, np.float32)
        mean = share * plan.other.astype(wide) + (1 - share) * plan.x.astype(wide)
        np.copyto(plan.y, mean, casting="same_kind")
    return plan.result  # type: ignore[no-any-return]


register(
    Noise(
        "zoneout",
        zoneout,
        zoneout_backward,
        like=("previous",),
        by_element=True,
        layers=(Zoneout,),
    )
)
