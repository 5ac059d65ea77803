"""How big calls are shared, and that neither forks, interrupts nor the interpreter's end hurt."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import njit

import fastdrop as fd
from fastdrop._cpu import helpers, team, threads
from fastdrop._cpu.team import in_pieces

pytestmark = pytest.mark.timeout(180)  # what hangs here hangs for ever
BIG = np.ones((1 << 20) + 5, np.float32)
PATIENCE = 20_000_000_000  # looks at a word that another thread will change: far more than are needed


@njit
def _mark(given, begin, end):
    (done,) = given
    for i in range(begin, end):
        done[i] += 1


@njit(nogil=True)
def marked(done, asked):
    """Add one to each element, in pieces."""
    in_pieces(_mark, (done,), done.size, asked)


@njit
def _meet(given, begin, end):
    words, count, open_after = given
    team._add(words, 1)
    for _ in range(PATIENCE):
        if team._read(words) >= count and team._read(words + 8) >= open_after:
            team._add(words + 16, 1)
            return


@njit(nogil=True)
def met(address, count, open_after, asked):
    """Let `count` pieces wait for each other, and for the second of three words; the third counts them."""
    in_pieces(_meet, (address, count, open_after), count, asked)


@njit
def _slow(given, begin, end):
    words, done = given
    team._add(words, 1)
    while team._read(words) < 2:
        pass
    if begin:
        for i in range(200_000_000):
            done[1] = i & team._read(words)
    done[begin] = 7


@njit(nogil=True)
def slow(address, done, asked):
    """Do two pieces in two threads, of which one takes long."""
    in_pieces(_slow, (address, done), 2, asked)


def request(threads, size, step=1, unit=1, phase=0):
    """A request for all helpers that may be asked, whatever the work is."""
    if threads == 1:
        return np.zeros(0, np.int64), 0
    asked = helpers.request(size, 1e9, unit, phase)
    asked[team.STEP] = step
    return asked, asked.ctypes.data


@pytest.fixture(autouse=True)
def nobody_yet(monkeypatch, threads_set_back):
    """No helpers of earlier calls, which a test would not count, and no pause that these have caused."""
    helpers._rest()
    monkeypatch.setattr(helpers, "_pause", 0)
    monkeypatch.setattr(helpers, "_missed", 0)


def meet(count):
    """Return how many threads met; they can't, unless each does one piece."""
    words = np.zeros(3, np.int64)
    asked, address = request(count, count)
    met(words.ctypes.data, count, 0, address)
    assert asked[team.HELPED] == count - 1
    return words[2]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("size", "step", "phase"), [(1000, 1, 0), (1000, 7, 3), (5, 8, 7), (1, 1, 0)])
def test_every_element_is_done_once(count, size, step, phase):
    fd.set_num_threads(count)
    done = np.zeros(size, np.int64)
    asked = np.zeros(team.LIST + 9, np.int64)
    if count > 1:
        asked, _ = request(count, 1000)
        asked[[team.STEP, team.PHASE]] = step, phase
    marked(done, asked.ctypes.data if count > 1 else 0)
    assert (done == 1).all()


@pytest.mark.parametrize("count", [2, 3, 8])
def test_helpers_help_and_wake_each_other(count):
    fd.set_num_threads(count)
    assert meet(count) == count


def test_a_call_asks_for_as_many_as_it_has_work_for(monkeypatch):
    fd.set_num_threads(8)
    assert helpers.request(1 << 20, helpers._WORTH - 1, 1024, 0) is None
    few, many = (helpers.request(1 << 20, ns, 1024, 0) for ns in (6.5 * helpers._EACH, 1e9))
    assert (few[team.WANTED], many[team.WANTED]) == (5, 7)
    assert helpers.request(1000, 1e9, 1024, 0) is None  # there is nothing to cut
    fd.set_num_threads(2)
    assert helpers.request(1 << 20, 1e9, 1024, 0)[team.WANTED] == 1
    assert helpers.request(1 << 20, helpers._WORTH_ALL / 2 - 1, 1024, 0) is None
    assert helpers.request(1 << 20, helpers._WORTH_ALL / 2, 1024, 0) is not None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads can be put on cores on Linux alone")
