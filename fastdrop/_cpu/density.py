"""The CPU kernel of noise with a density, such as normal noise: it draws numbers and applies a formula."""

from __future__ import annotations

import numpy as np

from fastdrop._cpu.bernoulli import between
from fastdrop._cpu.rows import part_of_row, rows_between
from fastdrop._lanes.draws import GROUP, GROUPS, blocks_of, blocks_of_groups
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import load_where, load_wide, store, store_where
from fastdrop._lanes.vectors import LANES, iota, join, lower_half, upper_half

_HALF = 2 * LANES  # elements of a vector
_STEP = GROUPS * GROUP  # elements that are drawn at once


@inlined
def _put(formula, x, y, at, noise, numbers):
    store(y, at, formula(load_wide(x, at), noise, numbers))


@inlined
def _put_part(formula, x, y, at, noise, numbers, place, first, last):
    inside = between(place, first, last)
    store_where(y, at + place, formula(load_where(x, at + place, inside), noise, numbers), inside)


@inlined
def elements(noise, formula, x, y, rows, numbers, key, draw, begin, end):
    """Write a formula of x and the noise into y, from `begin` to `end`; rows as `rows_between` has them."""
    key, draw = np.uint64(key), np.uint64(draw)
    like = load_where(x, 0, iota() < np.uint64(0))
    like_wide = join(like, like)
    first_row, after = rows_between(rows, begin, end)
    for row in range(first_row, after):
        base, length, index = part_of_row(rows, row, begin, end)
        group, at = index // np.uint64(GROUP), base - np.int64(index % np.uint64(GROUP))
        while at < base + length:
            if base <= at and at + _STEP <= base + length:
                z0, z1, z2, z3 = noise(blocks_of_groups(group), key, draw, like_wide)
                _put(formula, x, y, at, join(lower_half(z0), lower_half(z1)), numbers)
                _put(formula, x, y, at + _HALF, join(lower_half(z2), lower_half(z3)), numbers)
                _put(formula, x, y, at + 2 * _HALF, join(upper_half(z0), upper_half(z1)), numbers)
                _put(formula, x, y, at + 3 * _HALF, join(upper_half(z2), upper_half(z3)), numbers)
                group += np.uint64(GROUPS)
                at += _STEP
                continue
            z0, z1, z2, z3 = noise(blocks_of(group), key, draw, like)
            first, last = max(base - at, 0), min(base + length - at, GROUP)
            _put_part(formula, x, y, at, z0, numbers, 0, first, last)
            _put_part(formula, x, y, at, z1, numbers, LANES, first, last)
            _put_part(formula, x, y, at, z2, numbers, 2 * LANES, first, last)
            _put_part(formula, x, y, at, z3, numbers, 3 * LANES, first, last)
            group += np.uint64(1)
            at += GROUP
