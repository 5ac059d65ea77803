import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from tensors import needs_compiler  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch import _keys  # noqa: E402

nn = torch.nn
KEY = fd.Key(42, draw=7)
X = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=needs_compiler)]
# what torch's compilers themselves still call
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:a deep copy of",
    "ignore:The PyTorch API of nested tensors",
)


def test_who_compiles_nothing_waits_for_no_compiler():
    script = "import sys, fastdrop.torch; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model(rng=None):
    return nn.Sequential(
        fdt.Dropout(0.5, rng=rng),
        fdt.Dropout2d(0.2, rng=rng),
        nn.ELU(),
        fdt.GaussianDropout(0.3, rng=rng),
        fdt.AlphaDropout(0.2, inplace=True, rng=rng),
        fdt.DropPath(0.1, rng=rng),
        fdt.DropBlock2d(0.1, 2, rng=rng),
        fdt.GaussianNoise(0.1, shared_axes=1, rng=rng),
    )


def output_and_gradient(function, seed):
    torch.manual_seed(seed)
    x = X.clone().requires_grad_()
    y = function(x)
    return y, torch.autograd.grad((y * X).sum(), x)[0]


def test_an_array_of_rates_is_refused_in_a_graph():
    compiled = torch.compile(lambda x, p: fdt.dropout(x, p, KEY), backend="eager")
    for p in (torch.full((5,), 0.3), torch.full((5,), 0.3).numpy()):
        with pytest.raises(TypeError, match="takes one number, got an array"):
            compiled(X, p)


