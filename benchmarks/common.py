"""What the benchmark programs share: a line for each case, and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

import fastdrop as fd
from fastdrop._bench import seconds_in_turns


def report(name: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print medians in us, and each as a multiple of the first."""
    medians = seconds_in_turns(calls, rounds)
    first = next(iter(medians.values()))
    cells = (f"{label} {s * 1e6:8.0f} us ({s / first:4.2f}x)" for label, s in medians.items())
    print(f"{name:26}" + "  ".join(cells), flush=True)


def run(
    parts: Iterable[Callable[[int, bool], None]], doc: str | None, arguments: list[str] | None = None
) -> None:
    """Call each part with the number of rounds, and whether arrays shall be tiny."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=fd.get_num_threads())
    parser.add_argument("--small", action="store_true", help="tiny arrays, to see that it runs")
    chosen = parser.parse_args(arguments)
    before = fd.get_num_threads()
    fd.set_num_threads(chosen.threads)
    try:
        for part in parts:
            part(chosen.rounds, chosen.small)
    finally:
        fd.set_num_threads(before)
