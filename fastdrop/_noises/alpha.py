"""Alpha dropout: for self-normalising networks, it keeps mean 0 and variance 1."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.numbers import FULL, rate
from fastdrop._arrays.plan import Axes, Indices, Pass, Window, window_given
from fastdrop._backends import fused
from fastdrop._noises._layer import Forward
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.bernoulli import Dropout
from fastdrop._noises.shared import check_data_format
from fastdrop._stream.keys import Key, Rng
from fastdrop.schedules import ScheduledRate

SATURATION = -1.7580993408473766  # the limit of SELU at minus infinity


def alpha_dropout(
    x: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return x with elements set to SELU's negative limit, then scaled and shifted to keep its moments.

    Where x has mean 0 and variance 1, so has what comes back.

    Parameters
    ----------
    x : array_like, any shape
        Of a real dtype that `dropout` takes.
    p : float
        Probability to drop, in [0, 1].
    key, shared_axes, out, window, rows, indices, offsets
        As in `dropout`, with the same mask.

    Returns
    -------
    ndarray
        ``A * x + B`` where kept and ``A * a + B`` where dropped: a = -1.7581 is SELU's limit,
        ``A = ((1 - p) * (1 + p * a**2))**-0.5`` and ``B = -A * p * a``. For p = 1 the limit, 0.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if x is complex.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515, section 2 and appendix.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.alpha_dropout(np.zeros(4), 0.5, fd.Key(42)).round(4)
    array([-0.7792, -0.7792,  0.7792,  0.7792])
    """
    window = window_given(window, rows, indices, offsets)
    what = _passes(p)[0]
    return fused(what, x, out, p, key, shared_axes, window, real="alpha dropout")  # type: ignore[no-any-return]


def affine(p: float) -> tuple[float, float, float]:
    """Return the scale and shift of kept elements and the value of dropped ones, for a rate below 1."""
    return _affine(rate(p)[0] / FULL)


def _affine(dropped: float) -> tuple[float, float, float]:
    scale = ((1 - dropped) * (1 + dropped * SATURATION**2)) ** -0.5
    return scale, -scale * dropped * SATURATION, scale * (1 - dropped) * SATURATION


def _passes(p: float) -> tuple[Pass, Pass]:
    """Return the pass of forward and that of backward."""
    return _passes_of(rate(p)[0])


@lru_cache(maxsize=1024)
def _passes_of(threshold: int) -> tuple[Pass, Pass]:
    if threshold == FULL:
        return Pass(), Pass()
    scale, *constants = _affine(threshold / FULL)
    return Pass("alpha", tuple(constants), scale=scale), Pass(scale=scale)


def alpha_dropout_backward(
    g: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the gradient of `alpha_dropout` with respect to its input: A * g where kept, else +0.0.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    p, key, shared_axes, out, window, rows, indices, offsets
        As given to `alpha_dropout`; `out` may be g.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.alpha_dropout_backward(np.ones(4), 0.5, fd.Key(42)).round(4)
    array([0.    , 0.    , 0.8864, 0.8864])
    """
    window = window_given(window, rows, indices, offsets)
    what = _passes(p)[1]
    return fused(what, g, out, p, key, shared_axes, window, real="alpha dropout")  # type: ignore[no-any-return]


class AlphaDropout(Dropout):
    """Dropout for self-normalising networks: it keeps mean 0 and variance 1 through SELU layers.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1]; the paper uses .05 and .1.
    shared_axes, rng
        As in `Dropout`.

    References
    ----------
    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = fd.normal(100_000, fd.Key(1))
    >>> y = fd.AlphaDropout(0.5, rng=2)(x)
    >>> abs(round(float(y.mean()), 2)), round(float(y.std()), 2)
    (0.0, 1.0)
    """

    _function = "alpha_dropout(x, p, key)"
    _gradient = "alpha_dropout_backward(g, p, layer.key)"

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, p, _, window, _ = forward
        return alpha_dropout(x, p, key, shared_axes=self._axes(x), out=out, window=window)

    def _drop_backward(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, p, _, window, _ = forward
        return alpha_dropout_backward(g, p, key, shared_axes=self._axes(g), out=out, window=window)


class FeatureAlphaDropout(AlphaDropout):
    """Alpha dropout of whole feature maps: one draw for each sample and channel.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1].
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, ...) or (n, ..., c), with any number of axes between or none.
    rng
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If p or the data format isn't as above; in forward, if x has fewer than two axes.

    References
    ----------
    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515; Tompson et al., "Efficient
    Object Localization Using Convolutional Networks", arXiv 1411.4280, for the shared draws.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.FeatureAlphaDropout(0.5, rng=7)(np.zeros((1, 4, 3)))
    >>> y[0].round(4)
    array([[-0.7792, -0.7792, -0.7792],
           [ 0.7792,  0.7792,  0.7792],
           [-0.7792, -0.7792, -0.7792],
           [ 0.7792,  0.7792,  0.7792]])
    """

    _function = "alpha_dropout(x, p, key, shared_axes=...)"
    _gradient = "alpha_dropout_backward(g, p, layer.key, shared_axes=...)"

    def __init__(
        self, p: ScheduledRate = 0.5, *, data_format: str = "channels_first", rng: Rng = None
    ) -> None:
        super().__init__(p, rng=rng)
        check_data_format(data_format)
        self.data_format = data_format

    def _axes(self, x: ArrayLike) -> Axes:
        ndim = np.ndim(x)
        if ndim < 2:
            shape = np.shape(x)
            raise ValueError(f"FeatureAlphaDropout needs axes for samples and channels, got shape {shape}")
        return tuple(range(2, ndim)) if self.data_format == "channels_first" else tuple(range(1, ndim - 1))

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"data_format": self.data_format}


register(
    Noise(
        "alpha_dropout",
        alpha_dropout,
        alpha_dropout_backward,
        dtypes=REAL,
        layers=(AlphaDropout, FeatureAlphaDropout),
    )
)
