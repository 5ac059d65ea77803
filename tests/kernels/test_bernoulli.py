"""The CPU kernel against the reference, bit for bit, and how it is compiled and cached."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.registry import cpu_target

import fastdrop as fd
from fastdrop import Key
from fastdrop._cpu import bernoulli, calls
from fastdrop._lanes import disk, memory
from fastdrop._stream import reference
from fastdrop._stream.keys import signed, stream

SIZES = [0, 1, 7, 8, 31, 33, 1023, 1024, 1025, 4099, 10**5 + 3]
RATES = [2**-33 * 1.5, 1e-3, 0.1, 0.25, 0.3, 0.5, 0.9, 1 - 2**-32]
STARTS = [0, 1, 9, 1000, 1023, 2**32 * 128 - 1000, 2**63 - 600, 2**63]
KEY = Key(42, 3)


def threshold(p):
    return round(p * 2**32)


def by_kernel(kernel, x, p, start=0, key=KEY, out=None):
    t = threshold(p)
    y = np.full_like(x, 9) if out is None else out
    if x.size:
        kernel(x, y, signed(start), t, 2**32 / (2**32 - t), *stream(key))
    return y


def one_row(kernel, far):
    """A compiled kernel as `calls.drop_row`."""
    return lambda x, y, *numbers: kernel(x, y, x.size, 0, *numbers, far, 0)


def by_reference(x, p, start=0, key=KEY):
    return reference.dropout(x, p, key, ((start + x.size,), (start,)))


def sample(size, dtype=np.float32):
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    x[::7] = np.nan
    x[::11] = -np.inf
    x[::13] = -0.0
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", RATES)
def test_sizes_and_rates(p, dtype):
    for size in SIZES:
        x = sample(size, dtype)
        assert by_kernel(calls.drop_row, x, p).tobytes() == by_reference(x, p).tobytes(), size


@pytest.mark.parametrize("start", STARTS)
def test_starts(start):
    for size in (1, 600, 1500, 5000):
        x = sample(size)
        assert by_kernel(calls.drop_row, x, 0.3, start).tobytes() == by_reference(x, 0.3, start).tobytes(), (
            size
        )


@pytest.mark.parametrize("key", [Key(0), Key(1, 2**32 - 1), Key(1, 2**32), Key(5).fold_in(3)])
def test_keys(key):
    x = sample(3000)
    assert by_kernel(calls.drop_row, x, 0.1, key=key).tobytes() == by_reference(x, 0.1, key=key).tobytes()


def test_a_million_and_seven():
    x = sample(10**6 + 7)
    assert by_kernel(calls.drop_row, x, 0.5).tobytes() == by_reference(x, 0.5).tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("piece", [1000, 1024, 4099])
def test_threads_and_pieces_give_the_same_bits(threads, piece, in_pieces_of):
    in_pieces_of(piece, threads)
    x = sample(50_003)
    for start in (0, 1000, 2**64 - x.size):
        assert by_kernel(calls.drop_row, x, 0.3, start).tobytes() == by_reference(x, 0.3, start).tobytes()


@pytest.mark.parametrize("far", [bernoulli.FAR, bernoulli.PAST])
@pytest.mark.parametrize("start", [0, 4, 1020])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fetching_ahead_and_streaming_stores_give_the_same_bits(start, dtype, far):
    """Starts that keep the address of each group of eight a multiple of 16."""
    raw = np.zeros(5000 * 8 + 16, np.uint8)
    first = (start * np.dtype(dtype).itemsize - raw.ctypes.data) % 16
    out = raw[first : first + 5000 * np.dtype(dtype).itemsize].view(dtype)
    x = sample(5000, dtype)
    by_kernel(one_row(calls._drop, far), x, 0.3, start, out=out)
    assert out.tobytes() == by_reference(x, 0.3, start).tobytes()


def test_big_outputs_stream_past_the_cache_unless_misaligned(monkeypatch, in_pieces_of):
    monkeypatch.setattr(calls, "STREAM_FROM", 0)
    in_pieces_of(20_000, 2)
    raw = np.zeros(50_008, np.float32)
    x = sample(50_000)
    for shift in range(4):
        out = raw[shift : shift + x.size]
        assert by_kernel(calls.drop_row, x, 0.5, out=out).tobytes() == by_reference(x, 0.5).tobytes()


def test_nothing_outside_is_written():
    for size in (1, 9, 1000, 1024, 3001):
        for start in (0, 5, 1023):
            raw = np.full(size + 64, 77, np.float32)
            by_kernel(calls.drop_row, sample(size), 0.5, start, out=raw[32 : 32 + size])
            assert (raw[:32] == 77).all()
            assert (raw[32 + size :] == 77).all()


def test_in_place_and_read_only():
    x = sample(200_000)
    expected = by_reference(x, 0.1).tobytes()
    frozen = x.copy()
    frozen.flags.writeable = False
    assert by_kernel(calls.drop_row, frozen, 0.1).tobytes() == expected
    assert by_kernel(calls.drop_row, x, 0.1, out=x).tobytes() == expected


CROWD = """
import threading, numpy as np, fastdrop as fd
x = np.ones(2**22 + 1, np.float32)
seen = []
def work():
    for _ in range(5):
        seen.append(hash(fd.dropout(x, 0.25, 7).tobytes()))
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(seen) == 40 and len(set(seen)) == 1, set(seen)
"""


def start_crowd(**environment):
    return subprocess.Popen(
        [sys.executable, "-c", CROWD], env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )


def assert_lived(process):
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error


def test_python_threads_at_once_get_the_same_bits_and_live():
    assert_lived(start_crowd())


@pytest.mark.slow  # `test_processes_that_compile_at_once` of the cache has the cheapest kernel
def test_processes_that_compile_at_once_share_a_cache(tmp_path):
    crowds = [start_crowd(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    for crowd in crowds:
        assert_lived(crowd)
    assert list(tmp_path.rglob("*.code"))


def test_a_change_of_the_sources_or_of_the_variant_changes_the_cache_s_file(monkeypatch):
    signature, codegen = (numba.int64,), numba.core.registry.cpu_target.target_context.codegen()

    def path(name):
        return calls._elements_kernel(name, 0)._cache._place(signature, codegen)[0]

    before = path("drop")
    assert path("drop") == before != path("alpha")
    monkeypatch.setattr(disk, "_STAMP", "newer")
    assert path("drop") != before


def test_the_stamp_covers_every_file_that_kernels_come_from(tmp_path, monkeypatch):
    package = tmp_path / "fastdrop"
    shutil.copytree(Path(fd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(disk, "__file__", str(package / "_lanes" / "disk.py"))
    stamps = {disk._stamp()}
    names = "_cpu/compiled", "_lanes/special", "_stream/philox", "_arrays/plan", "torch/_openmp"
    for name in names:
        path = package / f"{name}.py"
        path.write_text(path.read_text() + "\n# newer\n")
        stamps.add(disk._stamp())
    assert len(stamps) == 1 + len(names)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 assembly")
def test_the_kernel_multiplies_vectors_and_can_stream():
    kernel = numba.njit(calls._drop.py_func)  # one that comes from the cache has no assembly to show
    by_kernel(one_row(kernel, bernoulli.NEAR), sample(10), 0.5)
    (code,) = kernel.inspect_asm().values()
    assert "pmuludq" in code
    assert "movnt" in code


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 assembly")
@pytest.mark.parametrize("asked", [True, False])
def test_kernels_ask_for_lines_ahead_only_of_processors_that_have_to_be_asked(asked, monkeypatch):
    _, processor, _ = cpu_target.target_context.codegen().magic_tuple()
    monkeypatch.setattr(memory, "_UNASKED", frozenset({"another" if asked else processor}))
    kernel = numba.njit(lambda x: memory.prefetch(x, 0))
    kernel(sample(10))
    (code,) = kernel.inspect_asm().values()
    assert ("prefetcht0" in code) == asked
