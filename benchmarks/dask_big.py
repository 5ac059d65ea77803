"""Dropout of a dask array of 2^28 elements in uneven chunks: NumPy's bits, memory by chunks, time in turns.

python benchmarks/dask_big.py [--rounds 3] [--threads 2]
"""

from __future__ import annotations

import tracemalloc
from functools import partial

import dask
import dask.array as da
import numpy as np
from common import report, run

import fastdrop as fd
import fastdrop.dask as fdd

KEY, P = fd.Key(0), 0.1


def chunks_of(side: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes that share no factor, and some rest, along both axes."""
    axes = []
    for parts in (13, 5):
        step = side // parts + 1
        sizes = [step + (-1) ** n * n * step // 40 for n in range(parts - 1)]
        axes.append((*sizes, side - sum(sizes)))
    return axes[0], axes[1]


def block(side: int, block_info: dict) -> np.ndarray:
    """A part of the array: numbers that depend on the place alone."""
    (top, bottom), (left, right) = block_info[None]["array-location"]
    return numbers(slice(top, bottom), slice(left, right))


def numbers(rows: slice, columns: slice) -> np.ndarray:
    """Element (i, j) is 1 + (31 i + 7 j) % 1009."""
    i, j = (np.arange(s.start, s.stop, dtype=np.float32) % 1009 for s in (rows, columns))
    return 1 + (31 * i[:, None] + 7 * j) % np.float32(1009)


def bits_and_memory(rounds: int, small: bool) -> None:
    """Compare each chunk with that of one NumPy call, while it is traced what arrays take."""
    side = 1 << (8 if small else 14)
    whole = numbers(slice(0, side), slice(0, side))
    fd.dropout(whole, P, KEY, out=whole)
    chunks = chunks_of(side)
    x = da.map_blocks(block, side, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    y = fdd.dropout(x, P, KEY).view(np.uint32)
    same = (y == da.from_array(whole.view(np.uint32), chunks=chunks, name=False)).all()
    tracemalloc.start()
    try:
        with dask.config.set(scheduler="threads", num_workers=fd.get_num_threads()):
            equal = bool(same.compute())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    biggest = max(chunks[0]) * max(chunks[1]) * 4
    print(
        f"{side} x {side} in {len(chunks[0])} x {len(chunks[1])} uneven chunks: same bits {equal}; peak "
        f"{peak / 2**20:.1f} MiB of {whole.nbytes / 2**20:.1f}, {peak / biggest:.1f} times the biggest chunk"
    )
    if not equal:
        raise SystemExit(1)


def times(rounds: int, small: bool) -> None:
    """One call beside dask's blocks, from an array into another."""
    side = 1 << (8 if small else 14)
    x = numbers(slice(0, side), slice(0, side))
    out = np.empty_like(x)
    lazy = fdd.dropout(da.from_array(x, chunks=chunks_of(side), name=False), P, KEY)
    options = {"scheduler": "threads", "num_workers": fd.get_num_threads(), "lock": False}
    calls = {
        "NumPy": partial(fd.dropout, x, P, KEY, out=out),
        "dask": partial(da.store, lazy, out, **options),
        "copy": partial(np.copyto, out, x),
    }
    report(f"{side} x {side}", calls, rounds)


PARTS = (bits_and_memory, times)

if __name__ == "__main__":
    run(PARTS, __doc__)
