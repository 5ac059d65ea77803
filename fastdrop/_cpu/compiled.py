"""Compilation of the CPU kernels, whose machine code is kept on disk (see `fastdrop._lanes.disk`).

A kernel is compiled at its first call.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llvmlite import binding
from numba import config, njit
from numba.core import sigutils, types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from fastdrop._lanes import disk

_log = logging.getLogger("fastdrop")


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
        return str(disk.directory())

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
        except RuntimeError:
            path, key = None, b""
        if path is not None and (code := disk.read(path, key)) is not None:
            try:
                symbols, payload = pickle.loads(code)
                _resolve(symbols, target_context)
                return CompileResult._rebuild(target_context, *payload)
            except Exception:  # to read what is none of Numba's code may raise anything
                disk.delete(path)
        _log.info("compiling the kernel %s", self._described(sig))
        return None

    def save_overload(self, sig: Any, compiled: Any) -> None:
        """Write the code of a signature to the disk, if that is possible."""
        if compiled.library.has_dynamic_globals:  # addresses of this process
            return
        try:
            path, key = self._place(sig, compiled.codegen)
        except RuntimeError:
            disk.warn("the user has no directory for caches")
            return
        disk.write(path, key, dumps((_symbols(compiled.library), compiled._reduce())))

    def _place(self, sig: Any, codegen: Any) -> tuple[Path, bytes]:
        """Return the file of a signature, and what its code is for as bytes."""
        key = repr((sig, codegen.magic_tuple(), self._variant)).encode()
        return disk.directory() / f"{self._name}-{hashlib.sha256(key).hexdigest()[:24]}.code", key

    def _described(self, sig: Any) -> str:
        """Return what people read: the kernel's name, its variant and the dtypes of its arrays."""
        given = sig.args if hasattr(sig, "args") else sig
        dtypes = dict.fromkeys(str(each.dtype) for each in given if isinstance(each, types.Array))
        return " ".join(map(str, (self._name, *self._variant[1], "of", ", ".join(dtypes) or "numbers")))


def _writable(sig: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the types of arguments, with arrays that can be written in place of read-only ones."""
    return tuple(each.copy(readonly=False) if isinstance(each, types.Array) else each for each in sig)


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
