"""Blocks of arrays handed to the backend: whole or in windows, with draws by element or by unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays.host import (
    BUFFER,
    PLAIN,
    READY,
    Axes,
    Window,
    as_lanes,
    axes_in,
    copy,
    flat,
    lanes_dtype,
    pieces,
    ready,
    window_of,
)
from fastdrop._arrays.numbers import FULL, Rate, check_broadcast, rates
from fastdrop._forks import loading
from fastdrop._stream.keys import TILE, Key, signed, stream

_UNITS = 1 << 16  # whose factors stay in the cache
_SHORT = 8  # elements of a unit below which its branch costs more than repeating its factor


@cache
def cpu() -> ModuleType:
    """The CPU backend, imported at first use since Numba takes longer to import than NumPy."""
    with loading:
        from fastdrop._cpu import calls

    return calls


def _on_device() -> ModuleType:
    """The same for arrays on a GPU."""
    from fastdrop._cuda import run

    return run


class Pass(NamedTuple):
    """What is done with x where it is kept and dropped: a formula of `fastdrop._formulas`, and its needs."""

    formula: str = "drop"
    others: tuple[NDArray, ...] = ()  # at most one array of x's shape and dtype
    bias: NDArray | None = None  # one for each place on the last axis, of the type that x has in lanes
    constants: tuple[float, ...] = ()
    activation: int = 0
    scale: float | None = None  # of what is kept, where it isn't 1 / (1 - p)

    def scaled(self, scales: Any) -> Any:
        """The scales of what is kept, given those of the rates, which are 0 where nothing is."""
        if self.scale is None or not isinstance(scales, np.ndarray):
            return scales if self.scale is None else self.scale
        return np.where(scales != 0, scales.dtype.type(self.scale), scales)


DROP = Pass()


def drop(
    x: NDArray, y: NDArray, start: int, threshold: int, scale: float, philox_key: int, draw: int
) -> None:
    """Drop the elements of x, whose indices run from `start` in C order, into y."""
    if not 0 < threshold < FULL:
        np.copyto(y, x if threshold == 0 else 0)
        return
    if x.flags.num & y.flags.num & READY == READY and x.dtype.isnative:  # spares small calls a generator
        a, b = (x, y) if x.ndim == 1 else (x.ravel(), y.ravel())
        cpu().drop(a, b, start, threshold, scale, philox_key, draw)
        return
    for part, target, first in flat(x, y):
        cpu().drop(part, target, signed(start + first), threshold, scale, philox_key, draw)


def fuse(
    what: Pass,
    x: NDArray,
    y: NDArray,
    p: Rate,
    key: Key | SupportsIndex,
    shared_axes: Axes,
    window: Window | None,
) -> None:
    """Do a pass with Bernoulli noise, with draws shared along axes, rates by element, or a window."""
    if type(x) is not np.ndarray:
        _on_device().fuse(what, x, y, p, key, shared_axes, window)
        return
    place, shared = placed(x, shared_axes, window)
    a, b = as_lanes(x), as_lanes(y)
    if what.others:
        what = what._replace(others=tuple(as_lanes(other) for other in what.others))
    thresholds, scales = rates(p, _units(x.shape, shared), lanes_dtype(a))
    scales = what.scaled(scales)
    philox_key, draw = stream(key)
    if a.ndim > x.ndim:  # real and imaginary parts share their draw
        place, shared = place.deeper(), {*shared, x.ndim}
        thresholds, scales = (r[..., None] if isinstance(r, np.ndarray) else r for r in (thresholds, scales))
    by_element = isinstance(thresholds, np.ndarray)
    if what.formula == "drop" and not shared:
        _drop_block(a, b, thresholds, scales, place, philox_key, draw)
        return
    if not shared and not by_element and thresholds < FULL:
        numbers = thresholds, scales, what.constants, philox_key, draw

        def run(arrays: Sequence[NDArray], bias: NDArray, period: int, target: NDArray, *layout: int) -> None:
            arguments = what.activation, arrays[0], arrays[-1], bias, period, target
            cpu().fused(what.formula, *arguments, *layout, *numbers)

        _each(run, (a, *what.others), b, place, what.bias)
        return
    if not by_element and thresholds == FULL:
        shared = set(range(a.ndim))  # everything is dropped, whatever is drawn

    def draw_factors(factors: NDArray, rows: Any, place: Place) -> None:
        t, s = (r[rows] if by_element else r for r in (thresholds, scales))
        factors[...] = 1
        _drop_block(factors, factors, t, s, place, philox_key, draw)

    for rows, factors in _factors(a, place, shared, draw_factors):
        others = tuple(other[rows] for other in what.others)
        spread(what._replace(others=others), a[rows], factors, b[rows])


def noise(
    formula: str,
    x: NDArray,
    y: NDArray,
    numbers: tuple[Any, ...],
    key: Key | SupportsIndex,
    shared_axes: Axes,
    window: Window | None,
) -> None:
    """Do a formula of noise with a density and its numbers, of which the first may be an array of them.

    All of them multiply x with what they make of the noise, but "shift", which adds that.
    """
    if type(x) is not np.ndarray:
        _on_device().noise(formula, x, y, numbers, key, shared_axes, window)
        return
    first = numbers[0]
    by_element = isinstance(first, np.ndarray)
    plain = x.dtype in PLAIN and window is None and shared_axes == () and not by_element
    if plain and x.size and x.flags.num & y.flags.num & READY == READY:  # the quick way for small calls
        a, b = (x, y) if x.ndim == 1 else (x.ravel(), y.ravel())
        cpu().add_noise(formula, a, b, x.size, 0, 0, numbers, *stream(key))
        return
    place, shared = placed(x, shared_axes, window)
    a, b = as_lanes(x), as_lanes(y)
    multiplies, draws = formula != "shift", stream(key)
    if by_element:
        check_broadcast("std", first, _units(x.shape, shared))
        first = first.reshape(first.shape + (1,) * (a.ndim - x.ndim))
    if a.ndim > x.ndim and multiplies:  # real and imaginary parts share their draw
        place, shared = place.deeper(), {*shared, x.ndim}
    elif a.ndim > x.ndim:  # they are independent, and have the variance together
        place, x, y, first = place.deeper(2), a, b, first / math.sqrt(2)
    run = _noise_run(formula, (first, *numbers[1:]), *draws)
    if not shared and not by_element:
        _each(run, (a,), b, place)
        return
    stds = np.broadcast_to(first, _units(a.shape, shared))

    def draw_factors(factors: NDArray, rows: Any, place: Place) -> None:
        factors[...] = multiplies and not by_element
        _each(_noise_run("shift", (1.0,), *draws) if by_element else run, (factors,), factors, place)
        if by_element:
            factors *= stds[rows]
            factors += multiplies

    for rows, factors in _factors(a, place, shared, draw_factors):
        if multiplies:
            spread(DROP, a[rows], factors, b[rows])
        else:
            np.add(x[rows], factors, out=y[rows], dtype=factors.dtype, casting="unsafe")


def sum_rows(y: Any, like: Any) -> Any:
    """The sums of an array on a GPU over all axes but the last, as an array of its library."""
    return _on_device().sum_rows(y, like)


def _noise_run(formula: str, numbers: tuple[Any, ...], philox_key: int, draw: int) -> Callable[..., None]:
    """What `_each` calls to apply noise with a density."""

    def run(arrays: Sequence[NDArray], _: NDArray, __: int, target: NDArray, *layout: int) -> None:
        cpu().add_noise(formula, arrays[0], target, *layout, numbers, philox_key, draw)

    return run


def placed(x: Any, shared_axes: Axes, window: Window | None) -> tuple[Place, set[int]]:
    """Where x lies in the array of draws, and the axes that share them."""
    full, origin = (x.shape, (0,) * x.ndim) if window is None else window_of(window, x.shape)
    shared = set() if shared_axes == () else axes_in(shared_axes, x.ndim)
    if not shared:
        return Place(full, origin), shared
    return Place(_units(full, shared), _units(origin, shared, 0)), shared


def _units(numbers: Sequence[int], shared: set[int], one: int = 1) -> tuple[int, ...]:
    """The numbers, but for shared axes another."""
    return tuple(one if axis in shared else n for axis, n in enumerate(numbers))


def _factors(
    x: NDArray, place: Place, shared: set[int], draw: Callable[[NDArray, Any, Place], None]
) -> Iterator[tuple[Any, NDArray]]:
    """Parts of x along its first axis whose factors stay in the cache, and these; one if it is shared."""
    shape = _units(x.shape, shared)
    length = x.shape[0] if x.ndim else 1
    step = length if 0 in shared or not x.ndim else max(1, _UNITS * length // max(math.prod(shape), 1))
    for i in range(0, length, max(step, 1)):
        rows: Any = slice(i, i + step) if x.ndim else ...
        factors = np.empty(_units(x[rows].shape, shared), lanes_dtype(x))
        draw(factors, rows, place if 0 in shared or not x.ndim else place.moved(i))
        yield rows, factors


class Place(NamedTuple):
    """Where a block lies in a full array."""

    full: Sequence[int]
    origin: Sequence[int]

    def moved(self, rows: int) -> Place:
        """The place so many rows further along the first axis."""
        return Place(self.full, [self.origin[0] + rows, *self.origin[1:]])

    def deeper(self, length: int = 1) -> Place:
        """The place with another axis at the end, whole in the block."""
        return Place([*self.full, length], [*self.origin, 0])

    def strides(self) -> list[int]:
        """By how much indices grow along each axis."""
        return [math.prod(self.full[axis + 1 :]) for axis in range(len(self.full))]

    def first(self) -> int:
        """The index of the block's first element."""
        return sum(o * s for o, s in zip(self.origin, self.strides(), strict=True))

    def rows(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """Places in a block of a shape where rows of consecutive indices lie, a stride apart.

        With each its first index and the stride: 0 where all that lies there is one row.
        """
        strides, first = self.strides(), self.first()
        axis = len(shape) - 1  # the first of those along which a row runs
        while axis > 0 and shape[axis] == self.full[axis]:
            axis -= 1
        if axis < 1:
            yield (), first, 0
            return
        for place in np.ndindex(shape[: axis - 1]):
            start = first + sum(i * s for i, s in zip(place, strides, strict=False))
            yield place, start, strides[axis - 1]


def _each(
    run: Callable[..., None],
    arrays: Sequence[NDArray],
    y: NDArray,
    place: Place,
    bias: NDArray | None = None,
) -> None:
    """Call run(parts, biases, their period, target, length, stride, start) on 1-D parts fit for kernels."""
    cycle = None if bias is None else np.resize(bias, bias.size + TILE)
    operands = [*arrays] if bias is None else [*arrays, np.broadcast_to(bias, y.shape)]
    for at, start, stride in place.rows(y.shape):
        block: Any = (*at, ...)
        parts, target = [a[block] for a in arrays], y[block]
        if not target.size:
            continue
        if all(ready(part, target) for part in parts):
            flats = [part.ravel() for part in parts]
            biases = (flats[0], cpu().NO_CYCLE) if bias is None else (cycle, bias.size)
            length = target.size // (len(target) if stride else 1)
            run(flats, *biases, target.ravel(), length, signed(stride), signed(start))
            continue
        runs: list[tuple[Any, int]] = [(block, start)]
        if stride:
            runs = [((*at, row, ...), start + row * stride) for row in range(len(target))]
        for index, first in runs:
            for *cut, piece, position in pieces(*(o[index] for o in operands), y[index], fit=True):
                numbers = piece.size, 0, signed(first + position)
                run(cut[: len(arrays)], cut[-1], cpu().NO_CYCLE, piece, *numbers)


def _drop_block(
    x: NDArray, y: NDArray, thresholds: Any, scales: Any, place: Place, philox_key: int, draw: int
) -> None:
    """Drop a block of a bigger array into y, with one rate or one for each element."""
    by_element = isinstance(thresholds, np.ndarray)
    for at, start, stride in place.rows(x.shape):
        block: Any = (*at, ...)
        part, target = x[block], y[block]
        if stride and part.size and not by_element and 0 < thresholds < FULL and ready(part, target):
            length = part.size // len(part)
            numbers = (length, signed(stride), signed(start), thresholds, scales, philox_key, draw)
            cpu().drop_rows(part.ravel(), target.ravel(), *numbers)
            continue
        runs: list[tuple[Any, int]] = [(block, start)]
        if stride:
            runs = [((*at, row, ...), start + row * stride) for row in range(len(part))]
        for run, first in runs:
            if by_element:
                _drop_by(x[run], y[run], thresholds[run], scales[run], first, philox_key, draw)
            else:
                drop(x[run], y[run], signed(first), thresholds, scales, philox_key, draw)


def _drop_by(
    x: NDArray, y: NDArray, thresholds: NDArray, scales: NDArray, start: int, philox_key: int, draw: int
) -> None:
    """As `drop` with rates that have x's shape."""
    repeated = 0  # leading axes along which the rates repeat
    while repeated < x.ndim and (thresholds.strides[repeated] == 0 or x.shape[repeated] == 1):
        repeated += 1
    period = math.prod(x.shape[repeated:])
    if repeated and x.size and period <= BUFFER:
        cycles = [np.resize(rates[(0,) * repeated], period + TILE) for rates in (thresholds, scales)]
        for part, target, first in flat(x, y):
            at = signed(start + first)
            cpu().drop_by(part, target, *cycles, period, first % period, at, philox_key, draw)
        return
    for part, t, s, target, first in pieces(x, thresholds, scales, y):
        at, size = signed(start + first), max(part.size, 1)
        cpu().drop_by(copy(part, target), target, t, s, size, 0, at, philox_key, draw)


def spread(what: Pass, x: NDArray, factors: NDArray, y: NDArray) -> None:
    """Do a pass with factors that broadcast to x: 0 drops, others scale."""
    if x.size == 0:
        return
    lead, shared, inner = _collapsed(x.shape, factors.shape)
    settings = what.formula, what.activation, what.constants
    arrays = (x, *what.others)
    direct = all(ready(a, y) for a in arrays) and what.bias is None
    if not direct or (inner == 1 and 2 < shared < _SHORT):
        bias = () if what.bias is None else (np.broadcast_to(what.bias, x.shape),)
        for *cut, f, target, _ in pieces(*arrays, *bias, factors, y, fit=True):
            cpu().units(cut[0], cut[len(what.others)], cut[-1], target, f, 1, target.size, *settings)
        return
    rows = np.broadcast_to(factors, x.shape[:lead] + factors.shape[lead:]) if lead else factors
    for at in np.ndindex(x.shape[:lead]) if lead else ((),):
        flats = [a[at].ravel() for a in arrays]
        cpu().units(flats[0], flats[-1], flats[0], y[at].ravel(), rows[at].ravel(), shared, inner, *settings)


def _collapsed(shape: tuple[int, ...], units: tuple[int, ...]) -> tuple[int, int, int]:
    """How many axes lead the last three runs of axes (drawn, shared, drawn), and the last two's lengths."""
    axis, lengths = len(shape), [1, 1]
    for run in (1, 0):
        while axis and (shape[axis - 1] == 1 or (shape[axis - 1] == units[axis - 1]) == run):
            axis -= 1
            lengths[run] *= shape[axis]
    while axis and shape[axis - 1] == units[axis - 1]:
        axis -= 1
    return axis, lengths[0], lengths[1]
