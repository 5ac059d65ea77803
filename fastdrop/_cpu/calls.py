"""Calls of the CPU kernels: which kernel, how many threads, and whether y is written past the caches.

Each function takes flat arrays that kernels can work on. A kernel is compiled at its first call. The work of
a big call is cut into pieces, which threads share.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.ma  # imported here, since Numba would do it at its first call, when a fork doesn't wait for it
from numpy.typing import NDArray

from fastdrop._arrays.host import lanes_dtype
from fastdrop._arrays.listed import MOST, Runs, Scattered
from fastdrop._arrays.numbers import check_range
from fastdrop._arrays.plan import Density, Pass
from fastdrop._cpu import bernoulli, by_element, columns, density, helpers, masks, scattered, team
from fastdrop._cpu.bernoulli import NEAR, NO_BIAS, NO_CYCLE, Units
from fastdrop._cpu.compiled import jit
from fastdrop._cpu.team import in_pieces
from fastdrop._lanes import formulas
from fastdrop._lanes.draws import DENSITIES
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import is_short
from fastdrop._lanes.vectors import LANES
from fastdrop._stream.keys import TILE

Draw: TypeAlias = tuple[int, float, int, int]  # a `bernoulli.Draw`, as the plain tuple that kernels take

Gate: TypeAlias = tuple[float, float]  # what makes rates of pre-activations: see `formulas.gate`

# Calls of fewer elements are done by one thread, and their arrays are NEAR.
SMALL = 1 << 15
# Kernels look at fewer rates themselves. It is a constant of their code, so not SMALL, which tests change.
FEW_RATES = 1 << 15
# About how many ns an element takes, beside the bytes that it moves: where a threshold needs few digits,
# where it needs many, with a rate of its own, for a density, and for a mask that is there.
_FEW, _MANY, _OWN_RATE, _DENSITY, _MASKED = 0.1, 0.3, 1.0, 1.2, 0.1
_LISTED = 10.0  # by what a draw takes longer whose index is listed
_BY_COLUMNS = 0.5  # more where neighbours in memory have no neighbouring indices
_BYTE = 0.02  # ns for a byte of x and one of y
_FEW_PLANES = (1 << 28) - 1  # a threshold with none of these bits needs at most four planes

# From FETCH_FROM bytes of output on, kernels ask for x ahead, if the processor has to be asked. In a training
# step arrays of this size have left the nearest caches; a call on arrays that are still there loses some
# hundredths. From STREAM_FROM bytes on, y is written past the caches: input and output together exceed a last
# cache of 32 MiB. The sizes are fixed, since virtual machines report the caches of their host.
FETCH_FROM, STREAM_FROM = 1 << 18, 1 << 24

# From so many neighbours with one rate on, few tiles have two rates. And from so many on, rows of units that
# are no whole number of vectors may be written past the caches.
_LONG = 4 * TILE

# Each kernel hands the work of a range to `in_pieces`, as a function of what it was given. The last argument
# of a kernel is the address of a request for helpers, or 0. The compiler treats the variables that a kernel
# takes from outside as constants, and leaves out the branches that they don't take.


def _piece_of_dropout() -> Any:
    formula, constants = formulas.affine, formulas.DROP

    @inlined
    def piece(given, begin, end):
        x, y, rows, draw, far = given
        bernoulli.elements(formula, x, x, x, y, rows, NO_BIAS, draw, constants, far, begin, end)

    return piece


def _drop_kernel() -> Any:
    piece = _piece_of_dropout()

    def kernel(x, y, length, stride, start, threshold, scale, key, draw, far, helpers):
        rows, draws = (length, stride, start), (threshold, scale, key, draw)
        in_pieces(piece, (x, y, rows, draws, far), y.size, helpers)

    return jit(kernel)


def _drop_runs_kernel() -> Any:
    piece = _piece_of_dropout()

    def kernel(x, y, offsets, starts, threshold, scale, key, draw, far, helpers):
        rows, draws = (offsets, starts), (threshold, scale, key, draw)
        in_pieces(piece, (x, y, rows, draws, far), y.size, helpers)

    return jit(kernel)


def _drop_rows_kernel() -> Any:
    """Return the kernel of dropout of rows with numbers, which writes nothing if one isn't in [0, limit)."""
    piece = _piece_of_dropout()

    def kernel(x, y, numbers, length, limit, threshold, scale, key, draw, far, helpers):
        for number in numbers:
            if np.uint64(number) >= np.uint64(limit):
                return False
        rows, draws = (numbers, length), (threshold, scale, key, draw)
        in_pieces(piece, (x, y, rows, draws, far), y.size, helpers)
        return True

    return jit(kernel)


