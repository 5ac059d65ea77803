"""The table: what is timed of fastdrop, a line for each public function and layer.

A name is that of the public function or layer, and after two underscores which variant. A noise has its lines
from its record: here stands what no record tells, such as the shapes that it is for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import fastdrop as fd

from .given import Given, Shape, channels_last, dense, flat, heads, images, normals, rows, sequences, volumes
from .grid import PRODUCT, REAL

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


def backward_of(made: Any, s: Given) -> Call:
    """The backward of a layer's one forward, which is made to wait for it again before each call."""
    waiting = getattr(made, "_forwards", [None])  # before it had them a layer took any number of backwards
    forward = waiting[-1]

    def call() -> Any:
        waiting.clear()
        waiting.append(forward)
        return made.backward(s.g, **s.out)

    return call


def weights(s: Given) -> np.ndarray:
    """Square weights for an input."""
    return normals((s.x.shape[1], s.x.shape[1]), s.x.dtype.name, 3)


def probabilities(s: Given) -> np.ndarray:
    """Probabilities of classes, a row for each example or pass."""
    exponentials = np.exp(s.x.astype(np.float32))
    return (exponentials / exponentials.sum(1, keepdims=True)).astype(s.x.dtype)


def curriculum(s: Given) -> Any:
    """A layer whose schedule has begun."""
    layer = fd.CurriculumDropout(s.p, gamma=0.1, rng=0)
    layer.step()
    return layer


def tokens(s: Given) -> np.ndarray:
    """Words for an embedding of s.x."""
    return np.random.default_rng(0).integers(len(s.x), size=len(s.x))


# What functions are given for the arguments that they need, by name; others get the first array, x.
ARGUMENTS: dict[str, Callable[[Given], Any]] = {
    "a": lambda s: s.other,
    "alpha": lambda s: s.p,
    "bias": lambda s: s.other[0],
    "g": lambda s: s.g,
    "key": lambda s: s.key,
    "logit": lambda s: 0.0,
    "p": lambda s: s.p,
    "previous": lambda s: s.other,
    "replacement": lambda s: 0,
    "residual": lambda s: s.other,
    "std": lambda s: s.p,
    "tokens": tokens,
    "variance": lambda s: np.square(s.other) + s.x.dtype.type(0.1),
    "vocabulary": lambda s: len(s.x),
}
WEIGHTS = {"drop_connect": weights, "embedding_dropout": lambda s: s.x}
SHAPES: dict[str, ShapeOf] = {  # of functions and layers that aren't for any
    "AdaptiveDropout": rows,
    "DropBlock1D": sequences,
    "DropBlock1d": sequences,
    "DropBlock2D": images,
    "DropBlock2d": images,
    "DropBlock3D": volumes,
    "DropBlock3d": volumes,
    "DropConnect": dense,
    "DropPath": sequences,
    "Dropout1d": sequences,
    "Dropout2d": images,
    "Dropout3d": volumes,
    "FeatureAlphaDropout": images,
    "SpatialDropout1D": sequences,
    "SpatialDropout2D": images,
    "SpatialDropout3D": volumes,
    "TemporalDropout": sequences,
    "Zoneout": rows,
    "attention": heads,
    "bias_act_dropout": rows,
    "drop_block": images,
    "drop_connect": dense,
    "drop_path": sequences,
    "embedding_dropout": rows,
}
OPTIONS: dict[str, dict[str, Any]] = {"drop_block": {"block_size": 3}}
OTHER_OUTPUT = ("drop_connect", "embedding_dropout", "token_dropout")  # not of x's shape and dtype
MADE: dict[str, Callable[[Given], Any]] = {  # layers that take more than a rate, or another number
    "CurriculumDropout": curriculum,
    "DropBlock1D": lambda s: fd.DropBlock1D(s.p, block_size=3, rng=0),
    "DropBlock2D": lambda s: fd.DropBlock2D(s.p, block_size=3, rng=0),
    "DropBlock3D": lambda s: fd.DropBlock3D(s.p, block_size=3, rng=0),
    "DropConnect": lambda s: fd.DropConnect(s.p, weight=weights(s), rng=0),
    "InvertedDropout": lambda s: fd.InvertedDropout(1 - s.p, rng=0),
    "StandoutDropout": lambda s: fd.StandoutDropout(rng=0),
}


