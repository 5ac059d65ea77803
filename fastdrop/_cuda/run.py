"""Blocks of arrays on a GPU handed to the CUDA backend: what `fastdrop._blocks` does for NumPy's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays.device import DeviceArray, empty_like
from fastdrop._arrays.host import Axes, Window
from fastdrop._arrays.numbers import check_broadcast, rates
from fastdrop._cpu.run import Pass, Place, placed
from fastdrop._stream.keys import Key, signed, stream


@cache
def gpu() -> ModuleType:
    """The CUDA backend, imported at first use."""
    from numba import config

    if find_spec("numba_cuda") is None and not config.ENABLE_CUDASIM:
        raise ImportError("arrays on a GPU need the extra cuda; use pip install 'fastdrop-numpy[cuda]'")
    from fastdrop._cuda import kernels

    return kernels


class _Run(NamedTuple):
    """Axes of the arrays that follow each other evenly, in units' indices and in places of rates."""

    length: int
    stride: int
    rate_stride: int


_ONE = _Run(1, 0, 0)


def fuse(
    what: Pass,
    x: DeviceArray,
    y: DeviceArray,
    p: Any,
    key: Key | SupportsIndex,
    shared_axes: Axes,
    window: Window | None,
) -> None:
    """As `fastdrop._blocks.fuse`."""
    place, shared = placed(x, shared_axes, window)
    thresholds, scales = _checked_rates(p, x, shared)
    scales = what.scaled(scales)
    if not x.size:
        return
    by_unit, pairs = isinstance(thresholds, np.ndarray), x.dtype.kind == "c"
    runs = _runs(x.shape, place, shared, thresholds if by_unit else None, pairs)
    bias = None if what.bias is None else what.bias.lanes  # type: ignore[attr-defined]
    others = [other.lanes for other in what.others]  # type: ignore[attr-defined]
    run = gpu().units if by_unit or shared or pairs else gpu().fused
    if by_unit:
        thresholds, scales = (gpu().upload(r, x.stream) for r in (thresholds, scales))
    for at, size, where, rate in _parts(runs, place, run is gpu().units):
        arrays = [a.part(at, size) for a in (x.lanes, *others, y.lanes)]
        t, s = (thresholds[rate:], scales[rate:]) if by_unit else (thresholds, scales)
        operands = arrays[0], arrays[-2], bias, at, arrays[-1]
        run(what.formula, what.activation, *operands, *where, t, s, what.constants, *stream(key), x.stream)


def noise(
    formula: str,
    x: DeviceArray,
    y: DeviceArray,
    numbers: tuple[Any, ...],
    key: Key | SupportsIndex,
    shared_axes: Axes,
    window: Window | None,
) -> None:
    """As `fastdrop._blocks.noise`."""
    place, shared = placed(x, shared_axes, window)
    first, shape, pairs = numbers[0], x.shape, x.dtype.kind == "c"
    by_unit = isinstance(first, np.ndarray)
    if by_unit:
        check_broadcast("std", first, _units(x.shape, shared))
    if not x.size:
        return
    if pairs and formula == "shift":  # the parts are independent, and have the variance together
        place, shape, pairs, first = place.deeper(2), (*shape, 2), False, first / math.sqrt(2)
        first = first[..., None] if by_unit else first
    runs = _runs(shape, place, shared, first if by_unit else None, pairs)
    by_draw = by_unit or bool(shared) or pairs
    stds = gpu().upload(first.astype(x.lanes.real), x.stream) if by_unit else None
    for at, size, where, rate in _parts(runs, place, by_draw):
        arrays = [a.part(at, size) for a in (x.lanes, y.lanes)]
        settings = *stream(key), x.stream
        if by_draw:
            given = None if stds is None else stds[rate:]
            some = (1.0,) if by_unit else (first, *numbers[1:])
            gpu().add_noise_units(formula, *arrays, *where, given, some, *settings)
        else:
            gpu().add_noise(formula, *arrays, *where, (first, *numbers[1:]), *settings)


def sum_rows(y: DeviceArray, like: DeviceArray) -> Any:
    """As `fastdrop._blocks.sum_rows`."""
    total = empty_like(like)
    if like.size:
        gpu().sum_rows(y.lanes, total.lanes, y.stream)
    return total.owner


def _units(shape: tuple[int, ...], shared: set[int]) -> tuple[int, ...]:
    return tuple(1 if axis in shared else n for axis, n in enumerate(shape))


def _checked_rates(p: Any, x: DeviceArray, shared: set[int]) -> tuple[Any, Any]:
    """Threshold and scale: two numbers, or for an array p two arrays of its shape."""
    if hasattr(p, "__cuda_array_interface__"):
        raise TypeError(
            f"an array p must be a NumPy array, which is checked without waiting for the GPU, got "
            f"{type(p).__name__}; copy it to the host once"
        )
    if isinstance(p, np.ndarray):
        check_broadcast("p", p, _units(x.shape, shared))
    return rates(p, np.shape(p), np.dtype(x.lanes.real))


def _runs(
    shape: tuple[int, ...], place: Place, shared: set[int], rates: NDArray[Any] | None, pairs: bool
) -> list[_Run]:
    """The runs of axes of x, in order; pairs are another axis, which shares its draws."""
    steps = np.broadcast_to(np.zeros(()) if rates is None else np.ascontiguousarray(rates), shape)
    strides = [0 if axis in shared else s for axis, s in enumerate(place.strides())]
    places = [s // steps.itemsize for s in steps.strides]
    axes = [_Run(*axis) for axis in zip(shape, strides, places, strict=True)]
    runs: list[_Run] = []
    for run in [*axes, _Run(2, 0, 0)] if pairs else axes:
        if run.length == 1:
            continue
        if runs and runs[-1][1:] == (run.stride * run.length, run.rate_stride * run.length):
            run = _Run(runs.pop().length * run.length, *run[1:])
        runs.append(run)
    return runs


def _parts(runs: list[_Run], place: Place, by_draw: bool) -> Iterator[tuple[int, int, tuple[Any, ...], int]]:
    """What one call of the backend does: the place in the arrays, size, layout, and place in the rates."""
    outer, axes = _layout(list(runs), by_draw)
    size = math.prod(run.length for run in axes)
    for number, at in enumerate(np.ndindex(*(run.length for run in outer))):
        steps = list(zip(at, outer, strict=True))
        start = signed(place.first() + sum(i * run.stride for i, run in steps))
        rate = sum(i * run.rate_stride for i, run in steps)
        yield number * size, size, _where(axes, start, by_draw), rate


def _layout(outer: list[_Run], by_draw: bool) -> tuple[list[_Run], list[_Run]]:
    """The axes (first, second, shared, inner) that one call does, and those before them, which are left."""
    inner = _Run(1, 1, 0)
    if outer and (outer[-1].stride == 1 or (by_draw and outer[-1][1:] != (0, 0))):
        inner = outer.pop()
    shared = outer.pop() if by_draw and outer and outer[-1][1:] == (0, 0) else _ONE
    second = outer.pop() if outer else _ONE
    first = outer.pop() if by_draw and outer else _ONE
    return outer, [first, second, shared, inner]


def _where(axes: list[_Run], start: int, by_draw: bool) -> tuple[Any, ...]:
    """A layout as the backend takes it."""
    first, second, _, inner = axes
    if not by_draw:
        return inner.length, signed(second.stride), start
    drawn = first, second, inner
    strides = tuple(signed(run.stride) for run in drawn)
    rates = tuple(run.rate_stride for run in drawn)
    return (gpu().Units(tuple(run.length for run in axes), strides, rates, start),)
