"""What sharing a call among threads gains: all threads against one, in alternation with other work.

A tight loop over one kernel flatters threads that are still awake. Here each timed call comes after what a
training loop does in between: nothing, a NumPy pass, a matrix product (after which OpenBLAS's threads go on
spinning), a PyTorch operation. Calls with one thread and with all take turns. `fastdrop._cpu.helpers` has
the numbers that this program is there to choose: the shortest call that is shared, and the least work of a
thread.

    python benchmarks/parallel_from.py [--rounds 41] [--calls p=.5 p=.1 gaussian maps] [--powers 16 18 20]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastdrop as fd

Call = Callable[[], object]


def between() -> dict[str, Call]:
    """What is done between two timed calls."""
    vector, matrix = np.ones(1 << 18, np.float32), np.ones((512, 512), np.float32)
    calls: dict[str, Call] = {
        "nothing": lambda: None,
        "np.multiply": lambda: np.multiply(vector, 1, out=vector),
        "matrix product": lambda: matrix @ matrix,
    }
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.ones(1 << 18)
        calls["torch.add"] = lambda: torch.add(tensor, tensor)
    return calls


def timed(name: str, size: int) -> Call:
    """A call by its name, on arrays of so many elements."""
    x = np.ones((max(size >> 8, 1), min(size, 256)), np.float32)
    y = np.empty_like(x)
    calls: dict[str, Any] = {
        "p=.5": lambda: fd.dropout(x, 0.5, 0, out=y),
        "p=.1": lambda: fd.dropout(x, 0.1, 0, out=y),
        "gaussian": lambda: fd.gaussian_dropout(x, 0.3, 0, out=y),
        "maps": lambda: fd.dropout(x, 0.1, 0, shared_axes=1, out=y),
    }
    call: Call = calls[name]
    return call


def ratio(call: Call, other: Call, rounds: int, threads: int) -> tuple[float, float]:
    """Time with one thread in us, and with all as a multiple of it: medians, in turns."""
    times: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(rounds + 3):
        for count, found in times.items():
            fd.set_num_threads(count)
            other()
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    one, many = (statistics.median(found[3:]) * 1e6 for found in times.values())
    return one, many / one


def main(arguments: list[str] | None = None) -> None:
    """Print one row a call and size, one column for each kind of work in between."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", nargs="+", default=["p=.5", "p=.1", "gaussian", "maps"])
    parser.add_argument("--powers", type=int, nargs="+", default=list(range(16, 25, 2)))
    chosen = parser.parse_args(arguments)
    threads, others = fd.get_num_threads(), between()
    print(f"{threads} threads over 1; in brackets us with 1")
    print(f"{'elements':18}" + "".join(f"{name:>24}" for name in others))
    try:
        for name in chosen.calls:
            for power in chosen.powers:
                call = timed(name, 1 << power)
                found = [ratio(call, other, chosen.rounds, max(threads, 2)) for other in others.values()]
                row = "".join(f"{many:>13.2f} ({us:7.1f})" for us, many in found)
                print(f"{name:10}2^{power:<6}{row}", flush=True)
    finally:
        fd.set_num_threads(threads)


if __name__ == "__main__":
    main()
