"""Numbers that arguments and states take: never a bool, which Python takes for 0 or 1."""

import re

import ml_dtypes
import numpy as np
import pytest
from every_layer import CASES, classes

import fastdrop as fd
from fastdrop import moments, schedules
from fastdrop._arrays.numbers import rate, real, reals

X, KEY = np.ones((4, 3)), fd.Key(1)
WEIGHT = np.ones((3, 2))
CALLS = {
    "dropout": lambda bad: fd.dropout(X, bad, KEY),
    "dropout, shared": lambda bad: fd.dropout(X, bad, KEY, shared_axes=0),
    "dropout_backward": lambda bad: fd.dropout_backward(X, bad, KEY),
    "keep_mask": lambda bad: fd.keep_mask(3, bad, KEY),
    "apply_mask": lambda bad: fd.apply_mask(X, X > 0, bad),
    "dropout_add": lambda bad: fd.dropout_add(X, X, bad, KEY),
    "bias_act_dropout": lambda bad: fd.bias_act_dropout(X, X[0], bad, KEY),
    "alpha_dropout": lambda bad: fd.alpha_dropout(X, bad, KEY),
    "alpha_dropout_backward": lambda bad: fd.alpha_dropout_backward(X, bad, KEY),
    "gaussian_dropout": lambda bad: fd.gaussian_dropout(X, bad, KEY),
    "gaussian_noise": lambda bad: fd.gaussian_noise(X, bad, KEY),
    "concrete_dropout": lambda bad: fd.concrete_dropout(X, bad, KEY),
    "concrete_dropout, temperature": lambda bad: fd.concrete_dropout(X, 0.0, KEY, temperature=bad),
    "information_dropout": lambda bad: fd.information_dropout(X, bad, KEY),
    "information_kl": lambda bad: fd.information_kl(bad),
    "drop_path": lambda bad: fd.drop_path(X, bad, KEY),
    "surviving_rows": lambda bad: fd.surviving_rows(3, bad, KEY),
    "drop_block": lambda bad: fd.drop_block(np.ones((1, 1, 3, 3)), bad, KEY, block_size=1),
    "drop_connect": lambda bad: fd.drop_connect(X, WEIGHT, bad, KEY),
    "drop_connect_moments": lambda bad: fd.drop_connect_moments(X, WEIGHT, bad),
    "zoneout": lambda bad: fd.zoneout(X, X, bad, KEY),
    "zoneout_backward": lambda bad: fd.zoneout_backward(X, bad, KEY),
    "standout_dropout, alpha": lambda bad: fd.standout_dropout(X, X, KEY, alpha=bad),
    "standout_keep_prob, beta": lambda bad: fd.standout_keep_prob(X, beta=bad),
    "embedding_dropout": lambda bad: fd.embedding_dropout([0], WEIGHT, bad, KEY),
    "token_dropout": lambda bad: fd.token_dropout([1], bad, KEY, replacement=0),
    "importance_rates": lambda bad: fd.importance_rates([1.0], bad),
    "importance_rates, max_rate": lambda bad: fd.importance_rates([1.0], 0.0, max_rate=bad),
    "max_norm": lambda bad: fd.max_norm(X, bad),
    "r_drop_loss": lambda bad: fd.r_drop_loss(X, X, [0] * 4, bad),
    "moments.dropout": lambda bad: moments.dropout(bad),
    "moments.gaussian_noise": lambda bad: moments.gaussian_noise(bad),
    "Dropout": fd.Dropout,
    "Dropout.p": lambda bad: setattr(fd.Dropout(), "p", bad),
    "a schedule's result": lambda bad: fd.Dropout(lambda step: bad),
    "InvertedDropout": fd.InvertedDropout,
    "GaussianDropout": fd.GaussianDropout,
    "GaussianDropout, std": lambda bad: fd.GaussianDropout(std=bad),
    "GaussianDropout, alpha": lambda bad: fd.GaussianDropout(alpha=bad),
    "GaussianNoise": fd.GaussianNoise,
    "ConcreteDropout": fd.ConcreteDropout,
    "ConcreteDropout, temperature": lambda bad: fd.ConcreteDropout(temperature=bad),
    "ConcreteDropout.logit": lambda bad: setattr(fd.ConcreteDropout(), "logit", bad),
    "InformationDropout": fd.InformationDropout,
    "VariationalDropout": fd.VariationalDropout,
    "VariationalDropout.log_alpha": lambda bad: setattr(fd.VariationalDropout(), "log_alpha", bad),
    "AdaptiveDropout": lambda bad: fd.AdaptiveDropout(0.0, adaptation_rate=bad),
    "StandoutDropout": fd.StandoutDropout,
    "StandoutDropout, beta": lambda bad: fd.StandoutDropout(1.0, bad),
    "RecurrentDropout": lambda bad: fd.RecurrentDropout(p_update=bad),
    "Zoneout": fd.Zoneout,
    "DropConnect": lambda bad: fd.DropConnect(bad, weight=WEIGHT),
    "Constant": schedules.Constant,
    "Cosine": lambda bad: schedules.Cosine(0.5, 3, bad),
    "Curriculum": lambda bad: schedules.Curriculum(0.5, bad),
    "Step": lambda bad: schedules.Step(0.5, (1,), (bad,)),
}


