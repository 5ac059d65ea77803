"""Information dropout: noise whose logarithm is normal, and the information that it lets through."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.numbers import Rate, positive, real, reals
from fastdrop._arrays.plan import Axes, Density, Indices, Window, window_given
from fastdrop._backends import combined, density, learned_number, on_gpu
from fastdrop._noises._layer import Forward, LearnedAlpha
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.concrete import slope_of_number
from fastdrop._noises.gaussian import checked_std
from fastdrop._noises.variational import summed_to
from fastdrop._stream.keys import Key, Rng

_NAME = "information dropout"  # for errors


def information_dropout(
    x: ArrayLike,
    alpha: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return x times noise whose logarithm is normal, with mean 0 and standard deviation alpha.

    Parameters
    ----------
    x : array_like, any shape
        Of a real dtype that `dropout` takes.
    alpha : float or ndarray
        Finite and not negative. An array must broadcast to the noise's shape: x's, with length 1 along the
        shared axes. If x is on a GPU it may be an array there. Nothing then waits for its values, so that
        they aren't checked.
    key, shared_axes, out, window, rows, indices, offsets
        As in `dropout`.

    Returns
    -------
    ndarray
        ``x * exp(alpha * z)`` with the z of `normal`. Its median is x, its mean ``x * exp(alpha**2 / 2)``.
        The noise takes exponents beyond 87 for 87, in float64 beyond 708, and is finite for all.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if x is complex, or alpha negative or not finite.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Achille and Soatto, "Information Dropout: Learning Optimal Representations Through Noisy Computation",
    arXiv 1611.01353.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.information_dropout(np.ones(4), 0.5, fd.Key(42)).round(3)
    array([1.629, 1.361, 0.55 , 1.324])
    """
    window = window_given(window, rows, indices, offsets)
    what = Density("normal", "exponential", (_checked(alpha),), "alpha")
    return density(what, x, out, key, shared_axes, window, _NAME)  # type: ignore[no-any-return]


