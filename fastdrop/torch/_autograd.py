"""How a noise of `_noises` works on tensors: its run on the CPU, its derivatives, its operator for graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, TypeVar, cast

import ml_dtypes
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.autograd import forward_ad
from torch.autograd.profiler import record_function
from torch.fx import Proxy

from fastdrop._arrays import device
from fastdrop._arrays.hints import wrong_dtype
from fastdrop._arrays.host import as_lanes, overlaps_itself
from fastdrop._arrays.listed import Listed
from fastdrop._arrays.numbers import FULL, Rate, flag, is_real, rate
from fastdrop._arrays.plan import integers_in, window_given
from fastdrop._backends import cpu, loading, words
from fastdrop._stream.keys import Key, as_key_or_seed, checked_key, draw_of
from fastdrop.torch import _gpu, _keys
from fastdrop.torch._keys import (
    DeviceKey,
    eagerly,
    key_of,
    key_tensor,
    outside_transforms,
    plain_key,
    random_key,
)
from fastdrop.torch._noises import NOISES, PASSED, Numbers, NumbersWithDraws

Tensor: TypeAlias = torch.Tensor
T = TypeVar("T")
if TYPE_CHECKING:
    Integers: TypeAlias = ArrayLike | Tensor
    Rows: TypeAlias = Integers | None
    Indices: TypeAlias = Integers | tuple[Sequence[int], tuple[Integers, ...]] | None
else:  # TorchScript reads the annotations of modules, and knows none of these
    Rows = Indices = Any
What: TypeAlias = tuple[str, tuple[Any, ...], Numbers]  # a noise's name, rates and numbers
Settings: TypeAlias = tuple[str, tuple[Any, ...], Any, Numbers]  # the same with its key

_BFLOAT = np.dtype(ml_dtypes.bfloat16)
REAL = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
_DTYPES = REAL | {torch.complex64, torch.complex128}
PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})

# Under these names a small call finds them sooner.
_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_tracing: Callable[[], object] = torch._C._get_tracing_state


def as_array(x: Tensor) -> Any:
    """The tensor's memory as an array of floats; a tensor on a GPU is one itself."""
    check_device(x)
    if device.is_there(x):
        return x
    check_floats(x)
    if x.dtype is torch.bfloat16:
        return _memory(x.view(torch.int16)).view(ml_dtypes.bfloat16)
    return _memory(x)


def check_floats(x: Tensor, name: str = "") -> None:
    """Refuse a dtype that no noise takes, by the argument's name if one is given."""
    if x.dtype not in _DTYPES:
        raise TypeError(wrong_dtype(name, str(x.dtype), f"use {name or 'x'}.float()"))


def integers_or_floats(x: Tensor) -> NDArray[Any]:
    """The memory of a second tensor as an array, which may hold tokens."""
    check_dense(x)
    if x.is_floating_point() or x.is_complex():
        return as_array(x)
    check_device(x)
    return x if device.is_there(x) else _memory(x)


def check_device(x: Tensor) -> None:
    if not (x.is_cpu or device.is_there(x)):
        raise NotImplementedError(
            f"fastdrop.torch takes CPU and CUDA tensors, got one on {x.device}; use x.cpu(), or torch.nn's "
            "dropout there: fastdrop.torch.restore_dropout(model) puts it back"
        )


def _memory(x: Tensor) -> NDArray[Any]:
    # Nothing is copied, except views that are still to be conjugated or negated.
    array: NDArray[Any] = x.numpy(force=True)
    return array


def as_tensor(x: Any) -> Tensor:
    """The array's memory as a tensor, which it may be already."""
    if isinstance(x, torch.Tensor):
        return x
    if x.dtype == _BFLOAT:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


@cache
def in_openmp() -> ModuleType:
    """The module that drops in PyTorch's own threads. It imports Numba, so it is imported at first use."""
    with loading:
        from fastdrop.torch import _openmp

    return _openmp


def direct(x: Tensor) -> ModuleType:
    """The module that drops a tensor in the fewest steps, where x is."""
    return _gpu if device.is_there(x) else in_openmp()


