"""Launches of the CUDA kernels: which kernel, how many items of work, and its arguments in their order.

`fastdrop._cuda.run` cuts a plan into launches and calls the functions here; `fastdrop._cuda.kernels` has the
kernels, and `fastdrop._cuda.driver` starts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastdrop._arrays.device import Elements, real_of
from fastdrop._arrays.plan import Rows
from fastdrop._cuda import driver
from fastdrop._cuda.variants import NOISE_TILE, SPREAD_TILE_BYTES, Variant
from fastdrop._stream.keys import TILE

_MOST_BIASES = 1 << 31  # whose places kernels count in 32 bits
_LAST = TILE - 1


class Place(NamedTuple):
    """Where a launch happens: the number of the device, and the CUDA stream."""

    device: int
    stream: int


class Part(NamedTuple):
    """The flat elements of a launch's arrays.

    If there is a bias, element i has its number at (phase + i) % bias.size. `other` is x if the formula does
    not need it.
    """

    x: Elements
    other: Elements
    y: Elements
    bias: Elements | None
    phase: int

    def of_bias(self) -> tuple[int, int, Any]:
        """Return the address, the period and the type of the bias."""
        if self.bias is None:
            return self.x.pointer, 0, None
        if self.bias.size >= _MOST_BIASES:
            raise ValueError(f"a bias may have fewer than 2**31 elements on a GPU, got {self.bias.size}")
        return self.bias.pointer, self.bias.size, self.bias.typestr


class Numbers(NamedTuple):
    """Draws' own numbers, on the GPU: draw i has number (phase + i) // inner % size.

    `thresholds` are those of rates, and `numbers` are scales, or what a formula takes.
    """

    thresholds: int
    numbers: int
    inner: int
    size: int
    phase: int = 0


NONE = Numbers(0, 0, 1, 1)
_NO_NUMBERS = tuple(NONE)  # which is unpacked faster


class InMemory(NamedTuple):
    """A formula's numbers, on the GPU, which all draws share: so many at an address."""

    pointer: int
    size: int


class Starts(NamedTuple):
    """Listed draws, on the GPU: rows of a length have draws that follow each other from a start on."""

    pointer: int
    length: int


def _groups(rows: Rows | Starts, size: int, of: int) -> tuple[int, tuple[int, ...]]:
    """Return how many groups of so many draws there are, and the layout of draws as kernels take it."""
    count = size // rows.length
    if isinstance(rows, Starts):
        groups = (of - 1 + rows.length + of - 1) // of
        return count * groups, (rows.pointer, groups, rows.length, 0, 0)
    offset = rows.start % of if count == 1 else of - 1
    groups = (offset + rows.length + of - 1) // of
    return count * groups, (0, groups, *rows)


def _reals(real: type[np.floating], numbers: Sequence[float], least: int = 0) -> tuple[Any, ...]:
    """Return numbers in the type that elements are computed in, filled up with zeros to at least so many."""
    return tuple(map(real, (*numbers, *[0.0] * (least - len(numbers)))))


def drops(
    formula: str,
    activation: int,
    constants: Sequence[float],
    part: Part,
    rows: Rows | Starts,
    rate: tuple[int, float] | Numbers,
    key: tuple[int, ...],
    place: Place,
) -> None:
    """Do a formula of Bernoulli noise where each element has a draw of its own.

    The rate is a threshold with its scale, or one of each for draws.
    """
    by_number, y = isinstance(rate, Numbers), part.y
    threshold, scale = (0, 1.0) if by_number else rate[:2]
    bias, period, kind = part.of_bias()
    listed = isinstance(rows, Starts)
    variant = Variant("drops", y.typestr, (formula,), activation, kind, by_number, listed)
    items, layout = _groups(rows, y.size, TILE)
    arrays = part.x.pointer, part.other.pointer, bias, y.pointer
    drawn, own = (threshold, *key, 0)[:4], rate if by_number else NONE
    reals = _reals(y.real, (scale, *constants), 3)
    driver.start(variant, items, *place, *arrays, *layout, period, part.phase, *drawn, *own, *reals)


