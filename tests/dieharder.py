"""Dieharder over the stream: prints a table of its p-values, as `docs/reference/batteries.md` has it.

apt-get install dieharder
python tests/dieharder.py [samples] [a word of the streams' names]
python tests/dieharder.py write normals    # what dieharder reads, for those that the package's command lacks
"""

import itertools
import subprocess
import sys

import numpy as np
from scipy import special

import fastdrop as fd

STREAMS = {
    "raw words": "-m fastdrop stream",
    "mask, p = 0.5": "-m fastdrop stream --p 0.5",
    "mask, p = 0.1": "-m fastdrop stream --p 0.1",
    "consecutive draws": "-m fastdrop stream --p 0.5 --vary draw --size 4096",
    "consecutive seeds": "-m fastdrop stream --p 0.5 --vary seed --size 4096",
    "folded keys": "-m fastdrop stream --p 0.5 --vary fold --size 4096",
    "split keys": "-m fastdrop stream --p 0.5 --vary split --size 4096",
    "16 draws interleaved": "-m fastdrop stream --vary draw --size 65536 --interleave 16",
    "16 folded keys interleaved": "-m fastdrop stream --p 0.5 --vary fold --size 16384 --interleave 16",
    "16 named keys interleaved": "-m fastdrop stream --p 0.5 --vary name --size 16384 --interleave 16",
    "16 split keys interleaved": "-m fastdrop stream --p 0.5 --vary split --size 16384 --interleave 16",
    "normals, float64": f"{__file__} write normals",
    "normals, float32": f"{__file__} write normals32",
    "rows in another order": f"{__file__} write rows",
    "ragged rows": f"{__file__} write offsets",
    "the system's, as a control": "",
}
# Those that need little: rates other than 1/2 give 2 million bytes a second here.
TESTS = ["0", "8", "10", "15", "100", "101", "102", "204"]
KEY = fd.Key(0)


def normals(number, size=1 << 16):
    """Words: where normals lie in their distribution, from 0 to 2^32."""
    z = fd.normal(size, KEY, window=((1 << 62,), (number * size,)))
    return np.floor(np.ldexp(special.ndtr(z), 32)).astype("<u4")


def normals32(number, size=1 << 16):
    """Halves of words, since float32 has 25 digits of that place around 1."""
    z = fd.normal(size, KEY, dtype=np.float32, window=((1 << 62,), (number * size,)))
    return np.floor(np.ldexp(special.ndtr(z.astype(np.float64)), 16)).astype("<u2")


def rows(number, size=1 << 12):
    """Bits of rows of 100 elements, which begin anywhere in a tile, far apart in the array."""
    order = (np.arange(size) + number * size) * 0x9E3779B1 % 2**31
    return fd.keep_mask((size, 100), 0.5, KEY, packed=True, rows=order)


def offsets(number, size=1 << 12):
    """Bits of rows of 1 to 199 elements, whose places are 2^32 apart."""
    lengths = np.random.default_rng(number).integers(1, 200, size)
    lengths[-1] += -lengths.sum() % 32  # whole words
    ends, order = np.append(0, np.cumsum(lengths)), np.arange(size) + number * size
    return fd.keep_mask(ends[-1], 0.5, KEY, packed=True, offsets=ends, rows=order)


def write(draw):
    """Write one part after the other, as long as somebody reads."""
    try:
        for number in itertools.count():
            sys.stdout.buffer.write(draw(number).data)
    except BrokenPipeError:
        sys.stderr.close()


def run(stream: str, test: str, samples: str) -> list[tuple[str, str, str]]:
    """Names, p-values and assessments of one test on one stream: the arguments of Python that write it."""
    source = f"'{sys.executable}' {stream}" if stream else "cat /dev/urandom"
    command = f"{source} | dieharder -g 200 -d {test} -p {samples}"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    lines = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    return [(f"{c[0]} {c[1]}", c[4], c[5]) for c in lines if len(c) == 6 and c[4][:1] in ("0", "1")]


def main() -> None:
    """Run all tests on the streams."""
    if sys.argv[1:2] == ["write"]:
        return write({f.__name__: f for f in (normals, normals32, rows, offsets)}[sys.argv[2]])
    samples = sys.argv[1] if len(sys.argv) > 1 else "100"
    print("| stream | tests | smallest p | largest p | weak | failed |", "|---|" + "---:|" * 5, sep="\n")
    chosen = sys.argv[2] if len(sys.argv) > 2 else ""
    for name, stream in STREAMS.items():
        if chosen not in name:
            continue
        found = [result for test in TESTS for result in run(stream, test, samples)]
        p = [float(value) for _, value, _ in found]
        weak, failed = (", ".join(n for n, _, how in found if how == what) for what in ("WEAK", "FAILED"))
        row = (len(found), f"{min(p):.4f}", f"{max(p):.4f}", weak or "none", failed or "none")
        print(f"| {name} |", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
