"""The generator's published answers, in each of the forms that share its one definition."""

import naive
import numpy as np
import pytest
from numba import njit

from fastdrop._stream import philox

# counter, key, output: Random123's known-answer vectors for Philox4x32-10
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_on_arrays(counter, key, expected):
    words = philox.philox4x32(*(np.full(3, w, np.uint64) for w in counter + key))
    assert [[int(w) & 0xFFFFFFFF for w in word] for word in words] == [[w] * 3 for w in expected]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_as_compiled_scalars(counter, key, expected):
    words = njit(philox.philox4x32)(*(np.uint64(w) for w in counter + key))
    assert all(type(w) is int for w in words)  # a float would be a typing accident
    assert [w & 0xFFFFFFFF for w in words] == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_of_the_oracle(counter, key, expected):
    assert naive.philox(counter, key) == expected


@pytest.mark.parametrize("digit_of_t", [0, 1])
@pytest.mark.parametrize("digit_of_u", [0, 1])
@pytest.mark.parametrize("was_undecided", [0, 1])
def test_compare_digit_is_long_division(digit_of_t, digit_of_u, was_undecided):
    dropped, undecided = philox.compare_digit(
        np.array([0], np.uint32),
        np.array([was_undecided], np.uint32),
        np.array([digit_of_u], np.uint32),
        np.uint32(0 if digit_of_t else 0xFFFFFFFF),
    )
    assert dropped[0] & 1 == (was_undecided and digit_of_u < digit_of_t)
    assert undecided[0] & 1 == (was_undecided and digit_of_u == digit_of_t)
