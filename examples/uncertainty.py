"""Fit noisy points with a gap between them, and draw how sure Monte-Carlo dropout is of the curve.

    python examples/uncertainty.py
    python examples/uncertainty.py --samples 1000 --seeds 3 --out bands.png

Every pass with dropout is a sub-network with a curve of its own. Their mean is the prediction, and their
variance, with that of the noise, its uncertainty. The table has the log-likelihood of points that were held
out, near the training points and in the gap, beside that of networks without dropout. With --help: options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from numpy.typing import NDArray
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from simple_network import mean_and_error, positive
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

NOISE = 0.1  # standard deviation of the points about the true curve, known to all networks
TAU = NOISE**-2
GAP = (-0.3, 0.5)
LEARNING_RATE = 0.003


def curve(x: NDArray) -> NDArray:
    """Return the true curve."""
    return np.sin(4 * x) * x + 0.3 * x


def points(n: int, rng: np.random.Generator, low: float, high: float) -> tuple[NDArray, NDArray]:
    """Return n noisy points with x uniform between two limits, each of shape (n, 1)."""
    x = rng.uniform(low, high, (n, 1))
    return x, curve(x) + rng.normal(0, NOISE, x.shape)


def training_points(n: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Return n points of which half lie on each side of the gap."""
    sides = points(n // 2, rng, -1, GAP[0]), points(n - n // 2, rng, GAP[1], 1)
    return np.concatenate([x for x, _ in sides]), np.concatenate([y for _, y in sides])


class Network:
    """Dense layers with tanh and dropout between them, and one number out.

    `parameters` are weights and biases in turn; p is the rate, on what goes into every dense layer but the first.
    """

    def __init__(self, sizes: Sequence[int], p: float, rng: np.random.Generator) -> None:
        self.p = p
        self.parameters: list[NDArray] = []
        for fan_in, fan_out in pairwise(sizes):
            self.parameters += [rng.normal(0, fan_in**-0.5, (fan_in, fan_out)), rng.normal(0, 1, fan_out)]
        self.parameters[-1] *= 0

    def layers(self, x: NDArray, key: fd.Key | None) -> list[NDArray]:
        """Return what goes into each dense layer, then the output; no dropout without a key."""
        inputs = [x]
        weights, biases = self.parameters[::2], self.parameters[1::2]
        for number, (w, b) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            hidden = np.tanh(inputs[-1] @ w + b)
            inputs.append(hidden if key is None else fd.dropout(hidden, self.p, key.fold_in(number)))
        return [*inputs, inputs[-1] @ weights[-1] + biases[-1]]
