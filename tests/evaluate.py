"""Formulas of lanes evaluated on arrays."""

import numpy as np
from numba import njit

from fastdrop._lanes import memory


def lanes(formula, *arrays, dtype=None):
    """Evaluate a formula of lanes on arrays of eight."""
    out = np.zeros(8, dtype or arrays[0].dtype)
    body = {
        1: lambda a, out: memory.store(out, 0, formula(memory.load(a, 0))),
        2: lambda a, b, out: memory.store(out, 0, formula(memory.load(a, 0), memory.load(b, 0))),
    }[len(arrays)]
    formula = njit(formula)
    njit(body)(*arrays, out)
    return out
