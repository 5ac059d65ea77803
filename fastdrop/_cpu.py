"""The CPU backend: compiles `fastdrop._kernels` at first use, caches them on disk, shares big calls."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numpy.typing import NDArray

from fastdrop import _kernels, _threads
from fastdrop.random import TILE, signed

# Elements from which threads share a call, and of a piece: see benchmarks/parallel_from.py.
PARALLEL_FROM = 1 << 22
_PIECE = 1 << 19
_BIG = 1 << 20  # elements below which neither threads nor streaming stores are thought of


def _compile(sources: int) -> tuple[Any, ...]:
    # A closure's variables are part of the key of Numba's cache, which stamps only this file.
    def elements(x, y, start, threshold, scale, key, draw, stream):
        _ = sources
        _kernels.elements(x, y, start, threshold, scale, key, draw, stream)

    def rows(x, y, length, stride, start, threshold, scale, key, draw):
        _ = sources
        _kernels.rows(x, y, length, stride, start, threshold, scale, key, draw)

    def elements_by(x, y, thresholds, scales, period, phase, start, key, draw):
        _ = sources
        _kernels.elements_by(x, y, thresholds, scales, period, phase, start, key, draw)

    def units(x, y, factors, shared, inner, stream):
        _ = sources
        _kernels.units(x, y, factors, shared, inner, stream)

    return _jit(elements), _jit(rows), _jit(elements_by), _jit(units)


def _jit(kernel: Callable) -> Any:
    try:
        return njit(kernel, nogil=True, cache=True)
    except RuntimeError:  # no place on disk can be written: compile in each process
        return njit(kernel, nogil=True)


def _stamp() -> int:
    here = Path(__file__).parent
    files = ("_kernels.py", "_philox.py", "_simd.py", "random.py")
    return zlib.crc32(b"".join((here / name).read_bytes() for name in files))


_elements, _rows, _elements_by, _units = _compile(_stamp())


def _cache_size() -> int:
    """Bytes of the last-level cache; 32 MiB where the system does not tell."""
    try:
        size = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (AttributeError, ValueError, OSError):
        size = 0
    return size if size > 0 else 32 << 20


STREAM_FROM = _cache_size() // 2  # bytes of output from which it and the input exceed the cache


def elements(x: NDArray, y: NDArray, start: int, threshold: int, scale: float, key: int, draw: int) -> None:
    """Write x * scale into y, and +0 where U(start + i) < threshold.

    x and y are 1-D, C-order, aligned, of one dtype and size; y may be x. `start` and `key` are int64
    with the bits of unsigned words.
    """
    if x.size < _BIG:
        _elements(x, y, start, threshold, scale, key, draw, False)
        return
    stream = y.nbytes >= STREAM_FROM and (y.ctypes.data - start % TILE * x.itemsize) % 16 == 0
    size = _PIECE if x.size >= PARALLEL_FROM else x.size

    def piece(at: int) -> None:
        end = at + size
        _elements(x[at:end], y[at:end], signed(start + at), threshold, scale, key, draw, stream)

    _threads.share(piece, range(0, x.size, size))


def rows(
    x: NDArray,
    y: NDArray,
    length: int,
    stride: int,
    start: int,
    threshold: int,
    scale: float,
    key: int,
    draw: int,
) -> None:
    """As `elements` for each row of a length; the rows' first indices are a stride apart, both int64."""
    _rows(x, y, length, stride, start, threshold, scale, key, draw)


def elements_by(
    x: NDArray,
    y: NDArray,
    thresholds: NDArray,
    scales: NDArray,
    period: int,
    phase: int,
    start: int,
    key: int,
    draw: int,
) -> None:
    """As `elements`, with threshold (uint32) and scale of element i at (phase + i) % period.

    Scales are of the type that x has in lanes; 0 drops always. Both arrays go on for another `TILE`
    elements after the period, unless phase + x.size stays within it.
    """

    def piece(at: int) -> None:
        part, first = slice(at, at + _PIECE), signed(start + at)
        _elements_by(x[part], y[part], thresholds, scales, period, (phase + at) % period, first, key, draw)

    _threads.share(piece, range(0, x.size, _PIECE))


def units(x: NDArray, y: NDArray, factors: NDArray, shared: int, inner: int) -> None:
    """Write x times its unit's factor into y, and +0 where that is 0.

    x and y are as in `elements`, with the axes (outer, shared, inner), and factors are 1-D with the
    axes (outer, inner), of the type that x has in lanes.
    """
    run = (shared if inner == 1 else inner) * y.itemsize
    stream = y.nbytes >= STREAM_FROM and run % 16 == 0 and y.ctypes.data % 16 == 0
    if x.size < PARALLEL_FROM:
        _units(x, y, factors, shared, inner, stream)
        return
    outer = factors.size // inner
    size = shared * inner if outer > 1 else inner  # of what pieces are cut between: units, or rows
    step = max(1, _PIECE // size)

    def piece(at: int) -> None:
        part, mine = slice(at * size, (at + step) * size), slice(at * inner, (at + step) * inner)
        if outer > 1:
            _units(x[part], y[part], factors[mine], shared, inner, stream)
        else:
            _units(x[part], y[part], factors, min(step, shared - at), inner, stream)

    _threads.share(piece, range(0, x.size // size, step))
