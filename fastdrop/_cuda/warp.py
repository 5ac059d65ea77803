"""What the 32 lanes of a warp do together: exchange numbers, vote, and draw the bits of a tile.

A `Vec` of these functions holds one lane where a CUDA thread is compiled. The same lines are compiled for the
CPU with all 32 lanes in one vector: a shuffle is then a permutation of the vector, and a vote looks at all of
it. So tests run a whole warp without a GPU, and hold it to the reference bit for bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastdrop._cuda.lane import FULL
from fastdrop._cuda.variants import WARP
from fastdrop._lanes.draws import compare_digit, words_of
from fastdrop._lanes.inline import called, inlined
from fastdrop._lanes.vectors import I32, I64, Vec, call, splat_like, splatted, vector, where, wide
from fastdrop._stream.keys import BERNOULLI, DOMAIN_SHIFT, MIRROR_SHIFT

BLOCKS = np.uint64(8)  # Philox blocks of a tile
_ALL, _NONE, _ONE = np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(1)
_TOP_DIGIT = np.uint32(0x80000000)
_MEMBERS, _CLAMP = I32(0xFFFFFFFF), I32(31)  # all lanes take part, and all 32 are one group


@cache
def lane_numbers(lanes: int) -> Any:
    """Return a function for the numbers of a warp's lanes: of one lane on a GPU, of all 32 on a CPU."""

    @intrinsic
    def numbers(typingctx):
        def codegen(context, builder, sig, args):
            if lanes == 1:
                # Not %laneid, which NVVM takes for the same number in all lanes: of a loop that chooses by
                # a bit of it NVVM made two, and half of the lanes waited while the others drew.
                thread = call(builder, "llvm.nvvm.read.ptx.sreg.tid.x", I32)
                return builder.and_(thread, I32(WARP - 1))
            return ir.Constant(vector(I32, WARP), list(range(WARP)))

        return Vec(types.uint32, lanes)(), codegen

    return numbers


def _words(builder: ir.IRBuilder, v: ir.Value) -> list[ir.Value]:
    """Return the 32-bit words of a number."""
    if v.type not in (I64, ir.DoubleType()):
        return [builder.bitcast(v, I32)]
    bits = builder.bitcast(v, I64)
    return [builder.trunc(bits, I32), builder.trunc(builder.lshr(bits, I64(32)), I32)]


def _joined(builder: ir.IRBuilder, words: list[ir.Value], kind: ir.Type) -> ir.Value:
    """Return a number from its 32-bit words."""
    if len(words) == 1:
        return builder.bitcast(words[0], kind)
    low, high = (builder.zext(word, I64) for word in words)
    return builder.bitcast(builder.or_(low, builder.shl(high, I64(32))), kind)


def _shuffle(builder: ir.IRBuilder, mode: int, v: ir.Value, operand: ir.Value) -> ir.Value:
    result = ir.LiteralStructType((I32, ir.IntType(1)))
    found = call(builder, "llvm.nvvm.shfl.sync.i32", result, _MEMBERS, I32(mode), v, operand, _CLAMP)
    return builder.extract_value(found, 0)


@cache
def butterfly(distance: int) -> Any:
    """Return a function for what the lane has whose number differs in one bit, that of `distance`."""

    @intrinsic
    def exchanged(typingctx, v):
        def codegen(context, builder, sig, args):
            if v.lanes == 1:
                given = [_shuffle(builder, 3, word, I32(distance)) for word in _words(builder, args[0])]
                return _joined(builder, given, args[0].type)
            others = ir.Constant(vector(I32, WARP), [lane ^ distance for lane in range(WARP)])
            return builder.shuffle_vector(args[0], args[0], others)

        return v(v), codegen

    return exchanged


@intrinsic
def from_lane(typingctx, v, source):
    """Return words of the lanes that `source` names."""

    def codegen(context, builder, sig, args):
        if v.lanes == 1:
            return _shuffle(builder, 0, *args)
        found = ir.Constant(args[0].type, ir.Undefined)
        for place in range(WARP):
            from_ = builder.and_(builder.extract_element(args[1], I32(place)), _CLAMP)
            found = builder.insert_element(found, builder.extract_element(args[0], from_), I32(place))
        return found

    return v(v, source), codegen


@intrinsic
def any_lane(typingctx, v):
    """Return whether a word of any lane differs from 0."""

    def codegen(context, builder, sig, args):
        some = builder.icmp_unsigned("!=", args[0], ir.Constant(args[0].type, None))
        if v.lanes == 1:
            result = ir.LiteralStructType((I32, ir.IntType(1)))
            voted = call(builder, "llvm.nvvm.vote.sync", result, _MEMBERS, I32(1), some)
            return builder.extract_value(voted, 1)
        return builder.icmp_unsigned("!=", builder.bitcast(some, I32), I32(0))

    return types.boolean(v), codegen


@cache
def transposition(near: int, far: int) -> Any:
    """Return a function that transposes four numbers among four lanes: lane i gets number i of each.

    `near` and `far` say by how much the numbers of lanes grow with the two bits of i, which callers give.
    """
    by_near, by_far = butterfly(near), butterfly(far)

    @inlined
    def transposed(a, b, c, d, low, high):
        e, f = by_near(where(low, a, b)), by_near(where(low, c, d))
        a, b, c, d = where(low, e, a), where(low, b, e), where(low, f, c), where(low, d, f)
        e, f = by_far(where(high, a, c)), by_far(where(high, b, d))
        return where(high, e, a), where(high, f, b), where(high, c, e), where(high, d, f)

    return transposed


