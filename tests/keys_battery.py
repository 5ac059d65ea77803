"""P-values over many keys, which must be uniform themselves: `python tests/keys_battery.py 200 2^22`.

Each test gives one p-value for a key's numbers, which the kernels draw. Those of all keys go into one of
Kolmogorov and Smirnov, which also sees what no single p-value shows: numbers that are more even than random
ones are, and keys that resemble each other.
"""

import sys

import numpy as np
from scipy import special, stats

import fastdrop as fd

# What is drawn under a key, so many at a time.
DRAWS = {
    "p = 0.5": lambda size, key: fd.keep_mask(size, 0.5, key),
    "p = 0.1": lambda size, key: fd.keep_mask(size, 0.1, key),
    "normals": lambda size, key: special.ndtr(fd.normal(size, key, dtype=np.float32).astype(np.float64)),
    "logistics": lambda size, key: uniforms_of_masks(size, key),
}
KEYS = {
    "seeds": lambda n: [fd.Key(seed) for seed in range(n)],
    "draws": lambda n: [fd.Key(1, draw) for draw in range(n)],
    "split": lambda n: fd.Key(1).split(n),
}


def uniforms_of_masks(size, key):
    """The uniform numbers of concrete masks at rate 1/2 and temperature 1: half a mask is one of them."""
    return fd.concrete_dropout(np.full(size, 0.5), 0.0, key, temperature=1.0)


def of_score(score):
    """The p-value of what is normal with mean 0 and variance 1."""
    return special.ndtr(score)


def count(mask, p):
    return of_score((mask.sum() - mask.size * (1 - p)) / np.sqrt(mask.size * p * (1 - p)))


def neighbours(mask, p, lag=1):
    """How often elements so far apart are both kept."""
    both = (mask[lag:] & mask[:-lag]).sum() - (1 - p) * (mask[lag:].sum() + mask[:-lag].sum())
    n = mask.size - lag
    return of_score((both + n * (1 - p) ** 2) / (np.sqrt(n) * p * (1 - p)))


def patterns(mask, p):
    """Of eight neighbours, by the number of those kept."""
    kept = np.bincount(mask.reshape(-1, 8).sum(1), minlength=9)
    return cells(kept, stats.binom.pmf(np.arange(9), 8, 1 - p))


def cells(found, probabilities):
    """Pearson's chi-square, of cells that are merged until five are expected in each."""
    expected, edges = probabilities * found.sum(), [0]
    for k in range(len(expected)):
        if expected[edges[-1] : k + 1].sum() >= 5 and expected[k + 1 :].sum() >= 5:
            edges.append(k + 1)
    found, expected = (np.add.reduceat(counts, edges) for counts in (found, expected))
    return stats.chisquare(found, expected * (found.sum() / expected.sum())).pvalue


def bytes_of(mask, p):
    return stats.chisquare(np.bincount(np.packbits(mask), minlength=256)).pvalue


def even(u, p):
    return stats.chisquare(np.histogram(u, 256, (0, 1))[0]).pvalue


def apart(u, p, lag=1):
    return of_score((12 * (u[lag:] - 0.5) * (u[:-lag] - 0.5)).sum() / np.sqrt(u.size - lag))


def smooth(u, p):
    return stats.kstest(u, "uniform").pvalue


MASKS = {
    "kept": count,
    "neighbours": neighbours,
    "8 apart": lambda mask, p: neighbours(mask, p, 8),
    "1,024 apart": lambda mask, p: neighbours(mask, p, 1024),
    "eights": patterns,
}
UNIFORMS = {
    "256 cells": even,
    "Kolmogorov and Smirnov": smooth,
    "neighbours": apart,
    "8 apart": lambda u, p: apart(u, p, 8),
}
TESTS = {
    "p = 0.5": (MASKS | {"bytes": bytes_of}, 0.5),
    "p = 0.1": (MASKS, 0.1),
    "normals": (UNIFORMS, None),
    "logistics": (UNIFORMS, None),
}


def p_values(draws, keys, size, draw=None):
    """The p-values of each test on what is drawn, key by key; `draw` takes the place of the kernels'."""
    tests, p = TESTS[draws]
    found = {name: [] for name in tests}
    for key in keys:
        drawn = (draw or DRAWS[draws])(size, key)
        for name, test in tests.items():
            found[name].append(test(drawn, p))
    return found


def uniform(values):
    """The p-value of p-values."""
    return stats.kstest(values, "uniform").pvalue


def main():
    from fastdrop._tools.cli import _whole

    number, size = map(_whole, sys.argv[1:3])
    print(
        "| keys | drawn | test | smallest p | largest p | uniform |", "|---|---|---|---:|---:|---:|", sep="\n"
    )
    for kind, make in KEYS.items():
        for draws in TESTS:
            for name, values in p_values(draws, make(number), size).items():
                row = f"{min(values):.5f} | {max(values):.4f} | {uniform(values):.4f}"
                print(f"| {kind} | {draws} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
