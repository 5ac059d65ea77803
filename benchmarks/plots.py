"""Bars and curves as inline SVG, on logarithmic scales, legible on a phone, in light and dark."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from peers_results import LIMITS, OURS, Curve, Results

WIDTH, NAMES = 420, 130  # of a figure, and of the column in it that names what is drawn
SHORT = {  # names that fit it
    "fastdrop backward": "fd backward",
    "fastdrop layer, new output": "fd layer",
    "np.multiply(out=)": "np.multiply",
    "PyTorch, buffers reused": "PyTorch, reused",
}
STYLE = (Path(__file__).parent / "figure.css").read_text()


class Line(NamedTuple):
    """A curve, what names it, whose family's colour it has, and how it is dashed."""

    name: str
    points: Curve
    family: str
    dashes: str = ""


class Bar(NamedTuple):
    """A bar, what names it and decides its colour, how long it is, and what is written at its end."""

    name: str
    value: float
    text: str


def family(name: str) -> str:
    """Whose colour a contender has."""
    starts = {"fastdrop": "ours", "np.": "limit", "PyTorch": "torch", "JAX": "jax"}
    return next((of for start, of in starts.items() if name.startswith(start)), "numpy")


def peers(results: Results, p: float, threads: int) -> list[Line]:
    """A line for each contender; those of a family differ by their dashes."""
    seen: dict[str, int] = {}
    lines = []
    for name in results.names():
        of = family(name)
        dashes = ("", "6 3", "2 3")[seen.setdefault(of, 0) % 3]
        seen[of] += 1
        lines.append(Line(name, results.curve(name, p, threads), of, dashes))
    return [line for line in lines if line.points]


def growth(results: Results) -> list[Line]:
    """Lines of fastdrop by rate and number of threads, and the limits on one thread."""
    counts = results.values("threads")
    lines = [Line(name, results.curve(name, 0.5, counts[0]), "limit", "2 3") for name in LIMITS]
    for p, of in zip(reversed(results.values("p")), ("ours", "torch", "jax"), strict=False):
        for threads, dashes in zip(counts, ("6 3", "", "2 3"), strict=False):
            name = f"p={p:g}, {threads} thread{'s' * (threads > 1)}"
            lines.append(Line(name, results.curve(OURS, p, threads), of, dashes))
    return [line for line in lines if line.points]


class Scale:
    """A logarithmic axis from the least to the most of some values, over some pixels."""

    def __init__(self, values: Iterable[float], start: float, end: float) -> None:
        found = [math.log10(v) for v in values]
        self.least, self.most = min(found), max(max(found), min(found) + 1e-9)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.least) / (self.most - self.least)
        return round(self.start + share * (self.end - self.start), 1)

    def decades(self) -> list[float]:
        """The powers of ten in it."""
        return [10.0**k for k in range(math.ceil(self.least - 1e-9), math.floor(self.most + 1e-9) + 1)]


def curves(lines: Sequence[Line], title: str, marks: dict[str, int] | None = None, height: int = 330) -> str:
    """Ns per element over elements, each line named at its end; `marks` are sizes where something begins."""
    right, bottom = WIDTH - NAMES, height - 34
    x = Scale([size for line in lines for size, _ in line.points], 38, right)
    values = [ns for line in lines for _, ns in line.points]
    y = Scale([10 ** math.floor(math.log10(min(values))), max(values) * 1.1], bottom, 22)
    parts = [
        *(_across(y(v), _thousands(v), right) for v in y.decades()),
        *(_down(x(1 << k), _count(1 << k), bottom) for k in range(10, 28, 4) if _within(x, 1 << k)),
        *(_mark(x(n), name, bottom, k) for k, (name, n) in enumerate((marks or {}).items()) if _within(x, n)),
        *map(_polyline, lines, [[(x(n), y(ns)) for n, ns in line.points] for line in lines]),
        *_names(lines, [y(line.points[-1][1]) for line in lines], right, bottom),
        '<text x="4" y="12">ns per element</text>',
        f'<text x="{right}" y="{height - 4}" text-anchor="end">elements</text>',
    ]
    return _figure(title, height, parts)


def times(results: Results, size: int, p: float, threads: int) -> list[Bar]:
    """A bar for each contender: its ns per element at a size, and in brackets times np.multiply."""
    rows = [row for name in results.names() if (row := results.row(name, size, p, threads))]
    return [
        Bar(row["contender"], ns := row["ns_per_element"], f"{short(ns)} ns ({short(row['ratio'])}x)")
        for row in rows
    ]


