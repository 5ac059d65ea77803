"""How many threads a process uses by default: what the machine and those who start it allow."""

import os
import re
import subprocess
import sys

import pytest

import fastdrop as fd
from fastdrop._cpu import threads

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
SHOW = "import fastdrop as fd; print(fd.get_num_threads())"


def shown(script, **environment):
    """What a fresh process prints, and its last line of warnings."""
    bare = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=bare | environment,
    )
    return done.stdout.strip(), done.stderr


def test_the_cores_of_the_process():
    assert shown(SHOW) == (str(CORES), "")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="sets the affinity, as Linux can")
def test_one_core_by_affinity():
    one = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {SHOW}"
    assert shown(one) == ("1", "")


@pytest.fixture
def eight(monkeypatch):
    """Where nobody has asked for the number yet, and the machine has eight cores, more than the limits."""
    monkeypatch.setattr(threads, "_count", None)
    monkeypatch.setattr(threads, "_cores", lambda: 8)
    for name in list(os.environ):
        if name.endswith("_NUM_THREADS"):
            monkeypatch.delenv(name)
    return monkeypatch.setenv


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"NUMBA_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "5", "NUMBA_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "4"}, 3),
        ({"OMP_NUM_THREADS": " 4 , 2"}, 4),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": ""}, 8),
    ],
)
def test_the_least_of_all(environment, expected, eight):
    for name, value in environment.items():
        eight(name, value)
    assert fd.get_num_threads() == expected


@pytest.mark.parametrize("value", ["0", "-1", "four", "1.5", ",2", "2;3"])
def test_a_bad_value_is_ignored_with_a_warning(value, eight):
    eight("OMP_NUM_THREADS", value)
    message = f"OMP_NUM_THREADS must begin with an integer that is at least 1, got {value!r}"
    with pytest.warns(RuntimeWarning, match=re.escape(message)) as warned:
        assert [fd.get_num_threads() for _ in range(2)] == [8, 8]
    assert len(warned) == 1


def test_nothing_is_read_at_the_import_and_what_is_set_counts():
    script = "import os, fastdrop as fd; os.environ['OMP_NUM_THREADS'] = '1'; print(fd.get_num_threads());"
    assert shown(script) == ("1", "")
    assert shown(f"import fastdrop as fd; fd.set_num_threads(3); {SHOW}", OMP_NUM_THREADS="1") == ("3", "")


WORKERS = """
import threading
from joblib import Parallel, delayed

def work(n):
    import fastdrop as fd
    import numpy as np
    fd.dropout(np.ones(1 << 20), 0.1, n)  # a big call
    return fd.get_num_threads(), sum(thread.name == "fastdrop" for thread in threading.enumerate())

print(sorted(set(Parallel(n_jobs={count})(delayed(work)(n) for n in range({count})))))
"""


def test_joblib_s_workers_share_the_cores():
    """Two workers on two cores start no threads beside their own, nor half as many workers as cores."""
    pytest.importorskip("joblib")
    count = max(2, os.cpu_count() // 2)
    each = max(1, os.cpu_count() // count)
    assert shown(WORKERS.format(count=count))[0] == str([(each, each - 1)])


def test_a_worker_of_a_dask_cluster_has_one_thread():
    pytest.importorskip("distributed")
    script = """
from distributed import Client, LocalCluster

def count():
    import fastdrop as fd
    return fd.get_num_threads()

if __name__ == "__main__":
    with LocalCluster(1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        print(client.submit(count).result())
"""
    assert shown(script)[0] == "1"
