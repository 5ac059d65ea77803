"""Big calls shared with a few threads of our own.

Plain Python threads around kernels that release the GIL, rather than Numba's parallel loops: those
wait for each other in busy loops. When a BLAS does so too, as after every matrix product of a NumPy
training loop, a parallel loop of 30 us took 3 to 6 ms on two cores, a hundred times the serial kernel.
They also end a forked child (GNU OpenMP) or abort when two threads enter (workqueue).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import SupportsIndex, TypeVar

from fastdrop.random import natural

Piece = TypeVar("Piece")


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_count = _cores()
_pool: ThreadPoolExecutor | None = None
_lock = threading.Lock()
_alone = ContextVar("alone", default=False)


def get_num_threads() -> int:
    """Return how many threads a big call may use, the calling one among them.

    At first this is the number of cores that the process may use.

    Examples
    --------
    >>> import fastdrop as fd
    >>> before = fd.get_num_threads()
    >>> fd.set_num_threads(1)
    >>> fd.get_num_threads()
    1
    >>> fd.set_num_threads(before)
    """
    return _count


def set_num_threads(count: SupportsIndex) -> None:
    """Let big calls use up to this many threads; results are the same for any number.

    Parameters
    ----------
    count : int
        At least 1. With 1 every call runs in the calling thread alone. It holds for the whole process.

    Raises
    ------
    TypeError, ValueError
        If count is not an integer, or less than 1.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.set_num_threads(fd.get_num_threads())
    """
    global _count, _pool
    number = natural("count", count)
    if number < 1:
        raise ValueError(f"count must be at least 1, got {number}")
    with _lock:
        if _pool is not None and number != _count:
            _pool.shutdown(wait=False)
            _pool = None
        _count = number


@contextmanager
def alone() -> Iterator[None]:
    """Let this thread's calls do without others, as where many of them run side by side anyway."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def share(task: Callable[[Piece], None], pieces: Iterable[Piece]) -> None:
    """Call the task on each piece, here and in those threads that wake up in time.

    A thread that comes late takes less or nothing, and is not waited for.
    """
    todo = deque(pieces)

    def work() -> None:
        while True:
            try:
                piece = todo.popleft()
            except IndexError:
                return
            task(piece)

    count = 1 if _alone.get() else _count
    helpers: list[Future[None]] = []
    try:
        # refused when the interpreter is ending, or another thread has set another number just now
        with suppress(RuntimeError):
            for _ in range(min(count, len(todo)) - 1):
                helpers.append(_executor().submit(work))
        work()
    finally:
        todo.clear()
        _finish(helpers)


def _finish(helpers: list[Future[None]]) -> None:
    """Wait for helpers that have begun, also through interrupts: after the call nothing may write on."""
    interrupt = None
    while running := [helper for helper in helpers if not (helper.cancel() or helper.done())]:
        try:
            wait(running)
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt:
        raise interrupt
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, _count - 1), thread_name_prefix="fastdrop")
        return _pool


def _forget() -> None:
    """A forked child has none of its parent's threads: it starts its own when it needs them."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
