"""All checks and benchmarks that need a GPU, in one visit of under ten minutes.

(Not called cuda.py: beside a program of that name Numba would not find the package cuda.)

    python benchmarks/gpu.py [--rounds 21] [--skip-tests]

It needs the extra cuda and pytest, and compares with PyTorch if that is there and finds the GPU. First come
the tests of tests/kernels/test_cuda.py on the device against the CPU's kernels, then times by CUDA events.
Without a GPU it says so and ends.

What to expect, on paper, since no figure of a GPU exists yet. An H100 (SXM) moves 3.35 TB/s, and at 1.755
GHz each of its 132 x 4 schedulers issues an instruction for 32 threads a clock: 29.6 million million a
second. Dropout of float32 reads and writes 8 bytes an element, forward and backward alike, so memory lets
419 elements through in a ns, and there are 70.8 instructions for each. The kernel `elements drop` takes,
counted in what ptxas makes of it for sm_90, where a thread does 32 elements of a whole tile:

================================================  =================  =====================
instructions an element                           p = .5: 1 plane    p = .1: about 12
================================================  =================  =====================
planes, 79 each for 32 elements                   2.5                29.6
read, scale, select and write, 107 for 16         6.7                6.7
places and bounds, 181 for 32                     5.7                5.7
all                                               14.8 (21 %)        42.0 (59 % of 70.8)
================================================  =================  =====================

So both wait for memory, as long as a copy: 2.4 ps an element. float16 moves 4 bytes, in the time of 35.4
instructions, and takes about two more of them: p = .5 waits for memory (48 %), p = .1 takes 1.25 times a
copy. PyTorch's fused dropout also writes a byte of mask for each element, and reads it in backward: 9 bytes
instead of 8, or 5 instead of 4. If it waits for memory too, fastdrop takes .89 of its time in float32 and
.8 in float16, but at p = .1 in float16 as long. Three things may change that. The 18 wide multiplications
of a plane may issue at a quarter of the rate, which would take a little longer than the other 61 instructions
do, beside them. Arrays below 8.7 million elements don't fill 2,048 threads on each of 132 processors at 32
elements a thread. And a launch from Python may take 10 to 50 us (a guess), as long as the kernel for 2**22
to 2**24 elements.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fastdrop as fd

KEY = fd.Key(0)
TESTS = Path(__file__).parents[1] / "tests" / "kernels" / "test_cuda.py"


def why_not() -> str | None:
    """Why nothing can be run here, if so."""
    try:
        from numba import cuda
    except ImportError as error:
        return str(error)
    return None if cuda.is_available() else "no CUDA device was found"


def torch_on_device() -> Any:
    """PyTorch, where it finds the GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def microseconds(call: Callable[[], object], rounds: int) -> float:
    """The median time between two events around a call, after three calls to warm up."""
    from numba import cuda

    times = []
    for turn in range(rounds + 3):
        start, end = cuda.event(), cuda.event()
        start.record()
        call()
        end.record()
        end.synchronize()
        if turn >= 3:
            times.append(1e3 * start.elapsed_time(end))
    return median(times)


def calls(x: Any, y: Any, torch: Any) -> dict[str, Callable[[], object]]:
    """What is timed on arrays of a dtype: the copy first."""
    found: dict[str, Callable[[], object]] = {
        "copy": (lambda: y.copy_(x)) if torch else (lambda: y.copy_to_device(x)),
        "dropout p=.5": lambda: fd.dropout(x, 0.5, KEY, out=y),
        "dropout p=.1": lambda: fd.dropout(x, 0.1, KEY, out=y),
        "gaussian": lambda: fd.gaussian_dropout(x, 0.1, KEY, out=y),
        "add": lambda: fd.dropout_add(x, x, 0.1, KEY, out=y),
    }
    if torch:
        for p in (0.5, 0.1):
            found[f"torch p={p}"] = lambda p=p: torch.native_dropout(x, p, True)
    return found


def benchmark(rounds: int) -> None:
    """Print microseconds, and each as a multiple of the copy."""
    from numba import cuda

    torch = torch_on_device()
    name = cuda.get_current_device().name
    name = name.decode() if isinstance(name, bytes) else name
    print(f"{name}; medians of {rounds}, us (multiples of a copy)")
    for dtype in ("float32", "float16"):
        for power in (16, 20, 24, 28):
            x = cuda.to_device(np.ones(1 << power, dtype))
            if torch:
                x = torch.as_tensor(x, device="cuda")
            y = torch.empty_like(x) if torch else cuda.device_array_like(x)
            times = {name: microseconds(call, rounds) for name, call in calls(x, y, torch).items()}
            cells = (f"{name} {t:.1f} ({t / times['copy']:.2f})" for name, t in times.items())
            print(f"{dtype} 2**{power}: " + "  ".join(cells), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the tests and the benchmarks; return 0 if none failed."""
    parser = argparse.ArgumentParser(description="checks and benchmarks on a GPU")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--skip-tests", action="store_true")
    chosen = parser.parse_args(arguments)
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        return 0
    failed = 0
    if not chosen.skip_tests:
        command = [sys.executable, "-m", "pytest", "-q", str(TESTS)]
        failed = subprocess.run(command, timeout=420, check=False).returncode
    benchmark(chosen.rounds)
    return failed


if __name__ == "__main__":
    sys.exit(main())
