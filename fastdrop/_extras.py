"""Packages that are imported at first use: how optional ones are installed, and the lock of such imports."""

from __future__ import annotations

from threading import RLock

# Held while a package is imported at its first use. A fork waits for it: see `fastdrop._backends`.
loading = RLock()


def how_to_install(extra: str) -> str:
    """Return what to write to install an extra: in a checkout, since fastdrop isn't published yet."""
    return f"use pip install '.[{extra}]' in a checkout of fastdrop"


def missing(module: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of a public module whose package is missing; the module's extra has its name."""
    extra = module.rpartition(".")[2]
    return ModuleNotFoundError(f"{module} needs {error.name}; {how_to_install(extra)}", name=error.name)
