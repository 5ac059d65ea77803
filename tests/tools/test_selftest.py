"""The self-test passes here, sees faults, and needs nothing but NumPy and Numba."""

import subprocess
import sys

import naive
import numpy as np
import pytest

import fastdrop as fd
from fastdrop._tools import selftest
from fastdrop._tools.cli import main


def test_it_passes_without_optional_packages():
    block = "import sys; sys.modules.update(dict.fromkeys(('rich', 'scipy', 'torch', 'ml_dtypes', 'jax')))\n"
    script = f"{block}from fastdrop.__main__ import main\nmain(['selftest'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("ok  ") == len(selftest.CHECKS)


@pytest.mark.parametrize("first", [True, False])
def test_a_first_run_says_that_it_compiles(first, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(selftest, "CHECKS", ())
    monkeypatch.setattr(selftest, "directory", lambda: tmp_path / "none" if first else tmp_path)
    assert selftest.run() == 0
    assert ("The first run compiles kernels" in capsys.readouterr().out) == first


@pytest.mark.parametrize(("key", "bits"), selftest.MASKS.items())
def test_its_vectors_are_the_oracles(key, bits):
    seed, draw, p = key
    kept = [naive.kept(index, p, seed, draw) for index in range(64)]
    assert np.packbits(kept).tobytes().hex() == bits


def wrong_scale(x, p, key, **options):
    return fd.dropout(x, p + 1e-3, key, **options)


def same_draw(shape, p, key, **options):
    return fd.keep_mask(shape, p, fd.Key(1), **options)


def biased(shape, p, key, **options):
    return fd.keep_mask(shape, min(1.0, p + 2e-3), key, **options)


def wide(*arguments, **options):
    return fd.normal(*arguments, **options) * np.float32(1.003)


def changing(x, p, key, **options):
    return fd.dropout(x, p, fd.Key(fd.get_num_threads()), **options)


@pytest.mark.parametrize(
    ("check", "name", "fault"),
    [
        ("vectors", "keep_mask", same_draw),
        ("reference", "dropout", wrong_scale),
        ("rates", "keep_mask", biased),
        ("independence", "keep_mask", same_draw),
        ("normals", "normal", wide),
        ("threads", "dropout", changing),
        ("gradients", "Dropout", lambda p=0.5, rng=None: fd.GaussianNoise(0.5, rng=rng)),
    ],
)
def test_each_check_sees_a_fault(check, name, fault, monkeypatch, capsys):
    monkeypatch.setattr(selftest, "fd", Shadow(name, fault))
    monkeypatch.setattr(selftest, "CHECKS", (getattr(selftest, check),))
    with pytest.raises(SystemExit) as ended:
        main(["selftest"])
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith("FAILED")


class Shadow:
    """The package, but for one name."""

    def __init__(self, name, value):
        setattr(self, name, value)

    def __getattr__(self, name):
        return getattr(fd, name)
