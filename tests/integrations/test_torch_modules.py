import copy
import multiprocessing
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch._keys import random_key, random_key_tensor  # noqa: E402

nn = torch.nn
NAMES = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"]
X = torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(0))
# What makes each module, and the function of arrays that it is of X.
MAKERS = {
    "Dropout": (lambda **k: fdt.Dropout(0.3, **k), fd.dropout, {}),
    "Dropout2d": (lambda **k: fdt.Dropout2d(0.3, **k), fd.dropout, {"shared_axes": (2, 3)}),
    "AlphaDropout": (lambda **k: fdt.AlphaDropout(0.3, **k), fd.alpha_dropout, {}),
    "FeatureAlphaDropout": (
        lambda **k: fdt.FeatureAlphaDropout(0.3, **k),
        fd.alpha_dropout,
        {"shared_axes": (2, 3)},
    ),
    "GaussianDropout": (lambda **k: fdt.GaussianDropout(0.3, **k), fd.gaussian_dropout, {}),
    "GaussianDropout of channels": (
        lambda **k: fdt.GaussianDropout(0.3, shared_axes=(2, 3), **k),
        fd.gaussian_dropout,
        {"shared_axes": (2, 3)},
    ),
    "GaussianNoise": (lambda **k: fdt.GaussianNoise(0.3, **k), fd.gaussian_noise, {}),
    "GaussianNoise of channels": (
        lambda **k: fdt.GaussianNoise(0.3, shared_axes=(-1, -2), **k),
        fd.gaussian_noise,
        {"shared_axes": (2, 3)},
    ),
    "DropPath": (lambda **k: fdt.DropPath(0.3, mode="batch", **k), fd.drop_path, {"mode": "batch"}),
    "DropBlock2d": (lambda **k: fdt.DropBlock2d(0.3, 2, **k), fd.drop_block, {"block_size": 2}),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param][0]


@pytest.mark.parametrize("name", MAKERS)
def test_modules_are_the_functions_with_consecutive_draws(name):
    make, function, options = MAKERS[name]
    module = make(rng=42)
    for draw in range(3):
        key = fd.Key(42, draw)
        assert module.key == key
        assert module(X).numpy().tobytes() == function(X.numpy(), 0.3, key, **options).tobytes()


# Modules that the table of features hasn't, as functions of a row under vmap.
BY_ROW = {
    "TokenDropout": lambda **k: fdt.TokenDropout(0.5, replacement=3, **k),
    "EmbeddingDropout": lambda **k: partial(fdt.EmbeddingDropout(0.5, **k), weight=torch.ones(500, 2)),
    "ConcreteDropout": lambda **k: lambda x: fdt.ConcreteDropout(0.5, **k)(x.float()),
    "InformationDropout": lambda **k: lambda x: fdt.InformationDropout(0.5, **k)(x.float()),
    "GaussianNoise": lambda **k: lambda x: fdt.GaussianNoise(0.5, **k)(x.float()),
    "Zoneout": lambda **k: lambda x: fdt.Zoneout(0.5, **k)(x.float(), torch.ones(300)),
    "StandoutDropout": lambda **k: lambda x: fdt.StandoutDropout(**k)(x.float(), torch.zeros(300)),
    "attention": lambda **_: (
        lambda x: fdt.scaled_dot_product_attention(*[x.float().view(1, 20, 15)] * 3, dropout_p=0.5)
    ),
}


@pytest.mark.parametrize("rng", [None, 1])
@pytest.mark.parametrize("name", BY_ROW)
def test_rows_under_vmap_have_the_masks_that_randomness_says(name, rng, capfd):
    drop, rows = BY_ROW[name](rng=rng), torch.arange(100, 400).expand(3, 300).clone()
    for randomness, count in (("different", 3), ("same", 1)):
        for given in (rows, rows[:, :1]):  # or what is dropped is the same for all
            of_row = drop if given is rows else lambda row: drop(rows[0]) + 0 * row
            y = torch.vmap(of_row, randomness=randomness)(given).flatten(1)
            assert len({tuple(row.tolist()) for row in y}) == count
    with pytest.raises(RuntimeError, match='use randomness="different" or "same"'):
        torch.vmap(drop)(rows)
    assert "performance" not in capfd.readouterr().err


def test_evaluation_returns_its_input_and_draws_nothing(make):
    for module in (make(rng=42).eval(), make().eval()):
        state, key = torch.get_rng_state(), module.key
        assert module(X) is X
        assert module.key == key
        assert torch.equal(torch.get_rng_state(), state)


