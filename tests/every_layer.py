"""One of every layer of the package with what its forward takes, for tests of what all have in common."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastdrop as fd
from fastdrop._noises._layer import NoiseLayer


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
CASES = {
    fd.AdaptiveDropout: Case(lambda rng: fd.AdaptiveDropout(0.3, rng=rng), (ROWS,), follows_inputs=True),
    fd.AlphaDropout: Case(lambda rng: fd.AlphaDropout(0.3, rng=rng), (ROWS,)),
    fd.ConcreteDropout: Case(lambda rng: fd.ConcreteDropout(0.3, rng=rng), (ROWS,)),
    fd.CurriculumDropout: Case(lambda rng: _risen(fd.CurriculumDropout(0.5, gamma=1.0, rng=rng)), (ROWS,)),
    fd.DropBlock2D: Case(lambda rng: fd.DropBlock2D(0.3, block_size=2, rng=rng), (IMAGES,)),
    fd.DropConnect: Case(lambda rng: fd.DropConnect(0.3, weight=WEIGHT.copy(), rng=rng), (ROWS,)),
    fd.DropPath: Case(lambda rng: fd.DropPath(0.3, rng=rng), ((64, 2),)),
    fd.Dropout: Case(lambda rng: fd.Dropout(0.3, rng=rng), (ROWS,)),
    fd.FeatureAlphaDropout: Case(lambda rng: fd.FeatureAlphaDropout(0.3, rng=rng), ((8, 8, 3),)),
    fd.GaussianDropout: Case(lambda rng: fd.GaussianDropout(0.3, rng=rng), (ROWS,)),
    fd.GaussianNoise: Case(lambda rng: fd.GaussianNoise(0.3, rng=rng), (ROWS,)),
    fd.InvertedDropout: Case(lambda rng: fd.InvertedDropout(0.7, rng=rng), (ROWS,)),
    fd.SpatialDropout1D: Case(lambda rng: fd.SpatialDropout1D(0.3, rng=rng), ((8, 8, 3),)),
    fd.SpatialDropout2D: Case(lambda rng: fd.SpatialDropout2D(0.3, rng=rng), ((8, 8, 3, 2),)),
    fd.SpatialDropout3D: Case(lambda rng: fd.SpatialDropout3D(0.3, rng=rng), ((8, 8, 3, 2, 2),)),
    fd.StandoutDropout: Case(lambda rng: fd.StandoutDropout(rng=rng), (ROWS, ROWS)),
    fd.TemporalDropout: Case(lambda rng: fd.TemporalDropout(0.3, rng=rng), ((8, 3, 9),)),
    fd.Zoneout: Case(lambda rng: fd.Zoneout(0.3, rng=rng), (ROWS, ROWS)),
    fd.VariationalDropout: Case(lambda rng: fd.VariationalDropout(0.3, rng=rng), (ROWS,)),
}


def _risen(layer):
    layer.step()
    return layer


def classes():
    """Every layer class of the package with forward and backward, also one that has no case yet."""
    public = (getattr(fd, name) for name in fd.__all__)
    return [c for c in public if inspect.isclass(c) and issubclass(c, NoiseLayer)]
