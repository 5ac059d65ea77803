"""Dropout of tensors by their addresses, against the reference and that of arrays, bit for bit."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from tensors import DTYPES as ALL_DTYPES  # noqa: E402
from tensors import normal, same, to_array  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop._cpu import threads  # noqa: E402
from fastdrop._stream import reference  # noqa: E402
from fastdrop.torch import _openmp  # noqa: E402
from fastdrop.torch._keys import random_key  # noqa: E402

pytestmark = pytest.mark.skipif(not _openmp._ELEMENTS, reason="this PyTorch has no GNU OpenMP")
KEY = fd.Key(42, draw=7)
DTYPES = {dtype: ALL_DTYPES[dtype] for dtype in ALL_DTYPES if not dtype.is_complex}
# on both sides of a tile, of what is shared, and of what goes past the caches
SIZES = [1, 7, 8, 1023, 1024, 1025, 4099, 32_767, 32_768, 33_797, 100_003, (1 << 20) + 1, (1 << 22) + 1029]


@pytest.fixture
def team():
    """Let a test set the number of PyTorch's threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def used(monkeypatch):
    """How many threads each call shared its tensor among, and of how many."""
    counts = []
    compiled = _openmp._compiled

    def counting(dtype):
        kernel, work = compiled(dtype)

        def call(*arguments):
            counts.append(arguments[-2:])
            return kernel(*arguments)

        return call, work

    monkeypatch.setattr(_openmp, "_compiled", counting)
    return counts


@pytest.mark.parametrize("p", [2**-33 * 1.5, 0.1, 0.5, 1 - 2**-32])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_are_those_of_the_reference(dtype, p, used):
    for size in SIZES[:8]:
        x = normal(size, dtype=dtype)
        x[::7], x[::11], x[::13] = torch.nan, -torch.inf, -0.0
        assert same(fdt.dropout(x, p, KEY), reference.dropout(to_array(x), p, KEY)), size
    assert len(used) == 8


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("threads_set_back")
def test_any_number_of_threads_gives_the_same_bits(dtype, count, team):
    fd.set_num_threads(8)
    team(count)
    for size in SIZES:
        x = normal(size, dtype=dtype)
        expected = fd.dropout(to_array(x), 0.3, KEY)
        assert same(fdt.dropout(x, 0.3, KEY), expected), size
        assert fdt.dropout(x, 0.3, KEY, inplace=True) is x
        assert same(x, expected), size


