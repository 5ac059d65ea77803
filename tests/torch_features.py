"""What PyTorch does with dropout, feature by feature, each with a check of it, and what fastdrop's forms say.

``python tests/torch_features.py > docs/torch.md`` writes the page that the tests compare with.
"""

import copy
import io
import os
import sys
import tempfile
import warnings

import torch
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastdrop as fd
import fastdrop.torch as fdt

nn, func = torch.nn, torch.func
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


def feature(description, **exceptions):
    """Register a check. An exception is (error, part of its message), or "differs: why"."""

    def register(check):
        CHECKS[description] = check, {NAMES[name]: what for name, what in exceptions.items()}
        return check

    return register


def everywhere(exception):
    return dict.fromkeys(NAMES, exception)


def dropped(y, x=X):
    """Check that y is dropout of x at a rate of one half."""
    assert y.shape == x.shape
    kept = y != 0
    assert torch.equal(y[kept], (2 * x)[kept].to(y.dtype))
    assert 0.4 < kept.float().mean() < 0.6


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


class Again(nn.Module):
    """A module that drops the same in each call, as derivatives by differences need."""

    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        torch.manual_seed(1)
        if getattr(self.drop, "key", None) is not None:
            self.drop.key = fd.Key(3)
        return self.drop(x)


@feature("`gradcheck` and `gradgradcheck`, forward mode, batched gradients")
def _(drop):
    x = torch.rand(40, dtype=torch.float64, requires_grad=True)
    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(Again(drop), (x,), **options)
    assert torch.autograd.gradgradcheck(Again(drop), (x,))


@feature("`is_grads_batched`")
def _(drop):
    x = X[:, :300].reshape(1200).clone().requires_grad_()
    y = drop(x)
    (g,) = torch.autograd.grad(y, x, torch.eye(1200)[:5], is_grads_batched=True)
    assert torch.equal(g.sum(0) != 0, (torch.arange(1200) < 5) & (y != 0))


@feature("`torch.fx`: a leaf, with the mode that the graph has when it runs")
def _(drop):
    graph = torch.fx.symbolic_trace(nn.Sequential(drop))
    dropped(graph(X))
    random(graph)
    assert torch.equal(graph.eval()(X), X)
    dropped(graph.train()(X))
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "output"]


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


REFUSED_BY_VMAP = (RuntimeError, "randomness")


@feature("`torch.func.hessian` (it has no randomness to set)", **everywhere(REFUSED_BY_VMAP))
def _(drop):
    func.hessian(lambda x: (drop(x) ** 2).sum())(X[0])


@feature("`torch.func.functional_call`")
def _(drop):
    model = nn.Sequential(nn.Linear(1024, 1024), drop)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    slopes = func.grad(lambda w: func.functional_call(model, w, (X / 4096,)).sum())(weights)
    assert set(slopes["0.bias"].tolist()) == {0, 2, 4, 6, 8}  # how many of four samples were kept, times two


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


@feature("`make_fx`")
def _(drop):
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(drop)(X)
    dropped(graph(X))
    random(graph)


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


@feature("`torch.export`")
def _(drop):
    module = torch.export.export(nn.Sequential(drop), (X,)).module()
    dropped(module(X))
    random(module)


@feature("`torch.compile`: eager, aot_eager")
def _(drop):
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        compiled = torch.compile(drop, backend=backend)
        x = X.clone().requires_grad_()
        y = compiled(x)
        y.sum().backward()
        dropped(y.detach())
        assert torch.equal(x.grad != 0, y != 0)
        random(compiled)


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
    assert 0.4 < (y != 0).float().mean() < 0.6


def checkpointed(run):
    x = X.clone().requires_grad_()
    y = run(x)
    y.sum().backward()
    dropped(y.detach())
    assert torch.equal(x.grad != 0, y != 0)


@feature("`checkpoint`, use_reentrant=False", rng="differs: it needs context_fn=checkpoint_contexts")
def _(drop):
    own = getattr(drop, "key", None) is not None
    options = {"context_fn": lambda: fdt.checkpoint_contexts(drop)} if own else {}
    checkpointed(lambda x: checkpoint(drop, x, use_reentrant=False, **options))


@feature("`checkpoint`, use_reentrant=True", rng=(RuntimeError, "use_reentrant=False"))
def _(drop):
    checkpointed(lambda x: checkpoint(drop, x, use_reentrant=True))


