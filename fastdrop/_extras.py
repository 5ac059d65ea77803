"""How optional packages are installed: the one place that says it."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Return what to write to install an extra: in a checkout, since fastdrop isn't published yet."""
    return f"use pip install '.[{extra}]' in a checkout of fastdrop"


def missing(module: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of a public module whose package is missing; the module's extra has its name."""
    extra = module.rpartition(".")[2]
    return ModuleNotFoundError(f"{module} needs {error.name}; {how_to_install(extra)}", name=error.name)
