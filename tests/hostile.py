"""Hostile arguments, for fuzzers of everything public, and what a call with them may end in."""

import collections
import fractions
import inspect
import math
import re

import ml_dtypes
import numpy as np
from arrays import DTYPES, LAYOUTS, examples, normal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import fastdrop as fd
from fastdrop._noises._noise import INTEGERS, NOISES, PRODUCT

EXPECTED = (TypeError, ValueError)  # what the docstrings name


class Sub(np.ndarray):
    """An array of a class of the user's."""


class Index:
    """An integer that isn't an int."""

    def __index__(self):
        return 1


class Liar:
    """What claims to be an array and isn't."""

    __array_interface__ = {"version": 3, "shape": (3,), "typestr": "<f4", "data": None}  # noqa: RUF012


WRONG_DTYPES = [np.int64, np.bool_, np.uint8, np.longdouble, np.object_, "U3", "M8[s]", "V4", "f4,i2"]
NUMBERS = [
    *(
        0,
        1,
        0.0,
        1.0,
        0.1,
        0.5,
        -0.0,
        5e-324,
        2.0**-40,
        1 - 2.0**-40,
        True,
        np.float16(0.25),
        np.float32(0.3),
    ),
    *(np.int8(1), math.nan, math.inf, -math.inf, -1, -5e-324, 2, 1e308, 10**400, -(10**400), 10**5000),
    *(
        None,
        "0.5",
        b"1",
        1j,
        (),
        [0.5],
        {},
        object(),
        fractions.Fraction(1, 3),
        np.array(0.5),
        np.longdouble(1),
    ),
    *(np.array([0.1, 0.9]), np.array([math.nan]), np.array(["a"]), np.zeros(0), np.array([1j]), Index()),
]
KEYS = [0, 7, 2**70, fd.Key(1), fd.Key(2, 2**63 + 5), fd.Key(3, 2**64 - 1), np.int64(3), np.uint8(1), Index()]
KEYS += [-1, True, None, "1", 1.0, (1, 2), math.nan, np.array(1), np.random.default_rng(0), 10**5000]
AXES = [
    (),
    0,
    -1,
    (0, 1),
    [0],
    {0},
    (0, 0),
    5,
    -5,
    10**30,
    None,
    "0",
    (0.5,),
    ((0,),),
    np.array([0]),
    Index(),
]
WINDOWS = [
    None,
    (),
    ((3,), (0,)),
    ((2**63, 5), (2**62, 0)),
    ((2**70,), (1,)),
    ((-3,), (0,)),
    ((3,), (-1,)),
    5,
]
WINDOWS += ["ab", ((3.5,), (0,)), (None, None), ((10**30,) * 3, (0,) * 3), ((3,), (0, 0)), np.ones((2, 2))]
SHAPES = [
    (),
    0,
    3,
    (2, 3),
    [4],
    -1,
    (2, -3),
    None,
    "3",
    1.5,
    (10**30,),
    2**62,
    (2**40, 2**40),
    Index(),
    (None,),
]
WORDS = [
    "row",
    "batch",
    "channels_first",
    "channels_last",
    "relu",
    "gelu",
    "none",
    "no",
    "",
    None,
    1,
    [],
    b"row",
]
FLAGS = [True, False, None, 1, "yes", [], np.True_, np.array([True, False])]
ARE_FLAGS = {"packed", "inverted", "per_example", "shared_channels", "linear", "time_major", "tied"}
ARE_FLAGS |= {"scale_by_keep", "inplace", "is_causal", "enable_gqa"}
LENGTHS = [0, 1, 3, 7, -1, 10**30, None, 1.5, "3", True, np.int8(2), Index()]


