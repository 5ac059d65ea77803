"""The table: what is timed of fastdrop, a line for each public function and layer.

A name is that of the public function or layer, and after two underscores which variant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fastdrop as fd

from .given import Given, Shape, dense, flat, images, normals, rows, sequences, volumes
from .grid import EVERY, PRODUCT, REAL

Call = Callable[[], Any]
Make = Callable[[Given], Call]
ShapeOf = Callable[[int], Shape]


class Case(NamedTuple):
    """How its calls are made, on arrays of which shape and dtypes, and whether they take `out=`."""

    name: str
    forward: Make
    backward: Make | None = None
    shape: ShapeOf = flat
    out: bool = True
    dtypes: tuple[str, ...] = REAL


def function(name: str, shape: ShapeOf = flat, dtypes: tuple[str, ...] = REAL, **options: Any) -> Case:
    """A case of a function of (x, p, key) with its backward."""

    def make(called: str) -> Make:
        def forward(s: Given) -> Call:
            return partial(getattr(fd, called), s.x, s.p, s.key, **options, **s.out)

        return forward

    public = name.partition("__")[0]
    return Case(name, make(public), make(public + "_backward"), shape, dtypes=dtypes)


def backward_of(made: Any, s: Given) -> Call:
    """The backward of a layer's one forward, which is made to wait for it again before each call."""
    waiting = getattr(made, "_forwards", [None])  # before it had them a layer took any number of backwards
    forward = waiting[-1]

    def call() -> Any:
        waiting[:] = [forward]
        return made.backward(s.g, **s.out)

    return call


def layer(
    name: str,
    make: Callable[[Given], Any],
    shape: ShapeOf = flat,
    dtypes: tuple[str, ...] = REAL,
) -> Case:
    """A case of a layer of one input."""

    def backward(s: Given) -> Call:
        made = make(s)
        made(s.x)
        return backward_of(made, s)

    return Case(name, lambda s: partial(make(s), s.x, **s.out), backward, shape, dtypes=dtypes)


def activation(name: str) -> Case:
    """A case of the fused pass through an activation, with a bias."""
    options = {"activation": name}
    return Case(
        f"bias_act_dropout__{name}",
        lambda s: partial(fd.bias_act_dropout, s.x, s.other[0], s.p, s.key, **options, **s.out),
        lambda s: partial(fd.bias_act_dropout_backward, s.g, s.x, s.other[0], s.p, s.key, **options, **s.out),
        rows,
    )


def weights(s: Given) -> np.ndarray:
    """Square weights for an input."""
    return normals((s.x.shape[1], s.x.shape[1]), s.x.dtype.name, 3)


def rates_by_feature(s: Given) -> np.ndarray:
    """A rate for each feature, all of them p."""
    return np.full(s.x.shape[-1], s.p)


def standout_backward(s: Given) -> Call:
    """The layer takes pre-activations beside its input."""
    made = fd.StandoutDropout(rng=0)
    made(s.x, s.other)
    return backward_of(made, s)


def recurrent_mask(s: Given) -> Any:
    """What drops the state of an LSTM, each gate's by itself, all through one sequence."""
    return fd.RecurrentDropout(0.0, s.p, gates=4, rng=0)().recurrent


def one_pass(s: Given) -> Callable[[np.ndarray, fd.Key], np.ndarray]:
    """A network that is one dropout."""
    return lambda x, key: fd.dropout(x, s.p, key)


def tokens(s: Given) -> np.ndarray:
    """Words for an embedding of s.x."""
    return np.random.default_rng(0).integers(len(s.x), size=len(s.x))


