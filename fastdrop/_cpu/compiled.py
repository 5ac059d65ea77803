"""Compilation of the CPU kernels, and the cache on disk that keeps their machine code.

A kernel is compiled at its first call. If the cache on disk is damaged, full or missing, kernels are compiled
anew: that costs time, but no call fails.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core import sigutils
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc


def _stamp() -> int:
    """Return a number that changes with any source file that kernels use.

    Numba itself looks only at the file that defines a kernel. After a change to a function that the kernel
    calls, it would run old machine code.
    """
    package = Path(__file__).parents[1]
    folders = "_arrays", "_cpu", "_lanes", "_stream"
    files = sorted(path for folder in folders for path in (package / folder).glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


_STAMP = _stamp()


def jit(kernel: Callable, *variant: Any) -> Any:
    """Return the kernel as machine code that releases the GIL.

    One Python function makes several kernels, of different formulas and constants; the variant tells them
    apart.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("fastdrop has no form that Python itself could run; unset NUMBA_DISABLE_JIT")
    compiled = njit(kernel, nogil=True)
    _keep(compiled, kernel, variant)
    return compiled


def callback(kernel: Callable, signature: Any, *variant: Any) -> CFunc:
    """Return the kernel as machine code with an address, which C can call."""
    compiled = CFunc(kernel, sigutils.normalize_signature(signature), {}, {})
    _keep(compiled, kernel, variant)
    compiled.compile()
    return compiled


def _keep(compiled: Any, kernel: Callable, variant: tuple[Any, ...]) -> None:
    try:
        compiled._cache = _Cache(kernel, variant)
    except (OSError, RuntimeError):  # no place on disk can be written
        _warn("no directory for them can be written")


@cache
def _warn(why: str) -> None:
    """Warn that kernels are not kept on disk: once for each reason, since it is the same for all kernels."""
    text = f"fastdrop compiles its kernels anew in each process: {why}; set NUMBA_CACHE_DIR to one that can"
    warnings.warn(text, RuntimeWarning, stacklevel=2)


class _Files(IndexDataCacheFile):
    """Cache files that return machine code only if it is undamaged and of the signature that is asked for.

    Numba itself runs damaged code. If two processes compile at once, it may also run code of another
    signature.
    """

    def save(self, key, data):
        code = self._dump(data)
        super().save(key, (_digest(key, code), code))

    def load(self, key):
        found = super().load(key)
        if found is None:
            return None
        digest, code = found
        if digest != _digest(key, code):
            raise ValueError("damaged, or of another signature")
        return pickle.loads(code)


def _digest(key: Any, code: bytes) -> bytes:
    return hashlib.sha256(repr(key).encode() + code).digest()


class _Cache(FunctionCache):
    """Numba's cache, but a damaged file or a full disk raises no error."""

    def __init__(self, kernel, variant):
        super().__init__(kernel)
        self._variant = variant
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _Files(self.cache_path, self._impl.filename_base, stamp)

    def _index_key(self, sig, codegen):
        """Return the key by which code is found.

        Numba's own key contains the pickled variables of a closure. Where these are functions, their pickles
        differ between processes, and no process would find another's code.
        """
        code = hashlib.sha256(self._py_func.__code__.co_code).hexdigest()
        return sig, codegen.magic_tuple(), code, _STAMP, self._variant

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # to read a damaged file may raise anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(f"{error.strerror} in {self.cache_path}")
