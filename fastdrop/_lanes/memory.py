"""Lanes to and from arrays: whole, in part, past the caches, and 16-bit floats on their way.

Numba has no 16-bit floats, so their arrays come as integers of the same width, float16 as int16 and
bfloat16 as uint16: they are float32 in lanes, and are rounded when stored.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastdrop._lanes import float16
from fastdrop._lanes.vectors import I32, LANES, Vec, call, splatted, suffix, vector

I16 = ir.IntType(16)


def _address(context, builder, array_type, array, index, count=LANES):
    """A pointer to so many elements of a 1-D C-order array, and the alignment it is sure to have."""
    first = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    lanes = vector(first.type.pointee, count)
    return builder.bitcast(first, lanes.as_pointer()), array_type.dtype.bitwidth // 8


HALF, BFLOAT = types.int16, types.uint16  # what arrays of float16 and bfloat16 come as


def _in_lanes(dtype: types.Type, count: int = LANES) -> Vec:
    return Vec(types.float32 if dtype in (HALF, BFLOAT) else dtype, count)


def _from_memory(builder, dtype, v, lanes=LANES):
    real = vector(ir.FloatType(), lanes)
    if dtype == HALF:
        if not float16.in_hardware():
            return float16.to_float(builder, v, lanes)
        return builder.fpext(builder.bitcast(v, vector(ir.HalfType(), lanes)), real)
    if dtype == BFLOAT:
        wide = builder.zext(v, vector(I32, lanes))
        return builder.bitcast(builder.shl(wide, splatted(builder, I32(16), lanes)), real)
    return v


def _to_memory(builder, dtype, v, lanes=LANES):
    if dtype == HALF:
        if not float16.in_hardware():
            return float16.to_half(builder, v, lanes)
        return builder.bitcast(builder.fptrunc(v, vector(ir.HalfType(), lanes)), vector(I16, lanes))
    if dtype == BFLOAT:
        return _round_to_bfloat(builder, v, lanes)
    return v


def _round_to_bfloat(builder, v, lanes):
    """The upper halves, rounded to nearest even; a NaN keeps its sign."""
    word = builder.bitcast(v, vector(I32, lanes))
    half, one, bias, quiet_bit = (splatted(builder, I32(n), lanes) for n in (16, 1, 0x7FFF, 0x0040))
    upper = builder.lshr(word, half)
    rounded = builder.lshr(builder.add(builder.add(word, bias), builder.and_(upper, one)), half)
    quiet = builder.or_(upper, quiet_bit)
    chosen = builder.select(builder.fcmp_unordered("uno", v, v), quiet, rounded)
    return builder.trunc(chosen, vector(I16, lanes))


@intrinsic
def loaded(typingctx, element):
    """One lane of an element as an array holds it."""
    lane = Vec(_in_lanes(element).element, 1)
    return lane(element), lambda context, builder, sig, args: _from_memory(builder, element, args[0], 1)


@intrinsic
def stored(typingctx, v, like):
    """One lane as an array of elements like another holds it."""
    return like(v, like), lambda context, builder, sig, args: _to_memory(builder, like, args[0], 1)


def _load(name, count, doc):
    def load(typingctx, array, index):
        def codegen(context, builder, sig, args):
            pointer, align = _address(context, builder, sig.args[0], *args, count)
            return _from_memory(builder, sig.args[0].dtype, builder.load(pointer, align=align), count)

        return _in_lanes(array.dtype, count)(array, types.intp), codegen

    load.__name__, load.__doc__ = name, doc
    return intrinsic(load)


load = _load("load", LANES, "Eight consecutive elements of a 1-D array.")
load_wide = _load("load_wide", 2 * LANES, "Sixteen consecutive elements of a 1-D array.")


def _store(name, nontemporal, doc):
    def store(typingctx, array, index, v):
        def codegen(context, builder, sig, args):
            pointer, align = _address(context, builder, sig.args[0], *args[:2], v.lanes)
            value = _to_memory(builder, sig.args[0].dtype, args[2], v.lanes)
            written = builder.store(value, pointer, align=16 if nontemporal else align)
            if nontemporal:
                written.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

        return types.void(array, types.intp, v), codegen

    store.__name__, store.__doc__ = name, doc
    return intrinsic(store)


store = _store("store", False, "Write consecutive elements, as many as there are lanes.")
store_streaming = _store(
    "store_streaming", True, "As `store`, but past the caches, at a multiple of 16 bytes."
)


@intrinsic
def fence(typingctx):
    """Let streaming stores be seen before whatever follows."""
    return types.void(), lambda context, builder, sig, args: builder.fence("seq_cst")


@intrinsic
def load_where(typingctx, array, index, mask):
    """Eight elements, 0 in the lanes where the mask is not set."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args[:2])
        lanes = pointer.type.pointee
        zero = ir.Constant(lanes, None)
        name = f"llvm.masked.load.{suffix(lanes)}.p0"
        loaded = call(builder, name, lanes, pointer, I32(align), args[2], zero)
        return _from_memory(builder, sig.args[0].dtype, loaded)

    return _in_lanes(array.dtype)(array, types.intp, mask), codegen


@intrinsic
def store_where(typingctx, array, index, v, mask):
    """Write the lanes where the mask is set."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args[:2])
        value = _to_memory(builder, sig.args[0].dtype, args[2])
        name = f"llvm.masked.store.{suffix(value.type)}.p0"
        call(builder, name, ir.VoidType(), value, pointer, I32(align), args[3])

    return types.void(array, types.intp, v, mask), codegen


@intrinsic
def pointer(typingctx, address):
    """An address as a pointer, as `numba.carray` and C functions take it."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the line of an element, to be read."""

    def codegen(context, builder, sig, args):
        pointer, _ = _address(context, builder, sig.args[0], *args)
        call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, I32(0), I32(3), I32(1))

    return types.void(array, types.intp), codegen
