"""Draws whose indices a caller lists: by rows of a bigger array, by rows of any lengths, or one by one.

A caller's arguments are kept as they came (`Listed`) until the array is known that they belong to. Then they
are checked, and become one start for each row (`Runs`) or one index for each draw (`Scattered`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

RAGGED = 1 << 32  # the row length of the array that rows of any lengths belong to
_SIGNED = np.dtype(np.int64)
MOST = 1 << 63  # indices are below this
# Rows of fewer draws than this are drawn one draw at a time. A row costs at least a tile, which takes as long
# as some twenty draws.
SHORT = 16

Indices: TypeAlias = "ArrayLike | tuple[Sequence[int], tuple[ArrayLike, ...]]"


class Listed(NamedTuple):
    """What a caller gave in place of a window, unchecked; see `fastdrop.dropout`."""

    rows: Any = None
    indices: Any = None
    offsets: Any = None

    @property
    def numbers(self) -> NDArray[np.int64] | None:
        """The numbers of rows, unchecked, if they are all that was given, as an array of int64."""
        rows, indices, offsets = self
        alone = indices is None and offsets is None
        return rows if alone and type(rows) is np.ndarray and rows.dtype is _SIGNED else None

    @classmethod
    def copied(cls, rows: Any, indices: Any, offsets: Any) -> Listed:
        """Return copies of arrays: the caller may change them before backward, or let `out` overlap them."""
        if type(rows) is np.ndarray and indices is None and offsets is None:  # the usual case first
            return cls(rows.copy())
        return cls(*map(_copied, (rows, indices, offsets)))


def _copied(given: Any) -> Any:
    if isinstance(given, tuple):
        return tuple(map(_copied, given))
    # Slices and masked arrays are refused later, by name; as plain arrays masked ones would not be.
    return given if given is None or isinstance(given, (int, slice, np.ma.MaskedArray)) else np.array(given)


class Runs(NamedTuple):
    """Rows of a flat array, of any lengths: element k of row r has the index ``starts[r] + k``.

    Row r is the elements from ``offsets[r]`` to ``offsets[r + 1]``. Both arrays are of int64; starts have the
    bits of unsigned numbers. Kernels take the two as a plain tuple, as they take `Rows`.
    """

    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of_length(cls, length: int, starts: NDArray[np.int64]) -> Runs:
        """Return rows of one length, each with the index of its first element."""
        return cls(_evenly(len(starts), length), starts)

    def cut(self, first: int, last: int) -> Runs:
        """Return the runs of the elements in [first, last)."""
        begin = int(np.searchsorted(self.offsets, first, "right")) - 1
        end = max(int(np.searchsorted(self.offsets, last, "left")), begin)
        offsets, starts = self.offsets[begin : end + 1].clip(first, last), self.starts[begin:end].copy()
        if len(starts):
            starts[0] += first - self.offsets[begin]
        return Runs(offsets - first, starts)

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yield each row that isn't empty: its first element, the one after its last, and its start."""
        for row, start in enumerate(self.starts.tolist()):
            first, last = int(self.offsets[row]), int(self.offsets[row + 1])
            if first < last:
                yield first, last, start

    def finer(self, parts: int) -> Runs:
        """Return the runs where each draw is replaced by so many, with the indices that follow."""
        return Runs(self.offsets * parts, self.starts * parts)

    def even(self) -> tuple[NDArray[np.int64], int]:
        """Return the starts of rows of one length, and that length: it is 1 if the rows' lengths differ."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        if (lengths == lengths[0]).all():
            return self.starts, int(lengths[0])
        return self.each(), 1

    def each(self) -> NDArray[np.int64]:
        """Return the index of each element."""
        first = np.repeat(self.starts - self.offsets[:-1], self.offsets[1:] - self.offsets[:-1])
        return first + np.arange(self.offsets[-1])

    def quickest(self) -> Runs | Scattered:
        """Return what kernels are done with first: the rows, or each element's index if rows are short."""
        return self if self.offsets[-1] >= SHORT * len(self.starts) else Scattered(self.each())


class Scattered(NamedTuple):
    """An index for each draw, as int64 with the bits of an unsigned number."""

    indices: NDArray[np.int64]

    def cut(self, first: int, last: int) -> Scattered:
        """Return the indices of the draws in [first, last)."""
        return Scattered(self.indices[first:last])

    def finer(self, parts: int) -> Scattered:
        """Return the indices where each draw is replaced by so many, which follow each other."""
        return Scattered((self.indices[:, None] * parts + np.arange(parts)).ravel())

    def even(self) -> tuple[NDArray[np.int64], int]:
        """Return the indices, as starts of rows of length 1."""
        return self.indices, 1


def found(listed: Listed, shape: tuple[int, ...], draws: tuple[int, ...]) -> Runs | Scattered:
    """Return the indices of the draws of an array, or raise an error if the arguments don't fit it.

    `draws` is the shape of its draws: 1 along shared axes.
    """
    if listed.indices is not None:
        check_own_draws(shape, draws)
        return Scattered(flat_indices(axes_of_indices(listed.indices), shape).ravel())
    if listed.offsets is not None:
        return ragged_rows(listed.rows, listed.offsets, shape).quickest()
    starts, length = starts_of_rows(listed.rows, shape, draws), math.prod(draws[1:])
    if length < SHORT:
        return Scattered((starts[:, None] + np.arange(length)).ravel())
    return Runs.of_length(length, starts)


@lru_cache(maxsize=16)
def _evenly(count: int, length: int) -> NDArray[np.int64]:
    """Return the offsets of so many rows of a length, which nobody may change."""
    return np.arange(count + 1) * length


