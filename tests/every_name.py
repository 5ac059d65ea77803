"""Every public function and class, by the public module that has it."""

import inspect

import pytest

INTEGRATIONS = ("autograd", "dask", "torch")
FACES = ("fastdrop", "fastdrop.moments", "fastdrop.schedules", *(f"fastdrop.{name}" for name in INTEGRATIONS))


def public(face):
    """The functions and classes of a public module, by name."""
    module = pytest.importorskip(face)
    names = getattr(module, "__all__", None)
    if names is None:
        names = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == face]
    found = {name: getattr(module, name) for name in names}
    return {name: v for name, v in found.items() if inspect.isclass(v) or inspect.isfunction(v)}
