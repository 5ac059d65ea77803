"""Tensors handed to the functions of arrays, and what autograd and torch.compile need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex, TypeAlias

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd import forward_ad
from torch.nn import functional

import fastdrop as fd
from fastdrop.random import Key, as_key_or_seed, signed

Tensor: TypeAlias = torch.Tensor
Numbers: TypeAlias = tuple[int, ...]  # shared axes, or what else a noise needs beside p and key

# Modules without a key of their own take random draws of one seed. A random seed would cost as much as the
# rest of a small call; the 512 Philox keys of these draws stay in a cache. Of a million calls two have the
# same mask in one run of five.
_SEED, _DRAWS = 0x746F726368, 1 << 41
_DTYPES = frozenset({torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128})
_CPU = torch.device("cpu")
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
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
}


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
        return x.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    allowed = "float16, bfloat16, float32, float64, complex64 or complex128"
    raise TypeError(f"dropout needs {allowed}, got {x.dtype}; use x.float()")


def as_tensor(x: NDArray) -> Tensor:
    """The array's memory as a tensor."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def _run(x: Tensor, name: str, p: float, key: Any, numbers: Numbers, inplace: bool = False) -> Tensor:
    """A noise of a tensor, without autograd: a new one of x's memory format, or x itself."""
    if inplace:
        return _run_in_place(x, name, p, key, numbers)
    if x.is_contiguous():
        return as_tensor(_NOISES[name][0](as_array(x), p, key, numbers, None))
    y = torch.empty_like(x)
    if y.is_contiguous():
        return _run_in_place(y.copy_(x), name, p, key, numbers)
    # PyTorch's copies between memory formats are faster than the buffer that arrays go through
    return y.copy_(_run_in_place(x.resolve_conj().resolve_neg().contiguous(), name, p, key, numbers))


def _run_in_place(x: Tensor, name: str, p: float, key: Any, numbers: Numbers) -> Tensor:
    if x.is_conj() or x.is_neg():  # not yet done in memory
        return x.copy_(_run(x, name, p, key, numbers))
    array = as_array(x)
    _NOISES[name][0](array, p, key, numbers, array)
    return x


class _Noise(torch.autograd.Function):
    """A noise that is linear, but for a constant, and keeps nothing of its input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, name: str, p: float, key: Any, numbers: Numbers, inplace: bool = False
    ) -> Tensor:
        ctx.gradient = _NOISES[name][1], p, key, numbers
        ctx.inplace = inplace
        if inplace:
            ctx.mark_dirty(x)
        return _run(x, name, p, key, numbers, inplace)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        differentiable = torch.is_grad_enabled() or forward_ad._current_level >= 0
        call = _Noise.apply if differentiable else _run
        return call(g, *ctx.gradient), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return noise(tangent, *ctx.gradient, inplace=ctx.inplace)


class _TransformedNoise(_Noise):
    """The same as torch.func wants it, which takes longer to call."""

    @staticmethod
    def forward(x: Tensor, name: str, p: float, key: Any, numbers: Numbers) -> Tensor:  # type: ignore[override]
        return _run(x, name, p, key, numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, name, p, key, numbers = inputs
        ctx.gradient, ctx.inplace = (_NOISES[name][1], p, key, numbers), False

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return noise(g, *ctx.gradient), None, None, None, None


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


def key_tensor(key: Key) -> Tensor:
    """The key as a graph of torch.compile holds it: the draw, then the seed's 64-bit words, low first."""
    seed, words = key.seed, []
    while seed >= 1 << 63:
        words.append(signed(seed))
        seed >>= 64
    return torch.tensor([signed(key.draw), *words, seed], dtype=torch.int64, device=_CPU)


def key_of(tensor: Tensor) -> Key:
    """The key that `key_tensor` was given."""
    draw, *words = (word % (1 << 64) for word in tensor.tolist())
    return Key(sum(word << 64 * place for place, word in enumerate(words)), draw)


def random_key() -> Key:
    """A key from torch's generator, over which torch.manual_seed and checkpoint rule."""
    return Key(_SEED, int(_random_draw(())))


def random_key_tensor() -> Tensor:
    """As `random_key`, for a graph of torch.compile."""
    return functional.pad(_random_draw((1,)), (0, 1), value=_SEED)


