"""Schedules: rates as functions of the step, which most layers take for p if it shall change in training.

Numbers only are taken by layers that learn their rate or make it of their input, by
`fastdrop.RecurrentDropout`, and for the keep_prob of `fastdrop.InvertedDropout`.

The step is what `layer.step` counts, or `fastdrop.Scheduler` for many layers. A layer warns where 100
training forwards have seen no step. While a schedule rules, ``layer.p = 0.3`` raises `ValueError`, since it
would end the schedule silently; ``layer.p = fastdrop.schedules.Constant(0.3)`` ends it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from fastdrop._arrays.numbers import flag, rate, real
from fastdrop._stream.keys import natural

__all__ = ["Annealed", "Constant", "Cosine", "Curriculum", "Early", "Late", "Linear", "Schedule", "Step"]

_END = 1 << 63  # steps are below this number

ScheduledRate: TypeAlias = "float | Callable[[int], float]"


@dataclass(frozen=True)
class Schedule(ABC):
    """A rate for each step, counted from 0: most layers take one for p, and any other callable too.

    Parameters
    ----------
    p : float
        Rate that it tends to, or comes from, in [0, 1].

    Raises
    ------
    TypeError, ValueError
        If p or another parameter is of another kind or outside its range.

    Examples
    --------
    A schedule of one's own may be any function of the step:

    >>> import fastdrop as fd
    >>> isinstance(fd.schedules.Linear(0.5, steps=2), fd.schedules.Schedule)
    True
    >>> fd.Dropout(lambda step: 0.5 / (1 + step), rng=42).p
    0.5
    """

    p: float

    def __post_init__(self) -> None:
        rate(self.p)
        if isinstance(self.p, np.number):  # whose products with steps may overflow
            object.__setattr__(self, "p", float(self.p))

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the rate of a step."""


@dataclass(frozen=True)
class Constant(Schedule):
    """Always p.

    Parameters
    ----------
    p : float
        The rate, in [0, 1].

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.schedules.Constant(0.3)(1000)
    0.3
    """

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.p


@dataclass(frozen=True)
class _OverSteps(Schedule):
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "steps", natural("steps", self.steps, _END))


@dataclass(frozen=True)
class Linear(_OverSteps):
    """From 0 to p on a straight line over so many steps; p at once if there are none.

    Parameters
    ----------
    p : float
        Rate from the end of the line on, in [0, 1].
    steps : int
        Length of the line, in [0, 2**63).

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> [fd.schedules.Linear(0.5, steps=2)(t) for t in range(4)]
    [0.0, 0.25, 0.5, 0.5]
    """

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.p * step / self.steps if step < self.steps else self.p


