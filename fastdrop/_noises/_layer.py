"""Layers: a rate, a key and a training flag. All arithmetic is in `fastdrop.functional`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any, ClassVar, Self
from weakref import WeakSet

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import to_array
from fastdrop._arrays.numbers import rate, reals
from fastdrop._stream.keys import Key, Rng, as_key, as_key_or_seed
from fastdrop.schedules import restored_schedule, schedule_state

STATE_VERSION = 1


class TakesTurns:
    """A base for objects with state: whoever reads or changes it does so ``with self._turn``."""

    def __init__(self) -> None:
        self._turn = RLock()
        _all.add(self)

    def __getstate__(self) -> dict[str, Any]:
        with self._turn:
            return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        TakesTurns.__init__(self)


_all: WeakSet[TakesTurns] = WeakSet()


def _renew() -> None:
    """In a forked child whoever had a turn isn't there to end it."""
    for each in _all:
        each._turn = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


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


class LearnedNoise(NoiseLayer):
    """A noise layer with a learned parameter, its gradient, and a reference to its last input."""

    def __init__(self, value: NDArray[Any], rng: Rng) -> None:
        super().__init__(value, rng)
        self._grad: NDArray[np.float64] = np.zeros_like(self._value)
        self._last_x: NDArray[Any] | None = None

    def _checked(self, value: Any) -> Any:
        name = self._parameter
        try:
            number = reals(name, value).copy()
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be real, got {value!r}") from None
        if not np.isfinite(number).all():
            raise ValueError(f"{name} must be finite, got {number}")
        shape = np.shape(getattr(self, "_value", number))
        if number.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {number.shape}")
        return number

    def zero_grad(self) -> None:
        """Set the gradient to 0."""
        self._grad.fill(0)

    def forward(
        self, x: ArrayLike, training: bool | None = None, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return x times noise in training, and x itself in evaluation; see `Dropout.forward`.

        Raises
        ------
        ValueError
            If out overlaps x, which backward needs.
        """
        if out is not None and np.may_share_memory(out, x):
            raise ValueError("out must not overlap x, which backward needs; use np.empty_like(x)")
        with self._turn:
            y = super().forward(x, training, out=out)
            self._last_x = None if self._last_seed is None else to_array(x)
            self._last_value = self._value.copy()
            return y

    def load_state_dict(self, state: Any) -> None:
        """Take over a state that `state_dict` returned; see `Dropout.load_state_dict`."""
        with self._turn:
            super().load_state_dict(state)
            self._last_x = None
            self.zero_grad()
