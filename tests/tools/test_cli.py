"""The command line, at its smallest sizes."""

import datetime
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import fastdrop as fd
from fastdrop._tools import bench
from fastdrop._tools.cli import main

QUICK = ["--sizes", "64", "2^10", "--rates", "0.5", "--rounds", "1"]


def test_bench_prints_a_table(capsys):
    main(["bench", *QUICK])
    shown = capsys.readouterr().out
    assert "np.multiply" in shown
    assert "1,024" in shown
    assert "medians of 1 turns" in shown


def test_bench_json_has_every_contender_size_and_rate(capsys):
    before = fd.get_num_threads()
    main(["bench", *QUICK, "--threads", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = found["results"]
    assert {(row["contender"], row["size"]) for row in rows} == {
        (name, size) for name in bench.CONTENDERS for size in (64, 1024)
    }
    assert all(row["threads"] == 1 and row["p"] == 0.5 and row["ns_per_element"] > 0 for row in rows)
    assert all(row["ratio"] == 1 for row in rows if row["contender"] == bench.BASELINE)
    assert found["machine"]["stream"] == 1
    assert found["rounds"] == 1
    assert found["load"] is None or found["load"] >= 0
    assert datetime.date.fromisoformat(found["date"]) <= datetime.date.today()
    assert fd.get_num_threads() == before


def test_bench_of_chosen_contenders(capsys):
    names = ["best NumPy idiom", "fastdrop"]
    main(["bench", *QUICK, "--contenders", *names, "--first-call", "--json"])
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["contender"] for row in rows] == names * 2
    assert all(row["ratio"] == 1 for row in rows if row["contender"] == names[0])


def test_bench_of_several_numbers_of_threads(capsys):
    one = ["bench", *QUICK, "--threads", "1", "2", "--contenders", "fastdrop"]
    main([*one, "--json"])
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [(row["threads"], row["size"]) for row in rows] == [(1, 64), (1, 1024), (2, 64), (2, 1024)]
    main(one)
    shown = capsys.readouterr().out
    assert shown.index("p = 0.5, 1 threads") < shown.index("p = 0.5, 2 threads")


@pytest.mark.parametrize(("seconds", "calls"), [(0, 1 + bench.FEWEST_ROUNDS), (1000, 1 + 8)])
def test_rounds_end_with_their_time(seconds, calls):
    called = []
    bench.seconds_in_turns({"it": lambda: called.append(1)}, 8, warm=False, seconds=seconds)
    assert len(called) == calls


@pytest.mark.parametrize("name", bench.CONTENDERS)
def test_every_contender_does_what_it_says(name):
    """A benchmark of something else would flatter someone."""
    x, y = np.full(10_000, 3, np.float32), np.zeros(10_000, np.float32)
    returned = bench.CONTENDERS[name](x, y, 0.5, 1)()
    got = y if y.any() else np.asarray(returned)
    expected = {"np.copyto": {3.0}, "np.multiply(out=)": {6.0}}.get(name, {0.0, 6.0})
    assert {float(v) for v in np.unique(got)} == expected
    if 0.0 in expected:
        assert abs((got == 0).mean() - 0.5) < 0.03


def test_peers_are_there_when_installed():
    for module, name in {"torch": "PyTorch eager", "jax": "JAX jitted"}.items():
        assert (name in bench.CONTENDERS) == (importlib.util.find_spec(module) is not None)


def test_info(capsys):
    main(["info"])
    text = capsys.readouterr().out
    assert "stream" in text
    main(["info", "--json"])
    machine = json.loads(capsys.readouterr().out)
    assert machine["fastdrop"] == fd.__version__
    assert machine["numpy"] == np.__version__
    assert machine["threads"] == fd.get_num_threads()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bench", "--sizes", "0"],
        ["bench", "--rates", "1"],
        ["bench", "--rounds", "x"],
        ["bench", "--contenders", "x"],
        ["no"],
    ],
)
def test_bad_arguments_end_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "usage: python -m fastdrop" in capsys.readouterr().err


def test_bench_without_rich_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(SystemExit):
        main(["bench", *QUICK])
    hint = "needs rich; use pip install '.[bench]' in a checkout of fastdrop, or --json"
    assert hint in capsys.readouterr().err


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "fastdrop", "info"], capture_output=True, text=True, check=True
    )
    assert fd.__version__ in done.stdout
