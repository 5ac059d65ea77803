"""All checks and benchmarks that need a GPU, in one visit of under eight minutes: tests first.

    python benchmarks/gpu.py [--json FILE] [--only PART ...] [--skip-tests] [--rounds 21]

It needs one NVIDIA GPU, the extras cuda and torch with PyTorch's CUDA build, and for the tests pytest,
pytest-timeout, hypothesis and scipy.
Without a GPU it says so and ends. Times of kernels are medians between two CUDA events, in turns with all
others of their line, each after a buffer larger than the GPU's cache was written; a line begins with
`y.copy_(x)`, or with what the others are compared with. "eager" and "compiled" are PyTorch's own. A part that
fails or is out of time says so, and the next begins. Results go into a file as plain data after each part,
by default, where all parts are done, the one that the manual's tables are made from by `readme.py`.

While an H200 copies an element it can issue 63 instructions for it in float32, and 32 in 16-bit types, of
integers half as many; `make cuda-check` counts those of the kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fastdrop as fd
from fastdrop._extras import how_to_install
from fastdrop._tools.bench import circumstances

Call = Callable[[], object]
FOLDER = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "gpu.json"
TESTS = (
    "tests/kernels/test_cuda.py",
    "tests/kernels/test_dlpack.py",
    "tests/integrations/test_torch_cuda.py",
)
TESTS_MAY_TAKE, ALL_MAY_TAKE = 180.0, 470.0  # seconds
CACHE = 1 << 28  # bytes, more than a GPU's cache has
KEY, P = fd.Key(0), 0.1
DTYPES = "float32", "bfloat16", "float16"
TWO_DTYPES = DTYPES[:2]


class OutOfTimeError(Exception):
    """A part has had its seconds."""


class Visit:
    """What parts need of the machine, what was found, and how long they may take.

    Attributes
    ----------
    small : bool
        Whether arrays are tiny, to see that the program runs.
    results : list of dict
        Part, case, dtype, unit and values of each line.
    failures : list of str
        What failed, by part.
    """

    device, tests = "cuda", TESTS

    def __init__(self, rounds: int = 21, small: bool = False, file: Path | None = None) -> None:
        import torch

        self.torch, self.rounds, self.small, self.file = torch, rounds, small, file
        self.results: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.part, self._end, self._last = "", 0.0, time.monotonic() + ALL_MAY_TAKE
        self._buffer = torch.empty(1024 if small else CACHE, dtype=torch.uint8, device=self.device)

    def do(self, part: Callable[[Visit], None], seconds: float) -> None:
        """Do a part in so many seconds, and in those that are left."""
        self.part, begin = part.__name__, time.monotonic()
        self._end = min(begin + seconds, self._last)
        print(f"\n{self.part}: {part.__doc__}", flush=True)
        try:
            self.check_time()
            part(self)
        except OutOfTimeError:
            self.failures.append(f"{self.part}: out of time")
            print("out of time", flush=True)
        except Exception as error:
            self.failures.append(f"{self.part}: {type(error).__name__}: {error}")
            traceback.print_exc(file=sys.stdout)
        print(f"({time.monotonic() - begin:.0f} s)", flush=True)
        self.write()

    def check_time(self) -> None:
        """Raise an exception if the part's time is over."""
        if time.monotonic() > self._end:
            raise OutOfTimeError

    @property
    def left(self) -> float:
        """How many seconds the part still has."""
        return self._end - time.monotonic()

    def write(self) -> None:
        """Write what was found so far."""
        if self.file is not None:
            found = {"results": self.results, "failures": self.failures}
            self.file.write_text(json.dumps(self.about | found, indent=1) + "\n")

    @cached_property
    def about(self) -> dict[str, Any]:
        """The date, the machine and the versions, which take a second to find."""
        about = circumstances(self.rounds) | {"torch": self.torch.__version__}
        return about | {"gpu": self.name()}

    def show(self, case: str, values: dict[str, Any], unit: str = "us", dtype: str = "") -> None:
        """Keep and print a line: values, and each as a multiple of the first."""
        row = {"part": self.part, "case": case, "dtype": dtype, "unit": unit, "values": values}
        self.results.append(row)
        first = next(iter(values.values()))
        cells = [f"{label} {number(value)} {unit}{multiple(value, first)}" for label, value in values.items()]
        print("  ".join([f"{case} {dtype}".ljust(36), *cells]), flush=True)

    def kernels(self, case: str, calls: dict[str, Call], dtype: str = "") -> None:
        """Show the times that calls take on the GPU."""
        self.check_time()
        samples: dict[str, list[tuple[Any, Any]]] = {label: [] for label in calls}
        for turn in range(self.rounds + 2):
            for label, call in calls.items():
                start, end = self.event(), self.event()
                for _ in range(2):  # long enough for Python to start what is timed
                    self._buffer.zero_()
                start.record()
                call()
                end.record()
                if turn > 1:  # the first two compile, take memory and warm up
                    samples[label].append((start, end))
            if turn < 2:
                self.synchronize()
        self.synchronize()
        times = {label: [1e3 * a.elapsed_time(b) for a, b in pairs] for label, pairs in samples.items()}
        self.show(case, {label: statistics.median(sample) for label, sample in times.items()}, dtype=dtype)

    def host(self, case: str, calls: dict[str, Call]) -> None:
        """Show the times that calls take in Python, which doesn't wait for the GPU in a loop."""
        loop = 3 if self.small else 200
        times = self.turns(calls, loop, False)
        self.show(case, {label: 1e6 * seconds for label, seconds in times.items()})

    def turns(
        self, calls: dict[str, Call], loop: int, with_the_gpu: bool, within: dict[str, Any] | None = None
    ) -> dict[str, float]:
        """The median seconds of a call, in loops of so many; in the time is the GPU's, or Python's alone."""
        samples: dict[str, list[float]] = {label: [] for label in calls}
        for turn in range(self.rounds + 1):
            self.check_time()
            for label, call in calls.items():
                with (within or {}).get(label, nullcontext)():
                    call()
                    self.synchronize()
                    start = time.perf_counter()
                    for _ in range(loop):
                        call()
                    if with_the_gpu:
                        self.synchronize()
                    seconds = time.perf_counter() - start
                    self.synchronize()
                if turn:
                    samples[label].append(seconds / loop)
        return {label: statistics.median(sample) for label, sample in samples.items()}

    def randn(self, *shape: int, dtype: str = "float32") -> Any:
        """A tensor of normals."""
        return self.torch.randn(shape, dtype=getattr(self.torch, dtype), device=self.device)

    def dtypes(self, all_of_them: Iterable[str]) -> list[str]:
        """The dtypes to measure."""
        return ["float32"] if self.small else list(all_of_them)

    # What only a machine with a GPU can do; tests put something else in its place.

    def name(self) -> str:
        """The name of the GPU."""
        return str(self.torch.cuda.get_device_name())

    def event(self) -> Any:
        """An event that notes its time."""
        return self.torch.cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        """Wait for the GPU."""
        self.torch.cuda.synchronize()

    def compiled(self, function: Any, **options: Any) -> Any:
        """A function or module that PyTorch compiles, as often as there are dtypes and shapes."""
        self.torch._dynamo.config.cache_size_limit = 64
        return self.torch.compile(function, **options)

    def captured(self, step: Callable[[], tuple[Any, ...]]) -> tuple[Call, tuple[Any, ...]]:
        """What replays a step that was captured as a CUDA graph, and the tensors that replays write."""
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                step()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            found = step()
        return graph.replay, found

    def peak(self, step: Call) -> float:
        """How many MiB a step takes on the GPU at most, beside what was taken before."""
        cuda = self.torch.cuda
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        step()
        self.synchronize()
        return float(cuda.max_memory_allocated() - before) / (1 << 20)