@pytest.mark.parametrize("main_too", [False, True])  # whether the first thread may run on that core alone
def test_a_helper_leaves_the_core_of_the_thread_that_woke_it(main_too):
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        pytest.skip("needs two cores")
    core = min(cores)
    fd.set_num_threads(2)
    meet(2)
    (helper,) = helpers._threads
    found = []

    def call():
        os.sched_setaffinity(0, {core})  # of this thread
        os.sched_setaffinity(helper.native_id, {core})
        meet(2)
        found.append(os.sched_getaffinity(helper.native_id))

    caller = threading.Thread(target=call)
    try:
        if main_too:
            os.sched_setaffinity(0, {core})
        caller.start()
        caller.join()
    finally:
        os.sched_setaffinity(0, cores)
    assert found == [cores - {core}]


@pytest.mark.parametrize("unit", [1, 9, 1024, 5000])
def test_pieces_are_whole_units_and_enough_for_all(unit):
    fd.set_num_threads(4)
    asked = helpers.request(1 << 22, 1e6, unit, 0)
    assert asked[team.STEP] % unit == 0
    assert asked[team.STEP] * 4 <= 1 << 22


def test_alone_is_alone_for_one_thread_and_a_time():
    fd.set_num_threads(2)

    def asks():
        return helpers.request(1 << 20, 1e9, 1024, 0) is not None

    with threads.alone():
        assert not asks()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(asks).result()
        with pytest.raises(ZeroDivisionError), threads.alone():
            1 / 0  # noqa: B018
        assert not asks()
    assert asks()


def test_where_helpers_do_not_come_they_are_asked_less_and_less():
    fd.set_num_threads(2)
    in_vain, helped = (np.zeros(team.LIST, np.int64) for _ in range(2))
    helped[team.HELPED] = 1
    pauses = []
    for _ in range(8):
        helpers.heed(in_vain)
        pause = 0
        while helpers.request(1 << 20, 1e9, 1024, 0) is None:
            pause += 1
        pauses.append(pause)
    assert pauses == [1, 3, 7, 15, 31, 63, 63, 63]
    helpers.heed(helped)
    helpers.heed(in_vain)
    assert helpers._pause == 1


def test_a_refused_call_says_nothing_of_helpers(monkeypatch):
    fd.set_num_threads(2)
    heeded = []
    monkeypatch.setattr(helpers, "heed", heeded.append)
    x = np.ones((64, 4096), np.float32)
    for wrong in ({"p": np.full(4096, 1.5)}, {"p": 0.5, "rows": [-1] * 64}):
        with pytest.raises(ValueError, match=r"p must be in|rows must be in"):
            fd.dropout(x, key=1, **wrong)
    assert not heeded
    fd.dropout(x, np.full(4096, 0.5), 1)
    assert len(heeded) == 1


class Busy:
    """Two threads that work on one call until they are let go: one is a helper."""

    def __init__(self):
        self.words = np.zeros(3, np.int64)
        self.asked, address = request(2, 2)
        self.thread = threading.Thread(target=met, args=(self.words.ctypes.data, 2, 1, address))

    def __enter__(self):
        met.compile("(intp, intp, intp, intp)")
        self.thread.start()
        while self.words[0] < 2:
            time.sleep(0.001)
        return self

    def __exit__(self, *_):
        self.words[1] = 1
        self.thread.join()
        assert self.words[2] == 2


def test_a_busy_helper_is_not_waited_for():
    fd.set_num_threads(2)
    done = np.zeros(1000, np.int64)
    with Busy() as busy:
        asked, address = request(2, done.size)
        marked(done, address)
        assert busy.words[2] == 0
    assert (done == 1).all()
    assert asked[team.HELPED] == 0


def slots(count):
    """Slots as helpers have them, whose threads sleep so deeply that they don't exist."""
    words = np.zeros((count, team.SLOT_WORDS), np.int64)
    words[:, team.WAKE] = [team.new_lock() for _ in range(count)]
    words[:, team.DONE] = [team.new_lock() for _ in range(count)]
    return words


