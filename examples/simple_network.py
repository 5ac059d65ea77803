"""Train a two-layer network on handwritten digits with and without dropout, and time the dropout.

    python examples/simple_network.py
    python examples/simple_network.py --data digits --epochs 10 --seeds 3 --out curves.png

Dropout acts on the input and on the hidden layer, never on the output, and is off in evaluation. The
same loop also runs with dropout as NumPy tutorials write it, to compare the time. With --help: options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

try:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from numpy.typing import NDArray
    from parts import SGD, accuracy, batches, cross_entropy, load
    from results import mean_and_error, new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the demo needs {error.name}; use pip install '.[demo]'") from None

BATCH = 32
LEARNING_RATE = 0.01
EPOCHS = {"digits": 45, "mnist": 16}  # about 2000 steps each


class TutorialDropout:
    """Dropout as NumPy tutorials write it: draw a mask, store it, multiply, divide.

    Two faults are mended: the gradient is divided too, and the mask has x's dtype, since the integers
    of `binomial` would turn the rest of a float32 network into float64.
    """

    def __init__(self, p: float, *, rng: fd.Key) -> None:
        self.keep = 1 - p
        # A Generator's binomial was measured no slower than np.random.binomial, and has no global state.
        self.rng = np.random.default_rng(rng.seed)

    def forward(self, x: NDArray, training: bool = True) -> NDArray:
        """Return x with elements dropped in training, x itself in evaluation."""
        if not training:
            return x
        self.mask = self.rng.binomial(1, self.keep, x.shape).astype(x.dtype)
        return x * self.mask / self.keep

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient with respect to the x of the last forward in training."""
        return g * self.mask / self.keep


Layer = fd.Dropout | TutorialDropout
RATES = (0.2, 0.5)  # on the input and on the hidden layer
VARIANTS: dict[str, tuple[type[Layer], tuple[float, float]]] = {
    "none": (fd.Dropout, (0.0, 0.0)),
    "fastdrop": (fd.Dropout, RATES),
    "NumPy": (TutorialDropout, RATES),
}


class Timed:
    """A dropout layer with the seconds that its calls took; in evaluation it only returns its input."""

    def __init__(self, layer: Layer) -> None:
        self.seconds = 0.0
        self.forward, self.backward = self._timed(layer.forward), self._timed(layer.backward)

    def _timed(self, call: Callable[..., NDArray]) -> Callable[..., NDArray]:
        def timed(*args: NDArray | bool) -> NDArray:
            start = perf_counter()
            y = call(*args)
            self.seconds += perf_counter() - start
            return y

        return timed


class Network:
    """Dropout, dense, ReLU, dropout, dense; He's initial weights, biases from 0, softmax cross-entropy.

    `sizes` are inputs, hidden units and classes, `drops` the dropout layers of input and hidden layer.
    """

    def __init__(
        self, sizes: Sequence[int], drops: Sequence, rng: np.random.Generator, dtype: type = np.float32
    ) -> None:
        self.drops = drops
        self.parameters: list[NDArray] = []
        for fan_in, fan_out in pairwise(sizes):
            weights = rng.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out))
            self.parameters += [weights.astype(dtype), np.zeros(fan_out, dtype)]

    def forward(self, x: NDArray, training: bool) -> tuple[NDArray, tuple[NDArray, NDArray, NDArray]]:
        """Return the logits, and (dropped input, hidden layer, dropped hidden layer) for the gradients."""
        w1, b1, w2, b2 = self.parameters
        x = self.drops[0].forward(x, training)
        hidden = np.maximum(x @ w1 + b1, 0)
        dropped = self.drops[1].forward(hidden, training)
        return dropped @ w2 + b2, (x, hidden, dropped)

    def loss_and_gradients(self, x: NDArray, labels: NDArray) -> tuple[float, list[NDArray]]:
        """Return the mean loss in training and its gradients in the order of `parameters`."""
        logits, (x, hidden, dropped) = self.forward(x, training=True)
        loss, g = cross_entropy(logits, labels)
        # Nothing lies below the input, so its dropout needs no backward.
        g_hidden = self.drops[1].backward(g @ self.parameters[2].T) * (hidden > 0)
        gradients = [x.T @ g_hidden, g_hidden.sum(axis=0), dropped.T @ g, g.sum(axis=0)]
        return loss, gradients

    def accuracy(self, x: NDArray, labels: NDArray) -> float:
        """Return the percentage of right labels, with dropout off."""
        return accuracy(self.forward(x, training=False)[0], labels)


class Run(NamedTuple):
    """One trained network: accuracies (%) per epoch, seconds of training and of dropout in it."""

    train: list[float]
    test: list[float]
    seconds: float
    dropout: float


Results = dict[str, dict[str, list[Run]]]  # by data set and variant, a run for each seed


