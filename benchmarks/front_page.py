"""The page that greets a visitor of the dashboard: this machine's figures, the stored ones, asv's history.

python benchmarks/front_page.py out/dashboard
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path
from string import Template

import history
import plots
from here import RESULTS, Here
from peers_results import OURS, Results

PAGE = Template((Path(__file__).parent / "front_page.html").read_text())
SHOWN = (1 << 16, 1 << 22)
SHARE = "peers.Dropout.track_share"
NOTHING_HERE = "asv has no figures of this machine; <code>make dashboard</code> takes them."


def page(results: Results, here: Here | None) -> str:
    """The page as HTML that needs nothing from elsewhere."""
    threads = results.values("threads")[-1]
    sizes = [n for n in SHOWN if n in results.values("size")] or results.values("size")[-1:]
    return PAGE.substitute(
        style=plots.STYLE,
        here=_here(here) if here else f"<p>{NOTHING_HERE}</p>",
        stored=escape(f"{results.processor()}. Taken on {plots.day(results.date)}."),
        lead=_lead(results, sizes[-1], threads),
        bars="".join(_bars(results, n, threads) for n in sizes),
        curves=_curves(results, threads),
        how=escape(
            f"Medians of up to {results.rounds} turns; Python {results.machine['python']}, "
            f"{results.versions()}; float32. {results.caution()}"
        ),
        table=_table(results, threads),
    )


def _here(here: Here) -> str:
    """What stands of this machine: where and when, a sentence, its peers, and all that was timed."""
    taken = f"{here.processor()}. Taken on {here.days()}, {here.versions()}."
    shares = "".join(_shares(here, size) for size in here.tried(SHARE, 1))
    return f"""<p class="taken">{escape(taken)}</p>
{_sentence(here)}
<div class="pair">{shares}</div>
{_cases(here)}"""


def _sentence(here: Here) -> str:
    sizes = here.tried("functions.dropout.time_forward")
    if not sizes:
        return ""
    ns = _ns(here.value("functions.dropout.time_forward", sizes[-1]), sizes[-1])
    times = _short(here.value("functions.dropout.track_multiplies", sizes[-1]))
    ratio = f", {times} times a plain multiplication of the array by a number" if times else ""
    at = _commit(here, "functions.dropout.time_forward")
    return f"<p>Dropout of {sizes[-1]:,} float32 elements takes {ns} ns an element{ratio} (at {at}).</p>"


def _shares(here: Here, size: int) -> str:
    times = {
        peer: 1 / here.value(SHARE, peer, size) for peer in here.tried(SHARE) if here.value(SHARE, peer, size)
    }
    bars = [plots.Bar(peer, value, f"{plots.short(value)}x") for peer, value in times.items()]
    caption = f"{size:,} elements, {_threads(here, SHARE, 3)}: how many times as long as fastdrop each takes"
    return (
        _figure(plots.bars(bars, caption), f"{caption}, on a logarithmic scale (at {_commit(here, SHARE)}).")
        if bars
        else ""
    )


def _cases(here: Here) -> str:
    """A table of functions and layers, each with a link to its history."""
    names = here.cases()
    sizes = sorted({size for name in names for size in here.tried(f"{name}.time_forward")})
    if not sizes:
        return ""
    first, last = sizes[0], sizes[-1]
    timed = [("time_forward", size) for size in sorted({first, last})] + [("time_backward", last)]
    rows = []
    for name in names:
        cells = [_ns(here.value(f"{name}.{what}", size), size) for what, size in timed]
        cells.append(_short(here.value(f"{name}.track_multiplies", last)))
        taken = here.taken[f"{name}.time_forward"]
        cells.append(f"{taken.commit[:8]}, {taken.date}")
        link = f'<a href="history/index.html#{name}.time_forward">{name}</a>'
        rows.append(f"<tr><td>{link}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    titles = [f"{what.removeprefix('time_')}, {size:,}" for what, size in timed] + [
        "times np.multiply",
        "taken",
    ]
    head = "".join(f"<th>{title}</th>" for title in ("", *titles))
    caption = f"ns per element, p = 0.5, {_threads(here, f'{names[0]}.time_forward', 2)}"
    table = f"<table><caption>{caption}</caption><tr>{head}</tr>{''.join(rows)}</table>"
    summary = f"<summary>All functions and layers that were timed: {len(names)}</summary>"
    return f'<details>{summary}<div class="wide">{table}</div></details>'


def _commit(here: Here, name: str) -> str:
    date, commit, _ = here.taken[name]
    return f"commit {commit[:8]}, {plots.day(date)}"


def _threads(here: Here, name: str, at: int) -> str:
    count = here.tried(name, at)[-1]
    return f"{count} thread{'s' * (count > 1)}"


def _short(value: float | None) -> str:
    return "" if value is None else plots.short(value)


def _ns(seconds: float | None, elements: int) -> str:
    return "" if seconds is None else plots.short(seconds * 1e9 / elements)


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
    found = plots.times(results, size, 0.5, threads)
    caption = f"{size:,} elements, p = 0.5, {threads} threads: ns per element on a logarithmic scale"
    return _figure(plots.bars(found, caption), f"{caption}, in brackets times np.multiply.")


def _curves(results: Results, threads: int) -> str:
    m = results.machine
    marks = {"past the caches": m["streaming_from_bytes"] // 4}
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
    parser.add_argument("--results", type=Path, default=RESULTS, help="asv's folder of results")
    given = parser.parse_args(arguments)
    folder = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(page(Results.read(), Here.read(given.results)))
    history.finish(folder / "history")


if __name__ == "__main__":
    main()
