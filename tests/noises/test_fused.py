"""Fused passes against their steps one by one, PyTorch's activations, and central differences."""

import ml_dtypes
import numpy as np
import pytest
from arrays import LAYOUTS, blocks, examples, frozen, normal, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import fastdrop as fd
from fastdrop._arrays import plan
from fastdrop._cpu import calls as cpu_calls
from fastdrop._cpu import run

KEY = fd.Key(42, 3)

ACTIVATIONS = {
    "none": lambda v: v,
    "relu": lambda v: np.maximum(v, 0),
    "gelu": lambda v: v * special.ndtr(v),
    "gelu_tanh": lambda v: v * special.expit(np.sqrt(8 / np.pi) * (v + 0.044715 * v**3)),  # (1 + tanh) / 2
    "silu": lambda v: v * special.expit(v),
}
X, G = 2 * normal(40, 33, dtype=np.float64), normal(40, 33, dtype=np.float64, seed=1)
BIAS, R = normal(33, dtype=np.float64, seed=2), normal(40, 33, dtype=np.float64, seed=3)


def test_the_activations_are_those_of_the_formulas():
    assert tuple(ACTIVATIONS) == plan.ACTIVATIONS


@st.composite
def calls(draw):
    shape, window = draw(blocks(fewest=1))
    ndim = len(shape)
    shared = draw(st.lists(st.integers(0, ndim - 1), unique=True))
    p = draw(st.sampled_from([0.0, 0.3, 1.0, "by feature"]))
    if p == "by feature":
        p = np.linspace(0, 1, 1 if ndim - 1 in shared else shape[-1])
    dtype = draw(st.sampled_from([np.float32, ml_dtypes.bfloat16]))
    layouts = [draw(st.sampled_from(list(LAYOUTS))) for _ in range(3)]
    where = draw(st.sampled_from(["new", "out", "x", "residual"]))
    return shape, p, tuple(shared), dtype, layouts, where, window


@settings(max_examples=examples(150))
@given(call=calls())
def test_dropout_add_is_its_two_steps(call):
    shape, p, shared, dtype, layouts, where, window = call
    x, r = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    dropped = fd.dropout(x.astype(np.float32), p, KEY, shared_axes=shared, window=window)
    expected = (r.astype(np.float32) + dropped).astype(dtype)
    a, b, c = (LAYOUTS[name](v) for name, v in zip(layouts, (x, r, np.zeros_like(x)), strict=True))
    dtypes = {v.dtype for v in (a, b, c)}
    if len(dtypes) > 1:  # of both byte orders
        with pytest.raises(ValueError, match=r"must have (x|the result)'s dtype"):
            fd.dropout_add(a, b, p, KEY, out=c)
        return
    out = {"new": None, "out": c, "x": a, "residual": b}[where]
    a, b = (v if v is out else frozen(v) for v in (a, b))
    y = fd.dropout_add(a, b, p, KEY, shared_axes=shared, out=out, window=window)
    assert out is None or y is out
    assert same_bits(np.ascontiguousarray(y).astype(dtype), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 4e-7), (np.float64, 1e-15)])
