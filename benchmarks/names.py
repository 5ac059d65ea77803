"""Print the names of the suite's benchmarks, among which ONLY chooses: `make bench-list`."""

from suite import functions, layers

if __name__ == "__main__":
    for module in (functions, layers):
        for name, found in sorted(vars(module).items()):
            if isinstance(found, type):
                methods = (each for each in dir(found) if each.startswith(("time_", "track_", "peakmem_")))
                print(*(f"{module.__name__.rpartition('.')[2]}.{name}.{each}" for each in methods), sep="\n")
