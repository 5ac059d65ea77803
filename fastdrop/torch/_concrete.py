"""Concrete dropout of tensors: the function, and the module that learns the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeAlias

import torch
from torch.nn.functional import softplus

from fastdrop._arrays.plan import integers_in
from fastdrop._noises.concrete import checked_temperature, logit_of
from fastdrop._stream.keys import Key, Rng
from fastdrop.torch._autograd import Indices, Rows, check_tensors, placed
from fastdrop.torch._base import NoiseModule, axes_set, listed
from fastdrop.torch._learned import learned

Tensor: TypeAlias = torch.Tensor


def concrete_dropout(
    x: Tensor,
    logit: Tensor,
    key: Key | SupportsIndex | Tensor,
    *,
    temperature: float = 0.1,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> Tensor:
    """Return x times a relaxed mask, with gradients of x and of the logit: `fastdrop.concrete_dropout`.

    Parameters
    ----------
    x : Tensor, any shape
        On the CPU or a GPU, of a real dtype that `dropout` takes.
    logit : Tensor, 0-D
        ``log(p / (1 - p))``. On a GPU it is where x is, and so is its gradient: nothing waits for either, and
        a value that isn't finite gives NaN.
    key, temperature, shared_axes, rows, indices, offsets
        As in `dropout` and `fastdrop.concrete_dropout`.

    Returns
    -------
    Tensor
        A new one in C order. It has first derivatives only.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `fastdrop.concrete_dropout`.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> logit = torch.zeros((), requires_grad=True)
    >>> fdt.concrete_dropout(torch.ones(6), logit, fd.Key(42)).sum().backward()
    >>> round(logit.grad.item(), 3)
    -0.096
    """
    numbers = placed(shared_axes, rows, indices, offsets)
    return learned(x, logit, key, "concrete_dropout", (checked_temperature(temperature),), numbers)


class ConcreteDropout(NoiseModule):
    """Dropout whose rate is learned: `fastdrop.ConcreteDropout` as a module.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.1
        The rate at first, in (0, 1).
    temperature : float, default 0.1
        How far the mask is from 0 and 1; 2/3 is usual for spatial dropout.
    shared_axes : int or tuple of int, default ()
        Axes that share their draws: (2, 3) is spatial dropout of images (n, c, h, w).
    rng
        As in `Dropout`.

    Attributes
    ----------
    logit : Parameter, 0-D
        ``log(p / (1 - p))``, which the optimiser learns. Add `regularizer` to the loss.
    p : float
        The rate now. Setting it writes into `logit`.

    Raises
    ------
    TypeError, ValueError
        If p isn't real or not inside (0, 1), or another parameter is not as above.

    References
    ----------
    Gal, Hron, Kendall, "Concrete Dropout", arXiv 1705.07832.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> drop, dense = fdt.ConcreteDropout(0.1, rng=42), torch.nn.Linear(3, 1)
    >>> loss = dense(drop(torch.ones(10, 3))).square().mean()
    >>> loss = loss + drop.regularizer(dense.weight, weight_scale=1e-4, entropy_scale=2e-2)
    >>> loss.backward()
    >>> drop.logit.grad is not None
    True
    """

    logit: torch.nn.Parameter

    def __init__(
        self,
        p: float = 0.1,
        *,
        temperature: float = 0.1,
        shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
        rng: Rng = None,
    ) -> None:
        super().__init__(rng=rng)
        self.logit = torch.nn.Parameter(torch.tensor(logit_of(p)))
        self.temperature, self.shared_axes = checked_temperature(temperature), integers_in(shared_axes)

    @property
    def p(self) -> float:
        """The rate now."""
        return float(torch.sigmoid(self.logit.detach()))

    @p.setter
    def p(self, p: float) -> None:
        with torch.no_grad():
            self.logit.fill_(logit_of(p))

    def forward(
        self, input: Tensor, rows: Rows = None, indices: Indices = None, offsets: Rows = None
    ) -> Tensor:
        """Return the input times a relaxed mask in training, and itself in evaluation.

        Parameters
        ----------
        input : Tensor
            As in `fastdrop.torch.concrete_dropout`.
        rows, indices, offsets
            As in `Dropout.forward`.
        """
        if torch.jit.is_scripting():
            return self._scripted(input)
        return self._eager(input, listed(rows, indices, offsets))

    def _eager(self, input: Tensor, draws: dict[str, Any]) -> Tensor:
        options = {"temperature": self.temperature, "shared_axes": self.shared_axes, **draws}
        return self._in_training(
            input, draws, lambda key: concrete_dropout(input, self.logit, key, **options)
        )

    def regularizer(
        self, weight: Tensor, *, weight_scale: float, entropy_scale: float, features: int | None = None
    ) -> Tensor:
        """Return the divergence from the prior, to be added to the loss.

        Parameters
        ----------
        weight : Tensor
            Weights that the dropout feeds, with features of the input on axis 1, as torch.nn has them.
        weight_scale, entropy_scale : float
            As in `fastdrop.ConcreteDropout.regularizer`.
        features : int, optional
            Number of draws for an example; by default ``weight.shape[1]``.

        Returns
        -------
        Tensor, 0-D

        Raises
        ------
        TypeError
            If weight is no tensor.
        """
        check_tensors(weight=weight)
        a, p = self.logit, torch.sigmoid(self.logit)
        entropy = p * softplus(-a) + (1 - p) * softplus(a)
        count = weight.shape[1] if features is None else features
        most = math.log(torch.finfo(a.dtype).max) - 1  # or weights of 0 times infinity would be NaN
        norm = weight_scale * weight.square().sum()
        return norm * (1 + a.clamp(max=most).exp()) - entropy_scale * count * entropy

    def _arguments(self) -> dict[str, Any]:
        return {"p": f"{self.p:.4g}", "temperature": self.temperature, **axes_set(self.shared_axes)}
