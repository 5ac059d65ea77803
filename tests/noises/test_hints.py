"""What errors advise: each kind of object has its hint, the same in every function and layer."""

import fractions
import functools
import inspect
import re
import typing

import numpy as np
import pytest
from every_layer import CASES
from every_noise import FUNCTIONS, arguments
from test_package import FACES, public

import fastdrop as fd
from fastdrop import schedules
from fastdrop._noises._noise import INTEGERS
from fastdrop._stream.keys import shown

X, KEY = np.ones((3, 4)), fd.Key(1)


def tensor(**options):
    return pytest.importorskip("torch").ones(3, 4, **options)


def sparse(name):
    return getattr(pytest.importorskip("scipy.sparse"), name)(X)


FOREIGN = {
    "None": (lambda: None, "an array is needed, got None"),
    "a tensor": (tensor, "got Tensor of torch; use fastdrop.torch, or x.numpy"),
    "a tensor with a gradient": (lambda: tensor(requires_grad=True), "use fastdrop.torch"),
    "a parameter": (
        lambda: pytest.importorskip("torch").nn.Parameter(tensor()),
        "got Parameter of torch; use fastdrop.torch",
    ),
    "bfloat16": (lambda: tensor().bfloat16(), "use fastdrop.torch"),
    "meta": (lambda: tensor(device="meta"), "use fastdrop.torch"),
    "a dask array": (
        lambda: pytest.importorskip("dask.array").ones((3, 4)),
        "got Array of dask; use fastdrop.dask, or x.compute",
    ),
    "csr_matrix": (
        lambda: sparse("csr_matrix"),
        r"got csr_matrix of scipy; use x\.data with indices=, or x\.toarray\(\)",
    ),
    "coo_array": (lambda: sparse("coo_array"), r"use x\.data with indices="),
    "lil_matrix": (lambda: sparse("lil_matrix"), r"use x\.data with indices="),
}
foreign = pytest.mark.parametrize(("make", "message"), FOREIGN.values(), ids=FOREIGN)


@foreign
@pytest.mark.parametrize("noise", [n for n in FUNCTIONS if n.dtypes != INTEGERS], ids=lambda n: n.name)
def test_functions_refuse_what_others_take(noise, make, message):
    given = arguments(noise, (3, 4), np.float64)
    first = "weight" if noise.name == "embedding_dropout" else noise.first
    with pytest.raises(TypeError, match=message):
        noise.function(**(given | {first: make()}), key=KEY)


@foreign
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_layers_refuse_it_in_training_in_evaluation_and_backward(kind, make, message):
    case, bad = CASES[kind], make()
    layer, arrays = case.make(1), case.arguments()
    inputs = (bad, *arrays[1:])
    state = layer.state_dict()
    with pytest.raises(TypeError, match=message):
        layer(*inputs)
    with pytest.raises(TypeError, match=message):
        layer(*inputs, training=False)
    assert layer.state_dict() == state
    layer(*arrays)
    with pytest.raises(TypeError, match=message):
        layer.backward(bad)
    layer.eval()(*arrays)
    with pytest.raises(TypeError, match=message):
        layer.backward(bad)


def test_what_autograd_traces_is_for_its_own_functions():
    autograd = pytest.importorskip("autograd")
    layer = fd.Dropout(0.5, rng=1)
    for call in (lambda x: fd.dropout(x, 0.5, KEY), layer, lambda x: layer(x, training=False)):
        with pytest.raises(TypeError, match=r"got ArrayBox of autograd; use fastdrop\.autograd"):
            autograd.grad(lambda x, call=call: call(x).sum())(X)


