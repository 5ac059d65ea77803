"""Plans: what a backend is told to do, with which arrays, and which draws belong to their elements.

A `Pass` or a `Density` says what is done, a `Plan` with which arrays. The plan's `Layout` says which index
each element's draw has; it depends on shape, shared axes and window alone, and is remembered.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex, TypeAlias, cast

import numpy as np

from fastdrop._arrays.listed import Indices as Indices
from fastdrop._arrays.listed import Listed, Runs, Scattered, found
from fastdrop._stream.keys import shown, signed

Window: TypeAlias = tuple[Sequence[int], Sequence[int]]
# Which draws an array has; None is those of an array by itself.
AnyWindow: TypeAlias = Window | Listed | Runs | Scattered | None
Axes: TypeAlias = SupportsIndex | Sequence[SupportsIndex]

# Asked for by `is`: `np.int64(0) == ()` is an empty array, which is no bool.
NO_AXES: tuple[()] = ()

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")  # kernels know an activation by its place here

_LAYOUTS = 1024  # how many layouts are remembered
_MOST_BLOCKS = 64  # a layout with more blocks than this makes them anew each time


class Pass(NamedTuple):
    """What a call does with Bernoulli noise: what kept elements become, and what dropped ones become.

    Attributes
    ----------
    formula : str
        A function of `fastdrop._lanes.formulas`.
    constants : tuple of float
        The numbers that the formula needs beside arrays.
    activation : int
        The place of the activation in `ACTIVATIONS`.
    scale : float or None
        What kept elements are multiplied by, if it isn't 1 / (1 - p).
    """

    formula: str = "drop"
    constants: tuple[float, ...] = ()
    activation: int = 0
    scale: float | None = None


class Density(NamedTuple):
    """What a call does with noise that has a density: which numbers are drawn, and what they do to x.

    Attributes
    ----------
    draw : {"normal", "logistic"}
        The distribution of the numbers that are drawn.
    formula : str
        A function of `fastdrop._lanes.formulas`.
    numbers : tuple
        The numbers that the formula takes. If it takes one, an array may give each draw its own.
    name : str
        The name that callers give to that number, for errors.
    """

    draw: str
    formula: str
    numbers: tuple[Any, ...]
    name: str = "std"

    @property
    def by_draw(self) -> bool:
        """Whether each draw has a number of its own."""
        return isinstance(self.numbers[0], np.ndarray)

    @property
    def multiplies(self) -> bool:
        """Whether the noise is a factor of x; else it is added to x."""
        return self.formula != "shift"

    @property
    def start(self) -> float:
        """What the formula gets in place of x, to return the factor or the term itself."""
        return float(self.multiplies)

    def checked(self) -> Density:
        """Return the density itself, or raise an error if an array is not the only number of its formula."""
        if self.by_draw and len(self.numbers) > 1:
            count = len(self.numbers)
            raise TypeError(f"{self.formula} takes {count} numbers for all elements, got an array")
        return self


class Rows(NamedTuple):
    """The indices of the elements of a flat array: it has rows of a length.

    Indices follow each other within a row. Those of the rows' first elements are a stride apart, from
    `start` on. Kernels take the three as a plain tuple: Numba needs 2 us to look at a named one, and .1 us
    to look at a plain one.
    """

    length: int
    stride: int  # as `start`, an int64 with the bits of an unsigned number
    start: int


class Place(NamedTuple):
    """Where a block lies in a full array."""

    full: tuple[int, ...]
    origin: tuple[int, ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Place:
        """Return the place of an array that is no block of another."""
        return cls(shape, (0,) * len(shape))

    def moved(self, rows: int) -> Place:
        """Return the place of a block that lies so many rows further along the first axis."""
        return Place(self.full, (self.origin[0] + rows, *self.origin[1:]))

    def deeper(self, length: int = 1) -> Place:
        """Return the place with another last axis, along which the block is as long as the full array."""
        return Place((*self.full, length), (*self.origin, 0))

    def strides(self) -> list[int]:
        """Return by how much the index grows with each step along each axis."""
        return [math.prod(self.full[axis + 1 :]) for axis in range(len(self.full))]

    def first(self) -> int:
        """Return the index of the block's first element."""
        return sum(o * s for o, s in zip(self.origin, self.strides(), strict=True))

    def blocks(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Rows]]:
        """Yield the parts of a block whose indices are `Rows`, each as the leading indices of the part."""
        strides, first = self.strides(), self.first()
        axis = len(shape) - 1  # the first of the axes along which a row runs
        while axis > 0 and shape[axis] == self.full[axis]:
            axis -= 1
        length = math.prod(shape[max(axis, 0) :])
        if axis < 1:
            yield (), Rows(length or 1, 0, signed(first))
            return
        for place in np.ndindex(shape[: axis - 1]):
            start = first + sum(i * s for i, s in zip(place, strides, strict=False))
            yield place, Rows(length or 1, signed(strides[axis - 1]), signed(start))


