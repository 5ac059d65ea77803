"""The CUDA backend: kernels of one formula each, on 1-D arrays of a GPU, compiled at first use.

Masks are those of the CPU, bit for bit: they are made of integers, by the same definitions. So are the
numbers, but for the payloads of NaNs, and promised within 2 ulp: they take additions, products, fmas,
divisions and roots alone, which both machines round correctly, and nothing is contracted (a product has
its rounding spelled out, see `fastdrop._simd`). `make cuda-check` sees that no kernel has a contracted or
approximate one. The promise is weaker since none of it ran on a GPU yet. From the exact normals, those of
either machine are at most 2 eps of their radius away in float32 (tests/test_thread.py).

A thread does one word of a Philox block, every 32nd element of a tile: a warp does a tile, and reads and
writes 32 neighbours at a time. Four of its threads compute the same block. At 2.5 instructions an element
and plane there is time for that while memory is waited for, which leaves room for 70 (`benchmarks/gpu.py`
has the account), and it gives four times the threads, which are what small arrays lack. Planes are drawn
until a warp has decided. Noise with a density takes a thread for each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from fastdrop._arrays.device import Lanes
from fastdrop._cuda import lane
from fastdrop._cuda.lane import ROW
from fastdrop._lanes import formulas
from fastdrop._stream.keys import TILE

THREADS = 256  # of a block
BLOCKS = 1 << 16  # of a grid at most; threads go on to further work from there
_STRIP = 8  # elements of a unit for which a thread draws once
_GROUP = 32  # elements of eight Philox blocks of noise with a density

# In kernels places are unsigned where they index: Numba would look for negative ones.
_FOUR_ROWS = np.uint64(4 * ROW)
_1, _2, _3 = np.uint64(ROW), np.uint64(2 * ROW), np.uint64(3 * ROW)


@cache
def elements_kernel(name: str, activation: int = 0, biased: bool = False) -> Any:
    """The kernel of a formula of Bernoulli noise, a draw for each element."""
    element = lane.bernoulli(getattr(formulas, name), activation, biased)

    @cuda.jit
    def kernel(x, other, bias, y, layout, threshold, scale, constants, key, draw):
        items, turns, length, stride, start, period, phase = layout
        period = period if biased else 0  # known when it is compiled
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            block, word, place, k, count = lane.bits_of(item, turns, length, stride, start)
            if count <= 0:
                continue
            sets = lane.after(lane.dropped(block, word, 0xFFFFFFFF, threshold, key, draw), k)
            at = np.uint64(place)
            b0, step = lane.bias_at(at, phase, period), lane.bias_step(ROW, period)
            for _ in range(
                count >> 2
            ):  # four reads before the first write, which might change what they read
                b1 = lane.next_bias(b0, step, period)
                b2 = lane.next_bias(b1, step, period)
                b3 = lane.next_bias(b2, step, period)
                v0 = element(x[at], other[at], bias[b0], lane.bit(sets, 0), scale, constants)
                v1 = element(x[at + _1], other[at + _1], bias[b1], lane.bit(sets, 1), scale, constants)
                v2 = element(x[at + _2], other[at + _2], bias[b2], lane.bit(sets, 2), scale, constants)
                v3 = element(x[at + _3], other[at + _3], bias[b3], lane.bit(sets, 3), scale, constants)
                y[at], y[at + _1], y[at + _2], y[at + _3] = v0, v1, v2, v3
                at, sets, b0 = at + _FOUR_ROWS, lane.after(sets, 4), lane.next_bias(b3, step, period)
            for _ in range(count & 3):
                y[at] = element(x[at], other[at], bias[b0], lane.bit(sets, 0), scale, constants)
                at, sets, b0 = at + _1, lane.after(sets, 1), lane.next_bias(b0, step, period)

    return kernel


@cache
def units_kernel(name: str, activation: int = 0, biased: bool = False, by_unit: bool = False) -> Any:
    """The kernel of a formula of Bernoulli noise, a draw for each unit, and by_unit a rate for each."""
    element = lane.bernoulli(getattr(formulas, name), activation, biased)

    @cuda.jit(device=True)
    def strip(x, other, bias, y, at, step, count, period, phase, dropped, scale, constants):
        b, bias_step = lane.bias_at(at, phase, period), lane.bias_step(step, period)
        for _ in range(count):
            y[at] = element(x[at], other[at], bias[b], dropped, scale, constants)
            at, b = at + step, lane.next_bias(b, bias_step, period)

    @cuda.jit
    def one_rate(x, other, bias, y, layout, axes, strides, threshold, scale, constants, key, draw):
        items, start, period, phase = layout
        period = period if biased else 0
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            at, step, count, unit, _ = lane.strip_of(item, axes, strides, strides)
            dropped = lane.unit_dropped(np.uint64(start) + unit, threshold, key, draw)
            strip(x, other, bias, y, at, step, count, period, phase, dropped, scale, constants)

    @cuda.jit
    def rates(
        x, other, bias, y, layout, axes, strides, rate_strides, thresholds, scales, constants, key, draw
    ):
        items, start, period, phase = layout
        period = period if biased else 0
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            at, step, count, unit, rate = lane.strip_of(item, axes, strides, rate_strides)
            threshold, scale = thresholds[rate], scales[rate]
            dropped = scale == 0 or lane.unit_dropped(np.uint64(start) + unit, threshold, key, draw)
            strip(x, other, bias, y, at, step, count, period, phase, dropped, scale, constants)

    return rates if by_unit else one_rate


@cache
def noise_kernel(name: str) -> Any:
    """The kernel of a formula of noise with a density, a draw for each element."""
    noise, element = _noise(name), lane.continuous(getattr(formulas, name))

    @cuda.jit
    def kernel(x, y, layout, numbers, key, draw):
        items, turns, length, stride, start = layout
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            block, place, first, end = lane.group_of(item, turns, length, stride, start)
            z0, z1, z2, z3 = noise(block, key, draw, numbers[0])
            if first <= place < end:
                y[np.uint64(place)] = element(x[np.uint64(place)], z0, numbers)
            if first <= place + 8 < end:
                y[np.uint64(place + 8)] = element(x[np.uint64(place + 8)], z1, numbers)
            if first <= place + 16 < end:
                y[np.uint64(place + 16)] = element(x[np.uint64(place + 16)], z2, numbers)
            if first <= place + 24 < end:
                y[np.uint64(place + 24)] = element(x[np.uint64(place + 24)], z3, numbers)

    return kernel


def _noise(name: str) -> Any:
    return lane.normals if name in ("multiply", "shift") else lane.logistics


@cache
def noise_units_kernel(name: str, by_unit: bool = False) -> Any:
    """The kernel of a formula of noise with a density, a draw for each unit, by_unit with its number."""
    multiplies, formula = name != "shift", getattr(formulas, name)
    factor, element = (
        lane.unit_factor(_noise(name), formula, multiplies, by_unit),
        lane.with_factor(multiplies),
    )

    @cuda.jit
    def kernel(x, y, layout, axes, strides, rate_strides, rates, numbers, key, draw):
        items, start = layout
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            at, step, count, unit, rate = lane.strip_of(item, axes, strides, rate_strides)
            f = factor(np.uint64(start) + unit, rates[rate], numbers, key, draw)
            for _ in range(count):
                y[at] = element(x[at], f)
                at += step

    return kernel


@cache
def sums_kernel() -> Any:
    """The kernel of sums over rows: a thread for each column."""

    @cuda.jit
    def kernel(y, total, rows):
        for column in range(cuda.grid(1), total.size, cuda.gridsize(1)):
            at = np.uint64(column)
            s, lost = lane.nothing(total[at])
            for _ in range(rows):
                s, lost = lane.added(s, lost, y[at])
                at += np.uint64(total.size)
            total[np.uint64(column)] = lane.total(s, total[np.uint64(column)])

    return kernel


def argument(lanes: Lanes) -> Any:
    """An array as kernels take it, without waiting for the stream that its library works on."""
    return cuda.as_cuda_array(lanes, sync=False)


def upload(numbers: NDArray[Any], stream: int) -> Any:
    """A copy on the GPU."""
    return cuda.to_device(np.ascontiguousarray(numbers).ravel(), stream=_stream(stream))


def _stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else 0


def _launch(kernel: Any, items: int, stream: int, *arguments: Any) -> None:
    """Start a kernel with a thread for each item, or as many as a grid has, and don't wait for it."""
    blocks = min(-(-items // THREADS), BLOCKS)
    kernel[blocks, THREADS, _stream(stream)](*arguments)


def _turns(length: int, size: int, rows: int, stride: int, start: int) -> int:
    """How many groups of a size the indices of a row lie in, at most."""
    offset = start % size if rows == 1 else size - 1
    return (offset + length + size - 1) // size


def fused(
    name: str,
    activation: int,
    x: Lanes,
    other: Lanes,
    bias: Lanes | None,
    phase: int,
    y: Lanes,
    length: int,
    stride: int,
    start: int,
    threshold: int,
    scale: float,
    constants: Sequence[float],
    key: int,
    draw: int,
    stream: int = 0,
) -> None:
    """As `fastdrop._cpu.fused`: element i has the bias at (phase + i) % bias.size, if there are any."""
    rows, turns = y.size // length, _turns(length, TILE, y.size // length, stride, start)
    items, period = rows * turns * ROW, 0 if bias is None else bias.size
    layout = items, turns, length, stride, start, period, phase
    kernel = elements_kernel(name, activation, bias is not None)
    arrays = [argument(a) for a in (x, other, bias or x, y)]
    numbers = _numbers(y, constants, 2)
    _launch(kernel, items, stream, *arrays, layout, threshold, y.real(scale), numbers, key, draw)


def add_noise(
    name: str,
    x: Lanes,
    y: Lanes,
    length: int,
    stride: int,
    start: int,
    numbers: Sequence[float],
    key: int,
    draw: int,
    stream: int = 0,
) -> None:
    """As `fastdrop._cpu.add_noise`."""
    rows, turns = y.size // length, _turns(length, _GROUP, y.size // length, stride, start)
    items = rows * turns * 8
    layout = items, turns, length, stride, start
    arrays = argument(x), argument(y)
    _launch(noise_kernel(name), items, stream, *arrays, layout, _numbers(y, numbers), key, draw)


def sum_rows(y: Lanes, total: Lanes, stream: int = 0) -> None:
    """Write the sums of rows as long as the total into it, in an order that depends on the shape alone."""
    arrays = argument(y), argument(total)
    _launch(sums_kernel(), total.size, stream, *arrays, y.size // total.size)


def _numbers(y: Lanes, numbers: Sequence[float], least: int = 0) -> tuple[Any, ...]:
    """Numbers of the type that y has in lanes, filled up with zeros."""
    filled = [*numbers, *[0.0] * (least - len(numbers))]
    return tuple(y.real(number) for number in filled)


class Units(NamedTuple):
    """Units of an array with the axes (first, second, shared, inner): their indices, and rates' places."""

    axes: tuple[int, int, int, int]
    strides: tuple[int, int, int]  # of units' indices along first, second and inner
    rate_strides: tuple[int, int, int]
    start: int

    def cut(self) -> tuple[int, tuple[int, ...]]:
        """How many threads share the work, and the axes with the number of strips of the shared one."""
        first, second, shared, inner = self.axes
        strips = -(-shared // _STRIP)
        return first * second * strips * inner, (*self.axes, strips)


def units(
    name: str,
    activation: int,
    x: Lanes,
    other: Lanes,
    bias: Lanes | None,
    phase: int,
    y: Lanes,
    where: Units,
    threshold: Any,
    scale: Any,
    constants: Sequence[float],
    key: int,
    draw: int,
    stream: int = 0,
) -> None:
    """As `fused`, with a draw for each unit; threshold and scale may be arrays on the GPU."""
    items, axes = where.cut()
    period, by_unit = 0 if bias is None else bias.size, not isinstance(threshold, int)
    layout = items, where.start, period, phase
    kernel = units_kernel(name, activation, bias is not None, by_unit)
    arrays = [argument(a) for a in (x, other, bias or x, y)]
    places = (where.strides, where.rate_strides) if by_unit else (where.strides,)
    rates = (threshold, scale) if by_unit else (threshold, y.real(scale))
    numbers = _numbers(y, constants, 2)
    _launch(kernel, items, stream, *arrays, layout, axes, *places, *rates, numbers, key, draw)


def add_noise_units(
    name: str,
    x: Lanes,
    y: Lanes,
    where: Units,
    rates: Any,
    numbers: Sequence[float],
    key: int,
    draw: int,
    stream: int = 0,
) -> None:
    """As `add_noise`, with a draw for each unit, and its number where rates are an array on the GPU."""
    items, axes = where.cut()
    kernel, arrays = noise_units_kernel(name, rates is not None), (argument(x), argument(y))
    given = arrays[0] if rates is None else rates
    places = (items, where.start), axes, where.strides, where.rate_strides
    _launch(kernel, items, stream, *arrays, *places, given, _numbers(y, numbers), key, draw)
