"""The CPU kernels of dropout where elements or rows have their own rates, and one that repeats a bias.

A tile's thresholds are brought into the order of the generator's digits: the digits of 1024 thresholds become
planes, as those of U are. Then a few operations compare a digit of all elements, and most tiles are decided
after a dozen digits. Where every 32 neighbours of a tile have one rate, a bit stands for all of them.
"""

from __future__ import annotations

import numpy as np

from fastdrop._cpu.bernoulli import between, fetch_head, part_of_tile, rows_of_tile
from fastdrop._lanes import draws, formulas
from fastdrop._lanes.draws import compare_digit, count_and_scale, digits, mirror, threshold_and_scale
from fastdrop._lanes.floats import double, low_word
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import load, load_where, load_wide, store, store_rounded, store_where
from fastdrop._lanes.vectors import (
    LANES,
    any_nonzero,
    bits_of,
    iota,
    join,
    lower_half,
    splat,
    upper_half,
    zero_where,
)
from fastdrop._stream.keys import TILE

_TILE = np.int64(TILE)
_WORDS = 4
_ROW = _WORDS * LANES  # neighbours that share a bit number
_WIDE = 2 * LANES
_ALL_LANES, _ALL_WIDE = np.uint32((1 << LANES) - 1), np.uint32((1 << _WIDE) - 1)
_DIGITS = 32  # of a threshold
_HALF = 16  # digits that are brought into order together; few tiles need the other half
_CYCLE = 8 * TILE  # elements after which rates repeat, at most, for all to be held
_LOW = np.uint32((1 << _HALF) - 1)
_NONE, _ONE, _ALL = np.uint32(0), np.uint32(1), np.uint32(0xFFFFFFFF)


@inlined
def is_rate(p):
    """Return whether lanes are in [0, 1]."""
    return (p >= 0.0) & ((p < 1.0) | (p == 1.0))


@inlined
def is_finite(a):
    """Return whether lanes are neither infinite nor NaN."""
    return a - a == 0.0


@inlined
def are_all(fine, numbers, begin, end):
    """Return whether the numbers from `begin` to `end` are such as a function says, of which 0 is one."""
    whole, all_fine = begin + (end - begin) // _WIDE * _WIDE, iota() < np.uint64(LANES)
    right = join(all_fine, all_fine)
    for i in range(begin, whole, _WIDE):
        right = right & fine(load_wide(numbers, i))
    for i in range(whole, end, LANES):
        inside = iota() < np.uint64(end - i)
        all_fine = all_fine & fine(load_where(numbers, i, inside))
    return bits_of(right) == _ALL_WIDE and bits_of(all_fine) == _ALL_LANES


@inlined
def make_rates(rates, a, numbers, p, begin, end):
    """Write the rates that a function makes of `a` to p, from `begin` to `end`."""
    whole = begin + (end - begin) // LANES * LANES
    for i in range(begin, whole, LANES):
        store(p, i, rates(load(a, i), numbers))
    if whole < end:
        inside = iota() < np.uint64(end - whole)
        store_where(p, whole, rates(load_where(a, whole, inside), numbers), inside)


@inlined
def _read_lanes(rates, p, numbers, rate, count, thresholds, scales, place, scale):
    """Write the thresholds and scales of neighbours, eight at a time; see `threshold_and_scale`.

    The places of the last eight have to exist, and are all written.
    """
    whole = count // _WIDE * _WIDE
    for i in range(0, whole, _WIDE):
        v = rates(load_wide(p, rate + i), numbers)
        _put_counts(lower_half(v), thresholds, scales, place + i, scale)
        _put_counts(upper_half(v), thresholds, scales, place + i + LANES, scale)
    for i in range(whole, count, LANES):
        v = rates(load_where(p, rate + i, iota() < np.uint64(count - i)), numbers)
        _put_counts(v, thresholds, scales, place + i, scale)


@inlined
def _put_counts(p, thresholds, scales, place, scale):
    counts, own = count_and_scale(double(p), scale)
    store(thresholds, place, low_word(counts))
    store_rounded(scales, place, own)