def number(value: Any) -> str:
    """A value as a line has it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def multiple(value: Any, first: Any) -> str:
    """A value as a multiple of a line's first, if both are measured."""
    return (
        f" ({value / first:.2f}x)" if isinstance(value, float) and isinstance(first, float) and first else ""
    )


def tests(visit: Visit) -> None:
    """The tests on a GPU, against the reference and the CPU's kernels."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    command += ["-n", "auto"] if find_spec("xdist") else []  # most of their time is Numba's
    done = subprocess.run([*command, *visit.tests], cwd=FOLDER, timeout=visit.left, check=False)
    visit.show("tests", {"exit status": done.returncode}, "")
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}")


def grid(
    visit: Visit, dtypes: Iterable[str], powers: Iterable[int], calls: Callable[[int, str], dict[str, Call]]
) -> None:
    """Show the times of calls that are made for a size and a dtype."""
    for dtype in visit.dtypes(dtypes):
        for power in (5,) if visit.small else powers:
            visit.check_time()
            visit.kernels(f"2^{power}", calls(1 << power, dtype), dtype)


def dropout(visit: Visit) -> None:
    """Dropout of all elements, beside PyTorch's own, whose time doesn't depend on p."""
    theirs = visit.torch.nn.functional.dropout
    compiled = visit.compiled(lambda x: theirs(x, P), dynamic=True)

    def calls(size: int, dtype: str) -> dict[str, Call]:
        x, y = visit.randn(size, dtype=dtype), visit.randn(size, dtype=dtype)
        return {
            "copy": lambda: y.copy_(x),
            "p=.5": lambda: fd.dropout(x, 0.5, KEY, out=y),
            "p=.1": lambda: fd.dropout(x, P, KEY, out=y),
            "eager": lambda: theirs(x, P),
            "compiled": lambda: compiled(x),
        }

    grid(visit, DTYPES, (16, 20, 22, 24, 26, 28), calls)


def add(visit: Visit) -> None:
    """dropout_add, beside an add alone."""
    torch, theirs = visit.torch, visit.torch.nn.functional.dropout
    compiled = visit.compiled(lambda x, r: r + theirs(x, P), dynamic=True)

    def calls(size: int, dtype: str) -> dict[str, Call]:
        x, r, y = (visit.randn(size, dtype=dtype) for _ in range(3))
        return {
            "add": lambda: torch.add(r, x, out=y),
            "dropout_add": lambda: fd.dropout_add(x, r, P, KEY, out=y),
            "eager": lambda: r + theirs(x, P),
            "compiled": lambda: compiled(x, r),
        }

    grid(visit, TWO_DTYPES, (22, 26), calls)


def gelu(visit: Visit) -> None:
    """bias_act_dropout with gelu, rows of 4,096."""
    f = visit.torch.nn.functional
    compiled = visit.compiled(lambda x, b: f.dropout(f.gelu(x + b), P), dynamic=True)

    def calls(size: int, dtype: str) -> dict[str, Call]:
        width = min(size, 4096)
        x, b = visit.randn(size // width, width, dtype=dtype), visit.randn(width, dtype=dtype)
        y = visit.randn(*x.shape, dtype=dtype)
        return {
            "copy": lambda: y.copy_(x),
            "bias_act_dropout": lambda: fd.bias_act_dropout(x, b, P, KEY, activation="gelu", out=y),
            "eager": lambda: f.dropout(f.gelu(x + b), P),
            "compiled": lambda: compiled(x, b),
        }

    grid(visit, TWO_DTYPES, (22, 26), calls)


def gaussian(visit: Visit) -> None:
    """Gaussian dropout, beside products with torch.randn_like."""
    torch, std = visit.torch, float(np.sqrt(P / (1 - P)))
    compiled = visit.compiled(lambda x: x * (1 + std * torch.randn_like(x)), dynamic=True)

    def calls(size: int, dtype: str) -> dict[str, Call]:
        x, y = visit.randn(size, dtype=dtype), visit.randn(size, dtype=dtype)
        return {
            "copy": lambda: y.copy_(x),
            "gaussian_dropout": lambda: fd.gaussian_dropout(x, P, KEY, out=y),
            "eager": lambda: x * (1 + std * torch.randn_like(x)),
            "compiled": lambda: compiled(x),
        }

    grid(visit, DTYPES, (22, 26), calls)


def learned(visit: Visit) -> None:
    """Concrete dropout and its gradients, of a logit on the host or the GPU, beside PyTorch's formula."""
    torch = visit.torch

    def theirs(x: Any, logit: Any) -> Any:
        u = torch.rand_like(x)
        z = torch.sigmoid((logit + torch.log(u / (1 - u))) / 0.1)
        return x * (1 - z) / (1 - torch.sigmoid(logit))

    compiled = visit.compiled(theirs, dynamic=True)

    def calls(size: int, dtype: str) -> dict[str, Call]:
        x, g, y = (visit.randn(size, dtype=dtype) for _ in range(3))
        logit, leaf = visit.randn(), visit.randn(size, dtype=dtype).requires_grad_()
        learns = visit.randn(dtype=dtype).requires_grad_()

        def both(function: Any) -> Call:
            return lambda: torch.autograd.grad(function(leaf, learns), (leaf, learns), g)

        return {
            "copy": lambda: y.copy_(x),
            "concrete_dropout": lambda: fd.concrete_dropout(x, 0.0, KEY, out=y),
            "backward": lambda: fd.concrete_dropout_backward(g, x, 0.0, KEY, out=y),
            "backward, logit there": lambda: fd.concrete_dropout_backward(g, x, logit, KEY, out=y),
            "both, eager": both(theirs),
            "both, compiled": both(compiled),
        }

    grid(visit, TWO_DTYPES, (22, 26), calls)


