"""Docstrings of the functions in dask and autograd, completed from those of the NumPy functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import cleandoc, signature
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_NONE: Mapping[str, str] = MappingProxyType({})
_ORDER = ("Parameters", "Returns", "Raises", "See Also", "Notes", "References", "Examples")


def described_by(source: Callable[..., Any], words: Mapping[str, str] = _NONE) -> Callable[[_F], _F]:
    """Return a decorator that completes a function's docstring, and leaves the function as it is.

    Sections that its docstring lacks are taken from the docstring of `source`, and so are the parameters that
    the function has but does not describe. In what is taken, each word of `words` is replaced. The summary
    and the examples are never taken.
    """

    def describe(function: _F) -> _F:
        if not function.__doc__ or not source.__doc__:  # python -OO has none
            return function
        text = source.__doc__
        for word, other in words.items():
            text = text.replace(word, other)
        own, found = _sections(function.__doc__), _sections(text)
        parameters = _parameters(function, own.get("Parameters", ""), found.get("Parameters", ""))
        found |= {"Examples": "", **own, "Parameters": parameters}
        parts = [f"{name}\n{'-' * len(name)}\n{found[name]}" for name in _ORDER if found.get(name)]
        function.__doc__ = "\n\n".join([own[""], *parts]) + "\n"
        return function

    return describe


def _sections(doc: str) -> dict[str, str]:
    """Return the text under each title of a docstring; the text before the first title has the title ""."""
    lines, title = cleandoc(doc).splitlines(), ""
    found: dict[str, list[str]] = {"": []}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line and following == "-" * len(line):
            title = line
            found[title] = []
        elif line != "-" * len(title) or not title:
            found[title].append(line)
    return {name: "\n".join(text).strip("\n") for name, text in found.items()}


def _entries(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield each entry of a section of parameters: its names, and the text about them."""
    lines = text.splitlines()
    starts = [n for n, line in enumerate(lines) if line and line[0] != " "]
    for start, end in pairwise([*starts, len(lines)]):
        names, colon, kind = lines[start].partition(" : ")
        yield names.split(", "), "\n".join([colon + kind, *lines[start + 1 : end]])


def _parameters(function: Callable[..., Any], own: str, others: str) -> str:
    """Return the section of a function's parameters: its own entries, and others for those it lacks."""
    names = list(signature(function).parameters)
    found = list(_entries(own))
    left = set(names).difference(*(entry for entry, _ in found))
    for entry, text in _entries(others):
        kept = [name for name in entry if name in left]
        if kept:
            found.append((kept, text))
    found.sort(key=lambda entry: names.index(entry[0][0]))
    return "\n".join(", ".join(entry) + text for entry, text in found)
