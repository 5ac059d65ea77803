"""fastdrop's own measuring, which each commit of the history has in one place or another, or not at all."""

from __future__ import annotations

from typing import Any

bench: Any
try:
    from fastdrop._tools import bench
except ImportError:
    try:
        from fastdrop import _bench as bench  # where it was before the package had folders
    except ImportError:
        bench = None
