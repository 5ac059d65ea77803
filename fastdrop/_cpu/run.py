"""The functions of the CPU backend: each cuts a plan into flat parts, for `calls` to do by kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays.host import BUFFER, PLAIN, READY, as_lanes, column_sums, copy, lanes_dtype, pieces
from fastdrop._arrays.listed import Runs, Scattered
from fastdrop._arrays.numbers import FULL
from fastdrop._arrays.plan import (
    Density,
    Layout,
    Pass,
    Plan,
    Rows,
    last_runs,
    layout_of_parts,
    repetition,
)
from fastdrop._cpu import calls
from fastdrop._cpu.bernoulli import NO_CYCLE, Units
from fastdrop._cpu.blocks import without_blocks as without_blocks
from fastdrop._cpu.calls import Draw, Gate, Part, check_rates, drop
from fastdrop._cpu.calls import checked_by_rate as checked_by_rate
from fastdrop._cpu.calls import drop_row as drop_row
from fastdrop._cpu.calls import drop_rows as drop_rows
from fastdrop._cpu.calls import noise as noise
from fastdrop._cpu.calls import ready_to_share as ready_to_share
from fastdrop._lanes.disk import can_keep_code as can_keep_code
from fastdrop._lanes.disk import environment as environment
from fastdrop._stream.keys import signed

_UNITS = 1 << 16  # so many units' factors stay in the cache
_LOOPED = 1 << 12  # elements that take longer than one round of a loop in Python
_FEW_ROWS, _LONGEST_ROW = 16, 1 << 18  # of matrices whose columns are neighbours in memory
_SHORT = 8  # for shorter units a branch for each costs more than a factor for each element
_DROP = Pass()

Philox = tuple[int, int]  # a Philox key and a draw word


def fuse(what: Pass, plan: Plan, threshold: int, scale: float, key: Philox) -> None:
    """Do a pass with Bernoulli noise of one threshold and scale."""
    plan, layout = _in_lanes(plan), plan.layout
    if not plan.y.size:
        return
    if what.formula == "drop" and (threshold == 0 or threshold == FULL):
        _scaled(plan, 0.0 if threshold else scale)
    elif threshold == FULL:  # everything is dropped, whatever is drawn
        spread(what, plan, np.zeros((1,) * plan.y.ndim, lanes_dtype(plan.x)))
    elif not layout.shared and not layout.scattered:
        _elements(what, plan, (threshold, scale, *key))
    else:
        _units(what, plan, (threshold, scale, *key))


def _in_lanes(plan: Plan) -> Plan:
    """Return the plan with its arrays viewed as kernels take them; see `as_lanes`."""
    x, y, other = plan.x, plan.y, plan.other
    if x.dtype in PLAIN:
        return plan
    lanes = None if other is None else as_lanes(other)
    return plan._replace(x=as_lanes(x), y=as_lanes(y), other=lanes)


def _scaled(plan: Plan, scale: float) -> None:
    """Scale all elements, or with a scale of 0 drop all."""
    if scale == 1.0:
        np.copyto(plan.y, plan.x)
    elif scale == 0.0:
        plan.y.fill(0)
    else:
        _elements(_DROP, plan, (0, scale, 0, 0))


def _elements(what: Pass, plan: Plan, draw: Draw) -> None:
    """Do a pass where each element has a draw of its own."""
    if what.formula == "drop":
        only = plan.layout.only
        if isinstance(only, Rows) and not only.stride and drop_columns(plan.x, plan.y, only.start, draw):
            return
        for part, rows in _parts(plan):
            drop(part.x, part.y, rows, *draw)
    else:
        for part, rows in _parts(plan):
            calls.elements(what, *part, rows, draw)


def drop_strided(
    x: NDArray[Any], y: NDArray[Any], start: int, threshold: int, scale: float, key: int, draw: int
) -> None:
    """Do what `drop_row` does for arrays of any layout, through a buffer if they don't lie alike."""
    if drop_columns(x, y, start, (threshold, scale, key, draw)):
        return
    for part, target, first in pieces(x, y):
        v = copy(part, target)
        drop_row(v, v, signed(start + first), threshold, scale, key, draw)


def drop_columns(x: NDArray[Any], y: NDArray[Any], start: int, draw: Draw) -> bool:
    """Do dropout of matrices that lie in memory column by column, both alike; return whether they do."""
    if x.strides != y.strides or not (x.flags.aligned and y.flags.aligned and x.dtype.isnative):
        return False
    found = _columns(x.shape, x.strides, x.itemsize)
    if found is None:
        return False
    order, rows, columns = found
    flat, target = (a.transpose(order).reshape(-1) for a in (x, y))
    calls.drop_matrices(flat, target, rows, columns, start, draw)
    return True


