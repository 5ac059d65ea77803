"""Arrays on a GPU for tests: of a real one, or in the memory that CUDA's simulator takes for it."""

import ctypes
import sys
import types

import ml_dtypes
import numpy as np
from numba import config, cuda

SIMULATED = bool(config.ENABLE_CUDASIM)
TYPESTRS = {np.dtype(ml_dtypes.bfloat16): "<V2"}


class ndarray:  # noqa: N801, as CuPy has it
    """A C-order array that shows itself by `__cuda_array_interface__`, from a library called cupy."""

    __module__ = "cupy"

    def __init__(self, x, **about):
        x = np.asarray(x)
        self.dtype, self.shape, self.ndim, self.about = x.dtype, x.shape, x.ndim, about
        raw = np.frombuffer(x.tobytes() or b"\0", np.uint8)
        self.memory = raw.copy() if SIMULATED else cuda.to_device(raw)

    @property
    def __cuda_array_interface__(self):
        pointer = self.memory.ctypes.data if SIMULATED else self.memory.__cuda_array_interface__["data"][0]
        typestr = TYPESTRS.get(self.dtype, self.dtype.str)
        base = {"shape": self.shape, "typestr": typestr, "data": (pointer, False), "version": 3}
        return base | self.about

    def get(self):
        raw = self.memory if SIMULATED else self.memory.copy_to_host()
        size = int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize
        return np.frombuffer(raw.tobytes()[:size], self.dtype).reshape(self.shape)


def empty_like(x):
    return ndarray(np.full(x.shape, -7).astype(x.dtype))


def install(monkeypatch):
    """Let results be of this library, and the simulator find its memory."""
    cupy = types.ModuleType("cupy")
    cupy.empty_like = empty_like
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    if SIMULATED:
        from fastdrop._cuda import launch

        monkeypatch.setattr(launch, "argument", _simulated)
        monkeypatch.setattr(launch, "THREADS", 32)  # the simulator makes a thread of Python for each


def _simulated(lanes):
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    dtype = np.dtype(lanes.typestr)
    memory = (ctypes.c_char * (lanes.size * dtype.itemsize)).from_address(lanes.pointer)
    return FakeCUDAArray(np.frombuffer(memory, dtype))