@inlined
def _read(rates, p, numbers, inner, position, first, last, thresholds, scales, scale):
    """Write the thresholds and scales of a tile's places [first, last), and maybe of the eight after them.

    Every `inner` neighbours have the next rate, and after the last the first comes again; the place `first`
    is at `position` in this cycle.
    """
    rate, place, left = position // inner, first, inner - position % inner
    while place < last:
        if inner == 1:
            count = min(last - place, p.size - rate)
            _read_lanes(rates, p, numbers, rate, count, thresholds, scales, place, scale)
            rate += count
        else:
            count = min(last - place, left)
            threshold, own = threshold_and_scale(p[rate], scale)
            thresholds[place : place + count] = threshold
            scales[place : place + count] = own
            rate, left = rate + 1, inner
        place += count
        if rate == p.size:
            rate = 0


@inlined
def _butterfly(planes, one, other, by, bits):
    """Exchange some bits between two vectors of an array, to transpose its matrices of bits."""
    a, b = load_wide(planes, one), load_wide(planes, other)
    exchanged = (a ^ (b >> by)) & bits
    store(planes, one, a ^ exchanged)
    store(planes, other, b ^ (exchanged << by))


@inlined
def _transpose_step(planes, by, bits):
    """Exchange blocks of `by` bits between rows `by` apart (Warren, Hacker's Delight, section 7-3)."""
    for block in range(0, _HALF, 2 * by):
        for at in range(block * _ROW, (block + by) * _ROW, 2 * LANES):
            _butterfly(planes, at, at + by * _ROW, np.uint32(by), np.uint32(bits))


@inlined
def _into_planes(thresholds, planes, shift):
    """Write 16 digits of all thresholds as planes, most significant first, in the order of `digits`.

    They are the digits above the lowest `shift`, which is 16 or 0.
    """
    shift = np.uint32(shift)
    for k in range(_HALF):
        row = (_HALF - 1 - k) * _ROW
        for at in range(0, _ROW, 2 * LANES):
            low = (load_wide(thresholds, k * _ROW + at) >> shift) & _LOW
            high = (load_wide(thresholds, (k + _HALF) * _ROW + at) >> shift) << np.uint32(_HALF)
            store(planes, row + at, low | high)
    _transpose_step(planes, 8, 0x00FF00FF)
    _transpose_step(planes, 4, 0x0F0F0F0F)
    _transpose_step(planes, 2, 0x33333333)
    _transpose_step(planes, 1, 0x55555555)


@inlined
def _dropped(tile, thresholds, planes, key, draw):
    """Return which elements of a tile are dropped, as bits in the order of `digits`.

    `planes` has the upper digits of the thresholds. Where they decide too little it gets the lower ones, and
    then the upper ones again. An antithetic key complements U.
    """
    flipped = mirror(draw)
    u0 = u1 = u2 = u3 = splat(_ALL)
    d0 = d1 = d2 = d3 = splat(_NONE)
    plane, row = 0, 0
    while True:
        w0, w1, w2, w3 = digits(tile, plane, key, draw)
        d0, u0 = compare_digit(d0, u0, w0 ^ flipped, ~load(planes, row))
        d1, u1 = compare_digit(d1, u1, w1 ^ flipped, ~load(planes, row + LANES))
        d2, u2 = compare_digit(d2, u2, w2 ^ flipped, ~load(planes, row + 2 * LANES))
        d3, u3 = compare_digit(d3, u3, w3 ^ flipped, ~load(planes, row + 3 * LANES))
        plane, row = plane + 1, row + _ROW
        if plane == 2 * _HALF or not any_nonzero(u0 | u1 | u2 | u3):
            break
        if plane == _HALF:
            _into_planes(thresholds, planes, 0)
            row = 0
    if plane > _HALF:
        _into_planes(thresholds, planes, _HALF)
    return d0, d1, d2, d3