@cache
def _drop_by_element_kernel(dtype: np.dtype[Any]) -> Any:
    """Return the kernel of dropout with a rate for each element, of arrays of a dtype.

    It looks at fewer than `FEW_RATES` itself, and returns False, with nothing written, if one isn't in
    [0, 1]. Where there are more, threads share that work in `check_rates`.
    """
    real = lanes_dtype(np.empty(0, dtype)).name
    computed, rates = getattr(np, real), formulas.given

    @inlined
    def piece(given, begin, end):
        x, y, p, inner, phase, start, key, draw, scale = given
        by_element.elements(computed, rates, x, y, p, (), inner, phase, start, key, draw, scale, begin, end)

    def kernel(x, y, p, inner, phase, start, key, draw, scale, helpers):
        if p.size < FEW_RATES and not by_element.are_all(by_element.is_rate, p, 0, p.size):
            return False
        in_pieces(piece, (x, y, p, inner, phase, start, key, draw, scale), y.size, helpers)
        return True

    return jit(kernel, real)


def _drop_by_run_kernel() -> Any:
    """Return the kernel where many neighbours have one rate; it looks at rates as the other does."""

    @inlined
    def piece(given, begin, end):
        by_element.runs(*given, begin, end)

    def kernel(x, y, p, inner, phase, start, key, draw, scale, helpers):
        if p.size < FEW_RATES and not by_element.are_all(by_element.is_rate, p, 0, p.size):
            return False
        in_pieces(piece, (x, y, p, inner, phase, start, key, draw, scale), y.size, helpers)
        return True

    return jit(kernel)


@cache
def _drop_by_gate_kernel(dtype: np.dtype[Any]) -> Any:
    """Return the kernel of standout, of arrays of a dtype: each element has a rate, of its pre-activation."""
    real = lanes_dtype(np.empty(0, dtype)).name
    computed, rates, one, none = getattr(np, real), formulas.gate, np.int64(1), np.int64(0)

    @inlined
    def piece(given, begin, end):
        x, y, a, numbers, start, key, draw, scale = given
        by_element.elements(computed, rates, x, y, a, numbers, one, none, start, key, draw, scale, begin, end)

    def kernel(x, y, a, numbers, start, key, draw, scale, helpers):
        in_pieces(piece, (x, y, a, numbers, start, key, draw, scale), y.size, helpers)

    return jit(kernel, real, "gate")


def _rates_by_gate_kernel() -> Any:
    gate = formulas.gate

    @inlined
    def piece(given, begin, end):
        a, numbers, p = given
        by_element.make_rates(gate, a, numbers, p, begin, end)

    def kernel(a, numbers, p, helpers):
        in_pieces(piece, (a, numbers, p), p.size, helpers)

    return jit(kernel)


def _are_all_kernel(fine: Any) -> Any:
    @inlined
    def piece(given, begin, end):
        numbers, found = given
        if not by_element.are_all(fine, numbers, begin, end):
            found[0] = False

    def kernel(numbers, helpers):
        found = np.ones(1, np.bool_)
        in_pieces(piece, (numbers, found), numbers.size, helpers)
        return found[0]

    return jit(kernel, fine.__name__)