class Record(NamedTuple):
    """What the suite needs of a noise's record; an old commit has none, and is asked for it."""

    name: str
    function: Callable[..., Any]
    backward: Callable[..., Any] | None
    dtypes: tuple[str, ...] = REAL
    layers: tuple[type, ...] = ()
    modules: tuple[str, ...] = ()
    lacks: frozenset[str] = frozenset()

    def given(self, s: Given, backward: bool = False) -> dict[str, Any]:
        """The arguments that its function needs, or its gradient."""
        function = self.backward if backward and self.backward else self.function
        parameters = inspect.signature(function).parameters.values()
        names = [each.name for each in parameters if each.default is inspect.Parameter.empty]
        made = {name: ARGUMENTS.get(name, lambda s: s.x)(s) for name in names}
        return made | ({"weight": WEIGHTS[self.name](s)} if "weight" in names else {})


def records() -> list[Record]:
    """The noises, by their records or, in a commit that has none, by public names."""
    try:
        from fastdrop._noises._noise import INTEGERS, NOISES
    except ImportError:
        return list(_by_names())
    found = []
    for noise in NOISES.values():
        dtypes = REAL if noise.dtypes == INTEGERS else noise.dtypes  # of the embedding beside them
        parts = noise.name, noise.function, noise.backward, dtypes, noise.layers
        found.append(Record(*parts, noise.modules, frozenset(noise.lacks)))
    return found


def _by_names() -> Iterator[Record]:
    public = {name: getattr(fd, name) for name in getattr(fd, "__all__", ())}
    for name, function in public.items():
        if inspect.isfunction(function) and not name.endswith("_backward"):
            names = list(inspect.signature(function).parameters)
            known = "weight" not in names or name in WEIGHTS
            if "key" in names and names[0] in ("x", "h", "mean", "new", "q", "tokens") and known:
                yield Record(name, function, public.get(f"{name}_backward"))
    layers = (each for each in public.values() if inspect.isclass(each) and hasattr(each, "forward"))
    modules = ("Dropout", "Dropout2d", "GaussianDropout", "AlphaDropout", "DropPath")
    yield Record("layers", fd.dropout, None, REAL, tuple(layers), modules)


def function(record: Record, variant: str = "", shape: ShapeOf | None = None, **options: Any) -> Case:
    """A case of a noise's function and its gradient, with options."""
    options = OPTIONS.get(record.name, {}) | options
    has_out = "out" in inspect.signature(record.function).parameters and record.name not in OTHER_OUTPUT

    def make(function: Callable[..., Any] | None, backward: bool) -> Make | None:
        if function is None:
            return None
        taken = inspect.signature(function).parameters
        known = {name: value for name, value in options.items() if name in taken}

        def calls(s: Given) -> Call:
            out = s.out if "out" in taken and has_out else {}
            return partial(function, **record.given(s, backward), **known, **out)

        return calls

    forward, backward = make(record.function, False), make(record.backward, True)
    shape = shape or SHAPES.get(record.name, flat)
    return Case(record.name + variant, forward, backward, shape, has_out, record.dtypes)


