"""Softmax and dropout of attention's weights, against extended precision and the oracle's mask."""

import subprocess
import sys
from functools import cache

import naive
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop._arrays.numbers import rate  # noqa: E402
from fastdrop._stream.keys import stream  # noqa: E402
from fastdrop.torch import _softmax  # noqa: E402

KEY, P = fd.Key(42, draw=3), 0.3
HEADS = ROWS = 3


def weights(scores, slopes, numbers, part, p=P):
    """What the function leaves in copies of arrays; without slopes it writes the numbers."""
    tensors = [None if a is None else torch.from_numpy(a.copy()) for a in (scores, slopes)]
    _softmax.weights(*tensors, numbers, part, (*rate(p), *stream(KEY)))
    return [None if t is None else t.numpy() for t in tensors]


def both(scores, slopes, part, p=P):
    """The dropped weights of the forward pass, and what the backward pass makes."""
    numbers = torch.full((len(scores), part.height, 2), torch.nan, dtype=torch.from_numpy(scores).dtype)
    forward, _ = weights(scores, None, numbers, part, p)
    return forward, *weights(scores, slopes, numbers, part, p)


@cache
def kept_from(index, length):
    return np.array([naive.kept(index + i, P, KEY.seed, KEY.draw) for i in range(length)])


def expected(scores, slopes, kept):
    """The dropped weights of a row, and the slopes by its scores, in extended precision."""
    wide = scores.astype(np.longdouble)
    weights = np.exp(wide - wide.max())
    weights /= weights.sum()
    kept = kept * rate(P)[1]
    by_weights = slopes * kept
    return weights * kept, weights * (by_weights - (weights * by_weights).sum())


def normal(shape, dtype, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("width", "row"), [(1, 0), (9, 4), (16, 13), (37, 5), (130, 64), (1025, 1010)])
def test_rows(width, row, causal, dtype):
    """Three rows of three heads; what comes after the end of a causal row is 0, whatever was there."""
    heads = HEADS if width < 1000 else 1  # the oracle takes its time
    scores, slopes = (normal((heads, ROWS, width), dtype, seed) for seed in (0, 1))
    starts, height = np.array([2**40 + 77, 7, 5 * width], np.int64), row + ROWS
    part = _softmax.Part(starts[:heads], row, height, width, causal, False)
    found = both(scores, slopes, part)
    for head in range(heads):
        for i in range(ROWS):
            end, index = min(width, row + i + 1) if causal else width, int(starts[head]) + (row + i) * width
            exact = expected(scores[head, i, :end], slopes[head, i, :end], kept_from(index, width)[:end])
            wanted, sizes = (exact[0], *exact), (1, 1, np.abs(slopes).max())
            for got, each, size in zip(found, wanted, sizes, strict=True):
                most = 8 * np.finfo(dtype).eps * size
                np.testing.assert_allclose(got[head, i, :end], each, rtol=0, atol=most)
                assert not got[head, i, end:].any()
            for got in found[:2]:
                np.testing.assert_array_equal(got[head, i, :end] == 0, exact[0] == 0)
                assert not np.signbit(got).any()


def test_threads_do_not_matter(dtype):
    """A bigger block is shared among the threads of PyTorch, which may be more than it has rows."""
    before, found = torch.get_num_threads(), []
    scores, slopes = (normal((1, 3, 30_000), dtype, seed) for seed in (0, 1))
    part = _softmax.Part(np.zeros(1, np.int64), 0, 3, 30_000, False, False)
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(both(scores, slopes, part))
    finally:
        torch.set_num_threads(before)
    for each in found[1:]:
        for got, wanted in zip(each, found[0], strict=True):
            np.testing.assert_array_equal(got, wanted)


def one_row(length, safe):
    return _softmax.Part(np.zeros(1, np.int64), 0, 1, length, False, safe)


@pytest.mark.parametrize("length", [5, 16, 37])
def test_rows_without_any_weight(length, dtype):
    """They are NaN where they are kept, as a softmax is, or 0 where they are to be safe."""
    scores, slopes = np.full((1, 1, length), -np.inf, dtype), normal((1, 1, length), dtype)
    for safe in (False, True):
        forward, again, found = both(scores, slopes, one_row(length, safe))
        wanted = np.where(kept_from(0, length) & (not safe), np.nan, 0)
        np.testing.assert_array_equal(forward[0, 0], wanted)
        np.testing.assert_array_equal(again[0, 0], wanted)
        np.testing.assert_array_equal(found[0, 0], np.full(length, 0 if safe else np.nan))


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 8, 17, 36])
def test_one_odd_score_makes_the_row_nan(odd, place, dtype):
    scores, slopes = normal((1, 1, 37), dtype), normal((1, 1, 37), dtype, 1)
    scores[..., place] = odd
    forward, again, found = both(scores, slopes, one_row(37, True))
    wanted = np.where(kept_from(0, 37), np.nan, 0)
    np.testing.assert_array_equal(forward[0, 0], wanted)
    np.testing.assert_array_equal(again[0, 0], wanted)
    assert np.isnan(found).all()


def test_scores_far_below_the_largest_have_no_weight(dtype):
    scores, slopes = np.full((1, 1, 40), -1000, dtype), normal((1, 1, 40), dtype)
    scores[..., [3, 30]] = 1000
    forward, again, found = both(scores, slopes, one_row(40, False), 1e-9)
    np.testing.assert_array_equal(np.flatnonzero(forward), [3, 30])
    np.testing.assert_allclose(forward[..., [3, 30]], 0.5, rtol=1e-6)
    np.testing.assert_array_equal(again, forward)
    np.testing.assert_array_equal(np.flatnonzero(found), [3, 30])


@pytest.mark.slow
def test_without_the_openmp_library(tmp_path):
    """As on another system, where the function that starts a team is missing when the module is imported."""
    program = """
import ctypes, sys, numpy as np, torch, fastdrop as fd, fastdrop.torch as fdt
from fastdrop import _backends
_backends.cpu()
found = ctypes.CDLL
def library(name, *options, **more):
    if name == torch._C.__file__:
        raise OSError(name)
    return found(name, *options, **more)
ctypes.CDLL = library
from fastdrop.torch import _openmp
assert not _openmp.IN_TEAMS
torch.manual_seed(0)
q = torch.randn(2, 3, 300, 8, requires_grad=True)
y = fdt.scaled_dot_product_attention(q, q, q, dropout_p=0.3, noise_key=fd.Key(42))
np.save(sys.argv[1], torch.cat([y.detach(), *torch.autograd.grad(y.square().sum(), q)]).numpy())
"""
    path = tmp_path / "found.npy"
    subprocess.run([sys.executable, "-c", program, path], check=True, timeout=300)
    torch.manual_seed(0)
    q = torch.randn(2, 3, 300, 8, requires_grad=True)
    y = fdt.scaled_dot_product_attention(q, q, q, dropout_p=0.3, noise_key=fd.Key(42))
    expected = torch.cat([y.detach(), *torch.autograd.grad(y.square().sum(), q)])
    torch.testing.assert_close(torch.from_numpy(np.load(path)), expected)
