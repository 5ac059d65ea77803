"""Random numbers in lanes: words of Philox, who is dropped, standard normals and logistic noise.

`fastdrop._stream.keys` says which word belongs to which element. A tile is 1024 elements of Bernoulli
noise, a group is 32 elements of normals or logistic noise.
"""

from __future__ import annotations

import numpy as np

from fastdrop._lanes.floats import low_word, rint
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.special import logistic, radius, rotation
from fastdrop._lanes.vectors import (
    LANES,
    any_nonzero,
    iota,
    join,
    lane,
    narrow,
    splat,
    splat_like,
    value,
    zero_where,
)
from fastdrop._stream import philox
from fastdrop._stream.keys import BERNOULLI, DOMAIN_SHIFT, LOGISTIC, MIRROR_SHIFT, NORMAL

GROUP = 4 * LANES  # elements of a group, of which element 8w + b has word w of block b
GROUPS = 2  # so many groups are drawn at once: more than one keeps processors busy
_BLOCKS = np.uint64(LANES)  # Philox blocks in a tile, and in a group: each lane computes one
_ALL, _NONE, _ONE = np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(1)
_TOP_DIGIT = _TOP_BIT = np.uint32(0x80000000)
_WORD = np.uint64(0xFFFFFFFF)
_HIGH_DRAW = np.uint64(0xFFFF00)  # the bits of counter word 2 that hold bits 32 to 47 of the draw number
_PLANES = np.uint64(BERNOULLI << DOMAIN_SHIFT)  # counter word 2 of plane 0
_SECOND = np.uint64(1)  # the plane that float64 takes its further digits from
_UNIFORMS = 2.0**32  # how many there are

_philox4x32 = inlined(philox.philox4x32)
compare_digit = inlined(philox.compare_digit)


@inlined
def words(block, number, key, draw):
    """Return the four words of Philox blocks; number is the domain and the plane, as in counter word 2."""
    return words_of(block, splat_like(number, block), key, draw)


@inlined
def words_of(block, numbers, key, draw):
    """Do as `words`, where each lane has a number of its own."""
    low_key, high_key = splat_like(key & _WORD, block), splat_like(key >> np.uint64(32), block)
    c2 = numbers | ((draw >> np.uint64(24)) & _HIGH_DRAW)
    high, c3 = block >> np.uint64(32), splat_like(draw & _WORD, block)
    w0, w1, w2, w3 = _philox4x32(block, high, c2, c3, low_key, high_key)
    return narrow(w0), narrow(w1), narrow(w2), narrow(w3)


@inlined
def blocks_of(tile):
    """Return the numbers of the eight Philox blocks of a tile, as lanes."""
    return iota() + tile * _BLOCKS


@inlined
def blocks_of_groups(group):
    """Return the numbers of the sixteen Philox blocks of a group and of the next, as lanes."""
    return join(iota(), iota() + _BLOCKS) + group * _BLOCKS


@inlined
def digits(tile, plane, key, draw):
    """Return one digit of U for a tile: element 32k + 8w + b has bit k of lane b of vector w."""
    return tile_words(blocks_of(tile), plane, key, draw)


@inlined
def tile_words(block, plane, key, draw):
    """Return the words with one digit of U for eight blocks of tiles."""
    return words(block, _PLANES | np.uint64(plane), key, draw)


@inlined
def count_and_scale(p, scale):
    """Return how many of 2**32 uniforms rates drop, and the scale of what is kept, as lanes of float64.

    The scale is the one given, or if that is 0 the scale of the realised rate, 2**32 / (2**32 - count).
    It is 0 where everything is dropped.
    """
    count = rint(p * _UNIFORMS)
    own = (
        splat_like(scale, p) if scale != 0 else splat_like(_UNIFORMS, p) / (splat_like(_UNIFORMS, p) - count)
    )
    return count, zero_where(count == _UNIFORMS, own)


