"""The functions of the CUDA backend: each cuts a plan into launches, which `launch` starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays.device import UNKNOWN, DeviceArray, DeviceMask, Elements, broadcast, empty_like, given
from fastdrop._arrays.listed import SHORT
from fastdrop._arrays.numbers import check_range
from fastdrop._arrays.plan import Density, Layout, Pass, Plan, Rows, layout_of, layout_of_parts, repetition
from fastdrop._cuda import driver, launch
from fastdrop._cuda.launch import InMemory, Numbers, Part, Place, Starts, Terms
from fastdrop._cuda.launch import plain as plain
from fastdrop._cuda.launch import plain_units as plain_units

_MOST = 1 << 31  # so many elements and more are done by several launches of `spread`
_PARTIAL = 1 << 17  # sums of columns are made in parts, so that about so many threads have work
_ROWS = 32  # of a part at least


def fuse(what: Pass, plan: Plan, threshold: int, scale: float, key: tuple[int, ...]) -> None:
    """Do a pass with Bernoulli noise of one threshold and scale."""
    if plan.x.size:
        _bernoulli(what, plan, (threshold, scale), key, _place(plan), [])


def by_rates(what: Pass, plan: Plan, p: NDArray[Any] | DeviceArray, key: tuple[int, ...]) -> None:
    """Do a pass with a rate for each draw, from an array on the host, which is checked, or on the GPU."""
    if isinstance(p, np.ndarray):
        check_range(p)
    if not plan.x.size:
        return
    place, kept, like = _place(plan, p), list[Any](), plan.y.lanes
    if isinstance(p, DeviceArray):
        kept.append(p)
        there, inner = _repeating_there(p, plan.layout.draws, len(plan.x.shape), kept)
        rates = there.lanes
    else:
        flat, inner = _repeating(p, plan.layout.draws)
        kept.append(driver.upload(flat, *place))
        rates = Elements(kept[-1].pointer, flat.size, flat.dtype.str)
    scales, thresholds = _scratch(rates.size, like, place), driver.Memory(8 * rates.size, *place)
    kept += scales, thresholds
    made = Elements(scales.pointer, rates.size, _typestr(like))
    launch.given_rates(rates, what.scale or 0.0, thresholds.pointer, made, place)
    own = Numbers(thresholds.pointer, made.pointer, inner, rates.size)
    _bernoulli(what, plan, own, key, place, kept)


def _bernoulli(
    what: Pass,
    plan: Plan,
    rate: tuple[int, float] | Numbers,
    key: tuple[int, ...],
    place: Place,
    kept: list[Any],
) -> None:
    """Do a pass; `kept` holds memory and arrays on the GPU until all is launched."""
    whole = _whole(plan)

    def direct(at: int, size: int, rows: Rows | Starts) -> None:
        part, own = _part(whole, at, size), _from(rate, at)
        launch.drops(what.formula, what.activation, what.constants, part, rows, own, key, place)

    def make(factors: Elements, at: int, rows: Rows | Starts) -> None:
        own = _from(rate, at)
        if isinstance(rows, Starts) and rows.length < SHORT:
            launch.listed_draws(("factor",), own, (), factors, factors, rows, key, place)
        else:
            part = Part(factors, factors, factors, None, 0)
            launch.drops("factor", 0, (), part, rows, own, key, place)

    if what.formula in ("keep", "keep_bits"):
        packed = what.formula == "keep_bits"
        if not isinstance(rate, Numbers) and _at_once(plan.layout, packed):
            for at, size, rows in _rows(plan.layout, None):
                launch.keep(packed, whole.y.pointer + at, size, rows, rate[0], key, place)
        else:
            _keep(plan, packed, whole, place, kept, make)
        return
    _do(plan.layout, whole, place, kept, direct, make, (what.formula, what.activation, what.constants))
    plan.y.written = _hold((plan.x, plan.other, plan.bias, plan.y, *kept), place)


def _at_once(layout: Layout, packed: bool) -> bool:
    """Return whether a mask can be written as it is drawn: each element has a draw of its own."""
    if layout.shared or layout.listed:
        return False
    rows = layout.only
    return not packed or (isinstance(rows, Rows) and rows.length == layout.count and rows.start % 8 == 0)


def _keep(
    plan: Plan,
    packed: bool,
    whole: Part,
    place: Place,
    kept: list[Any],
    make: Callable[[Elements, int, Rows | Starts], None],
) -> None:
    """Write the mask itself, from factors of its draws, which `make` makes; pack its bytes last."""
    layout, mask = plan.layout, whole.y
    if packed:
        size = math.prod(layout.shape)
        kept.append(driver.Memory(size, *place))
        mask = Elements(kept[-1].pointer, size, mask.typestr)
    memory, factors = _factors(layout, mask, place, _listed(layout, place, kept), make)
    kept.append(memory)
    for at, first, axes in _spreads(layout.shape, layout.shared):
        launch.mask_bytes(factors.part(first, 0), mask.part(at, math.prod(axes)), axes, place)
    if packed:
        launch.mask_bits(mask, whole.y.pointer, place)


def density(what: Density, plan: Plan, key: tuple[int, ...]) -> None:
    """Do what a density says: write x with its noise into y."""
    if not plan.x.size:
        return
    layout, number = plan.layout, what.numbers[0]
    if plan.x.dtype.kind == "c" and not what.multiplies:
        layout = layout_of_parts(layout)  # the parts are independent, and each has half the variance
        what = what._replace(numbers=(number / math.sqrt(2), *what.numbers[1:]))
    place, whole = _place(plan, number), _whole(plan)
    kept: list[Any] = []
    noise = _noise(what, plan.x, layout, key, place, kept)

    def direct(at: int, size: int, rows: Rows | Starts) -> None:
        part = _part(whole, at, size)
        noise(what.formula, part.x, part.y, at, rows)

    def make(factors: Elements, at: int, rows: Rows | Starts) -> None:
        noise(f"{what.formula}_factor", factors, factors, at, rows)

    _do(layout, whole, place, kept, direct, make, ("times" if what.multiplies else "plus", 0, ()), shortest=1)
    plan.y.written = _hold((plan.x, plan.y, *kept), place)


def _noise(
    what: Density, like: DeviceArray, layout: Layout, key: tuple[int, ...], place: Place, kept: list[Any]
) -> Callable[[str, Elements, Elements, int, Rows | Starts], None]:
    """Return a function that does a formula with the numbers of a density; `kept` holds their memory."""
    numbers = _numbers(what, like, layout, place, kept)

    def noise(formula: str, x: Elements, y: Elements, at: int, rows: Rows | Starts) -> None:
        names, own = (what.draw, formula), _from(numbers, at)
        if isinstance(rows, Starts) and rows.length < SHORT:
            rate = own if isinstance(own, Numbers) else (0, 0.0)
            launch.listed_draws(names, rate, () if rate is own else own, x, y, rows, key, place)
        else:
            launch.noise(names, own, x, y, rows, key, place)

    return noise


def _numbers(
    what: Density, x: DeviceArray, layout: Layout, place: Place, kept: list[Any]
) -> Sequence[float] | Numbers | InMemory:
    """Return a density's numbers as launches take them."""
    number, like = what.numbers[0], x.lanes
    if isinstance(number, DeviceArray):
        kept.append(number)
        if len(what.numbers) > 1:  # a logit and a temperature, for which the formula takes five numbers
            made = _made("concrete", number, 5, what.numbers[1], like, place, kept)
            return InMemory(made.pointer, made.size)
        if number.size == 1:
            return InMemory(_reals(number, like, place, kept).pointer, 1)
        number, inner = _repeating_there(number, layout.draws, x.ndim, kept)
        return Numbers(0, _reals(number, like, place, kept).pointer, inner, number.size)
    if not what.by_draw:
        return what.numbers
    if len(layout.draws) > x.ndim:  # the two parts of a complex number have one
        number = number[..., None]
    flat, inner = _repeating(number, layout.draws)
    kept.append(driver.upload(flat.astype(like.real), *place))
    return Numbers(0, kept[-1].pointer, inner, flat.size)


