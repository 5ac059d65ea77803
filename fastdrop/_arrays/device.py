"""Arrays on a GPU: checks of arguments, and new arrays for results.

PyTorch's tensors are taken, and any library's array that has `__cuda_array_interface__` or that is lent by
DLPack, as JAX's are. A result is an array of the same library. This file has the functions of
`fastdrop._arrays.host` under the same names.
"""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastdrop._arrays import dlpack
from fastdrop._arrays.hints import wrong_dtype
from fastdrop._arrays.numbers import check_mask, check_mask_target

# The types as which kernels take them: integers for 16-bit floats, reals for the parts of complex numbers.
# bfloat16, for which NumPy has no name, is V2.
_CARRIERS = {"float16": "<i2", "void16": "<u2", "complex64": "<f4", "complex128": "<f8"}
_DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "float16", "complex64", "complex128")}
_TYPESTRS = {dtype.str: dtype for dtype in _DTYPES.values()} | {"<V2": np.dtype("V2")}
_DTYPES["bfloat16"] = _TYPESTRS["|V2"] = np.dtype("V2")
# of masks; DLPack says bool8 for bool
_MASKS: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in ("bool", "uint8")}
_MASKS["bool8"] = _MASKS["bool"]
_MASK_TYPESTRS: dict[str, np.dtype[Any]] = {dtype.str: dtype for dtype in _MASKS.values()}

UNKNOWN = -1  # the number of a GPU that isn't known
# Libraries whose arrays are read by `__cuda_array_interface__` though they may speak DLPack too. JAX's arrays
# have both, but their interface doesn't say what to wait for.
_BY_INTERFACE = "cupy", "numba", "numba_cuda"


def real_of(typestr: str) -> type[np.floating]:
    """Return the type that kernels compute elements of a type in."""
    return np.float64 if typestr == "<f8" else np.float32


class Elements(NamedTuple):
    """Flat elements of a device array, as kernels take them."""

    pointer: int
    size: int
    typestr: str

    def part(self, at: int, size: int) -> Elements:
        """Return the `size` elements from the place `at` on."""
        return Elements(self.pointer + at * int(self.typestr[-1]), size, self.typestr)

    @property
    def itemsize(self) -> int:
        """How many bytes an element has."""
        return int(self.typestr[-1])

    @property
    def real(self) -> type[np.floating]:
        """The type that kernels compute with."""
        return real_of(self.typestr)


