"""Stochastic depth: whole samples of a residual branch dropped."""

from __future__ import annotations

from functools import cache
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.hints import refuse_foreign
from fastdrop._arrays.listed import Listed
from fastdrop._arrays.numbers import FULL, Rate, flag, rate
from fastdrop._arrays.plan import Axes, Window, window_given
from fastdrop._backends import fused
from fastdrop._noises._layer import Forward
from fastdrop._noises._noise import Noise, register
from fastdrop._noises.bernoulli import DROP, UNSCALED, Dropout, keep_mask
from fastdrop._stream.keys import Key, Rng, natural, shown
from fastdrop.schedules import ScheduledRate


def drop_path(
    x: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    mode: str = "row",
    scale_by_keep: bool = True,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return x with whole samples dropped: stochastic depth of a residual branch.

    Parameters
    ----------
    x : array_like, at least 1-D
        Samples along the first axis, of a dtype that `dropout` takes.
    p : float or ndarray
        Probability to drop. For layer l of L the paper takes ``p_L * l / L``.
    key, out, window, rows
        As in `dropout`.
    mode : {"row", "batch"}, default "row"
        Draw for each sample, or once for all.
    scale_by_keep : bool, default True
        Multiply what is kept by 1/(1 - p); the mean of the output is then that of x.

    Returns
    -------
    ndarray
        As `dropout` with every axis shared but the first, or every axis.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if mode is another or x has no axis.

    See Also
    --------
    surviving_rows : which samples stay, so that the branch need not be computed for the others.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.drop_path(np.ones((4, 3)), 0.5, fd.Key(7))
    array([[0., 0., 0.],
           [2., 2., 2.],
           [0., 0., 0.],
           [2., 2., 2.]])
    """
    window = window_given(window, rows)
    if type(x) is not np.ndarray:
        refuse_foreign(x)
    ndim = x.ndim if type(x) is np.ndarray else np.ndim(x)
    try:
        axes = _axes(ndim, mode)
    except TypeError:  # of a mode that the cache can't look for
        axes = path_axes(ndim, mode)
    if scale_by_keep is not True and not flag("scale_by_keep", scale_by_keep):
        return unscaled_dropout(x, p, key, shared_axes=axes, out=out, window=window)
    return fused(DROP, x, out, p, key, axes, window)  # type: ignore[no-any-return]


def unscaled_dropout(
    x: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
) -> NDArray[Any]:
    """Return what `dropout` does, but with kept elements as they are."""
    return fused(UNSCALED, x, out, p, key, shared_axes, window)  # type: ignore[no-any-return]


def path_axes(ndim: int, mode: str) -> tuple[int, ...]:
    """Return the axes along which `drop_path` shares its draws."""
    if mode not in ("row", "batch"):
        raise ValueError(f'mode must be "row" or "batch", got {shown(mode)}') from None
    if ndim == 0:
        raise ValueError("drop_path needs samples along a first axis, got a 0-d array; use x[None]")
    return tuple(range(1 if mode == "row" else 0, ndim))


_axes = cache(path_axes)  # which torch.compile would warn of, and takes a third of the time


def drop_path_backward(
    g: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    mode: str = "row",
    scale_by_keep: bool = True,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the gradient of `drop_path` with respect to its input: the same function of g.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    p, key, mode, scale_by_keep, out, window, rows
        As given to `drop_path`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.drop_path_backward(np.ones((4, 1)), 0.5, fd.Key(7)).ravel()
    array([0., 2., 0., 2.])
    """
    window = window_given(window, rows)
    return drop_path(g, p, key, mode=mode, scale_by_keep=scale_by_keep, out=out, window=window)


def surviving_rows(
    samples: SupportsIndex, p: float, key: Key | SupportsIndex
) -> tuple[NDArray[np.intp], float]:
    """Return which samples `drop_path` keeps in row mode, and the scale of what is kept.

    Parameters
    ----------
    samples : int
        Length of the batch.
    p : float
        Probability to drop.
    key : Key or int
        As given to `drop_path`.

    Returns
    -------
    rows : ndarray of intp
        Indices of the samples that stay, ascending.
    scale : float
        1 / (1 - p) of the realised rate, by which `drop_path` multiplies them; 1 where p is 1.

    Examples
    --------
    A residual branch f that is computed for the surviving samples only:

    >>> import numpy as np, fastdrop as fd
    >>> x, f = np.ones((4, 3)), np.square
    >>> rows, scale = fd.surviving_rows(len(x), 0.5, fd.Key(7))
    >>> rows, scale
    (array([1, 3]), 2.0)
    >>> y = x.copy()
    >>> y[rows] += f(x[rows]) * scale
    >>> np.array_equal(y, x + fd.drop_path(f(x), 0.5, fd.Key(7)))
    True
    """
    threshold, scale = rate(p)
    count = natural("samples", samples, 1 << 63)
    return np.flatnonzero(keep_mask(count, p, key)), 1.0 if threshold == FULL else scale


class DropPath(Dropout):
    """Stochastic depth: dropout of whole samples of a residual branch.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1]. For layer l of L the paper takes ``p_L * l / L``.
    mode : {"row", "batch"}, default "row"
        Draw for each sample, or once for all.
    scale_by_keep : bool, default True
        Multiply what is kept by 1/(1 - p).
    rng
        As in `Dropout`.

    See Also
    --------
    fastdrop.surviving_rows : which samples stay, so that the branch need not be computed for the others.

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, section 3.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.DropPath(0.5, rng=7)(np.ones((5, 2)))[:, 0]
    array([0., 2., 0., 2., 0.])
    """

    _function = "drop_path(x, p, key)"
    _gradient = "drop_path_backward(g, p, layer.key)"

    def __init__(
        self, p: ScheduledRate = 0.5, *, mode: str = "row", scale_by_keep: bool = True, rng: Rng = None
    ) -> None:
        super().__init__(p, rng=rng)
        path_axes(1, mode)
        self.mode, self.scale_by_keep = mode, flag("scale_by_keep", scale_by_keep)

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, p, _, window, _ = forward
        if isinstance(window, Listed) and not (window.indices is None and window.offsets is None):
            raise TypeError("DropPath drops samples, which x has along its first axis; use rows, or a window")
        mode, scaled = self.mode, self.scale_by_keep
        return drop_path(x, p, key, mode=mode, scale_by_keep=scaled, out=out, window=window)

    def _arguments(self) -> dict[str, Any]:
        unscaled = {} if self.scale_by_keep else {"scale_by_keep": False}
        return super()._arguments() | {"mode": self.mode} | unscaled


register(
    Noise(
        "drop_path",
        drop_path,
        drop_path_backward,
        by_element=True,
        self_adjoint=True,
        layers=(DropPath,),
        beside=(surviving_rows,),
        moments="dropout",
    )
)
