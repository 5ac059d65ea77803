"""Train one network with each noise at the same rates: accuracy, calibration and time, with errors.

    python examples/compare_dropouts.py
    python examples/compare_dropouts.py --data digits --seeds 10 --epochs 20 --validate

The network is that of noisy_network.py: feature maps, hidden units, classes, with the noise on the first two.
Standout sees what the activation is taken of; DropConnect drops weights, the same ones for a whole batch;
alpha dropout has its own activation, SELU, which is also trained without noise. Differences are taken in
pairs of the same seed, and their probabilities corrected for how many there are. All networks are tested on
the same images: the errors are those of other seeds, not of other images. With --help: options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

try:
    import numpy as np
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from noisy_network import RATES, VARIANTS, Variant, network, noises, plain_dense
    from numpy.typing import NDArray
    from parts import Adam, Data, Sequential, accuracy, batches, load, log_softmax
    from results import mean_and_error, new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from scipy.stats import ttest_1samp
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

BATCH = 50
LEARNING_RATE = 1e-3
SQUARE = {"digits": 2, "mnist": 4}  # side of a filter
EPOCHS = {"digits": 40, "mnist": 20}  # 1160 and 1600 updates
SAMPLES = 20  # passes of Monte-Carlo dropout
BINS = 15  # of the calibration error
LEVEL = 0.05
COMPARED = ("test %", "NLL")  # of the scores


def sampled(model: Sequential) -> Callable[[NDArray, fd.Key], NDArray]:
    """Return a function of (x, key): probabilities under the noise that the key gives."""

    def one_pass(x: NDArray, key: fd.Key) -> NDArray:
        for number, layer in enumerate(noises(model)):
            layer.key = key.fold_in(number)
        return np.exp(log_softmax(model.forward(x, True)[0]))

    return one_pass


def calibration_error(probabilities: NDArray, labels: NDArray) -> float:
    """Return how far confidence is from accuracy, in percent: the mean over BINS equal bins of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right - confidence, BINS)  # times what is in the bin
    return 100 * float(np.abs(gaps).sum() / len(labels))


def scores(probabilities: NDArray, labels: NDArray) -> tuple[float, float, float]:
    """Return accuracy (%), mean negative log-likelihood (nats) and calibration error (%)."""
    of_labels = probabilities[np.arange(len(labels)), labels]
    likelihood = -float(np.log(np.maximum(of_labels, 1e-30)).mean())
    return accuracy(probabilities, labels), likelihood, calibration_error(probabilities, labels)


class Run(NamedTuple):
    """One network: scores without noise, those of Monte-Carlo dropout, and milliseconds of a step."""

    off: tuple[float, float, float]
    sampled: tuple[float, float, float]
    step: float


