"""Attention whose weights are dropped, in blocks of rows: the matrix of weights is never whole in memory.

A mask is a function of the index. So a block of the matrix can be dropped by itself, and again in the
backward pass, which keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import real_array, real_type, target, unmasked, without_warnings
from fastdrop._arrays.listed import Listed, Runs, numbers_of_rows
from fastdrop._arrays.numbers import check_fits, flag, rate, real
from fastdrop._arrays.plan import Place, Window, window_given, window_of
from fastdrop._noises._noise import REAL, Noise, register
from fastdrop._noises.bernoulli import dropout
from fastdrop._stream.keys import Key, as_key_or_seed, signed

# A block of the matrix has up to so many rows of each head, and so many bytes in all heads that are done
# together, so that it stays in the cache between the passes over it. The products need some rows to be fast.
# Tensors have the same blocks: there, of 2^19 to 2^22 bytes and 64 to 256 rows, these were the fastest for
# 256, 1,024 and 2,048 places on one thread, or within a tenth, before a kernel of ours made their weights.
_ROWS, _FEWEST, _BYTES = 128, 16, 1 << 20


@without_warnings
def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    attn_mask: ArrayLike | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return ``softmax(q @ k.mT * scale) @ v``, scaled dot-product attention, with its weights dropped.

    Options have the names and the meaning that they have in PyTorch's `scaled_dot_product_attention`.

    Parameters
    ----------
    q : array_like of shape (..., heads, T, E)
        The queries: float16, bfloat16, float32 or float64. There may be any number of axes before the
        last two, also none. 16-bit floats are computed in float32.
    k : array_like of shape (..., heads, S, E)
        The keys, of q's dtype.
    v : array_like of shape (..., heads, S, Ev)
        The values, of q's dtype. The axes of q, k and v before the last two broadcast.
    p : float
        Probability to drop a weight, in [0, 1]. At 0 this is attention without dropout, for evaluation.
    key : Key or int
        The noise's key, as in `dropout`. The weights are an array of shape (..., heads, T, S), and get the
        mask that `dropout` gives to it.
    attn_mask : array_like, optional
        Of bool: True where a query may look. Or of q's dtype: what is added to ``q @ k.mT * scale``. It
        broadcasts to the weights. A query that may look nowhere gets 0.
    is_causal : bool, default False
        Query t sees the keys up to number t alone; `attn_mask` may be given beside it.
    scale : float, optional
        ``1 / sqrt(E)`` by default.
    enable_gqa : bool, default False
        Whether k and v may have fewer heads than q, each for a group of q's that follow each other.
    out : ndarray of shape (..., heads, T, Ev), optional
        Where to copy the result, of q's dtype.
    window : (full_shape, origin), optional
        The weights are a block of a bigger array of weights, as x is in `dropout`: some samples, heads,
        queries or keys of it. `is_causal` also goes by their places there.
    rows : array_like of int, optional
        The number of each of the weights along their first axis, as in `dropout`: of each sample where
        the weights have the shape (batch, heads, T, S).

    Returns
    -------
    ndarray of shape (..., heads, T, Ev)
        `out`, or a new array of q's dtype.

    Raises
    ------
    TypeError
        If arrays are of other dtypes, p or scale is not real, or key is neither a Key nor an int.
    ValueError
        If shapes don't fit, p is outside [0, 1], `out` is not of the result's shape and dtype, or
        `window` or `rows` doesn't fit the weights.

    See Also
    --------
    attention_backward : its gradients.
    fastdrop.torch.scaled_dot_product_attention : the same for tensors.

    Notes
    -----
    Weights are made a block of rows at a time, and dropped where they are. Beside the inputs and the
    result a block is all that is in memory: about 1 MiB, or 16 rows where 16 rows are more.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.2. Rabe and Staats,
    "Self-attention Does Not Need O(n^2) Memory", arXiv 2112.05682. Dao et al., "FlashAttention: Fast and
    Memory-Efficient Exact Attention with IO-Awareness", arXiv 2205.14135, for the backward pass.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4, 16, 8))  # 2 samples, 4 heads
    >>> y = fd.attention(q, k, v, 0.1, fd.Key(42), is_causal=True)
    >>> y.shape
    (2, 4, 16, 8)

    That is, with all the weights in memory:

    >>> scores = np.where(np.tri(16, dtype=bool), q @ k.mT / 8**0.5, -np.inf)
    >>> weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    >>> np.allclose(y, fd.dropout(weights, 0.1, fd.Key(42)) @ v)
    True

    The last 6 queries by themselves, and sample 1 of a data set:

    >>> last = fd.attention(q[..., 10:, :], k, v, 0.1, fd.Key(42), is_causal=True,
    ...                     window=((2, 4, 16, 16), (0, 0, 10, 0)))
    >>> np.allclose(last, y[..., 10:, :])
    True
    >>> one = fd.attention(q[1:], k[1:], v[1:], 0.1, fd.Key(42), is_causal=True, rows=[1])
    >>> np.allclose(one, y[1:])
    True
    """
    weights = _Weights.of(
        _inputs(q, k, v), p, key, attn_mask, is_causal, scale, enable_gqa, window_given(window, rows)
    )
    y = np.empty((*weights.shape[:-1], weights.v.width), weights.dtype)
    result = y if out is None else target(out, y)
    flat = y.reshape(weights.heads, *y.shape[-2:])
    for block in weights.blocks():
        exponentials, one_over_sum = weights.softmax(block)
        weights.drop(exponentials, block)
        flat[block.heads, block.rows] = exponentials @ block.v * one_over_sum
    if out is None:
        return y
    np.copyto(result, y)
    return out


