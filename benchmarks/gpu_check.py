"""Compiles every CUDA kernel for every dtype without a GPU, and looks at what became of it.

Run it by `make cuda-check`, which makes an environment of its own. It fails where a kernel has local
memory, spills, more than 64 registers, float64 that its arrays have not, or arithmetic of floats that isn't
rounded as the CPU's: a product that may be contracted, an approximation, subnormal numbers made 0.

Of 64-bit integers additions are cheap, and places need them: arrays may have more than 2**32 elements. A
division takes some 80 instructions on the GPU, and a product three where its factors have more than 32 bits.
So a family of kernels may have as many as places need, once for each thread's work (`PLACES`), and Philox's
products of 32 bits to 64, 20 a block; in a loop over the elements of that work there must be neither.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numba.cuda.dispatcher
from numba import cuda, types

from fastdrop._arrays.plan import ACTIVATIONS
from fastdrop._cuda import kernels

CAPABILITIES = ((8, 0), (9, 0))
CARRIERS = {
    "float16": types.int16,
    "bfloat16": types.uint16,
    "float32": types.float32,
    "float64": types.float64,
}
MOST_REGISTERS = 64
PHILOX_PRODUCTS = 20
PLACES = {  # the 64-bit divisions and products by which a family finds its places
    "elements": (2, 6),
    "units": (5, 12),
    "rates": (5, 15),
    "noise": (2, 4),
    "noise of units": (5, 11),
    "noise by units": (5, 14),
    "listed units": (6, 13),
    "listed rates": (6, 16),
    "listed noise": (2, 3),
    "listed noise of units": (6, 12),
    "listed noise by units": (6, 15),
    "sums": (1, 1),
}
BIAS_DIVISIONS = 2  # more of them, where there is a bias
DIVISION, PRODUCT = r"(div|rem)\.[su]64", r"(mul|mad)\.(lo|hi)\.[su]64"
INEXACT = r"mul\.f|mul\.ftz|.*\.(approx|full|ftz)\b"
I64 = types.int64
NUMBERS = {
    ("normal", "multiply"): 1,
    ("normal", "shift"): 1,
    ("normal", "exponential"): 1,
    ("normal", "exponential_slope"): 1,
    ("logistic", "concrete"): 5,
    ("logistic", "concrete_slope"): 5,
}


def signatures(carrier: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name, kernel and argument types of all kernels for arrays of a type."""
    a = carrier[::1]
    real = types.float64 if carrier == types.float64 else types.float32
    arrays, tail = (a, a, a, a), (types.UniTuple(real, 2), I64, I64)
    axes, places = types.UniTuple(I64, 5), types.UniTuple(I64, 3)
    for name, activation, biased in passes():
        label = f"{name} {ACTIVATIONS[activation]}" if name.startswith(("act", "diff")) else name
        label += " bias" * biased
        kernel = kernels.elements_kernel(name, activation, biased)
        yield f"elements {label}", kernel, (*arrays, types.UniTuple(I64, 7), I64, real, *tail)
        for prefix, starts in (("", a), ("listed ", I64[::1])):
            kernel = kernels.units_kernel(name, activation, biased, False, bool(prefix))
            given = *arrays, starts, types.UniTuple(I64, 5), axes, places
            yield f"{prefix}units {label}", kernel, (*given, I64, real, *tail)
            kernel = kernels.units_kernel(name, activation, biased, True, bool(prefix))
            yield f"{prefix}rates {label}", kernel, (*given, places, types.uint32[::1], real[::1], *tail)
    for (draw, name), count in NUMBERS.items():
        numbers = types.UniTuple(real, count), I64, I64
        yield f"noise {name}", kernels.noise_kernel(draw, name), (a, a, types.UniTuple(I64, 5), *numbers)
        given = a, a, I64[::1], types.UniTuple(I64, 2), *numbers
        yield f"listed noise {name}", kernels.listed_noise_kernel(draw, name), given
        for prefix, starts in (("", a), ("listed ", I64[::1])):
            layout = starts, types.UniTuple(I64, 3), axes, places, places
            kernel = kernels.noise_units_kernel(draw, name, False, bool(prefix))
            yield f"{prefix}noise of units {name}", kernel, (a, a, *layout, a, *numbers)
            if count == 1:
                kernel = kernels.noise_units_kernel(draw, name, True, bool(prefix))
                yield f"{prefix}noise by units {name}", kernel, (a, a, *layout, real[::1], *numbers)
    yield "sums", kernels.sums_kernel(), (a, a, I64)


