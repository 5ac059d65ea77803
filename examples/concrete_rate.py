"""Learn the rates of concrete dropout on synthetic regression: more data, less dropout.

    python examples/concrete_rate.py
    python examples/concrete_rate.py --examples 10 1000 --steps 500 --seeds 2 --out rates.png

The data are ``y = 2 x + 8`` with noise of standard deviation 1, as in the paper (Gal, Hron, Kendall, arXiv
1705.07832, section 4.1). Two hidden layers stand between three layers of concrete dropout, all of which start
at p = 0.1. The fewer the examples, the less the network knows, and the more dropout it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

try:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from parts import Adam
    from results import new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

FIRST_RATE = 0.1
LENGTH_SCALE = 1e-2
PRECISION = 1.0  # of the model: the noise has variance 1
BATCH = 100
LEARNING_RATE = 1e-2


class Network:
    """Dropout, dense, ReLU, and again, dropout, dense; the mean squared error and its regularizer."""

    def __init__(self, sizes: Sequence[int], examples: int, seed: int) -> None:
        rng, key = np.random.default_rng(seed), fd.Key(seed)
        self.drops = [fd.ConcreteDropout(FIRST_RATE, rng=key.fold_in(n)) for n in range(len(sizes) - 1)]
        self.weights = [rng.normal(0, np.sqrt(2 / n), (n, m)) for n, m in pairwise(sizes)]
        self.biases = [np.zeros(m) for m in sizes[1:]]
        self.scales = {
            "weight_scale": LENGTH_SCALE**2 / (PRECISION * examples),
            "entropy_scale": 2 / (PRECISION * examples),
        }

    @property
    def parameters(self) -> list[NDArray]:
        """What is learned, in the order of the gradients."""
        return [*self.weights, *self.biases, *(drop.logit for drop in self.drops)]

    def loss_and_gradients(self, x: NDArray, y: NDArray) -> tuple[float, list[NDArray]]:
        """Return the mean squared error and the regularizers, and their gradients."""
        dropped, hiddens, inputs = [], [], x
        for layer, (drop, w, b) in enumerate(zip(self.drops, self.weights, self.biases, strict=True)):
            drop.zero_grad()
            hiddens.append(inputs)
            dropped.append(drop(inputs))
            inputs = dropped[-1] @ w + b
            if layer < len(self.weights) - 1:
                inputs = np.maximum(inputs, 0)
        error = inputs - y
        loss, g = float(np.square(error).mean()), 2 * error / len(x)
        weights, biases = [np.zeros_like(w) for w in self.weights], [np.zeros_like(b) for b in self.biases]
        for layer in reversed(range(len(self.weights))):
            weights[layer] += dropped[layer].T @ g
            biases[layer] += g.sum(0)
            below = self.drops[layer].backward(g @ self.weights[layer].T)
            g = below * (hiddens[layer] > 0) if layer else below
            loss += self.drops[layer].regularizer(self.weights[layer], weights[layer], **self.scales)
        return loss, [*weights, *biases, *(drop.logit_grad for drop in self.drops)]


def data(examples: int, seed: int) -> tuple[NDArray, NDArray]:
    """Return x and y of shape (examples, 1)."""
    rng = np.random.default_rng([seed, examples])
    x = rng.normal(size=(examples, 1))
    return x, 2 * x + 8 + rng.normal(size=x.shape)


def train(examples: int, seed: int, hidden: int, steps: int, tick: tqdm) -> NDArray:
    """Train one network and return its rates after each step, (steps, layers)."""
    x, y = data(examples, seed)
    network = Network((1, hidden, hidden, 1), examples, seed)
    adam, rng = Adam(network.parameters, LEARNING_RATE), np.random.default_rng(seed)
    rates = np.empty((steps, len(network.drops)))
    for step in range(steps):
        batch = rng.integers(examples, size=min(BATCH, examples))
        adam.step(network.loss_and_gradients(x[batch], y[batch])[1])
        rates[step] = [drop.p for drop in network.drops]
        tick.update()
    return rates


def table(results: dict[int, NDArray], title: str) -> Table:
    """Return the rates learned, for each number of examples."""
    out = new_table(title, ["examples"], ["p of the input", "p of layer 1", "p of layer 2"])
    for examples, rates in results.items():
        out.add_row(str(examples), *with_errors(rates[:, -1], 3))
    return out


def save_curves(results: dict[int, NDArray], path: Path) -> None:
    """Write a PNG with the rates of each layer over the steps, a mean over seeds."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for layer, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        for examples, rates in results.items():
            axes.plot(rates.mean(0)[:, layer], label=f"{examples} examples")
        axes.set(title=f"dropout {layer + 1}", xlabel="step")
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="learned p", ylim=(0, None))  # shared
    figure.axes[0].legend()
    figure.savefig(path, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    arguments = parser(__file__, __doc__, seeds=3, each="networks of each kind")
    add = arguments.add_argument
    add("--examples", type=positive, nargs="+", default=[10, 100, 1000, 10000], help="(default: %(default)s)")
    add("--steps", type=positive, default=2000, help="updates of a network (default: %(default)s)")
    add("--hidden", type=positive, default=64, help="units of a hidden layer (default: %(default)s)")
    options = arguments.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    total = len(options.examples) * options.seeds * options.steps
    with threadpool_limits(1, user_api="blas"), tqdm(total=total, unit=" steps") as bar:
        results = {
            n: np.array([train(n, s, options.hidden, options.steps, bar) for s in range(options.seeds)])
            for n in options.examples
        }
    title = (
        f"Rates after {options.steps} steps from {FIRST_RATE}; mean ± standard error, {options.seeds} seeds"
    )
    save_curves(results, options.out)
    publish(__file__, options, [table(results, title)], "Learned rates")


if __name__ == "__main__":
    main()