def _random_draw(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(_DRAWS, shape, device=_CPU)


def traced(x: Tensor) -> bool:
    """Whether x stands for tensors to come, as in torch.compile, and has no memory yet."""
    return torch.compiler.is_compiling() or type(x) not in _PLAIN


def noise(
    x: Tensor,
    name: str,
    p: float,
    key: Key | SupportsIndex | Tensor,
    numbers: Numbers = (),
    inplace: bool = False,
) -> Tensor:
    """A noise of a tensor."""
    if inplace and x.is_leaf and x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("inplace can't change a leaf that requires grad; use inplace=False or x.clone()")
    if traced(x):
        held = key if isinstance(key, torch.Tensor) else key_tensor(as_key_or_seed(key))
        y = _op(x, held, name, p, numbers)
    elif torch._C._are_functorch_transforms_active():
        y = _TransformedNoise.apply(x, name, p, key, numbers)
    else:
        return _Noise.apply(x, name, p, key, numbers, inplace)
    return x.copy_(y) if inplace else y


class _DropoutAdd(torch.autograd.Function):
    """`fastdrop.dropout_add` of C-order tensors."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, p: float, key: Any, axes: Numbers) -> Tensor:
        ctx.settings = "dropout", p, key, axes
        return as_tensor(fd.dropout_add(as_array(x), as_array(residual), p, key, shared_axes=axes))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        dx = noise(g, *ctx.settings) if ctx.needs_input_grad[0] else None
        return dx, g, None, None, None


def dropout_add(x: Tensor, residual: Tensor, p: float, key: Any, axes: Numbers) -> Tensor:
    """Residual + dropout(x), fused where both lie in C order and are alike."""
    if _fusible(x, residual):
        return _DropoutAdd.apply(x, residual, p, key, axes)
    return residual + noise(x, "dropout", p, key, axes)


def _fusible(x: Tensor, *others: Tensor | None) -> bool:
    """Whether arrays of these can go through a fused pass: all in memory in C order, and alike."""
    given = [t for t in others if t is not None]
    alike = all(t.shape == x.shape and t.dtype is x.dtype for t in given)
    return alike and all(map(_lies_plainly, (x, *given))) and not torch._C._are_functorch_transforms_active()


def _lies_plainly(x: Tensor) -> bool:
    return not traced(x) and x.is_contiguous()


def _maybe(function: Callable[[Any], Any], value: Any) -> Any:
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
        options: dict[str, Any] = {"activation": activation, "residual": other, "shared_axes": axes}
        return as_tensor(fd.bias_act_dropout(*arrays, p, key, **options))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        p, key, activation, axes = ctx.settings
        if torch.is_grad_enabled():  # to be differentiated again
            wanted = [t for t, needed in zip((x, bias), ctx.needs_input_grad, strict=False) if needed]
            y = _in_steps(x, bias, None, *ctx.settings)
            found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
            dx, dbias = (next(found) if needed else None for needed in ctx.needs_input_grad[:2])
        else:
            options: dict[str, Any] = {"activation": activation, "shared_axes": axes}
            arrays = as_array(g.contiguous()), as_array(x), _maybe(as_array, bias)
            dx, dbias = fd.bias_act_dropout_backward(*arrays, p, key, **options)
            dx, dbias = as_tensor(dx), _maybe(as_tensor, dbias)
        return dx, dbias, g, None, None, None, None


def bias_act_dropout(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    p: float,
    key: Any,
    activation: str,
    axes: Numbers,
) -> Tensor:
    """Dropout of an activation of x + bias, plus a residual: fused where all lie in C order."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {tuple(_ACTIVATIONS)}, got {activation!r}")
    if _fusible(x, residual) and (bias is None or _lies_plainly(bias)):
        return _BiasActDropout.apply(x, bias, residual, p, key, activation, axes)
    return _in_steps(x, bias, residual, p, key, activation, axes)


def _in_steps(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    p: float,
    key: Any,
    activation: str,
    axes: Numbers,
) -> Tensor:
    shifted = x if bias is None else (x + bias).to(x.dtype)
    y = noise(_ACTIVATIONS[activation](shifted), "dropout", p, key, axes)
    return y if residual is None else residual + y
