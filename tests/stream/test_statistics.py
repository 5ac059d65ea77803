"""Masks are what they claim to be, statistically; and each test rejects a wrong generator.

Thresholds: |Z| < 5 for normal scores, p > 1e-6 for others; all seeds are fixed.
"""

import numpy as np
import pytest
from normal_battery import Battery
from scipy import stats

import fastdrop as fd

N = 2**22
RATES = [1e-3, 0.1, 0.25, 0.3, 0.5, 0.9, 0.999]


def good(p, size=N, seed=1, draw=0):
    return fd.keep_mask(size, p, fd.Key(seed, draw))


def z_of_count(count, n, q):
    return (count - n * q) / np.sqrt(n * q * (1 - q))


def keep_rate(mask, p):
    return abs(z_of_count(mask.sum(), mask.size, 1 - p)) < 5


def columns(mask, p, width=1024):
    """Each place of a tile is kept as often as any other."""
    rows = mask.reshape(-1, width)
    scores = z_of_count(rows.sum(0), len(rows), 1 - p)
    return stats.chi2.sf((scores**2).sum(), width) > 1e-6 and stats.chi2.cdf((scores**2).sum(), width) > 1e-6


def dispersion(mask, p, block=64):
    """Counts in blocks vary as binomial ones do."""
    scores = z_of_count(mask.reshape(-1, block).sum(1), block, 1 - p)
    return abs((scores**2).sum() - scores.size) / np.sqrt(scores.size * (2 + kurtosis(block, p))) < 5


def kurtosis(n, p):
    """Excess kurtosis of a binomial count."""
    return (1 - 6 * p * (1 - p)) / (n * p * (1 - p))


def agreements(a, b, p):
    return abs(z_of_count((a == b).sum(), a.size, p * p + (1 - p) ** 2)) < 5


def lag(mask, p, by):
    return agreements(mask[by:], mask[:-by], p)


