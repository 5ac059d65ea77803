"""DropConnect: products against the whole mask, gradients, moments against many passes, the layer's life."""

import copy
import json
import pickle
import tracemalloc

import numpy as np
import pytest
from arrays import LAYOUTS, frozen, normal, same_bits
from numpy.lib.stride_tricks import as_strided
from scipy import stats

import fastdrop as fd
from fastdrop._noises import drop_connect as module
from fastdrop._noises.drop_connect import (
    DropConnect,
    drop_connect,
    drop_connect_backward,
    drop_connect_inference,
    drop_connect_moments,
)

KEY = fd.Key(42)
SHAPES = [(5, 7, 3), (1, 1, 1), (40, 30, 20), (0, 4, 3), (4, 0, 3), (4, 3, 0)]
RATES = [0.0, 1e-10, 0.3, 0.5, 1.0]


def dense(n, features_in, features_out, dtype=np.float64):
    shapes = (n, features_in), (features_in, features_out), (features_out,), (n, features_out)
    return [normal(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


def factors(n, features_in, features_out, p, per_example):
    """What weights and bias of each example are multiplied with, from whole masks."""
    lead = (n,) if per_example else ()
    scale = 1 / (1 - p) if p < 1 else 0.0
    weights = fd.keep_mask((*lead, features_in, features_out), p, KEY) * scale
    biases = fd.keep_mask((*lead, features_out), p, KEY.fold_in(0)) * scale
    shape = (n, features_in, features_out)
    return np.broadcast_to(weights, shape), np.broadcast_to(biases, (n, features_out))


def everything(arrays, p=0.3, per_example=True):
    """Output and gradients."""
    x, weight, bias, g = arrays
    y = drop_connect(x, weight, p, KEY, bias=bias, per_example=per_example)
    return y, *drop_connect_backward(g, x, weight, p, KEY, bias=True, per_example=per_example)


@pytest.fixture(params=["one block", "many blocks", "rows"])
def blocks(request, monkeypatch):
    """Buffers that hold everything, some inputs of some examples, or one row of weights."""
    elements, examples = {"one block": (1 << 20, 16), "many blocks": (500, 3), "rows": (1, 16)}[request.param]
    monkeypatch.setattr(module, "_BUFFER", elements)
    monkeypatch.setattr(module, "_EXAMPLES", examples)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("per_example", [True, False])
def test_products_and_gradients_are_those_of_the_whole_mask(shape, p, per_example):
    x, weight, bias, g = dense(*shape)
    F, f = factors(*shape, p, per_example)
    wanted = [
        np.einsum("bi,bio,io->bo", x, F, weight) + f * bias,
        np.einsum("bio,io,bo->bi", F, weight, g),
        np.einsum("bio,bi,bo->io", F, x, g),
        (f * g).sum(0),
    ]
    for got, want in zip(everything((x, weight, bias, g), p, per_example), wanted, strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    without = drop_connect(x, weight, p, KEY, per_example=per_example)
    np.testing.assert_allclose(without, wanted[0] - f * bias, rtol=1e-10, atol=1e-12)
    assert drop_connect_backward(g, x, weight, p, KEY, per_example=per_example)[2] is None


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("per_example", [True, False])
def test_float32(per_example):
    arrays = dense(40, 30, 20, np.float32)
    found = everything(arrays, 0.3, per_example)
    exact = everything([a.astype(np.float64) for a in arrays], 0.3, per_example)
    for got, want in zip(found, exact, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_example", [True, False])
def test_layouts(layout, per_example):
    arrays = dense(5, 7, 3)
    laid = [frozen(LAYOUTS[layout](a)) for a in arrays]
    if layout == "swapped":
        with pytest.raises(TypeError, match="x must be of float32 or float64, got >f8"):
            everything(laid)
        return
    pairs = zip(everything(arrays, 0.3, per_example), everything(laid, 0.3, per_example), strict=True)
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("per_example", [True, False])
def test_gradients_are_central_differences(per_example):
    arrays = dense(4, 6, 3)
    g = arrays.pop()

    def loss():
        x, weight, bias = arrays
        return (drop_connect(x, weight, 0.3, KEY, bias=bias, per_example=per_example) * g).sum()

    found = drop_connect_backward(g, *arrays[:2], 0.3, KEY, bias=True, per_example=per_example)
    for array, gradient in zip(arrays, found, strict=True):
        differences = np.empty_like(array)
        for place in np.ndindex(array.shape):
            value, ends = array[place], []
            for array[place] in (value + 1e-3, value - 1e-3):  # the loss is linear in each
                ends.append(loss())
            differences[place] = (ends[0] - ends[1]) / 2e-3
            array[place] = value
        assert np.abs(gradient).max() > 0.1
        np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("per_example", [True, False])
def test_gradients_are_those_of_torch(per_example):
    torch = pytest.importorskip("torch")
    x, weight, bias, g = dense(20, 30, 10)
    F, f = (torch.from_numpy(a.copy()) for a in factors(20, 30, 10, 0.3, per_example))
    a, w, b = (torch.from_numpy(v).requires_grad_() for v in (x, weight, bias))
    y = torch.bmm(a[:, None], F * w)[:, 0] + f * b
    y.backward(torch.from_numpy(g))
    found = drop_connect(x, weight, 0.3, KEY, bias=bias, per_example=per_example)
    np.testing.assert_allclose(found, y.detach().numpy(), rtol=1e-10, atol=1e-10)
    gradients = drop_connect_backward(g, x, weight, 0.3, KEY, bias=True, per_example=per_example)
    for got, want in zip(gradients, (a.grad, w.grad, b.grad), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-10, atol=1e-10)


def test_a_longer_batch_begins_with_the_shorter():
    x, weight, bias, _ = dense(50, 30, 20)
    short, long = (drop_connect(x[:n], weight, 0.3, KEY, bias=bias) for n in (17, 50))
    np.testing.assert_allclose(long[:17], short, rtol=1e-12, atol=1e-12)
    assert not np.allclose(long[17:34], short)


def test_examples_have_masks_of_their_own_unless_shared():
    x, weight, bias, _ = dense(1, 30, 20)
    x = np.repeat(x, 3, axis=0)
    own, shared = (drop_connect(x, weight, 0.3, KEY, bias=bias, per_example=per) for per in (True, False))
    assert not np.allclose(own[0], own[1])
    np.testing.assert_allclose(shared, shared[[0, 0, 0]], rtol=1e-12)
    np.testing.assert_allclose(shared[0], own[0], rtol=1e-12)  # the first example's are those shared


def test_antithetic_masks_are_complements():
    x, weight, bias, _ = dense(9, 30, 20)
    pair = [drop_connect(x, weight, 0.5, key, bias=bias) for key in (KEY, KEY.antithetic())]
    np.testing.assert_allclose(sum(pair) / 2, x @ weight + bias, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("per_example", [True, False])
def test_threads_do_not_change_bits(per_example, in_pieces_of):
    arrays = dense(40, 100, 30)
    results = []
    for threads in (1, 2, 5):
        in_pieces_of(5000, threads)
        results.append(everything(arrays, 0.3, per_example))
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


def peak(call):
    """The most memory that a call has at a time, in bytes."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_array_of_three_axes_never_exists():
    x, weight, _, g = dense(2000, 128, 64, np.float32)
    whole = 2000 * weight.nbytes
    buffer = 4 << 20
    assert peak(lambda: drop_connect(x, weight, 0.5, KEY)) < 2 * buffer < whole / 4
    assert peak(lambda: drop_connect_backward(g, x, weight, 0.5, KEY)) < 2 * buffer
    assert peak(lambda: np.zeros((2000, *weight.shape), np.float32)) >= whole


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("per_example", [True, False])
def test_weights_that_are_not_finite_vanish_where_dropped(bad, per_example):
    x, weight, bias, g = dense(30, 6, 3)
    F, f = factors(30, 6, 3, 0.5, per_example)
    weight[0, 0] = bias[1] = bad
    clean_weight, clean_bias = weight.copy(), bias.copy()
    clean_weight[0, 0] = clean_bias[1] = 0
    y, clean_y = (
        drop_connect(x, w, 0.5, KEY, bias=b, per_example=per_example)
        for w, b in ((weight, bias), (clean_weight, clean_bias))
    )
    dx, clean_dx = (
        drop_connect_backward(g, x, w, 0.5, KEY, per_example=per_example)[0] for w in (weight, clean_weight)
    )
    touched_y, touched_dx = np.zeros(y.shape, bool), np.zeros(dx.shape, bool)
    touched_y[:, 0], touched_y[:, 1], touched_dx[:, 0] = F[:, 0, 0] > 0, f[:, 1] > 0, F[:, 0, 0] > 0
    for got, want, touched in ((y, clean_y, touched_y), (dx, clean_dx, touched_dx)):
        np.testing.assert_array_equal(np.isfinite(got), ~touched)
        np.testing.assert_allclose(got[~touched], want[~touched], rtol=1e-12, atol=1e-12)
    assert not drop_connect(x, weight, 1.0, KEY, bias=bias, per_example=per_example).any()


def test_out():
    x, weight, bias, _ = dense(5, 7, 3)
    y = drop_connect(x, weight, 0.3, KEY, bias=bias)
    for out in (np.full((5, 3), np.nan), np.full((3, 5), np.nan).T, np.full((5, 6), np.nan)[:, ::2]):
        assert drop_connect(x, weight, 0.3, KEY, bias=bias, out=out) is out
        np.testing.assert_allclose(out, y, rtol=1e-12)
    out = np.full((5, 3), np.nan)
    drop_connect(x, weight, 0.3, KEY, per_example=False, out=out)
    assert same_bits(out, drop_connect(x, weight, 0.3, KEY, per_example=False))


def test_seeds_and_lists_are_taken():
    y = drop_connect([[1.0, 2.0]], [[1.0], [2.0]], 0.5, 42, bias=[3.0])
    assert same_bits(y, drop_connect(np.array([[1.0, 2.0]]), np.array([[1.0], [2.0]]), 0.5, KEY, bias=[3.0]))


# Moments and inference: 100,000 passes at once, as examples of one input.

PASSES = 100_000
ROW = normal(1, 40, dtype=np.float64, seed=5)
WEIGHT, BIAS = normal(40, 5, dtype=np.float64, seed=6) / 5, normal(5, dtype=np.float64, seed=7)


def passes(p):
    return drop_connect(np.repeat(ROW, PASSES, axis=0), WEIGHT, p, KEY, bias=BIAS)


def agrees(samples, mean, variance):
    """Whether samples have these moments, to five standard errors."""
    deviations = samples - samples.mean(0)
    m2, m4 = (deviations**2).mean(0), (deviations**4).mean(0)
    of_mean, of_variance = np.sqrt(m2 / PASSES), np.sqrt((m4 - m2**2) / PASSES)
    return (np.abs(samples.mean(0) - mean) < 5 * of_mean).all() and (
        np.abs(m2 - variance) < 5 * of_variance
    ).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_moments_are_those_of_many_passes(p):
    samples = passes(p)
    mean, variance = drop_connect_moments(ROW, WEIGHT, p, bias=BIAS)
    assert agrees(samples, mean, variance)
    assert not agrees(samples, mean, drop_connect_moments(ROW, WEIGHT, p)[1])  # without the bias' part
    assert not agrees(samples, mean + 0.1, variance)
    assert not agrees(samples, mean, variance * (1 - p) ** 2)  # of weights that are not scaled
    row, weight, bias = (a.astype(np.float32) for a in (ROW, WEIGHT, BIAS))
    narrow = drop_connect_moments(row, weight, np.float64(p), bias=bias)
    assert {a.dtype for a in narrow} == {np.dtype(np.float32)}
    np.testing.assert_allclose(narrow[1], variance, rtol=1e-5)


def test_moments_at_0():
    mean, variance = drop_connect_moments(ROW, WEIGHT, 0, bias=BIAS)
    np.testing.assert_allclose(mean, ROW @ WEIGHT + BIAS)
    assert not variance.any()


def relu(u):
    return np.maximum(u, 0)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_inference_is_the_mean_of_the_activation(p):
    mean, variance = drop_connect_moments(ROW, WEIGHT, p, bias=BIAS)
    s = np.sqrt(variance)
    closed = mean * stats.norm.cdf(mean / s) + s * stats.norm.pdf(mean / s)  # of relu of these normals
    rows = np.repeat(ROW, 100, axis=0)
    each = drop_connect_inference(rows, WEIGHT, p, KEY, bias=BIAS, activation=relu, samples=1000)
    error = 5 * s / np.sqrt(100 * 1000)  # relu has at most the variance of its argument
    assert (np.abs(each.mean(0) - closed) < error).all()
    sampled = relu(passes(p)).mean(0)
    approximation = 0.02 * s  # 40 inputs of unequal size are not quite a normal
    assert (np.abs(each.mean(0) - sampled) < 2 * error + approximation).all()
    assert not (np.abs(relu(mean) - sampled) < 2 * error + approximation).all()
    assert not (np.abs(each.mean(0) - relu(passes(p + 0.1)).mean(0)) < 2 * error + approximation).all()


def test_inference_with_another_shape_and_key():
    def softmax_of_first(u):
        e = np.exp(u - u.max(1, keepdims=True))
        return e[:, :2] / e.sum(1, keepdims=True)

    options = {"bias": BIAS, "activation": softmax_of_first, "samples": 7}
    y = drop_connect_inference(ROW, WEIGHT, 0.5, KEY, **options)
    assert y.shape == (1, 2)
    mean, variance = drop_connect_moments(ROW, WEIGHT, 0.5, bias=BIAS)
    draws = [fd.local_reparameterization(mean, variance, KEY.fold_in(s)) for s in range(7)]
    np.testing.assert_allclose(y, np.mean([softmax_of_first(u) for u in draws], axis=0), rtol=1e-12)
    assert same_bits(y, drop_connect_inference(ROW, WEIGHT, 0.5, 42, **options))
    narrow = [a.astype(np.float32) for a in (ROW, WEIGHT)]
    assert drop_connect_inference(*narrow, 0.5, KEY, activation=relu).dtype == np.float32


def test_inference_holds_one_sample_at_a_time():
    x, weight, _, _ = dense(500, 20, 100)
    few, many = (
        peak(lambda n=n: drop_connect_inference(x, weight, 0.5, KEY, activation=relu, samples=n))
        for n in (3, 30)
    )
    assert many < 1.1 * few


# The layer.


@pytest.fixture
def layer():
    _, weight, bias, _ = dense(5, 7, 3)
    return DropConnect(0.3, weight=weight, bias=bias, rng=KEY)


X, _, _, G = dense(5, 7, 3)


@pytest.mark.parametrize("per_example", [True, False])
def test_a_layer_is_its_functions(layer, per_example):
    layer.per_example = per_example
    y, dx = layer(X), layer.backward(G)
    assert layer.key == KEY.next()
    options = {"per_example": per_example}
    assert same_bits(y, drop_connect(X, layer.weight, 0.3, KEY, bias=layer.bias, **options))
    wanted = drop_connect_backward(G, X, layer.weight, 0.3, KEY, bias=True, **options)
    for got, want in zip((dx, layer.weight_grad, layer.bias_grad), wanted, strict=True):
        assert same_bits(got, want)
    layer.key = KEY
    layer(X)
    assert same_bits(layer.backward(G), dx)  # twice: gradients add up
    np.testing.assert_allclose(layer.weight_grad, 2 * wanted[1], rtol=1e-12)
    np.testing.assert_allclose(layer.bias_grad, 2 * wanted[2], rtol=1e-12)
    kept = layer.weight_grad
    layer.zero_grad()
    assert kept is layer.weight_grad
    assert not kept.any()
    assert not layer.bias_grad.any()
    assert not np.allclose(layer(X), y)  # the next draw


def test_evaluation_is_the_dense_layer(layer):
    y = layer.eval()(X)
    np.testing.assert_allclose(y, X @ layer.weight + layer.bias, rtol=1e-12)
    assert layer.key == KEY
    np.testing.assert_allclose(layer.backward(G), G @ layer.weight.T, rtol=1e-12)
    np.testing.assert_allclose(layer.weight_grad, X.T @ G, rtol=1e-12)
    np.testing.assert_allclose(layer.bias_grad, G.sum(0), rtol=1e-12)
    out = np.empty_like(y)
    assert layer(X, training=True, out=out) is out
    assert not np.allclose(out, y)
    assert same_bits(layer.backward(G), drop_connect_backward(G, X, layer.weight, 0.3, KEY)[0])
    with pytest.raises(RuntimeError, match="needs a forward in evaluation, one for each backward"):
        layer.backward(G)
    layer(X)
    with pytest.raises(ValueError, match="last forward's shape"):
        layer.backward(X)
    np.testing.assert_allclose(layer.backward(G), G @ layer.weight.T, rtol=1e-12)
    layer.train()(X)
    layer(X, training=False)  # in training mode it leaves nothing behind
    assert same_bits(layer.backward(G), drop_connect_backward(G, X, layer.weight, 0.3, KEY.next())[0])
    with pytest.raises(RuntimeError, match="one for each backward"):
        layer.eval().backward(G)


def test_without_a_bias():
    weight = dense(5, 7, 3)[1]
    layer = DropConnect(0.3, weight=weight, rng=KEY)
    assert same_bits(layer(X), drop_connect(X, weight, 0.3, KEY))
    layer.backward(G)
    assert layer.bias is layer.bias_grad is None
    layer.zero_grad()


def test_weights_are_referred_to(layer):
    weight = layer.weight
    y = layer(X)
    weight *= 2  # between forward and backward: the gradient is that of the new weights
    assert same_bits(layer.backward(G), drop_connect_backward(G, X, weight, 0.3, KEY, per_example=True)[0])
    layer.key, layer.bias[...] = KEY, 0
    first = layer(X)
    weight *= 0.5
    layer.key = KEY
    np.testing.assert_allclose(first, 2 * layer(X), rtol=1e-12)
    assert not np.allclose(first, y)


def test_out_of_backward(layer):
    layer(X)
    layer.key = KEY
    layer(X)
    dx = layer.backward(G)
    out = np.empty_like(X)
    before = layer.weight_grad.copy()
    with pytest.raises(ValueError, match="out must have the result's shape"):
        layer.backward(G, out=out[:2])
    assert same_bits(layer.weight_grad, before)
    assert layer.backward(G, out=out) is out
    assert same_bits(out, dx)


def test_a_layer_learns():
    """A linear map, in a plain loop: the weights reach those of least squares under DropConnect's penalty."""
    x, true, _, _ = dense(400, 5, 2)
    weight = np.zeros_like(true)
    layer = DropConnect(0.2, weight=weight, rng=KEY)
    for step in range(600):
        error = layer(x) - x @ true
        layer.zero_grad()
        layer.backward(2 * error / len(x))
        weight -= 0.2 / (1 + step / 30) * layer.weight_grad
    penalty = np.diag(0.25 * (x**2).sum(0))
    wanted = np.linalg.solve(x.T @ x + penalty, x.T @ x @ true)
    assert np.abs(weight - wanted).max() < 0.02
    assert np.abs(weight - true).max() > 0.1


def test_the_life_of_a_layer(layer):
    layer(X)
    state = json.loads(json.dumps(layer.state_dict()))
    assert state == {"version": 1, "layer": "DropConnect", "p": 0.3, "seed": 42, "draw": 1}
    other = DropConnect(0.9, weight=layer.weight, bias=layer.bias)
    other.load_state_dict(state)
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        source = copy.deepcopy(layer)
        for _ in range(2):
            assert same_bits(twin(X), source(X))
            assert same_bits(twin.backward(G), source.backward(G))
    assert other.weight is layer.weight
    assert repr(layer) == (
        "DropConnect(p=0.3, weight=float64 (7, 3), bias=float64 (3,), per_example=True, rng=Key(42, draw=1))"
    )


def test_backward_needs_a_forward(layer):
    message = r"DropConnect\.backward needs .*fastdrop\.drop_connect_backward\(g, x, weight, p, layer\.key\)"
    with pytest.raises(RuntimeError, match=message):
        layer.backward(G)
    layer(X)
    with pytest.raises(ValueError, match=r"g must have the last forward's shape \(5, 3\), got \(5, 7\)"):
        layer.backward(X)
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match=message):
        layer.backward(G)


def test_a_failed_forward_advances_nothing(layer):
    y = layer(X)
    with pytest.raises(ValueError, match="x must have the shape"):
        layer(X[0])
    assert layer.key == KEY.next()
    assert same_bits(layer.backward(G), drop_connect_backward(G, X, layer.weight, 0.3, KEY)[0])
    with pytest.raises(ValueError, match="out must not overlap"):
        layer(X, out=X[:, :3])
    assert y.shape == (5, 3)


W, B = np.ones((7, 3)), np.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: drop_connect(X[0], W, 0.5, 1),
            ValueError,
            r"x must have the shape \(n, features_in\), got \(7,\)",
        ),
        (
            lambda: drop_connect(X, W.T, 0.5, 1),
            ValueError,
            r"weight must have the shape \(7, features_out\), got \(3, 7\)",
        ),
        (
            lambda: drop_connect(X, W, 0.5, 1, bias=np.ones(7)),
            ValueError,
            r"bias must have the shape \(3\), got \(7,\)",
        ),
        (
            lambda: drop_connect(X.astype(int), W, 0.5, 1),
            TypeError,
            r"x must be of float32 or float64, got int64; use x.astype",
        ),
        (
            lambda: drop_connect(X * 1j, W, 0.5, 1),
            TypeError,
            "x must be of float32 or float64, got complex128",
        ),
        (
            lambda: drop_connect(X, W.astype(np.float16), 0.5, 1),
            TypeError,
            "weight must be of float32 or float64, got float16",
        ),
        (
            lambda: drop_connect(X, W.astype(np.float32), 0.5, 1),
            TypeError,
            r"weight must be of the others' dtype float64, got float32; use weight.astype\(np.float64\)",
        ),
        (
            lambda: drop_connect(X, W, 0.5, 1, bias=B.astype("f")),
            TypeError,
            "bias must be of the others' dtype float64, got float32",
        ),
        (lambda: drop_connect(np.ma.array(X), W, 0.5, 1), TypeError, "masked arrays"),
        (lambda: drop_connect(X, W, 1.2, 1), ValueError, r"p must be in \[0, 1\], got 1.2"),
        (
            lambda: drop_connect(X, W, np.full((7, 3), 0.5), 1, per_example=False),
            TypeError,
            "p must be a real number",
        ),
        (lambda: drop_connect(X, W, 0.5, "1"), TypeError, "key must be a fastdrop.Key or an int"),
        (
            lambda: drop_connect(X, W, 0.5, 1, out=np.ones((5, 4))),
            ValueError,
            r"out must have the result's shape \(5, 3\), got \(5, 4\); use np.empty\(\(5, 3\), 'float64'\)",
        ),
        (
            lambda: drop_connect(X, W, 0.5, 1, out=np.ones((5, 3), "f")),
            ValueError,
            "out must have the result's dtype float64, got float32",
        ),
        (lambda: drop_connect(X, W, 0.5, 1, out=[[0.0]]), TypeError, "out must be an ndarray, got list"),
        (lambda: drop_connect(X, W, 0.5, 1, out=frozen(np.ones((5, 3)))), ValueError, "must be writable"),
        (
            lambda: drop_connect(X, W, 0.5, 1, out=np.ma.ones((5, 3))),
            TypeError,
            "must be an ndarray, got Mask",
        ),
        (
            lambda: drop_connect(X, W, 0.5, 1, out=as_strided(np.ones(3), (5, 3), (0, 8))),
            ValueError,
            "out must not overlap itself",
        ),
        (lambda: drop_connect(X, W, 0.5, 1, out=X[:, :3]), ValueError, "out must not overlap another array"),
        (
            lambda: drop_connect(X[:3, :3], W[:3], 0.5, 1, bias=W[0], out=W[:3]),
            ValueError,
            "out must not overlap",
        ),
        (
            lambda: drop_connect_backward(X, X, W, 0.5, 1),
            ValueError,
            r"g must have the shape \(5, 3\), got \(5, 7\)",
        ),
        (
            lambda: drop_connect_backward(G.astype("f"), X, W, 0.5, 1),
            TypeError,
            "g must be of the others' dtype float64",
        ),
        (lambda: drop_connect_backward(G, X, W, np.nan, 1), ValueError, r"p must be in \[0, 1\], got nan"),
        (
            lambda: drop_connect_moments(X, W, 1),
            ValueError,
            "p must be below 1 for the moments, got 1; the variance",
        ),
        (lambda: drop_connect_moments(X, W, -1), ValueError, r"p must be in \[0, 1\], got -1"),
        (
            lambda: drop_connect_inference(X, W, 0.5, 1, activation=relu, samples=0),
            ValueError,
            "samples must be above 0, got 0",
        ),
        (
            lambda: drop_connect_inference(X, W, 0.5, 1, activation=relu, samples=10**30),
            ValueError,
            r"samples must be in \[0, 9223372036854775808\), got 10{30}$",
        ),
        (
            lambda: drop_connect_inference(X, W, 0.5, 1, activation=relu, samples=1.5),
            TypeError,
            "samples must be an integer",
        ),
        (lambda: drop_connect_inference(X, W, 1.0, 1, activation=relu), ValueError, "p must be below 1"),
        (
            lambda: DropConnect(0.5, weight=[[1.0]]),
            TypeError,
            "weight must be an ndarray, which the layer refers to, got list",
        ),
        (lambda: DropConnect(0.5, weight=W, bias=[1.0]), TypeError, "bias must be an ndarray"),
        (
            lambda: DropConnect(0.5, weight=B),
            ValueError,
            r"weight must have the shape \(features_in, features_out\), got \(3,\)",
        ),
        (
            lambda: DropConnect(0.5, weight=W, bias=np.ones(7)),
            ValueError,
            r"bias must have the shape \(3\), got \(7,\)",
        ),
        (
            lambda: DropConnect(0.5, weight=W, bias=np.ones(3, "f")),
            TypeError,
            "bias must be of the others' dtype",
        ),
        (lambda: DropConnect(1.5, weight=W), ValueError, r"p must be in \[0, 1\], got 1.5"),
        (lambda: DropConnect(0.5, weight=W, rng="x"), TypeError, "rng must be None"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_rows_have_the_masks_that_they_have_in_the_whole_batch(p, monkeypatch):
    """Small integers are multiplied and added exactly, in whatever order."""
    rng = np.random.default_rng(0)
    x, weight, bias, g = (rng.integers(-3, 4, shape).astype(float) for shape in ((9, 6), (6, 4), 4, (9, 4)))
    y = fd.drop_connect(x, weight, p, 7, bias=bias)
    dx, dweight, dbias = fd.drop_connect_backward(g, x, weight, p, 7, bias=True)
    monkeypatch.setattr(module, "_BUFFER", 40)
    parts = []
    for rows in (slice(0, 2), slice(2, 9)):
        where = {"window": (x.shape, (rows.start, 0))}
        assert np.array_equal(fd.drop_connect(x[rows], weight, p, 7, bias=bias, **where), y[rows])
        parts.append(fd.drop_connect_backward(g[rows], x[rows], weight, p, 7, bias=True, **where))
    assert np.array_equal(np.concatenate([part[0] for part in parts]), dx)
    assert np.array_equal(sum(part[1] for part in parts), dweight)
    assert np.array_equal(sum(part[2] for part in parts), dbias)


def test_a_layers_window_and_rows_are_those_of_a_call_and_its_backward():
    rng = np.random.default_rng(0)
    x, weight, bias, g = (rng.integers(-3, 4, shape).astype(float) for shape in ((9, 6), (6, 4), 4, (9, 4)))
    origin, numbers = [2, 0], [4, 0, 4]
    for where in ({"window": ((9, 6), origin)}, {"rows": numbers}):
        layer = fd.DropConnect(0.5, weight=weight, bias=bias, rng=KEY)
        given = fd.drop_connect(x[:3], weight, 0.5, KEY, bias=bias, **where)
        gradients = fd.drop_connect_backward(g[:3], x[:3], weight, 0.5, KEY, bias=True, **where)
        assert np.array_equal(layer(x[:3], **where), given)
        origin[0] += 1  # the caller's lists are no longer asked
        numbers[0] += 1
        layer = pickle.loads(pickle.dumps(layer))
        assert np.array_equal(layer.backward(g[:3]), gradients[0])
        assert np.array_equal(layer.weight_grad, gradients[1])
        assert np.array_equal(layer.bias_grad, gradients[2])


def test_a_window_of_some_features_is_refused():
    with pytest.raises(ValueError, match="window must have x's 3 features, got 6; give whole rows"):
        fd.drop_connect(np.ones((2, 3)), np.ones((3, 4)), 0.5, 7, window=((5, 6), (0, 3)))
