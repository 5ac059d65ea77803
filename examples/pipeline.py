"""Stream a file bigger than a memory budget through dropout in several threads; killed, it goes on.

    python examples/pipeline.py
    python examples/pipeline.py --elements 1000000000 --budget 64 --threads 4
    python examples/pipeline.py --source mine.f32 --p 0.5 --check

The source is a plain file of float32, made of normal numbers if there is none. Each thread maps one chunk of
it and of the result, drops the one into the other as a window of the whole, writes it to the disk and lets
go of both, so that all threads together hold no more of the files than the budget.

A chunk has the same bits whenever it is done, and is done again unless it was recorded. The record is
replaced as a whole, after the chunk is on the disk. So kill the program, even by kill -9, and start it again:
it does the chunks that are missing. With other settings it starts from the beginning.

At the end it says what the stream took beside np.copyto in the same chunks and threads, and beside plain
writing and reading of such a file, all in this run. With --help: options.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

try:
    import numpy as np
    from numpy.typing import NDArray
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

ITEM = np.dtype(np.float32).itemsize
ALIGNED = 1 << 14  # elements of which chunks are multiples: whole pages of any system
WRITE = 1 << 22  # bytes of a plain write or read


def mapped(path: Path, start: int, stop: int, mode: str = "r+") -> NDArray[np.float32]:
    """Return some elements of a file, which are read when they are used, and let go of with the array."""
    return np.memmap(path, np.float32, mode, offset=start * ITEM, shape=(stop - start,))


class Job(NamedTuple):
    """What is dropped into which file, in chunks of how many elements."""

    source: Path
    result: Path
    size: int
    step: int
    p: float
    key: fd.Key

    def chunks(self) -> range:
        """Return the numbers of the chunks."""
        return range(-(-self.size // self.step))

    def part(self, path: Path, number: int, mode: str = "r+") -> NDArray[np.float32]:
        """Return a chunk of a file, mapped."""
        start = number * self.step
        return mapped(path, start, min(start + self.step, self.size), mode)

    def drop(self, number: int, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Drop a chunk of the source into one of the result."""
        fd.dropout(x, self.p, self.key, out=y, window=((self.size,), (number * self.step,)))

    def settings(self) -> dict[str, Any]:
        """Return what the bits of the result depend on, and the chunks."""
        changed = self.source.stat().st_mtime_ns
        numbers = {"size": self.size, "step": self.step, "p": self.p, "source_changed": changed}
        return {**numbers, "key": repr(self.key), "stream": fd.STREAM_VERSION}


