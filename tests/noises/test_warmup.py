"""Compilation in advance: what `warmup` says, and that nothing is left to compile after it."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import fastdrop as fd
from fastdrop._lanes import disk
from fastdrop._noises import _warmup
from fastdrop._noises._noise import NOISES

# After a warmup, each kernel is printed that the cache is asked for.
WARM = """
import sys
import numpy as np, fastdrop as fd
from fastdrop._cpu import compiled
from inspect import signature

fd.warmup({options})

def load(cache, signature, context):
    # what is neither in memory nor the code of such arrays that can be written
    if cache._dispatcher is None or compiled._writable(signature) == signature:
        print(cache._described(signature))
    return loaded(cache, signature, context)

loaded, compiled._Cache.load_overload = compiled._Cache.load_overload, load
"""

# Everything public that has kernels, on arrays of other shapes than those of `warmup`.
EVERYTHING = """
from every_layer import CASES
from every_noise import FUNCTIONS, arguments, backward_arguments

PLACES = np.arange(85).reshape(5, 17) ** 2

def call(noise, given, **options):
    print("#", noise.name, *options, file=sys.stderr)
    y = noise.function(**given, key=1, **options)
    if noise.backward:
        known = signature(noise.backward).parameters
        options = {name: value for name, value in options.items() if name in known}
        noise.backward(**backward_arguments(noise, given, np.ones_like(y)), key=1, **options)

for noise in FUNCTIONS:
    given, known = arguments(noise, (5, 17)), signature(noise.function).parameters
    rows = 3 * np.arange(len(given[noise.first]))[::-1]
    call(noise, given)
    for name in ("none", "gelu") if "activation" in known else ():
        call(noise, given, activation=name)
        call(noise, given, activation=name, residual=given["x"], shared_axes=1)
    for axes in (0, 1, (0, 1)) if "shared_axes" in known else ():
        call(noise, given, shared_axes=axes)
    for shape in ((5, 17), (17,), (5, 1)) if noise.by_element and "shared_axes" in known else ():
        for real in (np.float32, np.float64):
            by_rates = given | {noise.rate: np.full(shape, 0.3, real)}
            call(noise, by_rates)
            if "rows" in known:
                call(noise, by_rates, rows=rows)
                call(noise, by_rates, indices=PLACES)
    if "rows" in known:
        call(noise, given, rows=rows)
    if "indices" in known:
        call(noise, given, indices=PLACES)
for kind, case in CASES.items():
    print("#", kind.__name__, file=sys.stderr)
    layer = case.make(1)
    layer.backward(np.ones_like(layer(*case.arguments())))
    layer.eval()(*case.arguments())
fd.RecurrentDropout(0.3, 0.3, rng=1)().recurrent(np.ones((4, 5), np.float32))
fd.normal((3, 5), 1, dtype=np.float32), fd.surviving_rows(9, 0.3, 1)
for p in (0.3, np.full((5, 17), 0.3), np.full((5, 17), np.float32(0.3))):
    fd.keep_mask((5, 17), p, 1), fd.keep_mask((5, 17), p, 1, packed=True)
    fd.keep_mask((5, 17), p, 1, rows=np.arange(5)), fd.keep_mask((5, 17), p, 1, indices=PLACES)
fd.keep_mask((5, 1024), np.full((5, 1), np.float32(0.3)), 1)
fd.keep_mask((5, 17), 0.3, 1, shared_axes=0), fd.keep_mask((5, 17), 0.3, 1, shared_axes=1)
fd.dropout(np.ones((5, 1024), np.float32), np.full((5, 1), np.float32(0.3)), 1)
fd.standout_keep_prob(np.ones(9, np.float32))
fd.apply_mask(np.ones(9, np.float32), np.ones(2, np.uint8), 0.5, packed=True)
fd.apply_mask(np.ones(9, np.float32), np.ones(9, bool), 0.5)
fixed = np.broadcast_to(np.float32(1), (5, 7))
fd.dropout(fixed, 0.3, 1), fd.dropout(np.asfortranarray(fixed), 0.3, 1)
fd.dropout(np.ones((5, 7), np.float32), 0.3, 1, window=((9, 9), (1, 1)))
"""


def run(script, **environment):
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
    )


def test_nothing_is_left_to_compile():
    """Nor to read: a process that has all code in memory asks the cache for none, whatever that has."""
    assert asked_after("processes=1", EVERYTHING) == ""


def asked_after(options, calls):
    """The kernels that calls ask the cache for, after a warmup with some options."""
    found = run(WARM.format(options=options) + calls)
    assert found.returncode == 0, found.stderr
    return found.stdout


# Dropout and attention in blocks, with their gradients, in a dtype.
OF_TENSORS = """
import torch, fastdrop.torch as fdt

