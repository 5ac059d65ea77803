"""The generator Philox4x32-10, and the step that decides by one more digit which elements are dropped.

Both use operators and `word_times` only, so that the same lines serve NumPy uint64 arrays (the reference),
one lane (CUDA) and vectors of eight lanes (the CPU). `fastdrop._stream.keys` says how counters are packed.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload, register_jitable

MULTIPLIER_0 = np.uint64(0xD2511F53)
MULTIPLIER_1 = np.uint64(0xCD9E8D57)
# The words of the key grow by a constant before each round; these are its multiples for rounds 2 to 10.
WEYL_0 = tuple(np.uint64(n * 0x9E3779B9) for n in range(1, 10))
WEYL_1 = tuple(np.uint64(n * 0xBB67AE85) for n in range(1, 10))
LOW_HALF = np.uint64(0xFFFFFFFF)
HALF_WIDTH = np.uint64(32)


def word_times(c, multiplier):
    """Return the product of the word in the low half of c and one of the multipliers, of 64 bits."""
    return (c & LOW_HALF) * multiplier


@overload(word_times, jit_options={"forceinline": True})
def _compiled_word_times(c, multiplier):
    own = getattr(c, "word_times", None)  # which lanes have
    if own is not None:
        return lambda c, multiplier: own(c, multiplier)
    return lambda c, multiplier: (c & LOW_HALF) * multiplier


@register_jitable(forceinline=True)
def _round(c, k0, k1):
    p0, p1 = word_times(c[0], MULTIPLIER_0), word_times(c[2], MULTIPLIER_1)
    return (p1 >> HALF_WIDTH) ^ c[1] ^ k0, p1, (p0 >> HALF_WIDTH) ^ c[3] ^ k1, p0


def philox4x32(c0, c1, c2, c3, k0, k1):
    """Return the four words of Philox4x32-10 for a counter and a key.

    All six arguments are 64 bits wide and hold a word in the low half. The results hold rubbish in the
    high half. The multiplication reads the low half only, so the caller masks them once, at the end.
    The rounds are written out, because LLVM does not unroll a loop over them where vectors are short, and
    the loop takes twice the time.
    """
    c = _round((c0, c1, c2, c3), k0, k1)
    c = _round(c, k0 + WEYL_0[0], k1 + WEYL_1[0])
    c = _round(c, k0 + WEYL_0[1], k1 + WEYL_1[1])
    c = _round(c, k0 + WEYL_0[2], k1 + WEYL_1[2])
    c = _round(c, k0 + WEYL_0[3], k1 + WEYL_1[3])
    c = _round(c, k0 + WEYL_0[4], k1 + WEYL_1[4])
    c = _round(c, k0 + WEYL_0[5], k1 + WEYL_1[5])
    c = _round(c, k0 + WEYL_0[6], k1 + WEYL_1[6])
    c = _round(c, k0 + WEYL_0[7], k1 + WEYL_1[7])
    return _round(c, k0 + WEYL_0[8], k1 + WEYL_1[8])


def compare_digit(dropped, undecided, digits, flip):
    """Return the sets `dropped` and `undecided` after the next digit of U(i) and T was compared.

    `digits` holds that digit of U for each element. `flip` is all ones if the digit of T is 0, and 0 if it
    is 1. Where the two digits differ the element is decided: U(i) is smaller if T has the 1.
    """
    equal = digits ^ flip
    return dropped | (undecided & ~(equal | flip)), undecided & equal
