"""Which elements, draws, biases and rates each CUDA thread works on, by its number. Integers alone."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastdrop._stream.keys import TILE

ROW = 32  # neighbours in a tile that share a bit number


@njit
def row_of(item, groups, length, stride, start, size):
    """Return the group that an item of work belongs to, and where it lies in the arrays.

    A row of elements is cut into groups where the indices are multiples of `size`. No row has more than
    `groups` groups. The results are the group's number, the place of its first element, the place of the
    row's first element, and the place after the row's last one.
    """
    row = np.uint64(item) // np.uint64(groups)
    number = np.uint64(item) - row * np.uint64(groups)
    index = np.uint64(start) + row * np.uint64(stride)
    group, first = index // np.uint64(size) + number, np.int64(row) * length
    at = first + np.int64(number) * size - np.int64(index % np.uint64(size))
    return group, at, first, first + length


@njit
def bits_of(item, groups, length, stride, start):
    """Return which word of a tile an item of work is, and its elements.

    32 threads do a tile, and each does every 32nd element of it. The results are the number of the Philox
    block, the word, the place of the first element, the bit of that element, and how many elements there are:
    none if this is 0 or less.
    """
    lane = np.uint32(item) % np.uint32(ROW)
    tile, at, first, end = row_of(np.uint64(item) // np.uint64(ROW), groups, length, stride, start, TILE)
    at += np.int64(lane)
    low, high = max((first - at + ROW - 1) >> 5, 0), min((end - at + ROW - 1) >> 5, ROW)
    block = tile * np.uint64(8) + np.uint64(lane % np.uint32(8))
    return block, lane // np.uint32(8), at + low * ROW, low, high - low


@njit
def bias_at(at, phase, period):
    """Return the place of an element's bias, or 0 if there is no bias."""
    return (np.uint64(at) + np.uint64(phase)) % np.uint64(period) if period else np.uint64(0)


@njit
def bias_step(step, period):
    """Return how far apart the biases of two elements are that are a step apart."""
    return np.uint64(step) % np.uint64(period) if period else np.uint64(0)


@njit
def next_bias(bias, step, period):
    """Return the place of the bias a step further on, without a division for each element."""
    after = np.uint64(bias) + np.uint64(step)
    return after - np.uint64(period) if after >= np.uint64(period) else after


@njit
def _divided(number, by):
    """Return remainder and quotient of two numbers that are not negative."""
    quotient = np.uint64(number) // np.uint64(by)
    return np.int64(np.uint64(number) - quotient * np.uint64(by)), np.int64(quotient)


@njit
def strip_of(item, axes, strides, rate_strides):
    """Return which part of a unit an item of work is.

    The results are the place of its first element, the step to the next one, how many there are, the index of
    the unit relative to the first unit's, and the place of the unit's rate. `axes` has the lengths of the
    axes (first, second, shared, inner), and then the number of strips that the shared axis is cut into: strip
    c has every `strips`-th element, from c on. `strides` are those of the units' indices, and `rate_strides`
    those of the places of rates, along first, second and inner.
    """
    _, second, shared, inner, strips = axes
    i, rest = _divided(item, inner)
    c, row = _divided(rest, strips)
    b, a = _divided(row, second)
    unit = np.uint64(a) * np.uint64(strides[0]) + np.uint64(b) * np.uint64(strides[1])
    unit += np.uint64(i) * np.uint64(strides[2])
    rate = np.uint64(a * rate_strides[0] + b * rate_strides[1] + i * rate_strides[2])
    at, count = (row * shared + c) * inner + i, (shared - c + strips - 1) // strips
    return np.uint64(at), np.uint64(strips * inner), count, unit, rate


@njit
def listed_row(unit, length):
    """Return which row of units a unit is in, where rows have a length, and its place in the row."""
    row = np.uint64(unit) // np.uint64(length)
    return row, np.uint64(unit) - row * np.uint64(length)


@njit
def group_of(item, groups, length, stride, start):
    """Return the Philox block of an item of noise with a density, and where it lies in the arrays.

    The results are the block's number, the place of its first element, the place of the row's first element,
    and the place after the row's last one.
    """
    place = np.uint64(item) % np.uint64(8)
    group, at, first, end = row_of(np.uint64(item) // np.uint64(8), groups, length, stride, start, 32)
    return group * np.uint64(8) + place, at + np.int64(place), first, end
