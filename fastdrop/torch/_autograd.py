"""Tensors handed to the functions of arrays, and what autograd and torch.compile need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, SupportsIndex, TypeAlias

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad

import fastdrop as fd
from fastdrop._arrays.numbers import Rate
from fastdrop._backends import loading
from fastdrop._stream.keys import Key, stream, words
from fastdrop.torch._keys import SEED, key_of, key_tensor, plain_key, random_draw

Tensor: TypeAlias = torch.Tensor
Numbers: TypeAlias = tuple[int, ...]  # shared axes, or what else a noise needs beside p and key
Settings: TypeAlias = tuple[str, Any, Any, Numbers]  # a noise's name, p, key and numbers

_DTYPES = frozenset({torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128})
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


def _by_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: NDArray, p: float, key: Key, axes: Numbers, out: NDArray | None) -> NDArray:
        return function(x, p, key, shared_axes=axes, out=out)

    return call


def _drop_block(x: NDArray, p: float, key: Key, numbers: Numbers, out: NDArray | None) -> NDArray:
    size, shared = numbers
    return fd.drop_block(x, p, key, block_size=size, shared_channels=bool(shared), out=out)


# Each noise as a function of an array, and the name of its gradient, which is a noise too.
_NOISES: dict[str, tuple[Callable[..., NDArray], str]] = {
    "dropout": (_by_axes(fd.dropout), "dropout"),
    "gaussian_dropout": (_by_axes(fd.gaussian_dropout), "gaussian_dropout"),
    "alpha_dropout": (_by_axes(fd.alpha_dropout), "alpha_dropout_backward"),
    "alpha_dropout_backward": (_by_axes(fd.alpha_dropout_backward), "alpha_dropout_backward"),
    "drop_block": (_drop_block, "drop_block"),
}


def _of_gradient(settings: Settings) -> Settings:
    """Those of the noise that the gradient has."""
    return _NOISES[settings[0]][1], *settings[1:]


def as_array(x: Tensor) -> NDArray:
    """The tensor's memory as an array."""
    if not x.is_cpu:
        raise NotImplementedError(
            f"fastdrop.torch takes CPU tensors, got one on {x.device}; use x.cpu(), or torch.nn's dropout "
            "there: fastdrop.torch.restore_dropout(model) puts it back"
        )
    if x.dtype in _DTYPES:
        return x.numpy(force=True)  # no copy, but of views that are still to be conjugated or negated
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy(force=True).view(ml_dtypes.bfloat16)
    allowed = "float16, bfloat16, float32, float64, complex64 or complex128"
    raise TypeError(f"dropout needs {allowed}, got {x.dtype}; use x.float()")


def as_tensor(x: NDArray) -> Tensor:
    """The array's memory as a tensor."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


@cache
def _team() -> ModuleType:
    """What drops the elements of tensors that lie in C order."""
    with loading:
        from fastdrop.torch import _openmp

    return _openmp


def _run(x: Tensor, name: str, p: float, key: Any, numbers: Numbers, inplace: bool = False) -> Tensor:
    """A noise of a tensor, without autograd: a new one of x's memory format, or x itself."""
    team = _team()
    if name == "dropout" and not numbers and (found := team.drawn(p)) and team.takes(x):
        return team.dropout(x, (*found, *stream(key)), inplace)
    if batched(x):  # PyTorch calls an operator for each of the batch
        if isinstance(p, np.ndarray):
            raise RuntimeError("for batched gradients p must be one number, got an array; use a loop")
        return _op(x, key_tensor(key), name, p, numbers)
    if x.layout is not torch.strided or x.is_nested:
        kind = "a nested one; use x.unbind()" if x.is_nested else f"{x.layout}; use x.to_dense()"
        raise TypeError(f"dropout needs a dense tensor, got {kind}")
    if inplace:
        return _run_in_place(x, name, p, key, numbers)
    if x.is_contiguous():
        return as_tensor(_NOISES[name][0](as_array(x), p, key, numbers, None))
    y = torch.empty_like(x)
    if y.is_contiguous():
        return _run(y.copy_(x), name, p, key, numbers, True)
    # PyTorch's copies between memory formats are faster than the buffer that arrays go through
    return y.copy_(_run(x.resolve_conj().resolve_neg().contiguous(), name, p, key, numbers, True))


def _run_in_place(x: Tensor, name: str, p: float, key: Any, numbers: Numbers) -> Tensor:
    if x.is_conj() or x.is_neg():  # not yet done in memory
        return x.copy_(_run(x, name, p, key, numbers))
    array = as_array(x)
    _NOISES[name][0](array, p, key, numbers, array)
    return x


