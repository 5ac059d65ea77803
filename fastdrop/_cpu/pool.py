"""The threads that share big calls, and how many there may be.

They are plain Python threads around kernels that release the GIL. Numba's own parallel loops are not used,
because their threads wait for each other in busy loops. A BLAS does so too after every matrix product of a
NumPy training loop. There a parallel loop of 30 us took 3 to 6 ms on two cores, a hundred times the serial
kernel. Numba's loops also end a forked child (GNU OpenMP), or abort if two threads enter them at once
(workqueue).

The pool of concurrent.futures is not used either. Its locks are written in Python: an interrupt within them
left them taken, and the next call waited for ever. No signal handler runs within the locks and the queue used
here.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import SimpleQueue
from typing import SupportsIndex, TypeVar
from weakref import WeakSet

from fastdrop._stream.keys import natural

Piece = TypeVar("Piece")


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _allowed(name: str) -> int | None:
    """Return the number of threads that an environment variable allows, or None if it says nothing.

    OpenMP takes a list with a number for each level of nested loops; the first is that of the outermost.
    """
    given = os.environ.get(name, "")
    first = given.partition(",")[0].strip()
    if not given.strip():
        return None
    if first.isdecimal() and int(first) > 0:
        return int(first)
    text = f"{name} must begin with an integer that is at least 1, got {given!r}; fastdrop ignores it"
    warnings.warn(text, RuntimeWarning, stacklevel=4)
    return None


def _default() -> int:
    """Return how many threads a call may use if nobody has said so: the least of what limits them."""
    return min(_cores(), *(found for name in _LIMITS if (found := _allowed(name))), sys.maxsize)


# joblib sets both for its workers, and dask's nanny sets the first to 1.
_LIMITS = "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"
_count: int | None = None  # which stands for the default, until a call needs it
_asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
_helpers = 0  # threads that wait for work in the queue `_asked`, or do it
_threads: WeakSet[threading.Thread] = WeakSet()  # those that were started and haven't ended
_lock = threading.Lock()
_alone = ContextVar("alone", default=False)
forked = False  # whether this process is a forked child


def get_num_threads() -> int:
    """Return how many threads a big call may use, the calling one among them.

    Before `set_num_threads` this is the least of the number of cores that the process may use (its affinity)
    and of the environment variables OMP_NUM_THREADS and NUMBA_NUM_THREADS, as they are when it is needed
    first. By these variables joblib's workers share the cores among them, and each of a dask cluster's
    workers has one. Of a list such as "4,2", which OpenMP takes, the first number counts. A value that isn't
    a positive integer is ignored with a warning.

    Returns
    -------
    int
        At least 1.

    See Also
    --------
    set_num_threads : which says more on NumPy's own threads.

    Examples
    --------
    >>> import fastdrop as fd
    >>> before = fd.get_num_threads()
    >>> fd.set_num_threads(1)
    >>> fd.get_num_threads()
    1
    >>> fd.set_num_threads(before)
    """
    global _count
    if _count is None:
        _count = _default()
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

    See Also
    --------
    get_num_threads : how many there are by default.

    Notes
    -----
    The threads of the BLAS behind NumPy's matrix products keep spinning for a while after each product, and
    then take the cores from the calls that follow. In NumPy training loops on many cores set the environment
    variable OPENBLAS_THREAD_TIMEOUT to 4 before Python starts: OpenBLAS's threads then sleep after 2**4
    cycles, not after 2**26.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.set_num_threads(fd.get_num_threads())
    """
    global _count
    number = natural("count", count)
    if number < 1:
        raise ValueError(f"count must be at least 1, got {number}")
    with _lock:
        _count = number
        _end_helpers(number - 1)


def _end_helpers(keep: int) -> None:
    """Let all helpers but so many end as soon as they have nothing to do; the caller holds the lock."""
    global _helpers
    while _helpers > keep:
        _helpers -= 1
        _asked.put(None)


@contextmanager
def alone() -> Iterator[None]:
    """Let the calls of this thread use no other threads, for callers that run many calls side by side."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def usable() -> int:
    """Return how many threads a call of this thread may use, this thread among them."""
    return 1 if _alone.get() else get_num_threads()


def share(task: Callable[[Piece], None], pieces: Iterable[Piece]) -> None:
    """Call the task on each piece, in this thread and in the others that wake up in time.

    This function does not wait for a thread that wakes up when no piece is left. It does wait for every
    thread that works on a piece, also after an interrupt: when it returns, no thread may still write to the
    arrays. Then no other thread holds a reference to the arrays either. If a thread freed the array of a
    PyTorch tensor while the interpreter ends, the process would crash.
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
            # This comes before it takes a piece, so that whoever cleared `todo` sees every thread with a
            # piece.
            begun.append(working)
            try:
                work()
            except BaseException as error:
                errors.append(error)

    interrupt = None
    try:
        with suppress(RuntimeError):  # no thread can be started while the interpreter ends
            _ask(help, min(usable(), len(todo)) - 1)
        work()
    finally:
        # This is no function of its own, since an interrupt could come just before it is entered.
        while True:
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
    """Put `help` into the queue for so many threads, and start threads if there are fewer."""
    global _helpers
    with _lock:
        while _helpers < count:
            thread = threading.Thread(target=_serve, args=(_asked,), name="fastdrop", daemon=True)
            thread.start()
            _threads.add(thread)
            _helpers += 1
    for _ in range(count):
        _asked.put(help)


def _serve(asked: SimpleQueue[Callable[[], None] | None]) -> None:
    while help := asked.get():
        help()
        del help  # it holds the arrays of the call


def _rest() -> None:
    """End the idle helpers before a fork; the next big call starts others.

    Python 3.12 and later warn of a fork while a process has threads, and a caller of ours may have no others.
    A helper that is at work belongs to a call of another thread, so that the warning comes anyway: it is not
    waited for. Nor is the lock, which a call may hold that the fork interrupts.
    """
    if not _lock.acquire(blocking=False):
        return
    try:
        _end_helpers(0)
        ending = list(_threads)
    finally:
        _lock.release()
    for thread in ending:
        if thread is not threading.current_thread():
            thread.join(0.01)


def _forget() -> None:
    """Forget the threads in a forked child, which has none of its parent's; it starts its own at need."""
    global forked, _asked, _helpers, _threads, _lock
    forked, _asked, _helpers, _threads, _lock = True, SimpleQueue(), 0, WeakSet(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_rest, after_in_child=_forget)
