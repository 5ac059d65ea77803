"""The door to the CPU and to CUDA: it makes the plan of a call and hands it to the backend of its arrays.

Noises know no other way to the kernels. Backends are imported at first use, since Numba takes longer to
import than NumPy. A fork waits until imports and compilations in other threads end: the child has no such
threads, and would wait for their locks for ever.
"""

from __future__ import annotations

# Imported first, since it and logging, which it imports, hold locks that an import needs: hooks before a fork
# run in the opposite order of their registration, and ours must run before theirs.
import concurrent.futures.thread  # noqa: F401
import os
import sys
from functools import cache, reduce
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from fastdrop._arrays import device, host
from fastdrop._arrays.listed import SHORT, Listed
from fastdrop._arrays.numbers import FULL, Rate, check_broadcast, checked_rates, rate
from fastdrop._arrays.plan import (
    NO_AXES,
    AnyWindow,
    Axes,
    Density,
    Layout,
    Pass,
    Plan,
    Rows,
    layout_of,
    repetition,
)
from fastdrop._cpu.threads import alone as alone
from fastdrop._cpu.threads import usable as usable
from fastdrop._extras import how_to_install
from fastdrop._extras import loading as loading
from fastdrop._stream.keys import Key, draw_of, stream


class Backend(Protocol):
    """What the CPU's and CUDA's modules `run` both have: functions that do what a plan says."""

    def fuse(self, what: Pass, plan: Plan, threshold: int, scale: float, key: tuple[int, ...]) -> None:
        """Do a pass with one threshold and scale."""

    def by_rates(self, what: Pass, plan: Plan, p: NDArray[Any], key: tuple[int, ...]) -> None:
        """Do a pass with a rate for each draw: of float32 or float64, in C order, which broadcasts.

        CUDA's takes rates that are on the GPU too.
        """

    def density(self, what: Density, plan: Plan, key: tuple[int, ...]) -> None:
        """Do what a density says."""

    def mask(self, plan: Plan, keep: Any, packed: bool, scale: float) -> None:
        """Scale what a user's mask keeps, and drop the rest; the mask is what `mask_of` gives."""

    def sum_rows(self, plan: Plan, like: Any) -> Any:
        """Return the sums of y over all axes but the last, in an order that depends on the shape alone."""


@cache
def cpu() -> ModuleType:
    """Return the CPU's `Backend`, which is imported at the first call."""
    with loading:
        from fastdrop._cpu import run

    return run


@cache
def gpu() -> ModuleType:
    """Return CUDA's `Backend`, which is imported at the first call."""
    if find_spec("numba_cuda") is None:
        raise ImportError(f"arrays on a GPU need the extra cuda; {how_to_install('cuda')}")
    with loading:
        from fastdrop._cuda import run

    return run


def of(x: Any) -> ModuleType:
    """Return the module for arrays of x's kind: `fastdrop._arrays.host`, or `device` if x is on a GPU."""
    return host if type(x) is np.ndarray or not device.is_there(x) else device


def _backend(plan: Plan) -> Backend:
    return cast(Backend, cpu() if plan.arrays is host else gpu())


def planned(
    x: Any,
    out: Any = None,
    shared_axes: Axes = (),
    window: AnyWindow = None,
    *,
    real: str = "",
    other: tuple[str, Any, str] | None = None,
    biased: bool = False,
    bias: Any = None,
) -> Plan:
    """Return the plan for an array, after all arguments were checked.

    Parameters
    ----------
    x : array_like
        An array on the host, or on a GPU.
    out : array, optional
        The array that the caller wants written to.
    shared_axes, window
        As in `fastdrop.dropout`.
    real : str, default ""
        The name of a noise that needs real numbers, for the error; empty if it takes complex ones too.
    other : (name, array, name of x), optional
        Another array of x's shape and dtype, with its name and x's for errors; `out` may be this array.
    biased : bool, default False
        Whether there is a bias.
    bias : array, optional
        One number for each place on x's last axis. Without it a bias of 0 is added.
    """
    arrays = of(x)
    x = arrays.to_array(x)
    pairs = x.dtype.kind == "c"
    if pairs and real:
        host.refuse_complex(x, real)
    layout = layout_of(x.shape, pairs, shared_axes, window)
    if other is None and not biased:  # the usual case comes first, since it is the fastest
        return Plan(arrays, x, arrays.target(out, x), None, None, layout, out)
    beside = None if other is None else _alike(arrays, x, *other)
    y = arrays.target(out, x, beside)
    added = _bias(arrays, x, bias) if biased else None
    if added is not None and arrays is device and y.overlaps(added):
        raise ValueError("out must not overlap bias, which a GPU still reads; use a copy")
    return Plan(arrays, x, y, beside, added, layout, out)