def test_seeds_of_torch_rule_over_modules_without_their_own(make):
    first, other = make(), make()
    # several of each, because two single draws of drop_path may be alike
    draw = lambda module: torch.stack([module(X) for _ in range(16)])  # noqa: E731
    torch.manual_seed(1)
    a, b = draw(first), draw(first)
    torch.manual_seed(1)
    assert torch.equal(draw(other), a)
    assert torch.equal(draw(other), b)
    assert not torch.equal(a, b)
    torch.manual_seed(2)
    assert not torch.equal(draw(other), a)


def test_random_draws_fill_48_bits():
    torch.manual_seed(0)
    for draw in (lambda: random_key(torch.ones(1)).draw, lambda: random_key_tensor()[0].item()):
        found = np.array([draw() for _ in range(200)])
        for numbers in (found, found ^ ((1 << 48) - 1)):  # each bit is 1 in some, and 0 in some
            assert np.bitwise_or.reduce(numbers) == (1 << 48) - 1


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_draws_advance_whatever_p_is(p):
    module = fdt.Dropout(p, rng=1)
    y = module(X)
    assert module.key == fd.Key(1, 1)
    assert y is not X
    assert torch.equal(y, X * (1 - p))
    torch.manual_seed(0)
    fdt.Dropout(p)(X)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    fdt.Dropout(0.3)(X)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_refused_forward_changes_nothing():
    module = fdt.Dropout(0.3, rng=42)
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        module(torch.arange(3))
    assert module.key == fd.Key(42)


@pytest.mark.parametrize("key", [fd.Key(1, (1 << 63) - 1), fd.Key(1, (1 << 64) - 1)], ids=repr)
def test_after_the_last_draw_there_is_no_next(key):
    module = fdt.Dropout(0.3, rng=key)
    for call in (module, torch.compile(module, backend="aot_eager")):
        with pytest.raises(ValueError, match=r"draw must be in \[0, 9223372036854775808\)"):
            call(X)
        assert module.key == key
    module.key = fd.Key(1, key.draw - 1)
    assert torch.equal(module(X), fdt.dropout(X, 0.3, fd.Key(1, key.draw - 1)))
    assert module.key == key


@pytest.mark.parametrize("name", NAMES)
def test_signatures_reprs_and_errors_are_those_of_torch(name):
    ours, theirs = getattr(fdt, name), getattr(nn, name)
    assert isinstance(ours(), theirs)
    assert repr(ours(0.1, True)) == repr(theirs(0.1, True))
    assert repr(ours(inplace=True, p=0.2)) == repr(theirs(inplace=True, p=0.2))
    assert repr(ours(0.2, rng=3)) == f"{name}(p=0.2, inplace=False, rng=Key(3))"
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
            ours(p)


def test_gaussian_dropout_takes_its_deviation_or_variance_as_the_layer_does():
    for options in ({"p": 0.2}, {"std": 0.5}, {"alpha": 0.25}, {"alpha": 1e6}, {}):
        module, layer = fdt.GaussianDropout(**options, rng=1), fd.GaussianDropout(**options, rng=1)
        assert (module.p, module.std, module.alpha) == (layer.p, layer.std, layer.alpha)
        assert module(X).numpy().tobytes() == layer(X.numpy()).tobytes()
    for name, value in (("p", 0.2), ("std", 0.5), ("alpha", 0.25)):
        module.p = 0.9
        setattr(module, name, value)
        assert (module.p, module.std, module.alpha) == (0.2, 0.5, 0.25)
    with pytest.raises(ValueError, match="std must be finite and >= 0, got -1"):
        module.std = -1
    module.p = 1.0
    with pytest.raises(ValueError, match="p must be below 1"):
        module.alpha  # noqa: B018
    with pytest.raises(ValueError, match="give one of p, std and alpha, got p and std"):
        fdt.GaussianDropout(0.5, std=1.0)
    with pytest.raises(ValueError, match="alpha must be finite and >= 0, got -1"):
        fdt.GaussianDropout(alpha=-1)
    with pytest.raises(TypeError, match=r"use schedule\(step\), in a module of PyTorch"):
        fdt.GaussianDropout(fd.schedules.Constant(0.5))
    with pytest.raises(TypeError, match="p must be a real number"):
        fdt.GaussianDropout(np.full(3, 0.1))


