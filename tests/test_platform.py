"""Other processors and other modes of Numba: the same bits, or a clear refusal."""

import os
import platform
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


def run(directory, script=CALLS, **environment):
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"NUMBA_CACHE_DIR": str(directory)} | environment,
    )
    return found.returncode, found.stdout, found.stderr


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return run(tmp_path_factory.mktemp("cache"))


X86 = {
    "no AVX": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
    "AVX alone": {"NUMBA_CPU_NAME": "sandybridge", "NUMBA_CPU_FEATURES": "+avx"},
    "bounds checked": {"NUMBA_BOUNDSCHECK": "1"},
    "not optimised": {"NUMBA_OPT": "0"},
}


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