def train(
    data: Sequence[NDArray], variant: str, seed: int, hidden: int, epochs: int, tick: Callable = int
) -> Run:
    """Train one network by mini-batches, and evaluate it and call tick() after each epoch."""
    x_train, x_test, y_train, y_test = data
    rng, key = np.random.default_rng(seed), fd.Key(seed)
    layer, rates = VARIANTS[variant]
    drops = [Timed(layer(p, rng=key.fold_in(number))) for number, p in enumerate(rates)]
    network = Network((x_train.shape[1], hidden, 10), drops, rng)
    optimiser = SGD(network.parameters, LEARNING_RATE)
    on_train, on_test, seconds = [], [], 0.0
    for _ in range(epochs):
        start = perf_counter()
        for batch in batches(len(x_train), BATCH, rng):
            _, gradients = network.loss_and_gradients(x_train[batch], y_train[batch])
            optimiser.step(gradients)
        seconds += perf_counter() - start
        on_train.append(network.accuracy(x_train, y_train))
        on_test.append(network.accuracy(x_test, y_test))
        tick()
    return Run(on_train, on_test, seconds, sum(drop.seconds for drop in drops))


def train_all(epochs: dict[str, int], seeds: int, hidden: int) -> Results:
    """Train every variant with every seed on each data set that has a number of epochs."""
    # Numba compiles at the first call, the first time ever for seconds: that is no part of training.
    fd.Dropout(0.5, rng=0)(np.ones(8, np.float32))
    results: Results = {name: {variant: [] for variant in VARIANTS} for name in epochs}
    # One BLAS thread, for steady times: with two cores, two threads took 0.7 times as long on a quiet
    # machine, but 2 to 30 times beside another busy process.
    with (
        threadpool_limits(1, user_api="blas"),
        tqdm(total=sum(epochs.values()) * seeds * len(VARIANTS), unit=" epochs") as bar,
    ):
        for name, runs in results.items():
            bar.set_description(name)
            data = load(name)
            for seed in range(seeds):
                for variant in VARIANTS:  # in alternation, so that all meet the same state of the machine
                    runs[variant].append(train(data, variant, seed, hidden, epochs[name], bar.update))
    return results


def table(results: Results, title: str) -> Table:
    """Return accuracies after the last epoch, and seconds of training of one network."""
    out = new_table(title, ("data", "dropout"), ("train %", "test %", "seconds", "in dropout", "share"))
    for name, variants in results.items():
        for variant, runs in variants.items():
            accuracies = with_errors([(r.train[-1], r.test[-1]) for r in runs])
            seconds, dropout = (np.mean([r.seconds for r in runs]), np.mean([r.dropout for r in runs]))
            times = ["-", "-"] if variant == "none" else [f"{dropout:.3f}", f"{dropout / seconds:.1%}"]
            out.add_row(name, variant, *accuracies, f"{seconds:.2f}", *times)
        out.add_section()
    return out


def time_sentence(name: str, variants: dict[str, list[Run]]) -> str:
    """Return what dropout took of the training time, with fastdrop and with NumPy."""
    ours, theirs = (np.sum([r[2:] for r in variants[label]], axis=0) for label in ("fastdrop", "NumPy"))
    return (
        f"{name}: dropout took {ours[1] / ours[0]:.1%} of the training time with fastdrop and "
        f"{theirs[1] / theirs[0]:.1%} with NumPy: {theirs[1] / ours[1]:.1f} times the seconds in dropout, "
        f"{theirs[0] / ours[0]:.2f} times in all."
    )


def draw(axes: Axes, runs: Sequence[Run], legend: str, colour: str) -> None:
    """Draw test and train error per epoch with a band of the standard error."""
    for part, line in (("test", "-"), ("train", "--")):
        mean, error = mean_and_error([100 - np.array(getattr(run, part)) for run in runs])
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, line, color=colour, label=f"{part}, {legend}")
        axes.fill_between(epochs, mean - error, mean + error, color=colour, alpha=0.25, linewidth=0)


def save_curves(results: Results, path: Path) -> None:
    """Write a PNG with a panel for each data set."""
    figure = Figure(figsize=(5.5 * len(results), 4.2), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (name, runs) in zip(panels, results.items(), strict=True):
        draw(axes, runs["none"], "no dropout", "C1")
        draw(axes, runs["fastdrop"], "dropout", "C0")
        axes.set(title=name, xlabel="epoch", ylabel="error (%), mean ± standard error", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, format="png", dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    arguments = parser(__file__, __doc__, seeds=5, each="networks of each kind")
    add = arguments.add_argument
    add("--epochs", type=positive, help=f"passes over the training set (default: {EPOCHS})")
    add("--hidden", type=positive, default=512, help="hidden units (default: %(default)s)")
    add("--data", choices=[*EPOCHS, "both"], default="both", help="(default: %(default)s)")
    return arguments.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo."""
    options = parse(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    epochs = {n: options.epochs or EPOCHS[n] for n in EPOCHS if options.data in (n, "both")}
    results = train_all(epochs, options.seeds, options.hidden)
    lengths = ", ".join(f"{number} epochs of {name}" for name, number in epochs.items())
    title = (
        f"{options.hidden} hidden units, dropout {RATES}, {lengths};\n"
        f"mean ± standard error over {options.seeds} seeds (from 0); times are those of one network"
    )
    save_curves(results, options.out)
    sentences = [time_sentence(*item) for item in results.items()]
    publish(__file__, options, [table(results, title)], "Learning curves", sentences)


if __name__ == "__main__":
    main()
