"""Listed draws of tensors (rows, indices, offsets): against functions of arrays, in graphs, in modules."""

import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from every_noise import arguments, backward_arguments  # noqa: E402
from tensors import normal, same, to_array  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop._noises._noise import NOISES  # noqa: E402

KEY = fd.Key(42)
IDS = [9, 0, 4, 9, 1 << 20]
LISTED = ("rows", "indices", "offsets")
FUNCTIONS = [noise for noise in NOISES.values() if noise.has_function and "torch function" not in noise.lacks]
ROWS = [noise for noise in FUNCTIONS if noise.takes("rows")]
LEARNED = ("concrete_dropout", "information_dropout")  # these have first derivatives only
LINEAR = [noise.name for noise in ROWS if noise.name not in (*LEARNED, "token_dropout")]
by_rows = pytest.mark.parametrize("noise", ROWS, ids=lambda noise: noise.name)


def as_tensors(noise, given):
    """The arguments of a noise as tensors, whose floats get gradients; a learned number is one too."""
    found = {n: torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for n, a in given.items()}
    if noise.name == "concrete_dropout":
        found["logit"] = torch.tensor(given["logit"], dtype=torch.float64)
    for a in found.values():
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            a.requires_grad_()
    return found


def test_functions_take_what_those_of_arrays_take():
    for noise in FUNCTIONS:
        parameters = inspect.signature(getattr(fdt, noise.name)).parameters
        assert [n for n in LISTED if n in parameters] == [n for n in LISTED if noise.takes(n)]
    assert len(ROWS) > 11
    assert "rows" in inspect.signature(fdt.scaled_dot_product_attention).parameters


@pytest.mark.parametrize(
    ("noise", "listed"),
    [(noise, listed) for noise in ROWS for listed in LISTED if noise.takes(listed)],
    ids=lambda value: getattr(value, "name", value),
)
def test_bits_and_gradients_are_those_of_arrays(noise, listed):
    shape = {"rows": (5, 40), "indices": (5, 7), "offsets": (60,)}[listed]
    numbers = {"rows": np.array(IDS), "indices": np.arange(35)[::-1].reshape(5, 7) * 3 + 1}.get(
        listed, np.array([0, 20, 20, 60])
    )
    given = arguments(noise, shape)
    tensors = as_tensors(noise, given)
    y = getattr(fdt, noise.name)(**tensors, key=KEY, **{listed: torch.from_numpy(numbers)})
    expected = noise.function(**given, key=KEY, **{listed: numbers})
    assert same(y, expected)
    assert not same(y, noise.function(**given, key=KEY))
    if noise.backward is None:
        return
    g = to_array(normal(*shape, seed=9))
    y.backward(torch.from_numpy(g))
    dx = noise.backward(**backward_arguments(noise, given, g), key=KEY, **{listed: numbers})
    dx = list(dx) if isinstance(dx, tuple) else [dx]
    found = [t.grad for t in tensors.values() if isinstance(t, torch.Tensor) and t.requires_grad]
    if noise.name == "standout_dropout":
        assert found.pop() is None  # as of arrays, pre-activations get none
    for ours, theirs in zip(found, dx, strict=False):
        if np.ndim(theirs) == len(shape):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-7)
        else:  # sums
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4)
    assert same(found[0], dx[0])


@by_rows
def test_rows_belong_to_samples(noise):
    """A sample has one mask in any batch, and a batch has copies of the integers that it was given."""
    given = arguments(noise, (5, 40))
    function, order = getattr(fdt, noise.name), [3, 1, 4]
    whole = function(**as_tensors(noise, given), key=KEY, rows=IDS)
    some = {n: a[order] if np.ndim(a) == 2 else a for n, a in given.items()}
    ids = torch.tensor(IDS)[order]
    part = function(**as_tensors(noise, some), key=KEY, rows=ids)
    assert torch.equal(part, whole[order])


