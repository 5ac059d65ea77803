import importlib
from pathlib import Path

import pytest

import fastdrop as fd


@pytest.fixture
def threads_set_back():
    """Let a test set the number of threads."""
    before = fd.get_num_threads()
    yield
    fd.set_num_threads(before)


@pytest.fixture
def example(monkeypatch):
    """Import a module of the examples by name."""
    pytest.importorskip("mlxtend")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    return importlib.import_module
