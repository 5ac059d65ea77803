"""The functions for HIPS autograd, so that `autograd.grad` goes through them.

They have the names, arguments and results of those in `fastdrop`, but no ``out``: autograd goes back to
the values that it has seen. There are gradients with respect to every array but the rates: x, residual,
bias, weight, mean and variance, and to what can be learned: the logit of `concrete_dropout` and the alpha of
`information_dropout`. They come in the output's dtype, and only arguments are kept for them, no mask.

They can be differentiated again; those of gelu, gelu_tanh and silu, and those of a logit or an alpha, only
with respect to the gradient that they were given or not at all, and those of `drop_connect` not. Forward
mode goes through what is done element by element, with respect to arrays of the output's shape. The extra
``autograd`` installs what is needed.

Examples
--------
>>> import autograd.numpy as anp
>>> from autograd import grad
>>> import fastdrop as fd
>>> from fastdrop.autograd import bias_act_dropout, dropout
>>> key = fd.Key(42)
>>> grad(lambda x: anp.sum(dropout(x, 0.5, key) ** 2))(anp.ones(6))
array([0., 0., 8., 8., 8., 8.])
>>> bias = anp.array([-3.0, 0.0, 1.0])
>>> grad(lambda b: anp.sum(bias_act_dropout(anp.ones((2, 3)), b, 0.5, key)))(bias)
array([0., 2., 4.])
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
from inspect import signature
from operator import add
from typing import Any, SupportsIndex

import numpy as np

import fastdrop as fd
from fastdrop._arrays.host import column_sums
from fastdrop._arrays.numbers import Rate
from fastdrop._arrays.plan import Axes, Indices, Window, window_given
from fastdrop._extras import missing
from fastdrop._noises._described import described_by
from fastdrop._noises.drop_block import Size
from fastdrop._noises.variational import summed_to
from fastdrop._stream.keys import Key

try:
    import autograd.numpy as anp
    from autograd.extend import defjvp_argnums, defvjp_argnums, primitive
    from autograd.tracer import isbox
except ModuleNotFoundError as error:
    raise missing(__name__, error) from None

# A rule takes the output's gradient and the arguments, and returns the gradients of arguments by name.
Rule = Callable[..., dict[str, Any]]


_NOT_TAKEN = ("out", "rows", "indices", "offsets")


def _traced(call: Callable[..., Any], rule: Rule, by_element: bool = True) -> Callable[..., Any]:
    """Return the function as a primitive of autograd's, whose gradients rule(g, **arguments) returns by name.

    It takes every argument but `out`, in their order and then by name; `window` stands for `rows`, `indices`
    and `offsets` too, as `where` makes it of them. By element each element of the output must depend on one
    element of an array of the output's shape: forward mode goes through that alone.
    """
    names = [name for name in signature(call).parameters if name not in _NOT_TAKEN]

    # Autograd looks for traced values among positional arguments only.
    positional = primitive(lambda *values: call(**dict(zip(names, values, strict=True))))

    def vjp(argnums: tuple[int, ...], y: Any, values: tuple[Any, ...], _: Any) -> Callable[[Any], list[Any]]:
        def gradients(g: Any) -> list[Any]:
            given = g if g.dtype == y.dtype else g.astype(y.dtype)  # autograd has no forward mode of astype
            found = rule(given, **dict(zip(names, values, strict=True)))
            missing = [names[n] for n in argnums if names[n] not in found]
            if missing:
                raise NotImplementedError(f"{call.__name__} has no gradient with respect to {missing[0]}")
            return [found[names[n]] for n in argnums]

        return gradients

    def jvp(
        argnums: tuple[int, ...], tangents: tuple[Any, ...], y: Any, values: tuple[Any, ...], _: Any
    ) -> Any:
        """By element a Jacobian is diagonal, and so its own transpose."""
        for n in argnums:
            if not by_element or anp.shape(values[n]) != y.shape:
                raise NotImplementedError(f"{call.__name__} has no forward mode with respect to {names[n]}")
        parts = (vjp((n,), y, values, _)(t)[0] for n, t in zip(argnums, tangents, strict=True))
        return reduce(add, parts)

    defvjp_argnums(positional, vjp)
    defjvp_argnums(positional, jvp)

    def traced(*args: Any, **named: Any) -> Any:
        return positional(*args, *(named[name] for name in names[len(args) :]))

    return traced


def _self_adjoint(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a primitive as `_traced`, where the gradient of the first argument is the same function of g."""
    first, *_ = signature(call).parameters
    traced = _traced(call, lambda g, /, **arguments: {first: traced(**{**arguments, first: g})})
    return traced