def call(name, **options):
    """A linear noise as a function of tensors."""
    noise = NOISES[name]
    given = as_tensors(noise, arguments(noise, (3, 4), np.float64))
    names = [n for n, a in given.items() if isinstance(a, torch.Tensor) and n != "a"]
    options = {n: a.detach() if n == "a" else a for n, a in given.items() if n not in names} | options
    function = getattr(fdt, name)
    return lambda *tensors: function(**dict(zip(names, tensors, strict=True)), **options, key=KEY), [
        given[n] for n in names
    ]


@pytest.mark.parametrize("name", LINEAR)
def test_first_and_second_derivatives_in_float64(name):
    function, tensors = call(name, rows=[7, 1, 7])
    squares = lambda *tensors: function(*tensors) ** 2  # noqa: E731
    assert torch.autograd.gradcheck(squares, tensors)
    assert torch.autograd.gradgradcheck(squares, tensors)


@pytest.mark.parametrize("name", LEARNED)
def test_first_derivatives_where_there_are_no_others(name):
    x = normal(3, 4, dtype=torch.float64).requires_grad_()
    number = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    options = {"temperature": 0.7} if name == "concrete_dropout" else {}
    function = lambda x, number: getattr(fdt, name)(x, number, KEY, rows=[7, 1, 7], **options)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, number))
    dx = torch.autograd.grad(function(x, number).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="has first derivatives only"):
        dx.sum().backward()


@pytest.mark.parametrize("name", LINEAR)
def test_transforms(name):
    """Under vmap each call has rows of its own batch; batches of gradients are refused."""
    function, tensors = call(name, rows=[7, 1, 7])
    if name == "local_reparameterization":
        tensors = [t.detach() for t in tensors]
    batches = [torch.stack([t, 2 * t]) for t in tensors]
    together = torch.func.vmap(function)(*batches)
    assert torch.equal(together, torch.stack([function(*row) for row in zip(*batches, strict=True)]))
    first, *others = (t.detach() for t in tensors)
    slope = torch.func.grad(lambda t: (function(t, *others) ** 2).sum())(first)
    first.requires_grad_()
    y = function(first, *others)
    assert torch.equal(slope, torch.autograd.grad((y**2).sum(), first, retain_graph=True)[0])
    if name in ("gaussian_noise", "local_reparameterization"):
        return  # their gradient is what came in
    with pytest.raises(RuntimeError, match=r"batched gradients can't have listed draws \(rows"):
        torch.autograd.grad(y, first, torch.ones(2, *y.shape), is_grads_batched=True)


@pytest.mark.parametrize("name", LEARNED)
def test_transforms_that_are_refused(name):
    x, number = normal(3, 4).requires_grad_(), torch.tensor(0.3)
    function = lambda x: getattr(fdt, name)(x, number, KEY, rows=[7, 1, 7])  # noqa: E731
    gradient = torch.func.grad(lambda x: function(x).sum())
    for transformed, given in ((gradient, x.detach()), (torch.func.vmap(function), x.detach()[None])):
        with pytest.raises(RuntimeError, match=r"can't have listed draws .*; use torch\.autograd\.grad"):
            transformed(given)
    y = function(x)
    with pytest.raises(RuntimeError, match=r"batched gradients can't have listed draws \(rows"):
        torch.autograd.grad(y, x, torch.ones(2, *y.shape), is_grads_batched=True)


@by_rows
def test_graphs_refuse_them(noise):
    given = {
        n: torch.empty_like(a, device="meta") if isinstance(a, torch.Tensor) else a
        for n, a in as_tensors(noise, arguments(noise, (5, 40))).items()
    }
    with pytest.raises(TypeError, match=r"in a graph the draws can't be listed .* torch\.compiler\.disable"):
        getattr(fdt, noise.name)(**given, key=KEY, rows=IDS)


