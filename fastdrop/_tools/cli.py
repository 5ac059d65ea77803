"""Commands: `python -m fastdrop bench`, `info`, `selftest`, `stream` and `warmup`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

from fastdrop._extras import how_to_install

_SIZES = [2**10, 2**16, 2**18, 2**22, 2**25]
_SIZES_HELP = "elements, also as 2^16 (default: 2^10 2^16 2^18 2^22 2^25)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; `arguments` are by default those that the process was started with.

    It ends quietly if nobody reads what it prints any more, and with a message if that can't be written.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        chosen.run(parser, chosen)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
    except OSError as error:
        _close_output()
        parser.exit(1, f"{parser.prog}: error: {error.strerror or error}\n")


def _close_output() -> None:
    """Let Python write what is left for the standard output to nowhere, when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    from fastdrop import STREAM_VERSION, __version__

    parser = argparse.ArgumentParser(prog="python -m fastdrop", description=__doc__)
    version = f"fastdrop {__version__}, stream version {STREAM_VERSION}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")
    bench = commands.add_parser("bench", help="time dropout beside other ways to do the same")
    bench.set_defaults(run=_bench)
    bench.add_argument("--sizes", type=_whole, nargs="+", metavar="N", default=_SIZES, help=_SIZES_HELP)
    bench.add_argument("--rates", type=_rate, nargs="+", default=[0.5, 0.1], metavar="P")
    bench.add_argument(
        "--threads", type=_whole, nargs="+", metavar="N", help="for all contenders; default: one a core"
    )
    bench.add_argument("--rounds", type=_whole, default=21, help="how many samples the median is of")
    bench.add_argument(
        "--seconds", type=float, default=math.inf, help="a size that takes longer gets fewer rounds"
    )
    bench.add_argument("--contenders", nargs="+", metavar="NAME", help="which, in this order; default: all")
    bench.add_argument("--first-call", action="store_true", help="time the first call of each turn")
    bench.add_argument("--json", action="store_true", help="print plain data, the machine's with it")
    show = commands.add_parser("info", help="print versions, threads and processor")
    show.set_defaults(run=_info)
    show.add_argument("--json", action="store_true", help="print plain data")
    test = commands.add_parser("selftest", help="check bits, statistics, threads and forks here")
    test.set_defaults(run=_selftest)
    _add_stream(commands.add_parser("stream", help="write random bits for a battery of tests"))
    _add_warmup(commands.add_parser("warmup", help="compile kernels, so that no call has to wait for it"))
    return parser


def _add_stream(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `stream`."""
    from fastdrop._tools import bits

    parser.set_defaults(run=_write_stream)
    parser.description = (
        "Writes raw words of the stream, or with --p the bits of masks: at 0.5 all bits, at another rate "
        "the first of each pair of bits that differ (von Neumann), so that 0 and 1 are equally probable. "
        "The bytes go to the standard output, without end if --bytes is not given."
    )
    add = parser.add_argument
    add("--p", type=_rate, metavar="P", help="rate of the masks, above 0 and below 1")
    add("--seed", type=int, default=0, help="of the key (default: %(default)s)")
    add("--draw", type=int, default=0, help="of the key (default: %(default)s)")
    add("--vary", choices=bits.VARY, default=bits.VARY[0], help="what differs from part to part")
    add("--size", type=_whole, default=1 << 20, metavar="N", help="words of a part, or elements of its mask")
    add("--interleave", type=_whole, default=1, metavar="N", help="how many parts give a word in turn")
    add("--bytes", type=_whole, metavar="N", help="how many to write, also as 2^30")
    add("--reference", action="store_true", help="make the same bits by slow NumPy, without the kernels")


def _add_warmup(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command `warmup`."""
    parser.set_defaults(run=_warmup)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="functions and layers, such as dropout; default: all")
    add("--dtype", nargs="+", default=["float32"], metavar="D", help="of arrays (default: float32)")
    add("--torch", action="store_true", help="also what PyTorch's CPU tensors need beside NumPy's kernels")
    add("--processes", type=_whole, metavar="N", help="that compile at a time; default: one a core")


