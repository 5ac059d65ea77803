"""Layers that threads share: a draw for each forward, nothing torn, and forks that never hang."""

import contextlib
import copy
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from every_layer import CASES, classes

import fastdrop as fd

THREADS, CALLS = 4, 10


@pytest.fixture(autouse=True)
def threads_that_switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(*works):
    """Call each work in a thread of its own, all at once; raise what one of them raised."""
    errors, together = [], threading.Barrier(len(works))

    def run(work):
        try:
            together.wait(60)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def slow(kind):
    """A kind of layer whose forward gives way to other threads where that may hurt."""

    def begin(self, *arguments, **options):
        forward = kind._begin(self, *arguments, **options)
        time.sleep(0.001)
        return forward

    def done(self, forward):
        time.sleep(0.001)
        kind._done(self, forward)

    return type(kind.__name__, (kind,), {"_begin": begin, "_done": done})


class SlowLock:
    """A lock that gives way to other threads wherever it ends: a call must not take it twice."""

    def __init__(self):
        self.lock = threading.RLock()

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        time.sleep(0.001)


def draws_taken(layer, case):
    """The draws that forwards took in threads, each found by its bits among those of one thread."""
    variants = [case.arguments(0 if case.follows_inputs else n) for n in range(2)]
    total, expected = THREADS * CALLS, []
    for arguments in variants:
        alone = case.make(42)
        expected.append([alone(*arguments).tobytes() for _ in range(total)])
        assert len(set(expected[-1])) == total
    results = [[] for _ in range(THREADS)]

    def work(number):
        def forwards():
            for _ in range(CALLS):
                results[number].append(layer(*variants[number % 2]).tobytes())

        return forwards

    in_threads(*map(work, range(THREADS)))
    return sorted(expected[n % 2].index(bits) for n, found in enumerate(results) for bits in found)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_threads_that_share_a_layer_get_a_draw_for_each_forward(kind):
    layer = CASES[kind].make(42)
    layer.__class__, layer._lock = slow(kind), SlowLock()
    assert draws_taken(layer, CASES[kind]) == list(range(THREADS * CALLS))
    assert layer.key == fd.Key(42, THREADS * CALLS)


def test_without_the_lock_threads_would_share_draws():
    layer = fd.Dropout(0.3, rng=42)
    layer.__class__, layer._lock = slow(fd.Dropout), contextlib.nullcontext()
    assert draws_taken(layer, CASES[fd.Dropout]) != list(range(THREADS * CALLS))


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_backward_is_that_of_one_forward_whatever_other_threads_do(kind):
    """Its shape, rate, key and input all belong to the same one, and each forward has one backward."""
    case = CASES[kind]
    layer = case.make(42)
    layer.__class__, layer._lock = slow(kind), SlowLock()
    layers = [case.make(42) for _ in range(2)]
    inputs = [case.arguments(0), tuple(x[:6] for x in case.arguments(0))]
    gradients = [np.ones_like(alone(*x)) for alone, x in zip(layers, inputs, strict=True)]
    expected = [set(), set()]
    for n, alone in enumerate(layers):
        alone.key = fd.Key(42)
        for _ in range(2 * CALLS + 1):
            alone(*inputs[n])
            expected[n].add(np.asarray(alone.backward(gradients[n])).tobytes())  # zoneout has two
    done = []

    def forwards(n):
        return lambda: [layer(*inputs[n]) for _ in range(CALLS)]

    def backwards(tries=4 * CALLS):
        for n in [0, 1] * tries:
            with contextlib.suppress(RuntimeError):  # there may be none yet
                try:
                    dx = layer.backward(gradients[n])
                except ValueError as error:
                    if "last forward's shape" not in str(error):
                        raise
                else:
                    assert case.follows_inputs or np.asarray(dx).tobytes() in expected[n]
                    done.append(n)

    in_threads(forwards(0), forwards(1), backwards)
    backwards(2 * CALLS)
    assert sorted(done) == [0] * CALLS + [1] * CALLS


def test_keys_and_states_are_never_torn():
    layer = fd.TemporalDropout(0.5, rng=fd.Key(1, 1))
    step, readers = np.ones((2, 3), np.float32), ["one", "other"]
    fd.dropout(step, 0.5, 1)  # compiles, which takes longer than all the reads

    def sets():
        while readers:
            layer.key = fd.Key(len(readers), len(readers))

    def forwards():
        while readers:
            with layer._lock:
                layer.reset_state()
                layer(step)
                layer.key = fd.Key(layer._sequence.draw, layer._sequence.draw)
                layer.reset_state()

    def reads():
        try:
            for _ in range(25):
                key, state = layer.key, layer.state_dict()
                assert key.seed == key.draw
                assert state["seed"] == state["draw"]
                assert state["sequence"] is None
                for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
                    assert other.key.seed == other.key.draw
        finally:
            readers.pop()

    in_threads(sets, forwards, reads, reads)


def test_schedules_advance_by_each_step():
    layer = fd.Dropout(fd.schedules.Linear(1.0, steps=4000), rng=1)
    in_threads(*[lambda: [layer.step() for _ in range(500)]] * 4)
    assert layer.p == 0.5


def test_copies_have_locks_of_their_own():
    layer = fd.Dropout(0.5, rng=1)
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with layer._lock:
            in_threads(lambda other=other: other(np.ones(3)))


def test_an_interrupted_forward_leaves_the_lock():
    class Interrupted(fd.Dropout):
        def _drop(self, x, forward, out):
            raise KeyboardInterrupt

    layer = Interrupted(0.5, rng=1)
    with pytest.raises(KeyboardInterrupt):
        layer(np.ones(3))
    assert layer.key == fd.Key(1)
    in_threads(lambda: layer.state_dict())


FORKS = """
import os, signal, sys, threading, numpy as np, fastdrop as fd
layer, x, ends = fd.Dropout(0.3, rng=1), np.ones(2**16, np.float32), threading.Event()
def work():
    while not ends.is_set():
        layer(x)
worker = threading.Thread(target=work)
worker.start()
survived = 0
for _ in range(20):
    child = os.fork()
    if not child:
        signal.alarm(100)  # ends a child that waits for a lock that nobody leaves
        layer.key = fd.Key(7)
        os._exit(0 if layer(x).tobytes() == fd.dropout(x, 0.3, fd.Key(7)).tobytes() else 1)
    survived += os.waitpid(child, 0)[1] == 0
ends.set()
worker.join()
print(survived)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_forked_within_a_forward_or_the_first_import_can_use_the_layer():
    # Python 3.12 and later warn of forks while there are threads, which this is about
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr, done.returncode) == ("20\n", "", 0)
