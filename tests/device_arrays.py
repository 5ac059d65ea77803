"""Arrays on a GPU for tests: of a real one, or in this machine's memory, where a CPU's vectors are warps.

The kernels' work is compiled for the CPU with the 32 lanes of a warp in one vector, and started with the
addresses and numbers that a launch has. What remains for a GPU alone are shuffles, votes and the launch.
"""

import sys
import types
from functools import cache

import ml_dtypes
import numpy as np

from fastdrop._cpu.compiled import jit
from fastdrop._cuda import kernels
from fastdrop._lanes import disk, formulas

TYPESTRS = {np.dtype(ml_dtypes.bfloat16): "<V2"}


def on_a_gpu():
    """Whether there is a GPU that can be used."""
    try:
        from numba import cuda

        return bool(cuda.is_available()) and "numba_cuda" in sys.modules
    except ImportError:
        return False


SIMULATED = not on_a_gpu()


@cache
def on_the_cpu(variant):
    """The work of a kernel as a function of all its items, on vectors of a CPU."""
    lanes = 1 if variant.work in kernels.OF_ONE_LANE else 32
    work = kernels.made(variant, False, lanes)

    def run(items, given):
        for item in range(items):
            work(item, *given)

    return jit(run, *variant, disk.stamp_of(["_cuda"]))


def in_family(variant, arguments):
    """A kernel and its arguments where one kernel does all formulas of a family, so that fewer are compiled.

    Which one of them, and which activation, are two more numbers.
    """
    for name, formulas_of in (("affine", formulas.AFFINE), ("activated", formulas.ACTIVATED)):
        if variant.work in ("drops", "spread") and variant.names[0] in formulas_of:
            real = type(arguments[-1])
            numbers = real(formulas_of.index(variant.names[0])), real(variant.activation)
            return variant._replace(names=(name,), activation=-1, numbers=4), (*arguments, *numbers)
    return variant, arguments


class Memory:
    """What `fastdrop._cuda.driver.Memory` is, of this machine."""

    def __init__(self, nbytes, device, stream):
        self.array = np.full(nbytes, 0xEE, np.uint8)
        self.pointer = self.array.ctypes.data


class Driver(types.ModuleType):
    """In place of `fastdrop._cuda.driver`: it notes what was started, and runs it at once."""

    Memory = Memory

    def __init__(self):
        super().__init__("driver")
        self.started = []

    def device_of(self, pointer):
        return 0

    def upload(self, numbers, device, stream):
        memory = Memory(numbers.nbytes, device, stream)
        memory.array[:] = np.ascontiguousarray(numbers).ravel().view(np.uint8)
        return memory

    def start(self, variant, items, device, stream, *arguments):
        self.started.append((variant, items, device, stream))
        variant, arguments = in_family(variant, arguments)
        given, shapes = [], kernels.argument_types(variant)
        assert len(arguments) == sum(len(shape) for shape in shapes)
        for shape in shapes:
            part, arguments = arguments[: len(shape)], arguments[len(shape) :]
            kind = (np.float32, np.float64) if shape.count and shape.dtype != kernels.I64 else int
            assert all(isinstance(number, kind) for number in part), (variant, part)
            given.append(part)
        on_the_cpu(variant)(items, tuple(given))


class ndarray:  # noqa: N801, as CuPy has it
    """A C-order array that shows itself by `__cuda_array_interface__`, from a library called cupy."""

    __module__ = "cupy"

    def __init__(self, x, **about):
        x = np.asarray(x)
        self.dtype, self.shape, self.ndim, self.about = x.dtype, x.shape, x.ndim, about
        raw = np.frombuffer(x.tobytes() or b"\0", np.uint8)
        if SIMULATED:
            self.memory = raw.copy()
        else:
            from numba import cuda

            self.memory = cuda.to_device(raw)

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
    """Let results be of this library, and where there is no GPU let a CPU stand for it. Return the driver."""
    cupy = types.ModuleType("cupy")
    cupy.empty_like = empty_like
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    if not SIMULATED:
        from fastdrop._cuda import driver

        return driver
    driver = Driver()
    stand_in(monkeypatch, driver)
    return driver


def stand_in(monkeypatch, driver):
    """Put another driver in the place of CUDA's."""
    import fastdrop._cuda
    from fastdrop import _backends

    monkeypatch.setitem(sys.modules, "fastdrop._cuda.driver", driver)
    monkeypatch.setattr(fastdrop._cuda, "driver", driver, raising=False)
    from fastdrop._cuda import launch, run

    monkeypatch.setattr(launch, "driver", driver)
    monkeypatch.setattr(run, "driver", driver)
    monkeypatch.setattr(_backends, "gpu", lambda: run)
