"""Arrays on a GPU for tests: of a real one, or in this machine's memory, where a CPU's vectors are warps.

The kernels' work is compiled for the CPU with the 32 lanes of a warp in one vector, and started with the
addresses and numbers that a launch has. What remains for a GPU alone are shuffles, votes and the launch.
"""

import sys
import types
from contextlib import contextmanager
from functools import cache

import ml_dtypes
import numpy as np
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

from fastdrop._cpu.compiled import jit
from fastdrop._cuda import kernels, variants
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


class Library(JITCodeLibrary):
    """The code of a kernel, or of a function that becomes machine code within kernels alone."""

    def __init__(self, codegen, name):
        super().__init__(codegen, name)
        self.is_kernel = name == codegen.kernel

    def _finalize_final_module(self):
        if self.is_kernel:
            super()._finalize_final_module()
        self._finalized = True


class Codegen(JITCPUCodegen):
    """Makes machine code of kernels alone, and optimises nothing: no bit changes, and it takes less time."""

    _library_class = Library
    kernel = ""  # the name of that which is compiled

    def _customize_tm_options(self, options):
        super()._customize_tm_options(options)
        options["opt"] = 0

    def _pass_builder(self, **options):
        return super()._pass_builder(**options | {"opt": 0, "loop_vectorize": False})

    def _module_pass_manager(self, cost=None, **options):
        return super()._module_pass_manager(**options)

    def set_env(self, env_name, env):
        if self._engine.is_symbol_defined(env_name):
            super().set_env(env_name, env)


codegen_of_warps = cache(lambda: Codegen("warps"))


@contextmanager
def in_place_of_numbas(codegen, kernel):
    """Let a codegen compile a kernel, in the thread that has the lock of Numba's compiler."""
    context = cpu_target.target_context
    rtsys.initialize(context)  # by Numba's codegen
    numbas, of_numbas = context._internal_codegen, context.get_executable

    def get_executable(library, *given):
        # if Python calls another function, this raises an error, as the index of what isn't there
        return of_numbas(library, *given) if library.is_kernel else (library,).index

    codegen.kernel = kernel
    vars(context).update(_internal_codegen=codegen, get_executable=get_executable)
    try:
        yield
    finally:
        del context.get_executable
        context._internal_codegen = numbas


def compiled_soon(kernel, *variant):
    """Return the kernel as machine code, as `jit` does, by a `Codegen`."""
    compiled = jit(kernel, *variant)
    compile_all = compiled._compiler.compile

    def compile_in_one(args, return_type):
        with global_compiler_lock, in_place_of_numbas(codegen_of_warps(), kernel.__qualname__):
            return compile_all(args, return_type)

    compiled._compiler.compile = compile_in_one
    return compiled


@cache
def on_the_cpu(variant):
    """The work of a kernel as a function of all its items, on vectors of a CPU."""
    lanes = 1 if variant.work in variants.OF_ONE_LANE else 32
    work = kernels.made(variant, False, lanes)

    def run(items, given):
        for item in range(items):
            work(item, *given)

    return compiled_soon(run, *variant, disk.stamp_of(["_cuda"]))


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


class Event:
    """What `fastdrop._cuda.driver.Event` is: it notes who waits for it."""

    def __init__(self, device, stream):
        self.place, self.waiting = (device, stream), []

    def wait(self, stream):
        self.waiting.append(stream)


class Driver(types.ModuleType):
    """In place of `fastdrop._cuda.driver`: it notes what was started, and runs it at once."""

    Memory, Event = Memory, Event

    def __init__(self):
        super().__init__("driver")
        self.started, self.held = [], []

    def hold(self, until, what):
        self.held.append((until, what))

    def device_of(self, pointer):
        return 0

    def upload(self, numbers, device, stream):
        memory = Memory(numbers.nbytes, device, stream)
        memory.array[:] = np.ascontiguousarray(numbers).ravel().view(np.uint8)
        return memory

    def starter(self, variant, device):
        return lambda items, *given: self.start(variant, items, device, *given)

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
    cupy.empty = lambda shape, dtype: ndarray(np.full(shape, -7, dtype))
    cupy.broadcast_to = lambda x, shape: ndarray(np.broadcast_to(x.get(), shape))
    cupy.ascontiguousarray = lambda x: x
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
    for plain in (launch.plain, launch.plain_units):  # which keep what a driver gave
        again = cache(plain.__wrapped__)
        for module in (launch, run):
            monkeypatch.setattr(module, plain.__name__, again)
    monkeypatch.setattr(run, "driver", driver)
    monkeypatch.setattr(_backends, "gpu", lambda: run)
