"""Layers: a rate, a key and a training flag. All arithmetic is in `fastdrop.functional`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import functional
from fastdrop._rates import rate
from fastdrop._turns import TakesTurns
from fastdrop.random import Key, Rng, as_key, as_key_or_seed
from fastdrop.schedules import Curriculum, ScheduledRate, restored_schedule, schedule_state

STATE_VERSION = 1


class NoiseLayer(TakesTurns):
    """What layers have in common: a number, or an array, for their noise, a key and a training flag.

    Threads may share a layer: forwards take turns, and each gets a draw of its own.
    """

    _parameter: ClassVar[str] = "p"  # the name of that number

    def __init__(self, value: Any, rng: Rng) -> None:
        super().__init__()
        self._set(value)
        self.key = as_key(rng)
        self.training = True
        # What backward needs of the last forward, as plain numbers: keys and tuples would take more.
        self._last_shape: tuple[int, ...] | None = None
        self._last_value = self._value
        self._last_seed: int | None = None  # None after evaluation
        self._last_draw = 0

    def _checked(self, value: Any) -> Any:
        """The number as it is held, or an error."""
        rate(value)
        return float(value)

    def _set(self, value: Any, schedule: Callable[[int], float] | None = None, step: int = 0) -> None:
        """Hold a number, or that of a schedule's step."""
        if callable(value):
            schedule = value
        self._value: Any = self._checked(value if schedule is None else schedule(step))
        self._schedule, self._step = schedule, step

    @property
    def schedule(self) -> Callable[[int], float] | None:
        """What the number is a function of, or None where it is constant."""
        return self._schedule

    def step(self) -> None:
        """Advance the schedule by one update; without one nothing happens.

        Raises
        ------
        TypeError, ValueError
            If the schedule returns what is no rate; it is then not advanced.
        """
        with self._turn:
            if self._schedule is not None:
                self._set(None, self._schedule, self._step + 1)

    @property
    def _shown(self) -> Any:
        """The number, or its schedule, as the layer was given it."""
        return self._value if self._schedule is None else self._schedule

    @property
    def key(self) -> Key:
        """The key of the next training forward."""
        with self._turn:
            return Key(self._seed, self._draw)

    @key.setter
    def key(self, key: Key) -> None:
        given = as_key_or_seed(key)
        with self._turn:
            self._seed, self._draw = given.seed, given.draw

    def __call__(
        self, x: ArrayLike, training: bool | None = None, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return `forward` of the same arguments."""
        return self.forward(x, training, out=out)

    def forward(
        self, x: ArrayLike, training: bool | None = None, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return x with elements dropped in training, and x itself in evaluation.

        Parameters
        ----------
        x : array_like, any shape
            Of a dtype that `fastdrop.dropout` takes.
        training : bool, optional
            For this call alone; by default `self.training`.
        out : ndarray, optional
            As in `fastdrop.dropout`; not written in evaluation.

        Raises
        ------
        TypeError, ValueError
            As `fastdrop.dropout`; the key is then not advanced.
        """
        with self._turn:
            if not (self.training if training is None else training):
                self._last_shape, self._last_seed = np.shape(x), None
                return x  # type: ignore[return-value]
            key, value = self._key_for(x), self._value
            y = self._drop(x, value, key, out)
            self._drawn(x, key)
            self._last_shape, self._last_value = y.shape, value
            self._last_seed, self._last_draw = key.seed, key.draw
            return y

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient with respect to the last forward's x; g itself after evaluation.

        Parameters
        ----------
        g : array_like
            Gradient with respect to what the last forward returned, of its shape.
        out : ndarray, optional
            As in `fastdrop.dropout_backward`; may be g.

        Raises
        ------
        RuntimeError
            Before any forward.
        ValueError
            If g has another shape than the last forward's x.
        """
        with self._turn:
            shape, seed = self._last_shape, self._last_seed
            if shape is None:
                raise RuntimeError(
                    f"{type(self).__name__}.backward needs a forward before it; call forward(x) first"
                )
            if np.shape(g) != shape:
                raise ValueError(f"g must have the last forward's shape {shape}, got {np.shape(g)}")
            if seed is None:
                return g  # type: ignore[return-value]
            return self._drop_backward(g, self._last_value, Key(seed, self._last_draw), out)

    def _key_for(self, x: ArrayLike) -> Key:
        """The key of the next training forward."""
        return Key(self._seed, self._draw)

    def _drawn(self, x: ArrayLike, key: Key) -> None:
        """Note that a training forward of x has used a key."""
        self._seed, self._draw = key.seed, key.draw + 1

    def _drop(self, x: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        """The layer's function of x."""
        raise NotImplementedError

    def _drop_backward(self, g: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        """Its gradient: most noises are linear, and the same forward and backward."""
        return self._drop(g, p, key, out)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation if mode is False; return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation, where forward returns its input; return the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs for the same masks, as plain JSON-able data.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Dropout(0.5, rng=42).state_dict()
        {'version': 1, 'layer': 'Dropout', 'p': 0.5, 'seed': 42, 'draw': 0}
        """
        with self._turn:
            return {
                "version": STATE_VERSION,
                "layer": type(self).__name__,
                self._parameter: self._number_state(),
                "seed": self._seed,
                "draw": self._draw,
            }

    def _number_state(self) -> Any:
        if self._schedule is not None:
            return schedule_state(self._schedule, self._step)
        return self._value.tolist() if isinstance(self._value, np.ndarray) else self._value

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned.

        Of a schedule that is no class of `fastdrop.schedules` a state has the name and the step: build
        the layer with it first.

        Raises
        ------
        ValueError
            If the state is of another layer or version, or an entry is missing, unknown or bad; the
            layer is then as it was.
        """
        expected = self.state_dict()
        if not isinstance(state, Mapping) or state.keys() != expected.keys():
            got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"state must have the entries {sorted(expected)}, got {got}")
        for name in ("version", "layer"):
            if state[name] != expected[name]:
                raise ValueError(f"state must have {name} {expected[name]!r}, got {state[name]!r}")
        try:
            key = Key(state["seed"], state["draw"])
            with self._turn:
                self._set_from_state(state[self._parameter])
                self.key, self._last_shape = key, None
        except TypeError as error:
            raise ValueError(f"state has a bad entry: {error}") from None

    def _set_from_state(self, number: Any) -> None:
        if isinstance(number, Mapping):
            self._set(None, *restored_schedule(number, self._schedule))
        elif callable(number):
            raise TypeError(f"{self._parameter} must be plain data, got {number!r}")
        else:
            self._set(number)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._parameter}={self._shown}, rng={self.key})"


