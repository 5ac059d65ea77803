"""Loads of lanes from arrays, and stores of lanes into them.

Numba has no 16-bit floats. Their arrays come as integers of the same width, float16 as int16 and bfloat16
as uint16. Their lanes hold float32, and are rounded when they are stored.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastdrop._lanes import float16
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.vectors import I32, LANES, Vec, call, splatted, suffix, vector

I16 = ir.IntType(16)
# The processors, by LLVM's names, that fetch ahead across pages by themselves. From 2^18 elements on calls
# took up to 20 % longer when they were asked for the first lines of each tile, and 3 to 5 % when y is written
# past the caches and they were asked for all lines.
_UNASKED = frozenset({"znver4"})


def _address(context, builder, array_type, array, index, count=LANES):
    """Return a pointer to `count` elements of a 1-D C-order array, and the alignment it surely has."""
    first = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    lanes = vector(first.type.pointee, count)
    return builder.bitcast(first, lanes.as_pointer()), array_type.dtype.bitwidth // 8


HALF, BFLOAT = types.int16, types.uint16  # the types as which arrays of float16 and bfloat16 come


def in_lanes(dtype: types.Type, count: int = LANES) -> Vec:
    """Return the type of lanes of an array's elements."""
    return Vec(types.float32 if dtype in (HALF, BFLOAT) else dtype, count)


def from_memory(context, builder, dtype, v, lanes=LANES):
    """Return lanes to compute with from lanes as an array holds them."""
    real = vector(ir.FloatType(), lanes)
    if dtype == HALF:
        if context.target_name != "cuda" and not float16.in_hardware():
            return float16.to_float(builder, v, lanes)
        return builder.fpext(builder.bitcast(v, vector(ir.HalfType(), lanes)), real)
    if dtype == BFLOAT:
        wide = builder.zext(v, vector(I32, lanes))
        return builder.bitcast(builder.shl(wide, splatted(builder, I32(16), lanes)), real)
    return v


def to_memory(context, builder, dtype, v, lanes=LANES):
    """Return lanes as an array holds them, rounded to its type."""
    if dtype == HALF:
        if context.target_name != "cuda" and not float16.in_hardware():
            return float16.to_half(builder, v, lanes)
        return builder.bitcast(builder.fptrunc(v, vector(ir.HalfType(), lanes)), vector(I16, lanes))
    if dtype == BFLOAT:
        return _round_to_bfloat(builder, v, lanes)
    return v


def _round_to_bfloat(builder, v, lanes):
    """Return float32 lanes as bfloat16, rounded to nearest even; NaN stays NaN, with its sign."""
    word = builder.bitcast(v, vector(I32, lanes))
    half, one, bias, quiet_bit = (splatted(builder, I32(n), lanes) for n in (16, 1, 0x7FFF, 0x0040))
    upper = builder.lshr(word, half)
    rounded = builder.lshr(builder.add(builder.add(word, bias), builder.and_(upper, one)), half)
    quiet = builder.or_(upper, quiet_bit)
    chosen = builder.select(builder.fcmp_unordered("uno", v, v), quiet, rounded)
    return builder.trunc(chosen, vector(I16, lanes))


def _load(name, count, doc):
    def load(typingctx, array, index):
        def codegen(context, builder, sig, args):
            pointer, align = _address(context, builder, sig.args[0], *args, count)
            return from_memory(context, builder, sig.args[0].dtype, builder.load(pointer, align=align), count)

        return in_lanes(array.dtype, count)(array, types.intp), codegen

    load.__name__, load.__doc__ = name, doc
    return intrinsic(load)


load = _load("load", LANES, "Eight consecutive elements of a 1-D array.")
load_wide = _load("load_wide", 2 * LANES, "Sixteen consecutive elements of a 1-D array.")


def _store(name, nontemporal, doc):
    def store(typingctx, array, index, v):
        def codegen(context, builder, sig, args):
            pointer, align = _address(context, builder, sig.args[0], *args[:2], v.lanes)
            value = to_memory(context, builder, sig.args[0].dtype, args[2], v.lanes)
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


@inlined
def store_words(array, w0, w1, w2, w3):
    """Write four vectors of eight lanes, as the words of a tile, to the beginning of an array."""
    store(array, 0, w0)
    store(array, LANES, w1)
    store(array, 2 * LANES, w2)
    store(array, 3 * LANES, w3)


@intrinsic
def store_rounded(typingctx, array, index, v):
    """Write float64 lanes, rounded to the real or unsigned type of the array's elements."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args[:2])
        kind, element, value = pointer.type.pointee, array.dtype, args[2]
        if isinstance(element, types.Integer):
            value = builder.fptoui(value, kind)
        elif element != types.float64:
            value = builder.fptrunc(value, kind)
        builder.store(value, pointer, align=align)

    return types.void(array, types.intp, v), codegen


@intrinsic
def fence(typingctx):
    """Make streaming stores visible to other threads before anything that follows."""
    return types.void(), lambda context, builder, sig, args: builder.fence("seq_cst")


@intrinsic
def load_where(typingctx, array, index, mask):
    """Return eight elements where the mask is set, and 0 in the other lanes, whose memory is not read."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args[:2])
        lanes = pointer.type.pointee
        zero = ir.Constant(lanes, None)
        name = f"llvm.masked.load.{suffix(lanes)}.p0"
        loaded = call(builder, name, lanes, pointer, I32(align), args[2], zero)
        return from_memory(context, builder, sig.args[0].dtype, loaded)

    return in_lanes(array.dtype)(array, types.intp, mask), codegen


@intrinsic
def store_where(typingctx, array, index, v, mask):
    """Write those of eight lanes where the mask is set."""

    def codegen(context, builder, sig, args):
        pointer, align = _address(context, builder, sig.args[0], *args[:2])
        value = to_memory(context, builder, sig.args[0].dtype, args[2])
        name = f"llvm.masked.store.{suffix(value.type)}.p0"
        call(builder, name, ir.VoidType(), value, pointer, I32(align), args[3])

    return types.void(array, types.intp, v, mask), codegen


@intrinsic
def pointer(typingctx, address):
    """Return an address as a pointer, which `numba.carray` and C functions take."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), codegen


@intrinsic
def in_a_line(typingctx, array):
    """Return how many elements a cache line of 64 bytes has: a constant, which `array.itemsize` is not."""
    count = 64 * 8 // array.dtype.bitwidth
    return types.intp(array), lambda context, *_: context.get_constant(types.intp, count)


@intrinsic
def is_short(typingctx, array):
    """Return whether an array's elements have 16 bits: a constant."""
    short = array.dtype in (HALF, BFLOAT)
    return types.boolean(array), lambda context, *_: context.get_constant(types.boolean, short)


@intrinsic
def prefetch(typingctx, array, index):
    """Ask the processor, if it needs to be asked, for the cache line of an element that will be read."""

    def codegen(context, builder, sig, args):
        _, processor, _ = context.codegen().magic_tuple()
        if processor in _UNASKED:
            return
        pointer, _ = _address(context, builder, sig.args[0], *args)
        call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, I32(0), I32(3), I32(1))

    return types.void(array, types.intp), codegen
