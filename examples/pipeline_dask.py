"""The data set of pipeline.py on a cluster of dask's workers: as tasks, as a dask array, and in xarray.

    python examples/pipeline_dask.py
    python examples/pipeline_dask.py --workers 5 --batch 500 --epoch 3

Three ways, with the same bits, which are also those of pipeline.py:

- Tasks. Each is a batch of pipeline.py, sent to a worker. Killed and started again, it goes on where it was.
- A dask array. Its chunks have the samples in their order, so that `fastdrop.dask.dropout` needs no numbers.
- xarray. The samples are shuffled and cut into chunks; each brings its number along as a coordinate, which
  becomes `rows=`.

With --help: options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pipeline

try:
    import dask.array as da
    import numpy as np
    import xarray as xr
    from distributed import Client, LocalCluster, as_completed
    from numpy.typing import NDArray
    from tqdm import tqdm

    import fastdrop as fd
    import fastdrop.dask as fdd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[examples]'") from None


def by_tasks(job: pipeline.Job, client: Client, size: int, order: int) -> str:
    """Do the samples that are missing as tasks, in a random order; return the digest of the file."""
    done = job.start()
    todo = np.random.default_rng(order).permutation(np.flatnonzero(~done))
    tasks = client.map(job.do, pipeline.batches(todo, size), pure=False)
    for task in tqdm(as_completed(tasks), total=len(tasks), unit=" batches"):
        task.result()  # or the error of the worker
    return job.digest()


def lazy(path: Path, ids: NDArray[np.int64], size: int) -> da.Array:
    """Return some samples of a file as a dask array, which workers read when they need them."""
    source = np.load(path, mmap_mode="r")  # da.from_array would send all of it to the workers
    numbers = da.from_array(ids[:, None], chunks=(size, 1))
    chunks = (numbers.chunks[0], source.shape[1:])
    return da.map_blocks(read, numbers, path, dtype=source.dtype, chunks=chunks)


def read(ids: NDArray[np.int64], path: Path) -> NDArray[Any]:
    """Return some samples of a file."""
    return np.load(path, mmap_mode="r")[ids[:, 0]]


def by_array(job: pipeline.Job, size: int) -> NDArray[Any]:
    """Return all samples after dropout as a dask array."""
    count = len(np.load(job.source, mmap_mode="r"))
    return fdd.dropout(lazy(job.source, np.arange(count), size), job.p, job.key).compute()


def by_xarray(job: pipeline.Job, size: int, order: int) -> NDArray[Any]:
    """Return all samples after dropout, which was done to them shuffled, as an xarray with their numbers."""
    ids = np.random.default_rng(order).permutation(len(np.load(job.source, mmap_mode="r")))
    dims = ("sample", "feature")
    shuffled = xr.DataArray(lazy(job.source, ids, size), dims=dims, coords={"sample": ids})
    dropped = xr.apply_ufunc(
        drop(job),
        shuffled,
        shuffled.sample,
        input_core_dims=[["feature"], []],
        output_core_dims=[["feature"]],
        dask="parallelized",
        output_dtypes=[shuffled.dtype],
    )
    return dropped.compute().sortby("sample").values


def drop(job: pipeline.Job) -> Callable[[NDArray[Any], NDArray[np.int64]], NDArray[Any]]:
    """Return what is done to some samples with these numbers."""
    return lambda x, ids: fd.dropout(x, job.p, job.key, rows=ids)


def digest_of(samples: NDArray[Any], path: Path) -> str:
    """Return the MD5 of samples as pipeline.py has it, which is that of a file with them."""
    np.save(path, samples)
    try:
        return hashlib.md5(path.read_bytes()).hexdigest()
    finally:
        path.unlink()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    chosen = pipeline.parse(argv, __doc__)
    job = pipeline.prepared(chosen)
    beside = chosen.result.with_suffix(".tmp.npy")
    with (
        LocalCluster(n_workers=chosen.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        print(f"tasks   md5 {by_tasks(job, client, chosen.batch, chosen.order)}")
        print(f"array   md5 {digest_of(by_array(job, chosen.batch), beside)}")
        print(f"xarray  md5 {digest_of(by_xarray(job, chosen.batch, chosen.order), beside)}")


if __name__ == "__main__":
    main()
