"""`fastdrop.torch.install`: our kernels under PyTorch's operators, and PyTorch as it was."""

import io
import multiprocessing
import pickle
import subprocess
import sys
import threading

import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from tensors import normal  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch import _install, _keys  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "sliced": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x),
}


def by_channel(x):
    return tuple(range(2, x.dim()))


# By the operator: how torch.nn.functional calls it, and our function of the same key.
OPERATORS = {
    "dropout": (functional.dropout, lambda x, p, key: fdt.dropout(x, p, key)),
    "feature_dropout": (functional.dropout2d, lambda x, p, key: fdt.dropout(x, p, key, shared_axes=(2, 3))),
    "alpha_dropout": (functional.alpha_dropout, lambda x, p, key: fdt.alpha_dropout(x, p, key)),
    "feature_alpha_dropout": (
        functional.feature_alpha_dropout,
        lambda x, p, key: fdt.alpha_dropout(x, p, key, shared_axes=by_channel(x)),
    ),
}


@pytest.fixture
def install():
    with fdt.install() as handle:
        yield handle
    assert not fdt.installed()


@pytest.fixture
def drawn(monkeypatch):
    """The keys that our kernels drew, one for each call that was ours."""
    draws = []

    def draw():
        draws.append(random_draw())
        return draws[-1]

    random_draw = _keys.random_draw
    monkeypatch.setattr(_keys, "random_draw", draw)
    return draws


def key(draws):
    return fd.Key(_keys.SEED, draws[-1])


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_calls_have_our_bits_and_gradients(name, dtype, layout, drawn):
    theirs, ours = OPERATORS[name]
    x = LAYOUTS[layout](normal(4, 8, 6, 10, dtype=dtype))
    for p in (0.1, 0.5):
        y = theirs(x, p, True)
        assert torch.equal(y, ours(x, p, key(drawn)))
        leaf = x.detach().clone().requires_grad_()
        z = theirs(leaf, p, True)
        (g,) = torch.autograd.grad(z.sum(), leaf)
        again = x.detach().clone().requires_grad_()
        (expected,) = torch.autograd.grad(ours(again, p, key(drawn)).sum(), again)
        assert torch.equal(g, expected)
    assert len(drawn) == 4


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize("name", OPERATORS)
def test_in_place_forms(name, drawn):
    theirs, ours = OPERATORS[name]
    x = normal(4, 8, 6, 10)
    y = x.clone()
    version = y._version
    assert theirs(y, 0.5, True, inplace=True) is y
    assert y._version > version
    assert torch.equal(y, ours(x, 0.5, key(drawn)))
    leaf = x.clone().requires_grad_()
    z = leaf * 1
    (g,) = torch.autograd.grad(theirs(z, 0.5, True, inplace=True).sum(), leaf)
    assert len(drawn) == 2
    (expected,) = torch.autograd.grad(ours(other := x.clone().requires_grad_(), 0.5, key(drawn)).sum(), other)
    assert torch.equal(g, expected)
    with torch.inference_mode():
        inner = x * 1
        assert torch.equal(theirs(inner, 0.5, True, inplace=True), ours(x, 0.5, key(drawn)))


