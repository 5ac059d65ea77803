"""Every public function of arrays beside np.multiply of the same bytes, in turns: which calls cost most.

python benchmarks/outliers.py [--rounds 15] [--threads 1] [--json]

The calls are those of `suite/cases.py`, with float32 and p = 0.1, into an array they are given where they
take one. Each line has the picoseconds an element of the multiplication, of the function and of its gradient,
and how many multiplications each is. Sizes are powers of two: a call that waits for Python, one in the
nearest caches, one of an activation, and one in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from common import Part, run, show
from suite.cases import FUNCTIONS, Case
from suite.given import Given

from fastdrop._tools.bench import seconds_in_turns

SIZES = (10, 16, 20, 24)
SMALL = 8  # the power of two of tiny arrays
P = 0.1
ENOUGH = 1 << 18  # elements that a sample of calls goes through at least


def measured(case: Case, size: int, rounds: int, number: int) -> None:
    """Show one function and its gradient at a size, by samples of so many calls."""
    given = Given.of(case.shape(size), "float32", P, case.out)
    x, y = np.ones(size, np.float32), np.ones(size, np.float32)
    calls: dict[str, Callable[[], object]] = {
        "np.multiply": lambda: np.multiply(x, 1.1, out=y),
        "forward": case.forward(given),
    }
    if case.backward is not None:
        calls["backward"] = case.backward(given)
    seconds = seconds_in_turns(calls, rounds, number)
    show(case.name, {label: s / size * 1e12 for label, s in seconds.items()}, "ps")


def of_size(power: int) -> Part:
    """Return the part of one size."""

    def part(rounds: int, small: bool) -> None:
        if small and power != SIZES[0]:  # tiny arrays are the same for each
            return
        print(f"2^{SMALL if small else power} elements, ps an element:", flush=True)
        for case in FUNCTIONS:
            if small:
                measured(case, 1 << SMALL, rounds, 1)
            else:
                measured(case, 1 << power, rounds, max(1, ENOUGH >> power))

    part.__name__ = f"2^{power}"
    return part


PARTS = tuple(map(of_size, SIZES))

if __name__ == "__main__":
    run(PARTS, __doc__)
