"""Concrete dropout: a relaxed mask, whose rate is learned by its gradient."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.hints import refuse_schedule
from fastdrop._arrays.host import real_array, without_warnings
from fastdrop._arrays.numbers import Rate, rate, real
from fastdrop._arrays.plan import Axes, Density, Indices, Window, window_given
from fastdrop._backends import density, gradient_of_number, learned_number, on_gpu
from fastdrop._noises._layer import Forward, LearnedLayer
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.variational import summed_to
from fastdrop._stream.keys import Key, Rng

_MOST = 80.0  # the noise takes larger logits as this one, for which float32 still holds 1 / (1 - p)
_LEAST_TEMPERATURE = 1e-6


def concrete_dropout(
    x: ArrayLike,
    logit: Rate,
    key: Key | SupportsIndex,
    *,
    temperature: float = 0.1,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return x times a relaxed dropout mask, which has a gradient with respect to its rate.

    Parameters
    ----------
    x : array_like, any shape
        Of a real dtype that `dropout` takes.
    logit : float, or 0-D ndarray
        ``log(p / (1 - p))`` of the rate p: a finite number for every rate, and what is learned. If x is on a
        GPU it may be a 0-D array there. Nothing then waits for its value, so that it isn't checked; if it
        isn't finite, the result is NaN.
    key : Key or int
        As in `dropout`. The noise is logistic, from words of its own.
    temperature : float, default 0.1
        How far the mask is from 0 and 1, at least 1e-6. The authors take 0.1 for dense layers and 2/3 for
        spatial dropout.
    shared_axes, out, window, rows, indices, offsets
        As in `dropout`.

    Returns
    -------
    ndarray
        ``x * (1 - z) / (1 - p)``, where ``z = sigmoid((logit + log(u / (1 - u))) / temperature)`` is how far
        an element is dropped and u is uniform in (0, 1). z is above 1/2 with probability p exactly; the
        mean is x only about: within 1 % at temperature 0.1 for p from 0.1 to 0.8.
        The noise takes logits beyond 80 for 80, and is finite for all.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if the logit isn't a finite real number or the temperature is out of range.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Gal, Hron, Kendall, "Concrete Dropout", arXiv 1705.07832, section 3.1.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.concrete_dropout(np.ones(6), 0.0, fd.Key(42)).round(3)
    array([0.013, 0.   , 0.   , 0.   , 1.949, 1.851])
    """
    window = window_given(window, rows, indices, offsets)
    what = Density("logistic", "concrete", _numbers(logit, temperature))
    return density(what, x, out, key, shared_axes, window, "concrete dropout")  # type: ignore[no-any-return]