def _warmup(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Run the command `warmup`."""
    from fastdrop._noises._warmup import jobs, steps
    from fastdrop._tools.progress import progress

    try:
        todo = jobs(tuple(chosen.names), chosen.dtype, chosen.torch)
    except (ImportError, TypeError, ValueError) as error:
        parser.error(str(error))
    with progress("compiling", len(todo)) as step:
        for job in steps(todo, chosen.processes):
            step(f"{job.noise} {job.dtype}")


def _write_stream(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Run the command `stream`."""
    from fastdrop import Key
    from fastdrop._arrays.numbers import FULL, rate
    from fastdrop._tools import bits

    if sys.stdout.isatty():
        parser.error("the bytes would go to the terminal; write them to a file or a pipe")
    if chosen.size % 64:
        parser.error(f"--size must be a multiple of 64, got {chosen.size}")
    if chosen.p is not None and not 0 < rate(chosen.p)[0] < FULL:
        parser.error(f"--p must be inside (0, 1), and 2**-33 from its ends, got {chosen.p}")
    try:
        key = Key(chosen.seed, chosen.draw)
    except ValueError as error:
        parser.error(str(error))
    settings = chosen.p, chosen.vary, chosen.size, chosen.interleave, chosen.reference
    bits.write(sys.stdout.buffer, chosen.bytes, key, *settings)


def _selftest(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Run the command `selftest`, and end the process with 1 if a check failed."""
    from fastdrop._tools import selftest

    if selftest.run():
        sys.stdout.flush()
        sys.exit(1)


def _whole(text: str) -> int:
    """A positive integer of the command line, also as a power: 2^16."""
    base, _, power = text.partition("^")
    try:
        number = int(base) ** int(power) if power else int(base)
    except ValueError:
        allowed = "a whole number such as 65536 or 2^16"
        raise argparse.ArgumentTypeError(f"must be {allowed}, got {text}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _rate(text: str) -> float:
    """A rate of the command line."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1), got {text}")
    return rate


def _bench(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Run the command `bench`."""
    from fastdrop import get_num_threads
    from fastdrop._tools import bench
    from fastdrop._tools.info import info

    names = chosen.contenders or list(bench.CONTENDERS)
    if unknown := set(names) - set(bench.CONTENDERS):
        parser.error(f"--contenders must be of {sorted(bench.CONTENDERS)}, got {sorted(unknown)}")
    sizes = chosen.sizes
    counts = chosen.threads or [get_num_threads()]

    def measured() -> list[dict[str, Any]]:
        settings = (chosen.rounds, names, chosen.first_call, chosen.seconds)
        return [row for n in counts for row in bench.measure(sizes, chosen.rates, n, *settings)]

    if chosen.json:
        print(json.dumps(bench.circumstances(chosen.rounds) | {"results": measured()}, indent=1))
        return
    try:
        from rich.console import Console
    except ImportError:
        parser.error(f"the table needs rich; {how_to_install('bench')}, or --json")
    console = Console()
    with console.status("measuring ..."):
        rows = measured()
    for threads, rate in product(counts, chosen.rates):
        of = [row for row in rows if (row["threads"], row["p"]) == (threads, rate)]
        console.print(_table(of, rate, threads))
    machine = info()
    console.print(f"medians of {chosen.rounds} turns on {machine['processor']}, {machine['cores']} cores")


def _table(rows: list[dict[str, Any]], rate: float, threads: int) -> Any:
    """The table of one rate and number of threads: a row for each contender, a column for each size."""
    from rich.table import Table

    sizes = sorted({row["size"] for row in rows})
    base = next(row["contender"] for row in rows if row["ratio"] == 1)
    table = Table(title=f"float32, p = {rate}, {threads} threads: ns per element (times {base})")
    table.add_column("elements")
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    for name in dict.fromkeys(row["contender"] for row in rows):
        found = {row["size"]: row for row in rows if row["contender"] == name}
        cells = (f"{found[n]['ns_per_element']:.3g} ({found[n]['ratio']:.2f}x)" for n in sizes)
        table.add_row(name, *cells)
    return table


def _info(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Run the command `info`."""
    from fastdrop._tools.info import info

    machine = info()
    if chosen.json:
        print(json.dumps(machine, indent=1))
        return
    for name, value in machine.items():
        shown = " ".join(value) if isinstance(value, list) else "not installed" if value is None else value
        print(f"{name.replace('_', ' '):24}{shown}")
