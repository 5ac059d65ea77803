"""What CUDA's threads compute, in scalars, against the CPU's kernels on lanes, bit for bit."""

import numpy as np
import pytest
from arrays import same_bits

import fastdrop as fd
from fastdrop import _cpu, _formulas, _reference, _thread
from fastdrop.random import stream

KEY = fd.Key(3, draw=2)
KEYS = [KEY, KEY.antithetic()]
FULL = 1 << 32


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("p", [0, 2**-32, 0.1, 0.5, 0.75, 1 - 2**-32, 1])
def test_masks(p, key):
    index = np.r_[np.arange(40), 1000:1060, (1 << 63) + np.arange(3, dtype=np.uint64)].astype(np.uint64)
    dropped = [_thread.unit_dropped(i, round(p * FULL), *stream(key)) for i in index]
    assert dropped == (_reference.uniforms(index, key) < round(p * FULL)).tolist()
    assert dropped != [_thread.unit_dropped(i, round(0.3 * FULL), *stream(key)) for i in index]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", KEYS)
def test_noise(dtype, key):
    for noise, name, numbers in ((_thread.normals, "shift", (1.0,)), (_thread.logistics, "concrete", None)):
        expected, ours = np.empty(320, dtype), np.empty(320, dtype)
        numbers = numbers or (10.0, 0.3, 1.1, 1.2, 0.1)
        x = np.full(320, 0 if name == "shift" else 1, dtype)
        _cpu.add_noise(name, x, expected, 320, 0, 0, numbers, *stream(key))
        element = _thread.continuous(getattr(_formulas, name))
        typed = tuple(dtype(number) for number in numbers)
        for block in range(80):
            for word, z in enumerate(noise(block, *stream(key), dtype(0))):
                at = 32 * (block // 8) + 8 * word + block % 8
                ours[at] = element(x[at], z, typed)
        assert same_bits(ours, expected)


@pytest.mark.parametrize("activation", range(5))
@pytest.mark.parametrize("name", ["activate", "activate_add", "differentiate"])
def test_activations(name, activation):
    x, other = np.random.default_rng(0).normal(0, 4, (2, 64)).astype(np.float32)
    bias, expected = x[::-1].copy(), np.empty(64, np.float32)
    arrays = x, other, bias, _cpu.NO_CYCLE, expected
    _cpu.fused(name, activation, *arrays, 64, 0, 0, 0, 1.25, (), *stream(KEY))
    element = _thread.bernoulli(getattr(_formulas, name), activation, True)
    constants = np.float32(0), np.float32(0)
    ours = [element(*three, False, np.float32(1.25), constants) for three in zip(x, other, bias, strict=True)]
    assert same_bits(np.array(ours, np.float32), expected)


@pytest.mark.parametrize(
    ("length", "stride", "start", "rows"), [(5, 0, 3, 1), (2100, 0, 1000, 1), (40, 999, 7, 9)]
)
def test_every_element_has_one_thread(length, stride, start, rows):
    seen = np.zeros(rows * length, int)
    turns = (1023 + length + 1023) // 1024
    for item in range(rows * turns * 32):
        block, word, at, k, count = _thread.bits_of(item, turns, length, stride, start)
        for i in range(max(count, 0)):
            place = at + 32 * i
            index = start + place // length * stride + place % length
            assert index == 1024 * (block // 8) + 32 * (k + i) + 8 * word + block % 8
            seen[place] += 1
    assert (seen == 1).all()
