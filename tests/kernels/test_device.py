"""Arrays on a GPU as their libraries show them, by arrays that only claim to be there."""

import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
from numba import config

import fastdrop as fd
from fastdrop import _backends
from fastdrop._arrays.device import DeviceArray, device_output, empty_like


class Tensor:
    """What shows an interface, of a library called torch."""

    __module__ = "torch"
    device = "cuda:0"

    def __init__(self, shape=(4, 6), typestr="<f4", pointer=4096, read_only=False, **about):
        base = {"shape": shape, "typestr": typestr, "data": (pointer, read_only), "version": 2}
        self.__cuda_array_interface__ = base | about


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    module = types.ModuleType("torch")
    module.empty_like = lambda x: Tensor(x.__cuda_array_interface__["shape"], pointer=1 << 20)
    stream = types.SimpleNamespace(cuda_stream=77)
    module.cuda = types.SimpleNamespace(current_stream=lambda device: stream)
    monkeypatch.setitem(sys.modules, "torch", module)


def test_stream():
    assert DeviceArray(Tensor()).cuda_stream == 77
    assert DeviceArray(Tensor(stream=5)).cuda_stream == 5
    assert DeviceArray(type("Other", (Tensor,), {"__module__": "other"})()).cuda_stream == 0


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
    found = DeviceArray(Tensor(typestr=typestr)).lanes
    assert (found.typestr, found.size, found.real) == (lanes, size, real)
    part = found.part(3, 5)
    assert part.pointer == 4096 + 3 * np.dtype(lanes).itemsize
    assert part.__cuda_array_interface__["shape"] == (5,)
    assert "stream" not in part.__cuda_array_interface__


def test_order():
    for shape, strides in (((4, 6), (24, 4)), ((4, 1), (4, 99)), ((0, 3), (1, 1)), ((4, 6), None)):
        assert DeviceArray(Tensor(shape, strides=strides)).shape == shape
    for shape, strides in (((4, 6), (4, 16)), ((4, 6), (48, 4)), ((6,), (8,))):
        with pytest.raises(ValueError, match="C order"):
            DeviceArray(Tensor(shape, strides=strides))


@pytest.mark.parametrize("typestr", ["<i4", ">f4", "|b1", "<f2x", "<V4"])
def test_other_dtypes(typestr):
    with pytest.raises(TypeError):
        DeviceArray(Tensor(typestr=typestr))


def test_output():
    x = DeviceArray(Tensor())
    assert device_output(Tensor(), x).pointer == x.pointer
    assert device_output(Tensor(pointer=8192), x).pointer == 8192
    assert empty_like(x).pointer == 1 << 20
    with pytest.raises(ValueError, match="overlap"):
        device_output(Tensor(pointer=4100), x)
    with pytest.raises(ValueError, match="writable"):
        device_output(Tensor(read_only=True), x)
    with pytest.raises(ValueError, match="dtype"):
        device_output(Tensor(typestr="<f8"), x)
    other = type("Other", (Tensor,), {"__module__": "other"})
    with pytest.raises(TypeError, match="out="):
        empty_like(DeviceArray(other()))


@pytest.mark.skipif(find_spec("numba_cuda") is not None, reason="the extra is there")
def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(config, "ENABLE_CUDASIM", 0)
    _backends.gpu.cache_clear()
    for call in (fd.dropout, fd.gaussian_noise):
        with pytest.raises(ImportError, match=r"pip install '\.\[cuda\]'"):
            call(Tensor(), 0.5, 1)
    layer = fd.Dropout(0.5, rng=1)
    with pytest.raises(ImportError):
        layer(Tensor())
    assert layer.key == fd.Key(1)