def _repeat_kernel() -> Any:
    def kernel(numbers, cycle):
        by_element.repeat(numbers, cycle)

    return jit(kernel)


@cache
def _elements_kernel(name: str, activation: int) -> Any:
    formula, padding, number = formulas.in_family(name)

    @inlined
    def piece(given, begin, end):
        x, other, bias, y, rows, cycle, draw, constants, far = given
        own = (*padding, *constants, number, formulas.activation_of(activation, is_short(y)))
        bernoulli.elements(formula, x, other, bias, y, rows, cycle, draw, own, far, begin, end)

    def kernel(x, other, bias, y, rows, cycle, draw, constants, far, helpers):
        in_pieces(piece, (x, other, bias, y, rows, cycle, draw, constants, far), y.size, helpers)

    return jit(kernel, name, activation)


def _drop_matrices_kernel() -> Any:
    @inlined
    def piece(given, begin, end):
        columns.matrices(*given, begin, end)

    def kernel(x, y, rows, across, step, start, draw, blocks, helpers):
        in_pieces(piece, (x, y, rows, across, step, start, draw), blocks, helpers)

    return jit(kernel)


def _apply_kernel(packed: bool) -> Any:
    apply = masks.apply_bits if packed else masks.apply_bytes

    @inlined
    def piece(given, begin, end):
        apply(*given, begin, end)

    def kernel(x, keep, y, scale, far, helpers):
        in_pieces(piece, (x, keep, y, scale, far), y.size, helpers)

    return jit(kernel, packed)


def _kept_bits_kernel() -> Any:
    @inlined
    def piece(given, begin, end):
        masks.kept_bits(*given, begin, end)

    def kernel(y, size, start, draw, helpers):
        in_pieces(piece, (y, start, draw), size, helpers)

    return jit(kernel)


@inlined
def _count_of_units(x, factors, axes):
    """Return how many units there are; if their elements are no neighbours, how many rows of neighbours."""
    return factors.size if Units(*axes).inner == 1 else x.size // Units(*axes).inner


def _piece_of_units(name: str, activation: int) -> Any:
    formula, padding, number = formulas.in_family(name)

    @inlined
    def piece(given, begin, end):
        x, other, bias, y, factors, axes, constants, far = given
        own = (*padding, *constants, number, formulas.activation_of(activation, is_short(y)))
        bernoulli.units(formula, x, other, bias, y, factors, axes, own, far, begin, end)

    return piece


@cache
def _units_kernel(name: str, activation: int) -> Any:
    """Return the kernel that scales units by factors that were drawn before."""
    piece = _piece_of_units(name, activation)

    def kernel(x, other, bias, y, factors, axes, constants, far, helpers):
        count = _count_of_units(x, factors, axes)
        in_pieces(piece, (x, other, bias, y, factors, axes, constants, far), count, helpers)

    return jit(kernel, name, activation)


@cache
def _drawn_units_kernel(name: str, activation: int) -> Any:
    """Return the kernel that draws the factors of units, and then scales the units."""
    piece = _piece_of_units(name, activation)

    def kernel(x, other, bias, y, factors, axes, draw, constants, far, helpers):
        bernoulli.draw_factors(factors, Units(*axes).start, draw)
        count = _count_of_units(x, factors, axes)
        in_pieces(piece, (x, other, bias, y, factors, axes, constants, far), count, helpers)

    return jit(kernel, name, activation)


def _noise_kernel(draw_name: str, formula: Any, *variant: Any) -> Any:
    noise = DENSITIES[draw_name]

    @inlined
    def piece(given, begin, end):
        x, y, rows, numbers, key, draw = given  # a tuple of the two functions and these would be slow
        density.elements(noise, formula, x, y, rows, numbers, key, draw, begin, end)

    def kernel(x, y, rows, numbers, key, draw, helpers):
        in_pieces(piece, (x, y, rows, numbers, key, draw), y.size, helpers)

    return jit(kernel, draw_name, *variant)


