"""Calls of the CPU kernels: which kernel, how many threads, and whether y is written past the caches.

Each function takes flat arrays that kernels can work on. A kernel is compiled at its first call. Big arrays
are cut into pieces, which threads share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.ma  # imported here, since Numba would do it at its first call, when a fork doesn't wait for it
from numpy.typing import NDArray

from fastdrop._arrays.host import lanes_dtype
from fastdrop._arrays.listed import MOST, Runs, Scattered
from fastdrop._arrays.plan import Density, Pass
from fastdrop._cpu import bernoulli, by_element, density, pool, scattered
from fastdrop._cpu.bernoulli import NO_BIAS, NO_CYCLE, Units
from fastdrop._cpu.compiled import jit
from fastdrop._lanes import formulas
from fastdrop._lanes.draws import DENSITIES
from fastdrop._stream.keys import TILE, signed

Draw: TypeAlias = tuple[int, float, int, int]  # a `bernoulli.Draw`, as the plain tuple that kernels take

# Threads share a call of so many elements, in pieces of so many: benchmarks/parallel_from.py measures both.
PARALLEL_FROM = 1 << 22
_FEW_PLANES = (1 << 28) - 1  # a threshold with none of these bits needs at most four planes
_PIECE = 1 << 19
_BIG = 1 << 20  # `drop_row` and `elements` use threads and write past the caches only from here on
# The same for noise with a density, which takes longer for each element. At this size two threads on two
# cores took .71 of one thread's time with nothing in between, but 1.09 after a matrix product, whose threads
# keep spinning.
_DENSITY_PARALLEL_FROM = 1 << 20
_DENSITY_PIECE = 1 << 16

# From FETCH_FROM bytes of output on, kernels ask for x ahead. In a training step arrays of this size have
# left the nearest caches; a call on arrays that are still there loses a tenth at most. From STREAM_FROM bytes
# on, y is written past the caches: input and output together exceed a last cache of 32 MiB. The sizes are
# fixed, since virtual machines report the caches of their host.
FETCH_FROM, STREAM_FROM = 1 << 18, 1 << 24

_DROP = Pass()

_LONG = 4 * TILE  # so many neighbours with one rate, or whole tiles of them, are drawn with one threshold

# The compiler treats the variables that a kernel takes from outside as constants, and leaves out the branches
# that they don't take.


def _drop_kernel() -> Any:
    formula, constants = formulas.affine, formulas.DROP

    def kernel(x, y, length, stride, start, threshold, scale, key, draw, far):
        rows, draws = (length, stride, start), (threshold, scale, key, draw)
        bernoulli.elements(formula, x, x, x, y, rows, NO_BIAS, draws, constants, far)

    return jit(kernel)


def _drop_rows_kernel() -> Any:
    """Return the kernel of dropout of rows with numbers, which writes nothing if one isn't in [0, end)."""
    formula, constants = formulas.affine, formulas.DROP

    def kernel(x, y, numbers, length, end, threshold, scale, key, draw, far):
        for number in numbers:
            if np.uint64(number) >= np.uint64(end):
                return False
        draws = threshold, scale, key, draw
        bernoulli.elements(formula, x, x, x, y, (numbers, length), NO_BIAS, draws, constants, far)
        return True

    return jit(kernel)


@cache
def _drop_by_element_kernel(dtype: np.dtype[Any]) -> Any:
    """Return the kernel of dropout with a rate for each element, of arrays of a dtype."""
    real = lanes_dtype(np.empty(0, dtype)).name
    computed = getattr(np, real)

    def kernel(x, y, p, inner, phase, start, key, draw, scale):
        by_element.elements(computed, x, y, p, inner, phase, start, key, draw, scale)

    return jit(kernel, real)


def _drop_by_row_kernel() -> Any:
    def kernel(x, y, p, first, length, start, key, draw, scale):
        by_element.rows(x, y, p, first, length, start, key, draw, scale)

    return jit(kernel)


def _in_range_kernel() -> Any:
    def kernel(p):
        return by_element.in_range(p)

    return jit(kernel)