class Dropout(NoiseLayer):
    """Inverted dropout: in training each element is dropped with probability p.

    A layer holds its rate, its key and the shape of its last input. It stores no mask: backward
    recomputes it, and costs what forward costs.

    Threads may share a layer, of this class or another: calls take turns, and each training forward gets
    a draw of its own. But backward belongs to the layer's last forward, whichever thread called that:
    threads that train at once need a layer each, say with ``rng=key.fold_in(thread)``, or the functions.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1], or a schedule of it: one of `fastdrop.schedules` or any function of
        the step, which `step` advances.
    rng : None, int, Key, numpy.random.SeedSequence or numpy.random.Generator, optional
        Where the masks come from; None takes fresh entropy. Each training forward takes the next
        draw of this key.

    Attributes
    ----------
    p : float
        The rate now; it, or a schedule, may be set between calls.
    key : Key
        The key of the next training forward.
    training : bool
        Whether forward drops; True at first.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not of the kinds above.

    See Also
    --------
    fastdrop.dropout : the function under it.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> drop = fd.Dropout(0.5, rng=42)
    >>> drop(np.ones(6))
    array([0., 0., 2., 2., 2., 2.])
    >>> drop.backward(np.ones(6))
    array([0., 0., 2., 2., 2., 2.])
    >>> drop(np.ones(6), training=False)
    array([1., 1., 1., 1., 1., 1.])
    >>> drop
    Dropout(p=0.5, rng=Key(42, draw=1))
    """

    def __init__(self, p: ScheduledRate = 0.5, *, rng: Rng = None) -> None:
        super().__init__(p, rng)

    @property
    def p(self) -> float:
        """Probability to drop."""
        return float(self._value)

    @p.setter
    def p(self, p: ScheduledRate) -> None:
        self._set(p)

    def _drop(self, x: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        return functional.dropout(x, p, key, out=out)


class InvertedDropout(Dropout):
    """`Dropout` by the probability to keep.

    Parameters
    ----------
    keep_prob : float, default 0.5
        Probability to keep, in [0, 1]; p is ``1 - keep_prob``. A schedule can be set as p.
    rng
        As in `Dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> drop = fd.InvertedDropout(0.8, rng=1)
    >>> drop
    InvertedDropout(keep_prob=0.8, rng=Key(1))
    >>> sorted({float(v) for v in drop(np.ones(1000, np.float32))})
    [0.0, 1.25]
    """

    def __init__(self, keep_prob: float = 0.5, *, rng: Rng = None) -> None:
        rate(keep_prob, "keep_prob")
        super().__init__(1 - keep_prob, rng=rng)

    @property
    def keep_prob(self) -> float:
        """Probability to keep."""
        return 1 - self.p

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keep_prob={self.keep_prob}, rng={self.key})"


class CurriculumDropout(Dropout):
    """`Dropout` whose rate rises from 0 towards p: ``p * (1 - exp(-gamma * updates))``.

    Parameters
    ----------
    p : float, default 0.5
        The rate that it tends to, in [0, 1].
    gamma : float
        How fast, finite and not negative: 10 over the number of updates is usual.
    rng
        As in `Dropout`.

    References
    ----------
    Morerio et al., "Curriculum Dropout", arXiv 1703.06229.

    Examples
    --------
    >>> import fastdrop as fd
    >>> drop = fd.CurriculumDropout(0.5, gamma=0.1, rng=42)
    >>> drop.p
    0.0
    >>> drop.step()  # after each update of the weights, or on_epoch_end() after each epoch
    >>> round(drop.p, 4)
    0.0476
    """

    def __init__(self, p: float = 0.5, *, gamma: float, rng: Rng = None) -> None:
        super().__init__(Curriculum(p, gamma), rng=rng)

    def on_epoch_end(self) -> None:
        """Advance the schedule, where its steps are epochs: gamma is then 10 over the number of these."""
        self.step()

    def __repr__(self) -> str:
        if not isinstance(self.schedule, Curriculum):
            return super().__repr__()
        return f"{type(self).__name__}(p={self.schedule.p}, gamma={self.schedule.gamma}, rng={self.key})"
