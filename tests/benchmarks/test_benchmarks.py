"""The benchmark programs at their smallest size, so that they can't rot."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import fastdrop as fd

FOLDER = Path(__file__).parents[2] / "benchmarks"


def program(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return runpy.run_path(str(FOLDER / f"{name}.py"))


@pytest.mark.parametrize("name", ["parallel_from", "stores"])
def test_programs_of_sizes(name, monkeypatch, capsys):
    threads = fd.get_num_threads()
    program(name, monkeypatch)["main"](["--rounds", "1", "--powers", "5"])
    assert capsys.readouterr().out.count("\n") >= 3
    assert fd.get_num_threads() == threads


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("masks", 10),
        ("listed", 14),
        ("noise", 12),
        ("drop_connect", 6),
        ("attention", 3),
        ("monte_carlo", 2),
        ("recurrent", 6),
        ("dask_big", 2),
        ("outliers", 30),
    ],
)
def test_programs_of_cases(name, lines, monkeypatch, capsys):
    threads = fd.get_num_threads()
    found = program(name, monkeypatch)
    found["run"](found["PARTS"], found["__doc__"], ["--rounds", "1", "--small"])
    assert capsys.readouterr().out.count("\n") >= lines
    assert fd.get_num_threads() == threads


@pytest.mark.slow
def test_torch_steps_also_as_plain_data(monkeypatch, capsys):
    pytest.importorskip("torch", reason="this program is about PyTorch")
    command = [sys.executable, "-W", "error", FOLDER / "torch_steps.py", "--rounds", "2", "--small"]
    printed = subprocess.run([*command, "--threads", "1", "--json"], capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    data = json.loads(printed.stdout)
    assert (data["rounds"], data["machine"]["threads"]) == (2, 1)
    cases = [row["case"] for row in data["results"]]
    assert len(cases) == len(set(cases)) == printed.stderr.count("\n")
    parts = "gpt mlp encoder bert gpt2 gpt2 attention attention calls calls memory"
    assert [row["part"] for row in data["results"]] == parts.split()
    for row in data["results"]:
        assert set(row["values"]) == {"p=0", "fastdrop", "install()", "torch.nn"}
        assert min(row["values"].values()) > 0
    found = program("torch_steps", monkeypatch)
    found["run"](found["PARTS"][1:2], None, ["--rounds", "1", "--small"])
    assert capsys.readouterr().out.count("\n") == 1
