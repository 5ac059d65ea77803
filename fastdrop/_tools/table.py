"""The table of what each noise has where: `python -m fastdrop._tools.table > docs/noises.md`.

It looks for each noise in the package itself, and asks the noise's record where there is nothing to look at.
PyTorch, dask and autograd must be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module

import fastdrop as fd
from fastdrop._noises._noise import EVERY, FORMS, INTEGERS, NOISES, PRODUCT, REAL, Noise

_NOWHERE = "-"
_INTEGRATIONS = ("autograd", "dask", "torch")
_DTYPES = {EVERY: "every", REAL: "real", PRODUCT: "float32, float64", INTEGERS: "integers"}
_TITLES = (
    "noise",
    "kind",
    "dtypes",
    "function",
    "gradient",
    "layers",
    "CUDA",
    "torch functions",
    "torch modules",
    "dask",
    "autograd",
    "moments",
)
_HEAD = """\
# The noises, and where they are

Made by `python -m fastdrop._tools.table`; don't edit. "yes" is there under the noise's own name, and a dash
is a place where it is missing: why stands below the table. Some noises are layers only, which call the
function that is named. Of the dtypes, "every" is any of {every};
"real" is any of those that isn't complex.
"""
_BESIDE = """\

## Beside the noises

What else belongs to them: masks, what a noise is made of, what its layers need.

"""


def table() -> str:
    """Return the page, in Markdown."""
    noises = [NOISES[name] for name in sorted(NOISES)]
    rows = [_row(noise) for noise in noises]
    lines = [_line(_TITLES), _line(["---"] * len(_TITLES)), *map(_line, rows)]
    head = _HEAD.format(every=", ".join(EVERY))
    reasons = [f"- `{noise.name}`: {why}" for noise in noises for why in _reasons(noise)]
    page = [head, *lines, "\n## What is missing, and why\n", *reasons, _BESIDE.rstrip("\n"), ""]
    return "\n".join([*page, *_beside(noises)]) + "\n"


def found(noise: Noise) -> dict[str, str]:
    """What a noise is called in each of `FORMS`; "" where it isn't."""
    name = noise.function.__name__
    modules = {each: import_module(f"fastdrop.{each}") for each in _INTEGRATIONS}
    both = (name,) if noise.backward is None else (name, noise.backward.__name__)
    layers = tuple(layer.__name__ for layer in noise.layers)
    moments = noise.moments or name
    has_moments = hasattr(fd.moments, moments) or moments in (each.__name__ for each in noise.beside)
    return {
        "backward": noise.backward.__name__ if noise.backward else "",
        "layer": ", ".join(layers),
        "CUDA": "" if "CUDA" in noise.lacks else name,
        "torch function": name if hasattr(modules["torch"], name) else "",
        "torch module": ", ".join(m for m in noise.modules or layers if hasattr(modules["torch"], m)),
        "dask": name if all(hasattr(modules["dask"], each) for each in both) else "",
        "autograd": name if hasattr(modules["autograd"], name) else "",
        "moments": moments if has_moments else "",
    }


def missing(noise: Noise) -> set[str]:
    """The places where a noise isn't, or not wholly."""
    return {place for place, name in found(noise).items() if not name}


def _row(noise: Noise) -> Iterator[str]:
    """The cells of a noise."""
    places = found(noise)
    yield f"`{noise.name}`"
    yield noise.kind
    yield _DTYPES[noise.dtypes]
    yield _cell(noise.function.__name__, noise)
    yield "itself" if noise.self_adjoint else _cell(places["backward"], noise)
    yield _cell(places["layer"], noise)
    yield "yes" if places["CUDA"] else _NOWHERE
    for place in ("torch function", "torch module", "dask", "autograd", "moments"):
        yield _cell(places[place], noise)


def _cell(names: str, noise: Noise) -> str:
    """What the table shows of a noise's names in a place."""
    if names in (noise.name, f"{noise.name}_backward"):
        return "yes"
    return ", ".join(f"`{name}`" for name in names.split(", ")) if names else _NOWHERE


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reasons(noise: Noise) -> Iterator[str]:
    """Why a noise is missing, with all the forms that have one reason."""
    by_reason: dict[str, list[str]] = {}
    for form in FORMS:
        if form in noise.lacks:
            by_reason.setdefault(noise.lacks[form], []).append(form)
    for reason, forms in by_reason.items():
        yield f"{', '.join(forms)}: {reason}."


def _beside(noises: list[Noise]) -> Iterator[str]:
    """What else the noises have, and where it is too."""
    for noise in noises:
        for each in noise.beside:
            name = each.__name__
            places = [place for place in _INTEGRATIONS if hasattr(import_module(f"fastdrop.{place}"), name)]
            places = [f"in {place}" for place in places]
            places += ["on a GPU"] if name in noise.beside_on_gpu else []
            yield f"- `{name}` of `{noise.name}`{', also ' if places else ''}{' and '.join(places)}"


if __name__ == "__main__":
    print(table(), end="")