def passes() -> Iterator[tuple[str, int, bool]]:
    """Formulas of Bernoulli noise, with the number of the activation, and whether there is a bias."""
    for name in ("drop", "alpha", "add", "replace"):
        yield name, 0, False
    for activation in range(len(ACTIVATIONS)):
        for name in ("activate", "activate_add", "differentiate"):
            yield name, activation, True
            yield name, activation, False


class _Device:
    """What Numba asks of a device before it compiles for it."""

    compute_capability = (9, 0)


def compiled(kernel: Any, arguments: tuple[Any, ...], capability: tuple[int, int]) -> str:
    """The PTX of a kernel."""
    _Device.compute_capability = capability
    numba.cuda.dispatcher.get_current_device = lambda: _Device
    ptx: str = cuda.compile_ptx(kernel.py_func, arguments, cc=capability)[0]
    return ptx


def ptxas() -> str:
    """The assembler of the environment, or of the machine."""
    here = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/ptxas")
    found = next(map(str, here), None) or shutil.which("ptxas")
    if found is None:
        raise SystemExit("needs ptxas; use pip install nvidia-cuda-nvcc")
    return found


def assembled(ptx: str, capability: tuple[int, int], folder: str) -> tuple[int, int, int]:
    """Registers, bytes of stack, and bytes spilled."""
    source = Path(folder) / "kernel.ptx"
    source.write_text(ptx)
    arch = f"-arch=sm_{capability[0]}{capability[1]}"
    command = [ptxas(), arch, "-v", str(source), "-o", str(source.with_suffix(".cubin"))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    numbers = [
        re.findall(pattern, said)
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack", r"(\d+) bytes spill")
    ]
    return tuple(sum(map(int, found)) for found in numbers)  # type: ignore[return-value]


def instructions(ptx: str) -> Counter[str]:
    """How often each instruction is written in the PTX."""
    return Counter(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.]+)", ptx, re.MULTILINE))


def storing_loops(ptx: str) -> Iterator[str]:
    """The innermost loops in which a kernel writes elements."""
    lines, labels, loops = ptx.splitlines(), {}, []
    for number, line in enumerate(lines):
        if label := re.match(r"(\$L\w+):", line):
            labels[label[1]] = number
        jump = re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line)
        if jump and jump[1] in labels:
            loops.append(range(labels[jump[1]], number + 1))
    for loop in loops:
        inner = any(other != loop and other[0] in loop and other[-1] in loop for other in loops)
        text = "\n".join(lines[i] for i in loop)
        if not inner and "st.global" in text:
            yield text


def count(pattern: str, ptx: str) -> int:
    """How many instructions match a pattern."""
    return sum(n for name, n in instructions(ptx).items() if re.match(pattern, name))


def places(ptx: str, family: str, biased: bool, dtype: str) -> list[str]:
    """What there is of 64-bit arithmetic that a family's places don't need."""
    divisions, products = PLACES[family]
    divisions += BIAS_DIVISIONS * biased
    blocks = 0 if family == "sums" else 2 if "noise" in family and dtype == "float64" else 1
    products += PHILOX_PRODUCTS * blocks
    wrong = []
    for what, pattern, most in (("divisions", DIVISION, divisions), ("products", PRODUCT, products)):
        found = count(pattern, ptx)
        wrong += [f"{found} 64-bit {what}"] if found > most else []
        # A thread of these does one item after the other in its only loop, with places of its own for each.
        items = family in ("noise", "listed noise")
        in_loops = 0 if items else sum(count(pattern, loop) for loop in storing_loops(ptx))
        wrong += [f"{in_loops} 64-bit {what} in loops"] if in_loops else []
    return wrong


