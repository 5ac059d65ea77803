"""How kernels walk the rows of a flat array: where each lies, how long it is, and its first index.

Rows come as a plain tuple: of `fastdrop._arrays.plan.Rows`, of the arrays of `fastdrop._arrays.listed.Runs`,
or of the numbers of rows and their length. Numba chooses among them when it compiles, by the tuple's type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload


def count_rows(rows: tuple[Any, ...], size: int) -> int:
    """Return how many rows an array of a size has."""
    raise NotImplementedError  # Numba takes one of those below


def row_at(rows: tuple[Any, ...], row: int) -> tuple[int, int, int]:
    """Return where a row begins, how long it is, and the index of its first element."""
    raise NotImplementedError


def _listed(rows):
    return isinstance(rows.types[0], types.Array)


def _numbered(rows):
    return _listed(rows) and not isinstance(rows.types[1], types.Array)


@overload(count_rows, jit_options={"forceinline": True})
def _count_rows(rows, size):
    if _numbered(rows):
        return lambda rows, size: rows[0].size
    if _listed(rows):
        return lambda rows, size: rows[1].size
    return lambda rows, size: size // rows[0]


@overload(row_at, jit_options={"forceinline": True})
def _row_at(rows, row):
    if _numbered(rows):

        def numbered(rows, row):
            numbers, length = rows
            return row * length, length, np.uint64(numbers[row]) * np.uint64(length)

        return numbered

    if _listed(rows):

        def listed(rows, row):
            offsets, starts = rows
            first = offsets[row]
            return first, offsets[row + 1] - first, np.uint64(starts[row])

        return listed

    def evenly(rows, row):
        length, stride, start = rows
        return row * length, length, np.uint64(start) + np.uint64(row) * np.uint64(stride)

    return evenly
