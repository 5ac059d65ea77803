"""The decorators of functions that become machine code only as a part of the kernels that call them."""

from numba import njit

# Numba would give each of them a form for Python and one for C as well, which copy all that it calls itself.
# That took almost half of the time in which a kernel is compiled.
_KERNELS_ALONE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

called = njit(**_KERNELS_ALONE)
inlined = njit(forceinline=True, **_KERNELS_ALONE)
