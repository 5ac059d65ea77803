"""The CPU kernels of Bernoulli noise, in plain Python on lanes: planes in registers, then a formula.

They work on 1-D C-order arrays, and become machine code in `fastdrop._cpu.calls`, one for each formula.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fastdrop._arrays.plan import Rows
from fastdrop._lanes import draws, formulas
from fastdrop._lanes.memory import (
    fence,
    load,
    load_where,
    load_wide,
    prefetch,
    store,
    store_streaming,
    store_where,
)
from fastdrop._lanes.vectors import LANES, iota, join, lower_twice, splat, upper_twice
from fastdrop._stream.keys import TILE

_TILE = np.int64(TILE)
_GROUPS = TILE // LANES  # groups of eight neighbours in a tile
_WORDS = 4  # words in a Philox block; group g holds bit g // 4 of word g % 4
_NONE = np.uint32(0)
_ONE = np.uint32(1)
_ROW = _WORDS * LANES  # neighbours that share a bit number
_LINE = 64  # bytes of a cache line
# Where arrays lie: in the nearest caches, maybe beyond them, or so far beyond that y is written past them
NEAR, FAR, PAST = 0, 1, 2
NO_CYCLE = 1 << 62  # the period of a bias that goes on for as long as x


# What kernels take beside arrays. They come as plain tuples, which Numba looks at in .1 us, where named
# ones take 2 us, and get their names inside.
class Draw(NamedTuple):
    """Which elements are dropped, how others are scaled, and the Philox key and draw word."""

    threshold: int
    scale: float
    key: int
    draw: int


class Cycle(NamedTuple):
    """Where biases repeat: element i has that at (phase + i) % period."""

    period: int
    phase: int


class Units(NamedTuple):
    """The axes (outer, shared, inner) of an array, and the index of the first unit's draw."""

    shared: int
    inner: int
    start: int


@njit(forceinline=True)
def _write(y, at, v, far):
    """Neighbours, past the caches or through them."""
    if far == PAST:
        store_streaming(y, at, v)
    else:
        store(y, at, v)


@njit(forceinline=True)
def between(place, first, last):
    """Which of eight neighbours from a place in the tile on lie in [first, last)."""
    places = iota() + np.uint64(place)
    return (places >= np.uint64(first)) & (places < np.uint64(last))


@njit(forceinline=True)
def _put(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, far):
    """Eight neighbours from `at` on; their biases are from `bias_at` on."""
    v = formula(load(x, at), load(other, at), load(bias, bias_at), dropped, scale, constants)
    _write(y, at, v, far)


@njit(forceinline=True)
def _put_wide(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, far):
    """As `_put`, sixteen."""
    v = formula(load_wide(x, at), load_wide(other, at), load_wide(bias, bias_at), dropped, scale, constants)
    _write(y, at, v, far)


@njit(forceinline=True)
def _put_part(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, inside):
    """Those of eight neighbours that are inside."""
    a, b, c = load_where(x, at, inside), load_where(other, at, inside), load_where(bias, bias_at, inside)
    store_where(y, at, formula(a, b, c, dropped, scale, constants), inside)