def tuples(mask, m):
    """All 2**m patterns of m neighbours are equally frequent at p = 1/2."""
    words = mask[: mask.size // m * m].reshape(-1, m) @ (1 << np.arange(m))
    return 1e-6 < stats.chisquare(np.bincount(words, minlength=2**m)).pvalue < 1 - 1e-6


def gaps(mask, p):
    """Lengths between dropped elements are geometric."""
    lengths = np.diff(np.flatnonzero(~mask))
    top = int(min(np.log(50 / lengths.size) / np.log(1 - p), 4000)) if p < 1 else 1
    probability = np.append(stats.geom.pmf(np.arange(1, top), p), stats.geom.sf(top - 1, p))
    observed = np.bincount(np.minimum(lengths, top), minlength=top + 1)[1:]
    return 1e-6 < stats.chisquare(observed, probability * lengths.size).pvalue < 1 - 1e-6


@pytest.mark.parametrize("p", RATES)
def test_keep_rate(p):
    assert keep_rate(good(p), p)
    assert not keep_rate(good(p * 0.97 + 0.001), p)


@pytest.mark.parametrize("p", RATES)
def test_values_are_zero_or_scaled(p):
    y = fd.dropout(np.full(10**5, 3, np.float32), p, 1)
    assert set(np.unique(y)) == {
        np.float32(0),
        np.float32(3) * np.float32(2**32 / (2**32 - round(p * 2**32))),
    }


@pytest.mark.parametrize("p", RATES)
def test_columns(p):
    mask = good(p)
    assert columns(mask, p)
    mask.reshape(-1, 1024)[:, 77] = p >= 0.5  # one place in a tile is stuck
    assert not columns(mask, p)


@pytest.mark.parametrize("block", [64, 1024])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_dispersion(p, block):
    assert dispersion(good(p), p, block)
    regular = np.arange(N) % 1000 >= 1000 * p  # the right rate, evenly spread
    assert not dispersion(regular, p, block)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_serial_correlation(p):
    mask = good(p)
    chunk = N // 2
    lags = [*range(1, 65), 128, 256, 784, 1023, 1024, 1025, 2**13, 2**16, 2**20, chunk - 1, chunk, chunk + 1]
    for by in lags:
        assert lag(mask, p, by), by
        echo = mask.copy()
        np.copyto(echo[by:], mask[:-by], where=good(0.95, N - by, seed=9))  # one in twenty repeats
        assert not lag(echo, p, by), by


@pytest.mark.parametrize("m", range(1, 9))
def test_tuples(m):
    mask = good(0.5)
    assert tuples(mask, m)
    sticky = mask | (np.roll(mask, 1) & good(0.99, seed=9))
    assert not tuples(sticky, m)


@pytest.mark.parametrize("p", [1e-3, 0.1, 0.5, 0.9])
def test_gaps(p):
    mask = good(p)
    assert gaps(mask, p)
    assert not gaps(np.arange(N) % 1000 >= max(1, 1000 * p), p)
    assert not gaps(good(min(p * 1.2, 0.97)), p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_runs(p):
    """The number of runs, given how many are kept (Wald and Wolfowitz)."""

    def fair(mask):
        kept, dropped = int(mask.sum()), int((~mask).sum())
        mean = 2 * kept * dropped / N + 1
        variance = (mean - 1) * (mean - 2) / (N - 1)
        return abs((mask[1:] != mask[:-1]).sum() + 1 - mean) / np.sqrt(variance) < 5

    assert fair(good(p))
    assert not fair(np.repeat(good(p, N // 2), 2))


PAIRS = {
    "consecutive draws": (fd.Key(1), fd.Key(1, 1)),
    "consecutive seeds": (fd.Key(1), fd.Key(2)),
    "draws across 32 bits": (fd.Key(1, 2**32 - 1), fd.Key(1, 2**32)),
    "draws 2**32 apart": (fd.Key(1), fd.Key(1, 2**32)),
    "folded": (fd.Key(1), fd.Key(1).fold_in(0)),
    "folded with neighbours": (fd.Key(1).fold_in(0), fd.Key(1).fold_in(1)),
    "folded draws": (fd.Key(1, 1).fold_in(0), fd.Key(1, 2).fold_in(0)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_keys_are_independent(pair, p):
    a, b = (fd.keep_mask(N, p, key) for key in PAIRS[pair])
    assert agreements(a, b, p)
    for shift in (1, 8, 32, 1024):
        assert agreements(a[shift:], b[:-shift], p)
    mixed = np.where(good(0.95, seed=9), a, b)  # one element in twenty shared
    assert not agreements(a, mixed, p)


def test_layers_with_fresh_keys_are_independent():
    a, b = (
        fd.Dropout(0.5, rng=seed)(np.ones(N, np.float32)) != 0 for seed in np.random.SeedSequence(5).spawn(2)
    )
    assert agreements(a, b, 0.5)


def test_what_keras_asserts():
    y = fd.dropout(np.ones((20, 500)), 0.5, 1337)
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert y.max() == 2.0
    assert (fd.dropout(np.ones((20, 500)), 1, 1337) == 0).all()


@pytest.mark.parametrize("p", np.arange(1, 10) / 10)
def test_what_flax_asserts(p):
    kept = (fd.dropout(np.ones((1000, 1000), np.float32), p, 0) != 0).mean()
    assert abs(kept - (1 - p)) < 4 * np.sqrt(p * (1 - p) / 10**6)
    assert not np.isnan(fd.dropout_backward(np.ones(10), 1.0, 0)).any()


def test_uniforms_are_uniform():
    """The words that masks are decided from, through the reference."""
    from fastdrop._stream import reference

    u = reference.uniforms(np.arange(2**18, dtype=np.uint64), fd.Key(3)) / 2**32
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    assert stats.kstest(u**1.05, "uniform").pvalue < 1e-6


def battery_of(change, size=10**7 // 32 * 32):
    """The battery's rejections after normals were changed, chunk by chunk."""
    battery = Battery()
    for first in range(0, size, 2**20):
        part = min(2**20, size - first)
        battery.add(change(fd.normal(part, fd.Key(1), dtype=np.float32, window=((size,), (first,)))))
    return battery.failures()


def test_normals_pass_the_battery():
    assert battery_of(lambda z: z) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "test"),
    [
        (lambda z: z * 1.003, "moment 2"),
        (lambda z: z + 0.003, "KS"),
        (lambda z: z + 0.003, "Anderson-Darling"),
        (lambda z: np.round(z, 1), "chi-square"),
        (lambda z: np.clip(z, -3.9, 3.9), "beyond 4"),
        (lambda z: np.where(np.arange(z.size) % 10**5 == 0, 5.2, z), "beyond 5"),
        (lambda z: np.where(np.arange(z.size) % 400 == 0, 4.5, z), "beyond 4"),
        (lambda z: z + 0.003 * np.roll(z, 8), "values 8 apart"),
        (lambda z: z * (1 + 0.003 * np.roll(z, 8) ** 2), "squares 8 apart"),
        (lambda z: z + 0.002 * (z**2 - 1), "moment 3"),
        (lambda z: np.sign(z) * np.abs(z) ** 1.003, "moment 4"),
    ],
)
def test_the_battery_rejects(change, test):
    assert test in battery_of(change)


def test_normals_with_24_bit_radii_would_miss_the_tail():
    """Their largest is 5.89."""
    far = fd.normal(1, fd.Key(1), dtype=np.float32, window=((10**7,), (6_671_673,)))
    assert abs(far[0]) == pytest.approx(6.0352855)
    assert np.sqrt(-2 * np.log(0.5 / 2**24)) < 5.9