def _alike(arrays: ModuleType, x: Any, name: str, other: Any, name_of_x: str) -> Any:
    """Return another array, or raise an error unless it is where x is, of x's shape and dtype."""
    _same_place(arrays, other, name)
    other = arrays.to_array(other, name)
    if arrays is device:
        device.check_device(other, x, name)
    if other.shape == x.shape and other.dtype == x.dtype:
        return other
    for what in ("shape", "dtype"):
        got, allowed = getattr(other, what), getattr(x, what)
        if got != allowed:
            raise ValueError(f"{name} must have {name_of_x}'s {what} {allowed}, got {got}")
    return other


def _same_place(arrays: ModuleType, other: Any, name: str) -> None:
    """Raise an error unless another array is where x is: both in memory, or both on a GPU."""
    if of(other) is not arrays:
        raise TypeError(f"{name} must be on a GPU if x is and only then; copy one of them")


def _bias(arrays: ModuleType, x: Any, bias: Any) -> Any:
    if bias is None:
        return arrays.no_bias(x)
    _same_place(arrays, bias, "bias")
    given = arrays.to_array(bias, "bias")
    host.refuse_complex(given, "a bias")
    if given.shape != x.shape[-1:]:
        raise ValueError(f"bias must have the shape of x's last axis {x.shape[-1:]}, got {given.shape}")
    return arrays.as_bias(given, x)


def words(key: Key | SupportsIndex) -> tuple[int, ...]:
    """Return a key as backends take it; a third number is the address of its draw in a GPU's memory."""
    if type(key) is Key:  # the usual case comes first, since it is the fastest
        return draw_of(key.seed, key.draw)
    address = getattr(key, "address", 0)  # of a key that a CUDA graph draws
    return (*draw_of(key.seed, 0), address) if address else stream(key)  # type: ignore[union-attr]


def fuse(what: Pass, plan: Plan, p: Rate, key: Key | SupportsIndex) -> None:
    """Do a pass with Bernoulli noise of one rate, or of an array of rates that broadcasts to the draws."""
    if type(p) is not float:  # a float is the usual case, and must not wait for the checks of others
        if isinstance(p, np.ndarray):
            rates = _rates(plan, p)
            if rates.size != 1:
                _backend(plan).by_rates(what, plan, rates, words(key))
                return
            p = float(rates.flat[0])
        elif device.is_there(p):
            there = _rates_there(plan, p)
            gpu().by_rates(what, plan, there, words(key))
            return
    threshold, scale = rate(p)
    backend = cpu() if plan.arrays is host else gpu()
    backend.fuse(what, plan, threshold, scale if what.scale is None else what.scale, words(key))


def gated(
    what: Pass, plan: Plan, a: NDArray[Any], slope: float, shift: float, key: Key | SupportsIndex
) -> None:
    """Do a pass on the host with a rate for each element: 1 - sigmoid(slope * a + shift)."""
    cpu().by_gate(what, plan, a, (slope, shift), words(key))


def fused(
    what: Pass,
    x: Any,
    out: Any,
    p: Rate,
    key: Key | SupportsIndex,
    shared_axes: Axes = (),
    window: AnyWindow = None,
    *,
    real: str = "",
    other: tuple[str, Any, str] | None = None,
    biased: bool = False,
    bias: Any = None,
) -> Any:
    """X after a pass with Bernoulli noise; arguments as in `planned` and `fuse`."""
    if type(x) is np.ndarray:
        if type(window) is Listed and type(p) is float and shared_axes is NO_AXES and what.formula == "drop":
            y = _rows_at_once(what, x, out, p, key, window.numbers)
            if y is not None:
                return y
        y, layout = None, _layout_unless_plain(x, shared_axes, window)
        if type(p) is float:
            beside = None if other is None else other[1]
            y = _at_once(what, x, out, p, key, layout, beside, biased, bias)
        elif type(p) is np.ndarray and what.formula == "drop":
            y = _by_rates_at_once(what, x, out, p, key, layout)
        if y is not None:
            return y
    plain = what.formula == "drop" and shared_axes is NO_AXES and window is None
    if type(p) is float and plain and device.is_there(x):
        y = _on_gpu_at_once(what, x, out, p, key)
        if y is not None:
            return y
    plan = planned(x, out, shared_axes, window, real=real, other=other, biased=biased, bias=bias)
    fuse(what, plan, p, key)
    return plan.result


def _layout_unless_plain(x: NDArray[Any], shared_axes: Axes, window: AnyWindow) -> Layout | None:
    """Return the layout of an array of real numbers, or None if its elements have the draws 0, 1, 2, ..."""
    if shared_axes is NO_AXES and window is None:  # the usual case, which needs no look-up
        return None
    return layout_of(x.shape, False, shared_axes, window)


