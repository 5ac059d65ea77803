"""The whole contract in slow, obvious NumPy: what every backend must equal, bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastdrop import _philox
from fastdrop.random import BERNOULLI, DOMAIN_SHIFT, TILE, Key, stream

DIGITS = 32


def uniforms(index: NDArray[np.uint64], key: Key) -> NDArray[np.uint32]:
    """U(i), the 32-bit uniform of each element index."""
    philox_key, draw = stream(key)
    tile, place = index // np.uint64(TILE), index % np.uint64(TILE)
    bit, word, block = place // 32, place % 32 // 8, place % 8
    number = tile * np.uint64(8) + block
    u = np.zeros(index.shape, np.uint64)
    for plane in range(DIGITS):
        words = _philox.philox4x32(
            number & _philox.LOW_HALF,
            number >> _philox.HALF_WIDTH,
            np.full(index.shape, BERNOULLI << DOMAIN_SHIFT | plane, np.uint64),
            np.full(index.shape, draw, np.uint64),
            np.full(index.shape, philox_key & 0xFFFFFFFF, np.uint64),
            np.full(index.shape, philox_key >> 32 & 0xFFFFFFFF, np.uint64),
        )
        digit = np.choose(word.astype(np.intp), words) >> bit & np.uint64(1)
        u = u << np.uint64(1) | digit
    return u.astype(np.uint32)


def indices(
    shape: tuple[int, ...], window: tuple[tuple[int, ...], tuple[int, ...]] | None = None
) -> NDArray[np.uint64]:
    """The C-order index of each element in the full array."""
    full, origin = window or (shape, (0,) * len(shape))
    index = np.zeros(shape, np.uint64)
    for axis, (length, first) in enumerate(zip(full, origin, strict=True)):
        place = np.arange(shape[axis], dtype=np.uint64) + np.uint64(first)
        index = index * np.uint64(length % 2**64) + place.reshape((-1,) + (1,) * (len(shape) - axis - 1))
    return index


def keep_mask(shape, p, key, window=None) -> NDArray[np.bool_]:
    """Element i is kept iff U(i) >= T = round(p * 2**32)."""
    return uniforms(indices(shape, window), key) >= np.uint64(round(p * 2**32))


def dropout(x, p, key, window=None):
    """Kept elements times the realised 1/q, rounded once; the others +0.0."""
    threshold = round(p * 2**32)
    if threshold == 2**32:
        return np.zeros_like(x)
    scale = x.dtype.type(2**32 / (2**32 - threshold))
    return np.where(keep_mask(x.shape, p, key, window), x * scale, x.dtype.type(0))
