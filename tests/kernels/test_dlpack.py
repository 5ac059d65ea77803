"""Arrays that DLPack lends, of a library whose arrays never change and have no other interface, as JAX's.

Without a GPU they lie in this machine's memory, and say that they are on one. On a GPU they are PyTorch's.
"""

import ctypes
import gc
import sys
import types
import weakref

import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, normal
from device_arrays import SIMULATED, install, ndarray
from every_noise import FUNCTIONS, check_refused_on_a_gpu

import fastdrop as fd
from fastdrop._arrays import device, dlpack

KEY = fd.Key(7, draw=3)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ON_GPU, ON_HOST, STREAM = 2, 1, 7777

address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def say(capsule, kind_of_device, code=None):
    """Change what a capsule says of its array's device, and perhaps of the kind of its numbers."""
    versioned = "versioned" in repr(capsule)
    tensor = address_of(capsule, b"dltensor_versioned" if versioned else b"dltensor") + 32 * versioned
    ctypes.c_int32.from_address(tensor + 8).value = kind_of_device
    if code is not None:
        ctypes.c_uint8.from_address(tensor + 20).value = code
    return capsule


class Array:
    """An array of the library: NumPy's or PyTorch's, lent by DLPack alone."""

    knows_versions, device = True, "gpu:0"

    def __init__(self, a):
        self.a, self.asked = a, []

    @property
    def ndim(self):
        return self.a.ndim

    @property
    def dtype(self):
        return self.a.dtype

    def __dlpack_device__(self):
        return (ON_GPU, 0) if SIMULATED else self.a.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **more):
        if more and not self.knows_versions:
            raise TypeError("an argument that isn't known")
        self.asked.append(stream)
        if not SIMULATED:
            return self.a.__dlpack__(stream=stream, **more)
        half = self.a.dtype == BFLOAT16
        a = self.a.view(np.uint16) if half else self.a
        return say(a.__dlpack__(**more), ON_GPU, 4 if half else None)

    def __array_namespace__(self):
        return library

    def numpy(self):
        if SIMULATED:
            return self.a
        torch = sys.modules["torch"]
        half = self.a.dtype == torch.bfloat16
        return self.a.view(torch.int16).cpu().numpy().view(BFLOAT16) if half else self.a.cpu().numpy()


class Shim:
    def __init__(self, capsule):
        self.capsule = capsule

    def __dlpack_device__(self):
        return ON_HOST, 0

    def __dlpack__(self, **more):
        return self.capsule


def from_dlpack(x):
    assert x.__dlpack_device__() == (ON_GPU, 0)
    if not SIMULATED:
        return Array(sys.modules["torch"].from_dlpack(x))
    capsule = x.__dlpack__(stream=STREAM, max_version=(1, 0))
    code = ctypes.c_uint8.from_address(address_of(capsule, b"dltensor") + 20).value
    a = np.from_dlpack(Shim(say(capsule, ON_HOST, 1 if code == 4 else None)))
    return Array(a.view(BFLOAT16) if code == 4 else a)


def lent(x):
    """An array of the library with x's elements."""
    x = np.array(x, order="C")
    if SIMULATED:
        return Array(x)
    torch = sys.modules["torch"]
    half = x.dtype == BFLOAT16
    tensor = torch.from_numpy(x.view(np.int16) if half else x).cuda()
    return Array(tensor.view(torch.bfloat16) if half else tensor)


def empty(shape, dtype, device):
    made = lent(np.full(shape, -7).astype(dtype))
    assert device == made.device
    return made


def broadcast_to(x, shape):
    return lent(np.broadcast_to(x.numpy(), shape))


library = types.SimpleNamespace(
    from_dlpack=from_dlpack,
    empty=empty,
    broadcast_to=broadcast_to,
    float32=np.float32,
    float64=np.float64,
)


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    if not SIMULATED:
        pytest.importorskip("torch")
    return install(monkeypatch)


