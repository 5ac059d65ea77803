"""Variational dropout: Gaussian noise whose variance is learned."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import to_array, unmasked, without_warnings
from fastdrop._arrays.numbers import holds_reals, real, reals
from fastdrop._arrays.plan import Density, Indices, Window, window_given
from fastdrop._backends import gradient_of_number, on_gpu
from fastdrop._noises._layer import Forward, LearnedAlpha
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.gaussian import (
    gaussian_dropout,
    gaussian_dropout_backward,
    gaussian_noise,
    noised,
    normal,
)
from fastdrop._stream.keys import Key


@without_warnings
def local_reparameterization(
    mean: ArrayLike,
    variance: ArrayLike,
    key: Key | SupportsIndex,
    *,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return normals of given means and variances: what a layer with Gaussian weights puts out.

    For inputs A and weights of means theta and variances ``alpha * theta**2`` these are ``A @ theta`` and
    ``A**2 @ (alpha * theta**2)``: one draw for each output instead of each weight and example.

    Parameters
    ----------
    mean : array_like
        Of a dtype that `dropout` takes, but complex.
    variance : array_like of real numbers >= 0
        Broadcastable to the means.
    key, window, rows, indices, offsets
        As in `dropout`; the variance belongs to the block.

    Returns
    -------
    ndarray
        ``mean + sqrt(variance) * normal(mean.shape, key)``, of the means' dtype.

    Raises
    ------
    TypeError, ValueError
        If the means are complex or of a dtype that `dropout` doesn't take, or a variance is negative.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Kingma, Salimans, Welling, "Variational Dropout and the Local Reparameterization Trick",
    arXiv 1506.02557, section 2.2.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> mean, variance = np.zeros(3), np.array([0.0, 1.0, 4.0])
    >>> y = fd.local_reparameterization(mean, variance, fd.Key(42))
    >>> np.array_equal(y, np.sqrt(variance) * fd.normal(3, fd.Key(42)))
    True
    """
    window = window_given(window, rows, indices, offsets)
    std = np.sqrt(_checked_variance(variance))
    m = to_array(mean)
    if m.dtype.kind == "c":
        raise TypeError(f"means must be real, got {m.dtype}; use the real and imaginary parts")
    return gaussian_noise(m, np.broadcast_to(std, m.shape), key, window=window)


