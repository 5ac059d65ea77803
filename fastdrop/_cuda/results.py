"""New arrays on a GPU for results that aren't like an input, of the input's library."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import numpy as np

from fastdrop._arrays import device
from fastdrop._arrays.device import DeviceArray


def of_reals(shape: tuple[int, ...], x: DeviceArray) -> DeviceArray:
    """Return a new array of a shape where x is, of the type that x is computed in, float32 or float64."""
    name, owner = device.real_type(x).name, x.owner
    if device.is_tensor(owner):
        torch = sys.modules["torch"]
        return DeviceArray(torch.empty(shape, dtype=getattr(torch, name), device=owner.device))
    library = type(owner).__module__.partition(".")[0]
    if library == "cupy":
        with device.cupy_on(x.device):
            return DeviceArray(sys.modules[library].empty(shape, np.dtype(name)))
    if library in ("numba", "numba_cuda"):
        return DeviceArray(sys.modules["numba.cuda"].device_array(shape, np.dtype(name)))
    if x.lent is not None and hasattr(owner, "__array_namespace__"):
        namespace = owner.__array_namespace__()
        dtype = getattr(namespace, name)
        return DeviceArray(namespace.empty(shape, dtype=dtype, device=owner.device))
    kind = f"{type(owner).__module__}.{type(owner).__qualname__}"
    raise TypeError(f"the gradient of a learned number needs x of CuPy, PyTorch, Numba or JAX, got {kind}")


def broadcast(numbers: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """Return an array that is broadcast to a shape, in C order."""
    owner = numbers.owner
    if device.is_tensor(owner):
        return DeviceArray(owner.expand(shape).contiguous())
    if numbers.lent is not None and hasattr(owner, "__array_namespace__"):
        return DeviceArray(owner.__array_namespace__().broadcast_to(owner, shape))
    library: Any = sys.modules.get(type(owner).__module__.partition(".")[0])
    if not hasattr(library, "broadcast_to") or not hasattr(library, "ascontiguousarray"):
        raise ValueError(
            f"an array on a GPU of {type(owner).__module__} may vary along neighbouring axes of the mask's "
            f"shape {shape} alone, got {numbers.shape}; broadcast it, in C order"
        )
    with device.cupy_on(numbers.device) if library.__name__ == "cupy" else nullcontext():
        return DeviceArray(library.ascontiguousarray(library.broadcast_to(owner, shape)))
