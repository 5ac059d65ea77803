"""Masks of a recurrent cell, by gate, that stay the same over a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.hints import refuse_schedule
from fastdrop._arrays.host import target, to_array
from fastdrop._arrays.numbers import flag, rate
from fastdrop._noises._layer import Layer
from fastdrop._noises._noise import Noise, register
from fastdrop._noises.bernoulli import dropout, dropout_backward
from fastdrop._noises.fused import dropout_add
from fastdrop._stream.keys import Key, Rng, natural, shown

_PLACES = ("p_input", "p_recurrent", "p_output", "p_update")


@dataclass(frozen=True, slots=True)
class SequenceMask:
    """One of the masks that `RecurrentDropout` makes for a sequence: call it at each time step.

    It holds a rate and keys, and is never written to: calls may come in any order, and again.

    Attributes
    ----------
    p : float
        Probability to drop.
    keys : tuple of Key
        One for each gate, or a single one.
    gates : int or None
        How many gates there are, or None where one mask is all.
    training : bool
        Whether it drops.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> mask = fd.RecurrentDropout(p_recurrent=0.5, gates=2, rng=42)().recurrent
    >>> mask(np.ones((1, 5)))  # the state, dropped for each gate
    array([[[0., 2., 0., 2., 0.]],
    <BLANKLINE>
           [[0., 2., 0., 0., 0.]]])
    >>> mask.backward(np.ones((2, 1, 5)))  # the sum over gates of dropped gradients
    array([[0., 4., 0., 2., 0.]])
    """

    p: float
    keys: tuple[Key, ...]
    gates: int | None
    training: bool

    def __call__(
        self, x: ArrayLike, step: SupportsIndex | None = None, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return x with features dropped, for each gate if there are gates.

        Parameters
        ----------
        x : array_like of shape (batch, features) or (time, batch, features)
            A step, or steps at once, of a dtype that `dropout` takes. The mask is that of (batch,
            features), whatever the time.
        step : int, optional
            Number of the step, for a mask of its own rather than that of the sequence.
        out : ndarray, optional
            As in `dropout`, of the result's shape; not written in evaluation.

        Returns
        -------
        ndarray
            Of x's shape, under a new first axis if there are gates: ``np.matmul`` of it and weights of
            shape (gates, features, units) is the gates' input. In evaluation x itself, or a read-only
            view of it repeated for the gates.

        Raises
        ------
        TypeError, ValueError
            As `dropout`, or if step is no integer >= 0.
        """
        if self.gates is None:
            return self._dropped(x, self._keys(step)[0], out) if self.training else cast("NDArray[Any]", x)
        x = to_array(x)
        repeated = np.broadcast_to(x, (self.gates, *x.shape))
        if not self.training:
            return repeated
        y = target(out, repeated)
        for key, part in zip(self._keys(step), y, strict=True):
            self._dropped(x, key, part)
        return y if out is None else out

    def backward(self, g: ArrayLike, step: SupportsIndex | None = None) -> NDArray[Any]:
        """Return the gradient with respect to x: g, dropped by the same mask, and summed over gates.

        Parameters
        ----------
        g : array_like
            Gradient with respect to what the call returned, of its shape.
        step : int, optional
            As given to the call.

        Raises
        ------
        TypeError, ValueError
            As `dropout`, or if g's first axis isn't that of the gates.
        """
        if self.gates is None:
            return self._dropped(g, self._keys(step)[0]) if self.training else cast("NDArray[Any]", g)
        g = to_array(g)
        if g.ndim == 0 or len(g) != self.gates:
            raise ValueError(f"g must have a first axis of {self.gates} gates, got shape {g.shape}")
        if not self.training:
            return np.asarray(g.sum(0))
        parts = zip(self._keys(step), g, strict=True)
        key, part = next(parts)
        dx = self._dropped(part, key)
        for key, part in parts:
            dropout_add(part, dx, self.p, key, shared_axes=_time(part), out=dx)
        return dx

    def _dropped(self, x: ArrayLike, key: Key, out: NDArray[Any] | None = None) -> NDArray[Any]:
        return dropout(x, self.p, key, shared_axes=_time(x), out=out)

    def _keys(self, step: SupportsIndex | None) -> tuple[Key, ...]:
        return self.keys if step is None else tuple(key.fold_in(step) for key in self.keys)


def _time(x: ArrayLike) -> tuple[int, ...]:
    """Return the axes before (batch, features), along which draws are shared."""
    return tuple(range(np.ndim(x) - 2))


class RecurrentMasks(NamedTuple):
    """The masks of one sequence, made by `RecurrentDropout`.

    Attributes
    ----------
    input, recurrent, output, update : SequenceMask
        Those of a cell's input, its previous state, its output and the update of its memory.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> masks = fd.RecurrentDropout(p_output=0.5, rng=42)()
    >>> masks.output(np.ones((1, 5)))
    array([[0., 0., 0., 2., 2.]])
    """

    input: SequenceMask
    recurrent: SequenceMask
    output: SequenceMask
    update: SequenceMask


