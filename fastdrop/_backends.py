"""The door to both backends: whose an array is, what is planned with it, and who does it.

Backends are imported at first use, since Numba takes longer to import than NumPy. Forks wait for imports
and compilations under way: a child would wait for their end forever.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - it and logging, which it imports, lock what an import needs:
import os  # hooks run in reverse, and ours must be first
import sys
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any, Protocol, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays import device, host
from fastdrop._arrays.numbers import FULL, Rate, check_broadcast, checked_rates, rate
from fastdrop._arrays.plan import NO_AXES, Axes, Density, Pass, Plan, Rates, Window, layout_of
from fastdrop._cpu.pool import alone as alone
from fastdrop._stream.keys import Key, stream


class Backend(Protocol):
    """What a backend does with plans."""

    def fuse(self, what: Pass, plan: Plan, threshold: Any, scale: Any, key: tuple[int, int]) -> None:
        """Do a pass with one threshold and scale, or with `Rates` and None."""

    def density(self, what: Density, plan: Plan, key: tuple[int, int]) -> None:
        """Do what a density says."""

    def sum_rows(self, plan: Plan, like: Any) -> Any:
        """The sums of y over all axes but the last, in an order that depends on the shape alone."""


loading = RLock()  # held while a backend is imported at its first use


@cache
def cpu() -> ModuleType:
    """The CPU's `Backend`."""
    with loading:
        from fastdrop._cpu import run

    return run


@cache
def gpu() -> ModuleType:
    """CUDA's `Backend`."""
    from numba import config

    if find_spec("numba_cuda") is None and not config.ENABLE_CUDASIM:
        raise ImportError("arrays on a GPU need the extra cuda; use pip install 'fastdrop-numpy[cuda]'")
    with loading:
        from fastdrop._cuda import run

    return run


def of(x: Any) -> ModuleType:
    """What deals with an array: `fastdrop._arrays.host`, or `device` for those on a GPU."""
    if type(x) is np.ndarray or not hasattr(x, "__cuda_array_interface__"):
        return host
    return device


def _backend(plan: Plan) -> Backend:
    return cast(Backend, cpu() if plan.arrays is host else gpu())


def planned(
    x: Any,
    out: Any = None,
    shared_axes: Axes = (),
    window: Window | None = None,
    *,
    real: str = "",
    other: tuple[str, Any, str] | None = None,
    biased: bool = False,
    bias: Any = None,
) -> Plan:
    """The plan for an array, all of it checked.

    Parameters
    ----------
    x : array_like
        On the host, or on a GPU.
    out : array, optional
        Where the caller wants the result.
    shared_axes, window
        As in `fastdrop.dropout`.
    real : str, default ""
        What needs real numbers, for the error; empty if complex ones are taken too.
    other : (name, array, name of x), optional
        Another array of x's shape and dtype, which out may be too.
    biased : bool, default False
        Whether there is a bias.
    bias : array, optional
        One number for each place on x's last axis; by default what stands for none.
    """
    arrays = of(x)
    x = arrays.to_array(x)
    pairs = x.dtype.kind == "c"
    if pairs and real:
        host.refuse_complex(x, real)
    layout = layout_of(x.shape, pairs, shared_axes, window)
    if other is None and not biased:  # the usual case first
        return Plan(arrays, x, arrays.target(out, x), None, None, layout, out)
    beside = None if other is None else _alike(arrays, x, *other)
    y = arrays.target(out, x, beside)
    return Plan(arrays, x, y, beside, _bias(arrays, x, bias) if biased else None, layout, out)


def _alike(arrays: ModuleType, x: Any, name: str, other: Any, name_of_x: str) -> Any:
    """Another array, checked to be where x is and to have x's shape and dtype."""
    _same_place(arrays, other, name)
    other = arrays.to_array(other)
    if other.shape == x.shape and other.dtype == x.dtype:
        return other
    for what in ("shape", "dtype"):
        got, allowed = getattr(other, what), getattr(x, what)
        if got != allowed:
            raise ValueError(f"{name} must have {name_of_x}'s {what} {allowed}, got {got}")
    return other


def _same_place(arrays: ModuleType, other: Any, name: str) -> None:
    """Refuse an array that isn't where x is: in memory, or on a GPU."""
    if of(other) is not arrays:
        raise TypeError(f"{name} must be on a GPU if x is and only then; copy one of them")