real = torch.{dtype}
x, q = torch.ones(9, dtype=real, requires_grad=True), torch.ones(300, 2, dtype=real, requires_grad=True)
fdt.dropout(x, 0.5, 1).sum().backward(), fdt.Dropout(0.5)(x).sum().backward()
fdt.scaled_dot_product_attention(q, q, q, dropout_p=0.5).sum().backward()
"""


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_nothing_is_left_to_compile_for_tensors(dtype):
    pytest.importorskip("fastdrop.torch")
    options = f"'gaussian_noise', dtype='{dtype}', torch=True, processes=1"
    assert asked_after(options, OF_TENSORS.format(dtype=dtype)) == ""


def test_tensors_need_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastdrop.torch", None)
    with pytest.raises(ImportError):
        fd.warmup("gaussian_noise", torch=True)


SOME = """
import logging, sys
import numpy as np, fastdrop as fd
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
fd.warmup("attention", "embedding_dropout", processes={processes})
print("and then")
fd.attention(*np.ones((3, 4, 2), np.float32), 0.5, 0)
fd.embedding_dropout([0, 2], np.ones((3, 4), np.float32), 0.5, 0)
"""


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_some_functions_in_one_process_or_several(processes, tmp_path):
    code = tmp_path / "fastdrop" / disk.directory().name
    code.mkdir(parents=True)
    for name in ("share", "serve", "dismiss_for_good"):  # the helpers', which every process would compile
        for path in disk.directory().glob(f"{name}-*.code"):
            shutil.copy(path, code)
    found = run(SOME.format(processes=processes), NUMBA_CACHE_DIR=str(tmp_path))
    assert (found.returncode, found.stderr) == (0, "")
    before, _, after = found.stdout.partition("and then\n")
    assert "compiling the kernel drop_runs of float32, int64\n" in before
    assert "compiling the kernel units drop 0 of float32\n" in before
    assert not {"noise", "masked", "elements"} & {line.split()[3] for line in before.splitlines()}
    assert after == ""


def test_processes_that_fail_or_cannot_start_leave_the_work_to_this_one(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(_warmup.Job, "run", lambda self: done.append(self.noise))
    monkeypatch.setattr(_warmup, "_WORKER", "import sys; sys.exit(1)")
    fd.warmup("dropout", "zoneout", processes=2)
    assert done == ["dropout", "zoneout"]


def test_where_no_code_can_be_kept_one_process_does_it(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(_warmup.Job, "run", lambda self: done.append(self.noise))
    monkeypatch.setattr(_warmup, "_side_by_side", lambda *_: pytest.fail("other processes were started"))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    fd.warmup("dropout", "zoneout", processes=2)
    assert done == ["dropout", "zoneout"]


def noises(*names, dtype="float32", torch=False):
    return {(job.noise, job.dtype) for job in _warmup.jobs(names, dtype, torch)}


def test_names_and_dtypes():
    assert noises("SpatialDropout2D", "keep_mask") == {("spatial_dropout", "float32"), ("dropout", "float32")}
    assert noises("zoneout_backward", dtype=[np.float64, "bfloat16"]) == {
        ("zoneout", "float64"),
        ("zoneout", "bfloat16"),
    }
    assert {noise for noise, _ in noises()} == set(NOISES)
    assert ("alpha_dropout", "complex64") not in noises(dtype=np.complex64)
    pytest.importorskip("fastdrop.torch")
    assert noises("zoneout", torch=True) == {("zoneout", "float32"), ("fastdrop.torch", "float32")}
    assert ("fastdrop.torch", "complex64") not in noises(dtype=np.complex64, torch=True)


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        (
            ("dropuot",),
            {},
            ValueError,
            "names must be of functions or layers of fastdrop, got 'dropuot'; use 'dropout'$",
        ),
        (("Dropout2d",), {}, ValueError, "got 'Dropout2d'; use 'Dropout'$"),
        (("fd.dropout",), {}, ValueError, "got 'fd.dropout'; use 'dropout'$"),
        (("xyz",), {}, ValueError, "got 'xyz'$"),
        (("max_norm",), {}, ValueError, "must be of what has kernels, got 'max_norm', which has none"),
        (("Scheduler",), {}, ValueError, "got 'Scheduler', which has none; leave it out"),
        ((["dropout"],), {}, TypeError, r"names must be strings, got \['dropout'\]; use warmup\(\*names\)"),
        ((fd.dropout,), {}, TypeError, "names must be strings, got .*; use the names in quotes"),
        (
            ("alpha_dropout",),
            {"dtype": np.complex64},
            ValueError,
            "dtype must be of .* alpha_dropout, got complex64",
        ),
        (
            (),
            {"dtype": "x"},
            TypeError,
            "must be one of float16, .*, or of integers, got 'x'; names of functions",
        ),
        ((), {"processes": 0}, ValueError, "processes must be at least 1, got 0"),
        ((), {"processes": 1.5}, TypeError, "processes must be an int"),
        ((), {"torch": "yes"}, TypeError, "torch must be True or False, got 'yes'"),
    ],
)
def test_bad_arguments(names, options, error, message):
    with pytest.raises(error, match=message):
        fd.warmup(*names, **options)


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_dtypes_of_pytorch(name):
    dtype = getattr(pytest.importorskip("torch"), name)
    with pytest.raises(TypeError, match=f'NumPy dtype, got torch.{name}; use "{name}"$'):
        fd.warmup("dropout", dtype=dtype)
    assert noises("dropout", dtype=name) == {("dropout", name)}
