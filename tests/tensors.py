"""Tensors for tests: their dtypes, their layouts, and comparisons with arrays."""

import shutil
import sysconfig
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

DTYPES = {
    torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


# Layouts of a tensor of four axes, and what gives them to a tensor in C order.
LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1),
    "sliced": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1, :, :1].expand_as(x),
    "flipped": lambda x: x.flip(1).transpose(0, 1).contiguous().transpose(0, 1),
}


needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()),
    reason="inductor needs a C++ compiler and Python's headers",
)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def to_array(x):
    x = x.detach().resolve_conj().resolve_neg()
    if x.dtype is torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.contiguous().numpy()


def same(tensor, array):
    ours = to_array(tensor)
    return ours.dtype == array.dtype and ours.shape == array.shape and ours.tobytes() == array.tobytes()
