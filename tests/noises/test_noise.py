"""The registry: all that is public belongs to a noise, or says why not; records say what is so."""

import numpy as np
import pytest
from every_noise import FUNCTIONS, arguments, backward_arguments, is_plain

import fastdrop as fd
from fastdrop._noises import _noise
from fastdrop._noises._layer import Layer
from fastdrop._noises._noise import EVERY, INTEGERS, NOISES, PRODUCT, REAL, Noise, register

KEY = fd.Key(3)
NO_NOISE = {
    "Key": "what noise is drawn by",
    "Scheduler": "changes the rates of layers",
    "Prediction": "what mc_predict returns",
    "get_num_threads": "threads",
    "set_num_threads": "threads",
    "warmup": "compiles kernels",
    "max_norm": "a constraint of weights, which draws nothing",
    "mc_predict": "calls a function of the user's, whose noise that is",
    "mutual_information": "a number of predictions, which draws nothing",
    "predictive_entropy": "a number of predictions, which draws nothing",
    "predictive_log_likelihood": "calls a function of the user's, whose noise that is",
    "r_drop_loss": "a loss, which draws nothing",
}


def test_everything_public_belongs_to_a_noise_or_says_why_not():
    of_noises = {each for noise in NOISES.values() for each in noise.public}
    public = {name for name in fd.__all__ if callable(getattr(fd, name))}
    assert {name for name in public if getattr(fd, name) not in of_noises} == set(NO_NOISE)
    assert {each.__name__ for each in of_noises} <= public


def test_every_layer_belongs_to_one_noise():
    layers = [layer for noise in NOISES.values() for layer in noise.layers]
    assert len(layers) == len(set(layers))
    assert all(issubclass(layer, Layer) for layer in layers)


@pytest.mark.parametrize("noise", NOISES.values(), ids=lambda noise: noise.name)
def test_records_name_arguments_that_are_there(noise):
    assert noise.has_function == (getattr(fd, noise.name, None) is noise.function)
    assert {noise.first, *noise.like, "key"} <= set(noise.arguments)
    assert not noise.rate or noise.takes(noise.rate)
    assert noise.backward is None or noise.backward.__name__ == f"{noise.function.__name__}_backward"
    assert noise.dtypes in (EVERY, REAL, PRODUCT, INTEGERS)


@pytest.mark.parametrize("noise", FUNCTIONS, ids=lambda noise: noise.name)
def test_records_say_what_dtypes_are_taken(noise):
    for dtype in ("float32", "complex64", "int64", "float16"):
        given = arguments(noise, (4, 5), np.dtype("float32"))
        of = given["weight" if "weight" in given else noise.first].dtype  # which may be another dtype
        alike = [name for name, value in given.items() if getattr(value, "dtype", None) == of]
        given |= {name: given[name].astype(dtype) for name in alike}
        if dtype in noise.dtypes:
            assert noise.function(**given, key=KEY).dtype == dtype
        else:
            with pytest.raises(TypeError):
                noise.function(**given, key=KEY)


@pytest.mark.parametrize("noise", [n for n in FUNCTIONS if n.rate], ids=lambda noise: noise.name)
def test_records_say_whether_there_are_rates_of_elements(noise):
    given = arguments(noise, (9, 5))
    rates = np.full(9 if noise.name == "embedding_dropout" else (9, 1), 0.3)
    if noise.by_element:
        found = noise.function(**given | {noise.rate: rates}, key=KEY)
        assert np.allclose(found, noise.function(**given, key=KEY))
    else:
        with pytest.raises((TypeError, ValueError)):
            noise.function(**given | {noise.rate: rates}, key=KEY)


@pytest.mark.parametrize("noise", [n for n in FUNCTIONS if n.backward], ids=lambda noise: noise.name)
def test_records_say_whether_a_noise_is_its_own_gradient(noise):
    given = arguments(noise, (4, 5))
    y = noise.function(**given, key=KEY)
    g = np.random.default_rng(0).standard_normal(y.shape, np.float32)
    found = noise.backward(**backward_arguments(noise, given, g), key=KEY)
    itself = g.shape == np.shape(given[noise.first])
    itself = itself and np.array_equal(noise.function(**given | {noise.first: g}, key=KEY), found)
    assert noise.self_adjoint == (itself and isinstance(found, np.ndarray))


def test_a_record_of_a_name_that_is_there_or_of_an_unknown_place_is_refused(monkeypatch):
    monkeypatch.setattr(_noise, "_noises", dict(NOISES))
    with pytest.raises(ValueError, match="one record, got a second of 'dropout'"):
        register(Noise("dropout", fd.dropout))
    with pytest.raises(ValueError, match=r"new must lack some of \('backward', .*got \['the moon'\]"):
        register(Noise("new", fd.dropout, lacks={"the moon": "too far"}))
    register(Noise("new", fd.dropout))
    assert "new" in _noise._noises
    assert "new" not in NOISES


def test_a_function_knows_its_noise_by_its_signature_alone():
    assert NOISES["zoneout"].needed == ("new", "previous", "p", "key")
    assert is_plain(NOISES["zoneout"])
    assert not is_plain(NOISES["drop_connect"])
    assert not NOISES["spatial_dropout"].has_function
    assert NOISES["dropout"].takes("window")
    assert not NOISES["drop_block"].takes("window")
