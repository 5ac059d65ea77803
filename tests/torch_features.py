"""What PyTorch does with dropout, feature by feature, each with a check of it, and what fastdrop's forms say.

``python tests/torch_features.py > docs/torch.md`` writes the page that the tests compare with.
"""

import copy
import io
import multiprocessing
import os
import pickle
import sys
import tempfile
import threading
import warnings
from contextlib import nullcontext
from functools import cache

import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastdrop as fd
import fastdrop.torch as fdt

nn, func, functional = torch.nn, torch.func, torch.nn.functional
P = 0.5
X = torch.arange(1.0, 4097).reshape(4, 1024)

# How a model may drop. Each makes its dropout module; under "install()" the kernels are installed.
COLUMNS = {
    "torch.nn": lambda: nn.Dropout(P),
    "install()": lambda: nn.Dropout(P),
    "fastdrop.torch": lambda: fdt.Dropout(P),
    "with rng": lambda: fdt.Dropout(P, rng=1),
}
NAMES = {"torch": "torch.nn", "install": "install()", "ours": "fastdrop.torch", "rng": "with rng"}
CHECKS = {}  # by the feature's description: the check, and by column the error or the reason where it fails
MARKS = {}  # by the description: "slow", and "compiler" where the check needs one for C++


def feature(description, *marks, **exceptions):
    """Register a check. An exception is (error, part of its message), or "differs: why"."""

    def register(check):
        CHECKS[description] = check, {NAMES[name]: what for name, what in exceptions.items()}
        MARKS[description] = marks
        return check

    return register


def everywhere(exception):
    return dict.fromkeys(NAMES, exception)


def of_torch(drop):
    """Whether a column's module is one of torch.nn's."""
    return type(drop) is nn.Dropout


def keyed(drop):
    """Whether a column's module has a key of its own."""
    return getattr(drop, "key", None) is not None


def column_of(drop):
    if of_torch(drop):
        return "install()" if fdt.installed() else "torch.nn"
    return "with rng" if keyed(drop) else "fastdrop.torch"


def another(drop, name, *arguments, **options):
    """Another module of a column, by its name in torch.nn."""
    own = {"rng": 1} if keyed(drop) else {}
    return getattr(nn if of_torch(drop) else fdt, name)(P, *arguments, **own, **options)


def about_half(kept):
    assert 0.4 < kept.float().mean() < 0.6


def dropped(y, x=X, rtol=0.0):
    """Check that y is dropout of x at a rate of one half."""
    assert y.shape == x.shape
    kept = y != 0
    torch.testing.assert_close(y[kept], (2 * x)[kept].to(y.dtype), rtol=rtol, atol=0)
    about_half(kept)


def random(drop, x=X):
    """Check that each call drops others."""
    assert not torch.equal(drop(x), drop(x))


@feature("training and evaluation; in evaluation the input itself")
def _(drop):
    dropped(drop(X))
    random(drop)
    assert drop.eval()(X) is X


@feature("gradients")
def _(drop):
    x = X.clone().requires_grad_()
    y = drop(x)
    y.sum().backward()
    dropped(x.grad * x.detach())
    assert torch.equal(x.grad != 0, y != 0)


@feature("in place, but for a leaf that needs gradients")
def _(drop):
    drop, leaf = another(drop, "Dropout", True), X.clone().requires_grad_()
    x = leaf * 1
    y = drop(x)
    assert y is x
    dropped(y.detach())
    (g,) = torch.autograd.grad(y.sum(), leaf)
    assert torch.equal(g != 0, y != 0)
    try:
        drop(leaf)
    except RuntimeError as error:
        assert "leaf" in str(error)  # noqa: PT017
    else:
        raise AssertionError


class Again(nn.Module):
    """A module that drops the same in each call, as derivatives by differences need."""

    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        torch.manual_seed(1)
        if keyed(self.drop):
            self.drop.key = fd.Key(3)
        return self.drop(x)


@feature("`gradcheck` and `gradgradcheck`, batched gradients")
def _(drop):
    for size, fast in ((40, False), (1100, True)):  # install() leaves the first to torch
        x = torch.rand(size, dtype=torch.float64, requires_grad=True)
        options = {"check_batched_grad": True, "fast_mode": fast}
        assert torch.autograd.gradcheck(Again(drop), (x,), **options)
        assert torch.autograd.gradgradcheck(Again(drop), (x,), **options)


