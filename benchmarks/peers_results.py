"""The results files that README, plot and front page are made from: what `--json` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parent / "results" / "peers.json"
STEPS = FILE.with_name("torch_steps.json")  # of benchmarks/torch_steps.py, whose rows have other columns
OURS = "fastdrop"
LIMITS = ("np.copyto", "np.multiply(out=)")
Row = dict[str, Any]
Curve = list[tuple[int, float]]


class Results(NamedTuple):
    """One run, in which all took turns: its day, rounds, the load before it, the machine, medians."""

    date: str
    rounds: int
    load: float | None
    machine: dict[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, file: Path = FILE) -> Results:
        """The results of a file."""
        found = json.loads(file.read_text())
        return cls(found["date"], found["rounds"], found["load"], found["machine"], found["results"])

    def values(self, name: str) -> list[Any]:
        """The different values of a column, sorted."""
        return sorted({row[name] for row in self.rows})

    def names(self) -> list[str]:
        """The contenders as they took turns."""
        return list(dict.fromkeys(row["contender"] for row in self.rows))

    def curve(self, name: str, p: float, threads: int) -> Curve:
        """Sizes and ns per element of a contender."""
        at = (name, p, threads)
        return sorted(
            (row["size"], row["ns_per_element"])
            for row in self.rows
            if (row["contender"], row["p"], row["threads"]) == at
        )

    def row(self, name: str, size: int, p: float, threads: int) -> Row | None:
        """One median, or None where it wasn't taken."""
        at = (name, size, p, threads)
        found = (r for r in self.rows if (r["contender"], r["size"], r["p"], r["threads"]) == at)
        return next(found, None)

    def versions(self) -> str:
        """Who took part, and on what."""
        m = self.machine
        packages = ("numpy", "numba", "torch", "jax")
        return ", ".join(f"{name} {m[name]}" for name in packages if m.get(name))

    def processor(self) -> str:
        """The processor, its instruction set as LLVM names it, and its cores."""
        m = self.machine
        return f"{m['processor']} ({m['llvm_cpu']}), {m['cores']} cores"

    def caution(self) -> str:
        """What to say of figures from a machine that did other work."""
        cores = self.machine["cores"]
        if self.load is None or self.load <= cores / 2:
            return ""
        busy = f"load {self.load:g} on {cores} cores"
        return f"The machine was busy with other work ({busy}): these figures are to be taken again."
