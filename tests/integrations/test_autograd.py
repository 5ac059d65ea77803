"""HIPS autograd through the functions: values, gradients by central differences, gradients of gradients."""

import inspect
from functools import partial

import autograd.numpy as anp
import numpy as np
import pytest
from arrays import normal, same_bits
from autograd import elementwise_grad, grad, make_jvp
from every_noise import FUNCTIONS, arguments

import fastdrop as fd
from fastdrop import autograd as fda
from fastdrop._noises.variational import summed_to

KEY = fd.Key(42, 3)
SHAPE = (4, 3, 4, 5)
X, OTHER, WEIGHTS, DIRECTION = (normal(*SHAPE, dtype=np.float64, seed=seed) for seed in range(4))
BIAS = normal(5, dtype=np.float64, seed=4)
RATES = np.linspace(0.1, 0.6, 5)
WINDOW = ((9, 3, 4, 5), (4, 0, 0, 0))
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
SMOOTH = ACTIVATIONS[2:]

NO_GRADIENT = {"standout_dropout": ("a",)}  # of these arrays


def of_records():
    """Functions of fastdrop.autograd, by the arrays that have gradients and the other arguments."""
    for noise in FUNCTIONS:
        if "autograd" not in noise.lacks:
            given = arguments(noise, SHAPE, np.float64)
            names = [n for n, a in given.items() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
            names = [n for n in names if n not in NO_GRADIENT.get(noise.name, ())]
            rest = {n: a for n, a in given.items() if n not in names}
            yield noise.name, {n: given[n] for n in names}, rest


# name, the arrays that gradients are taken of, the other arguments
CASES = (
    {name: (name, arrays, options) for name, arrays, options in of_records()}
    | {
        "dropout by rates": ("dropout", {"x": X}, {"p": RATES}),
        "dropout shared": ("dropout", {"x": X}, {"p": 0.3, "shared_axes": (2, 3)}),
        "dropout window": ("dropout", {"x": X}, {"p": 0.3, "window": WINDOW}),
        "drop_block of 2": ("drop_block", {"x": X}, {"p": 0.3, "block_size": 2}),
        "dropout_add shared": ("dropout_add", {"x": X, "residual": OTHER}, {"p": 0.3, "shared_axes": 1}),
        "one variance": (
            "local_reparameterization",
            {"mean": X, "variance": BIAS**2 + 0.1},
            {"window": WINDOW},
        ),
        "the logit": (
            "concrete_dropout",
            {"x": X, "logit": np.array(-0.7)},
            {"temperature": 2 / 3, "shared_axes": 1, "window": WINDOW},
        ),
        "the alphas": (
            "information_dropout",
            {"x": X, "alpha": RATES},
            {"shared_axes": 1, "window": WINDOW},
        ),
        "alphas of elements": ("information_dropout", {"x": X, "alpha": np.abs(OTHER)}, {}),
        "zoneout shared": ("zoneout", {"new": X, "previous": OTHER}, {"p": RATES, "shared_axes": 0}),
        "inverted": ("standout_dropout", {"h": X}, {"a": OTHER, "beta": 0.3, "inverted": True}),
        "with a bias": (
            "drop_connect",
            {"x": X[0, 0], "weight": WEIGHTS[0, 0].T, "bias": OTHER[0, 0, :, 0]},
            {"p": 0.4, "window": ((9, 5), (3, 0))},
        ),
        "by batch": (
            "drop_connect",
            {"x": X[0, 0], "weight": WEIGHTS[0, 0].T},
            {"p": 0.4, "per_example": False},
        ),
    }
    | {a: ("bias_act_dropout", {"x": X, "bias": BIAS}, {"p": 0.3, "activation": a}) for a in ACTIVATIONS}
)
NOT_BY_ELEMENT = ("drop_connect", "embedding_dropout")
ONCE = (
    "concrete_dropout",
    "drop_connect",
    "information_dropout",
)  # whose gradients have none with respect to all arrays

cases = pytest.mark.parametrize("case", CASES)


def function(case):
    """The function of the arrays in their order, and these."""
    name, arrays, options = CASES[case]

    def call(*given):
        return getattr(fda, name)(**dict(zip(arrays, given, strict=True)), **options, key=KEY)

    return call, [a.copy() for a in arrays.values()]


def weights_like(y, seed=2):
    return WEIGHTS if y.shape == SHAPE else normal(*y.shape, dtype=np.float64, seed=seed)


def direction_of(array):
    return normal(*array.shape, dtype=np.float64, seed=3)


def loss(f, *arrays):
    y = f(*arrays)
    return anp.sum(weights_like(y) * y**2)


def slope(of, arrays, n, direction, step=1e-5):
    """The central difference of a function along a direction of its n-th array."""
    ends = [of(*arrays[:n], arrays[n] + s * direction, *arrays[n + 1 :]) for s in (step, -step)]
    return (ends[0] - ends[1]) / (2 * step)


def test_every_noise_is_here():
    assert {name for name, *_ in of_records()} <= set(vars(fda))


@cases
def test_values_are_those_of_numpy(case):
    name, arrays, options = CASES[case]
    f, _ = function(case)
    expected = getattr(fd, name)(**arrays, key=KEY, **options)
    assert same_bits(f(*arrays.values()), expected)
    assert not np.array_equal(expected, next(iter(arrays.values())))


@cases
def test_gradients_are_central_differences(case):
    f, arrays = function(case)
    of = partial(loss, f)
    for n, array in enumerate(arrays):
        direction = direction_of(array)
        g = grad(of, n)(*arrays)
        assert (np.shape(g), np.asarray(g).dtype) == (array.shape, array.dtype)
        assert np.abs(g).max() > 0.01
        assert np.vdot(g, direction) == pytest.approx(slope(of, arrays, n, direction), rel=1e-6)
    both = grad(of, tuple(range(len(arrays))))(*arrays)
    assert all(np.array_equal(g, grad(of, n)(*arrays)) for n, g in enumerate(both))


@cases
def test_gradients_are_those_of_the_backward_function(case):
    name, arrays, options = CASES[case]
    backward = getattr(fd, f"{name}_backward")
    taken = inspect.signature(backward).parameters
    y, given = getattr(fd, name)(**arrays, key=KEY, **options), arrays | options | {"key": KEY}
    known = {n: a for n, a in given.items() if n in taken}
    if "bias" in taken and isinstance(taken["bias"].default, bool):
        known["bias"] = "bias" in arrays
    if "vocabulary" in taken:
        known["vocabulary"] = len(arrays["weight"])
    g = normal(*y.shape, dtype=np.float64, seed=5)
    found = backward(g, **known)
    found = found if isinstance(found, tuple) else (found,)
    f, values = function(case)
    for n, (name, array) in enumerate(arrays.items()):
        ours = grad(lambda *a: anp.sum(g * f(*a)), n)(*values)
        theirs = found[n]
        if name == "variance":  # of each element
            theirs = summed_to(theirs, array.shape)
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        else:
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("case", [c for c in CASES if c not in SMOOTH and CASES[c][0] not in ONCE])
def test_gradients_of_gradients_are_central_differences(case):
    f, arrays = function(case)
    for n in range(len(arrays)):
        for m in range(len(arrays)):

            def along(*given, n=n, f=f):
                g = grad(partial(loss, f), n)(*given)
                return anp.sum(g * weights_like(g, 1))

            direction = direction_of(arrays[m])
            second = np.vdot(grad(along, m)(*arrays), direction)
            assert second == pytest.approx(slope(along, arrays, m, direction), rel=1e-6, abs=1e-9)
            apart = CASES[case][0] == "zoneout" and n != m  # no element depends on both
            assert second == 0 if apart else abs(second) > 0.01


@cases
def test_forward_derivatives_are_central_differences(case):
    f, arrays = function(case)
    for n, array in enumerate(arrays):
        direction = direction_of(array)
        if CASES[case][0] in NOT_BY_ELEMENT or array.shape != f(*arrays).shape:
            name = list(CASES[case][1])[n]
            with pytest.raises(NotImplementedError, match=f"no forward mode with respect to {name}"):
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


def test_what_has_one_gradient_only():
    square = partial(loss, partial(fda.concrete_dropout, logit=0.3, key=KEY))
    second = grad(lambda x: anp.sum(grad(square)(x) * OTHER))(X)
    assert np.vdot(second, DIRECTION) == pytest.approx(
        slope(lambda x: np.sum(grad(square)(x) * OTHER), [X], 0, DIRECTION), rel=1e-6
    )
    with pytest.raises(NotImplementedError, match="concrete_dropout_backward has no gradient with respect"):
        grad(lambda x: grad(lambda a: loss(partial(fda.concrete_dropout, x, key=KEY), a))(0.3))(X)
    with pytest.raises(
        NotImplementedError, match="information_dropout_backward has no gradient with respect"
    ):
        grad(lambda x: grad(lambda a: loss(partial(fda.information_dropout, x, key=KEY), a))(0.3))(X)
    with pytest.raises(NotImplementedError, match="drop_connect has no second derivative"):
        grad(
            lambda x: anp.sum(
                grad(lambda w: loss(partial(fda.drop_connect, x, p=0.5, key=KEY), w))(WEIGHTS[0, 0].T)
            )
        )(X[0, 0])
    with pytest.raises(NotImplementedError, match="standout_dropout has no gradient with respect to a"):
        grad(lambda a: anp.sum(fda.standout_dropout(X, a, KEY)))(X)


def test_signatures_are_those_of_the_functions_without_out():
    public = {name for name, f in vars(fda).items() if inspect.isfunction(f) and f.__module__ == fda.__name__}
    public = {name for name in public if not name.startswith("_")}
    assert public == {name for name, *_ in of_records()}
    for name in public:
        parameters = dict(inspect.signature(getattr(fd, name)).parameters)
        parameters.pop("out", None)
        ours = inspect.signature(getattr(fda, name)).parameters
        assert list(ours) == list(parameters)
        assert all(ours[n].default == parameters[n].default for n in parameters)
        assert all(ours[n].kind == parameters[n].kind for n in parameters)


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
