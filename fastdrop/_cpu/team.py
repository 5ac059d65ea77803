"""How threads do the pieces of one call, in machine code that needs no interpreter.

A kernel hands its work over as a function of a range, to `in_pieces`. Helpers, which are threads of
`fastdrop._cpu.helpers`, wait in `serve` for a call that wants them. Whoever takes a piece adds one to a
counter, so that a late helper finds nothing left. The caller doesn't wait for helpers that have not begun: it
takes its request back.

The caller wakes two helpers, and each helper that begins wakes the next two, so that nobody wakes all. A
helper sleeps on a lock of Python's own, which every platform has and which needs no interpreter either.

On Linux, a helper that finds itself on the core of the thread that woke it goes to another one. Some
schedulers leave both there, where the helper only takes the caller's time.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastdrop._cpu.compiled import callback, jit
from fastdrop._lanes.inline import called

# The words of a call's request, each of eight bytes. The counters have cache lines of their own.
SHARE, SLOTS, COUNT, WANTED, STEP, PHASE, RUN, DATA, SIZE, CLAIMED = range(10)
# The next piece, the place in the list of the next helper to wake, and how many pieces helpers did. From LIST
# on there are the slots of the helpers that were claimed.
NEXT_PIECE, NEXT_TO_WAKE, HELPED, LIST = 16, 24, 32, 40

# The words of a helper's slot; from CORES on there is a bit for each core that it may run on.
STATE, WAKE, DONE, LEAVE, WAKER = range(5)
CORES, _CORES_BYTES = 16, 128
SLOT_WORDS = CORES + _CORES_BYTES // 8

# The state of a helper that no call has claimed. REVOKED: it was woken for a call that is over by now.
IDLE, REVOKED, GONE = 0, 1, 2
# What is added to the address of a request, which is a multiple of 8, for the state of a helper of that call:
# it is not woken yet, it does pieces, it was woken, or the caller sleeps until it has done its pieces.
_TO_WAKE, _AT_WORK, _WOKEN, _AWAITED = 0, 1, 2, 3
_WORD = 8
_SPINS = 4000  # looks at a helper that still works, some microseconds, before the caller sleeps

_I64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_RUN_TYPE = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I64])
_SHARE_TYPE = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I64, _I64])


def _python(name: str, result: types.Type, *arguments: types.Type) -> types.ExternalFunction:
    address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    llvm.add_symbol(f"fastdrop_{name}", address)
    return types.ExternalFunction(f"fastdrop_{name}", result(*arguments))


_acquire = _python("PyThread_acquire_lock", types.int32, types.intp, types.int32)
_release = _python("PyThread_release_lock", types.void, types.intp)


def _library(name: str, *arguments: types.Type) -> types.ExternalFunction | None:
    """Return a function of the C library that returns an int, or None where it has no such function."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    llvm.add_symbol(f"fastdrop_{name}", ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(f"fastdrop_{name}", types.int32(*arguments))


_getcpu = _library("sched_getcpu")
_getaffinity = _library("sched_getaffinity", types.int32, types.intp, types.intp)
_setaffinity = _library("sched_setaffinity", types.int32, types.intp, types.intp)


def new_lock() -> int:
    """Return the address of a new lock, which is taken. It is never freed."""
    allocate, acquire = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
    allocate.restype, acquire.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]
    address = allocate()
    if not address:
        raise MemoryError("no lock for another thread")
    acquire(address, 1)
    return int(address)


def keep_for_ever(words: NDArray[np.int64]) -> None:
    """Let an array live as long as the process, since a thread that never ends may look at it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(words))


def _word(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def _read(typingctx, address):
    """Return a word that other threads write."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_word(builder, args[0]), "seq_cst", _WORD)

    return types.intp(types.intp), codegen