@inlined
def _put(x, y, at, scales, place, dropped):
    """Write dropout of sixteen neighbours at a place in the tile, which is at `at` in the arrays."""
    scale = load_wide(scales, place)
    store(y, at, zero_where(dropped | (scale == 0), load_wide(x, at) * scale))


@inlined
def _put_part(x, y, at, scales, place, dropped, first, last):
    """Do as `_put`, for those of eight neighbours whose places are in [first, last)."""
    scale, inside = load(scales, place), between(place, first, last)
    v = load_where(x, at, inside) * scale
    store_where(y, at, zero_where(dropped | (scale == 0), v), inside)


@inlined
def _apply(x, y, at, first, last, dropped, scales):
    """Write dropout of a tile's places [first, last); place 0 is, or would be, at `at` in the arrays."""
    fetch_head(x, x, at)
    lower, upper, half = join(dropped[0], dropped[1]), join(dropped[2], dropped[3]), 2 * LANES
    for k in range(first // _ROW, (last + _ROW - 1) // _ROW):
        bit, place = np.uint32(_ONE << np.uint32(k)), k * _ROW
        if first <= place and place + _ROW <= last:
            _put(x, y, at + place, scales, place, (lower & bit) != _NONE)
            _put(x, y, at + place + half, scales, place + half, (upper & bit) != _NONE)
            continue
        for sets in dropped:
            _put_part(x, y, at + place, scales, place, (sets & bit) != _NONE, first, last)
            place += LANES


@inlined
def elements(real, rates, x, y, p, numbers, inner, phase, start, key, draw, scale, begin, end):
    """Write dropout of x into y, from `begin` to `end`; element i has the rate (phase + i) // inner % p.size.

    `real` is the type that x is computed in. A function makes rates of p and the numbers; only where `inner`
    is 1 need it be another than `formulas.given`.
    """
    planes = np.empty(_HALF * _ROW, np.uint32)
    key, draw, ready, cycle = np.uint64(key), np.uint64(draw), False, p.size * inner
    # A short cycle is read once, and goes on for a tile after its end. Of a long one each tile reads a part.
    whole = cycle <= _CYCLE and end - begin > cycle + _TILE
    size = cycle + _TILE if whole else _TILE
    counts, factors = np.empty(size + LANES, np.uint32), np.zeros(size + LANES, real)
    if whole:
        _read(rates, p, numbers, inner, 0, 0, size, counts, factors, scale)
    thresholds, scales = counts, factors
    index = np.uint64(start) + np.uint64(begin)
    first_tile, offset = index // np.uint64(TILE), np.int64(index % np.uint64(TILE))
    for t in range((offset + end - begin + _TILE - 1) // _TILE):
        at = begin + t * _TILE - offset
        first, last = max(begin - at, 0), min(end - at, _TILE)
        if not ready:
            if whole:
                here = (phase + at) % cycle
                thresholds, scales = counts[here:], factors[here:]
            else:
                position = (phase + at + first) % cycle
                _read(rates, p, numbers, inner, position, first, last, thresholds, scales, scale)
            _into_planes(thresholds, planes, _HALF)
            ready = first == 0 and last == _TILE and _TILE % cycle == 0  # then the next tile has the same
        dropped = _dropped(first_tile + np.uint64(t), thresholds, planes, key, draw)
        _apply(x, y, at, first, last, dropped, scales)


@inlined
def _digits_of_rows(thresholds, ends, first, count, digits_of_rows):
    """Write for each digit of thresholds which rows of a tile have it, and return the digits that any has.

    Threshold i is that of the rows from where the one before ends to `ends[i]`.
    """
    digits_of_rows[:] = 0
    union = _NONE
    for i in range(count):
        threshold, rows = thresholds[i], rows_of_tile(first, ends[i])
        for digit in range(_DIGITS):
            here = (threshold >> np.uint32(_DIGITS - 1 - digit)) & _ONE
            digits_of_rows[digit] |= rows & (_NONE - here)
        first, union = ends[i], np.uint32(union | threshold)
    return union


@inlined
def _dropped_by_rows(tile, digits_of_rows, union, needed, key, draw):
    """Do as `_dropped`, from what `_digits_of_rows` gives. Only the rows in `needed` have to be right."""
    flipped = mirror(draw)
    u0 = u1 = u2 = u3 = splat(needed)
    d0 = d1 = d2 = d3 = splat(_NONE)
    plane = 0
    while union:
        w0, w1, w2, w3 = digits(tile, plane, key, draw)
        flip = splat(np.uint32(digits_of_rows[plane] ^ _ALL))
        d0, u0 = compare_digit(d0, u0, w0 ^ flipped, flip)
        d1, u1 = compare_digit(d1, u1, w1 ^ flipped, flip)
        d2, u2 = compare_digit(d2, u2, w2 ^ flipped, flip)
        d3, u3 = compare_digit(d3, u3, w3 ^ flipped, flip)
        if not any_nonzero(u0 | u1 | u2 | u3):
            break
        plane, union = plane + 1, np.uint32(union << _ONE)
    return d0, d1, d2, d3


def are_rows(inner: int, phase: int, start: int) -> bool:
    """Return whether rates change only between rows of tiles; the arguments are those of `elements`."""
    return inner % _ROW == 0 and (start - phase) % _ROW == 0


_are_rows = inlined(are_rows)


@inlined
def runs(x, y, p, inner, phase, start, key, draw, scale, begin, end):
    """Do as `elements`, where many neighbours have one rate.

    Where the rates change between rows of a tile, it is drawn once. Otherwise it is drawn for each of its
    rates, which is quick where most tiles have one.
    """
    affine, key, draw = formulas.affine, np.uint64(key), np.uint64(draw)
    most, in_rows = _TILE // inner + 2, _are_rows(inner, phase, start)
    thresholds, scales, ends = np.empty(most, np.uint32), np.empty(most), np.empty(most, np.int64)
    digits_of_rows = np.empty(_DIGITS, np.uint32)
    index = np.uint64(start) + np.uint64(begin)
    first_tile, offset = index // np.uint64(TILE), np.int64(index % np.uint64(TILE))
    rate, left = (phase + begin) // inner % p.size, inner - (phase + begin) % inner
    for t in range((offset + end - begin + _TILE - 1) // _TILE):
        at, tile = begin + t * _TILE - offset, first_tile + np.uint64(t)
        first, last = max(begin - at, 0), min(end - at, _TILE)
        place, count = first, 0
        while place < last:
            after = min(place + left, last)
            thresholds[count], scales[count] = threshold_and_scale(p[rate], scale)
            ends[count], count = after, count + 1
            left -= after - place
            place = after
            if left == 0:
                rate, left = rate + 1 if rate + 1 < p.size else 0, inner
        fetch_head(x, x, at)
        none = splat(_NONE)
        dropped, together = (none, none, none, none), in_rows and count > 1
        if together:
            union = _digits_of_rows(thresholds, ends, first, count, digits_of_rows)
            dropped = _dropped_by_rows(tile, digits_of_rows, union, rows_of_tile(first, last), key, draw)
        for i in range(count):
            last = ends[i]
            if scales[i] == 0:
                y[at + first : at + last] = 0
            else:
                if not together:
                    dropped = draws.dropped(tile, thresholds[i], key, draw, rows_of_tile(first, last))
                part_of_tile(affine, x, x, x, y, at, at, dropped, scales[i], formulas.DROP, first, last)
            first = last


@inlined
def repeat(numbers, cycle):
    """Write numbers into an array again and again, to its end."""
    for i in range(numbers.size):
        cycle[i] = numbers[i]
    step = (numbers.size + LANES - 1) // numbers.size * numbers.size  # eight places never overlap their copy
    for at in range(numbers.size, min(step, cycle.size)):
        cycle[at] = cycle[at - numbers.size]
    at = step
    while at + LANES <= cycle.size:
        store(cycle, at, load(cycle, at - step))
        at += LANES
    for last in range(at, cycle.size):
        cycle[last] = cycle[last - step]
