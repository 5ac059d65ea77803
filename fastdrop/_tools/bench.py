"""What `python -m fastdrop bench` measures: the time of dropout beside other ways to do the same.

The contenders are a copy and a product, which move as much memory as dropout has to, and what NumPy,
PyTorch and JAX offer. A contender whose package is not installed is left out.
"""

from __future__ import annotations

import datetime
import importlib.util
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

import fastdrop as fd
from fastdrop._tools.info import info

Call = Callable[[], Any]
Contexts: TypeAlias = Mapping[str, Callable[[], AbstractContextManager[Any]]]  # of calls, by their names
NO_CONTEXTS: Contexts = MappingProxyType({})
CONTENDERS: dict[str, Callable[..., Call]] = {}
BASELINE = "np.multiply(out=)"
FEWEST_ROUNDS = 5  # that are measured, however long they take
SAMPLE_ELEMENTS = 1 << 14  # one call is timed for a bigger array; for a smaller one several in a row


def _contender(
    name: str, needs: str | None = None, program: str | None = None
) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
    """Enter a function in CONTENDERS, if the package and the program that it needs are installed."""

    def register(make: Callable[..., Call]) -> Callable[..., Call]:
        installed = needs is None or importlib.util.find_spec(needs)
        if installed and (program is None or shutil.which(program)):
            CONTENDERS[name] = make
        return make

    return register


@_contender("np.copyto")
def _copy(x: Any, y: Any, p: float, threads: int) -> Call:
    return lambda: np.copyto(y, x)


@_contender(BASELINE)
def _multiply(x: Any, y: Any, p: float, threads: int) -> Call:
    scale = np.float32(1 / (1 - p))
    return lambda: np.multiply(x, scale, out=y)


@_contender("fastdrop")
def _forward(x: Any, y: Any, p: float, threads: int) -> Call:
    key = fd.Key(0)
    return lambda: fd.dropout(x, p, key, out=y)


@_contender("fastdrop backward")
def _backward(x: Any, y: Any, p: float, threads: int) -> Call:
    key = fd.Key(0)
    return lambda: fd.dropout_backward(x, p, key, out=y)


@_contender("fastdrop layer, new output")
def _layer(x: Any, y: Any, p: float, threads: int) -> Call:
    layer = fd.Dropout(p, rng=0)
    return lambda: layer(x)


@_contender("best NumPy idiom")
def _idiom(x: Any, y: Any, p: float, threads: int) -> Call:
    """Preallocated buffers, float32 draws and NumPy's fastest generator."""
    rng = np.random.Generator(np.random.SFC64(0))
    uniforms, keep = np.empty(x.shape, np.float32), np.empty(x.shape, np.bool_)
    scale = np.float32(1 / (1 - p))

    def call() -> None:
        rng.random(out=uniforms, dtype=np.float32)
        np.greater_equal(uniforms, p, out=keep)
        np.multiply(x, scale, out=y)
        np.multiply(y, keep, out=y)

    return call


@_contender("tutorial's NumPy")
def _tutorial(x: Any, y: Any, p: float, threads: int) -> Call:
    # This is how tutorials write it, with NumPy's legacy generator.
    return lambda: x * np.random.binomial(1, 1 - p, x.shape) / (1 - p)  # noqa: NPY002


