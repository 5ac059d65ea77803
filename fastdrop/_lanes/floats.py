"""Operations on lanes of real numbers: roots, rounding, polynomials, and work on their bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastdrop._lanes.vectors import I32, I64, Vec, call, negated, rounded_product, splatted, suffix, vector


def _unary(name: str, doc: str) -> Any:
    def function(typingctx, v):
        def codegen(context, builder, sig, args):
            names = f"llvm.{name}.{suffix(args[0].type)}", f"__nv_{name}{'f' * (v.element == types.float32)}"
            return call(builder, names[context.target_name == "cuda"], args[0].type, args[0])

        return v(v), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


rint = _unary("rint", "Each lane rounded to an integer, half to even.")
absolute = _unary("fabs", "Each lane without its sign.")


def _fma(builder, a, b, c):
    return call(builder, f"llvm.fma.{suffix(a.type)}", a.type, a, b, c)


@intrinsic
def fma(typingctx, a, b, c):
    """Return lanes of a * b + c, rounded once; b and c may be scalars."""

    def codegen(context, builder, sig, args):
        lanes = (
            v if isinstance(t, Vec) else splatted(builder, v, a.lanes)
            for v, t in zip(args, sig.args, strict=True)
        )
        return _fma(builder, *lanes)

    return a(a, *(t if isinstance(t, Vec) else a.element for t in (b, c))), codegen


def _approximate(context: Any, builder: ir.IRBuilder, name: str, v: ir.Value) -> ir.Value | None:
    """Return a function of lanes as a GPU has it for float32 in one instruction, to a last bit or two.

    There is none elsewhere. It is corrected below as in CUDA's own roots and quotients, which are rounded
    correctly. Those look first whether a number is out of range, which costs as much again.
    """
    if context.target_name != "cuda" or v.type != ir.FloatType():
        return None
    kind = ir.FunctionType(v.type, [v.type])
    return builder.call(ir.InlineAsm(kind, f"{name}.approx.ftz.f32 $0, $1;", "=f,f"), [v])


@intrinsic
def sqrt(typingctx, v):
    """Return the square root of each lane, of numbers in [2**-101, 2**127]."""

    def codegen(context, builder, sig, args):
        x = args[0]
        inverse = _approximate(context, builder, "rsqrt", x)
        if inverse is None:
            names = f"llvm.sqrt.{suffix(x.type)}", "__nv_sqrt"
            return call(builder, names[context.target_name == "cuda"], x.type, x)
        root = rounded_product(builder, x, inverse)
        half = rounded_product(builder, inverse, ir.FloatType()(0.5))
        return _fma(builder, _fma(builder, negated(builder, root), root, x), half, root)

    return v(v), codegen


def _improved(builder: ir.IRBuilder, inverse: ir.Value, v: ir.Value) -> ir.Value:
    """Return 1 / v after a step of Newton's method."""
    rest = _fma(builder, negated(builder, v), inverse, ir.FloatType()(1))
    return _fma(builder, inverse, rest, inverse)


@intrinsic
def reciprocal(typingctx, v):
    """Return 1 / v, for numbers in [2**-125, 2**126)."""

    def codegen(context, builder, sig, args):
        inverse = _approximate(context, builder, "rcp", args[0])
        if inverse is None:
            return builder.fdiv(splatted(builder, _real(v.element)(1), v.lanes), args[0])
        return _improved(builder, inverse, args[0])

    return v(v), codegen


@intrinsic
def quotient(typingctx, a, b):
    """Return a / b, for numbers in [2**-60, 2**60]."""

    def codegen(context, builder, sig, args):
        a, b = args
        inverse = _approximate(context, builder, "rcp", b)
        if inverse is None:
            return builder.fdiv(a, b)
        inverse, negative = _improved(builder, inverse, b), negated(builder, b)
        found = rounded_product(builder, a, inverse)
        return _fma(builder, inverse, _fma(builder, negative, found, a), found)

    return a(a, b), codegen


def polynomial(single: tuple[float, ...], double: tuple[float, ...] = ()) -> Any:
    """Return a function of lanes that evaluates a polynomial by Horner's rule.

    It takes the coefficients of the lanes' precision, highest degree first; without `double` always `single`.
    """

    def evaluate(typingctx, z):
        coefficients = double if z.element == types.float64 and double else single

        def codegen(context, builder, sig, args):
            real = _real(z.element)
            total, *others = (splatted(builder, real(c), z.lanes) for c in coefficients)
            for coefficient in others:
                total = _fma(builder, total, args[0], coefficient)
            return total

        return z(z), codegen

    return intrinsic(evaluate)


def _real(element: types.Type) -> ir.Type:
    return ir.FloatType() if element == types.float32 else ir.DoubleType()


def _precision(element: types.Type) -> tuple[ir.Type, int, int]:
    """Return the integer type as wide as a real type, its bits of fraction, and its exponent's bias."""
    return (I32, 23, 127) if element == types.float32 else (I64, 52, 1023)