def bars(found: Sequence[Bar], title: str) -> str:
    """Bars on a logarithmic scale, the shortest first."""
    least = 10 ** math.floor(math.log10(min(bar.value for bar in found) / 2))  # it, too, has a bar to see
    width = Scale([least, max(bar.value for bar in found) * 1.05], 0, WIDTH - NAMES - 116)
    parts = []
    for k, (name, value, text) in enumerate(sorted(found, key=lambda bar: bar.value)):
        at, of = 26 * k + 4, family(name)
        parts.append(
            f'<text class="{of} name" x="{NAMES}" y="{at + 15}" text-anchor="end">{_named(name)}</text>'
            f'<rect class="{of} bar" x="{NAMES + 6}" y="{at}" width="{width(value):.1f}" height="20" rx="2"/>'
            f'<text x="{NAMES + 11 + width(value):.1f}" y="{at + 15}">{escape(text)}</text>'
        )
    return _figure(title, 26 * len(found) + 6, parts)


def short(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def day(date: str) -> str:
    """A day as one writes it, of 2026-11-25."""
    return datetime.date.fromisoformat(date).strftime("%-d %B %Y")


def _named(name: str) -> str:
    return escape(SHORT.get(name, name))


def _figure(title: str, height: int, parts: Iterable[str]) -> str:
    return (
        f'<svg class="figure" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{escape(title)}">\n<rect class="paper" width="{WIDTH}" height="{height}"/>\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def _within(scale: Scale, value: float) -> bool:
    return scale.least - 1e-9 <= math.log10(value) <= scale.most + 1e-9


def _thousands(value: float) -> str:
    return f"{value:g}" if value < 1000 else f"{value / 1000:g}k"


def _count(n: int) -> str:
    """A power of two as 1 Ki, 64 Ki, 1 Mi."""
    thousands = (n.bit_length() - 1) // 10
    return f"{n >> 10 * thousands} {('', 'Ki', 'Mi')[thousands]}".strip()


def _across(y: float, label: str, right: float) -> str:
    line = f'<line class="grid" x1="38" x2="{right}" y1="{y}" y2="{y}"/>'
    return f'{line}<text x="34" y="{y + 4}" text-anchor="end">{label}</text>'


def _down(x: float, label: str, bottom: float) -> str:
    line = f'<line class="grid" x1="{x}" x2="{x}" y1="22" y2="{bottom}"/>'
    return f'{line}<text x="{x}" y="{bottom + 15}" text-anchor="middle">{label}</text>'


def _mark(x: float, name: str, bottom: float, number: int) -> str:
    line = f'<line class="mark" x1="{x}" x2="{x}" y1="22" y2="{bottom}"/>'
    return f'{line}<text x="{x - 4}" y="{34 + 14 * number}" text-anchor="end">{escape(name)}</text>'


def _polyline(line: Line, points: list[tuple[float, float]]) -> str:
    dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
    at = " ".join(f"{x},{y}" for x, y in points)
    dots = "".join(f'<circle class="{line.family}" cx="{x}" cy="{y}" r="1.8"/>' for x, y in points)
    return f'<polyline class="{line.family}" points="{at}"{dashes}/>{dots}'


def _names(lines: Sequence[Line], ends: list[float], right: float, bottom: float) -> Iterable[str]:
    """Names at the ends of lines, moved apart, with a stroke to each."""
    order = sorted(range(len(lines)), key=ends.__getitem__)
    places: list[float] = []
    for k in order:
        places.append(max(ends[k], places[-1] + 13 if places else 22))
    over = max(0.0, places[-1] - bottom)
    for below in range(len(places) - 1, -1, -1):  # from the bottom up, as far as needed
        limit = bottom if below == len(places) - 1 else places[below + 1] - 13
        places[below] = min(places[below], limit) if over else places[below]
    for k, place in zip(order, places, strict=True):
        of = lines[k].family
        yield (
            f'<line class="{of} leader" x1="{right + 3}" y1="{ends[k]}" x2="{right + 10}" y2="{place:.1f}"/>'
            f'<text class="{of} name" x="{right + 13}" y="{place + 4:.1f}">{_named(lines[k].name)}</text>'
        )
