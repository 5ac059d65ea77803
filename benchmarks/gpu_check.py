"""Compiles the CUDA kernels without a GPU, and looks at what became of them.

Run it by `make cuda-check`, which makes an environment of its own. A variant is checked for each pair of what
variants differ in: a formula and a dtype, a dtype and a bias, and so on, but of float16 one for each work.
The program fails where a kernel has local memory, which is also what spilled registers go to, more registers
or more 64-bit divisions than its family may have, lacks the wide loads and stores of whole tiles, reads
global memory by instructions that don't know it to be global, takes other arguments than launches give, has
float64 that its arrays have not, or arithmetic of floats that isn't rounded as the CPU's: a product that may
be contracted, an approximation that nothing corrects, subnormal numbers made 0.

Then instructions are counted in the machine code (see `machine_code.py`) along the way of whole tiles, and
compared with bounds and with what an H200 can issue while it copies: 63 for an element of float32, and 32 for
one of 16 bits.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numba
import numba.cuda.dispatcher
from machine_code import Program, disassembled, resources
from numba import cuda, types

from fastdrop._arrays.plan import ACTIVATIONS
from fastdrop._cuda import compiled, kernels
from fastdrop._cuda.variants import NOISE_TILE, SPREAD_TILE_BYTES, Variant
from fastdrop._stream.keys import TILE

CARRIERS = {
    "float16": "<i2",
    "bfloat16": "<u2",
    "float32": "<f4",
    "float64": "<f8",
}
NAMES = {carrier: name for name, carrier in CARRIERS.items()}
REALS = CARRIERS["float32"], CARRIERS["float64"]
NEWEST, OLDEST = (9, 0), (8, 0)
PROCESSES = 2
AFFINE, ACTIVATED = ("drop", "alpha", "add", "replace"), ("activate", "activate_add", "differentiate")
NUMBERS = {
    ("normal", "multiply"): 1,
    ("normal", "shift"): 1,
    ("normal", "exponential"): 1,
    ("normal", "exponential_slope"): 1,
    ("logistic", "concrete"): 5,
    ("logistic", "concrete_slope"): 5,
}


class Family(NamedTuple):
    """What the kernels of a family may have at most: registers, in float64 too, and divisions of 64 bits."""

    registers: int
    of_float64: int
    divisions: int


FAMILIES = {
    "drops": Family(80, 100, 1),  # threads get registers by the eight, so that 73 to 80 leave as many warps
    "drops by number": Family(120, 128, 15),  # two blocks of 256 threads fit, as with 88
    "noise": Family(64, 88, 1),  # four blocks and two fit
    "noise by number": Family(64, 64, 6),
    "listed draws": Family(64, 64, 3),
    "keep": Family(56, 56, 1),
    "mask bits": Family(32, 32, 1),
    "mask bytes": Family(40, 40, 16),
    "mask factors": Family(32, 32, 1),
    "spread": Family(80, 80, 0),
    "sums": Family(40, 40, 5),
    "totals": Family(40, 40, 2),
    "learned numbers": Family(48, 48, 1),
    "given rates": Family(48, 48, 1),
}
OF_TOTALS = "sums", "totals", "learned_numbers", "given_rates"  # with their result's type as that of a bias
IN_DOUBLES = "totals", "learned_numbers", "given_rates"  # in float64, whatever the type of their arrays is
# Before capability 9.0 a warp that came apart calls functions to exchange numbers. In code that is compiled
# to be linked a kernel keeps clear of the registers that calls may change, and takes about twice as many.
OLD_REGISTERS = 208
BIAS_DIVISIONS = 1  # more of them, where there is a bias
DIVISION = r"(div|rem)\.[su]64"
# the approximate ones but for those that `fastdrop._lanes.floats` corrects
INEXACT = r"mul\.f|mul\.ftz|(?!(rsqrt|rcp)\.approx\.ftz\.f32$).*\.(approx|full|ftz)\b"
GENERIC = r"(ld|st)\.(?!global|param|shared|local|const)"
LOADS, STORES = r"ld\.global\.v[24]", r"st\.global\.v[24]"


def real_of(carrier: str) -> str:
    """The type that elements are computed in."""
    return "<f8" if carrier == "<f8" else "<f4"


def variants() -> list[Variant]:
    """A list of variants, in which each pair of what variants differ in comes once at least.

    Kernels of float16 are those of bfloat16 but for how numbers are read and rounded: each work comes once.
    """
    families = every_drop, every_noise, every_mask, every_spread, every_sum, every_learned, every_rate
    found = []
    for family in families:
        halves = {(v.work, v.by_number): v for v in family() if v.carrier == CARRIERS["float16"]}
        found += [*pairwise(v for v in family() if v.carrier != CARRIERS["float16"]), *halves.values()]
    return found


def every_drop() -> Iterator[Variant]:
    """Every kernel of Bernoulli noise with a draw for each element, of arrays and of factors."""
    for carrier, by_number, listed in product(CARRIERS.values(), (False, True), (False, True)):
        for name, activation, bias in passes(carrier):
            yield Variant("drops", carrier, (name,), activation, bias, by_number, listed)
        if carrier in REALS:
            yield Variant("drops", carrier, ("factor",), 0, None, by_number, listed)


def passes(carrier: str) -> Iterator[tuple[str, int, str | None]]:
    """Formulas of Bernoulli noise, with the number of the activation, and the type of the bias."""
    for name in AFFINE:
        yield name, 0, None
    for name, activation in product(ACTIVATED, range(len(ACTIVATIONS))):
        for bias in dict.fromkeys((None, carrier, real_of(carrier), CARRIERS["bfloat16"])):
            if bias is None or real_of(bias) == real_of(carrier):
                yield name, activation, bias


def every_noise() -> Iterator[Variant]:
    """Every kernel of noise with a density, of arrays and of factors, and of draws listed one by one."""
    for carrier, (names, count), listed in product(CARRIERS.values(), NUMBERS.items(), (False, True)):
        of_factors = [(names[0], f"{names[1]}_factor")] if carrier in REALS else []
        for made, by_number in product([names, *of_factors], (False, True)[: 2 if count == 1 else 1]):
            for work in ("noise", "listed_draws") if listed else ("noise",):
                yield Variant(work, carrier, made, 0, None, by_number, listed, count)
                if not by_number:
                    yield Variant(work, carrier, made, 0, None, by_number, listed, count, True)
    for real, by_number in product(REALS, (False, True)):
        yield Variant("listed_draws", real, ("factor",), 0, None, by_number, True)


def every_mask() -> Iterator[Variant]:
    """The kernels that write masks, and that make factors of a user's mask."""
    for work in ("mask_bytes", "mask_bits"):
        yield Variant(work, REALS[0], numbers=0)
    for kind in ("bytes", "bits"):
        yield Variant("keep", REALS[0], (kind,), numbers=0)
    for real, kind in product(REALS, ("bytes", "bits")):
        yield Variant("mask_factors", real, (kind,), numbers=0)


