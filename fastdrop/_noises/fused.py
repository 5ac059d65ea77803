"""Fused passes: dropout with what stands before and after it in a network, in one read and one write."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.hints import refuse_foreign
from fastdrop._arrays.numbers import Rate
from fastdrop._arrays.plan import ACTIVATIONS, Axes, Indices, Pass, Window, window_given
from fastdrop._backends import fuse, fused, of, planned, sum_rows
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.bernoulli import dropout_backward
from fastdrop._stream.keys import Key, shown

_REAL = "an activation"  # what needs real numbers, for errors
_ADD = Pass("add")
_ACTIVATED = {  # the passes of a formula, by the number of their activation
    formula: tuple(Pass(formula, activation=number) for number in range(len(ACTIVATIONS)))
    for formula in ("activate", "activate_add", "differentiate")
}


def dropout_add(
    x: ArrayLike,
    residual: ArrayLike,
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
    """Return residual + dropout(x) in one pass, as at the end of a transformer's branch.

    Parameters
    ----------
    x : array_like, any shape
        Of a dtype that `dropout` takes.
    residual : array_like
        Of x's shape and dtype.
    p, key, shared_axes, window, rows, indices, offsets
        As in `dropout`. With every axis shared but the first this is stochastic depth.
    out : ndarray, optional
        Where to write: of x's shape and dtype, and either x or residual itself or free of overlap.

    Returns
    -------
    ndarray
        What ``residual + dropout(x, p, key)`` gives, bit for bit but for 16-bit floats, which are rounded
        once instead of twice.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if the residual isn't like x.

    See Also
    --------
    bias_act_dropout : with a bias and an activation before.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout_add(np.ones(6), np.arange(6.0), 0.5, fd.Key(42))
    array([0., 1., 4., 5., 6., 7.])
    """
    window = window_given(window, rows, indices, offsets)
    other = "residual", residual, "x"
    return fused(_ADD, x, out, p, key, shared_axes, window, other=other)  # type: ignore[no-any-return]


def dropout_add_backward(
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
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the gradients of `dropout_add` with respect to x and to the residual.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output.
    p, key, shared_axes, window, rows, indices, offsets
        As given to `dropout_add`.
    out : ndarray, optional
        Where to write the gradient of x. Not g, which is the other gradient.

    Returns
    -------
    dx : ndarray
        As `dropout_backward`.
    dresidual : ndarray
        g itself.

    Raises
    ------
    ValueError
        If out overlaps g.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout_add_backward(np.ones(4), 0.5, fd.Key(42))
    (array([0., 0., 2., 2.]), array([1., 1., 1., 1.]))
    """
    window = window_given(window, rows, indices, offsets)
    arrays = of(g)
    checked = arrays.to_array(g)
    if out is not None and arrays.overlap(out, checked):
        raise ValueError("out must not overlap g, which is returned too; use np.empty_like(g)")
    given = arrays.given(checked)
    return dropout_backward(given, p, key, shared_axes=shared_axes, out=out, window=window), given


