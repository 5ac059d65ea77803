"""Information dropout of tensors: against the arrays' function, its gradients, compiled, and as it learns."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402

KEY = fd.Key(42)
X = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ALPHAS = [0.4, [0.1, 0.5, 0.9, 0.0, 0.3], [[[0.2]], [[0.3]], [[0.4]], [[0.5]]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", ALPHAS, ids=np.shape)
@pytest.mark.parametrize("axes", [(), 1])
def test_values_and_gradients_are_those_of_arrays(dtype, given, axes):
    x = X.clone().to(dtype).requires_grad_()
    alpha = torch.tensor(given, dtype=torch.float64, requires_grad=True)
    y = fdt.information_dropout(x, alpha, KEY, shared_axes=axes)
    assert y.dtype is x.dtype
    y.sum().backward()
    assert x.grad.dtype is dtype
    assert (alpha.grad.dtype, alpha.grad.shape) == (alpha.dtype, alpha.shape)
    if dtype in (torch.float32, torch.float64):
        array, numbers = x.detach().numpy(), alpha.detach().numpy()
        numbers = numbers if numbers.ndim else float(numbers)
        expected = fd.information_dropout(array, numbers, KEY, shared_axes=axes)
        assert y.detach().numpy().tobytes() == expected.tobytes()
        ones = np.ones_like(array)
        dx, slope = fd.information_dropout_backward(ones, array, numbers, KEY, shared_axes=axes)
        assert x.grad.numpy().tobytes() == dx.tobytes()
        np.testing.assert_array_equal(alpha.grad.numpy(), slope)


@pytest.mark.parametrize("given", ALPHAS, ids=np.shape)
def test_gradients_are_those_of_torchs_own_formula(given):
    found = []
    for function in (
        lambda x, alpha: fdt.information_dropout(x, alpha, KEY),
        lambda x, alpha: x * torch.exp(alpha * torch.tensor(fd.normal(X.shape, KEY))),
    ):
        x, alpha = X.clone().requires_grad_(), torch.tensor(given, dtype=X.dtype, requires_grad=True)
        (function(x, alpha) ** 2).sum().backward()
        found.append((x.grad, alpha.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    x, alpha = X[:2, :2].clone().requires_grad_(), torch.tensor(0.3, dtype=X.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, alpha: fdt.information_dropout(x, alpha, KEY), (x, alpha))


def test_alpha_may_be_a_number_or_what_a_network_computes():
    y = fdt.information_dropout(X, 0.3, KEY)
    assert torch.equal(y, fdt.information_dropout(X, torch.tensor(0.3, dtype=torch.float64), KEY))
    weight = torch.zeros(5, dtype=X.dtype, requires_grad=True)
    fdt.information_dropout(X, torch.sigmoid(X * weight), KEY).sum().backward()
    assert weight.grad.abs().min() > 0


def test_the_operators_are_what_torch_demands_of_operators():
    alpha = torch.full((5,), 0.2, dtype=torch.float64, requires_grad=True)
    arguments = X.clone().requires_grad_(), alpha, fdt.key_tensor(KEY), "information_dropout", (), [1]
    torch.library.opcheck(torch.ops.fastdrop.learned.default, arguments)


def test_a_module_is_the_layer():
    module, layer = (
        fdt.InformationDropout(ALPHAS[1][:3], rng=KEY),
        fd.InformationDropout(ALPHAS[1][:3], rng=KEY),
    )
    module.double()
    module.log_alpha.data = torch.from_numpy(layer.log_alpha.copy())
    x = X[..., :3].contiguous()
    for _ in range(2):
        y = module(x)
        np.testing.assert_allclose(y.detach().numpy(), layer(x.numpy()), rtol=1e-13)
        y.sum().backward()
        layer.backward(np.ones(x.shape))
    for options in ({}, {"mean": x.numpy(), "prior_mean": 0.2, "prior_std": 0.7}):
        tensors = options | ({"mean": x} if options else {})
        found = module.regularizer(0.1, **tensors)
        found.backward()
        assert found.item() == pytest.approx(layer.regularizer(0.1, **options))
    np.testing.assert_allclose(module.log_alpha.grad.numpy(), layer.log_alpha_grad, rtol=1e-10)
    assert module.eval()(x) is x
    torch.manual_seed(3)
    other = fdt.InformationDropout(0.3)
    first = other(x)
    assert not torch.equal(other(x), first)
    torch.manual_seed(3)
    assert torch.equal(other(x), first)


def test_the_divergence_has_a_gradient_of_the_mean():
    mean = X[0].clone().requires_grad_()
    fdt.InformationDropout(0.3).regularizer(2.0, mean, prior_mean=0.2, prior_std=0.7).backward()
    torch.testing.assert_close(mean.grad, 2 * (X[0] - 0.2) / 0.7**2)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_it_gives_the_same(backend):
    torch._dynamo.reset()
    module, other = (
        fdt.InformationDropout(ALPHAS[1][:3], rng=KEY),
        fdt.InformationDropout(ALPHAS[1][:3], rng=KEY),
    )
    compiled, x = torch.compile(other, backend=backend, fullgraph=True), X[..., :3].contiguous()
    for _ in range(2):
        one, two = module(x), compiled(x)
        assert torch.equal(one, two)
        one.sum().backward()
        two.sum().backward()
    assert torch.equal(module.log_alpha.grad, other.log_alpha.grad)


def test_errors():
    with pytest.raises(ValueError, match="alpha must be above 0 and finite"):
        fdt.InformationDropout(0.0)
    with pytest.raises(TypeError, match="needs real numbers"):
        fdt.information_dropout(torch.ones(3, dtype=torch.complex64), 0.5, KEY)
    with pytest.raises(ValueError, match="alpha must be finite and >= 0, got -1"):
        fdt.information_dropout(torch.ones(3), -1.0, KEY)
    with pytest.raises(TypeError, match="alpha must be a real number"):
        fdt.information_dropout(torch.ones(3), True, KEY)
    with pytest.raises(ValueError, match="prior_std must be above 0"):
        fdt.InformationDropout().regularizer(mean=X, prior_std=0.0)
    assert repr(fdt.InformationDropout(0.25, rng=1)) == "InformationDropout(alpha=0.25, rng=Key(1))"


@pytest.mark.parametrize("alpha", [0.25, [0.25, 0.5]])
def test_alpha_is_what_the_noise_is_made_with_now(alpha):
    module = fdt.InformationDropout(alpha)
    torch.testing.assert_close(module.alpha, torch.tensor(alpha))
    with torch.no_grad():
        module.log_alpha.add_(1)
    torch.testing.assert_close(module.alpha, torch.tensor(alpha) * np.e)
    assert not module.alpha.requires_grad
    log_alpha, module.alpha = module.log_alpha, alpha
    assert module.log_alpha is log_alpha
    torch.testing.assert_close(module.alpha, torch.tensor(alpha))
    with pytest.raises(ValueError, match="alpha must be above 0 and finite, got 0"):
        module.alpha = 0.0
