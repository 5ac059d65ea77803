"""The functions on dask arrays: NumPy's bits for any chunks and scheduler, and nothing computed early."""

import tracemalloc
from inspect import signature
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
from arrays import DTYPES, examples, normal, same_bits
from dask.base import tokenize
from every_noise import FUNCTIONS, arguments, backward_arguments
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdrop as fd
from fastdrop import dask as fdd
from fastdrop._cpu import helpers
from fastdrop._noises import drop_connect

KEY = fd.Key(42, 3)
SHAPE = (7, 12, 10)
CHUNKS = ((3, 1, 3), (5, 7), (10,))
RATES = np.linspace(0, 1, 10)
OTHER, BIAS = normal(*SHAPE, seed=1), normal(10, seed=2)


def of_records():
    """Functions of fastdrop.dask with all that they need, but the key."""
    for noise in FUNCTIONS:
        if "dask" not in noise.lacks:
            given_args = arguments(noise, SHAPE)
            yield noise.name, given_args
            if noise.backward:
                g = normal(*noise.function(**given_args, key=KEY).shape, seed=9)
                yield noise.backward.__name__, backward_arguments(noise, given_args, g)


# name, arguments: the first is the one that is cut into chunks
X = normal(*SHAPE)
CASES = {name: (name, given_args | {"key": KEY}) for name, given_args in of_records()} | {
    case: (name, {"x": X, "key": KEY} | given_args)
    for case, name, given_args in (
        ("an int key", "dropout", {"p": 0.3, "key": 7}),
        ("shared", "dropout", {"p": 0.3, "shared_axes": (0, -1)}),
        ("one axis shared", "dropout", {"p": 0.3, "shared_axes": 1}),
        ("rates of features", "dropout", {"p": RATES}),
        ("rates of samples", "dropout", {"p": RATES[:7, None, None], "shared_axes": (1, 2)}),
        ("rates of elements", "dropout", {"p": np.resize(RATES, SHAPE)}),
        ("one rate in an array", "dropout", {"p": np.array(0.3)}),
        ("gaussian_dropout shared", "gaussian_dropout", {"p": 0.3, "shared_axes": 1}),
        ("gaussian_dropout by rates", "gaussian_dropout", {"p": RATES / 2}),
        ("gaussian_noise by features", "gaussian_noise", {"std": RATES}),
        ("one std in an array", "gaussian_noise", {"std": np.array(0.37)}),
        ("one logit in an array", "concrete_dropout", {"logit": np.array(-1.0)}),
        (
            "concrete_dropout shared",
            "concrete_dropout",
            {"logit": -1.0, "shared_axes": 0, "temperature": 0.5},
        ),
        ("drop_path of a batch", "drop_path", {"p": 0.5, "mode": "batch"}),
        ("dropout_add shared", "dropout_add", {"residual": OTHER, "p": 0.3, "shared_axes": 1}),
        ("dropout_add by rates", "dropout_add", {"residual": OTHER, "p": RATES}),
        ("a residual", "bias_act_dropout", {"bias": BIAS, "p": 0.3, "residual": OTHER}),
        ("bias_act_dropout by rates", "bias_act_dropout", {"bias": BIAS, "p": RATES, "activation": "none"}),
        (
            "no bias",
            "bias_act_dropout",
            {"bias": None, "p": 0.3, "activation": "silu", "shared_axes": 0},
        ),
        ("gelu", "bias_act_dropout", {"bias": BIAS, "p": 0.3, "activation": "gelu"}),
        ("gelu_tanh", "bias_act_dropout", {"bias": BIAS, "p": 0.3, "activation": "gelu_tanh"}),
    )
}
OF_ALPHA = {"g": OTHER, "x": X, "key": KEY}
CASES |= {
    "one logit": ("concrete_dropout_backward", OF_ALPHA | {"logit": np.array(-1.0)}),
    "one alpha": ("information_dropout_backward", OF_ALPHA | {"alpha": np.array(0.3)}),
    "alphas of features": ("information_dropout_backward", OF_ALPHA | {"alpha": RATES}),
    "alphas of rows": (
        "information_dropout_backward",
        OF_ALPHA | {"alpha": RATES[:7, None, None], "shared_axes": 2},
    ),
    "zoneout by rates": ("zoneout", {"new": X, "previous": OTHER, "p": RATES, "key": KEY, "shared_axes": 0}),
    "a variance for all": ("local_reparameterization", {"mean": X, "variance": 0.5, "key": KEY}),
    "variances of features": ("local_reparameterization", {"mean": X, "variance": RATES, "key": KEY}),
    "inverted": ("standout_dropout", {"h": X, "a": OTHER, "key": KEY, "beta": 0.5, "inverted": True}),
    "protected": (
        "token_dropout",
        CASES["token_dropout"][1] | {"protected": iter((1, 2)), "p": RATES},
    ),
    "rates of words": ("embedding_dropout", CASES["embedding_dropout"][1] | {"p": RATES[:9]}),
    "rates of words backward": (
        "embedding_dropout_backward",
        CASES["embedding_dropout_backward"][1] | {"p": RATES[:9]},
    ),
    "with a bias": ("drop_connect", CASES["drop_connect"][1] | {"bias": normal(4, seed=7)}),
    "by batch": ("drop_connect", CASES["drop_connect"][1] | {"per_example": False}),
}
# results that are sums over blocks, or of BLAS
ROUNDED = {
    "bias_act_dropout_backward": {1},
    "concrete_dropout_backward": {1},
    "drop_connect": {0},
    "drop_connect_backward": {0, 1},
    "embedding_dropout_backward": {0},
    "information_dropout_backward": {1},
}
cases = pytest.mark.parametrize("case", CASES)


def in_chunks(x):
    return da.from_array(x, chunks=CHUNKS if x.shape == SHAPE else 4)


def results(found):
    return found if isinstance(found, tuple) else (found,)


def both(case, chunked=in_chunks, **changed):
    """The lazy results, and NumPy's for the whole array."""
    name, given_args = CASES[case]
    given_args = {n: list(a) if hasattr(a, "__next__") else a for n, a in given_args.items()} | changed
    first = next(iter(given_args))
    lazy = getattr(fdd, name)(**(given_args | {first: chunked(given_args[first])}))
    return results(lazy), results(getattr(fd, name)(**given_args))


