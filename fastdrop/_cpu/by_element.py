"""The CPU kernel of dropout where each element has its own rate, and small kernels on arrays of rates.

With one rate for all, most elements are decided by the first digits of U, for a whole tile at a time. With a
rate for each that is not so: this kernel makes the upper half of U for each element, and the lower half where
the upper one equals that of a threshold.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fastdrop._arrays.numbers import FULL
from fastdrop._cpu.bernoulli import between, fetch_ahead
from fastdrop._lanes.draws import digits, mirror
from fastdrop._lanes.memory import load, load_where, store, store_where
from fastdrop._lanes.vectors import LANES, any_nonzero, splat, zero_where
from fastdrop._stream.keys import TILE

_TILE = np.int64(TILE)
_WORDS = 4
_ROW = _WORDS * LANES  # neighbours that share a bit number
_HALF = 16  # digits of U that are always drawn; the others are drawn where these decide nothing
_TIE = np.uint32(1 << _HALF)
_NONE, _ONE = np.uint32(0), np.uint32(1)
_FULL = float(FULL)


@njit(forceinline=True)
def _butterfly(rows, one, other, by, bits):
    """Exchange some bits between two rows of the scratch array, to transpose its matrix of bits."""
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
    """Write the upper 16 digits of U for a tile into rows.

    Those of the elements with bit number k end up in row 15 - k % 16, in the 16-bit half k // 16.
    """
    for plane in range(_HALF):
        w0, w1, w2, w3 = digits(tile, plane, key, draw)
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
    """Return the lower 16 digits of U for the eight elements of one bit number and word."""
    lower = splat(_NONE)
    for plane in range(_HALF, 2 * _HALF):
        w0, w1, w2, w3 = digits(tile, plane, key, draw)
        row = w0 if word == 0 else w1 if word == 1 else w2 if word == 2 else w3
        lower = (lower << _ONE) | ((row >> np.uint32(k)) & _ONE)
    return lower


@njit(forceinline=True)
def elements(x, y, thresholds, scales, period, phase, start, key, draw):
    """Write dropout of x into y, where element i has the threshold and scale at (phase + i) % period.

    A scale of 0 drops the element always.
    """
    rows, flipped = np.empty(_HALF * _ROW, np.uint32), mirror(np.uint64(draw))
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
            if word == 0:
                fetch_ahead(x, x, at + place, _ROW)
            row = load(rows, (_HALF - 1 - k % _HALF) * _ROW + word * LANES) ^ flipped
            u = (row >> np.uint32(k // _HALF * _HALF)) << np.uint32(_HALF)
            inside = splat(True) if whole else between(place, first, last)
            threshold = load_where(thresholds, rate + place, inside)
            if any_nonzero((u ^ threshold) < _TIE):
                lower = _lower_half(tile, k, word, np.uint64(key), np.uint64(draw))
                u = u | (lower ^ (flipped >> np.uint32(_HALF)))
            scale = load_where(scales, rate + place, inside)
            v = zero_where((u < threshold) | (scale == 0), load_where(x, at + place, inside) * scale)
            store_where(y, at + place, v, inside)


@njit(forceinline=True)
def read_rates(p, thresholds, scales, scale):
    """Write the threshold and scale of each rate; return the place of the first bad rate, or -1.

    After the last rate both arrays go on with the first, to their end. The scale is the one given, or if that
    is 0 the scale of the realised rate, 2**32 / (2**32 - threshold). It is 0 where everything is dropped.
    """
    for i in range(p.size):
        if not 0 <= p[i] <= 1:
            return i
        count = np.rint(p[i] * _FULL)
        thresholds[i] = np.uint32(min(count, _FULL - 1))
        scales[i] = 0 if count == _FULL else scale if scale != 0 else _FULL / (_FULL - count)
    if p.size:
        _go_on(thresholds, p.size)
        _go_on(scales, p.size)
    return -1


@njit(forceinline=True)
def _go_on(cycle, filled):
    """Fill an array to its end with what it begins with, again and again."""
    step = (filled + LANES - 1) // filled * filled  # so that eight neighbours never overlap their copy
    for at in range(filled, min(step, cycle.size)):
        cycle[at] = cycle[at - filled]
    at = step
    while at + LANES <= cycle.size:
        store(cycle, at, load(cycle, at - step))
        at += LANES
    for last in range(at, cycle.size):
        cycle[last] = cycle[last - step]


@njit(forceinline=True)
def spread_out(thresholds, scales, count, inner, all_thresholds, all_scales):
    """Write each rate `inner` times, and begin again after `count` rates, to the arrays' end."""
    rate, left = 0, inner
    for i in range(all_thresholds.size):
        all_thresholds[i], all_scales[i] = thresholds[rate], scales[rate]
        left -= 1
        if left == 0:
            rate, left = (rate + 1) % count, inner


@njit(forceinline=True)
def repeat(numbers, cycle):
    """Write numbers into an array again and again, to its end."""
    for i in range(numbers.size):
        cycle[i] = numbers[i]
    _go_on(cycle, numbers.size)
