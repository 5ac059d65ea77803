"""The CPU backend: compiles kernels at first use, caches them on disk, shares big calls."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy.ma  # noqa: F401 - else Numba does that at its first call, and a fork doesn't wait for it
from numpy.typing import NDArray

from fastdrop._cpu import bernoulli, by_element, density, pool
from fastdrop._cpu.compiled import jit
from fastdrop._lanes import formulas
from fastdrop._stream.keys import TILE, signed

ACTIVATIONS = formulas.ACTIVATIONS

# Elements from which threads share a call, and of a piece: see benchmarks/parallel_from.py.
PARALLEL_FROM = 1 << 22
_FEW_PLANES = (1 << 28) - 1  # lower digits of a threshold, all 0 where at most four planes are drawn
_PIECE = 1 << 19
_BIG = 1 << 20  # elements below which neither threads nor writing past the caches is thought of
# Of noise with a density, which takes longer for each: on two cores two threads took .71 of one's time at
# this size with nothing in between, but 1.09 after a matrix product, whose threads keep spinning.
_WORDS_PARALLEL_FROM = 1 << 20
_WORDS_PIECE = 1 << 16
NO_CYCLE = 1 << 62  # the period of a bias that goes on for as long as x


def _stamp() -> int:
    here = Path(__file__).parents[1]
    files = sorted(path for folder in ("_stream", "_lanes", "_cpu") for path in (here / folder).glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


SOURCES = _stamp()

# A closure's variables are part of the key of Numba's cache, which stamps only this file. They are
# constants to the compiler, which leaves out the branches that they don't take.


def _drop_kernel(sources: int) -> Any:
    def kernel(x, y, length, stride, start, threshold, scale, key, draw, far):
        _ = sources
        layout = NO_CYCLE, 0, length, stride, start
        bernoulli.elements(formulas.drop, x, x, x, y, layout, (threshold, scale, key, draw), 0, far)

    return jit(kernel)


def _drop_by_kernel(sources: int) -> Any:
    def kernel(x, y, thresholds, scales, period, phase, start, key, draw):
        _ = sources
        by_element.elements(x, y, thresholds, scales, period, phase, start, key, draw)

    return jit(kernel)


@cache
def _fused_kernel(name: str, activation: int, by_units: bool, sources: int) -> Any:
    def kernel(x, other, bias, y, layout, draws, constants, far):
        _ = sources
        if name == "drop":
            formula = formulas.drop
        elif name == "alpha":
            formula = formulas.alpha
        elif name == "add":
            formula = formulas.add
        elif name == "replace":
            formula = formulas.replace
        elif name == "activate":
            formula = formulas.activate
        elif name == "activate_add":
            formula = formulas.activate_add
        else:
            formula = formulas.differentiate
        if by_units:
            bernoulli.units(formula, x, other, bias, y, layout, (*constants, activation), far)
        else:
            bernoulli.elements(formula, x, other, bias, y, layout, draws, (*constants, activation), far)

    return jit(kernel)


@cache
def _words_kernel(name: str, sources: int) -> Any:
    def kernel(x, y, length, stride, start, numbers, key, draw):
        _ = sources
        if name == "multiply":
            noise, formula = density.normals, formulas.multiply
        elif name == "shift":
            noise, formula = density.normals, formulas.shift
        elif name == "concrete":
            noise, formula = density.logistics, formulas.concrete
        else:
            noise, formula = density.logistics, formulas.concrete_slope
        density.elements(noise, formula, x, y, length, stride, start, numbers, key, draw)

    return jit(kernel)


_drop, _drop_by = _drop_kernel(SOURCES), _drop_by_kernel(SOURCES)


# Bytes of output from which lines are asked for ahead: in a training step they have left the nearest caches,
# while a call on hot arrays of this size loses a tenth at most. From the other on input and output exceed a
# last cache of 32 MiB. Virtual machines report the caches of their host.
FETCH_FROM, STREAM_FROM = 1 << 18, 1 << 24


def drop(x: NDArray, y: NDArray, start: int, threshold: int, scale: float, key: int, draw: int) -> None:
    """Write x * scale into y, and +0 where U(start + i) < threshold.

    x and y are 1-D, C-order, aligned, of one dtype and size, not 0; y may be x. `start` and `key` are
    int64 with the bits of unsigned words.
    """
    size = x.size
    if size < _BIG:
        _drop(x, y, size or 1, 0, start, threshold, scale, key, draw, distance(x.nbytes))
        return

    def piece(at: int, end: int) -> None:
        part, first = x[at:end], signed(start + at)
        _drop(part, y[at:end], part.size, 0, first, threshold, scale, key, draw, far)

    far = _far(y, start % TILE)
    _share(piece, size, _parallel_from(threshold), _PIECE)


def drop_rows(
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
    """As `drop` for each row of a length; the rows' first indices are a stride apart, both int64."""
    _drop(x, y, length, stride, start, threshold, scale, key, draw, distance(x.nbytes))