def refuse(*args, **kwargs):
    raise AssertionError("computed early")


def check(case, found, expected):
    for place, (y, exact) in enumerate(zip(found, expected, strict=True)):
        if y is None:
            assert exact is None
        elif place in ROUNDED.get(CASES[case][0], ()):
            assert y.dtype == np.asarray(exact).dtype
            np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max(initial=0))
        else:
            assert same_bits(y, exact)


def test_every_noise_is_here():
    assert {name for name, _ in of_records()} <= set(vars(fdd))
    assert len(CASES) > 40


@cases
def test_bits_are_those_of_numpy(case):
    lazy, expected = both(case)
    scheduler = "threads" if list(CASES).index(case) % 4 else "sync"
    check(case, dask.compute(*lazy, scheduler=scheduler), expected)


@pytest.mark.parametrize("name", ["drop_connect", "with a bias", "drop_connect_backward"])
def test_weights_are_dropped_as_in_the_whole_batch(name, monkeypatch):
    """Products and sums of small integers are exact: these have NumPy's bits, also in parts of inputs."""
    monkeypatch.setattr(drop_connect, "_BUFFER", 32)
    arrays = {n: np.rint(3 * a) for n, a in CASES[name][1].items() if isinstance(a, np.ndarray)}
    lazy, expected = both(name, p=0.5, **arrays)
    for y, exact in zip(dask.compute(*lazy, scheduler="sync"), expected, strict=True):
        assert np.array_equal(y, exact)


@cases
def test_chunks_dtype_and_meta_stay(case):
    lazy, expected = both(case)
    for y, exact in zip(lazy, expected, strict=True):
        if y is None:
            continue
        assert (y.shape, y.dtype) == (np.shape(exact), np.asarray(exact).dtype)
        assert (y._meta.dtype, y._meta.ndim) == (y.dtype, y.ndim)
        if y.shape == SHAPE:
            assert y.chunks == CHUNKS
            assert type(y._meta) is np.ndarray
    assert lazy[0].name.startswith(CASES[case][0]) or "_backward" in CASES[case][0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    for case in ("dropout", "shared", "rates of features", "gaussian_noise", "drop_path"):
        (lazy,), expected = both(case, x=normal(*SHAPE, dtype=dtype))
        assert lazy.dtype == dtype
        assert same_bits(lazy.compute(scheduler="sync"), *expected)


@settings(max_examples=examples(100))
@given(data=st.data(), shape=st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_any_chunks(data, shape):
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3))}) for n in shape]
    chunks = tuple(tuple(b - a for a, b in pairwise(cut)) or (0,) for cut in cuts)
    x = normal(*shape)
    lazy = fdd.dropout(da.from_array(x, chunks=chunks), 0.3, KEY)
    assert lazy.chunks == chunks
    assert same_bits(lazy.compute(scheduler="sync"), fd.dropout(x, 0.3, KEY))


def test_zero_dimensional():
    x = np.array(3.0)
    assert same_bits(fdd.dropout(da.from_array(x), 0.3, KEY).compute(), fd.dropout(x, 0.3, KEY))


@pytest.mark.parametrize("name", ["gaussian_noise", "gaussian_dropout", "dropout", "information_dropout"])
def test_a_number_in_an_array_of_dask_is_a_number(name):
    y = getattr(fdd, name)(in_chunks(X), da.asarray(0.37), KEY)
    assert same_bits(y.compute(), getattr(fd, name)(X, 0.37, KEY))


@cases
def test_what_is_done_to_arguments_later_changes_nothing(case):
    _, given_args = CASES[case]
    mine = {n: a.copy() for n, a in given_args.items() if isinstance(a, np.ndarray)}
    first = next(iter(given_args))
    lazy, expected = both(case, **mine)
    for n, a in mine.items():
        if n != first:
            a[...] = 0
    check(case, [None if y is None else y.compute() for y in lazy], expected)


@pytest.mark.parametrize("chunks", [5, ((3, 4), (12,), (1, 9)), "auto", -1])
def test_rates_in_other_chunks(chunks):
    rates = np.resize(RATES, SHAPE)
    x = normal(*SHAPE)
    lazy = fdd.dropout(da.from_array(x, chunks=CHUNKS), da.from_array(rates, chunks=chunks), KEY)
    assert same_bits(lazy.compute(scheduler="sync"), fd.dropout(x, rates, KEY))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gradients_of_fused_passes(activation, dtype):
    g, x, bias = (a.astype(dtype) for a in (normal(*SHAPE), OTHER, BIAS))
    lazy = da.from_array(g, chunks=CHUNKS)
    dx, dg = fdd.dropout_add_backward(lazy, 0.3, KEY, shared_axes=0)
    assert dg is lazy
    assert dx.name.startswith("dropout_add_backward")
    assert same_bits(dx.compute(scheduler="sync"), fd.dropout_backward(g, 0.3, KEY, shared_axes=0))
    options = {"activation": activation}
    expected = fd.bias_act_dropout_backward(g, x, bias, 0.3, KEY, **options)
    with dask.config.set(scheduler=refuse):
        found = fdd.bias_act_dropout_backward(lazy, da.from_array(x, chunks=4), bias, 0.3, KEY, **options)
    dx, dbias = dask.compute(*found, scheduler="sync")
    assert found[0].chunks == CHUNKS
    assert same_bits(dx, expected[0])
    assert (dbias.dtype, found[1].dtype) == (dtype, dtype)
    rounding = 84 * np.finfo(dtype).eps  # of sums of 84
    np.testing.assert_allclose(dbias, expected[1], rtol=8 * np.finfo(dtype).eps, atol=rounding)
    dx, none = fdd.bias_act_dropout_backward(lazy, x, None, 0.3, KEY, **options)
    assert none is None
    assert same_bits(
        dx.compute(scheduler="sync"), fd.bias_act_dropout_backward(g, x, None, 0.3, KEY, **options)[0]
    )


