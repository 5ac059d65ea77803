"""The CPU kernels of attention's weights: softmax and dropout of rows, and the slopes of their scores.

Each row is worked on while it is in the nearest cache, so that what would be six passes over a block of the
matrix costs little more than one. The functions work on the rows of 1-D C-order arrays of float32 or float64.
"""

from __future__ import annotations

import numpy as np

from fastdrop._cpu import bernoulli
from fastdrop._lanes import formulas
from fastdrop._lanes.floats import absolute, fma, is_negative, largest, negative, total
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.memory import load, load_where, store, store_where
from fastdrop._lanes.special import exp_of_negative
from fastdrop._lanes.vectors import LANES, iota, splat, splat_like, where, zero_where

_NEAR = np.int64(bernoulli.NEAR)
_ZERO = np.int64(0)


@inlined
def _largest(x, at, end, least):
    """Return the largest element of x[at:end], or `least` if none is larger; NaNs don't count."""
    a = b = splat(least)
    while at + 2 * LANES <= end:
        v, w = load(x, at), load(x, at + LANES)
        a, b = where(a < v, v, a), where(b < w, w, b)
        at += 2 * LANES
    while at < end:
        inside = iota() < np.uint64(end - at)
        v = load_where(x, at, inside)
        a = where(inside & (a < v), v, a)
        at += LANES
    return largest(where(a < b, b, a))


@inlined
def _exponentials(x, at, end, shift, real):
    """Replace each element of x[at:end] by its exponential after a shift down, and return their sum."""
    a = b = splat(real(0))
    while at + 2 * LANES <= end:
        v, w = exp_of_negative(load(x, at) - shift), exp_of_negative(load(x, at + LANES) - shift)
        store(x, at, v)
        store(x, at + LANES, w)
        a, b = a + v, b + w
        at += 2 * LANES
    while at < end:
        inside = iota() < np.uint64(end - at)
        v = exp_of_negative(load_where(x, at, inside) - shift)
        store_where(x, at, v, inside)
        a = a + zero_where(~inside, v)
        at += LANES
    return total(a + b)


@inlined
def drop_row(scores, begin, end, after, index, draw, safe, real):
    """Make the dropped softmax of scores[begin:end], and zeros up to `after`; return two numbers of the row.

    The element at `begin` has the draw of the index. The numbers are the largest score, and what to multiply
    the exponentials by that are left of it. If the row is to be safe, it is 0 where all scores are -inf.
    """
    threshold, scale, key, word = draw
    most = _largest(scores, begin, end, real(-np.inf))
    if safe and most == -np.inf:
        most = real(0)
    weight = _exponentials(scores, begin, end, most, real)
    inverse = real(0) if safe and weight == 0 else real(1) / weight
    rows, numbers = (after - begin, _ZERO, index), (threshold, scale * inverse, key, word)
    x = scores
    bernoulli.elements(
        formulas.affine, x, x, x, x, rows, bernoulli.NO_BIAS, numbers, formulas.DROP, _NEAR, begin, end
    )
    scores[end:after] = 0
    return most, inverse


@inlined
def _weights(x, other, bias, dropped, scale, constants):
    """Return the weight of a score by its row's two numbers, with the sign set where it is dropped."""
    weight = exp_of_negative(x - constants[0]) * constants[1]
    return where(dropped, negative(weight), absolute(weight))


@inlined
def _product(weight, slope, scale):
    """Return the dropped weight, and its product with the slope of the loss by it: 0 where it is dropped."""
    is_dropped, scaled = is_negative(weight), weight * scale
    return zero_where(is_dropped, scaled), zero_where(is_dropped, scaled * slope)


@inlined
def _sum_of_products(weights, slopes, at, end, scale, real):
    a = splat(real(0))
    while at + LANES <= end:
        a = a + _product(load(weights, at), load(slopes, at), scale)[1]
        at += LANES
    if at < end:
        inside = iota() < np.uint64(end - at)
        a = a + _product(load_where(weights, at, inside), load_where(slopes, at, inside), scale)[1]
    return total(a)


@inlined
def _slope(weight, slope, scale, mean):
    dropped, product = _product(weight, slope, scale)
    return dropped, fma(absolute(weight), splat_like(mean, weight), product)


@inlined
def slope_row(scores, slopes, begin, end, after, index, draw, most, inverse, real):
    """Make the dropped weights of scores[begin:end], and of slopes by these the slopes by the scores.

    Arguments are as for `drop_row`, which gave the two numbers of the row.
    """
    threshold, scale, key, word = draw
    rows, numbers = (after - begin, _ZERO, index), (threshold, scale, key, word)
    x, constants = scores, (most, inverse)
    bernoulli.elements(_weights, x, x, x, x, rows, bernoulli.NO_BIAS, numbers, constants, _NEAR, begin, end)
    factor = real(scale)
    mean = -_sum_of_products(scores, slopes, begin, end, factor, real)
    at = begin
    while at + LANES <= end:
        dropped, slope = _slope(load(scores, at), load(slopes, at), factor, mean)
        store(scores, at, dropped)
        store(slopes, at, slope)
        at += LANES
    if at < end:
        inside = iota() < np.uint64(end - at)
        dropped, slope = _slope(load_where(scores, at, inside), load_where(slopes, at, inside), factor, mean)
        store_where(scores, at, dropped, inside)
        store_where(slopes, at, slope, inside)
    scores[end:after] = 0
    slopes[end:after] = 0