def concrete_dropout_backward(
    g: ArrayLike,
    x: ArrayLike,
    logit: Rate,
    key: Key | SupportsIndex,
    *,
    temperature: float = 0.1,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> tuple[NDArray[Any], float]:
    """Return the gradients of `concrete_dropout` with respect to x and to the logit.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output, of x's shape and dtype.
    x, logit, key, temperature, shared_axes, window, rows, indices, offsets
        As given to `concrete_dropout`.
    out : ndarray, optional
        Where to write the gradient of x; may be g, but not overlap x.

    Returns
    -------
    dx : ndarray
        ``g * (1 - z) / (1 - p)``.
    dlogit : float
        The sum of ``g * y * (p - z / temperature)``, added up in float64. Of arrays on a GPU it is a 0-D
        array there, of x's library: of float64 if x is, else rounded to float32. Nothing waits for it, and it
        has the same bits for each call.

    Raises
    ------
    TypeError, ValueError
        As `concrete_dropout`, or if g and x differ in shape or dtype.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> dx, dlogit = fd.concrete_dropout_backward(np.ones(6), np.ones(6), 0.0, fd.Key(42))
    >>> dx.round(3), round(dlogit, 3)
    (array([0.013, 0.   , 0.   , 0.   , 1.949, 1.851]), -0.096)
    """
    window = window_given(window, rows, indices, offsets)
    what = Density("logistic", "concrete_slope", _numbers(logit, temperature), "logit")
    slope = slope_of_number(what, "concrete dropout", g, x, key, shared_axes, window)
    dx = concrete_dropout(
        g, logit, key, temperature=temperature, shared_axes=shared_axes, out=out, window=window
    )
    return dx, slope


@without_warnings
def slope_of_number(
    what: Density,
    noise: str,
    g: ArrayLike,
    x: ArrayLike,
    key: Key | SupportsIndex,
    shared_axes: Axes,
    window: Window | None,
) -> Any:
    """Return the gradient of a noise's number: sums of a density of ``g * x``, of the number's shape.

    On the host the density is in float32 or float64, and the sums in float64.
    """
    if on_gpu(g, x):
        return gradient_of_number(what, g, x, key, shared_axes, window, noise)
    g, x = real_array(g, noise), real_array(x, noise)
    if g.shape != x.shape or g.dtype != x.dtype:
        raise ValueError(f"g must be x's {x.dtype} {x.shape}, got {g.dtype} {g.shape}")
    slope = np.empty(x.shape, np.float64 if x.dtype.itemsize == 8 else np.float32)
    np.multiply(g, x, out=slope, dtype=slope.dtype)
    density(what, slope, slope, key, shared_axes, window)
    number = what.numbers[0]
    if isinstance(number, np.ndarray):
        return summed_to(slope.astype(np.float64), number.shape)
    return float(slope.sum(dtype=np.float64))


def _numbers(logit: Any, temperature: float) -> tuple[Any, ...]:
    """Return the numbers that `concrete` and `concrete_slope` of `fastdrop._lanes.formulas` take.

    Those of a logit on a GPU are made there (see `learned_numbers` in `fastdrop._cuda.kernels`).
    """
    t = checked_temperature(temperature)
    on_the_gpu = learned_number("logit", logit, scalar=True)
    if on_the_gpu is not None:
        return on_the_gpu, t
    a = checked_logit(logit)
    a = min(max(a, -_MOST), _MOST)
    top = max(a, 0.0)
    e = math.exp(-top)
    return 1 / t, top - a / t, e * (1 + math.exp(a)), e, 1 / (1 + math.exp(-a))


def checked_temperature(temperature: Any) -> float:
    """Return a temperature as a float, or raise an error."""
    t = temperature if type(temperature) is float else real("temperature", temperature)
    if not _LEAST_TEMPERATURE <= t < math.inf:
        raise ValueError(f"temperature must be finite and at least {_LEAST_TEMPERATURE}, got {t}")
    return t


def checked_logit(logit: Any) -> float:
    """Return a logit, which may be a 0-D array, as a float, or raise an error."""
    if type(logit) is not float:
        logit = real("logit", logit if np.ndim(logit) else np.asarray(logit)[()])
    if not math.isfinite(logit):
        raise ValueError(f"logit must be finite, got {logit}")
    return float(logit)


def logit_of(p: float) -> float:
    """Return the logit of a rate, or raise an error unless it is inside (0, 1), where its logit is finite."""
    rate(p)
    if not 0 < float(p) < 1:
        raise ValueError(f"p must be inside (0, 1), got {p}; its logit is infinite")
    return math.log(p) - math.log1p(-p)


def _logit_given(p: float) -> NDArray[np.float64]:
    """Return the logit of a rate that a user gives to a layer, or raise an error, for a schedule too."""
    refuse_schedule("p", p)
    return np.array(logit_of(p))


class ConcreteDropout(LearnedLayer):
    """Dropout whose rate is learned, by the gradient through a relaxed mask.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    The loss must have the layer's `regularizer`, which alone draws the rate upwards. The layer keeps
    references to its inputs until their backward: don't change them in place before that.

    Parameters
    ----------
    p : float, default 0.1
        The rate at first, in (0, 1).
    temperature : float, default 0.1
        As in `fastdrop.concrete_dropout`; 2/3 is usual for spatial dropout.
    shared_axes : int or tuple of int, default ()
        Axes that share their draws: (2, 3) is spatial dropout of images (n, c, h, w).
    rng
        As in `Dropout`.

    Attributes
    ----------
    p : float
        The rate now. To set it is to set the logit.
    logit : ndarray of float64, 0-D
        What is learned; update it in place or set it.
    logit_grad : ndarray of float64, 0-D
        Its gradient, which `backward` and `regularizer` add to, and `zero_grad` clears. After a backward of
        arrays on a GPU it is a 0-D array there, as `concrete_dropout_backward` returns it: only
        ``float(drop.logit_grad)`` waits for the GPU.

    Raises
    ------
    TypeError, ValueError
        If p isn't real or not inside (0, 1), or temperature or rng is not as above.

    References
    ----------
    Gal, Hron, Kendall, "Concrete Dropout", arXiv 1705.07832.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.standard_normal((100, 3)), rng.standard_normal((3, 1))
    >>> drop, weight_grad = fd.ConcreteDropout(0.1, rng=42), np.zeros_like(weight)
    >>> dropped = drop(x)
    >>> y = dropped @ weight
    >>> g = y / len(y)  # of the loss mean(y**2) / 2
    >>> weight_grad += dropped.T @ g
    >>> dx = drop.backward(g @ weight.T)
    >>> regularizer = drop.regularizer(weight, weight_grad, weight_scale=1e-4, entropy_scale=2e-2)
    >>> drop.logit -= 0.1 * drop.logit_grad
    >>> drop.zero_grad()
    """

    _parameter = "logit"
    _function = "concrete_dropout(x, logit, key)"
    _gradient = "concrete_dropout_backward(g, x, logit, layer.key)"

    def __init__(
        self, p: float = 0.1, *, temperature: float = 0.1, shared_axes: Axes = (), rng: Rng = None
    ) -> None:
        super().__init__(_logit_given(p), rng, shared_axes)
        self.temperature = checked_temperature(temperature)

    @property
    def p(self) -> float:
        """The rate now."""
        return float(np.exp(-np.logaddexp(0, -self._value)))

    @p.setter
    def p(self, p: float) -> None:
        self._set(_logit_given(p))

    @property
    def logit(self) -> NDArray[np.float64]:
        """Logit of the rate."""
        value: NDArray[np.float64] = self._value
        return value

    @logit.setter
    def logit(self, logit: ArrayLike) -> None:
        self._set(logit)

    @property
    def logit_grad(self) -> NDArray[np.float64]:
        """Gradient with respect to `logit`, added up since `zero_grad`; on a GPU where g was there."""
        grad: NDArray[np.float64] = self._grad
        return grad

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient with respect to x, and add that of the logit; see `Dropout.backward`."""
        return super().backward(g, out=out)

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, logit, _, window, _ = forward
        return concrete_dropout(x, float(logit), key, out=out, window=window, **self._options())

    def _drop_backward(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, logit, _, window, x = forward
        self._check_apart(out, x)
        number = float(logit)
        dx, slope = concrete_dropout_backward(g, x, number, key, out=out, window=window, **self._options())
        self._add(slope)
        return dx

    def _options(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "shared_axes": self.shared_axes}

    def regularizer(
        self,
        weight: ArrayLike,
        weight_grad: NDArray[Any],
        *,
        weight_scale: float,
        entropy_scale: float,
        features: int | None = None,
    ) -> float:
        """Return the divergence from the prior, and add its gradients to the logit's and the weights'.

        Parameters
        ----------
        weight : array_like
            Weights of the layer that the dropout feeds, without its bias: (features_in, features_out) of a
            dense one. Those of a convolution may have any shape; give `features` with them.
        weight_grad : ndarray
            Their gradient, which is added to; of the weights' shape.
        weight_scale : float
            For N training examples, a prior length scale l and a model precision tau:
            ``l**2 / (tau * N)`` if the loss is a mean squared error, half of that if it is half of one, and
            ``l**2 / N`` if it is a cross-entropy.
        entropy_scale : float
            Likewise ``2 / (tau * N)``, half of that, or ``1 / N``.
        features : int, optional
            Number of draws for an example: input features, by default ``len(weight)``, or channels where
            `shared_axes` are those of images.

        Returns
        -------
        float
            ``weight_scale * sum(weight**2) / (1 - p)`` plus ``entropy_scale * features`` times
            ``p * log(p) + (1 - p) * log(1 - p)``.

        Raises
        ------
        TypeError, ValueError
            If weight_grad is no ndarray of floats, or of another shape than weight.

        References
        ----------
        Gal, Hron, Kendall, "Concrete Dropout", arXiv 1705.07832, equations 2 to 4.
        """
        w, a, p = np.asarray(weight), float(self._value), self.p
        if not isinstance(weight_grad, np.ndarray) or weight_grad.dtype.kind != "f":
            got = getattr(weight_grad, "dtype", type(weight_grad).__name__)
            raise TypeError(f"weight_grad must be an ndarray of floats, which is added to, got {got}")
        if weight_grad.shape != w.shape:
            raise ValueError(f"weight_grad must have the weights' shape {w.shape}, got {weight_grad.shape}")
        odds = math.exp(min(a, 700.0))
        norm = weight_scale * float(np.sum(np.square(w, dtype=np.float64)))
        entropy = entropy_scale * (len(w) if features is None else features)
        q = float(np.exp(-np.logaddexp(0, a)))
        weight_grad += (2 * weight_scale * (1 + odds)) * w
        self._add(norm * odds + entropy * p * q * a)
        return norm * (1 + odds) - entropy * float(p * np.logaddexp(0, -a) + q * np.logaddexp(0, a))

    def _arguments(self) -> dict[str, Any]:
        others = {name: value for name, value in super()._arguments().items() if name != "logit"}
        return {"p": self.p, "temperature": self.temperature} | others


register(
    Noise(
        "concrete_dropout",
        concrete_dropout,
        concrete_dropout_backward,
        kind="density",
        dtypes=REAL,
        rate="logit",
        layers=(ConcreteDropout,),
        lacks={
            "moments": "those of a relaxed mask have no closed form",
        },
    )
)
