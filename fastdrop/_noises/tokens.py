"""Dropout of words: rows of an embedding, and integer tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import host
from fastdrop._arrays.host import real_type, target, to_array, unmasked, without_warnings
from fastdrop._arrays.numbers import Rate
from fastdrop._arrays.plan import NO_AXES, Plan, Window, layout_of, window_given
from fastdrop._backends import cpu
from fastdrop._noises._noise import INTEGERS, Noise, register
from fastdrop._noises.bernoulli import dropout, keep_mask
from fastdrop._stream.keys import Key, integer, natural, shown


def embedding_dropout(
    tokens: ArrayLike,
    weight: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the embeddings of tokens, with words dropped: a word at all its places, or at none.

    Parameters
    ----------
    tokens : array_like of int, any shape
        Row numbers of weight, in [0, vocabulary).
    weight : array_like of shape (vocabulary, features)
        The embedding, of a dtype that `dropout` takes. Only the rows that tokens name are read.
    p : float or ndarray
        Probability to drop, in [0, 1]. An array has the shape (vocabulary,): a rate for each word.
    key : Key or int
        As in `dropout`. The mask is that of the vocabulary, ``keep_mask(vocabulary, p, key)``: whether a
        word is dropped doesn't depend on where, or how often, it stands.
    out : ndarray of shape ``(*tokens.shape, features)``, optional
        Where to copy the result, of weight's dtype.

    Returns
    -------
    ndarray of shape ``(*tokens.shape, features)``
        ``weight[token] / (1 - p)``, and +0.0 for words that are dropped.

    Raises
    ------
    TypeError
        If tokens aren't integers, or as `dropout`.
    ValueError
        If a token is outside [0, vocabulary), weight isn't 2-D, out doesn't fit, or as `dropout`.

    See Also
    --------
    token_dropout : replaces tokens, each by itself.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks",
    arXiv 1512.05287, section 4.2.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> weight = np.arange(1.0, 9).reshape(4, 2)
    >>> fd.embedding_dropout([[0, 3, 2], [3, 0, 0]], weight, 0.5, fd.Key(42))
    array([[[ 0.,  0.],
            [14., 16.],
            [10., 12.]],
           [[14., 16.],
            [ 0.,  0.],
            [ 0.,  0.]]])
    """
    weight = _table(weight)
    words = _words(tokens, len(weight))
    y = _scaled(weight[words], words, len(weight), p, key)
    if out is None:
        return y
    np.copyto(target(out, y), y)
    return out


@without_warnings
def embedding_dropout_backward(
    g: ArrayLike,
    tokens: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    vocabulary: SupportsIndex,
) -> NDArray[Any]:
    """Return the gradient of `embedding_dropout` with respect to weight.

    Parameters
    ----------
    g : array_like of shape ``(*tokens.shape, features)``
        Gradient with respect to the output.
    tokens, p, key
        As given to `embedding_dropout`.
    vocabulary : int
        How many rows weight has.

    Returns
    -------
    ndarray of shape (vocabulary, features)
        The sum of g over the places of each word, scaled as the word was; +0.0 for dropped and absent words.
        Sums of 16-bit floats are made in float32.

    Raises
    ------
    TypeError, ValueError
        As `embedding_dropout`, or if g's shape isn't that of its output.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> g = np.ones((5, 2))
    >>> fd.embedding_dropout_backward(g, [3, 0, 2, 3, 0], 0.5, fd.Key(42), vocabulary=4)
    array([[0., 0.],
           [0., 0.],
           [2., 2.],
           [4., 4.]])
    """
    g, size = to_array(g), natural("vocabulary", vocabulary)
    words = _words(tokens, size)
    if g.shape[:-1] != words.shape or g.ndim != words.ndim + 1:
        raise ValueError(f"g must have the shape (*{words.shape}, features), got {g.shape}")
    dweight = np.zeros((size, g.shape[-1]), g.dtype)
    if not words.size:
        return dweight
    order = np.argsort(words, axis=None, kind="stable")
    in_order = words.ravel()[order]
    starts = np.flatnonzero(np.diff(in_order, prepend=-1))
    wide = np.result_type(g.dtype, np.float32)
    sums = np.add.reduceat(g.reshape(words.size, -1)[order], starts, axis=0, dtype=wide)
    found = in_order[starts]
    dweight[found] = _scaled(sums, found, size, p, key)
    return dweight


