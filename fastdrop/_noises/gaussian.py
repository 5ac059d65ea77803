"""Gaussian noise, multiplied and added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastdrop._arrays import host
from fastdrop._arrays.hints import checked_dtype, checked_shape
from fastdrop._arrays.numbers import Rate, rate, real, reals_below
from fastdrop._arrays.plan import Axes, Density, Indices, Window, window_given
from fastdrop._backends import density, of
from fastdrop._noises._layer import ElementwiseLayer, Forward
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.bernoulli import Dropout, dropout
from fastdrop._stream.keys import Key, Rng
from fastdrop.schedules import ScheduledRate

_ALONE = Density("normal", "alone", (1.0,))
_TOO_MUCH = 2.0**53  # the variance v from which on v / (1 + v) rounds to 1


def gaussian_dropout(
    x: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return x times noise of mean 1 and variance p / (1 - p), the mean and variance of dropout's.

    Parameters
    ----------
    x : array_like, any shape
        Of a dtype that `dropout` takes. Real and imaginary parts share their noise.
    p : float or ndarray
        The rate of the dropout that has this variance, in [0, 1). An array must broadcast to the
        noise's shape: x's, with length 1 along the shared axes.
    key, shared_axes, out, window, rows, indices, offsets
        As in `dropout`.

    Returns
    -------
    ndarray
        ``x * (1 + sqrt(p / (1 - p)) * z)`` with the z of `normal`.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if p is 1, where the variance is infinite.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.gaussian_dropout(np.ones(4, np.float32), 0.5, fd.Key(42)).round(3)
    array([ 1.975,  1.617, -0.197,  1.562], dtype=float32)
    """
    window = window_given(window, rows, indices, offsets)
    return noised("multiply", x, std_of(p), key, shared_axes, out, window)