def test_a_helper_that_comes_late_is_not_waited_for_and_can_help_the_next_call():
    fd.set_num_threads(4)
    late, done = slots(3), np.zeros(100, np.int64)
    for third in (team.IDLE, team.REVOKED):  # the first two would have woken it; the second call does
        asked, address = request(4, done.size)
        asked[[team.SLOTS, team.COUNT]] = late.ctypes.data, len(late)
        marked(done, address)
        assert late[:, team.STATE].tolist() == [team.REVOKED, team.REVOKED, third]
    assert (done == 2).all()
    assert asked[team.HELPED] == 0
    # Each lock was released once, although two calls asked: a helper that comes now finds nothing.
    threads = [threading.Thread(target=team.serve(), args=(slot.ctypes.data,)) for slot in late]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    while late[:, team.STATE].any():
        assert time.monotonic() < end
        time.sleep(0.001)
    asked, address = request(4, 4)
    asked[[team.SLOTS, team.COUNT]] = late.ctypes.data, len(late)
    words = np.zeros(3, np.int64)
    met(words.ctypes.data, 4, 0, address)
    assert words[2] == 4
    for slot, thread in zip(late, threads, strict=True):
        team.dismiss()(slot.ctypes.data)
        thread.join(60)
        assert not thread.is_alive()
    assert (late[:, team.STATE] == team.GONE).all()


@pytest.mark.parametrize("state", [team.IDLE, team.REVOKED])
def test_a_dismissed_helper_ends_whatever_it_was_asked_before(state):
    (slot,) = slots(1)
    slot[team.STATE] = state
    if state == team.REVOKED:
        release(slot[team.WAKE])
    team.dismiss()(slot.ctypes.data)
    thread = threading.Thread(target=team.serve(), args=(slot.ctypes.data,))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert slot[team.STATE] == team.GONE


def release(lock):
    import ctypes

    ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(int(lock)))


def test_who_is_dismissed_at_work_ends_after_it():
    fd.set_num_threads(2)
    with Busy():
        for slot in helpers._helpers:
            team.dismiss()(helpers._address(slot))
        assert living()
    helpers._helpers.clear()
    end = time.monotonic() + 60
    while living():
        assert time.monotonic() < end
        time.sleep(0.001)


def living():
    return [thread for thread in threading.enumerate() if thread.name == "fastdrop"]


def test_a_helper_at_work_is_waited_for():
    fd.set_num_threads(2)
    for _ in range(5):
        words, done = np.zeros(1, np.int64), np.zeros(2, np.int64)
        asked, address = request(2, 2)
        slow(words.ctypes.data, done, address)
        assert done.tolist() == [7, 7]
        assert asked[team.HELPED] == 1


def test_a_helper_keeps_nothing_of_a_call():
    fd.set_num_threads(2)
    done = np.zeros(1000, np.int64)
    before = sys.getrefcount(done)
    marked(done, request(2, done.size)[1])
    assert sys.getrefcount(done) == before


def test_where_no_thread_can_be_started_the_caller_does_it_all(monkeypatch):
    fd.set_num_threads(3)
    helpers._rest()
    free = len(helpers._free)

    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    done = np.zeros(1000, np.int64)
    marked(done, request(3, done.size)[1])
    assert (done == 1).all()
    assert len(helpers._free) == free
    assert not helpers._helpers


def test_a_call_within_the_start_of_helpers_goes_without_them(monkeypatch):
    """As a signal handler's, or a finalizer's, which comes at any moment."""
    fd.set_num_threads(3)
    helpers._rest()
    x, inner, start = np.ones(1 << 20, np.float32), [], threading.Thread.start

    def interrupted(thread):
        if not inner:
            inner.append(None)
            inner[0] = fd.gaussian_dropout(x, 0.3, 1)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    outer = fd.gaussian_dropout(x, 0.3, 1)
    assert np.array_equal(inner[0], outer)
    assert len(helpers._helpers) == 2
    assert not helpers._starting