@_contender("PyTorch eager", needs="torch")
def _torch(x: Any, y: Any, p: float, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    tensor = torch.from_numpy(x)
    return lambda: torch.nn.functional.dropout(tensor, p, training=True)


@_contender("PyTorch, buffers reused", needs="torch")
def _torch_out(x: Any, y: Any, p: float, threads: int) -> Call:
    """The steps of its dropout, which itself takes no `out`."""
    import torch

    torch.set_num_threads(threads)
    tensor, out = torch.from_numpy(x), torch.from_numpy(y)
    noise = torch.ones_like(tensor)
    return lambda: torch.mul(tensor, noise.bernoulli_(1 - p).div_(1 - p), out=out)


@_contender("PyTorch compiled", needs="torch", program="c++")
def _torch_compiled(x: Any, y: Any, p: float, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    torch.compiler.reset()  # otherwise the second size is compiled as a kernel for any size
    tensor = torch.from_numpy(x)
    compiled = torch.compile(lambda tensor: torch.nn.functional.dropout(tensor, p, training=True))
    return lambda: compiled(tensor)


@_contender("JAX jitted", needs="jax")
def _jax(x: Any, y: Any, p: float, threads: int) -> Call:
    import jax

    def dropout(key: Any, x: Any) -> Any:
        return jax.numpy.where(jax.random.bernoulli(key, 1 - p, x.shape), x / (1 - p), 0)

    jitted, key, array = jax.jit(dropout), jax.random.key(0), jax.numpy.asarray(x)
    return lambda: jitted(key, array).block_until_ready()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let fastdrop use so many threads inside a with statement."""
    before = fd.get_num_threads()
    fd.set_num_threads(count)
    try:
        yield
    finally:
        fd.set_num_threads(before)


def measure(
    sizes: Iterable[int],
    rates: Iterable[float],
    threads: int,
    rounds: int,
    names: Iterable[str] = CONTENDERS,
    first_call: bool = False,
    seconds: float = math.inf,
) -> list[dict[str, Any]]:
    """Return the median time of each contender for each size and rate, as rows of plain data.

    The contenders take turns, so that all of them meet the machine's slow and fast moments. In its turn
    each is called once without being timed, and then timed. With `first_call` the first call is timed
    instead: by then other contenders have displaced its code and data from the caches, and its threads
    sleep, as in a training loop. The ratio is to the time of np.multiply, or to that of the first name if
    np.multiply is not among them. A size stops after so many seconds, but not before FEWEST_ROUNDS rounds.
    """
    names = list(names)
    with _threads(threads):
        return [
            row
            for p in rates
            for size in sizes
            for row in _measure_one(size, p, threads, rounds, names, first_call, seconds)
        ]


def _measure_one(
    size: int, p: float, threads: int, rounds: int, names: list[str], first_call: bool, seconds: float
) -> list[dict[str, Any]]:
    """The rows of one size and rate."""
    x = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    y = np.zeros_like(x) + 1  # writes to each page, so that no timed call is the first to do so
    calls = {name: CONTENDERS[name](x, y, p, threads) for name in names}
    number = 1 if first_call else max(1, SAMPLE_ELEMENTS // size)
    medians = seconds_in_turns(calls, rounds, number, not first_call, seconds)
    base = medians.get(BASELINE, medians[names[0]])
    return [
        {
            "contender": name,
            "size": size,
            "p": p,
            "threads": threads,
            "ns_per_element": median / size * 1e9,
            "us_per_call": median * 1e6,
            "ratio": median / base,
        }
        for name, median in medians.items()
    ]


def seconds_in_turns(
    calls: dict[str, Call],
    rounds: int,
    number: int = 1,
    warm: bool = True,
    seconds: float = math.inf,
    within: Contexts = NO_CONTEXTS,
) -> dict[str, float]:
    """Return the median time in seconds of each call.

    In each round every call has a turn: it is called once if `warm`, and then timed, so many times in a
    row. The first round is not counted. No round starts after so many seconds, but FEWEST_ROUNDS are done.
    A call's turns are within its context, if it has one, which isn't timed.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(rounds + 1):
        if done > FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for name, call in calls.items():
            with within.get(name, nullcontext)():
                for _ in range(
                    warm + (name in within)
                ):  # entering a context stirs the allocator's free memory
                    call()
                times[name].append(_seconds(call, number))
    return {name: statistics.median(sample[1:]) for name, sample in times.items()}


def _seconds(call: Call, number: int) -> float:
    """The mean time of so many calls in a row."""
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def circumstances(rounds: int) -> dict[str, Any]:
    """Return the date, the rounds, the load and the machine of a measurement, as plain data."""
    today = datetime.date.today().isoformat()
    return {"date": today, "rounds": rounds, "load": load(), "machine": info()}


def load() -> float | None:
    """Return how many other threads want to run, on average over a second; None without /proc/loadavg."""
    source = Path("/proc/loadavg")
    if not source.exists():
        return None
    running = 0
    for _ in range(20):
        time.sleep(0.05)
        running += int(source.read_text().split()[3].partition("/")[0]) - 1  # without this thread
    return round(running / 20, 1)
