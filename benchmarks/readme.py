"""Writes tables of docs/benchmarks.md, docs/guide/gpu.md and README.md, and the plots, from stored results.

python benchmarks/readme.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plots
from common import BUILDS, turns_of_a_build, turns_of_attention
from peers_results import OURS, STEPS, Results, Row

README = Path(__file__).parents[1] / "README.md"
MANUAL = Path(__file__).parents[1] / "docs" / "benchmarks.md"
GPU_PAGE = Path(__file__).parents[1] / "docs" / "guide" / "gpu.md"
PLOT = Path(__file__).parent / "results" / "peers.svg"
GPU = PLOT.with_name("gpu.json")  # which `python benchmarks/gpu.py` writes
THREADS_PLOT = PLOT.with_name("threads.svg")
BEGIN, END = "<!-- written by benchmarks/readme.py -->\n", "<!-- until here -->\n"
SIZES = (1 << 10, 1 << 16, 1 << 18, 1 << 22, 1 << 25)
SHORT_SIZES = (1 << 10, 1 << 16, 1 << 22)
SHORT_NAMES = (
    "np.multiply(out=)",
    "fastdrop",
    "best NumPy idiom",
    "tutorial's NumPy",
    "PyTorch eager",
    "PyTorch compiled",
    "JAX jitted",
)
SHOWN = {
    "np.copyto": "`np.copyto(y, x)`",
    "np.multiply(out=)": "`np.multiply(x, s, out=y)`",
    "fastdrop": "**`fd.dropout(x, p, key, out=y)`**",
    "fastdrop backward": "**`fd.dropout_backward`**, likewise",
    "fastdrop layer, new output": "`fd.Dropout(p)(x)`, new output",
    "best NumPy idiom": "best NumPy idiom, buffers reused",
    "tutorial's NumPy": "NumPy as tutorials write it",
    "JAX jitted": "JAX, jitted",
}


def short(results: Results, of_torch: Results) -> str:
    """What stands between README.md's marks: some contenders at some sizes, and a step of PyTorch."""
    threads = results.values("threads")[-1]
    sizes = [n for n in SHORT_SIZES if n in results.values("size")]
    names = [name for name in results.names() if name in SHORT_NAMES]
    return "\n".join(
        [
            "Nanoseconds for each float32 element at p = 0.5, by the size of the array",
            f"({results.processor()}, {plots.day(results.date)}):",
            "",
            _row("elements", [f"{n:,}" for n in sizes]),
            _row("---", ["---"] * len(sizes)),
            *(_row(SHOWN.get(name, name), _times(results, name, sizes, threads)) for name in names),
            *(["", results.caution()] if results.caution() else []),
            "",
            *_a_step(of_torch),
            *_on_a_gpu(gpu_results()),
            "",
        ]
    )


def _a_step(results: Results) -> list[str]:
    row = next(row for row in results.rows if row["part"] == "gpt")
    none, ours, theirs = (_amount(row, name) for name in ("p=0", "install()", "torch.nn"))
    return [
        f"A training step of a small GPT takes {theirs} with torch.nn's dropout, {ours} with `install()`, "
        f"and {none} without dropout ({results.processor()}, {plots.day(results.date)}).",
    ]


def _on_a_gpu(found: dict[str, Any]) -> list[str]:
    def copies(dtype: str, name: str) -> str:
        values = next(r["values"] for r in found["results"] if (r["case"], r["dtype"]) == ("2^26", dtype))
        return f"{values[name] / values['copy']:.2f}"

    def steps(case: str) -> str:
        values = next(r["values"] for r in found["results"] if (r["part"], r["case"]) == ("gpt", case))
        ours, theirs = (plots.short(values[name]) for name in ("fastdrop.torch", "torch.nn"))
        return f"{ours} ms with fastdrop's dropout and {theirs} ms with torch.nn's"

    ours, theirs = ([copies(dtype, name) for dtype in ("float32", "bfloat16")] for name in ("p=.1", "eager"))
    return [
        f"On an {found['gpu']} ({plots.day(found['date'])}) dropout of 67 million elements at p = 0.1 took "
        f"{ours[0]} copies in float32 and {ours[1]} in bfloat16, PyTorch's {theirs[0]} and {theirs[1]}. "
        f"A GPT's training step on 32 texts of 1,024 took {steps('32 x 1024')}, on 8 texts "
        f"{steps('8 x 1024')}.",
    ]