def test_representations_have_the_shared_axes_that_there_are():
    shown = "GaussianDropout(p=0.2, inplace=False, shared_axes=(2, 3), rng=Key(1))"
    assert repr(fdt.GaussianDropout(std=0.5, shared_axes=[2, 3], rng=1)) == shown
    assert repr(fdt.GaussianNoise(shared_axes=1)) == "GaussianNoise(std=0.1, inplace=False, shared_axes=(1,))"
    assert repr(fdt.Zoneout(shared_axes=0)) == "Zoneout(p=0.5, shared_axes=(0,))"
    assert repr(fdt.ConcreteDropout(shared_axes=1)) == (
        "ConcreteDropout(p=0.1, temperature=0.1, shared_axes=(1,))"
    )
    assert repr(fdt.InformationDropout(shared_axes=1)) == "InformationDropout(alpha=0.5, shared_axes=(1,))"


def test_errors_of_the_other_modules():
    with pytest.raises(ValueError, match="p must be below 1"):
        fdt.GaussianDropout(1.0)
    with pytest.raises(TypeError, match=r"std must be a real number.*use one number, since no array"):
        fdt.GaussianNoise(np.full(3, 0.1))
    with pytest.raises(ValueError, match="std must be finite and >= 0, got -1"):
        fdt.GaussianNoise(-1)
    assert repr(fdt.GaussianNoise(2, True)) == "GaussianNoise(std=2.0, inplace=True)"
    with pytest.raises(ValueError, match="mode must be"):
        fdt.DropPath(mode="column")
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        fdt.DropBlock2d(0.1, 0)
    with pytest.raises(TypeError, match="rng must be"):
        fdt.Dropout(rng="seed")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Dropout1d", (40, 30, 3)),
        ("Dropout1d", (400, 3)),
        ("Dropout2d", (40, 30, 3, 2)),
        ("Dropout2d", (40, 30, 3)),
        ("Dropout2d", (40, 30)),
        ("Dropout2d", (40, 30, 3, 2, 2)),
        ("Dropout3d", (400,)),
        ("Dropout3d", (40, 3)),
        ("Dropout3d", (400, 3, 2)),
        ("Dropout3d", (40, 3, 2, 1, 1, 2)),
        ("Dropout3d", (40, 30, 3, 2, 2)),
        ("Dropout3d", (400, 3, 2, 2)),
        ("FeatureAlphaDropout", (40, 30)),
        ("FeatureAlphaDropout", (40, 30, 2, 2, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*dropout[23]d:UserWarning", "ignore:Dropout[23]d:UserWarning")
def test_channels_are_those_of_torch(name, shape):
    """Which elements share a draw: found from what both drop in many forwards of a tensor of ones."""
    patterns = []
    for module in (getattr(fdt, name)(0.5), getattr(nn, name)(0.5)):
        torch.manual_seed(0)
        dropped = torch.stack([module(torch.ones(shape)) for _ in range(40)]).flatten(1)
        low = dropped == dropped.min()
        # an element's first equal one tells which unit it is of
        patterns.append(torch.unique(low, dim=1, return_inverse=True)[1])
    units = [len(torch.unique(p)) for p in patterns]
    pairs = torch.unique(torch.stack(patterns), dim=1).shape[1]
    assert units[0] == units[1] == pairs


@pytest.mark.parametrize(
    ("name", "shape"),
    [("Dropout1d", (3,)), ("Dropout1d", (3,) * 4), ("Dropout2d", (3,)), ("Dropout3d", ())],
)
def test_too_few_axes_are_refused(name, shape):
    with pytest.raises(RuntimeError, match=rf"{name} needs \d axes, or \d, got shape"):
        getattr(fdt, name)()(torch.ones(shape))
    with pytest.raises(RuntimeError, match="FeatureAlphaDropout needs axes"):
        fdt.FeatureAlphaDropout()(torch.ones(3))


def test_channels_of_other_numbers_of_axes_warn():
    with pytest.warns(UserWarning, match="Dropout2d takes 3 axes"):
        fdt.Dropout2d()(torch.ones(2, 3, 4))
    with pytest.warns(UserWarning, match=r"Dropout2d is for 4 axes, or 3, got shape \(2, 3\); use Dropout"):
        fdt.Dropout2d()(torch.ones(2, 3))
    with pytest.warns(UserWarning, match=r"Dropout3d is for 5 axes, or 4, got shape \(2, 3, 4\)"):
        fdt.Dropout3d()(torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fdt.dropout(X.numpy(), 0.5, 1), "x must be a tensor, got ndarray; use torch.from_numpy"),
        (lambda: fdt.dropout([1.0], 0.5, 1), "x must be a tensor, got list"),
        (lambda: fdt.Dropout()(X.numpy()), "an input of Dropout must be a tensor, got ndarray"),
        (
            lambda: fdt.dropout(X, 0.5, torch.tensor(3)),
            r"key_tensor returns, got a tensor of torch.int64",
        ),
        (
            lambda: fdt.dropout(X, 0.5, torch.ones(2)),
            r"key_tensor returns, got a tensor of torch.float32",
        ),
        (
            lambda: fdt.dropout(X.to_sparse(), 0.5, 1),
            r"dense tensor, got torch.sparse_coo; use x.to_dense",
        ),
        (
            lambda: fdt.dropout(X, [0.5, 0.5], 1),
            r"in \[0, 1\], got list; use one number, or np.array\(p\)",
        ),
        (lambda: fdt.zoneout(X, 0.5, X, 1), "previous must be a tensor, got float; see help"),
    ],
)
def test_errors_of_what_is_no_tensor(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_in_place_changes_the_input(make):
    module, expected = make(inplace=True, rng=1), make(rng=1)(X)
    h = X.clone()
    assert module(h) is h
    assert torch.equal(h, expected)


@pytest.mark.filterwarnings("ignore:a deep copy of")
@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_on_with_the_same_masks(make, remake):
    module = make(rng=1)
    module(X)
    other = remake(module)
    assert repr(other) == repr(module)
    if remake is not copy.copy:  # a shallow copy shares its key as it shares parameters
        assert torch.equal(other(X), module(X))
        assert other.key == module.key == fd.Key(1, 2)
    assert remake(make()).key is None


@pytest.mark.filterwarnings("ignore:a deep copy of")
def test_state_is_a_tensor_and_resumes_bit_for_bit(make, tmp_path):
    module = make(rng=fd.Key(2**70, draw=2**63 + 2))
    module(X)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["_extra_state"].tolist() == [1, 3 - 2**63, 0, 2**6]  # version, draw, words of the seed
    for other in (make(rng=0), make()):
        other.load_state_dict(state)
        assert torch.equal(other(X), copy.deepcopy(module)(X))


def test_state_dicts_are_those_of_torch_without_own_keys(tmp_path):
    theirs = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.3))
    ours = nn.Sequential(nn.Linear(3, 3), fdt.Dropout(0.3))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    keyed = nn.Sequential(nn.Linear(3, 3), fdt.Dropout(0.3, rng=5))
    keyed.load_state_dict(theirs.state_dict())  # a checkpoint from before the swap
    assert keyed[1].key == fd.Key(5)
    torch.save(keyed.state_dict(), tmp_path / "state.pt")
    ours.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert ours[1].key == fd.Key(5)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "state must be a 1-D int64 tensor of version, draw and seed, got None"),
        ({"version": 1, "seed": 1, "draw": 0}, "state must be a 1-D int64 tensor"),
        (torch.tensor([1.0, 0.0, 1.0]), "state must be a 1-D int64 tensor"),
        (torch.tensor([[1, 0, 1]]), "state must be a 1-D int64 tensor"),
        (torch.tensor([1, 0]), "state must be a 1-D int64 tensor"),
        (torch.tensor([2, 0, 1]), "state must have version 1, got 2"),
    ],
)
def test_a_bad_state_is_refused_and_the_module_as_it_was(state, message):
    module = fdt.Dropout(rng=4)
    with pytest.raises(ValueError, match=message):
        module.set_extra_state(state)
    assert module.key == fd.Key(4)


