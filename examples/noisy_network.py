"""A network of feature maps and hidden units, with every noise that can act on them.

The network is a convolution whose filters don't overlap (a dense layer on each square of the image), which
gives feature maps; a dense layer on them; and a dense layer to the classes. The noise acts on the feature
maps and on the hidden units. Hidden units are maps of one pixel: on these the noises of maps drop single
units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from parts import SELU, Dense, ReLU, Reshape, Sequential

import fastdrop as fd

RATES = (0.2, 0.5)  # on the feature maps and on the hidden units
FILTERS, HIDDEN = 16, 128
CLASSES = 10


class Place(NamedTuple):
    """Where a noise acts, and in what training."""

    p: float
    key: fd.Key
    steps: int  # updates
    examples: int  # images to train on


class Columns:
    """Temporal dropout of (n, height, width, channels), whose time is the height."""

    def __init__(self, place: Place) -> None:
        self.noise = fd.TemporalDropout(place.p, rng=place.key)

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return x, in training with the same columns and channels dropped at all heights."""
        return self.noise.forward(x.reshape(*x.shape[:2], -1), training).reshape(x.shape)

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x."""
        return self.noise.backward(g.reshape(*g.shape[:2], -1)).reshape(g.shape)


class StandoutReLU:
    """ReLU, and standout by what it is taken of: an input of 0 is kept with probability 1 - p."""

    def __init__(self, place: Place) -> None:
        self.noise = fd.StandoutDropout(beta=float(np.log(1 / place.p - 1)), rng=place.key)

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return the positive part, dropped in training, times the probability to keep in evaluation."""
        self.positive = x > 0
        return self.noise.forward(np.maximum(x, 0), x, training)

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x, none of it through the probabilities."""
        return self.noise.backward(g) * self.positive


class ConcreteDense(Dense):
    """Concrete dropout and the dense layer it feeds, whose weights are in its regularizer."""

    def __init__(self, place: Place, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.noise = fd.ConcreteDropout(place.p, rng=place.key)
        self.parameters.append(self.noise.logit)
        self.scales = {"weight_scale": 1e-4 / place.examples, "entropy_scale": 1 / place.examples}

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return the weighted sums of x, under the noise in training."""
        weights, biases, _ = self.parameters
        self.x = self.noise.forward(x, training)
        return self.x @ weights + biases

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x, and set those of weights, biases and logit."""
        weights = self.parameters[0]
        self.noise.zero_grad()
        of_weights = self.x.T @ g
        self.noise.regularizer(weights, of_weights, **self.scales)
        dx = self.noise.backward(g @ weights.T)
        self.gradients = [of_weights, g.sum(0), self.noise.logit_grad]
        return dx

    def penalty(self) -> float:
        """Return the regularizer."""
        weights = self.parameters[0]
        return self.noise.regularizer(weights, np.zeros_like(weights), **self.scales)


class DroppedDense(Dense):
    """DropConnect: a dense layer whose weights are dropped."""

    def __init__(self, place: Place, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        weights, biases = self.parameters
        self.noise = fd.DropConnect(place.p, weight=weights, bias=biases, per_example=False, rng=place.key)
        self.gradients = [self.noise.weight_grad, self.noise.bias_grad]

    def forward(self, x: NDArray, training: bool) -> NDArray:
        """Return the weighted sums of x, with weights dropped in training."""
        return self.noise.forward(x, training)

    def backward(self, g: NDArray) -> NDArray:
        """Return the gradient of x, and set those of weights and biases."""
        self.noise.zero_grad()
        return self.noise.backward(g)


def plain_dense(place: Place, *sizes: int, **options: Any) -> Dense:
    """Return a dense layer without noise of its own."""
    return Dense(*sizes, **options)


def of(noise: Callable, **options: Any) -> Callable[[Place], Any]:
    """Return what makes a noise for a place."""
    return lambda place: noise(place.p, rng=place.key, **options)


class Variant(NamedTuple):
    """A noise: as a layer after the activation, or in the place of it, or as the dense layer after it."""

    noise: Callable[[Place], Any] | None = None
    activation: Callable | None = ReLU
    dense: Callable[..., Dense] = plain_dense
    baseline: str = "none"


MAPS = {"data_format": "channels_last"}
VARIANTS = {
    "none": Variant(),
    "Bernoulli": Variant(of(fd.Dropout)),
    "Gaussian": Variant(of(fd.GaussianDropout)),
    "spatial": Variant(of(fd.SpatialDropout2D, **MAPS)),
    "temporal": Variant(Columns),
    "DropBlock": Variant(of(fd.DropBlock2D, block_size=2, **MAPS)),
    "adaptive": Variant(of(fd.AdaptiveDropout)),
    "standout": Variant(StandoutReLU, None),
    "concrete": Variant(dense=ConcreteDense),
    "curriculum": Variant(lambda at: fd.CurriculumDropout(at.p, gamma=10 / at.steps, rng=at.key)),
    "DropConnect": Variant(dense=DroppedDense),
    "none, SELU": Variant(activation=SELU),
    "alpha, SELU": Variant(of(fd.AlphaDropout), SELU, baseline="none, SELU"),
}


def network(
    variant: Variant,
    maps: tuple[int, int],
    steps: int,
    examples: int,
    seed: int,
    widths: tuple[int, int] = (FILTERS, HIDDEN),
    dtype: type = np.float32,
) -> Sequential:
    """Return the network for images of (side, side) squares with (side * side) pixels each."""
    key = fd.Key(seed)
    gain = SELU.gain if variant.activation is SELU else ReLU.gain
    options = {"rng": np.random.default_rng(seed), "gain": gain, "dtype": dtype}
    places = [Place(p, key.fold_in(number), steps, examples) for number, p in enumerate(RATES)]
    (side, pixels), (filters, hidden) = maps, widths
    layers: list[Any] = [Reshape(side, side, pixels), Dense(pixels, filters, **options)]
    for place, inputs, outputs in zip(
        places, (side * side * filters, hidden), (hidden, CLASSES), strict=True
    ):
        layers += [variant.activation()] if variant.activation else []
        layers += [variant.noise(place)] if variant.noise else []
        layers += [Reshape(inputs), variant.dense(place, inputs, outputs, **options)]
        layers += [Reshape(1, 1, outputs)]
    return Sequential(layers[:-1])


def noises(model: Sequential) -> list[fd.Dropout]:
    """Return fastdrop's layers in a network."""
    found = (getattr(layer, "noise", layer) for layer in model.layers)
    return [layer for layer in found if hasattr(layer, "key")]