class DeviceArray:
    """An array on a GPU in C order: what kernels need to know of it, and the object that the caller gave.

    A PyTorch tensor is read by its own attributes, arrays of CuPy and Numba by `__cuda_array_interface__`,
    and others by DLPack, or by that interface if they have no DLPack. An array that isn't in C order is
    copied by its library.

    Attributes
    ----------
    owner : object
        The caller's array, or its copy in C order.
    pointer : int
        The address of the first element.
    device : int
        The number of the GPU, or `UNKNOWN` if only the driver knows it.
    cuda_stream : int
        The CUDA stream that the array's library works on now; 0 is the default stream.
    lent : Lent or None
        What DLPack says of it, if it was read so. Its library can't know when we have read and written it:
        `fastdrop._cuda.run` holds it until then.
    written : Event or None
        When it will have been written, if it is a new array that is lent and kernels were started for it.

    Raises
    ------
    TypeError
        If it is of a dtype that isn't taken, has a mask, or is a tensor that needs a gradient.
    ValueError
        If its library has no copy in C order.
    """

    __slots__ = (
        "cuda_stream",
        "device",
        "dtype",
        "lent",
        "ndim",
        "owner",
        "pointer",
        "read_only",
        "shape",
        "size",
        "written",
    )
    # the dtypes that are taken, by their names and by others
    _named: ClassVar[dict[str, np.dtype[Any]]] = _DTYPES
    _typestrs: ClassVar[dict[str, np.dtype[Any]]] = _TYPESTRS
    _of_tensors: ClassVar[dict[Any, np.dtype[Any]]] = {}  # the same by PyTorch's dtypes

    def __init__(self, owner: Any) -> None:
        self.owner, self.written = owner, None
        self.lent: dlpack.Lent | None = None
        if is_tensor(owner):
            self._read_tensor(owner)
        elif _library(owner) not in _BY_INTERFACE and dlpack.is_on_gpu(owner):
            self._read_lent(owner)
        else:
            self._read_interface(owner, owner.__cuda_array_interface__)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def _read_tensor(self, x: Any) -> None:
        torch = sys.modules["torch"]
        if x.requires_grad and torch.is_grad_enabled():
            raise TypeError(
                "this function knows no gradients, got a tensor that requires one; use fastdrop.torch, or "
                "x.detach()"
            )
        dtype = self._of_tensors.get(x.dtype)
        if dtype is None:  # a dtype's name, which takes long to find, is looked up once
            name = str(x.dtype).removeprefix("torch.")
            dtype = self._of_tensors[x.dtype] = self._named.get(name) or self._refuse(name)
        self.dtype = dtype
        if not x.is_contiguous() or x.is_conj() or x.is_neg():
            self.owner = x = x.resolve_conj().resolve_neg().contiguous()
        self.shape, self.pointer, self.read_only = tuple(x.shape), x.data_ptr(), False
        self.device = x.device.index or 0
        self.cuda_stream = stream_of_tensors(self.device)

    def _read_interface(self, owner: Any, about: dict[str, Any]) -> None:
        self.shape, typestr = tuple(about["shape"]), about["typestr"]
        self.dtype = self._typestrs.get(typestr) or self._refuse(str(np.dtype(typestr)))
        self.pointer, self.read_only = about["data"]
        self.cuda_stream = about.get("stream") or 0
        if about.get("mask") is not None:
            raise TypeError("dropout takes no masked arrays; use x without its mask")
        strides = about.get("strides")
        if strides is not None and not self._in_c_order(strides):
            self._copy(owner, strides)
            return
        number = getattr(getattr(owner, "device", None), "id", None)  # as CuPy's arrays have it
        self.device = number if type(number) is int else UNKNOWN

    def _read_lent(self, owner: Any) -> None:
        self.lent = lent = dlpack.read(owner)
        self.dtype = self._named.get(lent.dtype) or self._refuse(lent.dtype)
        self.shape, self.pointer, self.device = lent.shape, lent.pointer, lent.device[1]
        self.cuda_stream, self.read_only = 0, True
        if lent.strides is not None:
            strides = tuple(stride * self.dtype.itemsize for stride in lent.strides)
            if not self._in_c_order(strides):
                self._copy(owner, strides)

    def _copy(self, owner: Any, strides: tuple[int, ...]) -> None:
        """Go on with a copy in C order."""
        library = _library(owner)
        if library != "cupy":
            raise ValueError(
                f"arrays on a GPU must be in C order, got shape {self.shape} with strides {strides}; "
                "use a copy in C order"
            )
        self.owner = sys.modules[library].ascontiguousarray(owner)
        self._read_interface(self.owner, self.owner.__cuda_array_interface__)

    def _in_c_order(self, strides: tuple[int, ...]) -> bool:
        step = self.dtype.itemsize
        if not math.prod(self.shape):
            return True
        for length, stride in zip(reversed(self.shape), reversed(strides), strict=True):
            if length > 1 and stride != step:
                return False
            step *= length
        return True

    @property
    def lanes(self) -> Elements:
        """The flat elements, as kernels take them."""
        typestr, count = _carrier(self.dtype)
        return Elements(self.pointer, self.size * count, typestr)

    def overlaps(self, other: DeviceArray) -> bool:
        """Return whether two arrays share memory."""
        mine, others = self.size * self.dtype.itemsize, other.size * other.dtype.itemsize
        return bool(self.pointer < other.pointer + others and other.pointer < self.pointer + mine)

    def _refuse(self, dtype: str) -> Any:
        raise TypeError(wrong_dtype("", f"{dtype} on a GPU"))


class DeviceMask(DeviceArray):
    """A mask on a GPU, of bytes or packed bits, as a `DeviceArray`."""

    __slots__ = ()
    _named, _typestrs = _MASKS, _MASK_TYPESTRS
    _of_tensors: ClassVar = {}

    def _refuse(self, dtype: str) -> Any:
        raise TypeError(f"mask must be of bool or uint8, got {dtype} on a GPU")


class DeviceRates(DeviceArray):
    """Rates on a GPU, which are real numbers, as a `DeviceArray`."""

    __slots__ = ()
    _named: ClassVar = {name: dtype for name, dtype in _DTYPES.items() if dtype.kind != "c"}
    _typestrs: ClassVar = {name: dtype for name, dtype in _TYPESTRS.items() if dtype.kind != "c"}
    _of_tensors: ClassVar = {}

    def _refuse(self, dtype: str) -> Any:
        allowed = "float16, bfloat16, float32 or float64"
        raise TypeError(f"p on a GPU must be of {allowed}, got {dtype}; use floats")


@cache
def _carrier(dtype: np.dtype[Any]) -> tuple[str, int]:
    """Return what kernels take elements of a dtype as, and how many of them an element is."""
    return _CARRIERS.get(dtype.name, dtype.str), 2 if dtype.kind == "c" else 1