def test_fused_passes_of_one_axis_and_other_chunks():
    x = normal(50)
    lazy = da.from_array(x, chunks=7)
    bias = da.from_array(normal(50, seed=2), chunks=20)
    expected = fd.bias_act_dropout(x, bias.compute(), 0.3, KEY, residual=x)
    assert same_bits(
        fdd.bias_act_dropout(lazy, bias, 0.3, KEY, residual=lazy.rechunk(11)).compute(), expected
    )
    found = dask.compute(*fdd.bias_act_dropout_backward(lazy, x, bias, 0.3, KEY))
    assert all(map(same_bits, found, fd.bias_act_dropout_backward(x, x, bias.compute(), 0.3, KEY)))


@pytest.mark.parametrize("chunks", ["auto", 5, CHUNKS])
def test_keep_mask(chunks):
    for options in ({}, {"shared_axes": 1}):
        lazy = fdd.keep_mask(SHAPE, 0.3, KEY, chunks=chunks, **options)
        assert lazy.dtype == np.bool_
        assert same_bits(lazy.compute(scheduler="sync"), fd.keep_mask(SHAPE, 0.3, KEY, **options))
    assert fdd.keep_mask(SHAPE, RATES, KEY, chunks=CHUNKS).chunks == CHUNKS


@pytest.mark.parametrize("chunks", ["auto", 5, CHUNKS])
def test_normals(chunks):
    for options in ({}, {"shared_axes": 1}, {"dtype": np.float32}):
        lazy = fdd.normal(SHAPE, KEY, chunks=chunks, **options)
        assert same_bits(lazy.compute(scheduler="sync"), fd.normal(SHAPE, KEY, **options))


IDS = np.array([9, 0, 4, 9, 1 << 20, 3, 77])
NUMBERS = {
    "array": lambda ids: ids,
    "list": np.ndarray.tolist,
    "unsigned": lambda ids: ids.astype(np.uint64),
    "one chunk": lambda ids: da.from_array(ids, chunks=-1),
    "other chunks": lambda ids: da.from_array(ids, chunks=2),
}
TAKES_ROWS = [case for case in CASES if "rows" in signature(getattr(fd, CASES[case][0])).parameters]


def rows_of(case):
    """A number for each row of a case's first array."""
    given_args = CASES[case][1]
    return IDS[: len(next(iter(given_args.values())))]


def test_functions_take_rows_as_those_of_arrays_do():
    for noise in FUNCTIONS:
        for function in (noise.function, noise.backward):
            lazy = function and getattr(fdd, function.__name__, None)
            if lazy is not None:
                assert ("rows" in signature(lazy).parameters) == ("rows" in signature(function).parameters)
    assert len(TAKES_ROWS) > 35
    for function in (fdd.keep_mask, fdd.normal):
        assert "rows" in signature(function).parameters


@pytest.mark.parametrize("case", TAKES_ROWS)
def test_rows(case):
    """The numbers go with the blocks of rows, for any chunks of the arrays and of the numbers."""
    ids, kind = rows_of(case), list(NUMBERS)[TAKES_ROWS.index(case) % len(NUMBERS)]
    name, given_args = CASES[case]
    given_args = {n: list(a) if hasattr(a, "__next__") else a for n, a in given_args.items()}
    if 0 in np.atleast_1d(given_args.get("shared_axes", ())) or given_args.get("mode") == "batch":
        with pytest.raises(ValueError, match="rows needs a first axis whose elements have draws"):
            both(case, rows=ids)
        return
    first = next(iter(given_args))
    with dask.config.set(scheduler=refuse):
        chunked = in_chunks(given_args[first])
        lazy = results(getattr(fdd, name)(**(given_args | {first: chunked}), rows=NUMBERS[kind](ids)))
    expected = results(getattr(fd, name)(**given_args, rows=ids))
    check(case, dask.compute(*lazy, scheduler="sync"), expected)
    if lazy[0].shape == SHAPE and name not in ("gaussian_noise_backward", "dropout_add_backward"):
        cut = chunked.chunks[:1] if "local_reparameterization_b" in name else CHUNKS[:1]
        assert lazy[0].chunks[:1] == cut


@pytest.mark.parametrize("kind", NUMBERS)
def test_kinds_of_numbers_of_rows(kind):
    x = normal(*SHAPE)
    numbers = NUMBERS[kind](IDS.copy())
    lazy = fdd.dropout(da.from_array(x, chunks=CHUNKS), 0.3, KEY, rows=numbers)
    if isinstance(numbers, (list, np.ndarray)):
        numbers[0] = 1  # the caller's own, of which a copy was taken
    assert lazy.chunks == (CHUNKS[0], (12,), (10,))
    assert same_bits(lazy.compute(), fd.dropout(x, 0.3, KEY, rows=IDS))
    mask = fdd.keep_mask(SHAPE, 0.3, KEY, chunks=CHUNKS, rows=NUMBERS[kind](IDS))
    assert same_bits(mask.compute(), fd.keep_mask(SHAPE, 0.3, KEY, rows=IDS))
    normals = fdd.normal(SHAPE, KEY, chunks=CHUNKS, rows=NUMBERS[kind](IDS), shared_axes=2)
    assert same_bits(normals.compute(), fd.normal(SHAPE, KEY, rows=IDS, shared_axes=2))


def test_a_sample_has_one_mask_in_any_order():
    x, order = da.from_array(normal(60, 30), chunks=(7, 11)), np.random.default_rng(0).permutation(60)
    whole = fdd.dropout(x, 0.3, KEY).compute()
    shuffled = fdd.dropout(x[order], 0.3, KEY, rows=order)
    assert same_bits(shuffled.compute(), whole[order])
    one, other = (fdd.dropout(x, 0.3, KEY, rows=rows) for rows in (np.arange(60), np.arange(60)[::-1]))
    assert one.name != other.name
    assert same_bits(one.compute(), whole)


def test_rows_of_arrays_without_elements():
    for shape, ids in (((0, 4), []), ((2, 0), [3, 1]), ((0,), np.empty(0, int))):
        lazy = fdd.dropout(da.ones(shape, chunks=2), 0.3, KEY, rows=ids)
        assert lazy.compute().shape == shape