@cache
def _density_kernel(draw_name: str, name: str) -> Any:
    return _noise_kernel(draw_name, getattr(formulas, name), name)


@cache
def _factors_kernel(draw_name: str, name: str, start: float) -> Any:
    """Return the kernel that makes factors, or terms, of draws whose numbers are in x."""
    return _noise_kernel(draw_name, formulas.by_number(getattr(formulas, name), start), name, start)


def _scattered_kernel() -> Any:
    @inlined
    def piece(given, begin, end):
        scattered.drop(*given, begin, end)

    def kernel(factors, indices, threshold, scale, key, draw, helpers):
        in_pieces(piece, (factors, indices, threshold, scale, key, draw), factors.size, helpers)

    return jit(kernel)


def _scattered_by_rates_kernel() -> Any:
    @inlined
    def piece(given, begin, end):
        scattered.drop_by_rates(*given, begin, end)

    def kernel(factors, indices, p, scale, key, draw, helpers):
        in_pieces(piece, (factors, indices, p, scale, key, draw), factors.size, helpers)

    return jit(kernel, "rates")


@cache
def _scattered_noise_kernel(draw_name: str, name: str, start: float | None) -> Any:
    """Return the kernel of listed draws; with a start, of factors or terms whose numbers are in x."""
    noise, formula = DENSITIES[draw_name], getattr(formulas, name)
    own = formula if start is None else formulas.by_number(formula, start)

    @inlined
    def piece(given, begin, end):
        x, y, indices, numbers, key, draw = given
        scattered.noise_of(noise, own, x, y, indices, numbers, key, draw, begin, end)

    def kernel(x, y, indices, numbers, key, draw, helpers):
        in_pieces(piece, (x, y, indices, numbers, key, draw), y.size, helpers)

    return jit(kernel, draw_name, name, start, "listed")


_drop, _drop_runs, _drop_rows = _drop_kernel(), _drop_runs_kernel(), _drop_rows_kernel()
_drop_by_run, _drop_matrices = _drop_by_run_kernel(), _drop_matrices_kernel()
_scattered, _scattered_by_rates = _scattered_kernel(), _scattered_by_rates_kernel()
_rates_by_gate, _repeat = _rates_by_gate_kernel(), _repeat_kernel()
_are_rates, _are_finite = _are_all_kernel(by_element.is_rate), _are_all_kernel(by_element.is_finite)
_apply_bytes, _apply_bits, _kept_bits = _apply_kernel(False), _apply_kernel(True), _kept_bits_kernel()


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


def _bernoulli(threshold: int) -> float:
    """Return about how many ns an element takes whose draw has a threshold."""
    return _MANY if threshold & _FEW_PLANES else _FEW


def ready_to_share() -> None:
    """Compile what shares a call among threads."""
    team.share_address(), team.serve(), team.dismiss()


def _share(
    kernel: Any, given: tuple[Any, ...], size: int, y: NDArray, ns: float, grain: int = TILE, phase: int = 0
) -> Any:
    """Call a kernel with helpers, if the call is worth them, and return what it returns.

    Its work is [0, size), and pieces end at multiples of the grain after the phase. An element of y takes
    about so many ns.
    """
    request = None
    if y.size >= SMALL:
        request = helpers.request(size, y.size * (ns + _BYTE * y.itemsize), grain, phase)
    if request is None:
        return kernel(*given, 0)
    found = kernel(*given, request.__array_interface__["data"][0])
    if found is not False:  # which says that nothing was done
        helpers.heed(request)
    return found


