"""Dropout of CUDA tensors in the fewest steps, by functions like those of `_openmp`."""

from __future__ import annotations

import torch

from fastdrop import _backends
from fastdrop._arrays import device


def takes(x: torch.Tensor) -> bool:
    """Whether a tensor's elements are in a GPU's memory, in C order, and of a dtype that is taken here."""
    try:
        known = bool(device.typestr_of_tensors(x.dtype)) and not x.is_nested
        return known and device.is_there(x) and x.is_contiguous() and not x.is_neg() and x.data_ptr() > 0
    except RuntimeError:  # the layout has no address or no order
        return False


def dropout(
    x: torch.Tensor, numbers: tuple[int, float, *tuple[int, ...]], inplace: bool = False
) -> torch.Tensor:
    """Dropout of a tensor that `takes` takes, into a new one or itself.

    The numbers are threshold and scale, then what kernels need of the key.
    """
    y, address, number = x if inplace else torch.empty_like(x), x.data_ptr(), x.device.index or 0
    stream = device.stream_of_tensors(number)
    drop = _backends.gpu().plain("drop", device.typestr_of_tensors(x.dtype), number)
    drop(address, address, y.data_ptr(), x.numel(), stream, *numbers)
    return y


def dropout_units(
    x: torch.Tensor,
    shared: tuple[int, ...],
    numbers: tuple[int, float, *tuple[int, ...]],
    inplace: bool = False,
) -> torch.Tensor | None:
    """Dropout of a tensor whose elements share draws along axes, or None where `dropout` has no such way."""
    found = _backends.gpu().units(tuple(x.shape), shared)
    if found is None:
        return None
    (count, axes), y, number = found, x if inplace else torch.empty_like(x), x.device.index or 0
    real = torch.float64 if x.dtype is torch.float64 else torch.float32
    factors = torch.empty(count, dtype=real, device=x.device)  # which PyTorch keeps until the stream is done
    stream = device.stream_of_tensors(number)
    drop = _backends.gpu().plain_units(device.typestr_of_tensors(x.dtype), number)
    drop(x.data_ptr(), y.data_ptr(), x.numel(), factors.data_ptr(), count, axes, stream, *numbers)
    return y


def dropout_add(
    x: torch.Tensor, residual: torch.Tensor, numbers: tuple[int, float, *tuple[int, ...]]
) -> torch.Tensor:
    """Residual + dropout(x), of tensors that `takes` takes and that are alike; see `dropout`."""
    y, number = torch.empty_like(x), x.device.index or 0
    stream = device.stream_of_tensors(number)
    add = _backends.gpu().plain("add", device.typestr_of_tensors(x.dtype), number)
    add(x.data_ptr(), residual.data_ptr(), y.data_ptr(), x.numel(), stream, *numbers)
    return y