def units(visit: Visit) -> None:
    """Feature maps (64, 256, 56, 56) that share draws, beside a product with a mask that broadcasts."""
    shape = (2, 4, 4, 4) if visit.small else (64, 256, 56, 56)
    rates = visit.randn(1, shape[1], 1, 1).sigmoid_().mul_(0.4).add_(0.1)
    theirs = visit.torch.nn.functional.dropout
    compiled = visit.compiled(lambda x, ones: x * theirs(ones, P), dynamic=True)

    def calls(dtype: str, p: Any, axes: tuple[int, ...]) -> dict[str, Call]:
        x, y = visit.randn(*shape, dtype=dtype), visit.randn(*shape, dtype=dtype)
        reduced = [1 if axis in axes else length for axis, length in enumerate(shape)]
        ones = visit.torch.ones(reduced, dtype=x.dtype, device=visit.device)
        return {
            "copy": lambda: y.copy_(x),
            "dropout": lambda: fd.dropout(x, p, KEY, shared_axes=axes, out=y),
            "eager": lambda: x * theirs(ones, P),
            "compiled": lambda: compiled(x, ones),
        }

    for dtype in visit.dtypes(TWO_DTYPES):
        for axes in ((2, 3), (1,), (0,), (3,)):
            visit.kernels(f"shared {axes}", calls(dtype, P, axes), dtype)
        visit.kernels("p by channel", calls(dtype, rates, ()), dtype)  # theirs with one p


