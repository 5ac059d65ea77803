"""The CUDA backend: it does plans by launches of kernels that Numba compiles for the GPU."""