@lru_cache(maxsize=1024)
def _columns(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int
) -> tuple[tuple[int, ...], int, int] | None:
    """Return the order of axes in memory, rows and columns of matrices that lie column by column.

    Their rows are some neighbouring axes, and their columns all axes after these. None if arrays lie
    otherwise, or have so few rows that most of a vector would be empty, or rows too long for a buffer.
    """
    axes = range(len(shape))
    for j in axes[1:]:
        for i in range(j):
            order = (*axes[:i], *axes[j:], *axes[i:j])
            rows, columns = math.prod(shape[i:j]), math.prod(shape[j:])
            if rows >= _FEW_ROWS and 1 < columns <= _LONGEST_ROW and _lie(shape, strides, order, itemsize):
                return order, rows, columns
    return None


def _lie(shape: tuple[int, ...], strides: tuple[int, ...], order: tuple[int, ...], itemsize: int) -> bool:
    """Return whether an array's elements are neighbours in memory in an order of its axes."""
    for axis in reversed(order):
        if shape[axis] != 1 and strides[axis] != itemsize:
            return False
        itemsize *= shape[axis]
    return True


def _parts(plan: Plan) -> Iterable[tuple[Part, Any]]:
    """Return parts of the arrays that kernels can work on, and the indices of their elements."""
    fit = _fit(plan)
    if fit and plan.layout.only is not None:
        return ((_flat(plan), plan.layout.only),)
    return _blocks(plan, fit)


def _fit(plan: Plan) -> bool:
    """Return whether kernels can work on the arrays where they lie in memory."""
    flags = plan.x.flags.num & plan.y.flags.num
    if plan.other is not None:
        flags &= plan.other.flags.num
    return bool(flags & READY == READY) and plan.x.dtype.isnative


def _flat(plan: Plan) -> Part:
    """Return the arrays of a plan flat; kernels can work on them where they lie."""
    x, y, other = plan.x, plan.y, plan.other
    if x.ndim != 1:
        x, y = x.ravel(), y.ravel()
    other = x if other is None else other.ravel()
    if plan.bias is None:
        return Part(x, other, x, NO_CYCLE, y)
    return Part(x, other, calls.repeated(plan.bias), plan.bias.size, y)


def _blocks(plan: Plan, fit: bool) -> Iterator[tuple[Part, Any]]:
    """Yield parts as `_parts`, where one `Rows` is not enough or arrays have to go through a buffer."""
    if isinstance(plan.layout.only, Scattered):
        indices = plan.layout.only.indices.reshape(plan.y.shape)
        for part, own, target, _ in pieces(plan.x, indices, plan.y):
            v = copy(part, target)
            yield Part(v, v, v, NO_CYCLE, v), Scattered(own)
        return
    for at, rows in plan.layout.blocks():
        if fit:
            other = None if plan.other is None else plan.other[at]
            yield _flat(plan._replace(x=plan.x[at], y=plan.y[at], other=other)), rows
        else:
            yield from _buffered(plan, at, rows)


def _buffered(plan: Plan, at: tuple[int, ...], rows: Rows) -> Iterator[tuple[Part, Rows]]:
    """Yield parts of arrays that kernels can't work on where they lie, through a buffer."""
    for index, first in _runs_of_indices(at, rows, plan.y):
        x, y = plan.x[index], plan.y[index]
        if plan.other is None and plan.bias is None:  # x is copied to y's buffer, and done in place there
            for part, target, position in pieces(x, y):
                v = copy(part, target)
                yield Part(v, v, v, NO_CYCLE, v), Rows(v.size, 0, signed(first + position))
            continue
        others = [] if plan.other is None else [plan.other[index]]
        biases = [] if plan.bias is None else [np.broadcast_to(plan.bias, plan.y.shape)[index]]
        for *cut, target, position in pieces(x, *others, *biases, y, fit=True):
            part = Part(cut[0], cut[len(others)], cut[-1], NO_CYCLE, target)
            yield part, Rows(target.size, 0, signed(first + position))


def _runs_of_indices(at: tuple[int, ...], rows: Rows, y: NDArray[Any]) -> list[tuple[Any, int]]:
    """Return the parts of a block whose indices follow each other, each with its first index."""
    block: Any = (*at, ...)
    if not rows.stride:
        return [(block, rows.start)]
    return [((*at, row, ...), rows.start + row * rows.stride) for row in range(len(y[block]))]


