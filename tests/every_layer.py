"""One of every layer of the package with what its forward takes, for tests of what all have in common."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastdrop as fd
from fastdrop._noises._layer import NoiseLayer
from fastdrop._noises._noise import NOISES


class Case(NamedTuple):
    """How to make a layer, and the shapes of forward's arguments."""

    make: Callable[[int], NoiseLayer]
    shapes: tuple[tuple[int, ...], ...]
    follows_inputs: bool = False  # whether what it does depends on the inputs before

    def arguments(self, variant=0):
        rng = np.random.default_rng(variant)
        return tuple(rng.standard_normal(shape).astype(np.float32) for shape in self.shapes)


WEIGHT = np.random.default_rng(1).standard_normal((9, 5)).astype(np.float32)
ROWS, IMAGES = (8, 9), (2, 5, 8, 9)


def _risen(layer):
    layer.step()
    return layer


# What layers are made of that take more than a rate of 0.3, and what they take that aren't for any array.
MADE = {
    fd.CurriculumDropout: lambda rng: _risen(fd.CurriculumDropout(0.5, gamma=1.0, rng=rng)),
    fd.DropBlock1D: lambda rng: fd.DropBlock1D(0.3, block_size=2, rng=rng),
    fd.DropBlock2D: lambda rng: fd.DropBlock2D(0.3, block_size=2, rng=rng),
    fd.DropBlock3D: lambda rng: fd.DropBlock3D(0.3, block_size=2, rng=rng),
    fd.DropConnect: lambda rng: fd.DropConnect(0.3, weight=WEIGHT.copy(), rng=rng),
    fd.InvertedDropout: lambda rng: fd.InvertedDropout(0.7, rng=rng),
    fd.StandoutDropout: lambda rng: fd.StandoutDropout(rng=rng),
}
SHAPES = {
    fd.DropBlock1D: (4, 6, 8),
    fd.DropBlock2D: IMAGES,
    fd.DropBlock3D: (2, 3, 4, 5, 4),
    fd.DropPath: (64, 2),
    fd.FeatureAlphaDropout: (8, 8, 3),
    fd.SpatialDropout1D: (8, 8, 3),
    fd.SpatialDropout2D: (8, 8, 3, 2),
    fd.SpatialDropout3D: (8, 8, 3, 2, 2),
    fd.TemporalDropout: (8, 3, 9),
}
FOLLOW_INPUTS = {fd.AdaptiveDropout}


def classes():
    """Every layer class of the noises.

    But `RecurrentDropout`, which makes masks, and is no function of an array.
    """
    found = [layer for noise in NOISES.values() for layer in noise.layers]
    return [c for c in found if c is not fd.RecurrentDropout]


def _case(kind):
    parameters = inspect.signature(kind.forward).parameters.values()
    arrays = [each for each in parameters if each.name != "self" and each.default is inspect.Parameter.empty]
    make = MADE.get(kind, lambda rng: kind(0.3, rng=rng))
    return Case(make, (SHAPES.get(kind, ROWS),) * len(arrays), kind in FOLLOW_INPUTS)


CASES = {kind: _case(kind) for kind in classes()}