@feature("forward-mode derivatives")
def _(drop):
    x = torch.rand(40, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Again(drop), (x,), check_forward_ad=True, check_backward_ad=False)
    with torch.autograd.forward_ad.dual_level():
        y = drop(torch.autograd.forward_ad.make_dual(X, X))
        y, tangent = torch.autograd.forward_ad.unpack_dual(y)
    dropped(y)
    assert torch.equal(y, tangent)


@feature("`is_grads_batched`")
def _(drop):
    x = X[:, :300].reshape(1200).clone().requires_grad_()
    y = drop(x)
    (g,) = torch.autograd.grad(y, x, torch.eye(1200)[:5], is_grads_batched=True)
    assert torch.equal(g.sum(0) != 0, (torch.arange(1200) < 5) & (y != 0))


@feature("sparse gradients")
def _(drop):
    weight, rows = torch.ones(4, 1024, requires_grad=True), torch.tensor([1, 3, 3])
    y = drop(weight)
    functional.embedding(rows, y, sparse=True).sum().backward()
    assert weight.grad.is_sparse
    counts = torch.tensor([[0.0], [1.0], [0.0], [2.0]])
    assert torch.equal(weight.grad.to_dense(), counts * y)
    y, given = another(drop, "AlphaDropout")(weight), torch.ones(4, 1024).triu().to_sparse()
    (g,) = torch.autograd.grad(y, weight, given)
    assert g.is_sparse
    assert torch.equal(g.to_dense() != 0, (given.to_dense() != 0) & (y == y.max()))


@feature("`torch.fx`: a leaf, with the mode that the graph has when it runs")
def _(drop):
    graph = torch.fx.symbolic_trace(nn.Sequential(drop))
    dropped(graph(X))
    random(graph)
    assert torch.equal(graph.eval()(X), X)
    dropped(graph.train()(X))
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]


@feature("what is built on `torch.fx`: `ShapeProp`, `Interpreter`, `remove_dropout`, pickles of graphs")
def _(drop):
    from torch.fx.experimental.optimization import remove_dropout
    from torch.fx.passes.shape_prop import ShapeProp

    identity = nn.Linear(1024, 1024, bias=False)
    nn.init.eye_(identity.weight)
    model = nn.Sequential(identity, drop)
    graph = torch.fx.symbolic_trace(model)
    ShapeProp(graph).propagate(X)
    assert [node.meta["tensor_meta"].shape for node in graph.graph.nodes] == [X.shape] * 4
    for each in (torch.fx.Interpreter(graph).run, pickle.loads(pickle.dumps(graph))):
        dropped(each(X).detach())
        random(each)
    assert torch.equal(remove_dropout(model)(X), X)


@feature("`torch.func.grad`")
def _(drop):
    dropped(func.grad(lambda x: drop(x).sum())(X) * X)


@feature("`torch.func.vjp`")
def _(drop):
    y, pullback = func.vjp(drop, X)
    dropped(y)
    assert torch.equal(pullback(torch.ones_like(X))[0] * X, y)


@feature("`torch.func.jvp`")
def _(drop):
    y, tangent = func.jvp(drop, (X,), (X,))
    dropped(y)
    assert torch.equal(y, tangent)


@feature("`torch.func.jacrev`")
def _(drop):
    x = X[:, :300].reshape(1200)
    jacobian = func.jacrev(drop)(x)
    assert torch.equal(jacobian, jacobian.diagonal().diag())
    dropped(jacobian.diagonal() * x, x)


@feature('`torch.func.jacfwd` with randomness="same" or "different"')
def _(drop):
    x = X[:, :300].reshape(1200)
    for randomness in ("same", "different"):
        jacobian = func.jacfwd(drop, randomness=randomness)(x)
        assert torch.equal(jacobian, jacobian.diagonal().diag())
        dropped(jacobian.diagonal() * x, x)


REFUSED_BY_VMAP = (RuntimeError, "randomness")


@feature("`torch.func.hessian` (it has no randomness to set)", **everywhere(REFUSED_BY_VMAP))
def _(drop):
    func.hessian(lambda x: (drop(x) ** 2).sum())(X[0])


@feature('second derivatives: `jacfwd(jacrev(f), randomness="same")`')
def _(drop):
    x = X[0, :300]
    second = func.jacfwd(func.jacrev(lambda x: (drop(x) ** 2).sum()), randomness="same")(x)
    assert torch.equal(second, second.diagonal().diag())
    dropped(second.diagonal(), torch.full((300,), 4.0))


@feature("`torch.func.functional_call`")
def _(drop):
    model = nn.Sequential(nn.Linear(1024, 1024), drop)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    slopes = func.grad(lambda w: func.functional_call(model, w, (X / 4096,)).sum())(weights)
    assert set(slopes["0.bias"].tolist()) == {0, 2, 4, 6, 8}  # how many of four samples were kept, times two