INTERRUPTED = """
import random, signal, numpy as np, fastdrop as fd
from fastdrop._cpu import helpers, team, threads
fd.set_num_threads(3)
helpers._LONGEST_PAUSE = 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
random.seed(0)
x = np.ones(1 << 18, np.float32)
y, expected, interrupts, wrong, at_work = np.empty_like(x), fd.dropout(x, 0.1, 1), 0, 0, 0
while interrupts < 2000:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-3))
        while True:
            y.fill(0)
            fd.dropout(x, 0.1, 1, out=y)
            wrong += not np.array_equal(y, expected)
    except KeyboardInterrupt:
        interrupts += 1
    at_work += int((helpers._slots[:, team.STATE] > team.GONE).sum())
print(wrong, at_work)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
def test_interrupts_at_any_moment():
    """They come before a call or after it, and no helper is at work afterwards."""
    assert run(INTERRUPTED) == "0 0\n"


CALLERS = """
import sys, threading, numpy as np, fastdrop as fd
from fastdrop._cpu import helpers
fd.set_num_threads(3)
helpers._LONGEST_PAUSE = 0
wrong = []

def work(seed):
    x = np.random.default_rng(seed).standard_normal((1 << 17) + 1000 * seed).astype(np.float32)
    expected = fd.gaussian_dropout(x, 0.3, seed), fd.dropout(x, 0.1, seed)
    for turn in range(int(sys.argv[1])):
        got = fd.gaussian_dropout(x, 0.3, seed), fd.dropout(x, 0.1, seed)
        wrong.append(not all(np.array_equal(a, b) for a, b in zip(got, expected)))
        if not seed:
            fd.set_num_threads(1 + turn % 4)  # for all

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(wrong), any(wrong))
"""


def test_callers_side_by_side_share_the_helpers():
    assert run(CALLERS, "200") == "800 False\n"


def test_set_num_threads_says_what_it_takes():
    fd.set_num_threads(np.int64(4))
    assert fd.get_num_threads() == 4
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"count must be .*, got {bad}"):
            fd.set_num_threads(bad)
    with pytest.raises(TypeError, match="count must be an integer, got float"):
        fd.set_num_threads(2.0)
    assert fd.get_num_threads() == 4


def test_set_num_threads_while_calls_run():
    fd.set_num_threads(2)
    expected = fd.dropout(BIG, 0.3, 1).tobytes()
    wrong = []

    def work():
        for _ in range(20):
            wrong.append(fd.dropout(BIG, 0.3, 1).tobytes() != expected)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for turn in range(200):
        fd.set_num_threads(1 + turn % 4)
    for worker in workers:
        worker.join()
    assert len(wrong) == 60
    assert not any(wrong)


def test_idle_helpers_end_before_a_fork_and_others_come_after_it():
    """Python 3.12 and later warn of a fork in a process with threads."""
    fd.set_num_threads(3)
    for _ in range(2):
        assert meet(3) == 3
        helpers._rest()
        assert not living()


def test_a_fork_waits_neither_for_a_helper_at_work_nor_for_the_lock():
    fd.set_num_threads(2)
    with Busy():
        helpers._rest()
        assert living()
    with helpers._lock:
        helpers._rest()


FORK = """
import multiprocessing, numpy as np, fastdrop as fd
x = np.ones(2**22 + 5, np.float32)
fd.set_num_threads(2)
expected = fd.dropout(x, 0.25, 7)[-1000:].tobytes()  # the threads now run
def work(connection):
    connection.send_bytes(fd.dropout(x, 0.25, 7)[-1000:].tobytes())
context = multiprocessing.get_context("fork")
here, there = context.Pipe()
child = context.Process(target=work, args=(there,))
child.start()
assert here.poll(60) and here.recv_bytes() == expected
child.join(60)
assert child.exitcode == 0
"""


def run(script, *arguments):
    """A process of its own: what else is loaded here may mind a fork."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_gets_the_same_bits_with_threads_of_its_own():
    run(FORK)


AT_THE_END = """
import atexit, numpy as np, threading, fastdrop as fd
fd.set_num_threads(2)
x = np.ones(2**22, np.float32)
y = fd.dropout(x, 0.5, 1)
atexit.register(lambda: print(np.array_equal(fd.dropout(x, 0.5, 1), y)))
threading.Thread(target=lambda: [fd.dropout(x, 0.5, 1) for _ in range(50)], daemon=True).start()
"""


def test_calls_while_the_interpreter_ends():
    assert run(AT_THE_END) == "True\n"
