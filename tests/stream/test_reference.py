"""The reference against the independent oracle, and the stream's published vectors."""

import naive
import numpy as np
import pytest

from fastdrop import Key, keep_mask
from fastdrop._stream import reference

INDICES = [0, 1, 7, 8, 31, 32, 1023, 1024, 1025, 2**32 * 128 - 1, 2**32 * 128, 2**63, 2**64 - 1]


@pytest.mark.parametrize(
    "key",
    [Key(0), Key(42, 3), Key(7, 2**32 + 1), Key(7, 2**48 - 2), Key(7, 2**48 + 1), Key(2**70).fold_in(1)],
)
def test_uniforms_are_the_oracles(key):
    u = reference.uniforms(np.array(INDICES, np.uint64), key)
    assert u.tolist() == [naive.uniform(i, key.seed, key.draw) for i in INDICES]


def test_uniforms_are_pinned():
    """Published vectors: a change to these is a new stream version and a line in the changelog."""
    u = reference.uniforms(np.array([0, 1, 8, 32, 1023, 1024, 2**63], np.uint64), Key(42))
    assert [f"{v:08x}" for v in u] == [
        "71f51d2d",
        "374c078e",
        "545918a2",
        "d4539592",
        "150cc2c3",
        "2bea27ed",
        "3d101c21",
    ]


@pytest.mark.parametrize(
    ("draw", "bits"),
    [
        (2**32 + 1, "dacfd76fbefd7ffe"),  # bits 32 to 47 of the draw lie in the counter
        (2**48 - 1, "2e7ffbfeff3b53bf"),
        (2**48 + 1, "7fbfdfb77fbfffaf"),  # higher ones are folded into the key
    ],
)
def test_masks_of_high_draws_are_pinned(draw, bits):
    """Published vectors, as above: the first 64 elements of masks at p = 1/4, in numpy.packbits order."""
    oracle = [naive.kept(i, 0.25, 42, draw) for i in range(64)]
    assert np.packbits(oracle).tobytes().hex() == bits
    assert np.packbits(reference.keep_mask((64,), 0.25, Key(42, draw))).tobytes().hex() == bits
    assert keep_mask(64, 0.25, Key(42, draw), packed=True).tobytes().hex() == bits


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.25, 0.3, 0.5, 0.999, 1.0])
def test_masks_are_the_oracles(p):
    shape, full, origin = (3, 5), (40, 700), (11, 340)
    mask = reference.keep_mask(shape, p, Key(9), (full, origin))
    for i, j in np.ndindex(shape):
        assert mask[i, j] == naive.kept((i + 11) * 700 + j + 340, p, 9, 0)


def test_indices_are_c_order_positions():
    assert np.array_equal(reference.indices((2, 3, 4)).ravel(), np.arange(24))
    whole = np.arange(7 * 9, dtype=np.uint64).reshape(7, 9)
    assert np.array_equal(reference.indices((3, 4), ((7, 9), (2, 5))), whole[2:5, 5:])
    assert reference.indices(()).shape == ()


def test_dropout_selects_and_scales_by_the_realised_rate():
    x = np.array([1.0, np.nan, -np.inf, -0.0] * 8, np.float32)
    y = reference.dropout(x, 0.3, Key(1))
    keep = reference.keep_mask(x.shape, 0.3, Key(1))
    scale = np.float32(2**32 / (2**32 - naive.threshold(0.3)))
    assert (y[~keep].view(np.uint32) == 0).all()
    assert np.array_equal(y[keep], (x * scale)[keep], equal_nan=True)
