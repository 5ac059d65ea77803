"""Launches of the CUDA kernels: how many threads and blocks, which arguments, which CUDA stream.

This is the one file that starts kernels on a GPU. `fastdrop._cuda.run` cuts a plan into launches and calls
the functions here; `fastdrop._cuda.kernels` has the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from fastdrop._arrays.device import Elements
from fastdrop._arrays.plan import Density, Pass, Rows
from fastdrop._cuda import kernels
from fastdrop._cuda.places import ROW
from fastdrop._stream.keys import TILE

THREADS = 256  # in a block
BLOCKS = 1 << 16  # in a grid at most; if there is more work, each thread does several items of it
_STRIP = 8  # elements of a unit that a thread does with one draw
_GROUP = 32  # elements of eight Philox blocks of noise with a density


class Part(NamedTuple):
    """The flat elements of a launch's arrays, and the CUDA stream of their library.

    If there is a bias, element i has its number at (phase + i) % bias.size. `other` is x if the formula does
    not need it.
    """

    x: Elements
    other: Elements
    bias: Elements | None
    phase: int
    y: Elements
    cuda_stream: int


class Units(NamedTuple):
    """An array with axes (first, second, shared, inner), and the indices and rates of its units.

    A unit is the elements along the axis `shared`, which have one draw.
    """

    axes: tuple[int, int, int, int]
    strides: tuple[int, int, int]  # of the units' indices, along first, second and inner
    rate_strides: tuple[int, int, int]
    start: int
    starts: Any = None  # an array on the GPU, with the index of every `length` units, if these are listed
    length: int = 1

    def cut(self) -> tuple[int, tuple[int, ...]]:
        """Return how many items of work there are, and the axes with how many strips the shared one has."""
        first, second, shared, inner = self.axes
        strips = -(-shared // _STRIP)
        return first * second * strips * inner, (*self.axes, strips)


def argument(lanes: Elements) -> Any:
    """Return an array as kernels take it; it does not wait for the CUDA stream of the array's library."""
    return cuda.as_cuda_array(lanes, sync=False)


def upload(numbers: NDArray[Any], cuda_stream: int) -> Any:
    """Return a flat copy of an array on the GPU."""
    return cuda.to_device(np.ascontiguousarray(numbers).ravel(), stream=_numba_stream(cuda_stream))


def _numba_stream(pointer: int) -> Any:
    return cuda.external_stream(pointer) if pointer else 0


def _launch(kernel: Any, items: int, cuda_stream: int, *arguments: Any) -> None:
    """Start a kernel with a thread for each item of work, or as many as a grid may have; don't wait."""
    blocks = min(-(-items // THREADS), BLOCKS)
    kernel[blocks, THREADS, _numba_stream(cuda_stream)](*arguments)


def _groups(rows: Rows, count: int, size: int) -> int:
    """Return in how many groups of a size the indices of a row lie, at most over `count` rows."""
    offset = rows.start % size if count == 1 else size - 1
    return (offset + rows.length + size - 1) // size


def elements(what: Pass, part: Part, rows: Rows, draw: tuple[int, float, int, int]) -> None:
    """Do a pass where each element has a draw of its own; `draw` is as the CPU's kernels take it."""
    threshold, scale, key, word = draw
    y, count = part.y, part.y.size // rows.length
    groups = _groups(rows, count, TILE)
    items, period = count * groups * ROW, 0 if part.bias is None else part.bias.size
    layout = items, groups, *rows, period, part.phase
    kernel = kernels.elements_kernel(what.formula, what.activation, part.bias is not None)
    numbers = _numbers(y, what.constants, 2)
    draws = threshold, y.real(scale), numbers, key, word
    _launch(kernel, items, part.cuda_stream, *_arrays(part), layout, *draws)


def units(what: Pass, part: Part, where: Units, threshold: Any, scale: Any, key: tuple[int, int]) -> None:
    """Do as `elements`, with a draw for each unit; threshold and scale may be arrays on the GPU."""
    items, axes = where.cut()
    period, by_unit = 0 if part.bias is None else part.bias.size, not isinstance(threshold, int)
    layout = items, where.start, where.length, period, part.phase
    starts, listed = _starts(where, part)
    kernel = kernels.units_kernel(what.formula, what.activation, part.bias is not None, by_unit, listed)
    places = (where.strides, where.rate_strides) if by_unit else (where.strides,)
    rates = (threshold, scale) if by_unit else (threshold, part.y.real(scale))
    numbers = _numbers(part.y, what.constants, 2)
    arrays = *_arrays(part), starts
    _launch(kernel, items, part.cuda_stream, *arrays, layout, axes, *places, *rates, numbers, *key)


def _starts(where: Units, part: Part) -> tuple[Any, bool]:
    """Return the array of starts, or some array if there is none, and whether indices are listed."""
    listed = where.starts is not None
    return where.starts if listed else argument(part.x), listed


def _arrays(part: Part) -> list[Any]:
    return [argument(a) for a in (part.x, part.other, part.bias or part.x, part.y)]


def noise(what: Density, part: Part, rows: Rows, key: tuple[int, int]) -> None:
    """Write a formula of x and its noise into y, with a draw for each element."""
    count = part.y.size // rows.length
    groups = _groups(rows, count, _GROUP)
    items = count * groups * 8
    kernel, layout = kernels.noise_kernel(what.draw, what.formula), (items, groups, *rows)
    numbers = _numbers(part.y, what.numbers)
    _launch(kernel, items, part.cuda_stream, argument(part.x), argument(part.y), layout, numbers, *key)


def listed_noise(what: Density, part: Part, starts: Any, length: int, key: tuple[int, int]) -> None:
    """Do as `noise`, where every `length` elements have indices that follow each other from a start on."""
    kernel, numbers = kernels.listed_noise_kernel(what.draw, what.formula), _numbers(part.y, what.numbers)
    layout, arrays = (part.y.size, length), (argument(part.x), argument(part.y), starts)
    _launch(kernel, part.y.size, part.cuda_stream, *arrays, layout, numbers, *key)


def noise_units(what: Density, part: Part, where: Units, rates: Any, key: tuple[int, int]) -> None:
    """Do as `noise`, with a draw for each unit; if rates are an array on the GPU they scale the draws."""
    items, axes = where.cut()
    x, y = argument(part.x), argument(part.y)
    starts, listed = _starts(where, part)
    kernel = kernels.noise_units_kernel(what.draw, what.formula, rates is not None, listed)
    places = starts, (items, where.start, where.length), axes, where.strides, where.rate_strides
    given = x if rates is None else rates
    _launch(kernel, items, part.cuda_stream, x, y, *places, given, _numbers(part.y, what.numbers), *key)


def sum_rows(y: Elements, total: Elements, cuda_stream: int) -> None:
    """Write the sums over y's rows into `total`, which is a row; the order depends on the shape alone."""
    arrays = argument(y), argument(total)
    _launch(kernels.sums_kernel(), total.size, cuda_stream, *arrays, y.size // total.size)


def _numbers(y: Elements, numbers: Sequence[float], least: int = 0) -> tuple[Any, ...]:
    """Return numbers in the type that y is computed in, filled up with zeros to at least so many."""
    filled = [*numbers, *[0.0] * (least - len(numbers))]
    return tuple(y.real(number) for number in filled)
