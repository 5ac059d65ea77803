"""Attention with dropout on the CPU, in blocks of rows: a big matrix of weights is never whole in memory.

PyTorch's fast attention on CPUs takes no dropout, and its slow one makes the whole matrix several times. A
mask is a function of the index here, so a block of the matrix can be dropped by itself, and again in the
backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.profiler import record_function
from torch.nn import functional

from fastdrop._arrays.listed import numbers_of_rows
from fastdrop._arrays.numbers import FULL, check_fits, flag, rate, real
from fastdrop._backends import loading
from fastdrop._noises.attention import block_of
from fastdrop._stream.keys import Key, as_key_or_seed, stream
from fastdrop.torch import _autograd as autograd
from fastdrop.torch import _keys as keys
from fastdrop.torch._noises import Numbers, window_of

Tensor: TypeAlias = torch.Tensor

# From so many weights of a head on it goes by blocks. Whole matrices of 128 x 128 took .6 to .9 of the time
# of blocks, forward and backward on one thread, since nothing is made twice. At 256 x 256 they still did, but
# on two threads blocks took less: 1.26 and 1.29 times what PyTorch took without dropout, whole matrices 1.45
# and 1.60. That was before a kernel of ours made the weights of blocks, which are faster since.
BLOCKS_FROM = 1 << 16


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    noise_key: Key | SupportsIndex | Tensor | None = None,
    rows: autograd.Rows = None,
) -> Tensor:
    """Return `torch.nn.functional.scaled_dot_product_attention`, with fast dropout of the weights.

    Parameters
    ----------
    query, key, value, attn_mask, is_causal, scale, enable_gqa
        As in PyTorch: tensors of shape (..., heads, T, E), (..., heads, S, E) and (..., heads, S, Ev).
    dropout_p : float, default 0.0
        Probability to drop a weight, in [0, 1]. At 0 PyTorch's own function does all.
    noise_key : Key, int or Tensor, optional
        The weights of shape (..., heads, T, S) get the mask that `fastdrop.torch.dropout` gives them under
        this key. Without one the key comes from torch's generator.
    rows : array_like or Tensor of int, optional
        The number of each sample on the first axis of the weights, as in `fastdrop.torch.dropout`; not in a
        graph of `torch.compile`.

    Returns
    -------
    Tensor
        Of shape (..., heads, T, Ev).

    Raises
    ------
    NotImplementedError
        If tensors are neither on the CPU nor on a CUDA device.
    RuntimeError, TypeError, ValueError
        As PyTorch's function, or `fastdrop.dropout` for p and key.

    Notes
    -----
    On the CPU weights are made in blocks of rows: PyTorch makes the products, and a kernel of ours the
    softmax, which it drops while a row is in the nearest cache. The backward pass makes the weights again: it
    keeps inputs, key and two numbers of each row. Blocks of 16-bit floats are computed in float32.

    In these cases the plain formula is computed instead, whose weights are whole in memory, with the same
    mask: on CUDA devices; below 65,536 weights a head, where blocks are slower; if `attn_mask` requires a
    gradient or `dropout_p` is 1; under `torch.func`, forward-mode derivatives and `torch.compile`, and for
    subclasses of tensors. A backward pass that is differentiated again, or batched, computes it too.

    References
    ----------
    Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", arXiv
    2205.14135; Rabe and Staats, "Self-attention Does Not Need O(n^2) Memory", arXiv 2112.05682.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> q = torch.randn(2, 4, 16, 8)
    >>> y = fdt.scaled_dot_product_attention(q, q, q, dropout_p=0.1, noise_key=fd.Key(42))
    >>> weights = fdt.dropout((q @ q.mT / 8**0.5).softmax(-1), 0.1, fd.Key(42))
    >>> torch.allclose(y, weights @ q, atol=1e-6)
    True
    """
    is_causal, enable_gqa = flag("is_causal", is_causal), flag("enable_gqa", enable_gqa)
    if not (isinstance(dropout_p, float) and 0 <= dropout_p <= 1):
        rate(dropout_p, "dropout_p")  # which says what is wrong, if anything is
    if dropout_p == 0:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    autograd.check_tensors(query=query, key=key, value=value)
    if attn_mask is not None:
        autograd.check_tensors(attn_mask=attn_mask)
    for tensor in (query, key, value):
        autograd.check_device(tensor)
    if 0 in (query.numel(), key.numel(), value.numel()):  # nothing is dropped
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if torch.is_autocast_enabled(query.device.type):
        low = torch.get_autocast_dtype(query.device.type)
        query, key, value = (t.to(low) for t in (query, key, value))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(low)
    drawn = noise_key
    if noise_key is None and autograd.traced(query):
        drawn = keys.random_key_tensor()
    elif noise_key is None:
        drawn = keys.drawn(keys.outside_transforms(lambda: keys.random_key(query)))
    draws = autograd.placed((), rows)
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, drawn, draws)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    p: float,
    causal: bool,
    scale: float | None,
    gqa: bool,
    noise_key: Any,
    draws: Numbers = (),
) -> Tensor:
    """Attention with dropout under a key: by blocks, or by the plain formula where only that will do."""
    _check(query, key, value, mask, causal, gqa)
    if draws and max(t.dim() for t in (query, key, value)) < 3:
        raise ValueError(f"rows needs an axis of samples, got shape {tuple(query.shape)}; use query[None]")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else real("scale", scale)
    if gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    if mask is not None and mask.dim() < 2:
        mask = mask.reshape((1,) * (2 - mask.dim()) + tuple(mask.shape))
    tensors = [t for t in (query, key, value, mask) if t is not None]
    whole = _small(query, key) or (mask is not None and mask.requires_grad)
    if whole or not takes(*tensors) or rate(p)[0] == FULL:
        return _formula(query, key, value, mask, p, noise_key, causal, scale, draws)
    batch = torch.broadcast_shapes(*(t.shape[:-2] for t in tensors))
    q, k, v = (t.expand(*batch, *t.shape[-2:]) for t in (query, key, value))
    settings = p, as_key_or_seed(keys.plain_key(noise_key)), causal, scale, draws
    y: Tensor = _Attention.apply(q, k, v, mask, settings)
    return y


def takes(*tensors: Tensor) -> bool:
    """Whether blocks can be made of the tensors: plain ones in memory, that nothing but autograd looks at."""
    return (
        all(t.is_cpu for t in tensors)
        and not any(map(autograd.traced, tensors))
        and not autograd.transformed()
    )


def is_ours(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, gqa: bool) -> bool:
    """Whether a call of PyTorch's attention with dropout goes by blocks; it is right, and big enough."""
    tensors = [t for t in (query, key, value, mask) if t is not None]
    if min(query.dim(), key.dim(), value.dim()) < 2 or 0 in (query.numel(), key.numel(), value.numel()):
        return False
    if _small(query, key) or not takes(*tensors) or (mask is not None and mask.requires_grad):
        return False
    if not all(t.layout is torch.strided and t.is_cpu and not t.is_nested for t in tensors):
        return False
    try:
        _check(query, key, value, mask, causal, gqa)
        if not gqa:
            torch.broadcast_shapes(*(t.shape[:-2] for t in (query, key, value)))
    except (RuntimeError, ValueError):
        return False  # PyTorch says why
    return True


