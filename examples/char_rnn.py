"""Train a character LSTM on Python's own documentation, with the noises that are made for recurrent networks.

    python examples/char_rnn.py
    python examples/char_rnn.py --length 6000 --width 128 --epochs 40 --out curves.png

The text is that of Python's built-in help (each version of Python has its own), so nothing is downloaded: a
short part to train on, which a network soon knows by heart, and what follows it to test on. Noise is on in
training alone. The cell and its backpropagation through time are written out, to show where the masks go.
With --help: options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter
from typing import Any, NamedTuple

try:
    import numpy as np
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from numpy.typing import NDArray
    from parts import Adam, cross_entropy
    from results import mean_and_error, new_table, parser, positive, publish, with_errors
    from rich.table import Table
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

GATES = 4  # input, forget, output, and the candidate for the cell
WINDOW = 16  # steps of backpropagation through time
STREAMS = 32  # parts of the text that are read side by side
LEARNING_RATE = 0.015
State = tuple[NDArray, NDArray]  # hidden, cell
Arrays = dict[str, NDArray]


class Rates(NamedTuple):
    """Rates of masks on input, state, output and update, and of zoneout of cell and hidden state."""

    input: float = 0.0
    recurrent: float = 0.0
    output: float = 0.0
    update: float = 0.0
    cell: float = 0.0
    hidden: float = 0.0


NOISES = {
    "none": Rates(),
    "temporal": Rates(input=0.1, output=0.4),  # Gal and Ghahramani without the recurrent part
    "recurrent": Rates(input=0.1, recurrent=0.2, output=0.4),  # with it
    "update": Rates(update=0.4),  # Semeniuta et al., a new mask at each step
    "zoneout": Rates(cell=0.2, hidden=0.05),  # Krueger et al.
}


class Step(NamedTuple):
    """What the backward pass needs of a time step."""

    cell: NDArray  # before
    gates: NDArray  # input, forget, output
    candidate: NDArray
    update: NDArray  # the candidate under its mask
    squashed: NDArray  # tanh of the cell after
    keys: list[fd.Key]  # of zoneout


class Trace(NamedTuple):
    """What the backward pass needs of a window."""

    tokens: NDArray
    masks: fd.RecurrentMasks
    steps: list[Step]
    states: NDArray  # hidden, of all times and the one before


class Network:
    """Embedding, LSTM, dense, softmax; the forget gate's bias begins at 1."""

    def __init__(
        self, vocabulary: int, width: int, rates: Rates, seed: int, dtype: type = np.float32
    ) -> None:
        rng, key = np.random.default_rng(seed), fd.Key(seed)
        square, scale = (GATES, width, width), width**-0.5
        self.parameters: Arrays = {
            "embedding": rng.normal(0, 1, (vocabulary, width)).astype(dtype),
            "W": rng.normal(0, scale, square).astype(dtype),
            "U": rng.normal(0, scale, square).astype(dtype),
            "b": np.zeros((GATES, 1, width), dtype),
            "dense": rng.normal(0, scale, (width, vocabulary)).astype(dtype),
            "bias": np.zeros(vocabulary, dtype),
        }
        self.parameters["b"][1] = 1
        self.masks = fd.RecurrentDropout(*rates[:4], gates=GATES, rng=key.fold_in(0))
        self.zones = [fd.Zoneout(p, rng=key.fold_in(1 + place)) for place, p in enumerate(rates[4:])]

    def start(self, streams: int) -> State:
        """Return the state before a text."""
        zeros = np.zeros((streams, self.parameters["U"].shape[1]), self.parameters["U"].dtype)
        return zeros, zeros

    def forward(self, tokens: NDArray, state: State, training: bool) -> tuple[NDArray, State, Trace]:
        """Return the logits (time, streams, vocabulary) of tokens (time, streams), and the state after."""
        w, masks = self.parameters, self.masks(training)
        of_inputs = masks.input(w["embedding"][tokens]) @ w["W"][:, None] + w["b"][:, None]
        (h, c), steps = state, []
        states = np.empty((len(tokens) + 1, *h.shape), h.dtype)
        states[0] = h
        for t in range(len(tokens)):
            keys = [zone.key for zone in self.zones]
            a = of_inputs[:, t] + masks.recurrent(h) @ w["U"]
            gates, n = 0.5 + 0.5 * np.tanh(0.5 * a[:3]), np.tanh(a[3])
            i, f, o = gates
            before, update = c, masks.update(n, t)
            c = self.zones[0](f * c + i * update, c, training)
            squashed = np.tanh(c)
            h = states[t + 1] = self.zones[1](o * squashed, h, training)
            steps.append(Step(before, gates, n, update, squashed, keys))
        logits = masks.output(states[1:]) @ w["dense"] + w["bias"]
        return logits, (h, c), Trace(tokens, masks, steps, states)

    def backward(self, g: NDArray, trace: Trace) -> Arrays:
        """Return the gradients of the parameters; g is that of the logits."""
        w, (tokens, masks, steps, states) = self.parameters, trace
        of_states = masks.output.backward(g @ w["dense"].T)
        da = np.empty((GATES, *of_states.shape), of_states.dtype)
        dh, dc = self.start(len(of_states[0]))
        for t in reversed(range(len(steps))):
            before, gates, n, update, squashed, keys = steps[t]
            i, f, o = gates
            dnew, dh = fd.zoneout_backward(dh + of_states[t], self.zones[1].p, keys[1])
            dc = dc + dnew * o * (1 - squashed**2)
            dcell, dc = fd.zoneout_backward(dc, self.zones[0].p, keys[0])
            da[:3, t] = np.stack([dcell * update, dcell * before, dnew * squashed]) * gates * (1 - gates)
            da[3, t] = masks.update.backward(dcell * i, t) * (1 - n**2)
            dh += masks.recurrent.backward(da[:, t] @ w["U"].mT)
            dc += dcell * f
        dx = masks.input.backward(da @ w["W"].mT[:, None])
        embedding = np.zeros_like(w["embedding"])
        np.add.at(embedding, tokens, dx)
        return {
            "embedding": embedding,
            "W": products(masks.input(w["embedding"][tokens]), da),  # masks are recomputed, not stored
            "U": products(masks.recurrent(states[:-1]), da),
            "b": da.sum((1, 2))[:, None],
            "dense": products(masks.output(states[1:]), g),
            "bias": g.sum((0, 1)),
        }

    def loss_and_gradients(self, window: NDArray, state: State) -> tuple[float, Arrays, State]:
        """Return the mean loss (nats) in training of predicting characters of a window, and its gradients."""
        logits, state, trace = self.forward(window[:-1], state, True)
        loss, g = cross_entropy(logits, window[1:])
        return loss, self.backward(g, trace), state

    def bits(self, text: NDArray) -> float:
        """Return the mean bits per character of texts (time, streams), without noise."""
        logits, _, _ = self.forward(text[:-1], self.start(text.shape[1]), False)
        return cross_entropy(logits, text[1:])[0] / np.log(2)


