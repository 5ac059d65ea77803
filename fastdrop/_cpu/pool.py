"""Big calls shared with a few threads of our own.

Plain Python threads around kernels that release the GIL, rather than Numba's parallel loops: those
wait for each other in busy loops. When a BLAS does so too, as after every matrix product of a NumPy
training loop, a parallel loop of 30 us took 3 to 6 ms on two cores, a hundred times the serial kernel.
They also end a forked child (GNU OpenMP) or abort when two threads enter (workqueue).

Not those of concurrent.futures: its locks are written in Python, an interrupt within them left them taken,
and the next call waited for ever. No signal handler runs within the locks and the queue used here.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import SimpleQueue
from typing import SupportsIndex, TypeVar

from fastdrop._stream.keys import natural

Piece = TypeVar("Piece")


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_count = _cores()
_asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
_helpers = 0  # threads that do what is asked for
_lock = threading.Lock()
_alone = ContextVar("alone", default=False)
forked = False  # whether this process is a child


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
    global _count, _helpers
    number = natural("count", count)
    if number < 1:
        raise ValueError(f"count must be at least 1, got {number}")
    with _lock:
        _count = number
        while _helpers >= number:
            _helpers -= 1
            _asked.put(None)


@contextmanager
def alone() -> Iterator[None]:
    """Let this thread's calls do without others, as where many of them run side by side anyway."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def usable() -> int:
    """How many threads a call of this one may use, itself among them."""
    return 1 if _alone.get() else _count


def share(task: Callable[[Piece], None], pieces: Iterable[Piece]) -> None:
    """Call the task on each piece, here and in those threads that wake up in time.

    A thread that comes late takes less or nothing, and is not waited for. One that works is, also through
    interrupts: after the call nothing may write on. Nor does anything outlive it: a thread that frees an
    array that is a tensor's, while the interpreter ends, ends the process.
    """
    todo = deque(pieces)
    begun: list[threading.Lock] = []
    errors: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                piece = todo.popleft()
            except IndexError:
                return
            task(piece)

    def help() -> None:
        working = threading.Lock()
        with working:
            begun.append(working)  # before it takes a piece: who has cleared `todo` sees all that have one
            try:
                work()
            except BaseException as error:
                errors.append(error)

    interrupt = None
    try:
        with suppress(RuntimeError):  # no thread can be started, as when the interpreter is ending
            _ask(help, min(usable(), len(todo)) - 1)
        work()
    finally:
        while True:  # not in a function of its own, which an interrupt could keep from being entered
            try:
                todo.clear()
                for working in begun:
                    with working:
                        pass
                task = None  # type: ignore[assignment]
                break
            except BaseException as error:
                interrupt = error
        if interrupt:
            raise interrupt
    if errors:
        raise errors.pop()


def _ask(help: Callable[[], None], count: int) -> None:
    """Let so many threads call it when they come to it."""
    global _helpers
    with _lock:
        while _helpers < count:
            threading.Thread(target=_serve, args=(_asked,), name="fastdrop", daemon=True).start()
            _helpers += 1
    for _ in range(count):
        _asked.put(help)


def _serve(asked: SimpleQueue[Callable[[], None] | None]) -> None:
    while help := asked.get():
        help()
        del help  # and with it the arrays of a call


def _forget() -> None:
    """A forked child has none of its parent's threads: it starts its own when it needs them."""
    global forked, _asked, _helpers, _lock
    forked, _asked, _helpers, _lock = True, SimpleQueue(), 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
