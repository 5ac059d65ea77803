"""The public modules: those with torch.nn's names and signatures, and those that torch.nn hasn't."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, SupportsIndex, TypeAlias, cast

import torch
from torch.nn import functional

import fastdrop as fd
from fastdrop._arrays.numbers import flag, rate, real, realised
from fastdrop._arrays.plan import integers_in
from fastdrop._noises.drop_block import Size, sizes_of
from fastdrop._noises.drop_path import path_axes
from fastdrop._noises.gaussian import one_std, rate_given, rate_of_alpha, rate_of_std, variance_of
from fastdrop._noises.tokens import checked_tokens
from fastdrop._stream.keys import Rng
from fastdrop.torch._autograd import Indices, Rows, check_dense, dropped_at_random
from fastdrop.torch._base import DropoutModule, ElementwiseModule, NoiseModule, axes_set, listed
from fastdrop.torch._functions import (
    embedding_dropout,
    gaussian_noise,
    standout_dropout,
    token_dropout,
    zoneout,
)
from fastdrop.torch._noises import Numbers

Tensor: TypeAlias = torch.Tensor


class Dropout(ElementwiseModule, torch.nn.Dropout):
    """`torch.nn.Dropout`, by fastdrop.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.5
        Probability to drop, in [0, 1].
    inplace : bool, default False
        Write into the input.
    rng : None, int, Key, numpy.random.SeedSequence or numpy.random.Generator, optional
        Where the masks come from: equal ones give equal masks. None takes each from torch's generator. With
        others the module counts the draws of its own key, and state_dict holds it. A Generator gives a key
        here and is not asked again.

    Attributes
    ----------
    key : Key or None
        That of the next training forward, if the module has one of its own. May be set.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not of the kinds above.

    Notes
    -----
    Without rng other processes draw what torch's generator gives there. A DataLoader gives each worker a seed
    of its own. Processes that you fork have the parent's state, and so the same masks, unless they call
    ``torch.seed()``. With rng every process has the module's key, whether it was forked or the module was
    unpickled there: call ``module.reseed(module.key.fold_in(worker))``, say in `worker_init_fn`.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014).

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> drop = fdt.Dropout(0.5, rng=42)
    >>> drop(torch.ones(6))
    tensor([0., 0., 2., 2., 2., 2.])
    >>> drop
    Dropout(p=0.5, inplace=False, rng=Key(42, draw=1))

    Two modules from one key, each with masks of its own:

    >>> key = fd.Key(42)
    >>> first, second = fdt.Dropout(rng=key.fold_in("first")), fdt.Dropout(rng=key.fold_in("second"))
    >>> first(torch.ones(6)), second(torch.ones(6))
    (tensor([2., 2., 0., 0., 0., 0.]), tensor([0., 0., 0., 0., 2., 2.]))

    Samples 3, 0 and 3 of a data set, each with its own mask in any batch under this key:

    >>> drop.key = key
    >>> batch = drop(torch.ones(3, 4), rows=torch.tensor([3, 0, 3]))
    >>> bool((batch[0] == batch[2]).all())
    True
    """

    def forward(
        self, input: Tensor, rows: Rows = None, indices: Indices = None, offsets: Rows = None
    ) -> Tensor:
        """Return the input with its noise in training, and itself in evaluation.

        Parameters
        ----------
        input : Tensor, any shape
            Of a dtype that `fastdrop.torch.dropout` takes.
        rows, indices, offsets
            Which draws the elements have in training, as in `fastdrop.torch.dropout`, and of this call alone.
            A call takes the next key, so set `key` before each one where a sample shall keep its mask.
        """
        if torch.jit.is_scripting():
            return self._scripted(input)
        plain = rows is None and indices is None and offsets is None
        if plain and self.training and self._key is None and not self.inplace:
            y = dropped_at_random(input, self.p)
            if y is not None:
                return y
        return self._eager(input, listed(rows, indices, offsets))


class _ChannelDropout(ElementwiseModule):
    """One draw for each sample and channel.

    As torch.nn's, Dropout2d and Dropout3d take other numbers of axes than theirs with a warning.
    """

    _spatial: ClassVar[int]
    _batched: ClassVar[bool] = False  # whether the first axis is that of samples whatever the number of axes

    def _numbers(self, input: Tensor) -> Numbers:
        check_dense(input)
        ndim, spatial, name = input.dim(), self._spatial, type(self).__name__
        allowed = f"{spatial + 2} axes, or {spatial + 1}"
        least = 2 if self._batched or spatial == 1 else 1
        if ndim < least or (spatial == 1 and ndim > 3):
            raise RuntimeError(f"{name} needs {allowed}, got shape {tuple(input.shape)}")
        if spatial > 1 and ndim not in (spatial + 1, spatial + 2):
            warnings.warn(
                f"{name} is for {allowed}, got shape {tuple(input.shape)}; use Dropout to say so",
                stacklevel=2,
            )
        if self._batched and ndim == 3:
            warnings.warn(
                f"{name} takes 3 axes as (N, C, L), as torch.nn's does; use Dropout1d to say so", stacklevel=2
            )
        return tuple(range(2 if self._batched or ndim == spatial + 2 else 1, ndim))


class Dropout1d(_ChannelDropout, torch.nn.Dropout1d):
    """`torch.nn.Dropout1d`, by fastdrop: drops channels of (N, C, L) or (C, L).

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Inputs of other numbers of axes are a RuntimeError.

    Parameters
    ----------
    p, inplace, rng
        As in `Dropout`.

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

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Inputs of two axes, or of more than four, warn.

    Parameters
    ----------
    p, inplace, rng
        As in `Dropout`.

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

    _spatial, _batched = 2, True


