"""The public functions: noises of tensors with a key. `_fused` and `_tokens` do some of the work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import torch

from fastdrop._arrays.numbers import Rate, check_broadcast, flag
from fastdrop._noises.drop_block import Size, sizes_of
from fastdrop._noises.drop_path import path_axes
from fastdrop._stream.keys import Key
from fastdrop.torch import _fused as fused
from fastdrop.torch import _tokens as of_tokens
from fastdrop.torch._autograd import Indices, Rows, check_real, check_tensors, noise, placed


def dropout(
    x: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    inplace: bool = False,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return x with each element dropped with probability p and the others scaled by 1/(1 - p).

    Parameters
    ----------
    x : Tensor, any shape
        On the CPU or a CUDA device: float16, bfloat16, float32, float64, complex64 or complex128, in any
        memory format.
    p : float, Tensor or ndarray
        Probability to drop, in [0, 1]. An array as in `fastdrop.dropout`, on the CPU or where x is, that
        needs no gradient; not in a graph of `torch.compile`.
    key : Key, int or Tensor
        The same key gives the mask of `fastdrop.dropout`. `key_tensor` makes tensors for `torch.compile`.
    shared_axes : int or tuple of int, default ()
        As in `fastdrop.dropout`.
    inplace : bool, default False
        Write into x, as torch's functions do.
    rows, indices, offsets : array_like or Tensor of int, optional
        Which draws the elements have, as in `fastdrop.dropout`; not in a graph of `torch.compile`.

    Returns
    -------
    Tensor
        A new one of x's dtype and memory format, or x.

    Raises
    ------
    NotImplementedError
        If x is on another device.
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

    Samples 3, 0 and 3 of a data set, each with its own mask in any batch:

    >>> batch = fdt.dropout(torch.ones(3, 4), 0.5, fd.Key(42), rows=torch.tensor([3, 0, 3]))
    >>> bool((batch[0] == batch[2]).all())
    True
    """
    return noise(x, "dropout", (p,), key, placed(shared_axes, rows, indices, offsets), inplace=inplace)


