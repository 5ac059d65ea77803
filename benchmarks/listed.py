"""Listed rows, indices and rows of any lengths beside the plain call, in turns, on one thread.

Minima of the thread's own processor time, which hold on a machine that others use too.

python benchmarks/listed.py [--rounds 31]
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from common import run, show

import fastdrop as fd

KEY = fd.Key(0)
ELEMENTS = 1 << 20


def least(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least processor time of each call, in nanoseconds, of so many rounds in which each has a turn."""
    fd.set_num_threads(1)  # a thread's time is all there is then; `run` sets the number back
    times: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            begin = time.thread_time_ns()
            call()
            times[name].append(time.thread_time_ns() - begin)
    return {name: float(min(taken[1:])) for name, taken in times.items()}


def compare(name: str, calls: dict[str, Callable[[], object]], size: int, rounds: int) -> None:
    """Show what each call takes for each of so many elements."""
    show(name, {label: ns / size * 1e3 for label, ns in least(calls, rounds).items()}, "ps")


def arrays(shape: tuple[int, ...], dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """An input, and an output whose pages are there."""
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return x, np.ones_like(x)


def rows(rounds: int, small: bool) -> None:
    """Shuffled samples of a bigger data set."""
    for length in (16, 64) if small else (64, 256, 1024, 2048, 8192):
        for dtype in ("float32", "float16"):
            x, y = arrays((4 if small else ELEMENTS // length, length), dtype)
            ids = np.random.default_rng(1).permutation(10 * len(x))[: len(x)]
            for p in (0.5, 0.1):
                calls = {
                    "plain": lambda x=x, y=y, p=p: fd.dropout(x, p, KEY, out=y),
                    "rows": lambda x=x, y=y, p=p, ids=ids: fd.dropout(x, p, KEY, rows=ids, out=y),
                }
                compare(f"{dtype} rows of {length}, p={p}", calls, x.size, rounds)


def offsets(rounds: int, small: bool) -> None:
    """Texts of random lengths about a mean."""
    for mean in (4, 9) if small else (8, 64, 512, 4096):
        lengths = np.random.default_rng(1).integers(1, 2 * mean, size=(64 if small else ELEMENTS) // mean)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        x, y = arrays((int(ends[-1]),))
        for p in (0.5, 0.1):
            calls = {
                "plain": lambda x=x, y=y, p=p: fd.dropout(x, p, KEY, out=y),
                "offsets": lambda x=x, y=y, p=p, ends=ends: fd.dropout(x, p, KEY, offsets=ends, out=y),
            }
            compare(f"texts of some {mean}, p={p}", calls, x.size, rounds)


def indices(rounds: int, small: bool) -> None:
    """Entries of a matrix of a million columns: in any order, and sorted, one in so many places."""
    count = 64 if small else ELEMENTS // 4
    x, y = arrays((count,))
    rng = np.random.default_rng(1)
    anywhere = rng.integers(1 << 40, size=count)
    kinds = {"any order": anywhere, "sorted, far": np.sort(anywhere)}
    kinds |= {f"sorted, 1 in {n}": np.cumsum(rng.integers(1, 2 * n, size=count)) for n in (4, 32, 256)}
    for p in (0.5, 0.1):
        calls: dict[str, Callable[[], object]] = {"plain": lambda p=p: fd.dropout(x, p, KEY, out=y)}
        for name, index in kinds.items():
            calls[name] = lambda p=p, i=index: fd.dropout(x, p, KEY, indices=i, out=y)
        places = np.divmod(anywhere, 1 << 20)
        calls["by axis"] = lambda p=p, i=places: fd.dropout(x, p, KEY, indices=((1 << 20, 1 << 20), i), out=y)
        compare(f"entries, p={p}", calls, count, rounds)


PARTS = (rows, offsets, indices)

if __name__ == "__main__":
    run(PARTS, __doc__)
