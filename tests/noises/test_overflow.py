"""Overflow gives infinities and no warning, whatever np.errstate says; and the check that the docs name."""

import ml_dtypes
import numpy as np
import pytest
from every_noise import FUNCTIONS, arguments

import fastdrop as fd

# Zoneout scales nothing, tokens are integers, and products of matrices are NumPy's, which asks np.errstate.
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


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_the_check_of_the_docs_tells_what_overflows(dtype):
    fits, over = np.full(100, biggest(dtype) / 2, dtype), np.full(100, biggest(dtype), dtype)
    assert np.isfinite(fd.dropout(fits, 0.5, 3)).all()
    assert not np.isfinite(fd.dropout(over, 0.5, 3)).all()
    assert "np.isfinite(y).all()" in fd.dropout.__doc__
