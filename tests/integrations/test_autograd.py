"""HIPS autograd through the functions: values, gradients by central differences, gradients of gradients."""

import inspect
from functools import partial

import autograd.numpy as anp
import numpy as np
import pytest
from arrays import normal, same_bits
from autograd import elementwise_grad, grad, make_jvp

import fastdrop as fd
from fastdrop import autograd as fda

KEY = fd.Key(42, 3)
SHAPE = (4, 3, 4, 5)
X, OTHER, WEIGHTS, DIRECTION = (normal(*SHAPE, dtype=np.float64, seed=seed) for seed in range(4))
BIAS = normal(5, dtype=np.float64, seed=4)
RATES = np.linspace(0.1, 0.6, 5)
WINDOW = ((9, 3, 4, 5), (4, 0, 0, 0))
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
SMOOTH = ACTIVATIONS[2:]

# name, the arrays that gradients are taken of, the other arguments
CASES = {
    "dropout": ("dropout", (X,), {"p": 0.3}),
    "dropout by rates": ("dropout", (X,), {"p": RATES}),
    "dropout shared": ("dropout", (X,), {"p": 0.3, "shared_axes": (2, 3)}),
    "dropout window": ("dropout", (X,), {"p": 0.3, "window": WINDOW}),
    "gaussian_dropout": ("gaussian_dropout", (X,), {"p": 0.3}),
    "gaussian_noise": ("gaussian_noise", (X,), {"std": 0.3}),
    "alpha_dropout": ("alpha_dropout", (X,), {"p": 0.3}),
    "drop_path": ("drop_path", (X,), {"p": 0.4}),
    "drop_block": ("drop_block", (X,), {"p": 0.3, "block_size": 2}),
    "dropout_add": ("dropout_add", (X, OTHER), {"p": 0.3, "shared_axes": 1}),
    "local_reparameterization": ("local_reparameterization", (X, OTHER**2 + 0.1), {}),
    "one variance": ("local_reparameterization", (X, BIAS**2 + 0.1), {}),
} | {a: ("bias_act_dropout", (X, BIAS), {"p": 0.3, "activation": a}) for a in ACTIVATIONS}

cases = pytest.mark.parametrize("case", CASES)


def function(case):
    name, arrays, options = CASES[case]
    return partial(getattr(fda, name), key=KEY, **options), arrays


def loss(f, *arrays):
    return anp.sum(WEIGHTS * f(*arrays) ** 2)


def slope(of, arrays, n, direction, step=1e-5):
    """The central difference of a function along a direction of its n-th array."""
    ends = [of(*arrays[:n], arrays[n] + s * direction, *arrays[n + 1 :]) for s in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step)


@cases
def test_values_are_those_of_numpy(case):
    name, arrays, options = CASES[case]
    f, _ = function(case)
    expected = getattr(fd, name)(*arrays, key=KEY, **options)
    assert same_bits(f(*arrays), expected)
    assert not np.array_equal(expected, arrays[0])


@cases
def test_gradients_are_central_differences(case):
    f, arrays = function(case)
    of = partial(loss, f)
    for n, array in enumerate(arrays):
        direction = DIRECTION if array.ndim > 1 else DIRECTION[0, 0, 0]
        g = grad(of, n)(*arrays)
        assert (g.shape, g.dtype) == (array.shape, array.dtype)
        assert np.abs(g).max() > 0.01
        assert np.vdot(g, direction) == pytest.approx(slope(of, arrays, n, direction), rel=1e-6)
    both = grad(of, tuple(range(len(arrays))))(*arrays)
    assert all(np.array_equal(g, grad(of, n)(*arrays)) for n, g in enumerate(both))


@pytest.mark.parametrize("case", [case for case in CASES if case not in SMOOTH])
def test_gradients_of_gradients_are_central_differences(case):
    f, arrays = function(case)
    for n in range(len(arrays)):
        for m in range(len(arrays)):

            def along(*given, n=n, f=f):
                g = grad(partial(loss, f), n)(*given)
                return anp.sum(g * (OTHER if g.ndim > 1 else BIAS))

            direction = DIRECTION if arrays[m].ndim > 1 else DIRECTION[0, 0, 0]
            second = np.vdot(grad(along, m)(*arrays), direction)
            assert second == pytest.approx(slope(along, arrays, m, direction), rel=1e-6)
            assert abs(second) > 0.01


@cases
def test_forward_derivatives_are_central_differences(case):
    f, arrays = function(case)
    for n, array in enumerate(arrays):
        direction = DIRECTION if array.ndim > 1 else DIRECTION[0, 0, 0]
        if array.shape != SHAPE:
            with pytest.raises(NotImplementedError, match=r"no forward mode with respect to (bias|variance)"):
                make_jvp(f, n)(*arrays)(direction)
            continue
        y, tangent = make_jvp(f, n)(*arrays)(direction)
        assert same_bits(y, f(*arrays))
        assert np.abs(tangent).max() > 0.1
        np.testing.assert_allclose(tangent, slope(f, arrays, n, direction), rtol=1e-6, atol=1e-8)


