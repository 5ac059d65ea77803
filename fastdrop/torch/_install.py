"""fastdrop's kernels under PyTorch's own dropout operators, for the whole process.

PyTorch's dispatcher looks for an operator's kernel by what the tensors are. Its dropout operators have none
for CPU or CUDA tensors, but an implementation by other operators for tensors of every kind. So a kernel for
these takes nobody's place, and can pass on to that implementation whatever isn't ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import torch

from fastdrop.torch import _attention as attention
from fastdrop.torch import _autograd as autograd
from fastdrop.torch._keys import random_key

Tensor: TypeAlias = torch.Tensor
Kernel: TypeAlias = Callable[[Tensor, float, bool], Tensor]

# From how many elements on a tensor is ours: below, PyTorch's kernel is faster. It is one number, whether
# gradients are wanted or not, because a checkpoint may run its first forward without them and its second with
# them, and both need the same mask.
_FROM = 1 << 10
_NAMES = hasattr(torch.Tensor, "names")  # which axes had in earlier versions of PyTorch
_THEIRS = torch._C.DispatchKey.CompositeImplicitAutograd
# Where kernels are put, and whether they record for autograd there. Tensors made in inference mode, and calls
# by kernels that have recorded already, go to the second.
_KEYS = {"AutogradCPU": True, "CPU": False}
if torch.version.cuda is not None:
    _KEYS |= {"AutogradCUDA": True, "CUDA": False}


class _Operator(NamedTuple):
    """What one of PyTorch's operators is among our noises."""

    noise: str
    by_channel: bool  # whether all elements of a sample's channel share a draw
    inplace: bool


_OPERATORS = {
    f"{feature}{noise}{end}": _Operator(noise, bool(feature), bool(end))
    for noise in ("dropout", "alpha_dropout")
    for feature in ("", "feature_")
    for end in ("", "_")
}


_TAKEN = *_OPERATORS, "scaled_dot_product_attention"


def _passes_unseen(x: Tensor) -> bool:
    """Whether nothing but autograd looks at what becomes of a tensor: no trace, no transform, no mode.

    Those would not see what a kernel writes to memory.
    """
    return not (autograd.traced(x) or autograd.transformed() or (_NAMES and any(x.names)))


def _in_memory(x: Tensor) -> bool:
    """Whether a tensor's elements lie in memory as they are; some tensors only stand for others."""
    try:
        return x.dtype in autograd.REAL and x.data_ptr() > 0 and not x.is_neg() and not x.is_nested
    except RuntimeError:  # the layout has no address
        return False


def _may_change(x: Tensor) -> bool:
    """Whether a tensor may simply be changed in place; else PyTorch's own kernel knows what to say or do."""
    if x._is_view() or not x.is_contiguous() or x.is_inference() != torch.is_inference_mode_enabled():
        return False
    return not (x.is_leaf and x.requires_grad and torch.is_grad_enabled())


def _kernel(name: str, records: bool) -> Kernel:
    """The kernel of an operator. It passes on to PyTorch's implementation what isn't ours."""
    noise, by_channel, inplace = _OPERATORS[name]
    theirs = getattr(torch.ops.aten, name).default._op_dk
    quick = name == "dropout" and records

    def kernel(x: Tensor, p: float, train: bool) -> Tensor:
        if train and 0 < p < 1 and x.numel() >= _FROM and _passes_unseen(x):
            if quick and (y := autograd.dropped_unseen(x, p)) is not None:
                return y
            has_axes = x.dim() > 1 or not by_channel
            if has_axes and _in_memory(x) and (_may_change(x) or not inplace):
                axes = tuple(range(2, x.dim())) if by_channel else ()
                if records:
                    return autograd.noise(x, noise, (p,), random_key(x), axes, inplace=inplace)
                return autograd.run(
                    x if inplace else x.detach(), None, (noise, (p,), random_key(x), axes), inplace
                )
        passed_on: Tensor = theirs(_THEIRS, x, p, train)
        return passed_on

    return kernel