@pytest.mark.parametrize("bad", [True, False, np.True_, np.timedelta64(1, "s")])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_rate_is_a_bool_or_a_time(call, bad):
    with pytest.raises(TypeError, match=r"must be (a )?real( number)?.*, got|got bool"):
        call(bad)


INTEGERS = {
    "Key": fd.Key,
    "Key.draw": lambda bad: fd.Key(1, bad),
    "Key.fold_in": KEY.fold_in,
    "Key.split": KEY.split,
    "drop_block": lambda bad: fd.drop_block(np.ones((1, 1, 3, 3)), 0.5, KEY, block_size=bad),
    "drop_connect_inference": lambda bad: fd.drop_connect_inference(
        X, WEIGHT, 0.5, KEY, activation=np.abs, samples=bad
    ),
    "token_dropout": lambda bad: fd.token_dropout([1], 0.5, KEY, replacement=bad),
    "token_dropout, protected": lambda bad: fd.token_dropout([1], 0.5, KEY, replacement=0, protected=[bad]),
    "embedding_dropout_backward": lambda bad: fd.embedding_dropout_backward(
        np.ones((1, 2)), [0], 0.5, KEY, vocabulary=bad
    ),
    "mc_predict": lambda bad: fd.mc_predict(lambda x, key: x, X, bad, KEY),
    "set_num_threads": fd.set_num_threads,
    "AdaptiveDropout": lambda bad: fd.AdaptiveDropout(axis=bad),
    "RecurrentDropout": lambda bad: fd.RecurrentDropout(gates=bad),
    "Linear": lambda bad: schedules.Linear(0.5, bad),
    "Step": lambda bad: schedules.Step(0.5, (bad,), (0.1,)),
}


@pytest.mark.parametrize("bad", [True, False, np.True_])
@pytest.mark.parametrize("call", INTEGERS.values(), ids=INTEGERS)
def test_no_integer_is_a_bool(call, bad):
    with pytest.raises(TypeError, match=r"an integer.*, got bool"):
        call(bad)


@pytest.mark.parametrize(
    "call",
    [
        lambda bad: fd.dropout(X, 0.5, KEY, shared_axes=bad),
        lambda bad: fd.dropout(X, 0.5, KEY, shared_axes=(bad,)),
        lambda bad: fd.dropout(X, 0.5, KEY, shared_axes=bad, rows=range(len(X))),
        lambda bad: fd.dropout(X, 0.5, KEY, window=((9, 9), (0, bad))),
        lambda bad: fd.Dropout(0.5, shared_axes=bad),
        lambda bad: fd.max_norm(X, 1.0, axis=bad),
        lambda bad: fd.predictive_entropy([[1.0]], axis=bad),
    ],
)
@pytest.mark.parametrize("bad", [True, False])
def test_no_axis_and_no_place_is_a_bool(call, bad):
    with pytest.raises(TypeError, match=rf"must be .* ints, got .*{bad}"):
        call(bad)


