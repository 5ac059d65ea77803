"""Exact moments of each noise, and of what a layer puts out for a given input.

Every function takes the noise's own numbers and an input x, and returns the `Moments` of y given x. With
the default x they are those of the noise itself. Rates are the realised ones, `round(p * 2**32) / 2**32`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.numbers import FULL, flag, rate, reals
from fastdrop._noises.alpha import affine
from fastdrop._noises.drop_block import block_layout
from fastdrop._noises.gaussian import checked_std, std_of
from fastdrop._noises.standout import standout_keep_prob
from fastdrop._stream.keys import natural


class Moments(NamedTuple):
    """Mean, variance, skewness and excess kurtosis, each an array of x's shape.

    Attributes
    ----------
    mean, variance : ndarray of float64
        Of each output.
    skewness, kurtosis : ndarray of float64
        Likewise, NaN where the variance is 0. The kurtosis is the excess over that of a normal.

    Examples
    --------
    >>> from fastdrop import moments
    >>> moments.dropout(0.5)
    Moments(mean=array(1.), variance=array(1.), skewness=array(0.), kurtosis=array(-2.))
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    skewness: NDArray[np.float64]
    kurtosis: NDArray[np.float64]


def dropout(p: float, x: ArrayLike = 1.0) -> Moments:
    """Return the moments of dropout: of `fastdrop.dropout`, `drop_path` and every layer of that kind.

    Parameters
    ----------
    p : float
        Probability to drop, in [0, 1].
    x : array_like, default 1
        Inputs.

    Returns
    -------
    Moments
        Mean x, variance ``x**2 * p / q``, skewness ``sign(x) * (1 - 2q) / sqrt(pq)`` and excess kurtosis
        ``(1 - 6pq) / (pq)``, where q = 1 - p. For p = 1 all is 0, the mean too.

    Raises
    ------
    TypeError, ValueError
        If p is not real or outside [0, 1].

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> from fastdrop import moments
    >>> m = moments.dropout(0.2, [1.0, -2.0])
    >>> m.mean, m.variance.round(9), m.skewness.round(9), m.kurtosis.round(9)
    (array([ 1., -2.]), array([0.25, 1.  ]), array([-1.5,  1.5]), array([0.25, 0.25]))
    """
    x = reals("x", x)
    threshold, scale = rate(p)
    return _two_points(x * (scale if threshold < FULL else 0.0), np.zeros_like(x), threshold / FULL)


def alpha_dropout(p: float, x: ArrayLike) -> Moments:
    """Return the moments of `fastdrop.alpha_dropout` for given inputs.

    Over a standard normal x the mean is 0 and the variance 1; for one x they are not.

    Parameters
    ----------
    p : float
        Probability to drop, in [0, 1].
    x : array_like
        Inputs.

    Raises
    ------
    TypeError, ValueError
        If p is not real or outside [0, 1].

    References
    ----------
    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515.

    Examples
    --------
    >>> from fastdrop import moments
    >>> m = moments.alpha_dropout(0.5, [0.0, 1.0])
    >>> m.mean.round(4), m.variance.round(4)
    (array([0.    , 0.4432]), array([0.6071, 1.4943]))
    """
    x = reals("x", x)
    threshold, _ = rate(p)
    if threshold == FULL:
        return _two_points(np.zeros_like(x), np.zeros_like(x), 1.0)
    scale, shift, dropped = affine(p)
    return _two_points(x * scale + shift, np.full_like(x, dropped), threshold / FULL)


def gaussian_dropout(p: float, x: ArrayLike = 1.0) -> Moments:
    """Return the moments of `fastdrop.gaussian_dropout`: mean x, variance ``x**2 * p / (1 - p)``.

    Parameters
    ----------
    p : float
        Rate, in [0, 1).
    x : array_like, default 1
        Inputs.

    Raises
    ------
    TypeError, ValueError
        If p is not real or outside [0, 1).

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> from fastdrop import moments
    >>> moments.gaussian_dropout(0.5, 3.0)
    Moments(mean=array(3.), variance=array(9.), skewness=array(0.), kurtosis=array(0.))
    """
    x = reals("x", x)
    return _normal(x, np.abs(x) * std_of(p))


