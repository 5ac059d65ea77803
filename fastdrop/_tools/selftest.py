"""What `python -m fastdrop selftest` checks on a user's machine, with NumPy and Numba alone."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdrop as fd
from fastdrop._lanes.disk import directory
from fastdrop._stream import philox
from fastdrop._stream import reference as slow
from fastdrop._tools.progress import progress

KEY = fd.Key(42)
MOST = 5.0  # standard deviations that a statistic may be away from what is expected
# Known answers of Philox4x32-10: counter, key, output (Salmon et al., SC 2011)
ANSWERS = (
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
# The first 64 elements of masks of stream version 1, in numpy.packbits order
MASKS = {
    (0, 0, 0.5): "66fe3c300ecd3a6a",
    (42, 0, 0.5): "3f1804aaaeea67b2",
    (42, 0, 0.1): "fffbfeeffffeeffb",
    (42, 1, 0.5): "01ae5f2a5ee0bf97",
    (42, 2**32 + 1, 0.25): "dacfd76fbefd7ffe",
    (42, 2**48 - 1, 0.25): "2e7ffbfeff3b53bf",
    (42, 2**48 + 1, 0.25): "7fbfdfb77fbfffaf",
    (42, 2**63, 0.1): "fbfffffffdfddfdf",
    (2**70, 3, 0.9): "0000801040021000",
}


def vectors() -> str:
    """Compare Philox with its known answers, and masks with those that are published."""
    for counter, key, answer in ANSWERS:
        words = (np.array([word], np.uint64) for word in (*counter, *key))
        found = philox.philox4x32(*words)  # type: ignore[no-untyped-call]
        _require(tuple(int(word[0]) & 0xFFFFFFFF for word in found) == answer, "Philox")
    for (seed, draw, p), bits in MASKS.items():
        mask = fd.keep_mask(64, p, fd.Key(seed, draw), packed=True).tobytes().hex()
        _require(mask == bits, f"the mask of Key({seed}, {draw}) at p = {p} is {mask}, not {bits}")
    return f"{len(ANSWERS)} known answers, {len(MASKS)} masks"


def reference() -> str:
    """Compare the kernels with the same functions in slow NumPy, bit for bit."""
    calls = 0
    for dtype in (np.float16, np.float32, np.float64, np.complex64):
        for size in (1, 33, 1024, 5003):
            x = np.resize(np.array([1.5, -2.0, np.nan, 0.0]), size).astype(dtype)
            for p in (0.5, 0.1, 2.0**-20):
                expected = slow.dropout(x, p, KEY)  # type: ignore[no-untyped-call]
                same = fd.dropout(x, p, KEY).tobytes() == expected.tobytes()
                _require(same, f"{dtype.__name__}, {size}, {p}")
                calls += 1
    return f"{calls} calls"


def rates() -> str:
    """Count what is kept: of all elements, of each of 64 columns, and of pairs at several distances."""
    size, worst = 1 << 22, 0.0
    for p in (0.001, 0.1, 0.3, 0.5, 0.9):
        kept = fd.keep_mask(size, p, KEY)
        deviation = kept - (1 - p)
        worst = max(worst, abs(deviation.sum()) / math.sqrt(size * p * (1 - p)))
        columns = deviation.reshape(-1, 64).sum(0) / math.sqrt(size / 64 * p * (1 - p))
        worst = max(worst, abs(float((columns**2).sum()) - 64) / math.sqrt(2 * 64))
        for lag in (1, 2, 7, 8, 31, 32, 64, 1000, 1024):
            products = float(np.dot(deviation[lag:], deviation[:-lag]))
            worst = max(worst, abs(products) / (math.sqrt(size - lag) * p * (1 - p)))
    return _deviations(worst)


def independence() -> str:
    """Count how often two masks agree whose keys follow each other or are folded from one another."""
    size, p, worst = 1 << 20, 0.3, 0.0
    first = fd.keep_mask(size, p, KEY)
    agree = p**2 + (1 - p) ** 2
    for key in (KEY.next(), fd.Key(43), KEY.fold_in(0), KEY.fold_in(1), fd.Key(42, 2**32)):
        found = int((first == fd.keep_mask(size, p, key)).sum())
        worst = max(worst, abs(found - size * agree) / math.sqrt(size * agree * (1 - agree)))
    return _deviations(worst)


def normals() -> str:
    """Compare the moments and the tails of Gaussian noise with those of the normal distribution."""
    size, worst = 1 << 22, 0.0
    z = fd.normal(size, KEY, dtype=np.float32).astype(np.float64)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        worst = max(worst, abs(float((z**power).sum()) - size * mean) / math.sqrt(size * variance))
    for limit in (1.0, 3.0, 4.0):
        beyond = math.erfc(limit / math.sqrt(2))
        found = int((np.abs(z) > limit).sum())
        worst = max(worst, abs(found - size * beyond) / math.sqrt(size * beyond * (1 - beyond)))
    return _deviations(worst)


def threads() -> str:
    """Compare the bits of one thread, of several, and of several calls at once."""
    x, before, digests = np.ones((1 << 23) + 5, np.float32), fd.get_num_threads(), []

    def work() -> None:
        digests.append(_digest(x))

    try:
        for count in (1, 2, 3):
            fd.set_num_threads(count)
            work()
        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        fd.set_num_threads(before)
    _require(len(digests) == 7 and len(set(digests)) == 1, "threads change the bits")
    return f"{len(digests)} times the same bits"


def fork() -> str:
    """Compare with the bits of a child process, forked after the threads have run."""
    if not hasattr(os, "fork"):
        return "left out: this system has no fork"
    x = np.ones((1 << 23) + 5, np.float32)
    expected = _digest(x)
    here, there = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(there, _digest(x))
        finally:
            os._exit(0)
    os.close(there)
    with open(here, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    _require(found == expected, "a forked child gets other bits")
    return "the same bits in a child"


def gradients() -> str:
    """Check that a layer's backward is the adjoint of its forward, and that a loaded state goes on."""
    layer, x = fd.Dropout(0.3, rng=1), np.ones(5000)
    y = layer(x)
    _require(layer.backward(x).tobytes() == y.tobytes(), "backward is not the adjoint")
    other = fd.Dropout(rng=2)
    other.load_state_dict(layer.state_dict())
    _require(other(x).tobytes() == layer(x).tobytes(), "a loaded state gives other bits")
    return "the adjoint, and a resumed layer"


