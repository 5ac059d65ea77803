"""The functions of the CUDA backend: each cuts a plan into launches, which `launch` starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays.device import DeviceArray, empty_like
from fastdrop._arrays.numbers import thresholds_and_scales
from fastdrop._arrays.plan import Density, Layout, Pass, Place, Plan, Rows, layout_of_parts
from fastdrop._cuda import launch
from fastdrop._cuda.launch import Part, Units
from fastdrop._stream.keys import signed


class _Run(NamedTuple):
    """Neighbouring axes along which both the units' indices and the places of their rates grow evenly."""

    length: int
    stride: int
    rate_stride: int


class _Launch(NamedTuple):
    """One launch: where its elements begin, how many there are, their draws, and where their rates begin."""

    at: int
    size: int
    where: Any  # `Units`, or `Rows` if each element has a draw of its own
    rate: int


_ONE = _Run(1, 0, 0)


def fuse(what: Pass, plan: Plan, threshold: int, scale: float, key: tuple[int, int]) -> None:
    """Do a pass with Bernoulli noise of one threshold and scale."""
    if not plan.x.size:
        return
    by_unit = bool(plan.layout.shared) or plan.layout.listed
    for each in _launches(plan, plan.layout, None, by_unit):
        part = _part(plan, each)
        if by_unit:
            launch.units(what, part, each.where, threshold, scale, key)
        else:
            launch.elements(what, part, each.where, (threshold, scale, *key))


def by_rates(what: Pass, plan: Plan, p: NDArray[Any], key: tuple[int, int]) -> None:
    """Do a pass with a rate for each draw, from an array on the host."""
    arrays = thresholds_and_scales(p.ravel(), np.dtype(plan.x.lanes.real), what.scale)
    if not plan.x.size:
        return
    thresholds, scales = (launch.upload(a, plan.x.cuda_stream) for a in arrays)
    for each in _launches(plan, plan.layout, p.shape, True):
        part = _part(plan, each)
        launch.units(what, part, each.where, thresholds[each.rate :], scales[each.rate :], key)


def density(what: Density, plan: Plan, key: tuple[int, int]) -> None:
    """Do what a density says: write x with its noise into y."""
    if not plan.x.size:
        return
    layout, (first, *others) = plan.layout, what.numbers
    if plan.x.dtype.kind == "c":
        first = first[..., None] if what.by_draw else first
        if not what.multiplies:  # the parts are independent, and each has half the variance
            layout, first = layout_of_parts(layout), first / math.sqrt(2)
    by_unit = what.by_draw
    by_draw = by_unit or bool(layout.shared)
    if not by_draw and not isinstance(layout.place, Place):
        starts, length = layout.place.even()
        listed = launch.upload(starts, plan.x.cuda_stream)
        whole = _part(plan, _Launch(0, plan.x.lanes.size, None, 0))
        launch.listed_noise(what._replace(numbers=(first, *others)), whole, listed, length, key)
        return
    rates = launch.upload(first.astype(plan.x.lanes.real), plan.x.cuda_stream) if by_unit else None
    plain = what._replace(numbers=(1.0,) if by_unit else (first, *others))
    for each in _launches(plan, layout, first.shape if by_unit else None, by_draw):
        part = _part(plan, each)
        if by_draw:
            launch.noise_units(plain, part, each.where, None if rates is None else rates[each.rate :], key)
        else:
            launch.noise(plain, part, each.where, key)


def sum_rows(plan: Plan, like: Any) -> Any:
    """Return the sums of y over all axes but the last, as an array of the library of `like`."""
    total = empty_like(DeviceArray(like))
    if total.size:
        launch.sum_rows(plan.y.lanes, total.lanes, plan.y.cuda_stream)
    return total.owner


def _part(plan: Plan, each: _Launch) -> Part:
    """Return the elements of one launch."""
    x, y = (a.lanes.part(each.at, each.size) for a in (plan.x, plan.y))
    other = x if plan.other is None else plan.other.lanes.part(each.at, each.size)
    bias = None if plan.bias is None else plan.bias.lanes
    return Part(x, other, bias, each.at, y, plan.x.cuda_stream)


def _runs(
    shape: tuple[int, ...], place: Place, shared: frozenset[int], rates: tuple[int, ...] | None
) -> list[_Run]:
    """Return the axes of x as runs, in order; `rates` is the shape of an array of rates, if there is one."""
    steps = np.broadcast_to(np.zeros(rates or (), np.int8), shape).strides  # in places of rates
    strides = [0 if axis in shared else s for axis, s in enumerate(place.strides())]
    runs: list[_Run] = []
    for run in (_Run(*axis) for axis in zip(shape, strides, steps, strict=True)):
        if run.length == 1:
            continue
        if runs and runs[-1][1:] == (run.stride * run.length, run.rate_stride * run.length):
            run = _Run(runs.pop().length * run.length, *run[1:])
        runs.append(run)
    return runs


def _launches(plan: Plan, layout: Layout, rates: tuple[int, ...] | None, by_draw: bool) -> Iterator[_Launch]:
    """Yield the launches for a layout; if it is listed, units have numbers, by which they look up indices."""
    starts, length, place = None, 1, layout.place
    if not isinstance(place, Place):
        starts, length = place.even()
        starts, place = launch.upload(starts, plan.x.cuda_stream), Place.whole(layout.draws)
    outer, axes = _axes(layout.shape, place, layout.shared, rates, by_draw)
    size = math.prod(run.length for run in axes)
    for number, at in enumerate(np.ndindex(*(run.length for run in outer))):
        steps = list(zip(at, outer, strict=True))
        start = signed(place.first() + sum(i * run.stride for i, run in steps))
        rate = sum(i * run.rate_stride for i, run in steps)
        yield _Launch(number * size, size, _where(axes, start, by_draw, starts, length), rate)


@lru_cache(maxsize=1024)
def _axes(
    shape: tuple[int, ...],
    place: Place,
    shared_axes: frozenset[int],
    rates: tuple[int, ...] | None,
    by_draw: bool,
) -> tuple[list[_Run], list[_Run]]:
    """Return the axes that are looped over, and those of one launch: first, second, shared, inner."""
    outer = _runs(shape, place, shared_axes, rates)
    inner = _Run(1, 1, 0)
    if outer and (outer[-1].stride == 1 or (by_draw and outer[-1][1:] != (0, 0))):
        inner = outer.pop()
    shared = outer.pop() if by_draw and outer and outer[-1][1:] == (0, 0) else _ONE
    second = outer.pop() if outer else _ONE
    first = outer.pop() if by_draw and outer else _ONE
    return outer, [first, second, shared, inner]


def _where(axes: list[_Run], start: int, by_draw: bool, starts: Any, length: int) -> Units | Rows:
    """Return the indices of a launch's draws as `fastdrop._cuda.launch` takes them."""
    first, second, _, inner = axes
    if not by_draw:
        return Rows(inner.length, signed(second.stride), start)
    drawn = first, second, inner
    strides = tuple(signed(run.stride) for run in drawn)
    rates = tuple(run.rate_stride for run in drawn)
    lengths = tuple(run.length for run in axes)
    return Units(lengths, strides, rates, start, starts, length)  # type: ignore[arg-type]
