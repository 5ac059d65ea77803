"""Machine code on disk, in the user's cache directory: where it is, and files that are whole or not there.

It is not kept beside the package, where it would outlive an uninstallation. If the cache is damaged, full or
missing, kernels are compiled anew: that costs time, but no call fails.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"
_KEPT = 4  # folders of other versions that are kept, since environments of one user may differ
_ABANDONED = 3600.0  # seconds after which a file that is half written belongs to a process that ended
_OF_THE_CPU = "_arrays", "_cpu", "_lanes", "_stream", "torch/_openmp.py"  # what its kernels are made of


def stamp_of(sources: Iterable[str], *versions: str) -> str:
    """Return a name that changes with any of the package's files or folders, and with versions."""
    package = Path(__file__).parents[1]
    places = [package / source for source in sources]
    files = [path for place in places for path in (sorted(place.glob("*.py")) if place.is_dir() else [place])]
    digest = hashlib.sha256(repr(versions).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def version_of(package: str) -> str:
    """Return the version of a package, or nothing if it isn't there. It is imported only if it must be."""
    try:
        return version(package)
    except PackageNotFoundError:  # as in programs that were packed without what describes their packages
        with suppress(ImportError):
            return str(getattr(import_module(package), "__version__", ""))
    return ""


def _stamp() -> str:
    """Return a name that changes with any source file that the CPU's kernels use, and with the compiler.

    Numba itself looks only at the file that defines a kernel. After a change to a function that the kernel
    calls, it would run old machine code.
    """
    return stamp_of(_OF_THE_CPU, version_of("numba"), version_of("llvmlite"), sys.version)


_STAMP = _stamp()


def directory() -> Path:
    """Return the folder of this version's machine code, which need not exist.

    It is in NUMBA_CACHE_DIR, or else in the user's cache directory as the system has it.
    """
    return _of_all_versions() / _STAMP


def _given() -> str:
    """Return the folder that the user wants code in, or nothing."""
    return os.environ.get(_VARIABLE, "")


def _of_all_versions() -> Path:
    if _given():
        return Path(_given(), "fastdrop")
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local or Path.home() / "AppData" / "Local") / "fastdrop" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastdrop"
    given = os.environ.get("XDG_CACHE_HOME", "")  # which the standard ignores unless it is absolute
    return Path(given if os.path.isabs(given) else Path.home() / ".cache") / "fastdrop"


def can_keep_code() -> bool:
    """Return whether code can be kept on disk, as far as is known without writing some."""
    try:
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    return os.access(folder, os.W_OK)


def environment() -> dict[str, str]:
    """Return the environment variables by which another process uses the same folder."""
    return {_VARIABLE: os.path.abspath(_given())} if _given() else {}


def read(path: Path, key: bytes) -> bytes | None:
    """Return the code of a file, or None if there is none, or none that is whole and was written for the key.

    What is damaged is deleted.
    """
    try:
        data = path.read_bytes()
    except (OSError, RuntimeError):
        return None
    digest, code = data[:32], data[32:]
    if digest == hashlib.sha256(key + code).digest():
        mark_used(path.parent)
        return code
    delete(path)
    return None


def delete(path: Path) -> None:
    """Delete a file of the cache, if that is possible."""
    with suppress(OSError):
        path.unlink()


def write(path: Path, key: bytes, code: bytes) -> None:
    """Write code to a file, of which others see all or nothing; if that is impossible, warn once why."""
    try:
        _write(path, hashlib.sha256(key + code).digest() + code)
    except OSError as error:
        warn(f"{error.strerror} in {path.parent}")
    else:
        discard_stale(path.parent)


@cache
def warn(why: str) -> None:
    """Warn that kernels are not kept on disk: once for each reason, since it is the same for all kernels."""
    text = f"fastdrop compiles its kernels anew in each process: {why}; set NUMBA_CACHE_DIR to a directory"
    warnings.warn(f"{text} that can be written", RuntimeWarning, stacklevel=4)


def _write(path: Path, data: bytes) -> None:
    """Write a file that others see whole or not at all."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.tmp")
    for attempt in (1, 2):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
            return
        except FileNotFoundError:  # another process has discarded the folder
            if attempt == 2:
                raise
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


@cache
def mark_used(folder: Path) -> None:
    """Let the folder be the last that is discarded."""
    with suppress(OSError):
        os.utime(folder)


@cache
def discard_stale(folder: Path) -> None:
    """Discard the folders of other versions but those that were used last, and what was never finished.

    A process that uses a folder that vanishes compiles anew. This runs once in a process that compiles.
    """
    with suppress(OSError):
        used = [(each.stat().st_mtime, each) for each in folder.parent.iterdir() if each != folder]
        for _, old in sorted(used, reverse=True)[_KEPT:]:
            gone = old.with_name(f"{old.name}.{uuid.uuid4().hex[:8]}.old")
            old.rename(gone)  # at once, so that no process finds a part of it
            shutil.rmtree(gone, ignore_errors=True)
        for unfinished in folder.glob("*.tmp"):
            if time.time() - unfinished.stat().st_mtime > _ABANDONED:
                unfinished.unlink()
