"""The operators of noises whose number is learned: it has a gradient, as the tensor has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import torch

from fastdrop._arrays.plan import axes_in
from fastdrop._noises._noise import NOISES
from fastdrop._stream.keys import Key
from fastdrop.torch._autograd import as_array, as_tensor, axes_of, check_tensors
from fastdrop.torch._keys import key_of, key_tensor

Tensor: TypeAlias = torch.Tensor
OPTIONS = {"concrete_dropout": ("temperature",), "information_dropout": ()}  # what else each noise takes
_ARGUMENTS = "Tensor x, Tensor number, Tensor key, str name, float[] options, int[] axes"


@torch.library.custom_op("fastdrop::learned", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _learned(
    x: Tensor, number: Tensor, key: Tensor, name: str, options: Sequence[float], axes: Sequence[int]
) -> Tensor:
    given = dict(zip(OPTIONS[name], options, strict=True))
    y = NOISES[name].function(as_array(x), _plain(number), key_of(key), shared_axes=tuple(axes), **given)
    return as_tensor(y)


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
    given = dict(zip(OPTIONS[name], options, strict=True))
    backward: Any = NOISES[name].backward
    arrays = as_array(g), as_array(x), _plain(number)
    dx, slope = backward(*arrays, key_of(key), shared_axes=tuple(axes), **given)
    return as_tensor(dx), torch.from_numpy(np.asarray(slope)).to(number.dtype)


def _plain(number: Tensor) -> Any:
    """The number, or an array of them, as functions of arrays take it."""
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


def learned(
    x: Tensor,
    number: Tensor,
    key: Key | SupportsIndex | Tensor,
    name: str,
    options: Sequence[float],
    axes: SupportsIndex | Sequence[SupportsIndex],
) -> Tensor:
    """A noise of a tensor, by its name, with first derivatives with respect to both."""
    check_tensors(x=x, **{NOISES[name].rate: number})
    held = key if isinstance(key, torch.Tensor) else key_tensor(key)
    given = axes_of(axes)
    axes_in(given, x.dim())  # raises an error that the operator would give in C++'s words
    y: Tensor = _learned(x, number, held, name, options, given)
    return y
