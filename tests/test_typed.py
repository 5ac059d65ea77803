"""What a user of the types writes. It runs, and mypy reads this file as it reads the package."""

import numpy as np

import fastdrop as fd


def test_what_runs_is_of_the_right_types() -> None:
    x, key = np.ones((4, 8), np.float32), fd.Key(np.int64(3))
    layer = fd.Dropout(fd.schedules.Linear(0.5, steps=10), shared_axes=np.int64(1), rng=1)
    layer.key, layer.p = 42, fd.schedules.Constant(0.1)
    y = layer(fd.dropout(x, np.float32(0.5), key), out=x)
    assert layer.backward(y).shape == fd.dropout(x, np.full(8, 0.5), 7).shape
    rows, scale = fd.surviving_rows(np.int64(4), 0.5, key)
    assert x[rows].size * scale == 8 * rows.size * 2.0
    learned = fd.ConcreteDropout(0.1, rng=1)
    learned.p = 0.3
    assert fd.concrete_dropout(x, learned.logit, key).dtype == x.dtype
    noisy = fd.GaussianDropout(rng=np.random.default_rng(0))
    noisy.std = noisy.alpha = 0.5
    kept = fd.InvertedDropout(0.1, rng=1)
    kept.keep_prob = 0.3
    assert fd.moments.drop_block_rate(8, 6, 0.1, (3, 2)).shape == (8, 6)
