"""Train a small transformer of characters in plain NumPy, with dropout of attention, activations and layers.

    python examples/char_transformer.py
    python examples/char_transformer.py --length 6000 --width 128 --layers 4 --out curves.png

The text is that of `char_rnn.py`: a short part of Python's built-in help to train on, and what follows it to
test on. Attention goes by blocks: `fastdrop.attention` never holds the matrix of weights, and the backward
pass makes weights and masks again from queries, keys, values and a key. With --help: options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

try:
    import numpy as np
    from char_rnn import Run, save_curves, table, texts
    from numpy.typing import NDArray
    from parts import Adam, Dense, ReLU, Sequential, cross_entropy
    from results import parser, positive, publish
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

CONTEXT = 32  # characters that are read at once
BATCH = 8  # pieces of text in an update
HEADS = 4
LEARNING_RATE = 0.01


class Rates(NamedTuple):
    """Rates of dropout of attention's weights, of what each branch adds, and of whole branches."""

    attention: float = 0.0
    hidden: float = 0.0
    layers: float = 0.0


NOISES = {
    "none": Rates(),
    "attention": Rates(attention=0.3),
    "hidden": Rates(hidden=0.1),
    "layers": Rates(layers=0.1),  # Larsson et al., Huang et al.: for each piece of text by itself
    "all": Rates(attention=0.2, hidden=0.1, layers=0.1),
}


class Embedding:
    """A vector for each character plus one for each place."""

    def __init__(self, vocabulary: int, width: int, rng: np.random.Generator, dtype: type) -> None:
        self.parameters = [rng.normal(0, 0.5, (n, width)).astype(dtype) for n in (vocabulary, CONTEXT)]

    def forward(self, tokens: NDArray, training: bool) -> NDArray:
        """Return the vectors (texts, places, width) of tokens (texts, places)."""
        self.tokens = tokens
        characters, places = self.parameters
        return characters[tokens] + places[: tokens.shape[1]]

    def backward(self, g: NDArray) -> NDArray:
        """Set the gradients; nothing comes before."""
        self.gradients = [np.zeros_like(w) for w in self.parameters]
        np.add.at(self.gradients[0], self.tokens, g)
        self.gradients[1][: g.shape[1]] = g.sum(0)
        return g


class LayerNorm:
    """Standardise the features of each place, then scale and shift them (arXiv 1607.06450)."""

    def __init__(self, features: int, dtype: type) -> None:
        self.parameters = [np.ones(features, dtype), np.zeros(features, dtype)]

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return the features standardised."""
        scale, shift = self.parameters
        centred = x - x.mean(-1, keepdims=True)
        self.inverse = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        self.standard = centred * self.inverse
        return scale * self.standard + shift

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x, and set those of scale and shift."""
        self.gradients = [(g * self.standard).sum((0, 1)), g.sum((0, 1))]
        g = g * self.parameters[0]
        along = (g * self.standard).mean(-1, keepdims=True)
        return self.inverse * (g - g.mean(-1, keepdims=True) - self.standard * along)


class Attention:
    """Causal self-attention of several heads, whose weights are dropped in training."""

    def __init__(self, width: int, p: float, key: fd.Key, rng: np.random.Generator, dtype: type) -> None:
        self.qkv = Dense(width, 3 * width, rng, gain=1.0, dtype=dtype)
        self.project = Dense(width, width, rng, gain=0.5, dtype=dtype)
        self.p, self.key = p, key

    @property
    def parameters(self) -> list[NDArray]:
        """Weights and biases."""
        return [*self.qkv.parameters, *self.project.parameters]

    @property
    def gradients(self) -> list[NDArray]:
        """Those of the last backward."""
        return [*self.qkv.gradients, *self.project.gradients]

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return what each place gathers from itself and those before it."""
        self.inputs = (
            self.qkv.forward(x, training).reshape(*x.shape[:2], 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
        )
        self.used = self.key
        if training:
            self.key = self.key.next()
        y = fd.attention(*self.inputs, self.p if training else 0.0, self.used, is_causal=True)
        return self.project.forward(y.swapaxes(1, 2).reshape(x.shape), training)

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x, and let the products set theirs."""
        dy = self.project.backward(g).reshape(*g.shape[:2], HEADS, -1).swapaxes(1, 2)
        dq, dk, dv, _ = fd.attention_backward(dy, *self.inputs, self.p, self.used, is_causal=True)
        together = np.stack([dq, dk, dv]).transpose(1, 3, 0, 2, 4)
        return self.qkv.backward(together.reshape(*g.shape[:2], -1))


class Residual(Sequential):
    """X plus what a branch of layers makes of it."""

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return the sum."""
        return x + super().forward(x, training)[0]

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x."""
        return g + super().backward(g)


