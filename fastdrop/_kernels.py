"""The CPU kernels in plain Python on lanes: bit planes decided in registers, then select and scale.

They work on 1-D C-order arrays, and become machine code in `fastdrop._cpu`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fastdrop import _philox
from fastdrop._simd import (
    LANES,
    any_nonzero,
    fence,
    iota,
    load,
    load_where,
    lower_twice,
    narrow,
    splat,
    store,
    store_streaming,
    store_where,
    upper_twice,
    zero_where,
)
from fastdrop.random import BERNOULLI, DOMAIN_SHIFT, TILE

_TILE = np.int64(TILE)
_GROUPS = TILE // LANES  # groups of eight neighbours in a tile
_WORDS = 4  # words in a Philox block; group g holds bit g // 4 of word g % 4
_BLOCKS = np.uint64(LANES)  # Philox blocks in a tile, one a lane
_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_ONE = np.uint32(1)
_TOP_DIGIT = np.uint32(0x80000000)
_WORD = np.uint64(0xFFFFFFFF)
_HALF = 16  # digits of U that are drawn before a tie is looked for
_ROW = _WORDS * LANES  # neighbours that share a bit number
_PLANES = np.uint64(BERNOULLI << DOMAIN_SHIFT)  # counter word 2 of plane 0
_TIE = np.uint32(1 << _HALF)

_philox4x32 = njit(forceinline=True)(_philox.philox4x32)
_compare_digit = njit(forceinline=True)(_philox.compare_digit)


@njit(forceinline=True)
def _digits(tile, plane, key, draw):
    """One digit of U for a tile: bit k, lane b of vector w is that of element 32k + 8w + b."""
    block, number = iota() + tile * _BLOCKS, splat(_PLANES | np.uint64(plane))
    low_key, high_key = splat(key & _WORD), splat(key >> np.uint64(32))
    w0, w1, w2, w3 = _philox4x32(block, block >> np.uint64(32), number, splat(draw), low_key, high_key)
    return narrow(w0), narrow(w1), narrow(w2), narrow(w3)


@njit(forceinline=True)
def _dropped(tile, threshold, key, draw):
    """Which elements of a tile are dropped, in the order of `_digits`."""
    u0 = u1 = u2 = u3 = splat(_ALL)
    d0 = d1 = d2 = d3 = splat(_NONE)
    plane = np.uint64(0)
    while True:
        flip = _NONE if threshold & _TOP_DIGIT else _ALL
        w0, w1, w2, w3 = _digits(tile, plane, key, draw)
        d0, u0 = _compare_digit(d0, u0, w0, splat(flip))
        d1, u1 = _compare_digit(d1, u1, w1, splat(flip))
        d2, u2 = _compare_digit(d2, u2, w2, splat(flip))
        d3, u3 = _compare_digit(d3, u3, w3, splat(flip))
        threshold = np.uint32(threshold << _ONE)
        plane += np.uint64(1)
        if threshold == 0 or not any_nonzero(u0 | u1 | u2 | u3):
            return d0, d1, d2, d3


@njit(forceinline=True)
def _write(y, at, v, stream):
    """Eight neighbours, past the caches or through them."""
    if stream:
        store_streaming(y, at, v)
    else:
        store(y, at, v)


@njit(forceinline=True)
def _put(x, y, at, dropped, scale, stream):
    """Eight neighbours: one load, one multiplication, one select, one store."""
    _write(y, at, zero_where(dropped, load(x, at) * scale), stream)


@njit(forceinline=True)
def _between(place, first, last):
    """Which of eight neighbours from a place in the tile on lie in [first, last)."""
    places = iota() + np.uint64(place)
    return (places >= np.uint64(first)) & (places < np.uint64(last))


@njit(forceinline=True)
def _put_part(x, y, at, dropped, scale, place, first, last):
    """Those of eight neighbours whose place in the tile lies in [first, last)."""
    inside = _between(place, first, last)
    store_where(y, at, zero_where(dropped, load_where(x, at, inside) * scale), inside)


@njit(forceinline=True)
def _whole_tile(x, y, at, dropped, scale, stream):
    """A tile that lies in the array from `at` on."""
    bit = _ONE
    for _ in range(_GROUPS // _WORDS):
        _put(x, y, at, (dropped[0] & bit) != _NONE, scale, stream)
        _put(x, y, at + LANES, (dropped[1] & bit) != _NONE, scale, stream)
        _put(x, y, at + 2 * LANES, (dropped[2] & bit) != _NONE, scale, stream)
        _put(x, y, at + 3 * LANES, (dropped[3] & bit) != _NONE, scale, stream)
        at += _ROW
        bit = np.uint32(bit << _ONE)


@njit(forceinline=True)
def _part_of_tile(x, y, at, dropped, scale, first, last):
    """Its elements whose places lie in [first, last)."""
    for k in range(first // _ROW, (last + _ROW - 1) // _ROW):
        bit, place = np.uint32(_ONE << np.uint32(k)), k * _ROW
        _put_part(x, y, at + place, (dropped[0] & bit) != _NONE, scale, place, first, last)
        place += LANES
        _put_part(x, y, at + place, (dropped[1] & bit) != _NONE, scale, place, first, last)
        place += LANES
        _put_part(x, y, at + place, (dropped[2] & bit) != _NONE, scale, place, first, last)
        place += LANES
        _put_part(x, y, at + place, (dropped[3] & bit) != _NONE, scale, place, first, last)


@njit(forceinline=True)
def elements(x, y, start, threshold, scale, key, draw, stream):
    """Write x * scale into y, and +0 where U(start + i) < threshold."""
    tile, offset = np.uint64(start) // np.uint64(TILE), np.int64(np.uint64(start) % np.uint64(TILE))
    for t in range((offset + x.size + _TILE - 1) // _TILE):
        dropped = _dropped(tile + np.uint64(t), np.uint32(threshold), np.uint64(key), np.uint64(draw))
        at = t * _TILE - offset  # of the tile's first element in the array; negative before it
        if at >= 0 and at + _TILE <= x.size:
            _whole_tile(x, y, at, dropped, scale, stream)
        else:
            _part_of_tile(x, y, at, dropped, scale, max(-at, 0), min(x.size - at, _TILE))
    if stream:
        fence()


@njit(forceinline=True)
def rows(x, y, length, stride, start, threshold, scale, key, draw):
    """As `elements` for each row of a length; the rows' first indices are a stride apart."""
    for row in range(x.size // length):
        part = slice(row * length, (row + 1) * length)
        first = np.uint64(start) + np.uint64(row) * np.uint64(stride)
        elements(x[part], y[part], first, threshold, scale, key, draw, False)


@njit(forceinline=True)
def _butterfly(rows, one, other, by, bits):
    """Exchange bits between two rows of the scratch: a step of transposing a matrix of bits."""
    a, b = load(rows, one), load(rows, other)
    exchanged = (a ^ (b >> by)) & bits
    store(rows, one, a ^ exchanged)
    store(rows, other, b ^ (exchanged << by))


@njit(forceinline=True)
def _transpose_step(rows, by, bits):
    """Exchange blocks of `by` bits between rows `by` apart (Warren, Hacker's Delight, section 7-3)."""
    for block in range(0, _HALF, 2 * by):
        for at in range(block * _ROW, (block + by) * _ROW, LANES):
            _butterfly(rows, at, at + by * _ROW, np.uint32(by), np.uint32(bits))


@njit(forceinline=True)
def _upper_halves(rows, tile, key, draw):
    """The upper 16 digits of U for a tile: bit k's are in row 15 - k % 16, in half k // 16."""
    for plane in range(_HALF):
        w0, w1, w2, w3 = _digits(tile, plane, key, draw)
        row = plane * _ROW
        store(rows, row, w0)
        store(rows, row + LANES, w1)
        store(rows, row + 2 * LANES, w2)
        store(rows, row + 3 * LANES, w3)
    _transpose_step(rows, 8, 0x00FF00FF)
    _transpose_step(rows, 4, 0x0F0F0F0F)
    _transpose_step(rows, 2, 0x33333333)
    _transpose_step(rows, 1, 0x55555555)


@njit(forceinline=True)
def _lower_half(tile, k, word, key, draw):
    """The lower 16 digits of U for the eight elements of one bit and word."""
    lower = splat(_NONE)
    for plane in range(_HALF, 2 * _HALF):
        w0, w1, w2, w3 = _digits(tile, plane, key, draw)
        digits = w0 if word == 0 else w1 if word == 1 else w2 if word == 2 else w3
        lower = (lower << _ONE) | ((digits >> np.uint32(k)) & _ONE)
    return lower


@njit(forceinline=True)
def elements_by(x, y, thresholds, scales, period, phase, start, key, draw):
    """As `elements`, with threshold and scale of element i at (phase + i) % period; scale 0 drops always."""
    rows = np.empty(_HALF * _ROW, np.uint32)
    first_tile, offset = np.uint64(start) // np.uint64(TILE), np.int64(np.uint64(start) % np.uint64(TILE))
    for t in range((offset + x.size + _TILE - 1) // _TILE):
        tile = first_tile + np.uint64(t)
        _upper_halves(rows, tile, np.uint64(key), np.uint64(draw))
        at = t * _TILE - offset
        first, last = max(-at, 0), min(x.size - at, _TILE)
        rate = (phase + at + first) % period - first
        whole = first == 0 and last == _TILE
        for group in range(first // LANES, (last + LANES - 1) // LANES):
            k, word, place = group // _WORDS, group % _WORDS, group * LANES
            row = load(rows, (_HALF - 1 - k % _HALF) * _ROW + word * LANES)
            u = (row >> np.uint32(k // _HALF * _HALF)) << np.uint32(_HALF)
            inside = splat(True) if whole else _between(place, first, last)
            threshold = load_where(thresholds, rate + place, inside)
            if any_nonzero((u ^ threshold) < _TIE):
                u = u | _lower_half(tile, k, word, np.uint64(key), np.uint64(draw))
            scale = load_where(scales, rate + place, inside)
            v = zero_where((u < threshold) | (scale == 0), load_where(x, at + place, inside) * scale)
            store_where(y, at + place, v, inside)


@njit(forceinline=True)
def _run(x, y, first, last, scale, stream):
    """One unit along its shared elements."""
    if scale == 0:
        _zeros(x, y, first, last, stream)
        return
    at = first
    while at + LANES <= last:
        _write(y, at, load(x, at) * scale, stream)
        at += LANES
    if at < last:
        inside = iota() < np.uint64(last - at)
        store_where(y, at, load_where(x, at, inside) * scale, inside)


@njit(forceinline=True)
def _zeros(x, y, first, last, stream):
    """A dropped unit, whose elements aren't even read."""
    at = first
    zero = load_where(x, at, splat(False))
    while at + LANES <= last:
        _write(y, at, zero, stream)
        at += LANES
    if at < last:
        store_where(y, at, zero, iota() < np.uint64(last - at))


@njit(forceinline=True)
def _row_of_units(x, y, first, last, factors, factor, stream):
    """Neighbouring units, one element of each."""
    at = first
    while at + LANES <= last:
        scale = load(factors, factor + at - first)
        _write(y, at, zero_where(scale == 0, load(x, at) * scale), stream)
        at += LANES
    # Never a store without lanes: beside streaming stores to the same line it cost 370 ns a row.
    if at < last:
        inside = iota() < np.uint64(last - at)
        scale = load_where(factors, factor + at - first, inside)
        store_where(y, at, zero_where(scale == 0, load_where(x, at, inside) * scale), inside)


@njit(forceinline=True)
def _pairs(x, y, factors, stream):
    """Units of two elements, as complex numbers are: no branch for so few."""
    unit = 0
    while unit + LANES <= factors.size:
        scale = load(factors, unit)
        for at, scales in ((2 * unit, lower_twice(scale)), (2 * unit + LANES, upper_twice(scale))):
            _write(y, at, zero_where(scales == 0, load(x, at) * scales), stream)
        unit += LANES
    for last in range(unit, factors.size):
        _run(x, y, 2 * last, 2 * last + 2, factors[last], False)


@njit(forceinline=True)
def units(x, y, factors, shared, inner, stream):
    """Write x times its unit's factor into y, and +0 where that is 0.

    x has the axes (outer, shared, inner), and factors the axes (outer, inner).
    """
    if inner == 1 and shared == 2:
        _pairs(x, y, factors, stream)
    elif inner == 1:
        for unit in range(factors.size):
            _run(x, y, unit * shared, (unit + 1) * shared, factors[unit], stream)
    else:
        for row in range(x.size // inner):
            first = row * inner
            _row_of_units(x, y, first, first + inner, factors, row // shared * inner, stream)
    if stream:
        fence()
