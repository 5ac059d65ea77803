"""What functions of tokens need: the check of their dtype, and the operator of token dropout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

import fastdrop as fd
from fastdrop._noises.tokens import check_replacement, checked_tokens
from fastdrop._stream.keys import Key
from fastdrop.torch._autograd import (
    as_tensor,
    by_rows,
    check_number,
    check_one_number,
    check_traced,
    has_no_values,
    integers_or_floats,
    plain_rate,
    stand_in,
    traced,
)
from fastdrop.torch._keys import held, key_of, plain_key
from fastdrop.torch._noises import Numbers, window_of

Tensor: TypeAlias = torch.Tensor


def token_dropout(
    tokens: Tensor, p: Any, key: Any, replacement: int, protected: Iterable[int], numbers: Numbers
) -> Tensor:
    """`fastdrop.token_dropout` of a tensor, by the operator where a graph is made."""
    check_integers(tokens)
    if not (traced(tokens) or torch._C._are_functorch_transforms_active()):
        return _run(tokens, plain_rate(p), plain_key(key), replacement, protected, numbers)
    check_traced(tokens, numbers)
    replacement, protected = checked_tokens(replacement, protected)
    limits = torch.iinfo(tokens.dtype)
    check_replacement(replacement, limits)
    # No token is beyond the limits, and an operator's integers are of 64 bits.
    protected = [token for token in protected if limits.min <= token <= limits.max]
    check_one_number("token_dropout", p)
    unread = has_no_values(tokens)
    if unread:
        _run(stand_in(tokens), p, Key(0), replacement, protected)
    check_number("token_dropout", p)
    y: Tensor = _op(tokens, held(key, unread), p, replacement, protected)
    return y


def check_integers(tokens: Tensor) -> None:
    """Refuse tokens that aren't integers."""
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype is torch.bool:
        raise TypeError(f"tokens must be integers, got {tokens.dtype}; use tokens.long()")


def _run(
    tokens: Tensor, p: Any, key: Any, replacement: int, protected: Iterable[int], numbers: Numbers = ()
) -> Tensor:
    array, window = integers_or_floats(tokens), window_of(numbers)
    words: dict[str, Any] = {"replacement": replacement, "protected": protected}
    return as_tensor(fd.token_dropout(array, p, key, window=window, **words))


# It has no derivative, because tokens are integers.
@torch.library.custom_op(
    "fastdrop::token_dropout",
    mutates_args=(),
    schema="(Tensor tokens, Tensor key, float p, int replacement, int[] protected) -> Tensor",
)
def _op(tokens: Tensor, key: Tensor, p: float, replacement: int, protected: Sequence[int]) -> Tensor:
    return _run(tokens, p, key_of(key), replacement, protected)


@_op.register_fake
def _(tokens: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(tokens, memory_format=torch.contiguous_format)


by_rows(_op)
