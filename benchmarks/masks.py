"""Shared masks, rates by element, windows and dtypes beside the plain case, in turns.

python benchmarks/masks.py [--rounds 31] [--threads 2]
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
from common import report, run

import fastdrop as fd

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


PARTS = (shared, rates, windows, dtypes)

if __name__ == "__main__":
    run(PARTS, __doc__)
