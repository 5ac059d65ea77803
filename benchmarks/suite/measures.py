"""What is measured of each case: times, a ratio, memory; `timed` and `memory` make asv's classes of them."""

from __future__ import annotations

import multiprocessing
import os
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

import fastdrop as fd

from .cases import Call, Case
from .given import Given, named
from .grid import DTYPES, ONE_SIZE, PEAK_SIZES, RATES, ROUNDS, SIZES, THREADS
from .timing import bench

MISSING = (AttributeError, ImportError)  # the case is newer than the commit, or its package not installed
FOUR = ["size", "p", "threads", "dtype"]


def use_threads(count: int) -> None:
    """Let fastdrop have so many; skip what the machine has no cores for."""
    if count > (os.cpu_count() or 1):
        raise NotImplementedError(f"{count} threads on {os.cpu_count()} cores")
    fd.set_num_threads(count)


@cache
def calls_of(case: Case, size: int, p: float, dtype: str) -> dict[str, Call]:
    """Forward into an array, the same with a new one, and backward, each called once."""
    if named(dtype).name not in case.dtypes:
        raise NotImplementedError(f"{case.name} of {dtype}")
    shape = case.shape(size)
    ready, new = (Given.of(shape, dtype, p, preallocated) for preallocated in (True, False))
    try:
        calls = {"forward": case.forward(ready), "new": case.forward(new)}
        if case.backward:
            calls["backward"] = case.backward(ready)
        for call in calls.values():
            call()
    except MISSING as error:
        raise NotImplementedError(str(error)) from error
    return calls


class _Timed:
    """`setup` runs before every sample: all it makes is kept."""

    case: Case
    version = "2"
    params: tuple[list[Any], ...] = (SIZES, RATES, THREADS, ["float32"])
    param_names = FOUR
    repeat = (10, 500, 0.2)  # at least, at most, seconds
    warmup_time = 0.05
    rounds = 2
    timeout = 120.0

    def setup(self, size: int, p: float, threads: int, dtype: str) -> None:
        use_threads(threads)
        self.calls = calls_of(self.case, size, p, dtype)

    def time_forward(self, *point: Any) -> None:
        self.calls["forward"]()

    def time_backward(self, *point: Any) -> None:
        self.calls["backward"]()

    def time_new(self, *point: Any) -> None:
        self.calls["new"]()

    def time_dtype(self, *point: Any) -> None:
        self.calls["forward"]()

    def track_multiplies(self, *point: Any) -> float:
        """The forward's time as a multiple of np.multiply's of an array of as many elements."""
        size, _, _, dtype = point
        given = Given.of((size,), dtype, 0.5, True)
        calls = {
            "forward": self.calls["forward"],
            "multiply": lambda: np.multiply(given.x, 2, out=given.out["out"]),
        }
        medians = bench.seconds_in_turns(calls, ROUNDS, max(1, (1 << 14) // size))
        return medians["forward"] / medians["multiply"]


_Timed.time_new.params = [ONE_SIZE, RATES, THREADS, ["float32"]]  # type: ignore[attr-defined]
_Timed.time_dtype.params = [ONE_SIZE, RATES, [1], DTYPES]  # type: ignore[attr-defined]
_Timed.track_multiplies.params = [ONE_SIZE, RATES, THREADS, ["float32"]]  # type: ignore[attr-defined]
_Timed.track_multiplies.unit = "times np.multiply"  # type: ignore[attr-defined]


def _compile(case: Case, p: float, dtype: str) -> None:
    with suppress(NotImplementedError):
        calls_of(case, 256, p, dtype)


class _Memory:
    """Memory of a warm call; what compiles does so in a child, so that its memory isn't counted."""

    case: Case
    version = "1"
    params: tuple[list[Any], ...] = (PEAK_SIZES, [0.5], [1], ["float32"])
    param_names = FOUR

    def setup(self, size: int, p: float, threads: int, dtype: str) -> None:
        child = multiprocessing.get_context("fork").Process(target=_compile, args=(self.case, p, dtype))
        child.start()
        child.join()
        use_threads(threads)
        self.calls = calls_of(self.case, size, p, dtype)

    def peakmem_forward(self, *point: Any) -> None:
        self.calls["forward"]()

    def track_allocated(self, size: int, *point: Any) -> float:
        """The most that a forward has allocated at a time, its result included where it takes no `out`."""
        tracemalloc.start()
        self.calls["forward"]()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak / size


_Memory.track_allocated.unit = "bytes/element"  # type: ignore[attr-defined]


def timed(cases: Iterable[Case]) -> dict[str, type]:
    """A class of times for each case."""
    return {case.name: type(case.name, (_Timed,), {"case": case, **_absent(case)}) for case in cases}


def _absent(case: Case) -> dict[str, None]:
    """The times that it hasn't."""
    has = {
        "time_new": case.out,
        "time_backward": case.backward,
        "time_dtype": set(DTYPES) & set(case.dtypes),
    }
    return {name: None for name, there in has.items() if not there}


def memory(cases: Iterable[Case]) -> dict[str, type]:
    """A class of memory for each case."""
    return {case.name: type(case.name, (_Memory,), {"case": case}) for case in cases}
