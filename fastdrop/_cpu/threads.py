"""How many threads a big call may use; `fastdrop._cpu.helpers` has the threads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import SupportsIndex

from fastdrop._stream.keys import natural


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
    _count = number


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
    return 1 if _alone.get() else _count or get_num_threads()


def _note_fork() -> None:
    global forked
    forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