@dataclass(frozen=True)
class Cosine(_OverSteps):
    """From start to p on half a cosine over so many steps, flat at both ends.

    Parameters
    ----------
    p : float
        Rate from the end of the cosine on, in [0, 1].
    steps : int
        Length of the half cosine, in [0, 2**63).
    start : float, default 0
        Rate at step 0, in [0, 1].

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> [round(fd.schedules.Cosine(0.5, steps=4)(t), 3) for t in range(6)]
    [0.0, 0.073, 0.25, 0.427, 0.5, 0.5]
    """

    start: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rate(self.start, "start")

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        if step >= self.steps:
            return self.p
        return self.start + (self.p - self.start) * (1 - math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class _Exponential(Schedule):
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= real("gamma", self.gamma) < math.inf:
            raise ValueError(f"gamma must be finite and >= 0, got {self.gamma}")


@dataclass(frozen=True)
class Curriculum(_Exponential):
    """From 0 towards p: ``p * (1 - exp(-gamma * step))``.

    Parameters
    ----------
    p : float
        Rate that it tends to, in [0, 1].
    gamma : float
        How fast, for each step: finite and not negative. The authors take 1e-3 for MNIST, and as a rule 10
        over the number of updates.

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    References
    ----------
    Morerio et al., "Curriculum Dropout", arXiv 1703.06229, section 3.

    Examples
    --------
    >>> import fastdrop as fd
    >>> schedule = fd.schedules.Curriculum(0.5, gamma=1e-3)
    >>> [round(schedule(t), 3) for t in (0, 1000, 10000)]
    [0.0, 0.316, 0.5]
    """

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.p * -math.expm1(-self.gamma * step)


@dataclass(frozen=True)
class Annealed(_Exponential):
    """From p towards 0: ``p * exp(-gamma * step)``, the control to `Curriculum`.

    Parameters
    ----------
    p : float
        Rate at step 0, in [0, 1].
    gamma : float
        As in `Curriculum`.

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    References
    ----------
    Morerio et al., "Curriculum Dropout", arXiv 1703.06229, section 5, for the comparison.

    Examples
    --------
    >>> import fastdrop as fd
    >>> schedule = fd.schedules.Annealed(0.5, gamma=1e-3)
    >>> [round(schedule(t), 3) for t in (0, 1000, 10000)]
    [0.5, 0.184, 0.0]
    """

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.p * math.exp(-self.gamma * step)


@dataclass(frozen=True)
class Early(_OverSteps):
    """Before so many steps p, or if linear a line from p to 0; then 0. It lets a network underfit less.

    Parameters
    ----------
    p : float
        Rate at step 0, in [0, 1].
    steps : int
        The first step at which the rate is 0, in [0, 2**63).
    linear : bool, default False
        Fall on a straight line from p at step 0, rather than at once at the end.

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    References
    ----------
    Liu et al., "Dropout Reduces Underfitting", arXiv 2303.01500, section 4.

    Examples
    --------
    >>> import fastdrop as fd
    >>> [fd.schedules.Early(0.5, steps=2)(t) for t in range(3)]
    [0.5, 0.5, 0.0]
    >>> [fd.schedules.Early(0.5, steps=2, linear=True)(t) for t in range(3)]
    [0.5, 0.25, 0.0]
    """

    linear: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("linear", self.linear)

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        if step >= self.steps:
            return 0.0
        return self.p * (self.steps - step) / self.steps if self.linear else self.p


@dataclass(frozen=True)
class Late(_OverSteps):
    """Before so many steps 0, then p.

    Parameters
    ----------
    p : float
        Rate from the end of these steps on, in [0, 1].
    steps : int
        The first step at which the rate is p, in [0, 2**63).

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    References
    ----------
    Liu et al., "Dropout Reduces Underfitting", arXiv 2303.01500, section 4.

    Examples
    --------
    >>> import fastdrop as fd
    >>> [fd.schedules.Late(0.5, steps=2)(t) for t in range(3)]
    [0.0, 0.0, 0.5]
    """

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.p if step >= self.steps else 0.0


@dataclass(frozen=True)
class Step(Schedule):
    """At first p, and from each boundary on the rate that belongs to it.

    Parameters
    ----------
    p : float
        Rate before the first boundary.
    boundaries : sequence of int
        Steps, each in [0, 2**63) and above the one before.
    rates : sequence of float
        As many, each in [0, 1].

    Raises
    ------
    TypeError, ValueError
        As `Schedule`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> schedule = fd.schedules.Step(0.5, boundaries=(2, 3), rates=(0.3, 0.1))
    >>> [schedule(t) for t in range(5)]
    [0.5, 0.5, 0.3, 0.1, 0.1]
    """

    boundaries: tuple[int, ...]
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("boundaries", "rates"):  # lists, when they come from a file
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for p in self.rates:
            rate(p, "rates")
        steps = [natural("boundaries", step, _END) for step in self.boundaries]
        if steps != sorted(set(steps)) or len(steps) != len(self.rates):
            got = f"{self.boundaries} for {self.rates}"
            raise ValueError(f"boundaries must rise, and be as many as rates, got {got}")

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        passed = sum(boundary <= step for boundary in self.boundaries)
        return self.rates[passed - 1] if passed else self.p


class _Steps(Protocol):
    def step(self) -> None: ...


class Scheduler:
    """Advances the schedules of many layers together.

    Parameters
    ----------
    layers : iterable of layers
        One that comes twice is advanced once; one without a schedule is left as it is.

    Raises
    ------
    TypeError
        If layers isn't iterable, or has something without a method `step`, as modules of `fastdrop.torch`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> rising = fd.schedules.Linear(0.5, steps=10)
    >>> layers = [fd.Dropout(rising, rng=1), fd.DropPath(rising, rng=2)]
    >>> scheduler = fd.Scheduler(layers)
    >>> scheduler.step()  # after each update of the weights
    >>> [layer.p for layer in layers]
    [0.05, 0.05]
    """

    def __init__(self, layers: Iterable[_Steps]) -> None:
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, got {type(layers).__name__}; use [layer]")
        self.layers = list({id(layer): layer for layer in layers}.values())
        for layer in self.layers:
            if not callable(getattr(layer, "step", None)):
                got = f"{type(layer).__name__}, which has no step()"
                hint = "set module.p = schedule(step) in a module of PyTorch"
                raise TypeError(f"layers must be layers of fastdrop, got {got}; {hint}")

    def step(self) -> None:
        """Advance each layer's schedule by one update.

        Raises
        ------
        TypeError, ValueError
            If a schedule returns what is no rate. The layers before that one are then advanced, it and those
            after it are not.
        """
        for layer in self.layers:
            layer.step()


_KINDS = {kind.__name__: kind for kind in (Constant, Linear, Cosine, Curriculum, Annealed, Early, Late, Step)}


def _name(schedule: Callable[[int], float]) -> str:
    return str(getattr(schedule, "__qualname__", type(schedule).__qualname__))


def schedule_state(schedule: Callable[[int], float], step: int) -> dict[str, Any]:
    """Return a schedule and its step as plain data; of a user's own callable this is only its name.

    Raises
    ------
    ValueError
        If it is a lambda or a partial, which no name tells from another.
    """
    if isinstance(schedule, partial) or _name(schedule).endswith("<lambda>"):
        raise ValueError(
            f"a state has the name of a schedule, and {schedule!r} has none of its own; use a function made "
            "by def, or one of fastdrop.schedules"
        )
    known = _KINDS.get(type(schedule).__name__) is type(schedule)
    parameters = asdict(schedule) if known else {}  # type: ignore[call-overload]
    lists = {name: list(v) if isinstance(v, tuple) else v for name, v in parameters.items()}
    return {"schedule": type(schedule).__name__ if known else _name(schedule), **lists, "step": step}


def restored_schedule(
    state: Mapping[str, Any], given: Callable[[int], float] | None
) -> tuple[Callable[[int], float], int]:
    """The schedule and step of a state; a callable of the user's is the one given, if that has its name."""
    parameters = dict(state)
    name, step = parameters.pop("schedule", None), natural("step", parameters.pop("step", None), _END)
    if isinstance(name, str) and name in _KINDS:
        return _KINDS[name](**parameters), step
    if given is None or _name(given) != name:
        raise ValueError(f"state has a schedule {name!r} of its own; build the layer with it before loading")
    return given, step
