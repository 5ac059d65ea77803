"""A battery for standard normals that takes them chunk by chunk: `python tests/normal_battery.py 10^10`."""

import math
import sys

import numba
import numpy as np
from scipy import special, stats

CELLS = 2**20  # of equal probability, for KS and Anderson-Darling
MERGED = 2**12  # of them for chi-square
TAILS = 3, 4, 5, 5.5, 6, 6.2
LAGS = 1, 8, 16, 32  # 8 apart in a group of 32 are cosine and sine of one radius
MOMENTS = (0, 1), (1, 2), (0, 15), (3, 96)  # mean and variance of the first four powers


@numba.njit(nogil=True)
def count(z, cells, tails, beyond, lags, values, squares, powers):
    """Add what a chunk has in each cell, beyond each tail, and in sums of powers and of products."""
    largest = 0.0
    for i in range(z.size):
        v = np.float64(z[i])
        cells[min(int(0.5 * math.erfc(-v * math.sqrt(0.5)) * cells.size), cells.size - 1)] += 1
        size = abs(v)
        largest = max(largest, size)
        if size > tails[0]:
            for k in range(tails.size):
                beyond[k] += size > tails[k]
        square = v * v
        powers[0] += v
        powers[1] += square
        powers[2] += square * v
        powers[3] += square * square
        for k in range(lags.size):
            if i >= lags[k]:
                other = np.float64(z[i - lags[k]])
                values[k] += v * other
                squares[k] += (square - 1) * (other * other - 1) / 2
    return largest


class Battery:
    """Counts of what it was given; each test returns its statistic, and `failures` the names that reject."""

    def __init__(self):
        self.n, self.largest = 0, 0.0
        self.cells, self.beyond = np.zeros(CELLS, np.int64), np.zeros(len(TAILS), np.int64)
        self.values, self.squares, self.powers = np.zeros(len(LAGS)), np.zeros(len(LAGS)), np.zeros(4)

    def add(self, z):
        """Take a chunk of finite float32 or float64 whose size is a multiple of 32."""
        assert np.isfinite(z).all()
        self.n += z.size
        sums = [np.zeros_like(total) for total in (self.values, self.squares, self.powers)]
        counts = self.cells, np.array(TAILS, float), self.beyond, np.array(LAGS)
        self.largest = max(self.largest, count(z, *counts, *sums))
        for total, more in zip((self.values, self.squares, self.powers), sums, strict=True):
            total += more

    def results(self):
        """The statistic of each test, and whether it rejects at about one in a million."""
        found = {}
        cumulative = np.cumsum(self.cells)[:-1] / self.n
        edges = np.arange(1, CELLS) / CELLS
        distance = np.abs(cumulative - edges).max() * np.sqrt(self.n)
        found["KS"] = distance, special.kolmogorov(distance) < 1e-6
        darling = self.n * ((cumulative - edges) ** 2 / (edges * (1 - edges))).sum() / CELLS
        found["Anderson-Darling"] = darling, darling > 13
        chi = stats.chisquare(self.cells.reshape(MERGED, -1).sum(1))
        found["chi-square"] = (chi.statistic, MERGED - 1), not 1e-6 < chi.pvalue < 1 - 1e-6
        for at, number in zip(TAILS, self.beyond, strict=True):
            mean = 2 * special.ndtr(-at) * self.n
            outside = min(stats.poisson.cdf(number, mean), stats.poisson.sf(number - 1, mean)) < 5e-7
            found[f"beyond {at}"] = (int(number), float(mean)), outside
        for name, totals in (("values", self.values), ("squares", self.squares)):
            for lag, total in zip(LAGS, totals, strict=True):
                score = total / np.sqrt(self.n)
                found[f"{name} {lag} apart"] = score, abs(score) > 5
        for k, (mean, variance) in enumerate(MOMENTS):
            score = (self.powers[k] - self.n * mean) / np.sqrt(self.n * variance)
            found[f"moment {k + 1}"] = score, abs(score) > 5
        return found

    def failures(self):
        return [name for name, (_, rejected) in self.results().items() if rejected]


def main():
    import fastdrop as fd
    from fastdrop._tools.cli import _whole

    number, chunk = _whole(sys.argv[1]), 1 << 20
    dtype = np.dtype(sys.argv[2] if len(sys.argv) > 2 else "float32")
    battery = Battery()
    for first in range(0, number, chunk):
        size = min(chunk, number - first) // 32 * 32
        battery.add(fd.normal(size, fd.Key(1), dtype=dtype, window=((number,), (first,))))
    print("| test | found | expected | |", "|---|---:|---:|---|", sep="\n")
    for name, (statistic, rejected) in battery.results().items():
        found = statistic if isinstance(statistic, tuple) else (statistic,)
        cells = [f"{number:,.7g}" for number in found] + [""] * (2 - len(found))
        print(f"| {name} | {' | '.join(cells)} | {'rejected' if rejected else ''} |")
    print(f"{battery.n:,} of {dtype}, largest {battery.largest:.4f}")


if __name__ == "__main__":
    main()
