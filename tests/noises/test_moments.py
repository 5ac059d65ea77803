"""Exact moments against their definitions: sums over what can happen, and quadrature."""

import numpy as np
import pytest
from exact import drop_block_rate as exact_rate
from scipy import stats

import fastdrop as fd
from fastdrop import moments

X = np.array([-2.0, 0.5, 3.0])


def by_definition(values, probabilities):
    """Moments of a discrete distribution, values along the first axis."""
    weights = np.array(probabilities).reshape(-1, 1)
    mean = (weights * values).sum(0)
    second, third, fourth = ((weights * (values - mean) ** n).sum(0) for n in (2, 3, 4))
    return mean, second, third / second**1.5, fourth / second**2 - 3


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9, 1e-3])
def test_two_points(p):
    p_realised = round(p * 2**32) / 2**32
    q = 1 - p_realised
    expected = by_definition(np.array([X / q, 0 * X]), [q, p_realised])
    for got, exact in zip(moments.dropout(p, X), expected, strict=True):
        assert np.allclose(got, exact, rtol=1e-12)
    assert np.allclose(moments.dropout(p, X).mean, X, rtol=1e-15)
    limit = -1.7580993408473766
    a = (q * (1 + p_realised * limit**2)) ** -0.5
    b = -a * p_realised * limit
    expected = by_definition(np.array([a * X + b, a * limit + b + 0 * X]), [q, p_realised])
    for got, exact in zip(moments.alpha_dropout(p, X), expected, strict=True):
        assert np.allclose(got, exact, rtol=1e-9)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_zoneout(p):
    p_realised, previous = round(p * 2**32) / 2**32, np.array([1.0, -0.5, 7.0])
    expected = by_definition(np.array([X, previous]), [1 - p_realised, p_realised])
    for got, exact in zip(moments.zoneout(p, X, previous), expected, strict=True):
        assert np.allclose(got, exact, rtol=1e-9)


@pytest.mark.parametrize("inverted", [False, True])
def test_standout(inverted):
    a, h = np.array([-3.0, 0.3, 2.0]), np.array([1.5, -2.0, 0.5])
    found = moments.standout_dropout(a, h, alpha=0.7, beta=-0.2, inverted=inverted)
    for i, q in enumerate(fd.standout_keep_prob(a, alpha=0.7, beta=-0.2)):
        kept = h[i : i + 1] / q if inverted else h[i : i + 1]
        expected = by_definition(np.array([kept, 0 * kept]), [q, 1 - q])
        for got, exact in zip(found, expected, strict=True):
            assert np.allclose(got[i], exact, rtol=1e-7)
    never = moments.standout_dropout(-700.0, 2.0, inverted=inverted)
    assert (never.mean, never.variance) == (0, 0)


def test_alpha_dropout_keeps_a_standard_normals_moments():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    for p in (0.05, 0.3, 0.9):
        m = moments.alpha_dropout(p, nodes)
        mean = weights @ m.mean
        assert mean == pytest.approx(0, abs=1e-12)
        assert weights @ (m.variance + m.mean**2) == pytest.approx(1, abs=1e-12)


def test_normal_ones():
    m = moments.gaussian_dropout(0.2, X)
    assert np.array_equal(m.mean, X)
    assert np.allclose(m.variance, X**2 / 4)
    assert not m.skewness.any()
    assert not m.kurtosis.any()
    assert moments.gaussian_noise(0.5, X).variance.tolist() == [0.25] * 3


@pytest.mark.parametrize("alpha", [1e-6, 0.3, 0.8])
def test_log_normal_ones(alpha):
    exact = stats.lognorm(alpha).stats(moments="mvsk")
    m = moments.information_dropout(alpha, X)
    sign = np.sign(X)
    for got, expected in zip(
        m, (exact[0] * X, exact[1] * X**2, exact[2] * sign, exact[3] + 0 * X), strict=True
    ):
        assert np.allclose(got, expected, rtol=1e-3 if alpha < 0.1 else 1e-12, atol=1e-9)
    assert m.variance == pytest.approx(X**2 * alpha**2, rel=1e-11) or alpha > 0.1
    y = fd.information_dropout(np.full(10**6, -2.0), alpha, fd.Key(42))
    exact = moments.information_dropout(alpha, -2.0)
    assert abs(y.mean() - exact.mean) < 5 * np.sqrt(exact.variance / y.size)
    assert abs(y.var() / exact.variance - 1) < 5 * np.sqrt((exact.kurtosis + 2) / y.size)
    if alpha < 0.5:  # sample moments of heavy tails are of little use
        assert abs(stats.skew(y) - exact.skewness) < 0.02
        assert abs(stats.kurtosis(y) - exact.kurtosis) < 0.1


def test_what_has_no_variance():
    unchanged = moments.gaussian_noise, moments.alpha_dropout, moments.information_dropout
    for m in (moments.dropout(0.0, X), *(function(0.0, X) for function in unchanged)):
        assert np.array_equal(m.mean, X)
        assert not m.variance.any()
        assert np.isnan(m.skewness).all()
        assert np.isnan(m.kurtosis).all()
    for m in (moments.dropout(1.0, X), moments.alpha_dropout(1.0, X)):
        assert not m.mean.any()
        assert not m.variance.any()
    assert np.isnan(moments.dropout(0.5, 0.0).skewness)


@pytest.mark.parametrize(
    ("height", "width", "size", "p"), [(11, 11, 3, 0.1), (9, 14, 4, 0.2), (5, 3, 9, 0.4)]
)
def test_the_rate_of_blocks(height, width, size, p):
    rate = moments.drop_block_rate(height, width, p, size)
    assert rate.shape == (height, width)
    assert rate.mean() == pytest.approx(exact_rate(height, width, size, p), abs=1e-9)
    assert np.allclose(rate, rate[::-1, ::-1])


def test_the_rate_of_blocks_takes_small_integers_and_images_of_nothing():
    rate = moments.drop_block_rate(np.int8(100), np.int8(90), 0.1, np.int8(7))  # whose product is no int8
    assert np.array_equal(rate, moments.drop_block_rate(100, 90, 0.1, 7))
    assert moments.drop_block_rate(0, 3, 0.1).shape == (0, 3)


@pytest.mark.parametrize(
    ("height", "error", "message"),
    [
        (10**400, ValueError, r"height must be in \[0, 9223372036854775808\), got "),
        (-1, ValueError, r"height must be in .*, got -1"),
        (5.5, TypeError, r"height must be an integer, got float 5.5"),
    ],
)
def test_the_rate_of_blocks_refuses(height, error, message):
    with pytest.raises(error, match=message):
        moments.drop_block_rate(height, np.int8(2), 0.1)
    with pytest.raises(error, match=message.replace("height", "width")):
        moments.drop_block_rate(np.int8(2), height, 0.1)


def test_refuses():
    for function in (moments.dropout, moments.gaussian_dropout):
        with pytest.raises(ValueError, match="p must be in"):
            function(1.5)
    with pytest.raises(ValueError, match="p must be below 1"):
        moments.gaussian_dropout(1.0)