@feature("ensembles: `vmap` of `functional_call` over models, on one input")
def _(drop):
    model, x = nn.Sequential(drop, nn.Linear(2000, 1, bias=False)), torch.ones(2000)

    def loss(weight):
        return func.functional_call(model, {"1.weight": weight}, (x,)).sum()

    for randomness in ("different", "same"):
        slopes = torch.vmap(func.grad(loss), randomness=randomness)(torch.ones(3, 1, 2000))
        dropped(slopes.flatten(1), torch.ones(3, 2000))
        assert rows_alike(slopes.flatten(1)) == (randomness == "same")
    try:
        torch.vmap(loss)(torch.ones(3, 1, 2000))
    except RuntimeError as error:
        assert "randomness" in str(error)  # noqa: PT017
    else:
        raise AssertionError


@feature(
    '`torch.vmap` with randomness="error"',
    **dict.fromkeys(("torch", "install", "ours", "rng"), REFUSED_BY_VMAP),
)
def _(drop):
    torch.vmap(drop)(X)


def rows_alike(y):
    return len({tuple(row.tolist()) for row in (y != 0)}) == 1


@feature('`torch.vmap` with randomness="same"')
def _(drop):
    y = torch.vmap(drop, randomness="same")(X)
    dropped(y)
    assert rows_alike(y)


@feature('`torch.vmap` with randomness="different"')
def _(drop):
    y = torch.vmap(drop, randomness="different")(X)
    dropped(y)
    assert len({tuple(row.tolist()) for row in (y != 0)}) == 4
    twice = torch.vmap(torch.vmap(drop, randomness="different"), randomness="different")
    y = twice(torch.ones(2, 3, 2000)).flatten(0, 1)
    assert len({tuple(row.tolist()) for row in (y != 0)}) == 6


@feature(
    '`torch.vmap` with chunk_size, randomness="same" or "different"',
    rng="differs: each chunk takes the next key",
)
def _(drop):
    different = torch.vmap(drop, randomness="different", chunk_size=2)(X)
    assert len({tuple(row.tolist()) for row in different != 0}) == 4
    same = torch.vmap(drop, randomness="same", chunk_size=2)(X)
    assert rows_alike(same[:2])
    assert rows_alike(same[2:])
    assert rows_alike(same) != keyed(drop)


NO_KEYS = (TypeError, "'rng'")


@feature("keys as tensors, one a row, by `vmap`", torch=NO_KEYS, install=NO_KEYS)
def _(drop):
    if of_torch(drop):
        nn.Dropout(P, rng=1)
    own = [fd.Key(42).fold_in(row) for row in range(4)]
    keys = torch.stack([fdt.key_tensor(key) for key in own])
    y = torch.vmap(lambda x, key: fdt.dropout(x, P, key))(X, keys)
    slopes = torch.vmap(func.grad(lambda x, key: fdt.dropout(x, P, key).sum()))(X, keys)
    dropped(y)
    for row, key in enumerate(own):
        assert torch.equal(y[row], fdt.dropout(X[row], P, key))
    assert torch.equal(slopes * X, y)


@feature("gradients by sample: `vmap(grad(f))`")
def _(drop):
    def f(x):
        y = drop(x)
        return y.sum(), y

    for randomness in ("different", "same"):
        g, y = torch.vmap(func.grad(f, has_aux=True), randomness=randomness)(X)
        dropped(y)
        assert torch.equal(g != 0, y != 0)
        assert rows_alike(y) == (randomness == "same")


@feature("`make_fx`: the operator that draws is in the graph, and none that returns memory as it is")
def _(drop):
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(drop)(X)
    dropped(graph(X))
    random(graph)
    *_, last, _ = graph.graph.nodes
    names = {str(node.target) for node in graph.graph.nodes}
    if of_torch(drop):
        assert "aten.bernoulli_.float" in names
        assert str(last.target) == "aten.mul.Tensor"
    else:
        assert ("fastdrop.next_key.default" if keyed(drop) else "fastdrop.drawn_key.default") in names
        assert str(last.target) == "fastdrop.noise.default"


@feature("`make_fx` of `torch.func.grad`, of `vmap`")
def _(drop):
    from torch.fx.experimental.proxy_tensor import make_fx

    slopes = make_fx(func.grad(lambda x: drop(x).sum()))(X)
    dropped(slopes(X) * X)
    random(slopes)
    rows = make_fx(torch.vmap(drop, randomness="different"))(X)
    dropped(rows(X))
    assert not rows_alike(rows(X))


