"""Vectors of lanes as a type of Numba's, with Python's operators, made of LLVM's vector instructions.

A `Vec` lives in vector registers. Kernels are written once, whatever the registers' width: LLVM turns eight
lanes into SSE, AVX2, AVX-512 or NEON. Eight is the usual number, since a tile has eight Philox blocks.
Functions with much arithmetic work on sixteen, which is as many as AVX-512 has for float32.
`fastdrop._lanes.floats` adds the operations on real numbers, and `fastdrop._lanes.memory` brings lanes to and
from arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from fastdrop._lanes.inline import inlined

LANES = 8
I32, I64 = ir.IntType(32), ir.IntType(64)


def vector(element: ir.Type, lanes: int = LANES) -> ir.Type:
    """Return the LLVM type of lanes; one lane has the type of its scalar, which CUDA's compiler wants."""
    return element if lanes == 1 else ir.VectorType(element, lanes)


class Vec(types.Type):
    """The Numba type of a vector: so many lanes of one scalar type."""

    word_times: ClassVar[Any]  # what `philox.word_times` is of uint64 lanes

    def __init__(self, element: types.Type, lanes: int = LANES) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vec({element}, {lanes})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        # A boolean lane is one bit, as LLVM's comparisons return; Numba's own data model has a byte.
        element = dmm.lookup(fe_type.element).get_value_type()
        super().__init__(dmm, fe_type, vector(element, fe_type.lanes))


U64 = Vec(types.uint64)


