"""How dropout should read and write arrays of a size: what it costs after what was done before.

Kernels can take arrays as they are (near), ask for x ahead (far), or also write y past the caches (past). The
constants FETCH_FROM and STREAM_FROM of `fastdrop._cpu.calls` say from which sizes on they do. Each and
np.multiply are timed for some calls in turn, on one thread, after the same call, a NumPy pass over y, a
matrix product, and a copy of 32 MiB that leaves nothing of x and y in the caches. So is `fd.dropout`, which
chooses. Time is the thread's own.

    python benchmarks/stores.py [--rounds 31] [--p 0.5] [--powers 18 20 22 24]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import fastdrop as fd
from fastdrop._arrays.numbers import rate
from fastdrop._cpu import bernoulli, calls
from fastdrop._stream.keys import stream

Call = Callable[[], object]
KEY = fd.Key(1)
TURNS, SETTLE = 3, 3  # each way has three turns, in which the first calls find y where others left it
WAYS = {"near": bernoulli.NEAR, "far": bernoulli.FAR, "past": bernoulli.PAST}


def calls_of(x: NDArray[np.float32], y: NDArray[np.float32], p: float) -> dict[str, Call]:
    """Return the calls that take turns."""
    numbers = (*rate(p), *stream(KEY))

    def dropped(way: int) -> Call:
        return lambda: calls._drop(x, y, x.size, 0, 0, *numbers, way, 0)

    return {
        "np.multiply": lambda: np.multiply(x, 2, out=y),
        **{name: dropped(way) for name, way in WAYS.items()},
        "chosen": lambda: fd.dropout(x, p, KEY, out=y),
    }


def works(y: NDArray[np.float32]) -> dict[str, Call | None]:
    """Return what is done before each call; None is the same call."""
    matrix, source = np.ones((512, 512), np.float32), np.ones(1 << 23, np.float32)
    target = np.empty_like(source)
    return {
        "the same call": None,
        "pass over y": lambda: np.multiply(y, 1, out=y),
        "matrix product": lambda: matrix @ matrix,
        "copy of 32 MiB": lambda: np.copyto(target, source),
    }


def medians_us(timed: dict[str, Call], before: Call | None, rounds: int) -> dict[str, float]:
    """Return the median time of each of some calls that take turns, each after other work or itself."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(TURNS):
        for name, call in timed.items():
            for nth in range(SETTLE + rounds):
                if before is not None:
                    before()
                start = time.thread_time()
                call()
                if nth >= SETTLE:
                    times[name].append(time.thread_time() - start)
    return {name: statistics.median(found) * 1e6 for name, found in times.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print one row a size and work before, one column a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--p", type=float, default=0.5)
    parser.add_argument("--powers", type=int, nargs="+", default=[18, 20, 22, 24, 26])
    chosen = parser.parse_args(arguments)
    print(f"times np.multiply, p = {chosen.p}, one thread")
    columns = "".join(f"{name:>8}" for name in (*WAYS, "chosen"))
    print(f"{'elements':10}{'before':16}{'np.multiply':>14}{columns}")
    threads = fd.get_num_threads()
    fd.set_num_threads(1)
    try:
        for power in chosen.powers:
            x = np.ones(1 << power, np.float32)
            y = np.empty_like(x)
            for work, before in works(y).items():
                found = medians_us(calls_of(x, y, chosen.p), before, chosen.rounds)
                base = found.pop("np.multiply")
                ratios = "".join(f"{us / base:>8.2f}" for us in found.values())
                print(f"2^{power:<8}{work:16}{base:>11.1f} us{ratios}", flush=True)
    finally:
        fd.set_num_threads(threads)


if __name__ == "__main__":
    main()
