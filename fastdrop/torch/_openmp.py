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

_INTEGERS = "x", "y", "size", "threshold", "key", "draw", "far", "threads", "length", "stride", "start"
_JOB = np.dtype([(name, np.int64) for name in _INTEGERS] + [("scale", np.float64)])
_TILE, _PAGE, _NO_FLAGS = np.int64(TILE), mmap.PAGESIZE, np.uint32(0)


def _openmp(name: str, result: types.Type, *arguments: types.Type) -> types.ExternalFunction:
    """A function of the OpenMP library that PyTorch has loaded, for Numba to call."""
    found = ctypes.CDLL(torch._C.__file__)[name]  # looks in the libraries too that this one needs
    llvm.add_symbol(f"fastdrop_{name}", ctypes.cast(found, ctypes.c_void_p).value)
    return types.ExternalFunction(f"fastdrop_{name}", result(*arguments))


try:
    _in_each_thread = _openmp("GOMP_parallel", types.void, types.voidptr, types.voidptr, *2 * [types.uint32])
    _thread_number = _openmp("omp_get_thread_num", types.int32)
    _team_size = _openmp("omp_get_num_threads", types.int32)
    _HUGE_PAGES = mmap.MADV_HUGEPAGE
    _advise = types.ExternalFunction("madvise", types.int32(types.voidptr, types.uintp, types.int32))
except (OSError, AttributeError):  # another system than Linux, or another OpenMP library than GNU's
    _ELEMENTS.clear()  # so that nothing is taken here


@inlined
def _part(job, x, y, number, count):
    """The part of one thread: rows that are neighbours, or of a single row tiles that are.

    PyTorch divides its own operations in the same way, so a thread finds in its core's cache what it wrote.
    """
    threads, rows = min(count, job.threads), job.size // job.length
    single = rows == 1
    parts, step = ((job.size + _TILE - 1) // _TILE, _TILE) if single else (rows, job.length)
    first, last = parts * number // threads, parts * (number + 1) // threads
    at, end = first * step, min(last * step, job.size)
    if at < end:
        layout, draw = (job.length, job.stride, job.start), (job.threshold, job.scale, job.key, job.draw)
        formula, constants = formulas.affine, formulas.DROP
        bernoulli.elements(formula, x, x, x, y, layout, bernoulli.NO_BIAS, draw, constants, job.far, at, end)


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
        _part(job, x, y, np.int64(_thread_number()), np.int64(_team_size()))

    def drop(work, x, y, size, length, stride, start, threshold, scale, key, draw, far, threads, team):
        nbytes = size * itemsize
        if y != x and nbytes >= _HUGE_FROM:
            rest = -y % _PAGE
            _advise(pointer(y + rest), nbytes - rest, _HUGE_PAGES)
        jobs = np.empty(1, _JOB)
        job = jobs[0]
        job.x, job.y, job.size, job.far, job.threads = x, y, size, far, threads
        job.length, job.stride, job.start = length, stride, start
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
    address = y.data_ptr()
    far = calls.distance(x.nbytes, address)
    _run(x, address, (x.numel(), 0, 0), numbers, far)
    return y


def drop_rows(
    x: torch.Tensor,
    y: torch.Tensor,
    rows: tuple[int, int, int],
    numbers: tuple[int, float, int, int],
) -> None:
    """Dropout of a tensor that `takes` takes, whose rows have a length, a stride and a start, into another.

    These say which draws belong to its elements, as in `fastdrop._arrays.plan.Rows`. Both lie alike, in the
    caches, or are one.
    """
    _run(x, y.data_ptr(), rows, numbers, bernoulli.NEAR)


def _run(
    x: torch.Tensor,
    y: int,
    rows: tuple[int, int, int],
    numbers: tuple[int, float, int, int],
    far: int,
) -> None:
    """Dropout of a tensor, written to an address."""
    size, team, threads = x.numel(), 1, 1
    if size >= _SHARED_FROM and not own_threads.forked:  # a forked child hasn't its parent's threads
        team = torch.get_num_threads()
        threads = min(team, own_threads.usable(), size // _PIECE)
    kernel, work = _compiled(x.dtype)
    kernel(work, x.data_ptr(), y, size, *rows, *numbers, far, threads, team)
