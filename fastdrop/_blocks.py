"""Blocks of arrays handed to the backend: whole or in windows, with draws by element or by unit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays import (
    BUFFER,
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
from fastdrop._rates import FULL, Rate, rates
from fastdrop.random import TILE, Key, signed, stream

_UNITS = 1 << 16  # whose factors stay in the cache
_SHORT = 8  # elements of a unit below which its branch costs more than repeating its factor


@cache
def cpu() -> ModuleType:
    """The CPU backend, imported at first use since Numba takes longer to import than NumPy."""
    from fastdrop import _cpu

    return _cpu


def drop(
    x: NDArray, y: NDArray, start: int, threshold: int, scale: float, philox_key: int, draw: int
) -> None:
    """Drop the elements of x, whose indices run from `start` in C order, into y."""
    if not 0 < threshold < FULL:
        np.copyto(y, x if threshold == 0 else 0)
        return
    if x.flags.num & y.flags.num & READY == READY and x.dtype.isnative:  # spares small calls a generator
        cpu().elements(x.ravel(), y.ravel(), start, threshold, scale, philox_key, draw)
        return
    for part, target, first in flat(x, y):
        cpu().elements(part, target, signed(start + first), threshold, scale, philox_key, draw)


def drop_units(
    x: NDArray, y: NDArray, p: Rate, key: Key | SupportsIndex, shared_axes: Axes, window: Window | None
) -> None:
    """Drop x into y with draws shared along axes, rates by element, a window, or another dtype."""
    full, origin = window_of((x.shape, (0,) * x.ndim) if window is None else window, x.shape)
    shared = axes_in(shared_axes, x.ndim)
    mask_shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
    philox_key, draw = stream(key)
    a, b = as_lanes(x), as_lanes(y)
    dtype = lanes_dtype(a)
    thresholds, scales = rates(p, mask_shape, dtype)
    place = _Place(
        [1 if axis in shared else n for axis, n in enumerate(full)],
        [0 if axis in shared else o for axis, o in enumerate(origin)],
    )
    if a.ndim > x.ndim:  # real and imaginary parts share their draw
        place, shared = _Place([*place.full, 1], [*place.origin, 0]), {*shared, x.ndim}
        thresholds, scales = (r[..., None] if isinstance(r, np.ndarray) else r for r in (thresholds, scales))
    if not shared:
        _drop_block(a, b, thresholds, scales, place, philox_key, draw)
        return

    for rows in _blocks(a.shape, math.prod(mask_shape), shared):
        part, target, moved = a[rows], b[rows], place.moved(0 if 0 in shared else rows.start)
        shape = tuple(1 if axis in shared else n for axis, n in enumerate(part.shape))
        t, s = (r[rows] if isinstance(r, np.ndarray) and 0 not in shared else r for r in (thresholds, scales))
        factors = np.ones(shape, dtype)
        _drop_block(factors, factors, t, s, moved, philox_key, draw)
        _spread(part, factors, target)


def _blocks(shape: tuple[int, ...], units: int, shared: set[int]) -> list[slice]:
    """Slices along the first axis whose factors stay in the cache; one where that axis is shared."""
    step = shape[0] if 0 in shared else max(1, _UNITS * shape[0] // max(units, 1))
    return [slice(i, min(i + step, shape[0])) for i in range(0, shape[0], max(step, 1))]


class _Place(NamedTuple):
    """Where a block lies in a full array."""

    full: list[int]
    origin: list[int]

    def moved(self, rows: int) -> _Place:
        """The place so many rows further along the first axis."""
        return _Place(self.full, [self.origin[0] + rows, *self.origin[1:]])

    def rows(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """Places in a block of a shape where rows of consecutive indices lie, a stride apart.

        With each its first index and the stride: 0 where all that lies there is one row.
        """
        strides = [math.prod(self.full[axis + 1 :]) for axis in range(len(shape))]
        first = sum(o * s for o, s in zip(self.origin, strides, strict=True))
        axis = len(shape) - 1  # the first of those along which a row runs
        while axis > 0 and shape[axis] == self.full[axis]:
            axis -= 1
        if axis < 1:
            yield (), first, 0
            return
        for place in np.ndindex(shape[: axis - 1]):
            start = first + sum(i * s for i, s in zip(place, strides, strict=False))
            yield place, start, strides[axis - 1]


def _drop_block(
    x: NDArray, y: NDArray, thresholds: Any, scales: Any, place: _Place, philox_key: int, draw: int
) -> None:
    """Drop a block of a bigger array into y, with one rate or one for each element."""
    by_element = isinstance(thresholds, np.ndarray)
    for at, start, stride in place.rows(x.shape):
        block: Any = (*at, ...)
        part, target = x[block], y[block]
        if stride and part.size and not by_element and 0 < thresholds < FULL and ready(part, target):
            length = part.size // len(part)
            numbers = (length, signed(stride), signed(start), thresholds, scales, philox_key, draw)
            cpu().rows(part.ravel(), target.ravel(), *numbers)
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
            cpu().elements_by(part, target, *cycles, period, first % period, at, philox_key, draw)
        return
    for part, t, s, target, first in pieces(x, thresholds, scales, y):
        at, size = signed(start + first), max(part.size, 1)
        cpu().elements_by(copy(part, target), target, t, s, size, 0, at, philox_key, draw)


def _spread(x: NDArray, factors: NDArray, y: NDArray) -> None:
    """Multiply x by factors that broadcast to it, into y; 0 gives +0."""
    if x.size == 0:
        return
    lead, shared, inner = _collapsed(x.shape, factors.shape)
    if not ready(x, y) or (inner == 1 and 2 < shared < _SHORT):
        for part, f, target, _ in pieces(x, factors, y):
            cpu().units(copy(part, target), target, f, 1, part.size)
        return
    rows = np.broadcast_to(factors, x.shape[:lead] + factors.shape[lead:])
    for at in np.ndindex(x.shape[:lead]):
        cpu().units(x[at].ravel(), y[at].ravel(), rows[at].ravel(), shared, inner)


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
