"""Attention with dropout by blocks, against the plain formula with the whole matrix of weights."""

import re
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from arrays import LAYOUTS, normal
from gradients import central_differences

import fastdrop as fd
from fastdrop._noises import attention as module
from fastdrop._stream import reference

KEY = fd.Key(42, 3)
CLOSE = {np.float64: 1e-10, np.float32: 1e-5, np.float16: 3e-3, ml_dtypes.bfloat16: 3e-2}


def inputs(*shapes, dtype=np.float64):
    return [normal(*shape, dtype=dtype, seed=n) for n, shape in enumerate(shapes)]


def with_all_heads(q, k, v, grouped):
    """Keys and values for each head of the queries."""
    return [np.repeat(x, q.shape[-3] // x.shape[-3], -3) for x in (k, v)] if grouped else [k, v]


def summed_to(x, shape):
    """The gradient of an array of a shape, where x is that of what the array was broadcast to."""
    x = x.sum(tuple(range(x.ndim - len(shape))))
    return x.sum(tuple(i for i, n in enumerate(shape) if n != x.shape[i]), keepdims=True)


def formula(q, k, v, p, g=None, *, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """Attention in float64 with the reference's mask, and if g is given the gradients of q, k, v and mask."""
    shapes = [x.shape for x in (q, k, v)]
    (q, g), (k, v) = (
        (None if x is None else x.astype(float) for x in (q, g)),
        (k.astype(float), v.astype(float)),
    )
    k, v = with_all_heads(q, k, v, enable_gqa)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    batch = np.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v)))
    scores = np.broadcast_to(q @ k.mT * scale, (*batch, q.shape[-2], k.shape[-2]))
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    if attn_mask is not None:
        added = np.where(attn_mask, 0, -np.inf) if attn_mask.dtype == bool else attn_mask.astype(float)
        scores = scores + added
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)  # all are 0 in a row that is masked wholly
    keep = reference.keep_mask(scores.shape, p, KEY)
    factor = keep / (1 - round(p * 2**32) / 2**32) if p < 1 else 0.0 * keep
    dropped = weights * factor
    if g is None:
        return dropped @ v
    slopes = weights * (of := g @ v.mT * factor) - weights * (of * weights).sum(-1, keepdims=True)
    dk, dv = slopes.mT @ q * scale, dropped.mT @ g
    if enable_gqa:
        dk, dv = (
            x.reshape(*x.shape[:-3], s[-3], -1, *x.shape[-2:]).sum(-3)
            for x, s in ((dk, shapes[1]), (dv, shapes[2]))
        )
    found = [summed_to(x, s) for x, s in zip((slopes @ k * scale, dk, dv), shapes, strict=True)]
    has_gradient = attn_mask is not None and attn_mask.dtype != bool
    return dropped @ v, *found, summed_to(slopes, attn_mask.shape) if has_gradient else None


def holed(*shape):
    """A mask with some weights left out, and all of one row."""
    mask = normal(*shape, seed=9) < 0.8
    mask[..., 0, :] = False
    return mask


def floats(*shape):
    """A mask that is added, which leaves some weights out, and all of one row."""
    return np.where(holed(*shape), normal(*shape, dtype=np.float64, seed=5), -np.inf)


SHAPES = {
    "plain": ((2, 3, 70, 8), (2, 3, 70, 8), (2, 3, 70, 8)),
    "other sizes": ((2, 3, 17, 8), (2, 3, 333, 8), (2, 3, 333, 5)),
    "more queries": ((1, 2, 150, 8), (1, 2, 40, 8), (1, 2, 40, 3)),
    "two axes": ((130, 8), (140, 8), (140, 8)),
    "three axes": ((3, 70, 8), (3, 90, 8), (3, 90, 8)),
    "five axes": ((2, 2, 3, 20, 8), (2, 2, 3, 30, 8), (2, 2, 3, 30, 8)),
    "one of each": ((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2)),
    "queries that are shared": ((1, 3, 70, 8), (2, 1, 70, 8), (2, 3, 70, 8)),
    "keys that are shared": ((2, 3, 70, 8), (40, 8), (40, 8)),
    "values that are not": ((3, 20, 8), (3, 40, 8), (2, 3, 40, 8)),
    "groups": ((2, 6, 60, 8), (2, 2, 90, 8), (2, 3, 90, 5)),
    "groups and a batch that is shared": ((2, 4, 60, 8), (1, 2, 90, 8), (2, 90, 8)),
}
MASKS = {
    "none": lambda *shape: None,
    "bool": lambda *shape: holed(*shape[-2:]),
    "bool by head": lambda *shape: holed(*shape),
    "padding": lambda *shape: np.arange(shape[-1]) < max(1, shape[-1] - 3),
    "float": lambda *shape: floats(*shape[-2:]),
    "float by head": lambda *shape: floats(*shape),
    "float of keys": lambda *shape: normal(*shape[:-2], 1, shape[-1], dtype=np.float64, seed=6),
    "float of queries": lambda *shape: normal(shape[-2], 1, dtype=np.float64, seed=6),
    "one number": lambda *shape: np.array(0.5),
}