class Block(nn.Module):
    def __init__(self, rng=None):
        super().__init__()
        self.a, self.b = fdt.Dropout(0.5, rng=rng), fdt.GaussianDropout(0.5, rng=rng)

    def forward(self, x):
        return self.b(self.a(x.sin()).cos()).sin()


def grads_twice(block, x, call):
    """Outputs and gradients of two calls, whose graphs both live when the second is called."""
    outputs = [call(block, x), call(block, x * 1)]
    x.grad = None
    sum(y.square().sum() for y in outputs).backward()
    return outputs, x.grad


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_recomputes_with_the_same_masks(reentrant):
    x = X.double().requires_grad_()
    calls = [lambda f, x: f(x), lambda f, x: checkpoint(f, x, use_reentrant=reentrant)]
    found = []
    for call in calls:
        torch.manual_seed(0)
        found.append(grads_twice(Block(), x, call))
    (plain, grad), (checkpointed, other) = found
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert torch.equal(grad, other)


def test_checkpoint_of_modules_with_keys_of_their_own():
    x = X.double().requires_grad_()
    block, other = Block(rng=3), Block(rng=3)
    contexts = {"use_reentrant": False, "context_fn": lambda: fdt.checkpoint_contexts(other)}
    plain, grad = grads_twice(block, x, lambda f, x: f(x))
    checkpointed, recomputed = grads_twice(other, x, lambda f, x: checkpoint(f, x, **contexts))
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert torch.equal(grad, recomputed)
    assert other.a.key == block.a.key == fd.Key(3, 2)
    y = checkpoint(other, x, **contexts)
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], first)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_without_contexts_raises_rather_than_drop_otherwise(reentrant):
    block = Block(rng=3)
    y = checkpoint(block, X.clone().requires_grad_(), use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"context_fn=lambda: fastdrop\.torch\.checkpoint_contexts"):
        y.sum().backward()


