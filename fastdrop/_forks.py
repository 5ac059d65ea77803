"""Forks wait for imports and compilations under way: a child would wait for their end forever."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - it and logging, which it imports, lock what an import needs:
import os  # hooks run in reverse, and ours must be first
import sys
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any

loading = RLock()  # held while the backend is imported at its first use
_compiling: list[AbstractContextManager[Any]] = []  # Numba's lock, while a fork goes on


def _before() -> None:
    loading.acquire()
    compiler = sys.modules.get("numba.core.compiler_lock")
    if compiler is not None:
        _compiling.append(compiler.global_compiler_lock)
        _compiling[-1].__enter__()


def _after() -> None:
    while _compiling:
        _compiling.pop().__exit__(None, None, None)
    loading.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