@feature("`checkpoint_sequential`")
def _(drop):
    model = nn.Sequential(nn.Identity(), drop, nn.Identity(), nn.Identity())
    checkpointed(lambda x: checkpoint_sequential(model, 2, x, use_reentrant=False))


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
        if getattr(drop, "key", None) is not None:
            drop.key = fd.Key(3)
        return drop(X)

    assert torch.equal(run(), run())


@feature("`deepcopy`, `state_dict` as torch.nn's", rng="differs: the state has its key")
def _(drop):
    model = nn.Sequential(drop)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a deep copy of")
        dropped(copy.deepcopy(model)(X))
    assert list(model.state_dict()) == (["0._extra_state"] if getattr(drop, "key", None) is not None else [])
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


@feature("`torch.profiler` names it, forward and backward", ours=NAMED, rng=NAMED)
def _(drop):
    x, name = X.clone().requires_grad_(), f"{'aten' if type(drop) is nn.Dropout else 'fastdrop'}::dropout"
    assert name in profiled(lambda: drop(X))
    assert name in profiled(lambda: drop(x))
    y = drop(x).sum()
    own = name if name != "aten::dropout" else "fastdrop::dropout" if fdt.installed() else "MulBackward0"
    assert own in profiled(y.backward)


LEFT = "differs: as torch.nn's own, which `replace_dropout` leaves and names"


@feature("dropout that isn't a module: transformers, attention, LSTM", ours=LEFT, rng=LEFT)
def _(drop):
    x = torch.ones(2, 64, 64)
    attention = nn.MultiheadAttention(64, 2, P, batch_first=True)
    models = {
        nn.TransformerEncoderLayer(64, 2, 64, P, batch_first=True): (x,),
        attention: (x, x, x),
        nn.LSTM(64, 64, num_layers=2, dropout=P, batch_first=True): (x,),
    }
    for model, inputs in models.items():
        if type(drop) is not nn.Dropout:
            assert fdt.replace_dropout(model).left
            continue
        assert ("aten::bernoulli_" in profiled(lambda m=model, i=inputs: m(*i))) != bool(fdt.installed())
        assert torch.equal(model.eval()(*inputs)[0], model(*inputs)[0])


@feature("`Dropout1d`, `Dropout2d`, `Dropout3d`, `AlphaDropout`, `FeatureAlphaDropout`")
def _(drop):
    own = {"rng": 1} if getattr(drop, "key", None) is not None else {}
    for name, axes in (
        ("Dropout1d", 1),
        ("Dropout2d", 2),
        ("Dropout3d", 3),
        ("AlphaDropout", 2),
        ("FeatureAlphaDropout", 2),
    ):
        module = getattr(nn if type(drop) is nn.Dropout else fdt, name)(P, **own)
        x = torch.ones(40, 60, *[2] * axes)
        y = module(x).flatten(2)
        assert 0.3 < (y == y.max()).float().mean() < 0.7
        if name != "AlphaDropout":
            assert (y == y[..., :1]).all()  # a channel has one draw
        assert module.eval()(x) is x
        assert torch.equal(torch.jit.script(module)(x), x)


class Dropping(torch.utils.data.Dataset):
    """A data set whose items are dropped in the workers."""

    def __init__(self, drop):
        self.drop = drop

    def __len__(self):
        return 4

    def __getitem__(self, place):
        return self.drop(torch.ones(2000))


WORKERS = "differs: each worker's key is to be folded, as `Dropout` says"


@feature("workers of a DataLoader, forked, drop otherwise than each other", rng=WORKERS)
def _(drop):
    def fold(worker):
        if getattr(drop, "key", None) is not None:
            drop.reseed(drop.key.fold_in(worker))

    loader = torch.utils.data.DataLoader(
        Dropping(drop), 1, num_workers=2, multiprocessing_context="fork", worker_init_fn=fold
    )
    found = torch.cat(list(loader))
    for row in found:
        dropped(row, torch.ones(2000))
    assert len({tuple(row.tolist()) for row in found}) == 4


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


@feature("`DistributedDataParallel` by gloo")
def _(drop):
    from torch import distributed

    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(1024, 1024), drop))
            y = model(X / 4096)
            y.sum().backward()
            assert 0.4 < (y != 0).float().mean() < 0.6
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
    return "refused"


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
and transformed calls under `install()` are PyTorch's own, with its bits.

This page is made by `python tests/torch_features.py > docs/torch.md`.

{table}
"""

if __name__ == "__main__":
    sys.stdout.write(page())