@pytest.mark.usefixtures("threads_set_back")
def test_threads_are_as_many_as_both_libraries_and_the_size_allow(team, used):
    fd.set_num_threads(3)
    team(4)
    for size in (32_767, 32_768, 65_536):
        fdt.dropout(torch.ones(size), 0.5, KEY)
    with threads.alone():
        fdt.dropout(torch.ones(65_536), 0.5, KEY)
    assert used == [(1, 1), (2, 4), (3, 4), (1, 4)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_at_any_address(dtype):
    for place in range(1, 17):
        for size in (1000, 40_000, (1 << 22) + 1029) if place in (1, 2, 5, 8, 16) else (1000, 40_000):
            x = normal(size + place, dtype=dtype)[place:]
            expected = fd.dropout(to_array(x), 0.5, KEY)
            assert same(fdt.dropout(x, 0.5, KEY), expected)
            assert same(fdt.dropout(x, 0.5, KEY, inplace=True), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_has_no_such_memory_goes_by_the_arrays(dtype, used):
    """Elements across their own alignment, zeros that are not stored, and rates that need no draw."""
    raw = np.zeros(8 * 1000 + 1, np.uint8)
    array = raw[1:].view(DTYPES[dtype])
    array[...] = 1.5
    across = torch.frombuffer(raw, dtype=dtype, offset=1)
    assert across.data_ptr() % across.itemsize == 1
    assert same(fdt.dropout(across, 0.5, KEY), fd.dropout(array, 0.5, KEY))
    zeros = torch._efficientzerotensor(5, dtype=dtype)
    assert torch.equal(fdt.dropout(zeros, 0.5, KEY), torch.zeros(5, dtype=dtype))
    assert fdt.dropout(torch.ones(0, 3, dtype=dtype), 0.5, KEY).shape == (0, 3)
    x = torch.ones(5, dtype=dtype)
    for p in (0.0, 1.0, 0, 1, np.array(0.0)):
        assert torch.equal(fdt.dropout(x, p, KEY), x * (1 - float(p)))
    assert used == []


NEGATED = [torch.ones(5, dtype=torch.complex64).conj().imag, torch._neg_view(torch.ones(5))]


@pytest.mark.parametrize("x", NEGATED, ids=["strided", "in C order"])
def test_a_view_yet_to_be_negated(x):
    assert x.is_neg()
    assert torch.equal(fdt.dropout(x, 0.5, KEY), fdt.dropout(x.resolve_neg(), 0.5, KEY))


@pytest.mark.parametrize("size", [1000, (1 << 22) + 1029])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_comes_out_may_be_changed_in_place(dtype, size):
    x = torch.ones(size, dtype=dtype, requires_grad=True)
    fdt.dropout(x, 0.5, KEY).mul_(2).sum().backward()
    assert same(x.grad, fd.dropout(to_array(2 * x), 0.5, KEY))


def test_a_copy_on_write_leaves_what_it_was_copied_from():
    x = torch.ones(100)
    y = torch._lazy_clone(x)
    assert same(fdt.dropout(y, 0.5, KEY, inplace=True), fd.dropout(np.ones(100, np.float32), 0.5, KEY))
    assert torch.equal(x, torch.ones(100))


@pytest.mark.parametrize("p", [np.nan, -0.1, 1.5])
def test_rates_are_checked(p):
    with pytest.raises(ValueError, match=rf"p must be in \[0, 1\], got {p}"):
        fdt.dropout(torch.ones(5), p, KEY)


@pytest.mark.parametrize(
    ("convert", "kind"),
    [
        (torch.Tensor.to_sparse, r"torch.sparse_coo; use x.to_dense\(\)"),
        (torch.Tensor.to_sparse_csr, r"torch.sparse_csr; use x.to_dense\(\)"),
        (torch.Tensor.to_mkldnn, r"torch._mkldnn; use x.to_dense\(\)"),
        (lambda x: torch.nested.nested_tensor([x[0], x[1, :1]]), r"a nested one; use x.unbind\(\)"),
    ],
    ids=["sparse", "csr", "mkldnn", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse CSR tensor support")
def test_tensors_that_are_not_dense_are_refused(convert, kind):
    x, dense, tokens = convert(torch.ones(2, 3)), torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    calls = [
        lambda: fdt.dropout(x, 0.5, KEY),
        lambda: fdt.dropout(x, 0.5, KEY, inplace=True),
        lambda: fdt.dropout(dense, x, KEY),
        lambda: fdt.dropout(dense, 0.5, KEY, rows=x),
        lambda: fdt.dropout_add(x, x, 0.5, KEY),
        lambda: fdt.dropout_add(dense, x, 0.5, KEY),
        lambda: fdt.bias_act_dropout(x, None, 0.5, KEY, activation="gelu"),
        lambda: fdt.bias_act_dropout(dense, x, 0.5, KEY),
        lambda: fdt.bias_act_dropout(dense, None, 0.5, KEY, residual=x),
        lambda: fdt.local_reparameterization(x, dense, KEY),
        lambda: fdt.local_reparameterization(dense, x, KEY),
        lambda: fdt.information_dropout(dense, x, KEY),
        lambda: fdt.zoneout(dense, x, 0.5, KEY),
        lambda: fdt.embedding_dropout(tokens, x, 0.5, KEY),
        lambda: fdt.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        lambda: fdt.scaled_dot_product_attention(dense, dense, dense, x, dropout_p=0.5),
        lambda: fdt.Dropout2d(0.5, rng=1)(x),
        lambda: fdt.DropBlock2d(0.5, rng=1)(x),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"^dropout needs a dense tensor, got {kind}$"):
            call()


def test_without_those_threads_the_bits_are_the_same(monkeypatch, used):
    x = normal(100_003)
    expected = fdt.dropout(x, 0.5, KEY)
    monkeypatch.setattr(_openmp, "_ELEMENTS", {})
    assert torch.equal(fdt.dropout(x, 0.5, KEY), expected)
    assert len(used) == 1


def test_a_library_without_a_function_is_seen():
    with pytest.raises(AttributeError, match="GOMP_nothing"):
        _openmp._openmp("GOMP_nothing", None)


def test_many_threads_at_once(team):
    """Each has a team of its own."""
    team(2)
    tensors = [normal(50_000 + i, seed=i) for i in range(8)]
    expected = [fd.dropout(to_array(x), 0.3, KEY) for x in tensors]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found = pool.map(lambda x: fdt.dropout(x, 0.3, KEY), tensors)
            assert all(map(same, found, expected))


def run(script):
    """A process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )


FORK = """
import os, signal, sys, torch, fastdrop as fd, fastdrop.torch as fdt
torch.set_num_threads(2)
x = torch.ones(1 << 20)
{parent}
child = os.fork()
signal.alarm(60)
if child:
    sys.exit(os.waitpid(child, 0)[1])
y = fdt.dropout(x, 0.5, fd.Key(1))  # and nothing of PyTorch's own, which would wait
print(y.numpy()[-1000:].tobytes().hex())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("parent", ["fdt.dropout(x, 0.5, fd.Key(1))", "x * 2"])
def test_a_forked_child_waits_for_none_of_its_parents_threads(parent):
    """Whether they were used by dropout, or, before that was imported, by PyTorch alone."""
    expected = fd.dropout(np.ones(1 << 20, np.float32), 0.5, fd.Key(1))[-1000:].tobytes().hex()
    found = run(FORK.format(parent=parent))
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{expected}\n", "")


GUARDED = """
import numpy as np, torch, fastdrop.torch as fdt
from guard_pages import SIZES, Guarded
from fastdrop._cpu import calls
from fastdrop.torch import _openmp
_openmp._SHARED_FROM = _openmp._PIECE = 1
area, made = Guarded(), 0
for far in (0, 1, 2):
    calls.distance = lambda nbytes, address=1: 0 if far == 2 and address % 16 else far
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for size in SIZES:
            for at_end in (True, False):
                for p in (0.1, 0.5):
                    put = area.put(np.ones(size * dtype.itemsize, np.uint8), at_end)
                    x = torch.from_numpy(put).view(dtype)
                    fdt.dropout(x, p, 1, inplace=True)
                    made += 1
print(made == 3 * 4 * 2 * 2 * len(SIZES))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect and its constants are Linux's")
def test_nothing_beyond_a_tensor_is_touched():
    found = run(GUARDED)
    assert (found.returncode, found.stdout, found.stderr) == (0, "True\n", "")


def seeded(call):
    torch.manual_seed(5)
    return call()


INPUTS = {
    "in C order": lambda dtype: normal(33, 1100, dtype=dtype),
    "transposed": lambda dtype: normal(1100, 33, dtype=dtype).T,
    "complex": lambda _: normal(33, 1100, dtype=torch.complex64),
    "empty": lambda dtype: torch.ones(0, 3, dtype=dtype),
}
GRADIENTS = {
    "its own": lambda y: normal(*y.shape, dtype=y.dtype, seed=1),
    "transposed": lambda y: normal(*y.shape[::-1], dtype=y.dtype, seed=1).T,
    "of a sum": lambda y: torch.ones((), dtype=y.dtype).expand_as(y),
}


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_module_does_what_the_function_does_by_a_key_from_torchs_generator(dtype, input, gradient, p):
    x = INPUTS[input](dtype).requires_grad_()
    key = seeded(lambda: random_key(x))
    after = torch.randint(1 << 40, ())
    y, expected = seeded(lambda: fdt.Dropout(p)(x)), fdt.dropout(x, p, key)
    assert torch.equal(torch.randint(1 << 40, ()), after)  # one draw was taken, whatever became of it
    assert torch.equal(y, expected)
    assert torch.equal(seeded(lambda: fdt.Dropout(p)(x.detach())), expected)
    g = GRADIENTS[gradient](y.detach())
    assert torch.equal(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(expected, x, g)[0])


def test_a_module_can_be_differentiated_twice():
    x = normal(50, dtype=torch.float64).requires_grad_()
    g = normal(50, dtype=torch.float64, seed=1).requires_grad_()
    h = normal(50, dtype=torch.float64, seed=2)
    drop = fdt.Dropout(0.3)
    (dx,) = torch.autograd.grad(seeded(lambda: drop(x)), x, g, create_graph=True)
    assert torch.equal(dx, seeded(lambda: drop(g)))
    assert torch.equal(torch.autograd.grad(dx, g, h)[0], seeded(lambda: drop(h)))


@pytest.mark.parametrize("inference", [False, True])
def test_threads_that_first_draw_in_any_mode_draw_on_in_others(inference):
    def work():
        with torch.inference_mode(inference):
            fdt.Dropout()(torch.ones(5))
        x = torch.ones(5, requires_grad=True)
        fdt.Dropout()(x).sum().backward()
        return x.grad is not None

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result()