def test_values_of_frames_are_taken():
    pandas = pytest.importorskip("pandas")
    frame, expected = pandas.DataFrame(X), fd.dropout(X, 0.5, KEY)
    for call in (lambda x: fd.dropout(x, 0.5, KEY), fd.Dropout(0.5, rng=KEY)):
        assert type(call(frame)) is np.ndarray
    assert np.array_equal(fd.dropout(frame, 0.5, KEY), expected)
    assert np.array_equal(fd.dropout(frame[0], 0.5, KEY), fd.dropout(X[:, 0], 0.5, KEY))
    assert fd.Dropout(0.5).eval()(frame) is frame
    mixed = pandas.DataFrame({"a": [1.0], "b": ["x"]})
    with pytest.raises(TypeError, match=r"got object; use x\.to_numpy\(np\.float32\), of columns of numbers"):
        fd.dropout(mixed, 0.5, KEY)
    with pytest.raises(TypeError, match=r"got int64; use x\.astype\(np\.float32\)"):
        fd.dropout(pandas.DataFrame({"a": [1]}), 0.5, KEY)
    gaps = pandas.DataFrame({"a": pandas.array([1.0, None], "Float64")})
    for hinted in (
        gaps.to_numpy(np.float32, na_value=np.nan),
        pandas.DataFrame({"a": [1]}).astype(np.float32),
    ):
        fd.dropout(hinted, 0.5, KEY)


def test_values_of_xarray_are_taken_and_apply_ufunc_keeps_names():
    xarray = pytest.importorskip("xarray")
    x = xarray.DataArray(X, dims=("time", "site"))
    assert np.array_equal(fd.dropout(x, 0.5, KEY), fd.dropout(X, 0.5, KEY))
    named = xarray.apply_ufunc(fd.dropout, x, kwargs={"p": 0.5, "key": KEY})
    assert named.dims == ("time", "site")
    assert np.array_equal(named, fd.dropout(X, 0.5, KEY))


class HasNumpy:
    """An array of another library, which NumPy can read."""

    def __array__(self, dtype=None, copy=None):
        return X


def test_objects_with_an_array_inside_are_taken():
    assert np.array_equal(fd.dropout(HasNumpy(), 0.5, KEY), fd.dropout(X, 0.5, KEY))
    assert np.array_equal(fd.dropout(X.tolist(), 0.5, KEY), fd.dropout(X, 0.5, KEY))


NO_FLOATS = {
    "ints": ([1, 2], r"got int64; use np\.array\(x, np\.float32\)"),
    "an array of ints": (np.arange(3), r"got int64; use x\.astype\(np\.float32\)"),
    "objects": (
        np.array([1.0, None]),
        r"got object; use np\.array\(x\.tolist\(\), np\.float32\), of numbers",
    ),
    "a dict": ({"a": 1.0}, "got object; use an array of numbers, which NumPy doesn't make of dict"),
    "a set": ({1.0}, "NumPy doesn't make of set"),
    "a generator": ((v for v in [1.0]), "NumPy doesn't make of generator"),
    "ragged": ([[1.0], [1.0, 2.0]], "inhomogeneous"),
}


