"""Reads and writes of a warp's lanes by addresses, which are plain integers.

Arrays come without Numba's array type, whose parts a launch would have to unpack: an address is a 64-bit
number. A lane reads or writes one element, or 8 or 16 bytes at once as words of 32 bits, which hold one or
two elements each, or half of one. The lanes of one form are one lane of a GPU, those of the other all lanes
of a warp on a CPU; see `fastdrop._cuda.warp`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastdrop._cuda.variants import WARP
from fastdrop._lanes.memory import HALF, from_memory, in_lanes, to_memory
from fastdrop._lanes.vectors import I32, I64, Vec, splatted, vector

_I1, _I8, _I16 = ir.IntType(1), ir.IntType(8), ir.IntType(16)
_IN_GPU_MEMORY = 1  # the number of the address space in which a GPU's compiler knows arrays to be


def itemsize(carrier: types.Type) -> int:
    """Return how many bytes an element has, of the type by which kernels know it."""
    width: int = getattr(carrier, "bitwidth")  # noqa: B009, of numbers alone
    return width // 8


def _addresses(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, size: int, lanes: int) -> ir.Value:
    """Return the address of each lane's element, or group of words, of so many bytes."""
    wide = vector(I64, lanes)
    places = index if index.type == wide else builder.zext(index, wide)
    scaled = builder.mul(places, splatted(builder, I64(size), lanes))
    return builder.add(scaled, splatted(builder, base, lanes))


