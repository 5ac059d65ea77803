"""What a fresh process waits for: the import, and the first call with kernels compiled before or not."""

from __future__ import annotations

from .grid import axis

FIRST = {
    "dropout": "fd.dropout(x, 0.5, 0)",
    "gaussian_dropout": "fd.gaussian_dropout(x, 0.5, 0)",
    "bias_act_dropout": "fd.bias_act_dropout(x, None, 0.5, 0)",
    "drop_block": "fd.drop_block(x.reshape(1, 4, 4, 4), 0.5, 0, block_size=3)",
}
NAMES = axis(list(FIRST)[:1], list(FIRST), list(FIRST))
READY = "import numpy as np, fastdrop as fd; x = np.ones(64, np.float32)"
EMPTY_CACHE = "import os, tempfile; os.environ['NUMBA_CACHE_DIR'] = tempfile.mkdtemp()"


class Import:
    """Of the package alone, NumPy being there already."""

    version = "1"
    number = 1
    repeat = (5, 20, 5.0)

    def timeraw_import(self) -> tuple[str, str]:
        return "import fastdrop", "import numpy"


class FirstCall:
    """Numba starts in it, and compiles in the cold one."""

    version = "1"
    number = 1
    params = NAMES
    param_names = ("function",)
    timeout = 120.0

    def timeraw_warm(self, function: str) -> tuple[str, str]:
        return FIRST[function], READY

    def timeraw_cold(self, function: str) -> tuple[str, str]:
        return FIRST[function], f"{EMPTY_CACHE}\n{READY}"


FirstCall.timeraw_warm.repeat = (5, 10, 8.0)  # type: ignore[attr-defined]
FirstCall.timeraw_cold.repeat = (2, 3, 10.0)  # type: ignore[attr-defined]