@njit(forceinline=True)
def fetch_ahead(x, other, at, count):
    """Ask for what lies a tile further on than a count of elements from `at`.

    Processors stop fetching ahead at the end of a page, which is a tile of float32, and stand still there
    while its bits are drawn: a call on arrays that had left the caches took twice as long without this. On
    arrays in the nearest one it costs up to a tenth. To ask for the lines of y too gained nothing.
    """
    for place in range(at + _TILE, at + _TILE + count, _LINE // x.itemsize):
        _fetch(x, other, place)


@njit(forceinline=True)
def _fetch(x, other, place):
    """Ask for the lines of one place, and once where both arrays are the same."""
    prefetch(x, place)
    if other.ctypes.data != x.ctypes.data:
        prefetch(other, place)


@njit(forceinline=True)
def _whole_tile(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, far):
    """A tile that lies in the arrays from `at` on."""
    bit, half = _ONE, _ROW // 2
    lower, upper = join(dropped[0], dropped[1]), join(dropped[2], dropped[3])
    for _ in range(_GROUPS // _WORDS):
        d0, d1 = (lower & bit) != _NONE, (upper & bit) != _NONE
        _put_wide(formula, x, other, bias, y, at, bias_at, d0, scale, constants, far)
        _put_wide(formula, x, other, bias, y, at + half, bias_at + half, d1, scale, constants, far)
        if far:
            fetch_ahead(x, other, at, _ROW)
        at += _ROW
        bias_at += _ROW
        bit = np.uint32(bit << _ONE)


@njit(forceinline=True)
def _part_of_tile(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, first, last):
    """Its elements whose places lie in [first, last)."""
    for k in range(first // _ROW, (last + _ROW - 1) // _ROW):
        bit, place = np.uint32(_ONE << np.uint32(k)), k * _ROW
        for sets in dropped:
            mine, inside = (sets & bit) != _NONE, between(place, first, last)
            _put_part(formula, x, other, bias, y, at + place, bias_at + place, mine, scale, constants, inside)
            place += LANES


@njit(forceinline=True, error_model="numpy")  # no check of the period, so that without a bias it vanishes
def _place_in_cycle(at, first, period):
    return (at + first) % period - first


@njit(forceinline=True)
def elements(formula, x, other, bias, y, rows, cycle, draw, constants, far):
    """Write a formula of x into y, where element i is dropped if U(i) < threshold.

    The array of biases goes on for a tile after its period.
    """
    rows, cycle, draw = Rows(*rows), Cycle(*cycle), Draw(*draw)
    length, threshold = rows.length, np.uint32(draw.threshold)
    for row in range(y.size // length):
        base, index = row * length, np.uint64(rows.start) + np.uint64(row) * np.uint64(rows.stride)
        tile, offset = index // np.uint64(TILE), np.int64(index % np.uint64(TILE))
        for t in range((offset + length + _TILE - 1) // _TILE):
            number = tile + np.uint64(t)
            dropped = draws.dropped(number, threshold, np.uint64(draw.key), np.uint64(draw.draw))
            at = base + t * _TILE - offset  # of the tile's first element in the arrays; maybe before the row
            first, last = max(base - at, 0), min(base + length - at, _TILE)
            bias_at = _place_in_cycle(cycle.phase + at, first, cycle.period)
            if last - first == _TILE:
                _whole_tile(formula, x, other, bias, y, at, bias_at, dropped, draw.scale, constants, far)
            else:
                _part_of_tile(
                    formula, x, other, bias, y, at, bias_at, dropped, draw.scale, constants, first, last
                )
    if far == PAST:
        fence()


@njit(forceinline=True)
def _run(formula, x, other, bias, y, first, last, dropped, scale, constants, far):
    """One unit along its shared elements; where it is dropped, what isn't needed isn't read."""
    at = first
    while at + LANES <= last:
        if far:
            _fetch(x, other, at + _TILE)
        _put(formula, x, other, bias, y, at, at, splat(dropped), scale, constants, far)
        at += LANES
    if at < last:
        inside = iota() < np.uint64(last - at)
        _put_part(formula, x, other, bias, y, at, at, splat(dropped), scale, constants, inside)


@njit(forceinline=True)
def _unit(formula, x, other, bias, y, first, last, factor, constants, far):
    if factor == 0:
        _run(formula, x, other, bias, y, first, last, True, factor, constants, far)
    else:
        _run(formula, x, other, bias, y, first, last, False, factor, constants, far)


@njit(forceinline=True)
def _row_of_units(formula, x, other, bias, y, first, last, factors, factor, constants, far):
    """Neighbouring units, one element of each."""
    at = first
    while at + LANES <= last:
        scale = load(factors, factor + at - first)
        if far:
            _fetch(x, other, at + _TILE)
        _put(formula, x, other, bias, y, at, at, scale == 0, scale, constants, far)
        at += LANES
    # Never a store without lanes: beside streaming stores to the same line it cost 370 ns a row.
    if at < last:
        inside = iota() < np.uint64(last - at)
        scale = load_where(factors, factor + at - first, inside)
        _put_part(formula, x, other, bias, y, at, at, scale == 0, scale, constants, inside)


@njit(forceinline=True)
def _pairs(formula, x, other, bias, y, factors, constants, far):
    """Units of two elements, as complex numbers are: no branch for so few."""
    unit = 0
    while unit + LANES <= factors.size:
        scale = load(factors, unit)
        for at, scales in ((2 * unit, lower_twice(scale)), (2 * unit + LANES, upper_twice(scale))):
            _put(formula, x, other, bias, y, at, at, scales == 0, scales, constants, far)
        unit += LANES
    for last in range(unit, factors.size):
        _unit(formula, x, other, bias, y, 2 * last, 2 * last + 2, factors[last], constants, NEAR)


@njit(forceinline=True)
def draw_factors(factors, start, draw):
    """The scale of each unit, or 0 where it is dropped."""
    factors[:] = 1
    rows, no_bias = (factors.size, 0, start), (NO_CYCLE, 0)
    elements(formulas.drop, factors, factors, factors, factors, rows, no_bias, draw, 0, NEAR)


@njit(forceinline=True)
def units(formula, x, other, bias, y, factors, axes, constants, far):
    """Write a formula of x into y, scaled by its unit's factor, or dropped where that is 0.

    x has the axes (outer, shared, inner), and factors the axes (outer, inner).
    """
    axes = Units(*axes)
    shared, inner = axes.shared, axes.inner
    if inner == 1 and shared == 2:
        _pairs(formula, x, other, bias, y, factors, constants, far)
    elif inner == 1:
        for unit in range(factors.size):
            first, last = unit * shared, (unit + 1) * shared
            _unit(formula, x, other, bias, y, first, last, factors[unit], constants, far)
    else:
        for row in range(x.size // inner):
            first, factor = row * inner, row // shared * inner
            _row_of_units(formula, x, other, bias, y, first, first + inner, factors, factor, constants, far)
    if far == PAST:
        fence()


@njit(forceinline=True)
def rows_by_rate(x, y, thresholds, scales, count, first, length, start, key, draw):
    """Dropout of rows of a length, which follow each other, with a threshold and scale for each.

    There are so many rates, of which the first row has the `first`; after the last they begin again. A scale
    of 0 drops always.
    """
    no_bias = NO_CYCLE, 0
    for row in range(y.size // length):
        rate, at = (first + row) % count, row * length
        part, out, rows = x[at : at + length], y[at : at + length], (length, 0, start + at)
        if scales[rate] == 0:
            out[:] = 0
        else:
            numbers = np.int64(thresholds[rate]), scales[rate], key, draw
            elements(formulas.drop, part, part, part, out, rows, no_bias, numbers, 0, FAR)