def same(got, expected):
    got = got.numpy()
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("knows_versions", [True, False])
def test_bits_are_the_cpus_and_inputs_stay(knows_versions, monkeypatch):
    monkeypatch.setattr(Array, "knows_versions", knows_versions)
    x, previous = normal(3, 50), normal(3, 50, seed=1)
    a, b = lent(x), lent(previous)
    rates = np.linspace(0, 1, 50)
    calls = [
        (fd.dropout, (0.3,), {}),
        (fd.dropout, (rates,), {}),
        (fd.dropout, (0.3,), {"shared_axes": 1}),
        (fd.dropout, (0.3,), {"rows": [5, 0, 7]}),
        (fd.dropout_backward, (0.3,), {"window": ((9, 60), (2, 5))}),
        (fd.gaussian_noise, (0.3,), {}),
        (fd.alpha_dropout, (0.3,), {}),
    ]
    for function, args, options in calls:
        y = function(a, *args, KEY, **options)
        assert isinstance(y, Array)
        assert same(y, function(x, *args, KEY, **options))
    keep = np.arange(50) % 3 > 0
    assert same(fd.apply_mask(a, lent(keep), 0.3), fd.apply_mask(x, keep, 0.3))
    for function in (fd.dropout_add, fd.zoneout):
        assert same(function(a, b, 0.3, KEY), function(x, previous, 0.3, KEY))
    assert same(fd.dropout(a, lent(rates), KEY), fd.dropout(x, rates, KEY))
    block, apart = normal(2, 3, 4), np.linspace(0, 1, 8).reshape(2, 1, 4)
    assert same(fd.dropout(lent(block), lent(apart), KEY), fd.dropout(block, apart, KEY))
    assert same(a, x)
    assert same(b, previous)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_dtypes(dtype):
    x = normal(3, 5, dtype=dtype)
    assert same(fd.dropout(lent(x), 0.3, KEY), fd.dropout(x, 0.3, KEY))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,)])
def test_shapes(shape):
    x = normal(*shape)
    assert same(fd.dropout(lent(x), 0.3, KEY), fd.dropout(x, 0.3, KEY))


def test_gradients():
    g, x, bias = normal(6, 7), normal(6, 7, seed=1), normal(7, seed=2)
    given = lent(g)
    assert fd.gaussian_noise_backward(given, 0.3, KEY) is given
    dx, dresidual = fd.dropout_add_backward(given, 0.3, KEY)
    assert dresidual is given
    assert same(dx, fd.dropout(g, 0.3, KEY))
    for got, expected in zip(
        fd.zoneout_backward(given, 0.3, KEY), fd.zoneout_backward(g, 0.3, KEY), strict=True
    ):
        assert same(got, expected)
    dx, dbias = fd.bias_act_dropout_backward(given, lent(x), lent(bias), 0.3, KEY)
    expected, total = fd.bias_act_dropout_backward(g, x, bias, 0.3, KEY)
    assert same(dx, expected)
    np.testing.assert_allclose(dbias.numpy(), total, rtol=1e-5)
    assert same(given, g)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_learned_numbers(dtype):
    g, x = normal(6, 7, dtype=dtype), normal(6, 7, dtype=dtype, seed=1)
    alpha = np.linspace(0, 1, 7)
    for backward, number, learned in (
        (fd.concrete_dropout_backward, -0.5, lent(np.full((), -0.5, dtype))),
        (fd.information_dropout_backward, alpha, lent(alpha.astype(dtype))),
    ):
        dx, expected = backward(g, x, number, KEY)
        for given in (number, learned):
            found, slope = backward(lent(g), lent(x), given, KEY)
            assert same(found, dx)
            assert isinstance(slope, Array)
            assert (slope.numpy().dtype, slope.numpy().shape) == (dtype, np.shape(number))
            np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-5)


def test_a_layer_that_learns():
    ours, theirs = (fd.InformationDropout(np.full(5, 0.3), rng=1) for _ in range(2))
    x, g = normal(4, 5), normal(4, 5, seed=1)
    for layer, move in ((ours, lent), (theirs, np.array)):
        for _ in range(2):
            layer(move(x))
            layer.backward(move(g))
        layer.regularizer()
    assert isinstance(ours.log_alpha_grad, Array)
    np.testing.assert_allclose(ours.log_alpha_grad.numpy(), theirs.log_alpha_grad, rtol=1e-5)


def test_a_layer():
    ours, theirs, x = fd.Dropout(0.3, rng=1), fd.Dropout(0.3, rng=1), normal(4, 5)
    assert same(ours(lent(x)), theirs(x))
    assert same(ours.backward(lent(x)), theirs.backward(x))
    given = lent(x)
    assert ours(given, training=False) is given


@pytest.mark.skipif(not SIMULATED, reason="the stand-in of the driver notes what waits")
def test_streams(driver):
    """The library makes CUDA's default stream wait for x, and its own stream waits for y."""
    x = lent(normal(40))
    y = fd.dropout(x, 0.3, KEY)
    assert x.asked == [1] * len(x.asked) != []
    assert {stream for *_, stream in driver.started} == {0}
    ((event, held),) = driver.held
    assert (event.place, event.waiting) == ((0, 0), [STREAM])
    assert sum(lent is not None for lent in held) == 2  # x's memory and y's, until the kernel is done
    del y