class Dropped(torch.utils.data.Dataset):
    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.module(torch.ones(1 << 12))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    fdt.Dropout()(torch.ones(1 << 23))  # in threads, which a fork doesn't have
    load = lambda module: torch.cat(  # noqa: E731
        list(
            torch.utils.data.DataLoader(
                Dropped(module),
                num_workers=1,
                multiprocessing_context=method,
                generator=torch.Generator().manual_seed(0),
            )
        )
    )
    expected = [fd.dropout(np.ones(1 << 12, np.float32), 0.5, fd.Key(1, draw)) for draw in range(4)]
    assert np.array_equal(load(fdt.Dropout(rng=1)), expected)
    if method == "spawn":  # takes some seconds for each
        return
    first = load(fdt.Dropout())  # each worker's generator has its own seed
    assert len(torch.unique(first, dim=0)) == 4
    assert torch.equal(load(fdt.Dropout()), first)


class Keys(torch.utils.data.Dataset):
    """A data set whose items are the seeds of layers' keys in the workers."""

    def __init__(self, *layers):
        self.layers = layers

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.tensor([layer.key.seed % 2**63 for layer in self.layers])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_layers_of_arrays_in_workers_of_a_data_loader(method):
    """A forked worker draws anew where nobody chose a key. A spawned one gets exact copies, by pickles."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    layers = fd.Dropout(), fd.Dropout(rng=42), fd.Dropout(rng=np.random.default_rng(1))
    seeds = Keys(*layers)[0]
    loader = torch.utils.data.DataLoader(Keys(*layers), num_workers=2, multiprocessing_context=method)
    fresh, *chosen = torch.cat(list(loader)).T
    assert all((each == seed).all() for each, seed in zip(chosen, seeds[1:], strict=True))
    assert len({*fresh.tolist(), int(seeds[0])}) == (3 if method == "fork" else 1)


def fold(worker):
    module = torch.utils.data.get_worker_info().dataset.layers[0]
    module.reseed(module.key.fold_in(worker))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.parametrize("rng", [7, np.random.default_rng(7)], ids=["int", "Generator"])
def test_modules_with_rng_are_copies_in_workers_until_they_are_reseeded(rng):
    module = nn.Sequential(nn.Dropout())
    fdt.replace_dropout(module, rng=rng)
    options = {"num_workers": 2, "multiprocessing_context": "fork"}
    alike = torch.cat(list(torch.utils.data.DataLoader(Keys(module[0]), **options)))
    assert (alike == Keys(module[0])[0]).all()
    found = torch.cat(list(torch.utils.data.DataLoader(Keys(module[0]), **options, worker_init_fn=fold)))
    assert found.flatten().tolist() == [module[0].key.fold_in(n).seed % 2**63 for n in range(2)]


FORK = """
import os, sys, torch, fastdrop.torch as fdt
torch.set_num_threads(1)
drop, x = fdt.Dropout(), torch.ones(64)
reader, writer = os.pipe()
for reseeds in (False, True):
    child = os.fork()
    if not child:
        if reseeds:
            torch.seed()
        os.write(writer, bytes((drop(x) != 0).tolist()))
        os._exit(0)
    os.waitpid(child, 0)
alike, other = os.read(reader, 64), os.read(reader, 64)
mine = bytes((drop(x) != 0).tolist())
print(alike == mine, other == mine)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_process_that_you_fork_has_the_state_of_torchs_generator():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ("True False\n", "")


def test_reseed_is_as_if_built_with_that_rng(make):
    module = make(rng=42)
    assert module.reseed(7) is module
    assert torch.equal(module(X), make(rng=7)(X))
    assert module.reseed(fd.Key(3, 5)).key == fd.Key(3, 5)
    assert module.reseed().key is None
    with pytest.raises(TypeError, match="rng must be None, an int"):
        module.reseed("7")