def _at_once(
    what: Pass,
    x: NDArray[Any],
    out: Any,
    p: float,
    key: Key | SupportsIndex,
    layout: Layout | None,
    other: Any,
    biased: bool,
    bias: Any,
) -> Any:
    """Do a pass in the fewest steps, or return None if it isn't one call of a kernel on the arrays given."""
    threshold, scale = rate(p)
    if not 0 < threshold < FULL:
        return None
    how = (x.size, 0, 0) if layout is None else cpu().at_once(layout, biased)
    pair = None if how is None else host.plain_pair(x, out)
    if pair is None or not pair[3]:
        return None
    y, flat_x, flat_y, _ = pair
    beside = flat_x if other is None else host.flat_like(other, x, out)
    added = host.plain_bias(bias, x) if biased else None
    if beside is None or (biased and added is None):
        return None
    draw = threshold, scale if what.scale is None else what.scale, *stream(key)
    cpu().one_call(what, how, flat_x, beside, added, flat_y, draw)
    return y


def _on_gpu_at_once(what: Pass, x: Any, out: Any, p: float, key: Key | SupportsIndex) -> Any:
    """Do dropout of an array on a GPU in the fewest steps, or return None; see `_at_once`."""
    threshold, scale = rate(p)
    numbers = threshold, scale if what.scale is None else what.scale, *words(key)
    found = device.plain_tensors(x, out)
    if found is not None:
        y, pointer, target, size, typestr, number = found
        stream = device.stream_of_tensors(number)
        gpu().plain("drop", typestr, number)(pointer, pointer, target, size, stream, *numbers)
        return y
    a = device.to_array(x)
    if not a.size or a.dtype.kind == "c" or a.device == device.UNKNOWN or a.lent is not None:
        return None
    b = device.target(out, a)
    drop = gpu().plain("drop", a.lanes.typestr, a.device)
    drop(a.pointer, a.pointer, b.pointer, a.size, a.cuda_stream, *numbers)
    return b.owner if out is None else out


def _rows_at_once(
    what: Pass,
    x: NDArray[Any],
    out: Any,
    p: float,
    key: Key | SupportsIndex,
    numbers: NDArray[np.int64] | None,
) -> Any:
    """Do dropout of rows with numbers in the fewest steps, or return None; see `_at_once`.

    That is also if a number is wrong: other functions say so. The usual way takes 10 us longer, which is a
    third of the time of 64 rows of 2,048 elements.
    """
    threshold, scale = rate(p)
    if numbers is None or numbers.shape != x.shape[:1] or not 0 < threshold < FULL:
        return None
    pair = host.plain_pair(x, out)
    if pair is None or not pair[3] or x.size < SHORT * numbers.size:
        return None
    draw = threshold, scale if what.scale is None else what.scale, *stream(key)
    return pair[0] if cpu().drop_rows(*pair[1:3], numbers, draw) else None


def _by_rates_at_once(
    what: Pass, x: NDArray[Any], out: Any, p: NDArray[Any], key: Key | SupportsIndex, layout: Layout | None
) -> Any:
    """Do dropout with a rate for each element in the fewest steps, or return None; see `_at_once`."""
    row = Rows(x.size, 0, 0) if layout is None else None if layout.shared else layout.row
    if row is None or p.size <= 1 or p.ndim > x.ndim or not (inner := repetition(p.shape, x.shape)):
        return None
    if out is not None and np.may_share_memory(p, out):
        return None
    pair = host.plain_pair(x, out)
    if pair is None or not pair[3]:
        return None
    y, flat_x, flat_y, _ = pair
    rates = checked_rates(p).ravel()
    cpu().checked_by_rate(flat_x, flat_y, rates, inner, row.start, *stream(key), what.scale or 0.0)
    return y


def _rates_there(plan: Plan, p: Any) -> device.DeviceArray:
    """Return an array of rates on a GPU, whose values aren't checked, since that would wait for the GPU."""
    _same_place(plan.arrays, p, "p")
    rates = device.DeviceRates(p)
    device.check_device(rates, plan.x, "p")
    check_broadcast("p", rates, plan.layout.draws[: len(plan.x.shape)])
    return rates


def _rates(plan: Plan, p: NDArray[Any]) -> NDArray[Any]:
    """Return an array of rates as backends take it, or raise an error if it doesn't fit the draws."""
    numbers, draws = checked_rates(p), plan.layout.draws
    if len(draws) > len(plan.x.shape):  # the two parts of a complex number share a rate
        draws, numbers = draws[:-1], numbers[..., None]
    check_broadcast("p", p, draws)
    if isinstance(plan.y, np.ndarray) and np.may_share_memory(numbers, plan.y):
        return numbers.copy()  # or rates would be read where y is written already
    return numbers