def _repeat_kernel() -> Any:
    def kernel(numbers, cycle):
        by_element.repeat(numbers, cycle)

    return jit(kernel)


@cache
def _elements_kernel(name: str, activation: int) -> Any:
    formula, padding, number = formulas.in_family(name)

    def kernel(x, other, bias, y, rows, cycle, draw, constants, far):
        given = (*padding, *constants, number, activation)
        bernoulli.elements(formula, x, other, bias, y, rows, cycle, draw, given, far)

    return jit(kernel, name, activation)


def _masked_kernel() -> Any:
    def kernel(x, keep, y, scale):
        bernoulli.masked(x, keep, y, scale)

    return jit(kernel)


@cache
def _units_kernel(name: str, activation: int) -> Any:
    """Return the kernel that scales units by factors that were drawn before."""
    formula, padding, number = formulas.in_family(name)

    def kernel(x, other, bias, y, factors, axes, constants, far):
        given = (*padding, *constants, number, activation)
        bernoulli.units(formula, x, other, bias, y, factors, axes, given, far)

    return jit(kernel, name, activation)


@cache
def _drawn_units_kernel(name: str, activation: int) -> Any:
    """Return the kernel that draws the factors of units, and then scales the units."""
    formula, padding, number = formulas.in_family(name)

    def kernel(x, other, bias, y, factors, axes, draw, constants, far):
        bernoulli.draw_factors(factors, Units(*axes).start, draw)
        given = (*padding, *constants, number, activation)
        bernoulli.units(formula, x, other, bias, y, factors, axes, given, far)

    return jit(kernel, name, activation)


@cache
def _density_kernel(draw_name: str, name: str) -> Any:
    noise, formula = DENSITIES[draw_name], getattr(formulas, name)

    def kernel(x, y, rows, numbers, key, draw):
        density.elements(noise, formula, x, y, rows, numbers, key, draw)

    return jit(kernel, draw_name, name)


@cache
def _factors_kernel(draw_name: str, name: str, start: float) -> Any:
    """Return the kernel that makes factors, or terms, of draws whose numbers are in x."""
    noise, formula = DENSITIES[draw_name], formulas.by_number(getattr(formulas, name), start)

    def kernel(x, y, rows, numbers, key, draw):
        density.elements(noise, formula, x, y, rows, numbers, key, draw)

    return jit(kernel, draw_name, name, start)


def _scattered_kernel() -> Any:
    def kernel(factors, indices, threshold, scale, key, draw):
        scattered.drop(factors, indices, threshold, scale, key, draw)

    return jit(kernel)


def _scattered_by_rates_kernel() -> Any:
    def kernel(factors, indices, thresholds, scales, key, draw):
        scattered.drop_by_rates(factors, indices, thresholds, scales, key, draw)

    return jit(kernel)


@cache
def _scattered_noise_kernel(draw_name: str, name: str, start: float | None) -> Any:
    """Return the kernel of listed draws; with a start, of factors or terms whose numbers are in x."""
    noise, formula = DENSITIES[draw_name], getattr(formulas, name)
    own = formula if start is None else formulas.by_number(formula, start)

    def kernel(x, y, indices, numbers, key, draw):
        scattered.noise_of(noise, own, x, y, indices, numbers, key, draw)

    return jit(kernel, draw_name, name, start)


_drop, _drop_rows, _drop_by_row = _drop_kernel(), _drop_rows_kernel(), _drop_by_row_kernel()
_scattered, _scattered_by_rates = _scattered_kernel(), _scattered_by_rates_kernel()
_in_range, _repeat = _in_range_kernel(), _repeat_kernel()
_masked = _masked_kernel()


class Part(NamedTuple):
    """Arrays as kernels take them: 1-D, C-order, aligned, of one dtype and one size, which is not 0.

    y may be x. `other` and `bias` are x if the formula doesn't need them. A bias that repeats has its period,
    and goes on for another `TILE` elements after it. A bias as long as x has the period `NO_CYCLE`.
    """

    x: NDArray[Any]
    other: NDArray[Any]
    bias: NDArray[Any]
    period: int
    y: NDArray[Any]

    def cut(self, at: int, end: int) -> Part:
        """Return the elements in [at, end); a bias with a period stays as it is."""
        bias = self.bias[at:end] if self.period == NO_CYCLE else self.bias
        return Part(self.x[at:end], self.other[at:end], bias, self.period, self.y[at:end])


