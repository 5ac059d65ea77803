"""The bases of all modules: where their keys come from, what they save, and the usual rate."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeAlias, cast

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Proxy
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._arrays.numbers import flag, rate
from fastdrop._stream.keys import Key, Rng, next_draw, shown, signed
from fastdrop.torch import _keys as keys
from fastdrop.torch._autograd import (
    Indices,
    Rows,
    check_traced,
    noise,
    noise_unseen,
    not_a_tensor,
    placed,
    traced,
    transformed,
)
from fastdrop.torch._noises import Numbers

Tensor: TypeAlias = torch.Tensor
STATE_VERSION = 1
_taking = threading.Lock()  # for a few steps on the keys of modules


def _renew() -> None:
    """Make a new lock in a forked child, since the thread that holds the old one may not exist there."""
    global _taking
    _taking = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class NoiseModule(torch.nn.Module):
    """A module that draws noise, with a key of its own or with keys from torch's generator."""

    # These belong to the class, because a module that `replace_dropout` made from torch's has no others.
    # The key is a tensor, so that a graph of torch.compile can count in it.
    _key: Tensor | None = None
    recomputing: bool = False  # whether this is a checkpoint's second forward, which repeats the first's key
    # What TorchScript isn't to look at: the properties here, and those of modules that have them.
    __jit_unused_properties__: ClassVar[list[str]] = ["key", "p", "alpha", "std"]
    __jit_ignored_attributes__: ClassVar[list[str]] = ["_key", "recomputing"]

    def __init__(self, *arguments: Any, rng: Rng = None) -> None:
        super().__init__(*arguments)
        self.reseed(rng)

    @property
    def key(self) -> Key | None:
        """The key of the next training forward; None if it comes from torch's generator."""
        return None if self._key is None else keys.key_of(self._key)

    @key.setter
    def key(self, key: Rng) -> None:
        self._key = keys.held_by_module(key, "key")

    def reseed(self, rng: Rng = None) -> Self:
        """Take another key, as a module has that is built with this rng; return the module.

        That is for copies and for workers, which have the key of the module that they come from.

        Parameters
        ----------
        rng : None, int, Key, numpy.random.SeedSequence or numpy.random.Generator, optional
            As in `fastdrop.torch.Dropout`: None leaves the masks to torch's generator from now on.

        Raises
        ------
        TypeError, ValueError
            If rng is not of these kinds, or negative.

        Examples
        --------
        >>> import fastdrop as fd, fastdrop.torch as fdt
        >>> fdt.Dropout(0.5, rng=42).reseed(fd.Key(42).fold_in("worker 1"))
        Dropout(p=0.5, inplace=False, rng=Key(8375101000301595320))
        """
        self._key = keys.held_by_module(rng)
        return self

    def _with_key(
        self, input: Tensor, noised: Callable[[Key | Tensor], Tensor], draws: Mapping[str, Any]
    ) -> Tensor:
        """What a function makes of this forward's key. The key advances only if the function succeeds.

        In a graph the key advances first, so that draws that a caller listed have to be refused before.
        """
        if traced(input):
            if keys.drawn_eagerly():
                return keys.eagerly(self._with_key, input, noised, draws)
            check_traced(input, placed((), **draws))
            return noised(keys.drawn(keys.outside_transforms(lambda: self._traced_key(input))))
        if self._key is None:
            return noised(keys.drawn(keys.outside_transforms(lambda: keys.random_key(input))))
        if keys.captured(input):
            raise RuntimeError(
                "in a CUDA graph a module with rng would drop the same elements at every replay; leave rng "
                "out, so that each replay draws its own mask"
            )
        if not self.recomputing:
            keys.refuse_recomputation()
        key = keys.outside_transforms(self._take_key)
        try:
            return noised(keys.drawn(key))
        except BaseException:
            keys.outside_transforms(lambda: self._give_back(key))
            raise

    def _take_key(self) -> Key:
        """The module's key, after which it has the next. Threads that share a module get different ones."""
        held = cast(Tensor, self._key)
        with _taking:
            key = keys.key_of(held)
            held.numpy()[0] = signed(next_draw(key.draw))
        return key

    def _give_back(self, key: Key) -> None:
        """Let the module have a key again that it has given, unless another was taken since."""
        held = cast(Tensor, self._key)
        with _taking:
            if held.numpy()[0] == signed(key.draw + 1):
                held.numpy()[0] -= 1

    def _traced_key(self, input: Tensor) -> Tensor:
        """The key of this forward as a tensor, for a graph."""
        if torch._C._get_tracing_state():
            kind = type(self).__name__
            raise RuntimeError(
                f"torch.jit.trace would keep one mask of {kind} for ever; trace the model in evaluation, or "
                "after fastdrop.torch.restore_dropout(model)"
            )
        if self._key is None:
            return keys.device_draw(input.device) if input.is_cuda else keys.random_key_tensor()
        if isinstance(input, FakeTensor) and not torch.compiler.is_compiling() and get_proxy_mode() is None:
            return keys.key_tensor(0)  # nothing is recorded, and a fake tensor has a shape and no values
        return keys.next_key(self._key)

    def _in_training(
        self, input: Tensor, draws: Mapping[str, Any], noised: Callable[[Key | Tensor], Tensor]
    ) -> Tensor:
        """What a function makes of this forward's key in training, and the input itself in evaluation."""
        if not isinstance(input, torch.Tensor):
            return cast(Tensor, self._leaf(input, **draws))
        return self._with_key(input, noised, draws) if self.training else input

    def _leaf(self, *inputs: Tensor, **draws: Any) -> Any:
        """The node that stands for this module in a graph of torch.fx, or None if no such graph is made."""
        for each in inputs:
            if isinstance(each, Proxy):
                path = each.tracer.path_of_module(self)
                return each.tracer.create_proxy("call_module", path, inputs, draws)
            if not isinstance(each, torch.Tensor):
                raise TypeError(not_a_tensor(f"an input of {type(self).__name__}", each))
        return None

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if self._key is not None and self._key.is_inference():
            self.key = self.key  # one that is no tensor of inference mode, which no training could count in

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if self._key is not None:
            warnings.warn(
                f"a deep copy of {type(self).__name__} with rng has its key, and drops the same elements; "
                "use copy.reseed(...), or call replace_dropout after copying",
                stacklevel=3,
            )
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        with torch.inference_mode(False):  # as in key_tensor
            twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def _scripted(self, input: Tensor) -> Tensor:
        """What TorchScript makes of forward: it draws no masks."""
        if self.training:
            raise RuntimeError(
                "in TorchScript fastdrop's modules work in evaluation only; use "
                "fastdrop.torch.restore_dropout(model) before torch.jit.script"
            )
        return input

    def get_extra_state(self) -> Tensor | None:
        """Return what a resumed run needs for the same masks: a tensor, as safetensors and others save it.

        It has the state's version, then the numbers of `fastdrop.torch.key_tensor`: the draw and the seed.
        It is None without a key of the module's own.
        """
        key = self._key
        return None if key is None else torch.cat([key.new_tensor([STATE_VERSION]), key])

    def set_extra_state(self, state: Any) -> None:
        """Take over a state that `get_extra_state` returned.

        Raises
        ------
        ValueError
            If the state is of another version, or is no such tensor.
        """
        numbers = isinstance(state, torch.Tensor) and state.dtype == torch.int64
        if not (numbers and state.dim() == 1 and len(state) > 2):
            raise ValueError(
                f"state must be a 1-D int64 tensor of version, draw and seed, got {shown(state)}"
            )
        version, *_ = state.tolist()
        if version != STATE_VERSION:
            raise ValueError(f"state must have version {STATE_VERSION}, got {version}")
        self.key = keys.key_of(state[1:].cpu())

    # A model whose keys come from torch's generator has the state_dict that it has with torch's own dropout.
    # A model with keys of its own loads such a state_dict too, and keeps its keys.
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._key is None:
            del destination[f"{prefix}_extra_state"]

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        *rest: Any,
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *rest)
        name = f"{prefix}_extra_state"
        if name in missing:
            missing.remove(name)

    def extra_repr(self) -> str:
        """Return the arguments."""
        given = ", ".join(f"{name}={value}" for name, value in self._arguments().items())
        return given if self._key is None else f"{given}, rng={self.key}"

    def _arguments(self) -> dict[str, Any]:
        """What the representation shows beside the key."""
        return {}


