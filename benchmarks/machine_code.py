"""How many instructions of a GPU's machine code an element costs: counted along the way of whole tiles.

A kernel's instructions are the nodes of a graph, with an edge to each that may come next. The way of a warp
from one whole tile to the next is a cycle through the tile's last wide store, and through a round of digits
if the kernel draws some. The cheapest such cycle is what the usual case takes: none of its branches lead to
tails, to divisions of numbers past 32 bits or to the slow halves of divisions and roots.
"""

from __future__ import annotations

import heapq
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_CALL = 60  # a call counts as so many instructions, about those of a division of 64 bits
_REGISTERS, _FRAME = 0x2F, 0x11  # attributes of a function in .nv.info


def nvdisasm() -> str:
    """The disassembler of the environment, or of the machine."""
    here = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm")
    found = next(map(str, here), None) or shutil.which("nvdisasm")
    if found is None:
        raise SystemExit("needs nvdisasm; use pip install nvidia-cuda-nvdisasm")
    return found


def disassembled(code: bytes, name: str) -> str:
    """The instructions and labels of the kernel of a name in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        said = subprocess.run([nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True)
    return said.stdout.split(f"\n.text.{name}:\n")[1].split("\n//----")[0]


def resources(code: bytes) -> tuple[int, int]:
    """The most registers of a cubin's functions, and their bytes of stack, in which is what is spilled."""
    (sections,) = struct.unpack_from("<Q", code, 40)
    size, count, names = struct.unpack_from("<HHH", code, 58)
    headers = [struct.unpack_from("<IIQQQQ", code, sections + size * i) for i in range(count)]
    at = headers[names][4]
    registers = stack = 0
    for place, _, _, _, begin, length in headers:
        if code[at + place :].partition(b"\0")[0] != b".nv.info":
            continue
        for kind, value in _attributes(code[begin : begin + length]):
            registers = max(registers, value if kind == _REGISTERS else 0)
            stack += value if kind == _FRAME else 0
    if not registers:
        raise ValueError("the cubin says of no function how many registers it has")
    return registers, stack


def _attributes(info: bytes) -> Iterator[tuple[int, int]]:
    """Yield the functions' attributes that are numbers: what they say, and the number."""
    at = 0
    while at < len(info):
        form, kind, size = struct.unpack_from("<BBH", info, at)
        if form == 4 and size == 8:
            yield kind, struct.unpack_from("<I", info, at + 8)[0]
        at += 4 + (size if form == 4 else 0)


class Instruction(NamedTuple):
    """An instruction: whether a predicate guards it, its name, and its operands."""

    guarded: bool
    name: str
    operands: str


class Count(NamedTuple):
    """What is on the way of a whole tile: instructions, and wide loads and stores."""

    instructions: int
    loads: int
    stores: int


class Program:
    """The instructions of a kernel, and which may follow each."""

    def __init__(self, text: str) -> None:
        self.instructions: list[Instruction] = []
        self._labels: dict[str, int] = {}
        for line in text.splitlines():
            if label := re.match(r"(\.L\w+):", line):
                self._labels[label[1]] = len(self.instructions)
            if found := re.match(r"\s+/\*\w{4,}\*/\s+(@\S+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", line):
                self.instructions.append(Instruction(bool(found[1]), found[2], found[3]))
        self._next = [list(self._following(i)) for i in range(len(self.instructions))]

    def _following(self, i: int) -> Iterator[int]:
        guarded, name, operands = self.instructions[i]
        jump = re.search(r"`\((\.L\w+)\)", operands)
        branches = name.startswith("BRA") and name != "BRA.DIV"  # which is for warps that have come apart
        if branches and jump:
            yield self._labels[jump[1]]
        ends = name.startswith(("EXIT", "RET")) or (branches and jump and operands == jump[0])
        if i + 1 < len(self.instructions) and (guarded or not ends):
            yield i + 1

    def numbers(self, name: str, operands: str = "") -> list[int]:
        """The places of instructions by patterns of name and operands."""
        return [
            i
            for i, each in enumerate(self.instructions)
            if re.fullmatch(name, each.name) and re.search(operands, each.operands)
        ]

    def way(self, start: int, end: int) -> list[int] | None:
        """The cheapest way from an instruction to another, or around to itself, without the first."""
        heap = [(self._cost(i), i, start) for i in self._next[start]]
        came: dict[int, int] = {}
        while heap:
            cost, i, before = heapq.heappop(heap)
            if i in came:
                continue
            came[i] = before
            if i == end:
                found = [end]
                while came[found[-1]] != start:
                    found.append(came[found[-1]])
                return found[::-1]
            for follower in self._next[i]:
                heapq.heappush(heap, (cost + self._cost(follower), follower, i))
        return None

    def _cost(self, i: int) -> int:
        return _CALL if self.instructions[i].name.startswith("CALL") else 1

    def of_a_tile(self, bits: int, rounds: int) -> Count:
        """What is on the way of a whole tile with accesses of so many bits, and so many rounds of digits."""
        stores = [i for i in self.numbers(rf"STG\.E(\.\w+)*\.{bits}") if self.way(0, i)]
        if not stores:
            raise ValueError(f"no store is {bits} bits wide")
        store, found = stores[0], []
        for begin in self._rounds() if rounds else [store]:
            legs = [self.way(store, begin)]
            if rounds:
                legs += [self.way(begin, begin)] * (rounds - 1) + [self.way(begin, store)]
            if all(legs):
                found.append(self._counted([i for leg in legs if leg for i in leg], bits))
        if not found:
            raise ValueError(f"no way leads through {rounds} rounds and a store of {bits} bits")
        return min(found)

    def _rounds(self) -> Iterator[int]:
        """Yield the places where a round of digits begins to exchange words: in loops without stores."""
        for i in self.numbers(r"SHFL\.BFLY", r" 0x8,"):
            around = self.way(i, i)
            if around and not any(self.instructions[k].name.startswith("STG") for k in around):
                yield i

    def _counted(self, way: list[int], bits: int) -> Count:
        # what a predicate guards is no part of the tile: the draw that a captured graph has in memory
        names = [self.instructions[i].name for i in way if not self.instructions[i].guarded]
        loads, stores = (
            sum(bool(re.fullmatch(rf"{what}\.E(\.\w+)*\.{bits}(\.\w+)*", name)) for name in names)
            for what in ("LDG", "STG")
        )
        return Count(sum(map(self._cost, way)), loads, stores)
