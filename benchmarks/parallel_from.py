"""From which size threads should share a call: one thread against all, in alternation with other work.

A tight loop over one kernel flatters threads that are still awake. Here each timed call comes after
what a training loop does in between: nothing, a NumPy pass, a matrix product (after which OpenBLAS's
threads go on spinning), a PyTorch operation. `fastdrop._cpu.calls.PARALLEL_FROM` is the size
from which sharing gains more than it loses over all of them.

    python benchmarks/parallel_from.py [--rounds 41] [--p 0.5]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np

import fastdrop as fd
from fastdrop._cpu import calls

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


def median_us(call: Call, other: Call, rounds: int) -> float:
    """The median time of a call that takes turns with another, without the first turns."""
    times = []
    for _ in range(rounds + 3):
        other()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:]) * 1e6


def ratio(size: int, p: float, other: Call, rounds: int) -> tuple[float, float]:
    """Time with one thread in us, and with all as a multiple of it."""
    x = np.ones(size, np.float32)
    y = np.ones_like(x)
    us = []
    for calls.PARALLEL_FROM in (size + 1, 1):
        us.append(median_us(lambda: fd.dropout(x, p, 0, out=y), other, rounds))
    return us[0], us[1] / us[0]


def main(arguments: list[str] | None = None) -> None:
    """Print one row a size, one column for each kind of work in between."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--p", type=float, default=0.5)
    parser.add_argument("--powers", type=int, nargs="+", default=list(range(18, 26)))
    chosen = parser.parse_args(arguments)
    chosen_from = calls.PARALLEL_FROM
    others = between()
    print(f"{fd.get_num_threads()} threads over 1, p = {chosen.p}; in brackets us with 1")
    print(f"{'elements':10}" + "".join(f"{name:>24}" for name in others))
    try:
        for power in chosen.powers:
            found = [ratio(1 << power, chosen.p, other, chosen.rounds) for other in others.values()]
            print(f"2^{power:<8}" + "".join(f"{many:>13.2f} ({us:7.1f})" for us, many in found), flush=True)
    finally:
        calls.PARALLEL_FROM = chosen_from


if __name__ == "__main__":
    main()
