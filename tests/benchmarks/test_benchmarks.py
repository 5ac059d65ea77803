"""The benchmark programs at their smallest size, so that they can't rot."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import workers

import fastdrop as fd

FOLDER = Path(__file__).parents[2] / "benchmarks"


def program(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def test_every_program_is_in_the_table():
    """And every part of one in the sentence below it."""
    section = re.search(
        r"^## The programs\n(.*?)^## ", (FOLDER / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )[1]
    files = {path.name: path.read_text() for path in FOLDER.glob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", section)) == set(files)
    programs = {name for name, text in files.items() if '\nif __name__ == "__main__":' in text}
    parts = section.partition("The other files are their\nparts:")[2]
    assert set(re.findall(r"`(\w+\.py)`", parts)) == set(files) - programs


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
    torch = pytest.importorskip("torch", reason="this program is about PyTorch")
    threads, found = torch.get_num_threads(), program("torch_steps", monkeypatch)
    found["run"](found["PARTS"], None, ["--rounds", "2", "--small", "--threads", "1", "--json"])
    torch.set_num_threads(threads)
    printed = capsys.readouterr()
    data = json.loads(printed.out)
    assert (data["rounds"], data["machine"]["threads"]) == (2, 1)
    cases = [row["case"] for row in data["results"]]
    assert len(cases) == len(set(cases)) == printed.err.count("\n")
    parts = "gpt mlp encoder bert gpt2 gpt2 attention attention calls calls memory"
    assert [row["part"] for row in data["results"]] == parts.split()
    for row in data["results"]:
        assert set(row["values"]) == {"p=0", "fastdrop", "install()", "torch.nn"}
        assert min(row["values"].values()) > 0
    found["run"](found["PARTS"][1:2], None, ["--rounds", "1", "--small"])
    torch.set_num_threads(threads)
    assert capsys.readouterr().out.count("\n") == 1
    subprocess.run([sys.executable, "-W", "error", FOLDER / "torch_steps.py", "--help"], check=True)


def test_parts_apart_have_a_process_each(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    common = importlib.import_module("common")
    common.run([workers.part_of_a_benchmark] * 2, None, ["--threads", "1", "--json"], apart=True)
    data = json.loads(capsys.readouterr().out)
    found = [row["values"] for row in data["results"]]
    assert len({values["process"] for values in found} | {os.getpid()}) == 3
    assert [values["threads"] for values in found] == [1, 1]