def drop(
    x: NDArray, y: NDArray, rows: tuple[Any, ...], threshold: int, scale: float, key: int, draw: int
) -> None:
    """Write x * scale into y, and +0 where U(i) < threshold; arrays are as in `Part`."""
    if isinstance(rows, Runs):
        runs = x, y, *rows, threshold, scale, key, draw, distance(x.nbytes)
        _share(_drop_runs, runs, x.size, y, _bernoulli(threshold))
        return
    length, stride, start = rows
    if not stride:
        drop_row(x, y, start, threshold, scale, key, draw)
    elif x.size < SMALL:
        _drop(x, y, length, stride, start, threshold, scale, key, draw, NEAR, 0)
    else:
        given = x, y, length, stride, start, threshold, scale, key, draw, distance(x.nbytes)
        _share(_drop, given, x.size, y, _bernoulli(threshold), max(length, 1))


def drop_row(x: NDArray, y: NDArray, start: int, threshold: int, scale: float, key: int, draw: int) -> None:
    """Do as `drop`, where indices follow each other from `start` on: plain dropout, in the fewest steps."""
    if x.size < SMALL:
        _drop(x, y, x.size, 0, start, threshold, scale, key, draw, NEAR, 0)
    else:
        place, nbytes = start % TILE, y.nbytes
        far = distance(nbytes) if nbytes < STREAM_FROM else _far(y, place)
        given = x, y, x.size, 0, start, threshold, scale, key, draw, far
        _share(_drop, given, x.size, y, _bernoulli(threshold), TILE, place)


def drop_rows(x: NDArray, y: NDArray, numbers: NDArray[np.int64], draw: Draw) -> bool:
    """Do as `drop` for whole rows with numbers, in the fewest steps.

    Return False, with nothing written, if a number is out of range.
    """
    length = x.size // numbers.size
    given = x, y, numbers, length, MOST // length, *draw, distance(x.nbytes)
    done: bool = _share(_drop_rows, given, x.size, y, _bernoulli(draw[0]))
    return done


def drop_matrices(x: NDArray, y: NDArray, rows: int, across: int, start: int, draw: Draw) -> None:
    """Do as `drop` for matrices that lie in the flat arrays column by column; see `columns.matrices`."""
    step = columns.rows_at_once(across)
    blocks, ns = y.size // (rows * across) * -(-rows // step), _bernoulli(draw[0]) + _BY_COLUMNS
    _share(_drop_matrices, (x, y, rows, across, step, start, draw, blocks), blocks, y, ns, 1)


def _far(y: NDArray, place: int = 0) -> int:
    """Return the `distance` of arrays; y begins at a place in a tile."""
    if y.nbytes < STREAM_FROM:
        return distance(y.nbytes)
    return distance(y.nbytes, y.ctypes.data - place * y.itemsize)


def distance(nbytes: int, address: int = 1) -> int:
    """Return where arrays probably are: NEAR, FAR or PAST, by the bytes of the output.

    Only whole vectors at multiples of 16 bytes can be written past the caches. So PAST needs the address at
    which the output's first tile begins, or would begin.
    """
    if nbytes >= STREAM_FROM and address % 16 == 0:
        return bernoulli.PAST
    return bernoulli.FAR if nbytes >= FETCH_FROM else NEAR


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
    kernel = _elements_kernel(what.formula, what.activation)
    if y.size < SMALL:
        kernel(x, other, bias, y, tuple(rows), (period, 0), draw, what.constants, NEAR, 0)
        return
    grain, phase, far = TILE, 0, distance(y.nbytes)
    if not isinstance(rows, Runs):
        length, stride, start = rows
        if stride:
            grain = length
        else:
            phase = start % TILE
            far = _far(y, phase)
    given = x, other, bias, y, tuple(rows), (period, 0), draw, what.constants, far
    _share(kernel, given, y.size, y, _bernoulli(draw[0]), grain, phase)