def close(found, expected, dtype):
    """Whether arrays are alike, by the largest element where that is above 1."""
    if found is None or expected is None:
        return found is expected
    size = max(1, np.abs(expected).max(initial=0))
    return found.shape == expected.shape and np.abs(found - expected).max(initial=0) <= CLOSE[dtype] * size


def pairs():
    """Every pair of shapes and mask; dtype, scale, rate and causality as they fall, each with each."""
    others = [
        (dtype, causal, scale, p)
        for dtype in CLOSE
        for causal in (0, 1)
        for scale in (None, 0.3)
        for p in (0.3, 0.0, 0.9)
    ]
    for n, (shapes, mask) in enumerate((s, m) for s in SHAPES for m in MASKS):
        yield shapes, mask, *others[n * 7 % len(others)]


@pytest.mark.parametrize(("shapes", "mask", "dtype", "causal", "scale", "p"), list(pairs()))
def test_it_is_the_formula_with_the_same_mask(shapes, mask, dtype, causal, scale, p):
    q, k, v = inputs(*SHAPES[shapes], dtype=dtype)
    options = {"is_causal": bool(causal), "scale": scale, "enable_gqa": shapes.startswith("groups")}
    heads = with_all_heads(q, k, v, options["enable_gqa"])
    batch = np.broadcast_shapes(*(x.shape[:-2] for x in (q, *heads)))
    attn_mask = MASKS[mask](*batch, q.shape[-2], k.shape[-2])
    if attn_mask is not None and attn_mask.dtype != bool:
        attn_mask = attn_mask.astype(dtype)
    y = fd.attention(q, k, v, p, KEY, attn_mask=attn_mask, **options)
    g = normal(*y.shape, dtype=dtype, seed=4)
    found = y, *fd.attention_backward(g, q, k, v, p, KEY, attn_mask=attn_mask, **options)
    expected = formula(q, k, v, p, g, attn_mask=attn_mask, **options)
    assert all(x is None or x.dtype == dtype for x in found)
    assert all(close(a, b, dtype) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("size", "fewest", "rows"), [(1, 1, 3), (4000, 1, 7), (30_000, 5, 64), (1 << 20, 16, 128)]
)
def test_blocks_of_any_size(size, fewest, rows, causal, dtype, monkeypatch):
    for name, number in (("_BYTES", size), ("_FEWEST", fewest), ("_ROWS", rows)):
        monkeypatch.setattr(module, name, number)
    q, k, v = inputs((2, 6, 61, 8), (2, 2, 67, 8), (1, 3, 67, 5), dtype=dtype)
    options = {"is_causal": causal, "enable_gqa": True, "attn_mask": floats(2, 1, 61, 67).astype(dtype)}
    y = fd.attention(q, k, v, 0.3, KEY, **options)
    found = y, *fd.attention_backward(y, q, k, v, 0.3, KEY, **options)
    expected = formula(q, k, v, 0.3, y, **options)
    assert all(close(a, b, dtype) for a, b in zip(found, expected, strict=True))


def test_products_warn_of_nothing():
    # NumPy warned in a few runs, where a BLAS computed with what lay beside a small matrix.
    one, infinite = np.ones((1, 1)), np.array([[np.inf]])
    with np.errstate(all="raise"):
        assert np.isnan(fd.attention(0 * one, infinite, one, 0.1, KEY))
        assert np.isnan(fd.attention_backward(infinite, 0 * one, 0 * one, 0 * one, 0.1, KEY)[0])
        assert np.isnan(fd.drop_connect(infinite, 0 * one, 0.1, KEY))
        assert np.isnan(fd.drop_connect_backward(infinite, 0 * one, 0 * one, 0.1, KEY)[0])