def density(
    what: Density,
    x: Any,
    out: Any,
    key: Key | SupportsIndex,
    shared_axes: Axes = (),
    window: AnyWindow = None,
    real: str = "",
) -> Any:
    """Return x with noise that has a density; its number may be an array that broadcasts to the draws."""
    kind = type(what.numbers[0])
    learned = kind is device.DeviceArray  # whose value only the GPU knows
    by_draw = kind is not float and (learned or what.by_draw)
    if type(x) is np.ndarray and not by_draw:  # the quick way, which small calls need
        layout = _layout_unless_plain(x, shared_axes, window)
        rows = (x.size, 0, 0) if layout is None else None if layout.shared else layout.only
        pair = None if rows is None else host.plain_pair(x, out)
        if pair is not None and pair[3]:
            cpu().noise(what, pair[1], pair[2], rows, *stream(key))
            return pair[0]
    plan = planned(x, out, shared_axes, window, real=real)
    if by_draw:
        _check_numbers(what, plan, learned)
    _backend(plan).density(what, plan, words(key))
    return plan.result


def _check_numbers(what: Density, plan: Plan, learned: bool) -> None:
    """Raise an error unless a density's array of numbers fits the draws; a learned one must be where x is."""
    numbers = what.numbers[0]
    if learned:
        _same_place(plan.arrays, numbers.owner, what.name)
        device.check_device(numbers, plan.x, what.name)
    else:
        what.checked()
    check_broadcast(what.name, numbers, plan.layout.draws[: len(plan.x.shape)])


def learned_number(name: str, value: Any, scalar: bool = False) -> Any:
    """Return a number, or an array of them, as densities take it if it is on a GPU, else None.

    Its value isn't checked, since that would wait for the GPU.
    """
    if type(value) is float or isinstance(value, np.ndarray) or not device.is_there(value):
        return None
    found = device.DeviceArray(value)
    host.refuse_complex(found, f"{name} on a GPU")
    if scalar and found.ndim:
        raise TypeError(f"{name} on a GPU must be one number, got the shape {found.shape}")
    return found


def on_gpu(*arrays: Any) -> bool:
    """Return whether one of some arrays is on a GPU."""
    return any(device.is_there(a) for a in arrays)


def gradient_of_number(
    what: Density,
    g: Any,
    x: Any,
    key: Key | SupportsIndex,
    shared_axes: Axes = (),
    window: AnyWindow = None,
    real: str = "",
) -> Any:
    """Return the gradient of a density's number for arrays on a GPU: sums of g * x times its factors.

    They are an array there of the number's shape, of float64 if x is, else of float32. A density's terms are
    meant where it has no factors.
    """
    if not (device.is_there(g) and device.is_there(x)):
        raise TypeError("g and x must both be on a GPU, or none of them; copy one of them")
    given, number = device.to_array(g), what.numbers[0]
    pairs = given.dtype.kind == "c"
    if pairs and real:
        host.refuse_complex(given, real)
    beside, layout = _alike(device, given, "x", x, "g"), layout_of(given.shape, pairs, shared_axes, window)
    plan = Plan(device, given, given, beside, None, layout, None)
    shape = () if isinstance(number, (float, int)) else number.shape
    if shape:
        _check_numbers(what, plan, isinstance(number, device.DeviceArray))
    return gpu().total(what, plan, words(key), shape)


def combined(a: Any, b: Any, how: str) -> Any:
    """Return a "plus" or "times" b, which are arrays of one shape: one is on a GPU, where the result is."""
    return gpu().combined(a, b, how) if device.is_there(a) else gpu().combined(b, a, how)


def masked(x: Any, mask: Any, scale: float, out: Any, packed: bool = False) -> Any:
    """Return x times a scale where a user's mask is not 0, and +0 elsewhere; the mask broadcasts to x."""
    plan = planned(x, out)
    _same_place(plan.arrays, mask, "mask")
    _backend(plan).mask(plan, plan.arrays.mask_of(mask, plan.x, packed), packed, scale)
    return plan.result


def sum_rows(plan: Plan, bias: Any) -> Any:
    """Return the sums of y over all axes but the last, as an array like the bias."""
    return _backend(plan).sum_rows(plan, bias)


# What another thread may hold while this one forks, and nobody would leave in the child: Numba's lock, for
# as long as it compiles, and LLVM's, which threads also take when they free what compilations left behind.
_LOCKS = (
    ("numba.core.compiler_lock", ["global_compiler_lock"]),
    ("llvmlite.binding.ffi", ["lib", "_lock"]),
)
_held: list[Any] = []  # those of them that are held during a fork


def _before() -> None:
    loading.acquire()
    for module, names in _LOCKS:
        lock = reduce(lambda found, name: getattr(found, name, None), names, sys.modules.get(module))
        if lock is not None:
            _held.append(lock)
            lock.__enter__()


def _after() -> None:
    while _held:
        _held.pop().__exit__(None, None, None)
    loading.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
