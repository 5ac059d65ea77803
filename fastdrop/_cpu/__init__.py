"""The CPU backend: it does plans by kernels that Numba compiles, with several threads if arrays are big."""