@cache
def plain(formula: str, typestr: str, device: int) -> Callable[..., None]:
    """Return a function that does a formula without constants in few steps, for a type of elements.

    The elements' draws are 0, 1, 2, ... It takes the addresses of x, of the other array and of y, how many
    elements they have, the stream, threshold and scale, and then what kernels need of the key.
    """
    real = real_of(typestr)
    start, zero = driver.starter(Variant("drops", typestr, (formula,)), device), real(0)

    def do(
        x: int,
        other: int,
        y: int,
        size: int,
        stream: int,
        threshold: int,
        scale: float,
        key: int,
        draw: int,
        address: int = 0,
    ) -> None:
        tiles = (size + _LAST) // TILE
        layout = 0, tiles, size, 0, 0, 0, 0
        drawn = threshold, key, draw, address
        start(tiles, stream, x, other, x, y, *layout, *drawn, *_NO_NUMBERS, real(scale), zero, zero)

    return do


@cache
def plain_units(typestr: str, device: int) -> Callable[..., None]:
    """Return a function that does dropout of elements that share draws in few steps, as `plain` does.

    It takes the addresses of x and of y, how many elements they have, the address of memory for factors, how
    many draws there are, and the axes that `spread` takes; then the stream and what follows it in `plain`.
    """
    real = real_of(typestr)
    of_draws = plain("factor", np.dtype(real).str, device)
    of_elements = driver.starter(Variant("spread", typestr, ("drop",)), device)
    in_a_tile, zero = SPREAD_TILE_BYTES // int(typestr[-1]), real(0)

    def do(
        x: int,
        y: int,
        size: int,
        factors: int,
        count: int,
        axes: tuple[int, int, int, int],
        stream: int,
        *numbers: Any,
    ) -> None:
        of_draws(factors, factors, factors, count, stream, *numbers)
        of_elements(-(-size // in_a_tile), stream, x, x, x, y, factors, size, *axes, 0, 0, zero, zero)

    return do


def _of_formula(numbers: Sequence[float] | Numbers | InMemory) -> tuple[Numbers, Sequence[float]]:
    """Return where a formula's numbers are on the GPU, and those that a launch has among its arguments."""
    if isinstance(numbers, Numbers):
        return numbers, (0.0,)
    if isinstance(numbers, InMemory):
        return Numbers(0, numbers.pointer, 1, 1), (0.0,) * numbers.size
    return NONE, numbers


def noise(
    names: tuple[str, str],
    numbers: Sequence[float] | Numbers | InMemory,
    x: Elements,
    y: Elements,
    rows: Rows | Starts,
    key: tuple[int, ...],
    place: Place,
) -> None:
    """Do a formula of noise with a density where each element has a draw of its own."""
    by_number, in_memory, listed = (
        isinstance(*pair) for pair in ((numbers, Numbers), (numbers, InMemory), (rows, Starts))
    )
    (_, *own), given = _of_formula(numbers)
    variant = Variant("noise", y.typestr, names, 0, None, by_number, listed, len(given), in_memory)
    items, layout = _groups(rows, y.size, NOISE_TILE)
    reals = _reals(y.real, given)
    driver.start(variant, items, *place, x.pointer, y.pointer, *layout, *(*key, 0)[:3], *own, *reals)


def listed_draws(
    names: tuple[str, ...],
    rate: tuple[int, float] | Numbers,
    numbers: Sequence[float] | InMemory,
    x: Elements,
    y: Elements,
    starts: Starts,
    key: tuple[int, ...],
    place: Place,
) -> None:
    """Do elements whose draws have listed indices; rates and numbers are as for `drops` and `noise`."""
    by_number = isinstance(rate, Numbers)
    threshold, scale = (0, 1.0) if by_number else rate[:2]
    in_memory, (own, given) = isinstance(numbers, InMemory), _of_formula(rate if by_number else numbers)
    given = () if by_number else given
    count = max(len(given), 1)
    variant = Variant("listed_draws", y.typestr, names, 0, None, by_number, True, count, in_memory)
    reals = _reals(y.real, (scale, *given), 1 + count)
    drawn = (threshold, *key, 0)[:4]
    driver.start(variant, y.size, *place, x.pointer, y.pointer, *starts, *drawn, *own[:4], *reals)


def keep(
    packed: bool,
    mask: int,
    size: int,
    rows: Rows | Starts,
    threshold: int,
    key: tuple[int, ...],
    place: Place,
) -> None:
    """Write a mask of elements with draws of their own at an address: bytes, or packed bits of one row."""
    variant = Variant("keep", "<f4", ("bits" if packed else "bytes",), numbers=0)
    items, layout = _groups(rows, size, TILE)
    driver.start(variant, items, *place, mask, *layout, *(threshold, *key, 0)[:4], np.float32(0))


def mask_bytes(factors: Elements, mask: Elements, axes: tuple[int, int, int, int], place: Place) -> None:
    """Write a mask, a byte for each element, from the factors of its draws; axes are as for `spread`."""
    variant = Variant("mask_bytes", factors.typestr, (), numbers=0)
    driver.start(variant, mask.size, *place, factors.pointer, mask.pointer, *axes[1:], factors.real(0))


def mask_bits(mask: Elements, packed: int, place: Place) -> None:
    """Pack a mask of bytes into bits at an address."""
    variant = Variant("mask_bits", "<f4", (), numbers=0)
    items = -(-mask.size // 8)
    driver.start(variant, items, *place, mask.pointer, packed, mask.size, np.float32(0))


def mask_factors(mask: Elements, packed: bool, scale: float, factors: Elements, place: Place) -> None:
    """Make factors of a mask, of bytes or of packed bits: the scale where it keeps an element."""
    variant = Variant("mask_factors", factors.typestr, ("bits" if packed else "bytes",), numbers=0)
    driver.start(variant, factors.size, *place, mask.pointer, factors.pointer, factors.real(scale))


def spread(
    formula: str,
    activation: int,
    constants: Sequence[float],
    part: Part,
    factors: int,
    axes: tuple[int, int, int, int],
    place: Place,
) -> None:
    """Apply factors of draws to elements; `axes` are the lengths (first, outer, shared, inner)."""
    y, (bias, period, kind) = part.y, part.of_bias()
    variant = Variant("spread", y.typestr, (formula,), activation, kind)
    items = -(-y.size * y.itemsize // SPREAD_TILE_BYTES)
    arrays = part.x.pointer, part.other.pointer, bias, y.pointer, factors
    reals = _reals(y.real, constants, 2)
    driver.start(variant, items, *place, *arrays, y.size, *axes, period, part.phase, *reals)


def sums(y: Elements, total: Elements, rows: int, parts: int, place: Place) -> None:
    """Write sums of an array's columns into an array of as many rows as there are parts of its rows."""
    variant = Variant("sums", y.typestr, (), 0, total.typestr, numbers=0)
    columns = total.size // parts
    driver.start(variant, total.size, *place, y.pointer, total.pointer, columns, rows, parts, y.real(0))


class Terms(NamedTuple):
    """What is summed: elements, or their products with others, times factors if there are any."""

    x: Elements
    other: Elements | None = None
    factors: Elements | None = None


def totals(terms: Terms, total: Elements, summed: int, inner: int, parts: int, place: Place) -> None:
    """Write sums along the middle axis of an array (outer, summed, inner) into (outer, parts, inner)."""
    x, other, factors = terms
    what = "elements" if other is None else "products"
    kind = "" if factors is None else np.dtype(factors.real).name
    variant = Variant("totals", x.typestr, (what, kind), 0, total.typestr, factors is not None, numbers=0)
    arrays = x.pointer, (other or x).pointer, (factors or x).pointer, total.pointer
    driver.start(variant, total.size, *place, *arrays, summed, inner, parts, x.real(0))


def given_rates(rates: Elements, scale: float, thresholds: int, scales: Elements, place: Place) -> None:
    """Write thresholds and scales of rates; a scale that isn't 0 replaces those of kept elements."""
    variant = Variant("given_rates", rates.typestr, (), 0, scales.typestr, numbers=0)
    arrays = rates.pointer, thresholds, scales.pointer
    driver.start(variant, rates.size, *place, *arrays, np.float64(scale))


def learned_numbers(formula: str, number: Elements, temperature: float, made: Elements, place: Place) -> None:
    """Write the numbers of a formula of a learned number that is on the GPU; or learned numbers as they are.

    The formula "concrete" has five numbers of one logit.
    """
    variant = Variant("learned_numbers", number.typestr, (formula,), 0, made.typestr, numbers=0)
    driver.start(variant, number.size, *place, number.pointer, made.pointer, np.float64(temperature))
