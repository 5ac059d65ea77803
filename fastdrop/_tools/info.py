"""What `python -m fastdrop info` prints: the versions, the processor and the threads of this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import fastdrop as fd

# What fastdrop needs, what its extras install, and a peer of `python -m fastdrop bench`.
_PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "ml-dtypes",
    "torch",
    "dask",
    "autograd",
    "numba-cuda",
    "cuda-core",
    "jax",
)


def info() -> dict[str, Any]:
    """Return the versions, the processor and the threads, as plain data."""
    from llvmlite import binding

    from fastdrop._cpu import calls
    from fastdrop._lanes import disk

    features = binding.get_host_cpu_features()
    return {
        "fastdrop": fd.__version__,
        "stream": fd.STREAM_VERSION,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "llvm_cpu": binding.get_host_cpu_name(),
        "features": [
            name for name in ("sse2", "avx2", "fma", "f16c", "avx512f", "neon") if features.get(name)
        ],
        "cores": os.cpu_count(),
        "threads": fd.get_num_threads(),
        "compiled_code": str(disk.directory()),
        "streaming_from_bytes": calls.STREAM_FROM,
    }


def _version(name: str) -> str | None:
    """The version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
