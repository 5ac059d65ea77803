"""The CPU kernel of noise with a density, such as normal noise: it draws numbers and applies a formula."""

from __future__ import annotations

import numpy as np

from fastdrop._cpu.bernoulli import between
from fastdrop._cpu.rows import part_of_row, rows_between
from fastdrop._lanes.draws import GROUP, blocks_of
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import load_where, load_wide, store, store_where
from fastdrop._lanes.vectors import LANES, iota, join, lower_half, upper_half

_HALF = 2 * LANES  # elements of a vector


@inlined
def _put(formula, x, y, at, noise, numbers):
    store(y, at, formula(load_wide(x, at), noise, numbers))


@inlined
def _put_part(formula, x, y, at, noise, numbers, place, first, last):
    lower, upper = between(place, first, last), between(place + LANES, first, last)
    at += place
    v = formula(join(load_where(x, at, lower), load_where(x, at + LANES, upper)), noise, numbers)
    store_where(y, at, lower_half(v), lower)
    store_where(y, at + LANES, upper_half(v), upper)


@inlined
def elements(noise, formula, x, y, rows, numbers, key, draw, begin, end):
    """Write a formula of x and the noise into y, from `begin` to `end`; rows as `rows_between` has them."""
    none = load_where(x, 0, iota() < np.uint64(0))
    like = join(none, none)
    first_row, after = rows_between(rows, begin, end)
    for row in range(first_row, after):
        base, length, index = part_of_row(rows, row, begin, end)
        group, offset = index // np.uint64(GROUP), np.int64(index % np.uint64(GROUP))
        for g in range((offset + length + GROUP - 1) // GROUP):
            z0, z1 = noise(blocks_of(group + np.uint64(g)), np.uint64(key), np.uint64(draw), like)
            at = base + g * GROUP - offset
            first, last = max(base - at, 0), min(base + length - at, GROUP)
            if last - first == GROUP:
                _put(formula, x, y, at, z0, numbers)
                _put(formula, x, y, at + _HALF, z1, numbers)
            else:
                _put_part(formula, x, y, at, z0, numbers, 0, first, last)
                _put_part(formula, x, y, at, z1, numbers, _HALF, first, last)
