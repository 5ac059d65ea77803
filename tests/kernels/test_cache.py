"""Compiled kernels on disk: whatever is wrong there, calls get the same bits, with at most one warning."""

import logging
import os
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest

import fastdrop as fd
from fastdrop._cpu import compiled as code
from fastdrop._lanes import disk

# A call whose kernel compiles soonest.
BITS = np.resize(np.array([2, 0, 0], np.float32), 31).tobytes().hex()
SCRIPT = """
import numpy as np, fastdrop as fd
from fastdrop._cpu import calls
y = fd.apply_mask(np.ones(31, np.float32), np.resize([True, False, False], 31), 0.5)
print(y.tobytes().hex(), sum(calls._apply_bytes.stats.cache_hits.values()))
"""
FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty cache of Numba's, for this process too."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for name in ("warn", "discard_stale", "mark_used"):  # which do their work once in a process
        monkeypatch.setattr(disk, name, getattr(disk, name).__wrapped__)
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


@pytest.mark.parametrize("damage", ["emptied", "cut", "scrambled", "replaced", "a directory"])
def test_damaged_files_are_written_anew(directory, damage):
    hits(compiled(), 1)
    (path,) = directory.rglob("*.code")
    old = path.read_bytes()
    if damage == "a directory":
        path.unlink()
        path.mkdir()
        with pytest.warns(RuntimeWarning, match="anew in each process: .* in "):
            assert compiled()(1) == 2
        return
    scrambled = bytes(byte ^ 0x55 for byte in old)
    path.write_bytes({"emptied": b"", "cut": old[:-9], "scrambled": scrambled, "replaced": b"N."}[damage])
    assert [hits(compiled(), 1) for _ in range(2)] == [0, 1]


def test_no_changed_bit_of_the_code_is_run(directory):
    hits(compiled(), 1)
    (path,) = directory.rglob("*.code")
    old = path.read_bytes()
    for at in np.linspace(0, len(old) - 1, 60).astype(int):
        path.write_bytes(old[:at] + bytes([old[at] ^ 16]) + old[at + 1 :])
        assert hits(compiled(), 1) == 0


def test_callbacks_are_kept_too(directory):
    def double():
        def kernel(x):
            return x + x

        found = code.callback(kernel, numba.float64(numba.float64))
        assert found.ctypes(1.5) == 3
        return found.cache_hits

    assert [double() for _ in range(2)] == [0, 1]
    (path,) = directory.rglob("*.code")
    path.write_bytes(path.read_bytes()[:-9])
    assert [double() for _ in range(2)] == [0, 1]


def test_code_of_another_signature_is_not_run(directory):
    hits(compiled(), 1)
    (first,) = directory.rglob("*.code")
    hits(compiled(), 1.5)
    (second,) = set(directory.rglob("*.code")) - {first}
    shutil.copy(second, first)
    assert [hits(compiled(), 1) for _ in range(2)] == [0, 1]


def test_read_only_arrays_run_the_code_of_others(directory):
    def total(x):
        found = 0.0
        for i in range(x.size):
            found += x[i]
        return found

    def kernel():
        return code.jit(total)

    x = np.arange(5.0)
    fixed = x.copy()
    fixed.flags.writeable = False
    for arrays in ((fixed, x), (x, fixed), (fixed, fixed)):
        made = kernel()
        assert [made(a) for a in arrays] == [10, 10]
        assert len(list(directory.rglob("*.code"))) == 1


def test_a_directory_that_vanished_or_became_a_file(directory):
    kernel = compiled()
    shutil.rmtree(directory)
    assert hits(kernel, 1) == 0
    assert hits(compiled(), 1) == 1
    shutil.rmtree(directory)
    directory.write_text("")
    with pytest.warns(RuntimeWarning, match="anew in each process: .* set NUMBA_CACHE_DIR"):
        assert compiled()(1) == 2


def test_what_is_compiled_is_logged(directory, caplog):
    caplog.set_level(logging.INFO, "fastdrop")
    hits(compiled(), 1)
    assert [record.getMessage() for record in caplog.records] == ["compiling the kernel compiled of numbers"]
    hits(compiled(), 1)
    assert len(caplog.records) == 1


def other_version(name, days):
    """A folder of another version, which was used so many days ago."""
    folder = disk.directory().with_name(name)
    folder.mkdir(parents=True)
    (folder / "x.code").write_text("")
    os.utime(folder, (time.time() - 86400 * days,) * 2)
    return folder


def test_folders_of_other_versions_are_few(directory):
    others = [other_version(f"v{days}", days) for days in range(1, disk._KEPT + 4)]
    hits(compiled(), 1)
    assert [folder.exists() for folder in others] == [True] * disk._KEPT + [False] * 3
    assert {each.name for each in disk.directory().parent.iterdir()} == {
        disk.directory().name,
        *(folder.name for folder in others[: disk._KEPT]),
    }


def test_a_folder_is_young_as_long_as_it_is_used(directory):
    hits(compiled(), 1)
    os.utime(disk.directory(), (0, 0))
    hits(compiled(), 1)
    assert time.time() - disk.directory().stat().st_mtime < 60


