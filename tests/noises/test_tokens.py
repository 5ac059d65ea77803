"""Dropout of words: rows of an embedding against a dropped table, and replaced tokens against np.where."""

import ml_dtypes
import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, frozen, normal, same_bits

import fastdrop as fd

KEY = fd.Key(42)
WORDS, FEATURES = 300, 7
WEIGHT = normal(WORDS, FEATURES)
TOKENS = np.random.default_rng(0).integers(WORDS, size=(9, 40))
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


def table(weight, p):
    """The whole embedding with dropped rows."""
    return fd.dropout(weight, p, KEY, shared_axes=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0, "by word"])
def test_rows_are_those_of_a_dropped_table(dtype, p):
    weight = normal(WORDS, FEATURES, dtype=dtype)
    p = np.linspace(0, 1, WORDS) if p == "by word" else p
    rows = p[:, None] if isinstance(p, np.ndarray) else p
    expected = table(weight, rows)[TOKENS]
    before = weight.copy()
    assert same_bits(fd.embedding_dropout(TOKENS, frozen(weight), p, KEY), expected)
    assert same_bits(weight, before)
    out = np.empty_like(expected)
    assert fd.embedding_dropout(TOKENS, weight, p, KEY, out=out) is out
    assert same_bits(out, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    lay, g = LAYOUTS[layout], normal(*TOKENS.shape, FEATURES, seed=1)
    tokens = frozen(TOKENS.astype(">i8") if layout == "swapped" else lay(TOKENS))
    y = fd.embedding_dropout(tokens, frozen(lay(WEIGHT)), 0.3, KEY)
    assert np.array_equal(y, table(WEIGHT, 0.3)[TOKENS])
    whole = fd.embedding_dropout_backward(g, TOKENS, 0.3, KEY, vocabulary=WORDS)
    assert np.array_equal(
        fd.embedding_dropout_backward(frozen(lay(g)), tokens, 0.3, KEY, vocabulary=WORDS), whole
    )


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_tokens_of_any_shape_and_integer_dtype(shape, dtype):
    tokens = np.random.default_rng(1).integers(200, size=shape).astype(dtype)
    y = fd.embedding_dropout(tokens, WEIGHT, 0.3, KEY)
    assert same_bits(np.asarray(y), np.asarray(table(WEIGHT, 0.3)[tokens]))
    dweight = fd.embedding_dropout_backward(y, tokens, 0.3, KEY, vocabulary=WORDS)
    wanted = np.zeros((WORDS, FEATURES))
    np.add.at(wanted, tokens.ravel(), y.reshape(-1, FEATURES))
    np.testing.assert_allclose(dweight, table(wanted, 0.3), rtol=1e-5)


def test_a_word_is_dropped_everywhere_or_nowhere_and_wherever_it_stands():
    shuffled = np.random.default_rng(2).permutation(TOKENS.ravel())
    for tokens in (TOKENS.ravel(), shuffled, TOKENS[0]):
        gone = ~fd.embedding_dropout(tokens, np.ones((WORDS, 1)), 0.5, KEY)[:, 0].astype(bool)
        assert np.array_equal(gone, ~fd.keep_mask(WORDS, 0.5, KEY)[tokens])
    by_place = ~fd.keep_mask(TOKENS.size, 0.5, KEY)
    words = {int(w) for w in TOKENS.ravel()[by_place]} & {int(w) for w in TOKENS.ravel()[~by_place]}
    assert words  # a mask by place would drop a word at some of its places


def test_the_rate_of_words():
    n, p = 1 << 17, 0.3
    y = fd.embedding_dropout(np.arange(n), np.ones((n, 1), np.float32), p, KEY)
    assert set(np.unique(y)) == {0, np.float32(1 / (1 - p))}
    assert abs(((y == 0).sum() - n * p) / np.sqrt(n * p * (1 - p))) < 5


def test_gradients_are_central_differences_and_the_adjoint():
    weight = normal(20, 3, dtype=np.float64)
    tokens = np.random.default_rng(3).integers(20, size=(4, 15))
    g = normal(4, 15, 3, dtype=np.float64, seed=1)

    def loss(w):
        return (fd.embedding_dropout(tokens, w, 0.4, KEY) ** 2 * g).sum()

    y = fd.embedding_dropout(tokens, weight, 0.4, KEY)
    dweight = fd.embedding_dropout_backward(2 * y * g, tokens, 0.4, KEY, vocabulary=20)
    assert dweight.dtype == np.float64
    differences = np.empty_like(weight)
    for place in np.ndindex(weight.shape):
        e = np.zeros_like(weight)
        e[place] = 1e-5
        differences[place] = (loss(weight + e) - loss(weight - e)) / 2e-5
    np.testing.assert_allclose(dweight, differences, rtol=1e-6, atol=1e-8)
    wrong = fd.embedding_dropout_backward(2 * y * g, tokens, 0.4, KEY.next(), vocabulary=20)
    assert not np.allclose(wrong, differences, rtol=1e-2)
    back = fd.embedding_dropout_backward(g, tokens, 0.4, KEY, vocabulary=20)
    assert (back * weight).sum() == pytest.approx((y * g).sum(), rel=1e-12)


def test_nan_vanishes_with_its_word():
    weight = np.full((WORDS, 2), np.nan)
    kept = fd.keep_mask(WORDS, 0.5, KEY)
    y = fd.embedding_dropout(TOKENS, weight, 0.5, KEY)
    assert np.array_equal(np.isnan(y[..., 0]), kept[TOKENS])
    dweight = fd.embedding_dropout_backward(np.full_like(y, np.nan), TOKENS, 0.5, KEY, vocabulary=WORDS)
    assert np.array_equal(np.isnan(dweight[:, 0]), kept & np.isin(np.arange(WORDS), TOKENS))
    assert (dweight[~kept] == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_gradients_are_summed_in_float32(dtype):
    g = np.full((5000, 2), 1.0, dtype)
    tokens = np.zeros(5000, int)
    kept_key = next(k for k in map(KEY.fold_in, range(9)) if fd.keep_mask(1, 0.5, k)[0])
    dweight = fd.embedding_dropout_backward(g, tokens, 0.5, kept_key, vocabulary=1)
    assert dweight.dtype == dtype
    assert same_bits(dweight, np.full((1, 2), 10000, np.float32).astype(dtype))


def test_embedding_refusals():
    for bad in (-1, WORDS):
        for call in (
            lambda t: fd.embedding_dropout(t, WEIGHT, 0.3, KEY),
            lambda t: fd.embedding_dropout_backward(np.ones((2, 7)), t, 0.3, KEY, vocabulary=WORDS),
        ):
            with pytest.raises(ValueError, match=rf"tokens must be in \[0, 300\).*got {bad}"):
                call([0, bad])
    with pytest.raises(TypeError, match="tokens must be integers, got float64"):
        fd.embedding_dropout([0.5], WEIGHT, 0.3, KEY)
    with pytest.raises(TypeError, match="tokens must be integers, got bool"):
        fd.embedding_dropout([True], WEIGHT, 0.3, KEY)
    with pytest.raises(
        ValueError, match=r"weight must have the shape \(vocabulary, features\), got \(300,\)"
    ):
        fd.embedding_dropout(TOKENS, WEIGHT[:, 0], 0.3, KEY)
    with pytest.raises(ValueError, match=r"out must have the result's shape \(9, 40, 7\), got \(2, 7\)"):
        fd.embedding_dropout(TOKENS, WEIGHT, 0.3, KEY, out=np.empty((2, 7), np.float32))
    with pytest.raises(ValueError, match=r"g must have the shape \(\*\(9, 40\), features\), got \(9, 7\)"):
        fd.embedding_dropout_backward(np.ones((9, 7)), TOKENS, 0.3, KEY, vocabulary=WORDS)
    with pytest.raises(ValueError, match="p must broadcast"):
        fd.embedding_dropout(TOKENS, WEIGHT, np.full(7, 0.5), KEY)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0, "by place"])