def every_rate() -> Iterator[Variant]:
    """The kernels that make thresholds and scales of rates."""
    for carrier, real in product(CARRIERS.values(), REALS):
        yield Variant("given_rates", carrier, (), 0, real, numbers=0)


def every_spread() -> Iterator[Variant]:
    """Every kernel that applies the factors of draws."""
    for carrier in CARRIERS.values():
        for name in ("times", "plus"):
            yield Variant("spread", carrier, (name,))
        for name, activation, bias in passes(carrier):
            yield Variant("spread", carrier, (name,), activation, bias)


def every_sum() -> Iterator[Variant]:
    """The kernels that sum columns, which have the type of the total in place of a bias's."""
    for carrier, total in product(CARRIERS.values(), CARRIERS.values()):
        yield Variant("sums", carrier, (), 0, total, numbers=0)


def every_learned() -> Iterator[Variant]:
    """The kernels of learned numbers: those that make a formula's, and those that sum their gradients."""
    for carrier, real, formula in product(CARRIERS.values(), REALS, ("concrete", "same")):
        yield Variant("learned_numbers", carrier, (formula,), 0, real, numbers=0)
    for carrier, real in product(CARRIERS.values(), REALS):
        for what, factors in product(("elements", "products"), ("", NAMES[real_of(carrier)])):
            yield Variant("totals", carrier, (what, factors), 0, real, bool(factors), numbers=0)
    for real in REALS:  # of sums over elements that share draws of float32
        yield Variant("totals", CARRIERS["float64"], ("elements", "float32"), 0, real, True, numbers=0)


