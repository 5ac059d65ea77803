"""Arrays on a GPU as their libraries show them, by arrays that only claim to be there."""

import sys
import types
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import _backends
from fastdrop._arrays.device import UNKNOWN, DeviceArray, check_device, device_output, empty_like


class Array:
    """What shows an interface, of a library called cupy."""

    __module__ = "cupy"

    def __init__(self, shape=(4, 6), typestr="<f4", pointer=4096, read_only=False, number=0, **about):
        base = {"shape": shape, "typestr": typestr, "data": (pointer, read_only), "version": 2}
        self.__cuda_array_interface__ = base | about
        self.dtype = typestr
        self.device = types.SimpleNamespace(id=number)


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    module, current = types.ModuleType("cupy"), [0]

    @contextmanager
    def device(number):
        before, current[0] = current[0], number
        yield
        current[0] = before

    def empty(shape, dtype):
        return Array(shape, pointer=1 << 20, number=current[0])

    module.cuda, module.empty = types.SimpleNamespace(Device=device), empty
    module.ascontiguousarray = lambda x: Array(x.__cuda_array_interface__["shape"], pointer=1 << 21)
    monkeypatch.setitem(sys.modules, "cupy", module)


def of_library(name, **about):
    return type("Other", (Array,), {"__module__": name})(**about)


def test_stream_and_device():
    assert DeviceArray(Array()).cuda_stream == 0
    assert DeviceArray(Array(stream=5, number=2)).cuda_stream == 5
    assert DeviceArray(Array(number=2)).device == 2
    other = of_library("other")
    other.device = "cuda:1"
    assert DeviceArray(other).device == UNKNOWN


def test_new_arrays_are_on_the_gpu_of_the_old():
    for number in (0, 1):
        x = DeviceArray(Array(number=number))
        assert empty_like(x).device == number
    assert empty_like(DeviceArray(Array(number=None))).device == 0  # the current one, if x's isn't known


def test_arrays_on_different_gpus():
    x = DeviceArray(Array())
    for call in (device_output, lambda a, x: check_device(DeviceArray(a), x, "bias")):
        with pytest.raises(ValueError, match="x's GPU 0, got one on GPU 1"):
            call(Array(number=1, pointer=8192), x)


@pytest.mark.parametrize(
    ("typestr", "lanes", "size", "real"),
    [
        ("<f2", "<i2", 24, np.float32),
        ("<V2", "<u2", 24, np.float32),
        ("<f4", "<f4", 24, np.float32),
        ("<f8", "<f8", 24, np.float64),
        ("<c8", "<f4", 48, np.float32),
        ("<c16", "<f8", 48, np.float64),
    ],
)
def test_lanes(typestr, lanes, size, real):
    found = DeviceArray(Array(typestr=typestr)).lanes
    assert (found.typestr, found.size, found.real) == (lanes, size, real)
    part = found.part(3, 5)
    assert part.pointer == 4096 + 3 * np.dtype(lanes).itemsize
    assert (part.size, part.typestr) == (5, lanes)


def test_order():
    for shape, strides in (((4, 6), (24, 4)), ((4, 1), (4, 99)), ((0, 3), (1, 1)), ((4, 6), None)):
        assert DeviceArray(Array(shape, strides=strides)).shape == shape
    for shape, strides in (((4, 6), (4, 16)), ((4, 6), (48, 4)), ((6,), (8,))):
        assert DeviceArray(Array(shape, strides=strides)).pointer == 1 << 21  # of a copy
        with pytest.raises(ValueError, match="C order"):
            DeviceArray(of_library("other", shape=shape, strides=strides))
        with pytest.raises(ValueError, match="out must be in C order"):
            device_output(Array(shape, strides=strides, pointer=1 << 22), DeviceArray(Array(shape)))


@pytest.mark.parametrize("typestr", ["<i4", ">f4", "|b1", "<f2x", "<V4"])
def test_other_dtypes(typestr):
    with pytest.raises(TypeError):
        DeviceArray(Array(typestr=typestr))


def test_output():
    x = DeviceArray(Array())
    assert device_output(Array(), x).pointer == x.pointer
    assert device_output(Array(pointer=8192), x).pointer == 8192
    assert empty_like(x).pointer == 1 << 20
    with pytest.raises(ValueError, match="overlap"):
        device_output(Array(pointer=4100), x)
    with pytest.raises(ValueError, match="writable"):
        device_output(Array(read_only=True), x)
    with pytest.raises(ValueError, match="dtype"):
        device_output(Array(typestr="<f8"), x)
    with pytest.raises(TypeError, match="out="):
        empty_like(DeviceArray(of_library("other")))


@pytest.mark.skipif(find_spec("numba_cuda") is not None, reason="the extra is there")
def test_without_the_extra():
    _backends.gpu.cache_clear()
    for call in (fd.dropout, fd.gaussian_noise):
        with pytest.raises(ImportError, match=r"pip install '\.\[cuda\]'"):
            call(Array(), 0.5, 1)
    layer = fd.Dropout(0.5, rng=1)
    with pytest.raises(ImportError):
        layer(Array())
    assert layer.key == fd.Key(1)
