"""The kernel of Gaussian noise: against the oracles, and the same bits whatever the pieces."""

import naive
import numpy as np
import pytest
from arrays import same_bits

import fastdrop as fd
from fastdrop import Key
from fastdrop._arrays.plan import Density, Rows
from fastdrop._cpu import calls
from fastdrop._stream import reference
from fastdrop._stream.keys import signed, stream

SIZES = [0, 1, 7, 8, 31, 32, 33, 1023, 1024, 1025, 4099]
STARTS = [0, 1, 9, 31, 2**32 * 4 - 100, 2**63 - 600, 2**64 - 5000]
KEY = Key(42, 3)
BITS = {np.float32: 32, np.float64: 64}


def by_kernel(size, dtype, start=0, key=KEY, out=None):
    z = np.zeros(size, dtype) if out is None else out
    if z.size:
        what = Density("normal", "shift", (1.0,))
        calls.noise(what, z, z, Rows(z.size, 0, signed(start)), *stream(key))
    return z


def by_reference(size, dtype, start=0, key=KEY):
    index = np.arange(size, dtype=np.uint64) + np.uint64(start)
    return reference.normals(index, key, BITS[dtype])


def close(got, exact):
    """Within four roundings of the largest radius that such a number may have come from."""
    return np.abs(got - exact).max(initial=0) < 4 * np.finfo(got.dtype).eps * 6.8


@pytest.mark.parametrize("dtype", BITS)
def test_published_numbers(dtype):
    """A change to any of them is a new stream version."""
    expected = EXPECTED[BITS[dtype]]
    assert np.allclose(
        by_kernel(4, dtype, key=Key(42)), expected, rtol=0, atol=1e-6 if dtype is np.float32 else 1e-14
    )


EXPECTED = {
    32: [0.975336728320653, 0.617030383749466, -1.19668699576774, 0.562047336130412],
    64: [0.975336728243567, 0.617030383366564, -1.19668699655464, 0.562047336002829],
}


@pytest.mark.parametrize("dtype", BITS)
def test_the_oracle_agrees(dtype):
    for start in (0, 2**40 - 3):
        got = by_kernel(100, dtype, start)
        exact = [naive.normal(start + i, KEY.seed, KEY.draw, BITS[dtype]) for i in range(100)]
        assert close(got, np.array(exact))


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("start", STARTS)
def test_sizes_and_starts(dtype, start):
    for size in SIZES:
        assert close(by_kernel(size, dtype, start), by_reference(size, dtype, start)), size


@pytest.mark.parametrize("key", [Key(0), Key(1, 2**32 - 1), Key(1, 2**32), Key(5).fold_in(3)])
def test_keys(key):
    assert close(by_kernel(3000, np.float32, key=key), by_reference(3000, np.float32, key=key))
    assert not close(by_kernel(3000, np.float32, key=key), by_reference(3000, np.float32))


@pytest.mark.parametrize("dtype", BITS)
def test_every_cut_gives_the_same_bits(dtype):
    whole = by_kernel(5000, dtype)
    for size in (1, 5, 8, 31, 33, 1000):
        for start in (0, 3, 30, 2000, 3999):
            part = by_kernel(size, dtype, start)
            assert same_bits(part, whole[start : start + size].copy())


@pytest.mark.usefixtures("threads_set_back")
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("piece", [1000, 1024, 4099])
def test_threads_and_pieces_give_the_same_bits(threads, piece, monkeypatch):
    expected = by_kernel(50_003, np.float32)
    monkeypatch.setattr(calls, "_DENSITY_PARALLEL_FROM", 1)
    monkeypatch.setattr(calls, "_DENSITY_PIECE", piece)
    fd.set_num_threads(threads)
    assert same_bits(by_kernel(50_003, np.float32), expected)


@pytest.mark.parametrize("dtype", BITS)
def test_nothing_outside_is_written(dtype):
    for size in (1, 9, 31, 1000):
        raw = np.full(size + 64, 77, dtype)
        raw[32 : 32 + size] = 0
        by_kernel(size, dtype, 5, out=raw[32 : 32 + size])
        assert (raw[:32] == 77).all()
        assert (raw[32 + size :] == 77).all()
