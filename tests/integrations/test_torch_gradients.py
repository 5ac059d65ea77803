"""Gradients of noises beside PyTorch's own, which autograd computes from the same masks and normals."""

import numpy as np
import pytest
from arrays import normal

torch = pytest.importorskip("torch", reason="PyTorch computes what is expected here")

import fastdrop as fd  # noqa: E402

KEY = fd.Key(42)
X, G = normal(40, 7, dtype=np.float64), normal(40, 7, dtype=np.float64, seed=1)


def gradients(function, *arrays):
    """What autograd finds for a function of tensors, under the gradient G of its output."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    function(*tensors).backward(torch.tensor(G))
    return [t.grad.numpy() for t in tensors]


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-14)


def test_zoneout():
    old = torch.tensor(~fd.keep_mask(X.shape, 0.3, KEY))
    expected = gradients(lambda new, previous: torch.where(old, previous, new), X, G)
    for got, want in zip(fd.zoneout_backward(G, 0.3, KEY), expected, strict=True):
        close(got, want)


def test_adaptive_dropout():
    layer = fd.AdaptiveDropout(0.4, rng=KEY)
    layer(X)
    factors = torch.tensor(fd.dropout(np.ones_like(X), layer.rates, KEY))
    close(layer.backward(G), gradients(lambda x: x * factors, X)[0])


@pytest.mark.parametrize("inverted", [False, True])
def test_standout(inverted):
    kept = torch.tensor(fd.standout_dropout(np.ones_like(X), G, KEY) != 0)

    def function(h):  # no gradient goes through the probabilities
        y = torch.where(kept, h, 0.0)
        return y / torch.sigmoid(torch.tensor(G)) if inverted else y

    found = fd.standout_dropout_backward(G, G, KEY, inverted=inverted)
    np.testing.assert_allclose(found, gradients(function, X)[0], rtol=1e-8)  # rates are exact to 2**-33


def test_variational_dropout():
    layer, z = fd.VariationalDropout(0.3, rng=KEY), torch.tensor(fd.normal(X.shape, KEY))
    layer(X)
    dx = layer.backward(G)
    expected = gradients(lambda x, a: x * (1 + torch.exp(a / 2) * z), X, np.log(0.3))
    close(dx, expected[0])
    close(layer.log_alpha_grad, expected[1])


def test_local_reparameterization():
    variance, z = np.abs(X) + 0.1, torch.tensor(fd.normal(X.shape, KEY))
    expected = gradients(lambda m, v: m + torch.sqrt(v) * z, X, variance)
    for got, want in zip(fd.local_reparameterization_backward(G, variance, KEY), expected, strict=True):
        close(got, want)


def test_embedding_dropout():
    tokens, weight = np.random.default_rng(0).integers(9, size=40), normal(9, 7, dtype=np.float64)
    scales = torch.tensor(fd.embedding_dropout(np.arange(9), np.ones((9, 7)), 0.3, KEY))
    expected = gradients(lambda w: (w * scales)[torch.tensor(tokens)], weight)[0]
    close(fd.embedding_dropout_backward(G, tokens, 0.3, KEY, vocabulary=9), expected)


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "silu"])
def test_activations(name):
    functions = {
        "relu": torch.nn.functional.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
        "silu": torch.nn.functional.silu,
    }
    bias, factors = normal(7, dtype=np.float64, seed=3), torch.tensor(fd.dropout(np.ones_like(X), 0.3, KEY))
    expected = gradients(lambda x, b: functions[name](x + b) * factors, X, bias)
    found = fd.bias_act_dropout_backward(G, X, bias, 0.3, KEY, activation=name)
    for got, want in zip(found, expected, strict=True):
        close(got, want)
