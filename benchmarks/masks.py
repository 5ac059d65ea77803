"""Shared masks, rates by element, windows and dtypes beside the plain case, in turns.

python benchmarks/masks.py [--rounds 31] [--threads 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import ml_dtypes
import numpy as np

import fastdrop as fd
from fastdrop._bench import seconds_in_turns

KEY = fd.Key(0)


def cases(small: bool) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes and shared axes by name; tiny ones for a test."""
    shapes = {
        "spatial, channels first": ((32, 64, 56, 56), (2, 3)),
        "spatial, channels last": ((32, 56, 56, 64), (1, 2)),
        "temporal": ((64, 128, 512), (1,)),
        "temporal, time major": ((128, 64, 512), (0,)),
        "path, row mode": ((64, 128, 512), (1, 2)),
    }
    return {
        k: (tuple(min(n, 4) for n in shape) if small else shape, axes) for k, (shape, axes) in shapes.items()
    }


def report(name: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print medians in us, and each as a multiple of the first."""
    medians = seconds_in_turns(calls, rounds)
    first = next(iter(medians.values()))
    cells = (f"{label} {s * 1e6:8.0f} us ({s / first:4.2f}x)" for label, s in medians.items())
    print(f"{name:26}" + "  ".join(cells), flush=True)


def shared(rounds: int, small: bool) -> None:
    """Draws shared along axes."""
    for name, (shape, axes) in cases(small).items():
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        y = np.ones_like(x)
        calls: dict[str, Callable[[], object]] = {"np.multiply": lambda x=x, y=y: np.multiply(x, 2, out=y)}
        for p in (0.5, 0.1):
            calls[f"p={p}"] = lambda x=x, y=y, a=axes, p=p: fd.dropout(x, p, KEY, shared_axes=a, out=y)
        report(name, calls, rounds)


def rates(rounds: int, small: bool) -> None:
    """A rate for each feature or sample beside one for all."""
    shape = (8, 16) if small else (8192, 512)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    y = np.ones_like(x)
    for p in (0.1, 0.5):
        given = {"scalar": p, "feature": np.full(shape[1], p), "sample": np.full((shape[0], 1), p)}
        calls = {f"p by {k}": lambda v=v: fd.dropout(x, v, KEY, out=y) for k, v in given.items()}
        report(f"rates of {p}", calls, rounds)


def windows(rounds: int, small: bool) -> None:
    """Square blocks of a (10**6, 10**6) array beside the same block as an array of its own."""
    for side in (4, 8) if small else (250, 500, 1000, 2000):
        x = np.ones((side, side), np.float32)
        y = np.empty_like(x)
        calls: dict[str, Callable[[], object]] = {"alone": lambda x=x, y=y: fd.dropout(x, 0.5, KEY, out=y)}
        for at in (0, 123_456, 998_000):
            window = ((10**6, 10**6), (at, at))
            calls[f"at {at}"] = lambda x=x, y=y, w=window: fd.dropout(x, 0.5, KEY, out=y, window=w)
        report(f"window of {side} x {side}", calls, rounds)


def dtypes(rounds: int, small: bool) -> None:
    """Every dtype, 2**22 elements."""
    for p in (0.1, 0.5):
        calls = {}
        for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.complex64):
            x = np.ones(64 if small else 1 << 22, dtype)
            y = np.ones_like(x)
            calls[np.dtype(dtype).name] = lambda x=x, y=y, p=p: fd.dropout(x, p, KEY, out=y)
        report(f"dtypes, p={p}", calls, rounds)


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=fd.get_num_threads())
    parser.add_argument("--small", action="store_true", help="tiny arrays, to see that it runs")
    chosen = parser.parse_args(arguments)
    before = fd.get_num_threads()
    fd.set_num_threads(chosen.threads)
    try:
        for part in (shared, rates, windows, dtypes):
            part(chosen.rounds, chosen.small)
    finally:
        fd.set_num_threads(before)


if __name__ == "__main__":
    main()
