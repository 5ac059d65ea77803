"""DLPack, by which libraries lend each other arrays on a GPU: reading one that is lent, and lending a result.

The protocol and its streams are those of the array API standard. All work on arrays that are lent happens on
CUDA's default stream: a lender makes that stream wait until the array is ready, and a library that takes a
result makes its own stream wait until the result is.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

CUDA_DEVICES = 2, 13  # of which the second has memory that the driver moves between the GPU and the host
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_CODES = {name: code for code, name in _KINDS.items()}
_DEFAULT_STREAM = 1  # as the standard numbers it, which has no 0; 2 is the default stream of the thread
_NO_WAITING = None, -1, _DEFAULT_STREAM  # a consumer's streams for which nothing is to be done


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # it takes Python's lock, which its caller needn't have


class _Managed(ctypes.Structure):
    _fields_ = ("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def _of_python(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of Python's own with types of ours: others may have set others for their calls."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_pointer_of = _of_python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_name_of = _of_python("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)
# of a capsule's address, since one that is about to end can't be an object any more
_is_named = _of_python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer_at = _of_python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_new_capsule = _of_python(
    "PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)
_LENT, _VERSIONED = b"dltensor", b"dltensor_versioned"


class Lent(NamedTuple):
    """What a capsule says of an array.

    `strides` are in elements, or None in C order. The memory is the array's as long as the capsule exists.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: tuple[int, int]
    capsule: Any


def is_on_gpu(x: Any) -> bool:
    """Return whether an object is an array on one of CUDA's GPUs that its library lends by DLPack."""
    if not hasattr(type(x), "__dlpack_device__"):  # of the class, since traced arrays say that they have it
        return False
    try:
        return int(x.__dlpack_device__()[0]) in CUDA_DEVICES
    except BufferError:  # of an array that is on several GPUs
        return False


def read(x: Any) -> Lent:
    """Return what an array's library lends, for work on the default stream."""
    try:
        capsule = x.__dlpack__(stream=_DEFAULT_STREAM, max_version=(1, 0))
    except TypeError:  # of a library that is older than versions
        capsule = x.__dlpack__(stream=_DEFAULT_STREAM)
    name = _name_of(capsule)
    kind = _ManagedVersioned if name == _VERSIONED else _Managed
    found = kind.from_address(_pointer_of(capsule, _VERSIONED if name == _VERSIONED else _LENT)).tensor
    shape = tuple(found.shape[: found.ndim])
    strides = tuple(found.strides[: found.ndim]) if found.strides else None
    dtype = f"{_KINDS.get(found.code, f'type {found.code} of ')}{found.bits}"
    if found.lanes != 1:
        dtype = f"{dtype} x {found.lanes}"
    pointer = (found.data or 0) + found.byte_offset
    return Lent(pointer, shape, strides, dtype, tuple(found.device), capsule)


_lent: dict[int, Any] = {}  # what is lent, by its address: its numbers, and what holds its memory


@cache
def _callbacks() -> tuple[Any, Any]:
    """Return what takes back an array that was lent, and what does so for a capsule that nobody used.

    They are made at their first use, since some systems forbid a process to make machine code.
    """
    take_back = _lent.pop

    def deleter(address: int) -> None:
        take_back(address, None)

    def destructor(capsule: int) -> None:
        if _is_named(capsule, _LENT):  # a capsule that was used has another name
            take_back(_pointer_at(capsule, _LENT), None)

    return _Deleter(deleter), _Deleter(destructor)


class Result:
    """An array in C order that we have written on the default stream, as its library takes it by DLPack.

    Parameters
    ----------
    array : Lent
        Where it is.
    wait : callable
        Makes a CUDA stream wait, on the GPU, until the array is written.
    """

    def __init__(self, array: Lent, wait: Callable[[int], None]) -> None:
        self._array, self._wait = array, wait

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule, whose contents a consumer may read on a stream without waiting for it."""
        if copy or (dl_device is not None and tuple(map(int, dl_device)) != self._array.device):
            raise BufferError("a result can be had where it is alone, and not as a copy")
        if stream == 0:
            raise BufferError("stream must be 1 or 2 for a default stream of CUDA, got 0")
        if stream not in _NO_WAITING:
            self._wait(stream)
        return _capsule(self._array)


def _capsule(array: Lent) -> Any:
    shape, kind = array.shape, array.dtype.rstrip("0123456789")
    lengths = (ctypes.c_int64 * len(shape))(*shape)
    strides = (ctypes.c_int64 * len(shape))(*(math.prod(shape[axis + 1 :]) for axis in range(len(shape))))
    deleter, destructor = _callbacks()
    managed = _Managed(deleter=deleter)
    tensor = managed.tensor
    tensor.data, tensor.device, tensor.ndim = array.pointer, array.device, len(shape)
    tensor.code, tensor.bits, tensor.lanes = _CODES[kind], int(array.dtype[len(kind) :]), 1
    tensor.shape = ctypes.cast(lengths, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
    address = ctypes.addressof(managed)
    _lent[address] = managed, lengths, strides, array.capsule
    return _new_capsule(address, _LENT, ctypes.cast(destructor, ctypes.c_void_p))
