"""Compilation of kernels before they are needed, by calls of every noise on tiny arrays."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastdrop._arrays.hints import checked_dtype
from fastdrop._arrays.numbers import flag
from fastdrop._arrays.plan import ACTIVATIONS
from fastdrop._backends import cpu, loading, usable
from fastdrop._noises._noise import EVERY, INTEGERS, NOISES, REAL, Noise
from fastdrop._noises.bernoulli import apply_mask, keep_mask
from fastdrop._noises.gaussian import normal
from fastdrop._noises.standout import standout_keep_prob
from fastdrop._stream.keys import natural, shown

if TYPE_CHECKING:
    import subprocess

_log = logging.getLogger("fastdrop")
# Its axes are shared in each of the ways that have a kernel, and its rows are long enough for that of rows.
_SHAPE = 4, 3, 4, 6
_SHAPES = {"drop_connect": (4, 6), "embedding_dropout": (4, 6), "token_dropout": (4, 6)}
_ROWS = 2, 1024  # rows so long that their rates have a kernel of their own
_SHARED = 0, -1
_RATES = np.float32, np.float64  # the dtypes in which kernels read arrays of rates
_TORCH = "fastdrop.torch"  # imported by its name and on request alone, since this package doesn't need it
# What functions are given for arguments that are not arrays of the first one's shape and dtype.
_NUMBERS = {"p": 0.3, "std": 0.3, "alpha": 0.3, "logit": 0.0, "key": 0, "replacement": 0, "vocabulary": 6}

# Runs in a process of its own. For each line "noise dtype" it answers by a line; others are log messages.
_WORKER = """
import sys
sys.path.insert(0, {path!r})
from fastdrop._noises._warmup import work
work()
"""
_DONE = "done"


class Job(NamedTuple):
    """One noise in one dtype, with its gradient and all their options; or what tensors need beside that."""

    noise: str
    dtype: str

    def calls(self) -> Iterator[Callable[[], Any]]:
        """Return calls of all that needs a kernel."""
        if self.noise == _TORCH:
            calls: Iterator[Callable[[], Any]] = import_module(f"{_TORCH}._warmup").calls(self.dtype)
            return calls
        return _calls(NOISES[self.noise], self.dtype)

    def run(self) -> None:
        """Do the calls."""
        for call in self.calls():
            call()

    def length(self) -> int:
        """Return how many calls there are."""
        return sum(1 for _ in self.calls())


def warmup(
    *names: str, dtype: Any = np.float32, torch: bool = False, processes: SupportsIndex | None = None
) -> None:
    """Compile the kernels of all functions and layers, or of some, so that no later call has to wait for it.

    What is compiled is kept in the user's cache directory (or in NUMBA_CACHE_DIR), where other processes
    find it. What is there already is only read. Each line of the logger "fastdrop" at level INFO says what
    is being compiled.

    Parameters
    ----------
    *names : str
        Functions and layers, such as "dropout" or "SpatialDropout2D"; by default all.
    dtype : dtype or sequence of dtypes, default float32
        The dtypes of arrays. Without names, a noise is left out for a dtype that it doesn't take.
    torch : bool, default False
        Compile also what CPU tensors of these dtypes need beside that: dropout and attention in PyTorch's own
        threads. Whatever else `fastdrop.torch` does is done by NumPy's kernels.
    processes : int, optional
        How many processes compile at a time, since Numba's compiler uses one core; by default as many as
        calls may use threads.

    Raises
    ------
    TypeError
        If a name is no string, a dtype is none, `torch` is no bool, or `processes` is no int.
    ValueError
        If there is no such name, or what it names doesn't take a dtype, or `processes` is less than 1.
    ImportError
        If `torch` is True where PyTorch isn't installed.

    See Also
    --------
    set_num_threads : how many threads calls may use.

    Notes
    -----
    ``python -m fastdrop warmup`` does the same from the command line, for images of containers for example.
    CUDA's kernels are not among them.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.warmup("dropout", processes=1)
    """
    for _ in steps(jobs(names, dtype, torch), processes, reads=True):
        pass


def jobs(names: tuple[str, ...], dtype: Any, torch: bool = False) -> list[Job]:
    """Return what is to be done, or raise an error for a name or a dtype that can't be."""
    given = dtype if isinstance(dtype, (list, tuple)) else [dtype]
    dtypes = [_dtype_name(each) for each in given]
    known = dict(NOISES)
    for noise in NOISES.values():
        for each in noise.public:
            known.setdefault(each.__name__, noise)
    chosen = [_named(name, known) for name in names] if names else list(NOISES.values())
    found = [Job(noise.name, each) for noise in chosen for each in dtypes if _takes(noise, each)]
    if names:
        for noise in chosen:
            if missing := [each for each in dtypes if not _takes(noise, each)]:
                raise ValueError(f"dtype must be of {noise.dtypes} for {noise.name}, got {missing[0]}")
    if flag("torch", torch):
        import_module(_TORCH)  # which says so now if PyTorch is missing
        found += [Job(_TORCH, each) for each in dtypes if each in REAL]
    return list(dict.fromkeys(found))


