"""The functions on dask arrays: NumPy's bits for any chunks and scheduler, and nothing computed early."""

import tracemalloc
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
from arrays import DTYPES, normal, same_bits
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdrop as fd
from fastdrop import dask as fdd
from fastdrop._cpu import calls, pool

KEY = fd.Key(42, 3)
SHAPE = (7, 12, 10)
CHUNKS = ((3, 1, 3), (5, 7), (10,))
RATES = np.linspace(0, 1, 10)
OTHER, BIAS = normal(*SHAPE, seed=1), normal(10, seed=2)

# name, positional arguments after x, options
CASES = {
    "dropout": ("dropout", (0.3, KEY), {}),
    "an int key": ("dropout", (0.3, 7), {}),
    "shared": ("dropout", (0.3, KEY), {"shared_axes": (0, -1)}),
    "one axis shared": ("dropout", (0.3, KEY), {"shared_axes": 1}),
    "rates of features": ("dropout", (RATES, KEY), {}),
    "rates of samples": ("dropout", (RATES[:7, None, None], KEY), {"shared_axes": (1, 2)}),
    "rates of elements": ("dropout", (np.resize(RATES, SHAPE), KEY), {}),
    "one rate in an array": ("dropout", (np.array(0.3), KEY), {}),
    "dropout_backward": ("dropout_backward", (0.3, KEY), {}),
    "gaussian_dropout": ("gaussian_dropout", (0.3, KEY), {"shared_axes": 1}),
    "gaussian_dropout by rates": ("gaussian_dropout", (RATES / 2, KEY), {}),
    "gaussian_dropout_backward": ("gaussian_dropout_backward", (0.3, KEY), {}),
    "gaussian_noise": ("gaussian_noise", (0.3, KEY), {}),
    "gaussian_noise by features": ("gaussian_noise", (RATES, KEY), {}),
    "alpha_dropout": ("alpha_dropout", (0.3, KEY), {}),
    "alpha_dropout_backward": ("alpha_dropout_backward", (0.3, KEY), {}),
    "drop_path": ("drop_path", (0.5, KEY), {}),
    "drop_path of a batch": ("drop_path", (0.5, KEY), {"mode": "batch"}),
    "drop_path_backward": ("drop_path_backward", (0.5, KEY), {}),
    "dropout_add": ("dropout_add", (OTHER, 0.3, KEY), {"shared_axes": 1}),
    "dropout_add by rates": ("dropout_add", (OTHER, RATES, KEY), {}),
    "bias_act_dropout": ("bias_act_dropout", (BIAS, 0.3, KEY), {"residual": OTHER}),
    "bias_act_dropout by rates": ("bias_act_dropout", (BIAS, RATES, KEY), {"activation": "none"}),
    "no bias": ("bias_act_dropout", (None, 0.3, KEY), {"activation": "silu", "shared_axes": 0}),
} | {a: ("bias_act_dropout", (BIAS, 0.3, KEY), {"activation": a}) for a in ("gelu", "gelu_tanh")}
cases = pytest.mark.parametrize("case", CASES)


def both(case, x, chunks=CHUNKS):
    """The lazy result, and NumPy's for the whole array."""
    name, given_args, options = CASES[case]
    lazy = getattr(fdd, name)(da.from_array(x, chunks=chunks), *given_args, **options)
    return lazy, getattr(fd, name)(x, *given_args, **options)


def refuse(*args, **kwargs):
    raise AssertionError("computed early")


@cases
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_bits_are_those_of_numpy(case, scheduler):
    lazy, expected = both(case, normal(*SHAPE))
    assert same_bits(lazy.compute(scheduler=scheduler), expected)