TORCHSCRIPT = (Exception, "restore_dropout")


@feature("`torch.jit.script`, evaluation")
def _(drop):
    script = torch.jit.script(drop).eval()
    assert torch.equal(script(X), X)
    file = io.BytesIO()
    torch.jit.save(script, file)
    assert torch.equal(torch.jit.load(io.BytesIO(file.getvalue()))(X), X)


@feature("`torch.jit.script`, training", ours=TORCHSCRIPT, rng=TORCHSCRIPT)
def _(drop):
    script = torch.jit.script(drop)
    dropped(script(X))
    random(script)


@feature("`torch.jit.trace`", rng=(RuntimeError, "restore_dropout"))
def _(drop):
    trace = torch.jit.trace(drop, X, check_trace=False)
    dropped(trace(X))
    random(trace)


ALONE = (RuntimeError, "functionalize take fastdrop's dropout alone")


@feature("`torch.func.functionalize`")
def _(drop):
    dropped(func.functionalize(drop)(X))
    random(func.functionalize(drop))


@feature("`torch.func.functionalize` of `torch.func.grad`", ours=ALONE, rng=ALONE)
def _(drop):
    dropped(func.functionalize(func.grad(lambda x: drop(x).sum()))(X) * X)


@feature("`torch.export`")
def _(drop):
    module = torch.export.export(nn.Sequential(drop), (X,)).module()
    dropped(module(X))
    random(module)


def compiled_right(drop, **options):
    torch._dynamo.reset()
    compiled = torch.compile(drop, fullgraph=True, **options)
    x, outputs = X.clone().requires_grad_(), []
    for _ in range(2):
        y = compiled(x)
        (g,) = torch.autograd.grad(y.sum(), x)
        dropped(y.detach())
        assert torch.equal(g != 0, y != 0)
        outputs.append(y)
    assert not torch.equal(*outputs)


class OfRows(nn.Module):
    """A module of each row, by vmap."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return torch.vmap(self.module, randomness="different")(x)


@feature("`torch.export` of `torch.vmap`", ours=ALONE, rng=ALONE)
def _(drop):
    module = torch.export.export(OfRows(drop), (X,)).module()
    dropped(module(X))
    random(module)


MUTATED = (RuntimeError, "is mutated in the forward method")


@feature("`torch.export`, then `run_decompositions`", rng=MUTATED)
def _(drop):
    module = torch.export.export(nn.Sequential(drop), (X,)).run_decompositions().module()
    dropped(module(X))
    random(module)


@feature("`torch.compile`: eager, aot_eager")
def _(drop):
    for backend in ("eager", "aot_eager"):
        compiled_right(drop, backend=backend)
        random(torch.compile(drop, backend=backend))  # without gradients


@feature("`torch.compile` as it is: inductor", "slow", "compiler")
def _(drop):
    compiled_right(drop)


@feature('`torch.compile`, mode="reduce-overhead"', "slow", "compiler")
def _(drop):
    compiled_right(drop, mode="reduce-overhead")


def refused_as_a_graph(call):
    try:
        call()
    except torch._dynamo.exc.Unsupported as error:
        assert "graphs can't hold fastdrop's noises" in str(error)  # noqa: PT017
    else:
        raise AssertionError


@feature("compiled autograd of an eager forward")
def _(drop):
    torch._dynamo.reset()
    for _ in range(2):
        x = X.clone().requires_grad_()
        y = drop(x)
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
            y.sum().backward()
        assert torch.equal(x.grad != 0, y != 0)


EAGERLY = "differs: outside of graphs, and so not with fullgraph=True"


@feature("`torch.compile` of `torch.func.grad`, `jvp` and `vmap`", "slow", ours=EAGERLY, rng=EAGERLY)
def _(drop):
    def compiled(function, fullgraph):
        torch._dynamo.reset()
        return torch.compile(function, backend="aot_eager", fullgraph=fullgraph)(X)

    transforms = {
        "grad": lambda x: func.grad(lambda x: drop(x).sum())(x) * x,
        "jvp": lambda x: func.jvp(drop, (x,), (x,))[1],
        "same": lambda x: torch.vmap(drop, randomness="same")(x),
        "different": lambda x: torch.vmap(drop, randomness="different")(x),
    }
    for name, transform in transforms.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Dynamo does not know how to trace")
            y = compiled(transform, fullgraph=of_torch(drop))
        dropped(y)
        assert rows_alike(y) == (name == "same")
    if not of_torch(drop):
        refused_as_a_graph(lambda: compiled(transforms["grad"], fullgraph=True))


PYTORCHS_FAULT = (AssertionError, "it drops others in the backward pass")


@feature(
    "`torch.compile` with `activation_memory_budget = 0`",
    torch=PYTORCHS_FAULT,
    install=PYTORCHS_FAULT,
    ours=EAGERLY,
    rng=EAGERLY,
)
def _(drop):
    torch._dynamo.reset()
    x = X.clone().requires_grad_()
    with torch._functorch.config.patch(activation_memory_budget=0.0):
        y = torch.compile(drop, backend="aot_eager")(x)
        (g,) = torch.autograd.grad(y.sum(), x)
        if not of_torch(drop):
            torch._dynamo.reset()
            refused_as_a_graph(lambda: torch.compile(drop, backend="aot_eager", fullgraph=True)(x))
    assert torch.equal(g != 0, y != 0), "it drops others in the backward pass"


@feature("`FakeTensorMode`")
def _(drop):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        y = drop(torch.ones(3, 2000))
    assert y.shape == (3, 2000)
    dropped(drop(X))  # nothing fake stays


@feature("meta tensors")
def _(drop):
    y = drop(torch.ones(3, 2000, device="meta"))
    assert y.is_meta
    assert y.shape == (3, 2000)


@feature("nested tensors, jagged and strided", rng=(TypeError, "nested"))
def _(drop):
    for layout in (torch.jagged, torch.strided):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nested tensors are young
            x = torch.nested.nested_tensor([torch.ones(1000, 2), torch.ones(3000, 2)], layout=layout)
        y = drop(x)
        dropped(torch.cat(y.unbind()), torch.cat(x.unbind()))


@feature("autocast")
def _(drop):
    model = nn.Sequential(nn.Linear(1024, 1024), drop)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(X / 4096)
    assert y.dtype is torch.bfloat16
    about_half(y != 0)


class Square(nn.Module):
    """A module whose derivative needs its input, for which a checkpoint runs what was before it again."""

    def forward(self, x):
        return x * x


def checkpointed(drop, run):
    """Check a run of the squares of a dropout's output."""
    x = X.clone().requires_grad_()
    y = run(nn.Sequential(drop, Square()), x)
    y.sum().backward()
    dropped(y.detach().sqrt())
    assert torch.equal(x.grad, 8 * x.detach() * (y != 0))


