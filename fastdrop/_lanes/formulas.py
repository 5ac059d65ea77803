"""What becomes of eight neighbours: one formula of lanes for each noise and fused pass.

Of Bernoulli noise a formula gets x, another array and a bias, whether each lane is dropped, the scale
of what is kept, and constants, of which the last is the number of the activation; of noise with a
density x, the noise, and its numbers.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from fastdrop._lanes.floats import fma
from fastdrop._lanes.special import exp, exp_or_zero, normal_cdf, sigmoid
from fastdrop._lanes.vectors import splat_like, where, zero_where

_NONE, _RELU, _GELU, _GELU_TANH, _SILU = range(5)  # places in `fastdrop._arrays.plan.ACTIVATIONS`
_TANH_SCALE, _CUBE = 1.5957691216057308, 0.044715  # 2 sqrt(2 / pi), and what is usual beside it


@njit(forceinline=True)
def drop(x, other, bias, dropped, scale, constants):
    """Dropout."""
    return zero_where(dropped, x * scale)


@njit(forceinline=True)
def alpha(x, other, bias, dropped, scale, constants):
    """Alpha dropout; its constants are what is added to kept elements, and what dropped ones become."""
    return where(dropped, constants[1], x * scale + constants[0])


@njit(forceinline=True)
def add(x, other, bias, dropped, scale, constants):
    """Dropout, added to another array."""
    return other + zero_where(dropped, x * scale)


@njit(forceinline=True)
def replace(x, other, bias, dropped, scale, constants):
    """What is dropped becomes that of another array."""
    return where(dropped, other, x * scale)


@njit(forceinline=True)
def activate(x, other, bias, dropped, scale, constants):
    """Dropout of the activation of x + bias."""
    return zero_where(dropped, _activation(x + bias, constants[-1]) * scale)


@njit(forceinline=True)
def activate_add(x, other, bias, dropped, scale, constants):
    """Dropout of the activation of x + bias, added to another array."""
    return other + activate(x, other, bias, dropped, scale, constants)


@njit(forceinline=True)
def differentiate(x, g, bias, dropped, scale, constants):
    """The gradient of `activate` with respect to x, given g, that of the output."""
    return zero_where(dropped, g * scale * _derivative(x + bias, constants[-1]))


@njit(forceinline=True)
def _activation(v, activation):
    if activation == _RELU:
        return where(v < 0, 0, v)
    if activation == _GELU:
        return v * normal_cdf(v)[0]
    if activation == _GELU_TANH:
        return v * sigmoid(_tanh_argument(v))[0]
    if activation == _SILU:
        return v * sigmoid(v)[0]
    return v


@njit(forceinline=True)
def _tanh_argument(v):
    """Twice the argument of the tanh in gelu's approximation: (1 + tanh(a / 2)) / 2 is the sigmoid of a."""
    return v * _TANH_SCALE * (v * v * _CUBE + 1.0)


@njit(forceinline=True)
def _derivative(v, activation):
    one = splat_like(1.0, v)
    if activation == _RELU:
        return where(v < 0, 0, where(v == 0, 0, one))
    if activation == _GELU:
        cumulative, density = normal_cdf(v)
        return fma(v, density, cumulative)
    if activation == _GELU_TANH:
        s, rest = sigmoid(_tanh_argument(v))
        return fma(v * _TANH_SCALE * (v * v * (3 * _CUBE) + 1.0), s * rest, s)
    if activation == _SILU:
        s, rest = sigmoid(v)
        return s * fma(v, rest, one)
    return one


@njit(forceinline=True)
def multiply(x, noise, numbers):
    """Gaussian dropout: x times a noise of mean 1."""
    return x * fma(noise, numbers[0], splat_like(1.0, x))


@njit(forceinline=True)
def shift(x, noise, numbers):
    """Additive noise."""
    return fma(noise, numbers[0], x)


@njit(forceinline=True)
def exponential(x, noise, numbers):
    """Information dropout: x times a noise whose logarithm is normal."""
    return x * exp(noise * numbers[0])


@njit(forceinline=True)
def exponential_slope(x, noise, numbers):
    """The derivative of `exponential` with respect to its number."""
    return x * (exp(noise * numbers[0]) * noise)


def by_number(formula: Any, start: float) -> Any:
    """A formula of one number, which lanes of x hold: the factor or term that it makes of 1 or 0."""

    @njit(forceinline=True)
    def element(x, noise, numbers):
        return formula(splat_like(start, x), noise, (x,))

    return element


@njit(forceinline=True)
def concrete(x, noise, numbers):
    """Concrete dropout: x times the relaxed mask; see `fastdrop.concrete` for the numbers."""
    return x * _relaxed(noise, numbers)[0]


@njit(forceinline=True)
def concrete_slope(x, noise, numbers):
    """The derivative of `concrete` with respect to the logit of its rate."""
    factor, dropped = _relaxed(noise, numbers)
    return x * factor * (splat_like(numbers[4], x) - dropped * numbers[0])


@njit(forceinline=True)
def _relaxed(noise, numbers):
    """(1 - z) / (1 - p), and z itself, the sigmoid of v = (logit + noise) / temperature."""
    per_temperature, offset, kept, e, _ = numbers
    e_v = exp_or_zero(fma(noise, -per_temperature, splat_like(offset, noise)))  # exp(max(logit, 0) - v)
    z = splat_like(1.0, noise) / fma(e_v, e, splat_like(1.0, noise))
    return e_v * z * kept, z
