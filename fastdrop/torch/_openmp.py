"""Dropout of tensors by their addresses, in the threads that PyTorch's own operations run in.

PyTorch's threads are an OpenMP team: OpenMP's name for the threads that run one parallel operation together.
Between operations they wait for the next one in a busy loop, so they begin within a microsecond. Threads of
our own would have to be woken first, on cores that the waiting team occupies.

The module imports Numba, so it is imported at its first use.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
from numba import carray, types

from fastdrop._cpu import bernoulli, calls
from fastdrop._cpu import threads as own_threads
from fastdrop._cpu.compiled import callback, jit
from fastdrop._lanes import formulas
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import pointer
from fastdrop._stream.keys import TILE

_ELEMENTS = {  # the dtypes that are taken here, as the kernels see them
    torch.float16: np.int16,
    torch.bfloat16: np.uint16,
    torch.float32: np.float32,
    torch.float64: np.float64,
}
# From how many elements a call is shared among threads, as PyTorch's own are, and how many each must have.
_SHARED_FROM, _PIECE = 1 << 15, 1 << 14
# From how many bytes Linux is asked for huge pages, as NumPy asks: they fill fresh memory much faster.
_HUGE_FROM = 1 << 22

_INTEGERS = "x", "y", "size", "threshold", "key", "draw", "far", "threads"
_JOB = np.dtype([(name, np.int64) for name in _INTEGERS] + [("scale", np.float64)])
_TILE, _ZERO, _PAGE, _NO_FLAGS = np.int64(TILE), np.int64(0), mmap.PAGESIZE, np.uint32(0)


def _library(name: str) -> Any:
    """A function of the OpenMP library that PyTorch has loaded."""
    return ctypes.CDLL(torch._C.__file__)[name]  # looks in the libraries too that this one needs


def _openmp(name: str, result: types.Type, *arguments: types.Type) -> types.ExternalFunction:
    """The same for Numba to call."""
    llvm.add_symbol(f"fastdrop_{name}", ctypes.cast(_library(name), ctypes.c_void_p).value)
    return types.ExternalFunction(f"fastdrop_{name}", result(*arguments))


IN_TEAMS = True  # whether PyTorch's threads can be had
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

try:
    _parallel = _library("GOMP_parallel")
    _in_each_thread = _openmp("GOMP_parallel", types.void, types.voidptr, types.voidptr, *2 * [types.uint32])
    thread_number = _openmp("omp_get_thread_num", types.int32)
    team_size = _openmp("omp_get_num_threads", types.int32)
    _HUGE_PAGES = mmap.MADV_HUGEPAGE
    _advise = types.ExternalFunction("madvise", types.int32(types.voidptr, types.uintp, types.int32))
except (OSError, AttributeError):  # another system than Linux, or another OpenMP library than GNU's
    IN_TEAMS = False
    _ELEMENTS.clear()  # so that nothing is taken here, and `call` works in the calling thread

    @inlined
    def thread_number():
        return 0

    @inlined
    def team_size():
        return 1


def call(work: int, data: int, threads: int, team: int) -> None:
    """Call machine code of an address with data of an address, in a team if there are several threads."""
    if threads > 1:
        _parallel(ctypes.c_void_p(work), ctypes.c_void_p(data), team, 0)
    else:
        _WORK(work)(data)


@inlined
def _part(job, x, y, number, count):
    """The part of one thread: tiles that are neighbours.

    PyTorch divides its own operations in the same way, so a thread finds in its core's cache what it wrote.
    """
    threads, tiles = min(count, job.threads), (job.size + _TILE - 1) // _TILE
    first, last = tiles * number // threads, tiles * (number + 1) // threads
    at, end = first * _TILE, min(last * _TILE, job.size)
    if at < end:
        row, draw = (job.size, _ZERO, _ZERO), (job.threshold, job.scale, job.key, job.draw)
        formula, constants = formulas.affine, formulas.DROP
        bernoulli.elements(formula, x, x, x, y, row, bernoulli.NO_BIAS, draw, constants, job.far, at, end)


@cache
def _compiled(dtype: torch.dtype) -> tuple[Any, int | None]:
    """The function that drops in an OpenMP team, and the address of what it has each thread call.

    It asks for a team of the size that PyTorch's operations have, so that OpenMP gives it the same threads;
    only as many as `threads` get a part.
    """
    elements, itemsize = _ELEMENTS[dtype], dtype.itemsize

    def work(data):
        job = carray(data, 1, _JOB)[0]
        x, y = carray(pointer(job.x), job.size, elements), carray(pointer(job.y), job.size, elements)
        _part(job, x, y, np.int64(thread_number()), np.int64(team_size()))

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
        return jobs.size  # keeps the array alive until the threads are done

    name = str(dtype)
    return jit(drop, name), callback(work, types.void(types.voidptr), name).address


def takes(x: torch.Tensor) -> bool:
    """Whether a tensor's elements are in memory, in C order, aligned and of a dtype that is taken here."""
    try:
        if x.dtype not in _ELEMENTS or not x.is_cpu or x.is_nested or not x.is_contiguous() or x.is_neg():
            return False
        address: int = x.data_ptr()  # 0 where nothing is in memory, as in tensors of zeros that aren't stored
        return address > 0 and address % x.itemsize == 0
    except RuntimeError:  # the layout has no address or no order
        return False


def dropout(x: torch.Tensor, numbers: tuple[int, float, int, int], inplace: bool = False) -> torch.Tensor:
    """Dropout of a tensor that `takes` takes, into a new one or itself.

    The numbers are threshold and scale, then Philox key and draw word.
    """
    y = x if inplace else torch.empty_like(x)
    address, size = y.data_ptr(), x.numel()
    kernel, work = _compiled(x.dtype)
    if size < _SHARED_FROM:
        kernel(work, x.data_ptr(), address, size, *numbers, bernoulli.NEAR, 1, 1)
    else:
        far = calls.distance(x.nbytes, address)
        kernel(work, x.data_ptr(), address, size, *numbers, far, *threads_for(size))
    return y


def threads_for(size: int) -> tuple[int, int]:
    """How many threads get a part of a call, and how many the team has."""
    alone = own_threads.forked or not IN_TEAMS  # a forked child hasn't its parent's threads
    if alone or size < _SHARED_FROM:
        return 1, 1
    team = torch.get_num_threads()
    return min(team, own_threads.usable(), size // _PIECE), team
