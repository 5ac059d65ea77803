"""What all modules of noise share: a rate, and where their keys come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch.nn.modules.dropout import _DropoutNd

from fastdrop._arrays.numbers import rate
from fastdrop._stream.keys import Key, Rng, as_key
from fastdrop.torch import _autograd as ops
from fastdrop.torch import _keys as keys

Tensor: TypeAlias = torch.Tensor
STATE_VERSION = 1


class NoiseModule(_DropoutNd):
    """A rate, and a key of its own or torch's generator."""

    _noise: ClassVar[str] = "dropout"
    # of the class, since modules that were torch's have no other
    _key: Tensor | None = None  # a tensor: a graph of torch.compile can count in it
    recomputing: bool = False  # a checkpointed forward with the key that it had

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Rng = None) -> None:
        self._check(p)
        super().__init__(p, inplace)
        self.key = None if rng is None else as_key(rng)

    def _check(self, p: float) -> None:
        rate(p)

    @property
    def key(self) -> Key | None:
        """The key of the next training forward; None if it comes from torch's generator."""
        return None if self._key is None else keys.key_of(self._key)

    @key.setter
    def key(self, key: Rng) -> None:
        self._key = None if key is None else keys.key_tensor(as_key(key))

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with its noise in training, and itself in evaluation."""
        if not self.training:
            return input
        numbers = self._numbers(input)
        if self._key is None:
            key = keys.random_key_tensor() if ops.traced(input) else keys.random_key()
            return self._noised(input, key, numbers)
        if ops.traced(input):
            return self._noised(input, keys.next_key(self._key), numbers)
        if not self.recomputing:
            keys.refuse_recomputation()
        y = self._noised(input, keys.key_of(self._key), numbers)
        self._key.numpy()[0] += 1
        return y

    def _noised(self, input: Tensor, key: Key | Tensor, numbers: ops.Numbers) -> Tensor:
        return ops.noise(input, self._noise, self.p, key, numbers, self.inplace)

    def _numbers(self, input: Tensor) -> ops.Numbers:
        return ()

    def get_extra_state(self) -> dict[str, int] | None:
        """Return what a resumed run needs for the same masks, as plain JSON-able data."""
        key = self.key
        return None if key is None else {"version": STATE_VERSION, "seed": key.seed, "draw": key.draw}

    def set_extra_state(self, state: Any) -> None:
        """Take over a state that `get_extra_state` returned.

        Raises
        ------
        ValueError
            If the state is of another version, or an entry is missing or bad.
        """
        if not isinstance(state, Mapping) or set(state) != {"version", "seed", "draw"}:
            raise ValueError(f"state must have the entries version, seed and draw, got {state!r}")
        if state["version"] != STATE_VERSION:
            raise ValueError(f"state must have version {STATE_VERSION}, got {state['version']!r}")
        try:
            self.key = Key(state["seed"], state["draw"])
        except TypeError as error:
            raise ValueError(f"state has a bad entry: {error}") from None

    # A model that has its keys from torch's generator shall have the state_dict that it has with torch's own
    # dropout, and one with its own keys shall load that too.
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
        rng = "" if self._key is None else f", rng={self.key}"
        return f"{super().extra_repr()}{rng}"
