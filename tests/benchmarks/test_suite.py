"""The asv suite on its smallest grid: every benchmark once in this process, and `asv check`."""

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from asv_runner.discovery import disc_benchmarks

import fastdrop as fd
from fastdrop._tools.bench import CONTENDERS

FOLDER = Path(__file__).parents[2] / "benchmarks"
ONCE = {"number": 1, "repeat": 1, "rounds": 1, "warmup_time": 0}
NOT_TIMED = {  # constants, threads, keys, results, and what costs nothing by the element
    "STREAM_VERSION",
    "Key",
    "Prediction",
    "RecurrentMasks",
    "Scheduler",
    "SequenceMask",
    "get_num_threads",
    "moments",
    "schedules",
    "set_num_threads",
    "warmup",
}


@pytest.fixture(scope="module")
def suite():
    """The suite's benchmarks, each with the points of its grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTDROP_GRID", "smallest")
        patch.syspath_prepend(str(FOLDER))
        yield [(b, list(product(*b._params))) for b in disc_benchmarks("suite")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "suite"]:
        del sys.modules[name]


def run_once(benchmark, index):
    """What one call gives, or None where it was skipped."""
    if benchmark._params:
        benchmark.set_param_idx(index)
    benchmark._attr_sources.insert(0, type("Once", (), ONCE))
    try:
        return None if benchmark.do_setup() else benchmark.do_run()
    finally:
        benchmark.do_teardown()


def missing(name, point):
    """Whether a benchmark may be skipped: a package isn't here, or fastdrop has no such thing yet."""
    module, case, *_ = name.split(".")
    if module == "peers":
        return point[0] not in CONTENDERS and point[0].startswith(("PyTorch", "JAX"))
    if module == "integrations":
        package = case.partition("__")[0]
        return importlib.util.find_spec(f"fastdrop.{package}") is None
    return case.partition("__")[0] not in fd.__all__


@pytest.mark.slow
def test_every_benchmark_once(suite):
    threads = fd.get_num_threads()
    failed, skipped, ran = {}, [], 0
    for benchmark, points in suite:
        for index, point in enumerate(points):
            try:
                result = run_once(benchmark, index)
            except Exception as error:
                failed[benchmark.name, point] = repr(error)
                continue
            ran += result is not None
            if result is None and not missing(benchmark.name, point):
                skipped.append((benchmark.name, point))
    fd.set_num_threads(threads)
    assert not failed
    assert not skipped
    assert ran > 300


def test_every_public_name_has_a_benchmark(suite):
    timed = {benchmark.name.split(".")[1].partition("__")[0] for benchmark, _ in suite}
    timed |= {f"{name}_backward" for name in timed}
    assert set(fd.__all__) - timed - NOT_TIMED == set()


def test_an_old_commit_without_records_has_the_benchmarks_too(suite, monkeypatch):
    names = {case.name for module in ("functions", "layers") for case in cases_of(f"suite.{module}")}
    monkeypatch.setitem(sys.modules, "fastdrop._noises._noise", None)
    for name in ("suite.cases", "suite.functions", "suite.layers", "suite.integrations"):
        monkeypatch.delitem(sys.modules, name)
    found = {case.name for module in ("functions", "layers") for case in cases_of(f"suite.{module}")}
    assert found == names
    integrations = {case.name for case in cases_of("suite.integrations")}
    assert {"torch__dropout", "torch__Dropout2d", "dask__bias_act_dropout"} <= integrations


def cases_of(module):
    """The cases that a module makes benchmarks of."""
    made = vars(importlib.import_module(module)).values()
    return [each.case for each in made if isinstance(each, type) and hasattr(each, "case")]


def test_tracked_numbers_have_units(suite):
    units = {benchmark.unit for benchmark, _ in suite if ".track_" in benchmark.name}
    assert units == {"times np.multiply", "bytes/element", "of the peer's time"}


def test_list_of_names_has_every_benchmark(suite):
    command = [sys.executable, str(FOLDER / "names.py")]
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    printed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    assert printed.split() == sorted(benchmark.name for benchmark, _ in suite)


def test_a_slow_peer_makes_a_small_share(suite, monkeypatch):
    point = "np.copyto", 1 << 10, 0.5, 1
    before = sys.modules["suite.peers"].Dropout().track_share(*point)
    monkeypatch.setitem(CONTENDERS, "np.copyto", lambda *given: lambda: time.sleep(0.01))
    assert sys.modules["suite.peers"].Dropout().track_share(*point) < 0.5 < before


def test_unknown_grid_is_refused(monkeypatch):
    monkeypatch.setenv("FASTDROP_GRID", "huge")
    spec = importlib.util.spec_from_file_location("grid", FOLDER / "suite" / "grid.py")
    with pytest.raises(ValueError, match=r"FASTDROP_GRID must be one of .*, got 'huge'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_asv_check():
    config = str(FOLDER / "asv.conf.json")
    command = [sys.executable, "-m", "asv", "--config", config, "check", "--python=same"]
    environment = os.environ | {"ASV_PYTHONPATH": str(FOLDER.parent)}  # this checkout, whatever is installed
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "No problems found" in found.stdout
