"""Writes README.md's tables of peers and of PyTorch's steps, and its plot, from the results files.

python benchmarks/readme.py
"""

from __future__ import annotations

import datetime
from pathlib import Path

import plots
from peers_results import STEPS, Results, Row

README = Path(__file__).parents[1] / "README.md"
PLOT = Path(__file__).parent / "results" / "peers.svg"
BEGIN, END = "<!-- written by benchmarks/readme.py -->\n", "<!-- until here -->\n"
SIZES = (1 << 10, 1 << 16, 1 << 18, 1 << 22, 1 << 25)
SHOWN = {
    "np.copyto": "`np.copyto(y, x)`",
    "np.multiply(out=)": "`np.multiply(x, s, out=y)`",
    "fastdrop": "**`fd.dropout(x, p, key, out=y)`**",
    "fastdrop backward": "**`fd.dropout_backward`**, likewise",
    "fastdrop layer, new output": "`fd.Dropout(p)(x)`, new output",
    "best NumPy idiom": "best NumPy idiom, buffers reused",
    "tutorial's NumPy": "NumPy as tutorials write it",
    "JAX jitted": "JAX, jitted",
}


def section(results: Results) -> str:
    """What stands between the marks: where and when, the table, and the other rate."""
    threads = results.values("threads")[-1]
    sizes = [n for n in SIZES if n in results.values("size")]
    return "\n".join(
        [
            "Nanoseconds per float32 element at p = 0.5, in brackets times `np.multiply(x, s, out=y)` in the",
            f"same run; medians of up to {results.rounds} turns, {threads} threads allowed to each, on",
            f"{results.processor()}; {results.versions()}; {_day(results.date)}:",
            "",
            _row("elements", [f"{n:,}" for n in sizes]),
            _row("---", ["---"] * len(sizes)),
            *(_row(SHOWN.get(name, name), _cells(results, name, sizes, threads)) for name in results.names()),
            "",
            _other_rate(results, sizes[1:], threads),
            *([results.caution()] if results.caution() else []),
            "",
            "![Time per element over size, fastdrop among its peers](benchmarks/results/peers.svg)",
            "",
        ]
    )


def steps(results: Results) -> str:
    """What comes after it: PyTorch with its own dropout, with fastdrop's, and without."""
    rows = sorted(
        results.rows,
        key=lambda row: ("gpt", "mlp", "encoder", "bert", "attention", "calls", "memory").index(row["part"]),
    )
    contenders = ("p=0", "install()", "fastdrop", "torch.nn")
    return "\n".join(
        [
            "",
            "In PyTorch: a step is forward, backward and an update by fused AdamW, on 16 texts of 128",
            "characters (4 layers, width 128, 4 heads, p = 0.1), on 128 images (784-1024-1024-10, p = 0.2,",
            "0.5, 0.5), or on 8 texts of 128 (4 layers, width 256, 4 heads, p = 0.1), with fastdrop under",
            "PyTorch's own dropout (`install`) or in its modules (`replace_dropout`). Then attention of 8",
            "heads of 64 over 2,048 places in all, p = 0.1, and a module alone, p = 0.5, by elements, in",
            "loops over a million of them or one call, and its peak memory with backward.",
            f"Medians of {results.rounds} turns,",
            f"{results.machine['threads']} threads, on {results.processor()};",
            f"{results.versions()}; {_day(results.date)}:",
            "",
            _row("", ["no dropout (p = 0)", "`install()`", "modules", "torch.nn", "torch.nn / `install()`"]),
            _row("---", ["---"] * 5),
            *(_row(row["case"], [*(_amount(row, name) for name in contenders), _gain(row)]) for row in rows),
            *(["", results.caution()] if results.caution() else []),
            "",
        ]
    )


def _amount(row: Row, name: str) -> str:
    value, unit = row["values"][name], row["unit"]
    return (
        f"{plots.short(value / 1000)} ms"
        if unit == "us" and value >= 1000
        else f"{plots.short(value)} {unit}"
    )


def _gain(row: Row) -> str:
    return plots.short(row["values"]["torch.nn"] / row["values"]["install()"])


def _row(first: str, cells: list[str]) -> str:
    return f"| {' | '.join([first, *cells])} |".replace("| --- ", "|---").replace("--- |", "---|")


def _cells(results: Results, name: str, sizes: list[int], threads: int) -> list[str]:
    rows = [results.row(name, n, 0.5, threads) for n in sizes]
    return [f"{plots.short(r['ns_per_element'])} ({plots.short(r['ratio'])})" if r else "" for r in rows]


def _other_rate(results: Results, sizes: list[int], threads: int) -> str:
    rows = [results.row("fastdrop", n, 0.1, threads) for n in sizes]
    ratios = [plots.short(row["ratio"]) for row in rows if row]
    return (
        "With p = 0.1, which takes twelve random bits an element instead of one, fastdrop takes\n"
        f"{', '.join(ratios)} times the multiplication from {sizes[0]:,} elements up."
    )


def _day(date: str) -> str:
    return datetime.date.fromisoformat(date).strftime("%-d %B %Y")


def with_section(text: str, new: str) -> str:
    """The README with what is between the marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + new + END + after


def plot(results: Results) -> str:
    """The curves as a file of its own, which brings its style along."""
    lines = plots.peers(results, 0.5, results.values("threads")[-1])
    drawn = plots.curves(lines, "Time per element over size, fastdrop among its peers")
    return drawn.replace(">\n", f">\n<style>{plots.STYLE}</style>\n", 1) + "\n"


if __name__ == "__main__":
    read = Results.read()
    README.write_text(with_section(README.read_text(), section(read) + steps(Results.read(STEPS))))
    PLOT.write_text(plot(read))