def splatted(builder: ir.IRBuilder, scalar: ir.Value, lanes: int = LANES) -> ir.Value:
    """Return lanes that all equal a scalar."""
    if lanes == 1:
        return scalar
    undefined = ir.Constant(vector(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(vector(I32, lanes), [0] * lanes))


def _binary(op: Callable, integer: Callable, real: Callable | None = None, compares: bool = False) -> None:
    """Teach Numba ``Vec op Vec`` and ``Vec op scalar``, where it casts the scalar to the lanes' type."""

    @infer_global(op)
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            a, b = args
            if isinstance(a, Vec) and (a == b or isinstance(b, types.Number)):
                result = Vec(types.boolean, a.lanes) if compares else a
                return signature(result, a, a if a == b else a.element)

    def lower(context, builder, sig, args):
        a, b = args
        emit = real if isinstance(sig.args[0].element, types.Float) else integer
        if emit is ir.IRBuilder.fmul and context.target_name == "cuda":
            emit = rounded_product
        if not isinstance(sig.args[1], Vec):
            b = splatted(builder, b, sig.args[0].lanes)
        return emit(builder, a, b)

    lower_builtin(op, Vec, Vec)(lower)
    lower_builtin(op, Vec, types.Number)(lower)


def rounded_product(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return a product that CUDA's compiler does not contract with a following sum into an fma."""
    name = "llvm.nvvm.mul.rn.f" if a.type == ir.FloatType() else "llvm.nvvm.mul.rn.d"
    return call(builder, name, a.type, a, b)


def _compare(how: str) -> tuple[Callable, Callable]:
    return (
        lambda builder, a, b: builder.icmp_unsigned(how, a, b),
        lambda builder, a, b: builder.fcmp_ordered(how, a, b),
    )


_binary(operator.and_, ir.IRBuilder.and_)
_binary(operator.or_, ir.IRBuilder.or_)
_binary(operator.xor, ir.IRBuilder.xor)
_binary(operator.lshift, ir.IRBuilder.shl)
_binary(operator.rshift, ir.IRBuilder.lshr)
_binary(operator.add, ir.IRBuilder.add, ir.IRBuilder.fadd)
_binary(operator.sub, ir.IRBuilder.sub, ir.IRBuilder.fsub)
_binary(operator.mul, ir.IRBuilder.mul, ir.IRBuilder.fmul)
_binary(operator.truediv, ir.IRBuilder.udiv, ir.IRBuilder.fdiv)
_binary(operator.eq, *_compare("=="), compares=True)
_binary(operator.ne, *_compare("!="), compares=True)
_binary(operator.lt, *_compare("<"), compares=True)
_binary(operator.ge, *_compare(">="), compares=True)


@infer_global(operator.invert)
class _Invert(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vec) else None


@lower_builtin(operator.invert, Vec)
def _invert(context, builder, sig, args):
    return builder.not_(args[0])


@infer_global(operator.neg)
class _Negate(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vec) else None


@lower_builtin(operator.neg, Vec)
def _negate(context, builder, sig, args):
    return negated(builder, *args)


def negated(builder: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """Return real lanes with the other sign, without LLVM's fneg, which CUDA's compiler does not know."""
    zeros = ir.Constant(v.type, -0.0 if not isinstance(v.type, ir.VectorType) else [-0.0] * v.type.count)
    return builder.fsub(zeros, v)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Call one of LLVM's intrinsic functions on lanes."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def suffix(lanes: ir.Type) -> str:
    """Return what LLVM appends to the name of an intrinsic function for lanes of this type."""
    names = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}
    if not isinstance(lanes, ir.VectorType):
        return names[lanes]
    return f"v{lanes.count}{names.get(lanes.element, str(lanes.element))}"


@intrinsic
def splat(typingctx, scalar):
    """Return eight lanes that all equal a scalar."""
    return Vec(scalar)(scalar), lambda context, builder, sig, args: splatted(builder, args[0])


@intrinsic
def lane(typingctx, scalar):
    """Return a scalar as one lane, which is what a CUDA thread works on."""
    return Vec(scalar, 1)(scalar), lambda context, builder, sig, args: args[0]


@intrinsic
def value(typingctx, v):
    """Return one lane as a scalar."""
    return v.element(v), lambda context, builder, sig, args: args[0]


@intrinsic
def splat_like(typingctx, scalar, like):
    """Return lanes that all equal a scalar, of the type of another vector."""

    def codegen(context, builder, sig, args):
        return splatted(builder, args[0], like.lanes)

    return like(like.element, like), codegen


@intrinsic
def iota(typingctx):
    """Return the lane numbers 0 to 7, as uint64."""
    numbers = ir.Constant(vector(ir.IntType(64)), list(range(LANES)))
    return U64(), lambda context, builder, sig, args: numbers


@intrinsic
def narrow(typingctx, v):
    """Return the low halves of uint64 lanes, as uint32."""
    half = vector(I32, v.lanes)
    return Vec(types.uint32, v.lanes)(v), lambda context, builder, sig, args: builder.trunc(args[0], half)


@intrinsic
def wide(typingctx, v):
    """Return uint32 lanes as uint64."""
    double = vector(I64, v.lanes)
    return Vec(types.uint64, v.lanes)(v), lambda context, builder, sig, args: builder.zext(args[0], double)


@intrinsic
def _word_times(typingctx, v, multiplier):
    """Return `philox.word_times` of uint64 lanes."""

    def codegen(context, builder, sig, args):
        v, multiplier = args
        if context.target_name != "cuda":
            low = splatted(builder, I64(0xFFFFFFFF), sig.return_type.lanes)
            return builder.mul(builder.and_(v, low), splatted(builder, multiplier, sig.return_type.lanes))
        # What CUDA's compiler makes of a product of 64 bits also adds up the parts that are 0.
        words = builder.trunc(v, I32), builder.trunc(multiplier, I32)
        kind = ir.FunctionType(I64, [I32, I32])
        return builder.call(ir.InlineAsm(kind, "mul.wide.u32 $0, $1, $2;", "=l,r,r"), words)

    return v(v, types.uint64), codegen


Vec.word_times = _word_times


@intrinsic
def any_nonzero(typingctx, v):
    """Return whether any of eight lanes differs from 0."""

    def codegen(context, builder, sig, args):
        lanes = builder.icmp_unsigned("!=", args[0], ir.Constant(args[0].type, None))
        byte = builder.bitcast(lanes, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", byte, byte.type(0))

    return types.boolean(v), codegen


@intrinsic
def bits_of(typingctx, mask):
    """Return boolean lanes as the bits of a number of 32 bits, the first lane in the lowest."""

    def codegen(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.lanes)), I32)

    return types.uint32(mask), codegen


@intrinsic
def are_set(typingctx, bits):
    """Return whether the bits of two bytes of a number are set, as lanes; each byte's highest is first."""
    places = ir.Constant(vector(I32, 2 * LANES), [1 << (lane ^ (LANES - 1)) for lane in range(2 * LANES)])

    def codegen(context, builder, sig, args):
        found = builder.and_(splatted(builder, args[0], 2 * LANES), places)
        return builder.icmp_unsigned("!=", found, ir.Constant(found.type, None))

    return Vec(types.boolean, 2 * LANES)(types.uint32), codegen


@intrinsic
def where(typingctx, mask, a, b):
    """Return lanes of a where the mask is set, and of b elsewhere; one of them may be a scalar."""
    lanes = a if isinstance(a, Vec) else b

    def codegen(context, builder, sig, args):
        a, b = (
            splatted(builder, v, lanes.lanes) if t != lanes else v
            for v, t in zip(args[1:], sig.args[1:], strict=True)
        )
        return builder.select(args[0], a, b)

    kinds = (t if isinstance(t, Vec) else lanes.element for t in (a, b))
    return lanes(mask, *kinds), codegen


@inlined
def zero_where(mask, v):
    """Return +0 in the lanes where the mask is set, and v in the others."""
    return where(mask, 0, v)


def _shuffled(name: str, lanes: list[int], doc: str) -> Any:
    """Return a function that picks lanes of one vector by their numbers."""

    def function(typingctx, v):
        def codegen(context, builder, sig, args):
            chosen = ir.Constant(vector(I32, len(lanes)), lanes)
            return builder.shuffle_vector(args[0], args[0], chosen)

        return Vec(v.element, len(lanes))(v), codegen

    function.__name__, function.__doc__ = name, doc
    return intrinsic(function)


lower_twice = _shuffled("lower_twice", [lane // 2 for lane in range(LANES)], "Lanes 0 to 3, each twice.")
upper_twice = _shuffled("upper_twice", [4 + lane // 2 for lane in range(LANES)], "Lanes 4 to 7, each twice.")
backwards = _shuffled("backwards", list(range(LANES))[::-1], "Eight lanes, the last first.")
lower_half = _shuffled("lower_half", list(range(LANES)), "The first eight of sixteen lanes.")
upper_half = _shuffled("upper_half", list(range(LANES, 2 * LANES)), "The last eight of sixteen lanes.")


@intrinsic
def join(typingctx, a, b):
    """Return the sixteen lanes of two vectors of eight."""

    def codegen(context, builder, sig, args):
        return builder.shuffle_vector(*args, ir.Constant(vector(I32, 2 * LANES), list(range(2 * LANES))))

    return Vec(a.element, 2 * LANES)(a, b), codegen