@pytest.mark.parametrize("reentrant", [True, False])
def test_under_checkpoint(reentrant):
    x = normal(5, 40).requires_grad_()
    bias = normal(40, seed=1).requires_grad_()
    block = lambda x: fdt.bias_act_dropout(x.exp(), bias, 0.4, KEY, rows=IDS).sin()  # noqa: E731
    plain = torch.autograd.grad(block(x).sum(), (x, bias))
    checkpoint(block, x, use_reentrant=reentrant).sum().backward()
    assert torch.equal(plain[0], x.grad)
    assert torch.equal(plain[1], bias.grad)


def test_layouts_and_steps():
    """What fused passes can't take goes step by step, with the same mask."""
    x = normal(5, 6, 4, 3)
    image = x.to(memory_format=torch.channels_last)
    for shared in ((), (2, 3)):
        options = {"shared_axes": shared, "rows": IDS}
        fused = fdt.dropout_add(x, 2 * x, 0.4, KEY, **options)
        assert torch.equal(fdt.dropout_add(image, 2 * x, 0.4, KEY, **options), fused)
        assert torch.equal(fused, 2 * x + fdt.dropout(x, 0.4, KEY, **options))
        fused = fdt.bias_act_dropout(x, None, 0.4, KEY, residual=x, **options)
        assert torch.equal(fdt.bias_act_dropout(image, None, 0.4, KEY, residual=x, **options), fused)
    rates = torch.linspace(0, 0.9, 5)[:, None, None, None]
    y = fdt.dropout_add(x, x, rates, KEY, rows=IDS)
    assert same(y, fd.dropout_add(x.numpy(), x.numpy(), rates.numpy(), KEY, rows=IDS))


HOSTILE = [
    ([0, 1, -1], ValueError, r"rows must be in \[0, \d+\), got -1"),
    ([0, 1, 1 << 62], ValueError, r"rows must be in \[0, \d+\), got 4611686018427387904"),
    (np.array([0, 1, 1 << 63], np.uint64), ValueError, r"rows must be in \[0, \d+\), got"),
    ([0, 1, 1 << 70], ValueError, r"rows must be below 2\*\*63"),
    (torch.tensor([0.0, 1.0, 2.0]), TypeError, "rows must be integers, got float32"),
    (torch.tensor([True, False, True]), TypeError, "rows must be integers, got bool"),
    (torch.arange(2), ValueError, r"rows must have the shape \(3,\), got \(2,\)"),
    (torch.arange(4), ValueError, r"rows must have the shape \(3,\), got \(4,\)"),
    (torch.arange(3)[None], ValueError, r"rows must have the shape \(3,\), got \(1, 3\)"),
    (torch.tensor(3), ValueError, r"rows must have the shape \(3,\), got \(\)"),
    (np.ma.masked_array([0, 1, 2], [0, 1, 0]), TypeError, "rows must be integers, got a masked array"),
    ("abc", TypeError, "rows must be integers"),
]


@by_rows
def test_what_is_refused(noise):
    given = as_tensors(noise, arguments(noise, (3, 4)))
    for rows, error, message in HOSTILE:
        if noise.name == "drop_path" and str(1 << 62) in message:
            continue  # its rows have one draw each, and so may have any number below 2**63
        with pytest.raises(error, match=message):
            getattr(fdt, noise.name)(**given, key=KEY, rows=rows)


@pytest.mark.parametrize(("rows", "error", "message"), HOSTILE, ids=[str(rows) for rows, *_ in HOSTILE])
def test_what_modules_refuse_changes_nothing(rows, error, message):
    x = torch.ones(3, 4)
    for module in (fdt.Dropout(0.5, True, rng=3), fdt.GaussianNoise(0.5, True, rng=3)):
        with pytest.raises(error, match=message):
            module(x, rows=rows)
        assert module.key == fd.Key(3)
        assert (x == 1).all()


def test_two_ways_at_once():
    with pytest.raises(ValueError, match="indices must be given alone"):
        fdt.Dropout(0.5)(torch.ones(3), rows=[0, 1, 2], indices=[0, 1, 2])


