"""Augment a data set on disk with dropout noise by several processes, in any order; killed, it goes on.

    python examples/pipeline.py
    python examples/pipeline.py --workers 5 --start spawn --batch 500 --epoch 3
    python examples/pipeline.py --source mine.npy --p 0.5 --workers 1

The source is a file of samples by features in float16, made of normal numbers if there is none. It may be
bigger than memory: a worker maps the files for one batch at a time. Workers share the samples, shuffled. Each
sample has the mask of its number, by `rows=`, and each epoch has a key of its own, by `key.fold_in(epoch)`.
So the digest at the end is the same for any number of workers, any size of batches and any order, however the
processes are started.

A batch is on the disk before its samples are marked as done. So kill the program, even by kill -9, and start
it again, with other workers and batches if you like: it does the samples that are missing. With another
source, rate, seed or epoch it starts from the beginning. At the end it says what it took beside a plain copy
by the same workers in the same batches. With --help: options.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

try:
    import numpy as np
    from numpy.typing import NDArray
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

PART = 1 << 22  # elements of the source that are made at a time


class Job(NamedTuple):
    """Which samples get which masks, and where they go. Without a key they are copied as they are."""

    source: Path
    result: Path
    p: float
    key: fd.Key | None

    @property
    def marks(self) -> Path:
        """The file that says of each sample whether it is done."""
        return self.result.with_suffix(".done")

    def settings(self) -> dict[str, Any]:
        """Return what the bits of the result depend on."""
        source = self.source.stat()
        about = {"source": [source.st_size, source.st_mtime_ns], "stream": fd.STREAM_VERSION}
        return {**about, "p": self.p, "key": repr(self.key)}

    def start(self) -> NDArray[np.bool_]:
        """Return which samples are done: those of a run before with these settings, or none."""
        written = self.result.with_suffix(".json")
        try:
            if json.loads(written.read_text()) == self.settings() and self.result.exists():
                return self.done()
        except FileNotFoundError:
            pass
        written.unlink(missing_ok=True)  # first, so that nobody believes the files until they are whole
        source = np.load(self.source, mmap_mode="r")
        np.lib.format.open_memmap(self.result, "w+", source.dtype, source.shape)
        self.marks.write_bytes(bytes(len(source)))
        written.write_text(json.dumps(self.settings()))
        return self.done()

    def done(self) -> NDArray[np.bool_]:
        """Return the marks, mapped: what a process writes, all see."""
        return np.memmap(self.marks, np.bool_, "r+")

    def do(self, ids: NDArray[np.int64]) -> None:
        """Do some samples: read, drop, write to the disk, mark."""
        batch = np.load(self.source, mmap_mode="r")[ids]
        if self.key is not None:
            fd.dropout(batch, self.p, self.key, rows=ids, out=batch)
        result = np.load(self.result, mmap_mode="r+")
        result[ids] = batch
        result.flush()
        self.done()[ids] = True

    def digest(self) -> str:
        """Return the MD5 of the result's file."""
        with self.result.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()

    def remove(self) -> None:
        """Delete what the job has made."""
        for path in (self.result, self.marks, self.result.with_suffix(".json")):
            path.unlink(missing_ok=True)