def starts_of_rows(rows: Any, shape: tuple[int, ...], draws: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the index of each row's first draw, or raise an error if the rows don't fit the array."""
    if not shape:
        raise ValueError("rows needs an array with a first axis, got one without axes")
    if draws[0] != shape[0]:
        raise ValueError("rows needs a first axis whose elements have draws of their own, got a shared one")
    length = math.prod(draws[1:])
    return numbers_of_rows(rows, shape[0], length) * length


def numbers_of_rows(rows: Any, count: int, length: int) -> NDArray[np.int64]:
    """Return a caller's numbers of so many rows, or raise an error.

    They must be integers of at least 0, and so small that all indices of rows of a length are below 2**63.
    """
    return numbers_below("rows", rows, (count,), MOST // max(length, 1))


def ragged_rows(rows: Any, offsets: Any, shape: tuple[int, ...]) -> Runs:
    """Return the rows of a flat array, by number or in order, or raise an error if they don't fit it."""
    check_flat(shape)
    ends = integers("offsets", offsets)
    rising = ends.ndim == 1 and ends.size > 0 and ends[0] == 0 and ends[-1] == shape[0]
    if not (rising and (ends[1:] >= ends[:-1]).all()):
        raise ValueError(f"offsets must rise from 0 to x's size {shape[0]}, got {_short(ends)}")
    ends = ends.astype(np.int64)
    longest = int((ends[1:] - ends[:-1]).max()) if len(ends) > 1 else 0
    if longest > RAGGED:
        raise ValueError(f"offsets must make rows of at most 2**32 elements, got one of {longest}")
    count = len(ends) - 1
    numbers = np.arange(count) if rows is None else numbers_of_rows(rows, count, RAGGED)
    return Runs(ends, numbers * RAGGED)


def check_flat(shape: tuple[int, ...]) -> None:
    """Raise an error if an array that has offsets is not flat."""
    if len(shape) != 1:
        raise ValueError(f"offsets needs a flat array, got {len(shape)} axes; use x.ravel()")


def check_own_draws(shape: tuple[int, ...], draws: tuple[int, ...]) -> None:
    """Raise an error if elements of an array that has indices share their draws."""
    if draws != shape:
        raise ValueError(f"indices needs a draw for each element, got shared axes: {draws} for {shape}")


def axes_of_indices(indices: Any) -> list[tuple[str, Any, int]]:
    """Return each axis of the array that indices are of: its name, the caller's integers, and its length."""
    if not isinstance(indices, tuple):
        return [("indices", indices, MOST)]
    try:
        full, places = indices
        lengths = tuple(map(operator.index, full))
        if not isinstance(places, tuple):
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(
            f"indices must be flat integers, or (full_shape, one array for each axis), got "
            f"{tuple(type(each).__name__ for each in indices)}"
        ) from None
    if len(lengths) != len(places) or math.prod(lengths) > MOST or min(lengths, default=0) < 0:
        raise ValueError(
            f"indices must have a full shape of at most 2**63 elements and an array for each axis, got "
            f"{lengths} and {len(places)} arrays"
        )
    names = (f"axis {axis} of indices" for axis in range(len(lengths)))
    return list(zip(names, places, lengths, strict=True))


def flat_indices(axes: list[tuple[str, Any, int]], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the flat index of each element of an array, or raise an error if the integers don't fit it."""
    index = None
    for name, given, length in axes:
        own = numbers_below(name, given, shape, length).view(np.uint64)
        index = own if index is None else index * np.uint64(length) + own
    return np.zeros(shape, np.int64) if index is None else index.view(np.int64)


def integers(name: str, given: Any) -> NDArray[Any]:
    """Return a caller's integers as an array, or raise an error."""
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError(f"{name} must be integers, got a masked array; use {name}.filled() or compressed()")
    if isinstance(given, slice):
        ends = f"{given.start or 0}, {'len(x)' if given.stop is None else given.stop}"
        raise TypeError(f"{name} must be integers, got a slice; use np.arange({ends}, {given.step or 1})")
    numbers: NDArray[Any] = np.asarray(given)
    if numbers.dtype.kind not in "iu":
        if not numbers.size:  # NumPy makes an empty list an array of float64
            return numbers.astype(np.int64)
        if numbers.dtype.kind == "O" and all(isinstance(each, int) for each in numbers.flat):
            raise ValueError(f"{name} must be below 2**63, got {max(map(abs, numbers.flat))}")
        raise TypeError(f"{name} must be integers, got {numbers.dtype}")
    return numbers


def numbers_below(name: str, given: Any, shape: tuple[int, ...], end: int) -> NDArray[np.int64]:
    """Return a caller's integers in [0, end) as int64, or raise an error unless they have the shape."""
    numbers = given if type(given) is np.ndarray and given.dtype is _SIGNED else integers(name, given)
    check_shape(name, numbers.shape, shape)
    signed = numbers if numbers.dtype is _SIGNED else numbers.astype(_SIGNED)
    # As unsigned numbers those below 0 are 2**63 and above, so that one look finds all that are wrong.
    if signed.size and int(np.maximum.reduce(signed.view(np.uint64), None)) >= end:
        wrong = int(numbers.min()) if numbers.min() < 0 else int(numbers.max())
        raise ValueError(f"{name} must be in [0, {end}), got {wrong}")
    return signed


def check_shape(name: str, got: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise an error if a caller's integers don't have the shape that they must have."""
    if got != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {got}")


def _short(numbers: NDArray[Any]) -> str:
    """Return an array for an error, on one line."""
    return np.array2string(numbers, threshold=6, edgeitems=3).replace("\n", "")
