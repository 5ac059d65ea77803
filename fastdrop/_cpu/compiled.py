"""Compilation of the CPU kernels, and the cache on disk that keeps their machine code.

A kernel is compiled at its first call. Its code is kept in the user's cache directory, not beside the
package, where it would outlive an uninstallation. If the cache is damaged, full or missing, kernels are
compiled anew: that costs time, but no call fails.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from llvmlite import binding
from numba import config, njit
from numba.core import sigutils, types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

_log = logging.getLogger("fastdrop")
_KEPT = 4  # folders of other versions that are kept, since environments of one user may differ
_ABANDONED = 3600.0  # seconds after which a file that is half written belongs to a process that ended


def _stamp() -> str:
    """Return a name that changes with any source file that kernels use, and with the compiler.

    Numba itself looks only at the file that defines a kernel. After a change to a function that the kernel
    calls, it would run old machine code.
    """
    package = Path(__file__).parents[1]
    folders = "_arrays", "_cpu", "_lanes", "_stream"
    files = sorted(path for folder in folders for path in (package / folder).glob("*.py"))
    versions = numba.__version__, llvmlite.__version__, sys.version
    digest = hashlib.sha256(repr(versions).encode())
    for path in (*files, package / "torch" / "_openmp.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_STAMP = _stamp()


def directory() -> Path:
    """Return the folder of this version's machine code, which need not exist.

    It is in NUMBA_CACHE_DIR, or else in the user's cache directory as the system has it.
    """
    return _of_all_versions() / _STAMP


def _of_all_versions() -> Path:
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR, "fastdrop")
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
    return {"NUMBA_CACHE_DIR": os.path.abspath(config.CACHE_DIR)} if config.CACHE_DIR else {}


def jit(kernel: Callable, *variant: Any) -> Any:
    """Return the kernel as machine code that releases the GIL.

    One Python function makes several kernels, of different formulas and constants; the variant tells them
    apart.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("fastdrop has no form that Python itself could run; unset NUMBA_DISABLE_JIT")
    compiled = njit(kernel, nogil=True)
    compiled._cache = _Cache(kernel, variant, compiled)
    return compiled


def callback(kernel: Callable, signature: Any, *variant: Any) -> Any:
    """Return the kernel as machine code with an address, which C can call."""
    compiled: Any = CFunc(kernel, sigutils.normalize_signature(signature), {}, {})
    compiled._cache = _Cache(kernel, variant)
    compiled.compile()
    return compiled


@cache
def _warn(why: str) -> None:
    """Warn that kernels are not kept on disk: once for each reason, since it is the same for all kernels."""
    text = f"fastdrop compiles its kernels anew in each process: {why}; set NUMBA_CACHE_DIR to a directory"
    warnings.warn(f"{text} that can be written", RuntimeWarning, stacklevel=2)


class _Cache(NullCache):
    """A cache for one kernel, in place of Numba's: each of its signatures has a file.

    Numba's own runs damaged code. It has one index for all signatures, and if two processes write that at
    once, it may run code of another signature. It also finds no code of a closure over functions, since
    their pickles differ between processes.
    """

    def __init__(self, kernel: Callable, variant: tuple[Any, ...], dispatcher: Any = None) -> None:
        self._dispatcher = dispatcher  # of a kernel that Python calls
        self._name = kernel.__qualname__.partition(".")[0].strip("_").removesuffix("_kernel")
        self._variant = hashlib.sha256(kernel.__code__.co_code).hexdigest(), variant

    @property
    def cache_path(self) -> str:
        return str(directory())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code of a signature if it is on disk and undamaged, else None; then it is compiled.

        Read-only arrays get the code for arrays that can be written, to which kernels don't write.
        """
        if self._dispatcher is not None and (plain := _writable(sig)) != sig:
            self._dispatcher.compile(plain)
            found = self._dispatcher.overloads[plain]
            return found._replace(signature=found.signature.replace(args=sig), metadata=None)
        try:
            path, key = self._place(sig, target_context.codegen())
            data = path.read_bytes()
        except (OSError, RuntimeError):
            data = b""
        if data:
            try:
                symbols, payload = pickle.loads(_undamaged(key, data))
                _resolve(symbols, target_context)
                found = CompileResult._rebuild(target_context, *payload)
                _mark_used(path.parent)
                return found
            except Exception:  # to read a damaged file may raise anything
                with suppress(OSError):
                    path.unlink()
        _log.info("compiling the kernel %s", self._described(sig))
        return None

    def save_overload(self, sig: Any, compiled: Any) -> None:
        """Write the code of a signature to the disk, if that is possible."""
        if compiled.library.has_dynamic_globals:  # addresses of this process
            return
        try:
            path, key = self._place(sig, compiled.codegen)
        except RuntimeError:
            _warn("the user has no directory for caches")
            return
        code = dumps((_symbols(compiled.library), compiled._reduce()))
        try:
            _write(path, hashlib.sha256(key + code).digest() + code)
        except OSError as error:
            _warn(f"{error.strerror} in {path.parent}")
        else:
            _discard_stale(path.parent)

    def _place(self, sig: Any, codegen: Any) -> tuple[Path, bytes]:
        """Return the file of a signature, and what its code is for as bytes."""
        key = repr((sig, codegen.magic_tuple(), self._variant)).encode()
        return directory() / f"{self._name}-{hashlib.sha256(key).hexdigest()[:24]}.code", key

    def _described(self, sig: Any) -> str:
        """Return what people read: the kernel's name, its variant and the dtypes of its arrays."""
        given = sig.args if hasattr(sig, "args") else sig
        dtypes = dict.fromkeys(str(each.dtype) for each in given if isinstance(each, types.Array))
        return " ".join(map(str, (self._name, *self._variant[1], "of", ", ".join(dtypes) or "numbers")))


def _writable(sig: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the types of arguments, with arrays that can be written in place of read-only ones."""
    return tuple(each.copy(readonly=False) if isinstance(each, types.Array) else each for each in sig)


def _undamaged(key: bytes, data: bytes) -> bytes:
    """Return the code in a file's bytes, or raise an error unless it is undamaged and for this key."""
    digest, code = data[:32], data[32:]
    if digest != hashlib.sha256(key + code).digest():
        raise ValueError("damaged, or of another signature")
    return code


def _symbols(library: Any) -> list[str]:
    """Return the names of the functions outside that a library calls."""
    functions = library._final_module.functions
    return [f.name for f in functions if f.is_declaration and not f.name.startswith("llvm.")]


def _resolve(symbols: Iterable[str], target_context: Any) -> None:
    """Make the functions known that a library calls; a missing one would end the process.

    Numba makes all it has known before it reads code from the disk, for which it imports 200 modules. That is
    two thirds of a second, and few kernels need it.
    """
    for prepare in (rtsys.initialize, lambda context: context.refresh()):
        if all(binding.address_of_symbol(name) for name in symbols):
            return
        prepare(target_context)


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
def _mark_used(folder: Path) -> None:
    """Let the folder be the last that is discarded."""
    with suppress(OSError):
        os.utime(folder)


@cache
def _discard_stale(folder: Path) -> None:
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