def test_tokens_are_where_of_dropouts_mask(dtype, p):
    p = np.linspace(0, 1, 40) if p == "by place" else p
    tokens = (TOKENS % 100).astype(dtype)
    stays = fd.keep_mask(tokens.shape, p, KEY) | np.isin(tokens, (0, 1, 2))
    expected = np.where(stays, tokens, dtype(99))
    options = {"replacement": 99, "protected": np.arange(3)}
    before = tokens.copy()
    assert same_bits(fd.token_dropout(frozen(tokens), p, KEY, **options), expected)
    assert same_bits(tokens, before)
    part = fd.token_dropout(tokens[3:5], p, KEY, window=((9, 40), (3, 0)), **options)
    assert same_bits(part, expected[3:5])
    assert fd.token_dropout(tokens, p, KEY, out=tokens, **options) is tokens
    assert same_bits(tokens, expected)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "swapped"])
def test_token_layouts(layout):
    tokens = LAYOUTS[layout](TOKENS)
    expected = np.where(fd.keep_mask(tokens.shape, 0.3, KEY), tokens, -1)
    assert np.array_equal(fd.token_dropout(frozen(tokens), 0.3, KEY, replacement=-1), expected)
    assert fd.token_dropout(tokens, 0.3, KEY, replacement=-1, out=tokens) is tokens
    assert np.array_equal(tokens, expected)


