"""DropBlock; its layer goes through test_structured.py too."""

import numpy as np
import pytest
from arrays import normal, same_bits

import fastdrop as fd

KEY = fd.Key(42)


def naive_blocks(shape, p, key, size):
    """Blocks painted one by one."""
    n, c, height, width = shape
    a, b = min(size, height), min(size, width)
    places = (height - a + 1) * (width - b + 1)
    seeds = ~fd.keep_mask((n, c, height - a + 1, width - b + 1), p * height * width / (a * b) / places, key)
    mask = np.ones(shape)
    for i, j, y, x in zip(*np.nonzero(seeds), strict=True):
        mask[i, j, y : y + a, x : x + b] = 0
    return mask


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("shape", [(3, 4, 9, 9), (2, 3, 6, 11), (2, 2, 11, 6), (1, 1, 1, 5)])
def test_blocks_are_the_painted_ones(shape, size):
    x = normal(*shape, dtype=np.float64)
    mask = naive_blocks(shape, 0.1, KEY, size)
    scale = mask.size / mask.sum() if mask.any() else 0
    expected = np.where(mask == 1, x * scale, 0)
    y = fd.drop_block(x, 0.1, KEY, block_size=size)
    assert np.array_equal(y, expected)
    assert same_bits(fd.drop_block_backward(x, 0.1, KEY, block_size=size), y)
    last = fd.drop_block(np.ones((9, 7, 5, 3)), 0.1, KEY, block_size=2, data_format="channels_last")
    assert last.shape == (9, 7, 5, 3)


def test_shared_blocks_are_the_same_in_all_channels():
    for data_format, axis in (("channels_first", 1), ("channels_last", 3)):
        x = np.ones((4, 9, 9, 9))
        y = fd.drop_block(x, 0.3, KEY, block_size=3, shared_channels=True, data_format=data_format)
        assert (y == y.take([0], axis)).all()
        assert (y == 0).any()
        assert y.mean() == pytest.approx(1)


def exact_rate(height, width, size, p):
    a, b = min(size, height), min(size, width)
    gamma = p * height * width / (a * b) / ((height - a + 1) * (width - b + 1))
    starts = np.zeros((height, width))
    for i, j in np.ndindex(height - a + 1, width - b + 1):
        starts[i : i + a, j : j + b] += 1
    return (1 - (1 - gamma) ** starts).mean()


@pytest.mark.parametrize(
    ("height", "width", "size", "p", "rate"),
    [
        (11, 11, 3, 0.1, 0.09494),
        (11, 11, 3, 0.2, 0.18042),
        (11, 11, 5, 0.5, 0.36639),
        (28, 28, 7, 0.1, 0.09394),
        (9, 14, 4, 0.2, None),
    ],
)
def test_the_rate_of_blocks_is_the_exact_one(height, width, size, p, rate):
    exact = exact_rate(height, width, size, p)
    assert rate is None or exact == pytest.approx(rate, abs=5e-6)
    y = fd.drop_block(np.ones((400, 20, height, width), np.float32), p, 1, block_size=size)
    rates = (y == 0).mean((2, 3)).ravel()
    error = rates.std() / np.sqrt(rates.size)
    assert abs(rates.mean() - exact) < 4 * error
    assert abs(rates.mean() - exact * 1.1) > 4 * error


def test_blocks_everywhere_and_nowhere():
    x = normal(2, 3, 8, 8)
    assert same_bits(fd.drop_block(x, 0.0, 1), x)
    assert not fd.drop_block(x, 1.0, 1, block_size=1).any()
    assert fd.drop_block(np.ones((0, 3, 8, 8)), 0.5, 1).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
        ({"block_size": 1.5}, TypeError, "block_size must be an integer, got float"),
        ({"data_format": "nchw"}, ValueError, "data_format must be one of"),
    ],
)
def test_blocks_refuse(options, error, message):
    with pytest.raises(error, match=message):
        fd.drop_block(np.ones((1, 1, 4, 4)), 0.5, 1, **options)
    with pytest.raises(error, match=message):
        fd.DropBlock2D(0.5, **options)
    with pytest.raises(ValueError, match=r"needs images of 4 axes, got shape \(4, 4\)"):
        fd.drop_block(np.ones((4, 4)), 0.5, 1)
