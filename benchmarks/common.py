"""What the benchmark programs share: a line for each case, and the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, redirect_stdout
from itertools import chain, repeat
from multiprocessing import get_context
from typing import Any

import fastdrop as fd
from fastdrop._tools.bench import NO_CONTEXTS, Contexts, circumstances, seconds_in_turns

Part = Callable[[int, bool], None]
# Of each model of torch_steps.py: how fast its matrix products are depends on where in memory it came to lie.
BUILDS = 8
_SHOWN: list[dict[str, Any]] = []  # of the part that runs


def turns_of_a_build(rounds: int) -> int:
    """How many turns torch_steps.py has for each build of a model, which make that many rounds or more."""
    return -(-rounds // min(BUILDS, rounds))


def turns_of_attention(rounds: int) -> int:
    """How many turns torch_steps.py has for attention, which takes long."""
    return -(-rounds // 4)


def report(
    name: str,
    calls: dict[str, Callable[[], object]],
    rounds: int,
    number: int = 1,
    within: Contexts = NO_CONTEXTS,
) -> None:
    """Show medians in us, of samples of so many calls."""
    medians = seconds_in_turns(calls, rounds, number, within=within)
    show(name, {label: s * 1e6 for label, s in medians.items()}, "us")


def show(name: str, values: dict[str, float], unit: str) -> None:
    """Print values, and each as a multiple of the first."""
    _SHOWN.append({"case": name, "unit": unit, "values": values})
    first = next(iter(values.values()))
    cells = (f"{label} {value:8.0f} {unit} ({value / first:4.2f}x)" for label, value in values.items())
    print("  ".join([f"{name:26}", *cells]), flush=True)


def run(
    parts: Iterable[Part], doc: str | None, arguments: list[str] | None = None, apart: bool = False
) -> None:
    """Call each part with the number of rounds, and whether arrays shall be tiny.

    Apart, each has a process of its own: none finds the allocator and the threads as another left them.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=fd.get_num_threads())
    parser.add_argument("--small", action="store_true", help="tiny arrays, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print plain data, with the machine's")
    chosen = parser.parse_args(arguments)
    before = fd.get_num_threads()
    fd.set_num_threads(chosen.threads)
    try:
        found = circumstances(chosen.rounds)
        if apart:
            with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
                rows = list(chain.from_iterable(fresh.map(_rows, parts, repeat(chosen))))
        else:
            rows = list(chain.from_iterable(map(_rows, parts, repeat(chosen))))
    finally:
        fd.set_num_threads(before)
    if chosen.json:
        print(json.dumps(found | {"results": rows}, indent=1))


def _rows(part: Part, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """What a part shows, as plain data."""
    _SHOWN.clear()
    fd.set_num_threads(chosen.threads)
    with redirect_stdout(sys.stderr) if chosen.json else nullcontext():
        part(chosen.rounds, chosen.small)
    return [{"part": part.__name__} | row for row in _SHOWN]