def information_dropout_backward(
    g: ArrayLike,
    x: ArrayLike,
    alpha: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> tuple[NDArray[Any], Rate]:
    """Return the gradients of `information_dropout` with respect to x and to alpha.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output, of x's shape and dtype.
    x, alpha, key, shared_axes, window, rows, indices, offsets
        As given to `information_dropout`.
    out : ndarray, optional
        Where to write the gradient of x; may be g, but not overlap x.

    Returns
    -------
    dx : ndarray
        ``g * exp(alpha * z)``.
    dalpha : float, or ndarray of float64 of alpha's shape
        The sums of ``g * y * z`` over the elements of each alpha, added up in float64. Of arrays on a GPU it
        is an array there of alpha's shape, 0-D for a float, and of x's library: of float64 if x is, else
        rounded to float32. Nothing waits for it, and it has the same bits for each call.

    Raises
    ------
    TypeError, ValueError
        As `information_dropout`, or if g and x differ in shape or dtype.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> dx, dalpha = fd.information_dropout_backward(np.ones(4), np.ones(4), 0.5, fd.Key(42))
    >>> dx.round(3), round(dalpha, 3)
    (array([1.629, 1.361, 0.55 , 1.324]), 2.515)
    """
    window = window_given(window, rows, indices, offsets)
    what = Density("normal", "exponential_slope", (_checked(alpha),), "alpha")
    slope = slope_of_number(what, _NAME, g, x, key, shared_axes, window)
    dx = information_dropout(g, alpha, key, shared_axes=shared_axes, out=out, window=window)
    return dx, slope


def _checked(alpha: Any) -> Any:
    """Return alpha as densities take it, or raise an error; one that is on a GPU isn't looked at."""
    on_the_gpu = learned_number("alpha", alpha)
    return checked_std(alpha, "alpha") if on_the_gpu is None else on_the_gpu


def information_kl(
    log_alpha: ArrayLike,
    mean: ArrayLike | None = None,
    *,
    prior_mean: float = 0.0,
    prior_std: float = 1.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Kullback-Leibler divergence of information dropout for one element, and its slope.

    It draws alpha upwards: a network's loss adds it for each element, times a number that says how little
    the activations shall tell about the inputs.

    Parameters
    ----------
    log_alpha : array_like of float
        Logarithm of alpha.
    mean : array_like of float, optional
        ``log(x)``, the mean of the output's logarithm, which broadcasts with log_alpha. Without it the prior
        is log-uniform, as the authors have it for ReLU, whose outputs are 0 too; with it log-normal, as they
        have it for softplus, whose outputs are above 0.
    prior_mean, prior_std : float
        Mean and standard deviation, above 0, of the log-normal prior's logarithm.

    Returns
    -------
    kl : ndarray of float64
        From the distribution of an output above 0, given its input, to the prior: ``-log_alpha`` but for a
        constant, or
        ``((alpha**2 + (mean - prior_mean)**2) / prior_std**2 - 1) / 2 - log(alpha / prior_std)``.
    slope : ndarray of float64
        Its derivative with respect to log_alpha. That with respect to the mean is
        ``(mean - prior_mean) / prior_std**2``.

    Raises
    ------
    TypeError, ValueError
        If a number is not real, or the prior's standard deviation is not above 0 and finite.

    References
    ----------
    Achille and Soatto, "Information Dropout: Learning Optimal Representations Through Noisy Computation",
    arXiv 1611.01353.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.information_kl([-2.0, 1.0])
    (array([ 2., -1.]), array([-1., -1.]))
    >>> kl, slope = fd.information_kl([-2.0, 0.0], 1.0)
    >>> kl.round(3), slope.round(3)
    (array([2.009, 0.5  ]), array([-0.982,  0.   ]))
    """
    a = reals("log_alpha", log_alpha)
    if mean is None:
        return -a, np.full_like(a, -1.0)
    std, apart = positive("prior_std", prior_std), reals("mean", mean) - real("prior_mean", prior_mean)
    relative = a - np.log(std)
    squares = np.exp(2 * relative)
    kl = np.asarray((squares + (apart / std) ** 2 - 1) / 2 - relative)
    return kl, np.broadcast_to(squares - 1, kl.shape).copy()


class InformationDropout(LearnedAlpha):
    """Information dropout whose alpha is learned, one for all or one for each feature.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    The loss must have the layer's `regularizer`, which alone draws alpha upwards. The layer keeps references
    to its inputs until their backward, as the gradient of alpha needs them: don't change them in place
    before that. Where alpha depends on the input, as the authors have it, use `information_dropout`.

    Parameters
    ----------
    alpha : float or array_like, default 0.5
        The standard deviation of the noise's logarithm at first, above 0 and finite. An array must broadcast
        to x, for example one number for each feature; it has length 1 along the shared axes.
    shared_axes, rng
        As in `Dropout`.

    Attributes
    ----------
    log_alpha : ndarray of float64
        What is learned; update it in place or set it.
    log_alpha_grad : ndarray of float64
        Its gradient, which `backward` and `regularizer` add to, and `zero_grad` clears. After a backward of
        arrays on a GPU it is an array there, of the library of x, and only who reads it waits for the GPU.

    Raises
    ------
    TypeError, ValueError
        If alpha is not real, not above 0 or not finite; also where log_alpha is set to what isn't the
        logarithm of such a number.

    References
    ----------
    Achille and Soatto, "Information Dropout: Learning Optimal Representations Through Noisy Computation",
    arXiv 1611.01353.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.InformationDropout(0.5, rng=42)
    >>> x = np.ones(1000)
    >>> y = layer(x)
    >>> dx = layer.backward(y)  # of the loss sum(y**2) / 2
    >>> divergence = layer.regularizer(x.size)
    >>> layer.log_alpha -= 0.0001 * layer.log_alpha_grad
    >>> layer.zero_grad()
    """

    _function = "information_dropout(x, alpha, key)"
    _gradient = "information_dropout_backward(g, x, alpha, layer.key)"

    def __init__(self, alpha: ArrayLike = 0.5, *, shared_axes: Axes = (), rng: Rng = None) -> None:
        super().__init__(alpha, shared_axes=shared_axes, rng=rng)

    def regularizer(
        self,
        scale: float = 1.0,
        mean: ArrayLike | None = None,
        *,
        prior_mean: float = 0.0,
        prior_std: float = 1.0,
    ) -> float:
        """Return scale times the sum of the divergences of `information_kl`, and add its gradient.

        Parameters
        ----------
        scale : float, default 1.0
            The weight of the divergence in the loss, times the number of elements that each of them is for.
        mean, prior_mean, prior_std
            As in `information_kl`, for a log-normal prior. The mean has its own gradient, which isn't added.
        """
        kl, slope = information_kl(self._value, mean, prior_mean=prior_mean, prior_std=prior_std)
        scale = real("scale", scale)
        self._add(scale * summed_to(slope, self._value.shape))
        return scale * float(kl.sum())

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, log_alpha, _, window, _ = forward
        alpha = np.exp(log_alpha)
        return information_dropout(x, alpha, key, shared_axes=self.shared_axes, out=out, window=window)

    def _drop_backward(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, log_alpha, _, window, x = forward
        self._check_apart(out, x)
        alpha, axes = np.exp(log_alpha), self.shared_axes
        dx, slope = information_dropout_backward(g, x, alpha, key, shared_axes=axes, out=out, window=window)
        self._add(combined(slope, np.asarray(alpha), "times") if on_gpu(slope) else alpha * slope)
        return dx


register(
    Noise(
        "information_dropout",
        information_dropout,
        information_dropout_backward,
        kind="density",
        dtypes=REAL,
        rate="alpha",
        by_element=True,
        layers=(InformationDropout,),
        beside=(information_kl,),
    )
)
