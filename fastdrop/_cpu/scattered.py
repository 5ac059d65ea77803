"""The CPU kernels for draws whose indices are listed one by one.

Eight draws are made together, each in a lane of its own with the Philox block that has its bit. Where many
neighbours belong to one tile, the whole tile is drawn, and its bits are looked up.
"""

from __future__ import annotations

import numpy as np

from fastdrop._lanes.draws import GROUP, compare_digit, dropped_of, mirror, threshold_and_scale, tile_words
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import load, load_where, store, store_where, store_words
from fastdrop._lanes.vectors import LANES, any_nonzero, iota, narrow, splat, where, zero_where
from fastdrop._stream.keys import TILE

# A tile takes about as long as so many draws by themselves. From so many draws on, or for a threshold of so
# few digits, it takes longer to find out which bits of the tile are needed than to decide all of them.
_MANY, _MOST, _FEW = 16, 128, np.uint32(4)
# Element 32k + 8w + b of a tile has bit k of word w of block b, and element 8w + b of a group has word w of
# block b. Vectors have no division, so that it is done by these shifts and masks.
_IN_TILE, _IN_GROUP = np.uint64(TILE.bit_length() - 1), np.uint64(GROUP.bit_length() - 1)
_IN_ROW, _IN_WORD = np.uint64(5), np.uint64(3)
_PLACE, _ROW_PLACE, _BLOCK, _WORD = np.uint64(TILE - 1), np.uint64(31), np.uint64(LANES - 1), np.uint64(3)
_NONE, _ONE, _ALL = np.uint32(0), np.uint32(1), np.uint32(0xFFFFFFFF)
_TOP_DIGIT = np.uint32(0x80000000)


@inlined
def _blocks(index, inside):
    """Return the Philox block of each draw; `inside` bits say where a draw is in its tile or group."""
    return ((index >> inside) << _IN_WORD) | (index & _BLOCK)


@inlined
def _own_word(index, w0, w1, w2, w3):
    """Return, of four vectors of numbers, in each lane the one whose word the draw has."""
    word = (index >> _IN_WORD) & _WORD
    upper = where(word == np.uint64(2), w2, w3)
    return where(word == np.uint64(0), w0, where(word == np.uint64(1), w1, upper))


@inlined
def _below(index, thresholds, key, draw):
    """Return in which lanes U(index) is below the threshold: one bit of a lane is set there, else none."""
    block, flipped = _blocks(index, _IN_TILE), mirror(draw)
    undecided, below = splat(_ONE) << narrow((index & _PLACE) >> _IN_ROW), splat(_NONE)
    plane = np.uint64(0)
    while True:
        w0, w1, w2, w3 = tile_words(block, plane, key, draw)
        flip = where((thresholds & _TOP_DIGIT) != _NONE, _NONE, splat(_ALL))
        below, undecided = compare_digit(below, undecided, _own_word(index, w0, w1, w2, w3) ^ flipped, flip)
        thresholds = thresholds << _ONE
        plane += np.uint64(1)
        if not any_nonzero(undecided) or not any_nonzero(thresholds):
            return below


@inlined
def _in_one_tile(indices, at, end):
    """Return how many draws from one on are in its tile, or 0 if they are too few for drawing it."""
    tile = indices[at] >> _IN_TILE
    if at + _MANY > end or indices[at + _MANY - 1] >> _IN_TILE != tile:
        return 0
    count = 1
    while at + count < end and indices[at + count] >> _IN_TILE == tile:
        count += 1
    return count if count >= _MANY else 0


@inlined
def drop(factors, indices, threshold, scale, key, draw, begin, end):
    """Write the factor of each draw from `begin` to `end`: the scale, or 0 if it is dropped."""
    bits, by_bit = np.empty(GROUP, np.uint32), np.zeros(2, factors.dtype)  # a branch would often go wrong
    threshold, key, draw = np.uint32(threshold), np.uint64(key), np.uint64(draw)
    by_bit[0], at = scale, begin
    many_planes = np.uint32(threshold << _FEW) != _NONE
    kept = splat(by_bit[0])
    while at < end:
        count = _in_one_tile(indices, at, end)
        if count:
            some = many_planes and count < _MOST
            bits[:] = _NONE if some else _ALL
            if some:  # fewer planes are needed if only the bits of these draws have to be decided
                for i in range(at, at + count):
                    place = indices[i] & _PLACE
                    bits[place & _ROW_PLACE] |= np.uint32(_ONE << np.uint32(place >> _IN_ROW))
            u0, u1, u2, u3 = load(bits, 0), load(bits, LANES), load(bits, 2 * LANES), load(bits, 3 * LANES)
            d0, d1, d2, d3 = dropped_of(indices[at] >> _IN_TILE, threshold, key, draw, u0, u1, u2, u3)
            store_words(bits, d0, d1, d2, d3)
            for i in range(at, at + count):
                place = indices[i] & _PLACE
                factors[i] = by_bit[bits[place & _ROW_PLACE] >> np.uint32(place >> _IN_ROW) & _ONE]
        else:
            count = min(LANES, end - at)
            inside = iota() < np.uint64(count)
            below = _below(load_where(indices, at, inside), splat(threshold), key, draw)
            store_where(factors, at, zero_where(below != _NONE, kept), inside)
        at += count


@inlined
def drop_by_rates(factors, indices, p, scale, key, draw, begin, end):
    """Do as `drop`, where each draw has a rate; the scale is as in `count_and_scale`."""
    thresholds, scales = np.zeros(LANES, np.uint32), np.zeros(LANES, factors.dtype)
    key, draw = np.uint64(key), np.uint64(draw)
    for at in range(begin, end, LANES):
        count = min(LANES, end - at)
        for i in range(count):
            thresholds[i], scales[i] = threshold_and_scale(p[at + i], scale)
        inside = iota() < np.uint64(count)
        below = _below(load_where(indices, at, inside), load(thresholds, 0), key, draw)
        store_where(factors, at, zero_where(below != _NONE, load(scales, 0)), inside)


@inlined
def _noise_at(noise, index, key, draw, like):
    """Return the noise of eight draws."""
    z0, z1, z2, z3 = noise(_blocks(index, _IN_GROUP), key, draw, like)
    return _own_word(index, z0, z1, z2, z3)


@inlined
def noise_of(noise, formula, x, y, indices, numbers, key, draw, begin, end):
    """Write a formula of x and the noise into y, from `begin` to `end`."""
    key, draw = np.uint64(key), np.uint64(draw)
    like, whole = load_where(x, 0, iota() < np.uint64(0)), begin + (end - begin) // LANES * LANES
    for at in range(begin, whole, LANES):
        z = _noise_at(noise, load(indices, at), key, draw, like)
        store(y, at, formula(load(x, at), z, numbers))
    if whole < end:
        inside = iota() < np.uint64(end - whole)
        z = _noise_at(noise, load_where(indices, whole, inside), key, draw, like)
        store_where(y, whole, formula(load_where(x, whole, inside), z, numbers), inside)
