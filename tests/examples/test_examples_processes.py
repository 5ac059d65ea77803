"""Examples of more than one process: data-parallel training, and a stream that is killed."""

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd

PROGRAM = Path(__file__).parents[2] / "examples" / "pipeline.py"
KEY = fd.Key(7)


def run_program(name, *arguments):
    command = [sys.executable, "-W", "error", str(PROGRAM.with_name(name)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_ranks_train_as_one_process_bit_for_bit():
    done = run_program("data_parallel.py", "--steps", "25")
    assert done.returncode == 0, done.stderr
    assert "same weights: True; they are those of one process: True" in done.stdout
    losses = [line.split("loss ")[1][:8] for line in done.stdout.splitlines()[:2]]
    assert float(losses[0]) < 1.5
    assert losses[0] == losses[1]


def test_ranks_with_masks_of_their_own():
    done = run_program("data_parallel.py", "--steps", "5", "--own-masks")
    assert done.returncode == 0, done.stderr
    assert "same weights: True; they are those of one process: False" in done.stdout
    share = runpy.run_path(str(PROGRAM.with_name("data_parallel.py")))["Share"]
    x = np.ones((64, 3))
    one, other = (share(rank, 2, own_masks=True).drop(x, 0.5, KEY) for rank in range(2))
    assert not np.array_equal(one, other)
    halves = [share(rank, 2).drop(x, 0.5, KEY) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), fd.dropout(np.ones((128, 3)), 0.5, KEY))


STREAM = ["--source", "in.f32", "--result", "new.f32", "--elements", "200003", "--budget", "0.5"]


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(PROGRAM.with_name("pipeline.py")))


def test_the_pipeline(pipeline, capsys):
    threads = fd.get_num_threads()
    pipeline["main"]([*STREAM, "--threads", "2", "--check"])
    printed = capsys.readouterr().out
    rates = dict(line.rsplit(maxsplit=2)[:2] for line in printed.splitlines() if line.endswith("GB/s"))
    assert rates.keys() == {"dropout", "np.copyto", "plain write", "plain read"}
    assert "same bits as one call: True\nsame bits as dask: True" in printed
    x, y = (np.fromfile(name, np.float32) for name in ("in.f32", "new.f32"))
    np.testing.assert_array_equal(x, fd.normal(200003, fd.Key(0), dtype=np.float32))
    np.testing.assert_array_equal(y, fd.dropout(x, 0.1, fd.Key(0)))
    assert sorted(path.name for path in Path().iterdir()) == ["in.f32", "new.f32", "new.json"]
    assert fd.get_num_threads() == threads
    pipeline["main"]([*STREAM, "--threads", "2"])
    assert capsys.readouterr().out == "new.f32 was done already\n"


def test_the_pipelines_check_sees_one_wrong_bit(pipeline, capsys):
    pipeline["main"]([*STREAM, "--threads", "1"])
    y = np.memmap("new.f32", np.uint32, "r+")
    y[123456] ^= 1
    y.flush()
    pipeline["main"]([*STREAM, "--threads", "1", "--check"])
    assert "same bits as one call: False\nsame bits as dask: False" in capsys.readouterr().out


def test_the_pipelines_chunks_fit_its_budget(pipeline, capsys):
    for budget, threads in ((0.125, 1), (0.3, 2), (1.0, 4), (100.0, 3)):
        options = pipeline["parse"](["--budget", str(budget), "--threads", str(threads)])
        held = 2 * 4 * threads * pipeline["step"](options)
        assert budget / 2 <= held / 2**20 <= budget
    with pytest.raises(SystemExit):
        pipeline["main"]([*STREAM, "--threads", "5"])
    assert "--budget must be at least 0.625 for 5 threads, got 0.5" in capsys.readouterr().err


KILLED = """
import os, runpy, signal, sys
from pathlib import Path

when, calls, program = sys.argv[1], [], runpy.run_path(sys.argv[2])
replace, drop = Path.replace, program["Job"].drop

def die(now):
    if now == when and len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

def dying_replace(new, path):
    if path.suffix == ".json" and when != "within":
        calls.append(path)
    die("before")
    replace(new, path)
    die("after")

def dying_drop(job, number, x, y):
    if when == "within":
        calls.append(number)
    drop(job, number, x[:1000], y[:1000])
    die("within")
    drop(job, number, x, y)

Path.replace, program["Job"].drop = dying_replace, dying_drop
program["main"](sys.argv[3:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
@pytest.mark.parametrize(("when", "recorded"), [("before", [2]), ("after", [3]), ("within", [0, 1, 2])])
def test_a_killed_pipeline_goes_on(when, recorded, pipeline, monkeypatch):
    options = [*STREAM, "--budget", "0.25", "--threads", "2"]
    command = [sys.executable, "-c", KILLED, when, str(PROGRAM.with_name("pipeline.py")), *options]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    record = Path("new.json")
    done = json.loads(record.read_text())["done"] if record.exists() else []
    assert len(done) in recorded
    job = pipeline["Job"](Path("in.f32"), Path("new.f32"), 200003, 1 << 14, 0.1, fd.Key(0))
    for number in set(job.chunks()) - set(done):  # what is not recorded may be anything
        job.part(job.result, number)[:] = np.nan

    again = []
    drop = pipeline["Job"].drop
    monkeypatch.setattr(pipeline["Job"], "drop", lambda *a: (again.append(a[1]), drop(*a)))
    pipeline["main"](options)
    assert sorted([*done, *again]) == list(range(13))  # nothing twice, nothing left out
    expected = fd.dropout(np.fromfile("in.f32", np.float32), 0.1, fd.Key(0))
    np.testing.assert_array_equal(np.fromfile("new.f32", np.float32), expected)


@pytest.mark.parametrize(
    "change", [["--p", "0.2"], ["--seed", "1"], ["--budget", "0.25"], "source", "result"]
)
def test_the_pipeline_begins_again_where_something_has_changed(change, pipeline, capsys):
    options = [*STREAM, "--threads", "1"]
    pipeline["main"](options)
    if change == "source":
        x = np.memmap("in.f32", np.float32, "r+")
        x[:] = 1
        x.flush()
        os.utime("in.f32", ns=(1, 1))
    elif change == "result":
        Path("new.f32").unlink()
    else:
        options += change
    capsys.readouterr()
    pipeline["main"](options)
    assert "GB/s" in capsys.readouterr().out
    given = dict(zip(options[::2], options[1::2], strict=True))
    p, seed = float(given.get("--p", 0.1)), int(given.get("--seed", 0))
    x, y = (np.fromfile(name, np.float32) for name in ("in.f32", "new.f32"))
    np.testing.assert_array_equal(y, fd.dropout(x, p, seed))
