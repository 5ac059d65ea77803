"""Real numbers, checked, and rates as the stream counts them: thresholds of 32-bit uniforms, and scales."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rate: TypeAlias = float | NDArray[Any]

FULL = 1 << 32  # 32-bit uniforms: an element is dropped iff U(i) < round(p * FULL)


def rate(p: float, name: str = "p") -> tuple[int, float]:
    """T = round(p * 2**32), the number of 32-bit uniforms that drop, and the scale of what is kept.

    p is checked here. The scale is that of the realised rate: 2**32 / (2**32 - T).
    """
    if type(p) is not float and not is_real(p):
        raise TypeError(f"{name} must be a real number in [0, 1], got {type(p).__name__}; use float({name})")
    return _rate(p, name)


def is_real(value: object) -> bool:
    """Whether a value is a real number, but no bool: ``dropout(x, True, key)`` is a mistake."""
    return isinstance(value, (float, int, np.floating, np.integer)) and not isinstance(value, bool)


def real(name: str, value: Any) -> float:
    """A real number as a float, or an error that names it."""
    if not is_real(value):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}; use float({name})")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a float, got an int of {int(value).bit_length()} bits") from None


def reals(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Real numbers as an array, or an error that names them."""
    given = np.asarray(values)
    if given.dtype.kind not in "fiu" and not (given.dtype == object and all(map(is_real, given.flat))):
        raise TypeError(f"{name} must be real numbers, got {given.dtype}; use float64")
    try:
        return given.astype(np.float64, copy=False)
    except OverflowError:
        raise ValueError(f"{name} must be floats, got an int beyond them") from None


@lru_cache(maxsize=1024)
def _rate(p: float, name: str) -> tuple[int, float]:
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {p}")
    threshold = round(float(p) * FULL)
    return threshold, FULL / max(FULL - threshold, 1)


def rates(p: Rate, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Threshold and scale: two numbers, or for an array p two arrays of the mask's shape."""
    counting = dtype.type is np.uint8  # a mask is counted, not scaled
    if not isinstance(p, np.ndarray):
        threshold, scale = rate(p)
        return threshold, 1.0 if counting else scale
    if p.dtype.kind not in "fiu":
        raise TypeError(f"p must be an array of real numbers in [0, 1], got {p.dtype}; use p.astype(float)")
    wrong = p[~((p >= 0) & (p <= 1))]
    if wrong.size:
        raise ValueError(f"p must be in [0, 1], got {wrong.flat[0]} in an array")
    check_broadcast("p", p, shape)
    counts = np.rint(p.astype(np.float64) * FULL)
    scales = np.where(counts < FULL, 1 if counting else FULL / np.maximum(FULL - counts, 1), 0).astype(dtype)
    thresholds = np.minimum(counts, FULL - 1).astype(np.uint32)
    return np.broadcast_to(thresholds, shape), np.broadcast_to(scales, shape)


def positive(name: str, value: float) -> float:
    """A number above 0 and finite, or an error that names it."""
    number = real(name, value)
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {number}")
    return number


def check_broadcast(name: str, numbers: NDArray, shape: tuple[int, ...]) -> None:
    """Refuse an array that is masked or doesn't broadcast to the mask's shape."""
    if isinstance(numbers, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; use {name}.filled(0)")
    try:
        fits = np.broadcast_shapes(numbers.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must broadcast to the mask's shape {shape}, got {numbers.shape}")
