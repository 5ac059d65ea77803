"""Attention by blocks, against PyTorch's without dropout and against the plain formula with the same mask."""

import math
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from tensors import normal  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch import _attention, _openmp  # noqa: E402

functional = torch.nn.functional
KEY = fd.Key(42)
SMALL = _attention.BLOCKS_FROM
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def by_blocks(monkeypatch):
    """Let small matrices go by blocks too."""
    monkeypatch.setattr(_attention, "BLOCKS_FROM", 0)


def tensors(q, k, v, dtype=torch.float64):
    return [normal(*shape, dtype=torch.float64, seed=i).to(dtype) for i, shape in enumerate((q, k, v))]


def formula(q, k, v, mask, p, causal, scale, gqa=False):
    """The definition, in float64, with the mask of `fastdrop.torch.dropout`."""
    q, k, v = (t.double() for t in (q, k, v))
    if gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = (q @ k.mT) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=bool).triu(1), -torch.inf)
    if mask is not None and mask.dtype is torch.bool:
        scores = torch.where(mask, scores, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    nothing = (scores == -torch.inf).all(-1, keepdim=True)
    weights = torch.where(nothing, 0.0, torch.where(nothing, 0.0, scores).softmax(-1))
    return fdt.dropout(weights, p, KEY) @ v


def holed(*shape):
    """A mask with some weights left out, and all of one row."""
    mask = normal(*shape, seed=9) < 0.8
    mask[..., 0, :] = False
    return mask


def without_a_row(*shape):
    """A mask of floats that leaves out all of a row."""
    return normal(*shape, seed=5).index_fill(-2, torch.tensor([1]), -torch.inf)


# Each option in turn with the others as they fall: shapes of query, key and value, and the rest.
CASES = {
    "plain": ((2, 3, 70, 8), (2, 3, 70, 8), (2, 3, 70, 8), {}),
    "causal": ((2, 3, 300, 8), (2, 3, 300, 8), (2, 3, 300, 8), {"is_causal": True}),
    "causal, more keys": ((1, 2, 150, 8), (1, 2, 200, 8), (1, 2, 200, 5), {"is_causal": True}),
    "causal, fewer keys": ((1, 2, 300, 8), (1, 2, 200, 8), (1, 2, 200, 8), {"is_causal": True}),
    "other sizes": ((2, 3, 17, 8), (2, 3, 333, 8), (2, 3, 333, 5), {"scale": 0.3}),
    "many keys": ((1, 2, 20, 4), (1, 2, 40_000, 4), (1, 2, 40_000, 4), {}),
    "many heads": ((3, 50, 40, 4), (3, 50, 40, 4), (3, 50, 40, 4), {}),
    "one of each": ((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2), {}),
    "two axes": ((130, 8), (140, 8), (140, 8), {}),
    "three axes": ((3, 130, 8), (3, 140, 8), (3, 140, 8), {}),
    "batches that broadcast": ((1, 3, 70, 8), (2, 1, 70, 8), (2, 3, 70, 8), {}),
    "groups of heads": ((2, 6, 130, 8), (2, 2, 90, 8), (2, 2, 90, 8), {"enable_gqa": True}),
    "bool mask": ((2, 3, 140, 8), (2, 3, 90, 8), (2, 3, 90, 8), {"attn_mask": holed(140, 90)}),
    "bool mask by head": ((2, 3, 140, 8), (2, 3, 90, 8), (2, 3, 90, 8), {"attn_mask": holed(2, 3, 140, 90)}),
    "padding": ((2, 3, 140, 8), (2, 3, 90, 8), (2, 3, 90, 8), {"attn_mask": holed(2, 1, 2, 90)[:, :, 1:]}),
    "float mask": ((2, 3, 140, 8), (2, 3, 90, 8), (2, 3, 90, 8), {"attn_mask": normal(3, 140, 90, seed=5)}),
    "float mask of a row": (
        (2, 3, 140, 8),
        (2, 3, 90, 8),
        (2, 3, 90, 8),
        {"attn_mask": without_a_row(140, 90)},
    ),
    "groups of heads and a mask": (
        (2, 6, 130, 8),
        (2, 2, 90, 8),
        (2, 2, 90, 8),
        {"enable_gqa": True, "attn_mask": holed(2, 6, 130, 90)},
    ),
}


def with_dtype(options, dtype):
    mask = options.get("attn_mask")
    floats = mask is not None and mask.dtype is not torch.bool
    return options | {"attn_mask": mask.to(dtype)} if floats else options


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_formula_and_without_dropout_pytorchs(name, dtype):
    *shapes, given = CASES[name]
    options = with_dtype(given, dtype)
    inputs = [t.requires_grad_() for t in tensors(*shapes, dtype)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    mask, causal = options.get("attn_mask"), options.get("is_causal", False)
    scale, gqa = options.get("scale"), options.get("enable_gqa", False)
    for p in (0.0, 0.3):
        if p:
            y = fdt.scaled_dot_product_attention(*inputs, dropout_p=p, noise_key=KEY, **options)
        else:
            y = _attention.attention(*inputs, mask, 0.0, causal, scale, gqa, KEY)
            theirs = functional.scaled_dot_product_attention(*inputs, **options)
            torch.testing.assert_close(y, theirs, atol=CLOSE[dtype], rtol=CLOSE[dtype])
        expected = formula(*exact, mask, p, causal, scale, gqa)
        assert y.dtype is dtype
        assert y.shape == expected.shape
        g = normal(*y.shape, dtype=torch.float64, seed=4)
        found = torch.autograd.grad(y, inputs, g.to(dtype))
        right = torch.autograd.grad(expected, exact, g.to(dtype).double())
        for ours, other in ((y, expected), *zip(found, right, strict=True)):
            size = other.abs().max().clamp(min=1)
            assert (ours.double() - other).abs().max() <= CLOSE[dtype] * size


@pytest.mark.parametrize(
    "name", ["plain", "causal", "two axes", "float mask of a row", "groups of heads and a mask"]
)
def test_whole_matrices_are_the_same(name, monkeypatch):
    *shapes, given = CASES[name]
    options = with_dtype(given, torch.float64)
    inputs = [t.requires_grad_() for t in tensors(*shapes)]
    found = []
    for first in (0, 1 << 40):
        monkeypatch.setattr(_attention, "BLOCKS_FROM", first)
        y = fdt.scaled_dot_product_attention(*inputs, dropout_p=0.3, noise_key=KEY, **options)
        found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    blocks, whole = found
    assert blocks[0].grad_fn.name() == "_AttentionBackward" != whole[0].grad_fn.name()
    torch.testing.assert_close(blocks, whole, atol=1e-10, rtol=1e-10)


def test_strides_do_not_matter():
    q, k, v = tensors((2, 70, 3, 8), (2, 80, 3, 8), (2, 80, 3, 8), torch.float32)
    turned = [t.transpose(1, 2) for t in (q, k, v)]
    y = fdt.scaled_dot_product_attention(*turned, dropout_p=0.3, noise_key=KEY)
    whole = [t.contiguous() for t in turned]
    assert torch.equal(y, fdt.scaled_dot_product_attention(*whole, dropout_p=0.3, noise_key=KEY))


def test_gradients_of_a_float_mask():
    q, k, v = tensors((2, 3, 40, 8), (2, 3, 30, 8), (2, 3, 30, 8))
    mask = normal(3, 1, 30, dtype=torch.float64, seed=8).requires_grad_()
    y = fdt.scaled_dot_product_attention(q, k, v, mask, 0.3, noise_key=KEY)
    expected = formula(q, k, v, mask, 0.3, False, None)
    torch.testing.assert_close(*(torch.autograd.grad(z.square().sum(), mask)[0] for z in (y, expected)))


def test_values_with_more_batches_have_the_same_masks_in_the_formula():
    q, k, v = torch.ones(3, 40, 8), torch.ones(3, 40, 8), torch.ones(2, 3, 40, 8)
    blocks = fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.5, noise_key=KEY)
    mask = torch.zeros(40, 40, requires_grad=True)  # whose gradient needs the formula
    formula = fdt.scaled_dot_product_attention(q, k, v, mask, 0.5, noise_key=KEY)
    torch.testing.assert_close(blocks, formula.detach())
    assert not torch.equal(blocks[0], blocks[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_derivatives_of_every_kind():
    inputs = [t.requires_grad_() for t in tensors((1, 2, 4, 3), (1, 2, 3, 3), (1, 2, 3, 2))]

    def call(q, k, v):
        return fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3, noise_key=KEY)

    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, inputs)
    grads = torch.func.grad(lambda *t: call(*t).square().sum(), (0, 1, 2))(*inputs)
    expected = torch.autograd.grad(call(*inputs).square().sum(), inputs)
    for ours, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_graphs_and_checkpoints():
    from torch.utils.checkpoint import checkpoint

    q, k, v = (
        t.requires_grad_() for t in tensors((1, 2, 60, 8), (1, 2, 50, 8), (1, 2, 50, 8), torch.float32)
    )

    def call(q, k, v):
        return fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3, noise_key=KEY)

    expected = call(q, k, v)
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(call, backend=backend)(q, k, v), expected)
    torch._dynamo.reset()
    drawn = torch.compile(lambda q: fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3), backend="eager")
    assert not torch.equal(drawn(q), drawn(q))
    for reentrant in (False, True):
        torch.manual_seed(3)
        y = checkpoint(
            lambda q: fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3), q, use_reentrant=reentrant
        )
        (g,) = torch.autograd.grad(y.sum(), q) if not reentrant else (None,)
        torch.manual_seed(3)
        plain = fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        assert torch.equal(y, plain)
        assert g is None or torch.equal(g, torch.autograd.grad(plain.sum(), q)[0])
    with torch.autocast("cpu", torch.bfloat16):
        model = torch.nn.Linear(8, 8)
        assert call(model(q), model(k), model(v)).dtype is torch.bfloat16


