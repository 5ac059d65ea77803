"""What `python -m fastdrop bench` measures: dropout beside the limits and its peers, in alternation."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import fastdrop as fd

Call = Callable[[], Any]
CONTENDERS: dict[str, Callable[..., Call]] = {}
BASELINE = "np.multiply(out=)"
FEWEST = 5  # rounds that count, however long they take
SAMPLE = 1 << 14  # a sample takes as many calls as make up this many elements, at least one


def _contender(
    name: str, needs: str | None = None, program: str | None = None
) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
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
    # the form that is taught, legacy generator included
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
    torch.compiler.reset()  # else sizes after the first share a kernel of any size
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
    """Medians of each contender's time per element, as rows of plain data.

    The contenders take turns, so that they share the machine's ups and downs. In its turn each is
    called once, then timed; with `first_call` that first call is what is timed: its code and its data
    have left the caches and its threads sleep, as in a training loop. Ratios are to np.multiply, or to
    the first of the names where that isn't among them. A size for which the rounds would take more than so
    many seconds gets fewer, at least FEWEST.
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
    x = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    y = np.zeros_like(x) + 1  # touched pages
    calls = {name: CONTENDERS[name](x, y, p, threads) for name in names}
    number = 1 if first_call else max(1, SAMPLE // size)
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
    calls: dict[str, Call], rounds: int, number: int = 1, warm: bool = True, seconds: float = math.inf
) -> dict[str, float]:
    """The median time of each call over rounds in which all take turns; a first round isn't counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(rounds + 1):
        if done > FEWEST and time.perf_counter() > end:
            break
        for name, call in calls.items():
            if warm:
                call()
            times[name].append(_seconds(call, number))
    return {name: statistics.median(sample[1:]) for name, sample in times.items()}


def _seconds(call: Call, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def info() -> dict[str, Any]:
    """Versions, threads, processor and stream version, as plain data."""
    from llvmlite import binding

    from fastdrop._cpu import calls

    features = binding.get_host_cpu_features()
    return {
        "fastdrop": fd.__version__,
        "stream": fd.STREAM_VERSION,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("numpy", "numba", "llvmlite", "torch", "jax")},
        "system": platform.platform(),
        "processor": _processor(),
        "llvm_cpu": binding.get_host_cpu_name(),
        "features": [
            name for name in ("sse2", "avx2", "fma", "f16c", "avx512f", "neon") if features.get(name)
        ],
        "cores": os.cpu_count(),
        "threads": fd.get_num_threads(),
        "parallel_from_elements": calls.PARALLEL_FROM,
        "streaming_from_bytes": calls.STREAM_FROM,
    }


def taken(rounds: int) -> dict[str, Any]:
    """When, in how many rounds, beside what load and on what machine figures are taken, as plain data."""
    today = datetime.date.today().isoformat()
    return {"date": today, "rounds": rounds, "load": load(), "machine": info()}


def load() -> float | None:
    """How many other threads want a core, on average over a second; where the system tells."""
    tells = Path("/proc/loadavg")
    if not tells.exists():
        return None
    wanting = 0
    for _ in range(20):
        time.sleep(0.05)
        wanting += int(tells.read_text().split()[3].partition("/")[0]) - 1
    return round(wanting / 20, 1)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
