"""What CUDA's threads compute, in scalars, against the CPU's kernels on lanes, bit for bit."""

import numpy as np
import pytest
from arrays import same_bits
from numba import njit

import fastdrop as fd
from fastdrop._arrays.plan import Density, Pass, Rows
from fastdrop._cpu import bernoulli, calls
from fastdrop._cuda import lane, places
from fastdrop._lanes import formulas
from fastdrop._stream import reference
from fastdrop._stream.keys import stream

KEY = fd.Key(3, draw=2)
KEYS = [KEY, KEY.antithetic()]
FULL = 1 << 32


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("p", [0, 2**-32, 0.1, 0.5, 0.75, 1 - 2**-32, 1])
def test_masks(p, key):
    index = np.r_[np.arange(40), 1000:1060, (1 << 63) + np.arange(3, dtype=np.uint64)].astype(np.uint64)
    dropped = [lane.unit_dropped(i, round(p * FULL), *stream(key)) for i in index]
    assert dropped == (reference.uniforms(index, key) < round(p * FULL)).tolist()
    assert dropped != [lane.unit_dropped(i, round(0.3 * FULL), *stream(key)) for i in index]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", KEYS)
def test_noise(dtype, key):
    for draw, name, numbers in (
        ("normal", "shift", (1.0,)),
        ("normal", "exponential", (0.4,)),
        ("normal", "exponential_slope", (0.4,)),
        ("logistic", "concrete", None),
    ):
        expected, ours = np.empty(320, dtype), np.empty(320, dtype)
        numbers = numbers or (10.0, 0.3, 1.1, 1.2, 0.1)
        x = np.full(320, 0 if name == "shift" else 1, dtype)
        calls.noise(Density(draw, name, numbers), x, expected, Rows(320, 0, 0), *stream(key))
        element = lane.continuous(getattr(formulas, name))
        typed = tuple(dtype(number) for number in numbers)
        for block in range(80):
            for word, z in enumerate(lane.DENSITIES[draw](block, *stream(key), dtype(0))):
                at = 32 * (block // 8) + 8 * word + block % 8
                ours[at] = element(x[at], z, typed)
        assert same_bits(ours, expected)


def drawn(noise, size, key, like):
    """Noise as threads draw it, a block each."""

    @njit
    def fill(out, key, draw, like):
        for block in range(out.size // 4):
            at = 32 * (block // 8) + block % 8
            out[at], out[at + 8], out[at + 16], out[at + 24] = noise(block, key, draw, like)

    out = np.empty(size, like.dtype)
    fill(out, *stream(key), like)
    return out.astype(np.float64)


@pytest.mark.parametrize("key", KEYS)
def test_the_error_of_normals_is_as_documented(key):
    """The figures are those of the docstrings of `fastdrop._cuda.kernels` and `lane.normals`."""
    index, eps = np.arange(2**20, dtype=np.uint64), np.finfo(np.float32).eps
    exact = reference.normals(index, key)
    error = np.abs(drawn(lane.normals, index.size, key, np.float32(0)) - exact)
    pairs = exact.reshape(-1, 2, 2, 8)  # cosines and sines of one radius
    radius = np.broadcast_to(np.hypot(pairs[:, :, :1], pairs[:, :, 1:]), pairs.shape).ravel()
    assert 1 < (error / (eps * radius)).max() < 2
    assert np.mean(error <= 2 * np.spacing(np.abs(exact).astype(np.float32))) > 0.99
    exact = reference.logistics(index, key)
    error = np.abs(drawn(lane.logistics, index.size, key, np.float32(0)) - exact)
    assert 1 < (error / (eps * np.maximum(np.abs(exact), 1))).max() < 2


@pytest.mark.parametrize("activation", range(5))
@pytest.mark.parametrize("name", ["activate", "activate_add", "differentiate"])
def test_activations(name, activation):
    x, other = np.random.default_rng(0).normal(0, 4, (2, 64)).astype(np.float32)
    bias, expected = x[::-1].copy(), np.empty(64, np.float32)
    arrays = calls.Part(x, other, bias, bernoulli.NO_CYCLE, expected)
    calls.elements(Pass(name, activation=activation), *arrays, Rows(64, 0, 0), (0, 1.25, *stream(KEY)))
    element = lane.bernoulli(getattr(formulas, name), activation, True)
    constants = np.float32(0), np.float32(0)
    ours = [element(*three, False, np.float32(1.25), constants) for three in zip(x, other, bias, strict=True)]
    assert same_bits(np.array(ours, np.float32), expected)


@pytest.mark.parametrize(
    ("length", "stride", "start", "rows"), [(5, 0, 3, 1), (2100, 0, 1000, 1), (40, 999, 7, 9)]
)
def test_every_element_has_one_thread(length, stride, start, rows):
    seen = np.zeros(rows * length, int)
    groups = (1023 + length + 1023) // 1024
    for item in range(rows * groups * 32):
        block, word, at, k, count = places.bits_of(item, groups, length, stride, start)
        for i in range(max(count, 0)):
            place = at + 32 * i
            index = start + place // length * stride + place % length
            assert index == 1024 * (block // 8) + 32 * (k + i) + 8 * word + block % 8
            seen[place] += 1
    assert (seen == 1).all()
