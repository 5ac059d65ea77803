"""What each noise gives in plain NumPy, made of the reference's masks and noise.

A function returns what is expected and by how much a backend may differ from it: 0 where all is selected,
added and multiplied, each rounded once, so that the bits must be the same.
"""

import ml_dtypes
import numpy as np
from scipy import special

from fastdrop._noises.alpha import affine
from fastdrop._stream import reference

FULL = 2**32


def wide(x):
    """X in the precision that kernels compute in."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def axes(shared):
    return (shared,) if isinstance(shared, int) else tuple(shared)


def kept(x, p, key, shared_axes=(), window=None):
    return reference.keep_mask(x.shape, p, key, window, axes(shared_axes))


def scaled(x, p):
    """X times 1 / (1 - p), where nothing is dropped."""
    thresholds = np.rint(np.asarray(p, np.float64) * FULL)
    scale = (FULL / np.maximum(FULL - thresholds, 1)).astype(wide(x).real.dtype)
    with np.errstate(over="ignore"):
        return wide(x) * scale


def dropout(x, p, key, shared_axes=(), window=None):
    return reference.dropout(x, p, key, window, axes(shared_axes)), 0


def dropout_add(x, other, p, key, **options):
    y = wide(other) + np.where(kept(x, p, key, **options), scaled(x, p), wide(x).dtype.type(0))
    return y.astype(x.dtype), 0


def zoneout(new, previous, p, key, **options):
    return np.where(kept(new, p, key, **options), new, previous), 0


def alpha_dropout(x, p, key, **options):
    if p == 1:
        return np.zeros_like(x), 0
    scale, shift, dropped = (wide(x).dtype.type(number) for number in affine(p))
    return np.where(kept(x, p, key, **options), wide(x) * scale + shift, dropped).astype(x.dtype), 0


def alpha_dropout_backward(g, p, key, **options):
    scale = wide(g).dtype.type(affine(p)[0] if p < 1 else 0)
    return np.where(kept(g, p, key, **options), wide(g) * scale, wide(g).dtype.type(0)).astype(g.dtype), 0


def noise_of(draw, shape, key, window, shared, bits):
    """The reference's noise for an array, with shared axes of length 1."""
    full, origin = window or (shape, (0,) * len(shape))
    shared = {axis % len(shape) for axis in axes(shared)}
    reduced = tuple(1 if axis in shared else n for axis, n in enumerate(shape))
    full = tuple(1 if axis in shared else n for axis, n in enumerate(full))
    origin = tuple(0 if axis in shared else o for axis, o in enumerate(origin))
    return np.broadcast_to(draw(reference.indices(reduced, (full, origin)), key, bits), shape)


def rounding(y, dtype, in_kernel):
    """How far off y may be: an error in the kernel's precision, and then it is rounded to a dtype."""
    kernel, given = ml_dtypes.finfo(wide(np.zeros(0, dtype)).dtype), ml_dtypes.finfo(dtype)
    half = np.maximum(float(given.eps) * np.abs(y), float(given.smallest_subnormal)) / 2
    return float(kernel.eps) * in_kernel + half


def normal_error(z, dtype):
    """How far off a normal may be, in eps; of float64 the reference's own rounding is most."""
    return (20 if dtype == np.float64 else 2) * (1 + np.abs(z))


def _drawn(draw, x, key, shared_axes=(), window=None):
    return noise_of(draw, x.shape, key, window, shared_axes, 64 if x.real.dtype == np.float64 else 32)


def _exactly(x):
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def gaussian_dropout(x, p, key, **options):
    std = np.sqrt(p / (1 - np.asarray(p, np.float64)))
    z = _drawn(reference.normals, x, key, **options)
    y = _exactly(x) * (1 + std * z)
    return y, rounding(y, x.real.dtype, np.abs(_exactly(x)) * (std * normal_error(z, x.real.dtype) + 2))


def gaussian_noise(x, std, key, shared_axes=(), window=None):
    if x.dtype.kind == "c":
        full, origin = window or (x.shape, (0,) * x.ndim)
        deeper = (*full, 2), (*origin, 0)
        pairs = x.view(x.real.dtype).reshape(*x.shape, 2)
        y, near = gaussian_noise(pairs, np.asarray(std)[..., None] / np.sqrt(2), key, shared_axes, deeper)
        return y[..., 0] + 1j * y[..., 1], near.sum(-1)
    z = _drawn(reference.normals, x, key, shared_axes, window)
    y = _exactly(x) + std * z
    return y, rounding(y, x.dtype, std * normal_error(z, x.dtype) + np.abs(y))