def gaussian_noise(std: float, x: ArrayLike = 0.0) -> Moments:
    """Return the moments of `fastdrop.gaussian_noise`: mean x, variance ``std**2``.

    Parameters
    ----------
    std : float
        Standard deviation, finite and not negative.
    x : array_like, default 0
        Inputs.

    Raises
    ------
    TypeError, ValueError
        If std is not real, negative or not finite.

    References
    ----------
    Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7 (1995).

    Examples
    --------
    >>> from fastdrop import moments
    >>> moments.gaussian_noise(0.5)
    Moments(mean=array(0.), variance=array(0.25), skewness=array(0.), kurtosis=array(0.))
    """
    x = reals("x", x)
    return _normal(x, np.full_like(x, checked_std(std)))


def information_dropout(alpha: float, x: ArrayLike = 1.0) -> Moments:
    """Return the moments of `fastdrop.information_dropout`: of x times a log-normal number.

    Parameters
    ----------
    alpha : float
        Standard deviation of the noise's logarithm, finite and not negative.
    x : array_like, default 1
        Inputs.

    Returns
    -------
    Moments
        Where ``w = exp(alpha**2)``: mean ``x * sqrt(w)``, variance ``x**2 * w * (w - 1)``, skewness
        ``sign(x) * (w + 2) * sqrt(w - 1)`` and excess kurtosis ``w**4 + 2 * w**3 + 3 * w**2 - 6``.

    Raises
    ------
    TypeError, ValueError
        If alpha is not real, negative or not finite.

    References
    ----------
    Achille and Soatto, "Information Dropout: Learning Optimal Representations Through Noisy Computation",
    arXiv 1611.01353.

    Examples
    --------
    >>> from fastdrop import moments
    >>> m = moments.information_dropout(0.5, [1.0, -2.0])
    >>> m.mean.round(4), m.variance.round(4), m.skewness.round(4), m.kurtosis.round(4)
    (array([ 1.1331, -2.2663]), array([0.3647, 1.4588]), array([ 1.7502, -1.7502]), array([5.8984, 5.8984]))
    """
    x, number = reals("x", x), np.float64(checked_std(alpha, "alpha"))
    with np.errstate(over="ignore", invalid="ignore"):  # of an alpha whose moments are beyond floats
        square = number**2
        w, more = np.exp(square), np.expm1(square)  # w - 1 keeps its digits where alpha is small
        mean, variance = (
            np.where(x == 0, 0.0, x**n * by) for n, by in ((1, np.exp(square / 2)), (2, w * more))
        )
        some = np.where(variance > 0, more, np.nan)
        kurtosis = some * (w**3 + 3 * w**2 + 6 * w + 6)
        skewness = np.sign(x) * (w + 2) * np.sqrt(some)
    return _arrays(mean, variance, skewness, kurtosis)


def zoneout(p: float, new: ArrayLike, previous: ArrayLike) -> Moments:
    """Return the moments of `fastdrop.zoneout` for a given state and the one before.

    Parameters
    ----------
    p : float
        Probability to keep the previous value, in [0, 1].
    new, previous : array_like
        What the step computed, and the state before it; they broadcast.

    Returns
    -------
    Moments
        Mean ``q * new + p * previous``, which the layer returns in evaluation, variance
        ``p * q * (new - previous)**2``, where q = 1 - p.

    Raises
    ------
    TypeError, ValueError
        If p is not real or outside [0, 1].

    References
    ----------
    Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
    arXiv 1606.01305.

    Examples
    --------
    >>> from fastdrop import moments
    >>> m = moments.zoneout(0.25, [1.0, 4.0], 0.0)
    >>> m.mean, m.variance
    (array([0.75, 3.  ]), array([0.1875, 3.    ]))
    """
    kept, before = np.broadcast_arrays(reals("new", new), reals("previous", previous))
    return _two_points(kept, before, rate(p)[0] / FULL)