def pairwise(all_of_them: Iterable[Variant]) -> list[Variant]:
    """A few variants that have all pairs of attributes: each in turn is the one with the most new pairs."""
    rest = {variant: pairs(variant) for variant in all_of_them}
    wanted, chosen = set().union(*rest.values()), []
    while wanted:
        best = max(rest, key=lambda variant: len(rest[variant] & wanted))
        wanted -= rest.pop(best)
        chosen.append(best)
    return chosen


def pairs(variant: Variant) -> set[Any]:
    """The pairs of a variant's attributes; a formula and its activation are one of them."""
    bias = None if variant.bias is None else "own" if variant.bias == variant.carrier else "real"
    formula = variant.names, variant.activation
    attributes = variant.carrier, formula, bias, variant.by_number, variant.listed, variant.in_memory
    return set(combinations(enumerate((variant.work, *attributes)), 2))


def family_of(variant: Variant) -> str:
    """The family of a variant."""
    name = variant.work.replace("_", " ")
    return f"{name} by number" if f"{name} by number" in FAMILIES and variant.by_number else name


def label(variant: Variant) -> str:
    """What a variant is called in the table."""
    names = variant.names if variant.work == "totals" else variant.names[-1:]
    words = [variant.work.replace("_", " "), *filter(None, names)]
    words += [ACTIVATIONS[variant.activation]] if variant.names[:1] and variant.names[0] in ACTIVATED else []
    words += [] if variant.bias is None else [f"+{NAMES[variant.bias]}"]
    words += ["by number"] * variant.by_number + ["listed"] * variant.listed
    return " ".join([*words, *["in memory"] * variant.in_memory])


class _Device:
    """What Numba asks of a device before it compiles for it."""

    compute_capability = NEWEST


def without_gpu(capability: tuple[int, int]) -> None:
    """Let Numba compile for a capability without a GPU."""
    _Device.compute_capability = capability
    numba.cuda.dispatcher.get_current_device = lambda: _Device


def instructions(ptx: str) -> Counter[str]:
    """How often each instruction is written in the PTX."""
    return Counter(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.]+)", ptx, re.MULTILINE))


def count(pattern: str, ptx: str) -> int:
    """How many instructions match a pattern."""
    return sum(n for name, n in instructions(ptx).items() if re.match(pattern, name))


def faults(ptx: str, family: str, dtype: str, biased: bool, registers: int, stack: int) -> list[str]:
    """What is wrong with a kernel."""
    allowed, counts = FAMILIES[family], instructions(ptx)
    most = allowed.of_float64 if dtype == "float64" else allowed.registers
    most = most if _Device.compute_capability >= NEWEST else OLD_REGISTERS
    wrong = [f"{registers} registers"] if registers > most else []
    if "%laneid" in ptx:
        wrong.append("%laneid, by which NVVM makes two loops of one")
    wrong += [f"{stack} bytes of stack"] if stack else []
    wrong += ["local memory"] if ".local" in ptx else []
    # only a product that spells its rounding is safe from being made one fma with the addition after it
    wrong += [name for name in counts if re.match(INEXACT, name)]
    if 2 * count(r"(rsqrt|rcp)\.approx", ptx) > count(r"fma\.rn", ptx):
        wrong.append("approximations that nothing corrects")
    wrong += [name for name in counts if re.match(GENERIC, name)]
    if dtype != "float64" and family.replace(" ", "_") not in IN_DOUBLES:
        wrong += [name for name in counts if ".f64" in name]
    divisions = count(DIVISION, ptx)
    if divisions > allowed.divisions + BIAS_DIVISIONS * biased:
        wrong.append(f"{divisions} 64-bit divisions")
    return wrong


def narrow(ptx: str, variant: Variant) -> list[str]:
    """What of the wide accesses of whole tiles a kernel lacks, if it is one that has them."""
    if variant.work == "keep":
        return [] if variant.names == ("bits",) or count(STORES, ptx) else ["no wide stores"]
    if variant.work not in ("drops", "noise", "spread") or (variant.work == "noise" and variant.by_number):
        return []
    factors = variant.work != "spread" and variant.names[-1].endswith("factor")  # which are written alone
    wanted = {"wide stores": STORES} if factors else {"wide loads": LOADS, "wide stores": STORES}
    return [f"no {what}" for what, pattern in wanted.items() if not count(pattern, ptx)]