@feature("`checkpoint`, use_reentrant=False", rng="differs: it needs context_fn=checkpoint_contexts")
def _(drop):
    options = {"context_fn": lambda: fdt.checkpoint_contexts(drop)} if keyed(drop) else {}
    checkpointed(drop, lambda model, x: checkpoint(model, x, use_reentrant=False, **options))


@feature("`checkpoint`, use_reentrant=True", rng=(RuntimeError, "use_reentrant=False"))
def _(drop):
    checkpointed(drop, lambda model, x: checkpoint(model, x, use_reentrant=True))


@feature("`checkpoint_sequential`", rng=(RuntimeError, "use_reentrant=False"))
def _(drop):
    def run(model, x):
        return checkpoint_sequential(nn.Sequential(*model, nn.Identity(), nn.Identity()), 2, x, False)

    checkpointed(drop, run)


@feature("`torch.use_deterministic_algorithms`")
def _(drop):
    torch.use_deterministic_algorithms(True)
    try:
        dropped(drop(X))
    finally:
        torch.use_deterministic_algorithms(False)


@feature("`torch.manual_seed` decides the masks", rng="differs: its key does")
def _(drop):
    def run():
        torch.manual_seed(3)
        if keyed(drop):
            drop.key = fd.Key(3)
        return drop(X)

    assert torch.equal(run(), run())


@feature("`deepcopy`, `state_dict` as torch.nn's", rng="differs: the state has its key")
def _(drop):
    model = nn.Sequential(drop)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a deep copy of")
        dropped(copy.deepcopy(model)(X))
    assert list(model.state_dict()) == (["0._extra_state"] if keyed(drop) else [])
    other = nn.Sequential(nn.Dropout(P))
    other.load_state_dict({})


@feature("`torch.inference_mode` in training")
def _(drop):
    with torch.inference_mode():
        dropped(drop(X))
        dropped(drop(X * 1), X)


@feature("float16, bfloat16, float64; any strides")
def _(drop):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = torch.ones(3, 4, 500, dtype=dtype)
        for each in (x, x.transpose(1, 2), x[:, ::2], x[:1].expand(5, 4, 500), x.flip(0)):
            dropped(drop(each), each)


