"""What importing the package does and shows."""

import subprocess
import sys
from pathlib import Path

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


def test_every_public_name_has_a_runnable_example():
    for name in fd.__all__:
        value = getattr(fd, name)
        if callable(value):
            assert ">>> " in (value.__doc__ or ""), name
