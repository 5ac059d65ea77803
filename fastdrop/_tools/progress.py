"""A progress bar for commands that take long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, total: int, lines: bool = True) -> Iterator[Callable[[str], None]]:
    """Give a function to call with a name for each of so many steps that is done.

    A terminal gets a bar on the standard error if rich is installed, else a line for each step, if `lines`.
    Where the standard error is no terminal, nothing is written.
    """
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        done = 0

        def step(name: str) -> None:
            nonlocal done
            done += 1
            if lines:
                print(f"{what}: {done} of {total}, {name}", file=sys.stderr, flush=True)

        yield step
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    shared = sys.stdout.isatty()  # then what is printed must stand above the bar
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(what, total=total)
        yield lambda name: bar.update(task, advance=1, description=f"{what}: {name}")