def _learned(call: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a primitive as `_traced`, whose second argument is a number that is learned.

    The gradient of the first argument is the same function of g, and that of the number is the second one
    that `backward` returns, of which there is no derivative.
    """
    first, number, *_ = signature(call).parameters

    @wraps(backward)
    def slope(**arguments: Any) -> Any:
        return np.asarray(backward(**arguments)[1])[()]

    slope_of = _traced(slope, lambda g, /, **_: {}, by_element=False)

    def rule(g: Any, /, **arguments: Any) -> dict[str, Any]:
        return {first: traced(**{**arguments, first: g}), number: slope_of(g, **arguments)}

    traced = _traced(call, rule)
    return traced


_dropout = _self_adjoint(fd.dropout)
_gaussian_dropout = _self_adjoint(fd.gaussian_dropout)
_drop_path = _self_adjoint(fd.drop_path)
_drop_block = _self_adjoint(fd.drop_block)
_standout_dropout = _self_adjoint(fd.standout_dropout)  # no gradient goes through the probabilities
_alpha_dropout_backward = _self_adjoint(fd.alpha_dropout_backward)
_alpha_dropout = _traced(fd.alpha_dropout, lambda g, x, **a: {"x": _alpha_dropout_backward(g, **a)})
_gaussian_noise = _traced(fd.gaussian_noise, lambda g, **_: {"x": g})
_dropout_add = _traced(fd.dropout_add, lambda g, x, residual, **a: {"x": _dropout(g, **a), "residual": g})


def _zoneout_rule(g: Any, new: Any, previous: Any, **options: Any) -> dict[str, Any]:
    nothing = np.zeros(g.shape, g.dtype)
    return {"new": _zoneout(g, nothing, **options), "previous": _zoneout(nothing, g, **options)}


_zoneout = _traced(fd.zoneout, _zoneout_rule)


_concrete_dropout = _learned(fd.concrete_dropout, fd.concrete_dropout_backward)
_information_dropout = _learned(fd.information_dropout, fd.information_dropout_backward)


def _activation_backward(
    g: Any, x: Any, bias: Any, p: Any, key: Any, activation: str, shared_axes: Any, window: Any
) -> Any:
    options: dict[str, Any] = {"activation": activation, "shared_axes": shared_axes, "window": window}
    return fd.bias_act_dropout_backward(g, x, bias, p, key, **options)[0]


def _activation_curvature(v: Any, /, g: Any, x: Any, bias: Any, **options: Any) -> dict[str, Any]:
    found = {"g": _slope(v, x, bias, **options)}
    if options["activation"] in ("none", "relu"):
        return found | {"x": anp.zeros_like(x), "bias": anp.zeros_like(bias)}
    return found


_slope = _traced(_activation_backward, _activation_curvature)
_column_sums = _traced(column_sums, lambda g, y: {"y": g + anp.zeros(y.shape, g.dtype)}, by_element=False)


def _activation_rule(g: Any, x: Any, bias: Any, residual: Any, **options: Any) -> dict[str, Any]:
    dx = _slope(g, x, bias, **options)
    dbias = _column_sums(dx).astype(getattr(bias, "dtype", g.dtype))
    return {"x": dx, "bias": dbias, "residual": g}


_bias_act_dropout = _traced(fd.bias_act_dropout, _activation_rule)


def _reparameterization_rule(g: Any, mean: Any, variance: Any, key: Any, window: Any) -> dict[str, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):  # variances of 0, which nobody may ask for
        each = g * fd.normal(g.shape, key, dtype=g.dtype, window=window) * 0.5 / anp.sqrt(variance)
    return {"mean": g, "variance": summed_to(each, anp.shape(variance))}


_local_reparameterization = _traced(fd.local_reparameterization, _reparameterization_rule)


def _embedding_rule(g: Any, tokens: Any, weight: Any, p: Any, key: Any) -> dict[str, Any]:
    return {"weight": _embedding_dropout_backward(g, tokens, p, key, len(weight))}


def _embedding_adjoint(v: Any, /, g: Any, tokens: Any, p: Any, key: Any, vocabulary: int) -> dict[str, Any]:
    return {"g": _embedding_dropout(tokens, v, p, key)}


_embedding_dropout = _traced(fd.embedding_dropout, _embedding_rule, by_element=False)
_embedding_dropout_backward = _traced(fd.embedding_dropout_backward, _embedding_adjoint, by_element=False)


def _drop_connect_rule(g: Any, x: Any, weight: Any, bias: Any, **options: Any) -> dict[str, Any]:
    if any(map(isbox, (g, x, weight, bias))):
        raise NotImplementedError("drop_connect has no second derivative")
    found = fd.drop_connect_backward(g, x, weight, bias=bias is not None, **options)
    return dict(zip(("x", "weight", "bias"), found, strict=True))


_drop_connect = _traced(fd.drop_connect, _drop_connect_rule, by_element=False)


@described_by(fd.dropout)
def dropout(
    x: Any,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.dropout` of x, which has a gradient with respect to x.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> grad(lambda x: anp.sum(fd.autograd.dropout(x, 0.5, fd.Key(42)) ** 2))(anp.ones(4))
    array([0., 0., 8., 8.])
    """
    return _dropout(x, p, key, shared_axes, window_given(window, rows, indices, offsets))


@described_by(fd.gaussian_dropout)
def gaussian_dropout(
    x: Any,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.gaussian_dropout` of x, which has a gradient with respect to x.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> grad(lambda x: anp.sum(fd.autograd.gaussian_dropout(x, 0.5, fd.Key(42))))(anp.ones(2)).round(3)
    array([1.975, 1.617])
    """
    return _gaussian_dropout(x, p, key, shared_axes, window_given(window, rows, indices, offsets))


@described_by(fd.gaussian_noise)
def gaussian_noise(
    x: Any,
    std: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.gaussian_noise` of x, through which gradients go as they are.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> grad(lambda x: anp.sum(fd.autograd.gaussian_noise(x, 0.5, fd.Key(42))))(anp.ones(2))
    array([1., 1.])
    """
    return _gaussian_noise(x, std, key, shared_axes, window_given(window, rows, indices, offsets))


@described_by(fd.alpha_dropout)
def alpha_dropout(
    x: Any,
    p: float,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.alpha_dropout` of x, which has a gradient with respect to x.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> grad(lambda x: anp.sum(fd.autograd.alpha_dropout(x, 0.5, fd.Key(42))))(anp.ones(4)).round(4)
    array([0.    , 0.    , 0.8864, 0.8864])
    """
    return _alpha_dropout(x, p, key, shared_axes, window_given(window, rows, indices, offsets))


@described_by(fd.concrete_dropout)
def concrete_dropout(
    x: Any,
    logit: Any,
    key: Key | SupportsIndex,
    *,
    temperature: float = 0.1,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.concrete_dropout` of x, which has gradients with respect to x and to the logit.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> x = anp.ones(6)
    >>> slope = grad(lambda logit: anp.sum(fd.autograd.concrete_dropout(x, logit, fd.Key(42))))
    >>> round(float(slope(0.0)), 3)
    -0.096
    """
    return _concrete_dropout(
        x, logit, key, temperature, shared_axes, window_given(window, rows, indices, offsets)
    )


@described_by(fd.information_dropout)
def information_dropout(
    x: Any,
    alpha: Any,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.information_dropout` of x, which has gradients with respect to x and to alpha.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> slope = grad(lambda alpha: anp.sum(fd.autograd.information_dropout(anp.ones(4), alpha, fd.Key(42))))
    >>> round(float(slope(0.5)), 3)
    2.515
    """
    return _information_dropout(x, alpha, key, shared_axes, window_given(window, rows, indices, offsets))


@described_by(fd.standout_dropout)
def standout_dropout(
    h: Any,
    a: Any,
    key: Key | SupportsIndex,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    inverted: bool = False,
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.standout_dropout` of h, which has a gradient with respect to h alone.

    In a network whose a is traced too, give it autograd's ``getval(a)``.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> a = anp.zeros(4)
    >>> grad(lambda h: anp.sum(fd.autograd.standout_dropout(h, a, fd.Key(42)) ** 2))(anp.ones(4))
    array([0., 0., 2., 2.])
    """
    return _standout_dropout(h, a, key, alpha, beta, inverted, window_given(window, rows, indices, offsets))


@described_by(fd.drop_path)
def drop_path(
    x: Any,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    mode: str = "row",
    scale_by_keep: bool = True,
    window: Window | None = None,
    rows: Any = None,
) -> Any:
    """Return `fastdrop.drop_path` of x, which has a gradient with respect to x.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> grad(lambda x: anp.sum(fd.autograd.drop_path(x, 0.5, fd.Key(7))))(anp.ones((4, 1))).ravel()
    array([0., 2., 0., 2.])
    """
    return _drop_path(x, p, key, mode, scale_by_keep, window_given(window, rows))


@described_by(fd.drop_block)
def drop_block(
    x: Any,
    p: float,
    key: Key | SupportsIndex,
    *,
    block_size: Size = 7,
    shared_channels: bool = False,
    data_format: str = "channels_first",
) -> Any:
    """Return `fastdrop.drop_block` of images, which has a gradient with respect to them.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> x, options = anp.ones((1, 1, 5, 6)), {"block_size": 2}
    >>> g = grad(lambda x: anp.sum(fd.autograd.drop_block(x, 0.3, fd.Key(4), **options)))(x)
    >>> (g[0, 0, 1] != 0).astype(int)
    array([1, 1, 1, 1, 0, 0])
    """
    return _drop_block(x, p, key, block_size, shared_channels, data_format)


@described_by(fd.zoneout)
def zoneout(
    new: Any,
    previous: Any,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.zoneout` of new and previous, which has gradients with respect to both.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> def loss(new, previous):
    ...     return anp.sum(fd.autograd.zoneout(new, previous, 0.5, fd.Key(42)))
    >>> grad(loss, (0, 1))(anp.ones(4), anp.zeros(4))
    (array([0., 0., 1., 1.]), array([1., 1., 0., 0.]))
    """
    return _zoneout(new, previous, p, key, shared_axes, window_given(window, rows, indices, offsets))


@described_by(fd.dropout_add)
def dropout_add(
    x: Any,
    residual: Any,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.dropout_add`, which has gradients with respect to x and to the residual.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> def loss(x, residual):
    ...     return anp.sum(fd.autograd.dropout_add(x, residual, 0.5, fd.Key(42)))
    >>> grad(loss, (0, 1))(anp.ones(4), anp.zeros(4))
    (array([0., 0., 2., 2.]), array([1., 1., 1., 1.]))
    """
    return _dropout_add(x, residual, p, key, shared_axes, window_given(window, rows, indices, offsets))


@described_by(fd.bias_act_dropout)
def bias_act_dropout(
    x: Any,
    bias: Any,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    activation: str = "relu",
    residual: Any = None,
    shared_axes: Axes = (),
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.bias_act_dropout`, which has gradients with respect to x, bias and residual.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> x = anp.array([[-3.0, -1.0, 1.0, 3.0]])
    >>> grad(lambda bias: anp.sum(fd.autograd.bias_act_dropout(x, bias, 0.5, fd.Key(42))))(anp.ones(4))
    array([0., 0., 2., 2.])
    """
    return _bias_act_dropout(
        x, bias, p, key, activation, residual, shared_axes, window_given(window, rows, indices, offsets)
    )


@described_by(fd.local_reparameterization)
def local_reparameterization(
    mean: Any,
    variance: Any,
    key: Key | SupportsIndex,
    *,
    window: Window | None = None,
    rows: Any = None,
    indices: Indices | None = None,
    offsets: Any = None,
) -> Any:
    """Return `fastdrop.local_reparameterization`, which has gradients with respect to means and variances.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> def loss(mean, variance):
    ...     return anp.sum(fd.autograd.local_reparameterization(mean, variance, fd.Key(42)))
    >>> dmean, dvariance = grad(loss, (0, 1))(anp.zeros(2), anp.full(2, 4.0))
    >>> dmean, dvariance.round(3)
    (array([1., 1.]), array([0.244, 0.154]))
    """
    return _local_reparameterization(mean, variance, key, window_given(window, rows, indices, offsets))


@described_by(fd.embedding_dropout)
def embedding_dropout(tokens: Any, weight: Any, p: Rate, key: Key | SupportsIndex) -> Any:
    """Return `fastdrop.embedding_dropout`, which has a gradient with respect to weight.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> def loss(weight):
    ...     return anp.sum(fd.autograd.embedding_dropout([3, 0, 2, 3, 0], weight, 0.5, fd.Key(42)))
    >>> grad(loss)(anp.ones((4, 2)))[:, 0]
    array([0., 0., 2., 4.])
    """
    return _embedding_dropout(tokens, weight, p, key)


@described_by(fd.drop_connect)
def drop_connect(
    x: Any,
    weight: Any,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: Any = None,
    per_example: bool = True,
    window: Window | None = None,
    rows: Any = None,
) -> Any:
    """Return `fastdrop.drop_connect`, which has gradients with respect to x, weight and bias.

    Examples
    --------
    >>> import autograd.numpy as anp, fastdrop as fd, fastdrop.autograd
    >>> from autograd import grad
    >>> x, weight = anp.ones((2, 3)), anp.reshape(anp.arange(6.0), (3, 2))
    >>> grad(lambda x: anp.sum(fd.autograd.drop_connect(x, weight, 0.5, fd.Key(42))))(x)
    array([[ 0., 10., 18.],
           [ 2.,  0., 10.]])
    """
    return _drop_connect(x, weight, p, key, bias, per_example, window_given(window, rows))