@feature(
    "integers, by torch's error or ours",
    **everywhere((Exception, "[Ff]loat")),
)
def _(drop):
    drop(torch.ones(2000, dtype=torch.int64))


def profiled(run):
    """The names of what a profile of a call shows."""
    with torch.profiler.profile() as profile:
        run()
    return {event.key for event in profile.key_averages()}


NAMED = "differs: as `fastdrop::dropout`"


@feature("a NumPy array or a list in place of a tensor", **everywhere((TypeError, "[Tt]ensor")))
def _(drop):
    try:
        drop([1.0])
    except TypeError:
        drop(X.numpy())


@feature("sparse tensors", **everywhere((Exception, "[Ss]parse")))
def _(drop):
    drop(torch.ones(40, 60).to_sparse())


@feature("a list of rates", **everywhere((TypeError, "list")))
def _(drop):
    type(drop)([0.1, 0.2])


NO_KEY = (TypeError, "key must be a Key, an int or what key_tensor returns")


@feature("a tensor of one integer as a key", torch=NO_KEYS, install=NO_KEYS, ours=NO_KEY, rng=NO_KEY)
def _(drop):
    if of_torch(drop):
        nn.Dropout(P, rng=torch.tensor(3))
    fdt.dropout(X, P, torch.tensor(3))


@feature("`torch.profiler` names it, forward and backward", ours=NAMED, rng=NAMED)
def _(drop):
    x, name = X.clone().requires_grad_(), f"{'aten' if of_torch(drop) else 'fastdrop'}::dropout"
    assert name in profiled(lambda: drop(X))
    assert name in profiled(lambda: drop(x))
    y = drop(x).sum()
    own = name if name != "aten::dropout" else "fastdrop::dropout" if fdt.installed() else "MulBackward0"
    assert own in profiled(y.backward)


def first(y):
    return y[0] if isinstance(y, tuple) else y


def a_model_drops(drop, model, *inputs):
    """Check a model of torch.nn, in training and evaluation, and return what our modules leave of it."""
    plain = copy.deepcopy(model).eval()
    swapped = None if of_torch(drop) else fdt.replace_dropout(model, rng=drop.key)
    y = first(model(*inputs))
    assert not torch.equal(first(model(*inputs)), y)
    y.square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    if of_torch(drop):
        assert ("aten::bernoulli_" in profiled(lambda: model(*inputs))) != bool(fdt.installed())
    assert torch.equal(first(model.eval()(*inputs)), first(plain(*inputs)))
    return {} if swapped is None else swapped.left


LEFT = "differs: as torch.nn's own, which `replace_dropout` leaves and names"
SEQUENCES = torch.linspace(-1, 1, 2 * 64 * 64).reshape(2, 64, 64)


@feature("`MultiheadAttention`", ours=LEFT, rng=LEFT)
def _(drop):
    model = nn.MultiheadAttention(64, 2, P, batch_first=True)
    left = a_model_drops(drop, model, SEQUENCES, SEQUENCES, SEQUENCES)
    assert of_torch(drop) or left == {"": "MultiheadAttention drops by itself: dropout=0.5"}


@feature(
    "`scaled_dot_product_attention`",
    ours="differs: by fastdrop's function of this name",
    rng="differs: by fastdrop's function of this name, with `noise_key`",
)
def _(drop):
    function = functional if of_torch(drop) else fdt
    key = {"noise_key": drop.key} if keyed(drop) else {}
    q, k = SEQUENCES[:, :, :32], SEQUENCES[:, :, 32:].flip(1)
    v = torch.eye(64).expand(2, 64, 64).clone().requires_grad_()
    y = function.scaled_dot_product_attention(q, k, v, dropout_p=P, **key)
    dropped(y.detach(), functional.scaled_dot_product_attention(q, k, v).detach(), 1e-5)
    (g,) = torch.autograd.grad(y.sum(), v)
    torch.testing.assert_close(g, y.mT.sum(-1, True).expand(g.shape))  # the values are the identity
    if of_torch(drop):
        names = profiled(lambda: function.scaled_dot_product_attention(q, k, v, dropout_p=P))
        assert ("aten::bernoulli_" in names) != bool(fdt.installed())


ATTENTION_LEFT = "differs: but for attention's, which `replace_dropout` leaves and names"


def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 2, 64, P, batch_first=True), 2)