def faults(ptx: str, registers: int, stack: int, spilled: int, dtype: str) -> list[str]:
    """What else is wrong with a kernel."""
    counts = instructions(ptx)
    wrong = [f"{registers} registers"] if registers > MOST_REGISTERS else []
    wrong += [f"{stack} bytes of stack"] if stack else []
    wrong += [f"{spilled} bytes spilled"] if spilled else []
    wrong += ["local memory"] if ".local" in ptx else []
    # only a product that spells its rounding is safe from being made one fma with the addition after it
    wrong += [name for name in counts if re.match(INEXACT, name)]
    if dtype != "float64":
        wrong += [name for name in counts if ".f64" in name]
    return wrong


class Row(NamedTuple):
    """What became of a kernel."""

    family: str
    name: str
    dtype: str
    capability: str
    registers: int
    stack: int
    spilled: int
    ptx: int
    wide: int
    wrong: str

    def __str__(self) -> str:
        numbers = f"{self.registers:9} {self.stack:6} {self.spilled:6} {self.ptx:5} {self.wide:7}"
        return f"{self.name:42} {self.dtype:9} {self.capability:4} {numbers}  {self.wrong}".rstrip()


def rows(dtype: str) -> list[Row]:
    """What the table has of a dtype."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kernel, arguments in signatures(CARRIERS[dtype]):
            family = next(f for f in sorted(PLACES, key=len, reverse=True) if name.startswith(f))
            for capability in CAPABILITIES:
                ptx = compiled(kernel, arguments, capability)
                numbers = assembled(ptx, capability, folder)
                wrong = faults(ptx, *numbers, dtype) + places(ptx, family, name.endswith("bias"), dtype)
                cc = f"{capability[0]}.{capability[1]}"
                counts = instructions(ptx).total(), count(r".*\.[bsu]64", ptx)
                found.append(Row(family, name, dtype, cc, *numbers, *counts, ", ".join(wrong)))
    return found


def summary(table: Iterable[Row]) -> Iterator[str]:
    """The most of each family and dtype: registers, bytes of stack, and bytes spilled."""
    most: dict[tuple[str, str], dict[str, list[int]]] = {}
    for row in table:
        cell = most.setdefault((row.family, row.dtype), {}).setdefault(row.capability, [0, 0, 0])
        cell[:] = map(max, cell, (row.registers, row.stack, row.spilled))
    heads = (f"  {capability[0]}.{capability[1]}: registers stack spills" for capability in CAPABILITIES)
    yield f"{'most of a family':16} {'dtype':9}" + "".join(heads)
    for (family, dtype), cells in most.items():
        numbers = (f"       {r:9} {stack:5} {spilled:6}" for r, stack, spilled in cells.values())
        yield f"{family:16} {dtype:9}" + "".join(numbers)


def check_the_check() -> None:
    """See that a kernel with all that is looked for is found at fault."""

    @cuda.jit
    def bad(y, i):
        scratch = cuda.local.array(64, types.float64)
        for k in range(64):
            scratch[k] = y[k]
        y[0] = scratch[i] * y[1]
        for k in range(i):
            y[k // y.size * k % i] = y[2]

    ptx = compiled(bad, (types.float32[::1], I64), (9, 0))
    with tempfile.TemporaryDirectory() as folder:
        found = faults(ptx, *assembled(ptx, (9, 0), folder), "float32")
    found += places(ptx, "sums", False, "float32")
    for fault in ("local memory", ".f64", "mul.f64", "64-bit divisions in loops", "64-bit products in loops"):
        if not any(fault in one for one in found):
            raise SystemExit(f"the check doesn't see {fault}, only {found}")


def main() -> int:
    """Print a table, what is most in it, and return how many kernels are at fault."""
    check_the_check()
    print(f"{'kernel':42} {'dtype':9} {'cc':4} registers  stack spills   PTX  64-bit", flush=True)
    table = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for part in pool.map(rows, CARRIERS):
            print(*part, sep="\n", flush=True)
            table += part
    print(*summary(table), sep="\n")
    bad = sum(bool(row.wrong) for row in table)
    print(f"{bad} kernels at fault")
    return bad


if __name__ == "__main__":
    sys.exit(bool(main()))
