"""The CUDA kernels: what a warp does with one part of the work, and the types of its arguments.

Masks equal those of the CPU bit for bit: both are made of integers by the same functions. Numbers are
promised to be within 2 ulp of the CPU's. In fact they are equal too, but for the payloads of NaNs: kernels
use additions, products, fmas, divisions and roots alone, which both machines round correctly, and the
compiler contracts nothing, since each product has its rounding spelled out (see `fastdrop._lanes.vectors`).
`make cuda-check` tests that no kernel has a contracted instruction, and no approximate one but those that
`fastdrop._lanes.floats` corrects. In float32 the normals of either machine are at most 2 eps of their radius
away from the exact ones (tests/kernels/test_lane.py).

A warp does a tile of Bernoulli noise. It asks for its data first, by 16 bytes a lane and access, then draws
the bits, four digits of U at a time (`fastdrop._cuda.warp`), then finishes its elements. Where a tile isn't
whole or an address no multiple of 16, it works element by element, 32 neighbours at once. A tile has its bits
in the order "lane is column, bit is row", which suits single elements; for 16 bytes they are transposed.

Elements that share draws get theirs in two steps: `drops` or `noise` makes an array of factors, one for each
draw, and `spread` applies it.

The functions in `_SHAPES` return the work of one warp as a function: of its number, and of arguments in
tuples. Addresses are numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba.core import types
from numba.core.types.containers import UniTuple

from fastdrop._cuda import access, lane, places, warp
from fastdrop._cuda.access import itemsize
from fastdrop._cuda.variants import NOISE_GROUP, NOISE_TILE, OF_DOUBLES, Variant
from fastdrop._lanes import formulas
from fastdrop._lanes.draws import count_and_scale
from fastdrop._lanes.inline import called, inlined
from fastdrop._lanes.special import exp
from fastdrop._lanes.vectors import lane as one_lane
from fastdrop._lanes.vectors import splat_like, value, where, wide
from fastdrop._stream.keys import MIRROR_SHIFT, TILE

# the formulas that read another array, and the families that have some
_OF_TWO = "add", "replace", "activate_add", "differentiate", "affine", "activated"

I32, I64 = types.int32, types.int64
_1, _32, _ALL = np.uint32(1), np.uint32(32), np.uint32(0xFFFFFFFF)
_draw_at = access.number_at(I64)


def real_of(carrier: types.Type) -> types.Type:
    """Return the type that elements are computed in."""
    return types.float64 if carrier == types.float64 else types.float32


@inlined
def _key(key, draw, address):
    """Return key and draw word; if there is an address, a captured graph has drawn the draw that is there."""
    return key, _draw_at(address, 0) if address else draw


@cache
def _with_activation(activation: int, short: bool) -> Any:
    """Return a function that appends the activation to constants, where it isn't their last number.

    `short` is whether elements have 16 bits.
    """
    number_of = formulas.activation_of
    if activation < 0:
        return inlined(lambda constants: (*constants[:-1], number_of(constants[-1], short)))
    return inlined(lambda constants: (*constants, number_of(activation, short)))


@cache
def _in_turn(read_one: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that reads so many numbers by one that reads a number and returns the next place."""
    if count == 1:
        return read_one
    read_half = _in_turn(read_one, count // 2)

    @inlined
    def read_both(memory, place, around):
        a, place = read_half(memory, place, around)
        b, place = read_half(memory, place, around)
        return a + b, place

    return read_both


@cache
def _neighbours(carrier: types.Type, count: int) -> Callable[..., Any]:
    """Return a function that reads so many neighbours from a place that they divide, by 16 bytes or by 8."""
    nbytes = min(count * itemsize(carrier), 16)
    take_words, unpack = access.take_words(nbytes // 4), access.unpacked(carrier)
    each = nbytes // itemsize(carrier)
    shift, twice = np.uint32(each.bit_length() - 1), count > each

    @inlined
    def read(memory, at):
        first = at >> shift
        given = unpack(take_words(memory, first))
        return given + unpack(take_words(memory, first + _1)) if twice else given

    return read


@cache
def _repeated(count: int) -> Callable[..., Any]:
    """Return a function that returns a number so many times."""
    if count == 1:
        return inlined(lambda v: (v,))
    half = _repeated(count // 2)
    return inlined(lambda v: half(v) + half(v))


@cache
def _bias(carrier: types.Type) -> Callable[..., Any]:
    """Return a function that reads the bias at a place, and returns the next place in the period."""
    take = access.take(carrier)

    @inlined
    def read_one(bias, at, period):
        return (take(bias, at, access.everywhere(at)),), places.following(at, period)

    return read_one


@cache
def _biases(carrier: Any, real: types.Type, count: int) -> Callable[..., Any]:
    """Return a function for the biases of so many elements of a lane, from the place of the first on.

    They are read one by one, each after a look whether the period is over, unless they are `together`. Zeros
    stand for no bias.
    """
    if carrier is None:
        zeros, repeated = access.zeros(real), _repeated(count)
        return inlined(lambda bias, at, period, together: repeated(zeros(at)))
    in_turn = _in_turn(_bias(carrier), count)
    if count == 1:
        return inlined(lambda bias, at, period, together: in_turn(bias, at, period)[0])
    neighbours = _neighbours(carrier, count)

    @inlined
    def read(bias, at, period, together):
        return neighbours(bias, at) if together else in_turn(bias, at, period)[0]

    return read


@inlined
def _together(bias, first, period, count):
    """Return whether the biases of so many elements of any lane are neighbours, at an address for wide reads.

    `first` is the place of the first bias of all lanes.
    """
    return bias & 15 == 0 and np.int64(first) % count == 0 and np.int64(period) % count == 0


@cache
def _finish(formula: Any, activation: int, short: bool, count: int) -> Callable[..., Any]:
    """Return a function that applies a formula to so many elements of a lane; bit 0 drops the first."""
    if count == 1:
        with_activation = _with_activation(activation, short)

        @inlined
        def finish_one(x, other, biases, bits, scale, constants):
            dropped = (bits & _1) != 0
            return (formula(x[0], other[0], biases[0], dropped, scale, with_activation(constants)),)

        return finish_one
    half = count // 2
    finish_half, shift = _finish(formula, activation, short, half), np.uint32(half)

    @inlined
    def finish(x, other, biases, bits, scale, constants):
        y = finish_half(x[:half], other[:half], biases[:half], bits, scale, constants)
        return y + finish_half(x[half:], other[half:], biases[half:], bits >> shift, scale, constants)

    return finish


_TYPES: dict[str | None, Any] = {
    "<f4": types.float32,
    "<f8": types.float64,
    "<i2": types.int16,
    "<u2": types.uint16,
    None: None,
}


def made(variant: Variant, in_pairs: bool = True, lanes: int = 1) -> Any:
    """Return the work of a variant as a function, for lanes of a GPU or all of a CPU.

    The functions of works get Numba's types in place of the variant's.
    """
    typed = variant._replace(carrier=_TYPES[variant.carrier], bias=_TYPES[variant.bias])
    return globals()[variant.work](typed, in_pairs, lanes)


def argument_types(variant: Variant) -> tuple[Any, ...]:
    """Return the types of the arguments after the number of the work."""
    real = types.float64 if variant.work in OF_DOUBLES else real_of(_TYPES[variant.carrier])
    integers, reals = _SHAPES[variant.work]
    found = [UniTuple(I64, length) for length in integers]
    return *found, UniTuple(real, variant.numbers + reals)


# how many addresses or integers each tuple of arguments has, and how many reals beside the formula's numbers
_SHAPES = {
    "drops": ((4, 7, 4, 5), 1),
    "noise": ((2, 5, 3, 4), 0),
    "listed_draws": ((2, 2, 4, 4), 1),
    "keep": ((1, 5, 4), 1),
    "mask_bits": ((2, 1), 1),
    "mask_bytes": ((2, 3), 1),
    "mask_factors": ((2,), 1),
    "spread": ((5, 7), 0),
    "sums": ((2, 3), 1),
    "totals": ((4, 3), 1),
    "learned_numbers": ((2,), 1),
    "given_rates": ((3,), 1),
}


_RUNS = 8  # each rate of a tile is drawn for itself, unless they are more: then U costs less


@cache
def _rates(lanes: int) -> tuple[Any, Any, Any]:
    """Return a function for the place of an element's rate, and two for the bits of a tile by rates."""
    threshold_of, threshold_at = access.take_integer(I64), access.number_at(I64)
    (dropped_words, uniforms), inlined_here = warp.drawn(lanes), warp.inlined_on_a_gpu(lanes)

    @inlined_here
    def place(first, offset, inner, count):
        """Return the place of the rate `offset` elements after one at `first` of the rates' period."""
        period = inner * count
        if period < 1 << 31:
            at = places.wrapped(offset + np.uint32(first), np.uint32(period))
            return wide(places.divided(at, np.uint32(inner))[0])
        at = places.wrapped(wide(offset) + np.uint64(first), np.uint64(period))
        return places.divided(at, np.uint64(inner))[0]

    @inlined_here
    def in_runs(tile, key, draw, numbers, thresholds, rate, count, end, inner, runs):
        """Return the bits of a tile as `dropped_words` does, where few rates follow each other.

        The first rate is that of elements up to `end`, each other of `inner` more.
        """
        words, begin = splat_like(np.uint32(0), numbers), np.int64(0)
        for _ in range(runs):
            own = dropped_words(tile, threshold_at(thresholds, rate), key, draw, numbers)
            rows = (splat_like(np.uint32(begin + 31), numbers) - numbers) >> np.uint32(5)  # before `begin`
            half = rows >> _1
            after = (splat_like(_ALL, numbers) << half) << (rows - half)  # no shift is by 32
            words = (words & ~after) | (own & after)
            rate, begin, end = (rate + 1 if rate + 1 < count else 0), end, end + inner
        return words

    @inlined_here
    def by_uniforms(tile, key, draw, numbers, thresholds, first, inner, count, low, high):
        """Do the same for any rates, of elements `low` to below `high` at least."""
        one, none = splat_like(_1, numbers), splat_like(np.uint32(0), numbers)
        mirrored = np.uint64(draw) >> np.uint64(MIRROR_SHIFT) != 0
        words, u = none, uniforms(tile, key, draw, numbers)
        for row in range(32):
            offset = numbers + np.uint32(32 * row)
            valid = (offset >= low) & (offset < high)
            t, mine = threshold_of(thresholds, place(first, offset, inner, count), valid), wide(u[0])
            below = where(mine < t, one, none)
            if mirrored:
                below = where(mine + t >= np.uint64(lane.FULL), one, none)
            words, u = words | (below << np.uint32(row)), u[1:] + u[:1]
        return words

    return place, in_runs, by_uniforms


@cache
def drops(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of a formula of Bernoulli noise with a draw for each element.

    Item n is group n of tiles, as `places.row_of` counts them. If draws have rates of their own, element i
    has threshold and scale number (phase + i) // inner % count.
    """
    (name,), carrier, by_rate = variant.names, variant.carrier, variant.by_number
    formula = lane.factor if name == "factor" else getattr(formulas, name)
    two, biased = name in _OF_TWO, variant.bias is not None
    size, real = itemsize(carrier), real_of(carrier)
    quad, accesses = 16 // size, 2 * size  # elements of an access, and accesses of a tile
    inlined_here, (dropped_words, _) = warp.inlined_on_a_gpu(lanes), warp.drawn(lanes)
    numbers_of, row_of = warp.lane_numbers(lanes), places.row_of(TILE, variant.listed)
    take, put = access.take(carrier), access.put(carrier)
    take_four, put_four = access.take_words(4), access.put_words(4)
    unpack, pack = access.unpacked(carrier), access.packed(carrier, in_pairs)
    finish, finish_one = (_finish(formula, variant.activation, size == 2, count) for count in (quad, 1))
    biases, bias_of_one = (_biases(variant.bias, real, count) for count in (quad, 1))
    ask_twice = accesses >= 8 and not two  # whether registers can hold twice as much before the bits come
    number_at, scale_of, zeros = access.number_at(real), access.take(real), access.zeros(real)
    rate_place, dropped_in_runs, dropped_by_uniforms = _rates(lanes)

    @inlined_here
    def ask(address, numbers):
        a, b = take_four(address, numbers), take_four(address, numbers + _32)
        return a, b, take_four(address, numbers + np.uint32(64)), take_four(address, numbers + np.uint32(96))

    @inlined_here
    def dropped_in_tile(tile, threshold, key, draw, numbers, of_rates):
        """Return the bits of a tile of one rate, or of a few that follow each other."""
        if by_rate:
            thresholds, _, rate, count, inner, runs, _, _, split = of_rates
            end = np.int64(split)
            return dropped_in_runs(tile, key, draw, numbers, thresholds, rate, count, end, inner, runs)
        return dropped_words(tile, threshold, key, draw, numbers)

    @inlined_here
    def write(
        x, other, y, access_number, turned, numbers, scale, constants, bias, b0, period, together, of_rates
    ):
        """Finish and write the elements of one access of the tile."""
        column = numbers * np.uint32(quad)
        if by_rate:
            place = column + access_number * np.uint32(32 * quad)
            scale = where(place < of_rates[-1], scale, of_rates[-2])
        row = (column >> np.uint32(5)) + np.uint32(quad) * access_number
        bits = warp.from_lane(turned, row) >> (column & np.uint32(31))
        at = column
        if biased:
            at = places.wrapped(column + access_number * np.uint32(32 * quad) + b0, period)
        b = biases(bias, at, period, together)
        put_four(
            y,
            numbers + access_number * _32,
            pack(finish(unpack(x), unpack(other), b, bits, scale, constants)),
        )

    @inlined_here
    def write_four(x, other, y, first, *given):
        write(x[0], other[0], y, first, *given)
        write(x[1], other[1], y, first + _1, *given)
        write(x[2], other[2], y, first + np.uint32(2), *given)
        write(x[3], other[3], y, first + np.uint32(3), *given)

    @inlined_here
    def whole(x, other, y, tile, threshold, key, draw, numbers, scale, constants, bias, b0, period, of_rates):
        """Do a whole tile at addresses that are multiples of 16.

        If it has two rates, the second is that of whole accesses.
        """
        x0 = ask(x, numbers)
        x1 = ask(x + 2048, numbers) if ask_twice else x0
        o0 = ask(other, numbers) if two else x0
        bits = dropped_in_tile(tile, threshold, key, draw, numbers, of_rates)
        turned = warp.transposed_bits(bits, numbers)
        together = biased and _together(bias, b0, period, quad)
        given = turned, numbers, scale, constants, bias, b0, period, together, of_rates
        write_four(x0, o0, y, np.uint32(0), *given)
        if accesses >= 8:
            if not ask_twice:
                x1 = ask(x + 2048, numbers)
            o1 = ask(other + 2048, numbers) if two else x1
            write_four(x1, o1, y, np.uint32(4), *given)
        if accesses == 16:
            x2 = ask(x + 4096, numbers)
            o2 = ask(other + 4096, numbers) if two else x2
            write_four(x2, o2, y, np.uint32(8), *given)
            x3 = ask(x + 6144, numbers)
            o3 = ask(other + 6144, numbers) if two else x3
            write_four(x3, o3, y, np.uint32(12), *given)

    @inlined_here
    def row(k, x, other, y, low, high, words, numbers, scale, constants, bias, b0, period, of_rates):
        """Do the elements of row k of a tile, from number `low` to below `high` of the tile."""
        offset = numbers + np.uint32(32 * k)
        valid = (offset >= low) & (offset < high)
        v = take(x, offset, valid)
        o = take(other, offset, valid) if two else v
        at = places.wrapped(offset + b0, period) if biased else offset
        factor = scale
        if by_rate:
            _, address, _, count, inner, runs, first, second, split = of_rates
            if runs <= 2:
                factor = where(offset < split, scale, second)
            else:
                factor = scale_of(address, rate_place(first, offset, inner, count), valid)
        b = bias_of_one(bias, at, period, False)
        put(y, offset, valid, finish_one((v,), (o,), b, words >> np.uint32(k), factor, constants)[0])

    @called
    def work(item, arrays, layout, drawn, rates, reals):
        (x, other, bias, y), (starts, groups, length, stride, start, period, phase) = arrays, layout
        tile, at, low, high = row_of(item, starts, groups, length, stride, start)
        if high <= low:
            return
        threshold = drawn[0]
        key, draw = _key(*drawn[1:])
        numbers, moved, constants = numbers_of(), at * size, reals[1:]
        scale = splat_like(reals[0], zeros(numbers))
        x, y, other = x + moved, y + moved, other + moved
        b0, last = np.uint32(0), np.uint32(period)
        if biased:
            b0 = np.uint32((at + phase) % period)
        thresholds, address, inner, count, rate_phase = rates
        rate, first, runs, split, second = np.int64(0), np.int64(0), np.int64(1), np.uint32(TILE), scale
        fits = low == 0 and high == TILE and (x | y | other) & 15 == 0
        if by_rate:
            number, into = places.quotient(rate_phase + at + low, inner)
            rate = places.quotient(number, count)[1]
            end = min(low + inner - into, TILE)  # where the elements of the next rate begin, if not later
            runs += places.quotient(into + high - low - 1, inner)[0]
            scale = splat_like(number_at(address, rate), scale)
            if runs > 2:
                first = (rate_phase + at) % (inner * count)
            elif runs == 2:
                second = splat_like(number_at(address, rate + 1 if rate + 1 < count else 0), scale)
            fits = fits and (runs == 1 or (runs == 2 and end % quad == 0))
            split = np.uint32(end)
        of_rates = thresholds, address, rate, count, inner, runs, first, second, split
        if fits:
            given = numbers, scale, constants, bias, b0, last, of_rates
            whole(x, other, y, tile, threshold, key, draw, *given)
            return
        lower, upper = np.uint32(low), np.uint32(high)
        if by_rate and runs > _RUNS:
            given_rates = thresholds, first, inner, count, lower, upper
            words = dropped_by_uniforms(tile, key, draw, numbers, *given_rates)
        else:
            words = dropped_in_tile(tile, threshold, key, draw, numbers, of_rates)
        for k in range(low >> 5, (high + 31) >> 5):
            row(k, x, other, y, lower, upper, words, numbers, scale, constants, bias, b0, last, of_rates)

    return work


@cache
def noise(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of a formula of noise with a density, with a draw for each element.

    Item n is tile n of `NOISE_TILE` elements, as `places.row_of` counts them, in groups of 128. If draws have
    numbers of their own, that of element i is number (phase + i) // inner % count of an array of reals; else
    that array has the numbers that all draws share, if they are in memory.
    """
    (distribution, name), carrier, by_number = variant.names, variant.carrier, variant.by_number
    real = real_of(carrier)
    formula = _density_formula(name, by_number)
    size, half = itemsize(carrier), itemsize(carrier) == 2
    inlined_here, numbers_of, row_of = (
        warp.inlined_on_a_gpu(lanes),
        warp.lane_numbers(lanes),
        places.row_of(NOISE_TILE, variant.listed),
    )
    take, put, number_of = access.take(carrier), access.put(carrier), access.take(real)
    words = 2 if half else 4
    take_words, put_words = access.take_words(words), access.put_words(words)
    unpack, pack = access.unpacked(carrier), access.packed(carrier, in_pairs)
    drawn, among_four, number_place = lane.DENSITIES[distribution], warp.transposition(1, 2), _rates(lanes)[0]
    two, zeros = size == 8, access.zeros(real)  # elements of 8 bytes come by two accesses
    shared_numbers, group_bytes = _shared_numbers(variant), NOISE_GROUP * size

    @inlined_here
    def ask(x, four):
        return take_words(x, four << _1) + take_words(x, (four << _1) + _1) if two else take_words(x, four)

    @inlined_here
    def group(asked, y, block, key, draw, four, low, high, given):
        """Do 128 elements; four neighbouring lanes exchange the numbers of their 16 elements."""
        x = unpack(asked)
        a, b, c, d = among_four(*drawn(block, key, draw, x[0]), low, high)
        u, v = formula(x[0], a, given), formula(x[1], b, given)
        w, z = formula(x[2], c, given), formula(x[3], d, given)
        if two:
            put_words(y, four << _1, pack((u, v)))
            put_words(y, (four << _1) + _1, pack((w, z)))
        else:
            put_words(y, four, pack((u, v, w, z)))

    @inlined_here
    def whole(x, y, block, key, draw, numbers, given):
        """Do a tile; the work of one group fills the waits of another."""
        low, high = (numbers & _1) != 0, (numbers & np.uint32(2)) != 0
        four = (numbers & np.uint32(24)) + ((numbers & np.uint32(3)) << _1) + ((numbers >> np.uint32(2)) & _1)
        x0, x1 = ask(x, four), ask(x + group_bytes, four)
        x2, x3 = ask(x + 2 * group_bytes, four), ask(x + 3 * group_bytes, four)
        group(x0, y, block, key, draw, four, low, high, given)
        group(x1, y + group_bytes, block + lane.BLOCKS_OF_NOISE, key, draw, four, low, high, given)
        y, block = y + 2 * group_bytes, block + np.uint64(2) * lane.BLOCKS_OF_NOISE
        group(x2, y, block, key, draw, four, low, high, given)
        group(x3, y + group_bytes, block + lane.BLOCKS_OF_NOISE, key, draw, four, low, high, given)

    @inlined_here
    def one(x, y, offset, z, given, rates, low, high):
        valid = (offset >= low) & (offset < high)
        v = take(x, offset, valid)
        if by_number:
            array, first, inner, count = rates
            given_here = (number_of(array, number_place(first, offset, inner, count), valid),)
            put(y, offset, valid, formula(v, z, given_here))
        else:
            put(y, offset, valid, formula(v, z, given))

    @called
    def work(item, arrays, layout, keys, rates, given):
        tile, at, low, high = row_of(item, *layout)
        if high <= low:
            return
        key, draw = _key(*keys)
        numbers, (x, y) = numbers_of(), arrays
        x, y = x + at * size, y + at * size
        block = wide(numbers) + np.uint64(tile) * np.uint64(NOISE_TILE // NOISE_GROUP) * lane.BLOCKS_OF_NOISE
        array, inner, count, phase = rates
        given = shared_numbers(array, given)
        if low == 0 and high == NOISE_TILE and (x | y) & (4 * words - 1) == 0 and not by_number:
            whole(x, y, block, key, draw, numbers, given)
            return
        first = (phase + at) % (inner * count) if by_number else 0
        row, lower, upper = (array, first, inner, count), np.uint32(low), np.uint32(high)
        offset = ((numbers & np.uint32(24)) << np.uint32(2)) + (numbers & np.uint32(7))
        for n in range(NOISE_TILE // NOISE_GROUP):
            if n * NOISE_GROUP < high and low < (n + 1) * NOISE_GROUP:
                z0, z1, z2, z3 = drawn(block, key, draw, zeros(numbers))
                one(x, y, offset, z0, given, row, lower, upper)
                one(x, y, offset + np.uint32(8), z1, given, row, lower, upper)
                one(x, y, offset + np.uint32(16), z2, given, row, lower, upper)
                one(x, y, offset + np.uint32(24), z3, given, row, lower, upper)
            block, offset = block + lane.BLOCKS_OF_NOISE, offset + np.uint32(NOISE_GROUP)

    return work


def _density_formula(name: str, by_number: bool) -> Any:
    """Return a formula of noise with a density.

    A name with `_factor` at its end is that of the factor or term of the formula, for which x isn't needed.
    """
    plain = name.removesuffix("_factor")
    formula, start = getattr(formulas, plain), 0.0 if plain == "shift" else 1.0
    if name != plain:
        return lane.factor_of(formula, start)
    return lane.by_factor(formula, start) if by_number else formula


@cache
def _shared_numbers(variant: Variant) -> Any:
    """Return a function for the numbers that all draws share: those given, or those at an address."""
    if not variant.in_memory:
        return inlined(lambda address, given: given)
    read = _numbers_from(real_of(variant.carrier), 0, variant.numbers)
    return inlined(lambda address, given: read(address))


@cache
def _numbers_from(real: types.Type, first: int, count: int) -> Any:
    """Return a function that reads so many numbers at an address, from number `first` on, as a tuple."""
    number_at = access.number_at(real)
    if first + 1 == count:
        return inlined(lambda address: (number_at(address, first),))
    others = _numbers_from(real, first + 1, count)
    return inlined(lambda address: (number_at(address, first), *others(address)))


@cache
def listed_draws(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that does an element with a draw whose index a caller listed.

    Indices follow each other in rows of a length, from starts on. Draw i has threshold and scale, or the
    number of a formula, number i // inner % count of arrays, or those of the arguments.
    """
    carrier, by_number, bernoulli = variant.carrier, variant.by_number, variant.names == ("factor",)
    real = real_of(carrier)
    take, put = access.take(carrier), access.put(carrier)
    start_at, threshold_at, number_at = access.number_at(I64), access.number_at(I64), access.number_at(real)
    if not bernoulli:
        distribution, name = variant.names
        drawn, formula = lane.draw_at(lane.DENSITIES[distribution]), _density_formula(name, by_number)
        shared_numbers = _shared_numbers(variant)

    @called
    def work(item, arrays, layout, drawn_by, rates, reals):
        (x, y), (starts, length), (thresholds, scales, inner, count) = arrays, layout, rates
        key, draw = _key(*drawn_by[1:])
        row = item // length
        index = np.uint64(start_at(starts, row) + (item - row * length))
        number, threshold, at = reals[0], drawn_by[0], one_lane(np.uint64(item))
        if by_number:
            rate = item // inner % count
            number = number_at(scales, rate)
        v = take(x, at, access.everywhere(at))
        if bernoulli:
            if by_number:
                threshold = threshold_at(thresholds, rate)
            made = real(lane.DROPPED) if lane.unit_dropped(index, threshold, key, draw) else number
            put(y, at, access.everywhere(at), splat_like(made, v))
        else:
            z = drawn(index, key, draw, v)
            if by_number:
                put(y, at, access.everywhere(at), formula(v, z, (one_lane(number),)))
            else:
                put(y, at, access.everywhere(at), formula(v, z, shared_numbers(scales, reals[1:])))

    return work


@inlined
def _as_bytes(bits):
    """Return four bytes, the lowest four bits of a word, the first in the lowest byte."""
    return ((bits & np.uint32(15)) * np.uint32(0x204081)) & np.uint32(0x01010101)


@inlined
def _swapped(words, shift, lower):
    """Return words whose groups of so many bits have changed places with their neighbours."""
    return ((words >> np.uint32(shift)) & np.uint32(lower)) | ((words & np.uint32(lower)) << np.uint32(shift))


@inlined
def _as_packed(words):
    """Return words whose bytes have their bits in the order of np.packbits, the first in the highest."""
    return _swapped(_swapped(_swapped(words, 1, 0x55555555), 2, 0x33333333), 4, 0x0F0F0F0F)


@cache
def keep(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work that writes a mask where each element has a draw of its own: bytes, or packed bits.

    Item n is group n of tiles, as `places.row_of` counts them. Packed bits are those of one row, whose first
    draw has an index that is a multiple of 8; bits after the last are zeros.
    """
    packed, inlined_here = variant.names == ("bits",), warp.inlined_on_a_gpu(lanes)
    numbers_of, row_of, (dropped_words, _) = (
        warp.lane_numbers(lanes),
        places.row_of(TILE, False),
        warp.drawn(lanes),
    )
    put_byte, put_word = access.put_integer(types.uint8), access.put_integer(types.uint32)
    put_four = access.put_words(4)

    @inlined_here
    def write_bits(y, words, numbers, low, high):
        first = numbers << np.uint32(5)
        before_the_end = np.uint32((1 << (high & 31)) - 1)
        kept = where(first + _32 < np.uint32(high + 1), splat_like(_ALL, numbers), before_the_end)
        bits = _as_packed(warp.transposed_bits(words, numbers) & kept)
        if low == 0 and high == TILE and y & 3 == 0:
            put_word(y, numbers, access.everywhere(numbers), bits)
            return
        for k in range(4):
            element = first + np.uint32(8 * k)
            valid = (element >= np.uint32(low)) & (element < np.uint32(high))
            put_byte(y, element >> np.uint32(3), valid, bits >> np.uint32(8 * k))

    @inlined_here
    def sixteen(y, turned, numbers, first):
        """Write sixteen bytes a lane."""
        number = numbers + np.uint32(first)
        bits = warp.from_lane(turned, number >> _1) >> ((number & _1) << np.uint32(4))
        a, b = _as_bytes(bits), _as_bytes(bits >> np.uint32(4))
        put_four(y, number, (a, b, _as_bytes(bits >> np.uint32(8)), _as_bytes(bits >> np.uint32(12))))

    @inlined_here
    def write_bytes(y, words, numbers, low, high):
        if low == 0 and high == TILE and y & 15 == 0:
            turned = warp.transposed_bits(words, numbers)
            sixteen(y, turned, numbers, 0)
            sixteen(y, turned, numbers, 32)
            return
        for k in range(low >> 5, (high + 31) >> 5):
            offset = numbers + np.uint32(32 * k)
            valid = (offset >= np.uint32(low)) & (offset < np.uint32(high))
            put_byte(y, offset, valid, (words >> np.uint32(k)) & _1)

    @called
    def work(item, arrays, layout, drawn, reals):
        tile, at, low, high = row_of(item, *layout)
        if high <= low:
            return
        key, draw = _key(*drawn[1:])
        numbers = numbers_of()
        words = ~dropped_words(tile, drawn[0], key, draw, numbers)
        if packed:
            write_bits(arrays[0] + (at >> 3), words, numbers, low, high)
        else:
            write_bytes(arrays[0] + at, words, numbers, low, high)

    return work


@cache
def mask_bytes(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that writes as a byte whether an element's draw keeps it.

    The mask has axes (first, outer, shared, inner), and factors are as for `spread`.
    """
    factor_at, put_byte = access.number_at(variant.carrier), access.put_number(types.uint8)

    @called
    def work(item, arrays, layout, reals):
        (factors, mask), (outer, shared, inner) = arrays, layout
        row = np.uint64(item) // np.uint64(inner)
        o = row // np.uint64(shared)
        o -= o // np.uint64(outer) * np.uint64(outer)
        place = np.int64(o) * inner + item - np.int64(row) * inner
        put_byte(mask, item, np.uint8(factor_at(factors, place) >= reals[0]))

    return work


@cache
def mask_bits(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that packs eight bytes of a mask into bits, the first into the highest."""
    byte_at, put_byte = access.number_at(types.uint8), access.put_number(types.uint8)

    @called
    def work(item, arrays, layout, reals):
        mask, packed = arrays
        bits = np.uint32(0)
        for at in range(8 * item, 8 * item + 8):
            bits = (bits << np.uint32(1)) | np.uint32(byte_at(mask, at) if at < layout[0] else np.uint8(0))
        put_byte(packed, item, np.uint8(bits))

    return work


@cache
def mask_factors(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that makes a factor of a user's mask: of a byte, or of a packed bit."""
    (kind,), put = variant.names, access.put(variant.carrier)
    byte_at, packed, real = access.number_at(types.uint8), kind == "bits", real_of(variant.carrier)

    @called
    def work(item, arrays, reals):
        mask, factors = arrays
        if packed:  # the first of eight is the highest bit
            kept = (byte_at(mask, item >> 3) >> np.uint8(7 - (item & 7))) & np.uint8(1)
        else:
            kept = byte_at(mask, item)
        at = one_lane(np.uint64(item))
        put(factors, at, access.everywhere(at), one_lane(reals[0] if kept else real(lane.DROPPED)))

    return work


@cache
def _times(multiplies: bool) -> Any:
    @inlined
    def element(x, other, bias, factor, constants):
        return x * factor if multiplies else x + factor

    return element


@cache
def _kept(formula: Any, activation: int, short: bool) -> Any:
    with_activation = _with_activation(activation, short)

    @inlined
    def element(x, other, bias, factor, constants):
        return formula(x, other, bias, factor < 0, factor, with_activation(constants))

    return element


_IN_TURN, _NEIGHBOURS, _ONE_DRAW = range(3)  # how the factors of a lane's elements lie


@cache
def _factor(real: types.Type) -> Callable[..., Any]:
    """Return a function that reads an element's factor, and returns the next element's place on the axes."""
    take = access.take(real)

    @inlined
    def read_one(factors, place, axes):
        (i, c, o), (_, outer, shared, inner) = place, axes
        factor = take(factors, o * inner + i, access.everywhere(i))
        none, after = splat_like(np.uint32(0), i), i + _1
        i, c = where(after >= inner, none, after), where(after >= inner, c + _1, c)
        c, o = where(c >= shared, none, c), where(c >= shared, places.following(o, outer), o)
        return (factor,), (i, c, o)

    return read_one


@cache
def _factors(real: types.Type, count: int) -> Callable[..., Any]:
    """Return a function for the factors of so many elements of a lane, which follow each other."""
    take, repeated = access.take(real), _repeated(count)
    in_turn, neighbours = _in_turn(_factor(real), count), _neighbours(real, count)

    @inlined
    def read(factors, place, axes, how):
        i, _, o = place
        first = o * axes[3] + i
        if how == _ONE_DRAW:
            return repeated(take(factors, first, access.everywhere(i)))
        return neighbours(factors, first) if how == _NEIGHBOURS else in_turn(factors, place, axes)[0]

    return read


@inlined
def _how_factors_lie(factors, axes, count):
    """Return how the factors of so many elements lie; so many divide the number of the first of them."""
    _, _, shared, inner = axes
    if inner == 1 and np.int64(shared) % count == 0:
        return _ONE_DRAW
    if np.int64(inner) % count == 0 and factors & 15 == 0:
        return _NEIGHBOURS
    return _IN_TURN


@cache
def _spread(element: Any, count: int) -> Any:
    """Return a function that applies factors to so many elements of a lane."""
    if count == 1:
        return inlined(
            lambda x, other, biases, factors, c: (element(x[0], other[0], biases[0], factors[0], c),)
        )
    half = count // 2
    spread_half = _spread(element, half)

    @inlined
    def spread_both(x, other, biases, factors, constants):
        y = spread_half(x[:half], other[:half], biases[:half], factors[:half], constants)
        return y + spread_half(x[half:], other[half:], biases[half:], factors[half:], constants)

    return spread_both


@cache
def spread(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work that applies the factors of draws to the elements of an array that share them.

    The array has axes (first, outer, shared, inner): elements along `first` and `shared` have one draw, which
    is number o * inner + i. Item n is number n of parts of 2,048 bytes; an array has fewer than 2**31
    elements.
    """
    (name,), carrier = variant.names, variant.carrier
    real, size, biased = real_of(carrier), itemsize(carrier), variant.bias is not None
    if name in ("times", "plus"):
        element = _times(name == "times")
    else:
        element = _kept(getattr(formulas, name), variant.activation, size == 2)
    two, quad = name in _OF_TWO, 16 // size
    part = np.int64(128 * quad)
    numbers_of, inlined_here = warp.lane_numbers(lanes), warp.inlined_on_a_gpu(lanes)
    take, put = access.take(carrier), access.put(carrier)
    take_four, put_four = access.take_words(4), access.put_words(4)
    unpack, pack = access.unpacked(carrier), access.packed(carrier, in_pairs)
    finish, finish_one = (_spread(element, count) for count in (quad, 1))
    read, read_one = _factors(real, quad), _factor(real)
    biases, bias_of_one = (_biases(variant.bias, real, count) for count in (quad, 1))

    @inlined_here
    def place_of(i, axes):
        first, outer, shared, inner = axes
        row, i = places.divided(i, inner)
        o, c = places.divided(row, shared)
        return i, c, places.divided(o, outer)[1] if first > 1 else o

    @inlined_here
    def write(number, x, other, y, numbers, begin, factors, axes, how, constants, bias, b0, period, together):
        access_number = numbers + np.uint32(32 * number)
        offset = access_number * np.uint32(quad)
        at = places.wrapped(offset + b0, period) if biased else offset
        b, place = biases(bias, at, period, together), place_of(offset + begin, axes)
        done = finish(unpack(x), unpack(other), b, read(factors, place, axes, how), constants)
        put_four(y, access_number, pack(done))

    @called
    def work(item, arrays, layout, constants):
        (x, other, bias, y, factors), (size_of_all, first, outer, shared, inner, period, phase) = (
            arrays,
            layout,
        )
        begin = item * part
        numbers, moved, count = numbers_of(), begin * size, min(size_of_all - begin, part)
        x, y, other = x + moved, y + moved, other + moved
        axes = np.uint32(first), np.uint32(outer), np.uint32(shared), np.uint32(inner)
        b0, last, start = np.uint32(0), np.uint32(period), np.uint32(begin)
        if biased:
            b0 = np.uint32((begin + phase) % period)
        if count == part and (x | y | other) & 15 == 0:
            x0, x1 = take_four(x, numbers), take_four(x, numbers + _32)
            x2, x3 = take_four(x, numbers + np.uint32(64)), take_four(x, numbers + np.uint32(96))
            o0 = take_four(other, numbers) if two else x0
            o1 = take_four(other, numbers + _32) if two else x1
            o2 = take_four(other, numbers + np.uint32(64)) if two else x2
            o3 = take_four(other, numbers + np.uint32(96)) if two else x3
            together = biased and _together(bias, b0, last, quad)
            how = _how_factors_lie(factors, axes, quad)
            given = y, numbers, start, factors, axes, how, constants, bias, b0, last, together
            write(0, x0, o0, *given)
            write(1, x1, o1, *given)
            write(2, x2, o2, *given)
            write(3, x3, o3, *given)
            return
        for k in range((count + 31) >> 5):
            offset = numbers + np.uint32(32 * k)
            valid = offset < np.uint32(count)
            v = take(x, offset, valid)
            o = take(other, offset, valid) if two else v
            at = places.wrapped(offset + b0, last) if biased else offset
            place = place_of(where(valid, offset, splat_like(np.uint32(0), offset)) + start, axes)
            b, (factor, _) = bias_of_one(bias, at, last, False), read_one(factors, place, axes)
            put(y, offset, valid, finish_one((v,), (o,), b, factor, constants)[0])

    return work


@cache
def sums(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that sums a column of rows: some rows of an array, into a row of totals."""
    take, put = access.take(variant.carrier), access.put(variant.bias)

    @called
    def work(item, arrays, layout, reals):
        (y, total), (columns, rows, parts) = arrays, layout
        part, column = item // columns, item % columns
        sum_of, everywhere = one_lane(reals[0]), access.everywhere(one_lane(np.uint64(0)))
        lost = sum_of
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            element = take(y, one_lane(np.uint64(row * columns + column)), everywhere)
            sum_of, lost = lane.added(sum_of, lost, element)
        put(total, one_lane(np.uint64(item)), everywhere, sum_of)

    return work


@cache
def totals(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that sums some elements of an array along an axis, in float64.

    The array has axes (outer, summed, inner), and the totals (outer, parts, inner): part k has the elements
    k, k + parts, k + 2 * parts, ... of the axis `summed`. So neighbouring lanes read neighbouring elements,
    and the order of additions depends on the lengths alone. Of two arrays the products are summed, and each
    is multiplied by a factor if there are factors.
    """
    two, factors, multiplied = variant.names[0] == "products", variant.names[1], variant.by_number
    take, put = access.take(variant.carrier), access.put(variant.bias)
    take_factor = access.take(types.float64 if factors == "float64" else types.float32)
    wide_of, rounded = access.converted(types.float64), access.converted(real_of(variant.bias))

    @inlined
    def term(x, other, factors, place):
        at = one_lane(np.uint64(place))
        everywhere = access.everywhere(at)
        v = wide_of(take(x, at, everywhere))
        if two:
            v = v * wide_of(take(other, at, everywhere))
        if multiplied:
            v = v * wide_of(take_factor(factors, at, everywhere))
        return v

    @called
    def work(item, arrays, layout, reals):
        (x, other, factors, total), (summed, inner, parts) = arrays, layout
        row = np.uint64(item) // np.uint64(inner)
        group = row // np.uint64(parts)
        first, part = np.int64(group) * summed, np.int64(row - group * np.uint64(parts))
        column = item - np.int64(row) * inner
        place, step, end = (first + part) * inner + column, parts * inner, (first + summed) * inner
        a = wide_of(one_lane(reals[0]))
        b, c, d = a, a, a
        while place + 3 * step < end:  # four at a time, so that a GPU reads the next before it has the first
            v, w = term(x, other, factors, place), term(x, other, factors, place + step)
            y, z = term(x, other, factors, place + 2 * step), term(x, other, factors, place + 3 * step)
            a, b, c, d = a + v, b + w, c + y, d + z
            place += 4 * step
        while place < end:
            a = a + term(x, other, factors, place)
            place += step
        at = one_lane(np.uint64(item))
        put(total, at, access.everywhere(at), rounded((a + b) + (c + d)))

    return work


@cache
def learned_numbers(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that makes the numbers of a formula of a learned number.

    For "concrete" these are what `_numbers` in `fastdrop._noises.concrete` makes of a logit, and NaNs of a
    logit that isn't finite; else it is the number itself, in the type that elements are computed in.
    """
    (formula,), kind = variant.names, types.float64
    take, put = access.take(variant.carrier), access.put(variant.bias)
    wide_of, rounded = access.converted(kind), access.converted(variant.bias)

    @inlined
    def write(made, place, v):
        at = one_lane(np.uint64(place))
        put(made, at, access.everywhere(at), rounded(v))

    if formula != "concrete":

        @called
        def work(item, arrays, reals):
            at = one_lane(np.uint64(item))
            write(arrays[1], item, wide_of(take(arrays[0], at, access.everywhere(at))))

        return work

    @called
    def work_of_a_logit(item, arrays, reals):
        at = one_lane(np.uint64(item))
        logit, t = wide_of(take(arrays[0], at, access.everywhere(at))), one_lane(reals[0])
        most, one = splat_like(lane.MOST_LOGIT, logit), splat_like(1.0, logit)
        a = where(logit < -most, -most, where(logit < most, logit, most))
        top = where(a < 0, 0, a)
        e = exp(-top)
        write(arrays[1], 0, one / t)
        write(arrays[1], 1, top - a / t)
        write(arrays[1], 2, e * (one + exp(a)) + (logit - logit))
        write(arrays[1], 3, e)
        write(arrays[1], 4, one / (one + exp(-a)))

    return work_of_a_logit


@cache
def given_rates(variant: Variant, in_pairs: bool, lanes: int) -> Any:
    """Return the work of one lane that makes the threshold of a rate, and the scale of what it keeps.

    A number that isn't 0 replaces that scale. A rate that isn't in [0, 1] drops nothing, and its
    scale is NaN.
    """
    take, wide_of = access.take(variant.carrier), access.converted(types.float64)
    put_threshold, put_scale = access.put_number(I64), access.put(variant.bias)
    rounded = access.converted(variant.bias)

    @called
    def work(item, arrays, reals):
        at = one_lane(np.uint64(item))
        p = wide_of(take(arrays[0], at, access.everywhere(at)))
        fits = (p >= 0.0) & ((p < 1.0) | (p == 1.0))
        count, scale = count_and_scale(where(fits, p, 0.0), reals[0])
        put_threshold(arrays[1], item, np.int64(value(count)))
        put_scale(arrays[2], at, access.everywhere(at), rounded(where(fits, scale, np.nan)))

    return work