def _reals(numbers: DeviceArray, like: Elements, place: Place, kept: list[Any]) -> Elements:
    """Return numbers in the type that elements are computed in."""
    given = numbers.lanes
    if given.typestr == _typestr(like):
        return given
    return _made("same", numbers, given.size, 0.0, like, place, kept)


def _made(
    formula: str,
    number: DeviceArray,
    count: int,
    temperature: float,
    like: Elements,
    place: Place,
    kept: list[Any],
) -> Elements:
    """Return the numbers of a formula that learned numbers on the GPU stand for, in memory of ours."""
    kept.append(_scratch(count, like, place))
    made = Elements(kept[-1].pointer, count, _typestr(like))
    launch.learned_numbers(formula, number.lanes, temperature, made, place)
    return made


def total(what: Density, plan: Plan, key: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Return sums of x times the other array times a density's factors, or terms, for a learned number.

    The sums are an array of a shape that broadcasts to the draws, of the library of x, in float32 or float64.
    They are added up in float64, in an order that depends on the shapes alone.
    """
    layout, place = plan.layout, _place(plan, *what.numbers)
    kept: list[Any] = []
    result = empty_like(plan.x, shape)
    noise = _noise(what, plan.x, layout, key, place, kept)

    def make(factors: Elements, at: int, rows: Rows | Starts) -> None:
        noise(f"{what.formula}_factor", factors, factors, at, rows)

    factors = None
    if layout.count and result.size:
        memory, factors = _factors(layout, plan.x.lanes, place, _listed(layout, place, kept), make)
        kept.append(memory)
    terms = Terms(plan.x.lanes, plan.other.lanes)
    steps = _steps(layout, (1,) * (plan.x.ndim - len(shape)) + shape)
    for number_of_step, (outer, summed, inner, multiplied) in enumerate(steps, 1):
        last = number_of_step == len(steps)
        goal = result.lanes if last else _doubles(outer * inner, place, kept)
        _sum(terms._replace(factors=factors if multiplied else None), goal, summed, inner, place)
        terms = Terms(goal)
    result.written = _hold((plan.x, plan.other, result, *kept), place)
    return given(result)


def _steps(layout: Layout, lengths: tuple[int, ...]) -> list[tuple[int, int, int, bool]]:
    """Return the sums that lead from an array's elements to one for each of the draws' own numbers.

    Each is the lengths (outer, summed, inner) and whether the draws' factors multiply before it. First come
    the sums over elements that share draws, since the factors are fewer then.
    """
    axes = range(len(layout.shape))
    found: list[tuple[int, int, int, bool]] = []
    if layout.count != math.prod(layout.shape):
        shared = [axis in layout.shared for axis in axes]
        found = [(*step, False) for step in _reductions(layout.shape, shared)]
    others = [axis >= len(lengths) or lengths[axis] == 1 for axis in axes]
    rest = _reductions(layout.draws, others)
    return [*found, *((*step, not place) for place, step in enumerate(rest))]


def _reductions(shape: tuple[int, ...], summed: Sequence[bool]) -> list[tuple[int, int, int]]:
    """Return the lengths (outer, summed, inner) of the arrays of which one axis after the other is summed.

    Neighbouring axes that are summed are one axis; there is one of length 1 if there is none.
    """
    runs: list[tuple[bool, int]] = []
    for is_summed, length in zip(summed, shape, strict=True):
        if runs and runs[-1][0] == is_summed:
            runs[-1] = is_summed, runs[-1][1] * length
        elif length != 1:
            runs.append((is_summed, length))
    found: list[tuple[int, int, int]] = []
    while any(is_summed for is_summed, _ in runs) or not found:
        last = max((place for place, run in enumerate(runs) if run[0]), default=len(runs))
        outer, inner = (math.prod(n for _, n in part) for part in (runs[:last], runs[last + 1 :]))
        found.append((outer, runs[last][1] if last < len(runs) else 1, inner))
        del runs[last : last + 1]
    return found


def _doubles(count: int, place: Place, kept: list[Any]) -> Elements:
    """Return memory for so many numbers of float64."""
    kept.append(driver.Memory(max(count, 1) * 8, *place))
    return Elements(kept[-1].pointer, count, "<f8")


def _sum(terms: Terms, total: Elements, summed: int, inner: int, place: Place) -> None:
    """Sum an array along the middle of its axes (outer, summed, inner), in parts until they are few."""
    kept: list[Any] = []
    while total.size:
        parts = 1
        if summed > 2 * _ROWS:
            parts = max(min(-(-summed // _ROWS), _PARTIAL // total.size), 1)
        goal = total if parts == 1 else _doubles(total.size * parts, place, kept)
        launch.totals(terms, goal, summed, inner, parts, place)
        if parts == 1:
            return
        terms, summed = Terms(goal), parts


def combined(a: Any, b: Any, how: str) -> Any:
    """Return the sum or the product of arrays of one shape, of which the second may be on the host.

    `how` is "plus" or "times". The result is of the first one's library and dtype, float32 or float64.
    """
    x, other = DeviceArray(a), None if isinstance(b, np.ndarray) else DeviceArray(b)
    y, place, kept = empty_like(x, x.shape), _place_of(x, other), list[Any]()
    if other is None:
        kept.append(driver.upload(b.astype(x.lanes.real), *place))
        factors = kept[0].pointer
    else:
        factors = _reals(other, x.lanes, place, kept).pointer
    if x.size:
        launch.spread(how, 0, (), Part(x.lanes, x.lanes, y.lanes, None, 0), factors, (1, 1, 1, x.size), place)
    y.written = _hold((x, other, y), place)
    return given(y)


def mask(plan: Plan, keep: DeviceMask, packed: bool, scale: float) -> None:
    """Scale what a user's mask keeps, and drop the rest: the mask's factors come first, then a pass."""
    if not plan.x.size:
        return
    place, whole, shape = _place(plan, keep), _whole(plan), plan.x.shape
    lengths = shape if packed else (1,) * (len(shape) - len(keep.shape)) + keep.shape
    shared = tuple(axis for axis, length in enumerate(lengths) if length == 1)
    layout = layout_of(shape, plan.x.dtype.kind == "c", shared, None)
    count = math.prod(lengths)
    memory = _scratch(count, whole.y, place)
    factors = Elements(memory.pointer, count, _typestr(whole.y))
    launch.mask_factors(keep.lanes, packed, scale, factors, place)
    _apply(("drop", 0, ()), whole, factors, layout, place)
    plan.y.written = _hold((plan.x, plan.y, keep), place)


def sum_rows(plan: Plan, like: Any) -> Any:
    """Return the sums of y over all axes but the last, as an array of the library of `like`."""
    total = empty_like(DeviceArray(like))
    if not total.size:
        return given(total)
    y, place = plan.y.lanes, _place(plan)
    rows = y.size // total.size
    parts = max(min(rows // _ROWS, _PARTIAL // total.size), 1)
    if parts == 1:
        launch.sums(y, total.lanes, rows, 1, place)
    else:
        memory = _scratch(parts * total.size, y, place)
        partial = Elements(memory.pointer, parts * total.size, _typestr(y))
        launch.sums(y, partial, rows, parts, place)
        launch.sums(partial, total.lanes, parts, 1, place)
    total.written = _hold((plan.y, total), place)
    return given(total)


def _hold(used: tuple[Any, ...], place: Place) -> Any:
    """Hold the arrays that are lent until all that was started is done; return when, or None without any."""
    found = [array.lent for array in used if isinstance(array, DeviceArray)]
    if all(lent is None for lent in found):
        return None
    done = driver.Event(*place)
    driver.hold(done, found)
    return done


def _place(plan: Plan, *others: Any) -> Place:
    """Return where a plan's launches happen; all its arrays must be there, and the others."""
    return _place_of(plan.x, plan.y, plan.other, plan.bias, *others)


def _place_of(x: DeviceArray, *others: Any) -> Place:
    """Return where x is, or raise an error if one of the others that has elements is on another GPU."""
    place = Place(_gpu_of(x), x.cuda_stream)
    for array in others:
        if isinstance(array, DeviceArray) and array.size and (number := _gpu_of(array)) != place.device:
            raise ValueError(
                f"all arrays must be on x's GPU {place.device}, got one on GPU {number}; copy it there"
            )
    return place


def _gpu_of(array: DeviceArray) -> int:
    """Return the number of an array's GPU, which only the driver knows of some libraries' arrays."""
    return driver.device_of(array.pointer) if array.device == UNKNOWN else array.device


def _whole(plan: Plan) -> Part:
    """Return all elements of a plan's arrays."""
    x = plan.x.lanes
    other, bias = plan.other or plan.x, plan.bias
    return Part(x, other.lanes, plan.y.lanes, None if bias is None else bias.lanes, 0)


def _part(whole: Part, at: int, size: int) -> Part:
    """Return the elements from the place `at` on."""
    if not at and size == whole.y.size:  # the usual case first
        return whole
    x, other, y = (each.part(at, size) for each in whole[:3])
    return Part(x, other, y, whole.bias, at)


def _from(own: Any, at: int) -> Any:
    """Return draws' own numbers from the draw number `at` on; other numbers are for all."""
    return own._replace(phase=at) if at and isinstance(own, Numbers) else own


def _repeating(numbers: NDArray[Any], draws: tuple[int, ...]) -> tuple[NDArray[Any], int]:
    """Return numbers that broadcast to draws as flat ones, of which draw i has number i // inner % size."""
    inner = repetition(numbers.shape, draws)
    if inner:
        return numbers.ravel(), inner
    return np.broadcast_to(numbers, draws).ravel(), 1


def _repeating_there(
    numbers: DeviceArray, draws: tuple[int, ...], ndim: int, kept: list[Any]
) -> tuple[DeviceArray, int]:
    """Do as `_repeating` for numbers on the GPU; the draws have one axis more than x if it is complex."""
    draws, parts = draws[:ndim], math.prod(draws[ndim:])
    inner = math.prod(draws) if numbers.size == 1 else repetition(numbers.shape, draws)
    if not inner:
        numbers, inner = broadcast(numbers, draws), 1
        kept.append(numbers)
    return numbers, inner * parts


def _typestr(like: Elements) -> str:
    """Return the type of the numbers that elements are computed in."""
    return np.dtype(like.real).str


def _scratch(count: int, like: Elements, place: Place) -> Any:
    """Return memory for so many numbers of the type that elements are computed in."""
    return driver.Memory(count * np.dtype(like.real).itemsize, *place)


def _do(
    layout: Layout,
    whole: Part,
    place: Place,
    kept: list[Any],
    direct: Callable[[int, int, Rows | Starts], None],
    make: Callable[[Elements, int, Rows | Starts], None],
    formula: tuple[str, int, Sequence[float]],
    shortest: int = SHORT,
) -> None:
    """Do a pass over all elements, by launches of `direct` where each element has a draw of its own.

    Else `make` makes the draws' factors first, in an array that the formula then takes. That is also where
    rows of listed draws are shorter than `shortest`.
    """
    listed = _listed(layout, place, kept)
    if not layout.shared and (listed is None or listed.length >= shortest):
        for at, size, rows in _rows(layout, listed):
            direct(at, size, rows)
        return
    memory, factors = _factors(layout, whole.y, place, listed, make)
    kept.append(memory)
    _apply(formula, whole, factors, layout, place)


def _listed(layout: Layout, place: Place, kept: list[Any]) -> Starts | None:
    """Return where the draws of rows start, on the GPU, if a caller listed them."""
    if not layout.listed:
        return None
    starts, length = layout.place.even()  # type: ignore[union-attr]
    kept.append(driver.upload(starts, *place))
    return Starts(kept[-1].pointer, length)


def _factors(
    layout: Layout,
    like: Elements,
    place: Place,
    listed: Starts | None,
    make: Callable[[Elements, int, Rows | Starts], None],
) -> tuple[Any, Elements]:
    """Return memory with a factor for each draw, for elements that are computed as others."""
    draws = layout.of_draws() if layout.shared else layout
    memory = _scratch(draws.count, like, place)
    factors = Elements(memory.pointer, draws.count, _typestr(like))
    for at, size, rows in _rows(draws, listed):
        make(factors.part(at, size), at, rows)
    return memory, factors


def _apply(
    formula: tuple[str, int, Sequence[float]], whole: Part, factors: Elements, layout: Layout, place: Place
) -> None:
    """Do a formula with a factor for each draw of a layout."""
    for at, first, axes in _spreads(layout.shape, layout.shared):
        part = _part(whole, at, math.prod(axes))
        launch.spread(*formula, part, factors.part(first, 0).pointer, axes, place)


def _rows(layout: Layout, listed: Starts | None) -> Iterator[tuple[int, int, Rows | Starts]]:
    """Yield the parts of an array that one launch does: where each begins, its size, and its draws."""
    if listed is not None:
        yield 0, layout.count, listed
    elif isinstance(layout.only, Rows):  # the usual case
        yield 0, layout.count, layout.only
    else:
        for where, rows in layout.blocks():
            size = math.prod(layout.draws[len(where) :])
            yield _flat(where, layout.draws) * size, size, rows


def _flat(where: Sequence[int], shape: tuple[int, ...]) -> int:
    """Return the number of a part by its indices along the first axes."""
    number = 0
    for index, length in zip(where, shape, strict=False):
        number = number * length + index
    return number


@lru_cache(maxsize=1024)
def _spreads(
    shape: tuple[int, ...], shared: frozenset[int]
) -> list[tuple[int, int, tuple[int, int, int, int]]]:
    """Return the launches of `spread`: where elements and their draws begin, and the lengths of the axes."""
    runs: list[list[int]] = []  # of neighbouring axes: 1 if they are shared else 0, and their length
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        if runs and runs[-1][0] == (axis in shared):
            runs[-1][1] *= length
        else:
            runs.append([int(axis in shared), length])
    lengths = [1, 1, 1, 1]  # of the axes first, outer, shared, inner
    for place, is_shared in ((3, 0), (2, 1), (1, 0), (0, 1)):
        if runs and runs[-1][0] == is_shared:
            lengths[place] = runs.pop()[1]
    found = []
    size, draws = math.prod(lengths), lengths[1] * lengths[3]
    for where in np.ndindex(*(length for _, length in runs)):
        at = first = 0
        for index, (is_shared, length) in zip(where, runs, strict=True):
            at, first = at * length + index, first if is_shared else first * length + index
        for more, further, axes in _small_enough(*lengths):
            found.append((at * size + more, first * draws + further, axes))
    return found


@lru_cache(maxsize=1024)
def units(shape: tuple[int, ...], shared: tuple[int, ...]) -> tuple[int, tuple[int, int, int, int]] | None:
    """Return what `plain_units` takes of a shape: the draws and the axes; None if one launch isn't enough."""
    layout = layout_of(shape, False, shared, None)
    found = _spreads(layout.shape, layout.shared)
    return (layout.of_draws().count, found[0][2]) if len(found) == 1 else None


def _small_enough(
    first: int, outer: int, shared: int, inner: int
) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
    """Yield parts of an array that are small enough for one launch, as `_spreads` has them."""
    if first * outer * shared * inner < _MOST:
        yield 0, 0, (first, outer, shared, inner)
        return
    if first == shared == 1:  # then the draws have one axis, which can be cut anywhere
        outer, inner = outer * inner, 1
    lengths = [first, outer, shared, inner]
    axis = next(axis for axis, length in enumerate(lengths) if length > 1)
    step = math.prod(lengths[axis + 1 :])
    many = max((_MOST - 1) // step, 1)
    for begin in range(0, lengths[axis], many):
        part = min(many, lengths[axis] - begin)
        draws = begin * (inner if axis == 1 else 1) if axis in (1, 3) else 0
        a, b, c, d = (part if place == axis else length for place, length in enumerate(lengths))
        for more, further, axes in _small_enough(a, b, c, d):
            yield begin * step + more, draws + further, axes
