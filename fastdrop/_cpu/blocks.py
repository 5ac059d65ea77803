"""DropBlock's mask on the CPU: blocks grow from the bits of their first places.

An image's bits are words of 64, whose highest bit is the first element's. All images follow each other, in C
order. So a step along an axis is a shift of the whole array, and a pass over it does 64 elements at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop._cpu.compiled import jit
from fastdrop._lanes.memory import load, store
from fastdrop._lanes.vectors import LANES

_BITS = 64
_ONE, _LAST, _ALL = np.uint64(1), np.uint64(_BITS - 1), np.uint64(2**_BITS - 1)


def _place_kernel() -> Any:
    """Return the kernel that copies rows of bits, which follow each other, to where each begins."""

    def kernel(rows, length, offsets, image, before):
        for row in range(offsets.size):
            source, target, left = row * length, before + offsets[row], length
            while left > 0:
                at, by = source // _BITS, np.uint64(source % _BITS)
                bits = rows[at] << by | (rows[at + 1] >> _ONE) >> (_LAST - by)
                if left < _BITS:
                    bits &= _ALL << np.uint64(_BITS - left)
                at, by = target // _BITS, np.uint64(target % _BITS)
                image[at] |= bits >> by
                image[at + 1] |= (bits << _ONE) << (_LAST - by)
                source, target, left = source + _BITS, target + _BITS, left - _BITS

    return jit(kernel)


def _grow_kernel() -> Any:
    """Return the kernel that marks the `side` - 1 places after each mark, which are `stride` apart.

    Marks grow by doubling. It begins at the end, so that what is read was not yet written. The first words,
    of which there are enough for the longest step, have no marks.
    """

    def kernel(image, first, stride, side):
        grown = 1
        while grown < side:
            step = min(grown, side - grown)
            words, by = step * stride // _BITS, np.uint64(step * stride % _BITS)
            for at in range(image.size - LANES, first - LANES, -LANES):
                near, far = load(image, at - words), load(image, at - words - 1)
                store(image, at, load(image, at) | near >> by | (far << _ONE) << (_LAST - by))
            grown += step

    return jit(kernel)


_place, _grow = cache(_place_kernel), cache(_grow_kernel)


def without_blocks(
    starts: NDArray[np.uint8], places: tuple[int, ...], shape: tuple[int, ...], axes: Sequence[int]
) -> tuple[NDArray[np.uint8], int]:
    """Return which elements of images lie in no block, as packed bits, and how many they are.

    `starts` has the bit 0 where a block begins, for each of the `places` where one fits into the images of
    a shape. Along each of the axes a block covers as many elements as make that number the image's.
    """
    size, strides = math.prod(shape), [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    sides = {axis: shape[axis] - places[axis] + 1 for axis in axes if shape[axis] != places[axis]}
    if not sides or not starts.size:
        return starts, int(np.bitwise_count(starts).sum())
    longest = max(side // 2 * strides[axis] for axis, side in sides.items())
    first = (longest // _BITS // LANES + 2) * LANES  # words before the image
    image = np.zeros(first + (size // _BITS // LANES + 2) * LANES, np.uint64)
    last = max(sides)  # axes after it and itself are a row of neighbours in both arrays
    offsets = np.zeros((), np.int64)
    for axis in range(last):
        offsets = offsets[..., None] + np.arange(places[axis]) * strides[axis]
    rows = np.full((starts.size // 8 + 2) * 8, 0xFF, np.uint8)
    rows[: starts.size] = starts
    length = places[last] * strides[last]
    _place()(~rows.view(">u8").astype(np.uint64), length, offsets.ravel(), image, first * _BITS)
    for axis, side in sides.items():
        _grow()(image, first, strides[axis], side)
    kept = ~image[first : first + size // _BITS + 1]
    dropped = int(np.bitwise_count(image[first:]).sum())
    return kept.astype(">u8").view(np.uint8)[: -(-size // 8)], size - dropped