class RecurrentDropout(Layer):
    """Dropout in a recurrent cell: a call returns the masks of the next sequence.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Gal and Ghahramani drop a cell's input, its previous state and its output by masks that stay the same
    over a sequence; each gate has its own masks of input and state, or all share them (tied). Semeniuta
    et al. drop only the update that is added to the memory (the candidate of an LSTM or a GRU), which
    never erases what is in there; with the number of the step the mask is a new one at each.

    Parameters
    ----------
    p_input, p_recurrent, p_output, p_update : float, default 0
        Probabilities to drop, in [0, 1].
    gates : int, default 4
        How many gates read the input and the state: 4 in an LSTM, 3 in a GRU.
    tied : bool, default False
        One mask for all gates: faster, as the gates then share a matrix product, and a little worse.
    rng
        As in `Dropout`. Each sequence in training takes the next draw.

    Attributes
    ----------
    p : tuple of float
        The four probabilities; may be set between calls.
    key : Key
        The key of the next sequence in training. Gate k of place i (0: input, 1: recurrent, 2: output, 3:
        update) has ``key.fold_in(i).fold_in(k)``, and at a step t of its own ``.fold_in(t)`` of that.
    training : bool
        Whether the next masks drop; True at first.

    Raises
    ------
    TypeError, ValueError
        If a probability, gates or rng is not of the kinds above.

    See Also
    --------
    Zoneout : keeps values of the state instead of dropping them.
    TemporalDropout : whole sequences, or steps, without gates.
    embedding_dropout : the mask of words that belongs to Gal's.

    References
    ----------
    Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    arXiv 1512.05287, section 4. Semeniuta, Severyn, Barth, "Recurrent Dropout without Memory Loss",
    arXiv 1603.05118, section 3.

    Examples
    --------
    A GRU's gates, and its state's gradient through them:

    >>> import numpy as np, fastdrop as fd
    >>> noise = fd.RecurrentDropout(0.25, 0.25, p_update=0.25, gates=3, rng=42)
    >>> x, h = np.ones((7, 2, 5)), np.zeros((2, 4))  # (time, batch, features)
    >>> W, U = np.full((3, 5, 4), 0.1), np.full((3, 4, 4), 0.1)
    >>> masks = noise()  # for this sequence, forward and backward
    >>> of_inputs = masks.input(x) @ W[:, None]  # of all times at once: (gates, time, batch, units)
    >>> for t in range(7):
    ...     r, z, n = of_inputs[:, t] + masks.recurrent(h) @ U
    ...     h = h + (masks.update(np.tanh(n), t) - h) / (1 + np.exp(-z))
    >>> da = np.ones((3, 2, 4))  # with respect to r, z and n
    >>> dh = masks.recurrent.backward(da @ U.mT)
    >>> dh.shape
    (2, 4)
    >>> noise
    RecurrentDropout(0.25, 0.25, 0.0, 0.25, gates=3, tied=False, rng=Key(42, draw=1))
    """

    _takes_schedules = False

    def __init__(
        self,
        p_input: float = 0.0,
        p_recurrent: float = 0.0,
        p_output: float = 0.0,
        p_update: float = 0.0,
        *,
        gates: int = 4,
        tied: bool = False,
        rng: Rng = None,
    ) -> None:
        super().__init__((p_input, p_recurrent, p_output, p_update), rng)
        self.gates, self.tied = natural("gates", gates), flag("tied", tied)
        if self.gates == 0:
            raise ValueError("gates must be at least 1, got 0")

    def _checked(self, value: Sequence[float]) -> NDArray[np.float64]:
        if not isinstance(value, (tuple, list)) or len(value) != len(_PLACES):
            raise TypeError(f"p must be the four rates {_PLACES}, got {shown(value)}")
        for name, p in zip(_PLACES, value, strict=True):
            refuse_schedule(name, p)
            rate(p, name)
        return np.array(value, np.float64)

    @property
    def p(self) -> tuple[float, ...]:
        """Probabilities to drop: of the input, the state, the output and the update."""
        return tuple(self._value.tolist())

    @p.setter
    def p(self, p: Sequence[float]) -> None:
        self._set(p)

    def forward(self, training: bool | None = None) -> RecurrentMasks:
        """Return the masks of the next sequence.

        Parameters
        ----------
        training : bool, optional
            For these masks alone; by default `self.training`. Without it they drop nothing, and no draw
            is taken.

        Raises
        ------
        TypeError
            If training is neither a bool nor None: it is the masks that take arrays.
        """
        drops = self._trains(training)
        with self._lock:
            key, rates = self._key, self.p
            if drops:
                self._key = key.next()
        counts = (None, None) if self.tied else (self.gates, self.gates)
        return RecurrentMasks(
            *(
                SequenceMask(p, _gate_keys(key.fold_in(place), gates), gates, drops)
                for place, (p, gates) in enumerate(zip(rates, (*counts, None, None), strict=True))
            )
        )

    __call__ = forward

    def _advice(self) -> str:
        return "a call returns the masks of a sequence, which take arrays: masks = layer(); masks.input(x)"

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> NoReturn:
        """Refuse: each mask has a backward of its own."""
        raise TypeError("RecurrentDropout has no backward; use that of a mask: masks.recurrent.backward(g)")

    def __repr__(self) -> str:
        rates = ", ".join(map(str, self.p))
        return f"{type(self).__name__}({rates}, gates={self.gates}, tied={self.tied}, rng={self.key})"


def _gate_keys(key: Key, gates: int | None) -> tuple[Key, ...]:
    return tuple(key.fold_in(gate) for gate in range(gates or 1))


register(
    Noise(
        "recurrent_dropout",
        dropout,
        dropout_backward,
        by_element=True,
        self_adjoint=True,
        layers=(RecurrentDropout,),
        beside=(RecurrentMasks, SequenceMask),
        moments="dropout",
        lacks={
            "CUDA": "the inputs are repeated for the gates on the host",
            "torch module": "torch.nn's cells do all gates and steps in one call, which takes no masks",
        },
    )
)
