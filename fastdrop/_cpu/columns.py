"""The CPU kernel of dropout of matrices whose columns, not rows, are neighbours in memory.

Such are transposed matrices, and maps of channels-last networks seen as (n, c, h, w). Bits are drawn in the
order of indices, for some rows together, and transposed, so that neighbours in memory have neighbouring bits.
The numbers stay where they are.
"""

from __future__ import annotations

import numpy as np

from fastdrop._cpu.bernoulli import Draw, rows_of_tile
from fastdrop._lanes import draws
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import load_where, load_wide, store, store_where
from fastdrop._lanes.vectors import LANES, are_set, bits_of, iota, join, lower_half, upper_half, zero_where
from fastdrop._stream.keys import TILE

_TILE = np.int64(TILE)
_WORD = 32  # bits of a word
_TILE_WORDS = TILE // _WORD
_WIDE = 2 * LANES
_ROWS = 128  # whose neighbours in memory are done together: some cache lines of each column
_ENOUGH = 8 * TILE  # elements of a block, so that the parts of tiles at its ends are few
_NONE, _ONE, _HALF = np.uint32(0), np.uint32(1), np.uint32(16)


def rows_at_once(columns: int) -> int:
    """Return of how many rows of a matrix the bits are drawn together."""
    return _ROWS * max(_ENOUGH // (_ROWS * columns), 1)


@inlined
def _draw_bits(bits, index, count, draw):
    """Write which of `count` elements from an index on are dropped, as bits; return the first one's place."""
    first_tile, offset = index // np.uint64(TILE), np.int64(index % np.uint64(TILE))
    key, word, threshold = np.uint64(draw.key), np.uint64(draw.draw), np.uint32(draw.threshold)
    for t in range((offset + count + _TILE - 1) // _TILE):
        first, last = max(offset - t * _TILE, 0), min(offset + count - t * _TILE, _TILE)
        needed = rows_of_tile(first, last)
        d0, d1, d2, d3 = draws.dropped(first_tile + np.uint64(t), threshold, key, word, needed)
        lower, upper = join(d0, d1), join(d2, d3)
        for k in range(_TILE_WORDS):
            bit = np.uint32(_ONE << np.uint32(k))
            low, high = bits_of((lower & bit) != _NONE), bits_of((upper & bit) != _NONE)
            bits[t * _TILE_WORDS + k] = low | np.uint32(high << _HALF)
    return offset


@inlined
def _transpose_step(matrix, by, mask):
    """Exchange blocks of `by` bits between rows `by` apart (Warren, Hacker's Delight, section 7-3)."""
    for block in range(0, _WORD, 2 * by):
        for row in range(block, block + by):
            exchanged = ((matrix[row] >> np.uint32(by)) ^ matrix[row + by]) & np.uint32(mask)
            matrix[row + by] ^= exchanged
            matrix[row] ^= np.uint32(exchanged << np.uint32(by))


@inlined
def _read_columns(bits, place, columns, matrix):
    """Write the bits of 32 columns of 32 rows, a word for each column, in the order of `are_set`.

    The first row's are at a place in bits.
    """
    for row in range(_WORD):
        at = place + row * columns
        word, by = at // _WORD, np.uint32(at % _WORD)
        above = np.uint32(np.uint32(bits[word + 1] << _ONE) << np.uint32(_WORD - 1 - by))
        matrix[row ^ (LANES - 1)] = np.uint32(bits[word] >> by) | above
    _transpose_step(matrix, 16, 0x0000FFFF)
    _transpose_step(matrix, 8, 0x00FF00FF)
    _transpose_step(matrix, 4, 0x0F0F0F0F)
    _transpose_step(matrix, 2, 0x33333333)
    _transpose_step(matrix, 1, 0x55555555)


@inlined
def _put(x, y, at, count, dropped, scale):
    """Write dropout of 32 neighbours, or as many as are left, of which a word says who is dropped."""
    for half in range(0, min(count, _WORD), _WIDE):
        drops = are_set(np.uint32(dropped >> np.uint32(half)))
        if half + _WIDE <= count:
            store(y, at + half, zero_where(drops, load_wide(x, at + half) * scale))
            continue
        for here, own in ((half, lower_half(drops)), (half + LANES, upper_half(drops))):
            if here < count:
                inside = iota() < np.uint64(count - here)
                v = load_where(x, at + here, inside) * scale
                store_where(y, at + here, zero_where(own, v), inside)


@inlined
def matrices(x, y, rows, columns, step, start, draw, begin, end):
    """Write dropout of matrices into y, from block `begin` to block `end` of so many rows as a step has.

    Element (i, j) of matrix m is at (m * columns + j) * rows + i in the flat arrays, and has the index
    start + (m * rows + i) * columns + j.
    """
    draw, blocks = Draw(*draw), (rows + step - 1) // step
    bits = np.empty((min(step, rows + _WORD) * columns // TILE + 3) * _TILE_WORDS, np.uint32)
    words = np.empty(_ROWS, np.uint32)
    for block in range(begin, end):
        first = block % blocks * step
        base, last = block // blocks * columns * rows, min(first + step, rows)
        index = np.uint64(start) + np.uint64(base + first * columns)
        offset = _draw_bits(bits, index, (last - first) * columns, draw)
        for row in range(first, last, _ROWS):
            count = min(last - row, _ROWS)
            for column in range(0, columns, _WORD):
                for group in range(0, count, _WORD):
                    place = offset + (row + group - first) * columns + column
                    _read_columns(bits, place, columns, words[group : group + _WORD])
                for own in range(min(_WORD, columns - column)):
                    at = base + (column + own) * rows + row
                    for group in range(0, count, _WORD):
                        _put(x, y, at + group, count - group, words[group + own], draw.scale)
