"""Train a network in one process, and in several that share each batch: bit for bit the same.

    python examples/data_parallel.py
    python examples/data_parallel.py --ranks 4 --steps 200
    python examples/data_parallel.py --own-masks

What it takes, on one machine, in float64:

- Masks. A rank has some rows of the batch, and drops them as a window of the whole: `window=(shape of the
  whole batch, where its rows begin)`. All ranks have the same key, a new one for each step and layer.
- Sums. They depend on their order, and a BLAS adds in another order for another shape. So whoever computes
  a slice of 16 rows does it by products of those alone, and all slices are added up in the batch's order.

Where ranks shall differ instead, because each makes a batch of its own, or noise that need not be repeated by
another number of ranks, they draw from `key.fold_in(rank)`: that is `--own-masks`. Ranks still agree on the
weights then, but they aren't those of one process. With --help: options.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
from collections.abc import Callable, Sequence
from functools import reduce
from multiprocessing.connection import Connection
from typing import NamedTuple

try:
    import numpy as np
    from numpy.typing import NDArray
    from sklearn.datasets import load_digits
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm

    import fastdrop as fd
except ModuleNotFoundError as error:
    raise SystemExit(f"the example needs {error.name}; use pip install '.[demo]'") from None

BATCH = 128
SLICE = 16  # rows; a slice's elements fill whole vectors, in which NumPy's exp may differ from single ones
HIDDEN, CLASSES = 128, 10
RATES = (0.1, 0.5)
LEARNING_RATE, MOMENTUM = 0.05, 0.9


class Share(NamedTuple):
    """The rows of each batch that a process has, and whether it draws its own masks."""

    rank: int = 0
    ranks: int = 1
    own_masks: bool = False

    @property
    def start(self) -> int:
        """Where its rows begin."""
        return self.rank * (BATCH // self.ranks)

    def rows(self, batch: NDArray) -> NDArray:
        """Return its rows of what each process knows of a whole batch."""
        return batch[self.start : self.start + BATCH // self.ranks]

    def drop(self, x: NDArray, p: float, key: fd.Key) -> NDArray:
        """Return its rows dropped; the same function of a gradient is its backward."""
        if self.own_masks:
            return fd.dropout(x, p, key.fold_in(self.rank))
        return fd.dropout(x, p, key, window=((BATCH, *x.shape[1:]), (self.start, *(0,) * (x.ndim - 1))))


def slices(a: NDArray) -> NDArray:
    """Return rows as a stack of slices, whose products NumPy takes one by one."""
    return a.reshape(-1, SLICE, a.shape[-1])


def rows(a: NDArray) -> NDArray:
    """Return a stack of slices as rows."""
    return a.reshape(-1, a.shape[-1])


def loss_and_gradients(
    weights: Sequence[NDArray], x: NDArray, labels: NDArray, share: Share, key: fd.Key
) -> list[NDArray]:
    """Return the loss and the gradients of a share's rows, summed over each slice alone."""
    w1, b1, w2, b2 = weights
    keys = [key.fold_in(layer) for layer in range(2)]
    x = share.drop(x, RATES[0], keys[0])
    hidden = np.maximum(rows(slices(x) @ w1) + b1, 0)
    dropped = share.drop(hidden, RATES[1], keys[1])
    logits = rows(slices(dropped) @ w2) + b2
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    picked = np.arange(len(x)), labels
    g = np.exp(log_p)
    g[picked] -= 1
    g /= BATCH
    g_hidden = share.drop(rows(slices(g) @ w2.T), RATES[1], keys[1]) * (hidden > 0)
    losses = -log_p[picked].reshape(-1, SLICE).sum(axis=1) / BATCH
    gradients = [slices(x).swapaxes(1, 2) @ slices(g_hidden), slices(g_hidden).sum(axis=1)]
    gradients += [slices(dropped).swapaxes(1, 2) @ slices(g), slices(g).sum(axis=1)]
    return [losses, *gradients]


def train(
    share: Share, steps: int, seed: int, gather: Callable[[list[NDArray]], list[NDArray]]
) -> tuple[float, list[NDArray]]:
    """Return the last loss and the weights; gather() returns all ranks' slices in the batch's order."""
    digits, labels = load_digits(return_X_y=True)
    digits = digits / 16
    rng, key = np.random.default_rng(seed), fd.Key(seed)  # alike in all ranks
    sizes = (digits.shape[1], HIDDEN), HIDDEN, (HIDDEN, CLASSES), CLASSES
    weights = [rng.normal(0, 0.1, size) for size in sizes]
    velocities = [np.zeros_like(w) for w in weights]
    loss = np.nan
    for _ in tqdm(range(steps), unit=" steps", desc=f"{share.ranks} process(es)", disable=share.rank > 0):
        batch = share.rows(rng.choice(len(digits), BATCH, replace=False))
        with threadpool_limits(1, user_api="blas"):
            parts = gather(loss_and_gradients(weights, digits[batch], labels[batch], share, key))
        loss, *gradients = (reduce(np.add, part) for part in parts)
        for w, v, g in zip(weights, velocities, gradients, strict=True):
            v *= MOMENTUM
            v -= LEARNING_RATE * g
            w += v
        key = key.next()
    return float(loss), weights


def rank_main(share: Share, steps: int, seed: int, hub: Connection) -> None:
    """Train as one rank of several."""

    def gather(parts: list[NDArray]) -> list[NDArray]:
        hub.send(parts)
        whole: list[NDArray] = hub.recv()
        return whole

    hub.send(train(share, steps, seed, gather))


def train_in_ranks(ranks: int, steps: int, seed: int, own_masks: bool) -> list[tuple[float, list[NDArray]]]:
    """Return what each rank's training returns; this process passes their slices around."""
    context = multiprocessing.get_context("spawn")
    hubs = []
    for rank in range(ranks):
        hub, there = context.Pipe()
        share = Share(rank, ranks, own_masks)
        context.Process(target=rank_main, args=(share, steps, seed, there), daemon=True).start()
        there.close()  # so that a rank that dies ends the connection
        hubs.append(hub)
    for _ in range(steps):
        gathered = zip(*(hub.recv() for hub in hubs), strict=True)
        whole = [np.concatenate(parts) for parts in gathered]
        for hub in hubs:
            hub.send(whole)
    return [hub.recv() for hub in hubs]


def fingerprint(weights: Sequence[NDArray]) -> str:
    """Return a digest of the weights' bits."""
    return hashlib.sha256(b"".join(w.tobytes() for w in weights)).hexdigest()[:16]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    possible = [n for n in range(1, BATCH + 1) if BATCH // SLICE % n == 0]
    add("--ranks", type=int, choices=possible, default=2, help="processes (default: %(default)s)")
    add("--steps", type=int, default=300, help=f"batches of {BATCH} digits (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--own-masks", action="store_true", help="each rank draws its own masks, from key.fold_in(rank)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example; end with status 1 if the bits differ where they should not."""
    options = parse(argv)
    found = train_in_ranks(options.ranks, options.steps, options.seed, options.own_masks)
    loss, weights = train(Share(), options.steps, options.seed, gather=list)
    prints = [fingerprint(w) for _, w in found]
    print(f"1 process:   loss {loss:.6f}, weights {fingerprint(weights)}")
    print(f"{options.ranks} processes: loss {found[0][0]:.6f}, weights {', '.join(prints)}")
    agree, same = len(set(prints)) == 1, set(prints) == {fingerprint(weights)}
    print(f"all ranks have the same weights: {agree}; they are those of one process: {same}")
    if not agree or not (same or options.own_masks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
