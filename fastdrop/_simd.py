"""Eight lanes as a Numba value type with Python's operators: the only place that builds LLVM IR.

A `Vec` lives in vector registers, whatever their width: LLVM lowers eight lanes to SSE, AVX2,
AVX-512 or NEON. Numba has no 16-bit floats, so their arrays come as integers of the same width,
float16 as int16 and bfloat16 as uint16: they are float32 in lanes, and are rounded when stored.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 8
I32 = ir.IntType(32)


def _vector(element: ir.Type) -> ir.VectorType:
    return ir.VectorType(element, LANES)


class Vec(types.Type):
    """Eight lanes of one scalar type."""

    def __init__(self, element: types.Type) -> None:
        self.element = element
        super().__init__(name=f"Vec({element})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        # one bit per lane for booleans, where Numba's own data model has a byte
        element = dmm.lookup(fe_type.element).get_value_type()
        super().__init__(dmm, fe_type, _vector(element))


U32, U64, MASK = Vec(types.uint32), Vec(types.uint64), Vec(types.boolean)


def _splat(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    undefined = ir.Constant(_vector(scalar.type), ir.Undefined)
    first = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_vector(I32), [0] * LANES))


def _binary(op: Callable, integer: Callable, real: Callable | None = None, result: Vec | None = None) -> None:
    """Teach Numba ``Vec op Vec`` and ``Vec op scalar``; the scalar is cast to the lanes' type."""

    @infer_global(op)
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            a, b = args
            if isinstance(a, Vec) and (a == b or isinstance(b, types.Number)):
                return signature(result or a, a, a if a == b else a.element)

    def lower(context, builder, sig, args):
        a, b = args
        emit = real if isinstance(sig.args[0].element, types.Float) else integer
        return emit(builder, a, b if isinstance(sig.args[1], Vec) else _splat(builder, b))

    lower_builtin(op, Vec, Vec)(lower)
    lower_builtin(op, Vec, types.Number)(lower)


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
_binary(operator.mul, ir.IRBuilder.mul, ir.IRBuilder.fmul)
_binary(operator.eq, *_compare("=="), result=MASK)
_binary(operator.ne, *_compare("!="), result=MASK)
_binary(operator.lt, *_compare("<"), result=MASK)
_binary(operator.ge, *_compare(">="), result=MASK)


