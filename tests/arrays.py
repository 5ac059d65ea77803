"""Arrays for tests: layouts, dtypes and comparisons."""

import ml_dtypes
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64, np.complex128]


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def swapped(x):
    """The same values in the other byte order; ml_dtypes has none."""
    return x.astype(x.dtype.newbyteorder()) if x.dtype.kind in "fc" else x.copy()


# Each takes an array of at least one axis and returns an equal one in memory of its own.
LAYOUTS = {
    "contiguous": lambda x: x.copy(),
    "fortran": lambda x: x.copy("F"),
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "transposed": lambda x: x.T.copy().T,
    "offset": lambda x: np.concatenate([x, x])[len(x) :],
    "unaligned": unaligned,
    "swapped": swapped,
}


def examples(count):
    """Return how many examples hypothesis shall try: count, and ten times as many in the profile `deep`."""
    return count * (10 if settings.get_current_profile_name() == "deep" else 1)


def frozen(x):
    x = x.view()
    x.flags.writeable = False
    return x


def normal(*shape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x).astype(dtype)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@st.composite
def blocks(draw, fewest=0, most=3):
    """A shape of so many axes, seldom empty, and a window: its place in a bigger array."""
    shape = tuple(draw(st.lists(st.sampled_from([3, 1, 2, 5, 9, 34, 0]), min_size=fewest, max_size=most)))
    around = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in shape]
    full = tuple(n + before + after for n, (before, after) in zip(shape, around, strict=True))
    return shape, (full, tuple(before for before, _ in around))
