"""The CPU kernel for noise with a density: a word of the stream for each element, or two."""

from __future__ import annotations

import numpy as np
from numba import njit

from fastdrop._cpu.bernoulli import between, mirror, words
from fastdrop._lanes.memory import load_where, load_wide, store, store_where
from fastdrop._lanes.special import logistic, radius, turn
from fastdrop._lanes.vectors import LANES, iota, join, lower_half, upper_half
from fastdrop._stream.keys import DOMAIN_SHIFT, LOGISTIC, NORMAL

_BLOCKS = np.uint64(LANES)  # Philox blocks of a group, one a lane
_GROUP = 4 * LANES  # elements of a group: word w of block b is that of element 8w + b
_HALF = 2 * LANES  # elements of a vector
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
    r = radius(join(h0, h2), join(l0, l2), like)
    x, y = turn(join(h1 ^ negated, h3 ^ negated), join(l1, l3), like)
    x, y = r * x, r * y
    return join(lower_half(x), lower_half(y)), join(upper_half(x), upper_half(y))


@njit(forceinline=True)
def logistics(group, key, draw, like):
    """Standard logistic noise for a group."""
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _digits(LOGISTIC, group, key, draw)
    flipped = join(mirror(draw), mirror(draw))
    v0 = logistic(join(h0, h1) ^ flipped, join(l0, l1) ^ flipped, like)
    v1 = logistic(join(h2, h3) ^ flipped, join(l2, l3) ^ flipped, like)
    return v0, v1


@njit(forceinline=True)
def _put(formula, x, y, at, noise, numbers):
    store(y, at, formula(load_wide(x, at), noise, numbers))


@njit(forceinline=True)
def _put_part(formula, x, y, at, noise, numbers, place, first, last):
    lower, upper = between(place, first, last), between(place + LANES, first, last)
    at += place
    v = formula(join(load_where(x, at, lower), load_where(x, at + LANES, upper)), noise, numbers)
    store_where(y, at, lower_half(v), lower)
    store_where(y, at + LANES, upper_half(v), upper)


@njit(forceinline=True)
def elements(noise, formula, x, y, length, stride, start, numbers, key, draw):
    """Write a formula of x and the noise into y, made of rows as in `fastdrop._kernels.elements`."""
    none = load_where(x, 0, iota() < np.uint64(0))
    like = join(none, none)
    for row in range(y.size // length):
        base, index = row * length, np.uint64(start) + np.uint64(row) * np.uint64(stride)
        group, offset = index // np.uint64(_GROUP), np.int64(index % np.uint64(_GROUP))
        for g in range((offset + length + _GROUP - 1) // _GROUP):
            z0, z1 = noise(group + np.uint64(g), np.uint64(key), np.uint64(draw), like)
            at = base + g * _GROUP - offset
            first, last = max(base - at, 0), min(base + length - at, _GROUP)
            if last - first == _GROUP:
                _put(formula, x, y, at, z0, numbers)
                _put(formula, x, y, at + _HALF, z1, numbers)
            else:
                _put_part(formula, x, y, at, z0, numbers, 0, first, last)
                _put_part(formula, x, y, at, z1, numbers, _HALF, first, last)