X = normal(5, 6, 4, 3)
A = normal(5, 6, 4, 3, seed=1)
# What makes a module, the tensors that it takes, and the function of arrays that it is of them under a key.
MODULES = {
    "Dropout": (lambda **k: fdt.Dropout(0.3, **k), [X], lambda x, k, r: fd.dropout(x, 0.3, k, rows=r)),
    "Dropout in place": (
        lambda **k: fdt.Dropout(0.3, True, **k),
        [X],
        lambda x, k, r: fd.dropout(x, 0.3, k, rows=r),
    ),
    "Dropout1d": (
        lambda **k: fdt.Dropout1d(0.3, **k),
        [X[..., 0]],
        lambda x, k, r: fd.dropout(x, 0.3, k, rows=r, shared_axes=2),
    ),
    "Dropout2d": (
        lambda **k: fdt.Dropout2d(0.3, **k),
        [X],
        lambda x, k, r: fd.dropout(x, 0.3, k, rows=r, shared_axes=(2, 3)),
    ),
    "Dropout3d": (
        lambda **k: fdt.Dropout3d(0.3, **k),
        [X[..., None]],
        lambda x, k, r: fd.dropout(x, 0.3, k, rows=r, shared_axes=(2, 3, 4)),
    ),
    "AlphaDropout": (
        lambda **k: fdt.AlphaDropout(0.3, **k),
        [X],
        lambda x, k, r: fd.alpha_dropout(x, 0.3, k, rows=r),
    ),
    "FeatureAlphaDropout": (
        lambda **k: fdt.FeatureAlphaDropout(0.3, **k),
        [X],
        lambda x, k, r: fd.alpha_dropout(x, 0.3, k, rows=r, shared_axes=(2, 3)),
    ),
    "GaussianDropout": (
        lambda **k: fdt.GaussianDropout(0.3, **k),
        [X],
        lambda x, k, r: fd.gaussian_dropout(x, 0.3, k, rows=r),
    ),
    "GaussianNoise": (
        lambda **k: fdt.GaussianNoise(0.3, **k),
        [X],
        lambda x, k, r: fd.gaussian_noise(x, 0.3, k, rows=r),
    ),
    "GaussianNoise of channels": (
        lambda **k: fdt.GaussianNoise(0.3, shared_axes=(2, 3), **k),
        [X],
        lambda x, k, r: fd.gaussian_noise(x, 0.3, k, rows=r, shared_axes=(2, 3)),
    ),
    "DropPath": (lambda **k: fdt.DropPath(0.3, **k), [X], lambda x, k, r: fd.drop_path(x, 0.3, k, rows=r)),
    "ConcreteDropout": (
        lambda **k: fdt.ConcreteDropout(0.5, **k),
        [X],
        lambda x, k, r: fd.concrete_dropout(x, 0.0, k, rows=r),
    ),
    "InformationDropout": (
        lambda **k: fdt.InformationDropout(1.0, **k),
        [X],
        lambda x, k, r: fd.information_dropout(x, 1.0, k, rows=r),
    ),
    "StandoutDropout": (
        lambda **k: fdt.StandoutDropout(beta=0.5, **k),
        [X, A],
        lambda h, a, k, r: fd.standout_dropout(h, a, k, beta=0.5, rows=r),
    ),
    "TokenDropout": (
        lambda **k: fdt.TokenDropout(0.3, replacement=3, **k),
        [torch.arange(40).view(5, 8)],
        lambda t, k, r: fd.token_dropout(t, 0.3, k, replacement=3, rows=r),
    ),
    "Zoneout": (
        lambda **k: fdt.Zoneout(0.3, **k),
        [X, A],
        lambda x, a, k, r: fd.zoneout(x, a, 0.3, k, rows=r),
    ),
}
modules = pytest.mark.parametrize("name", MODULES)


