"""Gradients by central differences."""

import numpy as np


def central_differences(loss, w, step=1e-6):
    differences = np.empty_like(w)
    for place in np.ndindex(w.shape):
        value = w[place]
        ends = []
        for w[place] in (value + step, value - step):
            ends.append(loss())
        differences[place] = (ends[0] - ends[1]) / (2 * step)
        w[place] = value
    return differences


def check_gradients(parameters, loss_and_gradients, step=1e-6):
    _, gradients = loss_and_gradients()
    for w, g in zip(parameters, [g.copy() for g in gradients], strict=True):
        assert w.shape == g.shape
        assert np.abs(g).max() > 1e-3  # the test would see a missing gradient
        differences = central_differences(lambda: loss_and_gradients()[0], w, step)
        np.testing.assert_allclose(g, differences, rtol=1e-6, atol=1e-9)
