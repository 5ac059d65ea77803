"""Calls in company: of many threads, of forks and other processes, and of others' parallel loops.

``FASTDROP_SECONDS=60 python -m pytest -s tests/kernels/test_company.py`` does for a minute what takes seconds
here.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import fastdrop as fd

pytestmark = pytest.mark.timeout(600)  # what hangs here hangs for ever
SECONDS = float(os.environ.get("FASTDROP_SECONDS", "1"))
KEY = fd.Key(42)
SMALL = np.random.default_rng(0).standard_normal((64, 65)).astype(np.float32)
BIG = np.ones((1 << 23) + 5, np.float32)  # of which threads share each call
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

CALLS = {
    "dropout": lambda: fd.dropout(SMALL, 0.3, KEY),
    "dropout of a strided array": lambda: fd.dropout(SMALL[:, ::2], 0.1, KEY),
    "dropout of float16": lambda: fd.dropout(SMALL.astype(np.float16), 0.5, KEY),
    "dropout by feature": lambda: fd.dropout(SMALL, np.linspace(0, 1, 65), KEY),
    "shared draws": lambda: fd.dropout(SMALL, 0.3, KEY, shared_axes=0),
    "a big array": lambda: fd.dropout(BIG, 0.3, KEY)[-1000:],
    "Gaussian": lambda: fd.gaussian_dropout(SMALL, 0.3, KEY),
    "alpha": lambda: fd.alpha_dropout(SMALL, 0.3, KEY),
    "add": lambda: fd.dropout_add(SMALL, SMALL, 0.3, KEY),
    "fused": lambda: fd.bias_act_dropout(SMALL, SMALL[0], 0.3, KEY),
    "concrete": lambda: fd.concrete_dropout(SMALL, -1.0, KEY),
    "mask": lambda: fd.keep_mask(5000, 0.3, KEY, packed=True),
    "layer": lambda: fd.Dropout(0.3, rng=7)(SMALL),
    "Gaussian layer": lambda: fd.GaussianNoise(0.3, rng=7)(SMALL),
}


@pytest.mark.usefixtures("threads_set_back")
def test_sixteen_threads_get_the_bits_of_one():
    """While yet another sets the number of threads."""
    fd.set_num_threads(1)
    expected = {name: call().tobytes() for name, call in CALLS.items()}
    end, counts, wrong = time.monotonic() + SECONDS, [], []

    def work(turn):
        names, count = list(CALLS), 0
        while time.monotonic() < end:
            name = names[(turn + count) % len(names)]
            if CALLS[name]().tobytes() != expected[name]:
                wrong.append(name)
            count += 1
        counts.append(count)

    workers = [threading.Thread(target=work, args=(turn,)) for turn in range(16)]
    for worker in workers:
        worker.start()
    while time.monotonic() < end:
        fd.set_num_threads(1 + len(counts) % 2 + int(time.monotonic() * 1000) % 4)
        time.sleep(0.001)
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert not wrong
    assert len(counts) == 16
    assert min(counts) > 0
    print(f"{sum(counts)} calls from 16 threads")


def run(script, *arguments, **environment):
    """A process of its own: what else is loaded here may mind a fork."""
    # Python 3.12 and later warn of forks while there are threads, which some of these are about
    ignored = "ignore:This process:DeprecationWarning"
    done = subprocess.run(
        [sys.executable, "-W", ignored, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=300 + SECONDS,
        env=os.environ | environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


FORKS_IN_FLIGHT = """
import os, signal, sys, threading, time, numpy as np, fastdrop as fd
fd.set_num_threads(3)
x = np.ones(2**23 + 5, np.float32)
expected = fd.dropout(x, 0.25, 7)[-1000:].tobytes()  # the threads now run
ends = threading.Event()
def work():
    while not ends.is_set():
        assert fd.dropout(x, 0.25, 7)[-1000:].tobytes() == expected
        fd.gaussian_noise(x[:2**20], 0.5, 7)