def token_dropout(
    tokens: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    replacement: SupportsIndex,
    protected: Iterable[SupportsIndex] = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return tokens with each replaced, with probability p, by another, such as that of an unknown word.

    Parameters
    ----------
    tokens : array_like of int, any shape
        Of any integer dtype.
    p, key, window, rows
        As in `dropout`, whose mask this is.
    replacement : int
        What tokens are replaced by.
    protected : iterable of int, default ()
        Tokens that stay, such as those for padding, and for where a text begins and ends.
    out : ndarray, optional
        Where to write: of tokens' shape and dtype, and either tokens itself or free of overlap with it.

    Returns
    -------
    ndarray
        Of tokens' dtype. Nothing is scaled.

    Raises
    ------
    TypeError
        If tokens, replacement or protected aren't integers, or as `dropout`.
    ValueError
        If replacement doesn't fit the dtype, or as `dropout`.

    See Also
    --------
    embedding_dropout : drops words at all their places.

    References
    ----------
    Bowman et al., "Generating Sentences from a Continuous Space", arXiv 1511.06349, section 3.1 (word
    dropout). Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification",
    ACL 2015, section 4.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> tokens = np.array([1, 17, 12, 15, 2, 0, 0, 0], np.uint16)
    >>> fd.token_dropout(tokens, 0.5, fd.Key(42), replacement=3, protected=(0, 1, 2))
    array([ 1,  3, 12, 15,  2,  0,  0,  0], dtype=uint16)
    """
    window = window_given(window, rows)
    given = _integers(tokens)
    other, kept = checked_tokens(replacement, protected)
    check_replacement(other, np.iinfo(given.dtype))
    y = target(out, given)
    stays = keep_mask(given.shape, p, key, window=window)
    for token in kept:
        stays |= given == token
    np.copyto(y, given)
    np.copyto(y, other, where=~stays)
    return y if out is None else out


def checked_tokens(
    replacement: SupportsIndex, protected: Iterable[SupportsIndex]
) -> tuple[int, tuple[int, ...]]:
    """Return the replacement and the protected tokens as ints, or raise an error."""
    other = integer("replacement", replacement)
    if not isinstance(protected, Iterable) or getattr(protected, "ndim", 1) == 0:
        raise TypeError(f"protected must be some ints, got {shown(protected)}; use ({shown(protected)},)")
    return other, tuple(integer("protected", token) for token in protected)


def check_replacement(replacement: int, limits: Any) -> None:
    """Raise an error unless a replacement fits a dtype, whose limits are an `iinfo`."""
    if not limits.min <= replacement <= limits.max:
        allowed = f"{limits.dtype}, [{limits.min}, {limits.max}]"
        raise ValueError(f"replacement must fit {allowed}, got {replacement}")


def _scaled(
    y: NDArray[Any], words: NDArray[Any], vocabulary: int, p: Rate, key: Key | SupportsIndex
) -> NDArray[Any]:
    """Rows of words, scaled or dropped in place."""
    factors = dropout(np.ones(vocabulary, real_type(y)), p, key)[words]
    layout = layout_of(y.shape, False, NO_AXES, None)
    cpu().multiply(Plan(host, y, y, None, None, layout, None), factors)
    return y


def _integers(tokens: ArrayLike) -> NDArray[Any]:
    """Return tokens as a plain array, or raise an error."""
    if isinstance(tokens, np.ma.MaskedArray):
        raise TypeError("tokens must not be a masked array; use tokens.filled(0)")
    given = unmasked(tokens)
    if given.dtype.kind not in "iu":
        raise TypeError(f"tokens must be integers, got {given.dtype}; use tokens.astype(np.int64)")
    return given


def _words(tokens: ArrayLike, vocabulary: int) -> NDArray[Any]:
    """Return tokens, or raise an error unless they are numbers of an embedding's rows."""
    words = _integers(tokens)
    if words.size:
        for token in (words.min(), words.max()):
            if not 0 <= token < vocabulary:
                raise ValueError(f"tokens must be in [0, {vocabulary}), the rows of weight, got {token}")
    return words.astype(np.intp, copy=False)


def _table(weight: ArrayLike) -> NDArray[Any]:
    """Return an embedding as an array, or raise an error."""
    table = to_array(weight, "weight")
    if table.ndim != 2:
        raise ValueError(f"weight must have the shape (vocabulary, features), got {table.shape}")
    return table


_BY_WORD = "it drops rows of an embedding, which a network has of its own"
_ON_HOST = "words are looked up on the host"
_NUMBERS = "tokens are numbers of words, not quantities"
register(
    Noise(
        "token_dropout",
        token_dropout,
        dtypes=INTEGERS,
        by_element=True,
        modules=("TokenDropout",),
        lacks={
            "backward": _NUMBERS,
            "layer": "it prepares data, before a network",
            "CUDA": "it prepares data, on the host",
            "autograd": _NUMBERS,
            "moments": _NUMBERS,
        },
    )
)
register(
    Noise(
        "embedding_dropout",
        embedding_dropout,
        embedding_dropout_backward,
        by_element=True,
        modules=("EmbeddingDropout",),
        moments="dropout",
        lacks={"layer": _BY_WORD, "CUDA": _ON_HOST},
    )
)
