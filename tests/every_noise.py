"""Arguments for every noise, made from its record: what tests of several noises have in common."""

from inspect import Parameter, signature

import numpy as np
import pytest
from arrays import normal

from fastdrop._noises._noise import NOISES

FUNCTIONS = [noise for noise in NOISES.values() if noise.has_function]
SHAPES = {"drop_block": (2, 3, 6, 7), "drop_connect": (6, 5)}  # of the first array, where not any will do

# What a noise needs beside arrays of one shape, a rate and a key.
SPECIAL = {
    "attention": lambda x: {
        "k": normal(x.shape[-1], x.shape[-1], dtype=x.dtype, seed=7),
        "v": normal(x.shape[-1], 3, dtype=x.dtype, seed=8),
    },
    "bias_act_dropout": lambda x: {"bias": normal(*x.shape[-1:], dtype=x.dtype, seed=8)},
    "drop_connect": lambda x: {"weight": normal(x.shape[1], 4, dtype=x.dtype, seed=8)},
    "embedding_dropout": lambda x: {"tokens": words(x), "weight": normal(9, 5, dtype=x.dtype, seed=8)},
    "local_reparameterization": lambda x: {"variance": np.abs(normal(*x.shape, dtype=x.dtype, seed=8)) + 0.1},
    "token_dropout": lambda x: {"tokens": words(x), "replacement": 3},
}


def is_plain(noise):
    """Whether a noise's function needs no more than arrays of one shape, a key, and perhaps a rate."""
    rate = (noise.rate,) if noise.rate else ()
    return noise.has_function and noise.needed == (noise.first, *noise.like, *rate, "key")


def words(x):
    return np.random.default_rng(8).integers(9, size=x.shape)


def arguments(noise, shape, dtype=np.float32):
    """The arguments that a noise's function needs but the key, with a rate of 0.3."""
    shape = SHAPES.get(noise.name, shape)
    arrays = {name: normal(*shape, dtype=dtype, seed=n) for n, name in enumerate((noise.first, *noise.like))}
    rate = {noise.rate: 0.3} if noise.rate else {}
    return arrays | rate | SPECIAL.get(noise.name, lambda x: {})(arrays[noise.first])


def backward_arguments(noise, given, g):
    """The arguments that a noise's gradient needs but the key, after those of its function."""
    known = given | {"vocabulary": len(given.get("weight", ()))}
    first, *others = (
        name for name, p in signature(noise.backward).parameters.items() if p.default is Parameter.empty
    )
    return {first: g} | {name: known[name] for name in others if name != "key"}


def check_refused_on_a_gpu(noise, moved):
    """Check that a noise that isn't for a GPU says so; a function moves arrays there."""
    given = arguments(noise, (3, 5))
    given |= {name: moved(a) for name, a in given.items() if isinstance(a, np.ndarray)}
    with pytest.raises(TypeError, match="no arrays on a GPU"):
        noise.function(**given, key=1)
