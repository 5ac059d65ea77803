"""How kernels are started, with a stub in the place of CUDA's driver: the Python before a launch."""

import subprocess
import sys
import weakref
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from fastdrop import _backends
from fastdrop._cuda import compiled, driver
from fastdrop._cuda.variants import Variant
from fastdrop._lanes import disk

VARIANT = Variant("drops", "<f4", ("drop",))
OF_ONE_LANE = Variant("sums", "<f4", (), 0, "<f4", numbers=0)


class Error:
    """One of the driver's results, which is false if nothing went wrong."""

    def __init__(self, name="CUDA_SUCCESS"):
        self.name = name

    def __bool__(self):
        return self.name != "CUDA_SUCCESS"


class Stub:
    """NVIDIA's two packages, as far as they are used, with 10 processors on each of two devices."""

    def __init__(self):
        self.current, self.capturing, self.launches, self.calls = 0, False, [], Counter()
        self.busy = []  # events that are not over

    # cuda.core
    def Device(self, number):  # noqa: N802
        capability = SimpleNamespace(major=9, minor=0)
        properties = SimpleNamespace(multiprocessor_count=10)

        def set_current():
            self.current = number

        return SimpleNamespace(compute_capability=capability, properties=properties, set_current=set_current)

    def LaunchConfig(self, grid, block):  # noqa: N802
        self.calls["config"] += 1
        return grid, block

    @property
    def ObjectCode(self):  # noqa: N802
        self.calls["load"] += 1
        return SimpleNamespace(from_cubin=lambda code: SimpleNamespace(get_kernel=lambda name: (code, name)))

    @property
    def Stream(self):  # noqa: N802
        return SimpleNamespace(from_handle=lambda handle: ("stream", handle))

    def launch(self, stream, config, kernel, *arguments):
        self.launches.append((self.current, stream, config, kernel, arguments))
        if arguments[-1] == "fails":
            raise RuntimeError("a launch that fails")

    # cuda.bindings.driver
    CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL=9)
    CUstreamCaptureStatus = SimpleNamespace(CU_STREAM_CAPTURE_STATUS_NONE=0)

    def cuCtxGetDevice(self):  # noqa: N802
        return (
            (Error("CUDA_ERROR_INVALID_CONTEXT"), None) if self.current is None else (Error(), self.current)
        )

    def cuCtxGetCurrent(self):  # noqa: N802
        return Error(), self.current

    def cuCtxSetCurrent(self, context):  # noqa: N802
        self.current = context

    def cuPointerGetAttribute(self, attribute, pointer):  # noqa: N802
        return (Error(), pointer // 1000) if pointer >= 1000 else (Error("CUDA_ERROR_INVALID_VALUE"), None)

    CUmemPool_attribute = SimpleNamespace(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD=4)
    cuuint64_t = int

    def cuDeviceGetDefaultMemPool(self, number):  # noqa: N802
        return Error(), f"pool {number}"

    def cuMemPoolSetAttribute(self, pool, attribute, value):  # noqa: N802
        self.calls[pool] = value

    def cuMemAllocAsync(self, nbytes, stream):  # noqa: N802
        self.calls["taken"] += self.current == 0
        return (Error(), 1000 + nbytes) if nbytes < 1 << 40 else (Error("CUDA_ERROR_OUT_OF_MEMORY"), 0)

    def cuMemFreeAsync(self, pointer, stream):  # noqa: N802
        self.calls["given back"] += self.current == 0

    def cuStreamIsCapturing(self, stream):  # noqa: N802
        assert self.current == 0
        return Error(), int(self.capturing)

    def cuMemcpyHtoDAsync(self, target, source, nbytes, stream):  # noqa: N802
        assert self.current == 0
        self.calls["copied"] += nbytes
        return (Error("CUDA_ERROR_ILLEGAL_ADDRESS" if stream == 66 else "CUDA_SUCCESS"),)

    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)

    def cuEventCreate(self, flags):  # noqa: N802
        assert flags == 2
        return Error(), ("event", self.current)

    def cuEventRecord(self, event, stream):  # noqa: N802
        assert event == ("event", self.current)
        return (Error("CUDA_ERROR_INVALID_HANDLE" if stream == 66 else "CUDA_SUCCESS"),)

    def cuStreamWaitEvent(self, stream, event, flags):  # noqa: N802
        assert event == ("event", self.current)
        self.calls[f"waiting {stream}"] += 1
        return (Error("CUDA_ERROR_INVALID_HANDLE" if stream == 66 else "CUDA_SUCCESS"),)

    def cuEventQuery(self, event):  # noqa: N802
        assert event == ("event", self.current)
        return (Error("CUDA_ERROR_NOT_READY" if event in self.busy else "CUDA_SUCCESS"),)

    def cuEventDestroy(self, event):  # noqa: N802
        self.calls["destroyed"] += 1