def by_rate(
    x: NDArray, y: NDArray, p: NDArray, inner: int, phase: int, start: int, key: int, draw: int, scale: float
) -> None:
    """Do dropout where every `inner` neighbours have the next rate; arrays are as in `Part`, and not empty.

    After the last rate they begin again with the first. The first element is the one at `phase`. Kept
    elements are multiplied by the scale, or if that is 0 by 1 / (1 - p). `FEW_RATES` and more must have
    been looked at by `check_rates`; of fewer, one that is not in [0, 1] is an error, before y is written.
    """
    given = x, y, p, inner, phase, start, key, draw, scale
    if inner >= _LONG or by_element.are_rows(inner, phase, start):
        done = _share(_drop_by_run, given, x.size, y, _MANY, TILE, start % TILE)
    else:
        done = _share(_drop_by_element_kernel(x.dtype), given, x.size, y, _OWN_RATE, TILE, start % TILE)
    if not done:
        check_range(p)
        raise RuntimeError("p changed during the call")


def checked_by_rate(
    x: NDArray, y: NDArray, p: NDArray, inner: int, start: int, key: int, draw: int, scale: float
) -> None:
    """Do as `by_rate` for any number of rates, in the fewest steps."""
    if p.size >= FEW_RATES:
        check_rates(p)
    by_rate(x, y, p, inner, 0, start, key, draw, scale)


def check_rates(p: NDArray[Any]) -> None:
    """Raise an error unless all rates of a flat array are in [0, 1]."""
    if not _share(_are_rates, (p,), p.size, p, 0.0):
        check_range(p)


def are_finite(a: NDArray[Any]) -> bool:
    """Return whether all numbers of a flat array are finite."""
    return bool(_share(_are_finite, (a,), a.size, a, 0.0))


def by_gate(
    x: NDArray, y: NDArray, a: NDArray, numbers: Gate, start: int, key: int, draw: int, scale: float
) -> None:
    """Do dropout at the rates of standout, of finite pre-activations; other arguments are as in `by_rate`."""
    given = x, y, a, numbers, start, key, draw, scale
    _share(_drop_by_gate_kernel(x.dtype), given, x.size, y, _OWN_RATE, TILE, start % TILE)


def rates_by_gate(a: NDArray, numbers: Gate, p: NDArray) -> None:
    """Write the rates of standout to p, which has the type that `a` is computed in."""
    _share(_rates_by_gate, (a, numbers, p), a.size, a, _OWN_RATE)


def masked(x: NDArray, keep: NDArray[np.uint8], packed: bool, y: NDArray, scale: float) -> None:
    """Write x * scale into y where a mask is set, and +0 elsewhere; arrays are as in `Part`.

    The mask has a byte for each element, or if it is packed a bit, in the order of `numpy.packbits`.
    """
    given = x, keep, y, scale, _far(y)
    _share(_apply_bits if packed else _apply_bytes, given, y.size, y, _MASKED)


def kept_bits(y: NDArray[np.uint8], size: int, start: int, draw: Draw) -> None:
    """Write which of `size` elements are kept to y, as bits; the first's index is a multiple of 8."""
    ns = 8 * _bernoulli(draw[0])  # for a byte
    _share(_kept_bits, (y, size, start, draw), size, y, ns, TILE, start % TILE)


def repeated(bias: NDArray[Any]) -> NDArray[Any]:
    """Return a bias that goes on for another `TILE` elements after its period."""
    cycle = np.empty(bias.size + TILE, bias.dtype)
    _repeat(bias, cycle)
    return cycle


def drawn_units(
    what: Pass, x: NDArray, other: NDArray, y: NDArray, factors: NDArray, axes: Units, draw: Draw
) -> None:
    """Draw a factor for each unit, write it to `factors`, and do a pass without a bias; see `units`."""
    if factors.size >= SMALL:
        factors[:] = 1
        drop_row(factors, factors, axes.start, *draw)
        units(what, Part(x, other, x, NO_CYCLE, y), factors, axes)
        return
    formula, constants, activation, _ = what
    kernel, given = _drawn_units_kernel(formula, activation), (x, other, x, y, factors, tuple(axes), draw)
    if y.size < SMALL:
        kernel(*given, constants, NEAR, 0)
    else:
        _share_units(kernel, (*given, constants, _far_of_units(y, axes)), y, axes)