def message(call):
    """The error of a call, or its result."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error).partition("\n")[0]


@pytest.mark.parametrize("name", OPERATORS)
def test_errors_are_torchs(name, drawn):
    theirs, _ = OPERATORS[name]
    x = normal(2, 3, 20, 20)
    with torch.inference_mode():
        made_there = x * 1
    calls = (
        lambda: theirs(x, -0.1, True),
        lambda: theirs(x, 1.5, True),
        lambda: theirs(x, float("nan"), True),
        lambda: theirs(x.long(), 0.5, True),
        lambda: theirs(x.clone().requires_grad_(), 0.5, True, inplace=True),
        lambda: theirs(x[:1].expand_as(x), 0.5, True, inplace=True),
        lambda: theirs((x.clone().requires_grad_() * 1).unbind()[0], 0.5, True, inplace=True),
        lambda: theirs(made_there, 0.5, True, inplace=True),
        lambda: theirs(x.to(torch.complex64), 0.5, True),
        lambda: theirs([1.0], 0.5, True),
    )
    before = [message(call) for call in calls]
    with fdt.install():
        after = [message(call) for call in calls]
    assert sum(isinstance(each, tuple) for each in before) >= 7
    assert after == before
    assert not drawn


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize("name", OPERATORS)
def test_what_draws_nothing_is_as_torch_has_it(name, drawn):
    theirs, _ = OPERATORS[name]
    x = normal(2, 8, 20, 20)
    state = torch.get_rng_state()
    assert theirs(x, 0.5, False) is x
    assert torch.equal(theirs(x, 0.0, True), x)
    assert torch.equal(theirs(x, 1.0, True) == 0, torch.ones_like(x, dtype=bool)) or "alpha" in name
    assert theirs(x[:0], 0.5, True).shape == (0, 8, 20, 20)
    assert not drawn
    assert "alpha" in name or torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_not_ours_has_torchs_bits(name, drawn):
    theirs, _ = OPERATORS[name]
    calls = {
        "few elements": lambda: theirs(normal(1, 7, 11, 13)[:, :, :, :13], 0.5, True),
        "a view in place": lambda: theirs(normal(2, 8, 20, 20)[1:], 0.5, True, inplace=True),
        "not contiguous in place": lambda: theirs(
            normal(8, 2, 20, 20).transpose(0, 1), 0.5, True, inplace=True
        ),
    }
    for what, call in calls.items():
        torch.manual_seed(1)
        before = call()
        with fdt.install():
            torch.manual_seed(1)
            assert torch.equal(call(), before), what
    assert not drawn


def test_one_threshold_whether_gradients_are_wanted_or_not(install, drawn):
    """Else the two forwards of a checkpoint would have different masks."""
    for size in (_install._FROM - 1, _install._FROM):
        drawn.clear()
        functional.dropout(torch.ones(size), 0.5)
        functional.dropout(torch.ones(size, requires_grad=True), 0.5)
        with torch.inference_mode():
            functional.dropout(torch.ones(size), 0.5)
        assert len(drawn) == (3 if size >= _install._FROM else 0)


# Where dropout hides: a model, and how many calls of one forward in training are ours.
HIDDEN = {
    "nn.MultiheadAttention": (lambda: nn.MultiheadAttention(32, 4, dropout=0.5), (64, 3, 32), 3, 1),
    "nn.TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(32, 4, 64, 0.5), (64, 3, 32), 1, 4),
    "nn.TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(32, 4, 64, 0.5), (64, 3, 32), 2, 6),
    "nn.LSTM": (lambda: nn.LSTM(32, 32, 3, dropout=0.5), (64, 3, 32), 1, 2),
    "nn.GRU": (lambda: nn.GRU(32, 32, 3, dropout=0.5), (64, 3, 32), 1, 2),
    "nn.RNN": (lambda: nn.RNN(32, 32, 2, dropout=0.5), (64, 3, 32), 1, 1),
    "script": (
        lambda: torch.jit.script(nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5))),
        (64, 3, 32),
        1,
        1,
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:enable_nested_tensor is True")
def test_dropout_is_ours_wherever_it_hides(name, install, drawn):
    make, shape, inputs, count = HIDDEN[name]
    torch.manual_seed(0)
    model, x = make(), normal(*shape)

    def run():
        y = model(*[x] * inputs)
        return y[0] if isinstance(y, tuple) else y

    y = run()
    assert len(drawn) == count
    torch.manual_seed(5)
    again = run()
    again.sum().backward()
    assert not torch.equal(y, again)
    torch.manual_seed(5)
    assert torch.equal(run(), again)
    evaluated = model.eval()
    drawn.clear()
    mine = run()
    install.remove()
    assert torch.equal(mine, run())
    assert not drawn
    assert evaluated is model


def test_scaled_dot_product_attention(install, drawn):
    q = normal(2, 4, 32, 16).requires_grad_()
    for causal in (False, True):
        torch.manual_seed(3)
        y = functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5, is_causal=causal)
        weights = (q @ q.transpose(-1, -2) / 4).masked_fill(
            torch.ones(32, 32, dtype=bool).triu(1) & causal, -torch.inf
        )
        expected = fdt.dropout(weights.softmax(-1), 0.5, key(drawn)) @ q
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(*(torch.autograd.grad(z.square().sum(), q)[0] for z in (y, expected)))


def test_the_fast_path_of_evaluation_stays(install):
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.5, batch_first=True), 2).eval()
    x = normal(3, 40, 32)
    with torch.inference_mode(), torch.profiler.profile() as profile:
        y = model(x)
    assert "aten::_transformer_encoder_layer_fwd" in {event.key for event in profile.key_averages()}
    install.remove()
    with torch.inference_mode():
        assert torch.equal(model(x), y)


def test_profiles_show_the_operator(install):
    with torch.profiler.profile() as profile:
        functional.dropout(torch.ones(5000), 0.5)
    assert "aten::dropout" in {event.key for event in profile.key_averages()}


def test_an_untouched_model_is_pickled_and_saved_as_ever(install):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    assert type(pickle.loads(pickle.dumps(model))[1]) is nn.Dropout
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert list(torch.load(io.BytesIO(file.getvalue()))) == ["0.weight", "0.bias"]


def test_a_generator_forked_and_set_back_gives_the_same_mask(install):
    x = torch.ones(5000)
    with torch.random.fork_rng():
        y = functional.dropout(x, 0.5)
    assert torch.equal(functional.dropout(x, 0.5), y)


def test_twice_is_once_and_removed_is_removed():
    x = torch.ones(5000)
    torch.manual_seed(1)
    theirs = functional.dropout(x, 0.5)
    outer = fdt.install()
    assert repr(outer) == "<fastdrop.torch installed>"
    with fdt.install() as inner:
        assert inner is not outer
    assert fdt.installed()  # as it was before the inner block
    torch.manual_seed(1)
    assert not torch.equal(functional.dropout(x, 0.5), theirs)
    outer.remove()
    outer.remove()
    assert not fdt.installed()
    assert repr(inner) == "<fastdrop.torch not installed>"
    torch.manual_seed(1)
    assert torch.equal(functional.dropout(x, 0.5), theirs)
    with pytest.raises(ZeroDivisionError), fdt.install():
        raise ZeroDivisionError
    assert not fdt.installed()
    for _ in range(3):
        with fdt.install():
            assert fdt.installed()


def test_another_librarys_kernels_stay():
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("feature_dropout", lambda x, p, train: x + 7, "AutogradCPU")
        with pytest.raises(RuntimeError, match=r"PyTorch's feature_dropout; install\(\) needs"):
            fdt.install()
        assert not fdt.installed()
        assert torch.equal(functional.dropout2d(torch.zeros(1, 2, 3, 4)), torch.full((1, 2, 3, 4), 7.0))
    finally:
        library._destroy()
    with fdt.install():
        assert fdt.installed()


def test_threads_install_at_once():
    handles = []
    threads = [threading.Thread(target=lambda: handles.append(fdt.install())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 8
    assert sum(handle._began for handle in handles) == 1
    handles[0].remove()
    assert not fdt.installed()


def _first_zeros(queue):
    with fdt.install():
        torch.manual_seed(4)
        queue.put((functional.dropout(torch.ones(5000), 0.5) == 0).nonzero()[:5, 0].tolist())


def test_a_spawned_process_installs_for_itself(install):
    torch.manual_seed(4)
    here = (functional.dropout(torch.ones(5000), 0.5) == 0).nonzero()[:5, 0].tolist()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_first_zeros, args=(queue,))
    child.start()
    assert queue.get(timeout=120) == here
    child.join()


def test_nothing_is_left_for_graphs_that_come_later():
    """PyTorch remembers the kernels of an operator that was compiled while ours were there."""
    program = """
import warnings, torch, fastdrop.torch as fdt

def compiled():
    torch._dynamo.reset()
    x = torch.randn(4096, requires_grad=True)
    torch.compile(torch.nn.Dropout(0.5), backend="aot_eager")(x).sum().backward()

with fdt.install():
    compiled()
warnings.filterwarnings("error", "aten::dropout")
compiled()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
