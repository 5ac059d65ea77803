"""The command line, at its smallest sizes."""

import datetime
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd
from fastdrop._tools import bench
from fastdrop._tools.cli import main
from fastdrop._tools.progress import progress

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
    project = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(project)["project"]["optional-dependencies"]
    needed = [each for name in ("torch", "dask", "autograd", "cuda") for each in extras[name]]
    assert {re.match(r"[\w-]+", each)[0].replace("_", "-") for each in needed} - {"numpy"} <= set(machine)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bench", "--sizes", "0"],
        ["bench", "--rates", "1"],
        ["bench", "--rates", "abc"],
        ["stream", "--seed", "-1"],
        ["stream", "--draw", "-1"],
        ["stream", "--p", "1e-12"],
        ["stream", "--p", "0.9999999999999"],
        ["bench", "--rounds", "x"],
        ["bench", "--contenders", "x"],
        ["warmup", "dropuot"],
        ["warmup", "--dtype", "int64x"],
        ["warmup", "--dtype", "float32", "dropout"],
        ["warmup", "--processes", "0"],
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


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fastdrop {fd.__version__}, stream version {fd.STREAM_VERSION}\n"


def test_bench_says_which_sizes_it_takes(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "(default: 2^10 2^16 2^18 2^22 2^25)" in " ".join(capsys.readouterr().out.split())


def test_bench_says_what_a_size_is(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--sizes", "big"])
    assert "must be a whole number such as 65536 or 2^16, got big" in capsys.readouterr().err


def test_a_rate_of_the_command_line_is_a_number(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--rates", "abc"])
    assert "must be a number in [0, 1), got abc" in capsys.readouterr().err


def test_stream_refuses_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SystemExit) as ended:
        main(["stream"])
    assert ended.value.code == 2
    assert "the bytes would go to the terminal; write them to a file or a pipe" in capsys.readouterr().err


COMMANDS = [["info"], ["bench", *QUICK, "--json", "--contenders", "np.copyto"], ["stream"]]


def command(arguments, output):
    line = [sys.executable, "-m", "fastdrop", *arguments]
    return subprocess.Popen(line, stdout=output, stderr=subprocess.PIPE)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_closed_pipe_ends_a_command_quietly(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with command(arguments, writer) as process:
        os.close(writer)
        assert process.wait(300) == 0
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_full_disk_ends_a_command_with_a_message(arguments):
    with open("/dev/full", "wb") as full, command(arguments, full) as process:
        assert process.wait(300) == 1
        assert process.stderr.read() == b"python -m fastdrop: error: No space left on device\n"


def test_warmup_compiles_what_is_named_and_is_quiet_when_piped(capsys):
    main(["warmup", "gaussian_noise", "keep_mask", "--dtype", "float32", "--processes", "1"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rich", [True, False])
def test_progress_on_a_terminal(rich, monkeypatch, capsys):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("compiling", 2) as step:
        step("dropout")
        step("zoneout")
    shown = capsys.readouterr().err
    if rich:
        assert "2/2" in shown
    else:
        assert shown == "compiling: 1 of 2, dropout\ncompiling: 2 of 2, zoneout\n"


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "fastdrop", "info"], capture_output=True, text=True, check=True
    )
    assert fd.__version__ in done.stdout
