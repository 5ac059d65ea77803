"""Examples of more than one process: data-parallel training, and a data set augmented by workers."""

import hashlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = fd.Key(7)


def run_program(name, *arguments):
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_ranks_train_as_one_process_bit_for_bit():
    done = run_program("data_parallel.py", "--steps", "25")
    assert done.returncode == 0, done.stderr
    assert "same weights: True; they are those of one process: True" in done.stdout
    losses = [line.split("loss ")[1][:8] for line in done.stdout.splitlines()[:2]]
    assert float(losses[0]) < 1.5
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_ranks_with_masks_of_their_own():
    done = run_program("data_parallel.py", "--steps", "5", "--own-masks")
    assert done.returncode == 0, done.stderr
    assert "same weights: True; they are those of one process: False" in done.stdout


def test_shares_of_a_mask_and_masks_of_their_own():
    share = runpy.run_path(str(EXAMPLES / "data_parallel.py"))["Share"]
    x = np.ones((64, 3))
    one, other = (share(rank, 2, own_masks=True).drop(x, 0.5, KEY) for rank in range(2))
    assert not np.array_equal(one, other)
    halves = [share(rank, 2).drop(x, 0.5, KEY) for rank in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), fd.dropout(np.ones((128, 3)), 0.5, KEY))


SOURCE, RESULT, SHAPE = Path("in.npy"), Path("new.npy"), (203, 37)
HOW = ["--source", str(SOURCE), "--result", str(RESULT), "--p", "0.3", "--seed", "7", "--epoch", "2"]


@pytest.fixture
def pipeline(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = example("pipeline")
    found.make_source(SOURCE, SHAPE)
    return found


def expected():
    return fd.dropout(np.load(SOURCE), 0.3, KEY.fold_in(2))


def digest(samples):
    np.save("expected.npy", samples)
    return hashlib.md5(Path("expected.npy").read_bytes()).hexdigest()


def test_the_source_is_one_array_of_normals(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "PART", 400)
    pipeline.make_source(Path("again.npy"), SHAPE)
    for name in ("again.npy", SOURCE):
        assert np.array_equal(np.load(name), fd.normal(SHAPE, fd.Key(0), dtype=np.float16))


@pytest.mark.parametrize(
    ("start", "workers", "batch", "order"),
    [("fork", 1, 203, 0), ("spawn", 2, 50, 1), pytest.param("fork", 5, 7, 2, marks=pytest.mark.slow)],
)
def test_one_digest_whatever_the_workers(start, workers, batch, order, pipeline, capsys):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {start}")
    how = ["--workers", str(workers), "--start", start, "--batch", str(batch), "--order", str(order)]
    done = run_program("pipeline.py", *HOW, *how)
    assert done.returncode == 0, done.stderr
    dropped, copied, found = done.stdout.splitlines()
    assert dropped.startswith("dropout ")
    assert copied.startswith("plain copy ")
    assert float(dropped.split()[-2]) >= 0 <= float(copied.split()[-2])
    assert found == f"md5 {digest(expected())}"
    assert "100%" in done.stderr  # the progress
    assert sorted(path.name for path in Path().glob("new*")) == ["new.done", "new.json", "new.npy"]
    pipeline.main([*HOW, "--workers", "1"])
    assert capsys.readouterr().out == f"new.npy was done already\n{found}\n"


KILLED = """
import os, signal, sys, time

sys.path.insert(0, sys.argv[1])
import pipeline

do, done, calls, victim = pipeline.Job.do, pipeline.Job.done, [], sys.argv[2]

def dying_do(job, ids):
    calls.append(ids)
    if len(calls) == 4 and victim == "program":
        os.kill(os.getppid(), signal.SIGKILL)
    if len(calls) >= 4:
        time.sleep(0.2)
    do(job, ids)

def dying_done(job):  # before a batch is marked
    if len(calls) == 4 and victim == "workers":
        os.kill(os.getpid(), signal.SIGKILL)
    return done(job)

pipeline.Job.do, pipeline.Job.done = dying_do, dying_done
pipeline.main(sys.argv[3:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
@pytest.mark.parametrize("workers", ["1", pytest.param("3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("victim", ["program", "workers"])
def test_a_killed_pipeline_goes_on(victim, workers, pipeline):
    options = [*HOW, "--workers", "2", "--start", "fork", "--batch", "9"]
    command = [sys.executable, "-c", KILLED, str(EXAMPLES), victim, *options]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)  # until the workers end
    assert killed.returncode == (1 if victim == "workers" else -signal.SIGKILL)
    assert ("a worker has failed" in killed.stderr) == (victim == "workers")
    job = pipeline.Job(SOURCE, RESULT, 0.3, KEY.fold_in(2))
    done = job.start()
    assert 0 < done.sum() < len(done)  # a worker that has lost its program has stopped
    result = np.load(RESULT, mmap_mode="r+")
    assert np.array_equal(result[done], expected()[done])
    result[~done] = np.nan  # what is not marked may be anything
    first = np.flatnonzero(done)[0]
    result[first] = 7

    again = run_program("pipeline.py", *HOW, "--workers", workers, "--start", "fork", "--batch", "20")
    assert again.returncode == 0, again.stderr
    assert (result[first] == 7).all()  # nothing is done twice
    result[first] = expected()[first]
    assert digest(result) == digest(expected()) == job.digest()


def test_the_pipeline_begins_again_where_something_has_changed(pipeline):
    job = pipeline.Job(SOURCE, RESULT, 0.3, KEY)
    for changed in (
        job,
        job._replace(p=0.2),
        job._replace(key=KEY.fold_in(1)),
        job._replace(key=None),
        job._replace(result=Path("other.npy")),
        "source",
        "result",
    ):
        job.start()[:] = True
        assert job.start().all()
        if changed == "source":
            os.utime(SOURCE, ns=(1, 1))
        elif changed == "result":
            RESULT.unlink()
        again = (job if isinstance(changed, str) else changed).start()
        assert again.shape == SHAPE[:1]
        assert again.all() == (changed is job)
        assert again.any() == (changed is job)


def test_numbers_that_the_pipeline_refuses(pipeline, capsys):
    for option in ("--workers", "--batch", "--samples", "--features"):
        with pytest.raises(SystemExit):
            pipeline.parse([option, "0"])
        assert f"{option}: must be at least 1, got 0" in capsys.readouterr().err


def test_the_pipeline_on_dask_s_cluster_and_in_xarray(pipeline):
    pytest.importorskip("distributed")
    pytest.importorskip("xarray")
    job = pipeline.Job(SOURCE, RESULT, 0.3, KEY.fold_in(2))
    job.start()
    for ids in pipeline.batches(np.arange(100), 30):  # which no task does again
        job.do(ids)
    result = np.load(RESULT, mmap_mode="r+")
    result[3] = 7
    done = run_program("pipeline_dask.py", *HOW, "--workers", "2", "--batch", "25", "--order", "3")
    assert done.returncode == 0, done.stderr
    right, tampered = digest(expected()), digest(result)
    assert done.stdout.splitlines() == [
        f"tasks   md5 {tampered}",
        f"array   md5 {right}",
        f"xarray  md5 {right}",
    ]
    result[3] = expected()[3]
    assert digest(result) == right
