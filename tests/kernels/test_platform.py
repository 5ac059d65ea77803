"""Other processors and other modes of Numba: the same bits, or a clear refusal."""

import os
import platform
import re
import subprocess
import sys

import pytest

CALLS = """
import hashlib, numpy as np, fastdrop as fd
x = np.resize(np.array([1.5, -2, np.nan, 0.25, np.inf, 1e-40]), 5003)
def show(name, y):
    print(name, hashlib.sha256(np.ascontiguousarray(y).data).hexdigest())
with np.errstate(all="ignore"):
    show("float32", fd.dropout(x.astype(np.float32), 0.3, 42))
    show("float16", fd.dropout(x.astype(np.float16), 0.3, 42))
    show("float64", fd.dropout(x, 2.0**-20, 42))
    show("by element", fd.dropout(x.astype(np.float32), np.linspace(0, 1, 5003), 42))
    show("shared", fd.dropout(np.ones((100, 9, 3), np.float32), 0.3, 42, shared_axes=1))
    show("alpha", fd.alpha_dropout(x.astype(np.float32), 0.3, 42))
    show("big-endian", fd.dropout(x.astype(">f4"), 0.3, 42).astype("<f4"))
    z = fd.normal(1000, 42, dtype=np.float32)
    assert abs(z.mean()) < 0.2 and abs(z.std() - 1) < 0.2
    show("normal", z)
"""


def run(directory=None, script=CALLS, **environment):
    """What a script prints, with a cache of its own in a directory."""
    own = {"NUMBA_CACHE_DIR": str(directory)} if directory else {}
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | own | environment,
    )
    return found.returncode, found.stdout, found.stderr


@pytest.fixture(scope="module")
def here():
    return run()


X86 = {
    "no AVX": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
    "AVX alone": {"NUMBA_CPU_NAME": "sandybridge", "NUMBA_CPU_FEATURES": "+avx"},
    "bounds checked": {"NUMBA_BOUNDSCHECK": "1"},
    "not optimised": {"NUMBA_OPT": "0"},
}
FIRST = """
import hashlib, numpy as np, fastdrop as fd
x = np.resize(np.array([1.5, -2, np.nan, 0.25, np.inf, 1e-40], np.float32), 5003)
print(hashlib.sha256(fd.dropout(x, 0.3, 42).data).hexdigest())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86-64 processors")
def test_without_avx_a_call_gives_the_same_bits(tmp_path):
    code, bits, error = run(tmp_path, FIRST, **X86["no AVX"])
    here = subprocess.check_output([sys.executable, "-c", FIRST], text=True)
    assert (code, bits) == (0, here), error


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86-64 processors")
@pytest.mark.parametrize("name", X86)
def test_other_code_gives_the_same_bits(name, here, tmp_path):
    code, bits, error = run(tmp_path, **X86[name])
    assert here[::2] == (0, "")
    assert (code, bits) == here[:2], error


def test_without_a_compiler_it_is_refused(tmp_path):
    script = "import numpy as np, fastdrop as fd; fd.dropout(np.ones(3), 0.5, 1)"
    code, _, error = run(tmp_path, script, NUMBA_DISABLE_JIT="1")
    assert code == 1
    assert "unset NUMBA_DISABLE_JIT" in error


AARCH64 = """
import re, llvmlite.binding as llvm, numpy as np, fastdrop as fd
from fastdrop._cpu import bernoulli, calls
from fastdrop._cpu.compiled import jit
from fastdrop._stream.keys import stream
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
kernel, x = jit(calls._drop.py_func), np.ones(10, np.float32)
kernel(x, x.copy(), 10, 0, 0, 1 << 30, 4 / 3, *stream(fd.Key(1)), bernoulli.NEAR, 0)
(code,) = kernel.inspect_llvm().values()
triple = "aarch64-unknown-linux-gnu"
code = re.sub("target triple = .*", f'target triple = "{triple}"', re.sub("target datalayout = .*", "", code))
module = llvm.parse_assembly(code)
machine = llvm.Target.from_triple(triple).create_target_machine(cpu="neoverse-n1", opt=3)
builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
builder.getModulePassManager().run(module, builder)
print(machine.emit_assembly(module))
"""


def test_code_for_aarch64(tmp_path):
    """As far as compiling goes: vectors, fetches, streaming stores, no functions that Numba doesn't have."""
    settings = {"NUMBA_OPT": "0", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    code, assembly, error = run(tmp_path, AARCH64, **settings)
    if "No available targets" in error:
        pytest.skip("this LLVM has no AArch64")
    assert code == 0, error
    for instruction in ("umull\tv", "prfm\t", "stnp\tq"):
        assert instruction in assembly
    called = set(re.findall(r"\tbl\t(\w+)", assembly)) - set(re.findall(r"^(\w+):", assembly, re.MULTILINE))
    assert {name for name in called if not name.startswith(("Py", "NRT_", "numba_", "_ZN8fastdrop"))} == set()
