"""The functions as primitives of HIPS autograd, so that `autograd.grad` goes through them.

They have the names, arguments and results of those in `fastdrop`, but no ``out``: autograd goes back to
the values that it has seen. There are gradients with respect to every array but the rates: x, residual,
bias, mean and variance. They come in the output's dtype, and only arguments are kept for them, no mask.

They can be differentiated again; those of gelu, gelu_tanh and silu only with respect to the gradient
that they were given. Forward mode goes with respect to arrays of the output's shape. The extra ``autograd``
installs what is needed.

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
from typing import Any

import numpy as np

import fastdrop as fd
from fastdrop._arrays.host import column_sums
from fastdrop._noises.variational import summed_to

try:
    import autograd.numpy as anp
    from autograd.extend import defjvp_argnums, defvjp_argnums, primitive
except ModuleNotFoundError as error:
    message = f"fastdrop.autograd needs {error.name}; use pip install 'fastdrop-numpy[autograd]'"
    raise ModuleNotFoundError(message, name=error.name) from None

Rule = Callable[..., dict[str, Any]]  # from the output's gradient and the arguments to their gradients


def _traced(call: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """The function as a primitive with the gradients that rule(g, **arguments) returns by name."""
    parameters = [p for p in signature(call).parameters.values() if p.name != "out"]
    shown = signature(call).replace(parameters=parameters)
    names = [p.name for p in parameters]

    # autograd looks for traced values among positional arguments only
    positional = primitive(lambda *values: call(**dict(zip(names, values, strict=True))))

    def vjp(argnums: tuple[int, ...], y: Any, values: tuple[Any, ...], _: Any) -> Callable[[Any], list[Any]]:
        def gradients(g: Any) -> list[Any]:
            given = g if g.dtype == y.dtype else g.astype(y.dtype)  # which autograd has no forward mode of
            found = rule(given, **dict(zip(names, values, strict=True)))
            missing = [names[n] for n in argnums if names[n] not in found]
            if missing:
                raise NotImplementedError(f"{call.__name__} has no gradient with respect to {missing[0]}")
            return [found[names[n]] for n in argnums]

        return gradients

    def jvp(
        argnums: tuple[int, ...], tangents: tuple[Any, ...], y: Any, values: tuple[Any, ...], _: Any
    ) -> Any:
        """All go element by element: such a Jacobian is diagonal, and so its own transpose."""
        for n in argnums:
            if anp.shape(values[n]) != y.shape:
                raise NotImplementedError(f"{call.__name__} has no forward mode with respect to {names[n]}")
        parts = (vjp((n,), y, values, _)(t)[0] for n, t in zip(argnums, tangents, strict=True))
        return reduce(add, parts)

    defvjp_argnums(positional, vjp)
    defjvp_argnums(positional, jvp)

    @wraps(call)
    def traced(*args: Any, **options: Any) -> Any:
        bound = shown.bind(*args, **options)
        bound.apply_defaults()
        return positional(*bound.arguments.values())

    traced.__signature__ = shown  # type: ignore[attr-defined]
    return traced


def _self_adjoint(call: Callable[..., Any]) -> Callable[..., Any]:
    """As `_traced` where the function's backward is the function itself."""
    first, *_ = signature(call).parameters
    traced = _traced(call, lambda g, /, **arguments: {first: traced(**{**arguments, first: g})})
    return traced


dropout = _self_adjoint(fd.dropout)
gaussian_dropout = _self_adjoint(fd.gaussian_dropout)
drop_path = _self_adjoint(fd.drop_path)
drop_block = _self_adjoint(fd.drop_block)
_alpha_dropout_backward = _self_adjoint(fd.alpha_dropout_backward)


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
_column_sums = _traced(column_sums, lambda g, y: {"y": g + anp.zeros(y.shape, g.dtype)})


def _activation_rule(g: Any, x: Any, bias: Any, residual: Any, **options: Any) -> dict[str, Any]:
    dx = _slope(g, x, bias, **options)
    dbias = _column_sums(dx).astype(getattr(bias, "dtype", g.dtype))
    return {"x": dx, "bias": dbias, "residual": g}


def _reparameterization_rule(g: Any, mean: Any, variance: Any, key: Any) -> dict[str, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):  # at variances of 0, which may not be asked for
        each = g * fd.normal(g.shape, key, dtype=g.dtype) * 0.5 / anp.sqrt(variance)
    return {"mean": g, "variance": summed_to(each, anp.shape(variance))}


dropout_add = _traced(fd.dropout_add, lambda g, x, residual, **a: {"x": dropout(g, **a), "residual": g})
alpha_dropout = _traced(fd.alpha_dropout, lambda g, x, **a: {"x": _alpha_dropout_backward(g, **a)})
gaussian_noise = _traced(fd.gaussian_noise, lambda g, **_: {"x": g})
bias_act_dropout = _traced(fd.bias_act_dropout, _activation_rule)
local_reparameterization = _traced(fd.local_reparameterization, _reparameterization_rule)
