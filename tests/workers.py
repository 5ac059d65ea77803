"""Layers in other processes. Run with a start method, it prints the keys that they have there, as JSON.

``python tests/workers.py fork`` takes any method of multiprocessing, or "loky".
"""

import json
import multiprocessing
import os
import sys

import fastdrop as fd

WORKERS = 2


class Waits:
    """What a pool's workers need to take one task each."""

    barrier = None


def wait_for(barrier):
    Waits.barrier = barrier


def layers():
    """One layer of each origin of a key."""
    import numpy as np

    loaded, chosen = fd.Dropout(0.5), fd.Dropout(0.5)
    loaded.load_state_dict(fd.Dropout(0.5, rng=3).state_dict())
    chosen.key = fd.Key(4)
    return {
        "None": fd.Dropout(0.5),
        "None, of masks": fd.RecurrentDropout(0.5),
        "int": fd.Dropout(0.5, rng=42),
        "Generator": fd.Dropout(0.5, rng=np.random.default_rng(7)),
        "loaded": loaded,
        "chosen": chosen,
    }


def keys(found):
    return {name: str(layer.key) for name, layer in found.items()}


def inherited(_):
    """The keys of the parent's layers in a worker."""
    Waits.barrier.wait(60)
    return keys(LAYERS)


def passed(found):
    """The keys of layers that a worker was given, and then of a reseeded one."""
    before = keys(found)
    return before | {"reseeded": str(found["None"].reseed().key)}


def in_pool(method):
    context = multiprocessing.get_context(method)
    barrier = context.Barrier(WORKERS)
    with context.Pool(WORKERS, initializer=wait_for, initargs=(barrier,)) as pool:
        of_parent = pool.map(inherited, range(WORKERS), chunksize=1)
        of_copies = pool.map(passed, [LAYERS] * WORKERS, chunksize=1)
    return {"inherited": of_parent, "passed": of_copies}


def in_loky():
    from joblib import Parallel, delayed

    return {"passed": Parallel(WORKERS)(delayed(passed)(LAYERS) for _ in range(WORKERS))}


LAYERS = layers()


def part_of_a_benchmark(rounds, small):
    """A part that shows which process it is in."""
    from common import show

    show("here", {"process": os.getpid(), "threads": fd.get_num_threads()}, "")


if __name__ == "__main__":
    way = sys.argv[1]
    LAYERS["None, of masks"]()  # a call doesn't make a key one that somebody chose
    result = in_loky() if way == "loky" else in_pool(way)
    print(json.dumps({"parent": keys(LAYERS), **result}))
