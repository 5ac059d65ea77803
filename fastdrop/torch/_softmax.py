"""Softmax and dropout of attention's weights, in the threads that PyTorch's own operations run in.

The module imports Numba, so it is imported at its first use.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numba import carray, types
from numpy.typing import NDArray

from fastdrop._cpu import softmax
from fastdrop._cpu.compiled import callback
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import pointer
from fastdrop.torch import _openmp as openmp

_ADDRESSES = "scores", "slopes", "starts", "numbers"
_SIZES = "heads", "rows", "columns", "row", "height", "width"
_DRAW = "threshold", "key", "draw"
_JOB = np.dtype(
    [(name, np.int64) for name in (*_ADDRESSES, *_SIZES, *_DRAW, "causal", "safe", "threads")]
    + [("scale", np.float64)]
)


class Part(NamedTuple):
    """Which part of the matrices of some heads a block is.

    Attributes
    ----------
    starts : ndarray of int64
        The index of the first draw of each head.
    row : int
        The number of the block's first row.
    height, width : int
        How many rows and columns the matrices have.
    causal : bool
        Whether a row has weights up to its own number alone.
    safe : bool
        Whether a row without weights is 0, and not NaN.
    """

    starts: NDArray[np.int64]
    row: int
    height: int
    width: int
    causal: bool
    safe: bool


@inlined
def _rows(job, real, number, count):
    """The part of one thread, if it has any: rows that are neighbours."""
    threads, rows = min(count, job.threads), job.heads * job.rows
    if number >= threads:
        return
    scores = carray(pointer(job.scores), rows * job.columns, real)
    slopes = carray(pointer(job.slopes), rows * job.columns, real)
    starts = carray(pointer(job.starts), job.heads, np.int64)
    numbers = carray(pointer(job.numbers), (job.heads, job.height, 2), real)
    draw = job.threshold, job.scale, job.key, job.draw
    for row in range(rows * number // threads, rows * (number + 1) // threads):
        head, place = row // job.rows, job.row + row % job.rows
        begin, index = row * job.columns, starts[head] + place * job.width
        after = begin + job.columns
        end = min(after, begin + place + 1) if job.causal else after
        mine = numbers[head, place]
        if job.slopes == 0:
            mine[0], mine[1] = softmax.drop_row(scores, begin, end, after, index, draw, job.safe, real)
        else:
            softmax.slope_row(scores, slopes, begin, end, after, index, draw, mine[0], mine[1], real)


@cache
def _compiled(dtype: torch.dtype) -> int:
    """The address of what each thread calls."""
    real = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    thread_number, team_size = openmp.thread_number, openmp.team_size

    def work(data):
        job = carray(data, 1, _JOB)[0]
        if job.threads == 1:
            _rows(job, real, 0, 1)
        else:
            _rows(job, real, np.int64(thread_number()), np.int64(team_size()))

    return callback(work, types.void(types.voidptr), "softmax", str(dtype), openmp.IN_TEAMS).address


def weights(
    scores: torch.Tensor,
    slopes: torch.Tensor | None,
    numbers: torch.Tensor,
    part: Part,
    draw: tuple[int, float, int, int],
) -> None:
    """Make dropped weights of scores, in place.

    Parameters
    ----------
    scores : Tensor of shape (heads, rows, columns)
        In C order, float32 or float64.
    slopes : Tensor like scores, or None
        In the backward pass the gradient with respect to the dropped weights. That with respect to the scores
        is written over it.
    numbers : Tensor of shape (heads, height, 2)
        Two numbers of each row, which the forward pass writes, and the backward pass reads.
    part : Part
        Which part of the matrices the scores are.
    draw : tuple
        Threshold and scale, then Philox key and draw word.
    """
    job = np.empty(1, _JOB)
    each = job[0]
    each["scores"], each["slopes"] = scores.data_ptr(), 0 if slopes is None else slopes.data_ptr()
    each["starts"], each["numbers"] = part.starts.ctypes.data, numbers.data_ptr()
    each["heads"], each["rows"], each["columns"] = scores.shape
    for name in ("row", "height", "width", "causal", "safe"):
        each[name] = getattr(part, name)
    each["threshold"], each["scale"], each["key"], each["draw"] = draw
    threads, team = openmp.threads_for(scores.numel())
    each["threads"] = threads
    openmp.call(_compiled(scores.dtype), job.ctypes.data, threads, team)
