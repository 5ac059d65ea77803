import copy
import hashlib
import pickle

import naive
import numpy as np
import pytest

from fastdrop import Key
from fastdrop._stream.keys import as_key, signed, stream


def words(key):
    philox_key, draw = stream(key)
    return philox_key % 2**64, draw


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32, 2**64 + 3, 2**200])
@pytest.mark.parametrize("draw", [0, 1, 2**32 - 1, 2**32, 2**48 - 1, 2**48 + 5, 2**63 - 1, 2**63, 2**64 - 1])
def test_packing_is_the_oracles(seed, draw):
    low, high = naive.key_words(seed, draw)
    assert words(Key(seed, draw)) == (low | high << 32, draw % 2**48 | draw // 2**63 << 48)


def test_packing_is_pinned():
    """Published vectors: a change to these is a new stream version and a line in the changelog."""
    assert words(Key(0)) == (0xDB2CD7E7B0F478BE, 0)
    assert words(Key(42)) == words(42) == (0x9F1E2E6DCD540AB7, 0)
    assert words(Key(42, 2**32 + 1)) == (0x9F1E2E6DCD540AB7, 2**32 + 1)
    assert words(Key(42, 2**48 + 1)) == (0x01DCB763F3E63CBA, 1)
    assert words(Key(0).fold_in(7)) == (0xE521A0BFF04FC0E4, 0)


def test_key_is_a_value():
    key = Key(42, 3)
    assert key == Key(42, 3) == Key(np.int64(42), np.uint8(3))
    assert hash(key) == hash(Key(42, 3))
    assert key != Key(42) != Key(43)
    assert key != 42
    assert eval(repr(key)) == key == eval(repr(Key(42, draw=3)))
    assert repr(Key(42)) == "Key(42)"


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda k: pickle.loads(pickle.dumps(k))])
def test_key_survives_copies(remake):
    assert remake(Key(2**70, 2**33)) == Key(2**70, 2**33)


def test_key_is_immutable():
    key = Key(1)
    with pytest.raises(AttributeError, match="immutable"):
        key.seed = 2
    with pytest.raises(AttributeError, match="immutable"):
        del key.draw
    assert key == Key(1)


def test_next_counts_draws():
    assert Key(5).next() == Key(5, 1)
    assert Key(5, 2**32 - 1).next() == Key(5, 2**32)
    assert Key(5).antithetic().next() == Key(5, 1).antithetic()
    for last in (Key(5, 2**63 - 1), Key(5, 2**64 - 1)):
        with pytest.raises(ValueError, match=r"draw must be in \[0, 9223372036854775808\)"):
            last.next()


def test_antithetic_keys():
    key = Key(42, 3)
    mirrored = key.antithetic()
    assert mirrored == Key(42, 3 + 2**63) != key == mirrored.antithetic()
    assert mirrored.fold_in(7) == key.fold_in(7).antithetic()
    assert repr(mirrored) == "Key(42, draw=3).antithetic()"
    assert eval(repr(mirrored)) == mirrored == pickle.loads(pickle.dumps(mirrored))


def test_fold_in_gives_distinct_keys():
    keys = [Key(0), Key(1), Key(0, 1), Key(0, 2**32), Key(0, 1).fold_in(0)]
    keys += [Key(0).fold_in(n) for n in range(1000)] + [Key(0).fold_in(1).fold_in(n) for n in range(1000)]
    assert len({words(key) for key in keys}) == len(keys)
    assert Key(0).fold_in(7) == Key(0).fold_in(np.int32(7))


TEXTS = ["", "encoder.layer.0", "Größe", "x" * 1000]


def test_texts_are_pinned():
    """Published vectors: a change to these is a new stream version and a line in the changelog."""
    assert words(Key(0).fold_in("")) == (0x5801D4457A68AF16, 0)
    assert words(Key(0).fold_in("encoder.layer.0")) == (0x239E7ACBD2C036E0, 0)
    assert words(Key(0).fold_in("Größe")) == (0x89C9D8090C54C4B3, 0)
    assert words(Key(0).fold_in("x" * 1000)) == (0xCCED2D9BF2426F1A, 0)
    assert Key(42, 3).fold_in("encoder.layer.0") == Key(3294000756395072289)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_the_number_that_its_digest_begins_with(text):
    number = 0
    for place, byte in enumerate(hashlib.sha256(text.encode("utf-8")).digest()[:16]):
        number += byte << 8 * place
    for key in (Key(0), Key(2**70, 2**40 + 3), Key(5).antithetic()):
        assert key.fold_in(text) == key.fold_in(number)


