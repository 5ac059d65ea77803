"""The CPU backend: plans done by compiled kernels, shared with threads where they are big."""
