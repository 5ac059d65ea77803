"""Writes the gallery: a page for each example from its stored results, and noises on a photograph.

Nothing is trained here. The pictures show what examples/results.json holds; the tables are those of
examples/README.md. The photograph is drawn by the code that stands under each picture.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from public_names import write
from sphinx.application import Sphinx

import fastdrop as fd

DOCS = Path(__file__).parents[1]
EXAMPLES = DOCS.parent / "examples"
PAGES = DOCS / "gallery" / "pages"
PICTURES = PAGES / "pictures"
OURS, OTHER = "#d9730d", "#6b8fb3"

sys.path.append(str(EXAMPLES))
import masks  # noqa: E402
import results  # noqa: E402

Record = dict[str, Any]
NUMBER = re.compile(r"(-?[\d.]+)(?: ± ([\d.]+|nan))?")


class Plot(NamedTuple):
    """What of a record's tables a picture shows: the tables, the column, and how its rows are named."""

    column: str
    caption: str
    tables: tuple[int, ...] = (0,)
    labels: int = 1


TITLES = {
    "simple_network": "A network in NumPy, with and without dropout",
    "regularized_network": "L1, L2, batch normalisation and dropout together",
    "mnist_cnn": "A convolutional network in PyTorch",
    "compare_dropouts": "Every noise in one network",
    "data_size": "What dropout gains as data grow",
    "fused_network": "Fused passes in a residual network",
    "concrete_rate": "Rates that are learned",
    "uncertainty": "How sure a network is: Monte Carlo dropout",
    "char_rnn": "Masks and zoneout in a character LSTM",
    "char_transformer": "A character transformer in NumPy",
    "data_parallel": "Several processes train as one",
    "pipeline": "A data set augmented by several processes",
    "pipeline_dask": "The same on dask's cluster, and in xarray",
    "masks": "Masks on a photograph",
}
PLOTS = {
    "simple_network": Plot("test %", "Right on test images, in per cent", labels=2),
    "regularized_network": Plot("test %", "Right on test images, in per cent"),
    "mnist_cnn": Plot("test %", "Right on test images, in per cent"),
    "compare_dropouts": Plot(
        "minus none",
        "Negative log-likelihood minus that without noise, digits (left) and MNIST-5k (right); "
        "filled where it is significant",
        tables=(1, 4),
    ),
    "data_size": Plot("gain", "Points that dropout gains, by the number of training images"),
    "fused_network": Plot("of passes: ms", "Milliseconds of a step that the passes take"),
    "uncertainty": Plot("in the gap", "Log-likelihood of a point in the gap; higher is better"),
    "char_rnn": Plot("best held-out", "Bits per character on held-out text; lower is better"),
    "char_transformer": Plot("best held-out", "Bits per character on held-out text; lower is better"),
}
MACHINE_ONLY = "It checks its own results and says what it found; it has no stored record."


def records() -> dict[str, Record]:
    """Return the stored results by program."""
    found = json.loads((EXAMPLES / "results.json").read_text(encoding="utf-8"))
    return {record["program"]: record for record in found}


def numbers(cell: str) -> tuple[float, float]:
    """Return a cell's mean and error; NaN if there is none."""
    found = NUMBER.match(cell)
    return (float(found[1]), float(found[2] or "nan")) if found else (np.nan, np.nan)


def dots(axes: Axes, table: dict[str, Any], plot: Plot) -> None:
    """Draw a column with its errors, one row for each row of the table that has a number."""
    at = table["headings"].index(plot.column)
    is_p = table["headings"][at + 1 : at + 2] == ["P"]
    rows = [row for row in table["rows"] if NUMBER.match(row[at])]
    for n, row in enumerate(reversed(rows)):
        mean, error = numbers(row[at])
        significant = not is_p or float(row[at + 1]) < 0.05
        ours = row[0] not in ("none", "none, SELU", "torch.nn", "steps") and "without" not in row[0]
        colour = OURS if ours else OTHER
        axes.errorbar(
            mean, n, xerr=error, fmt="o", color=colour, mfc=colour if significant else "none", capsize=3
        )
    names = [", ".join(row[: plot.labels]) for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="x", alpha=0.3)
    if is_p or plot.column == "gain":
        axes.axvline(0, color="gray", lw=0.8)


