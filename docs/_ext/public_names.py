"""Writes the reference: a page for each public name, and the pages that list them.

What belongs together is taken from the package: noises and what is theirs from their records, other names
from the part that defines them. So a new name has its page without an entry here.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

import fastdrop as fd
from fastdrop._noises._noise import NOISES, Noise

PAGES = Path(__file__).parents[1] / "reference" / "api"
FACES = {
    "fastdrop": "fastdrop",
    "fastdrop.moments": "fastdrop.moments: exact moments",
    "fastdrop.schedules": "fastdrop.schedules: rates that change",
    "fastdrop.torch": "fastdrop.torch: PyTorch",
    "fastdrop.autograd": "fastdrop.autograd: HIPS autograd",
    "fastdrop.dask": "fastdrop.dask: dask arrays",
}
KINDS = {
    "Bernoulli": "Noises that keep or drop",
    "density": "Noises that multiply or add",
}
# Where the names that belong to no noise are defined, and what they are about.
OTHERS = {
    "_stream": "Keys and the stream",
    "_training": "Prediction, losses and weights",
    "schedules": "Rates that change",
    "_cpu": "Threads and first calls",
    "_tools": "Threads and first calls",
}


@cache
def names(face: str) -> tuple[str, ...]:
    """Return the public names of a module, but for the modules in it."""
    module = importlib.import_module(face)
    given = getattr(module, "__all__", None)
    if given is None:
        given = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == face]
    return tuple(name for name in given if not isinstance(getattr(module, name), ModuleType))


def value(full: str) -> Any:
    """Return the object of a full name."""
    face, _, name = full.rpartition(".")
    return getattr(importlib.import_module(face), name)


def full_names() -> Iterator[str]:
    """Return all public names, with their modules."""
    return (f"{face}.{name}" for face in FACES for name in names(face))


def exists(full: str) -> bool:
    """Return whether a dotted name leads to something."""
    at: Any = fd
    for word in full.split(".")[1:]:
        if not hasattr(at, word):
            return False
        at = getattr(at, word)
    return True


def page_of(full: str) -> str | None:
    """Return the page of a name, or of the class that a method belongs to, or of a module."""
    if full in FACES:
        return f"reference/{full.removeprefix('fastdrop.')}" if full != "fastdrop" else "reference/index"
    for name in (full, full.rpartition(".")[0]):
        if name in set(full_names()):
            return f"reference/api/{file_of(name)}"
    return None


def file_of(full: str) -> str:
    """Return the name of a page's file. Some file systems take `zoneout` and `Zoneout` for one."""
    return f"{full}-class" if inspect.isclass(value(full)) else full


def members(kind: type) -> list[str]:
    """Return the public methods and properties of a class that fastdrop defines."""
    found = []
    for name in dir(kind):
        if name.startswith("_"):
            continue
        home = next(k for k in kind.__mro__ if name in vars(k))
        member = vars(home)[name]
        ours = home.__module__.startswith("fastdrop") and (callable(member) or isinstance(member, property))
        if ours and getattr(member, "__doc__", None):
            found.append(name)
    return found


def page(full: str) -> str:
    """Return the page of a name."""
    face, _, name = full.rpartition(".")
    thing = value(full)
    lines = [full, "=" * len(full), "", f".. currentmodule:: {face}", ""]
    if inspect.isclass(thing):
        lines += [f".. autoclass:: {full}", "   :show-inheritance:"]
        lines[-1:] = [f"   :members: {', '.join(members(thing))}"] if members(thing) else []
    elif callable(thing):
        lines += [f".. autofunction:: {full}"]
    else:
        lines += [f".. py:data:: {full}", f"   :value: {thing!r}", "", *_constant(name)]
    return "\n".join([*lines, "", *_elsewhere(full)]) + "\n"


def _constant(name: str) -> list[str]:
    return {
        "STREAM_VERSION": [
            "   The version of the stream: which bits a key gives. See :doc:`/reference/stream`.",
            "",
            "   >>> import fastdrop as fd",
            "   >>> fd.STREAM_VERSION",
            "   1",
        ]
    }[name]


def _elsewhere(full: str) -> list[str]:
    """Return links to what has the same name in other modules, and to the noise it belongs to."""
    name = full.rpartition(".")[2]
    same = [f"{face}.{name}" for face in FACES if name in names(face) and f"{face}.{name}" != full]
    own = [noise.name for noise in NOISES.values() if value(full) in noise.public]
    lines = [f"- :py:obj:`{other}`" for other in same]
    lines += [
        f"- :ref:`{noise} in the list of noises <noise-{noise}>`, with all that belongs to it"
        for noise in own
    ]
    return [".. rubric:: The same elsewhere", "", *lines, ""] if lines else []


def summary(full: str) -> str:
    """Return the first line of a docstring, as reStructuredText."""
    thing = value(full)
    if not callable(thing):
        return "The version of the stream, that is of the bits that a key gives."
    face = full.rpartition(".")[0]
    line = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r"(?<!`)`(\w+)`(?!`)", lambda found: _linked(face, found[1]), line)