@feature("`TransformerEncoder` in training", ours=ATTENTION_LEFT, rng=ATTENTION_LEFT)
def _(drop):
    left = a_model_drops(drop, encoder(), SEQUENCES)
    assert of_torch(drop) or list(left) == ["layers.0.self_attn", "layers.1.self_attn"]


@feature("`TransformerEncoder` in evaluation: the fast path")
def _(drop):
    model = encoder().eval()
    with torch.inference_mode():
        y = model(SEQUENCES)
        if not of_torch(drop):
            fdt.replace_dropout(model, rng=drop.key)
        assert "aten::_transformer_encoder_layer_fwd" in profiled(lambda: model(SEQUENCES))
        assert torch.equal(model(SEQUENCES), y)


@feature("`LSTM`, `GRU` and `RNN` with dropout", ours=LEFT, rng=LEFT)
def _(drop):
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        left = a_model_drops(drop, kind(64, 64, num_layers=2, dropout=P, batch_first=True), SEQUENCES)
        assert of_torch(drop) or left == {"": f"{kind.__name__} drops by itself: dropout=0.5"}


@feature("`EmbeddingBag` beside it, dense or sparse gradients")
def _(drop):
    for sparse in (False, True):
        bags = nn.EmbeddingBag(4, 1024, mode="sum", sparse=sparse)
        nn.init.ones_(bags.weight)
        y = nn.Sequential(bags, drop)(torch.tensor([[0, 0], [0, 2], [3, 3], [3, 0]]))
        dropped(y.detach(), torch.full((4, 1024), 2.0))
        y.sum().backward()
        kept = 2.0 * (y != 0)
        expected = torch.stack([2 * kept[0] + kept[1] + kept[3], 0 * kept[0], kept[1], 2 * kept[2] + kept[3]])
        assert torch.equal(bags.weight.grad.to_dense(), expected)


# By torch.nn.functional's name: our function's, and the axes of a feature map beyond those of its channels.
FUNCTIONS = {
    "dropout": ("dropout", 0),
    "dropout1d": ("dropout", 1),
    "dropout2d": ("dropout", 2),
    "dropout3d": ("dropout", 3),
    "alpha_dropout": ("alpha_dropout", 0),
    "feature_alpha_dropout": ("alpha_dropout", 2),
}
KEYS = "differs: by functions that take a key"


@feature("`torch.nn.functional`'s six functions, also in place", ours=KEYS, rng=KEYS)
def _(drop):
    for name, (own, axes) in FUNCTIONS.items():
        x, shared = torch.ones(40, 60, *[2] * axes), tuple(range(2, axes + 2))
        for inplace in (False, True):
            given = x.clone()
            if of_torch(drop):
                y = getattr(functional, name)(given, P, True, inplace)
            else:
                y = getattr(fdt, own)(given, P, fd.Key(1), shared_axes=shared, inplace=inplace)
            assert (y is given) == inplace
            about_half(y == y.max())
            assert len(y.unique()) == 2
            assert (
                y == y.view(40, 60, -1)[..., :1].view(40, 60, *[1] * axes)
            ).all()  # a channel has one draw
        if of_torch(drop):
            assert getattr(functional, name)(x, P, False) is x


@feature("`Dropout1d`, `Dropout2d`, `Dropout3d`, `AlphaDropout`, `FeatureAlphaDropout`")
def _(drop):
    for name, axes in (
        ("Dropout1d", 1),
        ("Dropout2d", 2),
        ("Dropout3d", 3),
        ("AlphaDropout", 2),
        ("FeatureAlphaDropout", 2),
    ):
        module, x = another(drop, name), torch.ones(40, 60, *[2] * axes)
        y = module(x).flatten(2)
        about_half(y == y.max())
        if name != "AlphaDropout":
            assert (y == y[..., :1]).all()  # a channel has one draw
        assert module.eval()(x) is x
        assert torch.equal(torch.jit.script(module)(x), x)


@feature("`Dropout2d` and `Dropout3d` of other numbers of axes: a warning")
def _(drop):
    for name in ("Dropout2d", "Dropout3d"):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            y = another(drop, name)(torch.ones(40, 60))
        assert [each.category for each in found] == [UserWarning]
        about_half(y == 2)


class Dropping(torch.utils.data.Dataset):
    """A data set whose items the modules of some columns drop in the workers."""

    def __init__(self, drops, installed):
        self.drops, self.installed = drops, installed

    def __len__(self):
        return 4

    def __getitem__(self, place):
        assert fdt.installed() == self.installed
        return {column: self.dropped(column) for column in self.drops}

    def dropped(self, column):
        with fdt.install() if column == "install()" else nullcontext():
            return self.drops[column](torch.ones(2000))