def _far(y: NDArray, place: int = 0, run: int = 16) -> int:
    """Their `distance`, where y is written in runs of so many bytes, and begins at a place in a tile."""
    if y.nbytes < STREAM_FROM or run % 16:
        return distance(y.nbytes)
    return distance(y.nbytes, y.ctypes.data - place * y.itemsize)


def distance(nbytes: int, address: int = 1) -> int:
    """Where so many bytes of output, and of what goes into it, lie.

    Past the caches are written whole vectors only; the address, if given, is that of the output's first tile.
    """
    if nbytes >= STREAM_FROM and address % 16 == 0:
        return bernoulli.PAST
    return bernoulli.FAR if nbytes >= FETCH_FROM else bernoulli.NEAR


def _parallel_from(threshold: int) -> int:
    """Elements from which threads share a call: later where few planes leave memory as the only limit."""
    return PARALLEL_FROM if threshold & _FEW_PLANES else 2 * PARALLEL_FROM


def _share(piece: Callable[[int, int], None], size: int, parallel_from: int, step: int) -> None:
    """Do pieces of so many elements, in threads from a size on."""
    if size < parallel_from:
        piece(0, size)
    else:
        pool.share(lambda at: piece(at, min(at + step, size)), range(0, size, step))


def drop_by(
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
    """As `drop`, with threshold (uint32) and scale of element i at (phase + i) % period.

    Scales are of the type that x has in lanes; 0 drops always. Both arrays go on for another `TILE`
    elements after the period, unless phase + x.size stays within it.
    """

    def piece(at: int, end: int) -> None:
        first, turn = signed(start + at), (phase + at) % period
        _drop_by(x[at:end], y[at:end], thresholds, scales, period, turn, first, key, draw)

    _share(piece, x.size, _PIECE, _PIECE)


def fused(
    name: str,
    activation: int,
    x: NDArray,
    other: NDArray,
    bias: NDArray,
    period: int,
    y: NDArray,
    length: int,
    stride: int,
    start: int,
    threshold: int,
    scale: float,
    constants: tuple[float, ...],
    key: int,
    draw: int,
) -> None:
    """A formula of `fastdrop._formulas`, where U < threshold says which elements are dropped.

    Arrays are as in `drop`, and made of rows as in `drop_rows`. The bias has its own period, after
    which it goes on for another `TILE` elements; NO_CYCLE if it goes on as long as x.
    """
    kernel = _fused_kernel(name, activation, False, SOURCES)

    def piece(at: int, end: int) -> None:
        b, phase = (bias[at:end], 0) if period == NO_CYCLE else (bias, at % period)
        layout = period, phase, min(length, end - at), stride, signed(start + at)
        draws = threshold, scale, key, draw
        kernel(x[at:end], other[at:end], b, y[at:end], layout, draws, constants, far)

    far = _far(y, start % TILE, 1 if stride else 16)
    _share(piece, y.size, NO_CYCLE if stride else _parallel_from(threshold), _PIECE)


def units(
    x: NDArray,
    other: NDArray,
    bias: NDArray,
    y: NDArray,
    factors: NDArray,
    shared: int,
    inner: int,
    name: str = "drop",
    activation: int = 0,
    constants: tuple[float, ...] = (),
) -> None:
    """A formula where each unit is scaled by its factor, or dropped where that is 0.

    Arrays are as in `drop`, with the axes (outer, shared, inner), and factors are 1-D with the axes
    (outer, inner), of the type that x has in lanes.
    """
    kernel = _fused_kernel(name, activation, True, SOURCES)
    run = (shared if inner == 1 else inner) * y.itemsize
    far = _far(y, run=run)
    outer = factors.size // inner
    size = shared * inner if outer > 1 else inner  # of what pieces are cut between: units, or rows

    def piece(first: int, last: int) -> None:
        at, end = first * size, last * size
        mine = (factors[first * inner : last * inner], shared) if outer > 1 else (factors, last - first)
        layout = (*mine, inner)
        kernel(x[at:end], other[at:end], bias[at:end], y[at:end], layout, (), constants, far)

    if x.size < PARALLEL_FROM:
        kernel(x, other, bias, y, (factors, shared, inner), (), constants, far)
    else:
        _share(piece, x.size // size, 0, max(1, _PIECE // size))


def add_noise(
    name: str,
    x: NDArray,
    y: NDArray,
    length: int,
    stride: int,
    start: int,
    numbers: tuple[float, ...],
    key: int,
    draw: int,
) -> None:
    """A formula of `fastdrop._formulas` of x and its noise; arrays as in `drop_rows`."""
    kernel = _words_kernel(name, SOURCES)
    if stride or y.size < _WORDS_PARALLEL_FROM:
        kernel(x, y, length, stride, start, numbers, key, draw)
        return

    def piece(at: int, end: int) -> None:
        part, first = x[at:end], signed(start + at)
        kernel(part, y[at:end], part.size, 0, first, numbers, key, draw)

    _share(piece, y.size, 0, _WORDS_PIECE)
