"""That no kernel writes outside `out`, at any alignment, nor touches pages that aren't its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from every_kernel import CALLS, DTYPES, has_its_turn, is_of_use, treat_as

from fastdrop._cpu import bernoulli
from fastdrop._cpu import calls as cpu_calls

SIZES = [1, 7, 8, 33, 1003, 1024, 1029]
RED = 0xA5


@pytest.fixture(autouse=True)
def sizes_set_back(monkeypatch):
    for name in ("SMALL", "FETCH_FROM", "STREAM_FROM"):
        monkeypatch.setattr(cpu_calls, name, getattr(cpu_calls, name))


def zoned(x, alignment):
    """A copy of x at so many bytes after a multiple of 64, and all that lies around it."""
    raw = np.full(x.nbytes + 256, RED, np.uint8)
    first = (alignment - raw.ctypes.data) % 64 + 64
    y = raw[first : first + x.nbytes].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y, np.concatenate([raw[:first], raw[first + x.nbytes :]], dtype=np.uint8), (raw, first)


def alignments(size, itemsize):
    """Where x and out begin in a line of the cache: where kernels take them, and where they are copied."""
    step = itemsize if size < 100 else 3 * itemsize
    taken = [(first, (7 * first + size * itemsize) % 64) for first in range(0, 64, step)]
    return [*taken, (1, 0), (0, 3), (33, 6)]


def around(place, nbytes):
    raw, first = place
    return np.concatenate([raw[:first], raw[first + nbytes :]])


def calls_and_dtypes():
    for name in CALLS:
        for dtype in DTYPES:
            marks = [] if has_its_turn(name, dtype) else [pytest.mark.slow]
            if is_of_use(name, dtype):
                yield pytest.param(name, dtype, id=f"{name}-{np.dtype(dtype).name}", marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("far", [bernoulli.NEAR, bernoulli.FAR, bernoulli.PAST], ids=["near", "far", "past"])
@pytest.mark.parametrize(("name", "dtype"), list(calls_and_dtypes()))
def test_red_zones_stay_at_every_alignment(name, dtype, far):
    call = CALLS[name]
    treat_as(far)
    # where arrays don't count as near, each dtype has half of the sizes, and each size half of the dtypes
    for size in SIZES if far == bernoulli.NEAR else SIZES[DTYPES.index(dtype) % 2 :: 2]:
        x = np.resize(np.array([1.5, -2, 0.25]), (1, size)).astype(dtype)
        expected = np.zeros_like(x)
        call(x, expected, lambda other: other)
        for alignment, of_out in alignments(size, x.itemsize):
            placed, _, source = zoned(x, alignment)
            out, _, target = zoned(np.zeros_like(x), of_out)
            if name.startswith(("cycled", "units")) and not (placed.flags.aligned and out.flags.aligned):
                continue  # called without what makes arrays fit for kernels
            call(placed, out, lambda other: other)
            for place in (source, target):
                assert (around(place, x.nbytes) == RED).all()
            assert out.tobytes() == expected.tobytes()


GUARDED = Path(__file__).parents[1] / "guard_pages.py"
needs_mprotect = pytest.mark.skipif(os.name != "posix", reason="protects pages by mprotect")


def guard(*arguments):
    script = [sys.executable, str(GUARDED), *arguments]
    return subprocess.run(script, capture_output=True, text=True, timeout=600)


@needs_mprotect
@pytest.mark.parametrize(
    ("calls", "at_least"), [("some", 28_000), pytest.param("all", 35_000, marks=pytest.mark.slow)]
)
def test_kernels_stay_within_their_pages_also_when_they_fetch_ahead(calls, at_least):
    done = guard(calls)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > at_least


@needs_mprotect
def test_a_byte_too_many_would_be_seen():
    assert guard("fault").returncode in (-signal.SIGSEGV, -signal.SIGBUS)