@modules
def test_modules_are_the_functions_with_consecutive_draws(name):
    make, tensors, function = MODULES[name]
    module, arrays = make(rng=42), [t.numpy() for t in tensors]
    for draw in range(2):
        y = module(*(t.clone() for t in tensors), rows=torch.tensor(IDS))
        assert same(y, function(*arrays, fd.Key(42, draw), IDS))
    assert module.key == fd.Key(42, 2)


@modules
def test_modules_without_keys_follow_torchs_generator(name):
    make, tensors, _ = MODULES[name]
    module, found = make(), []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(module(*(t.clone() for t in tensors), rows=IDS))
    assert torch.equal(*found)
    y = found[0]
    twins = [module(*(t[[0, 0, 0]] for t in tensors), rows=[7, 7, 8]) for _ in range(4)]
    assert all(torch.equal(t[0], t[1]) for t in twins)
    assert any(not torch.equal(t[0], t[2]) for t in twins)
    assert y.shape == tensors[0].shape


@modules
def test_modules_in_evaluation(name):
    make, tensors, _ = MODULES[name]
    module = make(rng=3).eval()
    assert torch.equal(module(*tensors, rows=IDS), module(*tensors))
    assert module.key == fd.Key(3)


@modules
def test_modules_in_graphs_of_fx(name):
    make, tensors, function = MODULES[name]

    class Root(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = make(rng=42)

        def forward(self, ids, *tensors):
            return self.drop(*tensors, rows=ids)

    class Of(Root):
        def forward(self, ids, x, a=None):
            return super().forward(ids, *([x] if len(tensors) == 1 else [x, a]))

    traced = torch.fx.symbolic_trace(Of(), concrete_args={"a": None} if len(tensors) == 1 else None)
    y = traced(torch.tensor(IDS), *(t.clone() for t in tensors), *([None] if len(tensors) == 1 else []))
    assert same(y, function(*(t.numpy() for t in tensors), fd.Key(42), IDS))


def test_modules_under_checkpoint():
    drop = torch.nn.ModuleList([fdt.Dropout(0.4, rng=1), fdt.ConcreteDropout(0.4, rng=2)])
    ids = torch.tensor(IDS)
    block = lambda x: drop[1](drop[0](x.exp(), rows=ids).sin(), rows=ids)  # noqa: E731
    x = X.clone().requires_grad_()
    keys = [module.key for module in drop]
    plain = block(x)
    (expected,) = torch.autograd.grad(plain.sum(), x)
    for module, key in zip(drop, keys, strict=True):
        module.key = key
    contexts = {"use_reentrant": False, "context_fn": lambda: fdt.checkpoint_contexts(drop)}
    y = checkpoint(block, x, **contexts)
    assert torch.equal(y, plain)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected)


def test_indices_and_offsets_of_modules():
    x, index = normal(50), torch.arange(50).flip(0) * 3
    for options in ({"indices": index}, {"offsets": torch.tensor([0, 20, 50])}):
        expected = fd.dropout(x.numpy(), 0.5, KEY, **{n: a.numpy() for n, a in options.items()})
        assert same(fdt.Dropout(0.5, rng=KEY)(x, **options), expected)
    with pytest.raises(TypeError, match="unexpected keyword argument 'indices'"):
        fdt.DropPath(0.5)(x, indices=index)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rows'"):
        fdt.DropBlock1d(0.5)(x[None, None], rows=[0])