def drop(
    x: NDArray, y: NDArray, rows: tuple[Any, ...], threshold: int, scale: float, key: int, draw: int
) -> None:
    """Write x * scale into y, and +0 where U(i) < threshold; arrays are as in `Part`."""
    if isinstance(rows, Runs):
        elements(_DROP, x, x, x, NO_CYCLE, y, rows, (threshold, scale, key, draw))
        return
    length, stride, start = rows
    if stride:
        _drop(x, y, length, stride, start, threshold, scale, key, draw, distance(x.nbytes))
    else:
        drop_row(x, y, start, threshold, scale, key, draw)


def drop_row(x: NDArray, y: NDArray, start: int, threshold: int, scale: float, key: int, draw: int) -> None:
    """Do as `drop`, where indices follow each other from `start` on: plain dropout, in the fewest steps."""
    if x.size < _BIG:
        _drop(x, y, x.size, 0, start, threshold, scale, key, draw, distance(x.nbytes))
    else:
        _drop_in_pieces(x, y, start, threshold, scale, key, draw)


def drop_rows(x: NDArray, y: NDArray, numbers: NDArray[np.int64], draw: Draw) -> bool:
    """Do as `drop` for whole rows with numbers, in the fewest steps.

    Return False, with nothing written, if a number is out of range, or if `drop` does it with more threads.
    """
    length = x.size // numbers.size
    if x.size >= _BIG:
        return False
    done: bool = _drop_rows(x, y, numbers, length, MOST // length, *draw, distance(x.nbytes))
    return done


def _drop_in_pieces(
    x: NDArray, y: NDArray, start: int, threshold: int, scale: float, key: int, draw: int
) -> None:
    def piece(at: int, end: int) -> None:
        part, first = x[at:end], signed(start + at)
        _drop(part, y[at:end], part.size, 0, first, threshold, scale, key, draw, far)

    far = _far(y, start % TILE)
    _share(piece, x.size, _parallel_from(threshold), _PIECE)


def _far(y: NDArray, place: int = 0, run: int = 16) -> int:
    """Return the `distance` of arrays; y begins at a place in a tile, and is written in runs of bytes."""
    if y.nbytes < STREAM_FROM or run % 16:
        return distance(y.nbytes)
    return distance(y.nbytes, y.ctypes.data - place * y.itemsize)


def distance(nbytes: int, address: int = 1) -> int:
    """Return where arrays probably are: NEAR, FAR or PAST, by the bytes of the output.

    Only whole vectors at multiples of 16 bytes can be written past the caches. So PAST needs the address at
    which the output's first tile begins, or would begin.
    """
    if nbytes >= STREAM_FROM and address % 16 == 0:
        return bernoulli.PAST
    return bernoulli.FAR if nbytes >= FETCH_FROM else bernoulli.NEAR


def _parallel_from(threshold: int) -> int:
    """Return from how many elements on threads share a call: more if few planes make memory the limit."""
    return PARALLEL_FROM if threshold & _FEW_PLANES else 2 * PARALLEL_FROM


def _share(piece: Callable[[int, int], None], size: int, parallel_from: int, step: int) -> None:
    """Do [0, size) by one call of `piece`, or from a size on in pieces of `step` that threads share."""
    if size < parallel_from:
        piece(0, size)
    else:
        pool.share(lambda at: piece(at, min(at + step, size)), range(0, size, step))


def elements(
    what: Pass,
    x: NDArray[Any],
    other: NDArray[Any],
    bias: NDArray[Any],
    period: int,
    y: NDArray[Any],
    rows: tuple[Any, ...],
    draw: Draw,
) -> None:
    """Do a pass where each element has a draw of its own; the arrays are those of a `Part`.

    The rows are `Rows`, or `Runs`.
    """
    if y.size < _BIG:
        kernel = _elements_kernel(what.formula, what.activation)
        kernel(x, other, bias, y, tuple(rows), (period, 0), draw, what.constants, distance(y.nbytes))
    else:
        _elements_in_pieces(what, Part(x, other, bias, period, y), rows, draw)


def _elements_in_pieces(what: Pass, part: Part, rows: tuple[Any, ...], draw: Draw) -> None:
    kernel = _elements_kernel(what.formula, what.activation)

    def piece(at: int, end: int) -> None:
        x, other, bias, period, y = part.cut(at, end)
        phase = 0 if period == NO_CYCLE else at % period
        kernel(x, other, bias, y, _cut(rows, at, end), (period, phase), draw, what.constants, far)

    if isinstance(rows, Runs):
        far, parallel_from = _far(part.y, run=1), _parallel_from(draw[0])
    else:
        _, stride, start = rows
        far = _far(part.y, start % TILE, 1 if stride else 16)
        parallel_from = NO_CYCLE if stride else _parallel_from(draw[0])
    _share(piece, part.y.size, parallel_from, _PIECE)


def _cut(rows: tuple[Any, ...], at: int, end: int) -> tuple[Any, ...]:
    """Return the rows of the elements in [at, end); of `Rows` with a stride these are all."""
    if isinstance(rows, Runs):
        return tuple(rows.cut(at, end))
    length, stride, start = rows
    return min(length, end - at), stride, signed(start + at)


def by_rate(
    x: NDArray, y: NDArray, p: NDArray, inner: int, phase: int, start: int, key: int, draw: int, scale: float
) -> None:
    """Do dropout where every `inner` neighbours have the next rate; arrays are as in `Part`, and not empty.

    After the last rate they begin again with the first. The first element is the one at `phase`. Kept
    elements are multiplied by the scale, or if that is 0 by 1 / (1 - p).
    """
    numbers = key, draw, scale
    if (inner >= _LONG or inner % TILE == 0) and phase % inner == 0 and x.size % inner == 0:

        def rows(at: int, end: int) -> None:
            first, begin = (phase + at) // inner % p.size, signed(start + at)
            _drop_by_row(x[at:end], y[at:end], p, first, inner, begin, *numbers)

        _share(rows, x.size, _PIECE, max(1, _PIECE // inner) * inner)
        return
    kernel = _drop_by_element_kernel(x.dtype)
    if x.size < _PIECE:
        kernel(x, y, p, inner, phase, start, *numbers)
        return

    def piece(at: int, end: int) -> None:
        kernel(x[at:end], y[at:end], p, inner, phase + at, signed(start + at), *numbers)

    _share(piece, x.size, 0, _PIECE)


def check_rates(p: NDArray[Any]) -> None:
    """Raise an error unless all rates of a flat array are in [0, 1]."""
    fine = []
    if p.size < _PIECE:
        fine.append(_in_range(p))
    else:
        _share(lambda at, end: fine.append(_in_range(p[at:end])), p.size, 0, _PIECE)
    if not all(fine):
        wrong = p[~((p >= 0) & (p <= 1))]
        raise ValueError(f"p must be in [0, 1], got {wrong[0]} in an array")


def masked(x: NDArray, keep: NDArray[np.bool_], y: NDArray, scale: float) -> None:
    """Write x * scale into y where a mask is set, and +0 elsewhere; arrays are as in `Part`."""
    _masked(x, keep.view(np.uint8), y, scale)


def repeated(bias: NDArray[Any]) -> NDArray[Any]:
    """Return a bias that goes on for another `TILE` elements after its period."""
    cycle = np.empty(bias.size + TILE, bias.dtype)
    _repeat(bias, cycle)
    return cycle


def drawn_units(what: Pass, part: Part, factors: NDArray[Any], axes: Units, draw: Draw) -> None:
    """Draw a factor for each unit, write it to `factors`, and do a pass with them; see `units`."""
    x, other, bias, _, y = part
    if x.size < PARALLEL_FROM:
        kernel, far = _drawn_units_kernel(what.formula, what.activation), _far_of_units(y, axes)
        kernel(x, other, bias, y, factors, tuple(axes), draw, what.constants, far)
        return
    factors[:] = 1
    drop_row(factors, factors, axes.start, *draw)
    units(what, part, factors, axes)


def units(what: Pass, part: Part, factors: NDArray[Any], axes: Units) -> None:
    """Do a pass where each unit is scaled by its factor, or dropped if that is 0.

    The flat arrays stand for the axes (outer, shared, inner), and the flat factors for (outer, inner).
    Factors have the type that x is computed in.
    """
    x, other, bias, _, y = part
    kernel, far = _units_kernel(what.formula, what.activation), _far_of_units(y, axes)
    if x.size < PARALLEL_FROM:
        kernel(x, other, bias, y, factors, tuple(axes), what.constants, far)
        return
    shared, inner, start = axes
    outer = factors.size // inner
    # Pieces are cut along the outer axis, or along the shared one if the outer one has length 1.
    size = shared * inner if outer > 1 else inner

    def piece(first: int, last: int) -> None:
        x, other, bias, _, y = part.cut(first * size, last * size)
        mine = factors[first * inner : last * inner] if outer > 1 else factors
        layout = shared if outer > 1 else last - first, inner, start
        kernel(x, other, bias, y, mine, layout, what.constants, far)

    _share(piece, x.size // size, 0, max(1, _PIECE // size))


def _far_of_units(y: NDArray[Any], axes: Units) -> int:
    if y.nbytes < STREAM_FROM:  # the usual case first
        return distance(y.nbytes)
    return _far(y, run=(axes.shared if axes.inner == 1 else axes.inner) * y.itemsize)


def noise(what: Density, x: NDArray, y: NDArray, rows: tuple[Any, ...], key: int, draw: int) -> None:
    """Write a formula of x and its noise into y; arrays are as in `Part`, and rows any that `Layout` has.

    If each draw has a number of its own, x holds these numbers, and y gets the factors or terms.
    """
    numbers = what.numbers
    by_draw = type(numbers[0]) is not float and what.by_draw
    if isinstance(rows, Scattered):
        start = what.start if by_draw else None
        scattered_kernel = _scattered_noise_kernel(what.draw, what.formula, start)
        indices = rows.indices.view(np.uint64)

        def few(at: int, end: int) -> None:
            scattered_kernel(x[at:end], y[at:end], indices[at:end], () if by_draw else numbers, key, draw)

        _share(few, y.size, _DENSITY_PARALLEL_FROM, _DENSITY_PIECE)
        return
    if by_draw:
        kernel, numbers = _factors_kernel(what.draw, what.formula, what.start), ()
    else:
        kernel = _density_kernel(what.draw, what.formula)
    if y.size < _DENSITY_PARALLEL_FROM or (len(rows) == 3 and rows[1]):
        kernel(x, y, tuple(rows), numbers, key, draw)
        return

    def piece(at: int, end: int) -> None:
        kernel(x[at:end], y[at:end], _cut(rows, at, end), numbers, key, draw)

    _share(piece, y.size, 0, _DENSITY_PIECE)


def scattered_factors(factors: NDArray, place: Scattered, draw: Draw) -> None:
    """Write the factor of each listed draw: the scale, or 0 if it is dropped."""
    indices = place.indices.view(np.uint64)

    def piece(at: int, end: int) -> None:
        _scattered(factors[at:end], indices[at:end], *draw)

    _share(piece, factors.size, _PIECE, _DENSITY_PIECE)


def scattered_factors_by_rates(
    factors: NDArray, place: Scattered, rates: tuple[NDArray, NDArray], key: int, draw: int
) -> None:
    """Do as `scattered_factors`, with a threshold and a scale for each draw."""
    indices, (thresholds, scales) = place.indices.view(np.uint64), rates

    def piece(at: int, end: int) -> None:
        own = thresholds[at:end], scales[at:end]
        _scattered_by_rates(factors[at:end], indices[at:end], *own, key, draw)

    _share(piece, factors.size, _PIECE, _DENSITY_PIECE)
