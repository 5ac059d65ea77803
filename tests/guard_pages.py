"""Every kernel on arrays that end exactly at a page without access, or begin right after one.

python tests/guard_pages.py all      # prints how many calls were made
python tests/guard_pages.py some     # has each call in one dtype of 16 bits, not in both
python tests/guard_pages.py fault    # reads one byte too many: the system must end it
"""

import ctypes
import mmap
import sys
import warnings

import numpy as np
from every_kernel import CALLS, DTYPES, has_its_turn, is_of_use, treat_as

import fastdrop as fd
from fastdrop._cpu import bernoulli

SIZES = [*range(1, 18), 31, 32, 33, 64, 1000, *range(1020, 1030), 2048, 3001, 2**16 + 5]
PAGE = mmap.PAGESIZE
PAGES = -(-8 * max(SIZES) // PAGE)
_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """Some pages between two without access."""

    def __init__(self):
        self.pages = mmap.mmap(-1, (PAGES + 2) * PAGE)
        self.bytes = np.frombuffer(self.pages, np.uint8)
        start = self.bytes.ctypes.data
        for page in (start, start + (PAGES + 1) * PAGE):
            if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def put(self, x, at_end):
        """A copy of an array at an end of the pages."""
        first = PAGE * (PAGES + 1) - x.nbytes if at_end else PAGE
        y = self.bytes[first : first + x.nbytes].view(x.dtype).reshape(x.shape)
        y[...] = x
        return y


def main(in_turns):
    areas = [Guarded() for _ in range(8)]
    made = 0
    for far in (bernoulli.NEAR, bernoulli.FAR, bernoulli.PAST):
        treat_as(far)
        for number, dtype in enumerate(DTYPES):
            names = [name for name in CALLS if is_of_use(name, dtype)]
            calls = [CALLS[name] for name in names if not in_turns or has_its_turn(name, dtype)]
            # where arrays count as far, each dtype has half of the sizes, and each size half of the dtypes
            for size in SIZES if far == bernoulli.NEAR else SIZES[number % 2 :: 2]:
                plain = np.resize(np.array([1.5, -2, 0.25]), size).astype(dtype)
                for x in (plain, plain.reshape(-1, 4) if size % 4 == 0 else plain[None]):
                    for at_end in (True, False):
                        made += _calls(calls, x, areas, at_end)
    print(made)


def _calls(calls, x, areas, at_end):
    placed, out = areas[0].put(x, at_end), areas[1].put(x, at_end)
    for call in calls:
        left = iter(areas[2:])
        call(placed, out, lambda other, left=left: next(left).put(other, at_end))
        call(placed, placed, lambda other, left=left: next(left).put(other, at_end))
        placed[...] = x
    return 2 * len(calls)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    fd.set_num_threads(2)
    if sys.argv[1:] == ["fault"]:
        area = Guarded()
        area.put(np.ones(3), True)
        print(ctypes.string_at(area.bytes.ctypes.data + (PAGES + 1) * PAGE - 8, 9))
    else:
        main(in_turns=sys.argv[1:] == ["some"])
