"""Concrete dropout of tensors: against the arrays' function, its gradients, compiled, and as it learns."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402

KEY = fd.Key(42)
X = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("axes", [(), 1, (0, 2)])
def test_values_and_gradients_are_those_of_arrays(dtype, axes):
    x = X.clone().to(dtype).requires_grad_()
    logit = torch.tensor(-1.0, requires_grad=True)
    y = fdt.concrete_dropout(x, logit, KEY, temperature=0.5, shared_axes=axes)
    assert y.dtype is dtype
    y.sum().backward()
    if dtype in (torch.float32, torch.float64):
        array, g = x.detach().numpy(), np.ones(x.shape, x.detach().numpy().dtype)
        options = {"temperature": 0.5, "shared_axes": axes}
        assert y.detach().numpy().tobytes() == fd.concrete_dropout(array, -1.0, KEY, **options).tobytes()
        dx, slope = fd.concrete_dropout_backward(g, array, -1.0, KEY, **options)
        assert x.grad.numpy().tobytes() == dx.tobytes()
        assert logit.grad.item() == pytest.approx(slope, rel=1e-6)
    assert x.grad.dtype is dtype


def test_gradcheck():
    x, logit = X[:2].clone().requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, logit: fdt.concrete_dropout(x, logit, KEY, temperature=0.7), (x, logit)
    )


def test_layouts_and_expanded_gradients():
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    logit = torch.tensor(0.0)
    same = fdt.concrete_dropout(image.contiguous(), logit, KEY)
    assert torch.equal(fdt.concrete_dropout(image, logit, KEY), same)


LEARNED = [(fdt.concrete_dropout, -1.0), (fdt.information_dropout, 0.3)]
by_noise = pytest.mark.parametrize(("noise", "start"), LEARNED, ids=["concrete", "information"])


@by_noise
def test_gradients_in_batches_and_by_compiled_autograd(noise, start):
    x, number = X.clone().requires_grad_(), torch.tensor(start, dtype=torch.float64, requires_grad=True)
    y, rows = noise(x, number, KEY), torch.eye(X.numel(), dtype=X.dtype)[:3].view(3, *X.shape)
    together = torch.autograd.grad(y, (x, number), rows, is_grads_batched=True, retain_graph=True)
    for each, row in enumerate(rows):
        expected = torch.autograd.grad(y, (x, number), row, retain_graph=True)
        assert all(torch.equal(a[each], b) for a, b in zip(together, expected, strict=True))
    torch._dynamo.reset()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        y.backward(rows[0])
    expected = torch.autograd.grad(noise(x, number, KEY), (x, number), rows[0])
    assert torch.equal(x.grad, expected[0])
    assert torch.equal(number.grad, expected[1])


@by_noise
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_tensors_are_refused(noise, start):
    number = torch.tensor(start)
    with pytest.raises(TypeError, match=r"a dense tensor, got torch\.sparse_coo; use"):
        noise(torch.ones(3).to_sparse(), number, KEY)
    with pytest.raises(TypeError, match="a dense tensor, got a nested one; use"):
        noise(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), number, KEY)
    x = X.clone().requires_grad_()
    y, g = noise(x[0], number, KEY), torch.eye(6)[:, :5].to(X.dtype)
    sparse, dense = (torch.autograd.grad(y, x, each, retain_graph=True)[0] for each in (g.to_sparse(), g))
    assert torch.equal(sparse, dense)
    (slope,) = torch.autograd.grad(noise(x, number, KEY).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{noise.__name__} has first derivatives only"):
        slope.sum().backward()


@by_noise
def test_names_in_profiles(noise, start):
    number = torch.tensor(start, requires_grad=True)
    with torch.profiler.profile() as profile:
        noise(X, number, KEY).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {f"fastdrop::{noise.__name__}", f"fastdrop::{noise.__name__}_backward"} <= names


def test_the_operators_are_what_torch_demands_of_operators():
    logit = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    arguments = X.clone().requires_grad_(), logit, fdt.key_tensor(KEY), "concrete_dropout", (0.1,), [1]
    torch.library.opcheck(torch.ops.fastdrop.learned.default, arguments)


@pytest.mark.filterwarnings("ignore:a deep copy of")
def test_a_module_with_a_key_counts_and_resumes():
    module = fdt.ConcreteDropout(0.2, rng=KEY)
    assert module.p == pytest.approx(0.2)
    for draw in range(2):
        y = module(X)
        same = fd.concrete_dropout(X.numpy(), module.logit.item(), fd.Key(42, draw))
        assert y.detach().numpy().tobytes() == same.tobytes()
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    other = fdt.ConcreteDropout(rng=1)
    other.load_state_dict(torch.load(saved))
    assert other.p == module.p
    clone = copy.deepcopy(module)
    assert torch.equal(other(X), module(X))
    assert torch.equal(clone(X), other(X)) is False  # the clone is a draw behind
    assert module.eval()(X) is X


def test_a_module_without_one_follows_torchs_generator():
    module = fdt.ConcreteDropout()
    torch.manual_seed(3)
    first = module(X)
    assert not torch.equal(module(X), first)
    torch.manual_seed(3)
    assert torch.equal(module(X), first)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_it_gives_the_same(backend):
    torch._dynamo.reset()
    module, other = fdt.ConcreteDropout(0.3, rng=KEY), fdt.ConcreteDropout(0.3, rng=KEY)
    compiled = torch.compile(other, backend=backend, fullgraph=True)
    for _ in range(2):
        one, two = module(X), compiled(X)
        assert torch.equal(one, two)
        module.zero_grad()
        other.zero_grad()
        one.sum().backward()
        two.sum().backward()
        assert torch.equal(module.logit.grad, other.logit.grad)


@pytest.mark.parametrize(
    "kind",
    [fdt.ConcreteDropout, fdt.GaussianDropout, fdt.GaussianNoise, fdt.InformationDropout, fdt.Zoneout],
)
def test_shared_axes_are_integers_that_nobody_changes_later(kind):
    with pytest.raises(TypeError, match="shared_axes must be an int or a tuple of ints, got 'q'"):
        kind(shared_axes="q")
    axes = [2, 3]
    module = kind(shared_axes=axes)
    axes[0] = 0
    assert module.shared_axes == (2, 3)


def test_a_rate_that_is_set_goes_into_the_same_parameter():
    module = fdt.ConcreteDropout(0.1).double()
    logit = module.logit.requires_grad_(False)
    module.p = 0.5
    assert module.logit is logit
    assert (logit.item(), logit.dtype, logit.requires_grad) == (0.0, torch.float64, False)
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        module.p = 1.0


def test_the_regularizer_is_finite_where_the_rate_rounds_to_1():
    module = fdt.ConcreteDropout()
    with torch.no_grad():
        module.logit.fill_(100.0)
    found = module.regularizer(torch.zeros(3, 2), weight_scale=1.0, entropy_scale=1.0)
    assert abs(found.item()) < 1e-30


def test_the_regularizer_is_that_of_the_layer():
    weight = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    module, layer = fdt.ConcreteDropout(0.2).double(), fd.ConcreteDropout(0.2)
    scales = {"weight_scale": 0.3, "entropy_scale": 0.2}
    found = module.regularizer(weight, **scales)
    found.backward()
    grad = np.zeros((7, 4))
    layer.logit = module.logit.item()
    assert found.item() == pytest.approx(layer.regularizer(weight.detach().numpy().T, grad, **scales))
    assert module.logit.grad.item() == pytest.approx(float(layer.logit_grad))
    np.testing.assert_allclose(weight.grad.numpy(), grad.T, rtol=1e-12)


def test_it_learns_less_dropout_where_there_is_more_data():
    rates = []
    for scale in (1e-1, 1e-5):
        module, dense = fdt.ConcreteDropout(0.3, rng=1), torch.nn.Linear(10, 1)
        torch.nn.init.constant_(dense.weight, 1.0)
        optimiser = torch.optim.Adam([module.logit], lr=0.05)
        x = torch.ones(100, 10)
        for _ in range(150):
            optimiser.zero_grad()
            loss = (dense(module(x)) - 10).square().mean()
            (loss + module.regularizer(dense.weight, weight_scale=0.0, entropy_scale=scale)).backward()
            optimiser.step()
        rates.append(module.p)
    assert rates[1] < 0.1
    assert rates[1] < rates[0]


def test_errors():
    for p in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
            fdt.ConcreteDropout(p)
    with pytest.raises(ValueError, match="temperature must be finite"):
        fdt.ConcreteDropout(temperature=0)
    with pytest.raises(TypeError, match="needs real numbers"):
        fdt.concrete_dropout(torch.ones(3, dtype=torch.complex64), torch.tensor(0.0), KEY)
    with pytest.raises(ValueError, match="logit must be finite"):
        fdt.concrete_dropout(torch.ones(3), torch.tensor(np.inf), KEY)
    assert repr(fdt.ConcreteDropout(0.25, rng=1)) == "ConcreteDropout(p=0.25, temperature=0.1, rng=Key(1))"


def test_regularizers_take_tensors():
    with pytest.raises(TypeError, match="weight must be a tensor, got ndarray"):
        fdt.ConcreteDropout(0.1).regularizer(np.ones((2, 2)), weight_scale=1.0, entropy_scale=1.0)
    with pytest.raises(TypeError, match="mean must be a tensor, got ndarray"):
        fdt.InformationDropout(0.5).regularizer(mean=np.ones(3))