def test_profiles_name_it():
    q, k, v = (t.requires_grad_() for t in tensors(*CASES["plain"][:3], torch.float32))
    with torch.profiler.profile() as profile:
        fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3).sum().backward()
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["fastdrop::attention"] == 2


def test_threads_do_not_matter():
    inputs = tensors((2, 4, 300, 16), (2, 4, 300, 16), (2, 4, 300, 16), torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for causal in (False, True):
                options = {"dropout_p": 0.3, "is_causal": causal, "noise_key": KEY}
                found.append(fdt.scaled_dot_product_attention(*inputs, **options) != 0)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, found[i % 2]) for i, each in enumerate(found))


@pytest.mark.parametrize("causal", [False, True])
def test_without_the_threads_of_pytorch(causal, monkeypatch):
    """On other systems than Linux the weights are made in the thread that calls."""
    inputs = [t.requires_grad_() for t in tensors((2, 3, 300, 8), (2, 3, 300, 8), (2, 3, 300, 8))]
    found = []
    called, call = [], _openmp.call

    def counting(work, data, threads, team):
        called.append(threads)
        call(work, data, threads, team)

    monkeypatch.setattr(_openmp, "call", counting)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(_openmp.own_threads, "usable", lambda: 2)
    for there in (_openmp.IN_TEAMS, False):
        monkeypatch.setattr(_openmp, "IN_TEAMS", there)
        called.clear()
        y = fdt.scaled_dot_product_attention(*inputs, dropout_p=0.3, is_causal=causal, noise_key=KEY)
        found.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
        assert set(called) == ({2} if there else {1})
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    "call",
    [
        lambda f, q, k, v: f(q, k, v, torch.ones(4, 4, dtype=bool), 0.5, True),
        lambda f, q, k, v: f(q, k[..., :3], v, None, 0.5),
        lambda f, q, k, v: f(q, k, v[:, :, :2], None, 0.5),
        lambda f, q, k, v: f(q.double(), k, v, None, 0.5),
        lambda f, q, k, v: f(q.long(), k.long(), v.long(), None, 0.5),
        lambda f, q, k, v: f(q[0, 0, 0], k, v, None, 0.5),
        lambda f, q, k, v: f(q, k[:, :3], v[:, :3], None, 0.5, enable_gqa=True),
        lambda f, q, k, v: f(q, k[:, :2], v[:, :2], None, 0.5),
        lambda f, q, k, v: f(q, k, v, torch.ones(3, 7), 0.5),
        lambda f, q, k, v: f(q, k, v, torch.ones(80, 80, dtype=torch.float64), 0.5),
        lambda f, q, k, v: f(q[:, :, :1], k, v, torch.ones(5, 80), 0.5),
        lambda f, q, k, v: f(q, k, v, torch.ones(3, 2, 4, 80, 80), 0.5),
    ],
)
def test_what_pytorch_refuses_is_refused(call):
    inputs = tensors((2, 4, 80, 8), (2, 4, 80, 8), (2, 4, 80, 8), torch.float32)
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        call(functional.scaled_dot_product_attention, *inputs)
    with pytest.raises((RuntimeError, ValueError)):
        call(fdt.scaled_dot_product_attention, *inputs)
    with fdt.install(), pytest.raises((RuntimeError, ValueError)) as under:
        call(functional.scaled_dot_product_attention, *inputs)
    assert str(under.value).split("\n")[0] == str(theirs.value).split("\n")[0]