@pytest.mark.parametrize("backend", BACKENDS)
def test_modules_with_keys_give_what_they_give_in_eager_mode(backend):
    eager = model(rng=3)
    other = copy.deepcopy(eager)
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for draw in range(3):
            for a, b in zip(*(output_and_gradient(f, 0) for f in (eager, compiled)), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            assert other[0].key == eager[0].key == fd.Key(3, draw + 1)


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_torchs_generator_gives_what_it_gives_in_eager_mode(backend):
    eager = model()
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend=backend)
    for seed in range(3):
        for a, b in zip(*(output_and_gradient(f, seed) for f in (eager, compiled)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_have_the_mask_of_their_output(backend, checkpointed):
    if checkpointed and backend == "eager":
        pytest.skip("torch's own dropout has other masks there too")
    linear = nn.Sequential(fdt.Dropout(0.5), fdt.Dropout(0.5), fdt.GaussianDropout(0.5))
    function = (lambda x: checkpoint(linear, x, use_reentrant=False)) if checkpointed else linear
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for seed in range(2):
        y, grad = output_and_gradient(compiled, seed)
        torch.testing.assert_close(y * X, X * grad)  # y = n x, and the gradient of n x X is n X
        again, _ = output_and_gradient(compiled, seed)
        assert torch.equal(y, again)


def test_a_checkpoint_of_modules_with_keys_raises_rather_than_drop_otherwise():
    module = fdt.Dropout(0.5, rng=1)
    function = lambda x: checkpoint(module, x, use_reentrant=False)  # noqa: E731
    y = torch.compile(function, fullgraph=True, backend="aot_eager")(X.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="or leave rng out"):
        y.sum().backward()


def test_functions_in_a_graph():
    def function(x, key):
        y = fdt.dropout_add(fdt.dropout(x, 0.5, key, shared_axes=(2, 3)), x, 0.5, key)
        return fdt.bias_act_dropout(y, x[0, 0, 0], 0.5, key, activation="silu", residual=x)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for key in (KEY, 5):
        torch.testing.assert_close(compiled(X, key), function(X, key), rtol=1e-6, atol=1e-6)
    keys = [fdt.key_tensor(fd.Key(seed)) for seed in range(4)]
    compiled(X, keys[0])
    with torch._dynamo.config.patch(error_on_recompile=True):
        for key in keys:
            torch.testing.assert_close(compiled(X, key), function(X, key), rtol=1e-6, atol=1e-6)


def test_a_swapped_model_compiles_and_evaluates():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    layer.self_attn.dropout = 0.0
    fdt.replace_dropout(layer, rng=1)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 4, 8)
    torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(compiled.eval()(x), layer.eval()(x))


def test_errors_of_a_graph_are_those_of_eager_mode():
    compiled = torch.compile(fdt.dropout, fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        compiled(X, 1.5, KEY)


RENEWED = {
    "key": lambda m: setattr(m, "key", fd.Key(7)),
    "reseed": lambda m: m.reseed(7),
    "state": lambda m: m.load_state_dict(fdt.Dropout(rng=7).state_dict()),
    "replace": lambda m: fdt.replace_dropout(m, rng=7),
}


@pytest.mark.parametrize("renew", RENEWED)
def test_a_key_that_is_set_in_inference_mode_counts_in_a_graph_later(renew):
    module = fdt.Dropout(0.5, rng=1)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    compiled(X)
    with torch.inference_mode():
        RENEWED[renew](module)
        first = module.key
        module(X)
    x = X.clone().requires_grad_()
    y = compiled(x)
    assert torch.equal(y, fdt.dropout(X, 0.5, first.next()))
    y.sum().backward()
    assert torch.equal(x.grad, fdt.dropout(torch.ones_like(X), 0.5, first.next()))


def test_what_is_made_in_inference_mode_is_compiled_and_trained_later():
    with torch.inference_mode():
        module, key = fdt.Dropout(0.5, rng=1), fdt.key_tensor(KEY)
        with pytest.warns(UserWarning, match="deep copy"):
            twin = copy.deepcopy(module)
        loaded = pickle.loads(pickle.dumps(module))
    for each in (module, twin, loaded, lambda x: fdt.dropout(x, 0.5, key)):
        x = X.clone().requires_grad_()
        y = torch.compile(each, backend="aot_eager", fullgraph=True)(x)
        y.sum().backward()
        assert torch.equal(x.grad * X, y)


@pytest.mark.parametrize("p", [[0.5], (0.5,), None, "a", True], ids=str)
def test_what_is_no_rate_is_refused_by_us_in_a_graph_too(p):
    calls = {
        "dropout": lambda x: fdt.dropout(x, p, KEY),
        "token_dropout": lambda x: fdt.token_dropout(x.long(), p, KEY, replacement=0),
    }
    for name, call in calls.items():
        with pytest.raises(
            TypeError, match=rf"^{name} takes real numbers, got {type(p).__name__} .*; use one"
        ):
            torch.compile(call, backend="eager")(X)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_a_nested_tensor_is_no_key(layout):
    key = torch.nested.nested_tensor([torch.zeros(2, dtype=torch.int64)], layout=layout)
    calls = (
        lambda key: fdt.dropout(X, 0.5, key),
        lambda key: fdt.concrete_dropout(X, torch.zeros(()), key),
        lambda key: fdt.token_dropout(X.long(), 0.5, key, replacement=0),
    )
    for call in calls:
        for each in (call, torch.compile(call, backend="eager")):
            with pytest.raises(TypeError, match=r"^key must be .*, got a nested tensor of torch.int64$"):
                each(key)


def test_a_key_tensor_is_made_in_a_graph():
    compiled = torch.compile(
        lambda x: fdt.dropout(x, 0.5, fdt.key_tensor(KEY)), backend="aot_eager", fullgraph=True
    )
    for mode in (False, True):
        with torch.inference_mode(mode):
            assert torch.equal(compiled(X), fdt.dropout(X, 0.5, KEY))


def test_the_operators_are_what_torch_demands_of_operators():
    for x in (X, X.to(memory_format=torch.channels_last), X[:, ::2], X[:1].expand(4, 6, 5, 5)):
        arguments = (x.clone().requires_grad_(), None, fdt.key_tensor(KEY), "dropout", [0.5], [2, 3])
        torch.library.opcheck(torch.ops.fastdrop.noise.default, arguments)
    torch.library.opcheck(torch.ops.fastdrop.next_key.default, (fdt.key_tensor(KEY),))


def test_fake_tensors_pass_through_modules():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        x = mode.from_tensor(X)
        for rng in (None, 1):
            y = model(rng)(x)
            assert (y.shape, y.stride(), y.dtype) == (X.shape, X.stride(), X.dtype)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which torch.compile itself reads, and hides
@pytest.mark.parametrize("rng", [None, 1])
def test_no_mask_is_drawn_again_in_a_backward_pass(rng):
    """With a budget of 0 compilers repeat what they can: torch.nn's own drops otherwise then, silently."""
    drop, x = fdt.Dropout(0.5, rng=rng), torch.linspace(0.3, 0.8, 2000, requires_grad=True)
    compiled = torch.compile(lambda x: drop(x.sin()).cos().sin(), backend="aot_eager_decomp_partition")
    for budget in (0.0, 1.0):
        torch._dynamo.reset()
        with torch._functorch.config.patch(activation_memory_budget=budget):
            y = compiled(x)
            (g,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(g != 0, (y - torch.ones(()).sin()).abs() > 1e-6)


def test_attention_draws_no_mask_again_in_a_backward_pass():
    q, v = torch.rand(2, 8, 4), torch.eye(8).expand(2, 8, 8).clone().requires_grad_()
    compiled = torch.compile(
        lambda v: fdt.scaled_dot_product_attention(q, q, v, dropout_p=0.5), backend="aot_eager"
    )
    with torch._functorch.config.patch(activation_memory_budget=0.0):
        y = compiled(v)
        (g,) = torch.autograd.grad(y.sum(), v)
    torch.testing.assert_close(g, y.mT.sum(-1, True).expand(g.shape))  # the values are the identity


def test_a_draw_that_another_compiler_repeats_is_refused():
    from functorch.compile import aot_function, min_cut_rematerialization_partition, nop

    drop, x = fdt.Dropout(0.5), torch.linspace(0.3, 0.8, 2000, requires_grad=True)
    torch.manual_seed(9876)  # draws that no other test made
    with torch._functorch.config.patch(activation_memory_budget=0.0):
        y = aot_function(drop, nop, nop, partition_fn=min_cut_rematerialization_partition)(x)
        with pytest.raises(RuntimeError, match="drew the mask of dropout again"):
            y.sum().backward()


@pytest.mark.parametrize("rng", [None, 1])
def test_graphs_under_vmap_have_a_key_for_each_row(rng):
    from torch.fx.experimental.proxy_tensor import make_fx

    drop, x = fdt.Dropout(0.5, rng=rng), torch.ones(500)
    graph = make_fx(torch.vmap(lambda row: drop(x) * row, randomness="different"))(torch.ones(3))
    assert len({tuple(row.tolist()) for row in graph(torch.ones(3))}) == 3
    with pytest.raises(RuntimeError, match='use randomness="different" or "same"'):
        make_fx(torch.vmap(drop))(torch.ones(3, 500))
    key, y = drop.key, graph(torch.ones(3))
    assert rng is None or torch.equal(y[1], fdt.dropout(x, 0.5, key.fold_in(1)))


@pytest.mark.parametrize(
    "call",
    [
        fdt.dropout,
        lambda x, p, key: fdt.dropout_add(x, x, p, key),
        lambda x, p, key: fdt.bias_act_dropout(x, x.detach()[0], p, key, activation="gelu"),
        lambda x, p, key: fdt.zoneout(x, x.detach(), p, key),
    ],
    ids=["dropout", "dropout_add", "bias_act_dropout", "zoneout"],
)
def test_compiled_autograd_of_rates_in_an_array(call):
    rates, found = torch.linspace(0.1, 0.9, 8), []
    for context in (
        nullcontext(),
        torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")),
    ):
        x = torch.linspace(-1, 1, 32).reshape(4, 8).requires_grad_()
        y = call(x, rates, KEY)
        with context:
            y.sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)


def test_threads_may_draw_keys_of_graphs_at_once(monkeypatch):
    """The oldest draws are forgotten; two threads must not forget the same one."""
    monkeypatch.setattr(_keys, "_REMEMBERED", 8)
    monkeypatch.setattr(_keys, "_drawn", type(_keys._drawn)())
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            draws = [torch.tensor([draw]) for draw in range(8000)]
            assert len(list(pool.map(_keys._drawn_key, draws))) == len(draws)
    finally:
        sys.setswitchinterval(before)
    assert len(_keys._drawn) <= 8
