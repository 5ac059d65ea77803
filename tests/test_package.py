"""What importing the package does and shows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastdrop as fd

OPTIONAL = {"torch", "dask", "autograd", "jax", "rich", "matplotlib", "scipy", "numba"}


def test_all_names_what_is_there():
    assert len(fd.__all__) == len(set(fd.__all__))
    for name in fd.__all__:
        assert getattr(fd, name) is not None
    public = {
        name
        for name, value in vars(fd).items()
        if not name.startswith("_") and not hasattr(value, "__path__")
    }
    modules = {path.stem for path in Path(fd.__file__).parent.glob("[!_]*.py")} - {"moments", "schedules"}
    assert public - modules == set(fd.__all__)


def test_importing_loads_neither_numba_nor_an_optional_package():
    script = "import sys, fastdrop; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not OPTIONAL & set(loaded.split())


@pytest.mark.parametrize("name", ["torch", "dask", "autograd"])
def test_without_its_package_an_integration_says_what_to_install(name):
    script = f"import sys; sys.modules['{name}'] = None; import fastdrop.{name}"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert f"fastdrop.{name} needs {name}" in found.stderr
    assert f"pip install 'fastdrop-numpy[{name}]'" in found.stderr


def test_every_public_name_has_a_runnable_example():
    for name in fd.__all__:
        value = getattr(fd, name)
        if callable(value):
            assert ">>> " in (value.__doc__ or ""), name


def test_nothing_evaluates_text_unpickles_or_starts_processes():
    """But for the cache of compiled code, which is Numba's and made of pickles, and the search for OpenMP."""
    risky = {"eval", "exec", "compile", "__import__", "system", "popen", "mktemp"}
    allowed = {"_cache": {"pickle"}, "_torch_team": {"ctypes"}}
    modules = {"pickle", "marshal", "shelve", "subprocess", "tempfile", "socket", "ctypes", "urllib"}
    for path in Path(fd.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", None)
                assert called not in risky, path
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                found = {name.partition(".")[0] for name in names} & modules
                assert found <= allowed.get(path.stem, set()), (path, found)