def layer(
    name: str,
    make: Callable[[Given], Any] | None = None,
    shape: ShapeOf | None = None,
    dtypes: tuple[str, ...] = REAL,
) -> Case:
    """A case of a layer, of one array or two."""
    public = name.partition("__")[0]
    kind = getattr(fd, public, None)
    make = make or MADE.get(public, lambda s: kind(s.p, rng=0))
    needed = list(inspect.signature(kind.forward).parameters.values()) if kind else []
    arrays = [each for each in needed[1:] if each.default is inspect.Parameter.empty]

    def inputs(s: Given) -> tuple[np.ndarray, ...]:
        return (s.x, s.other)[: max(1, len(arrays))]

    def backward(s: Given) -> Call:
        made = make(s)
        made(*inputs(s))
        call, waiting = partial(made.backward, s.g, **s.out), getattr(made, "_forwards", None)
        if waiting is None:  # an old commit's layer, whose backward may come again
            return call
        forward = waiting[-1]

        def again() -> Any:
            waiting.clear()
            waiting.append(forward)  # which the backward before has taken; some 50 ns
            return call()

        return again

    def forward(s: Given) -> Call:
        return partial(make(s), *inputs(s), **s.out)

    return Case(name, forward, backward, shape or SHAPES.get(public, flat), dtypes=dtypes)


def by_rates(of: str) -> Case:
    """Dropout with a rate for each feature, sample or element, all of them p."""

    def rates(s: Given) -> np.ndarray:
        shapes = {"feature": s.x.shape[-1:], "sample": (len(s.x), 1), "element": s.x.shape}
        return np.full(shapes[of], s.p)

    return Case(
        f"dropout__by_{of}",
        lambda s: partial(fd.dropout, s.x, rates(s), s.key, **s.out),
        lambda s: partial(fd.dropout_backward, s.g, rates(s), s.key, **s.out),
        rows,
    )


def packed_mask(s: Given) -> Call:
    """A mask of one's own that is packed into bits."""
    return partial(fd.apply_mask, s.x, np.packbits(s.other >= 0), s.p, packed=True, **s.out)


def complex_channels(s: Given) -> Call:
    """Dropout of whole channels of complex numbers, in the same bytes."""
    dtype = np.result_type(s.x.dtype, np.complex64)
    out = {name: a.view(dtype) for name, a in s.out.items()}
    return partial(fd.dropout, s.x.view(dtype), s.p, s.key, shared_axes=1, **out)


def recurrent_mask(s: Given) -> Any:
    """What drops the state of an LSTM, each gate's by itself, all through one sequence."""
    return fd.RecurrentDropout(0.0, s.p, gates=4, rng=0)().recurrent


def one_pass(s: Given) -> Callable[[np.ndarray, fd.Key], np.ndarray]:
    """A network that is one dropout."""
    return lambda x, key: fd.dropout(x, s.p, key)


def ids(s: Given) -> np.ndarray:
    """Numbers of shuffled samples, out of ten times as many."""
    return np.random.default_rng(0).permutation(10 * len(s.x))[: len(s.x)]


