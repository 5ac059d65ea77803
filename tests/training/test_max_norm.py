"""Max-norm against a loop over units, in every dtype, layout and number of axes."""

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, frozen, normal, same_bits

from fastdrop._training.max_norm import max_norm

REAL = [dtype for dtype in DTYPES if np.dtype(dtype).kind != "c"]


def one_by_one(weight, c):
    """Columns projected in a loop, in float64."""
    wide = weight.astype(np.float64)
    for j in range(wide.shape[1]):
        norm = sum(w * w for w in wide[:, j]) ** 0.5
        if norm > c:
            wide[:, j] *= c / norm
    return wide


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("c", [0.5, 2, np.float32(3)])
def test_columns_are_projected(dtype, c):
    weight = normal(6, 50, dtype=dtype)
    weight[:, 3] = 0
    y = max_norm(weight, c)
    wanted = one_by_one(weight, float(c))
    assert y.dtype == weight.dtype
    assert np.abs(y.astype(np.float64) - wanted.astype(dtype).astype(np.float64)).max() <= 2 * np.spacing(
        np.float64(np.abs(wanted).max())
    )
    norms = np.linalg.norm(weight.astype(np.float64), axis=0)
    inside = norms <= c
    assert same_bits(y[:, inside], weight[:, inside])
    assert 0 < inside.sum() < 50
    assert not y[:, 3].any()


@pytest.mark.parametrize("axis", [(1, 2, 3), [1, 2, 3], (-1, 1, 2)])
def test_axes_of_convolutions(axis):
    kernels = normal(8, 3, 5, 5, dtype=np.float64)
    y = max_norm(kernels, 8.5, axis=axis)
    flat = one_by_one(kernels.reshape(8, -1).T, 8.5).T.reshape(kernels.shape)
    np.testing.assert_allclose(y, flat, rtol=1e-14)
    assert not np.array_equal(y, kernels)
    assert not np.allclose(y, max_norm(kernels, 8.5))


def test_other_axes():
    weight = normal(6, 50, dtype=np.float64)
    np.testing.assert_allclose(max_norm(weight.T, 2.0, axis=np.int64(1)), max_norm(weight, 2.0).T, rtol=1e-15)
    np.testing.assert_allclose(max_norm(weight, 1.0, axis=()), np.clip(weight, -1, 1), rtol=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_in_place(layout):
    weight = normal(6, 50)
    laid = LAYOUTS[layout](weight)
    y = max_norm(frozen(laid), 2.0)
    assert np.array_equal(y, max_norm(weight, 2.0))
    assert max_norm(laid, 2.0, out=laid) is laid
    assert np.array_equal(laid, y)


def test_weights_whose_squares_are_no_floats():
    w = np.array([[3e300, 3.0, 0.3], [4e300, -4.0, 0.4]])
    np.testing.assert_allclose(max_norm(w, 1.0), [[0.6, 0.6, 0.3], [0.8, -0.8, 0.4]], rtol=1e-15)
    assert max_norm(w, 1.0)[:, 2].tolist() == [0.3, 0.4]


def test_signs_of_zero_and_exact_norms_are_kept():
    weight = np.array([[-0.0, 3.0], [0.0, 4.0]])
    assert same_bits(max_norm(weight, 5.0), weight)
    assert same_bits(max_norm(weight, 1e-300)[:, 0], weight[:, 0])
    assert max_norm(np.zeros((0, 4)), 1.0).shape == (0, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: max_norm(np.ones((2, 2)), 0), ValueError, "c must be above 0 and finite, got 0"),
        (lambda: max_norm(np.ones((2, 2)), np.nan), ValueError, "c must be above 0 and finite, got nan"),
        (lambda: max_norm(np.ones((2, 2)), np.inf), ValueError, "c must be above 0 and finite, got inf"),
        (lambda: max_norm(np.ones((2, 2)), "1"), TypeError, "c must be a real number, got str"),
        (lambda: max_norm(np.ones((2, 2), int), 1), TypeError, "got int64"),
        (lambda: max_norm(np.ones((2, 2)) * 1j, 1), TypeError, "max_norm needs real numbers, got complex128"),
        (lambda: max_norm(np.ones((2, 2)), 1, axis=2), ValueError, "axis must be in"),
        (lambda: max_norm(np.ones((2, 2)), 1, axis=(0, 0)), ValueError, "axis must not repeat"),
        (
            lambda: max_norm(np.ones((2, 2)), 1, out=np.ones(2)),
            ValueError,
            r"out must have the result's shape \(2, 2\)",
        ),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