@st.composite
def arrays(draw, shape=None, dtype=None):
    """Arrays of any layout, made of any bits."""
    if shape is None:
        shape = draw(
            st.sampled_from([(), (0,), (1,), (3,), (5, 3), (2, 1, 4), (2, 3, 4, 5), (1500,), (3, 0, 2)])
        )
    if dtype is None:
        dtype = draw(st.sampled_from(DTYPES))
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    raw = rng.bytes(math.prod(shape) * dtype.itemsize)  # payloads, signals, denormals and negative zeros
    x = np.frombuffer(raw, np.uint8).copy().view(dtype).reshape(shape)
    layout = draw(st.sampled_from([*LAYOUTS, "broadcast", "frozen", "sub", "masked", "list"]))
    if layout == "broadcast":
        return np.broadcast_to(x[:1] if shape and shape[0] else x, shape)
    if layout == "frozen":
        x.flags.writeable = False
    elif layout == "sub":
        return x.view(Sub)
    elif layout == "masked":
        return draw(st.sampled_from([x, np.ma.masked_array(x)]))
    elif layout == "list":
        return x if dtype == ml_dtypes.bfloat16 else x.tolist()
    return LAYOUTS[layout](x) if shape and layout in LAYOUTS else x


STRANGE = [None, "x", {}, object(), [[1], [1, 2]], Liar(), 1j, 10**400, math.nan, repr, b"xyz", [None], 5]
STRANGE += [np.zeros((5, 3), kind) for kind in WRONG_DTYPES] + [np.zeros((), kind) for kind in WRONG_DTYPES]
STRANGE += [
    np.ones((1, 1)).view(Sub),
    np.ones(3, np.float32),
    np.ones((1,) * 20),
    np.ma.masked_array(np.ones(3), True),
]


