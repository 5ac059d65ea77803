"""The CUDA kernels: one for each formula, on 1-D arrays of a GPU.

Masks equal those of the CPU bit for bit: both are made of integers by the same functions. Numbers are
promised to be within 2 ulp of the CPU's. In fact they are equal too, but for the payloads of NaNs: kernels
use additions, products, fmas, divisions and roots alone, which both machines round correctly, and the
compiler contracts nothing, since each product has its rounding spelled out (see `fastdrop._lanes.vectors`).
`make cuda-check` tests that no kernel has a contracted or approximate instruction. In float32 the normals of
either machine are at most 2 eps of their radius away from the exact ones (tests/kernels/test_lane.py).

Of Bernoulli noise a thread does one word of a Philox block, which is every 32nd element of a tile. So a warp
does a tile, and reads and writes 32 neighbours at a time. Four threads of a warp compute the same block. That
costs 2.5 instructions for each element and plane. There is room for 70 while the warp waits for memory
(`benchmarks/gpu.py` has the account), and it gives four times as many threads, which small arrays lack.
Planes are drawn until all elements of a warp are decided. Of noise with a density a thread does one block.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from fastdrop._cuda import lane, places
from fastdrop._cuda.places import ROW
from fastdrop._lanes import formulas

# Places are unsigned where they index an array: of signed ones Numba would check whether they are negative.
_FOUR_ROWS = np.uint64(4 * ROW)
_1, _2, _3 = np.uint64(ROW), np.uint64(2 * ROW), np.uint64(3 * ROW)


@cache
def elements_kernel(name: str, activation: int = 0, biased: bool = False) -> Any:
    """Return the kernel of a formula of Bernoulli noise, with a draw for each element."""
    element = lane.bernoulli(getattr(formulas, name), activation, biased)

    @cuda.jit
    def kernel(x, other, bias, y, layout, threshold, scale, constants, key, draw):
        items, groups, length, stride, start, period, phase = layout
        period = period if biased else 0  # without a bias it is a constant to the compiler
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            block, word, place, k, count = places.bits_of(item, groups, length, stride, start)
            if count <= 0:
                continue
            sets = lane.after(lane.dropped(block, word, 0xFFFFFFFF, threshold, key, draw), k)
            at = np.uint64(place)
            b0, step = places.bias_at(at, phase, period), places.bias_step(ROW, period)
            # Four reads come before the first write, since the compiler can't move a read before a write.
            for _ in range(count >> 2):
                b1 = places.next_bias(b0, step, period)
                b2 = places.next_bias(b1, step, period)
                b3 = places.next_bias(b2, step, period)
                v0 = element(x[at], other[at], bias[b0], lane.bit(sets, 0), scale, constants)
                v1 = element(x[at + _1], other[at + _1], bias[b1], lane.bit(sets, 1), scale, constants)
                v2 = element(x[at + _2], other[at + _2], bias[b2], lane.bit(sets, 2), scale, constants)
                v3 = element(x[at + _3], other[at + _3], bias[b3], lane.bit(sets, 3), scale, constants)
                y[at], y[at + _1], y[at + _2], y[at + _3] = v0, v1, v2, v3
                at, sets, b0 = at + _FOUR_ROWS, lane.after(sets, 4), places.next_bias(b3, step, period)
            for _ in range(count & 3):
                y[at] = element(x[at], other[at], bias[b0], lane.bit(sets, 0), scale, constants)
                at, sets, b0 = at + _1, lane.after(sets, 1), places.next_bias(b0, step, period)

    return kernel


@cache
def _unit_index(listed: bool) -> Any:
    """Return a function for the index of a unit by its number.

    If indices are listed, `starts` has that of every `length` units; else the number is the index.
    """

    @cuda.jit(device=True)
    def index_of(starts, length, number):
        if listed:
            row, place = places.listed_row(number, length)
            return np.uint64(starts[row]) + place
        return number

    return index_of


@cache
def units_kernel(
    name: str, activation: int = 0, biased: bool = False, by_unit: bool = False, listed: bool = False
) -> Any:
    """Return the kernel of a formula of Bernoulli noise, with a draw, and by_unit a rate, for each unit."""
    element, index_of = lane.bernoulli(getattr(formulas, name), activation, biased), _unit_index(listed)

    @cuda.jit(device=True)
    def strip(x, other, bias, y, at, step, count, period, phase, dropped, scale, constants):
        b, bias_step = places.bias_at(at, phase, period), places.bias_step(step, period)
        for _ in range(count):
            y[at] = element(x[at], other[at], bias[b], dropped, scale, constants)
            at, b = at + step, places.next_bias(b, bias_step, period)

    @cuda.jit
    def one_rate(x, other, bias, y, starts, layout, axes, strides, threshold, scale, constants, key, draw):
        items, start, length, period, phase = layout
        period = period if biased else 0
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            at, step, count, unit, _ = places.strip_of(item, axes, strides, strides)
            index = index_of(starts, length, np.uint64(start) + unit)
            dropped = lane.unit_dropped(index, threshold, key, draw)
            strip(x, other, bias, y, at, step, count, period, phase, dropped, scale, constants)

    @cuda.jit
    def rates(
        x,
        other,
        bias,
        y,
        starts,
        layout,
        axes,
        strides,
        rate_strides,
        thresholds,
        scales,
        constants,
        key,
        draw,
    ):
        items, start, length, period, phase = layout
        period = period if biased else 0
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            at, step, count, unit, rate = places.strip_of(item, axes, strides, rate_strides)
            threshold, scale = thresholds[rate], scales[rate]
            index = index_of(starts, length, np.uint64(start) + unit)
            dropped = scale == 0 or lane.unit_dropped(index, threshold, key, draw)
            strip(x, other, bias, y, at, step, count, period, phase, dropped, scale, constants)

    return rates if by_unit else one_rate


@cache
def noise_kernel(draw: str, name: str) -> Any:
    """Return the kernel of a formula of noise with a density, with a draw for each element."""
    noise, element = lane.DENSITIES[draw], lane.continuous(getattr(formulas, name))

    @cuda.jit
    def kernel(x, y, layout, numbers, key, draw):
        items, groups, length, stride, start = layout
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            block, place, first, end = places.group_of(item, groups, length, stride, start)
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


@cache
def listed_noise_kernel(draw: str, name: str) -> Any:
    """Return the kernel of noise with a density whose draws have listed indices, one for each element."""
    drawn, element = lane.draw_at(lane.DENSITIES[draw]), lane.continuous(getattr(formulas, name))
    index_of = _unit_index(True)

    @cuda.jit
    def kernel(x, y, starts, layout, numbers, key, draw):
        items, length = layout
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            z = drawn(index_of(starts, length, np.uint64(item)), key, draw, numbers[0])
            y[np.uint64(item)] = element(x[np.uint64(item)], z, numbers)

    return kernel


@cache
def noise_units_kernel(draw: str, name: str, by_unit: bool = False, listed: bool = False) -> Any:
    """Return the kernel of noise with a density, with a draw, and by_unit a number, for each unit."""
    multiplies, formula = name != "shift", getattr(formulas, name)
    factor = lane.unit_factor(lane.DENSITIES[draw], formula, multiplies, by_unit)
    element, index_of = lane.with_factor(multiplies), _unit_index(listed)

    @cuda.jit
    def kernel(x, y, starts, layout, axes, strides, rate_strides, rates, numbers, key, draw):
        items, start, length = layout
        for item in range(cuda.grid(1), items, cuda.gridsize(1)):
            at, step, count, unit, rate = places.strip_of(item, axes, strides, rate_strides)
            index = index_of(starts, length, np.uint64(start) + unit)
            f = factor(index, rates[rate], numbers, key, draw)
            for _ in range(count):
                y[at] = element(x[at], f)
                at += step

    return kernel


@cache
def sums_kernel() -> Any:
    """Return the kernel of sums over rows, in which a thread does each column."""

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
