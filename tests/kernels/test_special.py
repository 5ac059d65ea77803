"""The polynomials' accuracy against extended precision; the table of `special` holds the bounds."""

import numpy as np
import pytest
from numba import njit
from scipy.special import ndtr

from fastdrop._lanes import memory, special

N = 2**18
WIDE = np.longdouble
BOUNDS = {  # in units of eps, relative but where said otherwise
    "exp": (1.0, 1.0),
    "sigmoid": (1.5, 1.5),
    "normal_tail": (1.25, 1.0),  # absolute; SciPy's own rounding is in it
    "radius": (1.5, 1.5),
    "rotation": (1.0, 1.0),  # absolute
}
assert np.finfo(WIDE).nmant > 60, "these tests need extended precision"


def apply(function, *arrays, dtype=None):
    """A function of lanes on arrays of a multiple of eight; words go with a vector of the dtype."""
    function = njit(function)
    out = np.ones(arrays[0].size, dtype or arrays[0].dtype)

    def one(a, out):
        for i in range(0, a.size, 8):
            memory.store(out, i, function(memory.load(a, i)))

    def of_words(high, low, out):
        for i in range(0, high.size, 8):
            like = memory.load(out, i)
            memory.store(out, i, function(memory.load(high, i), memory.load(low, i), like))

    njit(one if len(arrays) == 1 else of_words)(*arrays, out)
    return out


def worst(got, exact, relative=True):
    """The largest error in units of eps."""
    error = np.abs(got.astype(WIDE) - exact)
    if relative:
        error = error / np.abs(exact)
    return float(error.max() / np.finfo(got.dtype).eps)


def uniform(low, high, dtype):
    return np.random.default_rng(0).uniform(low, high, N).astype(dtype)


def words():
    rng = np.random.default_rng(0)
    high, low = rng.integers(2**32, size=(2, N), dtype=np.uint32)
    high[:8] = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2, 2**30, 3 * 2**30]
    high[8:1000] = rng.integers(2**32 - 2000, 2**32, 992)
    high[1000:2000] = rng.integers(2000, size=1000)
    return high, low


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def bound(name, dtype):
    return BOUNDS[name][dtype is np.float64]


def test_exp(dtype):
    x = uniform(-80, 80, dtype)
    assert worst(apply(lambda v: special.exp(v), x), np.exp(x.astype(WIDE))) < bound("exp", dtype)


def test_exp_of_negative(dtype):
    least = -87 if dtype is np.float32 else -708
    x = uniform(least, 0, dtype)
    x[:2] = 0, least
    got = apply(lambda v: special.exp_of_negative(v), x)
    assert worst(got, np.exp(x.astype(WIDE))) < bound("exp", dtype)
    assert got[0] == 1
    odd = np.array([-np.inf, 2 * least, np.nextafter(dtype(least), dtype(-np.inf)), np.nan] * 2, dtype)
    np.testing.assert_array_equal(apply(lambda v: special.exp_of_negative(v), odd), [0, 0, 0, np.nan] * 2)


def test_sigmoid_and_its_complement(dtype):
    x = uniform(-80, 80, dtype)
    exact = 1 / (1 + np.exp(-x.astype(WIDE)))
    assert worst(apply(lambda v: special.sigmoid(v)[0], x), exact) < bound("sigmoid", dtype)
    rest = 1 / (1 + np.exp(x.astype(WIDE)))
    assert worst(apply(lambda v: special.sigmoid(v)[1], x), rest) < 2 * bound("sigmoid", dtype)


def test_normal_tail_and_density(dtype):
    x = uniform(-9, 9, dtype)
    below, tail, density = (apply(lambda v, i=i: special.normal_tail(v)[i], x) for i in range(3))
    np.testing.assert_array_equal(below, -np.abs(x))
    exact = ndtr(-np.abs(x.astype(np.float64)))
    assert worst(tail, exact, False) < bound("normal_tail", dtype)
    assert np.allclose(tail, exact, rtol=1e-5 if dtype is np.float32 else 1e-13, atol=0)
    exact = np.exp(-(x.astype(WIDE) ** 2) / 2) / np.sqrt(2 * WIDE(np.pi))
    assert worst(density, exact, False) < 1


def test_short_normal_tail():
    x = uniform(-12.9, 12.9, np.float32)
    below, tail = (apply(lambda v, i=i: special.short_normal_tail(v)[i], x) for i in range(2))
    np.testing.assert_array_equal(below, -np.abs(x))
    error = np.abs(tail / ndtr(-np.abs(x.astype(np.float64))) - 1)
    assert error[np.abs(x) < 3].max() < 2**-15.5
    assert error[np.abs(x) < 5.7].max() < 2**-14.5
    assert error.max() < 2**-9.5


@pytest.mark.parametrize("function", [special.normal_tail, special.short_normal_tail])
def test_tails_far_away(function):
    far = np.array([-np.inf, -1e30, -50, -13.2, 13.2, 50, 1e30, np.inf], np.float32)
    assert not apply(lambda v: function(v)[1], far).any()
    below = apply(lambda v: function(v)[0], far)
    assert (below == below[0]).all()
    assert -13.2 < below[0] <= -12.9
    assert np.isnan(apply(lambda v: function(v)[1], far * np.nan)).all()


def test_radius(dtype):
    high, low = words()
    bits = 32 if dtype is np.float32 else 64
    word = high.astype(WIDE) if bits == 32 else high.astype(WIDE) * 2**32 + low
    other = WIDE(2) ** bits - 1 - word
    smaller = (np.minimum(word, other) + WIDE(0.5)) / WIDE(2) ** bits
    exact = np.sqrt(-2 * np.where(word < other, np.log(smaller), np.log1p(-smaller)))
    got = apply(lambda h, l, like: special.radius(h, l, like), high, low, dtype=dtype)
    assert worst(got, exact) < bound("radius", dtype)


def test_the_largest_radius_needs_every_digit(dtype):
    """A 24-bit word could reach 5.9 only."""
    zeros = np.zeros(8, np.uint32)
    bits = 32 if dtype is np.float32 else 64
    got = apply(lambda h, l, like: special.radius(h, l, like), zeros, zeros, dtype=dtype)
    assert got[0] == pytest.approx(np.sqrt(2 * (bits + 1) * np.log(2)), rel=1e-6)
    assert got[0] > 6.76 > np.sqrt(2 * 25 * np.log(2))


def test_turn(dtype):
    high, low = words()
    fraction = high / WIDE(2) ** 32
    if dtype is np.float64:
        fraction = fraction + low / WIDE(2) ** 64
    angle = 2 * WIDE("3.14159265358979323846264338327950288") * fraction
    for i, function in enumerate((np.cos, np.sin)):
        part = (
            lambda h, l, like: special.rotation(h, l, like)[0],
            lambda h, l, like: special.rotation(h, l, like)[1],
        )[i]
        assert worst(apply(part, high, low, dtype=dtype), function(angle), False) < bound("rotation", dtype)


def test_the_table_in_the_docs_is_the_one_tested():
    for name, (single, double) in BOUNDS.items():
        row = next(line for line in special.__doc__.splitlines() if line.startswith(name))
        assert row.split()[-2:] == [f"{single}", f"{double}"]