def give_keys(worker):
    """Give modules with keys others in each worker."""
    for drop in torch.utils.data.get_worker_info().dataset.drops.values():
        if keyed(drop):
            drop.reseed(drop.key.fold_in(worker))


def by_workers(method, drops, installed):
    """What two workers drop, by column, in a row for each item."""
    loader = torch.utils.data.DataLoader(
        Dropping(drops, installed), 2, num_workers=2, multiprocessing_context=method, worker_init_fn=give_keys
    )
    batches = list(loader)
    return {column: torch.cat([batch[column] for batch in batches]) for column in drops}


@cache
def by_spawned_workers():
    """The same for all columns at once, because processes take long to start."""
    return by_workers("spawn", {column: make() for column, make in COLUMNS.items()}, False)


def four_masks(found):
    dropped(found, torch.ones(4, 2000))
    assert len({tuple(row.tolist()) for row in found}) == 4


WORKERS = "differs: each worker's key is to be folded, as `Dropout` says"


@feature("threads that share a module drop otherwise than each other")
def _(drop):
    x, found, interval = torch.ones(1024), [], sys.getswitchinterval()

    def work():
        found.extend(tuple(drop(x).tolist()) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(set(found)) == 800


@feature("workers of a DataLoader, forked, drop otherwise than each other", rng=WORKERS)
def _(drop):
    four_masks(by_workers("fork", {"": drop}, fdt.installed())[""])


@feature(
    "workers of a DataLoader, spawned, drop otherwise than each other",
    "slow",
    install="differs: each worker calls install() for itself",
    rng=WORKERS,
)
def _(drop):
    four_masks(by_spawned_workers()[column_of(drop)])


@feature("a process that was forked after a call")
def _(drop):
    big = torch.ones(1 << 17)
    drop(big)
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # PyTorch's own operations wait for threads that the child hasn't
            dropped(drop(big), big)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def share_kept(drop):
    return (drop(torch.ones(1 << 17)) != 0).float().mean().item()


@feature("pools of processes that were forked after a call")
def _(drop):
    drop(torch.ones(1 << 17))
    with multiprocessing.get_context("fork").Pool(2, torch.set_num_threads, (1,)) as pool:
        assert all(0.49 < share < 0.51 for share in pool.map(share_kept, [drop] * 4))


@feature(
    "`DistributedDataParallel` by gloo", rng="differs: each rank's key is to be folded, as `Dropout` says"
)
def _(drop):
    from torch import distributed

    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            if keyed(drop):
                drop.reseed(drop.key.fold_in(distributed.get_rank()))
            model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(1024, 1024), drop))
            y = model(X / 4096)
            y.sum().backward()
            about_half(y != 0)
            assert (model.module[0].bias.grad / (y != 0).sum(0)).nan_to_num(2).eq(2).all()
        finally:
            distributed.destroy_process_group()


def outcome(check, drop, column):
    """Run a check: "works", or the error."""
    torch.manual_seed(0)
    handle = fdt.install() if column == "install()" else None
    try:
        check(drop)
    except Exception as error:
        return error
    finally:
        if handle is not None:
            handle.remove()
    return "works"


def cell(what):
    """Return what the table says of a feature in a column."""
    if what is None:
        return "works"
    if isinstance(what, str):
        return "works; " + what.removeprefix("differs: ")
    kind, message = what
    return f"wrong in PyTorch: {message}" if kind is AssertionError else "refused"


def page():
    """Return the page with the table."""
    head = " | ".join(["", "feature", *COLUMNS, ""]).strip()
    rows = [head, "|".join(["", *["---"] * (len(COLUMNS) + 1), ""])]
    for description, (_, exceptions) in CHECKS.items():
        cells = [cell(exceptions.get(column)) for column in COLUMNS]
        rows.append(" | ".join(["", description, *cells, ""]).strip())
    return PAGE.format(table="\n".join(rows))


PAGE = """# What of PyTorch works with which dropout

Four ways to drop on the CPU: torch.nn's modules as they are, the same under `fastdrop.torch.install()`,
fastdrop's modules with masks from torch's generator, and with a key of their own (`rng`). Each cell is a
test, in `tests/integrations/test_torch_features.py`. "Refused" is an error that says what to do. Traced
and transformed calls under `install()` are PyTorch's own, with its bits. "Wrong in PyTorch" is a fault of
its own dropout, in silence.

This page is made by `python tests/torch_features.py > docs/torch.md`.

{table}
"""

if __name__ == "__main__":
    sys.stdout.write(page())