def standout_dropout(
    a: ArrayLike,
    h: ArrayLike = 1.0,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    inverted: bool = False,
) -> Moments:
    """Return the moments of `fastdrop.standout_dropout` for given pre-activations and activations.

    Parameters
    ----------
    a : array_like
        Pre-activations.
    h : array_like, default 1
        Activations; a and h broadcast.
    alpha, beta, inverted
        As in `fastdrop.standout_dropout`.

    Returns
    -------
    Moments
        Mean ``h * q``, which the layer returns in evaluation, and variance ``h**2 * q * (1 - q)``, where
        q = sigmoid(alpha * a + beta); if inverted, h and ``h**2 * (1 - q) / q``. Where q rounds to 0 all
        is 0.

    Raises
    ------
    TypeError, ValueError
        If a number isn't real or not finite.

    References
    ----------
    Ba and Frey, "Adaptive Dropout for Training Deep Neural Networks", NeurIPS 2013, section 3.

    Examples
    --------
    >>> from fastdrop import moments
    >>> m = moments.standout_dropout([0.0, 1.0], 2.0)
    >>> m.mean.round(3), m.variance.round(3)
    (array([1.   , 1.462]), array([1.   , 0.786]))
    """
    dropped = np.rint((1 - standout_keep_prob(a, alpha=alpha, beta=beta)) * FULL) / FULL
    dropped, x = np.broadcast_arrays(dropped, reals("h", h))
    if flag("inverted", inverted):
        x = np.divide(x, 1 - dropped, out=np.zeros(x.shape), where=dropped < 1)
    return _two_points(x, np.zeros_like(x), dropped)


def drop_block_rate(
    height: int, width: int, p: float, block_size: int | tuple[int, int] = 7
) -> NDArray[np.float64]:
    """Return the probability that `fastdrop.drop_block` drops each element of an image.

    Parameters
    ----------
    height, width : int
        Of the image.
    p : float
        The nominal rate.
    block_size : int or tuple of two int, default 7
        Side of a block, or its height and width.

    Returns
    -------
    ndarray of float64, shape (height, width)
        ``1 - (1 - gamma)**n``, where n blocks would cover the element. Its mean is the expected rate,
        below p since blocks overlap.

    Raises
    ------
    TypeError, ValueError
        If p is not real or outside [0, 1], or block_size not integers above 0, or height or width not one of
        at least 0.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> from fastdrop import moments
    >>> round(float(moments.drop_block_rate(11, 11, 0.1, 3).mean()), 5)
    0.09494
    """
    height, width = natural("height", height, 1 << 63), natural("width", width, 1 << 63)
    gamma, sides = block_layout((height, width), p, block_size)
    if not height * width:
        return np.zeros((height, width))
    covers = [
        np.convolve(np.ones(max(n - side + 1, 0)), np.ones(side))
        for n, side in zip((height, width), sides, strict=True)
    ]
    return 1 - (1 - rate(gamma)[0] / FULL) ** np.multiply.outer(*covers)


def _two_points(kept: NDArray[Any], dropped: NDArray[Any], p: float | NDArray[Any]) -> Moments:
    """Return the moments of an element that is `dropped` with probability p, and `kept` otherwise."""
    q, step = 1 - p, kept - dropped
    variance = step**2 * p * q
    both = np.where(variance > 0, p * q, np.nan)
    return _arrays(
        p * dropped + q * kept, variance, np.sign(step) * (1 - 2 * q) / np.sqrt(both), 1 / both - 6
    )


def _normal(mean: NDArray[Any], std: NDArray[Any]) -> Moments:
    nothing = np.where(std > 0, 0.0, np.nan)
    return _arrays(mean, std**2, nothing, nothing)


def _arrays(*values: Any) -> Moments:
    return Moments(*(np.array(value) for value in values))  # NumPy makes scalars of 0-d results
