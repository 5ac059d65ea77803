"""What the cases are made from: shapes of about so many elements, and arrays that are made once."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

import fastdrop as fd

Shape = tuple[int, ...]


class Given(NamedTuple):
    """Arrays of one shape and dtype, a rate, a key, and where to write: {} or {"out": array}."""

    x: np.ndarray
    other: np.ndarray
    g: np.ndarray
    p: float
    key: fd.Key
    out: dict[str, Any]

    @classmethod
    def of(cls, shape: Shape, dtype: str, p: float, preallocated: bool) -> Given:
        """Inputs that are the same for every call; an output of its own, its pages touched."""
        x, other, g = (normals(shape, dtype, n) for n in range(3))
        return cls(x, other, g, p, fd.Key(0), {"out": np.ones_like(x)} if preallocated else {})


@cache
def normals(shape: Shape, dtype: str, seed: int) -> np.ndarray:
    """Standard normals."""
    drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return drawn.astype(named(dtype))


def named(dtype: str) -> np.dtype:
    """The dtype of a name, bfloat16 of ml_dtypes too."""
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def _split(size: int, *exponents: int) -> Shape:
    """Axes of these powers of two behind one of what remains of the size."""
    behind = tuple(1 << k for k in exponents)
    return size // int(np.prod(behind)), *behind


def _power(size: int) -> int:
    return size.bit_length() - 1


def flat(size: int) -> Shape:
    """One axis."""
    return (size,)


def rows(size: int) -> Shape:
    """A batch of features."""
    return _split(size, (_power(size) + 1) // 2)


def sequences(size: int) -> Shape:
    """Samples, steps, features; or samples, channels, length."""
    return _split(size, _power(size) // 3, (_power(size) + 1) // 3)


def images(size: int) -> Shape:
    """Samples, channels, height, width."""
    side = _power(size) // 4
    return _split(size, (_power(size) - 2 * side) // 2, side, side)


def channels_last(size: int) -> Shape:
    """Samples, places, and 28 channels, which is no power of two."""
    return 8, max(size // (8 * 28), 1), 28


def volumes(size: int) -> Shape:
    """Samples, channels, depth, height, width."""
    side = _power(size) // 5
    return _split(size, (_power(size) - 3 * side) // 2, side, side, side)


def heads(size: int) -> Shape:
    """Queries, keys and values of heads of 64, for attention with so many weights."""
    length = min(_power(size) // 2, 10)
    return size >> 2 * length, 1 << length, 64


def dense(size: int) -> Shape:
    """An input for which DropConnect's masks of square weights have so many elements."""
    return size >> 2 * (_power(size) // 3), 1 << _power(size) // 3