def strange(ptx: str, variant: Variant) -> list[str]:
    """What a kernel takes, if a launch gives other arguments: a number of items, and those of the work."""
    taken = re.findall(r"\.param \.(\w+)", ptx.split(".entry ")[1].split(")")[0])
    given = [kernels.I64, *(kind for part in kernels.argument_types(variant) for kind in part)]
    words = {"int64": "u64", "float32": "f32", "float64": "f64"}
    return [] if taken == [words[str(kind)] for kind in given] else [f"takes {' '.join(taken)}"]


class Row(NamedTuple):
    """What became of a kernel."""

    family: str
    name: str
    dtype: str
    capability: str
    registers: int
    stack: int
    ptx: int
    divisions: int
    wrong: str

    def __str__(self) -> str:
        numbers = f"{self.registers:9} {self.stack:6} {self.ptx:5} {self.divisions:9}"
        return f"{self.name:48} {self.dtype:9} {self.capability:4} {numbers}  {self.wrong}".rstrip()


def checked(variant: Variant, capability: tuple[int, int] = NEWEST) -> Row:
    """What became of a variant, for a capability."""
    without_gpu(capability)
    ptx, _ = compiled.ptx(variant, capability)
    numbers = resources(compiled.assembled(ptx, capability, compiled.most_registers(variant)))
    family, dtype = family_of(variant), NAMES[variant.carrier]
    biased = variant.bias is not None and variant.work not in OF_TOTALS
    wrong = faults(ptx, family, dtype, biased, *numbers) + narrow(ptx, variant) + strange(ptx, variant)
    cc, counts = "{}.{}".format(*capability), (instructions(ptx).total(), count(DIVISION, ptx))
    return Row(family, label(variant), dtype, cc, *numbers, *counts, ", ".join(wrong))


def summary(table: Iterable[Row]) -> Iterator[str]:
    """The most of each family and dtype: registers, bytes of stack, and divisions."""
    most: dict[tuple[str, ...], list[int]] = {}
    for row in table:
        cell = most.setdefault((row.family, row.dtype, row.capability), [0, 0, 0])
        cell[:] = map(max, cell, (row.registers, row.stack, row.divisions))
    yield f"{'most of a family':20} {'dtype':9} {'cc':4} registers  stack divisions"
    for (family, dtype, capability), (registers, stack, divisions) in sorted(most.items()):
        yield f"{family:20} {dtype:9} {capability:4} {registers:9} {stack:6} {divisions:9}"


class Case(NamedTuple):
    """A case whose instructions are counted, with the most for an element of float32 and of 16 bits."""

    name: str
    work: str
    names: tuple[str, ...]
    rounds: int
    bounds: tuple[float, float]
    activation: int = 0
    biased: bool = False
    arrays: int = 1


GELU = ACTIVATIONS.index("gelu")
CASES = (
    Case("drop p=.5", "drops", ("drop",), 1, (13.5, 14)),
    Case("drop p=.1", "drops", ("drop",), 3, (20, 20.5)),
    Case("add p=.1", "drops", ("add",), 3, (21.5, 23), arrays=2),
    Case("gelu p=.1", "drops", ("activate",), 3, (51, 45), GELU),
    Case("gelu with bias p=.1", "drops", ("activate",), 3, (59, 48.5), GELU, True),
    Case("gaussian", "noise", ("normal", "multiply"), 0, (54, 55)),
    Case("concrete", "noise", ("logistic", "concrete"), 0, (79, 80)),
    Case("spread", "spread", ("times",), 0, (18.5, 12)),  # where neighbours have one draw
)
BUDGET = {"float32": 63, "float16": 32, "bfloat16": 32}


class Counted(NamedTuple):
    """Instructions of a case and dtype for each element, and what is wrong with them."""

    case: str
    dtype: str
    each: float
    bound: float
    wrong: str

    def __str__(self) -> str:
        bounds = f"{self.bound:8.1f} {BUDGET[self.dtype]:8} {self.each / BUDGET[self.dtype]:9.2f}"
        return f"{self.case:21} {self.dtype:9} {self.each:12.1f} {bounds}  {self.wrong}".rstrip()