def units(what: Pass, part: Part, factors: NDArray[Any], axes: Units) -> None:
    """Do a pass where each unit is scaled by its factor, or dropped if that is 0.

    The flat arrays stand for the axes (outer, shared, inner), and the flat factors for (outer, inner).
    Factors have the type that x is computed in.
    """
    x, other, bias, _, y = part
    kernel, far = _units_kernel(what.formula, what.activation), _far_of_units(y, axes)
    given = x, other, bias, y, factors, tuple(axes), what.constants, far
    _share_units(kernel, given, y, axes)


def _share_units(kernel: Any, given: tuple[Any, ...], y: NDArray[Any], axes: Units) -> None:
    """Call a kernel of units, with helpers if that is worth it; pieces are cut between units, or rows.

    Units of two elements are cut where vectors are, since these may be written past the caches.
    """
    row, grain = _row_of_units(axes), LANES if _are_pairs(axes) else 1
    _share(kernel, given, y.size // row, y, _FEW, grain)


def _far_of_units(y: NDArray[Any], axes: Units) -> int:
    """Return the `distance` of arrays of units.

    The last elements of a row that is no whole number of vectors are written into the caches. Where the same
    line is also written past them, processors take a third of a microsecond. Only long rows make up for it.
    """
    if y.nbytes < STREAM_FROM:  # the usual case first
        return distance(y.nbytes)
    row = _row_of_units(axes)
    if row % LANES and not _are_pairs(axes) and (row < _LONG or row * y.itemsize % 16):
        return distance(y.nbytes)
    return _far(y)


def _row_of_units(axes: Units) -> int:
    """Return how many neighbours are written together: those of a unit, or one of each of a row of units."""
    return axes.shared if axes.inner == 1 else axes.inner


def _are_pairs(axes: Units) -> bool:
    return axes.inner == 1 and axes.shared == 2


def noise(what: Density, x: NDArray, y: NDArray, rows: tuple[Any, ...], key: int, draw: int) -> None:
    """Write a formula of x and its noise into y; arrays are as in `Part`, and rows any that `Layout` has.

    If each draw has a number of its own, x holds these numbers, and y gets the factors or terms.
    """
    distribution, formula, numbers, _ = what
    by_draw = type(numbers[0]) is not float and what.by_draw
    if by_draw:
        numbers = ()
    if isinstance(rows, Scattered):
        kernel = _scattered_noise_kernel(distribution, formula, what.start if by_draw else None)
        given = x, y, rows.indices.view(np.uint64), numbers, key, draw
        _share(kernel, given, y.size, y, _DENSITY + _LISTED)
        return
    if by_draw:
        kernel = _factors_kernel(distribution, formula, what.start)
    else:
        kernel = _density_kernel(distribution, formula)
    if y.size < SMALL:
        kernel(x, y, tuple(rows), numbers, key, draw, 0)
        return
    grain, phase = TILE, 0
    if not isinstance(rows, Runs):
        length, stride, start = rows
        grain, phase = (length, 0) if stride else (TILE, start % TILE)
    _share(kernel, (x, y, tuple(rows), numbers, key, draw), y.size, y, _DENSITY, grain, phase)


def scattered_factors(factors: NDArray, place: Scattered, draw: Draw) -> None:
    """Write the factor of each listed draw: the scale, or 0 if it is dropped."""
    given = factors, place.indices.view(np.uint64), *draw
    _share(_scattered, given, factors.size, factors, _LISTED)


def scattered_factors_by_rates(
    factors: NDArray, place: Scattered, p: NDArray, scale: float, key: int, draw: int
) -> None:
    """Do as `scattered_factors`, with a rate for each draw, and the scale as in `by_rate`."""
    given = factors, place.indices.view(np.uint64), p, scale, key, draw
    _share(_scattered_by_rates, given, factors.size, factors, _LISTED)
