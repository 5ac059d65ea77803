"""The benchmark programs at their smallest size, so that they can't rot."""

import runpy
from pathlib import Path

import pytest

import fastdrop as fd
from fastdrop import _cpu

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("parallel_from", ["--rounds", "1", "--powers", "5"]), ("masks", ["--rounds", "1", "--small"])],
)
def test_benchmark_program(name, arguments, capsys):
    threads, parallel_from = fd.get_num_threads(), _cpu.PARALLEL_FROM
    runpy.run_path(str(FOLDER / f"{name}.py"))["main"](arguments)
    assert capsys.readouterr().out.count("\n") >= 3
    assert (fd.get_num_threads(), _cpu.PARALLEL_FROM) == (threads, parallel_from)