def is_tensor(x: Any) -> bool:
    """Return whether an object is a PyTorch tensor."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def stream_of_tensors(number: int) -> int:
    """Return the CUDA stream that PyTorch works on now on a GPU."""
    stream: int = sys.modules["torch"]._C._cuda_getCurrentRawStream(number)
    return stream


def is_captured(x: Any) -> bool:
    """Return whether PyTorch captures a CUDA graph of what is done with its tensor x now."""
    torch = sys.modules["torch"]
    if x.device.index == torch._C._cuda_getDevice():
        return bool(torch._C._cuda_isCurrentStreamCapturing())
    with torch.cuda.device(x.device):
        return bool(torch._C._cuda_isCurrentStreamCapturing())


def is_there(x: Any) -> bool:
    """Return whether an object is an array on a GPU."""
    if type(x) is np.ndarray:
        return False
    tensor: bool | None = getattr(x, "is_cuda", None)  # first, since each call for a tensor waits for it
    if tensor is not None:
        return tensor
    return hasattr(x, "__cuda_array_interface__") or dlpack.is_on_gpu(x)


def _library(owner: Any) -> str:
    return type(owner).__module__.partition(".")[0]


def to_array(x: Any, name: str = "") -> DeviceArray:
    """Return x as a `DeviceArray`; `name` is an argument of `fastdrop._arrays.host.to_array` alone."""
    return x if isinstance(x, DeviceArray) else DeviceArray(x)


def plain_tensors(x: Any, out: Any) -> tuple[Any, int, int, int, str, int] | None:
    """Return what the quick way of small calls needs of tensors; None for those that it doesn't take.

    That is the tensor that the caller gets, the addresses of x and of it, how many elements they have and as
    which type kernels take these, and the number of the GPU. It takes what needs no other look.
    """
    torch = sys.modules.get("torch")
    if torch is None or type(x) is not torch.Tensor or x.layout is not torch.strided:
        return None
    dtype = x.dtype
    typestr = typestr_of_tensors(dtype)
    if not typestr or not _in_order(x, torch) or not (size := x.numel()):
        return None
    pointer, where = x.data_ptr(), x.device
    if out is None:
        out = torch.empty_like(x)
        target = out.data_ptr()
    else:
        if type(out) is not torch.Tensor or out.dtype is not dtype or out.layout is not torch.strided:
            return None
        if out.shape != x.shape or out.device != where or not _in_order(out, torch):
            return None
        target = out.data_ptr()
        if target != pointer and abs(target - pointer) < size * dtype.itemsize:
            return None
    return out, pointer, target, size, typestr, where.index or 0


@cache
def typestr_of_tensors(dtype: Any) -> str:
    """Return as which type kernels take real tensors of a PyTorch dtype; "" if they take none."""
    found = _DTYPES.get(str(dtype).removeprefix("torch."))
    return "" if found is None or found.kind == "c" else _carrier(found)[0]


def _in_order(x: Any, torch: Any) -> bool:
    """Return whether a tensor's memory holds its elements in C order, and nobody needs its gradient."""
    plain = x.is_contiguous() and not x.is_neg() and not x.is_nested
    return plain and not (x.requires_grad and torch.is_grad_enabled())


def target(out: Any, x: DeviceArray, other: DeviceArray | None = None) -> DeviceArray:
    """Return the array to write to: out, checked against x and the other array, or a new one like x."""
    if out is None:
        return empty_like(x)
    if other is not None:
        device_output(out, other)
    return device_output(out, x)


def given(y: DeviceArray) -> Any:
    """Return a new array as its caller gets it: an array of x's library."""
    if y.written is None:
        return y.owner
    # It is lent back to its library, which learns in this way when it can be read.
    return y.owner.__array_namespace__().from_dlpack(dlpack.Result(y.lent, y.written.wait))


def place_for(x: Any) -> Any:
    """Return a caller's array to write a result over it, or None if it must stay as it is."""
    return None if to_array(x).lent else x


def overlap(out: Any, x: DeviceArray) -> bool:
    """Return whether a caller's array may share memory with x."""
    return device_output(out, x).overlaps(x)


def real_type(x: DeviceArray) -> np.dtype[Any]:
    """Return the dtype that x's elements are computed in."""
    return np.dtype(x.lanes.real)


def check_device(other: DeviceArray, x: DeviceArray, name: str) -> None:
    """Raise an error if two arrays are known to be on different GPUs, or if only one of them is lent."""
    if (other.lent is None) != (x.lent is None):
        raise TypeError(
            f"{name} must be of x's library where DLPack is its only way to us, got {_kind(other.owner)} and "
            f"{_kind(x.owner)}; use that library's from_dlpack"
        )
    if UNKNOWN not in (other.device, x.device) and other.device != x.device:
        raise ValueError(
            f"{name} must be on x's GPU {x.device}, got one on GPU {other.device}; copy it there"
        )


def mask_of(given: Any, x: DeviceArray, packed: bool) -> DeviceMask:
    """Return a user's mask, or raise an error if it doesn't fit x."""
    mask = DeviceMask(given)
    check_device(mask, x, "mask")
    check_mask(mask, x, packed)
    return mask


