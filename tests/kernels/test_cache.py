"""Compiled kernels on disk: whatever is wrong there, calls get the same bits, with at most one warning."""

import os
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

import fastdrop as fd
from fastdrop._cpu import compiled as code

X = np.ones(3001, np.float32)
BITS = fd.dropout(X, 0.1, 42).tobytes().hex()
SCRIPT = """
import numpy as np, fastdrop as fd
from fastdrop._cpu import calls
y = fd.dropout(np.ones(3001, np.float32), 0.1, 42)
print(y.tobytes().hex(), sum(calls._drop.stats.cache_hits.values()))
"""
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty cache of Numba's, for this process too."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(code, "_warn", code._warn.__wrapped__)
    return tmp_path


def compiled():
    """A kernel as in a fresh process."""

    def kernel(x):
        return x + x

    return code.jit(kernel)


def hits(kernel, x):
    """Whether a call was right and took its code from the disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel(x) == 2 * x
    return sum(kernel.stats.cache_hits.values())


def test_code_is_found_again(directory):
    assert [hits(compiled(), x) for x in (1, 1.5, 1, 1.5)] == [0, 0, 1, 1]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["emptied", "cut", "scrambled", "replaced"])
def test_damaged_files_are_written_anew(directory, suffix, damage):
    hits(compiled(), 1)
    (path,) = directory.rglob(f"*{suffix}")
    old = path.read_bytes()
    scrambled = bytes(byte ^ 0x55 for byte in old)
    path.write_bytes({"emptied": b"", "cut": old[:-9], "scrambled": scrambled, "replaced": b"N."}[damage])
    assert [hits(compiled(), 1) for _ in range(2)] == [0, 1]


def test_no_changed_bit_of_the_code_is_run(directory):
    hits(compiled(), 1)
    (path,) = directory.rglob("*.nbc")
    old = path.read_bytes()
    for at in np.linspace(0, len(old) - 1, 60).astype(int):
        path.write_bytes(old[:at] + bytes([old[at] ^ 16]) + old[at + 1 :])
        hits(compiled(), 1)


def test_callbacks_are_kept_too(directory):
    def double():
        def kernel(x):
            return x + x

        found = code.callback(kernel, numba.float64(numba.float64))
        assert found.ctypes(1.5) == 3
        return found.cache_hits

    assert [double() for _ in range(2)] == [0, 1]
    (path,) = directory.rglob("*.nbc")
    path.write_bytes(path.read_bytes()[:-9])
    assert [double() for _ in range(2)] == [0, 1]


def test_code_of_another_signature_is_not_run(directory):
    """Numba's files are so after two processes compiled at once, and it would run the one for the other."""
    hits(compiled(), 1)
    hits(compiled(), 1.5)
    first, second = sorted(directory.rglob("*.nbc"))
    shutil.copy(second, first)
    assert [hits(compiled(), 1) for _ in range(2)] == [0, 1]


def test_numba_s_own_files_are_replaced(directory):
    hits(compiled(), 1)
    (path,) = directory.rglob("*.nbc")
    kernel = compiled()
    own = numba.core.caching.FunctionCache(kernel.py_func)
    own._index_key = kernel._cache._index_key
    kernel._cache = own
    path.unlink()
    kernel(1)
    assert path.exists()
    assert [hits(compiled(), 1) for _ in range(2)] == [0, 1]


def test_a_directory_that_vanished_or_became_a_file(directory):
    kernel = compiled()
    shutil.rmtree(directory)
    assert hits(kernel, 1) == 0
    kernel = compiled()
    shutil.rmtree(directory)
    directory.write_text("")
    with pytest.warns(RuntimeWarning, match="anew in each process: .* set NUMBA_CACHE_DIR"):
        assert kernel(1) == 2


def run(script, directory, **environment):
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "HOME"))}
    return subprocess.run(
        [sys.executable, "-B", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=directory,  # which Python puts first in its path
        env=bare | environment,
    )


TOGETHER = """
import pathlib, time, fastdrop._cpu.calls
pathlib.Path(r"{ready}", "{number}").touch()
while len(list(pathlib.Path(r"{ready}").iterdir())) < 4:
    time.sleep(0.001)
"""


def test_processes_that_compile_at_once(tmp_path):
    cache, ready = tmp_path / "cache", tmp_path / "ready"
    ready.mkdir()

    def start(number):
        script = TOGETHER.format(ready=ready, number=number) + SCRIPT
        return run(script, Path(fd.__file__).parents[1], NUMBA_CACHE_DIR=str(cache))

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(start, range(4)))
    for found, hits in zip((*together, start(4)), (0, 0, 0, 0, 1), strict=True):
        assert (found.stdout, found.stderr) == (f"{BITS} {hits}\n", "")
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_read_only_installation_without_a_home(tmp_path):
    """Files stand where directories would be: that stops the superuser too."""
    package = tmp_path / "site" / "fastdrop"
    shutil.copytree(Path(fd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "_cpu" / "__pycache__").write_text("")
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    found = run(SCRIPT, package.parent, XDG_CACHE_HOME=str(nowhere), HOME=str(nowhere))
    assert found.stdout == f"{BITS} 0\n"
    assert found.stderr.count("Warning") == 1
    assert "no directory for them can be written; set NUMBA_CACHE_DIR" in found.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk(tmp_path):
    found = run(FULL + SCRIPT, Path(fd.__file__).parents[1], NUMBA_CACHE_DIR=str(tmp_path))
    assert found.stdout == f"{BITS} 0\n"
    assert found.stderr.count("Warning") == 1
    assert "File too large in" in found.stderr
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_an_upgrade_over_an_old_cache(tmp_path):
    package = tmp_path / "site" / "fastdrop"
    shutil.copytree(Path(fd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    cache = str(tmp_path / "cache")
    shown = [run(SCRIPT, package.parent, NUMBA_CACHE_DIR=cache) for _ in range(2)]
    for name in ("_cpu/calls.py", "_stream/philox.py"):  # one that Numba looks at, and one that it doesn't
        path = package / name
        path.write_text(path.read_text() + "\n# newer\n")
        shown.append(run(SCRIPT, package.parent, NUMBA_CACHE_DIR=cache))
    assert [found.stdout for found in shown] == [f"{BITS} {hits}\n" for hits in (0, 1, 0, 0)]
    assert not any(found.stderr for found in shown)
