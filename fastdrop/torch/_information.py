"""Information dropout of tensors: the function, and the module that learns alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeAlias

import torch
from numpy.typing import ArrayLike

import fastdrop as fd
from fastdrop._arrays.numbers import positive, real
from fastdrop._arrays.plan import integers_in
from fastdrop._stream.keys import Key, Rng
from fastdrop.torch._autograd import Indices, Rows, check_tensors, placed
from fastdrop.torch._base import NoiseModule, axes_set, listed
from fastdrop.torch._learned import learned

Tensor: TypeAlias = torch.Tensor


def information_dropout(
    x: Tensor,
    alpha: float | Tensor,
    key: Key | SupportsIndex | Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> Tensor:
    """Return x times log-normal noise, with gradients of x and of alpha: `fastdrop.information_dropout`.

    Parameters
    ----------
    x : Tensor, any shape
        On the CPU or a GPU, of a real dtype that `dropout` takes.
    alpha : float or Tensor
        Finite and not negative. A tensor must broadcast to the noise's shape, as in
        `fastdrop.information_dropout`; so alpha may be what a part of the network computes. On a GPU a tensor
        is where x is, and so is its gradient: nothing waits for either, and values aren't checked.
    key, shared_axes, rows, indices, offsets
        As in `dropout`.

    Returns
    -------
    Tensor
        A new one in C order. It has first derivatives only.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `fastdrop.information_dropout`.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> alpha = torch.tensor(0.5, requires_grad=True)
    >>> fdt.information_dropout(torch.ones(4), alpha, fd.Key(42)).sum().backward()
    >>> round(alpha.grad.item(), 3)
    2.515
    """
    if not isinstance(alpha, torch.Tensor):
        alpha = torch.tensor(real("alpha", alpha), dtype=torch.float64)
    numbers = placed(shared_axes, rows, indices, offsets)
    return learned(x, alpha, key, "information_dropout", (), numbers)


class InformationDropout(NoiseModule):
    """Information dropout whose alpha is learned: `fastdrop.InformationDropout` as a module.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    alpha : float or array_like, default 0.5
        The standard deviation of the noise's logarithm at first, above 0 and finite, one for all or one for
        each feature, as in `fastdrop.InformationDropout`.
    shared_axes : int or tuple of int, default ()
        Axes that share their draws: (2, 3) is spatial dropout of images (n, c, h, w).
    rng
        As in `Dropout`.

    Attributes
    ----------
    log_alpha : Parameter of alpha's shape
        Its logarithm, which the optimiser learns. Add `regularizer` to the loss.
    alpha : Tensor of alpha's shape
        What the noise is made with now: ``log_alpha.exp()``, without a gradient. Setting it writes into
        `log_alpha`.

    Raises
    ------
    TypeError, ValueError
        If alpha isn't real, not above 0 or not finite, or another parameter is not as above.

    References
    ----------
    Achille and Soatto, "Information Dropout: Learning Optimal Representations Through Noisy Computation",
    arXiv 1611.01353.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> drop, dense = fdt.InformationDropout(0.5, rng=42), torch.nn.Linear(3, 1)
    >>> loss = dense(drop(torch.ones(10, 3))).square().mean() + drop.regularizer(0.01)
    >>> loss.backward()
    >>> drop.log_alpha.grad is not None
    True
    >>> drop.alpha
    tensor(0.5000)
    """

    def __init__(
        self,
        alpha: ArrayLike = 0.5,
        *,
        shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
        rng: Rng = None,
    ) -> None:
        super().__init__(rng=rng)
        self.log_alpha = torch.nn.Parameter(_log_of(alpha).to(torch.get_default_dtype()))
        self.shared_axes = integers_in(shared_axes)

    @property
    def alpha(self) -> Tensor:
        """What the noise is made with now."""
        return self.log_alpha.detach().exp()

    @alpha.setter
    def alpha(self, alpha: ArrayLike) -> None:
        with torch.no_grad():
            self.log_alpha.copy_(_log_of(alpha))

    def forward(
        self, input: Tensor, rows: Rows = None, indices: Indices = None, offsets: Rows = None
    ) -> Tensor:
        """Return the input times its noise in training, and itself in evaluation.

        Parameters
        ----------
        input : Tensor
            As in `fastdrop.torch.information_dropout`.
        rows, indices, offsets
            As in `Dropout.forward`.
        """
        if torch.jit.is_scripting():
            return self._scripted(input)
        return self._eager(input, listed(rows, indices, offsets))

    def _eager(self, input: Tensor, draws: dict[str, Any]) -> Tensor:
        def noised(key: Key | Tensor) -> Tensor:
            return information_dropout(
                input, self.log_alpha.exp(), key, shared_axes=self.shared_axes, **draws
            )

        return self._in_training(input, draws, noised)

    def regularizer(
        self,
        scale: float = 1.0,
        mean: Tensor | None = None,
        *,
        prior_mean: float = 0.0,
        prior_std: float = 1.0,
    ) -> Tensor:
        """Return scale times the sum of the divergences of `fastdrop.information_kl`, for the loss.

        Parameters
        ----------
        scale : float, default 1.0
            As in `fastdrop.InformationDropout.regularizer`.
        mean : Tensor, optional
            The logarithm of the input, for a log-normal prior; the divergence has a gradient of it too.
        prior_mean, prior_std : float
            As in `fastdrop.information_kl`.

        Returns
        -------
        Tensor, 0-D

        Raises
        ------
        TypeError, ValueError
            If mean is no tensor, or as `fastdrop.information_kl`.
        """
        if mean is None:
            return -scale * self.log_alpha.sum()
        check_tensors(mean=mean)
        relative = self.log_alpha - math.log(positive("prior_std", prior_std))
        apart = (mean - real("prior_mean", prior_mean)) / prior_std
        return scale * (((2 * relative).exp() + apart.square() - 1) / 2 - relative).sum()

    def _arguments(self) -> dict[str, Any]:
        alpha = self.alpha
        shown = alpha.tolist() if alpha.dim() else f"{float(alpha):.4g}"
        return {"alpha": shown, **axes_set(self.shared_axes)}


def _log_of(alpha: ArrayLike) -> Tensor:
    """The logarithm of what a user gives for alpha, in float64."""
    return torch.from_numpy(fd.InformationDropout(alpha).log_alpha)  # which checks it
