"""Checks of numbers that users give, and the threshold and scale that a rate p stands for."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.hints import as_number
from fastdrop._stream.keys import shown

Rate: TypeAlias = float | np.floating[Any] | NDArray[Any]

_READ = frozenset({np.dtype(np.float32), np.dtype(np.float64)})  # the dtypes of rates that kernels read
FULL = 1 << 32  # how many 32-bit uniforms there are; element i is dropped if U(i) < round(p * FULL)


def rate(p: float | np.floating[Any], name: str = "p") -> tuple[int, float]:
    """Return the threshold T = round(p * 2**32) and the scale of kept elements, or raise an error.

    T of the 2**32 uniforms drop an element. The scale is that of this realised rate: 2**32 / (2**32 - T).
    """
    if type(p) is not float and not is_real(p):
        got = f"{type(p).__name__}; {as_number(name, p)}"
        raise TypeError(f"{name} must be a real number in [0, 1], got {got}")
    return _rate(p, name)


def is_real(value: object) -> bool:
    """Return whether a value is a real number: no bool, as in ``dropout(x, True, key)``, and no time."""
    number = isinstance(value, (float, int, np.floating, np.integer))
    return number and not isinstance(value, (bool, np.timedelta64))


def holds_reals(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is of real numbers; bfloat16 is of no kind that NumPy knows."""
    return dtype.kind in "fiu" or dtype.name == "bfloat16"


def real(name: str, value: Any) -> float:
    """Return a real number as a float, or raise an error that names it."""
    if not is_real(value):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}; {as_number(name, value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a float, got an int of {int(value).bit_length()} bits") from None


def reals(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return real numbers as an array of float64, or raise an error that names them."""
    given = np.asarray(values)
    if not holds_reals(given.dtype) and not (given.dtype == object and all(map(is_real, given.flat))):
        raise TypeError(f"{name} must be real numbers, got {given.dtype}; use float64")
    try:
        return given.astype(np.float64, copy=False)
    except OverflowError:
        raise ValueError(f"{name} must be floats, got an int beyond them") from None


def reals_below(name: str, given: NDArray[Any], end: float) -> NDArray[np.float64]:
    """Return an array of numbers in [0, end) as float64, or raise an error; the end may be infinite."""
    if not holds_reals(given.dtype):
        got = f"{given.dtype}; use {name}.astype(float)"
        raise TypeError(f"{name} must be an array of real numbers, got {got}")
    with np.errstate(over="ignore"):
        wide = given.astype(np.float64)  # first, since longer floats round to what is outside
    wrong = given[~((wide >= 0) & (wide < end))]
    if wrong.size:
        allowed = "finite and >= 0" if end == math.inf else f"in [0, {end})"
        raise ValueError(f"{name} must be {allowed}, got {wrong[0]} in an array")
    return wide


@lru_cache(maxsize=1024)
def _rate(p: float | np.floating[Any], name: str) -> tuple[int, float]:
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {shown(p)}")
    threshold = round(realised(float(p)) * FULL)
    return threshold, FULL / max(FULL - threshold, 1)


def realised(p: float, full: float = float(FULL)) -> float:
    """Return the rate that a mask of p has, round(p * 2**32) / 2**32, or raise an error.

    TorchScript compiles this for a module in evaluation, and knows no constants but those of defaults.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must be in [0, 1], got {p}")
    return round(p * full) / full


def checked_rates(p: NDArray[Any]) -> NDArray[Any]:
    """Return an array of rates as float32 or float64, in C order; backends check that they are in [0, 1]."""
    if type(p) is np.ndarray and p.dtype in _READ and p.flags.c_contiguous and p.flags.aligned and p.ndim:
        return p  # the usual case comes first, since it is the fastest
    if isinstance(p, np.ma.MaskedArray):
        raise TypeError("p must not be a masked array; use p.filled(0)")
    if not holds_reals(p.dtype):
        raise TypeError(f"p must be an array of real numbers in [0, 1], got {p.dtype}; use p.astype(float)")
    return np.ascontiguousarray(p, np.float32 if p.dtype == np.float32 else np.float64)


def check_range(p: NDArray[Any]) -> None:
    """Raise an error unless all rates of an array are in [0, 1]."""
    wrong = p[~((p >= 0) & (p <= 1))]
    if wrong.size:
        raise ValueError(f"p must be in [0, 1], got {wrong[0]} in an array")


def flag(name: str, value: object, allowed: str = "True or False", hint: str = "") -> bool:
    """Return an option that is True or False as a bool, or raise an error that names it.

    Nothing else passes for one of them: ``packed="no"`` and ``bias=bias`` are mistakes. Where a call shall
    cost nothing it is ``packed is not False and flag("packed", packed)``.
    """
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be {allowed}, got {shown(value)}{hint and '; '}{hint}")


def positive(name: str, value: float) -> float:
    """Return a finite number above 0, or raise an error that names it."""
    number = real(name, value)
    if not 0 < number < np.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {number}")
    return number


def check_mask(mask: Any, x: Any, packed: bool) -> None:
    """Raise an error unless a user's mask fits x: bytes that broadcast to it, or packed bits."""
    length = -(-x.size // 8)
    if packed and (mask.dtype != np.uint8 or mask.shape != (length,)):
        got = f"{mask.dtype} {mask.shape}"
        raise ValueError(f"a packed mask for {x.size} elements must be uint8 ({length},), got {got}")
    if packed:
        return
    if mask.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"mask must be of bool or uint8, got {mask.dtype}; use mask.astype(bool)")
    check_fits("mask", mask.shape, x.shape, "x's")


def check_mask_target(out: Any, shape: tuple[int, ...], packed: bool) -> None:
    """Raise an error unless a mask of a shape can be written to an array: bools, or packed bits."""
    dtype, lengths = ("uint8", (-(-math.prod(shape) // 8),)) if packed else ("bool", shape)
    if out.dtype != dtype or out.shape != lengths:
        raise ValueError(f"out must be {dtype} {lengths} for this mask, got {out.dtype} {out.shape}")


def check_broadcast(name: str, numbers: Any, shape: tuple[int, ...]) -> None:
    """Raise an error if an array is masked, or does not broadcast to the mask's shape."""
    if isinstance(numbers, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; use {name}.filled(0)")
    if numbers.shape == shape[len(shape) - numbers.ndim :]:  # the usual case comes first: it is the fastest
        return
    check_fits(name, numbers.shape, shape, "the mask's")


def check_fits(name: str, shape: tuple[int, ...], whole: tuple[int, ...], whose: str) -> None:
    """Raise an error unless an array of a shape broadcasts to a whole shape, which is somebody's."""
    lengths = zip(reversed(shape), reversed(whole), strict=False)
    if len(shape) > len(whole) or any(n not in (1, wanted) for n, wanted in lengths):
        fix = _placed(name, tuple(shape), tuple(whole))
        raise ValueError(f"{name} must broadcast to {whose} shape {whole}, got {tuple(shape)}{fix}")


def _placed(name: str, shape: tuple[int, ...], whole: tuple[int, ...]) -> str:
    """Return the hint for an array that fits a whole shape along axes before the last, in one way alone."""
    if name == "p" and not whole:
        return "; x comes before p"
    after = [n for n in range(1, len(whole)) if whole[: len(whole) - n][-len(shape) :] == shape]
    if len(after) != 1:
        return ""
    return f"; use {name}[{', '.join([':'] * len(shape) + ['None'] * after[0])}]"
