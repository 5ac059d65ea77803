"""Dropout of tensors by their addresses, shared with the threads of PyTorch's own operations.

Those wait for more work in a busy loop: they begin within a microsecond, where threads of our own would have
to be woken, on cores that these hold. Imported at first use, since it imports Numba.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import carray, njit, types

from fastdrop._arrays.numbers import FULL, rate
from fastdrop._cpu import bernoulli, calls, pool
from fastdrop._cpu.compiled import callback, jit
from fastdrop._lanes import formulas
from fastdrop._lanes.memory import pointer
from fastdrop._stream.keys import TILE

_ELEMENTS = {  # as kernels take them
    torch.float16: np.int16,
    torch.bfloat16: np.uint16,
    torch.float32: np.float32,
    torch.float64: np.float64,
}
# Elements from which PyTorch shares its operations too, and which make a thread worth its start.
_SHARED_FROM, _PIECE = 1 << 15, 1 << 14
# Bytes from which Linux is asked for huge pages, as by NumPy: they fill fresh memory several times faster.
_HUGE_FROM = 1 << 22

_INTEGERS = "x", "y", "size", "threshold", "key", "draw", "far", "threads"
_JOB = np.dtype([(name, np.int64) for name in _INTEGERS] + [("scale", np.float64)])
_TILE, _PAGE, _NO_FLAGS = np.int64(TILE), mmap.PAGESIZE, np.uint32(0)


def _openmp(name: str, result: types.Type, *arguments: types.Type) -> types.ExternalFunction:
    """A function of the library that gives PyTorch its threads."""
    found = ctypes.CDLL(torch._C.__file__)[name]  # which looks through all that this one needs
    llvm.add_symbol(f"fastdrop_{name}", ctypes.cast(found, ctypes.c_void_p).value)
    return types.ExternalFunction(f"fastdrop_{name}", result(*arguments))


try:
    _in_each_thread = _openmp("GOMP_parallel", types.void, types.voidptr, types.voidptr, *2 * [types.uint32])
    _number = _openmp("omp_get_thread_num", types.int32)
    _count = _openmp("omp_get_num_threads", types.int32)
    _HUGE_PAGES = mmap.MADV_HUGEPAGE
    _advise = types.ExternalFunction("madvise", types.int32(types.voidptr, types.uintp, types.int32))
except (OSError, AttributeError):  # another system, or another OpenMP
    _ELEMENTS.clear()


@njit(forceinline=True)
def _part(job, x, y, number, count):
    """A thread's tiles: neighbours, as in PyTorch's operations, which leave them in its caches."""
    threads, tiles = min(count, job.threads), (job.size + _TILE - 1) // _TILE
    at, end = tiles * number // threads * _TILE, min(tiles * (number + 1) // threads * _TILE, job.size)
    if at < end:
        x, y, rows, no_bias = x[at:end], y[at:end], (end - at, 0, at), (bernoulli.NO_CYCLE, 0)
        draw = job.threshold, job.scale, job.key, job.draw
        bernoulli.elements(formulas.drop, x, x, x, y, rows, no_bias, draw, 0, job.far)


@cache
def _compiled(dtype: torch.dtype) -> tuple[Any, int | None]:
    """Dropout in a team of threads, and the address of what each of them calls.

    The team is as big as for PyTorch's operations, so that it is theirs; threads are those with a part.
    """
    elements, itemsize = _ELEMENTS[dtype], dtype.itemsize

    def work(data):
        job = carray(data, 1, _JOB)[0]
        x, y = carray(pointer(job.x), job.size, elements), carray(pointer(job.y), job.size, elements)
        _part(job, x, y, np.int64(_number()), np.int64(_count()))

    def drop(work, x, y, size, threshold, scale, key, draw, far, threads, team):
        nbytes = size * itemsize
        if y != x and nbytes >= _HUGE_FROM:
            rest = -y % _PAGE
            _advise(pointer(y + rest), nbytes - rest, _HUGE_PAGES)
        jobs = np.empty(1, _JOB)
        job = jobs[0]
        job.x, job.y, job.size, job.far, job.threads = x, y, size, far, threads
        job.threshold, job.scale, job.key, job.draw = threshold, scale, key, draw
        if threads > 1:
            _in_each_thread(pointer(work), pointer(jobs.ctypes.data), np.uint32(team), _NO_FLAGS)
        else:
            a, b = carray(pointer(x), size, elements), carray(pointer(y), size, elements)
            _part(job, a, b, 0, 1)
        return jobs.size  # so that they live until here

    name = str(dtype)
    return jit(drop, name), callback(work, types.void(types.voidptr), name).address


def drawn(p: Any) -> tuple[int, float] | None:
    """Threshold and scale of a scalar rate, if it wants draws at all."""
    if not isinstance(p, float):
        return None
    found = rate(p)
    return found if 0 < found[0] < FULL else None


def takes(x: torch.Tensor) -> bool:
    """Whether a tensor's elements are numbers of this module's in C order, in memory."""
    try:
        if x.dtype not in _ELEMENTS or not x.is_cpu or x.is_nested or not x.is_contiguous() or x.is_neg():
            return False
        address = x.data_ptr()  # zero where nothing is in memory, as where zeros are none
        return address > 0 and address % x.itemsize == 0
    except RuntimeError:  # a layout without an address, or an order
        return False


def dropout(x: torch.Tensor, numbers: tuple[int, float, int, int], inplace: bool = False) -> torch.Tensor:
    """Dropout of what `takes` takes, into a new tensor or x: by threshold, scale, Philox key and draw."""
    nbytes = x.nbytes
    y = x if inplace else torch.empty_like(x)
    size, address, team, threads = x.numel(), y.data_ptr(), 1, 1
    if size >= _SHARED_FROM and not pool.forked:  # a child would wait for its parent's threads
        team = torch.get_num_threads()
        threads = min(team, pool.usable(), size // _PIECE)
    kernel, work = _compiled(x.dtype)
    kernel(work, x.data_ptr(), address, size, *numbers, calls.distance(nbytes, address), threads, team)
    return y
