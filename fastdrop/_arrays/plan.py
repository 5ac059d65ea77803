"""What is to be done with arrays, and where their draws lie: what backends are handed."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastdrop._stream.keys import signed

Window: TypeAlias = tuple[Sequence[int], Sequence[int]]
Axes: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

NO_AXES: tuple[()] = ()  # to be asked for by `is`: `np.int64(0) == ()` is an empty array, which is no bool

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")  # formulas know one by its place here

_LAYOUTS = 1024  # how many are remembered
_MOST_BLOCKS = 64  # of a layout that are remembered with it


class Pass(NamedTuple):
    """What becomes of kept and of dropped elements: Bernoulli noise and what is fused with it.

    Attributes
    ----------
    formula : str
        A function of `fastdrop._lanes.formulas`.
    constants : tuple of float
        What the formula needs besides arrays.
    activation : int
        The place of the activation in `ACTIVATIONS`.
    scale : float or None
        What kept elements are multiplied with, where it isn't 1 / (1 - p).
    """

    formula: str = "drop"
    constants: tuple[float, ...] = ()
    activation: int = 0
    scale: float | None = None


class Density(NamedTuple):
    """Noise with a density: which numbers are drawn, and what becomes of an element and its number.

    Attributes
    ----------
    draw : {"normal", "logistic"}
        Which numbers of the stream.
    formula : str
        A function of `fastdrop._lanes.formulas`.
    numbers : tuple
        What the formula takes. An array in place of the only number gives each draw its own.
    """

    draw: str
    formula: str
    numbers: tuple[Any, ...]

    @property
    def by_draw(self) -> bool:
        """Whether each draw has a number of its own."""
        return isinstance(self.numbers[0], np.ndarray)

    @property
    def multiplies(self) -> bool:
        """Whether the formula is a factor of x, rather than a term."""
        return self.formula != "shift"

    def checked(self) -> Density:
        """The density itself, or an error where its formula doesn't take an array of numbers."""
        if self.by_draw and self.formula not in ("multiply", "shift"):
            raise TypeError(f"{self.formula} takes one number for all elements, got an array")
        return self


class Rows(NamedTuple):
    """How indices run in flat arrays: in rows of a length, whose first indices are a stride apart.

    Kernels take the three as a plain tuple: Numba needs 2 us to look at a named one, and .1 at that.
    """

    length: int
    stride: int  # int64 with the bits of an unsigned number, as start
    start: int


class Place(NamedTuple):
    """Where a block lies in a full array."""

    full: tuple[int, ...]
    origin: tuple[int, ...]

    def moved(self, rows: int) -> Place:
        """The place so many rows further along the first axis."""
        return Place(self.full, (self.origin[0] + rows, *self.origin[1:]))

    def deeper(self, length: int = 1) -> Place:
        """The place with another axis at the end, whole in the block."""
        return Place((*self.full, length), (*self.origin, 0))

    def strides(self) -> list[int]:
        """By how much indices grow along each axis."""
        return [math.prod(self.full[axis + 1 :]) for axis in range(len(self.full))]

    def first(self) -> int:
        """The index of the block's first element."""
        return sum(o * s for o, s in zip(self.origin, self.strides(), strict=True))

    def blocks(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Rows]]:
        """Parts of a block of a shape, by their leading indices, whose elements are `Rows`."""
        strides, first = self.strides(), self.first()
        axis = len(shape) - 1  # the first of those along which a row runs
        while axis > 0 and shape[axis] == self.full[axis]:
            axis -= 1
        length = math.prod(shape[max(axis, 0) :])
        if axis < 1:
            yield (), Rows(length or 1, 0, signed(first))
            return
        for place in np.ndindex(shape[: axis - 1]):
            start = first + sum(i * s for i, s in zip(place, strides, strict=False))
            yield place, Rows(length or 1, signed(strides[axis - 1]), signed(start))


