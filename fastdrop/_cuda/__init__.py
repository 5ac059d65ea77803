"""The CUDA backend: plans done by launches of compiled kernels."""