def steps(todo: list[Job], processes: SupportsIndex | None, reads: bool = False) -> Iterator[Job]:
    """Do the jobs, in several processes if that is of use, and yield each one that is done.

    The longest come first, so that the processes end at about the same time. `reads` is whether this process
    then reads what others have compiled.
    """
    count = usable() if processes is None else natural("processes", processes)
    if count < 1:
        raise ValueError(f"processes must be at least 1, got {count}")
    count = min(count, len(todo))
    cpu().ready_to_share()
    if count == 1 or not sys.executable or not cpu().can_keep_code():
        for job in todo:
            job.run()
            yield job
        return
    left = sorted(todo, key=Job.length, reverse=True)
    for job in _side_by_side(left[:], count):
        left.remove(job)
        yield job
    for job in todo if reads else left:  # what is left has no code yet, since a process has failed
        job.run()


def _side_by_side(todo: list[Job], count: int) -> Iterator[Job]:
    """Do the jobs in other processes, of which each takes the next job as soon as it is free."""
    with loading:
        import subprocess  # here, since few calls need it, and it would be a tenth of our import
        from pathlib import Path

    waiting, done = deque(todo), SimpleQueue[Job | None]()
    command = [sys.executable, "-c", _WORKER.format(path=str(Path(__file__).parents[2]))]
    environment = os.environ | cpu().environment()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **pipes) for _ in range(count)
    ]
    feeders = [Thread(target=_feed, args=(worker, waiting, done), daemon=True) for worker in workers]
    try:
        for feeder in feeders:
            feeder.start()
        left = count
        while left:
            job = done.get()
            if job is None:
                left -= 1
            else:
                yield job
    finally:
        for worker in workers:
            worker.kill()
        for feeder in feeders:
            feeder.join()
        for worker in workers:
            with worker, suppress(OSError):  # a pipe whose reader has ended
                pass


def _feed(worker: subprocess.Popen[str], waiting: deque[Job], done: SimpleQueue[Job | None]) -> None:
    """Give a process one job after the other, until there is none or the process has ended."""
    try:
        while True:
            job = waiting.popleft()
            print(*job, file=worker.stdin, flush=True)
            while (line := worker.stdout.readline().strip()) != _DONE:  # type: ignore[union-attr]
                if not line:
                    return
                _log.info(line)
            done.put(job)
    except (IndexError, OSError, ValueError):
        pass
    finally:
        done.put(None)


def work() -> None:
    """Do the jobs that come by the standard input: what a process of `_side_by_side` runs."""

    class Messages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(record.getMessage(), flush=True)

    _log.addHandler(Messages())
    _log.setLevel(logging.INFO)
    for line in sys.stdin:
        Job(*line.split()).run()
        print(_DONE, flush=True)


def _named(name: Any, known: dict[str, Noise]) -> Noise:
    """Return the noise of a name, or raise an error that says which name may be meant."""
    if isinstance(name, str) and name in known:
        return known[name]
    got = shown(name)
    if not isinstance(name, str):
        fix = "use warmup(*names)" if isinstance(name, (list, tuple, set)) else "use the names in quotes"
        raise TypeError(f"names must be strings, got {got}; {fix}")
    if name in import_module("fastdrop").__all__:
        raise ValueError(f"names must be of what has kernels, got {got}, which has none; leave it out")
    from difflib import get_close_matches  # here, since our import would take a millisecond more

    nearest = get_close_matches(name, known, 1)
    fix = f"; use {nearest[0]!r}" if nearest else ""
    raise ValueError(f"names must be of functions or layers of fastdrop, got {got}{fix}")


def _takes(noise: Noise, dtype: str) -> bool:
    return dtype in noise.dtypes or noise.dtypes == INTEGERS