def rates(axes: Axes, table: dict[str, Any]) -> None:
    """Draw the learned rates over the number of examples."""
    examples = [int(row[0]) for row in table["rows"]]
    for column, marker in zip((1, 2, 3), "osD", strict=True):
        means, errors = zip(*(numbers(row[column]) for row in table["rows"]), strict=True)
        axes.errorbar(examples, means, yerr=errors, marker=marker, capsize=3, label=table["headings"][column])
    axes.set(xscale="log", yscale="log", xlabel="examples", ylabel="rate")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def draw(record: Record, path: Path) -> None:
    """Draw a record's picture."""
    name = record["program"]
    plot = PLOTS.get(name)
    shown = [record["tables"][n] for n in plot.tables] if plot else [record["tables"][0]]
    rows = max(len(table["rows"]) for table in shown)
    figure = Figure(figsize=(7.2 if len(shown) == 1 else 9, 1.2 + 0.3 * max(rows, 3)), layout="constrained")
    if plot is None:
        figure.set_size_inches(6, 3.4)
        rates(figure.subplots(), shown[0])
    else:
        for axes, table in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            dots(axes, table, plot)
    figure.savefig(path, dpi=110, transparent=True)


def in_both(name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Draw a picture for light pages and one for dark ones."""
    for shade, colour in (("light", "#333333"), ("dark", "#dddddd")):
        path = PICTURES / f"{name}-{shade}.png"
        keys = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
        with rc_context(dict.fromkeys(keys, colour) | {"font.size": 10}):
            make(path)
        yield path


def example_page(name: str, record: Record | None, about: str) -> str:
    """Return the page of an example."""
    title = TITLES[name]
    lines = [f"# {title}", "", about, ""]
    if name == "masks":
        lines += [
            "![One photograph under the masks of fastdrop](../../../examples/masks.jpg)",
            "",
            "[The next page](photograph.rst) has more noises, larger, with the line that makes each.",
            "",
        ]
    elif record is None:
        lines += [MACHINE_ONLY, ""]
    else:
        caption = PLOTS[name].caption if name in PLOTS else "Rates after training, by the number of examples"
        for path in in_both(name, lambda path: draw(record, path)):
            shade = path.stem.rpartition("-")[2]
            lines += [
                f":::{{figure}} pictures/{path.name}",
                f":class: only-{shade}",
                f":alt: {caption}",
                "",
                f"{caption}. Bars are standard errors." if "ms" not in caption else f"{caption}.",
                ":::",
                "",
            ]
        lines += ["## Results", "", *_results(record)]
    lines += [
        "## The program",
        "",
        f"Run it with `python examples/{name}.py`; `--help` lists its options.",
        "",
        f":::{{literalinclude}} ../../../examples/{name}.py",
        ":language: python",
        ":::",
    ]
    return "\n".join(lines) + "\n"


def _results(record: Record) -> list[str]:
    return [line for paragraph in results.paragraphs(record)[1:] for line in (paragraph, "")]


def about(name: str) -> str:
    """Return what an example says of itself, from the second paragraph of its docstring on if it has one."""
    doc = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    prose = [p for p in doc.split("\n\n") if not p.startswith("    ")]
    return "\n\n".join(prose).replace("<", "&lt;").replace(" With --help: options.", "")


# --- the photograph -----------------------------------------------------------------------------------


class Shot(NamedTuple):
    """A picture: its title, the code that makes it, and what to look at."""

    title: str
    code: str
    note: str


SHOTS = (
    Shot("The photograph", "x", "What goes in: one image of three channels."),
    Shot("Dropout", "fd.dropout(x, 0.4, key)", "Each number by itself: a pixel may lose its red alone."),
    Shot(
        "Dropout of pixels",
        "fd.dropout(x, 0.4, key, shared_axes=1)",
        "Channels share their draws, so a pixel goes as a whole.",
    ),
    Shot(
        "Spatial dropout",
        "fd.dropout(x, 0.4, fd.Key(3), shared_axes=(2, 3))",
        "A channel goes as a whole: here one of red, green and blue.",
    ),
    Shot(
        "Temporal dropout",
        "fd.dropout(x, 0.4, key, shared_axes=2)",
        "Rows are steps of time here: what is dropped is dropped at every step.",
    ),
    Shot(
        "A rate for each column",
        "fd.dropout(x, np.linspace(0, 1, x.shape[3], dtype=x.dtype), key)",
        "An array of rates, from 0 at the left to 1 at the right.",
    ),
    Shot(
        "DropBlock",
        "fd.drop_block(x, 0.3, key, block_size=25)",
        "Squares of 25, others in each channel.",
    ),
    Shot(
        "DropBlock, channels together",
        "fd.drop_block(x, 0.3, key, block_size=25, shared_channels=True)",
        "The same squares in all channels.",
    ),
    Shot(
        "Gaussian dropout",
        "fd.gaussian_dropout(x, 0.2, key)",
        "Each number times a normal one of mean 1: bright parts get more noise than dark ones.",
    ),
    Shot(
        "Gaussian noise",
        "fd.gaussian_noise(x, 0.2, key)",
        "A normal number added: the same noise in bright and dark parts.",
    ),
    Shot(
        "Concrete dropout",
        "fd.concrete_dropout(x, np.log(0.4 / 0.6), key, temperature=0.5)",
        "A mask that is soft, so that its rate has a gradient; the temperature is high here, to show it.",
    ),
    Shot(
        "Information dropout",
        "fd.information_dropout(x, 0.5, key)",
        "Times a number whose logarithm is normal: never negative, and never quite 0.",
    ),
    Shot(
        "Alpha dropout",
        "fd.alpha_dropout((x - x.mean()) / x.std(), 0.2, key) * x.std() + x.mean()",
        "What is dropped becomes SELU's negative limit, and all is scaled: mean and spread stay.",
    ),
    Shot(
        "Standout",
        "fd.standout_dropout(x, 8 * (x - 0.4), key)",
        "The brighter a number, the likelier it is kept.",
    ),
    Shot(
        "Zoneout",
        "fd.zoneout(x[..., ::-1], x, 0.5, key)",
        "Each number is that of the image or of its mirror image, as a state is the new or the former one.",
    ),
)


def photograph() -> NDArray[np.float32]:
    """Return scikit-learn's flower as (1, 3, height, width), in [0, 1]."""
    return masks.photograph(every=2)


def shoot(shot: Shot, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a picture's code gives."""
    return eval(shot.code, {"fd": fd, "np": np, "x": x, "key": fd.Key(1)})


def photograph_page() -> str:
    """Draw the noises, and return the page that shows them."""
    from PIL import Image

    title = "Noises on a photograph"
    lines = [
        title,
        "=" * len(title),
        "",
        "Each picture was made by the line under it while this page was built, with",
        "",
        ">>> import numpy as np, fastdrop as fd",
        ">>> key = fd.Key(1)",
        "",
        "and ``x`` a photograph of scikit-learn's as an array ``(1, 3, 214, 320)`` of float32 in [0, 1]: the",
        "axes are samples, channels, height and width. What is kept is scaled up, as in training, so the",
        "pictures look brighter; numbers above 1 are shown as 1.",
        "",
        ".. grid:: 1 2 2 2",
        "   :gutter: 3",
        "",
    ]
    x = photograph()
    for n, shot in enumerate(SHOTS):
        y = shoot(shot, x)
        pixels = (np.clip(np.moveaxis(y[0], 0, 2), 0, 1) * 255).round().astype(np.uint8)
        path = PICTURES / f"noise-{n:02}.jpg"
        Image.fromarray(pixels).save(path, quality=88)
        lines += [
            f"   .. grid-item-card:: {shot.title}",
            "",
            f"      .. image:: pictures/{path.name}",
            f"         :alt: {shot.title} of a photograph of a flower",
            "         :class: photograph",
            "",
            f"      {shot.note}",
            "",
            "      .. code-block:: python",
            "",
            f"         {shot.code}",
            "",
        ]
    return "\n".join(lines) + "\n"


def build(_: Sphinx) -> None:
    """Write pages and pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    stored = records()
    pages = {PAGES / f"{name}.md": example_page(name, stored.get(name), about(name)) for name in TITLES}
    write(PAGES, pages | {PAGES / "photograph.rst": photograph_page()})


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
