"""Layers whose draws are shared: over the space of feature maps, or over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.numbers import flag
from fastdrop._arrays.plan import Axes, Window
from fastdrop._noises import bernoulli
from fastdrop._noises._layer import ArrayLayer, Forward, RateLayer
from fastdrop._noises._noise import Noise, register
from fastdrop._noises.bernoulli import Dropout
from fastdrop._stream.keys import Key, Rng, natural, shown
from fastdrop.schedules import ScheduledRate


def check_data_format(data_format: str) -> None:
    """Raise an error unless a data format is "channels_first" or "channels_last"."""
    allowed = ("channels_first", "channels_last")
    if data_format not in allowed:
        raise ValueError(f"data_format must be one of {allowed}, got {shown(data_format)}")


# The spatial axes, by how many there are and whether the channels come before them.
_SPACE = {(n, first): tuple(range(1 + first, 1 + first + n)) for n in (1, 2, 3) for first in (False, True)}


class _SpatialDropout(Dropout):
    """The base of spatial dropout: each sample and channel has one draw, shared over the spatial axes."""

    spatial: ClassVar[int]
    _function = "dropout(x, p, key, shared_axes=...)"
    _gradient = "dropout_backward(g, p, layer.key, shared_axes=...)"

    def __init__(
        self, p: ScheduledRate = 0.5, *, data_format: str = "channels_first", rng: Rng = None
    ) -> None:
        super().__init__(p, rng=rng)
        check_data_format(data_format)
        self.data_format = data_format

    def _axes(self, x: ArrayLike) -> Axes:
        ndim = x.ndim if type(x) is np.ndarray else np.ndim(x)
        if ndim != self.spatial + 2:
            hint = "; use x[None] for one sample" if ndim == self.spatial + 1 else ""
            name = type(self).__name__
            raise ValueError(f"{name} needs {self.spatial + 2} axes, got shape {np.shape(x)}{hint}")
        return _SPACE[self.spatial, self.data_format == "channels_first"]

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"data_format": self.data_format}


class SpatialDropout1D(_SpatialDropout):
    """Dropout of whole feature sequences.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1].
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, length) or (n, length, c).
    rng
        As in `Dropout`.

    References
    ----------
    Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280,
    section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.SpatialDropout1D(0.5, data_format="channels_last", rng=7)(np.ones((1, 2, 5)))
    array([[[0., 2., 0., 2., 0.],
            [0., 2., 0., 2., 0.]]])
    """

    spatial = 1


class SpatialDropout2D(_SpatialDropout):
    """Dropout of whole feature maps.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1].
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, h, w) or (n, h, w, c).
    rng
        As in `Dropout`.

    References
    ----------
    Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280,
    section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.SpatialDropout2D(0.5, rng=7)(np.ones((1, 5, 2, 2)))
    >>> y[0, :, 0, 0]
    array([0., 2., 0., 2., 0.])
    >>> bool((y == y[:, :, :1, :1]).all())
    True
    """

    spatial = 2


class SpatialDropout3D(_SpatialDropout):
    """Dropout of whole feature volumes.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1].
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, d, h, w) or (n, d, h, w, c).
    rng
        As in `Dropout`.

    References
    ----------
    Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280,
    section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.SpatialDropout3D(0.5, rng=7)(np.ones((1, 5, 1, 1, 1))).ravel()
    array([0., 2., 0., 2., 0.])
    """

    spatial = 3


class TemporalDropout(ArrayLayer, RateLayer):
    """Dropout of features over whole sequences: each sample drops the same features at every time.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    A 3-D input is a batch of whole sequences, with new draws at each training call. A 2-D input is one
    step of them, (batch, features): its draws stay until `reset_state`, and are those that a 3-D input
    would have got.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1].
    time_major : bool, default False
        Axes (time, batch, features) rather than (batch, time, features).
    rng
        As in `Dropout`.

    References
    ----------
    Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    arXiv 1512.05287, section 4 (the input part).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> whole = fd.TemporalDropout(0.5, rng=7)(np.ones((1, 2, 5)))
    >>> whole
    array([[[0., 2., 0., 2., 0.],
            [0., 2., 0., 2., 0.]]])
    >>> steps = fd.TemporalDropout(0.5, rng=7)
    >>> [bool((steps(np.ones((1, 5))) == whole[:, t]).all()) for t in range(2)]
    [True, True]
    >>> steps.reset_state()  # before the next sequence
    """

    _function = "dropout(x, p, key, shared_axes=...)"
    _gradient = "dropout_backward(g, p, layer.key, shared_axes=...)"

    def __init__(self, p: ScheduledRate = 0.5, *, time_major: bool = False, rng: Rng = None) -> None:
        super().__init__(p, rng)
        self.time_major = flag("time_major", time_major)
        self._sequence: Key | None = None  # the key of the sequence whose steps are coming

    def forward(
        self,
        x: ArrayLike,
        training: bool | None = None,
        *,
        lengths: Sequence[int] | NDArray[Any] | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return x with features dropped in training, and x itself in evaluation.

        Parameters
        ----------
        x : array_like, 3-D or 2-D
            Whole sequences, or one step of them.
        training : bool, optional
            For this call alone; by default `self.training`.
        lengths : sequence of int, optional
            Of each sample of a 3-D x. What lies behind is padding: it comes back as it is, also in
            backward, and isn't touched where `out` is x.
        out : ndarray, optional
            As in `fastdrop.dropout`; not written in evaluation.

        Raises
        ------
        TypeError, ValueError
            As `fastdrop.dropout`, or if x is neither 3-D nor 2-D, or lengths don't fit it.
        """
        found = None if lengths is None else self._checked_lengths(lengths, np.shape(x))
        return self._forward(x, training, out, kept=found)

    __call__ = forward

    def _begin(self, x: ArrayLike, window: Window | None = None, kept: Any = None) -> Forward:
        forward = super()._begin(x, window, kept)
        if self._sequence is None or len(forward[2]) != 2:
            return forward
        return forward._replace(key=self._sequence)

    def _done(self, forward: Forward) -> None:
        next_key = self._key
        super()._done(forward)
        if len(forward[2]) == 2:
            if self._sequence is not None:  # then this step took no draw of its own
                self._key = next_key
            self._sequence = forward.key

    def reseed(self, rng: Rng = None) -> Self:
        """Take another key, and let the next step begin a new sequence; see `Dropout.reseed`."""
        with self._lock:
            self._sequence = None
            return super().reseed(rng)

    def reset_state(self) -> None:
        """Let the next step begin a new sequence, with new draws."""
        with self._lock:
            self._sequence = None

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, p, shape, _, lengths = forward
        if len(shape) == 2:
            return bernoulli.dropout(x, p, key, out=out)
        if len(shape) != 3:
            raise ValueError(f"TemporalDropout needs 3 axes, or 2 for a step, got shape {shape}")
        time = 0 if self.time_major else 1
        if lengths is None:
            return bernoulli.dropout(x, p, key, shared_axes=time, out=out)
        y = bernoulli.dropout(x, 0.0, key, out=out)  # a checked copy, or x itself
        for sample, length in enumerate(lengths):
            row = slice(sample, sample + 1)
            part = y[:length, row] if self.time_major else y[row, :length]
            origin = (0, sample, 0) if self.time_major else (sample, 0, 0)
            bernoulli.dropout(part, p, key, shared_axes=time, out=part, window=(y.shape, origin))
        return y

    def _checked_lengths(self, lengths: Sequence[int] | NDArray[Any], shape: tuple[int, ...]) -> list[int]:
        if len(shape) != 3:
            raise ValueError(f"lengths go with whole sequences of 3 axes, got shape {shape}")
        steps, samples = shape[:2] if self.time_major else shape[1::-1]
        found = [natural("lengths", length, steps + 1) for length in lengths]
        if len(found) != samples:
            raise ValueError(f"lengths must have one entry for each of {samples} samples, got {len(found)}")
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs for the same masks, with the draw of the sequence under way."""
        with self._lock:
            return super().state_dict() | {"sequence": self._sequence and self._sequence.draw}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned; see `Dropout.load_state_dict`."""
        sequence = state.get("sequence") if isinstance(state, Mapping) else None
        if sequence is not None:
            try:
                natural("sequence", sequence, 1 << 64)
            except TypeError as error:
                raise ValueError(f"state has a bad entry: {error}") from None
        with self._lock:
            super().load_state_dict(state)
            self._sequence = None if sequence is None else Key(self.key.seed, sequence)

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"time_major": self.time_major}


register(
    Noise(
        "spatial_dropout",
        bernoulli.dropout,
        bernoulli.dropout_backward,
        by_element=True,
        self_adjoint=True,
        layers=(SpatialDropout1D, SpatialDropout2D, SpatialDropout3D),
        modules=("Dropout1d", "Dropout2d", "Dropout3d"),
        moments="dropout",
    )
)
register(
    Noise(
        "temporal_dropout",
        bernoulli.dropout,
        bernoulli.dropout_backward,
        by_element=True,
        self_adjoint=True,
        layers=(TemporalDropout,),
        moments="dropout",
        lacks={"torch module": "of whole sequences it is `Dropout1d`; a mask that stays is a key there"},
    )
)