def _bias(arrays: ModuleType, x: Any, bias: Any) -> Any:
    if bias is None:
        return arrays.no_bias(x)
    _same_place(arrays, bias, "bias")
    given = arrays.to_array(bias)
    host.refuse_complex(given, "a bias")
    if given.shape != x.shape[-1:]:
        raise ValueError(f"bias must have the shape of x's last axis {x.shape[-1:]}, got {given.shape}")
    return arrays.as_bias(given, x)


def fuse(what: Pass, plan: Plan, p: Rate, key: Key | SupportsIndex) -> None:
    """Do a pass with Bernoulli noise of a rate, or of an array of them that broadcasts to the draws."""
    if type(p) is not float:  # the usual case first
        if isinstance(p, np.ndarray):
            _backend(plan).fuse(what, plan, _rates(what, plan, p), None, stream(key))
            return
        _refuse_device_rates(p)
    threshold, scale = rate(p)
    backend = cpu() if plan.arrays is host else gpu()
    backend.fuse(what, plan, threshold, scale if what.scale is None else what.scale, stream(key))


def fused(
    what: Pass,
    x: Any,
    out: Any,
    p: Rate,
    key: Key | SupportsIndex,
    shared_axes: Axes = (),
    window: Window | None = None,
    *,
    real: str = "",
    other: tuple[str, Any, str] | None = None,
) -> Any:
    """X after a pass with Bernoulli noise; arguments as in `planned` and `fuse`."""
    if shared_axes is NO_AXES and window is None and type(p) is float:  # the quick way for small calls
        y = _fused_row(what, x, out, p, key, None if other is None else other[1])
        if y is not None:
            return y
    plan = planned(x, out, shared_axes, window, real=real, other=other)
    fuse(what, plan, p, key)
    return plan.result


def _fused_row(what: Pass, x: Any, out: Any, p: float, key: Key | SupportsIndex, other: Any) -> Any:
    """A pass over arrays that kernels take as they lie, in the fewest steps; None for others."""
    threshold, scale = rate(p)
    if not 0 < threshold < FULL:
        return None
    pair = host.flat_pair(x, out)
    if pair is None:
        return None
    y, flat_x, flat_y = pair
    beside = flat_x if other is None else host.flat_like(other, x, out)
    if beside is None:
        return None
    draw = threshold, scale if what.scale is None else what.scale, *stream(key)
    cpu().elements_row(what, flat_x, beside, flat_y, draw)
    return y


def _refuse_device_rates(p: Any) -> None:
    if hasattr(p, "__cuda_array_interface__"):
        raise TypeError(
            f"an array p must be a NumPy array, which is checked without waiting for the GPU, got "
            f"{type(p).__name__}; copy it to the host once"
        )


def _rates(what: Pass, plan: Plan, p: NDArray[Any]) -> Rates:
    """The thresholds and scales of an array of rates, checked; the CPU makes them for both machines."""
    numbers, draws = checked_rates(p), plan.layout.draws
    if len(draws) > len(plan.x.shape):  # the parts of complex numbers share one
        draws, numbers = draws[:-1], numbers[..., None]
    check_broadcast("p", p, draws)
    made: Rates = cpu().rates(numbers, plan.arrays.real_type(plan.x), what.scale or 0.0)
    return made


def density(
    what: Density,
    x: Any,
    out: Any,
    key: Key | SupportsIndex,
    shared_axes: Axes = (),
    window: Window | None = None,
    real: str = "",
) -> Any:
    """X with noise of a density, an array of whose number must broadcast to the draws."""
    by_draw = what.by_draw
    if shared_axes is NO_AXES and window is None and not by_draw:  # the quick way for small calls
        pair = host.flat_pair(x, out)
        if pair is not None:
            cpu().noise_row(what, *pair[1:], *stream(key))
            return pair[0]
    plan = planned(x, out, shared_axes, window, real=real)
    if by_draw:
        what = what.checked()
        check_broadcast("std", what.numbers[0], plan.layout.draws[: len(plan.x.shape)])
    _backend(plan).density(what, plan, stream(key))
    return plan.result


def sum_rows(plan: Plan, bias: Any) -> Any:
    """The sums of y over all axes but the last, as an array like the bias."""
    return _backend(plan).sum_rows(plan, bias)


_compiling: list[AbstractContextManager[Any]] = []  # Numba's lock, while a fork goes on


def _before() -> None:
    loading.acquire()
    compiler = sys.modules.get("numba.core.compiler_lock")
    if compiler is not None:
        _compiling.append(compiler.global_compiler_lock)
        _compiling[-1].__enter__()


def _after() -> None:
    while _compiling:
        _compiling.pop().__exit__(None, None, None)
    loading.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