@pytest.mark.parametrize("shape", [(3, 3), (5, 4, 4), (1, 2, 4, 4)])
def test_a_mask_that_does_not_fit_is_named(shape):
    q = torch.ones(2, 4, 3)
    with pytest.raises(
        ValueError, match=r"^attn_mask must broadcast to the weights' shape \(2, 4, 4\), got \("
    ):
        fdt.scaled_dot_product_attention(q, q, q, torch.ones(shape), 0.5, noise_key=KEY)


def test_errors_of_rate_and_key():
    inputs = tensors((2, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8), torch.float32)
    with pytest.raises(ValueError, match=r"dropout_p must be in \[0, 1\], got 1.5"):
        fdt.scaled_dot_product_attention(*inputs, dropout_p=1.5)
    with pytest.raises(TypeError, match="key must be a"):
        fdt.scaled_dot_product_attention(*inputs, dropout_p=0.5, noise_key="no")
    assert not fdt.scaled_dot_product_attention(*inputs, dropout_p=1.0).any()


def test_install_takes_attention_with_dropout(monkeypatch):
    calls, attention = [], _attention.attention
    monkeypatch.setattr(_attention, "attention", lambda *a: calls.append(1) or attention(*a))
    shapes = (2, 4, 80, 8), (2, 4, 90, 8), (2, 4, 90, 8)
    q, k, v = (t.requires_grad_() for t in tensors(*shapes, torch.float32))
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, 0.5, batch_first=True)
    with fdt.install():
        torch.manual_seed(1)
        y = functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        torch.manual_seed(1)
        assert torch.equal(y, fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3))
        y.sum().backward()
        calls.clear()
        functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        assert len(calls) == 1
        functional.scaled_dot_product_attention(q, k, v)
        with monkeypatch.context() as patch:
            patch.setattr(_attention, "BLOCKS_FROM", SMALL)
            functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        assert len(calls) == 1
        layer(normal(2, 80, 32)).sum().backward()
        assert len(calls) == 2
        layer.eval()(normal(2, 80, 32))
        with torch.no_grad():
            functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        assert len(calls) == 3