class Layout:
    """What depends on shape, shared axes and window alone, and is remembered.

    Attributes
    ----------
    place : Place
        Of the draws, in the full array of them.
    shared : frozenset of int
        Axes along which elements share their draws.
    draws : tuple of int
        The shape of the array of draws.
    """

    def __init__(self, shape: tuple[int, ...], place: Place, shared: frozenset[int]) -> None:
        self.shape, self.place, self.shared = shape, place, shared
        self.draws = reduced(shape, shared)

    @cached_property
    def count(self) -> int:
        """How many draws there are."""
        return math.prod(self.draws)

    @cached_property
    def _blocks(self) -> tuple[tuple[tuple[int, ...], Rows], ...] | None:
        found: list[tuple[tuple[int, ...], Rows]] = []
        for block in self.place.blocks(self.draws):
            if len(found) == _MOST_BLOCKS:
                return None
            found.append(block)
        return tuple(found)

    @cached_property
    def only(self) -> Rows | None:
        """How the indices of all draws run, if they are rows a stride apart."""
        return None if self._blocks is None or len(self._blocks) > 1 else self._blocks[0][1]

    @cached_property
    def row(self) -> Rows | None:
        """The indices of all draws, if they follow each other."""
        return None if self.only is None or self.only.stride else self.only

    def blocks(self) -> Iterator[tuple[tuple[int, ...], Rows]]:
        """Parts of the array of draws, by their leading indices, whose elements are `Rows`."""
        return iter(self._blocks) if self._blocks is not None else self.place.blocks(self.draws)

    @cached_property
    def runs(self) -> tuple[int, int, int]:
        """How many axes lead the last two runs of axes, and the lengths of these: shared, then drawn."""
        return _last_runs(self.shape, self.draws)

    def moved(self, rows: int, length: int) -> Layout:
        """The layout of so many rows from a place on along the first axis, which isn't shared."""
        shape = (length, *self.shape[1:])
        return Layout(shape, self.place.moved(rows), self.shared)

    def of_draws(self) -> Layout:
        """The layout of the array of draws itself, which shares none."""
        return Layout(self.draws, self.place, frozenset())


def _last_runs(shape: tuple[int, ...], draws: tuple[int, ...]) -> tuple[int, int, int]:
    axis, lengths = len(shape), [1, 1]
    for run in (1, 0):
        while axis and (shape[axis - 1] == 1 or (shape[axis - 1] == draws[axis - 1]) == run):
            axis -= 1
            lengths[run] *= shape[axis]
    while axis and shape[axis - 1] == draws[axis - 1]:
        axis -= 1
    return axis, lengths[0], lengths[1]


class Plan(NamedTuple):
    """Arrays that were checked and belong together, and where their draws lie.

    Attributes
    ----------
    arrays : module
        `fastdrop._arrays.host` or `device`, of whose kind the arrays are.
    x, y : array
        What is read, and written to.
    other : array or None
        Another of x's shape and dtype.
    bias : array or None
        One number for each place on the last axis, of the type that x has in lanes.
    layout : Layout
        Where the draws of x's elements lie.
    out : array or None
        What the caller gave to be written to.
    """

    arrays: ModuleType
    x: Any
    y: Any
    other: Any
    bias: Any
    layout: Layout
    out: Any

    @property
    def result(self) -> Any:
        """What the caller gets: out, or a new array of x's library."""
        return self.out if self.out is not None else self.arrays.given(self.y)


def layout_of(shape: tuple[int, ...], pairs: bool, shared_axes: Axes, window: Window | None) -> Layout:
    """The layout of an array; pairs are complex numbers, whose parts share their draw."""
    if shared_axes is NO_AXES and window is None:  # the usual case first
        return _layout(shape, pairs, (), None)
    return _layout(
        shape, pairs, _numbers_of_axes(shared_axes), None if window is None else _numbers_of_window(window)
    )


@lru_cache(maxsize=_LAYOUTS)
def _layout(
    shape: tuple[int, ...],
    pairs: bool,
    axes: tuple[int, ...],
    window: tuple[tuple[int, ...], tuple[int, ...]] | None,
) -> Layout:
    place = Place(shape, (0,) * len(shape)) if window is None else Place(*window_of(window, shape))
    shared = axes_in(axes, len(shape)) if axes else frozenset()
    place = Place(reduced(place.full, shared), reduced(place.origin, shared, 0))
    if pairs:
        return Layout((*shape, 2), place.deeper(), shared | {len(shape)})
    return Layout(shape, place, shared)