def _small(query: Tensor, key: Tensor) -> bool:
    """Whether the matrix of a head is so small that it is made as a whole."""
    return query.shape[-2] * key.shape[-2] < BLOCKS_FROM


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, gqa: bool) -> None:
    """Refuse what PyTorch refuses."""
    if causal and mask is not None:
        raise RuntimeError("attn_mask must be None where is_causal is True")
    shapes = [tuple(t.shape) for t in (query, key, value)]
    if min(map(len, shapes)) < 2 or query.dtype not in autograd.REAL:
        raise RuntimeError(f"attention needs floats of two axes or more, got {query.dtype}, shapes {shapes}")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            f"query, key and value must be (T, E), (S, E) and (S, Ev) at the end, got {shapes}"
        )
    if not query.dtype == key.dtype == value.dtype:
        found = query.dtype, key.dtype, value.dtype
        raise RuntimeError(f"query, key and value must have one dtype, got {found}")
    if mask is not None and mask.dtype not in (torch.bool, query.dtype):
        raise RuntimeError(f"attn_mask must be of bool or query's dtype {query.dtype}, got {mask.dtype}")
    if gqa and (query.dim() < 3 or query.shape[-3] % key.shape[-3] or query.shape[-3] % value.shape[-3]):
        raise RuntimeError(f"enable_gqa needs heads that divide query's, got shapes {shapes}")
    batch = query.shape[:-2] if gqa else torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    scores = (*batch, query.shape[-2], key.shape[-2])
    if mask is not None:
        check_fits("attn_mask", mask.shape, scores, "the weights'")