FUNCTIONS = [
    function("dropout", dtypes=EVERY),
    Case("dropout__transposed", lambda s: partial(fd.dropout, s.x.T, s.p, s.key, **s.out), None, rows, False),
    Case(
        "dropout__by_feature",
        lambda s: partial(fd.dropout, s.x, rates_by_feature(s), s.key, **s.out),
        lambda s: partial(fd.dropout_backward, s.g, rates_by_feature(s), s.key, **s.out),
        rows,
    ),
    function("dropout__window", rows, window=((1 << 16, 1 << 16), (123, 457))),
    Case("keep_mask", lambda s: partial(fd.keep_mask, s.x.shape, s.p, s.key), out=False),
    Case("keep_mask__packed", lambda s: partial(fd.keep_mask, s.x.shape, s.p, s.key, packed=True), out=False),
    Case("apply_mask", lambda s: partial(fd.apply_mask, s.x, s.other >= 0, s.p, **s.out)),
    function("drop_path", sequences),
    Case("surviving_rows", lambda s: partial(fd.surviving_rows, s.x.size, s.p, s.key), out=False),
    function("drop_block", images, block_size=3),
    function("alpha_dropout"),
    function("gaussian_dropout"),
    function("gaussian_noise"),
    Case("normal", lambda s: partial(fd.normal, s.x.shape, s.key, dtype=s.x.dtype), out=False),
    Case(
        "local_reparameterization",
        lambda s: partial(fd.local_reparameterization, s.x, np.square(s.other), s.key),
        lambda s: partial(fd.local_reparameterization_backward, s.g, np.square(s.other), s.key),
        out=False,
    ),
    Case("variational_kl", lambda s: partial(fd.variational_kl, s.x), out=False),
    Case(
        "concrete_dropout",
        lambda s: partial(fd.concrete_dropout, s.x, 0.0, s.key, **s.out),
        lambda s: partial(fd.concrete_dropout_backward, s.g, s.x, 0.0, s.key, **s.out),
    ),
    Case(
        "standout_dropout",
        lambda s: partial(fd.standout_dropout, s.x, s.other, s.key, **s.out),
        lambda s: partial(fd.standout_dropout_backward, s.g, s.other, s.key, **s.out),
    ),
    Case("standout_keep_prob", lambda s: partial(fd.standout_keep_prob, s.x), out=False),
    Case("importance_rates", lambda s: partial(fd.importance_rates, np.abs(s.x), s.p), out=False),
    Case(
        "dropout_add",
        lambda s: partial(fd.dropout_add, s.x, s.other, s.p, s.key, **s.out),
        lambda s: partial(fd.dropout_add_backward, s.g, s.p, s.key, **s.out),
        dtypes=EVERY,
    ),
    *map(activation, ("relu", "gelu", "gelu_tanh", "silu")),
    Case(
        "drop_connect",
        lambda s: partial(fd.drop_connect, s.x, weights(s), s.p, s.key),
        lambda s: partial(fd.drop_connect_backward, s.g, s.x, weights(s), s.p, s.key),
        dense,
        False,
        PRODUCT,
    ),
    Case(
        "drop_connect_moments",
        lambda s: partial(fd.drop_connect_moments, s.x, weights(s), s.p),
        None,
        dense,
        False,
        PRODUCT,
    ),
    Case(
        "drop_connect_inference",
        lambda s: partial(
            fd.drop_connect_inference, s.x, weights(s), s.p, s.key, activation=np.tanh, samples=10
        ),
        None,
        dense,
        False,
        PRODUCT,
    ),
    Case("max_norm", lambda s: partial(fd.max_norm, s.x, 1.0, **s.out), shape=rows),
    Case(
        "zoneout",
        lambda s: partial(fd.zoneout, s.x, s.other, s.p, s.key, **s.out),
        lambda s: partial(fd.zoneout_backward, s.g, s.p, s.key, **s.out),
    ),
    Case(
        "embedding_dropout",
        lambda s: partial(fd.embedding_dropout, tokens(s), s.x, s.p, s.key, **s.out),
        lambda s: partial(fd.embedding_dropout_backward, s.g, tokens(s), s.p, s.key, vocabulary=len(s.x)),
        rows,
        out=False,
    ),
    Case(
        "token_dropout", lambda s: partial(fd.token_dropout, tokens(s), s.p, s.key, replacement=0), out=False
    ),
    Case("mc_predict", lambda s: partial(fd.mc_predict, one_pass(s), s.x, 8, s.key), out=False),
    Case(
        "predictive_log_likelihood",
        lambda s: partial(fd.predictive_log_likelihood, one_pass(s), s.x, s.other, 1.0, 8, s.key),
        out=False,
    ),
    Case(
        "r_drop_loss",
        lambda s: partial(fd.r_drop_loss, s.x, s.other, np.zeros(len(s.x), int)),
        shape=rows,
        out=False,
    ),
]

LAYERS = [
    layer("Dropout", lambda s: fd.Dropout(s.p, rng=0), dtypes=EVERY),
    layer("InvertedDropout", lambda s: fd.InvertedDropout(1 - s.p, rng=0)),
    layer("CurriculumDropout", lambda s: fd.CurriculumDropout(s.p, gamma=0.1, rng=0)),
    layer("SpatialDropout1D", lambda s: fd.SpatialDropout1D(s.p, rng=0), sequences),
    layer("SpatialDropout2D", lambda s: fd.SpatialDropout2D(s.p, rng=0), images),
    layer(
        "SpatialDropout2D__channels_last",
        lambda s: fd.SpatialDropout2D(s.p, data_format="channels_last", rng=0),
        images,
    ),
    layer("SpatialDropout3D", lambda s: fd.SpatialDropout3D(s.p, rng=0), volumes),
    layer("TemporalDropout", lambda s: fd.TemporalDropout(s.p, rng=0), sequences),
    layer(
        "TemporalDropout__time_major", lambda s: fd.TemporalDropout(s.p, time_major=True, rng=0), sequences
    ),
    layer("GaussianDropout", lambda s: fd.GaussianDropout(s.p, rng=0)),
    layer("GaussianNoise", lambda s: fd.GaussianNoise(s.p, rng=0)),
    layer("VariationalDropout", lambda s: fd.VariationalDropout(s.p, rng=0)),
    layer("AlphaDropout", lambda s: fd.AlphaDropout(s.p, rng=0)),
    layer("FeatureAlphaDropout", lambda s: fd.FeatureAlphaDropout(s.p, rng=0), images),
    layer("ConcreteDropout", lambda s: fd.ConcreteDropout(s.p, rng=0)),
    layer("AdaptiveDropout", lambda s: fd.AdaptiveDropout(s.p, rng=0), rows),
    Case(
        "StandoutDropout",
        lambda s: partial(fd.StandoutDropout(rng=0), s.x, s.other, **s.out),
        standout_backward,
    ),
    layer("DropPath", lambda s: fd.DropPath(s.p, rng=0), sequences),
    layer("DropBlock2D", lambda s: fd.DropBlock2D(s.p, block_size=3, rng=0), images),
    layer("DropConnect", lambda s: fd.DropConnect(s.p, weight=weights(s), rng=0), dense, PRODUCT),
    Case("Zoneout", lambda s: partial(fd.Zoneout(s.p, rng=0), s.x, s.other, **s.out), shape=rows),
    Case(
        "RecurrentDropout",
        lambda s: partial(recurrent_mask(s), s.x),
        lambda s: partial(recurrent_mask(s).backward, np.stack([s.g] * 4)),
        rows,
        out=False,
    ),
]