@infer_global(operator.invert)
class _Invert(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if isinstance(args[0], Vec) else None


@lower_builtin(operator.invert, Vec)
def _invert(context, builder, sig, args):
    return builder.not_(args[0])


@intrinsic
def splat(typingctx, scalar):
    """Eight lanes equal to a scalar."""
    return Vec(scalar)(scalar), lambda context, builder, sig, args: _splat(builder, args[0])


@intrinsic
def iota(typingctx):
    """The lane numbers 0 to 7, as uint64."""
    numbers = ir.Constant(_vector(ir.IntType(64)), list(range(LANES)))
    return U64(), lambda context, builder, sig, args: numbers


@intrinsic
def narrow(typingctx, v):
    """The low halves of uint64 lanes."""
    half = _vector(I32)
    return U32(v), lambda context, builder, sig, args: builder.trunc(args[0], half)


@intrinsic
def any_nonzero(typingctx, v):
    """Whether any lane differs from 0."""

    def codegen(context, builder, sig, args):
        lanes = builder.icmp_unsigned("!=", args[0], ir.Constant(args[0].type, None))
        byte = builder.bitcast(lanes, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", byte, byte.type(0))

    return types.boolean(v), codegen


@intrinsic
def zero_where(typingctx, mask, v):
    """+0 in the lanes where the mask is set, v in the others."""

    def codegen(context, builder, sig, args):
        return builder.select(args[0], ir.Constant(args[1].type, None), args[1])

    return v(mask, v), codegen


def _twice(name: str, first: int) -> Any:
    def twice(typingctx, v):
        lanes = ir.Constant(_vector(I32), [first + lane // 2 for lane in range(LANES)])

        def codegen(context, builder, sig, args):
            return builder.shuffle_vector(args[0], args[0], lanes)

        return v(v), codegen

    twice.__name__, twice.__doc__ = name, f"Lanes {first} to {first + 3}, each twice."
    return intrinsic(twice)


lower_twice, upper_twice = _twice("lower_twice", 0), _twice("upper_twice", 4)


def _address(context, builder, array_type, array, index):
    """A pointer to eight elements of a 1-D C-order array, and the alignment it is sure to have."""
    first = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    vector = _vector(first.type.pointee)
    return builder.bitcast(first, vector.as_pointer()), array_type.dtype.bitwidth // 8


HALF, BFLOAT = types.int16, types.uint16  # what arrays of float16 and bfloat16 come as


def _in_lanes(array: types.Array) -> Vec:
    return Vec(types.float32 if array.dtype in (HALF, BFLOAT) else array.dtype)


def _from_memory(builder, dtype, v):
    if dtype == HALF:
        return builder.fpext(builder.bitcast(v, _vector(ir.HalfType())), _vector(ir.FloatType()))
    if dtype == BFLOAT:
        wide = builder.zext(v, _vector(I32))
        return builder.bitcast(builder.shl(wide, _splat(builder, I32(16))), _vector(ir.FloatType()))
    return v


def _to_memory(builder, dtype, v):
    if dtype == HALF:
        return builder.bitcast(builder.fptrunc(v, _vector(ir.HalfType())), _vector(ir.IntType(16)))
    if dtype == BFLOAT:
        return _round_to_bfloat(builder, v)
    return v


def _round_to_bfloat(builder, v):
    """The upper halves, rounded to nearest even; a NaN keeps its sign."""
    word = builder.bitcast(v, _vector(I32))
    half, one, bias, quiet_bit = (_splat(builder, I32(n)) for n in (16, 1, 0x7FFF, 0x0040))
    upper = builder.lshr(word, half)
    rounded = builder.lshr(builder.add(builder.add(word, bias), builder.and_(upper, one)), half)
    quiet = builder.or_(upper, quiet_bit)
    chosen = builder.select(builder.fcmp_unordered("uno", v, v), quiet, rounded)
    return builder.trunc(chosen, _vector(ir.IntType(16)))


@intrinsic
def load(typingctx, array, index):
    """Eight consecutive elements of a 1-D array."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args)
        return _from_memory(builder, sig.args[0].dtype, builder.load(pointer, align=align))

    return _in_lanes(array)(array, types.intp), codegen


def _store(name, nontemporal, doc):
    def store(typingctx, array, index, v):
        def codegen(context, builder, sig, args):
            pointer, align = _address(context, builder, sig.args[0], *args[:2])
            value = _to_memory(builder, sig.args[0].dtype, args[2])
            written = builder.store(value, pointer, align=16 if nontemporal else align)
            if nontemporal:
                written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

        return types.void(array, types.intp, v), codegen

    store.__name__, store.__doc__ = name, doc
    return intrinsic(store)


store = _store("store", False, "Write eight consecutive elements.")
store_streaming = _store(
    "store_streaming", True, "Write eight elements past the caches, at a multiple of 16 bytes."
)


@intrinsic
def fence(typingctx):
    """Let streaming stores be seen before whatever follows."""
    return types.void(), lambda context, builder, sig, args: builder.fence("seq_cst")


def _masked(builder, name, vector, result, *args):
    """Call llvm.masked.load or .store, which touch no memory in lanes that are not set."""
    suffix = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}.get(vector.element, str(vector.element))
    kind = ir.FunctionType(result, [a.type for a in args])
    name = f"llvm.masked.{name}.v{LANES}{suffix}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic
def load_where(typingctx, array, index, mask):
    """Eight elements, 0 in the lanes where the mask is not set."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args[:2])
        vector = pointer.type.pointee
        zero = ir.Constant(vector, None)
        loaded = _masked(builder, "load", vector, vector, pointer, I32(align), args[2], zero)
        return _from_memory(builder, sig.args[0].dtype, loaded)

    return _in_lanes(array)(array, types.intp, mask), codegen


@intrinsic
def store_where(typingctx, array, index, v, mask):
    """Write the lanes where the mask is set."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args[:2])
        value = _to_memory(builder, sig.args[0].dtype, args[2])
        _masked(builder, "store", value.type, ir.VoidType(), value, pointer, I32(align), args[3])

    return types.void(array, types.intp, v, mask), codegen