@lru_cache(maxsize=1024)
def _units_at_once(layout: Layout) -> Units | None:
    """Return the units of a layout if one call of a kernel can draw them and do the pass; else None."""
    lead, shared, inner = last_runs(layout.shape, layout.draws)
    few = lead == 0 and layout.count <= _UNITS and _worth_a_branch(shared, inner)
    return Units(shared, inner, layout.row.start) if few and layout.row is not None else None


def at_once(layout: Layout, biased: bool) -> Units | Rows | Runs | None:
    """Return what `one_call` needs to know of a layout, or None if it can't do a pass with such draws."""
    if not layout.shared:
        return None if isinstance(layout.only, Scattered) else layout.only
    return None if biased or layout.listed else _units_at_once(layout)


def one_call(
    what: Pass,
    how: tuple[Any, ...],
    x: NDArray[Any],
    other: NDArray[Any],
    bias: NDArray[Any] | None,
    y: NDArray[Any],
    draw: Draw,
) -> None:
    """Do a pass on flat arrays by one call of a kernel; `how` is what `at_once` returned, or plain `Rows`."""
    if isinstance(how, Units):
        factors = np.empty(x.size // how.shared, lanes_dtype(x))
        calls.drawn_units(what, x, other, y, factors, how, draw)
    elif what.formula == "drop":
        drop(x, y, how, *draw)
    elif bias is None:
        calls.elements(what, x, other, x, NO_CYCLE, y, how, draw)
    else:
        calls.elements(what, x, other, calls.repeated(bias), bias.size, y, how, draw)


def _units(what: Pass, plan: Plan, draw: Draw) -> None:
    """Do a pass where elements share their draws along axes."""
    layout = plan.layout
    units = at_once(layout, plan.bias is not None)
    if isinstance(units, Units) and _fit(plan):
        factors = np.empty(layout.count, lanes_dtype(plan.x))
        x, other, _, _, y = _flat(plan)
        calls.drawn_units(what, x, other, y, factors, units, draw)
        return

    def factor(into: Plan, _: Any) -> None:
        if isinstance(into.layout.only, Scattered):
            calls.scattered_factors(into.y.ravel(), into.layout.only, draw)
        else:
            into.y.fill(1)
            _elements(_DROP, into, draw)

    _by_factors(what, plan, factor)


def _worth_a_branch(shared: int, inner: int) -> bool:
    """Return whether units are so long that a branch for each costs less than a factor for each element."""
    return inner > 1 or not 2 < shared < _SHORT


def _by_factors(what: Pass, plan: Plan, draw: Callable[[Plan, Any], None]) -> None:
    """Do a pass with a factor for each draw; `draw` writes the factors of a part of the arrays at a time."""
    for rows, factors in _drawn(plan, draw):
        other = None if plan.other is None else plan.other[rows]
        spread(what, plan._replace(x=plan.x[rows], y=plan.y[rows], other=other), factors)


def _drawn(plan: Plan, draw: Callable[[Plan, Any], None]) -> Iterator[tuple[Any, NDArray[Any]]]:
    """Yield parts of the arrays along their first axis, with their factors.

    A part has as many factors as stay in the cache. If the first axis is shared, the whole array is one part.
    `draw` writes the factors: it gets a plan of its own for them, and which rows they are for.
    """
    layout, x = plan.layout, plan.x
    length, dtype = len(x) if x.ndim else 1, lanes_dtype(x)
    whole = 0 in layout.shared or not x.ndim
    step = max(1, length if whole else _UNITS * length // max(layout.count, 1))
    for i in range(0, length, step):
        rows: Any = slice(i, i + step) if x.ndim else ...
        own = layout.of_draws() if whole else layout.of_draws(i, min(step, length - i))
        factors = np.empty(own.draws, dtype)
        draw(Plan(plan.arrays, factors, factors, None, None, own, None), rows)
        yield rows, factors


def spread(what: Pass, plan: Plan, factors: NDArray[Any]) -> None:
    """Do a pass with factors that broadcast to x: a factor of 0 drops, and any other scales."""
    if plan.x.size == 0:
        return
    x, y = plan.x, plan.y
    lead, shared, inner = last_runs(x.shape, factors.shape)
    others = [] if plan.other is None else [plan.other]
    long = not lead or math.prod(x.shape[lead:]) >= _LOOPED
    if not (long and _fit(plan) and plan.bias is None and _worth_a_branch(shared, inner)):
        biases = [] if plan.bias is None else [np.broadcast_to(plan.bias, x.shape)]
        for *cut, f, target, _ in pieces(x, *others, *biases, factors, y, fit=True):
            part = Part(cut[0], cut[len(others)], cut[-1], NO_CYCLE, target)
            calls.units(what, part, f, Units(1, target.size, 0))
        return
    rows = np.broadcast_to(factors, x.shape[:lead] + factors.shape[lead:]) if lead else factors
    for index in np.ndindex(x.shape[:lead]) if lead else ((),):
        at = (*index, ...)  # without the ellipsis an array without axes would give a number
        flats = [a[at].ravel() for a in (x, *others)]
        part = Part(flats[0], flats[-1], flats[0], NO_CYCLE, y[at].ravel())
        calls.units(what, part, rows[at].ravel(), Units(shared, inner, 0))


def by_rates(what: Pass, plan: Plan, p: NDArray[Any], key: Philox) -> None:
    """Do a pass with a rate for each draw: of float32 or float64, in C order, of a shape that broadcasts."""
    plan, layout, scale = _in_lanes(plan), plan.layout, what.scale or 0.0
    check_rates(p.ravel())
    if not plan.y.size:
        return
    if what.formula == "drop" and not layout.shared and not layout.scattered:
        _drop_by_rates(plan, p, scale, key)
        return
    rates = np.broadcast_to(p, layout.draws)

    def factor(into: Plan, rows: Any) -> None:
        if isinstance(into.layout.only, Scattered):
            own = rates[rows].ravel()
            calls.scattered_factors_by_rates(into.y.ravel(), into.layout.only, own, scale, *key)
        else:
            into.y.fill(1)
            _drop_by_array(into, rates[rows], scale, key)

    _by_factors(what, plan, factor)


def by_gate(what: Pass, plan: Plan, a: NDArray[Any], numbers: Gate, key: Philox) -> None:
    """Do a pass with a rate for each element, which `gate` would make of its pre-activation."""
    lanes, row = _in_lanes(plan), plan.layout.row
    if row is None or not a.size or not _fit(lanes) or np.may_share_memory(a, plan.y):
        by_rates(what, plan, gate(a, numbers), key)
        return
    flats = lanes.x.ravel(), lanes.y.ravel(), as_lanes(a).ravel()
    calls.by_gate(*flats, numbers, row.start, *key, what.scale or 0.0)


def gate(a: NDArray[Any], numbers: Gate) -> NDArray[Any]:
    """Return the rates of standout, in the precision that pre-activations are computed in.

    These are as kernels take them: finite, in C order, aligned, of native floats.
    """
    lanes = as_lanes(a)
    p = np.empty(a.shape, lanes_dtype(lanes))
    if a.size:
        calls.rates_by_gate(lanes.ravel(), numbers, p.ravel())
    return p


def are_finite(a: NDArray[Any]) -> bool:
    """Return whether all numbers of an array are finite, which is as `gate` takes it."""
    return not a.size or calls.are_finite(as_lanes(a).ravel())


def _drop_by_rates(plan: Plan, p: NDArray[Any], scale: float, key: Philox) -> None:
    """Do dropout where each element has a draw and a rate."""
    layout, row = plan.layout, plan.layout.row
    inner = repetition(p.shape, layout.draws)
    if row is not None and inner and _fit(plan):
        calls.by_rate(plan.x.ravel(), plan.y.ravel(), p.ravel(), inner, 0, row.start, *key, scale)
    else:
        _drop_by_array(plan, np.broadcast_to(p, layout.draws), scale, key)


def _drop_by_array(plan: Plan, rates: NDArray[Any], scale: float, key: Philox) -> None:
    """Do dropout with a rate for each element, in an array of x's shape."""
    for at, rows in plan.layout.blocks():
        for run, first in _runs_of_indices(at, rows, plan.y):
            _drop_run_by_array(plan.x[run], plan.y[run], rates[run], scale, first, key)


def _drop_run_by_array(
    x: NDArray[Any], y: NDArray[Any], rates: NDArray[Any], scale: float, start: int, key: Philox
) -> None:
    """Do as `_drop_by_array`, where indices follow each other; rates that repeat stay in the cache."""
    repeated = 0  # how many leading axes there are along which the rates repeat
    while repeated < x.ndim and (rates.strides[repeated] == 0 or x.shape[repeated] == 1):
        repeated += 1
    period = math.prod(x.shape[repeated:])
    if repeated and x.size and period <= BUFFER:
        cycle = np.ascontiguousarray(rates[(0,) * repeated]).ravel()
        for part, target, first in pieces(x, y):
            at = signed(start + first)
            calls.by_rate(copy(part, target), target, cycle, 1, first % period, at, *key, scale)
        return
    for part, own, target, first in pieces(x, rates, y):
        calls.by_rate(copy(part, target), target, own, 1, 0, signed(start + first), *key, scale)


def density(what: Density, plan: Plan, key: Philox) -> None:
    """Do what a density says: write x with its noise into y."""
    lanes = _in_lanes(plan)
    if not plan.y.size:
        return
    if plan.x.dtype.kind == "c":
        what, plan = _of_pairs(what), lanes
        if not what.multiplies:  # the parts are independent, and each has half the variance
            plan = lanes = lanes._replace(layout=layout_of_parts(lanes.layout))
    if not lanes.layout.shared and not what.by_draw:
        for part, rows in _parts(lanes):
            calls.noise(what, part.x, part.y, rows, *key)
    elif what.multiplies:
        _by_factors(_DROP, lanes, _drawer(what, lanes.layout, key))
    else:
        _by_terms(plan, lanes, _drawer(what, lanes.layout, key))


def _of_pairs(what: Density) -> Density:
    """Return the density for the parts of complex numbers, which are another axis of the arrays."""
    first, *others = what.numbers
    if what.by_draw:
        first = first[..., None]
    return what._replace(numbers=(first if what.multiplies else first / math.sqrt(2), *others))


def _drawer(what: Density, layout: Layout, key: Philox) -> Callable[[Plan, Any], None]:
    """Return a function for `_drawn` that writes the noise of a density: factors of x, or terms."""
    numbers = np.broadcast_to(what.numbers[0], layout.draws) if what.by_draw else None

    def draw(into: Plan, where: Any) -> None:
        if numbers is None:
            into.y.fill(what.start)
        else:
            into.y[...] = numbers[where]
        for part, rows in _parts(into):
            calls.noise(what, part.x, part.y, rows, *key)

    return draw


def _by_terms(plan: Plan, lanes: Plan, draw: Callable[[Plan, Any], None]) -> None:
    """Add a term for each draw to x, in the type that x is computed in, and round once."""
    with np.errstate(all="ignore"):  # as kernels ignore it
        for rows, terms in _drawn(lanes, draw):
            np.add(plan.x[rows], terms, out=plan.y[rows], dtype=terms.dtype, casting="unsafe")


def sum_rows(plan: Plan, like: Any) -> NDArray[Any]:
    """Return the sums of y over all axes but the last; see `column_sums`."""
    return column_sums(plan.y).astype(np.asarray(like).dtype)


def mask(plan: Plan, keep: NDArray[Any], packed: bool, scale: float) -> None:
    """Scale the elements that a mask keeps, and drop the others.

    The mask has bytes and broadcasts to x, or it is packed.
    """
    shape, plan = plan.x.shape, _in_lanes(plan)
    if not plan.x.size:
        return
    if np.may_share_memory(keep, plan.y):  # or writing would change what is still to be read
        keep = keep.copy()
    own = packed or (keep.shape == plan.x.shape and keep.flags.c_contiguous)  # a number for each element
    if own and plan.x.ndim == len(shape) and _fit(plan):
        calls.masked(plan.x.ravel(), keep.ravel(), packed, plan.y.ravel(), scale)
        return
    if packed:
        keep = np.unpackbits(keep, count=math.prod(shape)).reshape(shape)
    keep = np.broadcast_to(keep, shape).reshape(shape + (1,) * (plan.x.ndim - len(shape)))
    for part, kept, target, _ in pieces(plan.x, keep, plan.y, fit=True):
        calls.masked(part, np.ascontiguousarray(kept), False, target, scale)


def keep_bits(size: int, start: int, draw: Draw) -> NDArray[np.uint8]:
    """Return which of so many elements are kept, packed; `start` is the first's index, a multiple of 8."""
    bits = np.empty(-(-size // 8), np.uint8)
    if size:
        calls.kept_bits(bits, size, start, draw)
    return bits


def multiply(plan: Plan, factors: NDArray[Any]) -> None:
    """Multiply x by factors for its leading axes; elements with a factor of 0 are dropped."""
    plan = _in_lanes(plan)
    spread(_DROP, plan, factors.reshape(factors.shape + (1,) * (plan.x.ndim - factors.ndim)))
