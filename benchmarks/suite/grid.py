"""How many sizes, rates, dtypes and numbers of threads: FASTDROP_GRID is smallest, reduced or full."""

from __future__ import annotations

import os
from typing import Any

GRIDS = ("smallest", "reduced", "full")
GRID = os.environ.get("FASTDROP_GRID", "reduced")
if GRID not in GRIDS:
    raise ValueError(f"FASTDROP_GRID must be one of {GRIDS}, got {GRID!r}")


def axis(smallest: list[Any], reduced: list[Any], full: list[Any]) -> list[Any]:
    """The values of this grid."""
    return (smallest, reduced, full)[GRIDS.index(GRID)]


def powers(*exponents: int) -> list[int]:
    """Powers of two, which is what every shape can be made for."""
    return [1 << k for k in exponents]


SMALL, LARGE = powers(8), powers(*range(8, 26))
SIZES = axis(SMALL, powers(10, 18), LARGE)  # a call that waits for Python, and one that waits for its kernel
ONE_SIZE = axis(SMALL, powers(18), LARGE)
PEER_SIZES = axis(SMALL, powers(16, 22), powers(10, 14, 16, 18, 20, 22, 24, 25))
PEAK_SIZES = axis(SMALL, powers(22), powers(8, 22, 25))
RATES = axis([0.5], [0.5], [0.1, 0.5])
THREADS = axis([1], [1], [1, 2])
ROUNDS = axis([1], [15], [31])[0]  # of what is measured in turns

REAL = ("float16", "bfloat16", "float32", "float64")
EVERY = (*REAL, "complex64", "complex128")
PRODUCT = ("float32", "float64")  # what matrix products are made of
DTYPES = axis(["float16"], ["float16"], [*EVERY])
