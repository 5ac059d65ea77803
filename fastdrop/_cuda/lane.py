"""What a CUDA thread computes: draws and formulas, by the CPU's functions on one lane.

Nothing here touches an array, so that these functions can be compiled for the CPU too. There CUDA's simulator
calls them, and tests compare them with the CPU's kernels bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from fastdrop._cuda.places import ROW
from fastdrop._lanes.draws import compare_digit, words
from fastdrop._lanes.formulas import by_number
from fastdrop._lanes.memory import loaded, stored
from fastdrop._lanes.special import logistic, radius, rotation
from fastdrop._lanes.vectors import lane, splat_like, value
from fastdrop._stream.keys import BERNOULLI, DOMAIN_SHIFT, LOGISTIC, MIRROR_SHIFT, NORMAL, TILE

_FULL = np.int64(1 << 32)
_ALL, _NONE, _ONE = np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(1)
_TOP_DIGIT, _HALF_TURN = np.uint32(0x80000000), np.uint32(0x80000000)
_MIRROR = np.uint64(MIRROR_SHIFT)
_NEXT = np.uint64(1)


@njit
def dropped(block, word, elements, threshold, key, draw):
    """Return which of some elements are dropped, those with U < threshold, as bits of a Philox word."""
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
        below, undecided = compare_digit(below, undecided, digits, lane(flip))
        rest, plane = np.uint32(rest << _ONE), plane + _NEXT
        if rest == 0 or value(undecided) == 0:
            return np.uint32(value(below) ^ (_ALL if mirrored else _NONE))


@njit
def bit(dropped, k):
    """Return whether bit k is set."""
    return value(lane(np.uint32(dropped)) & lane(np.uint32(_ONE << np.uint32(k)))) != 0


@njit
def after(dropped, k):
    """Return the bits from k on, shifted to the lowest place."""
    return np.uint32(value(lane(np.uint32(dropped)) >> lane(np.uint32(k))))


@njit
def unit_dropped(index, threshold, key, draw):
    """Return whether the draw with this index drops its unit: U(index) < threshold."""
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
    """Return the four standard normals of a Philox block, in the order of words, in the precision of `like`.

    In float32 they are within 2 eps times their radius of the exact ones, and 99 % within 2 ulp.
    """
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(NORMAL, block, key, draw)
    negated, kind = _HALF_TURN if np.uint64(draw) >> _MIRROR else _NONE, lane(like)
    r, s = radius(h0, l0, kind), radius(h2, l2, kind)
    (a, b), (c, d) = rotation(h1 ^ negated, l1, kind), rotation(h3 ^ negated, l3, kind)
    return value(r * a), value(r * b), value(s * c), value(s * d)


@njit
def logistics(block, key, draw, like):
    """Return the four standard logistic numbers of a Philox block, in the precision of `like`."""
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(LOGISTIC, block, key, draw)
    flip, kind = _ALL if np.uint64(draw) >> _MIRROR else _NONE, lane(like)
    a, b = logistic(h0 ^ flip, l0 ^ flip, kind), logistic(h1 ^ flip, l1 ^ flip, kind)
    c, d = logistic(h2 ^ flip, l2 ^ flip, kind), logistic(h3 ^ flip, l3 ^ flip, kind)
    return value(a), value(b), value(c), value(d)


@cache
def bernoulli(formula: Any, activation: int, biased: bool) -> Callable[..., Any]:
    """Return a function that applies a formula of Bernoulli noise to an element of an array."""

    @njit
    def element(x, other, bias, dropped, scale, constants):
        v = loaded(x)
        b = loaded(bias) if biased else splat_like(0.0, v)
        y = formula(v, loaded(other), b, lane(dropped), scale, (*constants, activation))
        return stored(y, x)

    return element


@cache
def continuous(formula: Any) -> Callable[..., Any]:
    """Return a function that applies a formula of noise with a density to an element of an array."""

    @njit
    def element(x, noise, numbers):
        v = loaded(x)
        return stored(formula(v, splat_like(noise, v), numbers), x)

    return element


@cache
def draw_at(noise: Any) -> Callable[..., Any]:
    """Return a function that draws the number with an index, of one of `DENSITIES`."""

    @njit
    def draw_one(index, key, draw, like):
        group, place = np.uint64(index) // np.uint64(32), np.int64(np.uint64(index) % np.uint64(32))
        a, b, c, d = noise(group * np.uint64(8) + np.uint64(place % 8), key, draw, like)
        lower, upper = b if place & 8 else a, d if place & 8 else c
        return upper if place & 16 else lower

    return draw_one


@cache
def unit_factor(noise: Any, formula: Any, multiplies: bool, by_unit: bool) -> Callable[..., Any]:
    """Return a function that draws the factor, or the term, of noise with a density for a unit."""
    start, drawn = 1.0 if multiplies else 0.0, draw_at(noise)
    own = by_number(formula, start)

    @njit
    def factor(index, number, numbers, key, draw):
        z = lane(drawn(index, key, draw, numbers[0]))
        return value(
            own(splat_like(number, z), z, ()) if by_unit else formula(splat_like(start, z), z, numbers)
        )

    return factor


@cache
def with_factor(multiplies: bool) -> Callable[..., Any]:
    """Return a function that multiplies an element of an array by its factor, or adds its term."""

    @njit
    def element(x, factor):
        v = loaded(x)
        f = splat_like(factor, v)
        return stored(v * f if multiplies else v + f, x)

    return element


@njit
def nothing(like):
    """Return the sum of no elements of the type of `like`, and its rounding error: two zeros."""
    zero = value(splat_like(0.0, loaded(like)))
    return zero, zero


@njit
def added(total, lost, element):
    """Return the sum and its rounding error after one more element (Kahan, CACM 8, 1965)."""
    v = loaded(element)
    before = splat_like(total, v)
    rest = v - splat_like(lost, v)
    after = before + rest
    return value(after), value((after - before) - rest)


@njit
def total(number, like):
    """Return a number as an element of an array that has the type of `like`."""
    return stored(splat_like(number, loaded(like)), like)


DENSITIES = {"normal": normals, "logistic": logistics}
