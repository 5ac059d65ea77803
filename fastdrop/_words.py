"""The CPU kernel for noise with a density: a word of the stream for each element, or two."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastdrop._kernels import between, words
from fastdrop._math import radius, turn
from fastdrop._memory import load, load_where, store, store_where
from fastdrop._simd import LANES, iota
from fastdrop.random import DOMAIN_SHIFT, NORMAL

_BLOCKS = np.uint64(LANES)  # Philox blocks of a group, one a lane
_GROUP = 4 * LANES  # elements of a group: word w of block b is that of element 8w + b
_SECOND = np.uint64(1)  # the plane of what float64 has further digits from


@njit(forceinline=True)
def normals(group, key, draw, like):
    """Standard normals for a group, by Box and Muller's method."""
    block, number = iota() + group * _BLOCKS, np.uint64(NORMAL << DOMAIN_SHIFT)
    h0, h1, h2, h3 = words(block, number, key, draw)
    l0, l1, l2, l3 = words(block, number | _SECOND, key, draw)  # not computed for float32
    r0, (x0, y0) = radius(h0, l0, like), turn(h1, l1, like)
    r1, (x1, y1) = radius(h2, l2, like), turn(h3, l3, like)
    return r0 * x0, r0 * y0, r1 * x1, r1 * y1


@njit(forceinline=True)
def _put(formula, x, y, at, noise, number):
    store(y, at, formula(load(x, at), noise, number))


@njit(forceinline=True)
def _put_part(formula, x, y, at, noise, number, place, first, last):
    inside = between(place, first, last)
    store_where(y, at + place, formula(load_where(x, at + place, inside), noise, number), inside)


@njit(forceinline=True)
def elements(noise, formula, x, y, length, stride, start, number, key, draw):
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
                _put(formula, x, y, at, z0, number)
                _put(formula, x, y, at + LANES, z1, number)
                _put(formula, x, y, at + 2 * LANES, z2, number)
                _put(formula, x, y, at + 3 * LANES, z3, number)
            else:
                _put_part(formula, x, y, at, z0, number, 0, first, last)
                _put_part(formula, x, y, at, z1, number, LANES, first, last)
                _put_part(formula, x, y, at, z2, number, 2 * LANES, first, last)
                _put_part(formula, x, y, at, z3, number, 3 * LANES, first, last)
