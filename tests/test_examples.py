"""The demo: its network, its copy of the tutorial's dropout, and the program at its smallest size."""

import importlib.util
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

PROGRAM = Path(__file__).parents[1] / "examples" / "simple_network.py"
KEY = fd.Key(7)


@pytest.fixture(scope="module")
def demo():
    pytest.importorskip("mlxtend")
    spec = importlib.util.spec_from_file_location("simple_network", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def network(demo):
    drops = [fd.Dropout(p, rng=KEY.fold_in(n)) for n, p in enumerate(demo.RATES)]
    return demo.Network((6, 8, 3), drops, np.random.default_rng(1), np.float64)


@pytest.fixture
def batch():
    rng = np.random.default_rng(2)
    return rng.normal(size=(5, 6)), rng.integers(3, size=5)


def loss_and_gradients(network, batch):
    for number, drop in enumerate(network.drops):
        drop.key = KEY.fold_in(number)  # the same masks in every evaluation
    return network.loss_and_gradients(*batch)


def central_differences(network, batch, w, step=1e-6):
    differences = np.empty_like(w)
    for place in np.ndindex(w.shape):
        value = w[place]
        ends = []
        for w[place] in (value + step, value - step):
            ends.append(loss_and_gradients(network, batch)[0])
        differences[place] = (ends[0] - ends[1]) / (2 * step)
        w[place] = value
    return differences


def test_gradients_are_central_differences(network, batch):
    _, gradients = loss_and_gradients(network, batch)
    for w, g in zip(network.parameters, gradients, strict=True):
        assert np.abs(g).max() > 1e-3  # the test would see a missing gradient
        np.testing.assert_allclose(g, central_differences(network, batch, w), rtol=1e-6, atol=1e-9)


def test_dropout_is_off_in_evaluation(network, batch):
    first, second = (network.forward(batch[0], training=False)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    network.accuracy(*batch)
    assert [drop.key.draw for drop in network.drops] == [0, 0]  # no mask was drawn
    one, other = (network.forward(batch[0], training=True)[0] for _ in range(2))
    assert not np.array_equal(one, other)


def test_a_float32_network_stays_float32(demo):
    for layer in (fd.Dropout, demo.TutorialDropout):
        drops = [layer(p, rng=KEY) for p in demo.RATES]
        network = demo.Network((6, 8, 3), drops, np.random.default_rng(1))
        _, gradients = network.loss_and_gradients(np.ones((4, 6), np.float32), np.zeros(4, int))
        assert {a.dtype for a in (*network.parameters, *gradients)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("variant", ["none", "fastdrop", "NumPy"])
def test_each_variant_learns_and_repeats(demo, variant):
    data = demo.load("digits")
    run, again = (demo.train(data, variant, seed=0, hidden=64, epochs=5) for _ in range(2))
    assert run[:2] == again[:2]
    assert run.test[-1] > 90
    assert 0 < run.dropout < run.seconds


def test_tutorial_dropout(demo):
    drop = demo.TutorialDropout(0.2, rng=KEY)
    x = np.full((200, 500), 3.0)
    y = drop.forward(x)
    assert set(np.unique(y)) == {0.0, 3 / 0.8}
    # Five standard deviations of a mean of 100,000 values of variance x^2 p/q.
    assert abs(y.mean() - 3) < 5 * 3 * np.sqrt(0.25 / y.size)
    np.testing.assert_array_equal(drop.backward(x), y)  # linear with a diagonal matrix: its own adjoint
    assert drop.forward(x, training=False) is x


@pytest.mark.parametrize("data", ["digits", "both"])
def test_the_program(demo, data, tmp_path, capsys):
    png = tmp_path / "new folder" / "curves.png"
    seeds = "2" if data == "digits" else "1"
    demo.main(["--data", data, "--epochs", "1", "--seeds", seeds, "--hidden", "16", "--out", str(png)])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Learning curves: {png}" in printed
    assert printed.count("%") > 4
    assert ("mnist" in printed) == (data == "both")
    rows = [line.split() for line in printed.splitlines() if line.split()[1:2] == ["fastdrop"]]
    assert all(0 < float(row[2]) <= 100 and 0 < float(row[5]) <= 100 for row in rows)
    assert len(rows) == (2 if data == "both" else 1)


def test_a_missing_package_is_named():
    hide = "import runpy, sys; sys.modules['tqdm'] = None; runpy.run_path(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", hide, str(PROGRAM)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["the demo needs tqdm; use pip install '.[demo]'"]


def test_masks(tmp_path, capsys):
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("masks", PROGRAM.with_name("masks.py"))
    masks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(masks)
    x = masks.photograph(every=8)
    shown = masks.masked(x, 0.4, KEY)
    assert all(y.shape == x.shape for y in shown.values())
    assert len({y.tobytes() for y in shown.values()}) == 6
    png = tmp_path / "masks.png"
    masks.main(["--out", str(png)])
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Masks: {png}" in capsys.readouterr().out


def test_fused_network(capsys):
    runpy.run_path(str(PROGRAM.with_name("fused_network.py")))["main"](
        ["--width", "16", "--batch", "20", "--steps", "30", "--activation", "relu"]
    )
    printed = capsys.readouterr().out
    fused, steps = (
        next(line.split() for line in printed.splitlines() if name in line) for name in ("│ fused", "│ steps")
    )
    assert fused[3:6:2] == steps[3:6:2]
    assert float(fused[5]) < float(fused[3])
    assert "variance learned" in printed


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