BAD_ROWS = [
    ([0, 1, -1], ValueError, r"rows must be in \[0, \d+\), got -1"),
    ([0, 1, 1 << 62], ValueError, r"rows must be in \[0, \d+\), got 4611686018427387904"),
    (np.array([0, 1, 1 << 63], np.uint64), ValueError, r"rows must be in \[0, \d+\), got"),
    ([0, 1, 1 << 70], ValueError, r"rows must be below 2\*\*63"),
    ([0.0, 1.0, 2.0], TypeError, "rows must be integers, got float64"),
    ([True, False, True], TypeError, "rows must be integers, got bool"),
    ([0, 1], ValueError, r"rows must have the shape \(3,\), got \(2,\)"),
    ([0, 1, 2, 3], ValueError, r"rows must have the shape \(3,\), got \(4,\)"),
    ([[0, 1, 2]], ValueError, r"rows must have the shape \(3,\), got \(1, 3\)"),
    (3, ValueError, r"rows must have the shape \(3,\), got \(\)"),
    ("abc", TypeError, "rows must be integers"),
    (np.ma.masked_array([0, 1, 2], [0, 1, 0]), TypeError, "rows must be integers, got a masked array"),
    (da.arange(3.0, chunks=2), TypeError, "rows must be integers, got float64"),
    (da.arange(4, chunks=2), ValueError, r"rows must have the shape \(3,\), got \(4,\)"),
    (da.ones((1, 3), dtype=int), ValueError, r"rows must have the shape \(3,\), got \(1, 3\)"),
    (da.arange(9, chunks=2)[da.arange(9, chunks=2) > 5], ValueError, r"rows\.compute_chunk_sizes\(\)"),
]


@pytest.mark.parametrize(("rows", "error", "message"), BAD_ROWS, ids=[str(rows) for rows, *_ in BAD_ROWS])
def test_rows_that_are_refused_at_once(rows, error, message):
    x, weight = da.ones((3, 4), chunks=2), np.ones((4, 2))
    with dask.config.set(scheduler=refuse):
        for call in (fdd.dropout, fdd.gaussian_noise, fdd.dropout_backward):
            with pytest.raises(error, match=message):
                call(x, 0.3, KEY, rows=rows)
        with pytest.raises(error, match=message):
            fdd.drop_connect(x, weight, 0.3, KEY, rows=rows)
    with pytest.raises(ValueError, match="rows needs an array with a first axis"):
        fdd.dropout(da.ones(()), 0.3, KEY, rows=[])


OBJECTS = np.zeros((5, 3), object)
LAZY = da.ones((4, 5), chunks=2)
OF_OBJECTS = {
    "weight": lambda: fdd.drop_connect(LAZY, OBJECTS, 0.5, 1),
    "bias": lambda: fdd.drop_connect(LAZY, np.ones((5, 3)), 0.5, 1, bias=OBJECTS[0]),
    "x": lambda: fdd.drop_connect_backward(LAZY[:, :3], OBJECTS, np.ones((5, 3)), 0.5, 1),
    "tokens": lambda: fdd.embedding_dropout_backward(LAZY, OBJECTS[:4, 0], 0.5, 1, vocabulary=3),
    "previous": lambda: fdd.zoneout(LAZY, OBJECTS, 0.5, 1),
    "residual": lambda: fdd.dropout_add(LAZY, OBJECTS, 0.5, 1),
}


@pytest.mark.parametrize("name", OF_OBJECTS)
def test_arrays_of_objects_are_refused_as_numpy_s_are(name):
    with pytest.raises(TypeError, match=f"^{name} must be an array of numbers, got one of object; use"):
        OF_OBJECTS[name]()


def test_rows_that_are_refused_when_they_are_computed():
    x = da.ones((3, 4), chunks=2)
    numbers = da.from_array(np.array([0, 1, -1]), chunks=2)
    with pytest.raises(ValueError, match=r"rows must be in \[0, \d+\), got -1"):
        fdd.dropout(x, 0.3, KEY, rows=numbers).compute()
    masked = da.ma.masked_equal(da.from_array(np.arange(3), chunks=2), 1)
    with pytest.raises(TypeError, match="rows must be integers, got a masked array"):
        fdd.dropout(x, 0.3, KEY, rows=masked).compute()


TAKES_INDICES = [case for case in CASES if "indices" in signature(getattr(fd, CASES[case][0])).parameters]
PLACES = np.random.default_rng(5).integers(40, size=(3, *SHAPE))  # by axis of an array of 40 x 40 x 40
FLAT = PLACES[0] * 1600 + PLACES[1] * 40 + PLACES[2]
FULL = (40, 40, 40)
INDICES = {
    "array": lambda: FLAT.copy(),
    "list": lambda: FLAT.tolist(),
    "unsigned": lambda: FLAT.astype(np.uint16),
    "one chunk": lambda: da.from_array(FLAT, chunks=-1),
    "other chunks": lambda: da.from_array(FLAT, chunks=(2, 5, 3)),
    "by axis": lambda: (FULL, tuple(PLACES)),
    "by axis in chunks": lambda: (FULL, tuple(da.from_array(place, chunks=4) for place in PLACES)),
    "by axis, of both kinds": lambda: (FULL, (PLACES[0].tolist(), da.asarray(PLACES[1]), PLACES[2])),
}


def is_shared(case):
    return bool(np.size(CASES[case][1].get("shared_axes", ())))


def test_functions_take_indices_as_those_of_arrays_do():
    for name in fd.__all__:
        lazy, function = getattr(fdd, name, None), getattr(fd, name)
        if callable(lazy) and not isinstance(function, type):
            own, others = signature(lazy).parameters, signature(function).parameters
            for place in ("rows", "indices", "offsets"):
                assert (place in own) == (place in others), (name, place)
    assert len(TAKES_INDICES) > 30


@pytest.mark.parametrize("case", TAKES_INDICES)
def test_indices(case):
    """They go with the elements of each block, for any chunks of the arrays and of the indices."""
    kind = list(INDICES)[TAKES_INDICES.index(case) % len(INDICES)]
    ignores = case == "gaussian_noise_backward"
    if is_shared(case) and not ignores:
        with pytest.raises(ValueError, match="indices needs a draw for each element, got shared axes"):
            both(case, indices=FLAT)
        return
    with dask.config.set(scheduler=refuse):
        first = next(iter(CASES[case][1]))
        name, given_args = CASES[case]
        chunked = in_chunks(given_args[first])
        lazy = results(getattr(fdd, name)(**(given_args | {first: chunked}), indices=INDICES[kind]()))
    expected = results(getattr(fd, name)(**given_args, indices=FLAT))
    check(case, dask.compute(*lazy, scheduler="sync"), expected)
    assert lazy[0].chunks == chunked.chunks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["dropout", "gaussian_dropout"])