def test_activations(activation, dtype, tolerance):
    x, b, r = (v.astype(dtype) for v in (X, BIAS, R))
    exact = ACTIVATIONS[activation](x.astype(float) + b) * fd.dropout(np.ones_like(X), 0.3, KEY)
    y = fd.bias_act_dropout(x, b, 0.3, KEY, activation=activation)
    assert y.dtype == dtype
    assert (np.abs(y - exact) <= tolerance * (1 + np.abs(exact) + np.abs(x) + np.abs(b))).all()
    assert not np.signbit(y[~fd.keep_mask(x.shape, 0.3, KEY)]).any()
    if dtype is np.float32:
        with_residual = fd.bias_act_dropout(x, b, 0.3, KEY, activation=activation, residual=r)
        assert same_bits(with_residual, r + y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_central_differences(activation):
    def loss(x, bias):
        return (fd.bias_act_dropout(x, bias, 0.3, KEY, activation=activation) * G).sum()

    step = 1e-6
    x = X + 0.01 * (np.abs(X + BIAS) < 0.01)  # away from relu's corner
    dx, dbias = fd.bias_act_dropout_backward(G, x, BIAS, 0.3, KEY, activation=activation)
    for i in range(33):
        e = np.zeros(33)
        e[i] = step
        slope = (loss(x, BIAS + e) - loss(x, BIAS - e)) / (2 * step)
        assert dbias[i] == pytest.approx(slope, rel=1e-6, abs=1e-7)
    for place in [(0, 0), (3, 7), (20, 11), (39, 32), (5, 5), (6, 6)]:
        e = np.zeros_like(x)
        e[place] = step
        slope = (loss(x + e, BIAS) - loss(x - e, BIAS)) / (2 * step)
        assert dx[place] == pytest.approx(slope, rel=1e-6, abs=1e-7)
    e = np.zeros(33)
    e[np.abs(dbias).argmax()] = step
    slope = (loss(x, BIAS + e) - loss(x, BIAS - e)) / (2 * step)
    assert np.abs(dbias).max() * 1.00001 != pytest.approx(
        abs(slope), rel=1e-6, abs=1e-7
    )  # a wrong one is found


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_gradients_are_pytorchs(activation):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[test]'")
    functions = {
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh"),
        "silu": torch.nn.functional.silu,
    }
    x, bias = (torch.tensor(v.astype(np.float32), requires_grad=True) for v in (X, BIAS))
    noise = torch.tensor(fd.dropout(np.ones(X.shape, np.float32), 0.3, KEY))
    (functions[activation](x + bias) * noise).backward(torch.tensor(G.astype(np.float32)))
    given_x, given_bias = x.detach().numpy(), bias.detach().numpy()
    g = G.astype(np.float32)
    dx, dbias = fd.bias_act_dropout_backward(g, given_x, given_bias, 0.3, KEY, activation=activation)
    assert np.allclose(dx, x.grad, rtol=1e-5, atol=1e-6)
    assert np.allclose(dbias, bias.grad, rtol=1e-5, atol=1e-5)
    assert dbias.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_floats_are_computed_in_float32(dtype):
    x, g = X.astype(dtype), G.astype(dtype)
    bias = BIAS.astype(np.float32)
    wide = fd.bias_act_dropout(x.astype(np.float32), bias, 0.3, KEY)
    assert same_bits(fd.bias_act_dropout(x, bias, 0.3, KEY), wide.astype(dtype))
    dx, dbias = fd.bias_act_dropout_backward(g, x, bias, 0.3, KEY)
    assert dx.dtype == dtype
    assert dbias.dtype == np.float32
    assert np.allclose(dbias, dx.astype(float).sum(0), rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_float_is_activated_to_its_last_digit(dtype, activation):
    x = np.arange(2**16).astype(np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        x = x[np.isfinite(x)][None]
    y = fd.bias_act_dropout(x, None, 0, 1, activation=activation).astype(np.float64)
    v, info = x.astype(np.float64), ml_dtypes.finfo(dtype)
    with np.errstate(over="ignore"):
        exact = ACTIVATIONS[activation](v)
    digit = np.exp2(np.frexp(exact)[1] - 1.0) * float(info.eps)
    least = max(1e-36, float(info.smallest_subnormal) / 2)  # below, the result may be 0
    assert (np.abs(y - exact) <= np.maximum(0.7 * digit, 1.1 * least)).all()
    assert (np.abs(y - exact) / digit)[np.abs(exact) > 1e-4].max() > 0.45  # so that digits are no wider


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_far_out_slopes_are_1_and_0(dtype, activation):
    most = float(ml_dtypes.finfo(dtype).max)
    far = (most * np.exp2(-np.linspace(0, np.log2(most) - 10, 500))).astype(dtype)
    for x, slope in ((far, 1), (-far, 0)):
        dx, _ = fd.bias_act_dropout_backward(np.ones_like(x), x, None, 0, 1, activation=activation)
        assert (dx == slope).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_gelu_and_its_slope_end_in_lines(dtype):
    x = np.array([[-np.inf, -1000, -40, 40, 1000, np.inf]], dtype)
    expected = [[0, 0, 0, 40, 1000, np.inf]]
    np.testing.assert_array_equal(fd.bias_act_dropout(x, None, 0, 1, activation="gelu"), expected)
    dx, _ = fd.bias_act_dropout_backward(np.ones_like(x), x, None, 0, 1, activation="gelu")
    np.testing.assert_array_equal(dx, [[0, 0, 0, 1, 1, 1]])


def test_layouts_shared_axes_rates_and_windows():
    """Against the plain call on the whole, so that relu alone needs compiling."""
    x, g = normal(6, 50, 33), normal(6, 50, 33, seed=1)
    bias = BIAS.astype(np.float32)
    for shared, p in (((), 0.3), ((1,), 0.3), ((0, 2), 0.5), ((), np.linspace(0, 1, 33)), ((), 1.0), ((), 0)):
        options = {"shared_axes": shared}
        mask = fd.dropout(np.ones_like(x), p, KEY, **options)
        y = fd.bias_act_dropout(x, bias, p, KEY, **options)
        assert np.allclose(y, np.maximum(x + bias, 0) * mask, rtol=1e-6)
        dx, dbias = fd.bias_act_dropout_backward(g, x, bias, p, KEY, **options)
        assert np.allclose(dx, g * mask * (x + bias > 0), rtol=1e-6)
        assert np.allclose(dbias, dx.sum((0, 1), dtype=float), rtol=1e-4, atol=1e-4)
        for layout in LAYOUTS.values():
            a, b = layout(g), layout(x)
            got, other = fd.bias_act_dropout_backward(a, b, bias, p, KEY, **options)
            assert same_bits(np.ascontiguousarray(got).astype(np.float32), dx)
            assert same_bits(other, dbias)
        part, _ = fd.bias_act_dropout_backward(
            g[2:4, 7:, :], x[2:4, 7:, :], bias, p, KEY, window=(x.shape, (2, 7, 0)), **options
        )
        assert same_bits(part, dx[2:4, 7:].copy())
    narrow = fd.bias_act_dropout(x[:, :, 4:20], bias[4:20], 0.3, KEY, window=(x.shape, (0, 0, 4)))
    assert same_bits(narrow, fd.bias_act_dropout(x, bias, 0.3, KEY)[:, :, 4:20].copy())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_streaming_and_pieces_give_the_same_bits(threads, monkeypatch, in_pieces_of):
    x, r, bias = normal(70, 1030), normal(70, 1030, seed=1), normal(1030, seed=2)
    expected = fd.dropout_add(x, r, 0.3, KEY), fd.bias_act_dropout(x, bias, 0.3, KEY)
    monkeypatch.setattr(cpu_calls, "STREAM_FROM", 1)
    monkeypatch.setattr(run, "_UNITS", 3000)
    in_pieces_of(5000, threads)
    assert same_bits(fd.dropout_add(x, r, 0.3, KEY), expected[0])
    assert same_bits(fd.bias_act_dropout(x, bias, 0.3, KEY), expected[1])


@pytest.mark.parametrize("shape", [(0,), (4, 0), (0, 4), (2, 0, 3)])
def test_empty_arrays(shape):
    x, bias = np.zeros(shape, np.float32), np.zeros(shape[-1:], np.float32)
    assert fd.dropout_add(x, x, 0.3, KEY).shape == shape
    assert fd.bias_act_dropout(x, bias, 0.3, KEY).shape == shape
    dx, dbias = fd.bias_act_dropout_backward(x, x, bias, 0.3, KEY)
    assert dx.shape == shape
    assert same_bits(dbias, bias)


def test_without_a_bias():
    x = X.astype(np.float32)
    zero = np.zeros(33, np.float32)
    assert same_bits(fd.bias_act_dropout(x, None, 0.3, KEY), fd.bias_act_dropout(x, zero, 0.3, KEY))
    dx, dbias = fd.bias_act_dropout_backward(x, x, None, 0.3, KEY)
    assert dbias is None
    assert same_bits(dx, fd.bias_act_dropout_backward(x, x, zero, 0.3, KEY)[0])


def test_nan_and_inf_vanish_where_they_are_dropped():
    kept = fd.keep_mask(X.shape, 0.3, KEY)
    wild = np.where(np.arange(33) % 2, np.nan, np.inf).astype(np.float32) * np.ones(X.shape, np.float32)
    fine = np.ones_like(wild)
    y = fd.bias_act_dropout(wild, None, 0.3, KEY)
    assert (y[~kept] == 0).all()
    assert not np.isfinite(y[kept]).any()
    assert (fd.dropout_add(wild, fine, 0.3, KEY)[~kept] == 1).all()
    dx, dbias = fd.bias_act_dropout_backward(wild, fine, np.zeros(33, np.float32), 0.3, KEY)
    assert (dx[~kept] == 0).all()
    assert not np.isfinite(dbias[kept.any(0)]).any()


def test_dropout_add_backward():
    dx, dr = fd.dropout_add_backward(G, 0.3, KEY)
    assert dr is G
    assert same_bits(dx, fd.dropout_backward(G, 0.3, KEY))
    out = np.empty_like(G)
    assert fd.dropout_add_backward(G, 0.3, KEY, out=out)[0] is out


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.dropout_add(X, R[1:], 0.3, KEY), ValueError, r"residual must have x's shape \(40, 33\)"),
        (lambda: fd.dropout_add(X, R.astype("f4"), 0.3, KEY), ValueError, "residual must have x's dtype"),
        (
            lambda: fd.dropout_add(X[:-1], R[:-1], 0.3, KEY, out=X[1:]),
            ValueError,
            "out must be x or not overlap",
        ),
        (
            lambda: fd.dropout_add(X[:-1], R[:-1], 0.3, KEY, out=R[1:]),
            ValueError,
            "out must be x or not overlap",
        ),
        (lambda: fd.dropout_add_backward(G, 0.3, KEY, out=G), ValueError, "out must not overlap g"),
        (lambda: fd.bias_act_dropout(X, BIAS[1:], 0.3, KEY), ValueError, r"last axis \(33,\), got \(32,\)"),
        (
            lambda: fd.bias_act_dropout(X, BIAS, 0.3, KEY, activation="tanh"),
            ValueError,
            "activation must be one of",
        ),
        (lambda: fd.bias_act_dropout(X + 0j, BIAS, 0.3, KEY), TypeError, "an activation needs real numbers"),
        (
            lambda: fd.bias_act_dropout(X, BIAS.astype(int), 0.3, KEY),
            TypeError,
            r"^bias must be of .*, got int64; use bias\.astype\(np\.float32\)",
        ),
        (
            lambda: fd.bias_act_dropout(X, BIAS, 0.3, KEY, residual=R.astype(int).tolist()),
            TypeError,
            r"^residual must be of .*, got int64; use np\.array\(residual, np\.float32\)",
        ),
        (lambda: fd.bias_act_dropout(X, BIAS + 0j, 0.3, KEY), TypeError, "a bias needs real numbers"),
        (lambda: fd.bias_act_dropout(np.array(1.0), None, 0.3, KEY), ValueError, "got a 0-d array"),
        (lambda: fd.bias_act_dropout(X, BIAS, 1.3, KEY), ValueError, "p must be in"),
        (lambda: fd.bias_act_dropout_backward(G[1:], X, BIAS, 0.3, KEY), ValueError, "g must have x's shape"),
    ],
)
def test_refuses(call, error, message):
    before = X.copy(), R.copy(), G.copy()
    with pytest.raises(error, match=message):
        call()
    assert all(same_bits(a, b) for a, b in zip(before, (X, R, G), strict=True))


def test_mirrored_draws_drop_nothing_at_rate_0():
    x, r = X.astype(np.float32), R.astype(np.float32)
    for p in (0.0, 1e-11):
        assert same_bits(fd.dropout_add(x, r, p, KEY.antithetic()), r + x)
        assert same_bits(fd.alpha_dropout(x, p, KEY.antithetic()), x)