def counted(case: Case, dtype: str) -> Counted:
    """Count the instructions of a whole tile, and its wide accesses."""
    carrier, bits = CARRIERS[dtype], 64 if case.work == "noise" and dtype != "float32" else 128
    size = int(carrier[-1])
    tile = {"drops": TILE, "noise": NOISE_TILE, "spread": SPREAD_TILE_BYTES // size}[case.work]
    numbers = NUMBERS.get(case.names, 2)
    variant = Variant(case.work, carrier, case.names, case.activation, numbers=numbers)
    variant = variant._replace(bias=carrier if case.biased else None)
    without_gpu(NEWEST)
    ptx, name = compiled.ptx(variant, NEWEST)
    program = Program(disassembled(compiled.assembled(ptx, NEWEST), name))
    found = program.of_a_tile(bits, case.rounds)
    stores = tile * size * 8 // bits // 32
    each, bound = found.instructions / (tile // 32), case.bounds[dtype != "float32"]
    wrong = [f"more than {bound}"] if each > bound else []
    loads = range(case.arrays * stores, (case.arrays + case.biased) * stores + 1)  # those guarded don't count
    if found.loads not in loads or found.stores != stores:
        wrong.append(f"{found.loads} wide loads and {found.stores} stores")
    return Counted(case.name, dtype, each, bound, ", ".join(wrong))


def check_the_cache() -> None:
    """See that machine code is made without a GPU, kept in a file, and taken from there."""
    variant = Variant("sums", "<f4", (), 0, "<f4", numbers=0)
    without_gpu(NEWEST)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"NUMBA_CACHE_DIR": folder}),
    ):
        code = compiled.cubin(variant, NEWEST)
        with mock.patch.object(compiled, "ptx", side_effect=AssertionError("compiled a second time")):
            again = compiled.cubin(variant, NEWEST)
        (kept,) = Path(folder).rglob("*.cubin")
        if not code == again or code[0] not in kept.read_bytes() or code[0][:4] != b"\x7fELF":
            raise SystemExit("the machine code in the cache isn't what was compiled")


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

    without_gpu(NEWEST)
    ptx = cuda.compile_ptx(bad.py_func, (types.float32[::1], types.int64), cc=NEWEST)[0]
    used = resources(compiled.assembled(ptx, NEWEST))
    found = faults(ptx, "spread", "float32", False, *used)
    found += faults(ptx, "spread", "float32", False, 200, 0)
    found += narrow(ptx, Variant("drops", "<f4", ("drop",)))
    found += strange(ptx, Variant("drops", "<f4", ("drop",)))
    expected = (
        "local memory",
        "bytes of stack",
        ".f64",
        "mul.f64",
        "64-bit divisions",
        "200 registers",
        "wide",
        "takes u64",
    )
    for fault in (*expected, "ld."):
        if not any(fault in one for one in found):
            raise SystemExit(f"the check doesn't see {fault}, only {found}")


def main() -> int:
    """Print tables and what is most in them, and return how many kernels are at fault."""
    check_the_check()
    check_the_cache()
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        cases = [(case, dtype) for case in CASES for dtype in BUDGET]
        numbers = [pool.submit(counted, *case) for case in cases]
        kernels = [pool.submit(checked, variant) for variant in variants()]
        few = [pool.submit(checked, variant, OLDEST) for variant in oldest()]
        print(
            f"{'instructions':21} {'dtype':9} {'an element':>12} {'at most':>8} {'budget':>8} of budget",
            flush=True,
        )
        counts = [shown(each.result()) for each in numbers]
        print(f"\n{'kernel':48} {'dtype':9} {'cc':4} registers  stack   PTX divisions", flush=True)
        table = [shown(each.result()) for each in [*kernels, *few]]
    print("", *summary(table), sep="\n")
    bad = sum(bool(each.wrong) for each in [*counts, *table])
    print(f"{len(table)} kernels, {bad} at fault")
    return bad


def oldest() -> Iterator[Variant]:
    """A few variants that are compiled for the oldest capability too."""
    for carrier in CARRIERS.values():
        yield Variant("drops", carrier, ("drop",))
        yield Variant("noise", carrier, ("normal", "multiply"), numbers=1)
    yield Variant("spread", CARRIERS["bfloat16"], ("activate",), GELU, CARRIERS["float32"])


def shown(row: Any) -> Any:
    """Print a row as soon as there is one."""
    print(row, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(bool(main()))
