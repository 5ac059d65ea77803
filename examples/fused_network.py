"""Train a residual network whose activations and dropouts are fused passes, and time it step by step.

    python examples/fused_network.py
    python examples/fused_network.py --width 1024 --batch 512 --activation silu

Each block is h + dropout(activation(h A + a) B). The same network runs with the passes as single steps of
NumPy and fastdrop, from the same weights and with the same masks: the losses must agree. Last comes an
estimate of the learned variance of Gaussian noise (`VariationalDropout`) on the inputs. With --help: options.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter

try:
    import numpy as np
    from matplotlib.figure import Figure  # draws with Agg; pyplot would look for a display
    from numpy.typing import NDArray
    from parts import SGD, cross_entropy
    from results import new_table, parser, positive, publish
    from sklearn.datasets import load_digits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

P = 0.1
LEARNING_RATE = 0.05
CLASSES = 10


class Fused:
    """One read and one write for each pass."""

    @staticmethod
    def act(x: NDArray, bias: NDArray, key: fd.Key, activation: str) -> NDArray:
        """Return dropout of the activation of x + bias."""
        return fd.bias_act_dropout(x, bias, P, key, activation=activation)

    @staticmethod
    def act_backward(g: NDArray, x: NDArray, bias: NDArray, key: fd.Key, activation: str) -> tuple:
        """Return the gradients of x and bias."""
        return fd.bias_act_dropout_backward(g, x, bias, P, key, activation=activation)

    @staticmethod
    def add(x: NDArray, residual: NDArray, key: fd.Key) -> NDArray:
        """Return residual + dropout(x)."""
        return fd.dropout_add(x, residual, P, key)


class Steps:
    """The same, step by step: the activation by fastdrop without dropout, the rest by NumPy."""

    @staticmethod
    def act(x: NDArray, bias: NDArray, key: fd.Key, activation: str) -> NDArray:
        """Return dropout of the activation of x + bias."""
        return fd.dropout(fd.bias_act_dropout(x + bias, None, 0, 0, activation=activation), P, key)

    @staticmethod
    def act_backward(g: NDArray, x: NDArray, bias: NDArray, key: fd.Key, activation: str) -> tuple:
        """Return the gradients of x and bias."""
        dropped = fd.dropout_backward(g, P, key)
        dx, _ = fd.bias_act_dropout_backward(dropped, x + bias, None, 0, 0, activation=activation)
        return dx, dx.sum(0)

    @staticmethod
    def add(x: NDArray, residual: NDArray, key: fd.Key) -> NDArray:
        """Return residual + dropout(x)."""
        return residual + fd.dropout(x, P, key)


class Network:
    """Dense, some residual blocks, dense; softmax cross-entropy."""

    def __init__(
        self, inputs: int, width: int, blocks: int, passes: type, activation: str, dtype: type = np.float32
    ) -> None:
        rng = np.random.default_rng(0)
        shapes = [(inputs, width), *[(width, width)] * (2 * blocks), (width, CLASSES)]
        self.weights = [rng.normal(0, n[0] ** -0.5, n).astype(dtype) for n in shapes]
        self.biases = [np.zeros(width, dtype) for _ in range(blocks)]
        self.passes, self.activation, self.seconds = passes, activation, 0.0

    @property
    def parameters(self) -> list[NDArray]:
        """What is learned, in the order of the gradients."""
        return [*self.weights, *self.biases]

    def timed(self, name: str, *arguments: NDArray | fd.Key | str) -> NDArray | tuple:
        """Call a pass and count its time."""
        start = perf_counter()
        result = getattr(self.passes, name)(*arguments)
        self.seconds += perf_counter() - start
        return result

    def loss_and_gradients(self, x: NDArray, labels: NDArray, key: fd.Key) -> tuple[float, list[NDArray]]:
        """Return the mean loss in training, and its gradients in the order of `parameters`."""
        first, *pairs, last = self.weights
        keys = [key.fold_in(i) for i in range(len(pairs))]
        h, kept = x @ first, []
        for i, bias in enumerate(self.biases):
            wide = h @ pairs[2 * i]
            inner = self.timed("act", wide, bias, keys[2 * i], self.activation)
            kept.append((h, wide, inner))
            h = self.timed("add", inner @ pairs[2 * i + 1], h, keys[2 * i + 1])
        loss, g = cross_entropy(h @ last, labels)
        of_weights, of_biases = [h.T @ g], []
        dh = g @ last.T
        for i in reversed(range(len(self.biases))):
            h, wide, inner = kept[i]
            dz = fd.dropout_backward(dh, P, keys[2 * i + 1])
            dinner = dz @ pairs[2 * i + 1].T
            dwide, dbias = self.timed(
                "act_backward", dinner, wide, self.biases[i], keys[2 * i], self.activation
            )
            of_weights += [inner.T @ dz, h.T @ dwide]
            of_biases.append(dbias)
            dh = dh + dwide @ pairs[2 * i].T
        return loss, [x.T @ dh, *reversed(of_weights), *reversed(of_biases)]


def train(network: Network, x: NDArray, labels: NDArray, batches: Iterable[NDArray]) -> list[float]:
    """Train by gradient descent without momentum; return the losses of the batches."""
    descent, key, losses = SGD(network.parameters, LEARNING_RATE, momentum=0), fd.Key(0), []
    for batch in batches:
        loss, gradients = network.loss_and_gradients(x[batch], labels[batch], key)
        descent.step(gradients)
        losses.append(loss)
        key = key.next()
    return losses


def learned_noise(x: NDArray, labels: NDArray, steps: int) -> float:
    """The variance that a linear classifier learns for multiplicative noise on its inputs."""
    noise = fd.VariationalDropout(0.25, rng=0)
    weight = np.zeros((x.shape[1], CLASSES))
    for _ in range(steps):
        given = noise(x)
        _, g = cross_entropy(given @ weight, labels)
        noise.zero_grad()
        noise.backward(g @ weight.T)
        noise.regularizer(weight.size / len(x))
        noise.log_alpha -= 0.5 * noise.log_alpha_grad
        weight -= given.T @ g
    return float(noise.alpha)


def save_curves(losses: dict[str, list[float]], path: Path) -> None:
    """Write a PNG of the losses by step."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, each), line in zip(losses.items(), ("-", "--"), strict=True):
        axes.semilogy(each, line, label=name)
    axes.set(xlabel="step", ylabel="loss of the batch")
    axes.legend(title="passes")
    figure.savefig(path, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Train both networks and print losses and times."""
    arguments = parser(__file__, __doc__, seeds=None)
    add = arguments.add_argument
    add("--width", type=positive, default=512, help="units of a layer (default: %(default)s)")
    add("--batch", type=positive, default=256, help="images of a step (default: %(default)s)")
    add("--blocks", type=positive, default=2, help="residual blocks (default: %(default)s)")
    add("--steps", type=positive, default=200, help="of training (default: %(default)s)")
    activations = ("relu", "gelu", "gelu_tanh", "silu")
    add("--activation", choices=activations, default="gelu", help="(default: %(default)s)")
    options = arguments.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    order = np.random.default_rng(1)
    batches = [order.choice(len(x), options.batch, replace=False) for _ in range(options.steps)]
    sizes = f"{options.blocks} blocks of {options.width} units, {options.steps} steps"
    title = f"{sizes}, {options.activation}, dropout {P}"
    table = new_table(title, ["passes"], ["first loss", "last loss", "of steps: ms", "of passes: ms"])
    losses: dict[str, list[float]] = {}
    for passes in (Fused, Steps):
        settings = x.shape[1], options.width, options.blocks, passes, options.activation
        Network(*settings).loss_and_gradients(x[:8], labels[:8], fd.Key(9))  # loads or compiles the kernels
        network, name = Network(*settings), passes.__name__.lower()
        start = perf_counter()
        each = losses[name] = train(network, x, labels, tqdm(batches, desc=name, leave=False, disable=None))
        scale = 1e3 / len(batches)
        times = f"{(perf_counter() - start) * scale:.2f}", f"{network.seconds * scale:.2f}"
        table.add_row(name, f"{each[0]:.4f}", f"{np.mean(each[-10:]):.4f}", *times)
    save_curves(losses, options.out)
    learned = learned_noise(x, labels, options.steps)
    publish(
        __file__, options, [table], "Losses", [f"Variance learned for noise on the inputs: {learned:.3f}."]
    )


if __name__ == "__main__":
    main()
