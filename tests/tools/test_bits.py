"""What `python -m fastdrop stream` writes."""

import io
import subprocess
import sys

import naive
import numpy as np
import pytest

import fastdrop as fd
from fastdrop._cpu import words
from fastdrop._stream.keys import stream
from fastdrop._tools import bits
from fastdrop._tools.cli import main

KEY = fd.Key(42, 3)


def written(limit, *settings):
    out = io.BytesIO()
    bits.write(out, limit, *settings)
    return out.getvalue()


def test_words_are_philox_s_in_the_order_of_blocks():
    low, high = naive.key_words(42, 3)
    expected = [naive.philox([block, 0, 0, 3], [low, high]) for block in range(2**14, 2**14 + 30)]
    found = bits.word_bytes(KEY, 2**16, 120)
    assert np.array_equal(found.view("<u4").reshape(-1, 4), expected)


@pytest.mark.parametrize("interleave", [1, 3])
@pytest.mark.parametrize("vary", bits.VARY)
@pytest.mark.parametrize("p", [None, 0.5, 0.1, 0.7])
def test_the_kernels_and_the_reference_write_the_same(p, vary, interleave):
    settings = KEY, p, vary, 1 << 10, interleave
    assert written(1000, *settings) == written(1000, *settings, True)


@pytest.mark.parametrize(("first", "size"), [(0, 32), (0, 1), (5, 100), (31, 2), (64, 0), (2**40 + 3, 77)])
def test_words_from_anywhere(first, size):
    key = stream(KEY)
    whole = words.words(first // 4 * 4, size + 4, *key)
    assert np.array_equal(words.words(first, size, *key), whole[first % 4 :][:size])
    expected = bits.word_bytes(KEY, first // 4 * 4, 40, slow=True).view("<u4")
    assert np.array_equal(words.words(first // 4 * 4, 40, *key), expected)


def test_each_choice_of_pairs_is_von_neumann_s():
    pairs = np.array([[number >> bit & 1 for bit in range(8)] for number in range(256)], bool)
    kept = np.repeat(pairs, 8, axis=0).reshape(-1)
    first = kept.reshape(-1, 2)
    first = first[first[:, 0] != first[:, 1], 0]
    assert np.array_equal(words.unbiased(kept), np.packbits(first[: first.size // 32 * 32]))


@pytest.mark.parametrize("size", [64, 1 << 16])
def test_parts_of_one_key_follow_each_other(size):
    for p in (None, 0.5):
        assert written(50_001, KEY, p, "window", size, 1) == written(50_001, KEY, p, "window", 1 << 17, 1)


def test_a_mask_s_bits_are_the_mask():
    bits = np.frombuffer(written(1000, KEY, 0.5, "window", 4096, 1), np.uint8)
    expected = fd.keep_mask(8000, 0.5, KEY, packed=True, window=((2**40,), (0,)))
    assert np.array_equal(bits, expected)


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_other_rates_give_equally_probable_bits(p):
    bits = np.unpackbits(np.frombuffer(written(1 << 18, KEY, p, "window", 1 << 20, 1), np.uint8))
    assert abs(bits.sum() - bits.size / 2) < 5 * np.sqrt(bits.size / 4)
    pairs = fd.keep_mask(200, p, KEY).reshape(-1, 2)
    expected = [first for first, second in pairs if first != second]
    assert np.array_equal(bits[: len(expected)], expected)


@pytest.mark.parametrize(
    ("vary", "nth"),
    [
        ("draw", lambda n: fd.Key(42, 3 + n)),
        ("seed", lambda n: fd.Key(42 + n, 3)),
        ("fold", KEY.fold_in),
        ("name", lambda n: KEY.fold_in(f"layer.{n}")),
        ("split", lambda n: KEY.fold_in(n // 4).split(4)[n % 4]),
    ],
)
def test_consecutive_keys_and_words_in_turn(vary, nth, monkeypatch):
    monkeypatch.setattr(bits, "SPLIT", 4)
    expected = [bits.word_bytes(nth(n), 0, 64).view("<u4") for n in range(6)]
    found = np.frombuffer(written(6 * 256, KEY, None, vary, 64, 1), "<u4")
    assert np.array_equal(found, np.concatenate(expected))
    found = np.frombuffer(written(6 * 256, KEY, None, vary, 64, 3), "<u4")
    in_turn = [np.stack(expected[n : n + 3], axis=1).ravel() for n in (0, 3)]
    assert np.array_equal(found, np.concatenate(in_turn))


def test_the_command_ends_when_nobody_reads_or_enough_is_written():
    command = [sys.executable, "-m", "fastdrop", "stream", "--p", "0.5", "--seed", "42", "--draw", "3"]
    done = subprocess.run([*command, "--bytes", "2^10"], capture_output=True, check=True, timeout=120)
    assert done.stdout == written(1024, KEY, 0.5, "window", 1 << 20, 1)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1024) == done.stdout
        process.stdout.close()
        assert process.wait(120) is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "options", [["--size", "100"], ["--p", "0"], ["--p", "1"], ["--vary", "x"], ["--bytes", "0"]]
)
def test_bad_options_end_with_the_usage(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["stream", *options])
    assert ended.value.code == 2
    assert "usage: python -m fastdrop" in capsys.readouterr().err