@without_warnings
def attention_backward(
    g: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    attn_mask: ArrayLike | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    window: Window | None = None,
    rows: ArrayLike | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Return the gradients of `attention` with respect to q, k, v and a mask that is added.

    The weights and their mask are made again, a block at a time: nothing of the forward pass is needed.

    Parameters
    ----------
    g : array_like of shape (..., heads, T, Ev)
        Gradient with respect to the output, of q's dtype.
    q, k, v, p, key, attn_mask, is_causal, scale, enable_gqa, window, rows
        As given to `attention`.

    Returns
    -------
    dq, dk, dv : ndarray
        Of the shapes of q, k and v.
    dmask : ndarray or None
        Of the mask's shape; None without a mask and for one of bool.

    Raises
    ------
    TypeError, ValueError
        As `attention`, or if g's shape isn't that of its output.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4, 16, 8))
    >>> y = fd.attention(q, k, v, 0.1, fd.Key(42))
    >>> dq, dk, dv, _ = fd.attention_backward(y, q, k, v, 0.1, fd.Key(42))  # of the loss sum(y**2) / 2
    >>> np.isclose((dv * v).sum(), (y * y).sum())  # y is linear in v
    np.True_
    """
    weights = _Weights.of(
        _inputs(q, k, v), p, key, attn_mask, is_causal, scale, enable_gqa, window_given(window, rows)
    )
    dy = weights.gradient(g)
    dq, dk, dv = weights.q.zeros(), weights.k.zeros(), weights.v.zeros()
    mask = weights.mask
    dmask = None if mask is None or mask.flat.dtype == np.bool_ else mask.zeros()
    for block in weights.blocks():
        exponentials, one_over_sum = weights.softmax(block)
        part = dy[block.heads, block.rows]
        dropped = exponentials.copy()
        weights.drop(dropped, block)
        dv.add(block.heads, block.seen, dropped.mT @ (part * one_over_sum))
        slopes = part @ block.v.mT
        weights.drop(slopes, block)  # and not times dropped weights: slopes that aren't finite must vanish
        slopes *= exponentials
        exponentials *= slopes.sum(-1, keepdims=True) * one_over_sum
        slopes -= exponentials
        dq.add(block.heads, block.rows, slopes @ block.k * (one_over_sum * weights.scale))
        dk.add(block.heads, block.seen, slopes.mT @ (block.q * one_over_sum))
        if dmask is not None:
            slopes *= one_over_sum
            weights.add_to_mask(dmask, slopes, block)
    found = dq.result(q), dk.result(k), dv.result(v)
    return *found, None if dmask is None else dmask.result(attn_mask)


class _Matrices(NamedTuple):
    """An input as matrices, and which of them each head of the weights has.

    Attributes
    ----------
    flat : ndarray of shape (matrices, rows, columns)
    which : ndarray of shape (heads,)
        The number of each head's matrix.
    """

    flat: NDArray[Any]
    which: NDArray[np.intp]

    @classmethod
    def of(cls, x: NDArray[Any], batch: tuple[int, ...], dtype: np.dtype[Any], group: int = 1) -> _Matrices:
        """The matrices of an input, which so many heads share that follow each other."""
        count = math.prod(x.shape[:-2])
        numbers = np.arange(count).reshape(x.shape[:-2])
        if group != 1:
            numbers = np.repeat(numbers, group, -1)
        flat = x.reshape(count, *x.shape[-2:])
        return cls(flat.astype(dtype, copy=False), np.broadcast_to(numbers, batch).ravel())

    @property
    def width(self) -> int:
        return int(self.flat.shape[-1])

    @property
    def shared(self) -> bool:
        """Whether heads share a matrix; if none do, head and matrix have the same number."""
        return len(self.flat) != len(self.which)

    def __getitem__(self, heads: slice) -> NDArray[Any]:  # type: ignore[override]
        """Return the matrices of some heads."""
        return self.flat[self.which[heads]] if self.shared else self.flat[heads]

    def zeros(self) -> _Matrices:
        """Return zeros like the matrices: where a gradient is summed."""
        return self._replace(flat=np.zeros_like(self.flat, order="C"))

    def add(self, heads: slice, rows: slice, parts: NDArray[Any]) -> None:
        """Add to the rows of some heads' matrices."""
        if not self.shared:
            self.flat[heads, rows] += parts
            return
        for number, part in zip(self.which[heads], parts, strict=True):
            self.flat[number, rows] += part

    def result(self, like: Any) -> NDArray[Any]:
        """Return the matrices in the shape and dtype of the caller's array."""
        given = unmasked(like)
        return self.flat.reshape(given.shape).astype(given.dtype, copy=False)