def listed(rows: Any = None, indices: Any = None, offsets: Any = None) -> dict[str, Any]:
    """Those of a caller's rows, indices and offsets that aren't None."""
    if rows is None and indices is None and offsets is None:  # the usual case first
        return {}
    draws = {"rows": rows, "indices": indices, "offsets": offsets}
    for name, given in draws.items():
        if isinstance(given, (float, Key)):
            advice = "a module has its own p and key, functions such as fastdrop.torch.dropout take others"
            raise TypeError(f"{name} must be integers, got {shown(given)}; {advice}")
    return {name: numbers for name, numbers in draws.items() if numbers is not None}


def axes_set(shared_axes: tuple[int, ...]) -> dict[str, Any]:
    """The shared axes as a representation shows them, which is only if there are any."""
    return {"shared_axes": shared_axes} if shared_axes else {}


class DropoutModule(NoiseModule, _DropoutNd):
    """A module that drops one tensor at a rate, as torch.nn's do."""

    _noise: ClassVar[str] = "dropout"  # its name in the table of noises
    # Whether it is one of torch.nn's: that takes nested tensors too, and stays random in torch.jit.trace.
    _is_torch: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._is_torch = any(base.__module__ == _DropoutNd.__module__ for base in cls.__bases__)

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Rng = None) -> None:
        self._check(p)
        super().__init__(p, flag("inplace", inplace), rng=rng)

    def _check(self, p: float) -> None:
        rate(p)

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with its noise in training, and itself in evaluation."""
        if torch.jit.is_scripting():
            return self._scripted(input)
        return self._eager(input, {})

    def _eager(self, input: Tensor, draws: dict[str, Any]) -> Tensor:
        if not isinstance(input, torch.Tensor):
            return cast(Tensor, self._leaf(input, **draws))
        if not self.training:
            return input
        if self._is_torch and self._key is None and not draws and _as_torch_has_it(input):
            return cast(Tensor, super().forward(input))
        # bool since a module of torch.nn that was swapped may have anything there
        name, rates, inplace = self._noise, (self.p,), bool(self.inplace)
        numbers = placed(self._numbers(input), **draws) if draws else self._numbers(input)
        if self._key is None and not (draws or inplace or traced(input) or transformed()):  # the usual case
            return noise_unseen(input, name, rates, keys.random_key(input), numbers)
        return self._with_key(
            input, lambda key: noise(input, name, rates, key, numbers, inplace=inplace), draws
        )

    def _numbers(self, input: Tensor) -> Numbers:
        """The integers that the noise takes beside its rate, such as shared axes."""
        return ()

    def _arguments(self) -> dict[str, Any]:
        return {"p": self.p, "inplace": self.inplace}


class ElementwiseModule(DropoutModule):
    """A module with a draw for each element, which axes may share, and which callers may list."""

    # TorchScript reads `forward`, and takes no keyword-only arguments with defaults, and no ** either.
    def forward(
        self, input: Tensor, rows: Rows = None, indices: Indices = None, offsets: Rows = None
    ) -> Tensor:
        """Return the input with its noise in training, and itself in evaluation.

        Parameters
        ----------
        input : Tensor
            What the module's function takes.
        rows, indices, offsets
            Which draws the elements have in training, as in `fastdrop.torch.dropout`, and of this call alone.
            A call takes the next key, so set `key` before each one where a sample shall keep its mask.
        """
        if torch.jit.is_scripting():
            return self._scripted(input)
        return self._eager(input, listed(rows, indices, offsets))


def _as_torch_has_it(input: Tensor) -> bool:
    """Whether a module of torch.nn does itself what ours can't: nested tensors, and torch.jit.trace."""
    return torch._C._get_tracing_state() is not None or getattr(input, "is_nested", False) is True
