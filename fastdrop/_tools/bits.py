"""Random bits of the stream as bytes, for batteries of tests outside."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastdrop._noises.bernoulli import keep_mask
from fastdrop._stream import reference
from fastdrop._stream.keys import BERNOULLI, Key

VARY = ("window", "draw", "seed", "fold")
_WORD_BLOCKS = 1 << 12  # Philox blocks whose words NumPy computes within its caches
_ALL = 1 << 62  # elements of the array of which "window" takes one part after the other


def words(key: Key, first: int, size: int) -> NDArray[np.uint8]:
    """So many of the stream's 32-bit words, block by block, as bytes."""
    parts = []
    for block in range(first // 4, (first + size) // 4, _WORD_BLOCKS):
        stop = min(block + _WORD_BLOCKS, (first + size) // 4)
        found = reference.words(np.arange(block, stop, dtype=np.uint64), BERNOULLI, 0, key)
        parts.append(np.stack(found, axis=1).astype("<u4"))
    return np.concatenate(parts).reshape(-1).view(np.uint8)


def mask_bits(key: Key, first: int, size: int, p: float) -> NDArray[np.uint8]:
    """Bits of a mask, packed: at p = 1/2 as they are, else those of von Neumann's pairs that differ."""
    kept = keep_mask(size, p, key, window=((_ALL,), (first,)))
    if p != 0.5:
        pairs = kept.reshape(-1, 2)
        kept = pairs[pairs[:, 0] != pairs[:, 1], 0]
    return np.packbits(kept[: kept.size // 32 * 32])


def keys(key: Key, vary: str, size: int) -> Iterator[tuple[Key, int]]:
    """Keys, and the element from which each is taken: one key's parts in turn, or consecutive keys."""
    for n in count():
        if vary == "window":
            yield key, n * size
        elif vary == "draw":
            yield Key(key.seed, key.draw + n), 0
        elif vary == "seed":
            yield Key(key.seed + n, key.draw), 0
        else:
            yield key.fold_in(n), 0


def parts(key: Key, p: float | None, vary: str, size: int, interleave: int) -> Iterator[bytes]:
    """Bytes without end; of so many keys at once if interleaved, a word of each in turn."""
    turns = keys(key, vary, size)
    while True:
        drawn = [
            words(k, first, size) if p is None else mask_bits(k, first, size, p)
            for k, first in islice(turns, interleave)
        ]
        length = min(part.size for part in drawn)
        yield np.stack([part[:length].view("<u4") for part in drawn], axis=1).tobytes()


def write(out: BinaryIO, limit: int | None, *settings: Any) -> None:
    """Write `parts` of the settings, so many bytes or until nobody reads them."""
    try:
        for part in parts(*settings):
            out.write(part if limit is None else part[:limit])
            if limit is not None:
                limit -= len(part)
                if limit <= 0:
                    break
        out.flush()
    except BrokenPipeError:
        pass