CHECKS: tuple[Callable[[], str], ...] = (
    vectors,
    reference,
    rates,
    independence,
    normals,
    threads,
    fork,
    gradients,
)


def run() -> int:
    """Run all checks, print a line for each, and return how many failed."""
    failed, start = 0, perf_counter()
    if not directory().is_dir():
        print("The first run compiles kernels, which takes half a minute or so.", flush=True)
    with progress("checking", len(CHECKS), lines=False) as step:
        for check in CHECKS:
            try:
                result, what = "ok", check()
            except Exception as error:  # of any kind: the other checks run all the same
                result, what = "FAILED", f"{type(error).__name__}: {error}"
                failed += 1
            print(f"{result:8}{check.__name__:14}{what}", flush=True)
            step(check.__name__)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed in {perf_counter() - start:.0f} s")
    return failed


def _require(right: bool, message: str) -> None:
    """Let the check fail with the message if something is not right."""
    if not right:
        raise ArithmeticError(message)


def _deviations(worst: float) -> str:
    """What to print of the worst statistic; the check fails if it is too bad."""
    text = f"at most {worst:.1f} standard deviations, of which {MOST:.0f} are allowed"
    _require(worst <= MOST, text)
    return text


def _digest(x: NDArray[Any]) -> bytes:
    """A digest of the bits of dropout and of Gaussian noise."""
    digest = hashlib.sha256(fd.dropout(x, 0.3, KEY).data)
    digest.update(fd.gaussian_dropout(x[: 1 << 21], 0.3, KEY).data)
    return digest.digest()