@lru_cache(maxsize=_LAYOUTS)
def layout_of_parts(layout: Layout) -> Layout:
    """The layout of complex numbers whose parts are drawn by themselves, from that of their pairs."""
    full, origin = layout.place
    shared = layout.shared - {len(layout.shape) - 1}
    return Layout(layout.shape, Place((*full[:-1], 2), origin), shared)


def reduced(numbers: Sequence[int], shared: frozenset[int], one: int = 1) -> tuple[int, ...]:
    """The numbers, but for shared axes another."""
    return tuple(one if axis in shared else n for axis, n in enumerate(numbers)) if shared else tuple(numbers)


def _numbers_of_axes(axes: Axes, name: str = "shared_axes") -> tuple[int, ...]:
    if type(axes) is int:  # the usual case first
        return (axes,)
    try:
        # not isinstance(axes, SupportsIndex), which takes 7 us
        given: Any = (axes,) if type(axes) is not tuple and hasattr(axes, "__index__") else axes
        return tuple(map(operator.index, given))
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of ints, got {axes!r}") from None


def axes_in(axes: Axes, ndim: int, name: str = "shared_axes") -> frozenset[int]:
    """Axes as numbers from 0, checked against the number of axes."""
    numbers = _numbers_of_axes(axes, name)
    found = {axis + ndim if axis < 0 else axis for axis in numbers}
    if not found <= set(range(ndim)):
        got = numbers[0] if len(numbers) == 1 else numbers
        raise ValueError(f"{name} must be in [-{ndim}, {ndim}) for an array of {ndim} axes, got {got}")
    if len(found) < len(numbers):
        raise ValueError(f"{name} must not repeat an axis, got {numbers}")
    return frozenset(found)


def _numbers_of_window(window: Window) -> tuple[tuple[int, ...], tuple[int, ...]]:
    try:
        full, origin = window
        return tuple(map(operator.index, full)), tuple(map(operator.index, origin))
    except (TypeError, ValueError, AttributeError):
        raise TypeError(f"window must be (full_shape, origin), two tuples of ints, got {window!r}") from None


def window_of(window: Window, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Full shape and origin as ints, checked to hold a block of the shape."""
    full, origin = _numbers_of_window(window)
    ends = [o + n for o, n in zip(origin, shape, strict=False)]
    inside = all(o >= 0 and end <= f for f, o, end in zip(full, origin, ends, strict=False))
    if not (len(full) == len(origin) == len(shape) and inside):
        at = f"{origin} in {full}"
        raise ValueError(f"window must place the block inside the full array, got block {shape} at {at}")
    if math.prod(full) > 1 << 64:
        raise ValueError(f"window's full shape must have at most 2**64 elements, got {full}")
    return full, origin


class Rates(NamedTuple):
    """A threshold and a scale for each of some draws, flat in C order; a scale of 0 drops always.

    Attributes
    ----------
    thresholds : ndarray of uint32
        One for each number of an array of rates, and then again from the first, for a tile more.
    scales : ndarray
        As many, of the type that x has in lanes.
    shape : tuple of int
        Of the array of rates, which broadcasts to the draws.
    """

    thresholds: NDArray[Any]
    scales: NDArray[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many rates there are."""
        return math.prod(self.shape)

    def broadcast(self, draws: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Thresholds and scales with the shape of the draws."""
        cut = (a[: self.size].reshape(self.shape) for a in (self.thresholds, self.scales))
        thresholds, scales = (np.broadcast_to(a, draws) for a in cut)
        return thresholds, scales


@lru_cache(maxsize=_LAYOUTS)
def repetition(shape: tuple[int, ...], draws: tuple[int, ...]) -> int:
    """How many draws in a row have the same rate, where the rates then repeat as they are; else 0."""
    padded = (1,) * (len(draws) - len(shape)) + shape
    varying = [axis for axis, n in enumerate(padded) if n > 1]
    if not varying or padded[varying[0] : varying[-1] + 1] != draws[varying[0] : varying[-1] + 1]:
        return 0
    return math.prod(draws[varying[-1] + 1 :])
