"""The CPU kernels of masks: those that write one as packed bits, and those that apply one.

Bits are in the order of `numpy.packbits`: of the eight elements of a byte the first has the highest bit.
"""

from __future__ import annotations

import numpy as np

from fastdrop._cpu.bernoulli import PAST, Draw, fetch, write
from fastdrop._lanes import draws
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import fence, load, load_where, load_wide, store_where
from fastdrop._lanes.vectors import (
    LANES,
    are_set,
    backwards,
    bits_of,
    iota,
    join,
    lower_half,
    upper_half,
    zero_where,
)
from fastdrop._stream.keys import TILE

_TILE = np.int64(TILE)
_BYTE = 8  # elements of a byte
_TILE_BYTES = TILE // _BYTE
_ROW = 4 * LANES  # neighbours that share a bit number
_WIDE = 2 * LANES
_NONE, _ONE, _ALL, _HALF = np.uint32(0), np.uint32(1), np.uint32(0xFFFFFFFF), np.uint32(16)


@inlined
def _put_tile(y, at, dropped):
    """Write which elements of a tile are kept, to 128 bytes from `at` on."""
    d0, d1, d2, d3 = dropped
    lower, upper = join(backwards(d0), backwards(d1)), join(backwards(d2), backwards(d3))
    bit = _ONE
    for _ in range(TILE // _ROW):
        word = bits_of((lower & bit) == _NONE) | (bits_of((upper & bit) == _NONE) << _HALF)
        for byte in range(4):
            y[at + byte] = np.uint8(word >> np.uint32(8 * byte))
        at += 4
        bit = np.uint32(bit << _ONE)


@inlined
def kept_bits(y, start, draw, begin, end):
    """Write which elements from `begin` to `end` are kept to y; element 0 has the index `start`.

    Both `begin` and `start` are multiples of 8. In the last byte, the bits after the last element are 0.
    """
    draw = Draw(*draw)
    index = np.uint64(start) + np.uint64(begin)
    tile, offset = index // np.uint64(TILE), np.int64(index % np.uint64(TILE))
    part = np.empty(_TILE_BYTES, np.uint8)
    for t in range((offset + end - begin + _TILE - 1) // _TILE):
        key, threshold = np.uint64(draw.key), np.uint32(draw.threshold)
        dropped = draws.dropped(tile + np.uint64(t), threshold, key, np.uint64(draw.draw), _ALL)
        at = begin + t * _TILE - offset  # the place of the tile's first element, maybe before the others
        first, last = max(begin - at, 0), min(end - at, _TILE)
        if last - first == _TILE:
            _put_tile(y, at // _BYTE, dropped)
        else:
            _put_tile(part, 0, dropped)
            for byte in range(first // _BYTE, (last + _BYTE - 1) // _BYTE):
                y[at // _BYTE + byte] = part[byte]
    if end % _BYTE:
        y[end // _BYTE] &= np.uint8(0xFF00 >> (end % _BYTE))


@inlined
def apply_bits(x, bits, y, scale, far, begin, end):
    """Write x * scale into y, from `begin`, a multiple of 8, to `end`: where a bit is 0, +0."""
    whole = begin + (end - begin) // _WIDE * _WIDE
    for at in range(begin, whole, _WIDE):
        byte = at // _BYTE
        kept = are_set(np.uint32(bits[byte]) | (np.uint32(bits[byte + 1]) << np.uint32(8)))
        if far:
            fetch(x, x, at + _TILE)
        write(y, at, zero_where(~kept, load_wide(x, at) * scale), far)
    if whole < end:
        left, byte = end - whole, whole // _BYTE
        word = np.uint32(bits[byte])
        if left > LANES:
            word |= np.uint32(bits[byte + 1]) << np.uint32(8)
        kept = are_set(word)
        for at, own in ((whole, lower_half(kept)), (whole + LANES, upper_half(kept))):
            if at < end:  # a store of no lanes would cost: see `bernoulli._row_of_units`
                inside = iota() < np.uint64(end - at)
                store_where(y, at, zero_where(~own, load_where(x, at, inside) * scale), inside)
    if far == PAST:
        fence()


@inlined
def apply_bytes(x, keep, y, scale, far, begin, end):
    """Do as `apply_bits`, with a byte for each element: +0 where it is 0."""
    whole = begin + (end - begin) // LANES * LANES
    for at in range(begin, whole, LANES):
        if far:
            fetch(x, x, at + _TILE)
        write(y, at, zero_where(load(keep, at) == np.uint8(0), load(x, at) * scale), far)
    if whole < end:
        inside = iota() < np.uint64(end - whole)
        v = load_where(x, whole, inside) * scale
        store_where(y, whole, zero_where(load_where(keep, whole, inside) == np.uint8(0), v), inside)
    if far == PAST:
        fence()