workers = [threading.Thread(target=work) for _ in range(2)]
[worker.start() for worker in workers]
survived = forks = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end or not forks:
    child = os.fork()
    if not child:
        signal.alarm(100)  # ends a child that hangs
        os._exit(0 if fd.dropout(x, 0.25, 7)[-1000:].tobytes() == expected else 1)
    forks += 1
    survived += os.waitpid(child, 0)[1] == 0
ends.set()
[worker.join() for worker in workers]
print(forks - survived, "of", forks, "lost")
"""


@needs_fork
def test_children_forked_while_calls_are_in_flight_get_the_same_bits():
    shown = run(FORKS_IN_FLIGHT, str(SECONDS))
    print(shown)
    assert shown.startswith("0 of ")


HELD = """
import os, signal, sys, threading, numba.core.compiler_lock, fastdrop
from llvmlite.binding import ffi
lock, taken = eval(sys.argv[1]), threading.Event()
def hold():
    with lock:
        taken.set()
        threading.Event().wait(0.3)
threading.Thread(target=hold).start()
taken.wait()
child = os.fork()
if not child:
    signal.alarm(20)  # ends a child that waits for a thread which isn't there
    with lock:
        os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@needs_fork
@pytest.mark.parametrize("lock", ["numba.core.compiler_lock.global_compiler_lock", "ffi.lib._lock"])
def test_a_fork_waits_for_threads_that_compile_or_free_what_they_compiled(lock):
    assert run(HELD, lock) == "0\n"


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_of_every_kind_give_the_same_bits(method):
    script = f"""
import multiprocessing, numpy as np, fastdrop as fd
if __name__ == "__main__":
    fd.set_num_threads(2)
    x = np.ones(2**22 + 5, np.float32)
    expected = [fd.dropout(x, 0.1, key)[-9:].tobytes() for key in range(4)]
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        found = [y[-9:].tobytes() for y in pool.starmap(fd.dropout, [(x, 0.1, key) for key in range(4)])]
        layer = fd.Dropout(0.1, rng=3)
        assert pool.apply(layer.forward, (x[:9],)).tobytes() == layer(x[:9]).tobytes()
        pool.close()
        pool.join()
    assert found == expected
"""
    run(script)


DATA_LOADER = """
import sys, torch, numpy as np, fastdrop as fd
class Noisy(torch.utils.data.Dataset):
    drop = fd.Dropout(0.5, rng=1)
    def __len__(self):
        return 8
    def __getitem__(self, index):
        x = np.ones(2**22 if index == 0 else 1000, np.float32)
        return torch.from_numpy(fd.dropout(x, 0.1, fd.Key(3).fold_in(index))[-1000:])
data = Noisy()
fd.dropout(np.ones(2**23, np.float32), 0.1, 1)  # the threads now run
def epoch(workers):
    return torch.cat(list(torch.utils.data.DataLoader(data, batch_size=2, num_workers=workers)))
assert torch.equal(epoch(0), epoch(2))
"""


def test_a_data_loader_of_torch():
    pytest.importorskip("torch")
    run(DATA_LOADER)


PARALLEL_LOOPS = """
import os, threading, numpy as np, numba, fastdrop as fd
x = np.ones(2**22 + 5, np.float32)
expected = fd.dropout(x, 0.25, 7)[-1000:].copy()
fd.set_num_threads(2)

def drop(turn):
    return fd.dropout(x if turn % 4 == 0 else x[-3000:], 0.25, 7)[-1000:]

@numba.njit(parallel=True)
def inside(found):
    for turn in numba.prange(8):
        with numba.objmode(y="float32[::1]"):
            y = drop(turn)
        found[turn] = y[-1000:]

@numba.njit(parallel=True)
def beside(a):
    total = 0.0
    for i in numba.prange(a.size):
        total += np.sqrt(a[i])
    return total

found = np.zeros((8, 1000), np.float32)
inside(found)
assert (found[::4] == expected).all()
for turn in range(1, 8):
    assert turn % 4 == 0 or (found[turn] == fd.dropout(x[-3000:], 0.25, 7)[-1000:]).all()
wrong = []
def work():
    for _ in range(10):
        wrong.append((fd.dropout(x, 0.25, 7)[-1000:] != expected).any())
workers = [threading.Thread(target=work) for _ in range(3)]
[worker.start() for worker in workers]
for _ in range(20):
    beside(x)
[worker.join() for worker in workers]
assert len(wrong) == 30 and not any(wrong)
child = os.fork()  # the parallel loops would end it or hang in it, our threads don't
if not child:
    os._exit(int((fd.dropout(x, 0.25, 7)[-1000:] != expected).any()))
assert os.waitpid(child, 0)[1] == 0
print(numba.threading_layer())
"""