def batches(ids: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Return samples in batches of a size; the last may have fewer."""
    return [ids[first : first + size] for first in range(0, len(ids), size)]


def work(job: Job, ids: NDArray[np.int64], size: int, ready: Any) -> None:
    """Do a worker's share, unless the process that started it is gone."""
    parent = multiprocessing.parent_process()
    fd.set_num_threads(1)  # the workers are the threads
    fd.dropout(np.ones((1, 64), np.float16), job.p, 0, rows=[0])  # Numba starts, which is no part of the work
    ready.wait()
    for batch in batches(ids, size):
        if not parent.is_alive():
            return
        job.do(batch)


def augment(job: Job, workers: int, start: str, size: int, order: int) -> tuple[int, float]:
    """Do the samples that are missing, with a progress bar; return their bytes and the seconds."""
    done, source = job.start(), np.load(job.source, mmap_mode="r")
    todo = np.random.default_rng(order).permutation(np.flatnonzero(~done))
    if not len(todo):
        return 0, 0.0
    context = multiprocessing.get_context(start)
    ready = context.Barrier(workers + 1)
    shares = [todo[worker::workers] for worker in range(workers)]
    processes = [context.Process(target=work, args=(job, share, size, ready)) for share in shares]
    for process in processes:
        process.daemon = True  # it ends with this one
        process.start()
    ready.wait()
    began, row = perf_counter(), source[:1].nbytes
    with tqdm(total=source.nbytes, initial=int(done.sum()) * row, unit="B", unit_scale=True) as bar:
        while True:
            working = any(process.is_alive() for process in processes)
            bar.update(int(done.sum()) * row - bar.n)
            if not working:
                break
            sleep(0.02)
    if not done.all():
        raise SystemExit("a worker has failed; what is done is done, so start again")
    return len(todo) * row, perf_counter() - began


def make_source(path: Path, shape: tuple[int, int]) -> None:
    """Write normal numbers, as windows of one array; a part of a file never bears its name."""
    unfinished = path.with_suffix(".new")
    source = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
    step = max(1, PART // shape[1])
    for first in tqdm(range(0, shape[0], step), unit=" parts", desc="making the source"):
        part = source[first : first + step]
        part[:] = fd.normal(part.shape, fd.Key(0), dtype=np.float16, window=(shape, (first, 0)))
    source.flush()  # or the workers would wait for it
    unfinished.replace(path)


def parse(argv: Sequence[str] | None, doc: str | None = __doc__) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    add, whole = parser.add_argument, "(default: %(default)s)"
    add("--source", type=Path, default=Path("out/source.npy"), help=whole)
    add("--result", type=Path, default=Path("out/augmented.npy"), help=whole)
    add("--samples", type=positive, default=1 << 18, help=f"of a source to be made {whole}")
    add("--features", type=positive, default=1 << 10, help=f"of a source to be made {whole}")
    add("--workers", type=positive, default=fd.get_num_threads(), help=f"processes {whole}")
    methods = multiprocessing.get_all_start_methods()
    add("--start", choices=methods, default="spawn", help=f"how processes are started {whole}")
    add("--batch", type=positive, default=4096, help=f"samples {whole}")
    add("--order", type=int, default=0, help=f"seed of the order, which changes nothing {whole}")
    add("--p", type=float, default=0.1, help=f"probability to drop {whole}")
    add("--seed", type=int, default=0, help=f"of the masks {whole}")
    add("--epoch", type=int, default=0, help=f"number of the epoch {whole}")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """Return a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def prepared(chosen: argparse.Namespace) -> Job:
    """Return the job of some options, whose source is there."""
    chosen.result.parent.mkdir(parents=True, exist_ok=True)
    if not chosen.source.exists():
        make_source(chosen.source, (chosen.samples, chosen.features))
    return Job(chosen.source, chosen.result, chosen.p, fd.Key(chosen.seed).fold_in(chosen.epoch))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    chosen = parse(argv)
    job = prepared(chosen)
    how = chosen.workers, chosen.start, chosen.batch, chosen.order
    nbytes, seconds = augment(job, *how)
    if nbytes:
        print(f"dropout     {nbytes / seconds / 1e9:6.2f} GB/s")
        copy = job._replace(result=job.result.with_suffix(".copy.npy"), key=None)
        try:
            nbytes, seconds = augment(copy, *how)
            print(f"plain copy  {nbytes / seconds / 1e9:6.2f} GB/s")
        finally:
            copy.remove()
    else:
        print(f"{job.result} was done already")
    print(f"md5 {job.digest()}")


if __name__ == "__main__":
    main()