def attend(function, *inputs, **options):
    return function(*inputs, **({"noise_key": KEY} if function is not FUNCTIONS[1] else {}), **options)


FUNCTIONS = (fdt.scaled_dot_product_attention, functional.scaled_dot_product_attention)


@pytest.mark.parametrize("function", FUNCTIONS, ids=["fastdrop", "install"])
def test_uses_that_pytorch_allows(function):
    q, k, v = tensors((2, 100, 8), (2, 100, 8), (2, 100, 8), torch.float32)
    with fdt.install():
        assert not attend(function, q, k, v, dropout_p=1 - 1e-12).any()
        leaf = q.clone().requires_grad_()
        y = attend(function, leaf, k, v, dropout_p=0.3)
        y += 1
        (first,) = torch.autograd.grad(y.sum(), leaf)
        assert first.isfinite().all()
        for mask in (torch.tensor(True), torch.tensor(0.5), torch.ones(100, dtype=bool)):
            assert attend(function, q, k, v, attn_mask=mask, dropout_p=0.3).shape == (2, 100, 8)
        with torch.inference_mode():
            made_there = normal(100, 100)
        y = attend(function, leaf, k, v, attn_mask=made_there, dropout_p=0.3)
        assert torch.autograd.grad(y.sum(), leaf)[0].isfinite().all()
        for shapes in (((2, 100, 0),) * 2 + ((2, 100, 5),), ((2, 100, 3),) * 2 + ((2, 100, 0),)):
            given = [torch.ones(shape) for shape in shapes]
            assert attend(function, *given, dropout_p=0.3).shape == (2, 100, shapes[2][-1])
        with torch.autocast("cpu", torch.bfloat16):
            y = attend(function, leaf, k.bfloat16(), v, dropout_p=0.3)
            y.sum().backward()
        assert y.dtype is torch.bfloat16


