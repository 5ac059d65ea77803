"""The page that greets a visitor of the dashboard: fastdrop among its peers, and the way to asv's history.

python benchmarks/front_page.py out/dashboard
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path
from string import Template

import history
import plots
from peers_results import OURS, Results

PAGE = Template((Path(__file__).parent / "front_page.html").read_text())
SHOWN = (1 << 16, 1 << 22)


def page(results: Results) -> str:
    """The page as HTML that needs nothing from elsewhere."""
    threads = results.values("threads")[-1]
    sizes = [n for n in SHOWN if n in results.values("size")] or results.values("size")[-1:]
    how = f"{_date(results)}, medians of up to {results.rounds} turns on an {results.processor()}; "
    return PAGE.substitute(
        style=plots.STYLE,
        lead=_lead(results, sizes[-1], threads),
        bars="".join(_bars(results, n, threads) for n in sizes),
        curves=_curves(results, threads),
        how=escape(
            how + f"Python {results.machine['python']}, {results.versions()}; float32. {results.caution()}"
        ),
        table=_table(results, threads),
    )


def _date(results: Results) -> str:
    return f"Taken on {results.date}"


def _lead(results: Results, size: int, threads: int) -> str:
    at = (size, 0.5, threads)
    ours, multiply = results.row(OURS, *at), results.row("np.multiply(out=)", *at)
    if not ours or not multiply:
        return "Dropout for NumPy."
    peers = {"best NumPy idiom": "NumPy's best takes", "PyTorch eager": "PyTorch", "JAX jitted": "JAX"}
    rows = [(shown, results.row(name, *at)) for name, shown in peers.items()]
    times = [f"{of} {plots.short(row['ns_per_element'] / ours['ns_per_element'])}" for of, row in rows if row]
    return escape(
        f"Dropout of {size:,} float32 elements takes {plots.short(ours['ns_per_element'])} ns an element, "
        f"{plots.short(ours['ratio'])} times a plain multiplication of the array by a number. "
        f"{', '.join(times)} times as long as fastdrop."
    )


def _bars(results: Results, size: int, threads: int) -> str:
    caption = f"{size:,} elements, p = 0.5, {threads} threads: ns per element on a logarithmic scale"
    return _figure(plots.bars(results, size, 0.5, threads), f"{caption}, in brackets times np.multiply.")


def _curves(results: Results, threads: int) -> str:
    m = results.machine
    marks = {
        "threads": m["parallel_from_elements"],
        "past the caches": m["streaming_from_bytes"] // 4,
    }
    among = plots.curves(plots.peers(results, 0.5, threads), "Time per element over size, all contenders")
    alone = plots.curves(plots.growth(results), "Time per element over size, fastdrop and the limits", marks)
    caption = "fastdrop by rate and threads, with a copy and a multiplication on one thread as the limits."
    return _figure(among, f"All contenders, p = 0.5, {threads} threads.") + _figure(alone, caption)


def _figure(svg: str, caption: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{below}</figure>"


def _table(results: Results, threads: int) -> str:
    sizes = results.values("size")
    head = "".join(f"<th>{n:,}</th>" for n in sizes)
    body = []
    for name in results.names():
        rows = [results.row(name, n, 0.5, threads) for n in sizes]
        cells = "".join(
            f"<td>{plots.short(row['ns_per_element'])}</td>" if row else "<td></td>" for row in rows
        )
        body.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    caption = f"ns per element, p = 0.5, {threads} threads"
    rows_ = "".join(body)
    return f"<table><caption>{caption}</caption><tr><th>elements</th>{head}</tr>{rows_}</table>"


def main(arguments: list[str] | None = None) -> None:
    """Write index.html into a folder, beside asv's pages in its `history`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(page(Results.read()))
    history.finish(folder / "history")


if __name__ == "__main__":
    main()
