"""Noises of two tensors, and of tokens: against those of arrays, their derivatives, graphs and modules."""

import copy
import inspect
import shutil
import sysconfig
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from tensors import DTYPES, LAYOUTS, normal, same, to_array  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch._noises import NOISES, PASSED  # noqa: E402

nn = torch.nn
COMPILER = shutil.which("g++") and (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()
KEY = fd.Key(42, draw=7)
SHAPE = (3, 4, 5, 7)
REALS = [dtype for dtype in DTYPES if not dtype.is_complex]
STANDOUT = {"alpha": 1.5, "beta": 0.5, "inverted": True}
TOKENS = torch.tensor([[0, 3, 2, 5], [3, 0, 0, 8]])
OPTIONS = {"replacement": 3, "protected": (0, 1)}
# torch's own formulas of forward derivatives use it
jit = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
# what torch's compilers themselves still call
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def pair(dtype=torch.float32, layout="contiguous"):
    return [LAYOUTS[layout](normal(*SHAPE, dtype=dtype, seed=seed)).detach() for seed in range(2)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("p", "axes"), [(0.0, ()), (0.3, ()), (0.3, (1, -1)), (1.0, ())])
def test_zoneout_is_that_of_arrays_bit_for_bit(dtype, layout, p, axes):
    new, previous = (t.requires_grad_() for t in pair(dtype, layout))
    g = LAYOUTS[layout](normal(*SHAPE, dtype=dtype, seed=2))
    y = fdt.zoneout(new, previous, p, KEY, shared_axes=axes)
    assert y.stride() == torch.empty_like(new).stride()
    assert same(y, fd.zoneout(to_array(new), to_array(previous), p, KEY, shared_axes=axes))
    found = torch.autograd.grad(y, (new, previous), g)
    for got, want in zip(found, fd.zoneout_backward(to_array(g), p, KEY, shared_axes=axes), strict=True):
        assert same(got, want)


def test_zoneout_leaves_no_trace_of_what_is_not_chosen():
    new, previous = torch.full((1000,), -0.0, requires_grad=True), torch.full((1000,), torch.nan)
    y = fdt.zoneout(new, previous, 0.5, KEY)
    kept = torch.from_numpy(fd.keep_mask(1000, 0.5, KEY))
    assert torch.equal(y.isnan(), ~kept)
    assert y[kept].signbit().all()
    y.backward(torch.full((1000,), torch.inf))
    assert torch.equal(new.grad, torch.where(kept, torch.inf, 0.0))


def test_arrays_of_rates_by_feature():
    new, previous = pair()
    p = np.linspace(0, 1, SHAPE[-1])
    for rates in (p, torch.from_numpy(p)):
        y = fdt.zoneout(new, previous, rates, KEY)
        assert same(y, fd.zoneout(to_array(new), to_array(previous), p, KEY))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize("options", [{}, STANDOUT], ids=["paper", "inverted"])
def test_standout_is_that_of_arrays_bit_for_bit(dtype, layout, options):
    h, a = pair(dtype, layout)
    h.requires_grad_()
    a.requires_grad_()
    y = fdt.standout_dropout(h, a, KEY, **options)
    assert same(y, fd.standout_dropout(to_array(h), to_array(a), KEY, **options))
    g = normal(*SHAPE, dtype=dtype, seed=2)
    y.backward(g)
    assert same(h.grad, fd.standout_dropout_backward(to_array(g), to_array(a), KEY, **options))
    assert a.grad is None


@pytest.mark.parametrize("integers", [torch.int64, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_embedding_dropout_is_that_of_arrays_bit_for_bit(dtype, integers):
    weight, tokens = normal(9, 5, dtype=dtype).requires_grad_(), TOKENS.to(integers)
    p = torch.linspace(0, 0.9, 9)
    for rates in (0.3, p):
        arrays = rates if isinstance(rates, float) else p.numpy()
        y = fdt.embedding_dropout(tokens, weight, rates, KEY)
        assert same(y, fd.embedding_dropout(tokens.numpy(), to_array(weight), arrays, KEY))
        g = normal(*y.shape, dtype=dtype, seed=2)
        (found,) = torch.autograd.grad(y, weight, g)
        want = fd.embedding_dropout_backward(to_array(g), tokens.numpy(), arrays, KEY, vocabulary=9)
        assert same(found, want)


@pytest.mark.parametrize(
    "integers", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str
)
def test_token_dropout_is_that_of_arrays(integers):
    for tokens in (TOKENS.to(integers), TOKENS.to(integers).T):
        y = fdt.token_dropout(tokens, 0.5, KEY, **OPTIONS)
        assert y.dtype is integers
        assert np.array_equal(y.numpy(), fd.token_dropout(tokens.numpy(), 0.5, KEY, **OPTIONS))
    y = fdt.token_dropout(TOKENS, torch.full((4,), 0.5), KEY, replacement=7)
    assert torch.equal(y, fdt.token_dropout(TOKENS, 0.5, fdt.key_tensor(KEY), replacement=7))


@pytest.mark.parametrize("dtype", REALS, ids=str)
def test_local_reparameterization_is_that_of_arrays(dtype):
    mean = normal(40, 7, dtype=dtype).requires_grad_()
    variance = (normal(7, dtype=dtype, seed=1).abs() + 0.1).requires_grad_()
    arrays = to_array(mean), to_array(variance)
    y = fdt.local_reparameterization(mean, variance, KEY)
    assert same(y, fd.local_reparameterization(*arrays, KEY))
    g = normal(40, 7, dtype=dtype, seed=2)
    dmean, dvariance = torch.autograd.grad(y, (mean, variance), g)
    each = fd.local_reparameterization_backward(to_array(g), np.broadcast_to(arrays[1], (40, 7)), KEY)[1]
    assert torch.equal(dmean, g)
    assert dvariance.dtype is dtype
    tolerance = 1e-12 if dtype is torch.float64 else 4 * torch.finfo(dtype).eps
    scale = np.abs(each.astype(float)).sum(0)
    assert (np.abs(to_array(dvariance).astype(float) - each.astype(float).sum(0)) <= tolerance * scale).all()


def calls():
    """Each noise as a function of its tensors that have gradients, and those tensors."""
    x, y, z = (normal(2, 3, 4, dtype=torch.float64, seed=seed).requires_grad_() for seed in range(3))
    weight = normal(9, 2, dtype=torch.float64).requires_grad_()
    variance = (normal(4, dtype=torch.float64).abs() + 0.5).requires_grad_()
    return {
        "zoneout": (lambda a, b: fdt.zoneout(a, b, 0.4, KEY), (x, y)),
        "zoneout of one": (lambda a: fdt.zoneout(y.detach(), a, 0.4, KEY), (x,)),
        "standout_dropout": (lambda h: fdt.standout_dropout(h, z.detach(), KEY, **STANDOUT), (x,)),
        "embedding_dropout": (lambda w: fdt.embedding_dropout(TOKENS, w, 0.4, KEY), (weight,)),
        "local_reparameterization": (lambda m, v: fdt.local_reparameterization(m, v, KEY), (x, variance)),
    }


@jit
@pytest.mark.parametrize("name", calls())
def test_first_and_second_derivatives_in_float64(name):
    function, tensors = calls()[name]
    square = lambda *tensors: function(*tensors) ** 2  # noqa: E731
    assert torch.autograd.gradcheck(square, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(square, tensors, check_fwd_over_rev=True, check_batched_grad=True)


@jit
@pytest.mark.parametrize("name", calls())
def test_transforms_of_torch_func(name):
    function, tensors = calls()[name]
    tensors = tuple(t.detach() for t in tensors)
    loss = lambda *tensors: (function(*tensors) ** 2).sum()  # noqa: E731
    places = tuple(range(len(tensors)))
    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for got, want in zip(torch.func.grad(loss, places)(*tensors), expected, strict=True):
        torch.testing.assert_close(got, want)
    _, tangent = torch.func.jvp(loss, tensors, tensors)
    torch.testing.assert_close(tangent, sum((g * t).sum() for g, t in zip(expected, tensors, strict=True)))
    batch = tuple(torch.stack([t, 2 * t]) for t in tensors)
    rows = torch.func.vmap(function)(*batch)
    assert torch.equal(rows, torch.stack([function(*row) for row in zip(*batch, strict=True)]))


def test_a_mapped_tensor_beside_one_that_is_not():
    new, previous = pair()
    rows = torch.func.vmap(lambda t: fdt.zoneout(t, previous[0], 0.5, KEY))(new)
    assert torch.equal(rows, torch.stack([fdt.zoneout(t, previous[0], 0.5, KEY) for t in new]))
    rows = torch.func.vmap(lambda t: fdt.zoneout(new[0], t, 0.5, KEY), 1)(previous.transpose(0, 1))
    assert torch.equal(rows, torch.stack([fdt.zoneout(new[0], t, 0.5, KEY) for t in previous]))


def kept(function):
    """The tensors that autograd keeps for the gradient of a function."""
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
        y = function()
    assert not any(isinstance(value, torch.Tensor) for value in vars(y.grad_fn).values())
    return found


def test_autograd_keeps_only_what_a_gradient_needs():
    new, previous = (t.requires_grad_() for t in pair())
    assert kept(lambda: fdt.zoneout(new, previous, 0.5, KEY)) == []
    assert kept(lambda: fdt.gaussian_noise(new, 0.5, KEY)) == []
    (a,) = kept(lambda: fdt.standout_dropout(new, previous, KEY))
    assert a.data_ptr() == previous.data_ptr()
    weight = torch.ones(9, 2, requires_grad=True)
    (tokens,) = kept(lambda: fdt.embedding_dropout(TOKENS, weight, 0.5, KEY))
    assert tokens.data_ptr() == TOKENS.data_ptr()


def test_a_gradient_that_passes_is_not_shared_with_the_callers():
    x, g = torch.ones(5, requires_grad=True), torch.ones(5)
    fdt.gaussian_noise(x, 0.5, KEY).backward(g)
    x.grad.zero_()
    assert torch.equal(g, torch.ones(5))


def test_a_changed_input_is_seen():
    h, a = (t.requires_grad_() for t in pair())
    b = a * 1
    y = fdt.standout_dropout(h, b, KEY)
    b.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_every_derivative_of_the_table_is_in_the_table():
    for noise in NOISES.values():
        names = {noise.gradient, noise.other_gradient, noise.tangent} - {"", PASSED}
        assert names <= set(NOISES)


@compiles
@pytest.mark.parametrize("name", [*calls(), "token_dropout"])
def test_graphs_give_what_eager_mode_gives(name):
    torch._dynamo.reset()
    function, tensors = {
        **calls(),
        "token_dropout": (lambda t: fdt.token_dropout(t, 0.5, KEY, **OPTIONS), (TOKENS,)),
    }[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    y, expected = compiled(*tensors), function(*tensors)
    assert torch.equal(y, expected)
    if y.requires_grad:
        g = normal(*y.shape, dtype=y.dtype, seed=5)
        found, wanted = (torch.autograd.grad(t, tensors, g) for t in (y, expected))
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want)


@compiles
@pytest.mark.skipif(not COMPILER, reason="inductor needs a C++ compiler")
def test_inductor_gives_what_eager_mode_gives():
    torch._dynamo.reset()
    functions, tensors = zip(*calls().values(), strict=True)

    def step(*tensors):
        ready = iter(tensors)
        return [
            function(*islice(ready, count)).sin() for function, count in zip(functions, counts, strict=True)
        ]

    counts = [len(given) for given in tensors]
    leaves = [t.detach().clone().requires_grad_() for given in tensors for t in given]
    found = []
    for call in (torch.compile(step, fullgraph=True), step):
        outputs = call(*leaves)
        found.append([*outputs, *torch.autograd.grad(sum(y.square().sum() for y in outputs), leaves)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@compiles
def test_the_operators_are_what_torch_demands_of_operators():
    operator, key = torch.ops.fastdrop.noise.default, fdt.key_tensor(KEY)
    x, y = (normal(4, 6).requires_grad_() for _ in range(2))
    weight = normal(9, 2).requires_grad_()
    torch.library.opcheck(operator, (x, None, key, "gaussian_noise", [0.5], []))
    torch.library.opcheck(operator, (x, y, key, "zoneout", [0.5], [1]))
    torch.library.opcheck(operator, (normal(6, 4).T.requires_grad_(), y.detach(), key, "zoneout", [0.5], []))
    torch.library.opcheck(operator, (x, y.detach(), key, "standout_dropout", [1.0, 0.0], [1]))
    torch.library.opcheck(operator, (weight, TOKENS, key, "embedding_dropout", [0.5], [9]))
    tokens = (TOKENS.T, key, 0.5, 3, [0])
    torch.library.opcheck(torch.ops.fastdrop.token_dropout.default, tokens)


# Each module, the layer or function of arrays that it is in training, and tensors for it.
A, B = normal(4, 6), normal(4, 6, seed=1)
WEIGHT = normal(9, 5)
MODULES = {
    "Zoneout": (
        lambda **k: fdt.Zoneout(0.3, **k),
        lambda new, previous, key: fd.zoneout(new, previous, 0.3, key),
        (A, B),
    ),
    "Zoneout of all samples": (
        lambda **k: fdt.Zoneout(0.3, shared_axes=0, **k),
        lambda new, previous, key: fd.zoneout(new, previous, 0.3, key, shared_axes=0),
        (A, B),
    ),
    "StandoutDropout": (
        lambda **k: fdt.StandoutDropout(**STANDOUT, **k),
        lambda h, a, key: fd.standout_dropout(h, a, key, **STANDOUT),
        (A, B),
    ),
    "TokenDropout": (
        lambda **k: fdt.TokenDropout(0.3, **OPTIONS, **k),
        lambda tokens, key: fd.token_dropout(tokens, 0.3, key, **OPTIONS),
        (TOKENS,),
    ),
    "EmbeddingDropout": (
        lambda **k: fdt.EmbeddingDropout(0.3, **k),
        lambda tokens, weight, key: fd.embedding_dropout(tokens, weight, 0.3, key),
        (TOKENS, WEIGHT),
    ),
}


@pytest.mark.filterwarnings("ignore:a deep copy of")
@pytest.mark.parametrize("name", MODULES)
def test_modules_are_the_functions_with_consecutive_draws(name):
    make, function, tensors = MODULES[name]
    module = make(rng=42)
    for draw in range(3):
        key = fd.Key(42, draw)
        assert module.key == key
        assert same(module(*tensors), function(*map(to_array, tensors), key))
    for other in (copy.deepcopy(module), make(rng=1)):
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(*tensors), copy.deepcopy(module)(*tensors))
    assert repr(module).endswith(", rng=Key(42, draw=3))")


@pytest.mark.parametrize("name", MODULES)
def test_modules_without_a_key_follow_torchs_generator(name):
    make, _, tensors = MODULES[name]
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        module = make()
        found.append(torch.stack([module(*tensors) for _ in range(8)]))
    assert torch.equal(*found)
    assert len(torch.unique(found[0], dim=0)) > 1
    assert module.state_dict() == {}


@compiles
@pytest.mark.parametrize("name", MODULES)
def test_compiled_modules_count_in_their_graph(name):
    torch._dynamo.reset()
    make, _, tensors = MODULES[name]
    module, other = make(rng=3), make(rng=3)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            assert torch.equal(compiled(*tensors), module(*tensors))
            assert other.key == module.key
    module.eval()
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(*tensors), module(*tensors))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zoneout_in_evaluation_is_the_mean_that_the_layer_gives(dtype, p):
    new, previous = (t.requires_grad_() for t in pair(dtype))
    y = fdt.Zoneout(p).eval()(new, previous)
    layer = fd.Zoneout(p).eval()
    assert same(y, layer(to_array(new), to_array(previous)))
    g = normal(*SHAPE, dtype=dtype, seed=2)
    found = torch.autograd.grad(y, (new, previous), g, materialize_grads=True, allow_unused=True)
    for got, want in zip(found, layer.backward(to_array(g)), strict=True):
        assert same(got, want)


@pytest.mark.parametrize("dtype", REALS, ids=str)
def test_standout_in_evaluation_is_what_the_layer_gives(dtype):
    h, a = pair(dtype)
    h.requires_grad_()
    a.requires_grad_()
    y = fdt.StandoutDropout(1.5, 0.5).eval()(h, a)
    want = fd.StandoutDropout(1.5, 0.5).eval()(to_array(h), to_array(a))
    np.testing.assert_allclose(to_array(y).astype(float), want.astype(float), rtol=1e-14)
    y.sum().backward()
    assert a.grad is None
    assert h.grad.any()
    assert fdt.StandoutDropout(inverted=True).eval()(h, a) is h


# Modules that compute with their numbers in evaluation too, and what a user may set later by mistake.
WRONG_LATER = [
    (fdt.Zoneout, "p", 5.0, ValueError, r"p must be in \[0, 1\], got 5"),
    (fdt.Zoneout, "p", -0.1, ValueError, r"p must be in \[0, 1\], got -0\.1"),
    (fdt.Zoneout, "p", float("nan"), ValueError, r"p must be in \[0, 1\], got nan"),
    (fdt.Zoneout, "p", True, TypeError, "p must be a real number, got bool"),
    (fdt.Zoneout, "p", "0.5", TypeError, "p must be a real number, got str"),
    (fdt.StandoutDropout, "alpha", float("inf"), ValueError, "alpha and beta must be finite, got inf"),
    (fdt.StandoutDropout, "beta", float("nan"), ValueError, "alpha and beta must be finite, got .*nan"),
    (fdt.StandoutDropout, "alpha", True, TypeError, "alpha must be a real number, got bool"),
    (fdt.StandoutDropout, "beta", "1", TypeError, "beta must be a real number, got str"),
]


@pytest.mark.parametrize(("kind", "name", "value", "error", "words"), WRONG_LATER)
def test_evaluation_checks_numbers_that_were_set_later(kind, name, value, error, words):
    module = kind(rng=1)
    setattr(module, name, value)
    with pytest.raises(error):
        module(A, B)
    assert module.key == fd.Key(1)
    with pytest.raises(error, match=words):
        module.eval()(A, B)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [(kind, name, value, words) for kind, name, value, _, words in WRONG_LATER if type(value) is float],
)
def test_modules_in_torchscript_check_them_too(kind, name, value, words):
    script = torch.jit.script(kind().eval())
    assert torch.equal(script(A, B), kind().eval()(A, B))
    setattr(script, name, value)
    with pytest.raises(Exception, match=words):
        script(A, B)


def test_tokens_and_embeddings_in_evaluation():
    assert fdt.TokenDropout(0.5, replacement=3).eval()(TOKENS) is TOKENS
    assert torch.equal(fdt.EmbeddingDropout(0.5).eval()(TOKENS, WEIGHT), WEIGHT[TOKENS])


def test_errors_say_what_to_do():
    new, previous = pair()
    for call in (lambda *t: fdt.zoneout(*t, 0.5, KEY), fdt.Zoneout(rng=1).eval()):
        with pytest.raises(ValueError, match=r"previous must have new's shape .* got \(4, 5, 7\)"):
            call(new, previous[0])
        with pytest.raises(ValueError, match="previous must have new's dtype"):
            call(new, previous.double())
    for call in (lambda *t: fdt.standout_dropout(*t, KEY), fdt.StandoutDropout().eval()):
        with pytest.raises(ValueError, match=r"a must have h's shape .* got \(4, 5, 7\)"):
            call(new, previous[0])
    with pytest.raises(ValueError, match=r"a must be finite, got -?inf"):
        fdt.standout_dropout(new, previous / 0, KEY)
    with pytest.raises(TypeError, match="standout needs real numbers"):
        fdt.standout_dropout(new.to(torch.complex64), previous, KEY)
    for call in (
        lambda t: fdt.token_dropout(t, 0.5, KEY, replacement=1),
        lambda t: fdt.embedding_dropout(t, WEIGHT, 0.5, KEY),
    ):
        for dtype in (torch.float32, torch.bool):
            with pytest.raises(TypeError, match=rf"must be integers, got {dtype}; use tokens.long\(\)"):
                call(TOKENS.to(dtype))
    assert fdt.token_dropout(TOKENS.to("meta"), 0.5, KEY, replacement=0).is_meta
    assert fdt.embedding_dropout(TOKENS.to("meta"), WEIGHT.to("meta"), 0.5, KEY).is_meta
    with pytest.raises(RuntimeError, match="tensors must be on one device, got cpu and meta"):
        fdt.embedding_dropout(TOKENS.to("meta"), WEIGHT, 0.5, KEY)
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 9\), the rows of weight, got 9"):
        fdt.embedding_dropout(TOKENS + 1, WEIGHT, 0.5, KEY)
    with pytest.raises(ValueError, match=r"weight must have the shape \(vocabulary, features\), got \(9,\)"):
        fdt.embedding_dropout(TOKENS, WEIGHT[:, 0], 0.5, KEY)
    with pytest.raises(ValueError, match="replacement must fit uint8"):
        fdt.token_dropout(TOKENS.byte(), 0.5, KEY, replacement=256)
    with pytest.raises(ValueError, match=r"variance must be finite and >= 0, got one whose .* is nan"):
        fdt.local_reparameterization(A, B.abs() - 5, KEY)
    with pytest.raises(TypeError, match="means must be real"):
        fdt.local_reparameterization(A.to(torch.complex64), A.abs(), KEY)
    with pytest.raises(TypeError, match=r"got torch.sparse_coo; use x.to_dense\(\)"):
        fdt.zoneout(A, B.to_sparse(), 0.5, KEY)
    with pytest.raises(ValueError, match="alpha must be finite"):
        fdt.StandoutDropout(float("inf"))
    for make in (fdt.Zoneout, fdt.EmbeddingDropout, lambda p: fdt.TokenDropout(p, replacement=1)):
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
            make(1.5)


WRONG_TOKENS = {
    "replacement": {"replacement": True},
    "protected": {"replacement": 0, "protected": (1.5,)},
    "a number of them": {"replacement": 0, "protected": 3},
}


@compiles
@pytest.mark.parametrize("options", WRONG_TOKENS.values(), ids=WRONG_TOKENS)
def test_what_is_no_token_is_refused_by_us_in_modules_and_graphs_too(options):
    torch._dynamo.reset()
    call = lambda t: fdt.token_dropout(t, 0.5, KEY, **options)  # noqa: E731
    for each in (call, torch.compile(call, backend="eager")):
        with pytest.raises(TypeError, match=r"^(replacement must be an integer|protected must be )"):
            each(TOKENS)
    with pytest.raises(TypeError, match=r"^(replacement must be an integer|protected must be )"):
        fdt.TokenDropout(0.5, **options)


@compiles
def test_tokens_that_no_integer_of_64_bits_holds_are_in_graphs_as_in_functions():
    torch._dynamo.reset()
    expected = fdt.token_dropout(TOKENS, 0.5, KEY, replacement=0, protected=(3,))
    call = lambda t, **options: fdt.token_dropout(t, 0.5, KEY, **options)  # noqa: E731
    for each in (call, torch.compile(call, backend="eager", fullgraph=True), torch.func.functionalize(call)):
        y = each(TOKENS, replacement=0, protected=(3, 2**70, -(2**70)))
        assert torch.equal(y, expected)
    for each in (call, torch.compile(call, backend="eager")):
        with pytest.raises(ValueError, match=rf"^replacement must fit int64, .*, got {2**70}"):
            each(TOKENS, replacement=2**70)
    assert call(TOKENS.to("meta"), replacement=0, protected=(2**70,)).is_meta


@compiles
def test_arrays_of_rates_are_refused_in_a_graph():
    torch._dynamo.reset()
    compiled = torch.compile(lambda t, p: fdt.token_dropout(t, p, KEY, replacement=1), backend="eager")
    with pytest.raises(TypeError, match="takes one number, got an array"):
        compiled(TOKENS, torch.full((4,), 0.3))


def test_no_module_hides_its_signature():
    for name in fdt.__all__:
        public = getattr(fdt, name)
        if isinstance(public, type) and issubclass(public, nn.Module):
            names = inspect.signature(public.forward).parameters
            assert not {"args", "kwargs"} & set(names), name
