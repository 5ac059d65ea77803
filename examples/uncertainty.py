"""Fit noisy points with a gap between them, and draw how sure Monte-Carlo dropout is of the curve.

    python examples/uncertainty.py
    python examples/uncertainty.py --samples 1000 --seeds 3 --out bands.png

Each pass with one mask for all points is a sub-network with a curve of its own. Their mean is the prediction;
their variance, with that of the noise, says how sure it is. In the gap the bands widen, and yet the true
curve may leave them. The table has the log-likelihood of points that were held out, near the training points
and in the gap, beside that of networks without dropout. The settings were chosen looking at these numbers:
they show what Monte-Carlo dropout does here, and prove nothing beyond. With --help: options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

try:
    import numpy as np
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from numpy.typing import NDArray
    from parts import Adam
    from results import new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

NOISE = 0.1  # standard deviation of the points about the true curve; all networks are told it
TAU = NOISE**-2
GAP = (-0.3, 0.5)
P = 0.1
LEARNING_RATE = 0.005
ROWS = ("trained without dropout", "trained with, then off", "MC dropout")
REGIONS = ("near training points", "in the gap")


def curve(x: NDArray) -> NDArray:
    """Return the true curve."""
    return np.sin(4 * x) * x + 0.3 * x


def points(n: int, rng: np.random.Generator, *sides: tuple[float, float]) -> tuple[NDArray, NDArray]:
    """Return noisy points of shape (n times sides, 1), with n values of x uniform in each side."""
    x = np.concatenate([rng.uniform(low, high, (n, 1)) for low, high in sides])
    return x, curve(x) + rng.normal(0, NOISE, x.shape)


class Network:
    """Dense layers with ReLU and dropout between them, and one number out.

    `parameters` are weights and biases in turn. Dropout is before each dense layer but the first, whose
    one input it would drop whole.
    """

    def __init__(self, sizes: Sequence[int], p: float, rng: np.random.Generator) -> None:
        self.p = p
        self.parameters: list[NDArray] = []
        for fan_in, fan_out in pairwise(sizes):
            weights = rng.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out))
            self.parameters += [weights, rng.normal(0, 0.5, fan_out)]  # kinks all along the axis

    def layers(self, x: NDArray, key: fd.Key | None, shared_axes: tuple[int, ...] = ()) -> list[NDArray]:
        """Return the input of each dense layer, and the output; nothing is dropped without a key."""
        (*hidden, last), (*biases, shift) = self.parameters[::2], self.parameters[1::2]
        inputs = [x]
        for number, (weights, bias) in enumerate(zip(hidden, biases, strict=True)):
            h = np.maximum(inputs[-1] @ weights + bias, 0)
            if key is not None:
                h = fd.dropout(h, self.p, key.fold_in(number), shared_axes=shared_axes)
            inputs.append(h)
        return [*inputs, inputs[-1] @ last + shift]

    def __call__(self, x: NDArray, key: fd.Key | None = None) -> NDArray:
        """Return the output: with a key, that of one sub-network for all of x."""
        return self.layers(x, key, shared_axes=(0,))[-1]

    def loss_and_gradients(self, x: NDArray, y: NDArray, key: fd.Key) -> tuple[float, list[NDArray]]:
        """Return the mean squared error of one pass, and its gradients in the order of `parameters`."""
        *inputs, output = self.layers(x, key)
        error = output - y
        g, gradients = 2 * error / error.size, []
        for number in reversed(range(len(inputs))):
            gradients += [g.sum(0), inputs[number].T @ g]
            if number:
                g = fd.dropout_backward(g @ self.parameters[2 * number].T, self.p, key.fold_in(number - 1))
                g *= inputs[number] > 0  # of what was kept; the rest is 0 already
        return float(np.square(error).mean()), gradients[::-1]


def train(network: Network, x: NDArray, y: NDArray, steps: int, key: fd.Key) -> None:
    """Move the parameters by Adam on all points at once, under a new key each step."""
    adam = Adam(network.parameters, LEARNING_RATE)
    for step in range(1, steps + 1):
        adam.step(network.loss_and_gradients(x, y, key.fold_in(step))[1])


class Run(NamedTuple):
    """What one seed gave: its points, both networks, and mean log-likelihoods by row and region."""

    x: NDArray
    y: NDArray
    without: Network
    dropped: Network
    likelihoods: NDArray


def run(seed: int, width: int, steps: int, samples: int) -> Run:
    """Train a network without dropout and one with it, from the same weights on the same points."""
    rng, key = np.random.default_rng(seed), fd.Key(seed)
    sides = (-1, GAP[0]), (GAP[1], 1)
    x, y = points(20, rng, *sides)
    held_out = points(200, rng, *sides), points(400, rng, GAP)
    networks = [Network((1, width, width, 1), p, np.random.default_rng(seed)) for p in (0, P)]
    for network in networks:
        train(network, x, y, steps, key.fold_in(0))
    without, dropped = networks
    passes = (lambda x, _: without(x), 1), (lambda x, _: dropped(x), 1), (dropped, samples)
    likelihoods = [[likelihood(f, *part, n, key.fold_in(1)) for part in held_out] for f, n in passes]
    return Run(x, y, without, dropped, np.array(likelihoods))


def likelihood(f: Callable, x: NDArray, y: NDArray, n: int, key: fd.Key) -> float:
    """Return the mean log-likelihood of points over n passes."""
    return float(fd.predictive_log_likelihood(f, x, y, TAU, n, key).mean())


def table(runs: Sequence[Run], title: str) -> Table:
    """Return log-likelihoods, and by how much Monte-Carlo dropout exceeds the others in the same seeds."""
    out = new_table(title, ["log-likelihood of a point"], REGIONS)
    found = np.array([run.likelihoods for run in runs])
    exceeds = found[:, 2:] - found[:, :2]
    for rows, values in ((ROWS, found), ([f"MC dropout minus {row}" for row in ROWS[:2]], exceeds)):
        for label, each in zip(rows, np.swapaxes(values, 0, 1), strict=True):
            out.add_row(label, *with_errors(each))
        out.add_section()
    return out


def save_bands(run: Run, samples: int, key: fd.Key, path: Path) -> None:
    """Write a PNG of one seed's points, curves and bands."""
    x = np.linspace(-1.3, 1.3, 400)[:, None]
    found = fd.mc_predict(run.dropped, x, samples, key, progress=True)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes, line = figure.subplots(), x[:, 0]
    for variance, alpha, label in (
        (found.variance + 1 / TAU, 0.15, "with the noise"),
        (found.variance, 0.35, "of the network"),
    ):
        low, high = ((found.mean + side * 2 * np.sqrt(variance))[:, 0] for side in (-1, 1))
        axes.fill_between(line, low, high, color="C0", alpha=alpha, linewidth=0, label=f"± 2 sd {label}")
    for sample in range(5):
        axes.plot(line, run.dropped(x, key.fold_in(sample)), color="C0", linewidth=0.5)
    axes.plot(line, found.mean, color="C0", label="MC dropout, mean")
    axes.plot(line, run.without(x), "--", color="C1", label="without dropout")
    axes.plot(line, curve(x), ":", color="black", label="true curve")
    axes.plot(run.x, run.y, ".", color="black", label="training points")
    axes.set(xlabel="x", ylabel="y", ylim=(-1.6, 1.6))
    axes.legend(ncols=2)
    figure.savefig(path, format="png", dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    arguments = parser(__file__, __doc__, seeds=8, each="pairs of networks")
    add = arguments.add_argument
    add("--steps", type=positive, default=3000, help="of training (default: %(default)s)")
    add("--width", type=positive, default=100, help="units of a hidden layer (default: %(default)s)")
    add("--samples", type=positive, default=200, help="passes with dropout (default: %(default)s)")
    return arguments.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    options = parse(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = options.width, options.steps, options.samples
    with threadpool_limits(1, user_api="blas"):  # products this small gain nothing from threads
        runs = [run(seed, *settings) for seed in tqdm(range(options.seeds), unit=" seeds")]
        save_bands(runs[0], options.samples, fd.Key(0).fold_in(1), options.out)
    title = (
        f"2 x {options.width} hidden units, dropout {P}, {options.samples} passes, noise {NOISE};\n"
        f"mean ± standard error over {options.seeds} seeds (from 0)"
    )
    publish(__file__, options, [table(runs, title)], "Bands")


if __name__ == "__main__":
    main()