def test_dtypes_with_indices(function, dtype):
    x = normal(*SHAPE, dtype=dtype)
    lazy = getattr(fdd, function)(da.from_array(x, chunks=CHUNKS), 0.3, KEY, indices=da.asarray(FLAT))
    assert lazy.dtype == dtype
    assert same_bits(lazy.compute(), getattr(fd, function)(x, 0.3, KEY, indices=FLAT))


@pytest.mark.parametrize("kind", INDICES)
def test_kinds_of_indices(kind):
    indices = INDICES[kind]()
    lazy = fdd.dropout(da.from_array(X, chunks=CHUNKS), RATES, KEY, indices=indices)
    if kind == "array":
        indices[:] = 0  # the caller's own, of which a copy was taken
    assert lazy.chunks == CHUNKS
    assert same_bits(lazy.compute(), fd.dropout(X, RATES, KEY, indices=FLAT))
    mask = fdd.keep_mask(SHAPE, 0.3, KEY, chunks=CHUNKS, indices=INDICES[kind]())
    assert same_bits(mask.compute(), fd.keep_mask(SHAPE, 0.3, KEY, indices=FLAT))
    normals = fdd.normal(SHAPE, KEY, chunks=CHUNKS, indices=INDICES[kind]())
    assert same_bits(normals.compute(), fd.normal(SHAPE, KEY, indices=FLAT))


@settings(max_examples=examples(60))
@given(data=st.data(), shape=st.lists(st.integers(0, 9), min_size=0, max_size=3))
def test_indices_in_any_chunks(data, shape):
    def chunks():
        cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3))}) for n in shape]
        return tuple(tuple(b - a for a, b in pairwise(cut)) or (0,) for cut in cuts)

    x, index = normal(*shape), np.random.default_rng(1).integers(1 << 62, size=shape)
    lazy = fdd.dropout(
        da.from_array(x, chunks=chunks()), 0.3, KEY, indices=da.from_array(index, chunks=chunks())
    )
    assert same_bits(lazy.compute(scheduler="sync"), fd.dropout(x, 0.3, KEY, indices=index))


def test_an_entry_has_one_mask_however_it_is_stored():
    dense = normal(60, 30)
    at = np.nonzero(dense > 1)
    order = np.random.default_rng(0).permutation(len(at[0]))
    whole = fd.dropout(dense, 0.3, KEY)
    row, column = (da.from_array(place[order], chunks=19) for place in at)
    data = da.from_array(dense[at][order], chunks=23)
    assert same_bits(
        fdd.dropout(data, 0.3, KEY, indices=((60, 30), (row, column))).compute(), whole[at][order]
    )
    one, other = (fdd.dropout(data, 0.3, KEY, indices=i) for i in (order, order[::-1]))
    assert one.name != other.name
    assert one.name == fdd.dropout(data, 0.3, KEY, indices=order).name


def test_indices_of_a_full_array_as_big_as_can_be():
    last = np.full(3, (1 << 63) - 1)
    for indices in (
        last,
        ((1 << 63,), (last,)),
        ((1, 1 << 63), (np.zeros(3, int), last)),
        ((1 << 31, 1 << 32), (last >> 32, last % (1 << 32))),
    ):
        expected = fd.dropout(np.ones(3), 0.5, KEY, indices=last)
        assert same_bits(fd.dropout(np.ones(3), 0.5, KEY, indices=indices), expected)
        assert same_bits(fdd.dropout(da.ones(3, chunks=2), 0.5, KEY, indices=indices).compute(), expected)
    none = fdd.dropout(da.ones(3, chunks=2), 0.5, KEY, indices=((), ()))
    assert same_bits(none.compute(), fd.dropout(np.ones(3), 0.5, KEY, indices=np.zeros(3, int)))


LENGTHS = {"short": [1, 0, 2, 5, 0, 3], "long": [100, 0, 3000, 1, 70, 2000], "one": [40], "none": []}
OFFSETS = {
    "array": lambda ends: ends,
    "list": np.ndarray.tolist,
    "in chunks": lambda ends: da.from_array(ends, chunks=2),
}


def of_flat_arrays(size):
    for noise in FUNCTIONS:
        if noise.takes("offsets") and "dask" not in noise.lacks:
            yield noise.name, arguments(noise, (size,))
            if noise.backward:
                g = normal(size, seed=9)
                yield noise.backward.__name__, backward_arguments(noise, arguments(noise, (size,)), g)


