"""An independent oracle: stream version 1 from its description alone, in plain Python integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

WORD = 2**32


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 (Salmon et al. 2011), one block."""
    x, k = list(counter), list(key)
    for round_number in range(10):
        if round_number:
            k = [(k[0] + 0x9E3779B9) % WORD, (k[1] + 0xBB67AE85) % WORD]
        high0, low0 = divmod(0xD2511F53 * x[0], WORD)
        high1, low1 = divmod(0xCD9E8D57 * x[2], WORD)
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0]
    return x


def key_words(seed: int, draw: int) -> list[int]:
    high = draw % 2**63 // 2**48
    spawn = (high,) if high else ()
    return [int(w) for w in np.random.SeedSequence(seed, spawn_key=spawn).generate_state(2, np.uint32)]


def counter(number: int, domain: int, plane: int, draw: int) -> list[int]:
    """Philox's counter of a block."""
    middle = draw // WORD % 2**16
    return [number % WORD, number // WORD, domain * 2**24 + middle * 2**8 + plane, draw % WORD]


def uniform(index: int, seed: int, draw: int) -> int:
    """U(i): 32 binary digits, the most significant from plane 0."""
    tile, place = divmod(index, 1024)
    bit, rest = divmod(place, 32)
    word, block = divmod(rest, 8)
    number = 8 * tile + block
    total = 0
    for plane in range(32):
        words = philox(counter(number, 0, plane, draw), key_words(seed, draw))
        total = 2 * total + (words[word] // 2**bit) % 2
    return WORD - 1 - total if draw >= 2**63 else total


def threshold(p: float) -> int:
    """Round half to even of the exact p * 2**32."""
    return round(Fraction(p) * WORD)


def kept(index: int, p: float, seed: int, draw: int) -> bool:
    return uniform(index, seed, draw) >= threshold(p)


def painted(seeds: np.ndarray, shape: tuple[int, ...], height: int, width: int) -> np.ndarray:
    """A mask of images (n, c, h, w) with a block painted from each seed on."""
    mask = np.ones(shape)
    for i, j, y, x in zip(*np.nonzero(seeds), strict=True):
        mask[i, j, y : y + height, x : x + width] = 0
    return mask


def normal(index: int, seed: int, draw: int, bits: int) -> float:
    """Element `index` of the standard normals, from words of 32 bits or from 64."""
    group, place = divmod(index, 32)
    word, block = divmod(place, 8)
    number, pair = 8 * group + block, word // 2 * 2
    high, low = (philox(counter(number, 1, plane, draw), key_words(seed, draw)) for plane in (0, 1))
    radius, angle = (high[i] if bits == 32 else high[i] * WORD + low[i] for i in (pair, pair + 1))
    u = Fraction(2 * radius + 1, 2 ** (bits + 1))
    minus_log = -math.log(u) if u < Fraction(1, 2) else -math.log1p(-float(1 - u))
    turn = float(Fraction(angle, 2**bits)) * 2 * math.pi
    z = math.sqrt(2 * minus_log) * (math.cos(turn) if word % 2 == 0 else math.sin(turn))
    return -z if draw >= 2**63 else z


def logistic(index: int, seed: int, draw: int, bits: int) -> float:
    """Element `index` of the standard logistic noise, from a word of 32 bits or from 64."""
    group, place = divmod(index, 32)
    word, block = divmod(place, 8)
    number = 8 * group + block
    high, low = (philox(counter(number, 2, plane, draw), key_words(seed, draw))[word] for plane in (0, 1))
    u = Fraction(2 * (high if bits == 32 else high * WORD + low) + 1, 2 ** (bits + 1))
    u = 1 - u if draw >= 2**63 else u
    return (
        math.log(u / (1 - u)) if abs(2 * u - 1) > Fraction(1, 2) else math.log1p(float((2 * u - 1) / (1 - u)))
    )
