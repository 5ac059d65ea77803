"""A battery for standard normals that takes them chunk by chunk: `python tests/normal_battery.py 10^9`."""

import sys

import numpy as np
from scipy import special, stats

CELLS = 2**20  # of equal probability, for KS and Anderson-Darling; merged to 256 for chi-square


class Battery:
    """Counts of what it was given; each test returns its statistic, and `failures` the names that reject."""

    def __init__(self):
        self.n, self.cells = 0, np.zeros(CELLS, np.int64)
        self.tails = dict.fromkeys((3, 4, 5, 5.8, 6.2), 0)
        self.pairs, self.sums = {}, np.zeros(4)
        self.largest = 0.0

    def add(self, z):
        """Take a chunk of float32 or float64 whose size is a multiple of 32."""
        self.n += z.size
        u = special.ndtr(z.astype(np.float64))
        self.cells += np.bincount(np.minimum((u * CELLS).astype(np.int64), CELLS - 1), minlength=CELLS)
        size = np.abs(z)
        for at in self.tails:
            self.tails[at] += int(np.count_nonzero(size > at))
        self.largest = max(self.largest, float(size.max()))
        self.sums += [(z.astype(float) ** k).sum() for k in (1, 2, 3, 4)]
        square = z.astype(np.float64) ** 2 - 1
        for lag in (1, 8, 16, 32):  # 8 apart in a group of 32 are cosine and sine of one radius
            for name, v in (("values", z.astype(np.float64)), ("squares", square / np.sqrt(2))):
                total = self.pairs.get((name, lag), 0.0)
                self.pairs[name, lag] = total + (v[lag:] * v[:-lag]).sum()

    def results(self):
        """The statistic of each test, and whether it rejects at about one in a million."""
        found = {}
        cumulative = np.cumsum(self.cells)[:-1] / self.n
        edges = np.arange(1, CELLS) / CELLS
        distance = np.abs(cumulative - edges).max() * np.sqrt(self.n)
        found["KS"] = distance, special.kolmogorov(distance) < 1e-6
        darling = self.n * ((cumulative - edges) ** 2 / (edges * (1 - edges))).sum() / CELLS
        found["Anderson-Darling"] = darling, darling > 13
        chi = stats.chisquare(self.cells.reshape(256, -1).sum(1))
        found["chi-square"] = chi.statistic, not 1e-6 < chi.pvalue < 1 - 1e-6
        for at, count in self.tails.items():
            mean = 2 * special.ndtr(-at) * self.n
            outside = min(stats.poisson.cdf(count, mean), stats.poisson.sf(count - 1, mean)) < 5e-7
            found[f"beyond {at}"] = (count, round(mean, 2)), outside
        for (name, lag), total in self.pairs.items():
            score = total / np.sqrt(self.n)
            found[f"{name} {lag} apart"] = score, abs(score) > 5
        for k, (mean, variance) in enumerate(((0, 1), (1, 2), (0, 15), (3, 96)), 1):
            score = (self.sums[k - 1] - self.n * mean) / np.sqrt(self.n * variance)
            found[f"moment {k}"] = score, abs(score) > 5
        return found

    def failures(self):
        return [name for name, (_, rejected) in self.results().items() if rejected]


def main():
    import fastdrop as fd
    from fastdrop._tools.cli import _whole

    number, chunk = _whole(sys.argv[1]), 1 << 22
    dtype = np.dtype(sys.argv[2] if len(sys.argv) > 2 else "float32")
    battery = Battery()
    for first in range(0, number, chunk):
        size = min(chunk, number - first) // 32 * 32
        battery.add(fd.normal(size, fd.Key(1), dtype=dtype, window=((number,), (first,))))
    for name, (statistic, rejected) in battery.results().items():
        print(f"{name:20}{statistic!s:40}{'REJECTED' if rejected else ''}")
    print(f"{battery.n:,} of {dtype}, largest {battery.largest:.4f}")


if __name__ == "__main__":
    main()
