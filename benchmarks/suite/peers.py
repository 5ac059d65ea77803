"""fastdrop's time as a share of its peers' and of the limits', in turns on the same threads."""

from __future__ import annotations

from .grid import PEER_SIZES, RATES, ROUNDS, THREADS
from .measures import use_threads
from .timing import bench

CONTENDERS = bench.CONTENDERS if bench else {}

PEERS = [
    "np.copyto",
    "np.multiply(out=)",
    "best NumPy idiom",
    "tutorial's NumPy",
    "PyTorch eager",
    "PyTorch, buffers reused",
    "PyTorch compiled",
    "JAX jitted",
]


class Dropout:
    """One call each, forward; below 1 fastdrop is the faster."""

    version = "1"
    params = (PEERS, PEER_SIZES, RATES, THREADS)
    param_names = ("peer", "size", "p", "threads")
    timeout = 600.0

    def setup(self, peer: str, size: int, p: float, threads: int) -> None:
        if peer not in CONTENDERS:
            raise NotImplementedError(f"{peer} isn't installed, or this commit can't measure it")
        use_threads(threads)

    def track_share(self, peer: str, size: int, p: float, threads: int) -> float:
        peers, ours = bench.measure([size], [p], threads, ROUNDS, [peer, "fastdrop"])
        return float(ours["us_per_call"] / peers["us_per_call"])


Dropout.track_share.unit = "of the peer's time"  # type: ignore[attr-defined]
