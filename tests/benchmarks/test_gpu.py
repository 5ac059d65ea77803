"""The programs about GPUs, on a machine without one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from device_arrays import Driver, stand_in

from fastdrop._arrays import device

FOLDER = Path(__file__).parents[2] / "benchmarks"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU: run benchmarks/gpu.py")
def test_gpu_says_why_it_skips():
    command = [sys.executable, "-W", "error", FOLDER / "gpu.py"]
    printed = subprocess.run(command, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.startswith("skipped: ")
    assert ("No module named" in printed.stdout) == ("use pip install '.[" in printed.stdout)


class Launches(Driver):
    """In place of CUDA's driver: it notes launches and runs nothing."""

    def start(self, variant, items, device, stream, *arguments):
        self.started.append(variant)


class Event:
    """An event whose time is how many events there were before."""

    count = 0

    def record(self):
        Event.count += 1
        self.time = Event.count

    def elapsed_time(self, end):
        return end.time - self.time


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """The program, whose GPU is this CPU: kernels on its arrays do nothing, but for copies and models."""
    torch = pytest.importorskip("torch", reason="this program is about PyTorch's tensors")
    gpu, driver = loaded("gpu"), Launches()
    stand_in(monkeypatch, driver)
    masks = torch.bool, torch.uint8
    monkeypatch.setattr(
        device, "is_there", lambda x: getattr(x, "is_on_gpu", False) or getattr(x, "dtype", None) in masks
    )
    monkeypatch.setattr(device, "stream_of_tensors", lambda number: 0)
    monkeypatch.setattr(device, "is_captured", lambda x: False)
    monkeypatch.setattr(gpu, "ALL_MAY_TAKE", 1e5)  # however busy this machine is
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)  # of pytest-xdist: eight workers take seconds
    monkeypatch.setattr(gpu, "FIRST", gpu.FIRST.replace("fdt.dropout(x, 0.5, 0)", "fdt.dropout"))
    passing = tmp_path / "test_that_passes.py"
    passing.write_text("def test_that_passes():\n    pass\n")

    class OnTheCPU(gpu.Visit):
        device, tests = "cpu", (str(passing),)

        def do(self, part, seconds):
            super().do(part, 1e5)

        def name(self):
            return "no GPU"

        def randn(self, *shape, dtype="float32"):
            x = super().randn(*shape, dtype=dtype)
            x.is_on_gpu = True
            return x

        def event(self):
            return Event()

        def synchronize(self):
            pass

        def compiled(self, function, **options):
            return function

        def captured(self, step):
            outputs = step()

            def replay():
                for output, new in zip(outputs, step(), strict=True):
                    output.copy_(new)

            return replay, outputs

        def peak(self, step):
            step()
            return 1.0

    def run(*arguments):
        file = tmp_path / "found.json"
        failed = gpu.main(["--rounds", "1", "--small", "--json", str(file), *arguments], OnTheCPU)
        return failed, json.loads(file.read_text())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others would wait for each other where this process has one core
    yield SimpleNamespace(program=gpu, run=run, visit=OnTheCPU, driver=driver)
    torch.set_num_threads(threads)


def test_every_part_of_a_visit(gpu):
    failed, data = gpu.run()
    assert (failed, data["failures"]) == (0, [])
    parts = [part.__name__ for part in gpu.program.PARTS]
    rows = data["results"]
    assert list(dict.fromkeys(row["part"] for row in rows)) == parts
    assert len({(row["part"], row["case"], row["dtype"]) for row in rows}) == len(rows)
    for row in rows:
        if row["unit"] in ("us", "ms"):
            assert len(row["values"]) > 1
            assert min(row["values"].values()) > 0
    assert data["gpu"] == "no GPU"
    started = {(variant.work, *variant.names, variant.bias is not None) for variant in gpu.driver.started}
    elements = {
        ("drops", name, biased) for name, biased in (("drop", False), ("add", False), ("activate", True))
    }
    of_units = {("drops", "factor", False), ("spread", "drop", False), ("given_rates", True)}
    of_masks = {(work, of, False) for work in ("keep", "mask_factors") for of in ("bytes", "bits")}
    of_noise = {("noise", "normal", "multiply", False), ("noise", "logistic", "concrete", False)}
    of_learned = {
        ("noise", "logistic", "concrete_slope_factor", False),
        ("learned_numbers", "concrete", True),
    }
    of_learned |= {("totals", "products", "float32", True)}
    assert started == elements | of_units | of_masks | of_noise | of_learned
    assert any(variant.by_number for variant in gpu.driver.started)