def test_texts_are_taken_as_they_are_written():
    """Neither case nor Unicode's forms of one letter are made alike; subclasses of str are texts."""
    texts = ["a", "A", "a ", "a\0", "\u00e9", "e\u0301", "0", "1"]
    folded = {Key(0).fold_in(text) for text in texts} | {Key(0).fold_in(n) for n in range(2)}
    assert len(folded) == len(texts) + 2
    assert Key(0).fold_in(np.str_("a")) == Key(0).fold_in("a")
    with pytest.raises(ValueError, match="surrogates not allowed"):
        Key(0).fold_in("\ud800")


def test_split_is_pinned():
    assert Key(42).split(2) == (Key(12595494931953878500), Key(11785763460107675537))
    assert Key(42).split(0) == ()
    assert Key(42).split(np.int8(1)) == Key(42).split(5)[:1]


def test_split_keys_keep_the_draw_and_the_mirror():
    assert Key(42, 1).split(1) != Key(42).split(1)
    assert Key(42, 3).antithetic().split(2) == tuple(k.antithetic() for k in Key(42, 3).split(2))


@pytest.mark.parametrize("bad", [1.5, "2", None])
def test_split_refuses_other_types(bad):
    with pytest.raises(TypeError, match="n must be an integer, got"):
        Key(1).split(bad)
    with pytest.raises(ValueError, match="n must be >= 0, got -1"):
        Key(1).split(-1)


def test_keys_from_entropy_differ_and_say_their_seed():
    keys = [Key.from_entropy() for _ in range(100)]
    assert len(set(keys)) == 100
    assert max(key.seed for key in keys) >= 1 << 63
    assert all(Key(key.seed) == key == eval(repr(key)) for key in keys)


def test_key_of_a_key_says_what_to_write():
    with pytest.raises(TypeError, match=r"got Key Key\(1\); use the key as it is, or key\.seed$"):
        Key(Key(1))


@pytest.mark.parametrize("bad", [1.5, b"a", None, [1]])
def test_key_refuses_other_types(bad):
    with pytest.raises(TypeError, match="seed must be an integer, got"):
        Key(bad)
    with pytest.raises(TypeError, match="draw must be an integer, got"):
        Key(1, bad)
    with pytest.raises(TypeError, match="data must be an integer or a str, got"):
        Key(1).fold_in(bad)


@pytest.mark.parametrize("make", [lambda: Key(-1), lambda: Key(1, -1), lambda: Key(1).fold_in(-1)])
def test_key_refuses_negative_numbers(make):
    with pytest.raises(ValueError, match="got -1"):
        make()


def test_rng_takes_what_spec_7_says():
    assert as_key(7) == Key(7)
    assert as_key(np.uint32(7)) == Key(7)
    assert as_key(Key(7, 2)) == Key(7, 2)
    assert as_key(None) != as_key(None)
    assert as_key(np.random.SeedSequence(7)) == as_key(np.random.SeedSequence(7))
    children = np.random.SeedSequence(7).spawn(2)
    assert as_key(children[0]) != as_key(children[1])
    assert as_key(np.random.default_rng(7)) == as_key(np.random.default_rng(7))
    generator = np.random.default_rng(7)
    assert as_key(generator) != as_key(generator)


@pytest.mark.parametrize("bad", [1.5, "a", True, np.random.RandomState(0), [1]])
def test_rng_refuses_other_types(bad):
    with pytest.raises(TypeError, match=f"rng must be None, an int, .* got {type(bad).__name__}"):
        as_key(bad)


def test_signed_keeps_the_bits():
    for word in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        assert signed(word) % 2**64 == word
        assert -(2**63) <= signed(word) < 2**63
