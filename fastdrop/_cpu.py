"""The CPU kernel: bit planes decided in registers, then scale and select in the same pass.

Compiled at first use and cached on disk.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastdrop import _philox, _threads
from fastdrop._simd import (
    LANES,
    any_nonzero,
    fence,
    iota,
    load,
    load_where,
    narrow,
    splat,
    store,
    store_streaming,
    store_where,
    zero_where,
)
from fastdrop.random import TILE, signed

# Elements from which threads share a call, and of a piece: see benchmarks/parallel_from.py.
PARALLEL_FROM = 1 << 22
_PIECE = 1 << 18
_BIG = 1 << 18  # elements below which neither threads nor streaming stores are thought of

_TILE = np.int64(TILE)
_GROUPS = TILE // LANES  # groups of eight neighbours in a tile
_WORDS = 4  # words in a Philox block; group g holds bit g // 4 of word g % 4
_BLOCKS = np.uint64(LANES)  # Philox blocks in a tile, one a lane
_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_ONE = np.uint32(1)
_TOP_DIGIT = np.uint32(0x80000000)
_WORD = np.uint64(0xFFFFFFFF)

_philox4x32 = njit(forceinline=True)(_philox.philox4x32)
_compare_digit = njit(forceinline=True)(_philox.compare_digit)


@njit(forceinline=True)
def _dropped(tile, threshold, key, draw):
    """Which elements of a tile are dropped: bit k, lane b of vector w is element 32k + 8w + b."""
    block = iota() + np.uint64(tile) * _BLOCKS
    high, low_key, high_key = block >> np.uint64(32), splat(key & _WORD), splat(key >> np.uint64(32))
    u0 = u1 = u2 = u3 = splat(_ALL)
    d0 = d1 = d2 = d3 = splat(_NONE)
    plane = np.uint64(0)
    while True:
        flip = _NONE if threshold & _TOP_DIGIT else _ALL
        w0, w1, w2, w3 = _philox4x32(block, high, splat(plane), splat(draw), low_key, high_key)
        d0, u0 = _compare_digit(d0, u0, narrow(w0), splat(flip))
        d1, u1 = _compare_digit(d1, u1, narrow(w1), splat(flip))
        d2, u2 = _compare_digit(d2, u2, narrow(w2), splat(flip))
        d3, u3 = _compare_digit(d3, u3, narrow(w3), splat(flip))
        threshold = np.uint32(threshold << _ONE)
        plane += np.uint64(1)
        if threshold == 0 or not any_nonzero(u0 | u1 | u2 | u3):
            return d0, d1, d2, d3


@njit(forceinline=True)
def _put(x, y, at, dropped, scale, stream):
    """Eight neighbours: one load, one multiplication, one select, one store."""
    v = zero_where(dropped, load(x, at) * scale)
    if stream:
        store_streaming(y, at, v)
    else:
        store(y, at, v)


@njit(forceinline=True)
def _put_part(x, y, at, dropped, scale, place, first, last):
    """Those of eight neighbours whose place in the tile lies in [first, last)."""
    places = iota() + np.uint64(place)
    inside = (places >= np.uint64(first)) & (places < np.uint64(last))
    store_where(y, at, zero_where(dropped, load_where(x, at, inside) * scale), inside)


@njit(forceinline=True)
def _whole_tile(x, y, at, dropped, scale, stream):
    bit = _ONE
    for _ in range(_GROUPS // _WORDS):
        _put(x, y, at, (dropped[0] & bit) != _NONE, scale, stream)
        _put(x, y, at + LANES, (dropped[1] & bit) != _NONE, scale, stream)
        _put(x, y, at + 2 * LANES, (dropped[2] & bit) != _NONE, scale, stream)
        _put(x, y, at + 3 * LANES, (dropped[3] & bit) != _NONE, scale, stream)
        at += _WORDS * LANES
        bit = np.uint32(bit << _ONE)


@njit(forceinline=True)
def _part_of_tile(x, y, at, dropped, scale, first, last):
    row = _WORDS * LANES
    for k in range(first // row, (last + row - 1) // row):
        bit, place = np.uint32(_ONE << np.uint32(k)), k * row
        _put_part(x, y, at + place, (dropped[0] & bit) != _NONE, scale, place, first, last)
        place += LANES
        _put_part(x, y, at + place, (dropped[1] & bit) != _NONE, scale, place, first, last)
        place += LANES
        _put_part(x, y, at + place, (dropped[2] & bit) != _NONE, scale, place, first, last)
        place += LANES
        _put_part(x, y, at + place, (dropped[3] & bit) != _NONE, scale, place, first, last)


@njit(forceinline=True)
def _tiles(x, y, start, threshold, scale, key, draw, stream):
    """All tiles that the array touches; its first element has index `start`."""
    tile, offset = np.uint64(start) // np.uint64(TILE), np.int64(np.uint64(start) % np.uint64(TILE))
    for t in range((offset + x.size + _TILE - 1) // _TILE):
        dropped = _dropped(tile + np.uint64(t), np.uint32(threshold), np.uint64(key), np.uint64(draw))
        at = t * _TILE - offset  # of the tile's first element in the array; negative before it
        if at >= 0 and at + _TILE <= x.size:
            _whole_tile(x, y, at, dropped, scale, stream)
        else:
            _part_of_tile(x, y, at, dropped, scale, max(-at, 0), min(x.size - at, _TILE))
    if stream:
        fence()


def _compile(sources: int) -> Any:
    # A closure's variables are part of the key of Numba's cache, which stamps only this file.
    def kernel(x, y, start, threshold, scale, key, draw, stream):
        _ = sources
        _tiles(x, y, start, threshold, scale, key, draw, stream)

    try:
        return njit(kernel, nogil=True, cache=True)
    except RuntimeError:  # no place on disk can be written: compile in each process
        return njit(kernel, nogil=True)


def _stamp() -> int:
    here = Path(__file__).parent
    return zlib.crc32(b"".join((here / name).read_bytes() for name in ("_simd.py", "_philox.py")))


_kernel = _compile(_stamp())


def _cache_size() -> int:
    """Bytes of the last-level cache; 32 MiB where the system does not tell."""
    try:
        return os.sysconf("SC_LEVEL3_CACHE_SIZE") or 32 << 20
    except (AttributeError, ValueError, OSError):
        return 32 << 20


STREAM_FROM = _cache_size() // 2  # bytes of output from which it and the input exceed the cache


def elements(x: NDArray, y: NDArray, start: int, threshold: int, scale: float, key: int, draw: int) -> None:
    """Write x * scale into y, and +0 where U(start + i) < threshold.

    x and y are 1-D, C-order, aligned, of one dtype and size; y may be x. `start` and `key` are int64
    with the bits of unsigned words.
    """
    if x.size < _BIG:
        _kernel(x, y, start, threshold, scale, key, draw, False)
        return
    stream = y.nbytes >= STREAM_FROM and (y.ctypes.data - start % TILE * x.itemsize) % 16 == 0
    size = _PIECE if x.size >= PARALLEL_FROM else x.size

    def piece(at: int) -> None:
        end = at + size
        _kernel(x[at:end], y[at:end], signed(start + at), threshold, scale, key, draw, stream)

    _threads.share(piece, range(0, x.size, size))
