"""Float16 converted without the processor's help: every number there is."""

import numpy as np
import pytest

import fastdrop as fd
from fastdrop._cpu import bernoulli, calls
from fastdrop._lanes import float16
from fastdrop._stream.keys import stream


@pytest.fixture
def dropped(monkeypatch):
    """A call of a kernel that was compiled for a processor without conversions, at p almost 0."""
    monkeypatch.setattr(float16, "in_hardware", lambda: False)
    kernel = calls._drop_kernel()
    kernel._cache.disable()

    def call(x, scale):
        y = np.empty_like(x)
        kernel(
            x.view(np.int16), y.view(np.int16), x.size, 0, 0, 1, scale, *stream(fd.Key(1)), bernoulli.NEAR, 0
        )
        return y

    return call


def same(a, b):
    return np.array_equal(a.view(np.uint16), b.view(np.uint16))


@pytest.mark.filterwarnings("ignore")
def test_every_float16_times_scales_that_round_every_way(dropped):
    x = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    for scale in (1.0, 2.0, 4 / 3, 1 + 2.0**-11, 1 + 2.0**-12, 1.5 * 2.0**-11, 2.0**-24, 0.1, 2.0**15, 1e-30):
        expected = (x.astype(np.float32) * np.float32(scale)).astype(np.float16)
        found = dropped(x, scale)
        nan = np.isnan(x)
        assert same(found[~nan], expected[~nan]), scale
        assert np.isnan(found[nan]).all()
        assert same(np.signbit(found).astype(np.uint16), np.signbit(x).astype(np.uint16))


def test_the_processor_s_own_conversion_gives_the_same_bits(dropped):
    x = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    for scale in (1.0, 4 / 3, 2.0**-20):
        y = np.empty_like(x)
        numbers = 0, 0, 1, scale, *stream(fd.Key(1)), bernoulli.NEAR, 0
        calls._drop(x.view(np.int16), y.view(np.int16), x.size, *numbers)
        assert same(dropped(x, scale), y)


def test_what_processors_can(monkeypatch):
    class Codegen:
        def magic_tuple(self):
            return self.found

    def can(*found):
        Codegen.found = found
        return float16.in_hardware.__wrapped__()

    monkeypatch.setattr(type(float16.cpu_target.target_context), "codegen", lambda self: Codegen())
    assert can("x86_64-unknown-linux-gnu", "znver3", "+avx,+f16c,+fma")
    assert not can("x86_64-unknown-linux-gnu", "x86-64", "")
    assert can("aarch64-unknown-linux-gnu", "generic", "")
