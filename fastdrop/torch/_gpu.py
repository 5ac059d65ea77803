"""Dropout of CUDA tensors in the fewest steps, by functions like those of `_openmp`."""

from __future__ import annotations

import torch

from fastdrop import _backends
from fastdrop._arrays import device

_TYPESTRS = {torch.float16: "<i2", torch.bfloat16: "<u2", torch.float32: "<f4", torch.float64: "<f8"}


def takes(x: torch.Tensor) -> bool:
    """Whether a tensor's elements are in a GPU's memory, in C order, and of a dtype that is taken here."""
    try:
        known = x.dtype in _TYPESTRS and not x.is_nested
        return known and device.is_there(x) and x.is_contiguous() and not x.is_neg() and x.data_ptr() > 0
    except RuntimeError:  # the layout has no address or no order
        return False


def dropout(
    x: torch.Tensor, numbers: tuple[int, float, *tuple[int, ...]], inplace: bool = False
) -> torch.Tensor:
    """Dropout of a tensor that `takes` takes, into a new one or itself.

    The numbers are threshold and scale, then what kernels need of the key.
    """
    y = x if inplace else torch.empty_like(x)
    number = x.device.index or 0
    place = number, device.stream_of_tensors(number)
    _backends.gpu().drop_at_once(x.data_ptr(), y.data_ptr(), x.numel(), _TYPESTRS[x.dtype], *place, numbers)
    return y