def test_forward_mode_through_two_arrays_and_of_gradients():
    def f(x):
        return fda.dropout_add(x, anp.sin(x), 0.3, KEY)

    _, tangent = make_jvp(f)(X)(DIRECTION)
    np.testing.assert_allclose(tangent, slope(f, [X], 0, DIRECTION), rtol=1e-6, atol=1e-8)
    of_gradient = grad(lambda x: loss(partial(fda.dropout, p=0.3, key=KEY), x))
    _, tangent = make_jvp(of_gradient)(X)(DIRECTION)
    np.testing.assert_allclose(tangent, slope(of_gradient, [X], 0, DIRECTION), rtol=1e-6, atol=1e-8)
    with pytest.raises(NotImplementedError, match="dropout has no gradient with respect to p"):
        make_jvp(lambda p: fda.dropout(X, p, KEY))(np.full(SHAPE, 0.5))(DIRECTION)


@pytest.mark.parametrize("activation", SMOOTH)
def test_gradients_of_smooth_activations_have_none_but_of_what_they_multiply(activation):
    f = partial(fda.bias_act_dropout, bias=BIAS, p=0.3, key=KEY, activation=activation)

    def along(weights):
        return anp.sum(elementwise_grad(lambda x: f(x) * weights)(X) * OTHER)

    expected = slope(along, [WEIGHTS], 0, DIRECTION)
    assert np.vdot(grad(along)(WEIGHTS), DIRECTION) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(NotImplementedError, match="_activation_backward has no gradient with respect to x"):
        grad(lambda x: anp.sum(elementwise_grad(f)(x) * OTHER))(X)


def test_a_residual_by_name_and_what_is_not_asked_for():
    def f(residual):
        return loss(lambda r: fda.bias_act_dropout(X, None, 0.3, KEY, residual=r), residual)

    expected = slope(f, [OTHER], 0, DIRECTION)
    assert np.vdot(grad(f)(OTHER), DIRECTION) == pytest.approx(expected, rel=1e-6)
    listed = grad(lambda b: anp.sum(fda.bias_act_dropout(X.tolist(), b, 0.3, KEY)))(BIAS)
    assert same_bits(listed, grad(lambda b: anp.sum(fda.bias_act_dropout(X, b, 0.3, KEY)))(BIAS))


def test_the_gradients_of_means_where_variances_are_0():
    g = grad(lambda mean: anp.sum(fda.local_reparameterization(mean, np.zeros(4), KEY)))(np.ones(4))
    assert same_bits(g, np.ones(4))


def test_gradients_have_the_bits_of_the_backward_functions():
    x, bias, g = (a.astype(np.float32) for a in (X, BIAS, WEIGHTS))
    dx, dbias = fd.bias_act_dropout_backward(g, x, bias, 0.3, KEY, activation="gelu")

    def f(x, bias):  # float64 comes back, and the gradients are of float32 yet
        return anp.sum(g.astype(np.float64) * fda.bias_act_dropout(x, bias, 0.3, KEY, activation="gelu"))

    found = grad(f, (0, 1))(x, bias)
    assert same_bits(found[0], dx)
    assert same_bits(found[1], dbias)
    dx = grad(lambda x: anp.sum(g.astype(np.float64) * fda.alpha_dropout(x, 0.3, KEY)))(x)
    assert same_bits(dx, fd.alpha_dropout_backward(g, 0.3, KEY))


def test_complex_numbers_and_numbers():
    z = normal(50, dtype=np.complex128)
    g = grad(lambda z: anp.sum(anp.abs(fda.dropout(z, 0.5, KEY)) ** 2))(z)
    # autograd's convention is that of du/dx - i du/dy
    np.testing.assert_allclose(g, 2 * fd.dropout(fd.dropout(z, 0.5, KEY), 0.5, KEY).conj(), rtol=1e-12)
    assert grad(lambda x: fda.dropout(x, 0.0, KEY) ** 2)(3.0) == 6


def test_what_has_no_gradient_and_no_place():
    with pytest.raises(NotImplementedError, match="dropout has no gradient with respect to p"):
        grad(lambda p: anp.sum(fda.dropout(X, p * np.ones(5), KEY)))(0.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'out'"):
        fda.dropout(X, 0.5, KEY, out=X.copy())


def test_signatures_are_those_of_the_functions_without_out():
    names = {name for name, _, _ in CASES.values()}
    for name in names:
        parameters = dict(inspect.signature(getattr(fd, name)).parameters)
        parameters.pop("out", None)
        assert inspect.signature(getattr(fda, name)).parameters == parameters
    public = {name for name, value in vars(fda).items() if callable(value) and hasattr(value, "__wrapped__")}
    assert {name for name in public if not name.startswith("_")} == names


def test_a_training_loop_learns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8))
    target = np.tanh(x @ rng.standard_normal((8, 2)))

    def step_loss(parameters, key):
        w1, b1, w2 = parameters
        hidden = fda.bias_act_dropout(anp.dot(x, w1), b1, 0.1, key, activation="silu")
        return anp.mean((anp.dot(hidden, w2) - target) ** 2)

    parameters = [rng.standard_normal((8, 32)) / 3, np.zeros(32), rng.standard_normal((32, 2)) / 6]
    first = step_loss(parameters, KEY)
    for step in range(100):
        gradients = grad(step_loss)(parameters, KEY.fold_in(step))
        parameters = [w - 0.1 * g for w, g in zip(parameters, gradients, strict=True)]
    assert step_loss(parameters, KEY) < first / 4