def test_the_other_byte_order():
    tokens = TOKENS.astype(">u2")
    y = fd.token_dropout(tokens, 0.3, KEY, replacement=7)
    assert y.dtype == tokens.dtype
    assert np.array_equal(y, fd.token_dropout(TOKENS, 0.3, KEY, replacement=7))


def test_the_rate_of_tokens_and_of_protected_ones():
    tokens = np.tile(np.arange(4, dtype=np.int16), 1 << 15)
    y = fd.token_dropout(tokens, 0.15, KEY, replacement=9, protected=[0])
    replaced = np.array([(y[tokens == token] == 9).sum() for token in range(4)])
    assert replaced[0] == 0
    deviations = (replaced - (1 << 15) * 0.15) / np.sqrt((1 << 15) * 0.15 * 0.85)
    assert (np.abs(deviations[1:]) < 5).all()
    assert abs(deviations[0]) > 5  # of what is protected the test says no


def test_indices_beyond_2_to_32():
    full = (1 << 33, 8)
    y = fd.token_dropout(np.zeros((4, 8), int), 0.5, KEY, replacement=1, window=(full, ((1 << 33) - 4, 0)))
    kept = fd.keep_mask((4, 8), 0.5, KEY, window=(full, ((1 << 33) - 4, 0)))
    assert np.array_equal(y == 0, kept)
    assert 0 < y.sum() < y.size


def test_token_refusals():
    with pytest.raises(TypeError, match="tokens must be integers, got float32"):
        fd.token_dropout(np.ones(3, np.float32), 0.3, KEY, replacement=1)
    with pytest.raises(TypeError, match="tokens must be integers, got bool"):
        fd.token_dropout(np.ones(3, bool), 0.3, KEY, replacement=1)
    with pytest.raises(TypeError, match="masked array"):
        fd.token_dropout(np.ma.array([1, 2]), 0.3, KEY, replacement=1)
    for bad in (256, -1):
        with pytest.raises(ValueError, match=rf"replacement must fit uint8, \[0, 255\], got {bad}"):
            fd.token_dropout(np.ones(3, np.uint8), 0.3, KEY, replacement=bad)
    with pytest.raises(TypeError, match="replacement must be an integer, got float"):
        fd.token_dropout([1], 0.3, KEY, replacement=1.0)
    with pytest.raises(TypeError, match=r"protected must be some ints, got 0; use \(0,\)"):
        fd.token_dropout([1], 0.3, KEY, replacement=1, protected=0)
    with pytest.raises(TypeError, match=r"protected must be some ints, got array\(0\)"):
        fd.token_dropout([1], 0.3, KEY, replacement=1, protected=np.array(0))
    with pytest.raises(TypeError, match="protected must be an integer, got float"):
        fd.token_dropout([1], 0.3, KEY, replacement=1, protected=(0.5,))
    with pytest.raises(ValueError, match="out must have the result's dtype int64, got int32"):
        fd.token_dropout([1, 2], 0.3, KEY, replacement=1, out=np.empty(2, np.int32))
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 2"):
        fd.token_dropout([1], 2, KEY, replacement=1)


def test_protected_tokens_that_the_dtype_lacks():
    tokens = np.arange(9, dtype=np.uint8)
    y = fd.token_dropout(tokens, 1.0, KEY, replacement=5, protected=(1, 256, -1))
    assert y.tolist() == [5, 1, 5, 5, 5, 5, 5, 5, 5]