@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_central_differences(mask, causal):
    arrays = dict(zip("qkv", inputs((2, 4, 5, 3), (1, 2, 6, 3), (2, 2, 6, 4)), strict=True))
    if mask:
        arrays["attn_mask"] = (holed if mask == "bool" else floats)(4, 5, 6)
        arrays["attn_mask"][:, 1:] = normal(4, 4, 6, seed=6) if mask == "float" else True
    options = {"p": 0.3, "key": KEY, "is_causal": causal, "enable_gqa": True}
    weights = normal(2, 4, 5, 4, dtype=np.float64, seed=7)
    found = fd.attention_backward(weights, **arrays, **options)
    assert (found[3] is not None) == (mask == "float")
    for n, x in enumerate(list(arrays.values())[: 4 if mask == "float" else 3]):
        assert np.abs(found[n]).max() > 1e-3
        finite = np.isfinite(x)
        differences = central_differences(
            lambda: float((fd.attention(**arrays, **options) * weights).sum()), x, 1e-5
        )
        np.testing.assert_allclose(found[n][finite], differences[finite], rtol=1e-6, atol=1e-8)
        assert not found[n][~finite].any()


def test_the_mask_is_dropouts_bit_for_bit():
    """By values that are the weights themselves, of which none is 0 before dropout."""
    q, k = inputs((2, 3, 40, 8), (2, 3, 50, 8))
    for window in (None, ((5, 4, 100, 60), (2, 1, 37, 8)), ((1 << 40, 3, 40, 50), (1 << 39, 0, 0, 0))):
        kept = fd.attention(q, k, np.eye(50), 0.3, KEY, window=window) != 0
        assert np.array_equal(kept, fd.keep_mask((2, 3, 40, 50), 0.3, KEY, window=window))
        where = ((2, 3, 40, 50), (0, 0, 0, 0)) if window is None else window
        assert np.array_equal(kept, reference.keep_mask(kept.shape, 0.3, KEY, where))
    rows = [1 << 40, 7]
    kept = fd.attention(q, k, np.eye(50), 0.3, KEY, rows=rows) != 0
    assert np.array_equal(kept, fd.keep_mask(kept.shape, 0.3, KEY, rows=rows))
    rows = np.arange(40)[::-1] * 3
    kept = fd.attention(q[0, 0], k[0, 0], np.eye(50), 0.3, KEY, rows=rows) != 0
    assert np.array_equal(kept, fd.keep_mask((40, 50), 0.3, KEY, rows=rows))


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_is_a_block_of_the_whole(causal):
    shapes = (4, 6, 90, 8), (4, 3, 80, 8), (4, 3, 80, 5)
    q, k, v = inputs(*shapes)
    options = {"is_causal": causal, "enable_gqa": True}
    y = fd.attention(q, k, v, 0.3, KEY, **options)
    g = normal(*y.shape, dtype=np.float64, seed=4)
    dq, dk, dv, _ = fd.attention_backward(g, q, k, v, 0.3, KEY, **options)
    full, sums = (4, 6, 90, 80), [np.zeros(s) for s in shapes]
    for sample, head, row in ((s, h, r) for s in (0, 3) for h in (0, 2, 4) for r in (0, 30, 60)):
        size = 3 if sample == 0 else 1
        some = slice(sample, sample + size)
        heads, keys = slice(head, head + 2), slice(head // 2, head // 2 + 1)
        block = q[some, heads, row : row + 30], k[some, keys], v[some, keys]
        here = {"window": (full, (sample, head, row, 0)), **options}
        at = some, heads, slice(row, row + 30)
        np.testing.assert_allclose(fd.attention(*block, 0.3, KEY, **here), y[at], atol=1e-12)
        parts = fd.attention_backward(g[at], *block, 0.3, KEY, **here)
        for total, part, place in zip(sums, parts, (at, (some, keys), (some, keys)), strict=False):
            total[place] += part
    for total, whole in zip(sums, (dq, dk, dv), strict=True):
        np.testing.assert_allclose(total, whole, atol=1e-12)


def test_keys_of_a_longer_text():
    """A batch that is padded to its own longest text has the masks of one that is padded further."""
    q, k, v = inputs((2, 2, 30, 8), (2, 2, 40, 8), (2, 2, 40, 8))
    padding = np.arange(40) < 33
    y = fd.attention(q, k, v, 0.3, KEY, attn_mask=padding)
    short = fd.attention(q, k[..., :33, :], v[..., :33, :], 0.3, KEY, window=((2, 2, 30, 40), (0, 0, 0, 0)))
    np.testing.assert_allclose(short, y, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_rows_are_numbers_of_samples(causal):
    ids = [9, 0, 4, 9]
    q, k, v = inputs((4, 3, 20, 8), (4, 3, 30, 8), (4, 3, 30, 5))
    options = {"is_causal": causal}
    y = fd.attention(q, k, v, 0.3, KEY, rows=ids, **options)
    g = normal(*y.shape, dtype=np.float64, seed=4)
    found = fd.attention_backward(g, q, k, v, 0.3, KEY, rows=ids, **options)
    for i, row in enumerate(ids):
        one, here = slice(i, i + 1), {"window": ((10, 3, 20, 30), (row, 0, 0, 0)), **options}
        np.testing.assert_allclose(fd.attention(q[one], k[one], v[one], 0.3, KEY, **here), y[one], atol=1e-12)
        parts = fd.attention_backward(g[one], q[one], k[one], v[one], 0.3, KEY, **here)
        for part, whole in zip(parts[:3], found[:3], strict=True):
            np.testing.assert_allclose(part, whole[one], atol=1e-12)


def test_rows_of_a_matrix_are_numbers_of_queries():
    q, k, v = inputs((20, 8), (20, 8), (20, 5))
    ids = np.random.default_rng(0).permutation(20)
    y = fd.attention(q, k, v, 0.3, KEY, is_causal=True)
    mixed = fd.attention(q[ids], k, v, 0.3, KEY, is_causal=True, rows=ids)
    np.testing.assert_allclose(mixed, y[ids], atol=1e-12)


def test_causal_with_a_mask_is_both():
    q, k, v = inputs((2, 30, 8), (2, 30, 8), (2, 30, 8))
    mask = holed(30, 30)
    both = fd.attention(q, k, v, 0.3, KEY, attn_mask=mask, is_causal=True)
    np.testing.assert_allclose(
        both, fd.attention(q, k, v, 0.3, KEY, attn_mask=mask & np.tri(30, dtype=bool)), atol=1e-12
    )


@pytest.mark.parametrize("form", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_layouts_do_not_matter(form, dtype):
    arrays = inputs((2, 3, 20, 8), (2, 3, 30, 8), (2, 3, 30, 5), dtype=dtype)
    g = normal(2, 3, 20, 5, dtype=dtype, seed=4)
    formed = [LAYOUTS[form](x) for x in (*arrays, g)]
    y, other = fd.attention(*arrays, 0.3, KEY), fd.attention(*formed[:3], 0.3, KEY)
    np.testing.assert_allclose(
        y.astype(float), other.astype(float), atol=1e-6 if dtype == np.float32 else 2e-3
    )
    for a, b in zip(
        fd.attention_backward(g, *arrays, 0.3, KEY)[:3],
        fd.attention_backward(formed[3], *formed[:3], 0.3, KEY)[:3],
        strict=True,
    ):
        np.testing.assert_allclose(
            a.astype(float), b.astype(float), atol=1e-5 if dtype == np.float32 else 5e-3
        )


def test_out():
    arrays = inputs((2, 20, 8), (2, 30, 8), (2, 30, 5))
    y = fd.attention(*arrays, 0.3, KEY)
    for out in (np.full((2, 20, 5), np.nan), np.full((5, 20, 2), np.nan).T):
        assert fd.attention(*arrays, 0.3, KEY, out=out) is out
        assert np.array_equal(out, y)
    q = arrays[0].copy()
    same = fd.attention(q, q, q, 0.3, KEY)
    assert np.array_equal(fd.attention(q, q, q, 0.3, KEY, out=q), same)
    with pytest.raises(ValueError, match=r"out must have the result's shape \(2, 20, 5\), got \(2, 20, 8\)"):
        fd.attention(*arrays, 0.3, KEY, out=np.empty((2, 20, 8)))


@pytest.mark.parametrize(
    "shapes",
    [
        ((0, 2, 3), (0, 2, 3), (0, 2, 3)),
        ((2, 0, 3), (2, 4, 3), (2, 4, 5)),
        ((2, 4, 3), (2, 0, 3), (2, 0, 5)),
        ((2, 4, 0), (2, 3, 0), (2, 3, 5)),
        ((2, 4, 3), (2, 3, 3), (2, 3, 0)),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_empty_arrays(shapes, causal):
    q, k, v = inputs(*shapes)
    y = fd.attention(q, k, v, 0.3, KEY, is_causal=causal)
    g = np.ones_like(y)
    found = y, *fd.attention_backward(g, q, k, v, 0.3, KEY, is_causal=causal)
    expected = formula(q, k, v, 0.3, g, is_causal=causal, scale=1.0)
    assert all(close(a, b, np.float64) for a, b in zip(found, expected, strict=True))


def test_everything_dropped_and_nothing():
    q, k, v = inputs((2, 20, 8), (2, 30, 8), (2, 30, 5))
    for p in (1, 1.0, 1 - 1e-12):
        assert not fd.attention(q, k, v, p, KEY).any()
        assert not any(d.any() for d in fd.attention_backward(np.ones((2, 20, 5)), q, k, v, p, KEY)[:3])
    assert np.array_equal(fd.attention(q, k, v, 0, KEY), fd.attention(q, k, v, 0.0, KEY.next()))


def test_threads_do_not_matter(threads_set_back):
    q, k = inputs((8, 200, 16), (8, 300, 16), dtype=np.float32)
    found = []
    for threads in (1, 2, 3):
        fd.set_num_threads(threads)
        found.append(fd.attention(q, k, np.eye(300, dtype=np.float32), 0.3, KEY) != 0)
    assert all(np.array_equal(each, found[0]) for each in found)


def test_large_scores_do_not_overflow():
    q, k, v = inputs((4, 8), (5, 8), (5, 8), dtype=np.float32)
    y = fd.attention(q * 1e4, k, v, 0.0, KEY)
    np.testing.assert_array_equal(y, v[(q @ k.T).argmax(-1)])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("places", [2048, pytest.param(8192, marks=pytest.mark.slow)])
def test_the_matrix_is_never_whole_in_memory(places, causal):
    """It would have 16 MiB or 256."""
    q, k, v, g = inputs(*[(1, 1, places, 64)] * 4, dtype=np.float32)
    options = {"is_causal": causal}
    fd.attention(q[..., :64, :], k[..., :64, :], v[..., :64, :], 0.1, KEY, **options)  # compiles
    tracemalloc.start()
    try:
        y = fd.attention(q, k, v, 0.1, KEY, **options)
        _, forward = tracemalloc.get_traced_memory()
        fd.attention_backward(g, q, k, v, 0.1, KEY, **options)
        _, both = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert y.nbytes < forward <= both < 64 << 20
    assert both - 4 * y.nbytes < 12 << 20  # beyond what is returned


def test_it_is_pytorchs():
    torch = pytest.importorskip("torch")
    fdt = pytest.importorskip("fastdrop.torch")
    q, k, v = inputs((2, 6, 50, 8), (2, 2, 70, 8), (2, 2, 70, 5))
    for options in ({}, {"is_causal": True}, {"attn_mask": holed(50, 70)}, {"attn_mask": floats(6, 50, 70)}):
        tensors = {n: torch.from_numpy(x) if n == "attn_mask" else x for n, x in options.items()}
        leaves = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
        for p in (0.0, 0.3):
            theirs = fdt.scaled_dot_product_attention(
                *leaves, dropout_p=p, noise_key=KEY, enable_gqa=True, **tensors
            )
            y = fd.attention(q, k, v, p, KEY, enable_gqa=True, **options)
            np.testing.assert_allclose(y, theirs.detach(), atol=1e-12)
            g = normal(*y.shape, dtype=np.float64, seed=4)
            found = fd.attention_backward(g, q, k, v, p, KEY, enable_gqa=True, **options)
            for ours, other in zip(
                found, torch.autograd.grad(theirs, leaves, torch.from_numpy(g)), strict=False
            ):
                np.testing.assert_allclose(ours, other, atol=1e-12)


Q, K, V = inputs((2, 4, 10, 8), (2, 4, 12, 8), (2, 4, 12, 5), dtype=np.float32)
ERRORS = [
    ({"q": Q.astype(int)}, TypeError, "got int64; use x.astype(np.float32)"),
    ({"q": Q.astype(complex)}, TypeError, "attention needs real numbers, got complex128"),
    ({"q": np.ma.masked_array(Q)}, TypeError, "no masked arrays"),
    ({"k": K.astype(float)}, TypeError, "k must be of q's dtype float32, got float64; use k.astype(q.dtype)"),
    ({"v": V.astype(float)}, TypeError, "v must be of q's dtype float32, got float64; use v.astype(q.dtype)"),
    (
        {"q": Q[0, 0, 0]},
        ValueError,
        "q, k and v must end with the axes (T, E), (S, E) and (S, Ev), got (8,), ",
    ),
    ({"k": K[..., :7]}, ValueError, "must end with the axes (T, E), (S, E) and (S, Ev)"),
    ({"v": V[..., :7, :]}, ValueError, "must end with the axes (T, E), (S, E) and (S, Ev)"),
    (
        {"k": K[:, :2]},
        ValueError,
        "must broadcast before their last two axes, got (2, 4), (2, 2) and (2, 4); use e",
    ),
    (
        {"k": K[:, :3], "enable_gqa": True},
        ValueError,
        "heads of k and v that divide those of q, got [4, 3, 4]",
    ),
    (
        {"k": K[:, :0], "enable_gqa": True},
        ValueError,
        "heads of k and v that divide those of q, got [4, 0, 4]",
    ),
    ({"q": Q[0, 0], "enable_gqa": True}, ValueError, "enable_gqa needs heads"),
    ({"k": K[[0, 1, 1]], "enable_gqa": True}, ValueError, "got (2, 4), (3, 4) and (2, 4)"),
    (
        {"attn_mask": np.ones((10, 12))},
        TypeError,
        "attn_mask must be of bool or q's dtype float32, got float64; use",
    ),
    (
        {"attn_mask": np.ones((10, 12), int)},
        TypeError,
        "attn_mask must be of bool or q's dtype float32, got int64",
    ),
    (
        {"attn_mask": np.ones((10, 11), bool)},
        ValueError,
        "to the weights' shape (2, 4, 10, 12), got (10, 11)",
    ),
    (
        {"attn_mask": np.ones((3, 2, 4, 10, 12), bool)},
        ValueError,
        "to the weights' shape (2, 4, 10, 12), got (3,",
    ),
    ({"p": 1.5}, ValueError, "p must be in [0, 1], got 1.5"),
    ({"p": np.full(12, 0.5)}, TypeError, "p must be a real number in [0, 1], got ndarray"),
    ({"p": 0.0, "key": "no"}, TypeError, "key must be a fastdrop.Key or an int, got str"),
    ({"scale": "no"}, TypeError, "scale must be a real number, got str"),
    (
        {"window": ((2, 4, 9, 12), (0, 0, 0, 0))},
        ValueError,
        "window must place the block inside the full array",
    ),
    ({"window": ((9, 10, 8), (0, 0, 0))}, ValueError, "got block (2, 4, 10, 12) at (0, 0, 0) in (9, 10, 8)"),
    ({"window": ((2, 4, 10, 12), (0, 0, 0, 0)), "rows": [0, 1]}, ValueError, "leave out window"),
    ({"rows": [0, 1, 2]}, ValueError, "rows must have the shape (2,), got (3,)"),
    ({"rows": [0, -1]}, ValueError, "rows must be in [0, 19215358410114116), got -1"),
]


@pytest.mark.parametrize(("wrong", "kind", "words"), ERRORS)
def test_errors(wrong, kind, words):
    given = {"q": Q, "k": K, "v": V, "p": 0.5, "key": KEY} | wrong
    with pytest.raises(kind, match=re.escape(words)):
        fd.attention(**given)
    with pytest.raises(kind, match=re.escape(words)):
        fd.attention_backward(np.ones((2, 4, 10, 5), np.float32), **given)


def test_errors_of_the_gradient():
    with pytest.raises(
        ValueError, match=r"g must have the output's shape \(2, 4, 10, 5\), got \(2, 4, 10, 8\)"
    ):
        fd.attention_backward(Q, Q, K, V, 0.5, KEY)
    with pytest.raises(TypeError, match="g must be of q's dtype float32, got float64"):
        fd.attention_backward(np.ones((2, 4, 10, 5)), Q, K, V, 0.5, KEY)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_slopes_that_are_not_finite_vanish_where_weights_are_dropped(value):
    shapes, n = [(1, 300, 4)] * 3, 300
    q, k, v = inputs(*shapes)
    v[0, 5] = value
    dq = fd.attention_backward(np.ones_like(q), q, k, v, 0.3, KEY)[0]
    kept = fd.keep_mask((1, n, n), 0.3, KEY)[0, :, 5]
    assert np.array_equal(np.isfinite(dq[0]).all(-1), ~kept)
