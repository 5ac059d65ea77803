"""Attention with dropout, forward and backward, beside NumPy's formula with the whole matrix, in turns.

python benchmarks/attention.py [--rounds 31] [--threads 1]

Times are of the processor in the calling thread, the best of the rounds, for one weight of the matrix: they
hold on a machine that does other things too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from common import run, show
from threadpoolctl import threadpool_limits

import fastdrop as fd
from fastdrop._noises import attention as module

KEY, P, HEADS, WIDTH = fd.Key(0), 0.1, 8, 64
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Calls = dict[str, Callable[[], object]]


def inputs(length: int, small: bool) -> Arrays:
    """Queries, keys, values and a gradient of the output, of 2,048 places in all or more."""
    shape = (1, 2, length, 8) if small else (max(1, 2048 // length), HEADS, length, WIDTH)
    q, k, v, g = (np.random.default_rng(n).standard_normal(shape, np.float32) for n in range(4))
    return q, k, v, g


def peers(rounds: int, small: bool) -> None:
    """Beside the formula, whose masks are from fastdrop or from NumPy's fastest generator, or without any."""
    for length in (8,) if small else (32, 256, 1024, 2048):
        for causal in (False, True):
            arrays = inputs(length, small)
            calls: Calls = {
                "fastdrop": ours(arrays, causal),
                "fastdrop p=0": ours(arrays, causal, 0.0),
                "formula": formula(arrays, causal, fd_mask),
                "NumPy": formula(arrays, causal, numpy_mask),
                "formula p=0": formula(arrays, causal, None),
            }
            best(f"{'causal ' if causal else ''}attention over {length:,}", calls, arrays, rounds)


def buffers(rounds: int, small: bool) -> None:
    """By the bytes of a block."""
    before = module._BYTES
    try:
        for length in (8,) if small else (32, 256, 1024):
            arrays = inputs(length, small)
            calls = {f"2^{power}": sized(ours(arrays, False), 1 << power) for power in (20, 18, 19, 21, 22)}
            best(f"blocks, attention over {length:,}", calls, arrays, rounds)
    finally:
        module._BYTES = before


def best(name: str, calls: Calls, arrays: Arrays, rounds: int) -> None:
    """Show the least time of each call, for a weight, in ns."""
    with threadpool_limits(1, user_api="blas"):
        for call in calls.values():
            call()
        least = dict.fromkeys(calls, np.inf)
        for _ in range(rounds):
            for label, call in calls.items():
                start = time.thread_time()
                call()
                least[label] = min(least[label], time.thread_time() - start)
    scores = arrays[0].size // arrays[0].shape[-1] * arrays[0].shape[-2]
    show(name, {label: 1e9 * seconds / scores for label, seconds in least.items()}, "ns")


def ours(arrays: Arrays, causal: bool, p: float = P) -> Callable[[], object]:
    """By blocks."""
    q, k, v, g = arrays

    def call() -> None:
        fd.attention(q, k, v, p, KEY, is_causal=causal)
        fd.attention_backward(g, q, k, v, p, KEY, is_causal=causal)

    return call


def sized(call: Callable[[], object], size: int) -> Callable[[], object]:
    """The call with blocks of a size."""

    def resized() -> None:
        module._BYTES = size
        call()

    return resized


def fd_mask(weights: np.ndarray) -> np.ndarray:
    """What weights are multiplied by, from fastdrop."""
    return fd.dropout(np.ones_like(weights), P, KEY)


def numpy_mask(weights: np.ndarray) -> np.ndarray:
    """The same from NumPy's fastest generator."""
    keep = np.random.Generator(np.random.SFC64(0)).random(weights.shape, np.float32) >= P
    return keep * np.float32(1 / (1 - P))


def formula(
    arrays: Arrays, causal: bool, mask: Callable[[np.ndarray], np.ndarray] | None
) -> Callable[[], object]:
    """With the whole matrix, its mask kept for the backward pass, and most passes in place."""
    q, k, v, g = arrays
    scale = np.float32(q.shape[-1] ** -0.5)
    future = np.where(np.tri(q.shape[-2], dtype=bool), 0, -np.inf).astype(np.float32)

    def call() -> tuple[np.ndarray, ...]:
        weights = (q * scale) @ k.mT
        if causal:
            weights += future
        weights -= weights.max(-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(-1, keepdims=True)
        factor = mask(weights) if mask else None
        dropped = weights if factor is None else weights * factor
        y, dv = dropped @ v, dropped.mT @ g
        slopes = g @ v.mT
        if factor is not None:
            slopes *= factor
        slopes -= (slopes * weights).sum(-1, keepdims=True)
        slopes *= weights
        slopes *= scale
        return y, slopes @ k, slopes.mT @ q, dv

    return call


PARTS = (peers, buffers)

if __name__ == "__main__":
    run(PARTS, __doc__)
