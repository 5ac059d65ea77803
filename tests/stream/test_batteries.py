"""The programs that put the stream through batteries: what they draw, and that they reject wrong numbers."""

import shutil

import dieharder
import keys_battery
import numpy as np
import pytest
from scipy import special

import fastdrop as fd
from fastdrop._stream import reference


def places_of_normals(bits, number, size):
    index = np.arange(number * size, (number + 1) * size, dtype=np.uint64)
    return special.ndtr(reference.normals(index, dieharder.KEY, bits))


def test_words_are_the_places_of_normals():
    words = dieharder.normals(3, 1000)
    expected = places_of_normals(64, 3, 1000) * 2**32
    assert np.abs(words - np.floor(expected)).max() <= 1
    halves = dieharder.normals32(3, 1000)
    expected = places_of_normals(32, 3, 1000) * 2**16
    assert np.abs(halves - expected + 0.5).max() < 0.5 + 2**-6
    assert (words.dtype.itemsize, halves.dtype.itemsize) == (4, 2)


def test_rows_are_windows_of_their_array():
    found = np.unpackbits(dieharder.rows(2, 16)).reshape(16, 100)
    numbers = [n * 0x9E3779B1 % 2**31 for n in range(32, 48)]
    for row, number in zip(found, numbers, strict=True):
        window = (2**31, 100), (number, 0)
        assert np.array_equal(row, fd.keep_mask((1, 100), 0.5, dieharder.KEY, window=window)[0])


def test_ragged_rows_are_windows_of_theirs():
    found = np.unpackbits(dieharder.offsets(2, 16))
    lengths = np.random.default_rng(2).integers(1, 200, 16)
    lengths[-1] = found.size - lengths[:-1].sum()
    for n, (row, length) in enumerate(zip(np.split(found, np.cumsum(lengths)[:-1]), lengths, strict=True)):
        window = (2**31, 2**32), (32 + n, 0)
        assert np.array_equal(row, fd.keep_mask((1, length), 0.5, dieharder.KEY, window=window)[0])


@pytest.mark.skipif(shutil.which("dieharder") is None, reason="dieharder isn't installed")
def test_dieharder_is_understood():
    ((name, p, how),) = dieharder.run(dieharder.STREAMS["rows in another order"], "100", "10")
    assert (name, how) == ("sts_monobit 1", "PASSED")
    assert 0 < float(p) < 1
    same = "-c 'import sys; [sys.stdout.buffer.write(bytes(9999)) for _ in iter(int, 1)]'"
    assert dieharder.run(same, "100", "10")[0][2] == "FAILED"


KEYS, SIZE = [fd.Key(seed) for seed in range(100)], 2**13


@pytest.mark.parametrize("draws", keys_battery.TESTS)
def test_p_values_of_many_keys_are_uniform(draws):
    found = keys_battery.p_values(draws, KEYS, SIZE)
    assert {name for name, values in found.items() if keys_battery.uniform(values) < 1e-4} == set()


def even_mask(size, key):
    """As many in each 64 as there should be, at places that are drawn."""
    places = np.random.default_rng(key.seed).random((size // 64, 64)).argsort(1)
    return (places < 32).reshape(-1)


def echo(u):
    """Every twentieth number is that of 8 before."""
    u = u.copy()
    u[8::20] = u[:-8:20]
    return u


WRONG = {
    "a rate too high": ("p = 0.1", "kept", lambda size, key: fd.keep_mask(size, 0.104, key)),
    "one key": ("p = 0.5", "bytes", lambda size, key: fd.keep_mask(size, 0.5, 1)),
    "more even than random": ("p = 0.5", "kept", even_mask),
    "an echo": (
        "p = 0.1",
        "8 apart",
        lambda size, key: echo(fd.keep_mask(size, 0.1, key)),
    ),
    "neighbours alike": (
        "p = 0.5",
        "eights",
        lambda size, key: np.repeat(fd.keep_mask(size // 2, 0.5, key), 2),
    ),
    "normals too wide": ("normals", "256 cells", lambda size, key: special.ndtr(1.04 * fd.normal(size, key))),
    "normals that repeat": ("normals", "8 apart", lambda size, key: echo(special.ndtr(fd.normal(size, key)))),
    "a shifted logistic": (
        "logistics",
        "Kolmogorov and Smirnov",
        lambda size, key: keys_battery.uniforms_of_masks(size, key) ** 1.02,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_p_values_of_wrong_numbers_are_not(name):
    draws, test, draw = WRONG[name]
    found = keys_battery.p_values(draws, KEYS, SIZE, draw)
    assert keys_battery.uniform(found[test]) < 1e-6
