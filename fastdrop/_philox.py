"""The generator and the digit-by-digit decision of stream version 1, written once and generic.

Only operators are used, so that the same lines serve NumPy uint64 arrays (the reference), Numba
scalars (CUDA) and vectors of eight lanes (the CPU). `fastdrop.random` says how counters are packed.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 10
MULTIPLIER_0 = np.uint64(0xD2511F53)
MULTIPLIER_1 = np.uint64(0xCD9E8D57)
WEYL_0 = np.uint64(0x9E3779B9)
WEYL_1 = np.uint64(0xBB67AE85)
LOW_HALF = np.uint64(0xFFFFFFFF)
HALF_WIDTH = np.uint64(32)


def philox4x32(c0, c1, c2, c3, k0, k1):
    """Return the four words of Philox4x32-10 for a counter and a key.

    All six are 64 bits wide and hold a word in the low half. What comes back holds rubbish in the
    high half: the multiplication reads the low half only, so masking once at the end is enough.
    """
    for _ in range(ROUNDS):
        p0 = (c0 & LOW_HALF) * MULTIPLIER_0
        p1 = (c2 & LOW_HALF) * MULTIPLIER_1
        c0, c1, c2, c3 = (p1 >> HALF_WIDTH) ^ c1 ^ k0, p1, (p0 >> HALF_WIDTH) ^ c3 ^ k1, p0
        k0 = k0 + WEYL_0
        k1 = k1 + WEYL_1
    return c0, c1, c2, c3


def compare_digit(dropped, undecided, digits, flip):
    """Return the sets `dropped` and `undecided` after one more digit of U(i) < T.

    `digits` holds that digit of U for each element; `flip` is all ones where the digit of T is 0,
    and 0 where it is 1. Unequal digits decide: U is smaller where T has the 1.
    """
    equal = digits ^ flip
    return dropped | (undecided & ~(equal | flip)), undecided & equal