def gaussian_dropout(
    x: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    inplace: bool = False,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return x times normal noise of mean 1 and variance p / (1 - p): `fastdrop.gaussian_dropout`.

    Parameters
    ----------
    x, key, shared_axes, inplace, rows, indices, offsets
        As in `dropout`.
    p : float, Tensor or ndarray
        The rate of the dropout that has this variance, in [0, 1). An array as in `dropout`.

    Returns
    -------
    Tensor
        A new one of x's dtype and memory format, or x.

    Raises
    ------
    NotImplementedError, RuntimeError, TypeError, ValueError
        As `dropout`, or if p is 1, where the variance is infinite.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.gaussian_dropout(torch.ones(3), 0.5, fd.Key(42)).numpy().round(3)
    array([ 1.975,  1.617, -0.197], dtype=float32)
    """
    numbers = placed(shared_axes, rows, indices, offsets)
    return noise(x, "gaussian_dropout", (p,), key, numbers, inplace=inplace)


def gaussian_noise(
    x: torch.Tensor,
    std: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    inplace: bool = False,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return x plus normal noise of mean 0: `fastdrop.gaussian_noise`.

    The gradient of x is that of the output, as it is.

    Parameters
    ----------
    x, key, shared_axes, inplace, rows, indices, offsets
        As in `dropout`.
    std : float, Tensor or ndarray
        Standard deviation, finite and not negative. An array as p in `dropout`.

    Returns
    -------
    Tensor
        A new one of x's dtype and memory format, or x.

    Raises
    ------
    NotImplementedError, RuntimeError, TypeError, ValueError
        As `dropout`, or if std is negative or not finite.

    References
    ----------
    Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", Neural Computation 7 (1995).

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.gaussian_noise(torch.zeros(3), 0.1, fd.Key(42)).numpy().round(3)
    array([ 0.098,  0.062, -0.12 ], dtype=float32)
    """
    numbers = placed(shared_axes, rows, indices, offsets)
    return noise(x, "gaussian_noise", (std,), key, numbers, inplace=inplace)


def alpha_dropout(
    x: torch.Tensor,
    p: float,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    inplace: bool = False,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return dropout that keeps mean 0 and variance 1: `fastdrop.alpha_dropout`.

    Parameters
    ----------
    x : Tensor, any shape
        Of a real dtype that `dropout` takes.
    p : float
        Probability to drop, in [0, 1]: one number.
    key, shared_axes, inplace, rows, indices, offsets
        As in `dropout`.

    Returns
    -------
    Tensor
        A new one of x's dtype and memory format, or x.

    Raises
    ------
    NotImplementedError, RuntimeError, TypeError, ValueError
        As `dropout`, or if x is complex or p an array.

    References
    ----------
    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.alpha_dropout(torch.zeros(4), 0.5, fd.Key(42)).numpy().round(4)
    array([-0.7792, -0.7792,  0.7792,  0.7792], dtype=float32)
    """
    numbers = placed(shared_axes, rows, indices, offsets)
    return noise(x, "alpha_dropout", (p,), key, numbers, inplace=inplace)


def drop_path(
    x: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    mode: str = "row",
    scale_by_keep: bool = True,
    inplace: bool = False,
    rows: Rows = None,
) -> torch.Tensor:
    """Return x with whole samples dropped: `fastdrop.drop_path`.

    Parameters
    ----------
    x : Tensor, at least 1-D
        Samples along the first axis, of a dtype that `dropout` takes.
    p, key, inplace, rows
        As in `dropout`.
    mode : {"row", "batch"}, default "row"
        Draw for each sample, or once for all.
    scale_by_keep : bool, default True
        Multiply what is kept by 1/(1 - p).

    Returns
    -------
    Tensor
        A new one of x's dtype and memory format, or x.

    Raises
    ------
    NotImplementedError, RuntimeError, TypeError, ValueError
        As `dropout`, or if mode is another or x has no axis.

    References
    ----------
    Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, section 3.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.drop_path(torch.ones(4, 3), 0.5, fd.Key(7))[:, 0]
    tensor([0., 2., 0., 2.])
    """
    check_tensors(x=x)
    scaled = scale_by_keep is True or flag("scale_by_keep", scale_by_keep)
    name = "dropout" if scaled else "unscaled_dropout"
    return noise(x, name, (p,), key, placed(path_axes(x.dim(), mode), rows), inplace=inplace)


def drop_block(
    x: torch.Tensor,
    p: float,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    block_size: Size = 7,
    shared_channels: bool = False,
    inplace: bool = False,
) -> torch.Tensor:
    """Return sequences, images or volumes with blocks dropped: `fastdrop.drop_block` in any memory format.

    Parameters
    ----------
    x : Tensor of shape (n, c, l), (n, c, h, w) or (n, c, d, h, w)
        On the CPU, of a dtype that `dropout` takes.
    p : float
        The nominal rate, in [0, 1]: `fastdrop.drop_block` says what fraction is dropped.
    key, inplace
        As in `dropout`.
    block_size : int or tuple of int, default 7
        Side of a block, or one for each spatial axis; cut to that of the image along each.
    shared_channels : bool, default False
        Drop the same blocks in all channels of an image, rather than others in each.

    Returns
    -------
    Tensor
        A new one of x's dtype and memory format, or x.

    Raises
    ------
    NotImplementedError, RuntimeError, TypeError, ValueError
        As `dropout`, if x is on a GPU or has another number of axes, or if an option isn't as above.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> y = fdt.drop_block(torch.ones(1, 1, 5, 6), 0.3, fd.Key(4), block_size=2)
    >>> (y[0, 0] != 0).int()[:3]
    tensor([[1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 1]], dtype=torch.int32)
    """
    check_tensors(x=x)
    sizes = sizes_of(block_size, max(x.dim() - 2, 1))
    shared = int(flag("shared_channels", shared_channels))
    return noise(x, "drop_block", (p,), key, (*sizes, shared), inplace=inplace)


def zoneout(
    new: torch.Tensor,
    previous: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return new with each element replaced, with probability p, by that of previous: `fastdrop.zoneout`.

    Parameters
    ----------
    new : Tensor, any shape
        What a recurrent cell computed for this step, of a dtype that `dropout` takes.
    previous : Tensor
        The state of the step before, of new's shape and dtype. Both get gradients.
    p, key, shared_axes, rows, indices, offsets
        As in `dropout`. Each step needs a key of its own, such as ``key.fold_in(t)``.

    Returns
    -------
    Tensor
        A new one of new's dtype and memory format. Nothing is scaled.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `dropout`, or if previous isn't like new.

    References
    ----------
    Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations",
    arXiv 1606.01305, section 3.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> new, previous = torch.ones(6, requires_grad=True), torch.zeros(6, requires_grad=True)
    >>> fdt.zoneout(new, previous, 0.5, fd.Key(42)).sum().backward()
    >>> new.grad, previous.grad
    (tensor([0., 0., 1., 1., 1., 1.]), tensor([1., 1., 0., 0., 0., 0.]))
    """
    check_tensors(new=new, previous=previous)
    numbers = placed(shared_axes, rows, indices, offsets)
    return noise(new, "zoneout", (p,), key, numbers, other=previous)


def standout_dropout(
    h: torch.Tensor,
    a: torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    inverted: bool = False,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return h with each element kept with a probability that its pre-activation tells.

    This is `fastdrop.standout_dropout`. As there, a gets no gradient; autograd keeps it for that of h.

    Parameters
    ----------
    h : Tensor, any shape
        Activations, of a real dtype that `dropout` takes.
    a : Tensor of h's shape
        Finite pre-activations of the same units.
    key, rows, indices, offsets
        As in `dropout`.
    alpha, beta : float
        The probability to keep is ``sigmoid(alpha * a + beta)``.
    inverted : bool, default False
        Divide what is kept by its probability, so that h is the mean.

    Returns
    -------
    Tensor
        A new one of h's dtype and memory format.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `dropout`, or if a is of another shape or not finite, or alpha or beta isn't finite.

    References
    ----------
    Ba and Frey, "Adaptive Dropout for Training Deep Neural Networks", NeurIPS 2013, section 3.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> a = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, 9.0])
    >>> fdt.standout_dropout(torch.ones(6), a, fd.Key(42))
    tensor([0., 0., 1., 1., 1., 1.])
    """
    check_tensors(h=h, a=a)
    numbers = placed((int(flag("inverted", inverted)),), rows, indices, offsets)
    return noise(h, "standout_dropout", (alpha, beta), key, numbers, other=a.detach())


def embedding_dropout(
    tokens: torch.Tensor,
    weight: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
) -> torch.Tensor:
    """Return the embeddings of tokens, with words dropped: a word at all its places, or at none.

    This is `fastdrop.embedding_dropout`, with a gradient of the weight. Autograd keeps the tokens.

    Parameters
    ----------
    tokens : Tensor of integers, any shape
        Row numbers of weight, in [0, vocabulary).
    weight : Tensor of shape (vocabulary, features)
        The embedding, of a dtype that `dropout` takes.
    p : float, Tensor or ndarray
        As in `dropout`. An array has the shape (vocabulary,): a rate for each word.
    key
        As in `dropout`.

    Returns
    -------
    Tensor of shape ``(*tokens.shape, features)``
        A new one in C order.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `dropout`, or as `fastdrop.embedding_dropout`.

    References
    ----------
    Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    arXiv 1512.05287, section 4.2.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> weight = torch.arange(1.0, 9).view(4, 2).requires_grad_()
    >>> y = fdt.embedding_dropout(torch.tensor([0, 3, 2, 3]), weight, 0.5, fd.Key(42))
    >>> y.detach()
    tensor([[ 0.,  0.],
            [14., 16.],
            [10., 12.],
            [14., 16.]])
    >>> y.sum().backward()
    >>> weight.grad[:, 0]
    tensor([0., 0., 2., 4.])
    """
    check_tensors(tokens=tokens, weight=weight)
    of_tokens.check_integers(tokens)
    if weight.dim() != 2:
        raise ValueError(f"weight must have the shape (vocabulary, features), got {tuple(weight.shape)}")
    return noise(weight, "embedding_dropout", (p,), key, (weight.shape[0],), other=tokens)


def token_dropout(
    tokens: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    replacement: int,
    protected: Iterable[int] = (),
    rows: Rows = None,
) -> torch.Tensor:
    """Return tokens with each replaced, with probability p, by another: `fastdrop.token_dropout`.

    Parameters
    ----------
    tokens : Tensor of integers, any shape
        On the CPU, of any integer dtype.
    p, key, rows
        As in `dropout`.
    replacement : int
        What tokens are replaced by, such as the number of an unknown word.
    protected : iterable of int, default ()
        Tokens that stay, such as those for padding.

    Returns
    -------
    Tensor
        A new one of tokens' dtype, in C order.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `dropout`, if tokens aren't integers, or if replacement doesn't fit their dtype.

    References
    ----------
    Bowman et al., "Generating Sentences from a Continuous Space", arXiv 1511.06349, section 3.1.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> tokens = torch.tensor([1, 17, 12, 15, 2, 0, 0, 0])
    >>> fdt.token_dropout(tokens, 0.5, fd.Key(42), replacement=3, protected=(0, 1, 2))
    tensor([ 1,  3, 12, 15,  2,  0,  0,  0])
    """
    check_tensors(tokens=tokens)
    return of_tokens.token_dropout(tokens, p, key, replacement, protected, placed((), rows))


def local_reparameterization(
    mean: torch.Tensor,
    variance: torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return normals of given means and variances: `fastdrop.local_reparameterization`.

    Parameters
    ----------
    mean : Tensor
        Of a real dtype that `dropout` takes.
    variance : Tensor of real numbers >= 0
        Broadcastable to the means. Both get gradients; that of a variance of 0 isn't finite.
    key, rows, indices, offsets
        As in `dropout`.

    Returns
    -------
    Tensor
        ``mean + sqrt(variance) * z``, with the z of `fastdrop.normal`: a new one of mean's dtype and format.

    Raises
    ------
    NotImplementedError, TypeError, ValueError
        As `dropout`, or if means or variances aren't real, a variance is negative or not finite, or the
        variances don't broadcast to the means.

    References
    ----------
    Kingma, Salimans, Welling, "Variational Dropout and the Local Reparameterization Trick",
    arXiv 1506.02557, section 2.2.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> mean, variance = torch.zeros(3), torch.tensor([0.0, 1.0, 4.0])
    >>> fdt.local_reparameterization(mean, variance, fd.Key(42)).numpy().round(2)
    array([ 0.  ,  0.62, -2.39], dtype=float32)
    """
    check_tensors(mean=mean, variance=variance)
    check_real("variance", variance)
    check_broadcast("variance", variance, tuple(mean.shape))
    std = variance.to(torch.float64).sqrt().broadcast_to(mean.shape)
    numbers = placed((), rows, indices, offsets)
    return noise(mean, "local_reparameterization", (), key, numbers, other=std)


def dropout_add(
    x: torch.Tensor,
    residual: torch.Tensor,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return residual + dropout(x), in one pass where both are in C order and of one dtype and shape.

    Others are dropped, then added as torch adds them, as everything is in a graph of `torch.compile`.

    Parameters
    ----------
    x, p, key, shared_axes, rows, indices, offsets
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
    check_tensors(x=x)
    fused.check_residual(residual)
    return fused.dropout_add(x, residual, p, key, placed(shared_axes, rows, indices, offsets))


def bias_act_dropout(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    p: Rate | torch.Tensor,
    key: Key | SupportsIndex | torch.Tensor,
    *,
    activation: str = "relu",
    residual: torch.Tensor | None = None,
    shared_axes: SupportsIndex | Sequence[SupportsIndex] = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> torch.Tensor:
    """Return dropout of an activation of x + bias, plus a residual: in one pass where all are in C order.

    Autograd keeps x and the bias. Other layouts, graphs of `torch.compile` and a second derivative go step by
    step, through torch's activations.

    Parameters
    ----------
    x, p, key, shared_axes, rows, indices, offsets
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
    check_tensors(x=x, bias=x if bias is None else bias)
    if residual is not None:
        fused.check_residual(residual)
    numbers = placed(shared_axes, rows, indices, offsets)
    return fused.bias_act_dropout(x, bias, residual, p, key, activation, numbers)