class _Block(NamedTuple):
    """A block of the weights: the rows of some heads, and the columns from the first on that these see.

    Its parts of the inputs are beside it, and q is scaled.
    """

    heads: slice
    rows: slice
    seen: slice
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]


class _Weights(NamedTuple):
    """The weights of one call, which are made by blocks.

    Attributes
    ----------
    shape : tuple of int
        That of the array of weights.
    q, k, v, mask : _Matrices
        The inputs, in the type that they are computed in; mask may be None.
    dtype : dtype
        That of the caller's arrays.
    seen : ndarray of shape (T,)
        How many keys a query sees, from the first on.
    starts : ndarray of shape (heads, T)
        The index of the first weight of each row, as int64 with the bits of an unsigned number.
    """

    shape: tuple[int, ...]
    q: _Matrices
    k: _Matrices
    v: _Matrices
    mask: _Matrices | None
    dtype: np.dtype[Any]
    p: float
    key: Key
    scale: float
    seen: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        arrays: tuple[NDArray[Any], ...],
        p: float,
        key: Key | SupportsIndex,
        attn_mask: ArrayLike | None,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
        window: Window | None,
    ) -> _Weights:
        """The weights for a caller's arguments, or an error that says what is wrong with them."""
        rate(p)
        queries, keys, values = arrays
        is_causal, enable_gqa = flag("is_causal", is_causal), flag("enable_gqa", enable_gqa)
        batch, groups = _batch(arrays, enable_gqa)
        shape = (*batch, queries.shape[-2], keys.shape[-2])
        mask = None if attn_mask is None else _mask(attn_mask, shape, queries.dtype)
        places, starts = _places(shape, window)
        seen = np.full(shape[-2], shape[-1])
        if is_causal:
            seen = (places + 1).clip(0, shape[-1])
        wide = real_type(queries)
        return cls(
            shape,
            _Matrices.of(queries, batch, wide),
            _Matrices.of(keys, batch, wide, groups[0]),
            _Matrices.of(values, batch, wide, groups[1]),
            None if mask is None else _Matrices.of(mask, batch, mask.dtype if mask.dtype == bool else wide),
            queries.dtype,
            p,
            as_key_or_seed(key),
            1 / math.sqrt(queries.shape[-1] or 1) if scale is None else real("scale", scale),
            seen,
            starts,
        )

    @property
    def heads(self) -> int:
        return math.prod(self.shape[:-2])

    def gradient(self, g: ArrayLike) -> NDArray[Any]:
        """Return the output's gradient by heads, or raise an error."""
        given = real_array(g, "attention")
        shape = *self.shape[:-1], self.v.width
        if given.shape != shape:
            raise ValueError(f"g must have the output's shape {shape}, got {given.shape}")
        _check_dtype("g", given, self.dtype)
        return given.reshape(self.heads, *shape[-2:]).astype(self.q.flat.dtype, copy=False)

    def blocks(self) -> Iterator[_Block]:
        """Yield the blocks of the weights."""
        queries, keys = self.shape[-2:]
        rows, together = block_of(queries, keys * self.q.flat.itemsize)
        for head in range(0, self.heads, together):
            heads = slice(head, head + together)
            q, k, v = self.q[heads], self.k[heads], self.v[heads]
            for row in range(0, queries, rows):
                some = slice(row, min(row + rows, queries))
                seen = slice(0, int(self.seen[some].max()))
                yield _Block(heads, some, seen, q[:, some] * self.scale, k[:, seen], v[:, seen])

    def softmax(self, block: _Block) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return exponentials, and what to multiply each row by to make weights of them."""
        scores = block.q @ block.k.mT
        self._mask_scores(scores, block)
        highest = scores.max(-1, keepdims=True, initial=-np.inf)
        np.copyto(highest, 0, where=highest == -np.inf)  # of a query that may look nowhere
        scores -= highest
        np.exp(scores, out=scores)
        sums = scores.sum(-1, keepdims=True)
        return scores, np.divide(1, sums, out=np.zeros_like(sums), where=sums != 0)

    def _mask_scores(self, scores: NDArray[Any], block: _Block) -> None:
        if self.mask is not None:
            given = self.mask[block.heads][self._of_mask(block)]
            if given.dtype == np.bool_:
                np.copyto(scores, -np.inf, where=~given)
            else:
                scores += given
        seen = self.seen[block.rows]
        first = int(seen.min())  # all rows see the columns before
        unseen = np.arange(first, scores.shape[-1]) >= seen[:, None]
        if unseen.size:
            np.copyto(scores[..., first:], -np.inf, where=unseen)

    def _of_mask(self, block: _Block) -> tuple[slice, ...]:
        """Return where a block lies in the mask's matrices, which may have one row or one column."""
        lengths = cast(_Matrices, self.mask).flat.shape[1:]
        places = zip(lengths, self.shape[-2:], (block.rows, block.seen), strict=True)
        return (slice(None), *(place if n == whole else slice(None) for n, whole, place in places))

    def add_to_mask(self, dmask: _Matrices, slopes: NDArray[Any], block: _Block) -> None:
        """Add a block's gradient to that of the mask."""
        _, rows, columns = self._of_mask(block)
        for axis, (n, whole) in enumerate(zip(dmask.flat.shape[1:], self.shape[-2:], strict=True), 1):
            if n != whole:
                slopes = slopes.sum(axis, keepdims=True)
        dmask._replace(flat=dmask.flat[..., columns]).add(block.heads, rows, slopes)

    def drop(self, weights: NDArray[Any], block: _Block) -> None:
        """Drop a block's weights in place."""
        columns = weights.shape[-1]
        if not weights.size or rate(self.p)[0] == 0:
            return
        starts = self.starts[block.heads, block.rows].ravel()
        # Rows whose indices follow each other are one row.
        apart = np.flatnonzero(np.diff(starts, prepend=starts[0] - columns - 1) != columns)
        runs = Runs(np.append(apart * columns, weights.size), starts[apart])
        dropout(weights, self.p, self.key, out=weights, window=cast(Window, runs))