@pytest.mark.parametrize(("x", "message"), NO_FLOATS.values(), ids=NO_FLOATS)
def test_arrays_of_no_floats(x, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fd.dropout(x, 0.5, KEY)
    with pytest.raises((TypeError, ValueError), match=message):
        fd.Dropout(0.5)(x)


def test_what_the_hints_for_objects_say_works():
    numbers = np.array([[1.0, 2], [3, 4]], object)
    assert fd.dropout(np.array(numbers.tolist(), np.float32), 0.0, KEY).tolist() == [[1, 2], [3, 4]]
    assert fd.dropout(np.array([1, 2], np.float32), 0.0, KEY).tolist() == [1, 2]


NUMBERS = {
    "None": (None, "got NoneType; use a number"),
    "a str": ("0.5", r"got str; use float\(p\)"),
    "a Fraction": (fractions.Fraction(1, 3), r"got Fraction; use float\(p\)"),
    "a bool": (True, r"got bool; use float\(p\)"),
    "NumPy's bool": (np.True_, r"got bool; use float\(p\)"),
    "a list": ([0.5], r"got list; use one number, or np\.array\(p\) in functions that take arrays of p"),
    "a tuple": ((0.5,), r"got tuple; use one number, or np\.array\(p\)"),
    "a dict": ({}, "got dict; use a number"),
    "a key": (KEY, "got Key; p comes before the key"),
    "another array": (HasNumpy(), r"use one number, or np\.array\(p\)"),
}


@pytest.mark.parametrize(("p", "message"), NUMBERS.values(), ids=NUMBERS)
def test_rates(p, message):
    calls = [
        lambda: fd.dropout(X, p, KEY),
        lambda: fd.alpha_dropout(X, p, KEY),
        lambda: fd.drop_path(X, p, KEY),
        lambda: fd.Dropout(p),
        lambda: fd.Zoneout(p),
        lambda: schedules.Linear(p, 3),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(
        TypeError, match=message.replace("of p", "of std").replace("(p", "(std").replace("p c", "std c")
    ):
        fd.gaussian_noise(X, p, KEY)


def test_an_array_of_rates_where_none_is_taken():
    for call in (fd.Dropout, fd.DropBlock2D, lambda p: fd.alpha_dropout(X, p, KEY)):
        with pytest.raises(TypeError, match="got ndarray; use one number, since no array is taken here"):
            call(np.full(4, 0.5))


def test_rates_of_frames_and_tensors():
    series = pytest.importorskip("pandas").Series([0.5] * 4)
    halves = tensor()[0] * 0.5
    hints = "or np.array(p) in functions that take", "p.numpy() in functions of arrays, or p in those of fast"
    for p, hint, array in zip((series, halves), hints, (np.array(series), halves.numpy()), strict=True):
        with pytest.raises(TypeError, match=re.escape(f"use one number, {hint}")):
            fd.dropout(X, p, KEY)
        assert fd.dropout(X, array, KEY).shape == X.shape


@pytest.mark.parametrize("make", [fd.keep_mask, fd.normal, "dask.keep_mask", "dask.normal"])
def test_an_array_in_the_place_of_a_shape(make):
    if isinstance(make, str):
        pytest.importorskip("dask")
        make = functools.partial(getattr(fd.dask, make[5:]), chunks=2)
    rest = (0.5, KEY) if "keep_mask" in str(make) else (KEY,)
    bad = [X, X[0], np.ones((2, 2), int), np.float64(3)]
    for shape in bad:
        message = (
            rf"shape must be an int or a tuple of ints, got {type(shape).__name__} of shape .*; use x\.shape"
        )
        with pytest.raises(TypeError, match=message):
            make(shape, *rest)
    for shape in (3, np.int64(3), [3, 2], np.array([3, 2]), (3, 2)):
        assert make(shape, *rest).shape[0] == 3


def test_shapes_of_frames_and_tensors():
    frame = pytest.importorskip("pandas").DataFrame(X)
    for shape in (frame, tensor()):
        with pytest.raises(TypeError, match=r"got (DataFrame|Tensor) of shape \(3, 4\); use x\.shape"):
            fd.keep_mask(shape, 0.5, KEY)
        assert fd.keep_mask(shape.shape, 0.5, KEY).shape == (3, 4)


def named(step):
    return 0.1 * min(step, 9)


@pytest.mark.parametrize("schedule", [lambda step: 0.5, functools.partial(named)], ids=["lambda", "partial"])
def test_a_schedule_without_a_name_has_no_state(schedule):
    """Since two of them would have one name, and each the state of the other."""
    layer = fd.Dropout(schedule, rng=1)
    layer.step()
    with pytest.raises(ValueError, match=r"<.*> has none of its own|functools\.partial.* has none") as found:
        layer.state_dict()
    assert "use a function made by def" in str(found.value)
    state = fd.Dropout(named, rng=7).state_dict()
    with pytest.raises(ValueError, match="schedule 'named' of its own; build the layer with it"):
        layer.load_state_dict(state)
    layer.load_state_dict(fd.Dropout(0.25, rng=7).state_dict())
    assert (layer.p, layer.schedule, layer.key) == (0.25, None, fd.Key(7))


def classes():
    return {
        f"{face}.{name}": kind
        for face in FACES
        for name, kind in public(face).items()
        if inspect.isclass(kind)
    }


CLASSES = classes()


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_type_hints_of_public_classes_are_found(kind):
    found = typing.get_type_hints(kind)
    assert set(vars(kind).get("__annotations__", ())) <= set(found)
    assert not any(isinstance(hint, (str, typing.ForwardRef)) for hint in found.values())


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_wrong_keywords_are_those_of_the_public_class(kind):
    if inspect.isabstract(kind):
        pytest.skip("it can't be made")
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__(init|new)__\(\) .*'nonsense'"):
        kind(nonsense=1)


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_wrong_keywords_of_calls_are_those_of_the_layer(kind):
    layer, arrays = CASES[kind].make(1), CASES[kind].arguments()
    for call in (layer, layer.forward):
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\.forward\(\) got .*'nonsense'"):
            call(*arrays, nonsense=1)
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.backward\(\) got .*'nonsense'"):
        layer.backward(arrays[0], nonsense=1)
    for name in ("__init__", "forward", "backward"):
        assert inspect.signature(getattr(kind, name)).parameters
        assert getattr(kind, name).__qualname__ == f"{kind.__name__}.{name}"


def test_a_class_of_the_users_keeps_its_methods():
    class Mine(fd.SpatialDropout2D):
        def forward(self, x, training=None):
            return super().forward(x, training) + 1

    layer, x = Mine(0.5, rng=1), np.ones((1, 3, 2, 2))
    assert np.array_equal(layer(x), fd.SpatialDropout2D(0.5, rng=1)(x) + 1)


@pytest.mark.parametrize("variance", [0.0, np.array([1.0, 0.0, 2.0, 1.0]), np.zeros((3, 4))], ids=str)
def test_a_variance_of_0_has_no_gradient(variance):
    fd.local_reparameterization(X, variance, KEY)
    with pytest.raises(ValueError, match=r"variance must be above 0, .* got 0; use variance \+ 1e-8"):
        fd.local_reparameterization_backward(X, variance, KEY)
    assert fd.local_reparameterization_backward(X[:0], 0.0, KEY)[1].shape == (0, 4)
    _, found = fd.local_reparameterization_backward(X, variance + 1e-8, KEY)
    assert np.isfinite(found).all()


LONG = ["x" * 10**4, 10**300, 10**5000, -(10**5000), list(range(999)), tuple("a" * 99), {"a": X.tolist()}]
LONG += [np.ones((9, 9, 9)), np.ones(999).tolist(), object(), print, np.array([{}] * 99)]


@pytest.mark.parametrize("value", LONG, ids=lambda value: type(value).__name__)
def test_a_message_has_a_long_value_on_one_short_line(value):
    assert 0 < len(shown(value)) < 300
    assert "\n" not in shown(value)
    for call in (
        lambda: fd.drop_path(X, 0.5, KEY, mode=value),
        lambda: fd.drop_path(X, 0.5, KEY, scale_by_keep=value),
        lambda: fd.dropout(X, 0.5, KEY, window=value),
        lambda: fd.drop_block(X[None, None], 0.5, KEY, data_format=value),
        lambda: fd.RecurrentDropout(gates=[value]),
        lambda: fd.concrete_dropout(X, [value], KEY),
        lambda: fd.bias_act_dropout(X, None, 0.5, KEY, activation=value),
        lambda: fd.token_dropout([1], 0.5, KEY, replacement=0, protected=[[value]]),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^.{1,400}$"):
            call()


def test_a_message_has_a_short_value_as_it_is():
    values = {None: "None", "no": "'no'", 1: "1", KEY: repr(KEY), (0, 1): "(0, 1)"}
    assert {value: shown(value) for value in values} == values