def section(results: Results) -> str:
    """What stands between the manual's marks: where and when, the table, the other rate, and threads."""
    threads = results.values("threads")[-1]
    sizes = [n for n in SIZES if n in results.values("size")]
    return "\n".join(
        [
            "## Dropout beside its peers",
            "",
            "Nanoseconds for each float32 element at p = 0.5, in brackets how many times as long as",
            "`np.multiply(x, s, out=y)` in the same run. Each number is the median of up to",
            f"{results.rounds} turns; {threads} threads were allowed to each. Taken on",
            f"{results.processor()}, with {results.versions()}, on {plots.day(results.date)}.",
            "",
            _row("elements", [f"{n:,}" for n in sizes]),
            _row("---", ["---"] * len(sizes)),
            *(_row(SHOWN.get(name, name), _cells(results, name, sizes, threads)) for name in results.names()),
            "",
            _other_rate(results, sizes[1:], threads),
            *([results.caution()] if results.caution() else []),
            "",
            "![Time per element over size, fastdrop among its peers](../benchmarks/results/peers.svg)",
            "",
            "## Rates and threads",
            "",
            "`fd.dropout` in the same run: nanoseconds for each element, by rate and number of threads.",
            "",
            _row("elements", [f"{n:,}" for n in sizes]),
            _row("---", ["---"] * len(sizes)),
            *(
                _row(f"p = {p:g}, {n} thread{'s' * (n > 1)}", _times(results, OURS, sizes, n, p))
                for p in reversed(results.values("p"))
                for n in results.values("threads")
            ),
            "",
            "![Time per element over size, by rate and threads](../benchmarks/results/threads.svg)",
            "",
        ]
    )


def steps(results: Results) -> str:
    """What comes after it: PyTorch with its own dropout, with fastdrop's, and without."""
    order = ("gpt", "mlp", "encoder", "bert", "gpt2", "attention", "calls", "memory")
    rows = sorted(results.rows, key=lambda row: order.index(row["part"]))
    contenders = ("p=0", "install()", "fastdrop", "torch.nn")
    return "\n".join(
        [
            "",
            "## In PyTorch",
            "",
            "The columns are the same without dropout, with fastdrop under PyTorch's own dropout",
            "(`fdt.install()`), with fastdrop's modules (`fdt.replace_dropout`), and with torch.nn's.",
            "",
            "- A step is forward, backward and an update by fused AdamW. The GPT has 4 layers, width 128,",
            "  4 heads and p = 0.1, and sees 16 texts of 128 characters. The MLP is 784-1024-1024-10 with",
            "  p = 0.2, 0.5 and 0.5, and sees 128 images. The encoder and BERT have 4 layers, width 256,",
            "  4 heads and p = 0.1, and see 8 texts of 128. GPT-2 has their sizes, and sees 2 texts of 512",
            "  or 1 of 1,024.",
            "- Attention has 8 heads of 64 over 2,048 places in all, with p = 0.1.",
            "- Dropout is a module alone with p = 0.5, by the number of elements. Memory is its peak with",
            "  backward.",
            "",
            *_how_often(results.rounds),
            "",
            f"Taken with {results.machine['threads']} threads on {results.processor()},",
            f"with {results.versions()}, on {plots.day(results.date)}.",
            "",
            _row("", ["no dropout (p = 0)", "`install()`", "modules", "torch.nn", "torch.nn / `install()`"]),
            _row("---", ["---"] * 5),
            *(_row(row["case"], [*(_amount(row, name) for name in contenders), _gain(row)]) for row in rows),
            *(["", results.caution()] if results.caution() else []),
            "",
        ]
    )


def _how_often(rounds: int) -> list[str]:
    of_attention, of_a_build = turns_of_attention(rounds), turns_of_a_build(rounds)
    return [
        "Each part has a process of its own. Times of dropout are medians of",
        f"{rounds} turns, and those of attention of {of_attention}. A step is the median over",
        f"{BUILDS} builds of its model, of the medians of {of_a_build} turns each. Memory is measured once.",
    ]


def _amount(row: Row, name: str) -> str:
    value, unit = row["values"][name], row["unit"]
    return (
        f"{plots.short(value / 1000)} ms"
        if unit == "us" and value >= 1000
        else f"{plots.short(value)} {unit}"
    )


def _gain(row: Row) -> str:
    return plots.short(row["values"]["torch.nn"] / row["values"]["install()"])


def _row(first: str, cells: list[str]) -> str:
    return f"| {' | '.join([first, *cells])} |".replace("| --- ", "|---").replace("--- |", "---|")


def _cells(results: Results, name: str, sizes: list[int], threads: int) -> list[str]:
    rows = [results.row(name, n, 0.5, threads) for n in sizes]
    return [f"{plots.short(r['ns_per_element'])} ({plots.short(r['ratio'])})" if r else "" for r in rows]


