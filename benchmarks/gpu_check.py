"""Compiles every CUDA kernel for every dtype without a GPU, and looks at what became of it.

Run it by `make cuda-check`, which makes an environment of its own. It fails where a kernel has local
memory, spills, more than 64 registers, a product that may be contracted, or float64 that its arrays have not.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numba.cuda.dispatcher
from numba import cuda, types

from fastdrop import _cuda, _formulas

CAPABILITIES = ((8, 0), (9, 0))
CARRIERS = {
    "float16": types.int16,
    "bfloat16": types.uint16,
    "float32": types.float32,
    "float64": types.float64,
}
MOST_REGISTERS = 64
I64 = types.int64
NUMBERS = {"multiply": 1, "shift": 1, "concrete": 5, "concrete_slope": 5}


def signatures(carrier: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Name, kernel and argument types of all kernels for arrays of a type."""
    a = carrier[::1]
    real = types.float64 if carrier == types.float64 else types.float32
    arrays, tail = (a, a, a, a), (types.UniTuple(real, 2), I64, I64)
    axes, places = types.UniTuple(I64, 5), types.UniTuple(I64, 3)
    for name, activation, biased in passes():
        label = f"{name} {_formulas.ACTIVATIONS[activation]}" if name.startswith(("act", "diff")) else name
        label += " bias" * biased
        kernel = _cuda.elements_kernel(name, activation, biased)
        yield f"elements {label}", kernel, (*arrays, types.UniTuple(I64, 7), I64, real, *tail)
        kernel, layout = _cuda.units_kernel(name, activation, biased), types.UniTuple(I64, 4)
        yield f"units {label}", kernel, (*arrays, layout, axes, places, I64, real, *tail)
        kernel = _cuda.units_kernel(name, activation, biased, True)
        rates = types.uint32[::1], real[::1]
        yield f"rates {label}", kernel, (*arrays, layout, axes, places, places, *rates, *tail)
    for name, count in NUMBERS.items():
        numbers = types.UniTuple(real, count), I64, I64
        yield f"noise {name}", _cuda.noise_kernel(name), (a, a, types.UniTuple(I64, 5), *numbers)
        layout = types.UniTuple(I64, 2), axes, places, places
        kernel = _cuda.noise_units_kernel(name)
        yield f"noise of units {name}", kernel, (a, a, *layout, a, *numbers)
        if count == 1:
            kernel = _cuda.noise_units_kernel(name, True)
            yield f"noise by units {name}", kernel, (a, a, *layout, real[::1], *numbers)
    yield "sums", _cuda.sums_kernel(), (a, a, I64)


def passes() -> Iterator[tuple[str, int, bool]]:
    """Formulas of Bernoulli noise, with the number of the activation, and whether there is a bias."""
    for name in ("drop", "alpha", "add"):
        yield name, 0, False
    for activation in range(len(_formulas.ACTIVATIONS)):
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


def faults(ptx: str, registers: int, stack: int, spilled: int, dtype: str) -> list[str]:
    """What is wrong with a kernel."""
    counts = instructions(ptx)
    wrong = [f"{registers} registers"] if registers > MOST_REGISTERS else []
    wrong += [f"{stack} bytes of stack"] if stack else []
    wrong += [f"{spilled} bytes spilled"] if spilled else []
    wrong += ["local memory"] if ".local" in ptx else []
    # only a product that spells its rounding is safe from being made one fma with the addition after it
    wrong += [name for name in counts if name in ("mul.f32", "mul.f64")]
    if dtype != "float64":
        wrong += [name for name in counts if ".f64" in name]
    return wrong


def lines(dtype: str) -> list[tuple[str, bool]]:
    """What the table has of a dtype, each line with whether its kernel is at fault."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kernel, arguments in signatures(CARRIERS[dtype]):
            for capability in CAPABILITIES:
                ptx = compiled(kernel, arguments, capability)
                registers, stack, spilled = assembled(ptx, capability, folder)
                counts = instructions(ptx)
                wide = sum(n for op, n in counts.items() if re.search(r"\.[bsu]64", op))
                wrong = faults(ptx, registers, stack, spilled, dtype)
                cc = f"{capability[0]}.{capability[1]}"
                numbers = f"{registers:9} {stack:6} {spilled:6} {counts.total():5} {wide:7}"
                line = f"{name:42} {dtype:9} {cc:4} {numbers}  {', '.join(wrong)}"
                found.append((line.rstrip(), bool(wrong)))
    return found


def check_the_check() -> None:
    """See that a kernel with local memory and float64 is found at fault."""

    @cuda.jit
    def bad(y, i):
        scratch = cuda.local.array(64, types.float64)
        for k in range(64):
            scratch[k] = y[k]
        y[0] = scratch[i] * y[1] + y[2]

    ptx = compiled(bad, (types.float32[::1], I64), (9, 0))
    with tempfile.TemporaryDirectory() as folder:
        found = faults(ptx, *assembled(ptx, (9, 0), folder), "float32")
    if "local memory" not in found or not any(".f64" in fault for fault in found):
        raise SystemExit(f"the check doesn't see local memory and float64, only {found}")


def main() -> int:
    """Print a table, and return how many kernels are at fault."""
    check_the_check()
    print(f"{'kernel':42} {'dtype':9} {'cc':4} registers  stack spills   PTX  64-bit", flush=True)
    bad = 0
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for table in pool.map(lines, CARRIERS):
            for line, wrong in table:
                print(line, flush=True)
                bad += wrong
    print(f"{bad} kernels at fault")
    return bad


if __name__ == "__main__":
    sys.exit(bool(main()))
