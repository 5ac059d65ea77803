"""Dieharder over the stream: prints a table of its p-values, as `dieharder.md` has it.

apt-get install dieharder
python tests/dieharder.py [samples] [a word of the streams' names]
"""

import subprocess
import sys

STREAMS = {
    "raw words": "",
    "mask, p = 0.5": "--p 0.5",
    "mask, p = 0.1": "--p 0.1",
    "consecutive draws": "--p 0.5 --vary draw --size 4096",
    "consecutive seeds": "--p 0.5 --vary seed --size 4096",
    "folded keys": "--p 0.5 --vary fold --size 4096",
    "16 draws interleaved": "--vary draw --size 65536 --interleave 16",
    "16 folded keys interleaved": "--p 0.5 --vary fold --size 16384 --interleave 16",
    "16 named keys interleaved": "--p 0.5 --vary name --size 16384 --interleave 16",
    "16 split keys interleaved": "--p 0.5 --vary split --size 16384 --interleave 16",
    "the system's, as a control": "cat /dev/urandom",
}
# Those that need little: rates other than 1/2 give 2 million bytes a second here.
TESTS = ["0", "8", "10", "15", "100", "101", "102", "204"]


def run(stream: str, test: str, samples: str) -> list[tuple[str, str, str]]:
    """Names, p-values and assessments of one test on one stream."""
    source = stream if stream.startswith("cat") else f"'{sys.executable}' -m fastdrop stream {stream}"
    command = f"{source} | dieharder -g 200 -d {test} -p {samples}"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    lines = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    return [(f"{c[0]} {c[1]}", c[4], c[5]) for c in lines if len(c) == 6 and c[4][:1] in ("0", "1")]


def main() -> None:
    """Run all tests on the streams."""
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