def test_what_was_never_finished_is_removed_later(directory):
    hits(compiled(), 1)
    old, young = disk.directory() / "a.code.1.tmp", disk.directory() / "b.code.2.tmp"
    for path in (old, young):
        path.write_text("")
    os.utime(old, (time.time() - 2 * disk._ABANDONED,) * 2)
    hits(compiled(), 1.5)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_folder_that_another_process_discards_meanwhile_is_made_again(directory, monkeypatch):
    replace, calls = os.replace, []

    def late(source, target):
        calls.append(target)
        if len(calls) == 1:
            shutil.rmtree(disk.directory())
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    assert [hits(compiled(), 1) for _ in range(2)] == [0, 1]


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, "{home}/.cache/fastdrop"),
        ("linux", {"XDG_CACHE_HOME": "{home}/x"}, "{home}/x/fastdrop"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "{home}/.cache/fastdrop"),
        ("darwin", {}, "{home}/Library/Caches/fastdrop"),
        ("win32", {}, "{home}/AppData/Local/fastdrop/Cache"),
        ("win32", {"LOCALAPPDATA": "{home}/local"}, "{home}/local/fastdrop/Cache"),
    ],
)
def test_the_user_s_cache_directory(platform, environment, expected, tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    assert disk.directory().parent == Path(expected.format(home=tmp_path))


def test_a_user_without_a_home_is_told(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(disk, "warn", disk.warn.__wrapped__)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.warns(RuntimeWarning, match="the user has no directory for caches; set NUMBA_CACHE_DIR"):
        assert compiled()(1) == 2


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
while len(list(pathlib.Path(r"{ready}").iterdir())) < 2:
    time.sleep(0.001)
"""


def copy_code(cache, *names):
    """Put code that this process has on the disk into another cache: the helpers', and some kernels'."""
    kept = disk.directory()
    copies = cache / "fastdrop" / kept.name
    copies.mkdir(parents=True)
    for name in ("share", "serve", "dismiss_for_good", *names):
        for path in kept.glob(f"{name}-*.code"):
            shutil.copy(path, copies)


def test_processes_that_compile_at_once(tmp_path):
    cache, ready = tmp_path / "cache", tmp_path / "ready"
    ready.mkdir()
    copy_code(cache)

    def start(number):
        script = TOGETHER.format(ready=ready, number=number) + SCRIPT
        return run(script, Path(fd.__file__).parents[1], NUMBA_CACHE_DIR=str(cache))

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(start, range(2)))
    for found, hits in zip((*together, start(2)), (0, 0, 1), strict=True):
        assert (found.stdout, found.stderr) == (f"{BITS} {hits}\n", "")
    assert not list(tmp_path.rglob("*.tmp"))


def test_no_directory_can_be_written(tmp_path):
    """A file stands where the directory would be: that stops the superuser too."""
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    root = Path(fd.__file__).parents[1]
    found = run(SCRIPT, root, XDG_CACHE_HOME=str(nowhere), HOME=str(nowhere))
    assert found.stdout == f"{BITS} 0\n"
    assert found.stderr.count("Warning") == 1
    assert f"Not a directory in {nowhere}" in found.stderr
    assert "set NUMBA_CACHE_DIR to a directory that can be written" in found.stderr


def test_nothing_is_written_beside_the_package(tmp_path):
    package, home = tmp_path / "site" / "fastdrop", tmp_path / "home"
    shutil.copytree(Path(fd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(package.rglob("*"))
    copy_code(home)
    found = run(SCRIPT, package.parent, XDG_CACHE_HOME=str(home))
    assert (found.stdout, found.stderr) == (f"{BITS} 0\n", "")
    assert sorted(package.rglob("*")) == before
    assert list(home.rglob("fastdrop/*/apply-*.code"))


COMPILED_LATER = """
import numba

@numba.njit
def theirs(n):
    found = [0.0]
    for i in range(n):
        found.append(np.sqrt(float(i)))
    return found[-1]

assert theirs(5) == 2
assert (fd.apply_mask(np.ones(9), np.full(9, True), 0.5) == 2).all()
"""


def test_code_from_the_disk_needs_none_of_numba_s_modules_and_leaves_it_whole(tmp_path):
    fd.apply_mask(np.ones(31, np.float32), np.ones(31, np.bool_), 0.5)  # which puts it there
    copy_code(tmp_path, "apply")
    lean = SCRIPT + "import sys; print('numba.np.linalg' in sys.modules)" + COMPILED_LATER
    found = run(lean, Path(fd.__file__).parents[1], NUMBA_CACHE_DIR=str(tmp_path))
    assert (found.stdout, found.stderr) == (f"{BITS} 1\nFalse\n", "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk(tmp_path):
    found = run(FULL + SCRIPT, Path(fd.__file__).parents[1], NUMBA_CACHE_DIR=str(tmp_path))
    assert found.stdout == f"{BITS} 0\n"
    assert found.stderr.count("Warning") == 1
    assert "File too large in" in found.stderr
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
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