def _linked(face: str, name: str) -> str:
    """Return a name of a module as a link to its page, or as code if there is none."""
    return f":py:obj:`~{face}.{name}`" if name in names(face) else f"``{name}``"


def table(found: Iterable[str]) -> list[str]:
    """Return a table of names and what they are."""
    lines = [".. list-table::", "   :widths: 35 65", "   :class: names", ""]
    for full in found:
        face, _, name = full.rpartition(".")
        shown = name if face == "fastdrop" else f"{face.removeprefix('fastdrop.')}.{name}"
        lines += [f"   * - :py:obj:`{shown} <{full}>`", f"     - {summary(full)}"]
    return [*lines, ""]


def toctree(found: Iterable[str]) -> list[str]:
    """Return a hidden list of pages, which puts them below the page that it is on."""
    entries = (f"   {full.rpartition('.')[2]} <api/{file_of(full)}>" for full in found)
    return [".. toctree::", "   :hidden:", "", *entries, ""]


def of_noise(noise: Noise) -> list[str]:
    """Return the public names of a noise in every module."""
    own = [v for v in noise.public if noise.has_function or v not in (noise.function, noise.backward)]
    found = [f"fastdrop.{v.__name__}" for v in own]
    modules = [f"fastdrop.torch.{name}" for name in noise.modules or [k.__name__ for k in noise.layers]]
    functions = [f"{face}.{noise.name}" for face in FACES if face != "fastdrop"]
    gradients = [f"fastdrop.dask.{noise.name}_backward"]
    rates = [f"fastdrop.moments.{noise.moments}"] if noise.moments else []
    known = set(full_names())
    return [
        full for full in dict.fromkeys([*found, *modules, *functions, *gradients, *rates]) if full in known
    ]


def noises_page(kind: str) -> str:
    """Return the page of the noises of a kind."""
    title = KINDS[kind]
    lines = [title, "=" * len(title), ""]
    own: list[str] = []
    for noise in NOISES.values():
        if noise.kind != kind:
            continue
        name = noise.name.replace("_", " ").capitalize()
        lines += [f".. _noise-{noise.name}:", "", name, "-" * len(name), ""]
        lines += [
            f"Its formula, gradient, moments and source: :ref:`mathematics <math-{noise.name}>`.",
            "",
            *table(of_noise(noise)),
        ]
        own += [full for full in of_noise(noise) if full.count(".") == 1]
    first = [full for full in dict.fromkeys(own) if _home(full) == kind]
    return "\n".join([*lines, *toctree(first)])


def _home(full: str) -> str:
    """Return the kind of the first noise that a name belongs to, on whose page it is listed."""
    return next(noise.kind for noise in NOISES.values() if full in of_noise(noise))


def others_page() -> str:
    """Return the page of names that belong to no noise."""
    title = "Keys, prediction, schedules, threads"
    taken = {full for noise in NOISES.values() for full in of_noise(noise)}
    groups: dict[str, list[str]] = {}
    for name in names("fastdrop"):
        full = f"fastdrop.{name}"
        if full not in taken:
            groups.setdefault(OTHERS.get(_part(name), "Others"), []).append(full)
    lines = [title, "=" * len(title), ""]
    for group in sorted(groups, key=[*OTHERS.values(), "Others"].index):
        lines += [group, "-" * len(group), "", *table(groups[group])]
    return "\n".join([*lines, *toctree(full for group in groups.values() for full in group)])


def _part(name: str) -> str:
    """Return the part of the package that defines a public name."""
    thing = getattr(fd, name)
    if not callable(thing):
        return "_stream"
    path = Path(inspect.getfile(thing)).relative_to(Path(fd.__file__).parent)
    return path.parts[0].removesuffix(".py")


def face_page(face: str) -> str:
    """Return the page of a public module."""
    title = FACES[face]
    found = [f"{face}.{name}" for name in names(face)]
    return "\n".join(
        [
            title,
            "=" * len(title),
            "",
            f".. automodule:: {face}",
            "   :no-members:",
            "",
            *table(found),
            *toctree(found),
        ]
    )


def pages() -> dict[Path, str]:
    """Return every page that is generated, by its file."""
    found = {PAGES / f"{file_of(full)}.rst": page(full) for full in full_names()}
    found |= {PAGES.parent / f"{kind.lower()}.rst": noises_page(kind) for kind in KINDS}
    found[PAGES.parent / "others.rst"] = others_page()
    found |= {
        PAGES.parent / f"{face.removeprefix('fastdrop.')}.rst": face_page(face)
        for face in FACES
        if face != "fastdrop"
    }
    return found


def write(folder: Path, found: dict[Path, str]) -> None:
    """Write what has changed, so that a second build reads only that; remove other pages of the folder."""
    for path, text in found.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.*"):
        if path not in found:
            path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", lambda _: write(PAGES, pages()))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