def _stage(distance: int) -> Any:
    """Return the stage of a transposition that swaps square blocks of bits of a side."""
    exchange, side = butterfly(distance), np.uint32(distance)
    lower = np.uint32(sum(1 << bit for bit in range(WARP) if not bit & distance))
    upper = np.uint32(~lower)

    @inlined
    def swapped(words, numbers):
        other, high = exchange(words), (numbers & side) != 0
        return where(
            high, (words & upper) | ((other >> side) & lower), (words & lower) | ((other << side) & upper)
        )

    return swapped


_swap_16, _swap_8, _swap_4, _swap_2, _swap_1 = map(_stage, (16, 8, 4, 2, 1))


@inlined
def transposed_bits(words, numbers):
    """Return the transpose of 32 words: bit j of lane i becomes bit i of lane j."""
    words = _swap_4(_swap_8(_swap_16(words, numbers), numbers), numbers)
    return _swap_1(_swap_2(words, numbers), numbers)


_among_words = transposition(8, 16)


@inlined
def _flip(rest, like):
    """Return what `compare_digit` takes for the first digit of the rest of a threshold."""
    return splat_like(_NONE if rest & _TOP_DIGIT else _ALL, like)


@inlined
def _counters(tile, numbers):
    """Return the lanes' Philox blocks of a tile and their first planes, as counters have them.

    Eight lanes compute the eight blocks of the tile for one digit of U, and the other lanes those for the
    next three digits.
    """
    block = wide(numbers & np.uint32(7)) + np.uint64(tile) * BLOCKS
    return block, wide(numbers >> np.uint32(3)) + np.uint64(BERNOULLI << DOMAIN_SHIFT)


@intrinsic
def transposed_in_lane(typingctx, words):
    """Return the transpose of 32 words that each lane has: bit 31 - j of word i becomes bit i of word j.

    So the first word, which has the first digits, gives the uppermost bits.
    """
    lanes = words.dtype.lanes

    def codegen(context, builder, sig, args):
        found = [builder.extract_value(args[0], 31 - k) for k in range(32)]
        for distance in (16, 8, 4, 2, 1):
            lower = sum(1 << bit for bit in range(32) if not bit & distance)
            mask, shift = splatted(builder, I32(lower), lanes), splatted(builder, I32(distance), lanes)
            for k in (k for k in range(32) if not k & distance):
                a, b = found[k], found[k + distance]
                swapped = builder.and_(builder.xor(builder.lshr(a, shift), b), mask)
                found[k] = builder.xor(a, builder.shl(swapped, shift))
                found[k + distance] = builder.xor(b, swapped)
        return context.make_tuple(builder, words, found)

    return words(words), codegen


@cache
def inlined_on_a_gpu(lanes: int) -> Any:
    """Return a decorator that compiles a function: on a GPU into its callers, else by itself, sooner."""
    return inlined if lanes == 1 else called


@cache
def drawn(lanes: int) -> tuple[Any, Any]:
    """Return the functions that draw the bits of a tile, `dropped_words` and `uniforms`."""
    inlined_here = inlined_on_a_gpu(lanes)

    @inlined_here
    def four_digits(block, plane, key, draw, numbers):
        """Return four digits of U for each lane's elements, which four lanes exchange."""
        a, b, c, d = words_of(block, plane, np.uint64(key), np.uint64(draw))
        part = numbers >> np.uint32(3)  # the number of the lane's word in its block
        return _among_words(a, b, c, d, (part & _ONE) != 0, (part & np.uint32(2)) != 0)

    @inlined_here
    def dropped_words(tile, threshold, key, draw, numbers):
        """Return which elements of a tile are dropped: lane l has those of column l, row k as bit k."""
        none = splat_like(_NONE, numbers)
        if threshold == 0:
            return none
        if threshold == FULL:
            return ~none
        mirrored = np.uint64(draw) >> np.uint64(MIRROR_SHIFT) != 0
        rest = np.uint32(-threshold if mirrored else threshold)
        block, plane = _counters(tile, numbers)
        below, undecided = none, ~none
        while True:
            a, b, c, d = four_digits(block, plane, key, draw, numbers)
            below, undecided = compare_digit(below, undecided, a, _flip(rest, numbers))
            below, undecided = compare_digit(below, undecided, b, _flip(rest << _ONE, numbers))
            below, undecided = compare_digit(below, undecided, c, _flip(rest << np.uint32(2), numbers))
            below, undecided = compare_digit(below, undecided, d, _flip(rest << np.uint32(3), numbers))
            rest, plane = np.uint32(rest << np.uint32(4)), plane + np.uint64(4)
            if rest == 0 or not any_lane(undecided):
                return ~below if mirrored else below

    @inlined_here
    def uniforms(tile, key, draw, numbers):
        """Return U of a tile's elements, of 32 bits each: lane l has column l, in the order of rows."""
        block, plane = _counters(tile, numbers)
        planes = four_digits(block, plane, key, draw, numbers)
        planes = planes + four_digits(block, plane + np.uint64(4), key, draw, numbers)
        planes = planes + four_digits(block, plane + np.uint64(8), key, draw, numbers)
        planes = planes + four_digits(block, plane + np.uint64(12), key, draw, numbers)
        planes = planes + four_digits(block, plane + np.uint64(16), key, draw, numbers)
        planes = planes + four_digits(block, plane + np.uint64(20), key, draw, numbers)
        planes = planes + four_digits(block, plane + np.uint64(24), key, draw, numbers)
        return transposed_in_lane(planes + four_digits(block, plane + np.uint64(28), key, draw, numbers))

    return dropped_words, uniforms
