"""Keys of one parent: no two alike, and masks without correlation; with bad keys that the tests reject."""

import numpy as np
import pytest

import fastdrop as fd
from fastdrop._stream.keys import stream

EACH, SIZE = 3400, 1024  # keys of each origin, and elements of a mask
PARENT = fd.Key(42)
ORIGINS = {
    "split": PARENT.split(EACH),
    "number": tuple(PARENT.fold_in(n) for n in range(EACH)),
    "text": tuple(PARENT.fold_in(f"encoder.layer.{n}") for n in range(EACH)),
}
KEYS = [key for keys in ORIGINS.values() for key in keys]


def signs(keys):
    """Masks as rows of 1 and -1."""
    return np.array([fd.keep_mask(SIZE, 0.5, key) for key in keys], np.float32) * 2 - 1


def scores(rows):
    """Normal scores of the correlations of rows, which are independent coins where the keys are good.

    Of all pairs together the mean of the correlations and that of their squares; of rows that are neighbours,
    or in the same place of another origin, the mean.
    """
    n, m = rows.shape
    pairs = n * (n - 1) / 2
    sums = (np.square(rows.sum(0, dtype=np.float64)).sum() - n * m) / 2
    squares = (np.square((rows.T @ rows).astype(np.float64)).sum() - n * m * m) / 2
    found = {
        "mean": sums / np.sqrt(pairs * m),
        "squares": (squares - pairs * m) / np.sqrt(pairs * (2 * m * m - 2 * m)),
    }
    for lag in (1, 2, EACH, 2 * EACH):
        products = rows[lag:] * rows[:-lag]
        found[f"lag {lag}"] = products.sum(dtype=np.float64) / np.sqrt(products.size)
    return found


def test_there_are_ten_thousand_keys_and_no_two_alike():
    assert len(KEYS) > 10_000
    assert len({stream(key) for key in [PARENT, *KEYS]}) == len(KEYS) + 1


def test_masks_of_keys_from_one_parent_have_no_correlation():
    rows = signs(KEYS)
    assert len({row.tobytes() for row in rows}) == len(KEYS)
    found = scores(rows)
    assert max(map(abs, found.values())) < 4, found


def _mirrors():
    """A split whose second half is the first one's mirror: no two keys are equal."""
    half = KEYS[: len(KEYS) // 2]
    return signs([*half, *(key.antithetic() for key in half)])


def _few_bits():
    """A split that keeps ten bits of the digest."""
    return signs([PARENT.fold_in(stream(key)[0] % 1024) for key in KEYS])


def _one_split_for_texts():
    """Texts that give the keys of the numbers."""
    return signs([*ORIGINS["split"], *ORIGINS["number"], *ORIGINS["number"]])


def _slightly_dependent():
    """Each mask has one element in a hundred of that before it."""
    rows = signs(KEYS)
    same = np.random.default_rng(0).random(rows[1:].shape) < 0.01
    rows[1:][same] = rows[:-1][same]
    return rows


@pytest.mark.parametrize(
    "bad", [_mirrors, _few_bits, _one_split_for_texts, _slightly_dependent], ids=lambda f: f.__name__
)
def test_bad_splits_are_rejected(bad):
    assert max(map(abs, scores(bad()).values())) > 10
