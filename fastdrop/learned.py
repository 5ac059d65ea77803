"""What layers have in common that learn a parameter of their noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import to_array
from fastdrop._rates import reals
from fastdrop.layers import NoiseLayer
from fastdrop.random import Rng


class LearnedNoise(NoiseLayer):
    """A noise layer with a learned parameter, its gradient, and a reference to its last input."""

    def __init__(self, value: NDArray[Any], rng: Rng) -> None:
        super().__init__(value, rng)
        self._grad: NDArray[np.float64] = np.zeros_like(self._value)
        self._last_x: NDArray[Any] | None = None

    def _checked(self, value: Any) -> Any:
        name = self._parameter
        try:
            number = reals(name, value).copy()
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be real, got {value!r}") from None
        if not np.isfinite(number).all():
            raise ValueError(f"{name} must be finite, got {number}")
        shape = np.shape(getattr(self, "_value", number))
        if number.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {number.shape}")
        return number

    def zero_grad(self) -> None:
        """Set the gradient to 0."""
        self._grad.fill(0)

    def forward(
        self, x: ArrayLike, training: bool | None = None, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return x times noise in training, and x itself in evaluation; see `Dropout.forward`.

        Raises
        ------
        ValueError
            If out overlaps x, which backward needs.
        """
        if out is not None and np.may_share_memory(out, x):
            raise ValueError("out must not overlap x, which backward needs; use np.empty_like(x)")
        with self._turn:
            y = super().forward(x, training, out=out)
            self._last_x = None if self._last_seed is None else to_array(x)
            self._last_value = self._value.copy()
            return y

    def load_state_dict(self, state: Any) -> None:
        """Take over a state that `state_dict` returned; see `Dropout.load_state_dict`."""
        with self._turn:
            super().load_state_dict(state)
            self._last_x = None
            self.zero_grad()