POOLS = {"omp": "omppool", "workqueue": "workqueue", "tbb": "tbbpool"}
LIBRARIES = os.pathsep.join([f"{sys.prefix}/lib", *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


@needs_fork
@pytest.mark.parametrize(
    "layer", [name if name == "workqueue" else pytest.param(name, marks=pytest.mark.slow) for name in POOLS]
)
def test_parallel_loops_of_numba_around_and_beside(layer):
    settings = {"NUMBA_THREADING_LAYER": layer, "LD_LIBRARY_PATH": LIBRARIES}  # where pip puts that of tbb
    load = [sys.executable, "-c", f"import numba.np.ufunc.{POOLS[layer]}"]
    if subprocess.run(load, capture_output=True, timeout=300, env=os.environ | settings).returncode:
        pytest.skip(f"Numba can't load {layer}")
    assert run(PARALLEL_LOOPS, **settings) == f"{layer}\n"


JOBLIB = """
import sys, joblib, numpy as np, fastdrop as fd
x = np.ones(2**22 + 5, np.float32)
expected = [fd.dropout(x, 0.1, key)[-99:].tobytes() for key in range(6)]
for backend in ("loky", "threading"):
    calls = (joblib.delayed(fd.dropout)(x, 0.1, key) for key in range(6))
    found = joblib.Parallel(n_jobs=2, backend=backend)(calls)
    assert [y[-99:].tobytes() for y in found] == expected
"""


@needs_fork
def test_workers_of_joblib():
    pytest.importorskip("joblib")
    run(JOBLIB)


DASK = """
import dask, numpy as np, fastdrop as fd
from distributed import Client
def last(key):
    return fd.dropout(np.ones(2**22 + 5, np.float32), 0.1, key)[-99:].tobytes()
if __name__ == "__main__":
    expected = tuple(map(last, range(6)))
    calls = [dask.delayed(last)(key) for key in range(6)]
    with Client(n_workers=2, threads_per_worker=2, dashboard_address=None) as client:
        for scheduler in ("threads", "processes", client):
            assert dask.compute(*calls, scheduler=scheduler) == expected
"""


@pytest.mark.slow
def test_workers_of_dask():
    pytest.importorskip("distributed")
    run(DASK)


INTERRUPTED = """
import _thread, signal, threading, time, numpy as np, fastdrop as fd
fd.set_num_threads(3)
x = np.ones(2**24, np.float32)
y = np.zeros_like(x)
layer = fd.Dropout(0.1, rng=1)
layer(x, out=y)
interrupts = 0
for wait in np.linspace(0.001, 0.06, 10):
    before = layer.key
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, wait)
        while True:
            before = layer.key
            layer(x, out=y)
    except KeyboardInterrupt:
        interrupts += 1
    assert layer.key in (before, before.next())
    y.fill(7)  # nothing may go on writing
    time.sleep(0.01)
    assert (y == 7).all()
    assert layer(x, out=y).tobytes() == fd.dropout(x, 0.1, fd.Key(1, layer.key.draw - 1)).tobytes()
    assert layer.backward(x).tobytes() == y.tobytes()
print(interrupts)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs an interval timer")
def test_interrupts_during_long_calls():
    assert run(INTERRUPTED) == "10\n"


EXITS = """
import sys, threading, time, numpy as np, fastdrop as fd
fd.set_num_threads(4)
layer, x = fd.Dropout(0.1, rng=1), np.ones(2**23, np.float32)
layer(x)
def work():
    while True:
        fd.gaussian_noise(x, 0.5, 1)
        layer(x)
for _ in range(6):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "threading.Thread(target=lambda: layer(x)).start()"])
def test_the_interpreter_ends_while_calls_are_in_flight(end):
    assert run(EXITS.format(end=end)) == ""