def test_the_docs_say_first_that_modules_of_one_seed_draw_alike():
    public = [getattr(fdt, name) for name in fdt.__all__]
    modules = [each for each in public if isinstance(each, type) and issubclass(each, nn.Module)]
    assert len(modules) > 15
    for each in modules:
        assert "\n\n    Modules of one seed draw the same noise" in each.__doc__


def test_a_deep_copy_with_rng_warns_and_says_what_to_call(make):
    module = make(rng=42)
    with pytest.warns(UserWarning, match=r"has its key, .* use copy\.reseed\(\.\.\.\)"):
        twin = copy.deepcopy(module)
    assert twin.key == module.key
    assert twin.reseed(module.key.fold_in("twin")).key != module.key


def all_dropouts():
    model = nn.ModuleDict({name: getattr(nn, name)(0.1 * i) for i, name in enumerate(NAMES)})
    model["nested"] = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5, inplace=True), model["Dropout"])
    return model.eval()


def test_every_dropout_of_torch_is_swapped_and_back():
    model = all_dropouts()
    before, modules = repr(model), list(model.modules())
    swapped = fdt.replace_dropout(model)
    assert swapped == ((*NAMES, "nested.1"), {})
    assert repr(model) == before
    assert all(type(model[name]) is getattr(fdt, name) for name in NAMES)
    assert not any(module.training for module in model.modules())
    assert fdt.replace_dropout(model) == ((), {})
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert type(copied["Dropout"]) is fdt.Dropout
    assert fdt.restore_dropout(model) == swapped
    assert all(type(model[name]) is getattr(nn, name) for name in NAMES)
    assert repr(model) == before
    assert list(model.modules()) == modules
    assert vars(model["Dropout"]) == vars(nn.Dropout(0.0).eval())


def test_a_model_that_is_a_dropout_keeps_its_hooks():
    model, calls = nn.Dropout(0.5), []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert fdt.replace_dropout(model, rng=7).names == ("",)
    assert torch.equal(model(X), fdt.dropout(X, 0.5, fd.Key(7).fold_in(0)))
    assert calls == [1]


def test_a_module_with_another_forward_is_left():
    """As libraries do that put their own around it: it would still call that of torch.nn."""
    model = nn.Sequential(nn.Dropout(0.5))
    model[0].forward = partial(model[0].forward)
    left = {"0": "Dropout has another forward than its class"}
    assert fdt.replace_dropout(model, rng=7) == fdt.Swapped((), left)
    assert type(model[0]) is nn.Dropout


