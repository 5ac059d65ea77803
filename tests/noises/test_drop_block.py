"""DropBlock; its layer goes through test_structured.py too."""

import naive
import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, examples, frozen, normal, same_bits
from exact import drop_block_rate as exact_rate
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdrop as fd

KEY = fd.Key(42)


def naive_mask(shape, p, key, size):
    height, width = shape[2:]
    a, b = min(size, height), min(size, width)
    places = (height - a + 1) * (width - b + 1)
    gamma = min(1.0, p * height * width / (a * b) / places)
    seeds = ~fd.keep_mask((*shape[:2], height - a + 1, width - b + 1), gamma, key)
    return naive.painted(seeds, shape, a, b)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("shape", [(3, 4, 9, 9), (2, 3, 6, 11), (2, 2, 11, 6), (1, 1, 1, 5)])
def test_blocks_are_the_painted_ones(shape, size):
    x = normal(*shape, dtype=np.float64)
    mask = naive_mask(shape, 0.1, KEY, size)
    scale = mask.size / mask.sum() if mask.any() else 0
    expected = np.where(mask == 1, x * scale, 0)
    y = fd.drop_block(x, 0.1, KEY, block_size=size)
    assert np.array_equal(y, expected)
    assert same_bits(fd.drop_block_backward(x, 0.1, KEY, block_size=size), y)
    last = fd.drop_block(np.ones((9, 7, 5, 3)), 0.1, KEY, block_size=2, data_format="channels_last")
    assert last.shape == (9, 7, 5, 3)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 4, 50), 7),
        ((2, 3, 9), (4,)),
        ((2, 3, 9, 7), (2, 5)),
        ((2, 2, 5, 6, 7), 3),
        ((2, 2, 5, 6, 4), (1, 2, 9)),
        ((3, 2, 200), 150),
        ((2, 3, 70, 65), (33, 64)),
        ((1, 3, 3, 130), (2, 1)),
        ((2, 1, 7, 9, 63), (4, 1, 31)),
        ((1, 70, 5, 6, 3), (5, 3, 1)),
    ],
)
def test_blocks_in_each_number_of_dimensions(shape, size, last):
    """Each seed, one by one, sets the places of its block."""
    image = shape[2:]
    sides = [min(n, s) for n, s in zip(image, np.broadcast_to(size, len(image)), strict=True)]
    places = [n - side + 1 for n, side in zip(image, sides, strict=True)]
    gamma = min(1.0, 0.2 * np.prod(image) / np.prod(sides) / np.prod(places))
    x = normal(*shape, dtype=np.float64)
    starts = np.array((*shape[:2], *places))
    if last:
        starts = starts[[0, *range(2, len(shape)), 1]]
    seeds = ~fd.keep_mask(tuple(starts), gamma, KEY)
    seeds = np.moveaxis(seeds, -1, 1) if last else seeds
    mask = np.ones(shape)
    for at in np.argwhere(seeds):
        mask[(*at[:2], *(slice(i, i + side) for i, side in zip(at[2:], sides, strict=True)))] = 0
    expected = np.where(mask == 1, x * (mask.size / mask.sum()), 0)
    data_format = "channels_last" if last else "channels_first"
    y = fd.drop_block(
        np.moveaxis(x, 1, -1) if last else x, 0.2, KEY, block_size=size, data_format=data_format
    )
    assert np.array_equal(np.moveaxis(y, -1, 1) if last else y, expected)
    layer = {1: fd.DropBlock1D, 2: fd.DropBlock2D, 3: fd.DropBlock3D}[len(image)]
    drop = layer(0.2, block_size=size, data_format=data_format, rng=KEY)
    assert same_bits(drop(np.moveaxis(x, 1, -1) if last else x), y)
    with pytest.raises(ValueError, match=f"{layer.__name__} needs {len(shape)} axes, got shape"):
        drop(x[0])


def test_shared_blocks_are_the_same_in_all_channels():
    for data_format, axis in (("channels_first", 1), ("channels_last", 3)):
        x = np.ones((4, 9, 9, 9))
        y = fd.drop_block(x, 0.3, KEY, block_size=3, shared_channels=True, data_format=data_format)
        assert (y == y.take([0], axis)).all()
        assert (y == 0).any()
        assert y.mean() == pytest.approx(1)


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
        ({"block_size": (2, 0)}, ValueError, "block_size must be at least 1, got 0"),
        ({"block_size": (2, 2.0)}, TypeError, "block_size must be an integer, got float"),
        ({"block_size": (2, 2, 2)}, ValueError, "block_size must be one int, or one for each of 2 axes"),
        ({"data_format": "nchw"}, ValueError, "data_format must be one of"),
    ],
)
def test_blocks_refuse(options, error, message):
    with pytest.raises(error, match=message):
        fd.drop_block(np.ones((1, 1, 4, 4)), 0.5, 1, **options)
    with pytest.raises(error, match=message):
        fd.DropBlock2D(0.5, **options)
    with pytest.raises(ValueError, match=r"needs 3, 4 or 5 axes, got 2; use x"):
        fd.drop_block(np.ones((4, 4)), 0.5, 1)


@settings(max_examples=examples(100))
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    size=st.integers(1, 10),
    p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    last=st.booleans(),
)
def test_every_dtype_and_layout(shape, size, p, dtype, layout, last):
    x = normal(*shape, dtype=dtype)
    mask = naive_mask(shape, p, KEY, size)
    if last:  # the same images, channels last, have other seeds: one channel makes them comparable
        x, mask = x[:, :1], naive_mask((shape[0], 1, *shape[2:]), p, KEY, size)
    wide = np.float32 if x.dtype.itemsize == 2 else x.real.dtype.type
    scale = wide(mask.size / mask.sum() if mask.any() else 0)
    expected = np.where(mask == 1, (x if x.dtype.kind == "c" else x.astype(wide)) * scale, 0).astype(dtype)
    data_format = "channels_last" if last else "channels_first"
    given_x = np.moveaxis(x, 1, 3) if last else x
    y = fd.drop_block(frozen(LAYOUTS[layout](given_x)), p, KEY, block_size=size, data_format=data_format)
    assert np.array_equal(np.moveaxis(y, 3, 1) if last else y, expected)