@pytest.mark.parametrize("kind", [fd.InformationDropout, fd.VariationalDropout])
@pytest.mark.parametrize("bad", [schedules.Linear(0.5, 2), None, True], ids=str)
def test_a_layer_that_learns_says_what_it_takes(kind, bad):
    wanted = f"alpha must be real, got {bad!r}; use the number that learning begins with"
    with pytest.raises(TypeError, match=f"^{re.escape(wanted)}$"):
        kind(bad)
    with pytest.raises(TypeError, match="scale must be a real number, got str"):
        kind().regularizer("1")


@pytest.mark.parametrize(
    "call",
    [
        lambda bad: fd.dropout(X, bad, KEY),
        lambda bad: fd.gaussian_dropout(X, bad, KEY),
        lambda bad: fd.gaussian_noise(X, bad, KEY),
        fd.VariationalDropout,
        lambda bad: fd.importance_rates(bad, 0.5),
        lambda bad: fd.standout_keep_prob(bad),
        fd.variational_kl,
    ],
)
def test_no_array_of_rates_is_of_bools(call):
    with pytest.raises(TypeError, match="real"):
        call(np.array([True, False, True]))


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(float).max, reason="no longer floats here")
@pytest.mark.parametrize(
    ("call", "bad"),
    [
        (lambda bad: fd.gaussian_noise(X, bad, KEY), "1e400"),
        (lambda bad: fd.information_dropout(X, bad, KEY), "1e400"),
        (lambda bad: fd.local_reparameterization(X, bad, KEY), "1e400"),
        (lambda bad: fd.gaussian_dropout(X, bad, KEY), np.nextafter(np.longdouble(1), 0)),
    ],
)
def test_arrays_of_longer_floats_are_checked_as_floats(call, bad):
    with pytest.raises(ValueError, match=r"must be finite and >= 0, got|must be in .*, got"):
        call(np.array([np.longdouble(bad)]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_a_number_of_numpy_is_the_float_that_it_equals(dtype):
    p, image = dtype(0.25), np.ones((1, 1, 300, 300), np.float16)
    calls = [
        lambda p: fd.apply_mask(image, image > 0, p),
        lambda p: fd.drop_block(image, p, KEY),
        lambda p: fd.gaussian_dropout(X, p, KEY),
        lambda p: fd.dropout(X, p, KEY),
        lambda p: fd.gaussian_noise(X, p, KEY),
        lambda p: fd.standout_dropout(X, X, KEY, alpha=p, beta=p),
        lambda p: fd.information_dropout(X, p, KEY),
        lambda p: fd.concrete_dropout(X, p, KEY, temperature=p),
        lambda p: fd.importance_rates([1.0, 2.0], p, max_rate=p),
        lambda p: fd.drop_connect_moments(X, WEIGHT, p)[1],
        lambda p: moments.drop_block_rate(300, 300, p),
        lambda p: fd.GaussianDropout(p).alpha,
        lambda p: [schedules.Linear(p, 10**5)(step) for step in (0, 1, 99_999, 10**6)],
        lambda p: [schedules.Cosine(p, 10**5)(step) for step in (0, 1, 99_999, 10**6)],
        lambda p: schedules.Early(p, 10**5, linear=True)(1),
    ]
    for call in calls:
        np.testing.assert_array_equal(call(p), call(0.25), strict=True)


def test_an_integer_of_another_class_is_the_int_that_it_equals():
    class Two:
        def __index__(self):
            return 2

    calls = [
        lambda n: fd.drop_connect_inference(X, WEIGHT, 0.5, KEY, activation=np.tanh, samples=n),
        lambda n: [schedules.Linear(0.5, n)(step) for step in range(4)],
        lambda n: [schedules.Early(0.5, n, linear=True)(step) for step in range(4)],
        lambda n: fd.mc_predict(lambda x, key: fd.dropout(x, 0.5, key), X, n, KEY).mean,
        lambda n: fd.surviving_rows(n, 0.5, KEY)[0],
        lambda n: fd.drop_block(np.ones((1, 1, 4, 4)), 0.5, KEY, block_size=n),
    ]
    for call in calls:
        for other in (Two(), np.int8(2)):
            np.testing.assert_array_equal(call(other), call(2))


def test_what_is_a_number():
    for number in (0, 1, 0.5, np.float32(0.5), np.int8(1)):
        assert rate(number) == rate(float(number))
        assert real("x", number) == number
    assert reals("x", [1, 2.5]).tolist() == [1.0, 2.5]
    assert reals("x", [10**30, 2]).tolist() == [1e30, 2.0]
    with pytest.raises(ValueError, match="x must be floats, got an int beyond them"):
        reals("x", [10**400])
    for bad in (["1"], "1", [None], [10**30, True], 1j, [[1.0], True]):
        with pytest.raises((TypeError, ValueError), match=r"x must be real numbers|inhomogeneous"):
            reals("x", bad)


@pytest.mark.parametrize("kind", [*classes(), fd.RecurrentDropout], ids=lambda kind: kind.__name__)
def test_no_entry_of_a_state_is_a_bool_and_every_key_has_a_next(kind):
    layer = CASES[kind].make(1) if kind in CASES else kind(rng=1)
    before = layer.state_dict()
    for name in before.keys() - {"layer", "version"}:
        with pytest.raises(ValueError, match=f"state has a bad entry: {name} must be|state must have"):
            layer.load_state_dict(before | {name: True})
    for draw in (2**63 - 1, 2**64 - 1):
        with pytest.raises(ValueError, match="draw must be in"):
            layer.load_state_dict(before | {"draw": draw})
    assert layer.state_dict() == before
    layer.load_state_dict(before | {"draw": 2**63 - 2})
    assert layer.key == fd.Key(1, 2**63 - 2)


def test_a_forward_without_a_next_key_changes_nothing():
    layer = fd.Dropout(0.5, rng=fd.Key(1, 2**63 - 1))
    with pytest.raises(ValueError, match="draw must be in"):
        layer(X)
    assert layer.key == fd.Key(1, 2**63 - 1)
    with pytest.raises(RuntimeError):
        layer.backward(X)


@pytest.mark.parametrize("kind", [fd.ConcreteDropout, fd.VariationalDropout, fd.StandoutDropout])
def test_learned_numbers_take_no_schedule(kind):
    layer = kind(rng=1)
    before = layer.state_dict()
    state = {"schedule": "Constant", "p": 0.5, "step": 0}
    with pytest.raises(ValueError, match=r"state has a bad entry: .* must not be a schedule"):
        layer.load_state_dict(before | {kind._parameter: state})
    assert layer.state_dict() == before
    if kind is not fd.StandoutDropout:
        with pytest.raises(TypeError, match="must not be a schedule"):
            setattr(layer, kind._parameter, schedules.Constant(0.5))


@pytest.mark.parametrize(
    "call",
    [
        lambda numbers: fd.dropout(X, numbers, KEY),
        lambda numbers: fd.dropout(X, numbers, KEY, shared_axes=0),
        lambda numbers: fd.gaussian_dropout(X, numbers, KEY),
        lambda numbers: fd.gaussian_noise(X, numbers, KEY),
        lambda numbers: fd.local_reparameterization(X, numbers, KEY),
        lambda numbers: fd.VariationalDropout(numbers, rng=1)(X),
        lambda numbers: fd.standout_dropout(X, np.broadcast_to(numbers, X.shape), KEY),
    ],
)
def test_arrays_of_numbers_may_be_bfloat16(call):
    numbers = np.array([0.25, 0.5, 0.75], ml_dtypes.bfloat16)
    assert np.array_equal(call(numbers), call(numbers.astype(np.float64)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.dropout(X, 10**400, 1), ValueError, r"p must be in \[0, 1\], got 10+\.\.\.0+$"),
        (lambda: fd.gaussian_noise(X, 10**400, 1), ValueError, "must be a float, got an int of 1329 bits"),
        (
            lambda: fd.keep_mask(3, 0.5, 1, window=((2**65,), (0,))),
            ValueError,
            r"at most 2\*\*64 elements",
        ),
        (lambda: fd.normal(3, 1, dtype="nothing"), TypeError, "must be a NumPy dtype, got 'nothing'"),
        (
            lambda: fd.ConcreteDropout(0.5, rng=1)(X, out=X),
            ValueError,
            "out must not overlap x",
        ),
        (
            lambda: fd.Dropout().load_state_dict(fd.Dropout().state_dict() | {"p": abs}),
            ValueError,
            "p must be plain data, got",
        ),
    ],
)
def test_what_only_fuzzers_tried(call, error, message):
    with pytest.raises(error, match=message):
        call()
