"""Swapping torch.nn's dropout for fastdrop's in a whole model, and checkpoints of models with own keys."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._stream.keys import Rng, as_key
from fastdrop.torch import _modules as modules
from fastdrop.torch._base import NoiseModule

_OURS = {
    getattr(torch.nn, name): getattr(modules, name)
    for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


class Swapped(NamedTuple):
    """What `replace_dropout` and `restore_dropout` did."""

    names: tuple[str, ...]  # of the modules that are others now; the model itself is ""
    left: dict[str, str]  # why modules that drop stayed as they were, by their names


def replace_dropout(model: torch.nn.Module, *, rng: Rng = None) -> Swapped:
    """Make every dropout module of torch.nn in a model one of fastdrop's, in place.

    A module stays the same object, with its rate, mode, hooks and name: it changes its class.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    rng
        None, so that masks come from torch's generator, or what `fastdrop.torch.Dropout` takes: then each
        module gets a key of its own, folded from it.

    Returns
    -------
    Swapped
        The modules' names, and of those that seem to drop by other means, as `torch.nn.MultiheadAttention`
        and recurrent networks do, or are of a class derived from torch's, why they were left alone. Calls
        of ``torch.nn.functional`` in a model's own forward can't be seen.

    See Also
    --------
    restore_dropout : the way back.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> model = torch.nn.TransformerEncoderLayer(8, 2, dropout=0.1)
    >>> swapped = fdt.replace_dropout(model)
    >>> swapped.names
    ('dropout', 'dropout1', 'dropout2')
    >>> swapped.left
    {'self_attn': 'MultiheadAttention drops by itself: dropout=0.1'}
    >>> model.dropout
    Dropout(p=0.1, inplace=False)
    """
    key = None if rng is None else as_key(rng)
    names: list[str] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        ours = _OURS.get(type(module))
        if ours is not None:
            module.__class__ = ours
            module.key = None if key is None else key.fold_in(len(names))
            names.append(name)
        elif reason := _why_left(module):
            left[name] = reason
    return Swapped(tuple(names), left)


def _why_left(module: torch.nn.Module) -> str:
    """The reason why a module that seems to drop wasn't swapped, or "" if it doesn't seem to."""
    kind = type(module).__name__
    if isinstance(module, NoiseModule):
        return ""
    if isinstance(module, _DropoutNd):
        return f"{kind} is a class of its own"
    if isinstance(module, torch.jit.ScriptModule):
        return f"{module.original_name} is compiled by torch.jit" if "Drop" in module.original_name else ""
    rates = [f"{name}={value}" for name, value in vars(module).items() if _is_rate(name, value)]
    return f"{kind} drops by itself: {', '.join(rates)}" if rates else ""


def _is_rate(name: str, value: Any) -> bool:
    """Whether an attribute looks like a rate at which something is dropped."""
    return "drop" in name and isinstance(value, float) and 0 < value <= 1


def restore_dropout(model: torch.nn.Module) -> Swapped:
    """Make every dropout module of fastdrop in a model the one of torch.nn, in place.

    Keys of their own are forgotten.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.

    Returns
    -------
    Swapped
        The modules' names, and of those that torch.nn has nothing like, why they were left alone.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), fdt.Dropout(0.1), fdt.DropPath(0.2))
    >>> fdt.restore_dropout(model)
    Swapped(names=('1',), left={'2': 'torch.nn has no DropPath'})
    >>> model[1]
    Dropout(p=0.1, inplace=False)
    """
    names: list[str] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        theirs = _THEIRS.get(type(module))
        if theirs is not None:
            vars(module).pop("_key", None)
            module.__class__ = theirs
            names.append(name)
        elif isinstance(module, NoiseModule):
            left[name] = f"torch.nn has no {type(module).__name__}"
    return Swapped(tuple(names), left)


def checkpoint_contexts(
    model: torch.nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what `torch.utils.checkpoint` needs to recompute a forward with the masks it had.

    Only modules with `rng` need it; torch's generator is checkpoint's own business.

    Parameters
    ----------
    model : torch.nn.Module
        With all modules that the checkpointed function calls.

    Returns
    -------
    tuple of two context managers
        For the argument ``context_fn=lambda: checkpoint_contexts(model)``, with ``use_reentrant=False``.

    References
    ----------
    Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> from torch.utils.checkpoint import checkpoint
    >>> drop, x = fdt.Dropout(0.5, rng=42), torch.ones(6, requires_grad=True)
    >>> y = checkpoint(
    ...     lambda x: drop(x.exp()), x, use_reentrant=False, context_fn=lambda: fdt.checkpoint_contexts(drop)
    ... )
    >>> y.sum().backward()
    >>> bool((x.grad == y).all())
    True
    """
    return nullcontext(), _Recomputation(model)


class _Recomputation(AbstractContextManager[None]):
    """While this context is entered, modules have the keys that they had when it was made.

    After it they have again those that they had before they entered.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        found = (m for m in model.modules() if isinstance(m, NoiseModule) and m.key is not None)
        self._keys = {module: module.key for module in found}

    def __enter__(self) -> None:
        self._later = {module: module.key for module in self._keys}
        for module, key in self._keys.items():
            module.key, module.recomputing = key, True

    def __exit__(self, *_: object) -> None:
        for module, key in self._later.items():
            module.key, module.recomputing = key, False