def ends(s: Given) -> np.ndarray:
    """Where texts of some 64 elements begin and end."""
    cuts = np.random.default_rng(0).integers(s.x.size + 1, size=s.x.size // 64)
    return np.concatenate([[0], np.sort(cuts), [s.x.size]])


def entries(s: Given) -> np.ndarray:
    """Places in a matrix of 2**40 elements, in any order."""
    return np.random.default_rng(0).integers(1 << 40, size=s.x.shape)


def listed() -> Iterator[Case]:
    """Dropout by lists of rows, of texts and of places; an old commit has none."""
    kinds = {"rows": (ids, rows), "offsets": (ends, flat), "indices": (entries, flat)}
    for name, (make, shape) in kinds.items():
        if name in inspect.signature(fd.dropout).parameters:
            yield Case(
                f"dropout__{name}",
                lambda s, n=name, make=make: partial(fd.dropout, s.x, s.p, s.key, **{n: make(s)}, **s.out),
                lambda s, n=name, make=make: partial(
                    fd.dropout_backward, s.g, s.p, s.key, **{n: make(s)}, **s.out
                ),
                shape,
            )


RECORDS = {record.name: record for record in records()}
OF_FUNCTIONS = {n: r for n, r in RECORDS.items() if n == r.function.__name__}
ACTIVATED = "bias_act_dropout"  # is timed by activations alone
FUNCTIONS = [
    *(function(record) for name, record in OF_FUNCTIONS.items() if name != ACTIVATED),
    *(
        function(OF_FUNCTIONS[ACTIVATED], f"__{name}", activation=name)
        for name in ("relu", "gelu", "gelu_tanh", "silu")
        if ACTIVATED in OF_FUNCTIONS
    ),
    function(OF_FUNCTIONS["dropout"], "__maps", images, shared_axes=(2, 3)),
    function(OF_FUNCTIONS["dropout"], "__channels", channels_last, shared_axes=1),
    Case("dropout__complex_channels", complex_channels, None, channels_last, True, PRODUCT),
    Case(
        "dropout__columns",
        lambda s: partial(fd.dropout, s.x.T, s.p, s.key, out=np.empty_like(s.x).T),
        None,
        rows,
        False,
    ),
    Case("dropout__transposed", lambda s: partial(fd.dropout, s.x.T, s.p, s.key, **s.out), None, rows, False),
    *(by_rates(of) for of in ("feature", "sample", "element")),
    Case(
        "attention__causal",
        lambda s: partial(fd.attention, s.x, s.x, s.x, s.p, s.key, is_causal=True, **s.out),
        lambda s: partial(fd.attention_backward, s.g, s.x, s.x, s.x, s.p, s.key, is_causal=True),
        heads,
    ),
    function(OF_FUNCTIONS["dropout"], "__window", rows, window=((1 << 16, 1 << 16), (123, 457))),
    *listed(),
    Case("keep_mask", lambda s: partial(fd.keep_mask, s.x.shape, s.p, s.key), out=False),
    Case("keep_mask__packed", lambda s: partial(fd.keep_mask, s.x.shape, s.p, s.key, packed=True), out=False),
    Case("apply_mask", lambda s: partial(fd.apply_mask, s.x, s.other >= 0, s.p, **s.out)),
    Case("apply_mask__packed", packed_mask),
    Case("surviving_rows", lambda s: partial(fd.surviving_rows, s.x.size, s.p, s.key), out=False),
    Case("normal", lambda s: partial(fd.normal, s.x.shape, s.key, dtype=s.x.dtype), out=False),
    Case("information_kl", lambda s: partial(fd.information_kl, s.x), out=False),
    Case("variational_kl", lambda s: partial(fd.variational_kl, s.x), out=False),
    Case("standout_keep_prob", lambda s: partial(fd.standout_keep_prob, s.x), out=False),
    Case("importance_rates", lambda s: partial(fd.importance_rates, np.abs(s.x), s.p), out=False),
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
    Case("mc_predict", lambda s: partial(fd.mc_predict, one_pass(s), s.x, 8, s.key), out=False),
    Case(
        "predictive_log_likelihood",
        lambda s: partial(fd.predictive_log_likelihood, one_pass(s), s.x, s.other, 1.0, 8, s.key),
        out=False,
    ),
    Case(
        "predictive_entropy",
        lambda s: partial(fd.predictive_entropy, probabilities(s)),
        shape=rows,
        out=False,
    ),
    Case(
        "mutual_information",
        lambda s: partial(fd.mutual_information, probabilities(s)),
        shape=rows,
        out=False,
    ),
    Case(
        "r_drop_loss",
        lambda s: partial(fd.r_drop_loss, s.x, s.other, np.zeros(len(s.x), int)),
        shape=rows,
        out=False,
    ),
]

MASKS = "RecurrentDropout"  # makes masks, and is no function of an array
LAYERS = [
    *(
        layer(each.__name__, dtypes=record.dtypes)
        for record in RECORDS.values()
        for each in record.layers
        if each.__name__ != MASKS
    ),
    layer(
        "SpatialDropout2D__channels_last",
        lambda s: fd.SpatialDropout2D(s.p, data_format="channels_last", rng=0),
    ),
    layer("TemporalDropout__time_major", lambda s: fd.TemporalDropout(s.p, time_major=True, rng=0)),
    Case(
        MASKS,
        lambda s: partial(recurrent_mask(s), s.x),
        lambda s: partial(recurrent_mask(s).backward, np.stack([s.g] * 4)),
        rows,
        out=False,
    ),
]
