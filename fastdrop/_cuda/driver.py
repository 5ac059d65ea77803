"""The one door to CUDA's driver: it starts kernels, and has memory on a GPU for numbers and factors.

No launch waits for the GPU. It needs the context of the array's device, which is made current where it isn't,
and put back. NVIDIA's packages are imported at the first call, since machines without a GPU lack them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop._cuda.compiled import cubin
from fastdrop._cuda.variants import OF_ONE_LANE, WARP, Variant

_KEPT = 1 << 26  # bytes of a device's memory that the driver keeps for the next array of factors
_MOST, _FEWEST = 256, 32  # threads of a block: as few as a warp where there are not enough blocks for the GPU
_BLOCKS = 32  # for each of the GPU's processors, at most; where there is more work, threads do several items


@cache
def _packages() -> tuple[Any, Any]:
    """Return the modules `cuda.core` and `cuda.bindings.driver`."""
    from cuda import core
    from cuda.bindings import driver

    return core, driver


@cache
def _device(number: int) -> tuple[tuple[int, int], int]:
    """Return a device's capability, and how many processors it has. Let the driver keep what we give back."""
    core, api = _packages()
    device = core.Device(number)
    error, pool = api.cuDeviceGetDefaultMemPool(number)
    if not error:
        threshold = api.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        api.cuMemPoolSetAttribute(pool, threshold, api.cuuint64_t(_KEPT))
    return (
        (device.compute_capability.major, device.compute_capability.minor),
        int(device.properties.multiprocessor_count),
    )


@lru_cache(maxsize=4096)
def _config(threads: int, device: int) -> Any:
    """Return of how many blocks a grid has to be for so many threads, and of how many threads a block."""
    processors = _device(device)[1]
    block = _MOST if threads >= 2 * _MOST * processors else _FEWEST
    blocks = min(-(-threads // block), processors * _BLOCKS * _MOST // block)
    return _packages()[0].LaunchConfig(grid=blocks, block=block)


@lru_cache(maxsize=256)
def _stream(handle: int) -> Any:
    """Return a CUDA stream of another library by its handle."""
    return _packages()[0].Stream.from_handle(handle)


def device_of(pointer: int) -> int:
    """Return the number of the device that memory is on."""
    api = _packages()[1]
    error, number = api.cuPointerGetAttribute(
        api.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer
    )
    if error:
        raise ValueError(f"an array must be memory of a GPU, got the address {pointer}: {error.name}")
    return int(number)


@cache
def starter(variant: Variant, device: int) -> Callable[..., None]:
    """Return a function (items, stream, *arguments) that does as `start`, for callers that keep it.

    To make a variant and look it up takes .4 us, half of what the launch itself takes of Python.
    """
    core, api = _packages()
    lanes = 1 if variant.work in OF_ONE_LANE else WARP
    device_of_context, launch = api.cuCtxGetDevice, core.launch

    def start(items: int, stream: int, *arguments: Any) -> None:
        error, current = device_of_context()
        if not error and int(current) == device:
            config = _config(items * lanes, device)
            launch(_stream(stream), config, kernel[0] if kernel else loaded(), items, *arguments)
            return
        with _current(device):
            start(items, stream, *arguments)

    def loaded() -> Any:
        """Load the kernel, which needs the device's context, at the first call."""
        code, name = cubin(variant, _device(device)[0])
        kernel.append(core.ObjectCode.from_cubin(code).get_kernel(name))
        return kernel[0]

    kernel: list[Any] = []
    return start


def start(variant: Variant, items: int, device: int, stream: int, *arguments: Any) -> None:
    """Start a kernel on a stream with so many items of work, and don't wait.

    Arguments are those of the work, one after the other: ints for addresses and integers, and NumPy scalars
    for reals.
    """
    starter(variant, device)(items, stream, *arguments)


@contextmanager
def _current(device: int) -> Iterator[Any]:
    """Make a device's context the current one, and put the former one back; yield the driver's functions."""
    core, api = _packages()
    _, before = api.cuCtxGetCurrent()
    core.Device(device).set_current()
    try:
        yield api
    finally:
        api.cuCtxSetCurrent(before)


def _with(device: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of the driver returns in a device's context, which mostly is the current one."""
    error, current = _packages()[1].cuCtxGetDevice()
    if not error and int(current) == device:
        return function(*arguments)
    with _current(device):
        return function(*arguments)


class Memory:
    """Memory on a GPU that belongs to us: for as long as launches need that were started on its stream.

    It is taken and given back in the order of the stream, which a captured graph repeats.
    """

    def __init__(self, nbytes: int, device: int, stream: int) -> None:
        error, pointer = _with(device, _packages()[1].cuMemAllocAsync, nbytes, stream)
        if error:
            raise RuntimeError(f"no {nbytes} bytes could be had on GPU {device}: {error.name}")
        self.pointer, self._place = int(pointer), (device, stream)

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            device, stream = self._place
            _with(device, _packages()[1].cuMemFreeAsync, self.pointer, stream)


class Event:
    """The end of what has been started on a stream until now."""

    def __init__(self, device: int, stream: int) -> None:
        self._device = device
        with _current(device) as api:
            error, event = api.cuEventCreate(api.CUevent_flags.CU_EVENT_DISABLE_TIMING)
            if not error:
                self._event = event
                (error,) = api.cuEventRecord(event, stream)
        if error:
            raise RuntimeError(f"no event could be had on GPU {device}: {error.name}")

    def wait(self, stream: int) -> None:
        """Let what is started on another stream from now on wait for it, on the GPU."""
        with _current(self._device) as api:
            (error,) = api.cuStreamWaitEvent(stream, self._event, 0)
        if error:
            raise RuntimeError(f"the CUDA stream {stream} can't be used: {error.name}")

    def is_over(self) -> bool:
        """Return whether all of it is done."""
        with _current(self._device) as api:
            (error,) = api.cuEventQuery(self._event)
        return bool(error.name != "CUDA_ERROR_NOT_READY")

    def __del__(self) -> None:
        if hasattr(self, "_event"):
            _packages()[1].cuEventDestroy(self._event)


_held: list[tuple[Event, Any]] = []
_holding = Lock()


def hold(until: Event, what: Any) -> None:
    """Keep a reference to something until an event is over, or rather until the first call after it."""
    with _holding:
        over = [pair for pair in _held if pair[0].is_over()]
        _held[:] = [*(pair for pair in _held if pair not in over), (until, what)]
    over.clear()  # without the lock, since other libraries' code runs where memory is given back


def upload(numbers: NDArray[Any], device: int, stream: int) -> Memory:
    """Return a copy of an array on the GPU. The driver may wait for the stream before it copies much."""
    numbers = np.ascontiguousarray(numbers)
    with _current(device) as api:
        error, capturing = api.cuStreamIsCapturing(stream)
        if error:
            raise RuntimeError(f"the CUDA stream {stream} can't be used: {error.name}")
        if capturing != api.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE:
            raise RuntimeError(
                "arrays of rates and lists of draws can't be copied to the GPU while a CUDA graph is "
                "captured; use one number, or call the function outside the graph"
            )
        memory = Memory(numbers.nbytes, device, stream)
        (error,) = api.cuMemcpyHtoDAsync(memory.pointer, numbers.ctypes.data, numbers.nbytes, stream)
    if error:
        raise RuntimeError(f"copying {numbers.nbytes} bytes to the GPU failed: {error.name}")
    return memory