def gaussian_dropout_backward(
    g: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the gradient of `gaussian_dropout` with respect to its input: the same function of g.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    p, key, shared_axes, out, window, rows, indices, offsets
        As given to `gaussian_dropout`; `out` may be g.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> g = np.ones(1000)
    >>> dx = fd.gaussian_dropout_backward(g, 0.5, fd.Key(42))
    >>> np.array_equal(dx, fd.gaussian_dropout(g, 0.5, fd.Key(42)))
    True
    """
    window = window_given(window, rows, indices, offsets)
    return gaussian_dropout(g, p, key, shared_axes=shared_axes, out=out, window=window)


def gaussian_noise(
    x: ArrayLike,
    std: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return x plus normal noise of mean 0.

    Parameters
    ----------
    x : array_like, any shape
        Of a dtype that `dropout` takes. A complex x gets independent noise in its real and imaginary
        parts, each of variance ``std**2 / 2``.
    std : float or ndarray
        Standard deviation, finite and not negative. An array must broadcast to the noise's shape: x's,
        with length 1 along the shared axes.
    key, shared_axes, out, window, rows, indices, offsets
        As in `dropout`.

    Returns
    -------
    ndarray
        ``x + std * z`` with the z of `normal`.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if std is negative or not finite.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7 (1995).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.gaussian_noise(np.zeros(4), 0.1, fd.Key(42)).round(3)
    array([ 0.098,  0.062, -0.12 ,  0.056])
    """
    window = window_given(window, rows, indices, offsets)
    return noised("shift", x, checked_std(std), key, shared_axes, out, window)


def gaussian_noise_backward(
    g: ArrayLike,
    std: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the gradient of `gaussian_noise` with respect to its input: g itself, or out with g in it.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    std, key, shared_axes, window, rows, indices, offsets
        As given to `gaussian_noise`; nothing depends on them.
    out : ndarray, optional
        Where to write; may be g.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.gaussian_noise_backward(np.ones(3), 0.1, fd.Key(42))
    array([1., 1., 1.])
    """
    window = window_given(window, rows, indices, offsets)
    arrays = of(g)
    given = arrays.to_array(g)
    if out is None:
        return arrays.given(given)  # type: ignore[no-any-return]
    if arrays is not host:
        return dropout(g, 0.0, key, out=out)  # a copy
    np.copyto(host.target(out, given), given)
    return out


def normal(
    shape: SupportsIndex | Sequence[SupportsIndex],
    key: Key | SupportsIndex,
    *,
    dtype: DTypeLike = np.float64,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the standard normals that Gaussian noise is made of.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array to which the noise belongs.
    key, shared_axes, window, rows, indices, offsets
        As in `dropout`.
    dtype : dtype, default float64
        Of a kind that `dropout` takes. The numbers are the same in every precision, but for its rounding
        and the further digits that float64 has: they change a radius by about 1e-5 near 0, by at most
        1e-7 around four and 6e-6 around five, and by more beyond.

    Returns
    -------
    ndarray
        By Box and Muller's method: 32 digits of radius and angle each for float32 and less, which reach
        6.76 standard deviations, and 64 for float64, which reach 9.49. The manual's page on the stream
        says which.

    References
    ----------
    Box and Muller, "A Note on the Generation of Random Normal Deviates", Annals of Mathematical
    Statistics 29 (1958).

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.normal(4, fd.Key(42)).round(3)
    array([ 0.975,  0.617, -1.197,  0.562])
    """
    window = window_given(window, rows, indices, offsets)
    lengths, kind = checked_shape(shape), checked_dtype(dtype)
    if kind.kind not in "fc" and kind.name != "bfloat16":
        raise TypeError(f"dtype must be one of floats, got {kind}; use np.float32")
    if window is None and type(shared_axes) is tuple and not shared_axes and kind.name in REAL:
        y = np.empty(lengths, kind)
        return density(_ALONE, y, y, key)  # type: ignore[no-any-return]
    zeros = np.zeros(lengths, kind)
    return gaussian_noise(zeros, 1.0, key, shared_axes=shared_axes, out=zeros, window=window)


def std_of(p: Rate) -> Rate:
    """Return the standard deviation of Gaussian dropout at a rate, or raise an error."""
    if type(p) is float:  # the usual case first
        return _std_of(p)
    if not isinstance(p, np.ndarray):
        rate(p)
        return _std_of(float(p))
    wide = reals_below("p", p, 1)
    return np.sqrt(wide / (1 - wide))


@lru_cache(maxsize=1024)
def _std_of(p: float) -> float:
    return math.sqrt(variance_of(p))


def variance_of(p: float) -> float:
    """Return the variance of Gaussian dropout at a rate, or raise an error."""
    rate(p)
    if p >= 1:
        raise ValueError(f"p must be below 1 for Gaussian dropout, got {p}; its variance is p / (1 - p)")
    return p / (1 - p)


def checked_std(std: Rate, name: str = "std") -> Rate:
    """Return a standard deviation, or an array of them, in float64, or raise an error."""
    if isinstance(std, np.ndarray):
        return reals_below(name, std, math.inf)
    number = std if type(std) is float else real(name, std)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {number}")
    return number


def one_std(std: float, name: str = "std") -> float:
    """Return a standard deviation as a float where no array of them is taken, or raise an error."""
    if isinstance(std, np.ndarray) and std.ndim:
        real(name, std)
    return float(checked_std(std, name))


def noised(
    formula: str,
    x: ArrayLike,
    std: Rate,
    key: Key | SupportsIndex,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """X times 1 + std * z if the formula is "multiply", x + std * z if it is "shift"."""
    if type(std) is np.ndarray and not std.ndim:
        std = float(std)
    what = tuple.__new__(Density, ("normal", formula, (std,), "std"))  # Density(...) would take twice as long
    return density(what, x, out, key, shared_axes, window)  # type: ignore[no-any-return]


def rate_given(p: ScheduledRate | None, std: float | None, alpha: float | None) -> ScheduledRate:
    """Return the rate of Gaussian dropout that a user gives by one of three arguments, or raise an error."""
    given = [name for name, value in (("p", p), ("std", std), ("alpha", alpha)) if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of p, std and alpha, got {' and '.join(given)}")
    if std is not None:
        return rate_of_std(std)
    if alpha is not None:
        return rate_of_alpha(alpha)
    return 0.5 if p is None else p


def _rate_of(name: str, number: float, variance: float) -> float:
    """Return the rate of the dropout that has a variance, or raise an error that names what the user gave."""
    if variance >= _TOO_MUCH:
        end = _TOO_MUCH if variance == number else math.sqrt(_TOO_MUCH)
        raise ValueError(f"{name} must be below {end:.4g}, from where on p rounds to 1, got {number}")
    return variance / (1 + variance)


def rate_of_std(std: float) -> float:
    """Return the rate of Gaussian dropout of a standard deviation, or raise an error."""
    number = one_std(std)
    return _rate_of("std", number, number * number)  # which is infinite where number**2 would raise


def rate_of_alpha(alpha: float) -> float:
    """Return the rate of Gaussian dropout of a variance, or raise an error."""
    number = one_std(alpha, "alpha")
    return _rate_of("alpha", number, number)


class GaussianDropout(Dropout):
    """Gaussian dropout: in training x is multiplied with normal noise of mean 1.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.5
        The rate, or a schedule of it, of the dropout that has the noise's variance p / (1 - p), in [0, 1).
    std : float, optional
        The noise's standard deviation, instead of p.
    alpha : float, optional
        The noise's variance, instead of p.
    shared_axes, rng
        As in `Dropout`.

    Attributes
    ----------
    p, std, alpha : float
        Each may be set between calls, and changes the others.

    Raises
    ------
    TypeError, ValueError
        If p, std or alpha is not real, or outside its range, or more than one is given.

    See Also
    --------
    VariationalDropout : learns alpha.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.GaussianDropout(0.2, rng=42)
    >>> layer.alpha, layer.std
    (0.25, 0.5)
    >>> y = layer(np.ones(100_000))
    >>> round(float(y.mean()), 2), round(float(y.std()), 2)
    (1.0, 0.5)
    >>> np.array_equal(layer.backward(np.ones(100_000)), y)
    True
    """

    _function = "gaussian_dropout(x, p, key)"
    _gradient = "gaussian_dropout_backward(g, p, layer.key)"

    def __init__(
        self,
        p: ScheduledRate | None = None,
        *,
        std: float | None = None,
        alpha: float | None = None,
        shared_axes: Axes = (),
        rng: Rng = None,
    ) -> None:
        super().__init__(rate_given(p, std, alpha), shared_axes=shared_axes, rng=rng)

    def _checked(self, value: float) -> float:
        if isinstance(value, np.ndarray) and value.ndim:
            rate(value)  # refuses it
        std_of(value)
        return float(value)

    @property
    def alpha(self) -> float:
        """Variance of the noise."""
        return variance_of(self.p)

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._assign(rate_of_alpha(alpha))

    @property
    def std(self) -> float:
        """Standard deviation of the noise."""
        return math.sqrt(self.alpha)

    @std.setter
    def std(self, std: float) -> None:
        self._assign(rate_of_std(std))

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, p, _, window, _ = forward
        return gaussian_dropout(x, p, key, shared_axes=self._axes(x), out=out, window=window)


class GaussianNoise(ElementwiseLayer):
    """Additive normal noise in training.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    std : float or callable, default 0.1
        Standard deviation, finite and not negative, or a function of the step.
    shared_axes, rng
        As in `Dropout`.

    References
    ----------
    Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7 (1995).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.GaussianNoise(0.1, rng=42)
    >>> y = layer(np.ones(100_000))
    >>> round(float(y.mean()), 2), round(float(y.std()), 2)
    (1.0, 0.1)
    >>> layer.backward(np.ones(100_000)).max()  # the gradient passes as it is
    np.float64(1.0)
    """

    _parameter = "std"
    _function = "gaussian_noise(x, std, key)"
    _gradient = "gaussian_noise_backward(g, std, layer.key)"

    def __init__(self, std: ScheduledRate = 0.1, *, shared_axes: Axes = (), rng: Rng = None) -> None:
        super().__init__(std, rng, shared_axes)

    def _checked(self, value: float) -> float:
        return one_std(value)

    @property
    def std(self) -> float:
        """Standard deviation of the noise."""
        return float(self._value)

    @std.setter
    def std(self, std: ScheduledRate) -> None:
        self._assign(std)

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, std, _, window, _ = forward
        return gaussian_noise(x, std, key, shared_axes=self._axes(x), out=out, window=window)

    def _drop_backward(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        return gaussian_noise_backward(g, forward.value, forward.key, out=out)


register(
    Noise(
        "gaussian_dropout",
        gaussian_dropout,
        gaussian_dropout_backward,
        kind="density",
        by_element=True,
        self_adjoint=True,
        layers=(GaussianDropout,),
    )
)
register(
    Noise(
        "gaussian_noise",
        gaussian_noise,
        gaussian_noise_backward,
        kind="density",
        rate="std",
        by_element=True,
        layers=(GaussianNoise,),
        beside=(normal,),
    )
)