def _dtype_name(dtype: DTypeLike) -> str:
    if dtype == "bfloat16":
        return "bfloat16"
    try:
        return checked_dtype(dtype).name
    except TypeError:
        if not isinstance(dtype, str):
            raise
        got = f"{shown(dtype)}; names of functions come before dtypes"
        raise TypeError(f"dtype must be one of {', '.join(EVERY)}, or of integers, got {got}") from None


def _calls(noise: Noise, dtype: str) -> Iterator[Callable[[], Any]]:
    """Yield calls of a noise's functions with all options that have kernels of their own."""
    x = _ones(_SHAPES.get(noise.name, _SHAPE), dtype)
    for function in (noise.function, noise.backward):
        if function is not None:
            yield from _calls_of(function, noise, x)
    if noise.name == "dropout":
        columns = _ones((2, 32), dtype).T
        yield from _calls_of(keep_mask, noise, x)
        yield partial(keep_mask, 9, 0.3, 0, packed=True)
        yield partial(noise.function, x, 0.3, 0, rows=np.arange(len(x)))
        yield partial(noise.function, columns, 0.3, 0, out=columns)
        yield partial(apply_mask, x, np.ones(x.shape, bool), 0.3)
        yield partial(apply_mask, x, np.ones(-(-x.size // 8), np.uint8), 0.3, packed=True)
    if noise.name == "standout_dropout":
        yield partial(standout_keep_prob, np.ones(9))
    if noise.name == "gaussian_noise":
        yield partial(normal, 9, 0, dtype=x.dtype)


def _calls_of(function: Callable[..., Any], noise: Noise, x: NDArray[Any]) -> Iterator[Callable[[], Any]]:
    parameters = signature(function).parameters
    for options in _options(parameters, x):
        yield partial(function, **_needed(parameters, x), **options)
    if noise.by_element and noise.rate in parameters and not {"weight", "vocabulary"} & set(parameters):
        for dtype in _RATES:
            yield from _calls_by_rates(function, noise.rate, x, dtype)


def _calls_by_rates(
    function: Callable[..., Any], rate: str, x: NDArray[Any], dtype: DTypeLike
) -> Iterator[Callable[[], Any]]:
    """Yield calls with a rate for each element, whose draws are listed or not, and with one for each row."""
    parameters = signature(function).parameters
    whole = "shared_axes" in parameters
    rates = x.shape if whole else (len(x), *(1,) * (x.ndim - 1))
    given = _needed(parameters, x) | {rate: np.full(rates, 0.3, dtype)}
    for draws in ({}, *_listed(parameters, x)):
        yield partial(function, **given, **draws)
    if whole:
        rows = _needed(parameters, _ones(_ROWS, x.dtype.name))
        yield partial(function, **rows | {rate: np.full((len(_ROWS), 1), 0.3, dtype)})


def _options(parameters: Any, x: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Yield the options that a function has, in all combinations that have kernels of their own."""
    size = {"block_size": 3} if "block_size" in parameters else {}
    places: list[dict[str, Any]] = []
    places += [{"shared_axes": axis} for axis in _SHARED] if "shared_axes" in parameters else []
    places += _listed(parameters, x)
    activations = [{"activation": name} for name in ACTIVATIONS] if "activation" in parameters else [{}]
    residuals = [{}, {"residual": x}] if "residual" in parameters and "activation" in parameters else [{}]
    for activation in activations:
        for residual in residuals:
            for place in ({}, *places):
                yield size | activation | residual | place


def _listed(parameters: Any, x: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Yield the ways in which a function takes a list of draws, none of which follows another."""
    if "indices" in parameters:
        yield {"indices": np.arange(x.size)[::-1].reshape(x.shape)}
    if "rows" in parameters:
        yield {"rows": np.arange(len(x))[::-1]}


def _needed(parameters: Any, x: NDArray[Any]) -> dict[str, Any]:
    """Return the arguments that a function needs, for an array like x."""
    names = [name for name, each in parameters.items() if each.default is Parameter.empty]
    special: dict[str, Any] = {
        **_NUMBERS,
        "shape": x.shape,
        "bias": _ones(x.shape[-1:], x.dtype.name),
        "tokens": np.zeros(x.shape[:1] if "weight" in names or "vocabulary" in names else x.shape, np.int64),
        "weight": _ones((6, 6), x.dtype.name),
    }
    return {name: special.get(name, x) for name in names}


def _ones(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return ones of a dtype by its name; NumPy knows bfloat16 only after the import of ml_dtypes."""
    if dtype == "bfloat16":
        dtype = import_module("ml_dtypes").bfloat16
    return np.ones(shape, dtype)