def train(data: Data, variant: Variant, square: int, seed: int, epochs: int, tick: Callable = int) -> Run:
    """Train one network, and call tick() after each epoch."""
    n = len(data.y_train)
    side = round(np.sqrt(data.x_train.shape[1])) // square
    model = network(variant, (side, square**2), epochs * -(-n // BATCH), n, seed)
    adam, rng, seconds = Adam(model.parameters, LEARNING_RATE), np.random.default_rng(seed), []
    for _ in range(epochs):
        for batch in batches(n, BATCH, rng):
            start = perf_counter()
            adam.step(model.loss_and_gradients(data.x_train[batch], data.y_train[batch])[1])
            model.step()
            seconds.append(perf_counter() - start)
        tick()
    off = model.probabilities(data.x_test)
    mean = off
    if noises(model):  # else all passes would be equal
        mean = fd.mc_predict(sampled(model), data.x_test, SAMPLES, fd.Key(seed).fold_in(len(RATES))).mean
    return Run(scores(off, data.y_test), scores(mean, data.y_test), 1e3 * float(np.median(seconds)))


def squares(x: NDArray, square: int) -> NDArray:
    """Return images (n, pixels) with the pixels of each square beside each other."""
    side = round(np.sqrt(x.shape[1])) // square
    return x.reshape(len(x), side, square, side, square).swapaxes(2, 3).reshape(len(x), -1)


Results = dict[str, dict[str, list[Run]]]  # by data set and noise, a run for each seed


def train_all(epochs: dict[str, int], seeds: int, validate: bool) -> Results:
    """Train a network with every noise and seed on each data set."""
    results: Results = {name: {variant: [] for variant in VARIANTS} for name in epochs}
    total = sum(epochs.values()) * seeds * len(VARIANTS)
    with threadpool_limits(1, user_api="blas"), tqdm(total=total, unit=" epochs") as bar:
        for name, runs in results.items():
            data, square = load(name, validate=validate), SQUARE[name]
            data = data._replace(x_train=squares(data.x_train, square), x_test=squares(data.x_test, square))
            for seed in range(seeds):
                for label, variant in VARIANTS.items():
                    bar.set_description(f"{name}, {label}")
                    runs[label].append(train(data, variant, square, seed, epochs[name], bar.update))
    return results


class Comparison(NamedTuple):
    """A noise's scores minus another's in the same seeds, and the corrected P of that by chance."""

    score: str
    noise: str
    other: str
    differences: NDArray
    p: float


def comparisons(runs: dict[str, list[Run]]) -> list[Comparison]:
    """Return each noise beside none and beside Bernoulli's by both scores, with Holm's correction for all."""
    pairs = [(label, v.baseline) for label, v in VARIANTS.items() if v.noise or v.dense is not plain_dense]
    pairs += [(label, "Bernoulli") for label, other in pairs if label != "Bernoulli" and other == "none"]
    values = {label: np.array([r.off for r in each]) for label, each in runs.items()}
    rows = [
        (score, *pair, (values[pair[0]] - values[pair[1]])[:, column])
        for column, score in enumerate(COMPARED)
        for pair in pairs
    ]
    p = holm([paired_p(differences) for *_, differences in rows])
    return [Comparison(*row, float(v)) for row, v in zip(rows, p, strict=True)]


def paired_p(differences: NDArray) -> float:
    """Return the two-sided probability of Student's paired test: 1 where there is no spread to test by."""
    if np.ptp(differences) == 0:
        return 1.0
    return float(ttest_1samp(differences, 0).pvalue)


def holm(p: Sequence[float]) -> NDArray:
    """Return probabilities corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    a = np.asarray(p)
    order = np.argsort(a)
    raised = np.maximum.accumulate(a[order] * np.arange(len(a), 0, -1))
    out = np.empty_like(a)
    out[order] = np.minimum(raised, 1)
    return out


def score_table(
    score: str, digits: int, runs: dict[str, list[Run]], found: list[Comparison], title: str
) -> Table:
    """Return a score, and what it exceeds that of others by in the same seeds."""
    out = new_table(title, ["noise"], [score, "minus none", "P", "minus Bernoulli", "P"])
    column = COMPARED.index(score)
    for label, each in runs.items():
        row = with_errors([r.off[column : column + 1] for r in each], digits)
        for others in (("none", "none, SELU"), ("Bernoulli",)):
            pairs = [c for c in found if (c.score, c.noise) == (score, label) and c.other in others]
            for c in pairs:
                row += [*with_errors(c.differences[:, None], digits), f"{c.p:.3f}"]
            row += [] if pairs else ["", ""]
        out.add_row(label, *row)
    return out


def calibration_table(runs: dict[str, list[Run]], title: str) -> Table:
    """Return calibration errors, scores of Monte-Carlo dropout, and times."""
    out = new_table(title, ["noise"], ["ECE %", "MC ECE %", "MC NLL", "MC test %", "ms a step"])
    for label, each in runs.items():
        errors = with_errors([(r.off[2], r.sampled[2]) for r in each])
        likelihood = with_errors([r.sampled[1:2] for r in each], 3)
        accuracies = with_errors([r.sampled[:1] for r in each])
        time = f"{np.median([r.step for r in each]):.2f}"
        out.add_row(label, *errors, *likelihood, *accuracies, time)
    return out


def sentence(name: str, found: list[Comparison]) -> str:
    """Return what is significant."""
    texts = []
    for score, unit in zip(COMPARED, ("points", "nats"), strict=True):
        sure = [c for c in found if c.p < LEVEL and c.score == score]
        listed = ", ".join(f"{c.noise} minus {c.other} ({c.differences.mean():+.3g} {unit})" for c in sure)
        texts.append(f"in {score}: {listed or 'nothing'}")
    return (
        f"{name}: of {len(found)} differences these are significant at {LEVEL:.0%} after Holm's correction "
        f"for their number, {'; '.join(texts)}. The others aren't."
    )


def save_picture(results: Results, path: Path) -> None:
    """Write a PNG with a row of panels for each data set: accuracy, likelihood, calibration error."""
    figure = Figure(figsize=(12, 4 * len(results)), layout="constrained")
    panels = figure.subplots(len(results), 3, squeeze=False, sharey=True)
    for row, (name, runs) in zip(panels, results.items(), strict=True):
        for score, (axes, label) in enumerate(zip(row, ("test %", "NLL (nats)", "ECE (%)"), strict=True)):
            for shift, kind in ((-0.15, "off"), (0.15, "sampled")):
                values = [[getattr(r, kind)[score] for r in each] for each in runs.values()]
                means, errors = mean_and_error(np.transpose(values))
                at = np.arange(len(runs)) + shift
                axes.errorbar(means, at, xerr=errors, fmt="o", markersize=4, label=f"noise {kind}")
            axes.set(xlabel=f"{name}: {label}, mean ± standard error")
            axes.grid(alpha=0.3)
        row[0].set_yticks(range(len(runs)), runs)
    panels[0, 0].invert_yaxis()  # shared
    panels[0, 2].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    figure.savefig(path, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    arguments = parser(__file__, __doc__, seeds=6, each="networks with each noise")
    arguments.add_argument(
        "--epochs", type=positive, help=f"passes over the training set (default: {EPOCHS})"
    )
    arguments.add_argument("--data", choices=[*EPOCHS, "both"], default="both", help="(default: %(default)s)")
    arguments.add_argument("--validate", action="store_true", help="leave the test images out")
    options = arguments.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    epochs = {n: options.epochs or EPOCHS[n] for n in EPOCHS if options.data in (n, "both")}
    results = train_all(epochs, options.seeds, options.validate)
    tables, notes = [], []
    for name, runs in results.items():
        found = comparisons(runs)
        title = (
            f"{name}, {epochs[name]} epochs, rates {RATES}, {options.seeds} seeds (from 0);\n"
            "mean ± standard error over seeds, "
        )
        paired = title + "differences in pairs, P corrected for their number"
        tables += [score_table(*score, runs, found, paired) for score in zip(COMPARED, (2, 3), strict=True)]
        tables.append(calibration_table(runs, title + f"MC: mean of {SAMPLES} passes with noise"))
        notes.append(sentence(name, found))
    save_picture(results, options.out)
    publish(__file__, options, tables, "Scores", notes)


if __name__ == "__main__":
    main()
