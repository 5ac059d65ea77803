"""The fused passes over tensors, and the same in steps for tensors that a fused pass can't take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.nn import functional

import fastdrop as fd
from fastdrop._arrays.numbers import Rate
from fastdrop._arrays.plan import ACTIVATIONS
from fastdrop._stream.keys import shown
from fastdrop.torch._autograd import (
    added_quickly,
    as_array,
    as_tensor,
    batched,
    check_floats,
    check_tensors,
    noise,
    noise_of_gradient,
    outside_graphs,
    plain_rate,
    traced,
    transformed,
)
from fastdrop.torch._keys import plain_key
from fastdrop.torch._noises import Numbers, draws_of

Tensor: TypeAlias = torch.Tensor

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
}


# Those whose gradient at NaN and infinity is NaN even where the gradient that comes is 0, as it is where
# elements are dropped. So dropped inputs become 0 before the activation, for which the mask is drawn twice.
_SPREADING = frozenset({"gelu", "gelu_tanh", "silu"})


class _DropoutAdd(torch.autograd.Function):
    """`fastdrop.dropout_add` of C-order tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, p: float, key: Any, axes: Numbers) -> Tensor:
        ctx.settings = "dropout", (p,), key, axes
        return as_tensor(fd.dropout_add(as_array(x), as_array(residual), p, key, **draws_of(axes)))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        dx = noise_of_gradient(g, *ctx.settings) if ctx.needs_input_grad[0] else None
        return dx, g, None, None, None


def dropout_add(x: Tensor, residual: Tensor, p: Rate | Tensor, key: Any, axes: Numbers) -> Tensor:
    """Residual + dropout(x), in one pass where both are in C order and of one shape and dtype."""
    y = None if axes else added_quickly(x, residual, p, key)
    if y is not None:
        return y
    if _fusible(x, residual):
        return _DropoutAdd.apply(x, residual, plain_rate(p), plain_key(key), axes)
    _check_shape(residual, x)
    return residual + noise(x, "dropout", (p,), key, axes)


def check_residual(residual: Tensor) -> None:
    """Refuse what is no tensor, and layouts that torch doesn't add to a dense tensor."""
    if getattr(residual, "layout", None) is not torch.jagged:
        check_tensors(residual=residual)


def _check_shape(residual: Tensor, x: Tensor) -> None:
    """Refuse a residual of a shape that torch can't add to x's, which torch would after the noise."""
    if residual.is_nested:  # whose shape is torch's own affair
        return
    pairs = zip(reversed(x.shape), reversed(residual.shape), strict=False)
    if not all(a == b or a == 1 or b == 1 for a, b in pairs):
        allowed, got = tuple(x.shape), tuple(residual.shape)
        raise ValueError(f"residual must broadcast with x's shape {allowed}, got {got}")


def _fusible(x: Tensor, *others: Tensor | None) -> bool:
    """Whether a fused pass can take the tensors: all in memory in C order, of one shape and dtype."""
    given = [t for t in others if t is not None]
    alike = all(t.shape == x.shape and t.dtype is x.dtype for t in given)
    return alike and all(map(_in_order, (x, *given))) and not transformed()


def _in_order(x: Tensor) -> bool:
    """Whether the tensor is in memory, in C order."""
    return not traced(x) and bool(x.is_contiguous())


def _maybe(function: Callable[[Any], Any], value: Any) -> Any:
    """What the function makes of a value, or None of None."""
    return None if value is None else function(value)


class _BiasActDropout(torch.autograd.Function):
    """`fastdrop.bias_act_dropout` of C-order tensors."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        p: float,
        key: Any,
        activation: str,
        axes: Numbers,
    ) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.settings = p, key, activation, axes
        arrays = as_array(x), _maybe(as_array, bias)
        other = _maybe(as_array, residual)
        options: dict[str, Any] = {"activation": activation, "residual": other, **draws_of(axes)}
        return as_tensor(fd.bias_act_dropout(*arrays, p, key, **options))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        given = g, *ctx.saved_tensors, ctx.settings, tuple(ctx.needs_input_grad)
        gradients = outside_graphs(_gradients)(*given)
        return *gradients, g if ctx.needs_input_grad[2] else None, None, None, None, None


def _gradients(
    g: Tensor, x: Tensor, bias: Tensor | None, settings: Any, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of `bias_act_dropout` with respect to x and to the bias, where they are needed."""
    p, key, activation, axes = settings
    again = torch.is_grad_enabled() or transformed()  # whether this gradient may be differentiated
    if again or batched(g):
        wanted = [t for t, asked in zip((x, bias), needed, strict=False) if asked]
        with torch.enable_grad():
            y = _in_steps(x, bias, None, *settings)
        found = iter(torch.autograd.grad(y, wanted, g, create_graph=again))
        return tuple(next(found) if asked else None for asked in needed[:2])
    options: dict[str, Any] = {"activation": activation, **draws_of(axes)}
    arrays = as_array(g.contiguous()), as_array(x), _maybe(as_array, bias)
    dx, dbias = fd.bias_act_dropout_backward(*arrays, p, key, **options)
    return as_tensor(dx), _maybe(as_tensor, dbias)


def _check_real(x: Tensor, bias: Tensor | None) -> None:
    """Refuse what the fused pass refuses, in steps too."""
    if not isinstance(x, torch.Tensor):  # of a graph of torch.fx
        return
    if x.dim() == 0:
        raise ValueError("a bias needs x's last axis, got a 0-d tensor; use x[None]")
    for what, t, name in (("an activation", x, ""), ("a bias", bias, "bias")):
        if t is not None and t.is_complex():
            raise TypeError(f"{what} needs real numbers, got {t.dtype}; use x.real and x.imag")
        if t is not None:
            check_floats(t, name)


def bias_act_dropout(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    p: Rate | Tensor,
    key: Any,
    activation: str,
    axes: Numbers,
) -> Tensor:
    """Dropout of an activation of x + bias, plus a residual: in one pass where all are in C order."""
    _check_real(x, bias)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {shown(activation)}")
    if bias is not None and bias.shape != x.shape[-1:]:
        allowed, got = tuple(x.shape[-1:]), tuple(bias.shape)
        raise ValueError(f"bias must have the shape of x's last axis {allowed}, got {got}")
    if _fusible(x, residual) and (bias is None or _in_order(bias)):
        return _BiasActDropout.apply(x, bias, residual, plain_rate(p), plain_key(key), activation, axes)
    return _in_steps(x, bias, residual, p, key, activation, axes)


def _in_steps(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    p: Rate | Tensor,
    key: Any,
    activation: str,
    axes: Numbers,
) -> Tensor:
    """The same by torch's own addition and activation, and dropout after them."""
    if residual is not None:
        _check_shape(residual, x)
    shifted = x if bias is None else (x + bias).to(x.dtype)
    if activation in _SPREADING:
        kept = noise(torch.ones_like(shifted, requires_grad=False), "dropout", (p,), key, axes)
        shifted = shifted.masked_fill(kept == 0, 0.0)
    y = noise(_ACTIVATIONS[activation](shifted), "dropout", (p,), key, axes)
    return y if residual is None else residual + y