class Dropout3d(_ChannelDropout, torch.nn.Dropout3d):
    """`torch.nn.Dropout3d`, by fastdrop: drops channels of (N, C, D, H, W) or (C, D, H, W).

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Inputs of other numbers of axes warn.

    Parameters
    ----------
    p, inplace, rng
        As in `Dropout`.

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


class AlphaDropout(ElementwiseModule, torch.nn.AlphaDropout):
    """`torch.nn.AlphaDropout`, by fastdrop: it keeps mean 0 and variance 1 through SELU layers.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p, inplace, rng
        As in `Dropout`.

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


class FeatureAlphaDropout(ElementwiseModule, torch.nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout`, by fastdrop: alpha dropout of the channels of (N, C, ...).

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    An input of fewer than two axes is a RuntimeError.

    Parameters
    ----------
    p, inplace, rng
        As in `Dropout`.

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

    def _numbers(self, input: Tensor) -> Numbers:
        if input.dim() < 2:
            shape = tuple(input.shape)
            raise RuntimeError(f"FeatureAlphaDropout needs axes for samples and channels, got shape {shape}")
        return tuple(range(2, input.dim()))


class GaussianDropout(ElementwiseModule):
    """Gaussian dropout: in training the input is multiplied with normal noise of mean 1.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.5
        The rate of the dropout that has the noise's variance p / (1 - p), in [0, 1).
    inplace, rng
        As in `Dropout`.
    std : float, optional
        The noise's standard deviation, instead of p.
    alpha : float, optional
        The noise's variance, instead of p.
    shared_axes : int or tuple of int, default ()
        Axes that share their draws: (2, 3) is spatial noise of images (n, c, h, w).

    Attributes
    ----------
    p, std, alpha : float
        Each may be set between calls, and changes the others.

    Raises
    ------
    TypeError, ValueError
        If p, std or alpha is not real or outside its range, if more than one of them is given, or if another
        parameter is not as above.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.GaussianDropout(0.5, rng=42)(torch.ones(3)).numpy().round(3)
    array([ 1.975,  1.617, -0.197], dtype=float32)
    >>> fdt.GaussianDropout(alpha=0.25, shared_axes=(2, 3))
    GaussianDropout(p=0.2, inplace=False, shared_axes=(2, 3))
    """

    _noise = "gaussian_dropout"

    def __init__(
        self,
        p: float | None = None,
        inplace: bool = False,
        *,
        std: float | None = None,
        alpha: float | None = None,
        shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
        rng: Rng = None,
    ) -> None:
        super().__init__(cast(float, rate_given(p, std, alpha)), inplace, rng=rng)
        self.shared_axes = integers_in(shared_axes)

    @property
    def alpha(self) -> float:
        """Variance of the noise."""
        return variance_of(self.p)

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self.p = rate_of_alpha(alpha)

    @property
    def std(self) -> float:
        """Standard deviation of the noise."""
        return math.sqrt(self.alpha)

    @std.setter
    def std(self, std: float) -> None:
        self.p = rate_of_std(std)

    def _check(self, p: float) -> None:
        variance_of(p)

    def _numbers(self, input: Tensor) -> Numbers:
        return self.shared_axes

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | axes_set(self.shared_axes)


class GaussianNoise(NoiseModule):
    """Additive normal noise in training: `fastdrop.gaussian_noise`.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    std : float, default 0.1
        Standard deviation, finite and not negative.
    inplace, rng
        As in `Dropout`.
    shared_axes : int or tuple of int, default ()
        Axes that share their draws: (2, 3) is spatial noise of images (n, c, h, w).

    Raises
    ------
    TypeError, ValueError
        If std or another parameter is not as above.

    References
    ----------
    Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7 (1995).

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.GaussianNoise(0.1, rng=42)(torch.zeros(3)).numpy().round(3)
    array([ 0.098,  0.062, -0.12 ], dtype=float32)
    """

    def __init__(
        self,
        std: float = 0.1,
        inplace: bool = False,
        *,
        shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
        rng: Rng = None,
    ) -> None:
        super().__init__(rng=rng)
        self.std, self.inplace = one_std(std), flag("inplace", inplace)
        self.shared_axes = integers_in(shared_axes)

    def forward(
        self, input: Tensor, rows: Rows = None, indices: Indices = None, offsets: Rows = None
    ) -> Tensor:
        """Return the input plus noise in training, and itself in evaluation; rows as in `Dropout.forward`."""
        if torch.jit.is_scripting():
            return self._scripted(input)
        return self._eager(input, listed(rows, indices, offsets))

    def _eager(self, input: Tensor, draws: dict[str, Any]) -> Tensor:
        options = {"shared_axes": self.shared_axes, "inplace": self.inplace, **draws}
        return self._in_training(input, draws, lambda key: gaussian_noise(input, self.std, key, **options))

    def _arguments(self) -> dict[str, Any]:
        return {"std": self.std, "inplace": self.inplace, **axes_set(self.shared_axes)}


class DropPath(DropoutModule):
    """Stochastic depth: dropout of whole samples of a residual branch.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p, inplace, rng
        As in `Dropout`.
    mode : {"row", "batch"}, default "row"
        Draw for each sample, or once for all.
    scale_by_keep : bool, default True
        Multiply what is kept by 1/(1 - p).

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, section 3.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.DropPath(0.5, rng=7)(torch.ones(5, 2))[:, 0]
    tensor([0., 2., 0., 2., 0.])
    """

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        mode: str = "row",
        scale_by_keep: bool = True,
        rng: Rng = None,
    ) -> None:
        super().__init__(p, inplace, rng=rng)
        path_axes(1, mode)
        self.mode, self.scale_by_keep = mode, flag("scale_by_keep", scale_by_keep)

    def forward(self, input: Tensor, rows: Rows = None) -> Tensor:
        """Return the input with samples dropped in training, and itself in evaluation.

        Parameters
        ----------
        input : Tensor
            Samples lie along its first axis.
        rows
            As in `Dropout.forward`.
        """
        if torch.jit.is_scripting():
            return self._scripted(input)
        return self._eager(input, listed(rows))

    @property
    def _noise(self) -> str:  # type: ignore[override]
        return "dropout" if self.scale_by_keep else "unscaled_dropout"

    def _numbers(self, input: Tensor) -> Numbers:
        return path_axes(input.dim(), self.mode)

    def _arguments(self) -> dict[str, Any]:
        mode = {} if self.mode == "row" else {"mode": self.mode}
        return super()._arguments() | mode | ({} if self.scale_by_keep else {"scale_by_keep": False})


class _DropBlock(DropoutModule):
    """The base of DropBlock in one, two and three dimensions."""

    _noise = "drop_block"
    _spatial: ClassVar[int]

    def __init__(
        self,
        p: float = 0.1,
        block_size: Size = 7,
        inplace: bool = False,
        *,
        shared_channels: bool = False,
        rng: Rng = None,
    ) -> None:
        super().__init__(p, inplace, rng=rng)
        sizes = sizes_of(block_size, self._spatial)
        self.block_size = sizes[0] if len(set(sizes)) == 1 else sizes
        self.shared_channels = flag("shared_channels", shared_channels)

    def _numbers(self, input: Tensor) -> Numbers:
        check_dense(input)
        if input.dim() != self._spatial + 2:
            allowed, got = self._spatial + 2, tuple(input.shape)
            raise ValueError(f"{type(self).__name__} needs {allowed} axes, got shape {got}")
        return *sizes_of(self.block_size, self._spatial), int(self.shared_channels)

    def _arguments(self) -> dict[str, Any]:
        own = {"block_size": self.block_size, "shared_channels": self.shared_channels}
        return super()._arguments() | own


class DropBlock1d(_DropBlock):
    """Dropout of stretches of sequences (N, C, L).

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int, default 7
        Length of a stretch.
    inplace, rng
        As in `Dropout`.
    shared_channels : bool, default False
        Drop the same stretches in all channels.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> fdt.DropBlock1d(0.3, 3, rng=4)(torch.ones(1, 1, 8)).numpy().round(3)
    array([[[1.6, 1.6, 1.6, 1.6, 0. , 0. , 0. , 1.6]]], dtype=float32)
    """

    _spatial = 1


class DropBlock2d(_DropBlock):
    """Dropout of blocks of images (N, C, H, W).

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int or tuple of two int, default 7
        Side of a block, or its height and width.
    inplace, rng
        As in `Dropout`.
    shared_channels : bool, default False
        Drop the same blocks in all channels.

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

    _spatial = 2


class DropBlock3d(_DropBlock):
    """Dropout of blocks of volumes (N, C, D, H, W).

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int or tuple of three int, default 7
        Side of a block, or its depth, height and width.
    inplace, rng
        As in `Dropout`.
    shared_channels : bool, default False
        Drop the same blocks in all channels.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> drop = fdt.DropBlock3d(0.3, (1, 2, 2), rng=4)
    >>> drop(torch.ones(1, 1, 3, 4, 4)).shape
    torch.Size([1, 1, 3, 4, 4])
    """

    _spatial = 3


class Zoneout(NoiseModule):
    """Zoneout: in training each element keeps its previous value with probability p.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    In evaluation forward returns the mean of that, ``p * previous + (1 - p) * new``.

    Parameters
    ----------
    p : float, default 0.5
        Probability to keep the previous value, in [0, 1].
    shared_axes : int or tuple of int, default ()
        Axes that share their draws: 0 is one mask for all samples of states (n, features).
    rng
        As in `Dropout`. Each training forward, a step of a sequence, takes the next draw.

    Raises
    ------
    TypeError, ValueError
        If p or another parameter is not as above. In training and in evaluation, also if p was set to what is
        no rate.

    References
    ----------
    Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
    arXiv 1606.01305.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> cell, zone = torch.nn.GRUCell(3, 4), fdt.Zoneout(0.5, rng=42)
    >>> state = torch.zeros(2, 4)
    >>> for step in torch.randn(5, 2, 3):
    ...     state = zone(cell(step, state), state)
    >>> zone
    Zoneout(p=0.5, rng=Key(42, draw=5))
    >>> zone.eval()(torch.ones(2), torch.zeros(2))
    tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        p: float = 0.5,
        *,
        shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
        rng: Rng = None,
    ) -> None:
        super().__init__(rng=rng)
        rate(p)
        self.p, self.shared_axes = p, integers_in(shared_axes)

    def forward(
        self,
        new: Tensor,
        previous: Tensor,
        rows: Rows = None,
        indices: Indices = None,
        offsets: Rows = None,
    ) -> Tensor:
        """Return elements of new and previous in training, and their mean in evaluation.

        Parameters
        ----------
        new, previous : Tensor
            As in `fastdrop.torch.zoneout`.
        rows, indices, offsets
            As in `Dropout.forward`.
        """
        if torch.jit.is_scripting():
            return self._mean(self._scripted(new), previous)
        return self._eager(new, previous, listed(rows, indices, offsets))

    def _eager(self, new: Tensor, previous: Tensor, draws: dict[str, Any]) -> Tensor:
        if (leaf := self._leaf(new, previous, **draws)) is not None:
            return cast(Tensor, leaf)
        if not self.training:
            _check_alike("previous", previous, "new", new)
            real("p", self.p)
            return self._mean(new, previous)
        options = {"shared_axes": self.shared_axes, **draws}
        return self._with_key(new, lambda key: zoneout(new, previous, self.p, key, **options), draws)

    def _mean(self, new: Tensor, previous: Tensor) -> Tensor:
        """The mean of training's output, at the rate that its mask has, rounded once."""
        share = realised(float(self.p))  # not by `rate`, whose cache torch.compile warns of
        if share == 0.0 or share == 1.0:  # then a NaN in the other tensor leaves no trace
            return previous if share == 1.0 else new
        wide = torch.promote_types(new.dtype, torch.float32)
        return (share * previous.to(wide) + (1 - share) * new.to(wide)).to(new.dtype)

    def _arguments(self) -> dict[str, Any]:
        return {"p": self.p, **axes_set(self.shared_axes)}


class StandoutDropout(NoiseModule):
    """Dropout by a network that shares the layer's weights: large pre-activations are kept.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    In evaluation forward returns h times the probability to keep, or h itself if inverted. No gradient goes
    through the probabilities.

    Parameters
    ----------
    alpha, beta : float
        The probability to keep is ``sigmoid(alpha * a + beta)``.
    inverted : bool, default False
        Divide what is kept by its probability.
    rng
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If alpha or beta isn't a finite real number, or rng is not as in `Dropout`. In training and in
        evaluation, also if alpha or beta was set to another.

    References
    ----------
    Ba and Frey, "Adaptive Dropout for Training Deep Neural Networks", NeurIPS 2013.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> drop, a = fdt.StandoutDropout(rng=42), torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, 9.0])
    >>> drop(a.relu(), a)
    tensor([0., 0., 0., 1., 9., 9.])
    >>> drop.eval()(a.relu(), a).numpy().round(3)
    array([0.   , 0.   , 0.   , 0.731, 8.999, 8.999], dtype=float32)
    """

    def __init__(
        self, alpha: float = 1.0, beta: float = 0.0, *, inverted: bool = False, rng: Rng = None
    ) -> None:
        super().__init__(rng=rng)
        fd.standout_keep_prob(0.0, alpha=alpha, beta=beta)  # which checks them
        self.alpha, self.beta, self.inverted = float(alpha), float(beta), flag("inverted", inverted)

    def forward(
        self, h: Tensor, a: Tensor, rows: Rows = None, indices: Indices = None, offsets: Rows = None
    ) -> Tensor:
        """Return activations h with elements dropped in training, by their pre-activations a.

        Parameters
        ----------
        h, a : Tensor
            As in `fastdrop.torch.standout_dropout`.
        rows, indices, offsets
            As in `Dropout.forward`.
        """
        if torch.jit.is_scripting():
            return self._mean(self._scripted(h), a)
        return self._eager(h, a, listed(rows, indices, offsets))

    def _eager(self, h: Tensor, a: Tensor, draws: dict[str, Any]) -> Tensor:
        if (leaf := self._leaf(h, a, **draws)) is not None:
            return cast(Tensor, leaf)
        if self.training:
            options = self._arguments() | draws
            return self._with_key(h, lambda key: standout_dropout(h, a, key, **options), draws)
        if not self.inverted and h.shape != a.shape:
            raise ValueError(f"a must have h's shape {tuple(h.shape)}, got {tuple(a.shape)}")
        real("alpha", self.alpha)
        real("beta", self.beta)
        return self._mean(h, a)

    def _mean(self, h: Tensor, a: Tensor) -> Tensor:
        """The mean of training's output, which TorchScript compiles too."""
        if not (math.isfinite(self.alpha) and math.isfinite(self.beta)):
            raise ValueError(f"alpha and beta must be finite, got {self.alpha} and {self.beta}")
        if self.inverted:
            return h
        kept = torch.sigmoid(self.alpha * a.detach().to(torch.float64) + self.beta)
        return (h * kept).to(h.dtype)

    def _arguments(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "beta": self.beta, "inverted": self.inverted}


class TokenDropout(NoiseModule):
    """Word dropout: in training each token is replaced, with probability p, by another.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.1
        Probability to replace a token, in [0, 1].
    replacement : int
        What tokens are replaced by, such as the number of an unknown word.
    protected : iterable of int, default ()
        Tokens that stay, such as those for padding.
    rng
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not as above. `forward` raises as `token_dropout` does.

    References
    ----------
    Bowman et al., "Generating Sentences from a Continuous Space", arXiv 1511.06349, section 3.1.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> drop = fdt.TokenDropout(0.5, replacement=3, protected=(0, 1, 2), rng=42)
    >>> drop(torch.tensor([1, 17, 12, 15, 2, 0, 0, 0]))
    tensor([ 1,  3, 12, 15,  2,  0,  0,  0])
    """

    def __init__(
        self, p: float = 0.1, *, replacement: int, protected: Iterable[int] = (), rng: Rng = None
    ) -> None:
        super().__init__(rng=rng)
        rate(p)
        self.p = p
        self.replacement, self.protected = checked_tokens(replacement, protected)

    def forward(self, tokens: Tensor, rows: Rows = None) -> Tensor:
        """Return tokens with some replaced in training, and themselves in evaluation.

        Parameters
        ----------
        tokens : Tensor of integers
            As in `fastdrop.torch.token_dropout`.
        rows
            As in `Dropout.forward`.
        """
        if torch.jit.is_scripting():
            return self._scripted(tokens)
        return self._eager(tokens, listed(rows))

    def _eager(self, tokens: Tensor, draws: dict[str, Any]) -> Tensor:
        options: dict[str, Any] = {"replacement": self.replacement, "protected": self.protected} | draws
        return self._in_training(tokens, draws, lambda key: token_dropout(tokens, self.p, key, **options))

    def _arguments(self) -> dict[str, Any]:
        return {"p": self.p, "replacement": self.replacement, "protected": self.protected}


class EmbeddingDropout(NoiseModule):
    """Dropout of word types: in training an embedding lacks some words, each at all its places.

    Modules of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    In evaluation forward is `torch.nn.functional.embedding`.

    Parameters
    ----------
    p : float, default 0.1
        Probability to drop a word, in [0, 1].
    rng
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not as above. `forward` raises as `embedding_dropout` does.

    References
    ----------
    Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    arXiv 1512.05287, section 4.2.

    Examples
    --------
    >>> import torch, fastdrop.torch as fdt
    >>> embedding, drop = torch.nn.Embedding(4, 2), fdt.EmbeddingDropout(0.5, rng=42)
    >>> torch.nn.init.ones_(embedding.weight).requires_grad
    True
    >>> drop(torch.tensor([0, 3, 2, 3]), embedding.weight)[:, 0].detach()
    tensor([0., 2., 2., 2.])
    """

    def __init__(self, p: float = 0.1, *, rng: Rng = None) -> None:
        super().__init__(rng=rng)
        rate(p)
        self.p = p

    def forward(self, tokens: Tensor, weight: Tensor) -> Tensor:
        """Return rows of an embedding's weight, in training with words dropped."""
        if (leaf := self._leaf(tokens, weight)) is not None:
            return leaf
        if not self.training:
            return functional.embedding(tokens, weight)
        return self._with_key(weight, lambda key: embedding_dropout(tokens, weight, self.p, key), {})

    def _arguments(self) -> dict[str, Any]:
        return {"p": self.p}


def _check_alike(name: str, given: Tensor, of: str, like: Tensor) -> None:
    """Refuse a tensor whose shape or dtype is not that of another."""
    if given.shape != like.shape:
        raise ValueError(f"{name} must have {of}'s shape {tuple(like.shape)}, got {tuple(given.shape)}")
    if given.dtype is not like.dtype:
        raise ValueError(f"{name} must have {of}'s dtype {like.dtype}, got {given.dtype}")