@inlined
def threshold_and_scale(rate, scale):
    """Do as `count_and_scale` for one rate, with the count as a threshold.

    For a rate that drops everything the threshold is 0, since 2**32 is no uint32, and the scale is 0.
    """
    count, own = count_and_scale(lane(np.float64(rate)), scale)
    return value(low_word(count)), value(own)


@inlined
def mirror(draw):
    """Return what to xor words with: all ones if the key is antithetic, else zeros."""
    return _ALL if draw >> np.uint64(MIRROR_SHIFT) else _NONE


@inlined
def dropped(tile, threshold, key, draw, needed=_ALL):
    """Return which elements of a tile are dropped, as bits in the order of `digits`.

    Only the bits in `needed`, of each word, have to be right: fewer are decided sooner.
    """
    words = splat(needed)
    return dropped_of(tile, threshold, key, draw, words, words, words, words)


@inlined
def dropped_of(tile, threshold, key, draw, u0, u1, u2, u3):
    """Do as `dropped`, where each word has bits of its own that have to be right.

    An antithetic key drops the elements with U >= 2**32 - threshold. They are found as the complement of
    those below 2**32 - threshold.
    """
    # A threshold of 0 drops nothing under either key, so it is never mirrored: its complement would be all.
    flipped = mirror(draw if threshold else np.uint64(0))
    if draw >> np.uint64(MIRROR_SHIFT):
        threshold = np.uint32(-threshold)
    d0 = d1 = d2 = d3 = splat(_NONE)
    plane = np.uint64(0)
    while True:
        flip = _NONE if threshold & _TOP_DIGIT else _ALL
        w0, w1, w2, w3 = digits(tile, plane, key, draw)
        d0, u0 = compare_digit(d0, u0, w0, splat(flip))
        d1, u1 = compare_digit(d1, u1, w1, splat(flip))
        d2, u2 = compare_digit(d2, u2, w2, splat(flip))
        d3, u3 = compare_digit(d3, u3, w3, splat(flip))
        threshold = np.uint32(threshold << _ONE)
        plane += np.uint64(1)
        if threshold == 0 or not any_nonzero(u0 | u1 | u2 | u3):
            return d0 ^ flipped, d1 ^ flipped, d2 ^ flipped, d3 ^ flipped


@inlined
def _high_and_low(domain, block, key, draw):
    """Return the words of blocks, and the words with further digits.

    Float32 does not use the further digits, and the compiler then leaves them out.
    """
    number = np.uint64(domain << DOMAIN_SHIFT)
    return words(block, number, key, draw), words(block, number | _SECOND, key, draw)


@inlined
def normal(block, key, draw, like):
    """Return the standard normals of the four words of blocks, by Box and Muller's method.

    They are as many vectors of as many lanes as there are blocks, in the precision of `like`.
    """
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _high_and_low(NORMAL, block, key, draw)
    negated = mirror(draw) & _TOP_BIT
    r0, r2 = radius(h0, l0, like), radius(h2, l2, like)
    x0, y0 = rotation(h1 ^ negated, l1, like)
    x2, y2 = rotation(h3 ^ negated, l3, like)
    return r0 * x0, r0 * y0, r2 * x2, r2 * y2


@inlined
def logistic_noise(block, key, draw, like):
    """Do as `normal`, for numbers of standard logistic noise."""
    (h0, h1, h2, h3), (l0, l1, l2, l3) = _high_and_low(LOGISTIC, block, key, draw)
    flip = mirror(draw)
    v0, v1 = logistic(h0 ^ flip, l0 ^ flip, like), logistic(h1 ^ flip, l1 ^ flip, like)
    v2, v3 = logistic(h2 ^ flip, l2 ^ flip, like), logistic(h3 ^ flip, l3 ^ flip, like)
    return v0, v1, v2, v3


DENSITIES = {"normal": normal, "logistic": logistic_noise}
