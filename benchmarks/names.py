"""Print the names of the suite's benchmarks, among which ONLY chooses: `make bench-list`."""

from asv_runner.discovery import disc_benchmarks

if __name__ == "__main__":
    print(*sorted(benchmark.name for benchmark in disc_benchmarks("suite")), sep="\n")