def _formula(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    p: float,
    noise_key: Any,
    causal: bool,
    scale: float,
    draws: Numbers,
) -> Tensor:
    """The plain formula, of which PyTorch knows every derivative."""
    scores = query @ key.transpose(-1, -2) * scale
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    if mask is None:
        weights = scores.softmax(-1)
    else:  # a row that is masked wholly has weights of 0, and no gradient
        nothing = (scores == -math.inf).all(-1, True)
        weights = scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
    if weights.shape[:-2] != value.shape[:-2]:  # each of the values' batch has draws of its own, as in blocks
        batch = torch.broadcast_shapes(weights.shape[:-2], value.shape[:-2])
        weights = weights.expand(*batch, *weights.shape[-2:])
    return autograd.noise(weights, "dropout", (p,), noise_key, draws) @ value


class _Block(NamedTuple):
    """A block of the matrix: of heads [head, last) the rows [row, end) and the first `columns` columns."""

    head: int
    last: int
    row: int
    end: int
    columns: int


class _Blocks:
    """The matrix of weights of one call, by blocks.

    Its tensors have the axes (heads of all samples, rows, ...), in C order and in the type that they are
    computed in.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        settings: tuple[Any, ...],
        numbers: Tensor | None = None,
    ) -> None:
        p, key, self.causal, self.scale, draws = settings
        self.batch, self.rows, self.columns = q.shape[:-2], q.shape[-2], k.shape[-2]
        self.dtype = torch.promote_types(q.dtype, torch.float32)
        self.q, self.k, self.v = self.flat(q) * self.scale, self.flat(k), self.flat(v)
        self.mask = mask
        threshold, kept = rate(p)
        self.draw = threshold, kept, *stream(key)
        self.listed = window_of(draws)
        self.starts = self.firsts()
        # The two numbers of each row with which the backward pass makes its weights again.
        self.numbers = self.q.new_empty(*self.q.shape[:2], 2) if numbers is None else numbers

    def firsts(self) -> NDArray[np.int64]:
        """The index of the first draw of each head of each sample."""
        matrix, heads = self.rows * self.columns, math.prod(self.batch[1:])
        if self.listed is None:
            return np.arange(len(self.q)) * matrix
        samples = numbers_of_rows(self.listed.rows, self.batch[0], heads * matrix)
        return ((samples[:, None] * heads + np.arange(heads)) * matrix).ravel()

    def flat(self, t: Tensor) -> Tensor:
        """A tensor with one axis for all heads of all samples."""
        return t.reshape(-1, *t.shape[-2:]).to(self.dtype).contiguous()

    def __iter__(self) -> Iterator[_Block]:
        heads = len(self.q)
        rows, by_thread = block_of(self.rows, self.columns * self.dtype.itemsize)
        together = torch.get_num_threads() * by_thread
        for head in range(0, heads, together):
            for row in range(0, self.rows, rows):
                end = min(row + rows, self.rows)
                columns = min(self.columns, end) if self.causal else self.columns
                yield _Block(head, min(head + together, heads), row, end, columns)

    def scores(self, block: _Block) -> Tensor:
        """The weights of a block before softmax; those of the future are any numbers."""
        head, last, row, end, columns = block
        scores = torch.bmm(self.q[head:last, row:end], self.k[head:last, :columns].mT)
        if self.mask is not None:
            self._add_mask(scores, block)
        return scores

    def _add_mask(self, scores: Tensor, block: _Block) -> None:
        given = self.of_mask(block)
        if given.dtype is torch.bool:
            scores.masked_fill_(~given, -math.inf)
        else:
            scores += given

    def of_mask(self, block: _Block) -> Tensor:
        """The mask's part that belongs to a block, which broadcasts to it."""
        mask: Any = self.mask
        head, last, row, end, columns = block
        part = mask[..., row:end, :] if mask.shape[-2] > 1 else mask
        part = part[..., :columns] if mask.shape[-1] > 1 else part
        return (
            part.expand(*self.batch, *part.shape[-2:]).flatten(0, -3)[head:last] if mask.dim() > 2 else part
        )

    def drop(self, scores: Tensor, block: _Block, slopes: Tensor | None = None) -> Tensor:
        """Make dropped weights of a block's scores, in place.

        Slopes are the gradient with respect to these weights; that of the scores is written over them.
        """
        head, last, row, _, _ = block
        part = _softmax().Part(
            self.starts[head:last], row, self.rows, self.columns, self.causal, self.mask is not None
        )
        _softmax().weights(scores, slopes, self.numbers[head:last], part, self.draw)
        return scores