def _times(results: Results, name: str, sizes: list[int], threads: int, p: float = 0.5) -> list[str]:
    rows = [results.row(name, n, p, threads) for n in sizes]
    return [plots.short(r["ns_per_element"]) if r else "" for r in rows]


def _other_rate(results: Results, sizes: list[int], threads: int) -> str:
    rows = [results.row("fastdrop", n, 0.1, threads) for n in sizes]
    ratios = [plots.short(row["ratio"]) for row in rows if row]
    return (
        "With p = 0.1, which takes twelve random bits an element instead of one, fastdrop takes\n"
        f"{', '.join(ratios)} times the multiplication from {sizes[0]:,} elements up."
    )


# What the tables of a GPU are about; of the parts of benchmarks/gpu.py, and in their order.
GPU_PARTS = {
    "dropout": "Dropout, beside PyTorch's own, whose time doesn't depend on p",
    "add": "`dropout_add`, beside an add",
    "gelu": "`bias_act_dropout` with gelu, rows of 4,096",
    "gaussian": "Gaussian dropout, beside products with `torch.randn_like`",
    "units": "Feature maps (64, 256, 56, 56): draws shared along axes, and a rate for each channel",
    "masks": "Masks of one's own, and the mask of dropout",
    "learned": "Concrete dropout and its gradients",
    "python": "Python's time of a call on 1,024 elements",
    "first_call": "The first call of a process, beyond the CUDA context",
    "gpt": "A training step of a GPT of 12 layers and width 768, bfloat16 by autocast",
    "compiled_gpt": "The same with blocks that torch.compile made",
}
LEFT_OUT = "2^24", "2^28", "float16"  # sizes and a dtype whose neighbours show the same


def gpu_results() -> dict[str, Any]:
    """What a visit to a GPU found."""
    found: dict[str, Any] = json.loads(GPU.read_text())
    return found


def gpu_section(found: dict[str, Any]) -> str:
    """What stands between the marks of the page on GPUs: where and when, and a table for each part."""
    machine = found["machine"]
    lines = [
        f"Taken on one {found['gpu']} with torch {found['torch']}, numba {machine['numba']} and",
        f"Python {machine['python']}, on {plots.day(found['date'])}; medians of {found['rounds']},",
        "in brackets multiples of a row's first.",
        'Arrays are not in the GPU\'s cache. "eager" and "compiled" are PyTorch\'s own.',
        _how_it_ended(found["failures"]),
        "",
    ]
    for part, title in GPU_PARTS.items():
        rows = [
            row
            for row in found["results"]
            if row["part"] == part and row["case"] not in LEFT_OUT and row["dtype"] not in LEFT_OUT
        ]
        labels: tuple[str, ...] = ()
        for row in rows:
            if tuple(row["values"]) != labels:
                labels = tuple(row["values"])
                lines += ["", f"**{title}**" if row is rows[0] else "", ""]
                lines += [_row(row["unit"], list(labels)), _row("---", ["---"] * len(labels))]
            first = next(iter(row["values"].values()))
            cells = [f"{plots.short(v)} ({v / first:.2f})" for v in row["values"].values()]
            lines.append(_row(f"{row['case']} {row['dtype']}".strip(), cells))
    return "\n".join([*lines, ""]).replace("\n\n\n", "\n\n")


def _how_it_ended(failures: list[str]) -> str:
    if not failures:
        return "No part of `benchmarks/gpu.py` failed."
    return f"These parts of `benchmarks/gpu.py` failed: {', '.join(f'`{failure}`' for failure in failures)}."


def with_section(text: str, new: str) -> str:
    """A page with what is between the marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + new + END + after


def plot(results: Results) -> str:
    """The curves of all contenders as a file of its own."""
    lines = plots.peers(results, 0.5, results.values("threads")[-1])
    return _file(plots.curves(lines, "Time per element over size, fastdrop among its peers"))


def threads_plot(results: Results) -> str:
    """The curves of fastdrop's rates and threads as a file of its own."""
    return _file(plots.curves(plots.growth(results), "Time per element over size, by rate and threads"))


def _file(drawn: str) -> str:
    """A figure that brings its style along."""
    return drawn.replace(">\n", f">\n<style>{plots.STYLE}</style>\n", 1) + "\n"


if __name__ == "__main__":
    read = Results.read()
    read_steps = Results.read(STEPS)
    README.write_text(with_section(README.read_text(), short(read, read_steps)))
    MANUAL.write_text(with_section(MANUAL.read_text(), section(read) + steps(read_steps)))
    GPU_PAGE.write_text(with_section(GPU_PAGE.read_text(), gpu_section(gpu_results())))
    PLOT.write_text(plot(read))
    THREADS_PLOT.write_text(threads_plot(read))