@without_warnings
def local_reparameterization_backward(
    g: ArrayLike,
    variance: ArrayLike,
    key: Key | SupportsIndex,
    *,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the gradients of `local_reparameterization` with respect to means and variances.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    variance, key, window, rows, indices, offsets
        As given to `local_reparameterization`, but every variance above 0, where it has a gradient.

    Returns
    -------
    dmean : ndarray
        g itself.
    dvariance : ndarray
        ``g * z / (2 * sqrt(variance))``, of g's shape; sum it where the variance was broadcast.

    Raises
    ------
    TypeError
        As `local_reparameterization`.
    ValueError
        As `local_reparameterization`, or if a variance is 0, as where all weights start at 0: the slope of
        its square root is infinite there. A variance with a small number added to it in both directions has
        a gradient.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> dmean, dvariance = fd.local_reparameterization_backward(np.ones(3), np.full(3, 4.0), fd.Key(42))
    >>> np.allclose(dvariance, fd.normal(3, fd.Key(42)) / 4)
    True
    """
    window = window_given(window, rows, indices, offsets)
    g = to_array(g)
    v = _checked_variance(variance, with_gradient=g.size > 0)
    if not g.size:
        v += 1  # any factors will do for no elements, and that of 0 would warn
    factors = np.divide(0.5, np.sqrt(v, out=v), out=v)
    slope = normal(g.shape, key, dtype=g.dtype, window=window)
    slope *= g
    return g, np.multiply(slope, factors, out=slope, casting="unsafe")  # in float64, and rounded once


def variational_kl(log_alpha: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Kullback-Leibler divergence of variational dropout for one weight, and its slope.

    It draws the noise's variance alpha upwards; a network's loss adds it for each weight, divided by
    the number of training examples if the loss is a mean over them.

    Parameters
    ----------
    log_alpha : array_like of float
        Logarithm of alpha.

    Returns
    -------
    kl : ndarray of float64
        From the posterior of a weight to the log-uniform prior, but for a constant that makes it 0 where
        alpha is infinite. Approximate: within .01 for every alpha.
    slope : ndarray of float64
        Its derivative with respect to log_alpha.

    References
    ----------
    Molchanov, Ashukha, Vetrov, "Variational Dropout Sparsifies Deep Neural Networks", arXiv 1701.05369,
    equation 14. It holds for every alpha; that of Kingma et al., arXiv 1506.02557, for alpha up to 1.

    Examples
    --------
    >>> import fastdrop as fd
    >>> kl, slope = fd.variational_kl([-2.0, 0.0, 8.0])
    >>> kl.round(3), slope.round(3)
    (array([1.541, 0.431, 0.   ]), array([-0.617, -0.359, -0.   ]))
    """
    a = reals("log_alpha", log_alpha)
    level, rise, height = 1.8732, 1.48695, 0.63576
    s = _sigmoid(level + rise * a)
    kl = height * (1 - s) + 0.5 * np.logaddexp(0, -a)
    return kl, -height * rise * s * (1 - s) - 0.5 * _sigmoid(-a)


def _sigmoid(v: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 + 0.5 * np.tanh(0.5 * v)


def _checked_variance(variance: ArrayLike, with_gradient: bool = False) -> NDArray[np.float64]:
    v = unmasked(variance)
    if not holds_reals(v.dtype):
        raise TypeError(f"variance must be real, got {v.dtype}; use its real part")
    if v.dtype.itemsize > 8:  # below float64's numbers it would be 0
        v = v.astype(np.float64)
    fine = (v > 0 if with_gradient else v >= 0) & (v < np.inf)
    if np.count_nonzero(fine) < v.size:  # in a third of the time of fine.all()
        wrong = v[~fine]
        if not wrong.any():
            raise ValueError(
                "variance must be above 0, where it has a gradient, got 0; use variance + 1e-8, forward too"
            )
        raise ValueError(f"variance must be finite and >= 0, got {wrong[wrong != 0].flat[0]}")
    return v.astype(np.float64)


class VariationalDropout(LearnedAlpha):
    """Gaussian dropout whose variance alpha is learned, one for all or one for each feature.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    The layer keeps references to its inputs until their backward, as the gradient of alpha needs them:
    don't change them in place before that.

    Parameters
    ----------
    alpha : float or array_like, default 1.0
        The noise's variance at first, above 0 and finite. An array must broadcast to x, for example one
        number for each feature; it has length 1 along the shared axes.
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
    Kingma, Salimans, Welling, "Variational Dropout and the Local Reparameterization Trick",
    arXiv 1506.02557, section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.VariationalDropout(0.25, rng=42)
    >>> x = np.ones(1000)
    >>> y = layer(x)
    >>> dx = layer.backward(y)  # of the loss sum(y**2) / 2
    >>> divergence = layer.regularizer()
    >>> layer.log_alpha -= 0.01 * layer.log_alpha_grad
    >>> layer.zero_grad()
    """

    _function = "gaussian_dropout(x, alpha / (1 + alpha), key)"
    _gradient = "gaussian_dropout_backward(g, alpha / (1 + alpha), layer.key)"

    def regularizer(self, scale: float = 1.0) -> float:
        """Return scale times the divergence of `variational_kl`, and add its gradient.

        Parameters
        ----------
        scale : float, default 1.0
            The number of weights that each alpha stands for, divided by the number of training examples
            if the loss is a mean over them.
        """
        (kl, slope), scale = variational_kl(self._value), real("scale", scale)
        self._add(scale * slope)
        return scale * float(kl.sum())

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, log_alpha, _, window, _ = forward
        # One number is a float: NumPy and the kernels take longer with an array without axes.
        std = np.exp(0.5 * log_alpha) if log_alpha.ndim else float(np.exp(0.5 * float(log_alpha)))
        return noised("multiply", x, std, key, self.shared_axes, out, window)

    @without_warnings
    def _drop_backward(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        self._check_apart(out, forward.kept)
        if on_gpu(g, forward.kept):
            return self._backward_on_gpu(g, forward, out)
        g = to_array(g)
        before = g if out is None or not np.may_share_memory(out, g) else g.copy()
        dx = self._drop(g, forward, out)
        each = (forward.kept.conj() * (dx - before)).real.astype(np.float64) / 2
        self._add(summed_to(each, self._value.shape))
        return dx

    def _backward_on_gpu(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        """Do as `_drop_backward`: the sums there are those of ``conj(x) * g`` times the noise's terms."""
        key, log_alpha, _, window, x = forward
        what = Density("normal", "shift", (0.5 * np.exp(0.5 * log_alpha),))
        self._add(gradient_of_number(what, g, x, key, self.shared_axes, window))
        return self._drop(g, forward, out)


def summed_to(a: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the sums of a over the axes along which an array of a shape is broadcast to a's shape."""
    lead = a.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1)
    summed: NDArray[Any] = a.sum(axes).reshape(shape)
    return summed


register(
    Noise(
        "local_reparameterization",
        local_reparameterization,
        local_reparameterization_backward,
        kind="density",
        dtypes=REAL,
        like=("variance",),
        rate="",
        lacks={
            "layer": "the means and variances come from weights that a network has of its own",
            "CUDA": "the roots of the variances are taken on the host",
            "torch module": "the means and variances come from weights that a network has of its own",
            "moments": "its arguments are the mean and the variance of a normal",
        },
    )
)
register(
    Noise(
        "variational_dropout",
        gaussian_dropout,
        gaussian_dropout_backward,
        kind="density",
        by_element=True,
        self_adjoint=True,
        layers=(VariationalDropout,),
        beside=(variational_kl,),
        moments="gaussian_dropout",
        lacks={
            "torch module": "its learned variance needs a gradient that the function there doesn't have",
        },
    )
)
