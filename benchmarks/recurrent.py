"""Zoneout, masks of a cell, and dropout of words beside NumPy's ways, in turns.

python benchmarks/recurrent.py [--rounds 31] [--threads 1]
"""

from __future__ import annotations

from functools import partial

import numpy as np
from common import report, run

import fastdrop as fd

KEY = fd.Key(0)
P = 0.1


def zoneout(rounds: int, small: bool) -> None:
    """Forward and backward beside np.where of a mask that is drawn and stored."""
    rng = np.random.Generator(np.random.SFC64(0))
    for shape in [(2, 3)] if small else [(32, 128), (128, 512), (1024, 1024)]:
        new, previous = (rng.standard_normal(shape, np.float32) for _ in range(2))
        out = np.empty_like(new)

        def forward(new: np.ndarray = new, previous: np.ndarray = previous) -> np.ndarray:
            return np.where(rng.random(new.shape, np.float32) < P, previous, new)

        def backward(g: np.ndarray = new) -> tuple[np.ndarray, np.ndarray]:
            kept = rng.random(g.shape, np.float32) >= P
            return g * kept, g * ~kept

        ours = partial(fd.zoneout, new, previous, P, KEY, out=out)
        report(f"zoneout {shape}", {"np.where": forward, "fastdrop": ours}, rounds)
        both = {"NumPy": backward, "fastdrop": partial(fd.zoneout_backward, new, P, KEY)}
        report("  its backward", both, rounds)


def cell(rounds: int, small: bool) -> None:
    """The state's masks beside the matrix product that they come before; making all of a sequence's masks."""
    for batch, units in [(2, 3)] if small else [(32, 128), (128, 512)]:
        h, weights = np.ones((batch, units), np.float32), np.ones((4, units, units), np.float32)
        wide = np.ones((units, 4 * units), np.float32)
        noise, tied = (fd.RecurrentDropout(P, P, tied=tied, rng=KEY) for tied in (False, True))
        of_gates, of_all, g = noise().recurrent, tied().recurrent, np.ones((4, batch, units), np.float32)
        out = np.empty_like(g)
        calls = {
            "product": partial(np.matmul, h, wide),
            "of gates": partial(np.matmul, g, weights),
            "masks": partial(of_gates, h, out=out),
            "tied": partial(of_all, h),
            "backward": partial(of_gates.backward, g),
            "a sequence": noise,
        }
        report(f"cell ({batch}, {units})", calls, rounds)


def words(rounds: int, small: bool) -> None:
    """Embeddings beside the plain look-up and a dropped copy of the table; tokens beside np.where."""
    rng = np.random.Generator(np.random.SFC64(0))
    for vocabulary, features, n in [(5, 3, 4)] if small else [(10_000, 128, 2000), (50_000, 512, 4000)]:
        weight = np.ones((vocabulary, features), np.float32)
        tokens = rng.integers(vocabulary, size=n)
        g = weight[tokens]

        def copied(weight: np.ndarray = weight, tokens: np.ndarray = tokens) -> np.ndarray:
            kept = rng.random((len(weight), 1), np.float32) >= P
            return (weight * kept / np.float32(1 - P))[tokens]

        def added(g: np.ndarray = g, tokens: np.ndarray = tokens, v: int = vocabulary) -> np.ndarray:
            dweight = np.zeros((v, g.shape[1]), g.dtype)
            np.add.at(dweight, tokens, g)
            return dweight

        calls = {
            "look-up": partial(np.take, weight, tokens, 0),
            "fastdrop": partial(fd.embedding_dropout, tokens, weight, P, KEY),
            "dropped copy": copied,
        }
        report(f"words {vocabulary}, {n} tokens", calls, rounds)
        backward = partial(fd.embedding_dropout_backward, g, tokens, P, KEY, vocabulary=vocabulary)
        report("  backward", {"np.add.at": added, "fastdrop": backward}, rounds)
    tokens = rng.integers(5000, size=8 if small else 1 << 20)
    calls = {
        "np.where": lambda: np.where(
            (rng.random(tokens.size, np.float32) < P) & ~np.isin(tokens, (0, 1, 2)), 3, tokens
        ),
        "fastdrop": partial(fd.token_dropout, tokens, P, KEY, replacement=3, protected=(0, 1, 2)),
    }
    report(f"{tokens.size} tokens", calls, rounds)


PARTS = (zoneout, cell, words)

if __name__ == "__main__":
    run(PARTS, __doc__)
