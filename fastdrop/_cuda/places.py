"""Where a CUDA thread's work lies: in the arrays, among the draws, biases and rates. Integers alone."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastdrop._stream.keys import TILE

ROW = 32  # neighbours that share a bit number; a tile's other elements have the other bits


@njit
def row_of(item, groups, length, stride, start, size):
    """Where the next work of a thread lies: group, its first element's place in the arrays, and the row.

    A row of a length is cut into groups of a size at the multiples of that size of its indices, and has
    as many groups as groups at most. Of the row come the places of its first and last element and one.
    """
    row = np.uint64(item) // np.uint64(groups)
    number = np.uint64(item) - row * np.uint64(groups)
    index = np.uint64(start) + row * np.uint64(stride)
    group, first = index // np.uint64(size) + number, np.int64(row) * length
    at = first + np.int64(number) * size - np.int64(index % np.uint64(size))
    return group, at, first, first + length


@njit
def bits_of(item, groups, length, stride, start):
    """A thread's word of a tile: block, word, the place of its first element, that one's bit, and how many.

    Threads are as many as neighbours share a bit, and each does every 32nd element; 0 or less are none.
    """
    lane = np.uint32(item) % np.uint32(ROW)
    tile, at, first, end = row_of(np.uint64(item) // np.uint64(ROW), groups, length, stride, start, TILE)
    at += np.int64(lane)
    low, high = max((first - at + ROW - 1) >> 5, 0), min((end - at + ROW - 1) >> 5, ROW)
    block = tile * np.uint64(8) + np.uint64(lane % np.uint32(8))
    return block, lane // np.uint32(8), at + low * ROW, low, high - low


@njit
def bias_at(at, phase, period):
    """The place of an element's bias; 0 if there is none."""
    return (np.uint64(at) + np.uint64(phase)) % np.uint64(period) if period else np.uint64(0)


@njit
def bias_step(step, period):
    """How far the biases of two elements are apart that are a step apart."""
    return np.uint64(step) % np.uint64(period) if period else np.uint64(0)


@njit
def next_bias(bias, step, period):
    """The place of the bias that lies a step on: no division for each element."""
    after = np.uint64(bias) + np.uint64(step)
    return after - np.uint64(period) if after >= np.uint64(period) else after


@njit
def _divided(number, by):
    """Rest and quotient of numbers that aren't negative."""
    quotient = np.uint64(number) // np.uint64(by)
    return np.int64(np.uint64(number) - quotient * np.uint64(by)), np.int64(quotient)


@njit
def strip_of(item, axes, strides, rate_strides):
    """A thread's part of a unit: its first place, the step to the next, their number, its unit and its rate.

    Axes have the lengths (first, second, shared, inner), and are followed by the number of strips that the
    shared one is cut into, whose elements alternate. Strides, of indices of units and places of rates, are
    those of first, second and inner.
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
def group_of(item, groups, length, stride, start):
    """A thread's Philox block of noise with a density, the place of its first element, and its row."""
    place = np.uint64(item) % np.uint64(8)
    group, at, first, end = row_of(np.uint64(item) // np.uint64(8), groups, length, stride, start, 32)
    return group * np.uint64(8) + place, at + np.int64(place), first, end