def stream(
    job: Job,
    numbers: Iterable[int],
    threads: int,
    do: Callable[[int, NDArray[np.float32], NDArray[np.float32]], None],
    result: Path,
    done: Callable[[int], object],
) -> None:
    """Do chunks in threads, and call done() here for each that is on the disk."""

    def one(number: int) -> int:
        y = job.part(result, number)
        do(number, job.part(job.source, number, "r"), y)
        y.flush()
        return number

    with ThreadPoolExecutor(threads) as pool:
        try:
            for future in as_completed([pool.submit(one, number) for number in numbers]):
                done(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def record_of(job: Job) -> Path:
    """Return the file that says which chunks are done."""
    return job.result.with_suffix(".json")


def recorded(job: Job) -> set[int]:
    """Return the chunks that an earlier run with the same settings has done."""
    try:
        record = json.loads(record_of(job).read_text())
        complete = job.result.stat().st_size == job.size * ITEM
    except FileNotFoundError:
        return set()
    return set(record["done"]) if complete and record["settings"] == job.settings() else set()


def record(job: Job, done: set[int]) -> None:
    """Replace the record at one stroke, so that there is always a whole one."""
    new = record_of(job).with_suffix(".new")
    with new.open("w") as file:
        json.dump({"settings": job.settings(), "done": sorted(done)}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(record_of(job))


def drop_all(job: Job, threads: int) -> tuple[int, float]:
    """Do the chunks that are missing, with a progress bar; return their bytes and the seconds."""
    done = recorded(job)
    todo = [number for number in job.chunks() if number not in done]
    if not done:
        record_of(job).unlink(missing_ok=True)
        reserve(job.result, job.size)
    size = {n: min(job.step, job.size - n * job.step) * ITEM for n in job.chunks()}
    bar = tqdm(total=job.size * ITEM, initial=sum(size[n] for n in done), unit="B", unit_scale=True)

    def finish(number: int) -> None:
        done.add(number)
        record(job, done)
        bar.update(size[number])

    fd.dropout(np.ones(8, np.float32), job.p, job.key)  # Numba starts, which is no part of the stream
    start = perf_counter()
    with bar:
        stream(job, todo, threads, job.drop, job.result, finish)
    return sum(size[n] for n in todo), perf_counter() - start


def reserve(path: Path, size: int) -> None:
    """Make a file of zeros, which take no place yet."""
    with path.open("wb") as file:
        file.truncate(size * ITEM)


def make_source(job: Job) -> None:
    """Write normal numbers, the same for every size of chunk; a part of a file never bears its name."""
    unfinished = job.source.with_suffix(".new")
    with unfinished.open("wb") as file:
        for number in tqdm(job.chunks(), unit=" chunks", desc="making the source"):
            start = number * job.step
            window = (job.size,), (start,)
            shape = min(job.step, job.size - start)
            file.write(fd.normal(shape, fd.Key(0), dtype=np.float32, window=window).tobytes())
        file.flush()
        os.fsync(file.fileno())  # or the stream would wait for it
    unfinished.replace(job.source)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def plain_write(path: Path, size: int) -> None:
    """Write as many bytes, to the disk."""
    block = np.random.default_rng(0).bytes(WRITE)
    with path.open("wb") as file:
        for start in range(0, size, WRITE):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())


def plain_read(path: Path) -> None:
    """Read a file."""
    buffer = bytearray(WRITE)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def peers(job: Job, threads: int) -> dict[str, float]:
    """Return the seconds that a copy of the source, a plain write and a plain read take."""
    other = job.result.with_suffix(".tmp")
    try:
        reserve(other, job.size)
        numbers = job.chunks()
        copy = seconds(lambda: stream(job, numbers, threads, lambda _, x, y: np.copyto(y, x), other, int))
        write = seconds(lambda: plain_write(other, job.size * ITEM))
        return {"np.copyto": copy, "plain write": write, "plain read": seconds(lambda: plain_read(other))}
    finally:
        other.unlink(missing_ok=True)


def check(job: Job, threads: int) -> dict[str, bool]:
    """Return whether the result has the bits of one call on the whole array, and those of dask."""
    try:
        import dask.array as da

        import fastdrop.dask as fdd
    except ModuleNotFoundError as error:
        raise SystemExit(f"--check needs {error.name}; use pip install '.[demo,dask]'") from None

    def lazy(path: Path) -> da.Array:  # da.from_array would copy all of a mapped array into memory
        def block(block_info: dict) -> NDArray[np.float32]:
            ((start, stop),) = block_info[None]["array-location"]
            return mapped(path, start, stop, "r")

        chunks = da.core.normalize_chunks(2 * job.step // 3 + 1, (job.size,))
        return da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty(0, np.float32))

    once = job.result.with_suffix(".tmp")
    try:
        reserve(once, job.size)
        whole = mapped(job.source, 0, job.size, "r")
        fd.dropout(whole, job.p, job.key, out=mapped(once, 0, job.size))
        by_dask = fdd.dropout(lazy(job.source), job.p, job.key)
        result, *others = (y.view(np.uint32) for y in (lazy(job.result), lazy(once), by_dask))
        same = da.stack([(result == other).all() for other in others])
        same_as = same.compute(scheduler="threads", num_workers=threads)
        return dict(zip(("one call", "dask"), map(bool, same_as), strict=True))
    finally:
        once.unlink(missing_ok=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--source", type=Path, default=Path("out/source.f32"), help="(default: %(default)s)")
    add("--result", type=Path, default=Path("out/dropped.f32"), help="(default: %(default)s)")
    add("--elements", type=int, default=1 << 28, help="of a source to be made (default: %(default)s)")
    add("--budget", type=float, default=128, help="MiB of the files held at a time (default: %(default)s)")
    add("--threads", type=int, default=fd.get_num_threads(), help="(default: %(default)s)")
    add("--p", type=float, default=0.1, help="probability to drop (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the mask (default: %(default)s)")
    add("--check", action="store_true", help="compare with one call on the whole array, and with dask")
    options = parser.parse_args(argv)
    if step(options) < ALIGNED:
        least = 2 * ITEM * ALIGNED * options.threads / (1 << 20)
        parser.error(f"--budget must be at least {least} for {options.threads} threads, got {options.budget}")
    return options


def step(options: argparse.Namespace) -> int:
    """Return the elements of a chunk, of which each thread holds one of the source and one of the result."""
    fit = int(options.budget * (1 << 20) / (2 * ITEM * options.threads))
    return fit // ALIGNED * ALIGNED


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    options = parse(argv)
    options.result.parent.mkdir(parents=True, exist_ok=True)
    made = options.source.exists()
    size = options.source.stat().st_size // ITEM if made else options.elements
    if size < 1:
        raise SystemExit(f"{options.source} needs at least one element of {ITEM} bytes, got {size}")
    job = Job(options.source, options.result, size, step(options), options.p, fd.Key(options.seed))
    if not made:
        make_source(job)
    before = fd.get_num_threads()
    fd.set_num_threads(1)  # the chunks have threads
    try:
        nbytes, taken = drop_all(job, options.threads)
        if nbytes == 0:
            print(f"{job.result} was done already")
        else:
            print(f"{'dropout':12} {nbytes / taken / 1e9:6.2f} GB/s")
            for name, time in peers(job, options.threads).items():
                print(f"{name:12} {size * ITEM / time / 1e9:6.2f} GB/s")
        if options.check:
            for name, same in check(job, options.threads).items():
                print(f"same bits as {name}: {same}")
    finally:
        fd.set_num_threads(before)


if __name__ == "__main__":
    main()