def window_given(
    window: Window | None, rows: Any = None, indices: Any = None, offsets: Any = None
) -> Window | None:
    """Return the one way in which a caller says which draws an array has, or raise an error for two.

    A `Listed` is typed as a window, since functions hand it on to each other as one.
    """
    if rows is None and indices is None and offsets is None:
        return window
    check_one_way(window, rows, indices, offsets)
    return cast(Window, Listed.copied(rows, indices, offsets))


def check_one_way(window: Any, rows: Any, indices: Any, offsets: Any) -> None:
    """Raise an error if a caller says in two ways which draws an array has."""
    listed = "rows and offsets" if indices is None else "indices"
    if window is not None or (indices is not None and not (rows is None and offsets is None)):
        others = {"window": window, "rows": rows, "offsets": offsets}
        given = [name for name, value in others.items() if value is not None and name not in listed]
        other = " and ".join(given)
        raise ValueError(f"{listed} must be given alone, got {other} too; leave out {other}")


class Layout:
    """Which index the draw of each element has.

    It depends on shape, shared axes and window alone, and is remembered, unless a caller lists the indices.

    Attributes
    ----------
    place : Place, Runs or Scattered
        Where the draws lie in the full array of draws.
    shared : frozenset of int
        The axes along which elements share their draws.
    draws : tuple of int
        The shape of the array of draws.
    count : int
        How many draws there are.
    only : Rows, Runs, Scattered or None
        The indices of all draws, if one object describes them.
    row : Rows or None
        The indices of all draws, if they follow each other in one row.
    """

    def __init__(
        self, shape: tuple[int, ...], place: Place | Runs | Scattered, shared: frozenset[int]
    ) -> None:
        self.shape, self.place, self.shared = shape, place, shared
        self.draws = reduced(shape, shared)
        self.count = math.prod(self.draws)
        self.only: Rows | Runs | Scattered | None = None
        self.row: Rows | None = None
        self._of_draws: Layout | None = None
        self._blocks: list[tuple[Any, Rows]] | None = None
        if not isinstance(place, Place):
            self.only = place
            return
        blocks = list(islice(place.blocks(self.draws), _MOST_BLOCKS + 1))
        self._blocks = None if len(blocks) > _MOST_BLOCKS else blocks
        if len(blocks) == 1:
            self.only = blocks[0][1]
            self.row = None if blocks[0][1].stride else blocks[0][1]

    @property
    def listed(self) -> bool:
        """Whether a caller listed the indices."""
        return not isinstance(self.place, Place)

    @property
    def scattered(self) -> bool:
        """Whether each draw has an index that was listed for it."""
        return isinstance(self.place, Scattered)

    def blocks(self) -> Iterator[tuple[Any, Rows]]:
        """Return the parts of the array of draws whose indices are `Rows`; see `Place.blocks`.

        Indices of a `Scattered` place have no such parts.
        """
        if self._blocks is not None:
            return iter(self._blocks)
        if isinstance(self.place, Place):
            return self.place.blocks(self.draws)
        step = math.prod(self.draws[1:])  # draws of a row along the first axis
        each = self.place.blocks()  # type: ignore[union-attr]
        return (((slice(a // step, b // step),), Rows(b - a, 0, start)) for a, b, start in each)

    def of_draws(self, first: int = 0, rows: int | None = None) -> Layout:
        """Return the layout of the array of draws itself, or of some of its rows; its elements share none."""
        if rows is None:
            if self._of_draws is None:
                self._of_draws = Layout(self.draws, self.place, frozenset())
            return self._of_draws
        shape = (rows, *self.draws[1:])
        if isinstance(self.place, Place):
            return Layout(shape, self.place.moved(first), frozenset())
        step = math.prod(self.draws[1:])
        return Layout(shape, self.place.cut(first * step, (first + rows) * step), frozenset())


@lru_cache(maxsize=_LAYOUTS)
def last_runs(shape: tuple[int, ...], draws: tuple[int, ...]) -> tuple[int, int, int]:
    """Return an array as axes (..., outer, shared, inner): how many come first, and the last two lengths.

    Elements share their draw along the axis `shared` alone of these three. Each of the three is a run of
    neighbouring axes of the array, or of length 1. The axes that come first are looped over.
    """
    axis, lengths = len(shape), [1, 1]
    for run in (1, 0):
        while axis and (shape[axis - 1] == 1 or (shape[axis - 1] == draws[axis - 1]) == run):
            axis -= 1
            lengths[run] *= shape[axis]
    while axis and shape[axis - 1] == draws[axis - 1]:
        axis -= 1
    return axis, lengths[0], lengths[1]


class Plan(NamedTuple):
    """The arrays of one call, which were checked, and the layout of their draws.

    Attributes
    ----------
    arrays : module
        `fastdrop._arrays.host` or `fastdrop._arrays.device`: the module for arrays of this kind.
    x, y : array
        x is read, and y is written to.
    other : array or None
        Another array that is read, of x's shape and dtype.
    bias : array or None
        One number for each place on the last axis, of the type that x is computed in.
    layout : Layout
        Which index the draw of each element of x has.
    out : array or None
        The array that the caller gave to be written to.
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
        """What the caller gets: `out`, or a new array of x's library."""
        return self.out if self.out is not None else self.arrays.given(self.y)


def layout_of(shape: tuple[int, ...], pairs: bool, shared_axes: Axes, window: AnyWindow) -> Layout:
    """Return the layout of an array; with `pairs`, of complex numbers, whose two parts share a draw."""
    if shared_axes is NO_AXES and window is None:  # the usual case comes first, since it is the fastest
        return _layout(shape, pairs, (), None)
    # Not remembered: the next call has other indices.
    if window is not None and isinstance(window, (Listed, Runs, Scattered)):
        axes = integers_in(shared_axes)
        shared = axes_in(axes, len(shape)) if axes else frozenset()
        place = found(window, shape, reduced(shape, shared)) if isinstance(window, Listed) else window
        if pairs:
            return Layout((*shape, 2), place, shared | {len(shape)})
        return Layout(shape, place, shared)
    return _layout(
        shape, pairs, integers_in(shared_axes), None if window is None else _numbers_of_window(window)
    )


@lru_cache(maxsize=_LAYOUTS)
def _layout(
    shape: tuple[int, ...],
    pairs: bool,
    axes: tuple[int, ...],
    window: tuple[tuple[int, ...], tuple[int, ...]] | None,
) -> Layout:
    place = Place.whole(shape) if window is None else Place(*window_of(window, shape))
    shared = axes_in(axes, len(shape)) if axes else frozenset()
    place = Place(reduced(place.full, shared), reduced(place.origin, shared, 0))
    if pairs:
        return Layout((*shape, 2), place.deeper(), shared | {len(shape)})
    return Layout(shape, place, shared)


def layout_of_parts(layout: Layout) -> Layout:
    """Return the layout of complex numbers whose parts have a draw each, from that where they share one."""
    if not isinstance(layout.place, Place):
        return Layout(layout.shape, layout.place.finer(2), layout.shared - {len(layout.shape) - 1})
    return _layout_of_parts(layout.shape, layout.place, layout.shared)


@lru_cache(maxsize=_LAYOUTS)
def _layout_of_parts(shape: tuple[int, ...], place: Place, shared: frozenset[int]) -> Layout:
    return Layout(shape, Place((*place.full[:-1], 2), place.origin), shared - {len(shape) - 1})


def reduced(numbers: Sequence[int], shared: frozenset[int], one: int = 1) -> tuple[int, ...]:
    """Return one number for each axis, in which `one` replaces those of shared axes."""
    return tuple(one if axis in shared else n for axis, n in enumerate(numbers)) if shared else tuple(numbers)


def _index(number: SupportsIndex) -> int:
    """Do as `operator.index`, but refuse a bool, which Python takes for 0 or 1."""
    if type(number) is bool:
        raise TypeError
    return operator.index(number)


def integers_in(axes: Axes, name: str = "shared_axes") -> tuple[int, ...]:
    """Return axes, or lengths, as a tuple of ints, or raise an error that names them."""
    if type(axes) is int:  # the usual case first
        return (axes,)
    try:
        # isinstance(axes, SupportsIndex) would take 7 us.
        single = type(axes) is not tuple and hasattr(axes, "__index__") and getattr(axes, "ndim", 0) == 0
        given: Any = (axes,) if single else axes
        return tuple(map(_index, given))
    except TypeError:
        raise TypeError(f"{name} must be an int or a tuple of ints, got {shown(axes)}") from None


def axes_in(axes: Axes, ndim: int, name: str = "shared_axes") -> frozenset[int]:
    """Return axes as numbers from 0, or raise an error if they don't suit an array of `ndim` axes."""
    numbers = integers_in(axes, name)
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
        return tuple(map(_index, full)), tuple(map(_index, origin))
    except (TypeError, ValueError, AttributeError):
        raise TypeError(
            f"window must be (full_shape, origin), two tuples of ints, got {shown(window)}"
        ) from None


def window_of(window: Window, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return full shape and origin as ints, or raise an error if a block of the shape isn't inside."""
    full, origin = _numbers_of_window(window)
    ends = [o + n for o, n in zip(origin, shape, strict=False)]
    inside = all(o >= 0 and end <= f for f, o, end in zip(full, origin, ends, strict=False))
    if not (len(full) == len(origin) == len(shape) and inside):
        at = f"{origin} in {full}"
        raise ValueError(f"window must place the block inside the full array, got block {shape} at {at}")
    if math.prod(full) > 1 << 64:
        raise ValueError(f"window's full shape must have at most 2**64 elements, got {full}")
    return full, origin


@lru_cache(maxsize=_LAYOUTS)
def repetition(shape: tuple[int, ...], draws: tuple[int, ...]) -> int:
    """Return how many neighbouring draws have the same rate, if rates come and repeat in order; else 0."""
    padded = (1,) * (len(draws) - len(shape)) + shape
    varying = [axis for axis, n in enumerate(padded) if n > 1]
    if not varying or padded[varying[0] : varying[-1] + 1] != draws[varying[0] : varying[-1] + 1]:
        return 0
    return math.prod(draws[varying[-1] + 1 :])
