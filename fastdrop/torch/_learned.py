"""The operators of noises whose number is learned: it has a gradient, as the tensor has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn, SupportsIndex, TypeAlias

import numpy as np
import torch

from fastdrop._arrays import device
from fastdrop._arrays.numbers import check_broadcast
from fastdrop._arrays.plan import axes_in
from fastdrop._noises._noise import NOISES
from fastdrop._stream.keys import Key
from fastdrop.torch._autograd import (
    as_array,
    as_tensor,
    batched,
    by_rows,
    check_real,
    check_tensors,
    check_traced,
    has_no_values,
    named,
    refuse_batches,
    stand_in,
    traced,
    transformed,
)
from fastdrop.torch._keys import eagerly, held, key_of, key_tensor, plain_key
from fastdrop.torch._noises import Numbers, NumbersWithDraws, draws_of

Tensor: TypeAlias = torch.Tensor
What: TypeAlias = tuple[str, Sequence[float], Numbers]  # a noise's name, its options and its axes
_ARGUMENTS = "Tensor x, Tensor number, Tensor key, str name, float[] options, int[] axes"


@torch.library.custom_op("fastdrop::learned", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _learned(
    x: Tensor, number: Tensor, key: Tensor, name: str, options: Sequence[float], axes: Sequence[int]
) -> Tensor:
    return _run(x, number, key_of(key), (name, options, tuple(axes)))


@cache
def _options(name: str) -> tuple[str, ...]:
    """The names of a noise's own options, for which its record looks at the signature each time."""
    return NOISES[name].options


def _run(x: Tensor, number: Tensor, key: Any, what: What) -> Tensor:
    """The noise of a tensor, without autograd."""
    name, options, axes = what
    given = dict(zip(_options(name), options, strict=True)) | draws_of(axes)
    found: Tensor = named(
        name, lambda: as_tensor(NOISES[name].function(as_array(x), _plain(number), key, **given))
    )
    return found


@torch.library.custom_op(
    "fastdrop::learned_backward", mutates_args=(), schema=f"(Tensor g, {_ARGUMENTS}) -> (Tensor, Tensor)"
)
def _backward(
    g: Tensor,
    x: Tensor,
    number: Tensor,
    key: Tensor,
    name: str,
    options: Sequence[float],
    axes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    return _run_backward(g, x, number, key_of(key), (name, options, tuple(axes)))


def _run_backward(g: Tensor, x: Tensor, number: Tensor, key: Any, what: What) -> tuple[Tensor, Tensor]:
    """The gradients of a tensor and of the number."""
    name, options, axes = what
    given = dict(zip(_options(name), options, strict=True))
    backward: Any = NOISES[name].backward
    if device.is_there(g) and not device.is_there(number):  # a plain number, of which no gradient is wanted
        return _run(g, number, key, what), torch.full_like(number, torch.nan)
    arrays, given = (as_array(g), as_array(x), _plain(number)), given | draws_of(axes)
    dx, slope = named(f"{name}_backward", lambda: backward(*arrays, key, **given))
    return as_tensor(dx), as_tensor(slope if device.is_there(slope) else np.asarray(slope)).to(number.dtype)


def _plain(number: Tensor) -> Any:
    """The number, or an array of them, as functions of arrays take it: one on a GPU is never read here."""
    if device.is_there(number):
        return number.detach()
    return as_array(number.double()) if number.dim() else float(number)


@_learned.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_backward.register_fake
def _(g: Tensor, x: Tensor, number: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dx, dnumber = (torch.empty_like(a, memory_format=torch.contiguous_format) for a in (x, number))
    return dx, dnumber


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, number, key, *ctx.settings = inputs
    ctx.save_for_backward(x, number, key)


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    dx, dnumber = _backward(g, *ctx.saved_tensors, *ctx.settings)
    return dx, dnumber, None, None, None, None


_learned.register_autograd(_gradients, setup_context=_keep)
by_rows(_learned)


class _Learned(torch.autograd.Function):
    """The same in fewer steps than operators take, and for listed draws, which they can't take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, number: Tensor, key: Any, what: What) -> Tensor:
        ctx.save_for_backward(x, number)
        ctx.settings = key, what
        return _run(x, number, key, what)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x, number), (key, what) = ctx.saved_tensors, ctx.settings
        if g.layout is torch.sparse_coo:
            g = g.to_dense()
        if torch.compiler.is_dynamo_compiling():  # compiled autograd
            return *eagerly(_LearnedBackward.apply, g, x, number, key, what), None, None
        if batched(g) or traced(g) or transformed():
            refuse_batches(what[2])
            return *_backward(g, x, number, key_tensor(key), *what), None, None
        return *_LearnedBackward.apply(g, x, number, key, what), None, None


class _LearnedBackward(torch.autograd.Function):
    """Its backward, which says so if it is to be differentiated, as the operator does."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, number: Tensor, key: Any, what: What
    ) -> tuple[Tensor, Tensor]:
        ctx.name = what[0]
        return _run_backward(g, x, number, key, what)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:
        raise RuntimeError(f"{ctx.name} has first derivatives only")


def learned(
    x: Tensor,
    number: Tensor,
    key: Key | SupportsIndex | Tensor,
    name: str,
    options: Sequence[float],
    axes: Numbers,
) -> Tensor:
    """A noise of a tensor, by its name, with first derivatives with respect to both."""
    check_tensors(x=x, **{NOISES[name].rate: number})
    check_real(NOISES[name].rate, number)
    _check_places(x, number, NOISES[name].rate)
    shared = axes_in(tuple(axes), x.dim())  # raises an error that the operator would give in C++'s words
    if isinstance(axes, NumbersWithDraws):
        if traced(x) or traced(number):
            check_traced(x, axes)
        if transformed():
            raise RuntimeError(
                f"under torch.func and in forward mode {name} can't have listed draws (rows, indices, "
                "offsets); use torch.autograd.grad, and a loop in place of vmap"
            )
    elif traced(x) or traced(number) or transformed():
        if not traced(x) and _differentiated():
            raise RuntimeError(f"torch.func doesn't differentiate {name}; use torch.autograd.grad")
        unread = has_no_values(x)
        if unread:
            if NOISES[name].by_element:
                draws = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
                check_broadcast(NOISES[name].rate, number, draws)
            plain = torch.zeros((1,) * number.dim(), device="cpu")
            _run(stand_in(x), plain, Key(0), (name, options, axes))
        y: Tensor = _learned(x, number, held(key, unread), name, options, axes)
        return y
    what = name, options, axes
    if torch.is_grad_enabled() and (x.requires_grad or number.requires_grad):
        y = _Learned.apply(x, number, plain_key(key), what)
        return y
    return _run(x, number, plain_key(key), what)


def _check_places(x: Tensor, number: Tensor, name: str) -> None:
    """Raise an error where a number, or its gradient, would have to wait for the GPU."""
    if device.is_there(x) == device.is_there(number):
        return
    wrong = f"{name} must be on {x.device} as x is, got one on {number.device}"
    if device.is_there(number):
        raise RuntimeError(f"{wrong}; use {name}.cpu()")
    if number.dim() or (number.requires_grad and torch.is_grad_enabled()):
        raise RuntimeError(f"{wrong}; use {name}.to(x.device), or module.to(x.device)")


def _differentiated() -> bool:
    """Whether torch.func is at work on derivatives, which it can't take of operators like these."""
    kinds, active = torch._C._functorch.TransformType, torch._C._functorch.get_interpreter_stack() or ()
    return any(each.key() in (kinds.Grad, kinds.Jvp) for each in active)