def bias_act_dropout(
    x: ArrayLike,
    bias: ArrayLike | None,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    activation: str = "relu",
    residual: ArrayLike | None = None,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return dropout of an activation of x + bias, plus a residual if there is one, in one pass.

    Parameters
    ----------
    x : array_like, at least 1-D
        Of a real dtype that `dropout` takes.
    bias : array_like of shape ``x.shape[-1:]``, or None
        Added to x. In 16-bit passes it may be of float32.
    p, key, shared_axes, window, rows, indices, offsets
        As in `dropout`.
    activation : {"none", "relu", "gelu", "gelu_tanh", "silu"}, default "relu"
        gelu is x times the normal distribution, gelu_tanh its usual approximation, silu x times the
        logistic function.
    residual : array_like, optional
        Of x's shape and dtype, added at the end.
    out : ndarray, optional
        Where to write: of x's shape and dtype, and either x or residual itself or free of overlap.

    Returns
    -------
    ndarray
        Activations are within 2e-7 of their size or of 1 with float32, and within 4e-16 with float64. With
        float16 and bfloat16 they are within .7 of their last digit, but may be 0 where they are below 1e-36.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if x is complex, bias or residual don't fit, or the activation is another.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415; Elfwing, Uchibe, Doya,
    "Sigmoid-Weighted Linear Units", arXiv 1702.03118.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.array([[-3.0, -1.0, 1.0, 3.0]])
    >>> fd.bias_act_dropout(x, np.ones(4), 0.5, fd.Key(42))
    array([[0., 0., 4., 8.]])
    >>> fd.bias_act_dropout(x, None, 0, 1, activation="silu").round(3)
    array([[-0.142, -0.269,  0.731,  2.858]])
    """
    window = window_given(window, rows, indices, offsets)
    formula, other = ("activate", None) if residual is None else ("activate_add", ("residual", residual, "x"))
    what = _ACTIVATED[formula][_number_of(activation)]
    _check_axis(x)
    return fused(  # type: ignore[no-any-return]
        what, x, out, p, key, shared_axes, window, real=_REAL, other=other, biased=True, bias=bias
    )


def bias_act_dropout_backward(
    g: ArrayLike,
    x: ArrayLike,
    bias: ArrayLike | None,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    activation: str = "relu",
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the gradients of `bias_act_dropout` with respect to x and to the bias.

    The gradient with respect to a residual is g itself.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output, of x's shape and dtype.
    x, bias, p, key, activation, shared_axes, window, rows, indices, offsets
        As given to `bias_act_dropout`; the activation is recomputed from them.
    out : ndarray, optional
        Where to write the gradient of x; may be g or x.

    Returns
    -------
    dx : ndarray
        ``dropout_backward(g) * activation'(x + bias)``, and +0.0 where dropped.
    dbias : ndarray or None
        Its sum over all axes but the last, of the bias's dtype; None without a bias. Summed in an order
        that depends on the shape alone.

    Raises
    ------
    TypeError, ValueError
        As `bias_act_dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.array([[-3.0, -1.0, 1.0, 3.0]])
    >>> dx, dbias = fd.bias_act_dropout_backward(np.ones((1, 4)), x, np.ones(4), 0.5, fd.Key(42))
    >>> dx, dbias
    (array([[0., 0., 2., 2.]]), array([0., 0., 2., 2.]))
    """
    window = window_given(window, rows, indices, offsets)
    what, other = _ACTIVATED["differentiate"][_number_of(activation)], ("g", g, "x")
    _check_axis(x)
    plan = planned(x, out, shared_axes, window, real=_REAL, other=other, biased=True, bias=bias)
    fuse(what, plan, p, key)
    return plan.result, None if bias is None else sum_rows(plan, bias)


def _number_of(activation: str) -> int:
    """Return the number by which formulas know an activation, or raise an error."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {shown(activation)}")
    return ACTIVATIONS.index(activation)


def _check_axis(x: ArrayLike) -> None:
    """Raise an error if x has no last axis, which a bias needs."""
    if type(x) is np.ndarray and x.ndim:  # the usual case first
        return
    if np.ndim(x) == 0:
        refuse_foreign(x)
        raise ValueError("a bias needs x's last axis, got a 0-d array; use x[None]")


_TWO_INPUTS = "it has more inputs than a layer takes; the function is there"
register(
    Noise(
        "dropout_add",
        dropout_add,
        dropout_add_backward,
        like=("residual",),
        by_element=True,
        lacks={
            "layer": _TWO_INPUTS,
            "torch module": _TWO_INPUTS,
            "moments": "they are those of `dropout`, with the residual added to the mean",
        },
    )
)
register(
    Noise(
        "bias_act_dropout",
        bias_act_dropout,
        bias_act_dropout_backward,
        dtypes=REAL,
        by_element=True,
        lacks={
            "layer": _TWO_INPUTS,
            "torch module": _TWO_INPUTS,
            "moments": "they are those of `dropout` for what the activation gives",
        },
    )
)