def _pointer(context: Any, builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    """Return the address of one element as a pointer."""
    space = _IN_GPU_MEMORY if context.target_name == "cuda" else 0
    return builder.inttoptr(address, kind.as_pointer(space))


def _odd(builder: ir.IRBuilder, addresses: ir.Value, size: int, kind: ir.Type) -> ir.Value:
    """Return bits that spoil what a CPU's lanes read or write where a GPU would refuse the address."""
    rest = builder.and_(addresses, splatted(builder, I64(size - 1), WARP))
    wrong = builder.icmp_unsigned("!=", rest, ir.Constant(rest.type, None))
    return builder.sext(wrong, kind)


def _each(builder: ir.IRBuilder, addresses: ir.Value, valid: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Emit a loop over the valid lanes of a CPU's vector; yield the lane's number and address once."""
    places, mask = _on_stack(builder, addresses), _on_stack(builder, builder.zext(valid, vector(_I8, WARP)))
    with cgutils.for_range(builder, I64(WARP)) as loop:
        some = builder.load(builder.gep(mask, [loop.index]))
        with builder.if_then(builder.icmp_unsigned("!=", some, _I8(0))):
            yield loop.index, builder.load(builder.gep(places, [loop.index]))


def _on_stack(builder: ir.IRBuilder, lanes: ir.Value) -> ir.Value:
    """Return a pointer to the first of lanes that are written to the stack."""
    memory = cgutils.alloca_once(builder, lanes.type)
    builder.store(lanes, memory)
    return builder.bitcast(memory, lanes.type.element.as_pointer())


def _taken(
    context: Any, builder: ir.IRBuilder, addresses: ir.Value, kind: ir.Type, valid: ir.Value, size: int
) -> ir.Value:
    """Return the elements at addresses in the lanes that are valid, and zeros in the others."""
    if isinstance(addresses.type, ir.VectorType):
        lanes = vector(kind, WARP)
        found = _on_stack(builder, ir.Constant(lanes, None))
        for number, address in _each(builder, addresses, valid):
            read = builder.load(_pointer(context, builder, address, kind), align=size)
            builder.store(read, builder.gep(found, [number]))
        return builder.load(builder.bitcast(found, lanes.as_pointer()), align=size)
    before = builder.block
    with builder.if_then(valid):
        inside, read = builder.block, builder.load(_pointer(context, builder, addresses, kind), align=size)
    found = builder.phi(kind)
    found.add_incoming(ir.Constant(kind, 0), before)
    found.add_incoming(read, inside)
    return found


def _given(
    context: Any, builder: ir.IRBuilder, addresses: ir.Value, v: ir.Value, valid: ir.Value, size: int
) -> None:
    """Write lanes that are valid to their addresses."""
    if isinstance(addresses.type, ir.VectorType):
        given = _on_stack(builder, v)
        for number, address in _each(builder, addresses, valid):
            written = builder.load(builder.gep(given, [number]))
            builder.store(written, _pointer(context, builder, address, written.type), align=size)
        return
    with builder.if_then(valid):
        builder.store(v, _pointer(context, builder, addresses, v.type), align=size)


def _everywhere(lanes: int) -> ir.Constant:
    return ir.Constant(vector(_I1, lanes), True if lanes == 1 else [1] * lanes)


@intrinsic
def everywhere(typingctx, like):
    """Return a mask that is set in all lanes of a vector."""
    mask = Vec(types.boolean, like.lanes)
    return mask(like), lambda context, builder, sig, args: _everywhere(like.lanes)


@cache
def zeros(kind: types.Type) -> Any:
    """Return a function that returns zeros of a real type, with as many lanes as another vector has."""

    @intrinsic
    def of_lanes(typingctx, like):
        result = Vec(kind, like.lanes)

        def codegen(context, builder, sig, args):
            return splatted(builder, context.get_constant(kind, 0.0), like.lanes)

        return result(like), codegen

    return of_lanes


@cache
def take_words(count: int) -> Any:
    """Return a function that reads so many words a lane, of group number `index` at an address."""

    @intrinsic
    def take(typingctx, address, index):
        lanes = index.lanes
        result = types.UniTuple(Vec(types.uint32, lanes), count)

        def codegen(context, builder, sig, args):
            addresses = _addresses(builder, *args, 4 * count, lanes)
            if lanes == 1:
                pointer = _pointer(context, builder, addresses, ir.VectorType(I32, count))
                read = builder.load(pointer, align=4 * count)
                words = [builder.extract_element(read, I32(k)) for k in range(count)]
            else:
                each = [_addresses(builder, I64(4 * k), addresses, 1, lanes) for k in range(count)]
                odd = _odd(builder, addresses, 4 * count, vector(I32, lanes))
                words = [_taken(context, builder, a, I32, _everywhere(lanes), 4) for a in each]
                words = [builder.xor(word, odd) for word in words]
            return context.make_tuple(builder, result, words)

        return result(types.int64, index), codegen

    return take


@cache
def put_words(count: int) -> Any:
    """Return a function that writes so many words a lane, as group number `index` at an address."""

    @intrinsic
    def put(typingctx, address, index, words):
        lanes = index.lanes

        def codegen(context, builder, sig, args):
            addresses = _addresses(builder, *args[:2], 4 * count, lanes)
            words = [builder.extract_value(args[2], k) for k in range(count)]
            if lanes == 1:
                kind = ir.VectorType(I32, count)
                written = ir.Constant(kind, ir.Undefined)
                for k, word in enumerate(words):
                    written = builder.insert_element(written, word, I32(k))
                builder.store(written, _pointer(context, builder, addresses, kind), align=4 * count)
                return context.get_dummy_value()
            odd = _odd(builder, addresses, 4 * count, vector(I32, lanes))
            for k, word in enumerate(words):
                each = _addresses(builder, I64(4 * k), addresses, 1, lanes)
                _given(context, builder, each, builder.xor(word, odd), _everywhere(lanes), 4)
            return context.get_dummy_value()

        return types.void(types.int64, index, words), codegen

    return put


@cache
def unpacked(carrier: types.Type) -> Any:
    """Return a function that makes lanes of numbers of words of a dtype."""

    @intrinsic
    def unpack(typingctx, words):
        kind = in_lanes(carrier, words.dtype.lanes)
        lanes, size = kind.lanes, itemsize(carrier)
        result = types.UniTuple(kind, len(words) * 4 // size)

        def codegen(context, builder, sig, args):
            given = [builder.extract_value(args[0], k) for k in range(len(words))]
            if size == 2:
                half = vector(_I16, lanes)
                shift = splatted(builder, I32(16), lanes)
                parts = [builder.trunc(w, half) for word in given for w in (word, builder.lshr(word, shift))]
                read = [from_memory(context, builder, carrier, part, lanes) for part in parts]
            elif size == 4:
                read = [builder.bitcast(word, vector(ir.FloatType(), lanes)) for word in given]
            else:
                longs = [builder.zext(word, vector(I64, lanes)) for word in given]
                shift, real = splatted(builder, I64(32), lanes), vector(ir.DoubleType(), lanes)
                pairs = zip(longs[::2], longs[1::2], strict=True)
                read = [builder.bitcast(builder.or_(a, builder.shl(b, shift)), real) for a, b in pairs]
            return context.make_tuple(builder, result, read)

        return result(words), codegen

    return unpack


@cache
def packed(carrier: types.Type, in_pairs: bool) -> Any:
    """Return a function that makes words of a dtype of lanes of numbers, and rounds them.

    With `in_pairs` a GPU rounds two numbers to 16 bits by one instruction, which it has from capability 8.0
    on. A NaN then becomes the one NaN that the instruction knows.
    """

    @intrinsic
    def pack(typingctx, values):
        lanes, size = values.dtype.lanes, itemsize(carrier)
        words = vector(I32, lanes)
        result = types.UniTuple(Vec(types.uint32, lanes), len(values) * size // 4)

        def codegen(context, builder, sig, args):
            given = [builder.extract_value(args[0], k) for k in range(len(values))]
            if size == 2 and in_pairs and lanes == 1:
                made = [_rounded_pair(builder, *pair) for pair in zip(given[::2], given[1::2], strict=True)]
            elif size == 2:
                halves = [to_memory(context, builder, carrier, v, lanes) for v in given]
                wide = [builder.zext(half, words) for half in halves]
                shift = splatted(builder, I32(16), lanes)
                pairs = zip(wide[::2], wide[1::2], strict=True)
                made = [builder.or_(a, builder.shl(b, shift)) for a, b in pairs]
            elif size == 4:
                made = [builder.bitcast(v, words) for v in given]
            else:
                bits, shift = vector(I64, lanes), splatted(builder, I64(32), lanes)
                longs = [builder.bitcast(v, bits) for v in given]
                parts = [part for long in longs for part in (long, builder.lshr(long, shift))]
                made = [builder.trunc(part, words) for part in parts]
            return context.make_tuple(builder, result, made)

        return result(values), codegen

    def _rounded_pair(builder, low, high):
        name = "cvt.rn.f16x2.f32" if carrier == HALF else "cvt.rn.bf16x2.f32"
        kind = ir.FunctionType(I32, [ir.FloatType(), ir.FloatType()])
        return builder.call(ir.InlineAsm(kind, f"{name} $0, $1, $2;", "=r,f,f"), [high, low])

    return pack


@cache
def take(carrier: types.Type) -> Any:
    """Return a function that reads the element number `index` at an address, in the lanes that are valid."""

    @intrinsic
    def take_one(typingctx, address, index, valid):
        result, lanes, size = in_lanes(carrier, index.lanes), index.lanes, itemsize(carrier)

        def codegen(context, builder, sig, args):
            kind = context.get_value_type(carrier)
            addresses = _addresses(builder, *args[:2], size, lanes)
            found = _taken(context, builder, addresses, kind, args[2], size)
            return from_memory(context, builder, carrier, found, lanes)

        return result(types.int64, index, valid), codegen

    return take_one


@cache
def put(carrier: types.Type) -> Any:
    """Return a function that writes the element number `index` at an address, in the lanes that are valid."""

    @intrinsic
    def put_one(typingctx, address, index, valid, v):
        lanes, size = index.lanes, itemsize(carrier)

        def codegen(context, builder, sig, args):
            addresses = _addresses(builder, *args[:2], size, lanes)
            written = to_memory(context, builder, carrier, args[3], lanes)
            _given(context, builder, addresses, written, args[2], size)
            return context.get_dummy_value()

        return types.void(types.int64, index, valid, v), codegen

    return put_one


@cache
def number_at(kind: types.Type) -> Any:
    """Return a function that reads the number `index` at an address, of a type of Numba's, as a scalar."""

    @intrinsic
    def read(typingctx, address, index):
        def codegen(context, builder, sig, args):
            size, element = itemsize(kind), context.get_value_type(kind)
            address = _addresses(builder, *args, size, 1)
            return builder.load(_pointer(context, builder, address, element), align=size)

        return kind(types.int64, types.int64), codegen

    return read


@cache
def put_number(kind: types.Type) -> Any:
    """Return a function that writes a scalar of a type of Numba's as the number `index` at an address."""

    @intrinsic
    def write(typingctx, address, index, number):
        def codegen(context, builder, sig, args):
            size = itemsize(kind)
            where = _addresses(builder, *args[:2], size, 1)
            builder.store(args[2], _pointer(context, builder, where, args[2].type), align=size)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, kind), codegen

    return write


@cache
def take_integer(kind: types.Type) -> Any:
    """Do as `take` for integers, which are no elements to compute with; lanes are unsigned."""

    @intrinsic
    def take_one(typingctx, address, index, valid):
        result, lanes, size = Vec(types.uint64, index.lanes), index.lanes, itemsize(kind)

        def codegen(context, builder, sig, args):
            element = context.get_value_type(kind)
            addresses = _addresses(builder, *args[:2], size, lanes)
            return _taken(context, builder, addresses, element, args[2], size)

        return result(types.int64, index, valid), codegen

    return take_one


@cache
def converted(kind: types.Type) -> Any:
    """Return a function that returns lanes of numbers as float32 or float64, whichever they are."""

    @intrinsic
    def convert(typingctx, v):
        result = Vec(kind, v.lanes)

        def codegen(context, builder, sig, args):
            if kind == v.element:
                return args[0]
            if kind == types.float64:
                return builder.fpext(args[0], vector(ir.DoubleType(), v.lanes))
            return builder.fptrunc(args[0], vector(ir.FloatType(), v.lanes))

        return result(v), codegen

    return convert


@cache
def put_integer(kind: types.Type) -> Any:
    """Return a function that writes the low bits of lanes as integers of a type, where lanes are valid."""

    @intrinsic
    def put_one(typingctx, address, index, valid, v):
        lanes, size = index.lanes, itemsize(kind)

        def codegen(context, builder, sig, args):
            addresses = _addresses(builder, *args[:2], size, lanes)
            written = vector(ir.IntType(8 * size), lanes)
            low = args[3] if args[3].type == written else builder.trunc(args[3], written)
            if lanes > 1:
                low = builder.xor(low, _odd(builder, addresses, size, written))
            _given(context, builder, addresses, low, args[2], size)
            return context.get_dummy_value()

        return types.void(types.int64, index, valid, v), codegen

    return put_one
