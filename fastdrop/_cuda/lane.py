"""What lanes of a GPU compute: draws and formulas, by the CPU's functions.

Nothing here touches memory. The functions take lanes, of which a CUDA thread has one, and the vectors that
tests compile for the CPU have 32; see `fastdrop._cuda.warp`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fastdrop._lanes.draws import compare_digit, words
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.special import logistic, radius, rotation
from fastdrop._lanes.vectors import lane, splat_like, value, where
from fastdrop._stream.keys import BERNOULLI, DOMAIN_SHIFT, LOGISTIC, MIRROR_SHIFT, NORMAL, TILE

BLOCKS_OF_NOISE = np.uint64(32)  # Philox blocks of noise with a density that a warp draws
MOST_LOGIT = 80.0  # as in `fastdrop._noises.concrete`
DROPPED = -1.0  # the factor of a draw that drops its elements
FULL = np.int64(1 << 32)  # the threshold that drops everything
_ALL, _NONE, _ONE = np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(1)
_TOP_DIGIT, _HALF_TURN = np.uint32(0x80000000), np.uint32(0x80000000)
_MIRROR = np.uint64(MIRROR_SHIFT)
_NEXT = np.uint64(1)


@inlined
def unit_dropped(index, threshold, key, draw):
    """Return whether the draw with this index drops its unit: U(index) < threshold."""
    if threshold == 0 or threshold == FULL:
        return threshold != 0
    tile, place = np.uint64(index) // np.uint64(TILE), np.uint32(np.uint64(index) % np.uint64(TILE))
    block, word = tile * np.uint64(8) + np.uint64(place % np.uint32(8)), place // np.uint32(8) % np.uint32(4)
    mine = _ONE << (place // np.uint32(32))
    mirrored = np.uint64(draw) >> _MIRROR != 0
    rest = np.uint32(-threshold if mirrored else threshold)
    below, undecided = lane(_NONE), lane(np.uint32(mine))
    plane = np.uint64(BERNOULLI << DOMAIN_SHIFT)
    while True:
        flip = _NONE if rest & _TOP_DIGIT else _ALL
        w0, w1, w2, w3 = words(lane(block), plane, np.uint64(key), np.uint64(draw))
        lower, upper = value(w1 if word & _ONE else w0), value(w3 if word & _ONE else w2)
        digits = lane(upper if word & np.uint32(2) else lower)
        below, undecided = compare_digit(below, undecided, digits, lane(flip))
        rest, plane = np.uint32(rest << _ONE), plane + _NEXT
        if rest == 0 or value(undecided) == 0:
            return (value(below) != 0) != mirrored


@inlined
def _digits(domain, block, key, draw):
    number = np.uint64(domain << DOMAIN_SHIFT)
    further = words(block, number | _NEXT, np.uint64(key), np.uint64(draw))
    return words(block, number, np.uint64(key), np.uint64(draw)), further


@inlined
def normals(block, key, draw, like):
    """Return the four standard normals of Philox blocks, in the order of words, in the precision of `like`.

    In float32 they are within 2 eps times their radius of the exact ones, and 99 % within 2 ulp.
    """
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(NORMAL, block, key, draw)
    negated = _HALF_TURN if np.uint64(draw) >> _MIRROR else _NONE
    r, s = radius(h0, l0, like), radius(h2, l2, like)
    (a, b), (c, d) = rotation(h1 ^ negated, l1, like), rotation(h3 ^ negated, l3, like)
    return r * a, r * b, s * c, s * d


@inlined
def logistics(block, key, draw, like):
    """Return the four standard logistic numbers of Philox blocks, in the precision of `like`."""
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(LOGISTIC, block, key, draw)
    flip = _ALL if np.uint64(draw) >> _MIRROR else _NONE
    a, b = logistic(h0 ^ flip, l0 ^ flip, like), logistic(h1 ^ flip, l1 ^ flip, like)
    return a, b, logistic(h2 ^ flip, l2 ^ flip, like), logistic(h3 ^ flip, l3 ^ flip, like)


DENSITIES = {"normal": normals, "logistic": logistics}


@cache
def draw_at(noise: Any) -> Callable[..., Any]:
    """Return a function that draws the number with an index, of one of `DENSITIES`."""

    @inlined
    def draw_one(index, key, draw, like):
        group, place = np.uint64(index) // np.uint64(32), np.uint32(np.uint64(index) % np.uint64(32))
        block = lane(group * np.uint64(8) + np.uint64(place % np.uint32(8)))
        a, b, c, d = noise(block, key, draw, like)
        lower, upper = b if place & np.uint32(8) else a, d if place & np.uint32(8) else c
        return upper if place & np.uint32(16) else lower

    return draw_one


@inlined
def factor(x, other, bias, dropped, scale, constants):
    """Return the scale of a kept element, and `DROPPED` for a dropped one."""
    return where(dropped, DROPPED, scale)


@cache
def factor_of(formula: Any, start: float) -> Callable[..., Any]:
    """Return a formula of the factor, or the term, that a formula of noise with a density has for x.

    `start` is what the formula gets in place of x. Its numbers may be lanes.
    """

    @inlined
    def made(x, noise, numbers):
        return formula(splat_like(start, x), noise, numbers)

    return made


@cache
def by_factor(formula: Any, start: float) -> Callable[..., Any]:
    """Return a formula that makes the factor, or the term, first, as the CPU does for draws' own numbers."""
    multiplies = start != 0

    @inlined
    def element(x, noise, numbers):
        made = formula(splat_like(start, x), noise, numbers)
        return x * made if multiplies else x + made

    return element


@inlined
def added(total, lost, element):
    """Return the sum and its rounding error after one more lane (Kahan, CACM 8, 1965)."""
    rest = element - lost
    after = total + rest
    return after, (after - total) - rest
