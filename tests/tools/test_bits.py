"""What `python -m fastdrop stream` writes."""

import io
import subprocess
import sys

import naive
import numpy as np
import pytest

import fastdrop as fd
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
    [("draw", lambda n: fd.Key(42, 3 + n)), ("seed", lambda n: fd.Key(42 + n, 3)), ("fold", KEY.fold_in)],
)
def test_consecutive_keys_and_words_in_turn(vary, nth):
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