@pytest.mark.parametrize("function", [fdt.replace_dropout, fdt.restore_dropout, fdt.checkpoint_contexts])
def test_what_is_no_model_is_refused(function):
    for model, got in ((nn.Dropout, "the class Dropout"), ("model", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"model must be an object of torch.nn.Module, got {got}"):
            function(model)


def test_own_keys_differ_from_module_to_module():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    fdt.replace_dropout(model, rng=1)
    assert model[0].key != model[1].key
    fdt.replace_dropout(nn.Sequential(model))  # ours already: their keys stay
    assert model[0].key == fd.Key(1).fold_in(0)
    fdt.restore_dropout(model)
    assert repr(model[0]) == repr(nn.Dropout())


class OwnDropout(nn.Dropout):
    pass


class ByFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_drop, self.drop_last, self.backdrop = 0.2, True, 0.0


def test_what_cannot_be_swapped_is_told():
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(nn.Dropout(0.1))
    model = nn.ModuleDict(
        {
            "own": OwnDropout(0.1),
            "attention": nn.MultiheadAttention(8, 2, dropout=0.1),
            "undropped": nn.MultiheadAttention(8, 2),
            "lstm": nn.LSTM(3, 3, num_layers=2, dropout=0.5),
            "function": ByFunction(),
            "script": scripted,
        }
    )
    assert fdt.replace_dropout(model) == (
        (),
        {
            "own": "OwnDropout is a class of its own",
            "attention": "MultiheadAttention drops by itself: dropout=0.1",
            "lstm": "LSTM drops by itself: dropout=0.5",
            "function": "ByFunction drops by itself: attn_drop=0.2",
            "script": "Dropout is compiled by torch.jit",
        },
    )


class _Library(nn.Module):
    """A module as another library has it, by its attributes."""

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        raise AssertionError


def of_library(name, module, **attributes):
    kind = type(name, (_Library,), {"__module__": module})
    return kind(**attributes)


IMAGES = torch.ones(4, 3, 9, 12)
# Modules of other libraries by the attributes that they have, and what ours make of images under a key.
OTHERS = {
    "timm": (
        lambda: of_library("DropPath", "timm.layers.drop", drop_prob=0.5, scale_by_keep=True),
        lambda x, key: fdt.drop_path(x, 0.5, key),
    ),
    "timm, unscaled": (
        lambda: of_library("DropPath", "timm.layers.drop", drop_prob=0.5, scale_by_keep=False),
        lambda x, key: (fdt.drop_path(x, 0.5, key) != 0) * x,
    ),
    "timm, nothing": (
        lambda: of_library("DropPath", "timm.layers.drop", drop_prob=0.0, scale_by_keep=True),
        lambda x, key: x,
    ),
    "transformers": (
        lambda: of_library("BeitDropPath", "transformers.models.beit.modeling_beit", drop_prob=0.5),
        lambda x, key: fdt.drop_path(x, 0.5, key),
    ),
    "torchvision": (
        lambda: of_library("StochasticDepth", "torchvision.ops.stochastic_depth", p=0.5, mode="batch"),
        lambda x, key: fdt.drop_path(x, 0.5, key, mode="batch"),
    ),
    "torchvision, blocks": (
        lambda: of_library(
            "DropBlock2d", "torchvision.ops.drop_block", p=0.3, block_size=3, inplace=False, eps=1e-6
        ),
        lambda x, key: fdt.drop_block(x, 0.3, key, block_size=3),
    ),
    "torchvision, blocks as large as the image": (
        lambda: of_library(
            "DropBlock2d", "torchvision.ops.drop_block", p=0.3, block_size=30, inplace=False, eps=1e-6
        ),
        lambda x, key: fdt.drop_block(x, 0.3, key, block_size=9),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_modules_of_other_libraries_that_mean_the_same_are_swapped(name):
    make, expected = OTHERS[name]
    module = make()
    theirs, attributes = type(module), dict(vars(module))
    model = nn.Sequential(module)
    assert fdt.replace_dropout(model, rng=3) == (("0",), {})
    assert torch.equal(model(IMAGES), expected(IMAGES, fd.Key(3).fold_in(0)))
    assert model.eval()(IMAGES) is IMAGES
    assert fdt.replace_dropout(model) == ((), {})
    if hasattr(module, "drop_prob"):
        model.train()[0].drop_prob = 1.0  # their name of the rate is still the one that counts
        assert not model(IMAGES).any()
        module.drop_prob = attributes["drop_prob"]
    assert fdt.restore_dropout(model.train()) == (("0",), {})
    assert type(module) is theirs
    assert vars(module) == attributes


class Attention(nn.Module):
    """It reads the rate of its dropout, as attention of many libraries does."""

    def __init__(self):
        super().__init__()
        self.dropout, self.out = nn.Dropout(0.1), nn.Dropout(0.2)

    def forward(self, q):
        y = nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=self.dropout.p)
        return self.out(y)


def test_what_drops_by_other_means_is_named_without_false_alarms():
    model = nn.ModuleDict(
        {
            "attention": Attention(),
            "patches": of_library("PatchDropout", "timm.layers.patch_dropout", prob=0.25, ordered=False),
            "blocks": of_library("DropBlock2d", "timm.layers.drop", drop_prob=0.1, block_size=7),
            "depth": of_library("StochasticDepth", "mine", p=0.1, mode="row"),
            "norm": nn.BatchNorm2d(3),
            "pool": of_library("GeMPool", "timm.layers.pool", p=0.9),
            "linear": nn.Linear(2, 2),
        }
    )
    assert fdt.replace_dropout(model) == (
        ("attention.out",),
        {
            "attention.dropout": "Attention reads its p alone, and drops by itself",
            "patches": "PatchDropout drops by itself: prob=0.25",
            "blocks": "DropBlock2d drops by itself: drop_prob=0.1",
            "depth": "StochasticDepth drops by itself: p=0.1",
        },
    )


def test_what_was_swapped_is_not_the_model():
    swapped = fdt.replace_dropout(nn.Sequential(nn.Dropout()))
    with pytest.raises(TypeError, match=r"write replace_dropout\(model\), and go on with the model"):
        swapped(X)
    with pytest.raises(AttributeError, match="Swapped has no parameters: replace_dropout"):
        swapped.parameters()


def test_modules_that_are_ours_already_get_keys():
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    fdt.replace_dropout(model)
    assert fdt.replace_dropout(model, rng=5) == (("0", "1"), {})
    assert [module.key for module in model] == [fd.Key(5).fold_in(n) for n in range(2)]
    later, _ = fdt.checkpoint_contexts(model)[::-1]
    with later:
        pass
    fdt.restore_dropout(model)
    assert vars(model[0]) == vars(nn.Dropout())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("rng", [None, 1])
def test_modules_that_drop_one_tensor_are_scripted_for_evaluation(make, rng):
    module = make(rng=rng).eval()
    script = torch.jit.script(module)
    assert torch.equal(script(X), X)
    with pytest.raises(Exception, match="restore_dropout"):
        script.train()(X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (fdt.GaussianDropout(0.3, shared_axes=(2, 3)), (X,)),
        (fdt.GaussianNoise(0.3, shared_axes=(2, 3), rng=1), (X,)),
        (fdt.InformationDropout(0.5), (X,)),
        (fdt.TokenDropout(0.5, replacement=0), (X.long(),)),
        (fdt.ConcreteDropout(0.3, rng=1), (X,)),
        (fdt.Zoneout(0.3), (X, -2 * X)),
        (fdt.Zoneout(0.3, rng=1), (X.bfloat16(), -2 * X.bfloat16())),
        (fdt.Zoneout(1, shared_axes=(2, 3)), (X * torch.nan, X)),
        (fdt.Zoneout(0.0), (X, X * torch.nan)),
        (fdt.StandoutDropout(), (X, X - 1)),
        (fdt.StandoutDropout(2.0, inverted=True, rng=1), (X, X - 1)),
    ],
    ids=str,
)
def test_other_modules_are_scripted_for_evaluation(module, inputs):
    script = torch.jit.script(module.eval())
    assert torch.equal(script(*inputs), module(*inputs))
    with pytest.raises(Exception, match="restore_dropout"):
        script.train()(*inputs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("module", [fdt.ConcreteDropout(0.3), fdt.InformationDropout(0.3, rng=1)], ids=str)
def test_torch_func_differentiates_no_learned_noise(module):
    x, name = torch.ones(200), "torch.func doesn't differentiate .*; use torch.autograd.grad"
    each = torch.vmap(torch.func.grad(lambda a: module(a).sum()), randomness="different")
    forward = torch.func.jacfwd(module, randomness="different")
    for call in (torch.func.grad(lambda a: module(a).sum()), forward, each):
        with pytest.raises(RuntimeError, match=name):
            call(x if call is not each else x[None])


def test_representations_of_stochastic_depth():
    assert repr(fdt.DropPath(0.5)) == "DropPath(p=0.5, inplace=False)"
    shown = "DropPath(p=0.5, inplace=False, mode=batch, scale_by_keep=False)"
    assert repr(fdt.DropPath(0.5, mode="batch", scale_by_keep=False)) == shown


def test_rates_of_bfloat16():
    p = torch.full((4,), 0.5, dtype=torch.bfloat16)
    assert torch.equal(fdt.dropout(torch.ones(4), p, 1), fdt.dropout(torch.ones(4), 0.5, 1))


def test_deep_copies_of_modules_with_keys_warn():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    copy.deepcopy(layer)
    fdt.replace_dropout(layer, rng=1)
    with pytest.warns(UserWarning, match="a deep copy of Dropout with rng has its key"):
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    fdt.replace_dropout(fresh := nn.TransformerEncoderLayer(8, 2, 16))
    copy.deepcopy(fresh)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layer", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_transformer_layers_train_and_evaluate_after_swapping(layer, batch_first):
    torch.manual_seed(0)
    model = layer(16, 2, 32, dropout=0.2, batch_first=batch_first)
    x = torch.randn(5, 7, 16)
    inputs = (x,) if layer is nn.TransformerEncoderLayer else (x, x)
    expected = model.eval()(*inputs)
    swapped = fdt.replace_dropout(model)
    decoder = layer is nn.TransformerDecoderLayer
    assert swapped.names == ("dropout", "dropout1", "dropout2", "dropout3")[: 3 + decoder]
    assert list(swapped.left) == ["self_attn", "multihead_attn"][: 1 + decoder]
    assert torch.equal(model(*inputs), expected)
    with torch.inference_mode():  # torch's fast path
        torch.testing.assert_close(model(*inputs), expected)
    y = model.train()(*inputs)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not torch.equal(y, expected)
    fdt.restore_dropout(model)
    assert torch.equal(model.eval()(*inputs), expected)
