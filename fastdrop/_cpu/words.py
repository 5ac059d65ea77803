"""Kernels that write the stream for batteries of tests: its raw words, and unbiased bits of masks."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop._cpu.compiled import jit
from fastdrop._lanes.draws import digits
from fastdrop._lanes.memory import store_words
from fastdrop._lanes.vectors import LANES

_WORDS = 4  # of a Philox block
_GROUP = _WORDS * LANES  # words of the blocks that are drawn at once
_EVEN = 0x0001000100010001  # the lowest bit of each second of eight bytes
# Brings four such bits to bits 51 to 48, the first highest.
_TO_NIBBLE = (1 << 51) + (1 << 34) + (1 << 17) + 1


@cache
def _words_kernel() -> Any:
    def kernel(out, group, key, draw):
        lanes = np.empty(_GROUP, np.uint32)
        for at in range(0, out.size, _GROUP):
            tile = np.uint64(group + at // _GROUP)
            w0, w1, w2, w3 = digits(tile, np.uint64(0), np.uint64(key), np.uint64(draw))
            store_words(lanes, w0, w1, w2, w3)
            for block in range(LANES):
                for word in range(_WORDS):
                    out[at + block * _WORDS + word] = lanes[word * LANES + block]

    return jit(kernel)


def words(first: int, size: int, key: int, draw: int) -> NDArray[np.uint32]:
    """Return so many words of the stream, from a first one on."""
    group, skipped = divmod(first, _GROUP)
    out = np.empty(-(-(skipped + size) // _GROUP) * _GROUP, np.uint32)  # whole groups
    _words_kernel()(out, group, key, draw)
    return out[skipped : skipped + size]


@cache
def _unbiased_kernel() -> Any:
    even, to_nibble = np.uint64(_EVEN), np.uint64(_TO_NIBBLE)
    byte, nibble, low, half = np.uint64(8), np.uint64(4), np.uint64(15), np.uint64(48)

    def kernel(pairs, chosen, out):
        """Write the bits, 32 at a time, into words; return how many words."""
        bits, count, words = np.uint64(0), 0, 0
        for i in range(pairs.size):
            v = pairs[i]
            differ = (((v ^ (v >> byte)) & even) * to_nibble) >> half
            first = ((v & even) * to_nibble) >> half
            found = np.uint64(chosen[((differ & low) << nibble) | (first & low)])
            more = found >> nibble
            bits = (bits << more) | (found & low)
            count += np.int64(more)
            if count >= 32:
                count -= 32
                out[words] = np.uint32(bits >> np.uint64(count))
                words += 1
        return words

    return jit(kernel)


@cache
def _chosen() -> NDArray[np.uint8]:
    """Return, for each four bits `differ` and four bits `first`, how many differ, and the first of those."""
    found = []
    for number in range(256):
        differ, first = number >> 4, number & 15
        bits = [first >> place & 1 for place in (3, 2, 1, 0) if differ >> place & 1]
        found.append(len(bits) << 4 | int("".join(map(str, bits)) or "0", 2))
    return np.array(found, np.uint8)


def unbiased(kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the first of each pair of elements that differ, packed into bytes, as many as fill words.

    The size of the mask is a multiple of 8.
    """
    out = np.empty(kept.size // 64 + 1, np.uint32)
    words = _unbiased_kernel()(kept.view(np.uint64), _chosen(), out)
    return out[:words].astype(">u4").view(np.uint8)