def block_of(queries: int, row_bytes: int) -> tuple[int, int]:
    """Return how many rows of each head a block has at most, and how many heads are done together."""
    least = max(row_bytes, 1)
    rows = max(1, min(_ROWS, queries, max(_FEWEST, _BYTES // least)))
    return rows, max(1, _BYTES // (rows * least))


def _inputs(*given: ArrayLike) -> tuple[NDArray[Any], ...]:
    """Return q, k and v as arrays, or raise an error if they don't fit each other."""
    q, k, v = arrays = tuple(real_array(x, "attention") for x in given)
    shapes = ", ".join(str(a.shape) for a in arrays)
    if min(a.ndim for a in arrays) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(f"q, k and v must end with the axes (T, E), (S, E) and (S, Ev), got {shapes}")
    for name, array in (("k", k), ("v", v)):
        _check_dtype(name, array, q.dtype)
    return arrays


def _check_dtype(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if array.dtype != dtype:
        raise TypeError(f"{name} must be of q's dtype {dtype}, got {array.dtype}; use {name}.astype(q.dtype)")


def _batch(arrays: tuple[NDArray[Any], ...], enable_gqa: bool) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return the weights' axes before the last two, and how many heads of q share one of k and of v."""
    q, k, v = (a.shape[:-2] for a in arrays)
    groups = 1, 1
    if enable_gqa:
        heads = [axes[-1] if axes else 0 for axes in (q, k, v)]
        if any(n == 0 or heads[0] % n for n in heads):
            raise ValueError(f"enable_gqa needs heads of k and v that divide those of q, got {heads}")
        groups = heads[0] // heads[1], heads[0] // heads[2]
        k, v = ((*axes[:-1], heads[0]) for axes in (k, v))
    try:
        return np.broadcast_shapes(q, k, v), groups
    except ValueError:
        raise ValueError(
            f"q, k and v must broadcast before their last two axes, got {q}, {k} and {v}"
            + ("" if enable_gqa else "; use enable_gqa=True for fewer heads of k and v")
        ) from None


def _mask(given: ArrayLike, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a mask as an array of two axes or more, or raise an error if it doesn't fit the weights."""
    mask = unmasked(given)
    if mask.dtype not in (np.bool_, dtype):
        raise TypeError(
            f"attn_mask must be of bool or q's dtype {dtype}, got {mask.dtype}; use attn_mask.astype(q.dtype)"
        )
    check_fits("attn_mask", mask.shape, shape, "the weights'")
    return mask.reshape((1,) * (2 - mask.ndim) + mask.shape)


def _places(shape: tuple[int, ...], window: Window | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the last key that each query sees where that is causal, and the index of each row of weights."""
    listed = None
    if isinstance(window, Listed):
        listed = numbers_of_rows(window.rows, shape[0], math.prod(shape[1:]))
    place = Place.whole(shape) if window is None or listed is not None else Place(*window_of(window, shape))
    queries = np.arange(shape[-2]) if listed is None or len(shape) > 2 else listed
    last = queries + (place.origin[-2] - place.origin[-1])
    starts = np.full(shape[:-1], signed(place.first()))
    for axis, stride in enumerate(place.strides()[:-1]):
        numbers = np.arange(shape[axis]) if axis or listed is None else listed
        starts += (numbers * np.int64(signed(stride))).reshape(-1, *(1,) * (len(shape) - 2 - axis))
    return last, starts.reshape(math.prod(shape[:-2]), shape[-2])


register(
    Noise(
        "attention",
        attention,
        attention_backward,
        dtypes=REAL,
        lacks={
            "layer": "it has more inputs than a layer takes; the function is there",
            "CUDA": "its products are NumPy's",
            "torch function": "there it is `scaled_dot_product_attention`, by PyTorch's name",
            "torch module": "PyTorch's modules use it, under `install`",
            "dask": "a query looks at all keys; call it on samples, heads or queries, with `window`",
            "autograd": "its gradient is `attention_backward`; softmax and `dropout` have every derivative",
            "moments": "they are those of `dropout` for the weights",
        },
    )
)
