"""What makes a function or class public: errors, pickles, help() and type hints name no private place."""

from __future__ import annotations

import sys
from types import FunctionType, SimpleNamespace
from typing import Any, get_type_hints

_CALLED = ("__init__", "forward", "__call__", "backward")  # the methods whose keywords users get wrong


def publish(value: Any, module: str) -> None:
    """Let a function or class belong to a public module, whichever file it is in."""
    if isinstance(value, type):
        _resolve_annotations(value)
        _name_methods(value)
    value.__module__ = module


def _resolve_annotations(kind: type) -> None:
    """Make types of annotations that are text, since the public module lacks the names in them."""
    own = vars(kind).get("__annotations__")
    if own:
        holder = SimpleNamespace(__annotations__=own)
        kind.__annotations__ = get_type_hints(holder, vars(sys.modules[kind.__module__]))


def _name_methods(kind: type) -> None:
    """Give a class the methods of our private bases as its own: errors of wrong keywords say whose it is."""
    copies: dict[Any, FunctionType] = {}  # a call is forward itself, and stays the same function
    for name in _CALLED:
        method: Any = getattr(kind, name, None)
        ours = isinstance(method, FunctionType) and method.__module__.startswith("fastdrop.")
        if ours and name not in vars(kind):
            if method not in copies:
                copies[method] = _renamed(method, f"{kind.__qualname__}.{method.__name__}")
            setattr(kind, name, copies[method])


def _renamed(function: Any, qualname: str) -> FunctionType:
    """Return a copy of a function with another name in errors."""
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    for name in ("__kwdefaults__", "__annotations__", "__doc__", "__module__"):
        setattr(copy, name, getattr(function, name))
    copy.__qualname__ = qualname
    return copy
