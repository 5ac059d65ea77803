"""What the programs show: means with errors, tables, records of them, and the README's results.

    python examples/results.py out

takes the records that the programs wrote into a folder, keeps them in results.json, and writes the part of
README.md that is between the marks from those.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from fastdrop._tools.info import info

FOLDER = Path(__file__).parent
PROGRAMS = (
    "simple_network",
    "regularized_network",
    "mnist_cnn",
    "compare_dropouts",
    "data_size",
    "fused_network",
    "concrete_rate",
    "uncertainty",
    "char_rnn",
    "char_transformer",
)
MACHINE = ("python", "numpy", "numba", "torch", "processor", "llvm_cpu", "cores")
WIDTH = 110  # of what is printed
MARKS = "<!-- results: written by results.py -->", "<!-- end of results -->"


def positive(text: str) -> int:
    """Return a positive integer from the command line."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def parser(program: str, doc: str | None, *, seeds: int | None, each: str = "") -> argparse.ArgumentParser:
    """Return a parser with what programs have in common: the number of seeds, and where the picture goes."""
    out = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    if seeds:
        out.add_argument("--seeds", type=positive, default=seeds, help=f"{each} (default: %(default)s)")
    picture = Path("out", Path(program).stem + ".png")
    out.add_argument("--out", type=Path, default=picture, help="PNG (default: %(default)s)")
    return out


def mean_and_error(values: Sequence) -> tuple[NDArray, NDArray]:
    """Return the mean over the first axis (seeds) and its standard error: NaN for one seed."""
    a = np.asarray(values)
    error = a.std(axis=0, ddof=1) / np.sqrt(len(a)) if len(a) > 1 else np.full(a.shape[1:], np.nan)
    return a.mean(axis=0), error


def with_errors(values: Sequence, digits: int = 2) -> list[str]:
    """Return means over seeds with their errors, as text."""
    return [f"{m:.{digits}f} ± {e:.{digits}f}" for m, e in zip(*mean_and_error(values), strict=True)]


def new_table(title: str, labels: Iterable[str], numbers: Iterable[str]) -> Table:
    """Return a table without rows, its columns of numbers to the right."""
    out = Table(*labels, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    out.pad_edge = out.show_edge = False
    for heading in numbers:
        out.add_column(heading, justify="right", no_wrap=True)
    return out


def publish(
    program: str,
    options: argparse.Namespace,
    tables: Sequence[Table],
    picture: str,
    notes: Sequence[str] = (),
) -> None:
    """Print tables and sentences, and write them as JSON beside the picture, with what they depend on."""
    console = Console(highlight=False, width=WIDTH)
    console.print(*tables, *notes, sep="\n")
    console.print(f"{picture}: {options.out}", soft_wrap=True)
    arguments = {k: v for k, v in vars(options).items() if v is not None and not isinstance(v, Path)}
    machine = info()
    record = {
        "program": Path(program).stem,
        "arguments": arguments,
        "tables": [plain(table) for table in tables],
        "notes": list(notes),
        "date": date.today().isoformat(),
        "cpu_seconds": round(process_time()),
        "machine": {name: machine[name] for name in MACHINE},
    }
    write_json(options.out.with_suffix(".json"), record)


def write_json(path: Path, data: Any) -> None:
    """Write plain data."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(table: Table) -> dict[str, Any]:
    """Return a table's title and texts."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": str(table.title),
        "headings": [str(column.header) for column in table.columns],
        "numbers": [column.justify == "right" for column in table.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)],
    }


def markdown(records: Iterable[dict[str, Any]]) -> str:
    """Return the README's results."""
    return "\n\n".join(paragraph for record in records for paragraph in paragraphs(record))


def paragraphs(record: dict[str, Any]) -> list[str]:
    """Return a program's results as Markdown."""
    tables = [part for table in record["tables"] for part in (title(table), grid(table))]
    *versions, processor, kind, cores = record["machine"].items()
    options = ", ".join(f"{name} {value}" for name, value in record["arguments"].items())
    packages = ", ".join(f"{name} {version}" for name, version in versions if version)
    machine = f"{processor[1]} ({kind[1]}), {cores[1]} cores"
    made = f"{options}; {packages}; {machine}; {record['date']}; {record['cpu_seconds']} s of CPU time"
    return [f"### `{record['program']}.py`", *tables, *record["notes"], f"*{made}.*"]


def title(table: dict[str, Any]) -> str:
    """Return a table's title as a paragraph."""
    return " ".join(table["title"].split()) + ":"


def grid(table: dict[str, Any]) -> str:
    """Return a table as Markdown."""
    rules = ["---:" if number else "---" for number in table["numbers"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in (table["headings"], rules, *table["rows"]))


def with_results(readme: str, records: Iterable[dict[str, Any]]) -> str:
    """Return the README with the part between the marks anew."""
    before, _, rest = readme.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{markdown(records)}\n\n{MARKS[1]}{after}"


def main(argv: Sequence[str] | None = None) -> None:
    """Take over the records of a folder."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("folder", type=Path, help="where programs wrote PNG and JSON")
    folder = options.parse_args(argv).folder
    kept, readme = FOLDER / "results.json", FOLDER / "README.md"
    records = {record["program"]: record for record in json.loads(kept.read_text(encoding="utf-8"))}
    for name in PROGRAMS:
        if (path := folder / f"{name}.json").exists():
            records[name] = json.loads(path.read_text(encoding="utf-8"))
    ordered = [records[name] for name in PROGRAMS if name in records]
    write_json(kept, ordered)
    readme.write_text(with_results(readme.read_text(encoding="utf-8"), ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
