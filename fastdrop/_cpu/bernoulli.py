"""The CPU kernels of Bernoulli noise: they draw which elements are dropped, and apply a formula.

The bits of a tile of 1024 elements are drawn in vector registers. Then the formula is applied to eight or
sixteen neighbours at a time. The functions here are plain Python on lanes and 1-D C-order arrays;
`fastdrop._cpu.calls` compiles them, once for each formula.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fastdrop._cpu.rows import more_in_tile, part_of_row, rows_between
from fastdrop._lanes import draws, formulas
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import (
    fence,
    in_a_line,
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
_WORDS = 4  # words in a Philox block; group g of eight has bit g // 4 of word g % 4
_NONE = np.uint32(0)
_ONE = np.uint32(1)
_ALL = np.uint32(0xFFFFFFFF)
_NO_TILE = np.uint64(0xFFFFFFFFFFFFFFFF)
_ROW = _WORDS * LANES  # neighbours that share a bit number
_HEAD = 8  # cache lines of the next tile that are asked for
# Where the arrays of a call probably are, by their size. NEAR: in the nearest caches, and nothing is done.
# FAR: not there, so that kernels ask for x ahead. PAST: too big for all caches, so that y is also written
# past them, straight to memory.
NEAR, FAR, PAST = 0, 1, 2
NO_CYCLE = 1 << 62  # the period of a bias that has a number for each element of x

# What stands for literal numbers in calls of `elements`: Numba would compile it anew for each of them.
NO_BIAS = np.int64(NO_CYCLE), np.int64(0)
_NEAR, _ZERO = np.int64(NEAR), np.int64(0)


# What kernels take beside arrays. Callers pass plain tuples, since Numba needs 2 us to look at a named one
# and .1 us to look at a plain one. Kernels give them their names.
class Draw(NamedTuple):
    """The threshold below which U drops an element, the scale of others, the Philox key and the draw word."""

    threshold: int
    scale: float
    key: int
    draw: int


class Cycle(NamedTuple):
    """How a bias repeats: element i has the number at (phase + i) % period."""

    period: int
    phase: int


class Units(NamedTuple):
    """An array of units with axes (outer, shared, inner): two lengths, and the index of the first draw.

    A unit is the elements along the axis `shared`, which have one draw.
    """

    shared: int
    inner: int
    start: int


@inlined
def write(y, at, v, far):
    """Write neighbours to y, past the caches if they are too small for the arrays."""
    if far == PAST:
        store_streaming(y, at, v)
    else:
        store(y, at, v)


@inlined
def between(place, first, last):
    """Return which of eight neighbours from a place in the tile on are in [first, last)."""
    places = iota() + np.uint64(place)
    return (places >= np.uint64(first)) & (places < np.uint64(last))


@inlined
def _put(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, far):
    """Apply the formula to eight neighbours from `at` on, whose biases are from `bias_at` on."""
    v = formula(load(x, at), load(other, at), load(bias, bias_at), dropped, scale, constants)
    write(y, at, v, far)


@inlined
def _put_wide(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, far):
    """Do as `_put`, for sixteen neighbours."""
    v = formula(load_wide(x, at), load_wide(other, at), load_wide(bias, bias_at), dropped, scale, constants)
    write(y, at, v, far)


@inlined
def _put_part(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, inside):
    """Do as `_put`, but only for those of the eight neighbours that are inside."""
    a, b, c = load_where(x, at, inside), load_where(other, at, inside), load_where(bias, bias_at, inside)
    store_where(y, at, formula(a, b, c, dropped, scale, constants), inside)


@inlined
def fetch_head(x, other, at):
    """Ask the processor to fetch the first lines of the next tile; `at` is where this one begins.

    Processors fetch ahead by themselves, but only to the end of a page, which a tile of float32 fills. So
    they fetched nothing while the bits of the next tile were drawn: where this was first seen, a call took
    twice as long on arrays that had left the caches. The first lines make them go on. To ask for every line
    cost a call on near arrays 12 % on an AMD EPYC (Zen 4), and the first ones 4 %. To ask for the lines of y
    too gained nothing.
    """
    for place in range(at + _TILE, at + _TILE + _HEAD * in_a_line(x), in_a_line(x)):
        fetch(x, other, place)


@inlined
def _fetch_row(x, other, at):
    """Ask for all lines of 32 elements, a tile ahead, which pays where y is written past the caches."""
    for place in range(at + _TILE, at + _TILE + _ROW, in_a_line(x)):
        fetch(x, other, place)


@inlined
def fetch(x, other, place):
    """Ask for the cache lines of one place in both arrays, or once if they are the same array."""
    prefetch(x, place)
    if other.ctypes.data != x.ctypes.data:
        prefetch(other, place)


@inlined
def _whole_tile(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, far):
    """Do a whole tile, whose elements are in the arrays from `at` on."""
    bit, half = _ONE, _ROW // 2
    lower, upper = join(dropped[0], dropped[1]), join(dropped[2], dropped[3])
    if far == FAR:
        fetch_head(x, other, at)
    for _ in range(_GROUPS // _WORDS):
        d0, d1 = (lower & bit) != _NONE, (upper & bit) != _NONE
        _put_wide(formula, x, other, bias, y, at, bias_at, d0, scale, constants, far)
        _put_wide(formula, x, other, bias, y, at + half, bias_at + half, d1, scale, constants, far)
        if far == PAST:
            _fetch_row(x, other, at)
        at += _ROW
        bias_at += _ROW
        bit = np.uint32(bit << _ONE)


@inlined
def part_of_tile(formula, x, other, bias, y, at, bias_at, dropped, scale, constants, first, last):
    """Do the elements of a tile whose places in it are in [first, last)."""
    lower, upper = join(dropped[0], dropped[1]), join(dropped[2], dropped[3])
    half = _ROW // 2
    for k in range(first // _ROW, (last + _ROW - 1) // _ROW):
        bit, place = np.uint32(_ONE << np.uint32(k)), k * _ROW
        if first <= place and place + _ROW <= last:
            d0, d1 = (lower & bit) != _NONE, (upper & bit) != _NONE
            here, bias_here = at + place, bias_at + place
            _put_wide(formula, x, other, bias, y, here, bias_here, d0, scale, constants, NEAR)
            _put_wide(formula, x, other, bias, y, here + half, bias_here + half, d1, scale, constants, NEAR)
            continue
        for sets in dropped:
            mine, inside = (sets & bit) != _NONE, between(place, first, last)
            _put_part(formula, x, other, bias, y, at + place, bias_at + place, mine, scale, constants, inside)
            place += LANES


@inlined
def rows_of_tile(first, last):
    """Return the bits that the elements of a tile have whose places in it are in [first, last)."""
    end = np.uint32((last + _ROW - 1) // _ROW)
    return np.uint32((_ALL << np.uint32(first // _ROW)) & (_ALL >> np.uint32(_ROW - end)))


# This error model has no check of the period for 0, so that the division vanishes where there is no bias.
@njit(forceinline=True, error_model="numpy")
def _place_in_cycle(at, first, period):
    return (at + first) % period - first


@inlined
def elements(formula, x, other, bias, y, rows, cycle, draw, constants, far, begin, end):
    """Write a formula of x into y, from `begin` to `end`; element i is dropped if U(i) < threshold.

    Rows are as `rows_between` has them. After its period the array of biases goes on, from the first again,
    for the length of a tile. So the biases of a tile are always neighbours.
    """
    cycle, draw = Cycle(*cycle), Draw(*draw)
    threshold = np.uint32(draw.threshold)
    none = splat(_NONE)
    dropped, held, right = (none, none, none, none), _NO_TILE, _NONE
    first_row, after = rows_between(rows, begin, end)
    for row in range(first_row, after):
        base, length, index = part_of_row(rows, row, begin, end)
        tile, offset = index // np.uint64(TILE), np.int64(index % np.uint64(TILE))
        for t in range((offset + length + _TILE - 1) // _TILE):
            number = tile + np.uint64(t)
            at = base + t * _TILE - offset  # the place of the tile's first element, maybe before the row
            first, last = max(base - at, 0), min(base + length - at, _TILE)
            needed = rows_of_tile(first, last)
            # A tile in which other short rows lie is drawn whole, once for all of them.
            if number != held or needed & ~right:
                right = _ALL if more_in_tile(rows, number == held) else needed
                dropped = draws.dropped(number, threshold, np.uint64(draw.key), np.uint64(draw.draw), right)
                held = number
            bias_at = _place_in_cycle(cycle.phase + at, first, cycle.period)
            if last - first == _TILE:
                _whole_tile(formula, x, other, bias, y, at, bias_at, dropped, draw.scale, constants, far)
            else:
                part_of_tile(
                    formula, x, other, bias, y, at, bias_at, dropped, draw.scale, constants, first, last
                )
    if far == PAST:
        fence()


@inlined
def _run(formula, x, other, bias, y, first, last, dropped, scale, constants, far):
    """Do the elements of one unit. `dropped` is a constant here, so that unneeded arrays are not read."""
    at, same = first, splat(dropped)
    if in_a_line(x) > 2 * LANES:  # of 16 bits; others would often lie across two cache lines
        while at + 2 * LANES <= last:
            if far:
                fetch(x, other, at + _TILE)
            _put_wide(formula, x, other, bias, y, at, at, join(same, same), scale, constants, far)
            at += 2 * LANES
    while at + LANES <= last:
        if far:
            fetch(x, other, at + _TILE)
        _put(formula, x, other, bias, y, at, at, same, scale, constants, far)
        at += LANES
    if at < last:
        inside = iota() < np.uint64(last - at)
        _put_part(formula, x, other, bias, y, at, at, same, scale, constants, inside)


@inlined
def _unit(formula, x, other, bias, y, first, last, factor, constants, far):
    if factor == 0:
        _run(formula, x, other, bias, y, first, last, True, factor, constants, far)
    else:
        _run(formula, x, other, bias, y, first, last, False, factor, constants, far)


@inlined
def _row_of_units(formula, x, other, bias, y, first, last, factors, factor, constants, far):
    """Do one element of each of some neighbouring units."""
    at = first
    while at + LANES <= last:
        scale = load(factors, factor + at - first)
        if far:
            fetch(x, other, at + _TILE)
        _put(formula, x, other, bias, y, at, at, scale == 0, scale, constants, far)
        at += LANES
    # A store of no lanes must not happen: beside streaming stores to the same line it cost 370 ns a row.
    if at < last:
        inside = iota() < np.uint64(last - at)
        scale = load_where(factors, factor + at - first, inside)
        _put_part(formula, x, other, bias, y, at, at, scale == 0, scale, constants, inside)


@inlined
def _pairs(formula, x, other, bias, y, factors, constants, far, begin, end):
    """Do units of two elements, as complex numbers are. A branch for each would cost more than it saves."""
    unit = begin
    while unit + LANES <= end:
        scale = load(factors, unit)
        for at, scales in ((2 * unit, lower_twice(scale)), (2 * unit + LANES, upper_twice(scale))):
            _put(formula, x, other, bias, y, at, at, scales == 0, scales, constants, far)
        unit += LANES
    for last in range(unit, end):
        _unit(formula, x, other, bias, y, 2 * last, 2 * last + 2, factors[last], constants, NEAR)


@inlined
def draw_factors(factors, start, draw):
    """Write the factor of each unit: its scale, or 0 if it is dropped."""
    factors[:] = 1
    v, rows = factors, (factors.size, _ZERO, start)
    elements(formulas.affine, v, v, v, v, rows, NO_BIAS, draw, formulas.DROP, _NEAR, _ZERO, v.size)


@inlined
def units(formula, x, other, bias, y, factors, axes, constants, far, begin, end):
    """Write a formula of x into y: an element is scaled by its unit's factor, or dropped if that is 0.

    x has the axes (outer, shared, inner), and factors have the axes (outer, inner). The units from `begin` to
    `end` are done; if `inner` is not 1, the rows of so many neighbours.
    """
    axes = Units(*axes)
    shared, inner = axes.shared, axes.inner
    if inner == 1 and shared == 2:
        _pairs(formula, x, other, bias, y, factors, constants, far, begin, end)
    elif inner == 1:
        for unit in range(begin, end):
            first, last = unit * shared, (unit + 1) * shared
            _unit(formula, x, other, bias, y, first, last, factors[unit], constants, far)
    else:
        for row in range(begin, end):
            first, factor = row * inner, row // shared * inner
            _row_of_units(formula, x, other, bias, y, first, first + inner, factors, factor, constants, far)
    if far == PAST:
        fence()
