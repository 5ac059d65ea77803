"""What asv has measured on the machine that the dashboard is built on: the newest of each benchmark."""

from __future__ import annotations

import ast
import datetime
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from asv.machine import Machine, MachineCollection
from asv.results import Results, iter_results_for_machine
from asv.util import UserError
from plots import day

RESULTS = Path(__file__).parents[1] / "out" / "asv" / "results"
Values = dict[tuple[Any, ...], float]


class Taken(NamedTuple):
    """A benchmark's figures: the day, the commit, and seconds or ratios by the point of its grid."""

    date: str
    commit: str
    values: Values


class Here(NamedTuple):
    """The machine as asv knows it, and the newest figures by the name of the benchmark."""

    machine: dict[str, str]
    taken: dict[str, Taken]

    @classmethod
    def read(cls, results: Path = RESULTS) -> Here | None:
        """The figures in asv's folder of results, or None where there are none of this machine."""
        found = sorted(_of_this_machine(results), key=lambda result: (result.date, _started(result)))
        taken = {name: one for result in found for name, one in _taken(result)}
        return cls(found[-1].params, taken) if taken else None

    def processor(self) -> str:
        """The machine's name, its processor and its cores."""
        return f"{self.machine['machine']}: {self.machine['cpu']}, {self.machine['num_cpu']} cores"

    def versions(self) -> str:
        """What it ran on."""
        known = [name for name in ("numpy", "numba", "torch", "jax") if self.machine.get(name)]
        return ", ".join(
            [f"Python {self.machine['python']}", *(f"{name} {self.machine[name]}" for name in known)]
        )

    def days(self) -> str:
        """The day that the figures were taken on, or the first and the last."""
        dates = sorted({one.date for one in self.taken.values()})
        return " to ".join(day(date) for date in dict.fromkeys((dates[0], dates[-1])))

    def value(self, name: str, *start: Any) -> float | None:
        """A benchmark's value at p = 0.5 on as many threads as were tried; the first parameters are given."""
        points = self._values(name)
        found = [point for point in points if point[: len(start)] == start and point[len(start)] == 0.5]
        return points[max(found, key=lambda point: point[len(start) + 1])] if found else None

    def tried(self, name: str, at: int = 0) -> list[Any]:
        """What a benchmark's parameter at some place was: the first is the number of elements in most."""
        return sorted({point[at] for point in self._values(name)})

    def _values(self, name: str) -> Values:
        return self.taken[name].values if name in self.taken else {}

    def cases(self) -> list[str]:
        """The functions and layers whose forward was timed, such as functions.dropout."""
        timed = [name.removesuffix(".time_forward") for name in self.taken if name.endswith(".time_forward")]
        return sorted(name for name in timed if name.startswith(("functions.", "layers.")))


def _of_this_machine(results: Path) -> list[Results]:
    try:
        name = MachineCollection.load(Machine.get_unique_machine_name())["machine"]
    except UserError:  # asv never ran here
        return []
    return list(iter_results_for_machine(str(results), name))


def _started(result: Results) -> int:
    """When its last benchmark began, in milliseconds since 1970."""
    return max((when for when in result.started_at.values() if when), default=0)


def _taken(result: Results) -> Iterator[tuple[str, Taken]]:
    """The benchmarks that a commit has figures of."""
    for name in result.get_all_result_keys():
        if values := _values(result, name):
            when = datetime.datetime.fromtimestamp((result.started_at[name] or 0) / 1000, datetime.UTC)
            yield name, Taken(when.date().isoformat(), result.commit_hash, values)


def _values(result: Results, name: str) -> Values:
    """The values by the point of the grid; those that failed or were skipped are left out."""
    lists = result.get_result_params(name) or []
    points = product(*([ast.literal_eval(word) for word in words] for words in lists))
    found = zip(points, result.get_result_value(name, lists), strict=True)
    return {point: value for point, value in found if value is not None and not math.isnan(value)}
