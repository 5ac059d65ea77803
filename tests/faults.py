"""Plant faults one at a time in a copy of the package, and say which test finds each.

``python tests/faults.py`` tries all, ``python tests/faults.py mirror tail`` those whose names have one of
these words. It prints a row of a table for each, and ends with an error if a fault was not found. With
``--all`` it runs all that `make test` runs, not only the files that are named here. The table in
tests/README.md is what it printed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
AS_MAKE_TEST = "-m", "not slow", "--hypothesis-profile=quick"


class Fault(NamedTuple):
    """A fault: what it is called, the text it replaces in a file of the package, and who should find it."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


FAULTS = [
    # _stream
    Fault(
        "a key is used twice",
        "_stream/keys.py",
        "draw += 1",
        "draw += draw % 2",
        "tests/stream/test_keys.py",
    ),
    Fault(
        "a folded key ignores the draw",
        "_stream/keys.py",
        "spawn_key = (self.draw & ~_MIRROR, number)",
        "spawn_key = (0, number)",
        "tests/stream/test_keys.py",
    ),
    Fault(
        "the last round has the key of the one before",
        "_stream/philox.py",
        "k0 + WEYL_0[8], k1 + WEYL_1[8]",
        "k0 + WEYL_0[7], k1 + WEYL_1[7]",
        "tests/stream/test_philox.py",
    ),
    # _lanes
    Fault(
        "every other plane is left out",
        "_lanes/draws.py",
        "        plane += np.uint64(1)",
        "        plane += np.uint64(2)",
        "tests/noises/test_bernoulli.py",
    ),
    Fault(
        "a mirrored threshold is one too low",
        "_lanes/draws.py",
        "np.uint32(-threshold)",
        "np.uint32(~threshold)",
        "tests/noises/test_bernoulli.py::test_a_threshold_is_exact",
    ),
    Fault(
        "dropped elements are multiplied by 0, not selected",
        "_lanes/formulas.py",
        "    return zero_where(dropped, x * scale)",
        "    return x * scale * zero_where(dropped, splat_like(1.0, x))",
        "tests/noises/test_bernoulli.py::test_nan_and_inf_vanish_where_dropped_and_stay_where_kept",
    ),
    Fault(
        "the derivative of gelu_tanh has the weight of the cube twice, not three times",
        "_lanes/formulas.py",
        "(3 * _CUBE)",
        "(2 * _CUBE)",
        "tests/noises/test_fused.py::test_gradients_are_central_differences",
    ),
    Fault(
        "the slope of the relaxed mask has a sign too many",
        "_lanes/formulas.py",
        "(splat_like(numbers[4], x) - dropped * numbers[0])",
        "(splat_like(numbers[4], x) + dropped * numbers[0])",
        "tests/noises/test_concrete.py::test_gradients_are_central_differences",
    ),
    # _arrays
    Fault(
        "scales are those of what is dropped",
        "_arrays/numbers.py",
        "return threshold, FULL / max(FULL - threshold, 1)",
        "return threshold, FULL / max(threshold, 1)",
        "tests/noises/test_bernoulli.py::test_equals_the_reference_for_every_rate",
    ),
    Fault(
        "a remembered layout is that of another window",
        "_arrays/plan.py",
        "None if window is None else _numbers_of_window(window)\n",
        "None if window is None else (_numbers_of_window(window)[0], (0,) * len(shape))\n",
        "tests/noises/test_bernoulli.py::test_any_window_has_the_bits_of_the_whole",
    ),
    Fault(
        "an output may be a shifted view of the input",
        "_arrays/host.py",
        "if not _same_elements(x, out) and np.shares_memory(x, out):",
        "if False:",
        "tests/noises/test_bernoulli.py::test_refuses_outputs_that_do_not_fit",
    ),
    Fault(
        "a library isn't told to wait for a result",
        "_arrays/dlpack.py",
        "if stream not in _NO_WAITING:",
        "if False:",
        "tests/kernels/test_dlpack.py::test_streams",
    ),
    # _cpu
    Fault(
        "a tail is one element too long",
        "_cpu/bernoulli.py",
        "(places < np.uint64(last))",
        "(places <= np.uint64(last))",
        "tests/kernels/test_bernoulli.py::test_nothing_outside_is_written tests/kernels/test_bounds.py",
    ),
    Fault(
        "a row of a tile has the rate of the one before",
        "_cpu/by_element.py",
        "thresholds[i], rows_of_tile(first, ends[i])",
        "thresholds[max(i - 1, 0)], rows_of_tile(first, ends[i])",
        "tests/kernels/test_blocks.py",
    ),
    Fault(
        "the bits of columns are those of the next ones",
        "_cpu/columns.py",
        "at = place + row * columns",
        "at = place + row * columns + 1",
        "tests/kernels/test_blocks.py",
    ),
    Fault(
        "rows of a window follow each other without their stride",
        "_cpu/run.py",
        "rows.start + row * rows.stride)",
        "rows.start + row)",
        "tests/kernels/test_blocks.py::test_every_call_is_the_reference",
    ),
    Fault(
        "what comes after a row's end counts in its sum",
        "_cpu/softmax.py",
        "a = a + zero_where(~inside, v)",
        "a = a + v",
        "tests/integrations/test_torch_softmax.py",
    ),
    Fault(
        "a row's slopes keep their mean",
        "_cpu/softmax.py",
        "fma(absolute(weight), splat_like(mean, weight), product)",
        "product",
        "tests/integrations/test_torch_softmax.py",
    ),
    Fault(
        "a helper loses a piece of a shared call",
        "_cpu/team.py",
        "_add(_at(request, HELPED), _work(request))",
        "_add(_at(request, HELPED), _add(_at(request, NEXT_PIECE), 1) * 0 + _work(request))",
        "tests/kernels/test_helpers.py",
    ),
    Fault(
        "the stamp of cached code leaves out a folder",
        "_lanes/disk.py",
        '"_arrays", "_cpu", "_lanes", "_stream"',
        '"_arrays", "_cpu", "_stream"',
        "tests/kernels/test_bernoulli.py::test_the_stamp_covers_every_file_that_kernels_come_from",
    ),
    # _cuda
    Fault(
        "a thread takes another word of its block",
        "_cuda/lane.py",
        "np.uint64(place % np.uint32(8)), place // np.uint32(8) % np.uint32(4)",
        "np.uint64(place % np.uint32(8)), place // np.uint32(8) % np.uint32(2)",
        "tests/kernels/test_lane.py::test_masks",
    ),
    Fault(
        "a warp leaves out its last element",
        "_cuda/places.py",
        "min(max(first + length - at, 0), size)",
        "min(max(first + length - at - 1, 0), size)",
        "tests/kernels/test_lane.py::test_every_element_has_one_warp",
    ),
    Fault(
        "lanes exchange the digits of each other's words in the wrong order",
        "_cuda/warp.py",
        "_among_words = transposition(8, 16)",
        "_among_words = transposition(16, 8)",
        "tests/kernels/test_lane.py::test_a_warp_draws_a_tile",
    ),
    Fault(
        "the bias of a lane is one step late at the end of a row",
        "_cuda/places.py",
        "where(after >= period",
        "where(after > period",
        "tests/kernels/test_cuda.py::test_bias_act_dropout",
    ),
    # _backends
    Fault(
        "a pass ignores the scale of its own",
        "_backends.py",
        "backend.fuse(what, plan, threshold, scale if what.scale is None else what.scale, words(key))",
        "backend.fuse(what, plan, threshold, scale, words(key))",
        "tests/noises/test_alpha.py",
    ),
    Fault(
        "an array may be in memory while x is on a GPU",
        "_backends.py",
        "    if of(other) is not arrays:",
        "    if False:",
        "tests/kernels/test_cuda.py::test_refusals",
    ),
    # layers and noises
    Fault(
        "a backward is that of the first forward",
        "_noises/_layer.py",
        "self._forwards[-1] if",
        "self._forwards[0] if",
        "tests/noises/test_machine.py",
    ),
    Fault(
        "forwards before a loaded state are remembered",
        "_noises/_layer.py",
        "self._forwards, self._older, self._bytes, self._evaluated = deque(), 0, 0, None",
        "self._bytes = 0",
        "tests/noises/test_machine.py",
    ),
    Fault(
        "the gradient of alpha dropout has the kept elements' shift",
        "_noises/alpha.py",
        "what = _passes(p)[1]",
        "what = _passes(p)[0]",
        "tests/noises/test_alpha.py",
    ),
    Fault(
        "a schedule is a step late",
        "schedules.py",
        "return self.p * step / self.steps if",
        "return self.p * max(step - 1, 0) / self.steps if",
        "tests/noises/test_schedules.py",
    ),
    # torch, dask, autograd
    Fault(
        "the gradients of zoneout are exchanged",
        "torch/_noises.py",
        '"zoneout_new", "zoneout_previous"),',
        '"zoneout_previous", "zoneout_new"),',
        "tests/integrations/test_torch_pairs.py::test_zoneout_is_that_of_arrays_bit_for_bit",
    ),
    Fault(
        "a key loses its draw on its way through a tensor",
        "torch/_keys.py",
        "        return Key(seed[0], draw)",
        "        return Key(seed[0], 0)",
        "tests/integrations/test_torch.py::test_keys_go_through_tensors",
    ),
    Fault(
        "each chunk has the draws of the first",
        "dask.py",
        "tuple(start for start, _ in origin)",
        "tuple(0 * start for start, _ in origin)",
        "tests/integrations/test_dask.py::test_bits_are_those_of_numpy",
    ),
    Fault(
        "a gradient is that of the input, not of the output's gradient",
        "autograd.py",
        "{first: traced(**{**arguments, first: g})})",
        "{first: traced(**arguments)})",
        "tests/integrations/test_autograd.py::test_gradients_are_central_differences",
    ),
    # tools and training
    Fault(
        "parts of the stream overlap",
        "_tools/bits.py",
        "yield key, n * size",
        "yield key, n * (size - 4)",
        "tests/tools/test_bits.py",
    ),
    Fault(
        "the self-test never fails",
        "_tools/selftest.py",
        "    if not right:",
        "    if False:",
        "tests/tools/test_selftest.py::test_each_check_sees_a_fault",
    ),
]


def run(copy, tests):
    """Run tests of the copy; return the first that fails, or nothing, and the summary."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *AS_MAKE_TEST, "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    # a parameter's name may have spaces; after " - " comes the error
    first = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", found.stdout, re.MULTILINE)
    lines = (found.stdout + found.stderr).strip().splitlines()
    return first and first[1], lines[-1] if lines else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="parts of faults' names")
    parser.add_argument("--all", action="store_true", help="run all that make test runs")
    options = parser.parse_args()
    chosen = [f for f in FAULTS if not options.words or any(word in f.name for word in options.words)]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "out")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for fault in chosen:
            path = copy / "fastdrop" / fault.file
            text = path.read_text(encoding="utf-8")
            if text.count(fault.right) != 1:
                raise SystemExit(
                    f"{fault.file} must have {fault.right!r} once, got {text.count(fault.right)}"
                )
            path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")
            first, summary = run(copy, [] if options.all else fault.tests.split())
            path.write_text(text, encoding="utf-8")
            missed += first is None
            name = f"`{first.removeprefix('tests/')}`" if first else f"NOT FOUND: {summary}"
            print(f"| {fault.file} | {fault.name} | {name} |", flush=True)
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