def test_nested_tensors_refuse_them():
    nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged)
    for call in (fdt.Dropout(0.5), lambda x, rows: fdt.dropout(x, 0.5, KEY, rows=rows)):
        with pytest.raises(TypeError, match="dropout needs a dense tensor, got a nested one"):
            call(nested, rows=[0, 1])
    y = fdt.Dropout(0.5, rng=KEY)(nested.values(), offsets=nested.offsets())
    assert same(y, fd.dropout(np.ones(5, np.float32), 0.5, KEY, offsets=[0, 3, 5]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_code_refuses_them():
    x, ids, drop = normal(3, 4), torch.tensor([7, 1, 7]), fdt.Dropout(0.5, rng=3)
    calls = [
        lambda x: drop(x, rows=ids),
        lambda x: fdt.dropout_add(x, x, 0.5, KEY, rows=ids),
        lambda x: fdt.concrete_dropout(x, x[0, 0], KEY, rows=ids),
    ]
    for call in calls:
        torch._dynamo.reset()
        with pytest.raises(TypeError, match="in a graph the draws can't be listed"):
            torch.compile(call, backend="eager")(x)
    with pytest.raises(TypeError, match="in a graph the draws can't be listed"):
        drop(x.to("meta"), rows=ids)
    assert drop.key == fd.Key(3)
    apart = torch.compiler.disable(calls[1])
    y = torch.compile(lambda x: apart(2 * x) + 1, backend="eager")(x)
    assert torch.equal(y, apart(2 * x) + 1)
    torch._dynamo.reset()


def attention_inputs(*batch):
    q, k, v = (normal(*batch, n, 8, dtype=torch.float64, seed=n) for n in (70, 71, 71))
    return [t.requires_grad_() for t in (q, k, v)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("openmp", [True, False])
def test_attention(causal, openmp, monkeypatch):
    if not openmp:
        monkeypatch.setattr(fdt._attention.autograd.in_openmp(), "takes", lambda x: False)
    tensors = attention_inputs(5, 3)
    options = {"dropout_p": 0.4, "is_causal": causal, "noise_key": KEY}
    y = fdt.scaled_dot_product_attention(*tensors, **options, rows=torch.tensor(IDS))
    arrays = [t.detach().numpy() for t in tensors]
    expected = fd.attention(*arrays, 0.4, KEY, is_causal=causal, rows=IDS)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    g = normal(*y.shape, dtype=torch.float64, seed=9)
    found = torch.autograd.grad(y, tensors, g, retain_graph=True)
    theirs = fd.attention_backward(g.numpy(), *arrays, 0.4, KEY, is_causal=causal, rows=IDS)
    for ours, other in zip(found, theirs, strict=False):
        np.testing.assert_allclose(ours.numpy(), other, rtol=1e-8, atol=1e-10)
    again = torch.autograd.grad(y, tensors, g, create_graph=True)  # by the formula
    for ours, other in zip(again, found, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)


def test_attention_of_samples_in_any_batch():
    tensors = [t.detach() for t in attention_inputs(5, 3)]
    options = {"dropout_p": 0.4, "noise_key": KEY}
    whole = fdt.scaled_dot_product_attention(*tensors, **options, rows=IDS)
    order = [3, 1, 4]
    some = fdt.scaled_dot_product_attention(
        *(t[order] for t in tensors), **options, rows=np.array(IDS)[order]
    )
    torch.testing.assert_close(some, whole[order], rtol=1e-12, atol=1e-12)
    first = fdt.scaled_dot_product_attention(*(t[:2] for t in tensors), **options, rows=[0, 1])
    plain = fdt.scaled_dot_product_attention(*(t[:2] for t in tensors), **options)
    assert torch.equal(first, plain)


def test_what_attention_refuses():
    tensors = attention_inputs(3)
    for rows, error, message in HOSTILE:
        for t in (tensors, [t.expand(2, *t.shape).transpose(0, 1) for t in tensors]):
            with pytest.raises(error, match=message):
                fdt.scaled_dot_product_attention(*t, dropout_p=0.4, noise_key=KEY, rows=rows)
    with pytest.raises(ValueError, match=r"rows needs an axis of samples, .* use query\[None\]"):
        fdt.scaled_dot_product_attention(*(t[0] for t in tensors), dropout_p=0.4, rows=[0])
    graph = make_fx(lambda *t: fdt.scaled_dot_product_attention(*t, dropout_p=0.4, rows=[0, 1, 2]))
    with pytest.raises(TypeError, match="in a graph the draws can't be listed"):
        graph(*tensors)
