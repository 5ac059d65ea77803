"""Which CUDA kernels there are: what a launch has to know of them, without their code.

A kernel that is on disk is started without Numba, which takes longer to import than all else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

WARP = 32  # lanes, which do everything together
NOISE_GROUP = 128  # elements of noise with a density, four of each lane of a warp
NOISE_TILE = 4 * NOISE_GROUP  # which a warp does
SPREAD_TILE_BYTES = 2048  # of the elements that a warp does of an array whose draws are made
OF_ONE_LANE = (
    "listed_draws",
    "mask_bits",
    "mask_bytes",
    "mask_factors",
    "sums",
    "totals",
    "learned_numbers",
    "given_rates",
)  # works that are those of a lane, not of a warp
OF_DOUBLES = "learned_numbers", "given_rates"  # works whose number is a float64, whatever the elements are


class Variant(NamedTuple):
    """What one kernel is compiled for.

    Attributes
    ----------
    work : str
        A function of `fastdrop._cuda.kernels`.
    carrier : str
        The type of the elements as kernels take them: <f4, <f8, <i2 for float16, <u2 for bfloat16.
    names : tuple of str
        A formula, or a distribution and a formula.
    activation : int
        The place of the activation in `ACTIVATIONS`; if negative, the last number of the formula is that.
    bias : str or None
        The type of the bias, if there is one.
    by_number : bool
        Whether draws have rates, or numbers, of their own.
    listed : bool
        Whether rows have starts that a caller listed.
    numbers : int
        How many numbers the formula takes.
    in_memory : bool
        Whether these numbers, which all draws share, are in the GPU's memory.
    """

    work: str
    carrier: Any
    names: tuple[str, ...] = ()
    activation: int = 0
    bias: Any = None
    by_number: bool = False
    listed: bool = False
    numbers: int = 2
    in_memory: bool = False