def test_a_mask_that_is_refilled_before_the_backward_pass():
    """As a buffer of padding is for each batch."""
    q, k, v = tensors((2, 3, 100, 8), (2, 3, 100, 8), (2, 3, 100, 8), torch.float32)
    for given in (holed(100, 100), holed(2, 1, 2, 100)[:, :, 1:].expand(2, 3, 100, 100), normal(3, 1, 100)):
        mask, leaf = given.clone(), q.clone().requires_grad_()
        y = fdt.scaled_dot_product_attention(leaf, k, v, mask, 0.3, noise_key=KEY)
        mask.zero_()
        (found,) = torch.autograd.grad(y.sum(), leaf)
        y = fdt.scaled_dot_product_attention(leaf, k, v, given, 0.3, noise_key=KEY)
        assert torch.equal(found, torch.autograd.grad(y.sum(), leaf)[0])


def test_transforms_without_a_key():
    q = normal(2, 30, 8)

    def attend(a):
        return fdt.scaled_dot_product_attention(a, a, a, dropout_p=0.5)

    assert torch.func.grad(lambda a: attend(a).sum())(q).isfinite().all()
    y = torch.vmap(attend, randomness="different")(q[:1].expand(2, 30, 8))
    assert not torch.equal(y[0], y[1])
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(attend)(q)


class Attending(torch.nn.Module):
    def forward(self, x):
        return functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_programs_are_taken_apart_as_ever():
    program = torch.export.export(Attending(), (normal(2, 70, 8),))

    def operators():
        return [str(node.target) for node in program.run_decompositions().graph.nodes]

    before = operators()
    with fdt.install():
        assert operators() == before


MEMORY = """
import sys, torch, fastdrop.torch as fdt
torch.set_num_threads(1)
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
def step(length):
    q, k, v = (torch.randn(1, 1, length, 64, requires_grad=True) for _ in range(3))
    y = fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.1, is_causal=sys.argv[1] == "causal")
    y.sum().backward()
step(512)
before = peak()
step(int(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("causal", "places", "limit"),
    [
        ("causal", 4096, 32),  # a matrix of 64 MiB
        pytest.param("causal", 8192, 64, marks=pytest.mark.slow),  # one of 256
        pytest.param("whole", 8192, 64, marks=pytest.mark.slow),
    ],
)
def test_the_matrix_is_never_whole_in_memory(causal, places, limit):
    peak = subprocess.check_output([sys.executable, "-c", MEMORY, causal, str(places)])
    assert int(peak) / 1024 < limit


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch's own look
def test_compiled_autograd():
    """It makes graphs of backward passes, and can't look into the kernel."""
    from torch._dynamo import compiled_autograd

    found = []
    for compiled in (False, True):
        inputs = [t.requires_grad_() for t in tensors((1, 300, 4), (1, 300, 4), (1, 300, 4), torch.float32)]
        y = fdt.scaled_dot_product_attention(*inputs, dropout_p=0.3, noise_key=KEY)
        if compiled:
            with compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
                y.square().sum().backward()
        else:
            y.square().sum().backward()
        found.append([t.grad for t in inputs])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_backward_frees_the_copy_of_a_mask():
    """It goes the way of saved tensors, which checkpoints and hooks know too."""
    mask, x = normal(300, 300, seed=3).float(), normal(1, 300, 4, seed=4).float().requires_grad_()
    y = fdt.scaled_dot_product_attention(x, x, x, mask, 0.3, noise_key=KEY)
    assert not [each for each in vars(y.grad_fn).values() if getattr(each, "numel", int)() >= mask.numel()]
    assert any(torch.equal(each, mask) for each in y.grad_fn.saved_tensors if each.shape == mask.shape)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        _ = y.grad_fn.saved_tensors


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("least", [0, SMALL], ids=["blocks", "formula"])
def test_slopes_that_are_not_finite_vanish_where_weights_are_dropped(value, least, monkeypatch):
    monkeypatch.setattr(_attention, "BLOCKS_FROM", least)
    q, k, v = tensors(*[(1, 1, 100, 4)] * 3)
    v[0, 0, 5] = value
    q.requires_grad_()
    fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.3, noise_key=KEY).sum().backward()
    kept = torch.from_numpy(fd.keep_mask((1, 1, 100, 100), 0.3, KEY)[0, 0, :, 5])
    assert torch.equal(q.grad[0, 0].isfinite().all(-1), ~kept)


@pytest.mark.parametrize("scale", ["1", True])
def test_the_scale_is_a_number(scale):
    q = torch.ones(2, 4, 3)
    with pytest.raises(TypeError, match=rf"^scale must be a real number, got {type(scale).__name__}"):
        fdt.scaled_dot_product_attention(q, q, q, dropout_p=0.5, scale=scale, noise_key=KEY)