@cases
def test_chunks_dtype_and_meta_stay(case):
    lazy, _ = both(case, normal(*SHAPE))
    assert lazy.chunks == CHUNKS
    assert lazy.dtype == np.float32
    assert type(lazy._meta) is np.ndarray
    assert (lazy._meta.dtype, lazy._meta.ndim) == (np.float32, 3)
    assert lazy.name.startswith(CASES[case][0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    x = normal(*SHAPE, dtype=dtype)
    for case in ("dropout", "shared", "rates of features", "gaussian_noise", "drop_path"):
        lazy, expected = both(case, x)
        assert lazy.dtype == dtype
        assert same_bits(lazy.compute(scheduler="sync"), expected)


@settings(max_examples=100, deadline=None, derandomize=True)
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


def test_what_comes_after_does_not_change_the_mask():
    x = normal(*SHAPE)
    lazy, expected = both("dropout", x)
    assert same_bits(lazy[2:5, ::2].rechunk(2).compute(scheduler="sync"), expected[2:5, ::2].copy())


def test_another_key_gives_another_mask_and_another_name():
    x = da.ones(SHAPE, chunks=CHUNKS)
    one, same, other = (fdd.dropout(x, 0.3, key) for key in (KEY, fd.Key(42, 3), KEY.next()))
    assert one.name == same.name != other.name
    assert tokenize(KEY) == tokenize(fd.Key(42, 3))
    assert not np.array_equal(one.compute(), other.compute())


@cases
def test_nothing_is_computed_early(case):
    name, given_args, options = CASES[case]
    with dask.config.set(scheduler=refuse):
        x = da.map_blocks(refuse, da.ones(SHAPE, chunks=CHUNKS), dtype=np.float32, meta=np.ones((0, 0, 0)))
        lazy = getattr(fdd, name)(x, *given_args, **options)
        if name in ("dropout", "dropout_backward"):
            getattr(fdd, name)(x, da.map_blocks(refuse, da.ones(10, chunks=5), dtype=float), KEY)
        fdd.keep_mask(SHAPE, 0.3, KEY, chunks=CHUNKS)
        with pytest.raises(AssertionError, match="computed early"):
            lazy.compute()
    with pytest.raises(AssertionError, match="computed early"):
        lazy.compute(scheduler="sync")  # here x's own blocks complain


@pytest.mark.usefixtures("threads_set_back")
def test_blocks_use_no_threads_of_their_own(monkeypatch):
    fd.set_num_threads(2)
    asked, came, share = [], [], pool.share

    def refuse(help, count):
        asked.extend([help] * count)
        raise RuntimeError("no threads here")

    def watched(task, pieces):
        came.append(1)
        share(task, pieces)

    monkeypatch.setattr(pool, "_ask", refuse)
    monkeypatch.setattr(pool, "share", watched)
    x = np.ones(2 * calls.PARALLEL_FROM, np.float32)
    expected = fd.dropout(x, 0.3, KEY)
    assert asked  # a plain call does
    asked.clear()
    came.clear()
    for scheduler in ("sync", "threads"):
        y = fdd.dropout(da.from_array(x, chunks=calls.PARALLEL_FROM), 0.3, KEY).compute(scheduler=scheduler)
        assert same_bits(y, expected)
    assert not asked
    assert len(came) >= 2  # they came by there


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
        lazy, expected = both(case, normal(*SHAPE))
        assert same_bits(lazy.compute(), expected), case
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

    x = fdd.dropout(da.ones(4 * calls.PARALLEL_FROM, chunks=calls.PARALLEL_FROM, dtype=np.float32), 0.3, KEY)
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
    yield "bias_act_dropout_backward", (x, x[0], BIAS, 0.3, KEY), ValueError, r"x must have the shape \(7, 12"


@pytest.mark.parametrize(("name", "args", "error", "message"), list(refused()))
def test_refuses_at_once(name, args, error, message):
    with dask.config.set(scheduler=refuse), pytest.raises(error, match=message):
        getattr(fdd, name)(*args)


def test_refuses_axes_modes_and_values_of_rates():
    x = da.ones(SHAPE, chunks=CHUNKS)
    with pytest.raises(ValueError, match=r"shared_axes must be in \[-3, 3\)"):
        fdd.dropout(x, 0.3, KEY, shared_axes=3)
    with pytest.raises(ValueError, match="mode must be"):
        fdd.drop_path(x, 0.3, KEY, mode="rows")
    lazy = fdd.dropout(x, RATES + 0.5, KEY)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1\.\d+ in an array"):
        lazy.compute()
