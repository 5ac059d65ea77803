"""What `python -m fastdrop stream` writes: the stream as bytes, for test batteries such as Dieharder."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count as counted
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastdrop._cpu import words as kernels
from fastdrop._cpu.threads import get_num_threads
from fastdrop._noises.bernoulli import keep_mask
from fastdrop._stream import reference
from fastdrop._stream.keys import BERNOULLI, Key, stream

VARY = ("window", "draw", "seed", "fold", "name", "split")
_BLOCKS_AT_ONCE = 1 << 12  # Philox blocks whose words NumPy computes without leaving the processor's caches
_WHOLE_ARRAY = 1 << 62  # elements: "window" takes one part of such an array after the other
SPLIT = 16  # keys that "split" makes of each folded key


def word_bytes(key: Key, first: int, size: int, slow: bool = False) -> NDArray[np.uint8]:
    """Return so many 32-bit words of the stream, from a first one on, as bytes."""
    if not slow:
        return kernels.words(first, size, *stream(key)).astype("<u4", copy=False).view(np.uint8)
    parts = []
    for block in range(first // 4, (first + size) // 4, _BLOCKS_AT_ONCE):
        stop = min(block + _BLOCKS_AT_ONCE, (first + size) // 4)
        found = reference.words(np.arange(block, stop, dtype=np.uint64), BERNOULLI, 0, key)
        parts.append(np.stack(found, axis=1).astype("<u4"))
    return np.concatenate(parts).reshape(-1).view(np.uint8)


def mask_bytes(key: Key, first: int, size: int, p: float, slow: bool = False) -> NDArray[np.uint8]:
    """Return the bits of so many elements of a mask, from a first one on, packed into bytes.

    A battery wants 0 and 1 to be equally probable. They are at p = 1/2. At another p the result has the
    first bit of each pair of bits that differ (von Neumann), since 01 and 10 are equally probable.
    """
    window = (_WHOLE_ARRAY,), (first,)
    draw = reference.keep_mask if slow else keep_mask
    kept = draw((size,), p, key, window=window)
    if p == 0.5:
        return np.packbits(kept)
    if not slow:
        return kernels.unbiased(kept)
    pairs = kept.reshape(-1, 2)
    kept = pairs[pairs[:, 0] != pairs[:, 1], 0]
    return np.packbits(kept[: kept.size // 32 * 32])


def starts(key: Key, vary: str, size: int) -> Iterator[tuple[Key, int]]:
    """Yield where each part starts: its key, and its first word or element.

    With "window" all parts have one key and follow each other. Otherwise each has its own key and starts
    at 0: that of the next draw or the next seed, ``key.fold_in(n)``, ``key.fold_in("layer.n")``, or one of
    the `SPLIT` of ``key.fold_in(n).split(SPLIT)``.
    """
    for n in counted():
        if vary == "window":
            yield key, n * size
        elif vary == "draw":
            yield Key(key.seed, key.draw + n), 0
        elif vary == "seed":
            yield Key(key.seed + n, key.draw), 0
        elif vary == "fold":
            yield key.fold_in(n), 0
        elif vary == "name":
            yield key.fold_in(f"layer.{n}"), 0
        else:
            yield from ((own, 0) for own in key.fold_in(n).split(SPLIT))


def parts(
    key: Key, p: float | None, vary: str, size: int, interleave: int, slow: bool = False
) -> Iterator[bytes]:
    """Yield bytes without end. So many parts at a time take turns: a word of each, then the next of each.

    If `slow`, the reference makes them and not the kernels.
    """
    following, threads = starts(key, vary, size), get_num_threads()
    count = interleave * max(1, threads // interleave)  # parts that are made at once

    def made(start: tuple[Key, int]) -> NDArray[np.uint8]:
        k, first = start
        return word_bytes(k, first, size, slow) if p is None else mask_bytes(k, first, size, p, slow)

    with ThreadPoolExecutor(threads) as pool:
        while True:
            drawn = list(pool.map(made, islice(following, count)))
            for at in range(0, count, interleave):
                turns = drawn[at : at + interleave]
                length = min(part.size for part in turns)
                yield np.stack([part[:length].view("<u4") for part in turns], axis=1).tobytes()


def write(out: BinaryIO, limit: int | None, *settings: Any) -> None:
    """Write the bytes of `parts(*settings)`: without end, or at most `limit` of them."""
    for part in parts(*settings):
        out.write(part if limit is None else part[:limit])
        if limit is not None:
            limit -= len(part)
            if limit <= 0:
                break
    out.flush()
