"""How big calls are shared, and that neither forks, interrupts nor the interpreter's end hurt."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

import fastdrop as fd
from fastdrop._cpu import calls, pool

pytestmark = pytest.mark.timeout(180)  # what hangs here hangs for ever
BIG = np.ones(calls.PARALLEL_FROM + 5, np.float32)


@pytest.mark.usefixtures("threads_set_back")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_piece_is_done_once(count):
    fd.set_num_threads(count)
    done = []
    pool.share(done.append, range(1000))
    assert sorted(done) == list(range(1000))


@pytest.mark.usefixtures("threads_set_back")
def test_helpers_help():
    fd.set_num_threads(3)
    together = threading.Barrier(3, timeout=60)
    pool.share(lambda piece: together.wait(), range(3))  # would break with fewer threads


@pytest.mark.usefixtures("threads_set_back")
def test_alone_is_alone_for_one_thread_and_a_time():
    fd.set_num_threads(2)

    def threads():
        names = set()
        meet = threading.Barrier(2)

        def task(piece):
            names.add(threading.current_thread().name)
            with suppress(threading.BrokenBarrierError):
                meet.wait(0.5)

        pool.share(task, range(2))
        return len(names)

    with pool.alone():
        assert threads() == 1
        with ThreadPoolExecutor(1) as other:
            assert other.submit(threads).result() == 2
        with pytest.raises(ZeroDivisionError), pool.alone():
            1 / 0  # noqa: B018
        assert threads() == 1
    assert threads() == 2


@pytest.mark.usefixtures("threads_set_back")
def test_late_helpers_are_not_waited_for():
    fd.set_num_threads(2)
    block = threading.Event()
    pool._ask(block.wait, 1)  # the only helper is busy
    done = []
    pool.share(done.append, range(10))
    block.set()
    assert done == list(range(10))


@pytest.mark.usefixtures("threads_set_back")
def test_a_late_helper_beside_one_that_works_is_not_waited_for():
    fd.set_num_threads(3)
    block, begun = threading.Event(), threading.Event()
    pool._ask(block.wait, 1)  # one of two helpers is busy

    def task(piece):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            time.sleep(0.1)
        else:
            assert begun.wait(60)

    caller = threading.Timer(30, block.set)  # ends a test that waits for it
    caller.start()
    pool.share(task, range(3))
    assert not block.is_set()
    caller.cancel()
    block.set()


@pytest.mark.usefixtures("threads_set_back")
def test_a_late_helper_has_nothing_of_the_call_to_free(monkeypatch):
    """PyTorch's tensors, freed by a thread as the interpreter ends, end the process with an error."""
    fd.set_num_threads(2)
    late = []
    monkeypatch.setattr(pool, "_ask", lambda help, count: late.append(help))
    array = np.ones(3)
    pool.share(functools.partial(array.__setitem__, 1), range(3))
    gone = weakref.ref(array)
    del array
    assert gone() is None
    late.pop()()


@pytest.mark.usefixtures("threads_set_back")
def test_after_an_error_nothing_goes_on():
    fd.set_num_threads(2)
    done = []

    def task(piece):
        if piece == 3:
            raise KeyboardInterrupt
        done.append(piece)

    with pytest.raises(KeyboardInterrupt):
        pool.share(task, range(10**6))
    assert len(done) < 10**6
    after = len(done)
    pool.share(lambda piece: None, range(2))
    assert len(done) == after


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="cannot interrupt a wait")
@pytest.mark.usefixtures("threads_set_back")
def test_interrupts_while_a_helper_is_waited_for_come_after_it():
    fd.set_num_threads(2)
    begun, done, main = threading.Event(), [], threading.main_thread()

    def task(piece):
        if threading.current_thread() is main:
            assert begun.wait(60)
            return
        begun.set()
        for _ in range(3):
            time.sleep(0.1)
            signal.pthread_kill(main.ident, signal.SIGINT)
        time.sleep(0.1)
        done.append(piece)

    with pytest.raises(KeyboardInterrupt):
        pool.share(task, range(2))
    assert len(done) == 1


@pytest.mark.usefixtures("threads_set_back")
def test_an_interrupt_while_helpers_are_asked_comes_after_those_that_began(monkeypatch):
    fd.set_num_threads(2)
    ask, begun, done = pool._ask, threading.Event(), []

    def task(piece):
        begun.set()
        time.sleep(0.2)
        done.append(piece)

    def interrupted(help, count):
        ask(help, count)
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.share(task, range(99))
    after = len(done)
    assert 1 <= after < 99
    time.sleep(0.3)
    assert len(done) == after


@pytest.mark.usefixtures("threads_set_back")
def test_an_error_in_a_helper_is_raised_here():
    fd.set_num_threads(2)
    begun = threading.Event()

    def task(piece):
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(60)
        else:
            begun.set()
            1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        pool.share(task, range(2))


INTERRUPTED = """
import random, signal, threading, time, fastdrop as fd
from fastdrop._cpu import pool
fd.set_num_threads(3)
signal.signal(signal.SIGALRM, signal.default_int_handler)
random.seed(0)
main, working, interrupts, late = threading.main_thread(), [], 0, 0

def task(piece):
    helps = threading.current_thread() is not main
    if helps:
        working.append(piece)
    end = time.perf_counter() + 3e-5
    while time.perf_counter() < end:
        pass
    if helps:
        working.remove(piece)

while interrupts < 3000:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 6e-4))
        while True:
            pool.share(task, range(3))
    except KeyboardInterrupt:
        interrupts += 1
    late += len(working)
print(late)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
def test_interrupts_at_any_moment():
    """Those that come within the locks of a pool of concurrent.futures would leave it hanging."""
    assert run(INTERRUPTED) == "0\n"


@pytest.mark.usefixtures("threads_set_back")
def test_there_are_as_many_threads_as_were_set_last():
    for count in (5, 2, 1, 3):
        fd.set_num_threads(count)
        pool.share(lambda piece: None, range(9))
        end = time.monotonic() + 60
        while (found := sum(t.name == "fastdrop" for t in threading.enumerate())) != count - 1:
            assert time.monotonic() < end, found
            time.sleep(0.01)


@pytest.mark.usefixtures("threads_set_back")
def test_set_num_threads_says_what_it_takes():
    fd.set_num_threads(np.int64(4))
    assert fd.get_num_threads() == 4
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"count must be .*, got {bad}"):
            fd.set_num_threads(bad)
    with pytest.raises(TypeError, match="count must be an integer, got float"):
        fd.set_num_threads(2.0)
    assert fd.get_num_threads() == 4


@pytest.mark.usefixtures("threads_set_back")
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


@pytest.mark.usefixtures("threads_set_back")
def test_idle_helpers_end_before_a_fork_and_others_come_after_it():
    """Python 3.12 and later warn of a fork in a process with threads."""
    fd.set_num_threads(3)
    together = threading.Barrier(3, timeout=60)
    for _ in range(2):
        pool.share(lambda piece: together.wait(), range(3))
        pool._rest()
        assert not [thread for thread in threading.enumerate() if thread.name == "fastdrop"]


@pytest.mark.usefixtures("threads_set_back")
def test_a_fork_waits_neither_for_a_helper_at_work_nor_for_the_lock():
    fd.set_num_threads(2)
    block = threading.Event()
    pool._ask(block.wait, 1)
    pool._rest()
    block.set()
    with pool._lock:
        pool._rest()


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


def run(script):
    """A process of its own: what else is loaded here may mind a fork."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
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
