"""Nothing warns, whatever the numbers and np.errstate are; and the check of infinities that the docs name."""

import ml_dtypes
import numpy as np
import pytest
from every_layer import CASES
from every_noise import FUNCTIONS, arguments, backward_arguments

import fastdrop as fd

# Zoneout scales nothing, tokens are integers, and the sums in products of matrices may be NaN.
NOT_SCALED = ("zoneout", "token_dropout", "drop_connect", "attention")
SCALED = [n for n in FUNCTIONS if n.name not in NOT_SCALED]
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def biggest(dtype):
    return float((ml_dtypes.finfo if dtype is ml_dtypes.bfloat16 else np.finfo)(dtype).max)


# Numbers with which each noise makes elements bigger, where a rate of 0.3 does not.
BIGGER = {
    "alpha_dropout": lambda big: {"p": 0.9},
    "gaussian_noise": lambda big: {"std": big / 2},
    "local_reparameterization": lambda big: {"variance": np.full((9, 70), big * big / 4)},
    "standout_dropout": lambda big: {"a": np.zeros((9, 70)), "inverted": True},
}


@pytest.mark.parametrize(
    ("noise", "dtype"),
    # The square root of a variance in float64 is far below what overflows.
    [(n, d) for n in SCALED for d in DTYPES if (n.name, d) != ("local_reparameterization", np.float64)],
    ids=lambda value: getattr(value, "name", None) or np.dtype(value).name,
)
def test_overflow_is_silent(noise, dtype):
    given = arguments(noise, (9, 70), dtype)
    for name in {noise.first, *noise.like, "weight"} & set(given) - {"tokens"}:
        given[name] = np.full_like(given[name], biggest(dtype))
    given |= BIGGER.get(noise.name, lambda big: {})(biggest(dtype))
    if "a" in given:
        given["a"] = given["a"].astype(dtype)
    with np.errstate(all="raise"):
        y = noise.function(**given, key=3)
    assert y.dtype == dtype
    assert not np.isfinite(y).all()
    assert "Overflow gives infinities without a warning" in noise.function.__doc__ or noise.name == "dropout"


# What makes NumPy warn, of a dtype: its biggest number is 1 here, and its smallest one 0.5.
STRANGE = {
    "NaN": [np.nan, 1.0],
    "infinite": [np.inf, -np.inf, 0.0],
    "huge": [1.0, 1.0, -1.0],
    "subnormal": [0.5, -0.5],
    "all": [np.nan, np.inf, -np.inf, 1.0, 0.5, 0.0],
}
strange = pytest.mark.parametrize("kind", STRANGE)


def filled(a, kind, bounded=False):
    """An array like another one, of strange numbers, or of those above 0 and finite; integers stay."""
    if a.dtype.kind in "iu":
        return a
    info = (ml_dtypes.finfo if a.dtype == ml_dtypes.bfloat16 else np.finfo)(a.dtype)
    known = {1.0: info.max, -1.0: info.min, 0.5: info.smallest_subnormal, -0.5: -info.smallest_subnormal}
    values = np.array([known.get(v, v) for v in STRANGE[kind]], a.dtype)
    if bounded:
        values = abs(values[np.isfinite(values) & (values != 0)])
    return np.resize(values if values.size else a, a.shape)


@strange
@pytest.mark.parametrize(
    ("noise", "dtype"),
    [(n, d) for n in FUNCTIONS for d in DTYPES if np.dtype(d).name in n.dtypes or n.name == "token_dropout"],
    ids=lambda value: getattr(value, "name", None) or np.dtype(value).name,
)
def test_no_numbers_make_a_noise_warn(noise, dtype, kind):
    given = {
        name: filled(a, kind, bounded=name in ("variance", "a")) if isinstance(a, np.ndarray) else a
        for name, a in arguments(noise, (9, 70), dtype).items()
    }
    with np.errstate(all="raise"):
        y = noise.function(**given, key=3)
        if noise.backward:
            noise.backward(**backward_arguments(noise, given, filled(y, kind)), key=3)


@strange
@pytest.mark.parametrize("layer", CASES, ids=lambda layer: layer.__name__)
def test_no_numbers_make_a_layer_warn(layer, kind):
    case = CASES[layer]
    made = case.make(1)
    with np.errstate(all="raise"):
        for variant in range(2):
            x, *others = case.arguments(variant)
            bounded = layer is fd.StandoutDropout
            y = made(filled(x, kind), *(filled(a, kind, bounded) for a in others))
            made.backward(filled(y, kind))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_the_check_of_the_docs_tells_what_overflows(dtype):
    fits, over = np.full(100, biggest(dtype) / 2, dtype), np.full(100, biggest(dtype), dtype)
    assert np.isfinite(fd.dropout(fits, 0.5, 3)).all()
    assert not np.isfinite(fd.dropout(over, 0.5, 3)).all()
    assert "np.isfinite(y).all()" in fd.dropout.__doc__