def mask_target(out: Any, shape: tuple[int, ...], packed: bool) -> DeviceMask:
    """Return the array to write a mask to, or raise an error if it doesn't fit.

    Its shape is then that of the mask, also if the mask is packed.
    """
    y = DeviceMask(out)
    _check_writable(y, out)
    check_mask_target(y, shape, packed)
    y.shape = shape
    return y


def as_bias(bias: DeviceArray, x: DeviceArray) -> DeviceArray:
    """Return a bias, or raise an error unless its type is that of x's computation: nothing converts it."""
    check_device(bias, x, "bias")
    if real_type(bias) != real_type(x):
        allowed = " or ".join(sorted({str(x.dtype), str(real_type(x))}))
        raise ValueError(f"bias must have x's dtype {allowed}, got {bias.dtype}")
    return bias


def no_bias(x: DeviceArray) -> None:
    """Return None, which stands for no bias: CUDA has kernels without one."""


def cupy_on(number: int) -> AbstractContextManager[Any]:
    """Return a context in which CuPy's new arrays are on a GPU, rather than on the current one."""
    known = number != UNKNOWN
    return sys.modules["cupy"].cuda.Device(number) if known else nullcontext()


def empty_like(x: DeviceArray, shape: tuple[int, ...] | None = None) -> DeviceArray:
    """Return a new array of x's library where x is: like x, or of a shape and the type x is computed in."""
    owner, library = x.owner, _library(x.owner)
    names: Any = np  # of dtypes
    where: AbstractContextManager[Any] = nullcontext()
    options: dict[str, Any] = {}
    if is_tensor(owner):
        names, make = sys.modules["torch"], owner.new_empty
    elif library == "cupy":
        where, make = cupy_on(x.device), sys.modules[library].empty
    elif library in ("numba", "numba_cuda"):
        make = sys.modules["numba.cuda"].device_array
    elif x.lent is not None and hasattr(owner, "__array_namespace__"):
        names, options = owner.__array_namespace__(), {"device": owner.device}
        make = names.empty
    else:
        needs = "an array of CuPy, PyTorch, Numba or a library of the array API standard"
        advice = "cupy.asarray(x), or out=" if x.lent is None else "from_dlpack of PyTorch or CuPy"
        raise TypeError(f"a new result needs {needs}, got {_kind(owner)}; use {advice}")
    dtype = owner.dtype if shape is None else getattr(names, real_type(x).name)
    with where:
        return DeviceArray(make(x.shape if shape is None else shape, dtype=dtype, **options))


def broadcast(numbers: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """Return an array that is broadcast to a shape, in C order."""
    owner = numbers.owner
    if is_tensor(owner):
        return DeviceArray(owner.expand(shape).contiguous())
    if numbers.lent is not None and hasattr(owner, "__array_namespace__"):
        return DeviceArray(owner.__array_namespace__().broadcast_to(owner, shape))
    library: Any = sys.modules.get(_library(owner))
    if not hasattr(library, "broadcast_to") or not hasattr(library, "ascontiguousarray"):
        raise ValueError(
            f"an array on a GPU of {type(owner).__module__} may vary along neighbouring axes of the mask's "
            f"shape {shape} alone, got {numbers.shape}; broadcast it, in C order"
        )
    with cupy_on(numbers.device) if library.__name__ == "cupy" else nullcontext():
        return DeviceArray(library.ascontiguousarray(library.broadcast_to(owner, shape)))


def _kind(owner: Any) -> str:
    return f"{type(owner).__module__}.{type(owner).__qualname__}"


def device_output(out: Any, x: DeviceArray) -> DeviceArray:
    """Return `out` as a `DeviceArray`, or raise an error if x's result can't be written to it."""
    if not is_there(out):
        raise TypeError(f"out must be on a GPU as x is, got {type(out).__name__}")
    y = DeviceArray(out)
    _check_writable(y, out)
    check_device(y, x, "out")
    for name in ("shape", "dtype"):
        got, allowed = getattr(y, name), getattr(x, name)
        if got != allowed:
            raise ValueError(f"out must have the result's {name} {allowed}, got {got}")
    if y.pointer != x.pointer and y.overlaps(x):
        raise ValueError("out must be x or not overlap it, got a shifted view of it")
    return y


def _check_writable(y: DeviceArray, out: Any) -> None:
    """Raise an error unless a caller's array can be written to where it lies."""
    if y.lent is not None:
        raise TypeError(
            f"out must be an array that may change, got {_kind(out)}, which is read by DLPack: arrays of JAX "
            "never change, and other libraries can't be told that one did; leave out away"
        )
    if y.owner is not out:
        raise ValueError("out must be in C order, got an array that isn't; use a new array")
    if y.read_only:
        raise ValueError("out must be writable, got a read-only array; use a copy")
