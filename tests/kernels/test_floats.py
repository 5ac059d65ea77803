"""Each operation on lanes of real numbers against NumPy."""

from fractions import Fraction

import numpy as np
import pytest
from evaluate import lanes
from numba import njit

from fastdrop._lanes import floats, memory

DTYPES = [np.float32, np.float64]
VALUES = [0.0, -0.0, 0.5, -1.5, 2.5, 7.25, -1e30, 1e-30]


@pytest.mark.parametrize("dtype", DTYPES)
def test_roots_rounding_and_signs(dtype):
    x = np.array(VALUES, dtype)
    positive = np.abs(x)
    assert np.array_equal(lanes(lambda a: floats.sqrt(a), positive), np.sqrt(positive))
    assert np.array_equal(lanes(lambda a: floats.rint(a), x), np.rint(x))
    assert np.array_equal(lanes(lambda a: floats.absolute(a), x), np.abs(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fma_rounds_once(dtype):
    a, b = np.random.default_rng(0).standard_normal((2, 8)).astype(dtype)
    c = -(a * b)
    exact = [
        Fraction(float(u)) * Fraction(float(v)) + Fraction(float(w)) for u, v, w in zip(a, b, c, strict=True)
    ]

    def residue(a, b):
        return floats.fma(a, b, -(a * b))

    assert np.array_equal(lanes(residue, a, b), np.array([float(e) for e in exact], dtype))
    assert any(exact)
    assert np.array_equal(lanes(lambda a: floats.fma(a, 2.0, 1.0), a), a * 2 + 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_polynomials_have_the_coefficients_of_their_precision(dtype):
    cubic = floats.polynomial(single=(1.0, 2.0, 3.0, 4.0), double=(5.0, 6.0))
    x = np.arange(8, dtype=dtype)
    expected = x**3 + 2 * x**2 + 3 * x + 4 if dtype is np.float32 else 5 * x + 6
    assert np.array_equal(lanes(lambda a: cubic(a), x), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_split_and_scale_by_power_are_frexp_and_ldexp(dtype):
    x = np.array([1, 0.5, 0.75, 3, 1e-30, 1e30, 2**-33, 1 - 2**-20], dtype)
    mantissa, exponent = np.frexp(x)
    assert np.array_equal(lanes(lambda a: floats.split(a)[0], x), mantissa)
    assert np.array_equal(lanes(lambda a: floats.split(a)[1], x), exponent.astype(dtype))
    k = np.array([0, 1, -1, 5, 10, -10, 20, -20], dtype)

    def scaled(a, k):
        return floats.scale_by_power(a, k + floats.SHIFTER(a))

    assert np.array_equal(lanes(scaled, x, k), np.ldexp(x, k.astype(int)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_quotients(dtype):
    a, b = np.random.default_rng(0).uniform(0.1, 10, (2, 8)).astype(dtype)
    assert np.array_equal(lanes(lambda a: floats.reciprocal(a), a), 1 / a)
    assert np.array_equal(lanes(lambda a, b: floats.quotient(a, b), a, b), a / b)


def of_words(function, high, low, dtype):
    function = njit(function)
    out = np.zeros(8, dtype)

    def body(high, low, out):
        like = memory.load(out, 0)
        memory.store(out, 0, function(memory.load(high, 0), memory.load(low, 0), like))

    njit(body)(high, low, out)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_words_as_signed_numbers(dtype):
    high = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**30, 5, 12345], np.uint32)
    low = np.array([0, 2**32 - 1, 7, 0, 2**32 - 1, 2**31, 5, 99], np.uint32)
    whole = [int(h) << 32 | int(l) for h, l in zip(high, low, strict=True)]
    bits, numbers = (32, [int(h) for h in high]) if dtype is np.float32 else (64, whole)

    def signed(n):
        n %= 2**bits
        return n - 2**bits if n >= 2 ** (bits - 1) else n

    got = of_words(lambda h, l, like: floats.integer(h, l, like), high, low, dtype)
    assert np.array_equal(got, np.array([signed(n) for n in numbers]).astype(dtype))
    got = of_words(lambda h, l, like: floats.integer_shifted(h, l, like), high, low, dtype)
    assert np.array_equal(got, np.array([signed(4 * n) for n in numbers]).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_flip_sign_looks_at_the_top_bit(dtype):
    words = np.array([0, 1, 2**31, 2**31 + 1, 2**32 - 1, 2**30, 0, 2**31], np.uint32)
    got = of_words(lambda w, _, like: floats.flip_sign(like + 3.0, w), words, words, dtype)
    assert np.array_equal(got, np.where(words >= 2**31, -3, 3))
