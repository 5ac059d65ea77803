"""Modules with torch.nn's names and signatures, and more of their kind."""

from __future__ import annotations

import warnings
from typing import ClassVar, TypeAlias

import torch

from fastdrop._noises.drop_block import block_layout
from fastdrop._noises.drop_path import path_axes
from fastdrop._noises.gaussian import std_of
from fastdrop._stream.keys import Rng
from fastdrop.torch import _autograd as ops
from fastdrop.torch._base import NoiseModule

Tensor: TypeAlias = torch.Tensor


class Dropout(NoiseModule, torch.nn.Dropout):
    """`torch.nn.Dropout`, by fastdrop.

    Parameters
    ----------
    p : float, default 0.5
        Probability to drop, in [0, 1].
    inplace : bool, default False
        Write into the input.
    rng : None, int, Key, numpy.random.SeedSequence or numpy.random.Generator, optional
        Where the masks come from. None takes each from torch's generator. With others the module counts the
        draws of its own key, and state_dict holds it.

    Attributes
    ----------
    key : Key or None
        That of the next training forward, if the module has one of its own. May be set.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not of the kinds above.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014).

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> drop = fdt.Dropout(0.5, rng=42)
    >>> drop(torch.ones(6))
    tensor([0., 0., 2., 2., 2., 2.])
    >>> drop
    Dropout(p=0.5, inplace=False, rng=Key(42, draw=1))
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with its noise in training, and itself in evaluation."""
        if self.training and self._key is None and not self.inplace:
            y = ops.dropped_at_random(input, self.p)
            if y is not None:
                return y
        return super().forward(input)


class _ChannelDropout(NoiseModule):
    """One draw for each sample and channel."""

    _spatial: ClassVar[int]

    def _numbers(self, input: Tensor) -> ops.Numbers:
        ndim, spatial = input.dim(), self._spatial
        if ndim not in (spatial + 1, spatial + 2):
            allowed = f"{spatial + 2} axes, or {spatial + 1}"
            shape = tuple(input.shape)
            raise RuntimeError(f"{type(self).__name__} needs {allowed}, got shape {shape}")
        if ndim == spatial + 1 == 3:
            warnings.warn(
                "Dropout2d takes 3 axes as (N, C, L), as torch.nn's does; use Dropout1d to say so",
                stacklevel=2,
            )
            return (2,)
        return tuple(range(ndim - spatial, ndim))


class Dropout1d(_ChannelDropout, torch.nn.Dropout1d):
    """`torch.nn.Dropout1d`, by fastdrop: drops channels of (N, C, L) or (C, L).

    Parameters are those of `Dropout`. Other inputs are a RuntimeError.

    References
    ----------
    Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280,
    section 3.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.Dropout1d(0.5, rng=7)(torch.ones(1, 5, 2))[0, :, 0]
    tensor([0., 2., 0., 2., 0.])
    """

    _spatial = 1


class Dropout2d(_ChannelDropout, torch.nn.Dropout2d):
    """`torch.nn.Dropout2d`, by fastdrop: drops channels of (N, C, H, W), and with a warning of (N, C, L).

    Parameters are those of `Dropout`. Other inputs are a RuntimeError.

    References
    ----------
    Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280,
    section 3.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.Dropout2d(0.5, rng=7)(torch.ones(1, 5, 2, 2))[0, :, 0, 0]
    tensor([0., 2., 0., 2., 0.])
    """

    _spatial = 2


class Dropout3d(_ChannelDropout, torch.nn.Dropout3d):
    """`torch.nn.Dropout3d`, by fastdrop: drops channels of (N, C, D, H, W) or (C, D, H, W).

    Parameters are those of `Dropout`. Other inputs are a RuntimeError.

    References
    ----------
    Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280,
    section 3.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.Dropout3d(0.5, rng=7)(torch.ones(1, 5, 1, 1, 1)).flatten()
    tensor([0., 2., 0., 2., 0.])
    """

    _spatial = 3


class AlphaDropout(NoiseModule, torch.nn.AlphaDropout):
    """`torch.nn.AlphaDropout`, by fastdrop: it keeps mean 0 and variance 1 through SELU layers.

    Parameters are those of `Dropout`.

    References
    ----------
    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.AlphaDropout(0.5, rng=42)(torch.zeros(4)).numpy().round(4)
    array([-0.7792, -0.7792,  0.7792,  0.7792], dtype=float32)
    """

    _noise = "alpha_dropout"


class FeatureAlphaDropout(NoiseModule, torch.nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout`, by fastdrop: alpha dropout of the channels of (N, C, ...).

    Parameters are those of `Dropout`. An input of fewer than two axes is a RuntimeError.

    References
    ----------
    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.FeatureAlphaDropout(0.5, rng=7)(torch.zeros(1, 4, 3))[0, :, 0].numpy().round(4)
    array([-0.7792,  0.7792, -0.7792,  0.7792], dtype=float32)
    """

    _noise = "alpha_dropout"

    def _numbers(self, input: Tensor) -> ops.Numbers:
        if input.dim() < 2:
            shape = tuple(input.shape)
            raise RuntimeError(f"FeatureAlphaDropout needs axes for samples and channels, got shape {shape}")
        return tuple(range(2, input.dim()))


class GaussianDropout(NoiseModule):
    """Gaussian dropout: in training the input is multiplied with normal noise of mean 1.

    Parameters are those of `Dropout`, but p, the rate of the dropout with this noise's variance p / (1 - p),
    must be below 1.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.GaussianDropout(0.5, rng=42)(torch.ones(3)).numpy().round(3)
    array([ 1.975,  1.617, -0.197], dtype=float32)
    """

    _noise = "gaussian_dropout"

    def _check(self, p: float) -> None:
        std_of(p)


class DropPath(NoiseModule):
    """Stochastic depth: dropout of whole samples of a residual branch.

    Parameters
    ----------
    p, inplace, rng
        As in `Dropout`.
    mode : {"row", "batch"}, default "row"
        Draw for each sample, or once for all.

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, section 3.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.DropPath(0.5, rng=7)(torch.ones(5, 2))[:, 0]
    tensor([0., 2., 0., 2., 0.])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, mode: str = "row", rng: Rng = None) -> None:
        super().__init__(p, inplace, rng=rng)
        path_axes(1, mode)
        self.mode = mode

    def _numbers(self, input: Tensor) -> ops.Numbers:
        return path_axes(input.dim(), self.mode)


class DropBlock2d(NoiseModule):
    """Dropout of square blocks of images (N, C, H, W).

    Parameters
    ----------
    p : float, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int, default 7
        Side of a block.
    inplace, rng
        As in `Dropout`.
    shared_channels : bool, default False
        Drop the same blocks in all channels of an image.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> y = fdt.DropBlock2d(0.3, 2, rng=4)(torch.ones(1, 1, 5, 6))
    >>> (y[0, 0] != 0).int()[:3]
    tensor([[1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """

    _noise = "drop_block"

    def __init__(
        self,
        p: float = 0.1,
        block_size: int = 7,
        inplace: bool = False,
        *,
        shared_channels: bool = False,
        rng: Rng = None,
    ) -> None:
        super().__init__(p, inplace, rng=rng)
        block_layout((0, 0), p, block_size)
        self.block_size, self.shared_channels = int(block_size), bool(shared_channels)

    def _numbers(self, input: Tensor) -> ops.Numbers:
        return self.block_size, int(self.shared_channels)
