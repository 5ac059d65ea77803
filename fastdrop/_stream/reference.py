"""The whole stream in slow, obvious NumPy, which tests compare every backend with, bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastdrop._stream import philox
from fastdrop._stream.keys import BERNOULLI, DOMAIN_SHIFT, LOGISTIC, MIRROR_SHIFT, NORMAL, TILE, Key, stream

DIGITS = 32


def words(
    number: NDArray[np.uint64], domain: int, plane: int | NDArray[np.uint64], key: Key
) -> tuple[NDArray, ...]:
    """Return the four words of the Philox blocks with these numbers, of one plane or of several."""
    philox_key, draw = stream(key)
    third = np.asarray(plane, np.uint64) | np.uint64(domain << DOMAIN_SHIFT | (draw >> 32 & 0xFFFF) << 8)
    constants = draw & 0xFFFFFFFF, philox_key & 0xFFFFFFFF, philox_key >> 32 & 0xFFFFFFFF
    counter = np.broadcast_arrays(number & philox.LOW_HALF, number >> philox.HALF_WIDTH, third)
    full = (np.full(counter[0].shape, constant, np.uint64) for constant in constants)
    found = philox.philox4x32(*counter, *full)
    return tuple(word & philox.LOW_HALF for word in found)


def mirrored(key: Key) -> bool:
    """Return whether a key is an antithetic one."""
    return stream(key)[1] >> MIRROR_SHIFT == 1


def uniforms(index: NDArray[np.uint64], key: Key) -> NDArray[np.uint32]:
    """Return U(i), the 32-bit uniform of each element index."""
    tile, place = index // np.uint64(TILE), index % np.uint64(TILE)
    bit, word, block = place // 32, place % 32 // 8, place % 8
    blocks, where = np.unique(tile * np.uint64(8) + block, return_inverse=True)
    u = np.zeros(index.shape, np.uint64)
    planes = np.arange(DIGITS, dtype=np.uint64)[:, None]
    for drawn in np.stack(words(blocks, BERNOULLI, planes, key), axis=1):
        u = u << np.uint64(1) | drawn[word, where] >> bit & np.uint64(1)
    return u.astype(np.uint32) ^ np.uint32(0xFFFFFFFF if mirrored(key) else 0)


def normals(index: NDArray[np.uint64], key: Key, bits: int = 32) -> NDArray[np.float64]:
    """Return the standard normal of each element index, from words of 32 or 64 bits."""
    group, place = index // np.uint64(32), index % np.uint64(32)
    number, word = group * np.uint64(8) + place % 8, (place // 8).astype(np.intp)
    drawn = np.array(words(number, NORMAL, 0, key), np.float64)
    other = 2.0**32 - 1 - drawn  # the distance to the largest word
    if bits == 64:
        further = np.array(words(number, NORMAL, 1, key), np.float64)
        drawn, other = drawn + further / 2**32, other + (2.0**32 - 1 - further) / 2**32
    radius, angle = (np.choose(word // 2 * 2 + i, drawn) for i in (0, 1))
    above = np.choose(word // 2 * 2, other)
    half = 0.5 if bits == 32 else 2.0**-33
    smaller = (np.minimum(radius, above) + half) / 2**32
    minus_log = -np.where(radius < above, np.log(smaller), np.log1p(-smaller))
    turn = 2 * np.pi * (angle / 2**32)
    z = np.sqrt(2 * minus_log) * np.where(word % 2 == 0, np.cos(turn), np.sin(turn))
    return -z if mirrored(key) else z


def logistics(index: NDArray[np.uint64], key: Key, bits: int = 32) -> NDArray[np.float64]:
    """Return the standard logistic noise ln(u / (1 - u)) of each index, from words of 32 or 64 bits."""
    group, place = index // np.uint64(32), index % np.uint64(32)
    number, word = group * np.uint64(8) + place % 8, (place // 8).astype(np.intp)
    high, low = (np.choose(word, words(number, LOGISTIC, plane, key)).astype(np.float64) for plane in (0, 1))
    rest = (low + 0.5) / 2**32 if bits == 64 else 0.5
    v = np.log((high + rest) / (2.0**32 - 1 - high + (1 - rest)))
    return -v if mirrored(key) else v


def indices(
    shape: tuple[int, ...], window: tuple[tuple[int, ...], tuple[int, ...]] | None = None
) -> NDArray[np.uint64]:
    """Return the C-order index of each element in the full array."""
    full, origin = window or (shape, (0,) * len(shape))
    index = np.zeros(shape, np.uint64)
    for axis, (length, first) in enumerate(zip(full, origin, strict=True)):
        place = np.arange(shape[axis], dtype=np.uint64) + np.uint64(first)
        index = index * np.uint64(length % 2**64) + place.reshape((-1,) + (1,) * (len(shape) - axis - 1))
    return index


def keep_mask(shape, p, key, window=None, shared_axes=()) -> NDArray[np.bool_]:
    """Element i is kept iff U(i) >= T = round(p * 2**32), i its place with shared axes of length 1."""
    full, origin = window or (shape, (0,) * len(shape))
    shared = {axis % len(shape) for axis in shared_axes}

    def reduced(numbers, to):
        return tuple(to if axis in shared else n for axis, n in enumerate(numbers))

    u = uniforms(indices(reduced(shape, 1), (reduced(full, 1), reduced(origin, 0))), key)
    return np.broadcast_to(u >= np.rint(np.asarray(p) * 2**32), shape)


def dropout(x, p, key, window=None, shared_axes=()):
    """Return kept elements times the realised 1/q, rounded once, and +0.0 for the others."""
    if x.dtype.kind == "c":
        parts = [dropout(part, p, key, window, shared_axes) for part in (x.real, x.imag)]
        return np.stack(parts, -1).view(x.dtype.newbyteorder("="))[..., 0]
    thresholds = np.rint(np.asarray(p, np.float64) * 2**32)
    scale = 2**32 / np.maximum(2**32 - thresholds, 1)
    wide = np.dtype(np.float32) if x.dtype.itemsize == 2 else x.dtype
    with np.errstate(over="ignore"):
        y = (x.astype(wide) * scale.astype(wide)).astype(x.dtype)
    return np.where(keep_mask(x.shape, p, key, window, shared_axes), y, np.zeros((), x.dtype))
