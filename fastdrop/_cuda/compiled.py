"""Compilation of the CUDA kernels to machine code of a GPU, kept on disk (see `fastdrop._lanes.disk`).

A kernel is compiled at its first use for each capability of a GPU. That needs no GPU. Numba is imported where
a kernel isn't on disk.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from typing import Any

from fastdrop._cuda.variants import OF_ONE_LANE, Variant
from fastdrop._extras import loading
from fastdrop._lanes import disk

_log = logging.getLogger("fastdrop")
_SOURCES = "_cuda", "_lanes", "_stream"
_COMPILERS = "numba", "numba-cuda", "llvmlite", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink"  # if there
_PAIRS_FROM = (8, 0)  # the first capability with an instruction that rounds two numbers to 16 bits


@cache
def _numba() -> tuple[Any, Any, Any]:
    """Return `numba.cuda`, Numba's types and our kernels, which a fork waits for until they are imported."""
    with loading:
        from numba import cuda, types

        from fastdrop._cuda import kernels

    return cuda, types, kernels


def _kernel(variant: Variant, in_pairs: bool) -> Any:
    """Return what a thread does, of a grid that may be smaller than the work."""
    cuda, _, kernels = _numba()
    work, one_lane = kernels.made(variant, in_pairs), variant.work in OF_ONE_LANE

    def kernel(items, given):
        first, step = cuda.grid(1), cuda.gridsize(1)
        if not one_lane:  # all lanes of a warp have its number
            first, step = first >> 5, step >> 5
        item = first
        while item < items:  # Numba divides to find the length of a range with a step
            work(item, *given)
            item += step

    return kernel


def ptx(variant: Variant, capability: tuple[int, int]) -> tuple[str, str]:
    """Return the assembly of a kernel, and the name by which it is started."""
    cuda, types, kernels = _numba()
    signature = types.void(kernels.I64, types.Tuple(kernels.argument_types(variant)))
    function = _kernel(variant, capability >= _PAIRS_FROM)
    text, _ = cuda.compile(function, signature, device=False, abi="numba", cc=capability)
    text = text.decode() if isinstance(text, bytes) else text
    return text, text.split(".entry ")[1].split("(")[0].strip()


def most_registers(variant: Variant) -> int | None:
    """Return to how many registers a kernel is held, or None for as many as the assembler likes.

    Listed draws with numbers of their own would take 66 in float64, and an eighth fewer would run at once.
    """
    return 64 if variant.work == "listed_draws" and variant.by_number else None


def assembled(text: str, capability: tuple[int, int], registers: int | None = None) -> bytes:
    """Return the machine code of assembly, for a capability, with so many registers at most."""
    from cuda.core import Program, ProgramOptions

    options = ProgramOptions(arch="sm_{}{}".format(*capability), max_register_count=registers)
    return bytes(Program(text, code_type="ptx", options=options).compile("cubin").code)


@cache
def _stamp() -> str:
    """Return a name that changes with all that the kernels are compiled from and by."""
    return disk.stamp_of(_SOURCES, *map(disk.version_of, _COMPILERS))


def cubin(variant: Variant, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Return the machine code of a kernel, from the disk if it is there, and the name that starts it."""
    key = repr((variant, capability, _stamp())).encode()
    try:
        path = disk.directory() / f"cuda-{variant.work}-{hashlib.sha256(key).hexdigest()[:24]}.cubin"
    except RuntimeError:
        disk.warn("the user has no directory for caches")
        path = None
    if path is not None and (kept := disk.read(path, key)) is not None:
        start, _, code = kept.partition(b"\n")
        return code, start.decode()
    _log.info("compiling the CUDA kernel %s %s of %s", variant.work, " ".join(variant.names), variant.carrier)
    text, name = ptx(variant, capability)
    code = assembled(text, capability, most_registers(variant))
    if path is not None:
        disk.write(path, key, name.encode() + b"\n" + code)
    return code, name
