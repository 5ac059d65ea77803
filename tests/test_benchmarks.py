"""The benchmark programs at their smallest size, so that they can't rot."""

import runpy
from pathlib import Path

import pytest

import fastdrop as fd
from fastdrop import _cpu

FOLDER = Path(__file__).parents[1] / "benchmarks"


def program(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def test_parallel_from(monkeypatch, capsys):
    threads, parallel_from = fd.get_num_threads(), _cpu.PARALLEL_FROM
    program("parallel_from", monkeypatch)["main"](["--rounds", "1", "--powers", "5"])
    assert capsys.readouterr().out.count("\n") >= 3
    assert (fd.get_num_threads(), _cpu.PARALLEL_FROM) == (threads, parallel_from)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("masks", 10),
        ("noise", 12),
        ("dropconnect", 6),
        ("monte_carlo", 2),
        ("recurrent", 6),
        ("torch_steps", 4),
    ],
)
def test_programs_of_cases(name, lines, monkeypatch, capsys):
    if name.startswith("torch"):
        pytest.importorskip("torch", reason="this program is about PyTorch")
    threads = fd.get_num_threads()
    found = program(name, monkeypatch)
    found["run"](found["PARTS"], found["__doc__"], ["--rounds", "1", "--small"])
    assert capsys.readouterr().out.count("\n") >= lines
    assert fd.get_num_threads() == threads
