"""Stochastic depth; its layer goes through test_structured.py too."""

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, examples, frozen, normal, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import fastdrop as fd
from fastdrop._stream import reference

KEY = fd.Key(42)


def test_drop_path_modes():
    x = np.ones((1000, 3, 2), np.float32)
    rows = fd.drop_path(x, 0.25, KEY)
    assert (rows == rows[:, :1, :1]).all()
    assert set(np.unique(rows)) == {np.float32(0), np.float32(1 / 0.75)}
    assert same_bits(fd.drop_path_backward(x, 0.25, KEY), rows)
    batch = [fd.drop_path(x, 0.25, seed, mode="batch") for seed in range(200)]
    assert all((y == y[0, 0, 0]).all() for y in batch)
    kept = sum(bool(y.any()) for y in batch)
    assert stats.binomtest(kept, 200, 0.75).pvalue > 0.01
    assert stats.binomtest(kept, 200, 0.55).pvalue < 0.01
    with pytest.raises(ValueError, match=r'mode must be "row" or "batch", got \'col\''):
        fd.drop_path(x, 0.5, 1, mode="col")
    with pytest.raises(ValueError, match=r'mode must be "row" or "batch", got \[\'row\'\]'):
        fd.drop_path(x, 0.5, 1, mode=["row"])
    with pytest.raises(ValueError, match=r"got a 0-d array; use x\[None\]"):
        fd.drop_path(np.float32(1), 0.5, 1)
    with pytest.raises(ValueError, match="mode must be"):
        fd.DropPath(mode="col")


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_surviving_rows_are_those_of_drop_path(p):
    x = normal(300, 4)
    rows, scale = fd.surviving_rows(300, p, KEY)
    y = np.zeros_like(x)
    y[rows] = x[rows] * np.float32(scale)
    assert same_bits(y, fd.drop_path(x, p, KEY))


@settings(max_examples=examples(100))
@given(
    data=st.data(),
    full=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    mode=st.sampled_from(["row", "batch"]),
)
def test_every_dtype_layout_and_window(data, full, p, dtype, layout, mode):
    origin = [data.draw(st.integers(0, n)) for n in full]
    shape = [data.draw(st.integers(0, n - o)) for n, o in zip(full, origin, strict=True)]
    x, window = normal(*shape, dtype=dtype), (tuple(full), tuple(origin))
    shared = range(1 if mode == "row" else 0, len(full))
    expected = reference.dropout(x, p, KEY, window, shared)
    y = fd.drop_path(frozen(LAYOUTS[layout](x)), p, KEY, mode=mode, window=window)
    assert same_bits(y.astype(dtype), expected)


@pytest.mark.parametrize("where", [{"offsets": [0, 4, 8]}, {"indices": np.arange(8)}], ids=str)
def test_a_layer_drops_samples_and_not_elements(where):
    layer = fd.DropPath(0.5, rng=1)
    with pytest.raises(TypeError, match="DropPath drops samples, which x has along its first axis"):
        layer(np.ones(8), **where)
    assert layer.key == fd.Key(1)