def run(x: Tensor, other: Tensor | None, settings: Settings, inplace: bool = False) -> Tensor:
    """A noise of tensors, without autograd: a new tensor of x's memory format, or x itself."""
    return named(settings[0], _run, x, other, settings, inplace)


_profiled: Callable[[], bool] = torch.autograd._profiler_enabled


def named(name: str, function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns, in profiles by the name of a noise, as an operator of PyTorch's is there."""
    if _profiled():
        with record_function(f"fastdrop::{name}"):
            return function(*arguments)
    return function(*arguments)


def _run(x: Tensor, other: Tensor | None, settings: Settings, inplace: bool) -> Tensor:
    name, rates, key, numbers = settings
    if name == "dropout" and type(numbers) is tuple:  # without listed draws
        quick = direct(x)
        if (not numbers or quick is _gpu) and (drawn := drawn_rate(rates[0])) and quick.takes(x):
            given: Any = (*drawn, *words(key))
            if not numbers:
                return quick.dropout(x, given, inplace)
            if (y := _gpu.dropout_units(x, numbers, given, inplace)) is not None:
                return y
    if batched(x):
        return _run_batch(x, other, settings)
    check_dense(x)
    if inplace:
        return _run_in_place(x, other, settings)
    if x.is_contiguous() or NOISES[name].shape is not None:
        return as_tensor(_of_arrays(as_array(x), other, settings))
    y = torch.empty_like(x)
    if y.is_contiguous():
        return _run(y.copy_(x), other, settings, True)
    if name == "dropout" and not numbers and _by_columns(x, y, rates[0], key):
        return y
    # PyTorch copies between memory formats faster than our functions read arrays that are not in C order.
    return y.copy_(_run(x.resolve_conj().resolve_neg().contiguous(), other, settings, True))


def _by_columns(x: Tensor, y: Tensor, p: Any, key: Key) -> bool:
    """Do dropout of a CPU tensor such as one in channels_last, if y lies in memory as x does."""
    drawn = drawn_rate(p)
    if drawn is None or device.is_there(x) or x.is_complex() or x.is_neg():
        return False
    done: bool = cpu().drop_columns(as_lanes(as_array(x)), as_lanes(as_array(y)), 0, (*drawn, *words(key)))
    return done


def drawn_rate(p: Any) -> tuple[int, float] | None:
    """Threshold and scale of a rate, or None for an array and for 0 and 1, which need no random bits."""
    if not isinstance(p, float):
        return None
    found = rate(p)
    return found if 0 < found[0] < FULL else None


def _of_arrays(
    x: Any, other: Tensor | None, settings: Settings, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """A noise of the first tensor's array and the second tensor."""
    name, rates, key, numbers = settings
    if device.is_there(x) and not NOISES[name].on_gpu:
        raise NotImplementedError(f"{name} takes no tensors on a GPU, got one on {x.device}; use x.cpu()")
    arrays = (x,) if other is None else (x, integers_or_floats(other))
    return NOISES[name].of_arrays(arrays, rates, key, numbers, out)


def _run_batch(x: Tensor, other: Tensor | None, settings: Settings) -> Tensor:
    """A noise of a batch of gradients: PyTorch calls the operator for each of them."""
    name, rates, key, numbers = settings
    if any(isinstance(rate, (np.ndarray, torch.Tensor)) for rate in rates):
        raise RuntimeError("for batched gradients p must be one number, got an array; use a loop")
    refuse_batches(numbers)
    return _op(x, other, key_tensor(key), name, rates, numbers)


def refuse_batches(numbers: Numbers) -> None:
    """Refuse listed draws for a batch of gradients, which only operators can do."""
    if isinstance(numbers, NumbersWithDraws):
        raise RuntimeError("batched gradients can't have listed draws (rows, indices, offsets); use a loop")


def check_dense(x: Tensor) -> None:
    """Refuse a tensor of another layout, by that and with what to do."""
    if x.layout is not torch.strided or x.is_nested:
        kind = "a nested one; use x.unbind()" if x.is_nested else f"{x.layout}; use x.to_dense()"
        raise TypeError(f"dropout needs a dense tensor, got {kind}")


def _run_in_place(x: Tensor, other: Tensor | None, settings: Settings) -> Tensor:
    # what is not yet done in memory, and what a GPU's kernels don't write to
    if x.is_conj() or x.is_neg() or (device.is_there(x) and not x.is_contiguous()):
        return x.copy_(run(x, other, settings))
    array = as_array(x)
    if not x.is_contiguous() and overlaps_itself(array):
        raise ValueError(
            f"inplace can't change a tensor whose elements share memory, got strides {x.stride()}; use "
            "inplace=False or x.clone()"
        )
    _of_arrays(array, other, settings, array)
    return x


class _Noise(torch.autograd.Function):
    """A noise with its derivatives. It keeps its key, and of the tensors at most the second.

    The key is a tensor only under torch.func, where each row of a batch may have its own.
    """

    @staticmethod
    def forward(x: Tensor, other: Tensor | None, key: Any, what: What, inplace: bool) -> Tensor:
        name, rates, numbers = what
        if _seen(x, other):
            return _traced_noise(x, name, rates, key, numbers, other)
        return run(x, other, (name, rates, plain_key(key), numbers), inplace)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, other, key, ctx.what, ctx.inplace = inputs
        if ctx.inplace:
            ctx.mark_dirty(x)
        ctx.key = None if isinstance(key, torch.Tensor) else key
        if other is not None:
            ctx.dtype = output.dtype
        kept = other if NOISES[ctx.what[0]].keeps_other else None
        if kept is not None or ctx.key is None:
            saved = kept, None if ctx.key is not None else key
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        found = NOISES[ctx.what[0]]
        dx = _derivative(ctx, found.gradient, g) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx, None, None, None, None
        return dx, _derivative(ctx, found.other_gradient, g), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, other: Tensor | None, *_: None) -> Tensor:
        found = NOISES[ctx.what[0]]
        parts = []
        if tangent is not None:
            parts.append(_derivative(ctx, found.tangent or found.gradient, tangent, ctx.inplace))
        if other is not None and found.other_gradient:
            parts.append(_derivative(ctx, found.other_gradient, other.to(ctx.dtype)))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        x, other, key, (name, rates, numbers), _ = inputs
        count = info.batch_size
        columns = (_rows(each, axis, count) for each, axis in zip((x, other, key), in_dims, strict=False))
        rows = zip(*columns, strict=True)
        return torch.stack([noise(a, name, rates, k, numbers, other=b) for a, b, k in rows]), 0


def by_rows(operator: Any) -> None:
    """Let vmap call an operator for each row, of which it would warn otherwise."""

    def rule(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        axes = (
            axis if isinstance(x, torch.Tensor) else None for x, axis in zip(inputs, in_dims, strict=True)
        )
        columns = (_rows(x, axis, info.batch_size) for x, axis in zip(inputs, axes, strict=True))
        return torch.stack([operator(*row) for row in zip(*columns, strict=True)]), 0

    operator.register_vmap(rule)


def _rows(x: Any, axis: int | None, count: int) -> Sequence[Any]:
    """What each function under vmap gets of a tensor or key: its part, or all where that isn't mapped."""
    return [x] * count if axis is None else x.unbind(axis)


def _derivative(ctx: Any, name: str, g: Tensor, inplace: bool = False) -> Tensor:
    """The noise of that name of a gradient or tangent, which may be differentiated again."""
    if name == PASSED:
        return g
    if g.layout is torch.sparse_coo:
        return _like_sparse(g, lambda dense: _derivative(ctx, name, dense))
    (_, rates, numbers), key, other = ctx.what, ctx.key, None
    if key is None or NOISES[ctx.what[0]].keeps_other:
        other, given = ctx.saved_tensors
        key = given if key is None else key
    if torch.is_grad_enabled() or transformed() or torch.compiler.is_dynamo_compiling():
        return noise_of_gradient(g, name, rates, key, numbers, other=other, inplace=inplace)
    return run(g, other, (name, rates, key, numbers), inplace)


def outside_graphs(function: Callable[..., T]) -> Callable[..., T]:
    """A function for backward, which compiled autograd calls outside of its graphs: they hold no arrays."""
    return partial(eagerly, function) if torch.compiler.is_dynamo_compiling() else function


def noise_of_gradient(g: Tensor, *what: Any, **options: Any) -> Tensor:
    """Do as `noise` in a backward."""
    return outside_graphs(noise)(g, *what, **options)


def _like_sparse(g: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A noise of a sparse gradient, such as an embedding's: as sparse as that."""
    y = function(g.to_dense())
    return y.sparse_mask(g.coalesce()) if y.shape == g.shape else y


# Function.apply without its first part, which only torch.func needs and which is a third of its time.
_in_graph = super(torch.autograd.Function, _Noise).apply


# What a quick way needs: the module that does it, rate, key, and the numbers that kernels take. Where nobody
# may need the key of a random draw, the draw stands in its place.
Quick: TypeAlias = tuple[ModuleType, float, Key | int, tuple[Any, ...]]


class _Quick(torch.autograd.Function):
    """Dropout, maybe added to a residual, in few steps: small tensors wait for each of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, settings: Quick) -> Tensor:
        ctx.settings = settings
        return _dropped(settings[0], x, settings[3], residual)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x_needs, residual_needs, _ = ctx.needs_input_grad
        return _gradient(g, *ctx.settings) if x_needs else None, g if residual_needs else None, None


def _gradient(g: Tensor, quick: ModuleType, p: float, key: Key | int, numbers: tuple[Any, ...]) -> Tensor:
    """Dropout of a gradient."""
    if not (traced(g) or torch.is_grad_enabled() or transformed()) and quick.takes(g):
        return _dropped(quick, g, numbers)
    key = key if isinstance(key, Key) else checked_key(_keys.SEED, key)
    if g.layout is torch.sparse_coo:
        return _like_sparse(g, lambda dense: noise_of_gradient(dense, "dropout", (p,), key))
    return noise_of_gradient(g, "dropout", (p,), key)


_quick = super(torch.autograd.Function, _Quick).apply


def dropped_at_random(x: Tensor, p: float) -> Tensor | None:
    """Dropout by a `random_key` in fewer steps than `noise` takes, or None where only `noise` can do it."""
    return None if traced(x) or transformed() else dropped_unseen(x, p)


def dropped_unseen(x: Tensor, p: float) -> Tensor | None:
    """Do as `dropped_at_random`, where it is known that no trace and no transform looks on."""
    quick: ModuleType = direct(x)
    if not (drawn := drawn_rate(p)) or not quick.takes(x):
        return None
    key: Key | int
    if quick is _gpu and device.is_captured(x):
        key = random_key(x)
        numbers = *drawn, *words(key)
    else:
        key = _keys.random_draw()
        numbers = *drawn, *draw_of(_keys.SEED, key)
    if x.requires_grad and torch.is_grad_enabled():
        return _quick(x, None, (quick, p, key, numbers))
    return _dropped(quick, x, numbers)


def added_quickly(x: Tensor, residual: Tensor, p: Any, key: Any) -> Tensor | None:
    """Residual + dropout(x) of tensors on a GPU in the fewest steps, or None where that isn't the way."""
    if traced(x) or traced(residual) or transformed() or not (drawn := drawn_rate(p)):
        return None
    alike = x.shape == residual.shape and x.dtype is residual.dtype and x.device == residual.device
    if not alike or not (_gpu.takes(x) and _gpu.takes(residual)):
        return None
    if type(key) is not Key:
        key = plain_key(key)
        if isinstance(key, DeviceKey):
            return None
        key = as_key_or_seed(key)
    numbers = *drawn, *words(key)
    if (x.requires_grad or residual.requires_grad) and torch.is_grad_enabled():
        return _quick(x, residual, (_gpu, p, key, numbers))
    return _dropped(_gpu, x, numbers, residual)


def _dropped(
    quick: ModuleType, x: Tensor, numbers: tuple[Any, ...], residual: Tensor | None = None
) -> Tensor:
    """Dropout in the fewest steps, maybe added to a residual; by its name in profiles."""
    if _profiled():
        name = "dropout" if residual is None else "dropout_add"
        given = (x, numbers) if residual is None else (x, residual, numbers)
        return named(name, getattr(quick, name), *given)
    y: Tensor = quick.dropout(x, numbers) if residual is None else quick.dropout_add(x, residual, numbers)
    return y


@torch.library.custom_op(
    "fastdrop::noise",
    mutates_args=(),
    schema="(Tensor x, Tensor? other, Tensor key, str name, float[] rates, int[] numbers) -> Tensor",
)
def _op(
    x: Tensor, other: Tensor | None, key: Tensor, name: str, rates: Sequence[float], numbers: Sequence[int]
) -> Tensor:
    return run(x, other, (name, tuple(rates), key_of(key), tuple(numbers)))


@_op.register_fake
def _(
    x: Tensor, other: Tensor | None, key: Tensor, name: str, rates: Sequence[float], numbers: Sequence[int]
) -> Tensor:
    shape = NOISES[name].shape
    return torch.empty_like(x) if shape is None else x.new_empty(shape(x, other, tuple(numbers)))


def _keep_settings(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, other, key, name, rates, numbers = inputs
    ctx.save_for_backward(key, other if NOISES[name].keeps_other else None)
    ctx.settings = name, rates, numbers


def _op_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    key, other = ctx.saved_tensors
    name, *settings = ctx.settings
    found: list[Tensor | None] = [None, None]
    for place, derivative in enumerate((NOISES[name].gradient, NOISES[name].other_gradient)):
        if ctx.needs_input_grad[place]:
            found[place] = g if derivative == PASSED else _op(g, other, key, derivative, *settings)
    return *found, None, None, None, None


_op.register_autograd(_op_backward, setup_context=_keep_settings)


def placed(numbers: Any, rows: Any = None, indices: Any = None, offsets: Any = None) -> Any:
    """A noise's integers, mostly shared axes, with the draws that a caller listed, if any."""
    if rows is None and indices is None and offsets is None:  # the usual case first
        return integers_in(numbers)
    listed = cast(Listed, window_given(None, _as_arrays(rows), _as_arrays(indices), _as_arrays(offsets)))
    return NumbersWithDraws(integers_in(numbers), listed)


def check_traced(x: Tensor, numbers: Numbers) -> None:
    """Refuse what operators and so graphs can't take: nested tensors, and draws that a caller listed."""
    check_tensors(x=x)
    if isinstance(numbers, NumbersWithDraws):
        raise TypeError(
            "in a graph the draws can't be listed by rows, indices or offsets; use torch.compiler.disable"
        )


def _as_arrays(numbers: Any) -> Any:
    """A caller's integers, with arrays in place of tensors."""
    if isinstance(numbers, tuple):
        return tuple(map(_as_arrays, numbers))
    return _values(numbers, "rows") if isinstance(numbers, torch.Tensor) else numbers


def _values(x: Tensor, name: str) -> NDArray[Any]:
    """The memory of a tensor of plain numbers, which transforms of torch.func have nothing to do with."""
    check_dense(x)
    x = _unwrapped(x, name)
    return outside_transforms(lambda: as_array(x) if x.dtype is torch.bfloat16 else x.numpy(force=True))


def _unwrapped(x: Tensor, name: str) -> Tensor:
    """The tensor that one made under transforms of torch.func stands for."""
    if not torch._C._are_functorch_transforms_active():
        return x
    functorch = torch._C._functorch
    while functorch.is_gradtrackingtensor(x):
        x = functorch.get_unwrapped(x)
    if functorch.is_batchedtensor(x):
        raise RuntimeError(f"under vmap {name} can't be mapped, it must be the same for all; use a loop")
    return x


def plain_rates(rates: Sequence[Any]) -> tuple[Any, ...]:
    """Rates as functions of arrays take them."""
    if len(rates) == 1 and type(rates[0]) is float:  # the usual case first
        return tuple(rates)
    return tuple(map(plain_rate, rates))


def plain_rate(p: Any) -> Any:
    """One of them. An array is copied, so that backward has the same one."""
    if not isinstance(p, torch.Tensor):
        if type(p) is not float and device.is_there(p):
            got = type(p).__name__
            raise TypeError(
                f"p must be a number, a tensor or a NumPy array, got {got}; use torch.from_dlpack"
            )
        return p.copy() if isinstance(p, np.ndarray) else p
    if p.requires_grad:
        raise TypeError("p gets no gradient, got one that requires it; use p.detach(), or ConcreteDropout")
    if device.is_there(p):
        there = _unwrapped(p, "p")
        return outside_transforms(there.clone)
    return _values(p, "p").copy()


def traced(x: Tensor) -> bool:
    """Whether x stands for tensors to come, as in torch.compile, and has no memory, or a mode looks on.

    Such modes, as that of `make_fx`, see operators alone, and not what is written to memory.
    """
    return (
        torch.compiler.is_compiling()  # first, since torch.compile looks no further
        or type(x) not in PLAIN
        or _modes() > 0
        or _tracing() is not None
        or x.is_meta
    )


def batched(x: Tensor) -> bool:
    """Whether x stands for a batch, as gradients do in torch.autograd.functional with vectorize=True."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(x))


def transformed() -> bool:
    """Whether torch.func or forward-mode derivatives are at work."""
    return forward_ad._current_level >= 0 or _transforms()


def noise(
    x: Tensor,
    name: str,
    rates: Sequence[Rate | Tensor],
    key: Key | SupportsIndex | Tensor,
    numbers: Numbers = (),
    *,
    other: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """A noise of a tensor, or of two, with the derivatives that it has: one of `NOISES` by its name."""
    if inplace is not False and flag("inplace", inplace) and isinstance(x, torch.Tensor) and _is_learned(x):
        raise RuntimeError("inplace can't change a leaf that requires grad; use inplace=False or x.clone()")
    transforms = _transforms()
    if transforms and torch.compiler.is_dynamo_compiling():
        return eagerly(noise, x, name, rates, key, numbers, other=other, inplace=inplace)
    if transforms and not _functionalized():
        what = name, tuple(rates) if _seen(x, other) else plain_rates(rates), numbers
        y = _Noise.apply(x, other, key, what, False)
        return x.copy_(y) if inplace else y
    if transforms or _seen(x, other):
        y = _traced_noise(x, name, rates, key, numbers, other)
        return x.copy_(y) if inplace else y
    return noise_unseen(x, name, rates, key, numbers, other, inplace)


def noise_unseen(
    x: Tensor,
    name: str,
    rates: Sequence[Rate | Tensor],
    key: Key | SupportsIndex | Tensor,
    numbers: Numbers,
    other: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """Do as `noise`, where it is known that no trace and no transform looks on."""
    what = name, plain_rates(rates), numbers
    key = plain_key(key)
    if isinstance(key, DeviceKey) and key.memory.device != x.device:
        raise ValueError(f"a key on {key.memory.device} is for tensors there, got one on {x.device}")
    wanted = x.requires_grad or (other is not None and other.requires_grad)
    if inplace or (wanted and torch.is_grad_enabled()) or forward_ad._current_level >= 0:
        y = _in_graph(x, other, key, what, inplace)
        return x if inplace else y
    return run(x, other, (name, what[1], key, numbers))


def _seen(x: Tensor, other: Tensor | None) -> bool:
    """Whether one of a noise's tensors is `traced`."""
    return traced(x) or (other is not None and traced(other))


def _functionalized() -> bool:
    """Whether functionalize is at work, which takes operators, but no autograd.Function."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    found = [each.key() == torch._C._functorch.TransformType.Functionalize for each in stack]
    if torch.compiler.is_compiling() or (any(found) and not all(found)):
        raise RuntimeError(
            "torch.export and torch.func.functionalize take fastdrop's dropout alone, without transforms "
            "of torch.func; use torch.nn's there: fastdrop.torch.restore_dropout(model) puts it back"
        )
    return any(found)


def _is_learned(x: Tensor) -> bool:
    """Whether x is a leaf of a graph that is being recorded, which must not change in place."""
    return x.is_leaf and x.requires_grad and torch.is_grad_enabled()


def check_tensors(**given: Any) -> None:
    """Refuse what isn't a tensor, by its name, and tensors that aren't dense."""
    for name, x in given.items():
        if isinstance(x, torch.Tensor):
            check_dense(x)
        elif not isinstance(x, Proxy):
            raise TypeError(not_a_tensor(name, x))


def check_real(name: str, x: Tensor) -> None:
    """Refuse a tensor of complex numbers or bools, by its name."""
    if x.is_complex() or x.dtype is torch.bool:
        real = f"{name}.real" if x.is_complex() else f"{name}.float()"
        raise TypeError(f"{name} must be of real numbers, got {x.dtype}; use {real}")


def not_a_tensor(name: str, x: Any) -> str:
    """What to say of an object where a tensor is needed."""
    arrays = "use torch.from_numpy, or the functions and layers of fastdrop, which take arrays"
    advice = arrays if isinstance(x, np.ndarray) else "see help() for the order of arguments"
    return f"{name} must be a tensor, got {type(x).__name__}; {advice}"


def _traced_noise(
    x: Tensor, name: str, rates: Sequence[Any], key: Any, numbers: Numbers, other: Tensor | None
) -> Tensor:
    """The operator, which is what graphs hold of a noise."""
    check_traced(x, numbers)
    if other is not None and bool(getattr(x, "is_meta", False)) is not bool(getattr(other, "is_meta", False)):
        raise RuntimeError(f"tensors must be on one device, got {x.device} and {other.device}")
    for each in rates:
        check_one_number(name, each)
    unread = has_no_values(x)
    if unread:
        _check_unread(x, other, name, tuple(rates), numbers)
    for each in rates:
        check_number(name, each)
    return _op(x, other, _keys.held(key, unread), name, rates, numbers)


def has_no_values(x: Tensor) -> bool:
    """Whether x is a meta tensor outside of graphs, for which nobody will call a kernel that checks."""
    if type(x) not in PLAIN or not x.is_meta:  # the usual case first
        return False
    return not (torch.compiler.is_compiling() or _modes() > 0 or _transforms())


def stand_in(x: Tensor, empty: bool = True) -> Tensor:
    """A tensor in memory like one that isn't there; an empty one has no elements along its first axis."""
    shape = (0, *x.shape[1:])[: x.dim()] if empty else x.shape
    return torch.zeros((), dtype=x.dtype, device="cpu").expand(shape)


def _check_unread(
    x: Tensor, other: Tensor | None, name: str, rates: tuple[Any, ...], numbers: Numbers
) -> None:
    """Raise the errors of a noise's function for tensors without memory, by others in their place."""
    if NOISES[name].shape is not None:  # rows of an embedding, which may be like any tensor that is dropped
        name, other, numbers = "dropout", None, ()
    empty = other is None or other.shape == x.shape
    second = None if other is None else stand_in(other, empty)
    _of_arrays(as_array(stand_in(x, empty)), second, (name, rates, Key(0), numbers))


def check_number(name: str, rate: Any) -> None:
    """Refuse what isn't a number where a noise's operator would say so in C++'s words, or take a bool."""
    if not is_real(rate) and not isinstance(rate, (torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} takes real numbers, got {type(rate).__name__} {rate}; use one number")


def check_one_number(name: str, rate: Any) -> None:
    """Refuse an array of rates, which the operators can't take."""
    if isinstance(rate, (np.ndarray, torch.Tensor)):
        raise TypeError(f"in a graph {name} takes one number, got an array; use torch.compiler.disable")
