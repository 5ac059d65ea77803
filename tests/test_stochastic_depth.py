"""Stochastic depth; its layer goes through test_structured.py too."""

import numpy as np
import pytest
from arrays import normal, same_bits
from scipy import stats

import fastdrop as fd

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