def transformer(
    vocabulary: int, width: int, layers: int, rates: Rates, seed: int, dtype: type = np.float32
) -> Sequential:
    """Return a network of (texts, places) characters, with logits of the next ones."""
    rng, key = np.random.default_rng(seed), fd.Key(seed)
    parts = [Embedding(vocabulary, width, rng, dtype), fd.Dropout(rates.hidden, rng=key.fold_in(0))]
    for layer in range(layers):
        keys = [key.fold_in(1 + layer).fold_in(n) for n in range(5)]
        attend = [Attention(width, rates.attention, keys[0], rng, dtype)]
        think = [
            Dense(width, 4 * width, rng, dtype=dtype),
            ReLU(),
            Dense(4 * width, width, rng, gain=0.5, dtype=dtype),
        ]
        for n, branch in enumerate((attend, think)):
            noise = fd.Dropout(rates.hidden, rng=keys[1 + n]), fd.DropPath(rates.layers, rng=keys[3 + n])
            parts.append(Residual([LayerNorm(width, dtype), *branch, *noise]))
    return Sequential([*parts, LayerNorm(width, dtype), Dense(width, vocabulary, rng, gain=1.0, dtype=dtype)])


def bits(network: Sequential, text: NDArray) -> float:
    """Return the mean bits per character of a text, cut into pieces, without noise."""
    pieces = text[: (len(text) - 1) // CONTEXT * CONTEXT + 1]
    inputs, following = (part.reshape(-1, CONTEXT) for part in (pieces[:-1], pieces[1:]))
    return cross_entropy(network.forward(inputs, False)[0], following)[0] / np.log(2)


def train(
    data: tuple[NDArray, NDArray, int],
    rates: Rates,
    seed: int,
    width: int,
    layers: int,
    epochs: int,
    tick: Callable = int,
) -> Run:
    """Train one network on pieces from anywhere in the text; evaluate it and call tick() after each epoch."""
    text, held_out, vocabulary = data
    network, rng = transformer(vocabulary, width, layers, rates, seed), np.random.default_rng(seed)
    adam, run, seconds = Adam(network.parameters, LEARNING_RATE), ([], []), 0.0
    for _ in range(epochs):
        start = perf_counter()
        for _ in range(max(1, len(text) // (BATCH * CONTEXT))):
            places = rng.integers(len(text) - CONTEXT, size=(BATCH, 1)) + np.arange(CONTEXT + 1)
            pieces = text[places]
            _, gradients = network.loss_and_gradients(pieces[:, :-1], pieces[:, 1:])
            adam.step(gradients)
        seconds += perf_counter() - start
        for found, part in zip(run, (text, held_out), strict=True):
            found.append(bits(network, part))
        tick()
    return Run(*run, seconds)


def train_all(length: int, seeds: int, width: int, layers: int, epochs: int) -> dict[str, list[Run]]:
    """Train a network for each noise and seed."""
    *parts, vocabulary = texts(length)
    text, held_out = (part.T.ravel() for part in parts)  # in one piece again
    runs: dict[str, list[Run]] = {name: [] for name in NOISES}
    warm_up = transformer(vocabulary, width, 1, Rates(0.5, 0.5, 0.5), 0)  # Numba compiles at the first call
    warm_up.loss_and_gradients(text[None, :CONTEXT], text[None, 1 : CONTEXT + 1])
    total = epochs * seeds * len(NOISES)
    with threadpool_limits(1, user_api="blas"), tqdm(total=total, unit=" epochs") as bar:
        for seed in range(seeds):
            for name, rates in NOISES.items():
                bar.set_description(name)
                data = text, held_out, vocabulary
                runs[name].append(train(data, rates, seed, width, layers, epochs, bar.update))
    return runs


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    arguments = parser(__file__, __doc__, seeds=3, each="networks with each noise")
    add = arguments.add_argument
    add("--length", type=positive, default=3000, help="characters to train on (default: %(default)s)")
    add("--width", type=positive, default=64, help=f"features, a multiple of {HEADS} (default: %(default)s)")
    add("--layers", type=positive, default=1, help="(default: %(default)s)")
    add("--epochs", type=positive, default=50, help="(default: %(default)s)")
    options = arguments.parse_args(argv)
    if options.width % HEADS:
        arguments.error(f"--width must be a multiple of {HEADS}, got {options.width}")
    if options.length < 4 * CONTEXT:
        arguments.error(f"--length must be at least {4 * CONTEXT}, got {options.length}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    options = parse(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs = train_all(options.length, options.seeds, options.width, options.layers, options.epochs)
    title = (
        f"Bits per character: {options.length} characters, {options.width} features, "
        f"layers {options.layers}, {options.epochs} epochs;\n"
        f"mean ± standard error over {options.seeds} seeds (from 0); times are those of one network"
    )
    save_curves(runs, options.out)
    publish(__file__, options, [table(runs, NOISES, title)], "Learning curves")


if __name__ == "__main__":
    main()