class _Noise(torch.autograd.Function):
    """A noise that is linear, but for a constant, and keeps nothing of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Settings, inplace: bool = False) -> Tensor:
        ctx.gradient, ctx.inplace = _of_gradient(settings), inplace
        if inplace:
            ctx.mark_dirty(x)
        return _run(x, *settings, inplace)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or transformed():
            return _Noise.apply(g, ctx.gradient), None, None
        return _run(g, *ctx.gradient), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        name, p, key, numbers = ctx.gradient
        return noise(tangent, name, p, key, numbers, ctx.inplace)


# without what torch.func needs of apply, which is a third of its time
_in_graph = super(torch.autograd.Function, _Noise).apply


class _AtRandom(torch.autograd.Function):
    """Dropout by a random draw, in few steps: these cost what the elements of a small tensor do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, draw: int, numbers: tuple[int, float, int, int]) -> Tensor:
        ctx.settings = p, draw, numbers
        return _team().dropout(x, numbers)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        p, draw, numbers = ctx.settings
        team = _team()
        if torch.is_grad_enabled() or transformed() or not team.takes(g):
            return noise(g, "dropout", p, Key(SEED, draw)), None, None, None
        return team.dropout(g, numbers), None, None, None


_at_random = super(torch.autograd.Function, _AtRandom).apply


def dropped_at_random(x: Tensor, p: float) -> Tensor | None:
    """Dropout by a `random_key`, in fewer steps than by `noise`; None where that must do it."""
    if traced(x) or transformed():
        return None
    team = _team()
    if not (found := team.drawn(p)) or not team.takes(x):
        return None
    draw = random_draw()
    numbers = *found, *words(SEED, draw)
    if x.requires_grad and torch.is_grad_enabled():
        return _at_random(x, p, draw, numbers)
    return team.dropout(x, numbers)


class _TransformedNoise(_Noise):
    """The same as torch.func wants it, which takes longer to call."""

    @staticmethod
    def forward(x: Tensor, settings: Settings) -> Tensor:  # type: ignore[override]
        return _run(x, *settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.gradient, ctx.inplace = _of_gradient(inputs[1]), False

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return noise(g, *ctx.gradient), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, settings: Settings) -> tuple[Tensor, int]:
        return torch.stack([noise(part, *settings) for part in x.unbind(in_dims[0])]), 0


@torch.library.custom_op(
    "fastdrop::noise",
    mutates_args=(),
    schema="(Tensor x, Tensor key, str name, float p, int[] numbers) -> Tensor",
)
def _op(x: Tensor, key: Tensor, name: str, p: float, numbers: Sequence[int]) -> Tensor:
    return _run(x, name, p, key_of(key), tuple(numbers), False)


@_op.register_fake
def _(x: Tensor, key: Tensor, name: str, p: float, numbers: Sequence[int]) -> Tensor:
    return torch.empty_like(x)


def _keep_settings(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, key, name, p, numbers = inputs
    ctx.save_for_backward(key)
    ctx.settings = _NOISES[name][1], p, numbers


def _op_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (key,) = ctx.saved_tensors
    return _op(g, key, *ctx.settings), None, None, None, None


_op.register_autograd(_op_backward, setup_context=_keep_settings)


def axes_of(axes: SupportsIndex | Sequence[SupportsIndex]) -> Any:
    """Shared axes as a tuple."""
    return (axes,) if isinstance(axes, SupportsIndex) else tuple(axes)


def plain_rate(p: Any) -> Any:
    """The rate as functions of arrays take it; an array of them copied, to be the same in backward."""
    if type(p) is float:  # the usual case first
        return p
    given = p.numpy() if isinstance(p, torch.Tensor) else p
    return given.copy() if isinstance(given, np.ndarray) else given


def traced(x: Tensor) -> bool:
    """Whether x stands for tensors to come, as in torch.compile, and has no memory yet."""
    return torch.compiler.is_compiling() or type(x) not in _PLAIN


def batched(x: Tensor) -> bool:
    """Whether x stands for a batch, as gradients do in torch.autograd.functional with vectorize=True."""
    return torch._C._functorch.is_legacy_batchedtensor(x)


def transformed() -> bool:
    """Whether torch.func or forward-mode derivatives are at work."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def noise(
    x: Tensor,
    name: str,
    p: Rate | Tensor,
    key: Key | SupportsIndex | Tensor,
    numbers: Numbers = (),
    inplace: bool = False,
) -> Tensor:
    """A noise of a tensor."""
    if inplace and x.is_leaf and x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("inplace can't change a leaf that requires grad; use inplace=False or x.clone()")
    if traced(x):
        if isinstance(p, (np.ndarray, torch.Tensor)):
            raise TypeError("in torch.compile p must be one number, got an array; use torch.compiler.disable")
        held = key if isinstance(key, torch.Tensor) else key_tensor(key)
        y = _op(x, held, name, p, numbers)
    elif torch._C._are_functorch_transforms_active():
        y = _TransformedNoise.apply(x, (name, plain_rate(p), plain_key(key), numbers))
    elif inplace or (x.requires_grad and torch.is_grad_enabled()) or forward_ad._current_level >= 0:
        y = _in_graph(x, (name, plain_rate(p), plain_key(key), numbers), inplace)
        return x if inplace else y
    else:
        return _run(x, name, plain_rate(p), plain_key(key), numbers)
    return x.copy_(y) if inplace else y