@intrinsic
def split(typingctx, v):
    """Return lanes m in [1/2, 1) and k with v = m * 2**k, for positive normal numbers v."""

    def codegen(context, builder, sig, args):
        word, fraction, bias = _precision(v.element)
        bits = builder.bitcast(args[0], vector(word, v.lanes))
        k = builder.lshr(bits, splatted(builder, word(fraction), v.lanes))
        if word == I64:  # processors convert from 32 bits faster than from 64
            k = builder.trunc(k, vector(I32, v.lanes))
        k = builder.sitofp(builder.sub(k, splatted(builder, I32(bias - 1), v.lanes)), args[0].type)
        m = builder.and_(bits, splatted(builder, word(2**fraction - 1), v.lanes))
        m = builder.or_(m, splatted(builder, word(bias - 1 << fraction), v.lanes))
        return context.make_tuple(builder, sig.return_type, (builder.bitcast(m, args[0].type), k))

    return types.UniTuple(v, 2)(v), codegen


# A number that leaves no bits for fractions: a sum with it is rounded to an integer, which its low bits hold
SHIFTER = polynomial(single=(1.5 * 2.0**23,), double=(1.5 * 2.0**52,))


@intrinsic
def scale_by_power(typingctx, v, shifted):
    """Return lanes of v * 2**k, which must be normal numbers, from k + `SHIFTER`."""

    def codegen(context, builder, sig, args):
        integer, fraction, _ = _precision(v.element)
        lanes = vector(integer, v.lanes)
        k = builder.bitcast(args[1], lanes)
        exponent = builder.shl(k, splatted(builder, integer(fraction), v.lanes))
        return builder.bitcast(builder.add(builder.bitcast(args[0], lanes), exponent), args[0].type)

    return v(v, shifted), codegen


def _integer(name: str, shift: int, doc: str) -> Any:
    def function(typingctx, high, low, like):
        def codegen(context, builder, sig, args):
            bits = args[0]
            if like.element == types.float64:
                upper, lower = (builder.zext(word, vector(I64, like.lanes)) for word in args[:2])
                bits = builder.or_(builder.shl(upper, splatted(builder, I64(32), like.lanes)), lower)
            word, _, _ = _precision(like.element)
            shifted = builder.shl(bits, splatted(builder, word(shift), like.lanes))
            return builder.sitofp(shifted, args[2].type)

        return like(high, low, like), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


integer = _integer("integer", 0, "The words' 64 bits, for float32 the upper 32, as a signed number.")
integer_shifted = _integer("integer_shifted", 2, "As `integer`, without the upper two bits.")


@intrinsic
def double(typingctx, v):
    """Return lanes of float32 or float64 as float64."""
    wide = Vec(types.float64, v.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if v == wide else builder.fpext(args[0], vector(ir.DoubleType(), v.lanes))

    return wide(v), codegen


@intrinsic
def low_word(typingctx, v):
    """Return the low 32 bits of float64 lanes that hold integers in [0, 2**52)."""

    def codegen(context, builder, sig, args):
        shifter = splatted(builder, ir.DoubleType()(2.0**52), v.lanes)  # a sum with it holds them in its bits
        bits = builder.bitcast(builder.fadd(args[0], shifter), vector(I64, v.lanes))
        return builder.trunc(bits, vector(I32, v.lanes))

    return Vec(types.uint32, v.lanes)(v), codegen


@intrinsic
def flip_sign(typingctx, v, word):
    """Return lanes of v, negated where the top bit of the word is set."""

    def codegen(context, builder, sig, args):
        word, (kind, _, _) = args[1], _precision(v.element)
        if v.element == types.float64:
            wide = builder.zext(word, vector(I64, v.lanes))
            word = builder.shl(wide, splatted(builder, I64(32), v.lanes))
        top = builder.and_(word, splatted(builder, kind(1 << kind.width - 1), v.lanes))
        return builder.bitcast(builder.xor(builder.bitcast(args[0], top.type), top), args[0].type)

    return v(v, word), codegen


@intrinsic
def negative(typingctx, v):
    """Return each lane with its sign set, also that of NaN."""

    def codegen(context, builder, sig, args):
        word, _, _ = _precision(v.element)
        bits = builder.bitcast(args[0], vector(word, v.lanes))
        top = splatted(builder, word(1 << word.width - 1), v.lanes)
        return builder.bitcast(builder.or_(bits, top), args[0].type)

    return v(v), codegen


@intrinsic
def is_negative(typingctx, v):
    """Return whether the sign of each lane is set, also of -0 and of NaN."""

    def codegen(context, builder, sig, args):
        word, _, _ = _precision(v.element)
        bits = builder.bitcast(args[0], vector(word, v.lanes))
        return builder.icmp_signed("<", bits, ir.Constant(bits.type, None))

    return Vec(types.boolean, v.lanes)(v), codegen


@intrinsic
def largest(typingctx, v):
    """Return the largest of the lanes."""

    def codegen(context, builder, sig, args):
        return call(builder, f"llvm.vector.reduce.fmax.{suffix(args[0].type)}", _real(v.element), args[0])

    return v.element(v), codegen


@intrinsic
def total(typingctx, v):
    """Return the sum of the lanes, added from the first to the last."""

    def codegen(context, builder, sig, args):
        real = _real(v.element)
        name = f"llvm.vector.reduce.fadd.{suffix(args[0].type)}"
        return call(builder, name, real, real(-0.0), args[0])

    return v.element(v), codegen
