"""What a CUDA thread computes: places, draws and formulas, in scalars around one lane.

The definitions are those of the CPU, on one lane instead of eight or sixteen. Nothing here touches an
array, so that these functions are also compiled for the CPU: there CUDA's simulator calls them, and tests
compare them with the CPU's kernels bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from fastdrop._cpu.bernoulli import words
from fastdrop._lanes.memory import loaded, stored
from fastdrop._lanes.special import logistic, radius, turn
from fastdrop._lanes.vectors import lane, splat_like, value
from fastdrop._stream import philox
from fastdrop._stream.keys import BERNOULLI, DOMAIN_SHIFT, LOGISTIC, MIRROR_SHIFT, NORMAL, TILE

ROW = 32  # neighbours that share a bit number; a tile's other elements have the other bits
_FULL = np.int64(1 << 32)
_ALL, _NONE, _ONE = np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(1)
_TOP_DIGIT, _HALF_TURN = np.uint32(0x80000000), np.uint32(0x80000000)
_MIRROR = np.uint64(MIRROR_SHIFT)
_NEXT = np.uint64(1)

_compare_digit = njit(forceinline=True)(philox.compare_digit)


@njit
def row_of(item, turns, length, stride, start, size):
    """Where the next work of a thread lies: group, its first element's place in the arrays, and the row.

    A row of a length is cut into groups of a size at the multiples of that size of its indices, and has
    as many turns as groups at most. Of the row come the places of its first and last element and one.
    """
    row = np.uint64(item) // np.uint64(turns)
    turn = np.uint64(item) - row * np.uint64(turns)
    index = np.uint64(start) + row * np.uint64(stride)
    group, first = index // np.uint64(size) + turn, np.int64(row) * length
    at = first + np.int64(turn) * size - np.int64(index % np.uint64(size))
    return group, at, first, first + length


@njit
def bits_of(item, turns, length, stride, start):
    """A thread's word of a tile: block, word, the place of its first element, that one's bit, and how many.

    Threads are as many as neighbours share a bit, and each does every 32nd element; 0 or less are none.
    """
    lane = np.uint32(item) % np.uint32(ROW)
    tile, at, first, end = row_of(np.uint64(item) // np.uint64(ROW), turns, length, stride, start, TILE)
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
def group_of(item, turns, length, stride, start):
    """A thread's Philox block of noise with a density, the place of its first element, and its row."""
    place = np.uint64(item) % np.uint64(8)
    group, at, first, end = row_of(np.uint64(item) // np.uint64(8), turns, length, stride, start, 32)
    return group * np.uint64(8) + place, at + np.int64(place), first, end


@njit
def dropped(block, word, elements, threshold, key, draw):
    """Which of a set of elements are dropped, as bits of a word of a Philox block: those of U < threshold."""
    if threshold == 0:
        return _NONE
    if threshold == _FULL:
        return _ALL
    mirrored = np.uint64(draw) >> _MIRROR != 0
    rest = np.uint32(-threshold if mirrored else threshold)
    below, undecided, plane = lane(_NONE), lane(np.uint32(elements)), np.uint64(BERNOULLI << DOMAIN_SHIFT)
    while True:
        flip = _NONE if rest & _TOP_DIGIT else _ALL
        w0, w1, w2, w3 = words(lane(np.uint64(block)), plane, np.uint64(key), np.uint64(draw))
        lower, upper = value(w1 if word & 1 else w0), value(w3 if word & 1 else w2)
        digits = lane(upper if word & 2 else lower)
        below, undecided = _compare_digit(below, undecided, digits, lane(flip))
        rest, plane = np.uint32(rest << _ONE), plane + _NEXT
        if rest == 0 or value(undecided) == 0:
            return np.uint32(value(below) ^ (_ALL if mirrored else _NONE))


@njit
def bit(dropped, k):
    """Whether bit k is set."""
    return value(lane(np.uint32(dropped)) & lane(np.uint32(_ONE << np.uint32(k)))) != 0


@njit
def after(dropped, k):
    """The bits from k on."""
    return np.uint32(value(lane(np.uint32(dropped)) >> lane(np.uint32(k))))


@njit
def unit_dropped(index, threshold, key, draw):
    """Whether U(index) < threshold."""
    tile, place = np.uint64(index) // np.uint64(TILE), np.int64(np.uint64(index) % np.uint64(TILE))
    block, k = tile * np.uint64(8) + np.uint64(place % 8), np.uint32(place // ROW)
    return bit(dropped(block, place % ROW // 8, _ONE << k, threshold, key, draw), k)


@njit(forceinline=True)
def _digits(domain, block, key, draw):
    number, where = np.uint64(domain << DOMAIN_SHIFT), lane(np.uint64(block))
    further = words(where, number | _NEXT, np.uint64(key), np.uint64(draw))
    return words(where, number, np.uint64(key), np.uint64(draw)), further


@njit
def normals(block, key, draw, like):
    """The four standard normals of a Philox block, by words, in the precision of a scalar.

    In float32 they are within 2 eps times their radius of the exact ones, and 99 % within 2 ulp.
    """
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(NORMAL, block, key, draw)
    negated, kind = _HALF_TURN if np.uint64(draw) >> _MIRROR else _NONE, lane(like)
    r, s = radius(h0, l0, kind), radius(h2, l2, kind)
    (a, b), (c, d) = turn(h1 ^ negated, l1, kind), turn(h3 ^ negated, l3, kind)
    return value(r * a), value(r * b), value(s * c), value(s * d)


@njit
def logistics(block, key, draw, like):
    """The four standard logistic numbers of a Philox block, by words, in the precision of a scalar."""
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(LOGISTIC, block, key, draw)
    flip, kind = _ALL if np.uint64(draw) >> _MIRROR else _NONE, lane(like)
    a, b = logistic(h0 ^ flip, l0 ^ flip, kind), logistic(h1 ^ flip, l1 ^ flip, kind)
    c, d = logistic(h2 ^ flip, l2 ^ flip, kind), logistic(h3 ^ flip, l3 ^ flip, kind)
    return value(a), value(b), value(c), value(d)


@cache
def bernoulli(formula: Any, activation: int, biased: bool) -> Callable[..., Any]:
    """A formula of Bernoulli noise of one element as arrays hold it."""

    @njit
    def element(x, other, bias, dropped, scale, constants):
        v = loaded(x)
        b = loaded(bias) if biased else splat_like(0.0, v)
        y = formula(v, loaded(other), b, lane(dropped), scale, (*constants, activation))
        return stored(y, x)

    return element


@cache
def continuous(formula: Any) -> Callable[..., Any]:
    """A formula of noise with a density of one element as arrays hold it."""

    @njit
    def element(x, noise, numbers):
        v = loaded(x)
        return stored(formula(v, splat_like(noise, v), numbers), x)

    return element


@cache
def unit_factor(noise: Any, formula: Any, multiplies: bool, by_unit: bool) -> Callable[..., Any]:
    """What noise with a density does to each element of a unit: a factor, or a term."""

    @njit
    def factor(index, number, numbers, key, draw):
        group, place = np.uint64(index) // np.uint64(32), np.int64(np.uint64(index) % np.uint64(32))
        a, b, c, d = noise(group * np.uint64(8) + np.uint64(place % 8), key, draw, numbers[0])
        lower, upper = b if place & 8 else a, d if place & 8 else c
        z = lane(upper if place & 16 else lower)
        start = splat_like(1.0 if multiplies else 0.0, z)
        return value(z * number + start) if by_unit else value(formula(start, z, numbers))

    return factor


@cache
def with_factor(multiplies: bool) -> Callable[..., Any]:
    """An element as arrays hold it times its factor, or plus its term."""

    @njit
    def element(x, factor):
        v = loaded(x)
        f = splat_like(factor, v)
        return stored(v * f if multiplies else v + f, x)

    return element


@njit
def nothing(like):
    """A sum of no elements like one, and what rounding took from it."""
    zero = value(splat_like(0.0, loaded(like)))
    return zero, zero


@njit
def added(total, lost, element):
    """The sum and what rounding took from it, after one more element (Kahan, CACM 8, 1965)."""
    v = loaded(element)
    before = splat_like(total, v)
    rest = v - splat_like(lost, v)
    after = before + rest
    return value(after), value((after - before) - rest)


@njit
def total(number, like):
    """A number as an array of elements like one holds it."""
    return stored(splat_like(number, loaded(like)), like)
