"""The one door to CUDA's driver: it starts kernels, and has memory on a GPU for numbers and factors.

Nothing here waits for the GPU. A launch needs the context of the array's device, which is made current where
it isn't, and put back. NVIDIA's packages are imported at the first call, since machines without a GPU lack
them.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop._cuda.compiled import cubin
from fastdrop._cuda.kernels import OF_ONE_LANE, Variant

_LANES = 32  # of a warp
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
    """Return a device's capability, and how many processors it has."""
    device = _packages()[0].Device(number)
    return (
        (device.compute_capability.major, device.compute_capability.minor),
        int(device.properties.multiprocessor_count),
    )


@cache
def _kernel(variant: Variant, device: int) -> Any:
    """Return a kernel for a device, whose context is current."""
    code, name = cubin(variant, _device(device)[0])
    return _packages()[0].ObjectCode.from_cubin(code).get_kernel(name)


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
        raise ValueError(f"x must be memory of a GPU, got the address {pointer}: {error.name}")
    return int(number)


def start(variant: Variant, items: int, device: int, stream: int, *arguments: Any) -> None:
    """Start a kernel on a stream with so many items of work, and don't wait.

    Arguments are those of the work, one after the other: ints for addresses and integers, and NumPy scalars
    for reals.
    """
    core, api = _packages()
    error, current = api.cuCtxGetDevice()
    if not error and int(current) == device:
        threads = items if variant.work in OF_ONE_LANE else items * _LANES
        kernel = _kernel(variant, device)
        core.launch(_stream(stream), _config(threads, device), kernel, items, *arguments)
        return
    _, before = api.cuCtxGetCurrent()
    core.Device(device).set_current()
    try:
        start(variant, items, device, stream, *arguments)
    finally:
        api.cuCtxSetCurrent(before)


class Memory:
    """Memory on a GPU that belongs to us: for as long as launches need that were started on its stream.

    It is taken and given back in the order of the stream, which a captured graph repeats.
    """

    def __init__(self, nbytes: int, device: int, stream: int) -> None:
        core, api = _packages()
        _, before = api.cuCtxGetCurrent()
        core.Device(device).set_current()
        try:
            self._buffer = core.Device(device).allocate(nbytes, stream=_stream(stream))
        finally:
            api.cuCtxSetCurrent(before)
        self.pointer = int(self._buffer.handle)


def upload(numbers: NDArray[Any], device: int, stream: int) -> Memory:
    """Return a copy of an array on the GPU."""
    numbers, api = np.ascontiguousarray(numbers), _packages()[1]
    _, capturing = api.cuStreamIsCapturing(stream)
    if capturing != api.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE:
        raise RuntimeError(
            "arrays of rates and lists of draws can't be copied to the GPU while a CUDA graph is captured; "
            "use one number, or call the function outside the graph"
        )
    memory = Memory(numbers.nbytes, device, stream)
    (error,) = api.cuMemcpyHtoDAsync(memory.pointer, numbers.ctypes.data, numbers.nbytes, stream)
    if error:
        raise RuntimeError(f"copying {numbers.nbytes} bytes to the GPU failed: {error.name}")
    return memory