def _attention_kernel() -> Callable[..., Tensor]:
    """The kernel of scaled_dot_product_attention, which takes calls with dropout."""
    theirs = torch.ops.aten.scaled_dot_product_attention.default._op_dk

    def kernel(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if 0 < dropout_p < 1:
            given = query, key, value, attn_mask, is_causal, enable_gqa
            if attention.is_ours(*given):
                drawn = random_key(query)
                return attention.attention(
                    query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, drawn
                )
        options = {"scale": scale, "enable_gqa": enable_gqa}
        passed_on: Tensor = theirs(_THEIRS, query, key, value, attn_mask, dropout_p, is_causal, **options)
        return passed_on

    return kernel


_lock = threading.Lock()
_library: Any = None  # what holds our kernels in PyTorch's tables; None while they aren't there


class Installation:
    """What `install` returns: `remove` takes the kernels away, as does the end of a ``with``.

    Examples
    --------
    >>> import fastdrop.torch as fdt
    >>> handle = fdt.install()
    >>> handle.remove()
    >>> fdt.installed()
    False
    """

    def __init__(self, began: bool) -> None:
        self._began = began  # whether the kernels weren't there before

    def remove(self) -> None:
        """Give PyTorch's dropout back to PyTorch. Where that was done already nothing happens."""
        global _library
        with _lock:
            if _library is not None:
                _library._destroy()
                _library = None
                for name in _TAKEN:  # for its graphs PyTorch remembers which kernels an operator had
                    getattr(torch.ops.aten, name).default._dispatch_cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._began:
            self.remove()

    def __repr__(self) -> str:
        return f"<fastdrop.torch {'installed' if installed() else 'not installed'}>"


def install() -> Installation:
    """Put fastdrop's kernels under PyTorch's own dropout, for the whole process.

    Then dropout of CPU tensors is ours, and of CUDA tensors where PyTorch has CUDA, wherever it hides:
    `torch.nn`'s modules, `torch.nn.functional`, attention, recurrent networks, models of other libraries,
    TorchScript. Models stay as they are. Fewer than 1,024 elements, other dtypes and all under
    `torch.compile` stay PyTorch's, as the notes say.

    Returns
    -------
    Installation
        With `remove`, which takes the kernels away. As a context manager it does so at the end, unless the
        kernels were there before it.

    Raises
    ------
    RuntimeError
        If another library has put its own kernels under PyTorch's dropout.

    See Also
    --------
    installed : whether the kernels are there.
    replace_dropout : for modules with keys of their own.

    Notes
    -----
    The operators are dropout, alpha_dropout, feature_dropout (which `torch.nn.Dropout1d` to 3d call),
    feature_alpha_dropout, and their forms that work in place, and scaled_dot_product_attention with dropout,
    which then goes by blocks where `fastdrop.torch.scaled_dot_product_attention` does. Smaller matrices of
    weights are made by PyTorch and dropped by our kernel. Profiles show ``fastdrop::dropout`` and
    ``fastdrop::attention``.

    Masks come from torch's generator, as PyTorch's do, so that `torch.manual_seed`, checkpoints and forked
    generators work as ever. But they are other masks than PyTorch's of the same seed: those of
    `fastdrop.dropout` under a key that is drawn from the generator. Dropped elements are +0 also where the
    input is infinite or NaN. The gradient needs the key alone, and no mask is stored.

    What isn't ours goes on to PyTorch's own implementation, with its bits: fewer than 1,024 elements, other
    dtypes than float16, bfloat16, float32 and float64, other layouts and devices, attention on a GPU, and all
    that is traced or transformed, as by `torch.func`, `make_fx` or `torch.compile`. In-place forms of views
    and of what is not contiguous do too.

    PyTorch's tables of kernels are the process's: install and remove while no other thread drops.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> with fdt.install():
    ...     fdt.installed()
    ...     y = torch.nn.functional.dropout(torch.ones(4096), 0.5)
    True
    >>> fdt.installed()
    False
    """
    global _library
    with _lock:
        began = _library is None
        if began:
            _library = _registered()
    return Installation(began)


def _registered() -> Any:
    """Put the kernels of all operators into PyTorch's tables, or none of them."""
    kernels = {(name, key): _kernel(name, records) for name in _OPERATORS for key, records in _KEYS.items()}
    # Not under "CPU": PyTorch would no longer take attention apart in exported programs.
    kernels["scaled_dot_product_attention", "AutogradCPU"] = _attention_kernel()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    taken = sorted({name for name, key in kernels if has_kernel(f"aten::{name}", key)})
    if taken:
        raise RuntimeError(
            f"another library has put its kernels under PyTorch's {', '.join(taken)}; install() needs their "
            "places"
        )
    library = torch.library.Library("aten", "IMPL")
    try:
        for (name, key), kernel in kernels.items():
            library.impl(name, kernel, key)
    except BaseException:
        library._destroy()
        raise
    return library


def installed() -> bool:
    """Return whether `install` has put fastdrop's kernels under PyTorch's dropout.

    Examples
    --------
    >>> import fastdrop.torch as fdt
    >>> fdt.installed()
    False
    """
    return _library is not None
