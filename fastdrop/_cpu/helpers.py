"""The threads that help with big calls.

They are Python's threads, but wait for work and do it in machine code, without the interpreter (see
`fastdrop._cpu.team`), so that all of them begin within microseconds. Numba's own parallel loops are not used,
because their threads wait for each other in busy loops. A BLAS does so too after every matrix product of a
NumPy training loop. There a parallel loop of 30 us took 3 to 6 ms on two cores, a hundred times the serial
kernel. Numba's loops also end a forked child (GNU OpenMP), or abort if two threads enter them at once
(workqueue).
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from fastdrop._cpu import team
from fastdrop._cpu.threads import usable

_MOST = 255  # helpers
# In ns: the shortest call that is shared, and its shortest time times the threads that may be used, since two
# can at most halve it; the least work for each thread, and how long a piece should be.
_WORTH, _WORTH_ALL, _EACH, _PIECE_FROM, _PIECE_TO = 25_000.0, 400_000.0, 8_000.0, 5_000.0, 100_000.0
_PIECES = 16  # for each thread at least, so that one that comes late or is slow holds nobody up
_LONGEST_PAUSE = 6  # so many calls without a helper are followed by 2**6 - 1 that ask for none

_lock = threading.Lock()  # of all that follows
_slots: NDArray[np.int64] = np.empty((0, team.SLOT_WORDS), np.int64)  # a row for each helper there may be
_helpers: list[int] = []  # the slots of those that may be asked
_reach = 0  # no slot from this one on was ever used
_free: list[int] = []  # the slots that no thread has, the next one last
_threads: WeakSet[threading.Thread] = WeakSet()  # those that were started and haven't ended
_starting: set[int] = set()  # the threads that are starting helpers, by their numbers; this one is not locked
_missed = _pause = 0  # calls in a row to which no helper came, and calls that ask for none because of that


def request(size: int, ns: float, grain: int, phase: int) -> NDArray[np.int64] | None:
    """Return a request for helpers, whose address a kernel takes; or None if the call is not worth it.

    The work is [0, size) and takes about so many ns. Pieces end at multiples of the grain, less the phase,
    which is below the grain. The request must live as long as the call.
    """
    global _pause
    most = usable()
    if most < 2 or ns < _WORTH or ns * most < _WORTH_ALL:
        return None
    threads = min(most, int(ns / _EACH), _MOST + 1)
    if _pause:
        _pause -= 1
        return None
    step = _step(size, ns, threads, grain)
    wanted = min(threads, -(-(size + phase) // step)) - 1
    if wanted < 1:
        return None
    if len(_helpers) < wanted:
        with suppress(RuntimeError):  # no thread can be started while the interpreter ends
            _start(wanted)
    asked = np.zeros(team.LIST + wanted, np.int64)
    asked[: team.RUN] = team.share_address(), _address(0), _reach, wanted, step, phase
    return asked


def _step(size: int, ns: float, threads: int, grain: int) -> int:
    """Return how long pieces should be: some for each thread, neither too short nor too long."""
    pieces = min(max(threads * _PIECES, ns / _PIECE_TO), ns / _PIECE_FROM)
    return max(1, round(size / pieces / grain)) * grain


def heed(asked: NDArray[np.int64]) -> None:
    """Learn from a call that is over: where helpers don't come, the next calls don't ask them.

    So it is after a matrix product, whose threads keep spinning on all cores. The pause doubles each time.
    """
    global _missed, _pause
    if asked[team.HELPED]:
        _missed = 0
    else:
        _missed = min(_missed + 1, _LONGEST_PAUSE)
        _pause = (1 << _missed) - 1


def _start(wanted: int) -> None:
    """Start helpers until there are so many, unless this thread is doing so already.

    Then a signal handler or a finalizer calls, which would wait for ever for what it interrupts. Its call
    goes without the helpers that aren't there yet.
    """
    thread = threading.get_ident()
    if thread in _starting:
        return
    try:
        _starting.add(thread)
        _start_in_turn(wanted)
    finally:
        _starting.discard(thread)


def _start_in_turn(wanted: int) -> None:
    """Start helpers until there are so many, after other threads that do so."""
    global _reach
    serve, _ = team.serve(), team.dismiss()  # compiled now, not in a fork
    with _lock:
        if not len(_slots):
            _make_slots()
        while len(_helpers) < wanted and _free:
            slot = _free.pop()
            _reach = max(_reach, slot + 1)
            _slots[slot, [team.STATE, team.LEAVE]] = team.IDLE, 0
            given = serve, _address(slot), slot, _free
            thread = threading.Thread(target=_help, args=given, name="fastdrop", daemon=True)
            _helpers.append(slot)  # before the start, in which an interrupt may come
            try:
                thread.start()
            except RuntimeError:
                _slots[_helpers.pop(), team.STATE] = team.GONE
                _free.append(slot)
                raise
            _threads.add(thread)


def _make_slots() -> None:
    """Make room for helpers, which is never freed: they are there until the process ends."""
    global _slots
    words = np.zeros((_MOST, team.SLOT_WORDS), np.int64)
    words[:, team.STATE] = team.GONE
    for slot in words:
        slot[[team.WAKE, team.DONE, team.WAKER]] = team.new_lock(), team.new_lock(), -1
    team.keep_for_ever(words)
    _free[:] = reversed(range(_MOST))
    _slots = words


def _help(serve: Any, address: int, slot: int, free: list[int]) -> None:
    serve(address)
    free.append(slot)


def _address(slot: int) -> int:
    return int(_slots.__array_interface__["data"][0]) + slot * int(_slots.strides[0])


def _rest() -> None:
    """End the idle helpers before a fork; the next big call starts others.

    Python 3.12 and later warn of a fork while a process has threads, and a caller of ours may have no others.
    A helper that is at work belongs to a call of another thread, so that the warning comes anyway: it is not
    waited for. Nor is the lock, which a call may hold that the fork interrupts.
    """
    if not _lock.acquire(blocking=False):
        return
    try:
        while _helpers:
            team.dismiss()(_address(_helpers.pop()))
        ending = list(_threads)
    finally:
        _lock.release()
    for thread in ending:
        if thread is not threading.current_thread():
            thread.join(0.01)


def _forget() -> None:
    """Forget the threads in a forked child, which has none of its parent's; it starts its own at need."""
    global _lock, _slots, _helpers, _reach, _free, _threads, _starting, _missed, _pause
    _lock, _slots, _helpers, _reach, _free = threading.Lock(), _slots[:0], [], 0, []
    _threads, _starting, _missed, _pause = WeakSet(), set(), 0, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_rest, after_in_child=_forget)
