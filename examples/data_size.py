"""How much dropout gains as the training set grows: an accuracy for each size, with and without.

    python examples/data_size.py
    python examples/data_size.py --sizes 100 1000 --steps 500 --seeds 3

After Srivastava et al. (JMLR 15, 2014), section 7.4, on up to 4000 images of MNIST: the same network and
rates for every size, from the same weights, on the same images in the same order, with and without dropout.
Each seed draws its training sets from those that aren't test images. All networks make the same number of
updates. With --help: options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

try:
    import numpy as np
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from numpy.typing import NDArray
    from parts import Adam, Data, Dense, ReLU, Sequential, accuracy, load, split, train_epoch
    from results import mean_and_error, new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

BATCH = 50
LEARNING_RATE = 1e-3
RATES = (0.2, 0.5, 0.5)  # of the input and of both hidden layers
SIZES = (100, 500, 1000, 4000)
Gains = dict[int, NDArray]  # by size, accuracies (seeds, without and with dropout)


def network(sizes: Sequence[int], rates: Sequence[float], seed: int, dtype: type = np.float32) -> Sequential:
    """Return dense layers with ReLU between them and dropout before each."""
    rng, key, layers = np.random.default_rng(seed), fd.Key(seed), []
    for number, (p, (inputs, outputs)) in enumerate(zip(rates, pairwise(sizes), strict=True)):
        layers += [fd.Dropout(p, rng=key.fold_in(number)), Dense(inputs, outputs, rng, dtype=dtype), ReLU()]
    return Sequential(layers[:-1])


def train(data: Data, rates: Sequence[float], seed: int, width: int, steps: int) -> float:
    """Return the test accuracy (%) of a network after so many updates, in whole epochs."""
    model = network((data.x_train.shape[1], width, width, 10), rates, seed)
    adam, rng = Adam(model.parameters, LEARNING_RATE), np.random.default_rng(seed)
    for _ in range(epochs(len(data.x_train), steps)):
        train_epoch(model, adam, data.x_train, data.y_train, BATCH, rng)
    return accuracy(model.forward(data.x_test, False)[0], data.y_test)


def epochs(size: int, steps: int) -> int:
    """Return how many epochs make at least so many updates."""
    return -(-steps // -(-size // BATCH))


def part(data: Data, size: int, seed: int) -> Data:
    """Return the data with so many training images of a seed, of all classes alike."""
    if size == len(data.x_train):
        return data
    _, x, _, y = split(data.x_train, data.y_train, size, seed)
    return data._replace(x_train=x, y_train=y)


def train_all(
    data: Data, sizes: Sequence[int], seeds: int, width: int, steps: int, tick: Callable = int
) -> Gains:
    """Return accuracies for each size; tick() is called after each network."""
    found = {size: np.empty((seeds, 2)) for size in sizes}
    for size, accuracies in found.items():
        for seed in range(seeds):
            given = part(data, size, seed)
            for column, rates in enumerate(((0.0,) * len(RATES), RATES)):
                accuracies[seed, column] = train(given, rates, seed, width, steps)
                tick()
    return found


def table(gains: Gains, title: str) -> Table:
    """Return accuracies by size, and the gain in pairs of the same seed."""
    out = new_table(title, ["images"], ["without %", "with dropout %", "gain"])
    for size, accuracies in gains.items():
        without, dropped = accuracies.T
        out.add_row(str(size), *with_errors(np.transpose([without, dropped, dropped - without])))
    return out


def save_picture(gains: Gains, path: Path) -> None:
    """Write a PNG of errors, and of the gain, by size."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    errors, gain = figure.subplots(1, 2)
    for column, label in enumerate(("without dropout", "with dropout")):
        values = [mean_and_error(100 - a[:, column]) for a in gains.values()]
        errors.errorbar(list(gains), *np.transpose(values), fmt="o-", capsize=3, label=label)
    values = [mean_and_error(a[:, 1] - a[:, 0]) for a in gains.values()]
    gain.errorbar(list(gains), *np.transpose(values), fmt="o-", capsize=3)
    gain.axhline(0, color="black", linewidth=0.5)
    errors.set(ylabel="test error (%), mean ± standard error", ylim=(0, None))
    gain.set(ylabel="gain in test accuracy (points), paired")
    for axes in (errors, gain):
        axes.set(xscale="log", xlabel="training images")
        axes.grid(alpha=0.3)
    errors.legend()
    figure.savefig(path, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    arguments = parser(__file__, __doc__, seeds=5, each="pairs of networks for each size")
    add = arguments.add_argument
    add("--sizes", type=positive, nargs="+", default=SIZES, help="training images (default: %(default)s)")
    add("--steps", type=positive, default=2400, help="updates of a network (default: %(default)s)")
    add("--width", type=positive, default=256, help="units of a hidden layer (default: %(default)s)")
    add("--validate", action="store_true", help="leave the test images out")
    options = arguments.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data = load("mnist", validate=options.validate)
    if max(options.sizes) > len(data.x_train) or min(options.sizes) < 10:
        arguments.error(f"--sizes must be from 10 to {len(data.x_train)}, got {options.sizes}")
    total = 2 * options.seeds * len(options.sizes)
    with threadpool_limits(1, user_api="blas"), tqdm(total=total, unit=" networks") as bar:
        gains = train_all(data, options.sizes, options.seeds, options.width, options.steps, bar.update)
    title = (
        f"784-{options.width}-{options.width}-10, dropout {RATES}, {options.steps} updates;\n"
        f"mean ± standard error over {options.seeds} seeds (from 0)"
    )
    save_picture(gains, options.out)
    publish(__file__, options, [table(gains, title)], "Errors and gains")


if __name__ == "__main__":
    main()
