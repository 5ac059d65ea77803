"""The functions: noises of tensors with a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import torch

from fastdrop._arrays.numbers import Rate
from fastdrop._noises.drop_path import path_axes
from fastdrop._stream.keys import Key
from fastdrop.torch import _autograd as ops
from fastdrop.torch import _fused as fused


def dropout(
    x: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    inplace: bool = False,
) -> torch.Tensor:
    """Return x with each element dropped with probability p and the others scaled by 1/(1 - p).

    Parameters
    ----------
    x : Tensor, any shape
        On the CPU: float16, bfloat16, float32, float64, complex64 or complex128, of any layout.
    p : float, Tensor or ndarray
        Probability to drop, in [0, 1]. An array as in `fastdrop.dropout`, on the CPU, that needs no gradient;
        not in a graph of `torch.compile`.
    key : Key, int or Tensor
        The same key gives the mask of `fastdrop.dropout`. `key_tensor` makes tensors for `torch.compile`.
    shared_axes : int or tuple of int, default ()
        As in `fastdrop.dropout`.
    inplace : bool, default False
        Write into x, as torch's functions do.

    Returns
    -------
    Tensor
        A new one of x's dtype and memory format, or x.

    Raises
    ------
    NotImplementedError
        If x is not on the CPU.
    RuntimeError
        If x is to be changed in place, but is a leaf that requires grad.
    TypeError, ValueError
        As `fastdrop.dropout`.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014).

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> x = torch.ones(6, requires_grad=True)
    >>> fdt.dropout(x, 0.5, fd.Key(42)).sum().backward()
    >>> x.grad
    tensor([0., 0., 2., 2., 2., 2.])
    """
    return ops.noise(x, "dropout", p, key, ops.axes_of(shared_axes), inplace)


def gaussian_dropout(
    x: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    inplace: bool = False,
) -> torch.Tensor:
    """Return x times normal noise of mean 1 and variance p / (1 - p): `fastdrop.gaussian_dropout`.

    Parameters and errors are those of `dropout`, but p must be below 1.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.gaussian_dropout(torch.ones(3), 0.5, fd.Key(42)).numpy().round(3)
    array([ 1.975,  1.617, -0.197], dtype=float32)
    """
    return ops.noise(x, "gaussian_dropout", p, key, ops.axes_of(shared_axes), inplace)


def alpha_dropout(
    x: torch.Tensor,
    p: float,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    inplace: bool = False,
) -> torch.Tensor:
    """Return dropout that keeps mean 0 and variance 1: `fastdrop.alpha_dropout`.

    Parameters and errors are those of `dropout`, but x must be real and p one number.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.alpha_dropout(torch.zeros(4), 0.5, fd.Key(42)).numpy().round(4)
    array([-0.7792, -0.7792,  0.7792,  0.7792], dtype=float32)
    """
    return ops.noise(x, "alpha_dropout", p, key, ops.axes_of(shared_axes), inplace)


def drop_path(
    x: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    mode: str = "row",
    inplace: bool = False,
) -> torch.Tensor:
    """Return x with whole samples dropped: `fastdrop.drop_path`.

    Parameters and errors are those of `dropout` and, for the mode, "row" or "batch", of `fastdrop.drop_path`.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.drop_path(torch.ones(4, 3), 0.5, fd.Key(7))[:, 0]
    tensor([0., 2., 0., 2.])
    """
    return ops.noise(x, "dropout", p, key, path_axes(x.dim(), mode), inplace)


def drop_block(
    x: torch.Tensor,
    p: float,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    block_size: int = 7,
    shared_channels: bool = False,
    inplace: bool = False,
) -> torch.Tensor:
    """Return images (n, c, h, w) with square blocks dropped: `fastdrop.drop_block`, in any memory format.

    Parameters and errors are those of `dropout`, with one number as p, and of `fastdrop.drop_block`.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> y = fdt.drop_block(torch.ones(1, 1, 5, 6), 0.3, fd.Key(4), block_size=2)
    >>> (y[0, 0] != 0).int()[:3]
    tensor([[1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """
    return ops.noise(x, "drop_block", p, key, (int(block_size), int(shared_channels)), inplace)


def dropout_add(
    x: torch.Tensor,
    residual: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
) -> torch.Tensor:
    """Return residual + dropout(x), in one pass where both are in C order and of one dtype and shape.

    Others are dropped, then added as torch adds them, as everything is in a graph of `torch.compile`.

    Parameters
    ----------
    x, p, key, shared_axes
        As in `dropout`.
    residual : Tensor
        What torch can add to x.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `dropout`.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.dropout_add(torch.ones(6), torch.arange(6.0), 0.5, fd.Key(42))
    tensor([0., 1., 4., 5., 6., 7.])
    """
    return fused.dropout_add(x, residual, p, key, ops.axes_of(shared_axes))


def bias_act_dropout(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    activation: str = "relu",
    residual: torch.Tensor | None = None,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
) -> torch.Tensor:
    """Return dropout of an activation of x + bias, plus a residual: in one pass where all are in C order.

    Autograd keeps x and the bias. Other layouts, graphs of `torch.compile` and a second derivative go step by
    step, through torch's activations.

    Parameters
    ----------
    x, p, key, shared_axes
        As in `dropout`; x is real and has an axis.
    bias : Tensor of shape ``x.shape[-1:]``, or None
        Added to x.
    activation : {"none", "relu", "gelu", "gelu_tanh", "silu"}, default "relu"
        As in `fastdrop.bias_act_dropout`.
    residual : Tensor, optional
        What torch can add to x.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `dropout`, or if the activation is another.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> x = torch.tensor([[-3.0, -1.0, 1.0, 3.0]])
    >>> fdt.bias_act_dropout(x, torch.ones(4), 0.5, fd.Key(42))
    tensor([[0., 0., 4., 8.]])
    """
    return fused.bias_act_dropout(x, bias, residual, p, key, activation, ops.axes_of(shared_axes))