def masks(visit: Visit) -> None:
    """Masks of one's own, and the mask of dropout itself, beside PyTorch's products and draws."""
    torch = visit.torch

    def calls(size: int, dtype: str) -> dict[str, Call]:
        x, y = visit.randn(size, dtype=dtype), visit.randn(size, dtype=dtype)
        mask = visit.randn(size) > 0
        bits = torch.full((-(-size // 8),), 0xAA, dtype=torch.uint8, device=visit.device)
        return {
            "copy": lambda: y.copy_(x),
            "apply_mask": lambda: fd.apply_mask(x, mask, 0.5, out=y),
            "apply_mask, packed": lambda: fd.apply_mask(x, bits, 0.5, packed=True, out=y),
            "x * mask * 2": lambda: x * mask * 2,
            "keep_mask": lambda: fd.keep_mask(size, P, KEY, out=mask),
            "keep_mask, packed": lambda: fd.keep_mask(size, P, KEY, packed=True, out=bits),
            "bernoulli_": lambda: mask.bernoulli_(1 - P),
        }

    grid(visit, TWO_DTYPES, (22, 26), calls)


def python(visit: Visit) -> None:
    """Python's time of a call on 1,024 elements."""
    import fastdrop.torch as fdt

    torch, nn = visit.torch, visit.torch.nn
    x, y, g = (visit.randn(1024) for _ in range(3))
    layer = fd.Dropout(P, rng=0)
    ours, theirs, leaf = fdt.Dropout(P), nn.Dropout(P), visit.randn(1024).requires_grad_()

    def both(module: Any) -> Call:
        return lambda: torch.autograd.grad(module(leaf), leaf, g)

    functions: dict[str, Call] = {
        "F.dropout": lambda: nn.functional.dropout(x, P),
        "fd.dropout, out": lambda: fd.dropout(x, P, KEY, out=y),
        "fd.Dropout": lambda: layer(x),
        "fd.gaussian_dropout, out": lambda: fd.gaussian_dropout(x, P, KEY, out=y),
    }
    visit.host("functions and layers", functions)
    visit.host("forward", {"torch.nn": lambda: theirs(x), "fastdrop.torch": lambda: ours(x)})
    visit.host("forward and backward", {"torch.nn": both(theirs), "fastdrop.torch": both(ours)})


def graphs(visit: Visit) -> None:
    """Replays of a captured step draw other masks, which their own gradients have too."""
    import fastdrop.torch as fdt

    torch, module = visit.torch, fdt.Dropout(0.5)
    x = torch.ones(4096, device=visit.device, requires_grad=True)

    def step() -> tuple[Any, Any]:
        y = module(x)
        return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    replay, outputs = visit.captured(step)
    fit(visit, "torch.cuda.graph", replay, outputs)
    visit.check_time()
    x_and_more = visit.compiled(lambda x: 2 * module(x), mode="reduce-overhead")
    outputs = torch.empty(4096, device=visit.device), torch.empty(4096, device=visit.device)

    def compiled() -> None:
        y = x_and_more(x)
        (g,) = torch.autograd.grad(y.sum(), x)
        outputs[0].copy_(y.detach()), outputs[1].copy_(g)

    for _ in range(3):  # to warm up, and to record
        compiled()
    fit(visit, "reduce-overhead", compiled, outputs)


def fit(visit: Visit, case: str, replay: Call, outputs: tuple[Any, ...]) -> None:
    """Show whether two replays differ, and whether gradients with respect to ones are the outputs."""
    found = []
    for _ in range(2):
        replay()
        visit.synchronize()
        found.append([output.clone() for output in outputs])
    (y, dy), (z, dz) = found
    fair = all(0.4 < float((each == 0).float().mean()) < 0.6 for each in (y, z))
    same = visit.torch.equal
    values = {
        "masks differ": not same(y, z),
        "gradients fit": same(y, dy) and same(z, dz),
        "half dropped": fair,
    }
    visit.show(case, values, "")
    if not all(values.values()):
        raise AssertionError(f"{case}: {values}")


def models(visit: Visit) -> dict[str, Callable[[], Any]]:
    """What makes a GPT with each kind of dropout."""
    import fastdrop.torch as fdt

    torch, nn, f = visit.torch, visit.torch.nn, visit.torch.nn.functional
    layers, width, heads, words, length = (1, 8, 2, 16, 8) if visit.small else (12, 768, 12, 50304, 1024)

    class Join(nn.Module):
        """A residual and what dropout leaves of a branch."""

        def __init__(self, drop: Any) -> None:
            super().__init__()
            self.drop = drop()

        def forward(self, x: Any, y: Any) -> Any:
            return x + self.drop(y)

    class Fused(nn.Module):
        """The same in one pass."""

        def __init__(self, drop: Any) -> None:
            super().__init__()
            self.key = fd.Key(0).fold_in(id(self))

        def forward(self, x: Any, y: Any) -> Any:
            self.key = self.key.next()
            return (
                fdt.dropout_add(y, x, P, self.key) if y.dtype == x.dtype else x + fdt.dropout(y, P, self.key)
            )

    class Block(nn.Module):
        """Attention and two linear layers, each with a residual."""

        def __init__(self, join: Any, drop: Any) -> None:
            super().__init__()
            self.norm, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            self.join, self.join_2 = join(drop), join(drop)

        def forward(self, x: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = self.qkv(self.norm(x)).view(n, t, 3, heads, -1).permute(2, 0, 3, 1, 4)
            y = f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, width)
            x = self.join(x, self.project(y))
            return self.join_2(x, self.think(self.norm_2(x)))

    class GPT(nn.Module):
        """A language model with its loss; what flows from block to block is bfloat16."""

        def __init__(self, drop: Any, join: Any = Join) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
            self.drop = drop()
            self.blocks = nn.ModuleList(Block(join, drop) for _ in range(layers))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

        def forward(self, text: Any, following: Any) -> Any:
            places = torch.arange(text.shape[1], device=text.device)
            x = self.drop((self.embed(text) + self.place(places)).bfloat16())
            for block in self.blocks:
                x = block(x)
            return f.cross_entropy(self.head(self.norm(x)).flatten(0, 1), following.flatten())

    return {
        "p=0": lambda: GPT(nn.Identity),
        "torch.nn": lambda: GPT(lambda: nn.Dropout(P)),
        "fastdrop.torch": lambda: GPT(lambda: fdt.Dropout(P)),
        "install()": lambda: GPT(lambda: nn.Dropout(P)),
        "dropout_add": lambda: GPT(lambda: fdt.Dropout(P), Fused),
    }


def training(visit: Visit, model: Any, batch: Any) -> Call:
    """A training step with a fused AdamW, under autocast to bfloat16."""
    torch = visit.torch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(visit.device, torch.bfloat16):
            loss = model(*batch)
        loss.backward()
        optimizer.step()

    return step


def texts(visit: Visit, count: int) -> Any:
    """Texts of random words, and the words that follow."""
    length, words = (8, 16) if visit.small else (1024, 50304)
    return visit.torch.randint(words, (2, 2 if visit.small else count, length), device=visit.device).unbind()


def steps(visit: Visit, makes: dict[str, Callable[[], Any]], counts: Iterable[int], what: str = "") -> None:
    """Show the time of training steps of models by the number of texts, and their peak memory."""
    import fastdrop.torch as fdt

    rounds, visit.rounds = visit.rounds, min(visit.rounds, 5)
    built = {label: make().to(visit.device) for label, make in makes.items()}
    within = {"install()": fdt.install}
    try:
        for count in counts:
            calls = {label: training(visit, model, texts(visit, count)) for label, model in built.items()}
            times = visit.turns(calls, 1 if visit.small else 4, True, within)
            case = f"{count} x 1024{what}"
            visit.show(case, {label: 1e3 * seconds for label, seconds in times.items()}, "ms")
            peaks = {}
            for label, call in calls.items():
                with within.get(label, nullcontext)():
                    peaks[label] = visit.peak(call)
            visit.show(f"{case}, peak memory", peaks, "MiB")
    finally:
        visit.rounds = rounds


def gpt(visit: Visit) -> None:
    """A training step of a GPT of 12 layers and width 768, bfloat16 by autocast, p = .1."""
    visit.torch.manual_seed(0)
    steps(visit, models(visit), (8, 32))


def compiled_gpt(visit: Visit) -> None:
    """The same step with blocks that torch.compile made."""

    def blockwise(make: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Any:
            model = make()
            for place, block in enumerate(model.blocks):
                model.blocks[place] = visit.compiled(block)
            return model

        return made

    makes = models(visit)
    chosen = {label: blockwise(makes[label]) for label in ("p=0", "torch.nn", "fastdrop.torch")}
    steps(visit, chosen, (8, 32), ", compiled")


FIRST = """
import sys, time, torch
x = torch.ones(1 << 20, device=sys.argv[1])
x.add(1).sum().item()
start = time.perf_counter()
import fastdrop.torch as fdt
imported = time.perf_counter()
fdt.dropout(x, 0.5, 0)
if x.is_cuda:
    torch.cuda.synchronize()
print(imported - start, time.perf_counter() - imported)
"""


def first_call(visit: Visit) -> None:
    """The first call in a fresh process, beyond the CUDA context, with an empty cache and with a warm one."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        for cache in ("empty", "warm"):
            visit.check_time()
            command = [sys.executable, "-c", FIRST, visit.device]
            said = subprocess.check_output(
                command, env=environment, cwd=FOLDER, timeout=max(visit.left, 1), text=True
            )
            imported, called = map(float, said.split())
            visit.show(f"{cache} cache", {"import": imported, "first call": called}, "s")


# in the order of their importance, and the seconds each may take: 1.25 times the most it took, or more
PARTS = {
    tests: TESTS_MAY_TAKE,
    dropout: 40.0,
    python: 10.0,
    add: 20.0,
    gelu: 20.0,
    gaussian: 15.0,
    learned: 15.0,
    units: 20.0,
    first_call: 25.0,
    graphs: 15.0,
    masks: 10.0,
    gpt: 50.0,
    compiled_gpt: 50.0,
}


def why_not() -> str | None:
    """Why nothing can be run here, if so."""
    try:
        import cuda.core  # noqa: F401
        import numba_cuda  # noqa: F401
        import torch
    except ImportError as error:
        return f"{error}; {how_to_install('torch' if error.name == 'torch' else 'cuda')}"
    return None if torch.cuda.is_available() else "PyTorch finds no GPU"


def main(arguments: list[str] | None = None, make: Callable[..., Visit] = Visit) -> int:
    """Do the parts; return how many failed."""
    parser = argparse.ArgumentParser(description="checks and benchmarks on a GPU")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--small", action="store_true", help="tiny arrays, to see that it runs")
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS], help="these parts")
    parser.add_argument("--json", type=Path, help="a file for the results; of all parts the manual's")
    chosen = parser.parse_args(arguments)
    reason = why_not() if make is Visit else None
    if reason:
        print(f"skipped: {reason}")
        return 0
    partly = chosen.small or chosen.only or chosen.skip_tests
    visit = make(chosen.rounds, chosen.small, chosen.json or (None if partly else RESULTS))
    print(f"{visit.name()}; medians of {chosen.rounds}, and multiples of a line's first")
    for part, seconds in PARTS.items():
        wanted = part.__name__ in chosen.only if chosen.only else not (chosen.skip_tests and part is tests)
        if wanted:
            visit.do(part, seconds)
    print(*(["", "failed:", *visit.failures] if visit.failures else ["", "nothing failed"]), sep="\n")
    return len(visit.failures)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
