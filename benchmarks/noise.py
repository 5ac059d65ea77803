"""Gaussian noise, alpha dropout and fused passes beside NumPy's and PyTorch's ways, in turns.

python benchmarks/noise.py [--rounds 31] [--threads 1]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from common import report, run

import fastdrop as fd

KEY = fd.Key(0)
Calls = dict[str, Callable[[], object]]


def gaussian(rounds: int, small: bool) -> None:
    """Gaussian dropout beside the best NumPy idiom, PyTorch, and the limits."""
    for size in (64,) if small else (1 << 16, 1 << 20):
        for dtype in (np.float32, np.float64):
            x = np.random.default_rng(0).standard_normal(size).astype(dtype)
            y = np.ones_like(x)
            calls = {
                "fastdrop": lambda x=x, y=y: fd.gaussian_dropout(x, 0.2, KEY, out=y),
                "np.multiply": lambda x=x, y=y: np.multiply(x, 2, out=y),
                "fd.gaussian_noise": lambda x=x, y=y: fd.gaussian_noise(x, 0.5, KEY, out=y),
                "NumPy": numpy_gaussian(x, y),
            }
            report(f"Gaussian, {size} {x.dtype}", calls | torch_gaussian(x), rounds)


def numpy_gaussian(x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """Buffers reused, draws of the dtype, NumPy's fastest generator."""
    rng, noise = np.random.Generator(np.random.SFC64(0)), np.empty_like(x)

    def call() -> None:
        rng.standard_normal(out=noise, dtype=x.dtype.type)
        np.multiply(noise, x.dtype.type(0.5), out=noise)
        np.add(noise, x.dtype.type(1), out=noise)
        np.multiply(x, noise, out=y)

    return call


def torch_gaussian(x: np.ndarray) -> Calls:
    """The usual line in PyTorch, where it is installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(fd.get_num_threads())
    tensor = torch.from_numpy(x)
    return {"PyTorch": lambda: tensor * (1 + 0.5 * torch.randn_like(tensor))}


def alpha(rounds: int, small: bool) -> None:
    """Alpha dropout, by element and by feature."""
    x = np.random.default_rng(0).standard_normal((4, 4, 4) if small else (32, 64, 3136), dtype=np.float32)
    y = np.ones_like(x)
    for p in (0.1, 0.5):
        calls: Calls = {
            "np.multiply": lambda: np.multiply(x, 2, out=y),
            "dropout": lambda p=p: fd.dropout(x, p, KEY, out=y),
            "alpha": lambda p=p: fd.alpha_dropout(x, p, KEY, out=y),
            "by feature": lambda p=p: fd.alpha_dropout(x, p, KEY, shared_axes=2, out=y),
        }
        report(f"alpha, p={p}", calls, rounds)


def fused(rounds: int, small: bool) -> None:
    """Fused passes beside fastdrop's own steps one by one, as multiples of np.add of two arrays."""
    shape = (8, 16) if small else (1 << 14, 1 << 10)
    x, r = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    y, t, g = np.ones_like(x), np.ones_like(x), x.copy()
    bias = np.ones(shape[1], np.float32)

    def add_steps(p: float) -> None:
        fd.dropout(x, p, KEY, out=t)
        np.add(t, r, out=y)

    def relu_steps(p: float) -> None:
        np.add(x, bias, out=t)
        np.maximum(t, 0, out=t)
        fd.dropout(t, p, KEY, out=y)

    def backward_steps(p: float) -> None:
        np.add(x, bias, out=t)
        fd.dropout_backward(g, p, KEY, out=y)
        np.multiply(y, t > 0, out=y)
        y.sum(0)

    for p in (0.1, 0.5):
        base: Calls = {"np.add": lambda: np.add(x, r, out=y)}
        passes: dict[str, Calls] = {
            "dropout_add": {
                "fused": lambda p=p: fd.dropout_add(x, r, p, KEY, out=y),
                "steps": lambda p=p: add_steps(p),
            },
            "bias_act_dropout, relu": {
                "fused": lambda p=p: fd.bias_act_dropout(x, bias, p, KEY, out=y),
                "steps": lambda p=p: relu_steps(p),
            },
            "its backward": {
                "fused": lambda p=p: fd.bias_act_dropout_backward(g, x, bias, p, KEY, out=y),
                "steps": lambda p=p: backward_steps(p),
            },
            "other activations": {
                name: lambda p=p, name=name: fd.bias_act_dropout(x, bias, p, KEY, activation=name, out=y)
                for name in ("gelu", "gelu_tanh", "silu")
            },
        }
        for name, calls in passes.items():
            report(f"{name}, p={p}", base | calls, rounds)


def concrete(rounds: int, small: bool) -> None:
    """Concrete dropout beside its formula in NumPy, as it is written and in the fewest passes."""
    x = np.random.default_rng(0).standard_normal(64 if small else 1 << 20, dtype=np.float32)
    y, u, rng = np.ones_like(x), np.empty_like(x), np.random.Generator(np.random.SFC64(0))
    p, t, tiny = np.float32(0.1), np.float32(0.1), np.float32(1e-7)
    logit = np.log(p / (1 - p))

    def uniforms() -> np.ndarray:
        rng.random(out=u, dtype=np.float32)
        return np.clip(u, tiny, 1 - tiny, out=u)

    def formula() -> np.ndarray:
        u = uniforms()
        z = 1 / (1 + np.exp(-(logit + np.log(u) - np.log(1 - u)) / t))
        return x * (1 - z) / (1 - p)

    def tutorial() -> np.ndarray:
        u = np.random.uniform(size=x.shape)  # noqa: NPY002
        z = 1 / (1 + np.exp(-(logit + np.log(u) - np.log(1 - u)) / t))
        return x * (1 - z) / (1 - p)

    def passes() -> None:
        u = uniforms()
        np.divide(u, 1 - u, out=u)
        np.multiply(u, np.exp(logit), out=u)
        np.power(u, 1 / t, out=u)  # the exponential of the relaxed logit
        np.add(u, 1, out=u)
        np.multiply(u, 1 - p, out=u)
        np.divide(x, u, out=y)

    def silent(call: Callable[[], object]) -> Callable[[], object]:
        return np.errstate(over="ignore")(call)

    calls: Calls = {
        "fastdrop": lambda: fd.concrete_dropout(x, logit, KEY, out=y),
        "backward": lambda: fd.concrete_dropout_backward(y, x, logit, KEY, out=y),
        "tutorial's NumPy": tutorial,
        "in float32": silent(formula),
        "in the fewest passes": silent(passes),
    }
    report(f"concrete, {x.size} float32", calls, rounds)


def rates(rounds: int, small: bool) -> None:
    """Adaptive and standout dropout beside dropout, forward and backward."""
    h, a = np.random.default_rng(0).standard_normal(
        (2, *((4, 8) if small else (512, 2048))), dtype=np.float32
    )
    y = np.ones_like(h)
    adaptive, standout = fd.AdaptiveDropout(0.5, rng=0), fd.StandoutDropout(rng=0)
    calls: Calls = {
        "dropout": lambda: fd.dropout(h, 0.5, KEY, out=y),
        "adaptive": lambda: adaptive(h, out=y),
        "its backward": lambda: fd.dropout_backward(a, adaptive.rates, KEY, out=y),
        "standout": lambda: standout(h, a, out=y),
    }
    report("rates by activation", calls, rounds)


PARTS = (gaussian, concrete, rates, alpha, fused)

if __name__ == "__main__":
    run(PARTS, __doc__)