@intrinsic
def _write(typingctx, address, value):
    """Write a word that other threads read."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], _word(builder, args[0]), "seq_cst", _WORD)

    return types.void(types.intp, types.intp), codegen


@intrinsic
def _add(typingctx, address, value):
    """Add to a word, and return what it was."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "seq_cst")

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def _turn(typingctx, address, before, after):
    """Change a word from one value to another; return whether it had the first."""

    def codegen(context, builder, sig, args):
        address, before, after = args
        found = builder.cmpxchg(_word(builder, address), before, after, "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.intp, types.intp, types.intp), codegen


@intrinsic
def _run(typingctx, function, data, begin, end):
    """Call a function of a range by its address."""

    def codegen(context, builder, sig, args):
        builder.call(builder.inttoptr(args[0], _RUN_TYPE.as_pointer()), args[1:])

    return types.void(types.intp, types.intp, types.intp, types.intp), codegen


@intrinsic
def in_pieces(typingctx, piece, given, size, request):
    """Call ``piece(given, begin, end)`` for all of [0, size).

    It is one call if the request is 0. Else the request is the address of one, whose helpers do a part.
    `given` is a tuple. A piece must raise no error, since nobody would hear of it.
    """
    run_sig = piece.get_call_type(typingctx, (given, types.intp, types.intp), {})

    def codegen(context, builder, sig, args):
        _, values, size, request = args
        data = builder.ptrtoint(cgutils.alloca_once_value(builder, values), _I64)
        run = _runner(context, builder.module, sig.args[0], run_sig, values.type)
        alone = builder.icmp_unsigned("==", request, _I64(0))
        with builder.if_else(alone) as (by_itself, with_helpers):
            with by_itself:
                builder.call(run, [data, _I64(0), size])
            with with_helpers:
                share = builder.load(_word(builder, request))
                share = builder.inttoptr(share, _SHARE_TYPE.as_pointer())
                builder.call(share, [request, builder.ptrtoint(run, _I64), data, size])

    return types.void(piece, given, types.intp, types.intp), codegen


def _runner(context, module, piece, sig, values):
    """Return a function that loads its arguments and does a piece; threads are given its address."""
    compiled = piece.dispatcher.get_compile_result(sig)
    context.active_code_library.add_linking_library(compiled.library)
    run = ir.Function(module, _RUN_TYPE, module.get_unique_name("run"))
    run.linkage = "internal"
    run.attributes.add("noinline")  # there is one copy of the code, whoever calls it
    builder = ir.IRBuilder(run.append_basic_block())
    data, begin, end = run.args
    given = builder.load(builder.inttoptr(data, values.as_pointer()))
    function = context.declare_function(module, compiled.fndesc)
    context.call_conv.call_function(builder, function, sig.return_type, sig.args, [given, begin, end])
    builder.ret_void()
    return run


@called
def _at(address, word):
    return address + word * _WORD


@called
def _work(request):
    """Do pieces as long as there are any; return how many."""
    step, phase, size = _read(_at(request, STEP)), _read(_at(request, PHASE)), _read(_at(request, SIZE))
    run, data = _read(_at(request, RUN)), _read(_at(request, DATA))
    done = 0
    while True:
        begin = _add(_at(request, NEXT_PIECE), 1) * step - phase
        if begin >= size:
            return done
        _run(run, data, max(begin, 0), min(begin + step, size))
        done += 1


if _getcpu and _getaffinity and _setaffinity:

    @called
    def _core():
        """Return the number of the core that this thread runs on."""
        return _getcpu()

    @called
    def _remember_cores(slot):
        """Write into its slot on which cores a helper may run: those of the thread that started it."""
        _getaffinity(0, _CORES_BYTES, _at(slot, CORES))  # which writes nothing where there are too many

    @called
    def _leave_core(slot, core):
        """Let a helper run on its cores but one, if there are others."""
        cores = _at(slot, CORES)
        if core < 8 * _CORES_BYTES:
            word = _at(cores, core // 64)
            before = _read(word)
            _write(word, before & ~(1 << (core % 64)))
            _setaffinity(0, _CORES_BYTES, cores)  # which fails, and changes nothing, if no core is left
            _write(word, before)

else:  # no Linux

    @called
    def _core():
        return -1

    @called
    def _remember_cores(slot):
        pass

    @called
    def _leave_core(slot, core):
        pass


@called
def _wake_two(request):
    first, claimed = _add(_at(request, NEXT_TO_WAKE), 2), _read(_at(request, CLAIMED))
    for k in range(first, min(first + 2, claimed)):
        slot = _read(_at(request, LIST + k))
        _write(_at(slot, WAKER), _core())
        if _turn(slot, request + _TO_WAKE, request + _WOKEN):
            _release(_read(_at(slot, WAKE)))


@called
def _claim(request, state, claimed_state, claimed):
    """Claim helpers that are in a state, beside those that were claimed; return how many it are now."""
    slots, count, wanted = _read(_at(request, SLOTS)), _read(_at(request, COUNT)), _read(_at(request, WANTED))
    for i in range(count):
        if claimed == wanted:
            break
        slot = _at(slots, i * SLOT_WORDS)
        if _read(slot) == state and _turn(slot, state, request + claimed_state):
            _write(_at(request, LIST + claimed), slot)
            claimed += 1
    return claimed


@called
def _let_leave(slot):
    """Let a helper end that sleeps and should."""
    if _read(_at(slot, LEAVE)) and _turn(slot, IDLE, GONE):
        _release(_read(_at(slot, WAKE)))


@called
def _dismiss(slot, request):
    """Take the request back from a helper that has not begun, or wait for one that has."""
    if _turn(slot, request + _TO_WAKE, IDLE):
        _let_leave(slot)
        return
    if _turn(slot, request + _WOKEN, REVOKED):
        return
    for _ in range(_SPINS):
        if _read(slot) != request + _AT_WORK:
            return
    if _turn(slot, request + _AT_WORK, request + _AWAITED):
        _acquire(_read(_at(slot, DONE)), np.int32(1))
        _write(slot, IDLE)  # not sooner, or another call could take this one's turn at the lock
        _let_leave(slot)


def _share(request, run, data, size):
    """Do [0, size) in this thread and in helpers: what `in_pieces` calls."""
    _write(_at(request, RUN), run)
    _write(_at(request, DATA), data)
    _write(_at(request, SIZE), size)
    claimed = _claim(request, IDLE, _TO_WAKE, 0)
    _write(_at(request, CLAIMED), claimed)
    claimed = _claim(request, REVOKED, _WOKEN, claimed)  # they are about to look for work by themselves
    _wake_two(request)
    _work(request)
    for k in range(claimed):
        _dismiss(_read(_at(request, LIST + k)), request)


def _serve(slot):
    _remember_cores(slot)
    while True:
        _acquire(_read(_at(slot, WAKE)), np.int32(1))
        waker = _read(_at(slot, WAKER))
        if waker >= 0 and waker == _core():
            _leave_core(slot, waker)
        while True:
            state = _read(slot)
            if state == GONE:
                return
            if state == IDLE:
                break
            if state == REVOKED:
                if _turn(slot, REVOKED, IDLE):
                    break
                continue
            request = state - _WOKEN
            if _turn(slot, state, request + _AT_WORK):
                _wake_two(request)
                _add(_at(request, HELPED), _work(request))
                if not _turn(slot, request + _AT_WORK, IDLE):
                    _release(_read(_at(slot, DONE)))
                break
        if _read(_at(slot, LEAVE)) and _turn(slot, IDLE, GONE):
            return


def _dismiss_for_good(slot):
    _write(_at(slot, LEAVE), 1)
    if _turn(slot, IDLE, GONE):
        _release(_read(_at(slot, WAKE)))
    else:
        _turn(slot, REVOKED, GONE)


@cache
def share_address() -> int:
    """Return the address of the function that `in_pieces` calls with a request."""
    word = types.intp
    return int(callback(_share, types.void(word, word, word, word)).address)


@cache
def serve() -> Any:
    """Return the function that a helper runs, with the address of its slot, until it is told to leave."""
    return _compiled(_serve)


@cache
def dismiss() -> Any:
    """Return the function that lets a helper leave, once it has nothing to do."""
    return _compiled(_dismiss_for_good)


def _compiled(function: Any) -> Any:
    compiled = jit(function)
    compiled.compile((types.intp,))  # by the thread that starts helpers, not by each of them
    return compiled
