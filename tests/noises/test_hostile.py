"""Hostile arguments to everything public: documented exceptions only, and no write outside `out`.

``FASTDROP_EXAMPLES=2000 python -m pytest -s tests/noises/test_hostile.py`` tries that many of each callable.
"""

import collections
import fractions
import inspect
import math
import os

import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS
from every_layer import CASES, classes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import fastdrop as fd
from fastdrop._noises._noise import INTEGERS, NOISES, PRODUCT

EXAMPLES = int(os.environ.get("FASTDROP_EXAMPLES", "40"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TRIED = collections.Counter()
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
FLAGS = [True, False, None, 1, "yes", [], np.True_]
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


STRANGE = [None, "x", {}, object(), [[1], [1, 2]], Liar(), 1j, 10**400, math.nan, len, b"xyz", [None], 5]
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
LIKE_IT = FIRST | {name for noise in RECORDS for name in noise.like} | {"weight", "importance", "log_alpha"}
A_NUMBER = {noise.rate for noise in RECORDS if noise.rate} | {"alpha", "beta", "gamma", "c", "temperature"}
A_NUMBER |= {"max_rate", "adaptation_rate"}


def valid(name, x, draw):
    """An argument that fits x, or at least something of its kind."""
    shape = np.shape(x)
    kind = x.dtype if isinstance(x, np.ndarray) else np.dtype(np.float64)
    if name in LIKE_IT:
        return draw(arrays(shape, kind))
    if name == "bias":
        return draw(st.sampled_from([None, np.ones(shape[-1:], kind)]))
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
    choices = {
        "key": KEYS[:8],
        "rng": KEYS[:8],
        "shared_axes": AXES[:3],
        "axis": [0, -1],
        "data_format": ["channels_first", "channels_last"],
        "mode": ["row", "batch"],
        "activation": ["relu", "gelu", np.tanh],
        "dtype": [np.float32, np.float16],
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
    if name in ("packed", "inverted", "per_example", "shared_channels", "linear", "time_major"):
        return FLAGS
    return NUMBERS + STRANGE


def arguments(function, draw, most=2):
    """Arguments, of which at most so many are hostile, and the zone of `out` if there is one."""
    x = draw(arrays())
    names = list(inspect.signature(function).parameters)
    bad = draw(st.sets(st.sampled_from(names or [""]), max_size=most))
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
        elif name in FIRST and name not in bad:
            found[name] = x
        else:
            found[name] = draw(st.sampled_from(hostile(name))) if name in bad else valid(name, x, draw)
    return found, zone


def attempt(function, *args, **kwargs):
    """Whether the call was accepted; fails if it ended in another way than documented."""
    name = getattr(function, "__qualname__", str(function))
    with np.errstate(all="ignore"):
        try:
            function(*args, **kwargs)
        except EXPECTED:
            TRIED["refused"] += 1
            return False
        except MemoryError:
            assert "shape" in kwargs or "height" in kwargs, name
            return False
    TRIED["accepted"] += 1
    return True


FUNCTIONS = [getattr(fd, name) for name in fd.__all__ if inspect.isfunction(getattr(fd, name))]
FUNCTIONS += [f for f in vars(fd.moments).values() if getattr(f, "__module__", "") == fd.moments.__name__]
# these call a function of the user's as often as he asks, and raise what it raises
GUESTS = {fd.mc_predict, fd.predictive_log_likelihood}
FUNCTIONS = [f for f in FUNCTIONS if f.__name__[0] != "_" and f is not fd.set_num_threads and f not in GUESTS]
SCHEDULES = [fd.schedules.Linear, fd.schedules.Cosine, fd.schedules.Curriculum, fd.schedules.Step]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
@fuzz
@given(data=st.data())
def test_functions(function, data):
    given_arguments, zone = arguments(function, data.draw)
    accepted = attempt(function, **given_arguments)
    if zone is not None:
        assert zone.untouched()
        assert zone.distinct or not accepted or zone.out.size < 2 or not _overlaps(zone.out)


def _overlaps(out):
    places = {sum(i * s for i, s in zip(at, out.strides, strict=True)) for at in np.ndindex(out.shape)}
    return len(places) < out.size


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "function", [*FUNCTIONS, *classes(), fd.Key, *SCHEDULES], ids=lambda f: f.__qualname__
)
@settings(fuzz, max_examples=max(2, EXAMPLES // 20))
@given(data=st.data())
def test_each_argument_alone(function, data):
    """Everything hostile in turn, beside arguments that fit."""
    found = {name: v for name, v in arguments(function, data.draw, 0)[0].items() if name != "out"}
    for name in inspect.signature(function).parameters:
        for bad in hostile(name):
            attempt(function, **(found | {name: bad}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*classes(), fd.Key, *SCHEDULES], ids=lambda kind: kind.__name__)
@fuzz
@given(data=st.data())
def test_constructors(kind, data):
    made, _ = arguments(kind, data.draw)
    attempt(kind, **made)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
@fuzz
@given(data=st.data())
def test_forwards_and_backwards(kind, data):
    """And whatever was refused has changed nothing."""
    layer, draw = CASES[kind].make(1), data.draw
    shapes = CASES[kind].shapes
    inputs = [
        draw(st.one_of(arrays(shape), arrays(shape, np.float32), arrays(), st.sampled_from(STRANGE)))
        for shape in shapes
    ]
    before = layer.state_dict()
    training = draw(st.sampled_from([None, True, False]))
    layer.train(training is not False)  # so that there is a backward
    out = draw(st.one_of(st.none(), arrays(shapes[0], np.float32), st.sampled_from(STRANGE)))
    if not attempt(layer.forward, *inputs, training, out=out):
        assert layer.state_dict() == before
        with pytest.raises(RuntimeError):
            layer.train().backward(np.ones(3))
        return
    g = draw(st.one_of(arrays(shapes[0], np.float32), arrays(shapes[0]), arrays(), st.sampled_from(STRANGE)))
    attempt(
        layer.backward,
        g,
        out=draw(st.one_of(st.none(), arrays(shapes[0], np.float32), st.sampled_from(STRANGE))),
    )


@fuzz
@given(data=st.data())
def test_numbers_of_threads(data):
    before = fd.get_num_threads()
    try:
        attempt(fd.set_num_threads, data.draw(st.sampled_from([*LENGTHS[:5], *LENGTHS[6:]])))
    finally:
        fd.set_num_threads(before)


def test_both_good_and_bad_arguments_were_tried():
    """Comes last; a fuzzer whose calls are all refused would show nothing."""
    print(dict(TRIED))
    if TRIED:
        assert min(TRIED["accepted"], TRIED["refused"]) > sum(TRIED.values()) / 20
