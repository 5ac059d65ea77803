"""Each operation on lanes against NumPy."""

import operator

import numpy as np
import pytest
from evaluate import lanes
from numba import njit

from fastdrop._lanes import memory, vectors

A = np.array([0, 1, 2**31, 2**32 - 1, 12345, 7, 8, 9], np.uint32)
B = np.array([3, 1, 2**31, 1, 54321, 8, 7, 9], np.uint32)


@pytest.mark.parametrize(
    "formula",
    [
        lambda a, b: a & b,
        lambda a, b: a | b,
        lambda a, b: a ^ b,
        lambda a, b: a + b,
        lambda a, b: a * b,
        lambda a, b: ~a ^ b,
    ],
)
def test_integer_operators(formula):
    assert np.array_equal(lanes(formula, A, B), formula(A, B))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "formula",
    [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b, lambda a, b: -a],
)
def test_real_operators(formula, dtype):
    a, b = np.random.default_rng(0).standard_normal((2, 8)).astype(dtype)
    assert np.array_equal(lanes(formula, a, b), formula(a, b))


@pytest.mark.parametrize("formula", [lambda a, b: a != b, lambda a, b: a < b, lambda a, b: a >= b])
def test_comparisons_are_unsigned(formula):
    compare = njit(formula)
    got = lanes(lambda a, b: vectors.zero_where(compare(a, b), a | np.uint32(1)), A, B)
    assert np.array_equal(got == 0, formula(A, B))


def test_scalars_are_cast_to_the_lanes_type():
    assert np.array_equal(lanes(lambda a: a >> np.uint64(3), A), A >> 3)
    x = np.arange(8, dtype=np.float32)
    assert np.array_equal(lanes(lambda a: a * 0.1, x), x * np.float32(0.1))


def test_narrow_and_iota():
    wide = np.arange(8, dtype=np.uint64) << np.uint64(32) | np.uint64(5)
    assert lanes(lambda a: vectors.narrow(a), wide, dtype=np.uint32).tolist() == [5] * 8
    assert (
        lanes(lambda a: a + vectors.iota(), wide).tolist() == (wide + np.arange(8, dtype=np.uint64)).tolist()
    )
    assert lanes(lambda a: vectors.splat(np.uint32(9)), A).tolist() == [9] * 8


@pytest.mark.parametrize("lane", [None, *range(8)])
def test_any_nonzero(lane):
    a = np.zeros(8, np.uint32)
    if lane is not None:
        a[lane] = 1 << lane
    assert njit(lambda a: vectors.any_nonzero(memory.load(a, 0)))(a) == (lane is not None)


def test_bits_of_lanes_and_lanes_of_bits():
    for mask in (0, 1, 0b10110001, 255):
        a = np.array([mask >> lane & 1 for lane in range(8)], np.uint32)
        assert njit(lambda a: vectors.bits_of(memory.load(a, 0) != np.uint32(0)))(a) == mask

    @njit
    def spread(word, out):
        memory.store(out, 0, vectors.where(vectors.are_set(word), memory.load_wide(out, 0), np.uint32(0)))

    for word in (0, 0x8001, 0x1234, 0xFFFF):
        out = np.ones(16, np.uint32)
        spread(np.uint32(word), out)
        assert np.array_equal(out, np.unpackbits(np.array([word], "<u2").view(np.uint8)))


def test_zero_where_makes_positive_zeros_of_anything():
    x = np.array([np.nan, -0.0, np.inf, -1, 2, 3, 4, 5], np.float32)
    got = lanes(lambda v: vectors.zero_where(vectors.narrow(vectors.iota()) < np.uint32(4), v), x)
    assert got.view(np.uint32)[:4].tolist() == [0] * 4
    assert got[4:].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_masked_access_touches_only_what_is_set(dtype):
    def copy_part(a, out, first, last):
        inside = (vectors.iota() >= np.uint64(first)) & (vectors.iota() < np.uint64(last))
        memory.store_where(out, 0, memory.load_where(a, 0, inside), inside)

    copy_part = njit(copy_part)
    a = np.arange(1, 9).astype(dtype)
    for first in range(9):
        for last in range(first, 9):
            out = np.full(8, 99, dtype)
            copy_part(a, out, first, last)
            expected = np.full(8, 99, dtype)
            expected[first:last] = a[first:last]
            assert np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_streaming_store_writes_the_same(dtype):
    def stream(a, out):
        memory.store_streaming(out, 0, memory.load(a, 0))
        memory.fence()

    raw = np.zeros(128, np.uint8)
    start = -raw.ctypes.data % 16
    out = raw[start : start + 8 * np.dtype(dtype).itemsize].view(dtype)
    a = np.arange(8).astype(dtype)
    njit(stream)(a, out)
    assert np.array_equal(out, a)


def test_lanes_twice():
    assert lanes(lambda a: vectors.lower_twice(a), A).tolist() == np.repeat(A[:4], 2).tolist()
    assert lanes(lambda a: vectors.upper_twice(a), A).tolist() == np.repeat(A[4:], 2).tolist()


@pytest.mark.parametrize("op", [operator.eq, operator.ne, operator.lt, operator.ge])
def test_comparisons_of_reals_are_ordered(op):
    x = np.array([0, -0.0, 1, -1, np.nan, np.inf, -np.inf, 0.5], np.float32)
    compare = njit(lambda a: op(a, 0))
    got = lanes(lambda a: vectors.zero_where(compare(memory.load(x, 0)), a), np.ones(8, np.uint32))
    assert np.array_equal(got == 0, op(x, 0) & ~np.isnan(x))


def test_where_takes_scalars_for_either():
    x = np.arange(8, dtype=np.float32)
    assert lanes(lambda a: vectors.where(a < 3, 9, a), x).tolist() == np.where(x < 3, 9, x).tolist()
    assert lanes(lambda a: vectors.where(a < 3, a, 9), x).tolist() == np.where(x < 3, x, 9).tolist()
    assert lanes(lambda a: vectors.where(a < 3, a, -a), x).tolist() == np.where(x < 3, x, -x).tolist()
    assert lanes(lambda a: vectors.splat_like(2.5, a), x).tolist() == [2.5] * 8