def products(x: NDArray, g: NDArray) -> NDArray:
    """Return x.T @ g over time and streams, for each gate if there are gates."""
    rows = -1, x.shape[-1]
    return x.reshape(*x.shape[:-3], *rows).mT @ g.reshape(*g.shape[:-3], -1, g.shape[-1])


class Run(NamedTuple):
    """One trained network: bits per character after each epoch, and seconds of training."""

    train: list[float]
    held_out: list[float]
    seconds: float


def texts(length: int) -> tuple[NDArray, NDArray, int]:
    """Return so many characters to train on and half of that to test on, in streams, and how many kinds."""
    size = STREAMS * max(2, length // STREAMS)
    kinds, numbers = np.unique(list("\n".join(topics.values())[: size + size // 2]), return_inverse=True)
    train, test = np.split(numbers, [size])
    return train.reshape(STREAMS, -1).T, test.reshape(STREAMS // 2, -1).T, len(kinds)


def train(
    data: tuple[NDArray, NDArray, int], rates: Rates, seed: int, width: int, epochs: int, tick: Callable = int
) -> Run:
    """Train one network; evaluate it and call tick() after each epoch."""
    text, held_out, vocabulary = data
    network = Network(vocabulary, width, rates, seed)
    weights = network.parameters
    adam, run, seconds = Adam(list(weights.values()), LEARNING_RATE), ([], []), 0.0
    for _ in range(epochs):
        start, state = perf_counter(), network.start(STREAMS)
        for t in range(0, len(text) - 1, WINDOW):
            _, gradients, state = network.loss_and_gradients(text[t : t + WINDOW + 1], state)
            adam.step([gradients[name] for name in weights])
        seconds += perf_counter() - start
        for bits, part in zip(run, (text, held_out), strict=True):
            bits.append(network.bits(part))
        tick()
    return Run(*run, seconds)


def train_all(length: int, seeds: int, width: int, epochs: int) -> dict[str, list[Run]]:
    """Train a network for each noise and seed."""
    data = texts(length)
    runs: dict[str, list[Run]] = {name: [] for name in NOISES}
    warm_up = Network(data[2], width, Rates(*[0.5] * 6), 0)  # Numba compiles at the first call
    warm_up.loss_and_gradients(data[0][:3], warm_up.start(STREAMS))
    total = epochs * seeds * len(NOISES)
    with threadpool_limits(1, user_api="blas"), tqdm(total=total, unit=" epochs") as bar:
        for seed in range(seeds):
            for name, rates in NOISES.items():
                bar.set_description(name)
                runs[name].append(train(data, rates, seed, width, epochs, bar.update))
    return runs


def described(rates: Any) -> str:
    """Return the rates of a named tuple that are not 0, with their names."""
    return ", ".join(f"{name} {p}" for name, p in rates._asdict().items() if p) or "-"


def table(runs: dict[str, list[Run]], noises: Mapping[str, Any], title: str) -> Table:
    """Return bits per character after the last epoch, and of the epoch that was best on held-out text."""
    out = new_table(title, ("noise", "rates"), ("train", "held-out", "best held-out", "seconds"))
    for name, each in runs.items():
        cells = with_errors([(r.train[-1], r.held_out[-1], min(r.held_out)) for r in each])
        out.add_row(name, described(noises[name]), *cells, f"{np.mean([r.seconds for r in each]):.2f}")
    return out


def save_curves(runs: dict[str, list[Run]], path: Path) -> None:
    """Write a PNG of bits on held-out and on training text by epoch."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, each) in enumerate(runs.items()):
        for part, line in (("held_out", "-"), ("train", ":")):
            mean, error = mean_and_error([getattr(run, part) for run in each])
            epochs = np.arange(1, len(mean) + 1)
            label = name if part == "held_out" else None
            axes.plot(epochs, mean, line, color=f"C{number}", label=label)
            axes.fill_between(epochs, mean - error, mean + error, color=f"C{number}", alpha=0.2, linewidth=0)
    axes.set(xlabel="epoch", ylabel="bits per character: held-out (lines), train (dots)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    arguments = parser(__file__, __doc__, seeds=3, each="networks with each noise")
    add = arguments.add_argument
    add("--length", type=positive, default=3000, help="characters to train on (default: %(default)s)")
    add("--width", type=positive, default=64, help="units of the cell (default: %(default)s)")
    add("--epochs", type=positive, default=30, help="(default: %(default)s)")
    return arguments.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    options = parse(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs = train_all(options.length, options.seeds, options.width, options.epochs)
    title = (
        f"Bits per character: {options.length} characters, {options.width} units, {options.epochs} epochs;\n"
        f"mean ± standard error over {options.seeds} seeds (from 0); times are those of one network"
    )
    save_curves(runs, options.out)
    publish(__file__, options, [table(runs, NOISES, title)], "Learning curves")


if __name__ == "__main__":
    main()
