"""How kernels walk the rows of a flat array: where each lies, how long it is, and its first index.

Rows come as a plain tuple: of `fastdrop._arrays.plan.Rows`, of the arrays of `fastdrop._arrays.listed.Runs`,
or of the numbers of rows and their length. Numba chooses among them when it compiles, by the tuple's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload

from fastdrop._lanes.inline import inlined
from fastdrop._stream.keys import TILE

_HALF_TILE = TILE // 2


def rows_between(rows: tuple[Any, ...], begin: int, end: int) -> tuple[int, int]:
    """Return the first row that has elements in [begin, end), and the one after the last."""
    raise NotImplementedError  # Numba takes one of those below


def _row_at(rows: tuple[Any, ...], row: int) -> tuple[int, int, int]:
    """Return where a row begins, where it ends, and the index of its first element."""
    raise NotImplementedError


def more_in_tile(rows: tuple[Any, ...], same: bool) -> bool:
    """Return whether other rows probably lie in the tile of a row; `same` is whether the row before does."""
    raise NotImplementedError


@inlined
def part_of_row(rows, row, begin, end):
    """Return where a row begins within [begin, end), how long it is there, and its first index there."""
    first, last, index = _row_at(rows, row)
    inside = max(first, begin)
    return inside, min(last, end) - inside, index + np.uint64(inside - first)


def _listed(rows):
    return isinstance(rows.types[0], types.Array)


def _numbered(rows):
    return _listed(rows) and not isinstance(rows.types[1], types.Array)


@overload(rows_between, jit_options={"forceinline": True})
def _rows_between(rows, begin, end):
    if _numbered(rows):
        return lambda rows, begin, end: (begin // rows[1], (end + rows[1] - 1) // rows[1])
    if _listed(rows):

        def listed(rows, begin, end):
            offsets = rows[0]
            if begin == 0 and end == offsets[-1]:
                return 0, offsets.size - 1
            return np.searchsorted(offsets, begin, "right") - 1, np.searchsorted(offsets, end, "left")

        return listed
    return lambda rows, begin, end: (begin // rows[0], (end + rows[0] - 1) // rows[0])


@overload(more_in_tile, jit_options={"forceinline": True})
def _more_in_tile(rows, same):
    if _listed(rows):
        return lambda rows, same: same

    def evenly(rows, same):
        length, stride, _ = rows
        return 0 < stride <= TILE and (stride <= _HALF_TILE or length > _HALF_TILE)

    return evenly


@overload(_row_at, jit_options={"forceinline": True})
def _one_row_at(rows, row):
    if _numbered(rows):

        def numbered(rows, row):
            numbers, length = rows
            return row * length, (row + 1) * length, np.uint64(numbers[row]) * np.uint64(length)

        return numbered
    if _listed(rows):

        def listed(rows, row):
            offsets, starts = rows
            return offsets[row], offsets[row + 1], np.uint64(starts[row])

        return listed

    def evenly(rows, row):
        length, stride, start = rows
        return row * length, (row + 1) * length, np.uint64(start) + np.uint64(row) * np.uint64(stride)

    return evenly