class Zone:
    """An output in a buffer whose other bytes must stay."""

    def __init__(self, x, place, step, how):
        size, item = max(x.size, 1), x.dtype.itemsize
        self.raw = np.full(place + size * item * step + 70, 0xA5, np.uint8)
        strides, left = [], item * step
        for length in reversed(x.shape):
            strides.insert(0, left)
            left *= max(length, 1)
        if how == "zero":
            strides = [0] * x.ndim
        elif how == "overlapping":
            strides = [max(stride - item, item) for stride in strides]
        base = self.raw[place : len(self.raw) - 70].view(np.uint8)
        base = base[: base.size // item * item].view(x.dtype)
        self.out = as_strided(base, x.shape, strides)
        inside = np.zeros(self.raw.size, np.bool_)
        for at in np.ndindex(x.shape) if x.size <= 5000 else ():
            first = place + sum(i * stride for i, stride in zip(at, strides, strict=True))
            inside[first : first + item] = True
        self.outside = ~inside
        self.distinct = how == "apart"

    def untouched(self):
        return bool((self.raw[self.outside] == 0xA5).all())


@st.composite
def zones(draw, x):
    how = draw(st.sampled_from(["apart", "apart", "apart", "zero", "overlapping"]))
    return Zone(x, draw(st.integers(0, 70)), draw(st.sampled_from([1, 1, 1, 2, 3])), how)


RECORDS = [noise for noise in NOISES.values() if noise.dtypes != INTEGERS]
FIRST = {noise.first for noise in RECORDS if noise.dtypes != PRODUCT} - {"tokens"} | {"g", "x"}
LIKE_IT = FIRST | {name for noise in RECORDS for name in noise.like}
LIKE_IT |= {"weight", "importance", "log_alpha", "k", "v"}
A_NUMBER = {noise.rate for noise in RECORDS if noise.rate} | {"alpha", "beta", "gamma", "c", "temperature"}
A_NUMBER |= {"max_rate", "adaptation_rate"}


LISTED = {"rows", "indices", "offsets"}


def valid(name, x, draw):
    """An argument that fits x, or at least something of its kind."""
    shape = np.shape(x)
    kind = x.dtype if isinstance(x, np.ndarray) else np.dtype(np.float64)
    if name in LISTED:  # seldom, as each wants to be alone
        count = draw(st.sampled_from([shape[:1], shape, (1,)]))
        return draw(st.sampled_from([None, None, None, None, np.arange(math.prod(count)).reshape(count)]))
    if name == "weight":
        return draw(st.one_of(arrays(shape, kind), arrays((5, 3), kind)))
    if name in LIKE_IT:
        return draw(arrays(shape, kind))
    if name == "bias":
        return draw(st.sampled_from([None, np.ones(shape[-1:], kind)]))
    if name == "attn_mask":
        return draw(st.sampled_from([None, np.ones((), np.bool_), np.zeros((1, 1), kind)]))
    if name == "mask":
        return draw(arrays(shape, draw(st.sampled_from([np.bool_, np.uint8]))))
    if name == "window":
        return draw(
            st.sampled_from([None, (shape, (0,) * len(shape)), ([n + 2**31 for n in shape[:2]], (5, 7))])
        )
    if name == "shape":
        return draw(st.sampled_from([shape, 3, (2, 3)]))
    if name in A_NUMBER:
        return draw(st.sampled_from([0.1, 0.5, 0, 1, np.full(shape[-1:], 0.3)]))
    if name in ARE_FLAGS:
        return draw(st.booleans())
    choices = {
        "key": KEYS[:8],
        "rng": KEYS[:8],
        "shared_axes": AXES[:3],
        "axis": [0, -1],
        "data_format": ["channels_first", "channels_last"],
        "mode": ["row", "batch"],
        "activation": ["relu", "gelu", np.tanh],
        "dtype": [np.float32, np.float16],
        "boundaries": [(2, 3), (1, 9)],
        "rates": [(0.3, 0.1), [0, 1]],
        "tokens": [np.arange(6) % 4, [[0, 1], [2, 3]]],
    }
    return draw(st.sampled_from(choices.get(name, [1, 3, True])))


def hostile(name):
    """Arguments that nobody should give, and some that are only rare."""
    by_name = {
        "key": KEYS,
        "rng": KEYS,
        "shared_axes": AXES,
        "axis": AXES,
        "window": WINDOWS,
        "shape": SHAPES,
        "samples": LENGTHS,
        "activation": [*WORDS, lambda v: v.sum()],
        "dtype": [*WRONG_DTYPES, None, 5, "nothing", ml_dtypes.float8_e5m2],
        "mode": WORDS,
        "data_format": WORDS,
    }
    if name in by_name:
        return by_name[name]
    if name in ("height", "width", "block_size", "count", "seed", "draw", "steps"):
        return [*LENGTHS[:-1], 2**64]
    if name in ARE_FLAGS:
        return FLAGS
    return NUMBERS + STRANGE


def fitting(name, dtype):
    """Return arrays that fit each other, for functions that take few others."""
    tokens = np.arange(6).reshape(2, 3) % 4
    product = {
        "x": normal(4, 5, dtype=dtype),
        "weight": normal(5, 3, dtype=dtype),
        "g": normal(4, 3, dtype=dtype),
        "p": 0.3,
    }
    image = normal(2, 3, 6, 7, dtype=dtype)
    words = {"tokens": tokens, "weight": normal(9, 5, dtype=dtype), "g": normal(2, 3, 5, dtype=dtype)}
    like = normal(5, 3, dtype=dtype)
    heads = {name: normal(2, 3, 5, 4, dtype=dtype, seed=n) for n, name in enumerate("qkvg")}
    even = np.full((5, 4), 0.25, dtype)
    known = {
        "attention": heads | {"p": 0.3, "attn_mask": None, "scale": None, "rows": None, "window": None},
        "DropConnect": {"weight": normal(5, 3, dtype=dtype), "bias": None},
        "drop_connect_backward": product | {"bias": True, "rows": None, "window": None},
        "drop_connect_inference": {"x": product["x"], "weight": product["weight"], "bias": None, "p": 0.3}
        | {"activation": np.tanh, "samples": 2},
        "drop_connect": product | {"bias": normal(3, dtype=dtype), "rows": None, "window": None},
        "drop_block": {"x": image, "g": image},
        "embedding_dropout": words | {"vocabulary": 9, "p": 0.3},
        "token_dropout": {"tokens": tokens, "replacement": 0, "protected": (1,)}
        | {"rows": None, "window": None},
        "r_drop_loss": {"logits1": like, "logits2": like, "labels": np.arange(5) % 3},
        "predictive_entropy": {"probabilities": even},
        "mutual_information": {"samples": even},
        "importance_rates": {"importance": np.abs(like[:, 0])},
        "standout": {"h": like, "a": like, "g": like},
        "local_reparameterization": {"mean": like, "g": like, "variance": np.abs(like) + 1},
    }
    return next((arrays for prefix, arrays in known.items() if name.startswith(prefix)), {})


PLACES = ("window", "rows", "indices", "offsets")


def arguments(function, draw, most=2):
    """Arguments, of which at most so many are hostile, and the zone of `out` if there is one."""
    x = draw(arrays())
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    bad = draw(st.sets(st.sampled_from(names or [""]), max_size=most))
    fits = {}
    if draw(st.integers(0, 3)):
        fits = fitting(function.__name__, draw(st.sampled_from([np.float32, np.float64])))
        x = fits.get(names[0] if names else "", x)
    found, zone = {}, None
    for name in names:
        if name == "out":
            like = x if isinstance(x, np.ndarray) else np.asarray(x)
            choice = draw(st.sampled_from(["none", "zone", "zone", "x", "view", "bad"]))
            if choice == "zone" and like.dtype.kind != "O":
                zone = draw(zones(like))
                found[name] = zone.out
            elif choice == "x":
                found[name] = x
            elif choice == "view" and like.ndim:
                found[name] = like[::-1]
            elif choice == "bad":
                found[name] = draw(st.sampled_from(STRANGE))
        elif name in fits and name not in bad:
            found[name] = fits[name]
        elif name in FIRST and name not in bad:
            found[name] = x
        else:
            if (
                name not in bad
                and parameters[name].default is not inspect.Parameter.empty
                and draw(st.booleans())
            ):
                continue
            found[name] = draw(st.sampled_from(hostile(name))) if name in bad else valid(name, x, draw)
    places = [name for name in PLACES if name not in bad and found.get(name) is not None]
    found |= dict.fromkeys(places[1:])  # two ways to say which draws an array has are always refused
    return found, zone


# What a message says: what is allowed, and what was got or what to write instead.
ALLOWED = re.compile(r"\b(must|needs?|takes?|is needed|give one of)\b")
GOT = re.compile(r"\bgot\b|; (use|leave) ")

# What Python and NumPy still say themselves, of what is no array, no number, no shape or no sequence at all.
OTHERS = re.compile(
    r"unhashable|not callable|inhomogeneous|bytes-like|4300 digits|dimension|not iterable"
    r"|has no len|unsized object|iteration over|broadcast|converted to|shape mismatch|negative"
    r"|int\(\) argument|too big|interpreted"
    r"|cannot be empty|Use \(\)|not supported between|not understood|expected a sequence"
    r"|more dim"
)


class Tries:
    """The calls of one function: how many were accepted and how many refused."""

    def __init__(self, function):
        self.name = getattr(function, "__qualname__", str(function))
        self.counts = collections.Counter()

    def attempt(self, function, *args, **kwargs):
        """Return whether a call was accepted; fail if it ended in another way than documented."""
        with np.errstate(all="ignore"):
            try:
                function(*args, **kwargs)
            except EXPECTED as error:
                self.counts["refused"] += 1
                message = str(error)
                if not OTHERS.search(message):
                    assert ALLOWED.search(message), f"{self.name}: {message}"
                    assert GOT.search(message), f"{self.name}: {message}"
                assert len(message) < 1000, f"{self.name}: {message}"
                return False
            except MemoryError:
                assert {"shape", "height"} & kwargs.keys(), self.name
                return False
        self.counts["accepted"] += 1
        return True

    def check(self, floor=0.02):
        """Fail if too few calls were accepted, or too few refused: such a fuzzer would show nothing."""
        tried = sum(self.counts.values())
        print(f"{self.name}: {self.counts['accepted']} accepted, {self.counts['refused']} refused")
        assert min(self.counts["accepted"], self.counts["refused"]) >= max(floor * tried, 1), self.name


def fuzz(count, quick=20):
    """Return the settings of a fuzzer of so many examples, of which `make test` tries fewer."""
    is_quick = settings.get_current_profile_name() == "quick"
    most = min(count, quick) if is_quick else examples(count)
    return settings(max_examples=most, suppress_health_check=list(HealthCheck))
