"""Turns: threads that share an object go through its calls one at a time."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any
from weakref import WeakSet


class TakesTurns:
    """A base for objects with state: whoever reads or changes it does so ``with self._turn``."""

    def __init__(self) -> None:
        self._turn = RLock()
        _all.add(self)

    def __getstate__(self) -> dict[str, Any]:
        with self._turn:
            return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        TakesTurns.__init__(self)


_all: WeakSet[TakesTurns] = WeakSet()


def _renew() -> None:
    """In a forked child whoever had a turn isn't there to end it."""
    for each in _all:
        each._turn = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
