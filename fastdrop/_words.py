"""The CPU kernel for noise with a density: a word of the stream for each element, or two."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastdrop._kernels import between, mirror, words
from fastdrop._math import logistic, radius, turn
from fastdrop._memory import load, load_where, store, store_where
from fastdrop._simd import LANES, iota
from fastdrop.random import DOMAIN_SHIFT, LOGISTIC, NORMAL

_BLOCKS = np.uint64(LANES)  # Philox blocks of a group, one a lane
_GROUP = 4 * LANES  # elements of a group: word w of block b is that of element 8w + b
_SECOND = np.uint64(1)  # the plane of what float64 has further digits from
_HALF_TURN = np.uint32(0x80000000)


@njit(forceinline=True)
def _digits(domain, group, key, draw):
    """A group's words, and those with further digits, which aren't computed for float32."""
    block, number = iota() + group * _BLOCKS, np.uint64(domain << DOMAIN_SHIFT)
    return words(block, number, key, draw), words(block, number | _SECOND, key, draw)


@njit(forceinline=True)
def normals(group, key, draw, like):
    """Standard normals for a group, by Box and Muller's method."""
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(NORMAL, group, key, draw)
    negated = mirror(draw) & _HALF_TURN
    r0, (x0, y0) = radius(h0, l0, like), turn(h1 ^ negated, l1, like)
    r1, (x1, y1) = radius(h2, l2, like), turn(h3 ^ negated, l3, like)
    return r0 * x0, r0 * y0, r1 * x1, r1 * y1


@njit(forceinline=True)
def logistics(group, key, draw, like):
    """Standard logistic noise for a group."""
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(LOGISTIC, group, key, draw)
    flipped = mirror(draw)
    v0, v1 = logistic(h0 ^ flipped, l0 ^ flipped, like), logistic(h1 ^ flipped, l1 ^ flipped, like)
    v2, v3 = logistic(h2 ^ flipped, l2 ^ flipped, like), logistic(h3 ^ flipped, l3 ^ flipped, like)
    return v0, v1, v2, v3


@njit(forceinline=True)
def _put(formula, x, y, at, noise, numbers):
    store(y, at, formula(load(x, at), noise, numbers))


@njit(forceinline=True)
def _put_part(formula, x, y, at, noise, numbers, place, first, last):
    inside = between(place, first, last)
    store_where(y, at + place, formula(load_where(x, at + place, inside), noise, numbers), inside)


@njit(forceinline=True)
def elements(noise, formula, x, y, length, stride, start, numbers, key, draw):
    """Write a formula of x and the noise into y, made of rows as in `fastdrop._kernels.elements`."""
    like = load_where(x, 0, iota() < np.uint64(0))
    for row in range(y.size // length):
        base, index = row * length, np.uint64(start) + np.uint64(row) * np.uint64(stride)
        group, offset = index // np.uint64(_GROUP), np.int64(index % np.uint64(_GROUP))
        for g in range((offset + length + _GROUP - 1) // _GROUP):
            z0, z1, z2, z3 = noise(group + np.uint64(g), np.uint64(key), np.uint64(draw), like)
            at = base + g * _GROUP - offset
            first, last = max(base - at, 0), min(base + length - at, _GROUP)
            if last - first == _GROUP:
                _put(formula, x, y, at, z0, numbers)
                _put(formula, x, y, at + LANES, z1, numbers)
                _put(formula, x, y, at + 2 * LANES, z2, numbers)
                _put(formula, x, y, at + 3 * LANES, z3, numbers)
            else:
                _put_part(formula, x, y, at, z0, numbers, 0, first, last)
                _put_part(formula, x, y, at, z1, numbers, LANES, first, last)
                _put_part(formula, x, y, at, z2, numbers, 2 * LANES, first, last)
                _put_part(formula, x, y, at, z3, numbers, 3 * LANES, first, last)