@pytest.mark.skipif(not SIMULATED, reason="the stand-in of the driver notes what is held")
@pytest.mark.parametrize(("rates", "count"), [((4,), 3), ((2, 1, 4), 4)], ids=str)
def test_rates_are_held_and_so_is_their_copy_in_the_masks_shape(rates, count, driver):
    fd.dropout(lent(normal(2, 3, 4)), lent(np.full(rates, 0.5)), KEY)
    ((_, held),) = driver.held
    assert sum(lent is not None for lent in held) == count


@pytest.mark.skipif(not SIMULATED, reason="NumPy's memory can be watched")
def test_memory_is_given_back(driver):
    gc.collect()
    x, kept = normal(40), len(dlpack._lent)
    a = np.array(x)
    watched = weakref.ref(a)
    given = Array(a)
    y = fd.dropout(given, 0.3, KEY)
    del a, given
    assert watched() is not None  # which a kernel may still read
    driver.held.clear()
    gc.collect()
    assert watched() is None
    assert len(dlpack._lent) == kept + 1
    assert same(y, fd.dropout(x, 0.3, KEY))
    del y
    gc.collect()
    assert len(dlpack._lent) == kept


@pytest.mark.skipif(not SIMULATED, reason="any address will do")
def test_what_a_result_is_asked(driver):
    array, waited = dlpack.Lent(4096, (2, 3), None, "float32", (2, 1), None), []
    result = dlpack.Result(array, waited.append)
    assert result.__dlpack_device__() == (2, 1)
    kept = len(dlpack._lent)
    for stream in (None, -1, 1, 2, STREAM):
        result.__dlpack__(stream=stream, dl_device=(2, 1), copy=False)
    assert waited == [2, STREAM]
    assert len(dlpack._lent) == kept  # nobody took the capsules
    for asked in ({"copy": True}, {"dl_device": (2, 0)}, {"dl_device": (1, 0)}, {"stream": 0}):
        with pytest.raises(BufferError):
            result.__dlpack__(**asked)


def test_outputs_are_refused():
    x = lent(normal(4, 5))
    for out in (x, lent(normal(4, 5))):
        for noise in (fd.dropout, fd.gaussian_noise):
            with pytest.raises(TypeError, match="out must be an array that may change, got"):
                noise(x, 0.3, KEY, out=out)

    with pytest.raises(TypeError, match="out must be an array that may change, got"):
        fd.keep_mask(3, 0.3, KEY, out=lent(np.ones(3, bool)))


def test_libraries_are_not_mixed():
    x = normal(4, 5)
    with pytest.raises(TypeError, match=r"residual must be of x's library where DLPack"):
        fd.dropout_add(lent(x), ndarray(x), 0.3, KEY)
    with pytest.raises(TypeError, match=r"residual must be of x's library where DLPack"):
        fd.dropout_add(ndarray(x), lent(x), 0.3, KEY)
    with pytest.raises(TypeError, match=r"out must be of x's library where DLPack"):
        fd.dropout(lent(x), 0.3, KEY, out=ndarray(x))
    with pytest.raises(TypeError, match=r"p must be of x's library where DLPack"):
        fd.dropout(lent(x), ndarray(np.full(5, 0.5)), KEY)


@pytest.mark.skipif(not SIMULATED, reason="other dtypes and strides are NumPy's")
def test_what_is_refused(monkeypatch):
    with pytest.raises(TypeError, match="got int32 on a GPU"):
        fd.dropout(lent(np.ones(3, np.int32)), 0.3, KEY)
    with pytest.raises(ValueError, match="C order"):
        fd.dropout(Array(normal(4, 5).T), 0.3, KEY)
    monkeypatch.delattr(Array, "__array_namespace__")
    with pytest.raises(TypeError, match="or a library of the array API standard"):
        fd.dropout(lent(normal(3)), 0.3, KEY)


@pytest.mark.parametrize("noise", [n for n in FUNCTIONS if "CUDA" in n.lacks], ids=lambda noise: noise.name)
def test_noises_that_are_not_for_a_gpu_say_so(noise):
    check_refused_on_a_gpu(noise, lent)


def test_where_arrays_are():
    assert device.is_there(lent(normal(3)))
    assert not device.is_there(np.ones(3))
    assert not device.is_there(np.ma.array([1.0]))

    class OnSeveral(Array):
        def __dlpack_device__(self):
            raise BufferError("on several GPUs")

    assert not device.is_there(OnSeveral(normal(3)))
