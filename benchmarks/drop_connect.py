"""DropConnect beside the dense product, NumPy's and PyTorch's ways, and by the size of its buffer, in turns.

python benchmarks/drop_connect.py [--rounds 31] [--threads 1]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from common import report, run

import fastdrop as fd
from fastdrop._noises import drop_connect as module
from fastdrop._noises.drop_connect import drop_connect, drop_connect_backward

KEY = fd.Key(0)
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
Calls = dict[str, Callable[[], object]]


def dense(n: int, features_in: int, features_out: int, dtype: type = np.float32) -> Arrays:
    """An input, weights, and a gradient of the output."""
    rng = np.random.default_rng(0)
    shapes = (n, features_in), (features_in, features_out), (n, features_out)
    x, weight, g = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return x, weight, g


def peers(rounds: int, small: bool) -> None:
    """Forward, and with backward, beside the product without noise and the others' ways."""
    for shape in [(3, 4, 5)] if small else [(32, 784, 256), (128, 256, 256), (128, 400, 10)]:
        x, weight, g = dense(*shape)
        for p in (0.1, 0.5):
            forward = partial(drop_connect, x, weight, p, KEY)
            calls: Calls = {
                "fastdrop": forward,
                "dense": partial(np.matmul, x, weight),
                "one mask": partial(forward, per_example=False),
                "NumPy": numpy_way(x, weight, p),
            }
            report(f"{shape}, p={p}", calls | torch_way(x, weight, None, p), rounds)
            both: Calls = {"fastdrop": both_ways(x, weight, g, p)}
            report("  and backward", both | torch_way(x, weight, g, p), rounds)


def both_ways(x: np.ndarray, weight: np.ndarray, g: np.ndarray, p: float) -> Callable[[], object]:
    """Forward and backward."""

    def call() -> None:
        drop_connect(x, weight, p, KEY)
        drop_connect_backward(g, x, weight, p, KEY)

    return call


def numpy_way(x: np.ndarray, weight: np.ndarray, p: float) -> Callable[[], object]:
    """A mask of three axes, from NumPy's fastest generator."""
    rng = np.random.Generator(np.random.SFC64(0))

    def call() -> np.ndarray:
        keep = rng.random((len(x), *weight.shape), np.float32) >= p
        return (x[:, None] @ (keep * (weight / (1 - p)).astype(weight.dtype)))[:, 0]

    return call


def torch_way(x: np.ndarray, weight: np.ndarray, g: np.ndarray | None, p: float) -> Calls:
    """Dropout of repeated weights in PyTorch, where it is installed; with its gradients if g is given."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(fd.get_num_threads())
    a, w = (torch.from_numpy(v).requires_grad_(g is not None) for v in (x, weight))

    def call() -> None:
        repeated = w.expand(len(a), *w.shape)
        y = torch.bmm(a[:, None], torch.nn.functional.dropout(repeated, p))[:, 0]
        if g is not None:
            y.backward(torch.from_numpy(g))

    return {"PyTorch": call}


def buffers(rounds: int, small: bool) -> None:
    """Elements dropped at a time, and of how many examples."""
    before = module._BUFFER, module._EXAMPLES
    try:
        for dtype in (np.float32, np.float64):
            for shape in [(3, 4, 5)] if small else [(128, 784, 256), (128, 1024, 1024), (20_000, 20, 10)]:
                x, weight, g = dense(*shape, dtype)
                call = both_ways(x, weight, g, 0.5)
                calls = {
                    f"2^{power}, {examples}": sized(call, 1 << power, examples)
                    for power, examples in ((20, 16), (18, 16), (19, 16), (21, 16), (20, 4), (20, 64))
                }
                report(f"{shape} {x.dtype}", calls, rounds)
    finally:
        module._BUFFER, module._EXAMPLES = before


def sized(call: Callable[[], object], elements: int, examples: int) -> Callable[[], object]:
    """The call with a buffer of a size."""

    def resized() -> None:
        module._BUFFER, module._EXAMPLES = elements, examples
        call()

    return resized


PARTS = (peers, buffers)

if __name__ == "__main__":
    run(PARTS, __doc__)
