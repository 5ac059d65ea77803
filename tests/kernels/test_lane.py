"""What a GPU's warps draw, on vectors of the CPU, against the reference bit for bit."""

import numpy as np
import pytest
from numba import njit, types
from numba.extending import intrinsic

import fastdrop as fd
from fastdrop._cuda import lane, places, warp
from fastdrop._lanes.vectors import lane as one_lane
from fastdrop._lanes.vectors import value
from fastdrop._stream import reference
from fastdrop._stream.keys import stream

KEY = fd.Key(3, draw=2)
KEYS = [KEY, KEY.antithetic()]
FULL = 1 << 32


@njit
def unit_dropped(index, threshold, key, draw):
    return lane.unit_dropped(index, threshold, key, draw)  # Python itself can't call what kernels are made of


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("p", [0, 2**-32, 0.1, 0.5, 0.75, 1 - 2**-32, 1])
def test_masks(p, key):
    index = np.r_[np.arange(40), 1000:1060, (1 << 63) + np.arange(3, dtype=np.uint64)].astype(np.uint64)
    dropped = [unit_dropped(i, round(p * FULL), *stream(key)) for i in index]
    assert dropped == (reference.uniforms(index, key) < round(p * FULL)).tolist()
    assert dropped != [unit_dropped(i, round(0.3 * FULL), *stream(key)) for i in index]


def drawn(noise, size, key, like):
    """Noise as threads draw it, a block each."""

    @njit
    def fill(out, key, draw, like):
        for block in range(out.size // 4):
            at = 32 * (block // 8) + block % 8
            a, b, c, d = noise(one_lane(np.uint64(block)), key, draw, one_lane(like))
            out[at], out[at + 8], out[at + 16], out[at + 24] = value(a), value(b), value(c), value(d)

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


@intrinsic
def put_lanes(typingctx, array, v):
    """Write all lanes to the beginning of an array."""

    def codegen(context, builder, sig, args):
        data = context.make_array(array)(context, builder, args[0]).data
        builder.store(args[1], builder.bitcast(data, args[1].type.as_pointer()), align=4)

    return types.void(array, v), codegen


numbers_of, (dropped_words, uniforms) = warp.lane_numbers(32), warp.drawn(32)


@njit
def words_of_a_tile(out, tile, threshold, key, draw):
    words = dropped_words(tile, threshold, key, draw, numbers_of())
    put_lanes(out[0], words)
    put_lanes(out[1], warp.transposed_bits(words, numbers_of()))


@njit
def first_rows(out, tile, key, draw):
    u = uniforms(tile, key, draw, numbers_of())
    put_lanes(out[0], u[0])
    put_lanes(out[1], u[1])
    put_lanes(out[2], u[31])


@pytest.mark.parametrize("key", [*KEYS, fd.Key(5, draw=1 << 40)])
@pytest.mark.parametrize("tile", [0, 5, 1 << 40])
def test_a_warp_draws_a_tile(tile, key):
    """As "lane is column, bit is row", and transposed."""
    index = np.arange(1024, dtype=np.uint64) + np.uint64(tile) * np.uint64(1024)
    u, bits = reference.uniforms(index, key), np.arange(32, dtype=np.uint32)
    for p in (0, 2**-32, 0.1, 0.5, 0.75, 1 - 2**-32, 1):
        out = np.zeros((2, 32), np.uint32)
        words_of_a_tile(out, tile, round(p * FULL), *stream(key))
        dropped = (u < round(p * FULL)).reshape(32, 32)
        assert ((out[0] >> bits[:, None] & 1) == dropped).all()
        assert ((out[1][:, None] >> bits & 1) == dropped).all()
    if key in KEYS[:1]:  # a mirrored key has U's complement, which the caller of `uniforms` takes
        out = np.zeros((3, 32), np.uint32)
        first_rows(out, tile, *stream(key))
        assert (out == u.reshape(32, 32)[[0, 1, 31]]).all()


@njit
def rows_of(out, items, groups, length, stride, start):
    for item in range(items):
        group, at, low, high = row_of(item, 0, groups, length, stride, start)
        out[item] = np.int64(group), at, low, high


row_of = places.row_of(1024, False)


@pytest.mark.parametrize(
    ("length", "stride", "start", "rows"), [(5, 0, 3, 1), (2100, 0, 1000, 1), (40, 999, 7, 9)]
)
def test_every_element_has_one_warp(length, stride, start, rows):
    seen = np.zeros(rows * length, int)
    groups = (1023 + length + 1023) // 1024
    out = np.empty((rows * groups, 4), np.int64)
    rows_of(out, len(out), groups, length, stride, start)
    for group, at, low, high in out.tolist():
        for offset in range(low, high):
            place = at + offset
            assert start + place // length * stride + place % length == 1024 * group + offset
            seen[place] += 1
    assert (seen == 1).all()
