"""Dense layers with L1 and L2, batch normalisation, ReLU and dropout in a list: with and without each.

    python examples/regularized_network.py
    python examples/regularized_network.py --epochs 3 --seeds 2 --width 64

Beside its output the network returns the penalty of its weights, which the loss of training has on top.
Dropout comes after the last batch normalisation. In the order of many tutorials dropout stands in every
block, so before the next block's batch normalisation: that gets inputs of more variance in training than in
evaluation, where it still divides by the former ("variance shift", Li et al., arXiv 1801.05134). The table
has the ratio of these variances, and the accuracy once the running statistics have been taken anew with
dropout off. With --help: options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from numpy.typing import NDArray
    from parts import Adam, BatchNorm, Data, Dense, ReLU, Sequential, accuracy, load, train_epoch
    from results import mean_and_error, new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

BATCH = 50
LEARNING_RATE = 1e-3
P = 0.5
L1 = L2 = 1e-5


class Recipe(NamedTuple):
    """What a network has: a penalty, batch normalisation, and dropout in which of its two blocks."""

    penalty: bool = True
    norm: bool = True
    dropped: tuple[bool, bool] = (False, True)


RECIPES = {
    "all of them": Recipe(),
    "without L1 and L2": Recipe(penalty=False),
    "without BatchNorm": Recipe(norm=False),
    "without dropout": Recipe(dropped=(False, False)),
    "none of them": Recipe(False, False, (False, False)),
    "dropout in both blocks": Recipe(dropped=(True, True)),
    "dropout in the first": Recipe(dropped=(True, False)),
}


def network(recipe: Recipe, sizes: Sequence[int], seed: int, dtype: type = np.float32) -> Sequential:
    """Return blocks of dense, batch normalisation, dropout and ReLU, and a dense layer to the classes.

    Dropout before ReLU, as tutorials have it, is dropout after ReLU: it only scales by positive numbers.
    """
    rng, key, layers = np.random.default_rng(seed), fd.Key(seed), list[Any]()
    penalties = {"l1": L1, "l2": L2} if recipe.penalty else {}
    *blocks, last = pairwise(sizes)
    for number, ((inputs, outputs), dropped) in enumerate(zip(blocks, recipe.dropped, strict=True)):
        layers.append(Dense(inputs, outputs, rng, dtype=dtype, **penalties))
        if recipe.norm:
            layers.append(BatchNorm(outputs, dtype=dtype))
        if dropped:
            layers.append(fd.Dropout(P, rng=key.fold_in(number)))
        layers.append(ReLU())
    return Sequential([*layers, Dense(*last, rng, dtype=dtype, **penalties)])


def shifts(model: Sequential, x: NDArray) -> list[float]:
    """Return, for each batch normalisation, its running variance over that of its inputs without dropout.

    The median over units. The variances are taken over x, which is best the training set: then they differ
    by dropout alone, and a little because the weights moved while the running variance was taken.
    """
    found = []
    for layer in model.layers:
        if isinstance(layer, BatchNorm):
            found.append(float(np.median(layer.variance / x.var(0))))
        x = layer.forward(x, False)
    return found


def taken_anew(model: Sequential, x: NDArray) -> Sequential:
    """Return a copy of the network whose running statistics are those of x without dropout."""
    out = deepcopy(model)
    for layer in out.layers:
        if isinstance(layer, BatchNorm):
            layer.mean, layer.variance = x.mean(0), x.var(0)
        x = layer.forward(x, False)
    return out


class Run(NamedTuple):
    """One trained network: accuracies (%), the penalty, and the ratios of variances by block."""

    train: float
    test: float
    anew: float  # test accuracy with statistics taken anew
    penalty: float
    shifts: list[float]  # none without batch normalisation


def train(data: Data, recipe: Recipe, seed: int, width: int, epochs: int, tick: Callable = int) -> Run:
    """Train one network, and call tick() after each epoch."""
    model = network(recipe, (data.x_train.shape[1], width, width, 10), seed)
    adam, rng = Adam(model.parameters, LEARNING_RATE), np.random.default_rng(seed)
    for _ in range(epochs):
        train_epoch(model, adam, data.x_train, data.y_train, BATCH, rng)
        tick()
    logits, penalty = model.forward(data.x_test, False)
    on_train, _ = model.forward(data.x_train, False)
    anew, _ = taken_anew(model, data.x_train).forward(data.x_test, False)
    accuracies = (accuracy(on_train, data.y_train), *(accuracy(out, data.y_test) for out in (logits, anew)))
    return Run(*accuracies, penalty, shifts(model, data.x_train))


def table(runs: dict[str, list[Run]], title: str) -> Table:
    """Return accuracies, differences in pairs of the same seed, penalties and ratios of variances."""
    numbers = ["train %", "test %", "minus all", "statistics anew %", "penalty", "variance ratios"]
    out = new_table(title, ["network"], numbers)
    everything = np.array([r.test for r in runs["all of them"]])
    for name, each in runs.items():
        cells = with_errors(
            [(r.train, r.test, r.test - all_, r.anew) for r, all_ in zip(each, everything, strict=True)]
        )
        if name == "all of them":
            cells[2] = ""
        ratios = ", ".join(f"{m:.2f}" for m in np.mean([r.shifts for r in each], 0))
        out.add_row(name, *cells, f"{np.mean([r.penalty for r in each]):.3f}", ratios or "-")
    return out


def note(runs: dict[str, list[Run]]) -> str:
    """Return what dropout before a batch normalisation does to it."""
    each = runs["dropout in both blocks"]
    (ratio,) = with_errors([r.shifts[1:] for r in each])
    (change,) = with_errors([[r.anew - r.test] for r in each])
    return (
        "Where dropout stands before the second batch normalisation, this divides by a running variance "
        f"{ratio} times that of its inputs in evaluation (median unit). Statistics taken anew change the "
        f"test accuracy by {change} points."
    )


def save_picture(runs: dict[str, list[Run]], path: Path) -> None:
    """Write a PNG of test accuracies, before and after the statistics were taken anew, and of the ratios."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    at = np.arange(len(runs))
    for shift, label in ((-0.12, "test"), (0.12, "anew")):
        means, errors = mean_and_error(
            np.transpose([[getattr(r, label) for r in each] for each in runs.values()])
        )
        legend = "as trained" if label == "test" else "statistics taken anew"
        left.errorbar(means, at + shift, xerr=errors, fmt="o", label=legend)
    for row, each in enumerate(runs.values()):
        for block, ratio in enumerate(np.mean([r.shifts for r in each], 0)):
            right.plot(ratio, row, f"C{block}o", label=f"block {block + 1}" if row == 0 else None)
    right.axvline(1, color="black", linewidth=0.5)
    left.set_yticks(at, runs)
    left.invert_yaxis()  # shared
    left.set(xlabel="test accuracy (%), mean ± standard error")
    right.set(xlabel="running variance / variance without dropout")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    figure.savefig(path, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    arguments = parser(__file__, __doc__, seeds=5, each="networks of each kind")
    add = arguments.add_argument
    add("--epochs", type=positive, default=15, help="(default: %(default)s)")
    add("--width", type=positive, default=256, help="units of a hidden layer (default: %(default)s)")
    add("--data", choices=["digits", "mnist"], default="mnist", help="(default: %(default)s)")
    add("--validate", action="store_true", help="leave the test images out")
    options = arguments.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data = load(options.data, validate=options.validate)
    runs: dict[str, list[Run]] = {name: [] for name in RECIPES}
    total = options.seeds * options.epochs * len(RECIPES)
    with threadpool_limits(1, user_api="blas"), tqdm(total=total, unit=" epochs") as bar:
        for seed in range(options.seeds):
            for name, recipe in RECIPES.items():
                runs[name].append(train(data, recipe, seed, options.width, options.epochs, bar.update))
    title = (
        f"2 x {options.width} hidden units, dropout {P}, L1 {L1}, L2 {L2}, "
        f"{options.epochs} epochs of {options.data};\n"
        f"mean ± standard error over {options.seeds} seeds (from 0), differences in pairs"
    )
    save_picture(runs, options.out)
    publish(__file__, options, [table(runs, title)], "Accuracies and ratios", [note(runs)])


if __name__ == "__main__":
    main()
