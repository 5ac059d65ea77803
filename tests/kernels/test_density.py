"""The kernel of Gaussian noise: against the oracles, and the same bits whatever the pieces."""

import naive
import numpy as np
import pytest
from arrays import same_bits

from fastdrop import Key
from fastdrop._arrays.plan import Density, Rows
from fastdrop._backends import density
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


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("piece", [1000, 1024, 4099])
def test_threads_and_pieces_give_the_same_bits(threads, piece, in_pieces_of):
    expected = by_kernel(50_003, np.float32)
    in_pieces_of(piece, threads)
    assert same_bits(by_kernel(50_003, np.float32), expected)


@pytest.mark.parametrize("dtype", BITS)
def test_nothing_outside_is_written(dtype):
    for size in (1, 9, 31, 1000):
        raw = np.full(size + 64, 77, dtype)
        raw[32 : 32 + size] = 0
        by_kernel(size, dtype, 5, out=raw[32 : 32 + size])
        assert (raw[:32] == 77).all()
        assert (raw[32 + size :] == 77).all()


def normals(size, key):
    return reference.normals(np.arange(size, dtype=np.uint64), key, 64)


def logistics(size, key):
    return reference.logistics(np.arange(size, dtype=np.uint64), key, 64)


FORMULAS = {
    "multiply": lambda x, v: x * (1 + v),
    "shift": lambda x, v: x + v,
    "exponential": lambda x, v: x * np.exp(v),
}


@pytest.mark.parametrize("numbers", [0.7, np.linspace(0.1, 2, 7), np.linspace(0, 1, 9)[:, None]], ids=np.ndim)
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(("name", "noise"), [("normal", normals), ("logistic", logistics)])
def test_what_is_drawn_is_what_the_density_says(name, noise, formula, numbers):
    """For every pair of a draw and a formula, with one number and with an array of them."""
    x = np.linspace(-1, 1, 63).reshape(9, 7)
    z = noise(63, KEY).reshape(9, 7)
    y = density(Density(name, formula, (numbers,)), x, None, KEY)
    np.testing.assert_allclose(y, FORMULAS[formula](x, numbers * z), rtol=1e-12, atol=1e-14)
    other = {"normal": logistics, "logistic": normals}[name](63, KEY).reshape(9, 7)
    assert not np.allclose(y, FORMULAS[formula](x, numbers * other), rtol=0.1)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("formula", ["multiply", "exponential", "exponential_slope"])
@pytest.mark.parametrize("shared", [(), (1,)])
def test_one_number_and_an_array_filled_with_it_give_the_same_bits(dtype, formula, shared):
    x = np.linspace(-1, 1, 63, dtype=dtype).reshape(3, 3, 7)
    one, many = (
        density(Density("normal", formula, (number,)), x, None, KEY, shared)
        for number in (0.3, np.full(7, 0.3))
    )
    assert same_bits(one, many)


def test_formulas_of_several_numbers_refuse_arrays():
    numbers = np.full(3, 10.0), 0.3, 1.1, 1.2, 0.1
    with pytest.raises(TypeError, match="concrete takes 5 numbers for all elements, got an array"):
        density(Density("logistic", "concrete", numbers), np.ones(3), None, KEY)
    with pytest.raises(ValueError, match="alpha must broadcast to the mask's shape"):
        density(Density("normal", "exponential", (np.ones(2),), "alpha"), np.ones(3), None, KEY)