def information_dropout(x, alpha, key, **options):
    z = _drawn(reference.normals, x, key, **options)
    y = _exactly(x) * np.exp(alpha * z)
    return y, rounding(y, x.dtype, np.abs(y) * (alpha * (normal_error(z, x.dtype) + 2 * np.abs(z)) + 3))


def concrete_dropout(x, logit, key, temperature=0.1, **options):
    v = (logit + _drawn(reference.logistics, x, key, **options)) / temperature
    y = _exactly(x) * np.exp(np.logaddexp(0, logit) - np.logaddexp(0, v))
    # the noise is known to some eps, of itself or absolutely, and the temperature divides it
    return y, rounding(y, x.dtype, 300 / temperature * np.abs(y) + 1e-30)


def concrete_slope(x, logit, key, temperature=0.1, **options):
    """The derivative of concrete dropout with respect to the logit, by elements."""
    z = special.expit((logit + _drawn(reference.logistics, x, key, **options)) / temperature)
    return concrete_dropout(x, logit, key, temperature, **options)[0] * (
        special.expit(logit) - z / temperature
    )


def information_slope(x, alpha, key, **options):
    """The derivative of information dropout with respect to alpha, by elements."""
    return information_dropout(x, alpha, key, **options)[0] * _drawn(reference.normals, x, key, **options)


def variational_slope(x, alpha, key, **options):
    """The derivative of Gaussian dropout with respect to the logarithm of its variance, by elements."""
    return _exactly(x) * np.sqrt(alpha) / 2 * _drawn(reference.normals, x, key, **options)


def _tanh_of(v):
    return np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))


ACTIVATIONS = {
    "none": lambda v: v,
    "relu": lambda v: np.where(v < 0, v.dtype.type(0), v),
    "gelu": lambda v: v * special.ndtr(v),
    "gelu_tanh": lambda v: v * (1 + _tanh_of(v)) / 2,
    "silu": lambda v: v * special.expit(v),
}
DERIVATIVES = {
    "none": lambda v: np.ones_like(v),
    "relu": lambda v: (v > 0).astype(v.dtype),
    "gelu": lambda v: special.ndtr(v) + v * np.exp(-(v**2) / 2) / np.sqrt(2 * np.pi),
    "gelu_tanh": lambda v: (
        (1 + _tanh_of(v)) / 2
        + v / 2 * (1 - _tanh_of(v) ** 2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * v**2)
    ),
    "silu": lambda v: special.expit(v) * (1 + v * special.expit(-v)),
}


def _argument(x, bias, activation):
    """What is activated: rounded as kernels do, and from then on exact if the activation rounds more."""
    v = wide(x) if bias is None else wide(x) + wide(bias)
    return v if activation in ("none", "relu") else v.astype(np.float64)


def _rounded(y, x, activation, approximate=0):
    if activation in ("none", "relu"):
        return y.astype(x.dtype), 0
    return y, rounding(y, x.dtype, 8 * (1 + np.abs(y))) + approximate


def bias_act_dropout(x, bias, p, key, activation="relu", residual=None, **options):
    v = _argument(x, bias, activation)
    y = np.where(kept(x, p, key, **options), scaled(ACTIVATIONS[activation](v), p), v.dtype.type(0))
    # gelu of 16-bit types needs the distribution to so many digits; farther out than 5.7 it gives next to 0
    approximate = 2**-14.5 * np.abs(y) if activation == "gelu" and x.dtype.itemsize == 2 else 0
    y = y if residual is None else wide(residual).astype(v.dtype) + y
    return _rounded(y, x, activation, approximate)


def bias_act_dropout_backward(g, x, bias, p, key, activation="relu", **options):
    v = _argument(x, bias, activation)
    dx = scaled(wide(g).astype(v.dtype), p) * DERIVATIVES[activation](v)
    return _rounded(np.where(kept(x, p, key, **options), dx, v.dtype.type(0)), x, activation)


def drop_block_rate(height, width, size, p):
    """The mean rate of DropBlock on an image, by counting the blocks that cover each element."""
    a, b = min(size, height), min(size, width)
    gamma = p * height * width / (a * b) / ((height - a + 1) * (width - b + 1))
    starts = np.zeros((height, width))
    for i, j in np.ndindex(height - a + 1, width - b + 1):
        starts[i : i + a, j : j + b] += 1
    return (1 - (1 - gamma) ** starts).mean()
