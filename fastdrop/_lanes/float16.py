"""Conversion between float16 and float32 by integer arithmetic, for processors without an instruction for it.

On these processors LLVM would call functions of a compiler's runtime. Numba does not have them, and the call
would end the process.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir
from numba.core.registry import cpu_target

from fastdrop._lanes.vectors import I32, splatted, vector

_EXPONENT = 0x7F800000  # of float32: all ones in Inf and NaN
_SHIFT = 13  # a float32's fraction is so many digits longer than a float16's
_REBIAS = 0x38000000  # the difference of the two exponents' biases, at the place of a float32's exponent
_LEAST = 0x38800000  # the least normal float16, as a float32
_INFINITE = 0x47800000  # 2**16 as a float32: from there on a float16 is infinite
_HALF = 0x3F000000  # 0.5: the last digit of its fraction has the weight of the least float16
_GROWTH = 0x77800000  # 2**112, the ratio of the two biases


@cache
def in_hardware() -> bool:
    """Return whether the processor that code is compiled for has an instruction for float16."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return not triple.startswith(("x86_64", "i386", "i686")) or "+f16c" in features


def to_float(builder: ir.IRBuilder, halves: ir.Value, lanes: int) -> ir.Value:
    """Return float32 lanes from float16 lanes, which come as int16."""
    floats = vector(ir.FloatType(), lanes)

    def word(n: int) -> ir.Value:
        return splatted(builder, I32(n), lanes)

    wide = builder.zext(halves, vector(I32, lanes))
    size = builder.shl(builder.and_(wide, word(0x7FFF)), word(_SHIFT))
    scaled = builder.fmul(builder.bitcast(size, floats), builder.bitcast(word(_GROWTH), floats))
    finite = builder.icmp_unsigned("<", size, word(0x7C00 << _SHIFT))
    bits = builder.select(finite, builder.bitcast(scaled, size.type), builder.or_(size, word(_EXPONENT)))
    sign = builder.shl(builder.and_(wide, word(0x8000)), word(16))
    return builder.bitcast(builder.or_(bits, sign), floats)


def to_half(builder: ir.IRBuilder, v: ir.Value, lanes: int) -> ir.Value:
    """Return float16 lanes, as int16, from float32 lanes; they round to nearest even, and NaN stays NaN."""
    words = vector(I32, lanes)

    def word(n: int) -> ir.Value:
        return splatted(builder, I32(n), lanes)

    bits = builder.bitcast(v, words)
    size = builder.and_(bits, word(0x7FFFFFFF))
    upper = builder.lshr(size, word(_SHIFT))
    odd = builder.and_(upper, word(1))
    rounded = builder.add(builder.add(size, word(0xFFF)), odd)
    normal = builder.lshr(builder.sub(rounded, word(_REBIAS)), word(_SHIFT))
    half = builder.bitcast(word(_HALF), v.type)
    shifted = builder.bitcast(builder.fadd(builder.bitcast(size, v.type), half), words)
    small = builder.sub(shifted, word(_HALF))
    found = builder.select(builder.icmp_unsigned("<", size, word(_LEAST)), small, normal)
    infinite = builder.icmp_unsigned(">=", size, word(_INFINITE))
    found = builder.select(infinite, word(0x7C00), found)
    quiet = builder.or_(builder.and_(upper, word(0x3FF)), word(0x7E00))
    found = builder.select(builder.icmp_unsigned(">", size, word(_EXPONENT)), quiet, found)
    sign = builder.and_(builder.lshr(bits, word(16)), word(0x8000))
    return builder.trunc(builder.or_(found, sign), vector(ir.IntType(16), lanes))
