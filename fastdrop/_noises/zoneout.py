"""Zoneout: units of a recurrent network that keep their previous value for a step."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import Axes, Window, any_array, like, result, target, to_array
from fastdrop._arrays.numbers import FULL, Rate, rate
from fastdrop._cpu.run import DROP, Pass, fuse
from fastdrop._noises._noise import Noise, register
from fastdrop._noises.bernoulli import Dropout
from fastdrop._stream.keys import Key


def zoneout(
    new: ArrayLike,
    previous: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return new with each element replaced, with probability p, by that of previous.

    Parameters
    ----------
    new : array_like, any shape
        What a recurrent cell computed for this step: its hidden or its cell state. Of a dtype that
        `dropout` takes.
    previous : array_like
        The state of the step before, of new's shape and dtype.
    p, key, shared_axes, window
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
    new = any_array(new)
    other = like(new, previous, "previous", "new")
    y = target(out, new, other)
    fuse(Pass("replace", (other,), scale=1.0), new, y, p, key, shared_axes, window)
    return result(y, out)


def zoneout_backward(
    g: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the gradients of `zoneout` with respect to new and to previous.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    p, key, shared_axes, window
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
    g = any_array(g)
    dnew, dprevious = target(out, g), _zeros_like(g)
    fuse(Pass("replace", (g,), scale=1.0), dprevious, dprevious, p, key, shared_axes, window)
    fuse(Pass(scale=1.0), g, dnew, p, key, shared_axes, window)
    return result(dnew, out), result(dprevious, None)


def _zeros_like(g: NDArray[Any]) -> NDArray[Any]:
    if type(g) is np.ndarray:
        return np.zeros(g.shape, g.dtype)
    zeros = target(None, g)
    fuse(DROP, g, zeros, 1.0, 0, (), None)
    return zeros


class Zoneout(Dropout):
    """Zoneout: in training each element keeps its previous value with probability p.

    In evaluation forward returns the mean of that, ``p * previous + (1 - p) * new``, and backward the
    gradients of the mean.

    Parameters
    ----------
    p : float, default 0.5
        Probability to keep the previous value, in [0, 1]. The paper has 0.5 for cell states and 0.05 for
        hidden states of a character model: two layers, each with its own rng.
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
    `backward` is that of the last step. Backpropagation through time has more: it keeps the key of each.

    >>> import numpy as np, fastdrop as fd
    >>> x, w, zone = np.ones((4, 3)), 0.5, fd.Zoneout(0.5, rng=42)
    >>> states, news, keys = [np.zeros(3)], [], []
    >>> for t in range(4):
    ...     keys.append(zone.key)
    ...     news.append(np.tanh(x[t] + w * states[t]))
    ...     states.append(zone(news[t], states[t]))
    >>> dw, dh = 0.0, np.ones(3)  # of the loss states[-1].sum()
    >>> for t in reversed(range(4)):
    ...     dnew, dh = fd.zoneout_backward(dh, zone.p, keys[t])
    ...     da = dnew * (1 - news[t] ** 2)
    ...     dw += float(da @ states[t])
    ...     dh += da * w
    >>> round(dw, 4)
    0.1943
    >>> zone(np.ones(2), np.zeros(2), training=False)
    array([0.5, 0.5])
    """

    def forward(  # type: ignore[override]
        self,
        new: ArrayLike,
        previous: ArrayLike,
        training: bool | None = None,
        *,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return elements of new and previous in training, and their mean in evaluation.

        Parameters
        ----------
        new, previous, out
            As in `fastdrop.zoneout`; out is written in evaluation too.
        training : bool, optional
            For this call alone; by default `self.training`.

        Raises
        ------
        TypeError, ValueError
            As `fastdrop.zoneout`; the key is then not advanced.
        """
        with self._turn:
            key, p = self.key, self._value
            if self.training if training is None else training:
                y = zoneout(new, previous, p, key, out=out)
                self._drawn(new, key)
                self._last_seed, self._last_draw = key.seed, key.draw
            else:
                y = _mean(new, previous, p, out)
                self._last_seed = None
            self._last_shape, self._last_value = y.shape, p
            return y

    __call__ = forward  # type: ignore[assignment]

    def backward(  # type: ignore[override]
        self, g: ArrayLike, *, out: NDArray[Any] | None = None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the gradients with respect to the last forward's new and previous.

        Parameters
        ----------
        g, out
            As in `fastdrop.zoneout_backward`.

        Raises
        ------
        RuntimeError
            Before any forward.
        ValueError
            If g has another shape than the last forward's output.
        """
        with self._turn:
            if self._last_shape is None or self._last_seed is not None:
                return super().backward(g, out=out)  # type: ignore[return-value]
            g = super().backward(g)
            dprevious = _mean(np.zeros_like(g), g, self._last_value, None)
            return _mean(g, np.zeros_like(g), self._last_value, out), dprevious

    def _drop_backward(  # type: ignore[override]
        self, g: ArrayLike, p: float, key: Key, out: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        return zoneout_backward(g, p, key, out=out)


def _mean(new: ArrayLike, previous: ArrayLike, p: float, out: NDArray[Any] | None) -> NDArray[Any]:
    """The mean of `zoneout` at the realised rate, rounded once."""
    new = to_array(new)
    other = like(new, previous, "previous", "new")
    y = target(out, new, other)
    share = rate(p)[0] / FULL
    if share in (0, 1):  # what isn't chosen leaves no trace
        np.copyto(y, other if share else new)
    else:
        wide = np.result_type(new.dtype, np.float32)
        mean = share * other.astype(wide) + (1 - share) * new.astype(wide)
        np.copyto(y, mean, casting="same_kind")
    return y if out is None else out


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
