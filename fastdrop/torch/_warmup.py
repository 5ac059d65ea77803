"""Calls of what compiles kernels of its own for tensors, for `fastdrop.warmup`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from fastdrop.torch._attention import BLOCKS_FROM, scaled_dot_product_attention
from fastdrop.torch._functions import dropout


def calls(dtype: str) -> Iterator[partial[Any]]:
    """Yield calls of dropout, and of attention that is big enough for blocks, in a dtype of real numbers."""
    real = getattr(torch, dtype)
    yield partial(dropout, torch.ones(2, dtype=real), 0.3, 0)
    query, key = torch.ones(BLOCKS_FROM, 1, dtype=real), torch.ones(1, 1, dtype=real)
    yield partial(scaled_dot_product_attention, query, key, key, dropout_p=0.3, noise_key=0)