@pytest.mark.parametrize("kind", LENGTHS)
def test_offsets(kind):
    """Chunks may end within rows, and hold none of them."""
    lengths = LENGTHS[kind]
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=int)])
    size, ids = int(ends[-1]), np.array([7, 1, (1 << 31) - 1, 0, 7, 3])[: len(lengths)]
    cuts = (0, 1, size // 3, size // 3, size // 2, size) if size > 1 else (0, size)
    chunks = tuple(b - a for a, b in pairwise(cuts))
    for n, (name, given_args) in enumerate(of_flat_arrays(size)):
        first = next(iter(given_args))
        changed = given_args | {"key": KEY, first: da.from_array(given_args[first], chunks=(chunks,))}
        for rows in (None, ids):
            how = list(OFFSETS)[n % len(OFFSETS)]
            with dask.config.set(scheduler=refuse):
                numbers = None if rows is None else OFFSETS[how](rows)
                lazy = results(getattr(fdd, name)(**changed, offsets=OFFSETS[how](ends), rows=numbers))
            expected = results(getattr(fd, name)(**given_args, key=KEY, offsets=ends, rows=rows))
            check(name, dask.compute(*lazy, scheduler="sync"), expected)
            assert lazy[0].chunks == (chunks,)


@pytest.mark.parametrize("how", OFFSETS)
def test_kinds_of_offsets(how):
    ends = np.array([0, 20, 20, 50])
    x, given_ends = da.from_array(normal(50), chunks=7), OFFSETS[how](ends.copy())
    lazy = fdd.dropout(x, 0.3, KEY, offsets=given_ends)
    assert lazy.name == fdd.dropout(x, 0.3, KEY, offsets=OFFSETS[how](ends)).name
    assert lazy.name != fdd.dropout(x, 0.3, KEY, offsets=[0, 50]).name
    if how != "in chunks":
        given_ends[1] = 3  # the caller's own, of which a copy was taken
    expected = fd.dropout(normal(50), 0.3, KEY, offsets=ends)
    assert same_bits(lazy.compute(), expected)
    mask = fdd.keep_mask(50, 0.3, KEY, chunks=9, offsets=OFFSETS[how](ends))
    assert same_bits(mask.compute(), expected != 0)


INDEX = np.zeros((3, 4), int)
BAD_LISTS = [
    ({"indices": np.zeros(3, int)}, ValueError, r"indices must have the shape \(3, 4\), got \(3,\)"),
    (
        {"indices": da.zeros((3, 1), dtype=int)},
        ValueError,
        r"indices must have the shape \(3, 4\), got \(3, 1\)",
    ),
    ({"indices": INDEX - 1}, ValueError, r"indices must be in \[0, 9223372036854775808\), got -1"),
    ({"indices": np.full((3, 4), 1 << 63, np.uint64)}, ValueError, r"indices must be in \[0, 922"),
    ({"indices": [[1 << 70] * 4] * 3}, ValueError, r"indices must be below 2\*\*63"),
    ({"indices": INDEX * 1.0}, TypeError, "indices must be integers, got float64"),
    ({"indices": da.zeros((3, 4))}, TypeError, "indices must be integers, got float64"),
    ({"indices": da.zeros((3, 4), dtype=bool)}, TypeError, "indices must be integers, got bool"),
    (
        {"indices": da.zeros((3, 4), chunks=4, dtype=object)},
        TypeError,
        "indices must be integers, got object",
    ),
    ({"indices": "abc"}, TypeError, "indices must be integers"),
    ({"indices": np.ma.masked_array(INDEX, INDEX)}, TypeError, "indices must be integers, got a masked"),
    ({"indices": da.ones(9)[da.ones(9) > 0]}, ValueError, r"indices\.compute_chunk_sizes\(\)"),
    ({"indices": INDEX, "rows": [1, 2, 3]}, ValueError, "indices must be given alone"),
    ({"indices": da.zeros((3, 4), dtype=int), "offsets": [0, 12]}, ValueError, "indices must be given alone"),
    ({"indices": (INDEX, INDEX)}, TypeError, "indices must be flat integers, or"),
    ({"indices": ((5, 5), [INDEX, INDEX])}, TypeError, "indices must be flat integers, or"),
    ({"indices": ((5, 5), (INDEX,))}, ValueError, "an array for each axis, got"),
    ({"indices": ((5,), (INDEX + 5,))}, ValueError, r"axis 0 of indices must be in \[0, 5\), got 5"),
    ({"indices": ((5, 4), (INDEX, da.zeros((3, 4))))}, TypeError, "axis 1 of indices must be integers"),
    (
        {"indices": ((5, 4), (INDEX, da.zeros(3, dtype=int)))},
        ValueError,
        r"axis 1 of indices must have the shape",
    ),
    ({"offsets": [0, 3]}, ValueError, "offsets needs a flat array, got 2 axes"),
    ({"offsets": da.zeros(2, dtype=int)}, ValueError, "offsets needs a flat array, got 2 axes"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_LISTS, ids=[m for *_, m in BAD_LISTS])
def test_lists_that_are_refused_at_once(options, error, message):
    x = da.ones((3, 4), chunks=2)
    with dask.config.set(scheduler=refuse):
        for call in (fdd.dropout, fdd.gaussian_noise, fdd.dropout_backward):
            with pytest.raises(error, match=message):
                call(x, 0.3, KEY, **options)
    if not any(isinstance(a, da.Array) for a in options.values()) and "da" not in repr(options):
        with pytest.raises(error, match=message):  # as NumPy's
            fd.dropout(np.ones((3, 4)), 0.3, KEY, **options)


BAD_OFFSETS = [
    ([0, 5], None, ValueError, "offsets must rise from 0 to x's size 6, got"),
    ([1, 6], None, ValueError, "offsets must rise"),
    ([0, 4, 3, 6], None, ValueError, "offsets must rise"),
    ([], None, ValueError, "offsets must rise"),
    ([0.0, 6.0], None, TypeError, "offsets must be integers, got float64"),
    ([0, 6], [1, 2], ValueError, r"rows must have the shape \(1,\), got \(2,\)"),
    ([0, 6], [1 << 31], ValueError, r"rows must be in \[0, 2147483648\), got 2147483648"),
    ([0, 6], [1.0], TypeError, "rows must be integers, got float64"),
]


@pytest.mark.parametrize(("offsets", "rows", "error", "message"), BAD_OFFSETS)
def test_offsets_that_are_refused(offsets, rows, error, message):
    x = da.ones(6, chunks=4)
    with dask.config.set(scheduler=refuse), pytest.raises(error, match=message):
        fdd.dropout(x, 0.3, KEY, offsets=offsets, rows=rows)
    with pytest.raises(error, match=message):
        fdd.dropout(x, 0.3, KEY, offsets=da.from_array(np.array(offsets), chunks=1), rows=rows).compute()
    later = None if rows is None else da.from_array(np.array(rows), chunks=1)
    with pytest.raises(error, match=message):
        fdd.dropout(x, 0.3, KEY, offsets=offsets, rows=later).compute()


def test_lists_that_are_refused_when_they_are_computed():
    x, index = da.ones((3, 4), chunks=2), np.zeros((3, 4), int)
    index[2, 3] = -1
    bad = da.from_array(index, chunks=3)
    with pytest.raises(ValueError, match=r"indices must be in \[0, 9223372036854775808\), got -1"):
        fdd.dropout(x, 0.3, KEY, indices=bad).compute()
    with pytest.raises(ValueError, match=r"axis 1 of indices must be in \[0, 4\), got -1"):
        fdd.dropout(x, 0.3, KEY, indices=((5, 4), (bad + 1, bad))).compute()
    with pytest.raises(TypeError, match="indices must be integers, got a masked array"):
        fdd.dropout(x, 0.3, KEY, indices=da.ma.masked_equal(bad, 0)).compute()


def test_lists_are_not_computed_early():
    x, never_index, flat = da.from_array(X, chunks=CHUNKS), never(FLAT), da.ones(50, chunks=7)
    with dask.config.set(scheduler=refuse):
        fdd.dropout(x, 0.3, KEY, indices=never_index)
        fdd.dropout(x, 0.3, KEY, indices=(FULL, (never_index,) * 3))
        fdd.dropout(flat, 0.3, KEY, offsets=never(np.zeros(4, int)), rows=never(np.zeros(3, int)))


def test_lists_of_arrays_too_big_to_be_made():
    """Only shapes and dtypes are looked at before dask computes a part."""
    huge = da.ones((1 << 40, 1 << 10), chunks=(1 << 30, 1 << 10))
    index = da.arange(1 << 40, chunks=1 << 30)[:, None] * (1 << 10) + da.arange(1 << 10)
    part = fdd.dropout(huge, 0.5, KEY, indices=index)[(1 << 39) : (1 << 39) + 2, :40]
    assert part.shape == (2, 40)


def test_what_comes_after_does_not_change_the_mask():
    (lazy,), (expected,) = both("dropout")
    assert same_bits(lazy[2:5, ::2].rechunk(2).compute(scheduler="sync"), expected[2:5, ::2].copy())


def test_another_key_gives_another_mask_and_another_name():
    x = da.ones(SHAPE, chunks=CHUNKS)
    one, same, other = (fdd.dropout(x, 0.3, key) for key in (KEY, fd.Key(42, 3), KEY.next()))
    assert one.name == same.name != other.name
    assert tokenize(KEY) == tokenize(fd.Key(42, 3))
    assert not np.array_equal(one.compute(), other.compute())


def never(x):
    """An array whose blocks complain when they are computed."""
    alike = {"dtype": x.dtype, "meta": np.ones((0,) * x.ndim, x.dtype)}
    return da.map_blocks(refuse, da.ones(x.shape, chunks=3), **alike)


@cases
def test_nothing_is_computed_early(case):
    with dask.config.set(scheduler=refuse):
        lazy, _ = both(case, never)
        for y in lazy:
            if y is not None:
                with pytest.raises(AssertionError, match="computed early"):
                    y.compute()
    with pytest.raises(AssertionError, match="computed early"):
        lazy[0].compute(scheduler="sync")  # here x's own blocks complain


def test_rates_and_masks_are_not_computed_early():
    rates = da.map_blocks(refuse, da.ones(10, chunks=5), dtype=float)
    with dask.config.set(scheduler=refuse):
        fdd.dropout(da.from_array(X, chunks=CHUNKS), rates, KEY)
        fdd.keep_mask(SHAPE, 0.3, KEY, chunks=CHUNKS)


@pytest.mark.usefixtures("threads_set_back")
def test_blocks_use_no_threads_of_their_own(monkeypatch):
    fd.set_num_threads(2)
    made, request = [], helpers.request

    def watched(*given):
        made.append(request(*given))
        return made[-1]

    monkeypatch.setattr(helpers, "request", watched)
    monkeypatch.setattr(helpers, "_pause", 0)
    x = np.ones(1 << 21, np.float32)
    expected = fd.dropout(x, 0.3, KEY)
    assert made.pop() is not None  # a plain call does
    for scheduler in ("sync", "threads"):
        y = fdd.dropout(da.from_array(x, chunks=1 << 20), 0.3, KEY).compute(scheduler=scheduler)
        assert same_bits(y, expected)
    assert made == [None] * 4  # they came by there


def test_memory_is_bounded_by_the_chunks():
    size, step = 1 << 22, (1 << 16) + 13
    chunks = (*([step] * (size // step)), size % step)
    expected = fd.dropout(np.ones(size, np.float32), 0.3, KEY)
    lazy = fdd.dropout(da.ones(size, chunks=(chunks,), dtype=np.float32), 0.3, KEY)
    equal = (lazy == da.from_array(expected, chunks=(chunks,))).all()
    with dask.config.set(scheduler="threads", num_workers=2):
        assert equal.compute()
        tracemalloc.start()
        try:
            assert equal.compute()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 << 20  # of 16 MiB


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


def test_a_cluster_of_processes_gives_the_same_bits(client):
    for case in CASES:
        lazy, expected = both(case)
        check(case, dask.compute(*lazy), expected)
    lazy = fdd.dropout(da.from_array(X, chunks=CHUNKS), 0.3, KEY, indices=da.from_array(FLAT, chunks=4))
    assert same_bits(lazy.compute(), fd.dropout(X, 0.3, KEY, indices=FLAT))
    ends = np.array([0, 20, 20, 50])
    lazy = fdd.dropout(da.from_array(normal(50), chunks=7), 0.3, KEY, offsets=ends)
    assert same_bits(lazy.compute(), fd.dropout(normal(50), 0.3, KEY, offsets=ends))
    size = 300_000
    lazy = fdd.dropout(da.ones(size, chunks=size // 11), 0.3, KEY)
    kept = client.persist(lazy)
    client.gather(client.futures_of(kept))
    workers = {worker for holders in client.who_has(kept).values() for worker in holders}
    assert len(workers) == 2
    assert same_bits(kept.compute(), fd.dropout(np.ones(size), 0.3, KEY))


def test_workers_are_other_processes_without_threads_of_fastdrop(client):
    def threads(block):
        import os
        import threading

        names = [thread.name for thread in threading.enumerate()]
        return np.array([[os.getpid(), sum(name.startswith("fastdrop") for name in names)]])

    import os

    x = fdd.dropout(da.ones(1 << 22, chunks=1 << 20, dtype=np.float32), 0.3, KEY)
    found = x.map_blocks(threads, dtype=int, chunks=((1,) * 4, (2,)), new_axis=1).compute()
    assert os.getpid() not in found[:, 0]
    assert found[:, 1].sum() == 0


def refused():
    x = da.ones(SHAPE, chunks=CHUNKS)
    unknown = x[x[:, 0, 0] > 0]
    yield "dropout", (np.ones(3), 0.3, KEY), TypeError, "x must be a dask array, got ndarray; use dask.array"
    yield "drop_path", ([1.0], 0.3, KEY), TypeError, "x must be a dask array, got list"
    yield (
        "dropout",
        (unknown, 0.3, KEY),
        ValueError,
        r"known sizes, got shape \(nan, 12, 10\); use x.compute_",
    )
    yield "dropout", (x.astype(int), 0.3, KEY), TypeError, r"got int64; use x.astype\(np.float32\)"
    yield "dropout", (da.ma.masked_equal(x, 0), 0.3, KEY), TypeError, "no masked arrays"
    yield "dropout", (x, 1.2, KEY), ValueError, r"p must be in \[0, 1\], got 1.2"
    yield "dropout", (x, "0.3", KEY), TypeError, "p must be a real number"
    yield "dropout", (x, np.ones(10, complex), KEY), TypeError, "array of real numbers .* got complex128"
    yield "dropout", (x, RATES[:9], KEY), ValueError, r"p must broadcast to the mask's shape \(7, 12, 10\)"
    yield "dropout", (x, da.ones((3, 7, 12, 10)), KEY), ValueError, "p must broadcast to the mask's shape"
    yield "dropout", (x, 0.3, None), TypeError, "key must be a fastdrop.Key or an int"
    yield "gaussian_dropout", (x, 1.0, KEY), ValueError, "p must be below 1"
    yield (
        "drop_connect_backward",
        (x[0, :9], x[0], da.ones((10, 4)), 0.3, KEY),
        ValueError,
        r"shape \(12, 4\)",
    )
    yield "gaussian_noise", (x, -1.0, KEY), ValueError, "std must be finite and >= 0, got -1.0"
    yield "alpha_dropout", (x, RATES, KEY), TypeError, "p must be a real number"
    yield "alpha_dropout", (x.astype(complex), 0.3, KEY), TypeError, "alpha dropout needs real numbers"
    yield "dropout_add", (x, x[1:], 0.3, KEY), ValueError, r"residual must have the shape \(7, 12, 10\), got"
    yield "dropout_add", (x, OTHER, 0.3, KEY), ValueError, "residual must have x's dtype float64, got float32"
    yield "bias_act_dropout", (x, x, 0.3, KEY), ValueError, r"bias must have the shape \(10,\), got \(7, 12"
    yield (
        "bias_act_dropout",
        (x, BIAS[:9], 0.3, KEY),
        ValueError,
        r"bias must have the shape \(10,\), got \(9",
    )
    yield "bias_act_dropout", (x[0, 0, 0], None, 0.3, KEY), ValueError, "a bias needs x's last axis"
    yield (
        "bias_act_dropout",
        (x.astype(complex), BIAS, 0.3, KEY),
        TypeError,
        "an activation needs real numbers",
    )
    yield "zoneout", (OTHER, x, 0.3, KEY), TypeError, "new must be a dask array, got ndarray"
    yield "zoneout", (x, x[1:], 0.3, KEY), ValueError, r"previous must have the shape \(7, 12, 10\), got"
    yield "concrete_dropout", (x, np.nan, KEY), ValueError, "logit must be finite, got nan"
    yield "concrete_dropout", (x, RATES, KEY), TypeError, "logit must be a real number"
    yield "standout_dropout", (x, x[0], KEY), ValueError, r"a must have the shape \(7, 12, 10\), got"
    yield "local_reparameterization", (x, -1.0, KEY), ValueError, "variance must be finite and >= 0, got -1"
    yield "local_reparameterization", (x, RATES[:9], KEY), ValueError, "variance must broadcast"
    yield "drop_connect", (x, OTHER, 0.3, KEY), ValueError, r"x must have the shape \(n, features_in\), got"
    yield "drop_connect", (x[0], OTHER[0].T[:9], 0.3, KEY), TypeError, "weight must be of the others' dtype"
    yield "drop_connect", (x[0], None, 0.3, KEY), TypeError, r"weight must be an array .*, got None"
    yield "drop_connect", (x[0], da.ones((9, 4)), 0.3, KEY), ValueError, r"must have the shape \(10, feat"
    yield "drop_connect", (x[0], da.ones((10, 4)), 1.3, KEY), ValueError, r"p must be in \[0, 1\], got 1.3"
    rows, table = da.ones(4, dtype=int, chunks=2), np.ones((9, 2))
    yield "embedding_dropout", (rows, OTHER, 0.3, KEY), ValueError, r"weight must have the shape \(vocab"
    yield "embedding_dropout", (x, table, 0.3, KEY), TypeError, "tokens must be integers, got float64"
    yield "embedding_dropout", (rows, table, RATES, KEY), ValueError, "p must broadcast to the mask's shape"
    yield "bias_act_dropout_backward", (x, x[0], BIAS, 0.3, KEY), ValueError, r"x must have the shape \(7, 12"


@pytest.mark.parametrize(("name", "args", "error", "message"), list(refused()))
def test_refuses_at_once(name, args, error, message):
    with dask.config.set(scheduler=refuse), pytest.raises(error, match=message):
        getattr(fdd, name)(*args)


@pytest.mark.parametrize("name", ["dropout", "gaussian_noise_backward"])
def test_refuses_two_ways_of_listing(name):
    for module, x in ((fd, X), (fdd, in_chunks(X))):
        with pytest.raises(ValueError, match="indices must be given alone, got"):
            getattr(module, name)(x, 0.3, KEY, rows=[1], indices=[2])


def test_refuses_axes_modes_and_values_of_rates():
    with pytest.raises(ValueError, match=r"shape must have lengths of at least 0, got \(7, -1\)"):
        fdd.keep_mask((7, -1), 0.3, KEY)
    with pytest.raises(TypeError, match=r"chunks must be sizes of at least 1.* got None"):
        fdd.keep_mask((7, 12), 0.3, KEY, chunks=None)
    x = da.ones(SHAPE, chunks=CHUNKS)
    with pytest.raises(ValueError, match=r"shared_axes must be in \[-3, 3\)"):
        fdd.dropout(x, 0.3, KEY, shared_axes=3)
    with pytest.raises(ValueError, match="mode must be"):
        fdd.drop_path(x, 0.3, KEY, mode="rows")
    lazy = fdd.dropout(x, RATES + 0.5, KEY)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1\.\d+ in an array"):
        lazy.compute()