@pytest.fixture
def stub(monkeypatch):
    found = Stub()
    for name in ("_device", "starter", "_config", "_stream"):
        getattr(driver, name).cache_clear()
    monkeypatch.setattr(driver, "_packages", lambda: (found, found))
    monkeypatch.setattr(
        driver, "cubin", lambda variant, capability: (b"code", f"{variant.work} {capability}")
    )
    yield found
    for name in ("_device", "starter", "_config", "_stream"):
        getattr(driver, name).cache_clear()


def test_a_launch_on_the_current_device(stub):
    driver.start(VARIANT, 3, 0, 77, 1, 2, np.float32(0.5))
    kernel = b"code", "drops (9, 0)"
    assert stub.launches == [(0, ("stream", 77), (3, 32), kernel, (3, 1, 2, np.float32(0.5)))]
    driver.start(VARIANT, 3, 0, 77, 1, 2, np.float32(0.5))
    assert stub.calls == {"config": 1, "load": 1, "pool 0": 1 << 26}  # all that can be is remembered


@pytest.mark.parametrize("before", [1, None])
def test_another_device_is_made_current_and_put_back(stub, before):
    stub.current = before
    driver.start(VARIANT, 3, 0, 77, 1)
    assert stub.launches[0][0] == 0
    assert stub.current == before
    with pytest.raises(RuntimeError, match="a launch that fails"):
        driver.start(VARIANT, 3, 0, 77, "fails")
    assert stub.current == before


@pytest.mark.parametrize(
    ("items", "variant", "grid", "block"),
    [
        (1, VARIANT, 1, 32),
        (159, VARIANT, 159, 32),
        (160, VARIANT, 20, 256),  # 5,120 lanes: two blocks for each processor
        (161, VARIANT, 21, 256),
        (1 << 40, VARIANT, 320, 256),  # the grid has an end, and threads go on to further items
        (100, OF_ONE_LANE, 4, 32),
    ],
)
def test_how_many_blocks(stub, items, variant, grid, block):
    driver.start(variant, items, 0, 0, 1)
    assert stub.launches[0][2] == (grid, block)