@cache
def _softmax() -> ModuleType:
    """The module that makes weights. It imports Numba, so it is imported at first use."""
    with loading:
        from fastdrop.torch import _softmax

    return _softmax


class _Attention(torch.autograd.Function):
    """Attention by blocks, forward and backward. It keeps inputs, key and two numbers of each row."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, settings: tuple[Any, ...]
    ) -> Tensor:
        ctx.settings = settings
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, k, v, None if mask is None else _own(mask))
        with record_function("fastdrop::attention"), torch.autocast("cpu", enabled=False):
            blocks = _Blocks(q, k, v, mask, settings)
            y = q.new_empty(*q.shape[:-1], v.shape[-1])
            into = y.view(-1, *y.shape[-2:])
            for block in blocks:
                head, last, row, end, columns = block
                weights = blocks.drop(blocks.scores(block), block)
                into[head:last, row:end] = torch.bmm(weights, blocks.v[head:last, :columns])
        ctx.numbers = blocks.numbers
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        given = g, *ctx.saved_tensors, ctx.settings, ctx.numbers
        if torch.compiler.is_dynamo_compiling():  # compiled autograd
            return *keys.eagerly(_gradients, *given), None, None
        with record_function("fastdrop::attention"), torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled() or autograd.transformed() or autograd.batched(g):
                return *_by_formula(ctx, g), None, None
            return *_gradients(*given), None, None


def _gradients(
    g: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    settings: tuple[Any, ...],
    numbers: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients by blocks, with respect to q, k and v."""
    blocks = _Blocks(q, k, v, mask, settings, numbers)
    dy = blocks.flat(g)
    dq = torch.empty_like(blocks.q)
    # Transposed, so that their rows are as long as the block's, these products take 3/4 of the time.
    dk, dv = (t.new_zeros(t.mT.shape) for t in (blocks.k, blocks.v))
    for block in blocks:
        head, last, row, end, columns = block
        part = dy[head:last, row:end]
        slopes = torch.bmm(part, blocks.v[head:last, :columns].mT)
        dropped = blocks.drop(blocks.scores(block), block, slopes)
        dv[head:last, :, :columns].baddbmm_(part.mT, dropped)
        dq[head:last, row:end] = torch.bmm(slopes, blocks.k[head:last, :columns])
        dk[head:last, :, :columns].baddbmm_(blocks.q[head:last, row:end].mT, slopes)  # q is scaled
    dq *= blocks.scale
    found = (dq, q), (dk.mT.contiguous(), k), (dv.mT.contiguous(), v)
    return tuple(d.to(t.dtype).view(t.shape) for d, t in found)


def _own(mask: Tensor) -> Tensor:
    """A copy of a mask, since callers refill theirs, without the axes along which it is only expanded."""
    part = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in mask.stride())
    with torch.inference_mode(False):
        return mask[part].clone()


def _by_formula(ctx: Any, g: Tensor) -> list[Tensor | None]:
    """The gradients as functions that may be differentiated again."""
    q, k, v, mask = ctx.saved_tensors
    p, key, causal, scale, draws = ctx.settings
    wanted = [t for t, needed in zip((q, k, v), ctx.needs_input_grad, strict=False) if needed]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        y = _formula(q, k, v, mask, p, key, causal, scale, draws)
    found = iter(torch.autograd.grad(y, wanted, g, create_graph=again))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]
