"""Swapping dropout modules for fastdrop's in a whole model, and checkpoints of models with own keys."""

from __future__ import annotations

import inspect
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._stream.keys import Rng
from fastdrop.torch import _modules as modules
from fastdrop.torch._base import NoiseModule
from fastdrop.torch._keys import key_by
from fastdrop.torch._noises import Numbers

_OURS = {
    getattr(torch.nn, name): getattr(modules, name)
    for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


class _DropPathByProb(modules.DropPath):
    """Another library's DropPath, whose rate is `drop_prob`; some can leave the scale out."""

    inplace, mode, scale_by_keep = False, "row", True

    @property
    def p(self) -> float:
        """Its rate, under the name that ours have."""
        return vars(self)["drop_prob"] or 0.0


class _StochasticDepth(modules.DropPath):
    """Torchvision's: it has our p and mode."""

    inplace, scale_by_keep = False, True


class _CubicBlock:
    """Torchvision's DropBlock, whose blocks have equal sides in images of any shape."""

    shared_channels = False

    def _numbers(self, input: torch.Tensor) -> Numbers:
        side = min(vars(self)["block_size"], *input.shape[2:])
        return *[side] * (input.dim() - 2), 0


class _DropBlock2d(_CubicBlock, modules.DropBlock2d):
    pass


class _DropBlock3d(_CubicBlock, modules.DropBlock3d):
    pass


# Modules of other libraries that mean what ours mean, by the library and the end of the class's name.
_OTHERS: dict[tuple[str, str], type[NoiseModule]] = {
    ("timm", "DropPath"): _DropPathByProb,
    ("transformers", "DropPath"): _DropPathByProb,
    ("torchvision", "StochasticDepth"): _StochasticDepth,
    ("torchvision", "DropBlock2d"): _DropBlock2d,
    ("torchvision", "DropBlock3d"): _DropBlock3d,
}


class Swapped(NamedTuple):
    """What `replace_dropout` and `restore_dropout` did.

    Attributes
    ----------
    names : tuple of str
        Names of the modules that are others now; the model itself is "".
    left : dict of str to str
        Why modules that drop stayed as they were, by their names.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.replace_dropout(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.1)))
    Swapped(names=('1',), left={})
    """

    names: tuple[str, ...]
    left: dict[str, str]

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Say that this is not the model."""
        raise TypeError(_NOT_THE_MODEL)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Swapped has no {name}: {_NOT_THE_MODEL}")


_NOT_THE_MODEL = (
    "replace_dropout and restore_dropout change the model in place and return what they did; write "
    "replace_dropout(model), and go on with the model"
)


def replace_dropout(model: torch.nn.Module, *, rng: Rng = None) -> Swapped:
    """Make every dropout module in a model one of fastdrop's, in place.

    A module stays the same object, with its rate, mode, hooks and name: it changes its class. Those of
    torch.nn are taken, and those of other libraries that mean the same: DropPath of timm and transformers,
    StochasticDepth and DropBlock of torchvision.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    rng
        None, so that masks come from torch's generator, or what `fastdrop.torch.Dropout` takes: then each
        module gets a key of its own, folded from it, those that are fastdrop's already too.

    Returns
    -------
    Swapped
        The modules' names, and of those that drop by other means why they were left alone: attention and
        recurrent networks of torch.nn, classes derived from torch's, modules of which only the rate is read
        or whose forward was replaced.
        Calls of ``torch.nn.functional`` in a model's own forward can't be seen: they are what `install` is
        for.

    Raises
    ------
    TypeError, ValueError
        If model is no module, or rng is not as in `fastdrop.torch.Dropout`.

    See Also
    --------
    install : reaches functional calls and attention too, with the model as it is.
    restore_dropout : the way back.

    Notes
    -----
    A deep copy of a module with a key has the same key, and drops the same elements: it warns. So call
    `replace_dropout` on the whole model, after layers were copied.

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
    _check_model(model)
    key = None if rng is None else key_by(rng)
    names: list[str] = []
    left: dict[str, str] = {}
    parents = dict(model.named_modules())
    for name, module in parents.items():
        ours = _ours(type(module))
        parent, _, own = name.rpartition(".")
        if ours is not None and name and _only_read(parents[parent], own):
            left[name] = f"{type(parents[parent]).__name__} reads its p alone, and drops by itself"
        elif ours is not None and "forward" in vars(module):
            left[name] = f"{type(module).__name__} has another forward than its class"
        elif ours is not None:
            if type(module) not in _OURS:
                module.__dict__["_theirs"] = type(module)
            module.__class__ = ours
            module.key = None if key is None else key.fold_in(len(names))
            names.append(name)
        elif isinstance(module, NoiseModule) and key is not None:  # ours already: it gets the key alone
            module.key = key.fold_in(len(names))
            names.append(name)
        elif reason := _why_left(module):
            left[name] = reason
    return Swapped(tuple(names), left)


def _check_model(model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model must be an object of torch.nn.Module, got {got}")


def _ours(theirs: type) -> type[NoiseModule] | None:
    """The class of ours that a module's class becomes, or None."""
    if theirs in _OURS:
        return _OURS[theirs]
    library = theirs.__module__.partition(".")[0]
    for (other, name), ours in _OTHERS.items():
        if library == other and theirs.__name__.endswith(name):
            return ours
    return None


def _only_read(parent: torch.nn.Module, name: str) -> bool:
    """Whether a module's forward reads the rate of one of its parts and never calls it, as attention's do."""
    source = _source(cast(Any, type(parent)))
    return f"self.{name}.p" in source and not re.search(rf"self\.{name}\s*\(", source)


@cache
def _source(kind: Any) -> str:
    """The source text of a class of another library, or "" where there is none."""
    if kind.__module__.startswith("torch.nn."):
        return ""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def _why_left(module: torch.nn.Module) -> str:
    """The reason why a module that seems to drop wasn't swapped, or "" if it doesn't seem to."""
    kind = type(module).__name__
    if isinstance(module, NoiseModule):
        return ""
    if isinstance(module, _DropoutNd):
        return f"{kind} is a class of its own"
    if isinstance(module, torch.jit.ScriptModule):
        return f"{module.original_name} is compiled by torch.jit" if "Drop" in module.original_name else ""
    named = vars(module).items()
    rates = [f"{name}={value}" for name, value in named if _is_rate(name, value, kind)]
    return f"{kind} drops by itself: {', '.join(rates)}" if rates else ""


def _is_rate(name: str, value: Any, kind: str) -> bool:
    """Whether an attribute of a module of a kind looks like a rate at which something is dropped."""
    drops = "drop" in name or (name in ("p", "prob") and ("Drop" in kind or "StochasticDepth" in kind))
    return drops and isinstance(value, float) and 0 < value <= 1


def restore_dropout(model: torch.nn.Module) -> Swapped:
    """Make every dropout module of fastdrop in a model the one that it was, or that of torch.nn, in place.

    Keys of their own are forgotten.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.

    Returns
    -------
    Swapped
        The modules' names, and of those that torch.nn has nothing like, why they were left alone.

    Raises
    ------
    TypeError
        If model is no module.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), fdt.Dropout(0.1), fdt.DropPath(0.2))
    >>> fdt.restore_dropout(model)
    Swapped(names=('1',), left={'2': 'torch.nn has no DropPath'})
    >>> model[1]
    Dropout(p=0.1, inplace=False)
    """
    _check_model(model)
    names: list[str] = []
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        theirs = vars(module).pop("_theirs", None) or _THEIRS.get(type(module))
        if theirs is not None:
            for own in ("_key", "recomputing"):
                vars(module).pop(own, None)
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

    Raises
    ------
    TypeError
        If model is no module.

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
    _check_model(model)
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