def test_memory(stub):
    stub.current = 1
    memory = driver.Memory(500, 0, 5)
    assert memory.pointer == 1500
    assert stub.calls["given back"] == 0
    del memory
    assert stub.calls["taken"] == stub.calls["given back"] == 1
    assert stub.current == 1
    with pytest.raises(RuntimeError, match=r"no 1099511627776 bytes.*CUDA_ERROR_OUT_OF_MEMORY"):
        driver.Memory(1 << 40, 0, 5)
    assert driver.upload(np.arange(6.0)[::2], 0, 5).pointer == 1024
    assert stub.calls["copied"] == 24
    with pytest.raises(RuntimeError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        driver.upload(np.ones(3), 0, 66)
    assert stub.calls["taken"] == stub.calls["given back"] + 1
    stub.capturing = True
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        driver.upload(np.ones(3), 0, 5)


def test_events(stub):
    stub.current = 1
    event = driver.Event(0, 5)
    event.wait(77)
    assert stub.calls["waiting 77"] == 1
    assert event.is_over()
    stub.busy = [("event", 0)]
    assert not event.is_over()
    assert stub.current == 1
    with pytest.raises(RuntimeError, match=r"stream 66 can't be used: CUDA_ERROR_INVALID_HANDLE"):
        event.wait(66)
    with pytest.raises(RuntimeError, match=r"on GPU 0: CUDA_ERROR_INVALID_HANDLE"):
        driver.Event(0, 66)
    assert stub.calls["destroyed"] == 1
    del event
    assert stub.calls["destroyed"] == 2


def test_what_is_held_until_an_event(stub, monkeypatch):
    """Each call gives back what events are over for, whatever their order."""
    monkeypatch.setattr(driver, "_held", [])
    first, second, third, last = (Counter() for _ in range(4))  # which can be watched
    watched = [weakref.ref(held) for held in (first, second, third, last)]
    stub.busy = [("event", 0), ("event", 1)]
    driver.hold(driver.Event(0, 5), first)
    driver.hold(driver.Event(1, 5), second)
    driver.hold(driver.Event(0, 5), third)
    del first, second, third
    assert all(ref() is not None for ref in watched)
    stub.busy = [("event", 0)]
    driver.hold(driver.Event(1, 5), last)
    del last
    assert [ref() is not None for ref in watched] == [True, False, True, True]
    stub.busy = []
    driver.hold(driver.Event(0, 5), None)
    assert not any(ref() is not None for ref in watched)


def test_the_device_of_an_address(stub):
    assert driver.device_of(1500) == 1
    with pytest.raises(ValueError, match="CUDA_ERROR_INVALID_VALUE"):
        driver.device_of(3)


def test_a_kernel_on_disk_is_started_without_numba():
    """Which takes longer to import than all else that a first call does."""
    script = "import sys, fastdrop._cuda.run; print([m for m in ('numba', 'llvmlite') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_machine_code_on_disk(tmp_path, monkeypatch):
    made = []

    def ptx(variant, capability):
        made.append((variant.carrier, capability))
        return f"text {len(made)}", f"name {len(made)}"

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled, "ptx", ptx)
    monkeypatch.setattr(compiled, "assembled", lambda text, capability, registers: b"\n" + text.encode())
    first = compiled.cubin(VARIANT, (9, 0))
    assert first == (b"\ntext 1", "name 1")
    assert compiled.cubin(VARIANT, (9, 0)) == first  # from the disk
    others = [(VARIANT, (8, 0)), (VARIANT._replace(carrier="<u2"), (9, 0)), (OF_ONE_LANE, (9, 0))]
    for number, other in enumerate(others, 2):
        assert compiled.cubin(*other) == (b"\ntext %d" % number, f"name {number}")
    assert made == [("<f4", (9, 0)), ("<f4", (8, 0)), ("<u2", (9, 0)), ("<f4", (9, 0))]
    files = sorted(tmp_path.rglob("*.cubin"))
    assert len(files) == 4
    for path in files:  # a bit, the end, everything, and the code of another
        data = path.read_bytes()
        for damaged in (
            data[:-1] + bytes([data[-1] ^ 1]),
            data[:-3],
            b"",
            (files[0], files[1])[path == files[0]].read_bytes(),
        ):
            path.write_bytes(damaged)
            count = len(made)
            for given in ((VARIANT, (9, 0)), *others):
                compiled.cubin(*given)
            assert len(made) == count + 1  # and it is written again


def test_no_directory_for_machine_code(monkeypatch):
    def directory():
        raise RuntimeError("no home")

    said = []
    monkeypatch.setattr(disk, "directory", directory)
    monkeypatch.setattr(disk, "warn", said.append)
    monkeypatch.setattr(compiled, "ptx", lambda variant, capability: ("text", "name"))
    monkeypatch.setattr(compiled, "assembled", lambda text, capability, registers: b"code")
    assert compiled.cubin(VARIANT, (9, 0)) == (b"code", "name")
    assert said == ["the user has no directory for caches"]


def test_a_fork_waits_for_the_import_of_the_compiler(monkeypatch):
    """`fastdrop._backends` takes the same lock before a fork; a child would wait for ever."""
    held = []

    @contextmanager
    def lock():
        held.append("numba")
        yield
        held.append(compiled.__name__)

    assert compiled.loading is _backends.loading
    monkeypatch.setattr(compiled, "loading", lock())
    compiled._numba.__wrapped__()
    assert held == ["numba", compiled.__name__]