def test_a_part_that_fails_stops_no_other(gpu, monkeypatch, capsys):
    def broken(self, step):
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(gpu.visit, "captured", broken)
    failed, data = gpu.run("--only", "graphs", "add")
    assert failed == 1
    assert data["failures"] == ["graphs: RuntimeError: no graphs here"]
    assert {row["part"] for row in data["results"]} == {"add"}
    assert "no graphs here" in capsys.readouterr().out


def test_masks_that_a_graph_froze_are_a_failure(gpu, monkeypatch):
    monkeypatch.setattr(gpu.visit, "captured", lambda self, step: (lambda: None, step()))
    failed, data = gpu.run("--only", "graphs")
    assert failed == 1
    assert "'masks differ': False" in data["failures"][0]


def test_a_part_ends_when_its_time_is_over(gpu, monkeypatch):
    monkeypatch.setattr(gpu.program, "ALL_MAY_TAKE", 0.0)
    failed, data = gpu.run("--only", "add", "gelu")
    assert (failed, data["results"]) == (2, [])
    assert data["failures"] == ["add: out of time", "gelu: out of time"]


def test_the_manuals_results_are_written_by_a_visit_of_all_parts(gpu, monkeypatch, tmp_path):
    files = []

    class Visit:
        failures = ()

        def __init__(self, rounds, small, file):
            files.append(file)

        def name(self):
            return "a GPU"

        def do(self, part, seconds):
            pass

    monkeypatch.setattr(gpu.program, "RESULTS", tmp_path / "gpu.json")
    for arguments in ([], ["--small"], ["--only", "add"], ["--skip-tests"], ["--json", "other.json"]):
        assert gpu.program.main(arguments, Visit) == 0
    assert files == [tmp_path / "gpu.json", None, None, None, Path("other.json")]


def test_a_visit_takes_less_than_eight_minutes():
    program = loaded("gpu")
    assert program.ALL_MAY_TAKE < 480
    assert sum(program.PARTS.values()) <= program.ALL_MAY_TAKE


# A kernel of nine instructions an item: one round of digits costs four more, and a tail is dearer.
MACHINE_CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/              @!P0 BRA `(.L_x_3) ;
        /*0020*/               @P1 LDG.E.128 R8, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_1:
        /*0040*/                   BRA.DIV UR4, `(.L_x_4) ;
.L_x_5:
        /*0050*/                   SHFL.BFLY PT, R9, R9, 0x8, 0x1f ;
        /*0060*/                   VOTE.ANY P2, P3 ;
        /*0070*/               @P2 BRA `(.L_x_1) ;
        /*0080*/                   SHFL.BFLY PT, R9, R9, 0x8, 0x1f ;
        /*0090*/                   STG.E.128 desc[UR4][R2.64], R4 ;
.L_x_2:
        /*00a0*/               @P4 BRA `(.L_x_0) ;
        /*00b0*/                   EXIT ;
.L_x_3:
        /*00c0*/                   CALL.REL.NOINC `(.L_x_6) ;
        /*00d0*/                   STG.E desc[UR4][R2.64], R4 ;
        /*00e0*/                   BRA `(.L_x_2) ;
.L_x_4:
        /*00f0*/                   SHFL.BFLY PT, R9, R9, 0x8, 0x1f ;
        /*0100*/                   BRA `(.L_x_5) ;
"""


@pytest.mark.parametrize(("rounds", "instructions"), [(0, 10), (1, 10), (2, 14), (3, 18)])
def test_instructions_of_a_tile(rounds, instructions):
    program = loaded("machine_code").Program(MACHINE_CODE)
    assert len(program.instructions) == 17
    assert program.of_a_tile(128, rounds) == (instructions, 1, 1)


def test_machine_code_without_what_is_counted():
    program = loaded("machine_code").Program(MACHINE_CODE.replace("0x8,", "0x4,"))
    with pytest.raises(ValueError, match="no way leads through 2 rounds"):
        program.of_a_tile(128, 2)
    with pytest.raises(ValueError, match="no store is 64 bits wide"):
        program.of_a_tile(64, 0)
