"""Which elements and draws each warp works on, by the number of its work. Integers alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from fastdrop._cuda.access import number_at
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.vectors import splat_like, splatted, where
from fastdrop._stream.keys import TILE

_NONE, _ONE = np.uint32(0), np.uint32(1)
_start_at = number_at(types.int64)


@cache
def row_of(size: int, listed: bool) -> Any:
    """Return a function that finds the group that a warp works on, and where it lies in the arrays.

    A row of elements is cut into groups where the indices are multiples of `size`. No row has more than
    `groups` groups. If draws are listed, `starts` is the address of the indices of the rows' first elements.
    """

    @inlined
    def found(item, starts, groups, length, stride, start):
        """Return the group's number, the place of its first element, and which elements the row has."""
        row = np.uint64(0)
        if item >= groups:  # else there is nothing to divide, as in an array that is one row
            row = np.uint64(item) // np.uint64(groups)
        number = np.uint64(item) - row * np.uint64(groups)
        if listed:
            index = np.uint64(_start_at(starts, np.int64(row)))
        else:
            index = np.uint64(start) + row * np.uint64(stride)
        group, first = index // np.uint64(size) + number, np.int64(row) * length
        at = first + np.int64(number) * size - np.int64(index % np.uint64(size))
        return group, at, max(first - at, 0), min(max(first + length - at, 0), size)

    return found


@inlined
def quotient(number, by):
    """Return the quotient and the remainder of two integers from 0 on, in 32 bits if these are enough."""
    if (number | by) >> 32 == 0:
        found = np.int64(np.uint32(number) // np.uint32(by))
    else:
        found = np.int64(np.uint64(number) // np.uint64(by))
    return found, number - found * by


@intrinsic
def divided(typingctx, v, by):
    """Return quotients and remainders of unsigned lanes and a scalar."""

    def codegen(context, builder, sig, args):
        divisor = splatted(builder, args[1], v.lanes)
        quotient = builder.udiv(args[0], divisor)
        rest = builder.sub(args[0], builder.mul(quotient, divisor))
        return context.make_tuple(builder, sig.return_type, (quotient, rest))

    return types.UniTuple(v, 2)(v, v.element), codegen


@inlined
def wrapped(places, period):
    """Return places that go around in a period; they exceed it by less than a tile."""
    if period >= TILE:  # then they go around at most once
        return where(places >= period, places - period, places)
    return divided(places, period)[1]


@inlined
def following(place, period):
    """Return the next place in a period."""
    after = place + _ONE
    return where(after >= period, splat_like(_NONE, place), after)
