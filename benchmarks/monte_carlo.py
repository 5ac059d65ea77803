"""Monte-Carlo prediction beside plain loops over the same passes, R-Drop's loss beside PyTorch's, in turns.

python benchmarks/monte_carlo.py [--rounds 31] [--threads 1]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from common import report, run

import fastdrop as fd

KEY = fd.Key(0)


def prediction(rounds: int, small: bool) -> None:
    """A small and a wide network, by the loop that keeps all outputs, by one that sums, and by ours."""
    for rows, width, n in [(2, 3, 4)] if small else [(1, 64, 100), (100, 100, 100), (2000, 500, 20)]:
        rng = np.random.default_rng(0)
        shapes = (rows, 20), (20, width), (width, 10)
        x, w1, w2 = (rng.standard_normal(shape, np.float32) for shape in shapes)

        def network(x: np.ndarray, key: fd.Key, w1: np.ndarray = w1, w2: np.ndarray = w2) -> np.ndarray:
            return fd.dropout(np.maximum(x @ w1, 0), 0.5, key) @ w2

        calls = {
            "all kept": lambda f=network, x=x, n=n: kept(f, x, n),
            "sums": lambda f=network, x=x, n=n: summed(f, x, n),
            "fastdrop": lambda f=network, x=x, n=n: fd.mc_predict(f, x, n, KEY),
            "2 threads": lambda f=network, x=x, n=n: fd.mc_predict(f, x, n, KEY, threads=2),
            "pairs": lambda f=network, x=x, n=n: fd.mc_predict(f, x, n, KEY, antithetic=True),
            "likelihood": lambda f=network, x=x, n=n, y=x @ w1 @ w2: fd.predictive_log_likelihood(
                f, x, y, 1.0, n, KEY
            ),
        }
        report(f"{rows} x {width}, {n} passes", calls, rounds)


def kept(f: Callable[..., np.ndarray], x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of an array of all outputs."""
    outputs = np.stack([f(x, KEY.fold_in(s)) for s in range(n)])
    return outputs.mean(0, dtype=np.float64), outputs.var(0, ddof=1, dtype=np.float64)


def summed(f: Callable[..., np.ndarray], x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance by sums and sums of squares, which a large mean would ruin."""
    total = squares = 0
    for s in range(n):
        y = f(x, KEY.fold_in(s)).astype(np.float64)
        total, squares = total + y, squares + y * y
    return total / n, (squares - total * total / n) / (n - 1)


def r_drop(rounds: int, small: bool) -> None:
    """Loss and both gradients of a batch."""
    for shape in [(2, 3)] if small else [(128, 10), (1024, 1000)]:
        rng = np.random.default_rng(0)
        logits = [rng.standard_normal(shape, np.float32) for _ in range(2)]
        labels = rng.integers(shape[1], size=shape[0])
        calls = {"fastdrop": lambda logits=logits, labels=labels: fd.r_drop_loss(*logits, labels)}
        report(f"R-Drop, {shape}", calls | torch_way(logits, labels), rounds)


def torch_way(logits: list[np.ndarray], labels: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same by autograd in PyTorch, where it is installed."""
    try:
        import torch
        from torch.nn.functional import kl_div, nll_loss
    except ImportError:
        return {}
    torch.set_num_threads(fd.get_num_threads())
    tensors, right = [torch.from_numpy(a).requires_grad_() for a in logits], torch.from_numpy(labels)

    def call() -> None:
        p, q = (torch.log_softmax(t, 1) for t in tensors)
        divergences = [kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p))]
        (0.5 * (nll_loss(p, right) + nll_loss(q, right) + sum(divergences))).backward()

    return {"PyTorch": call}


PARTS = (prediction, r_drop)

if __name__ == "__main__":
    run(PARTS, __doc__)
