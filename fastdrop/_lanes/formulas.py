"""The formula of each noise: how an element of the output is computed from the inputs and the draw.

Each formula works on lanes, for the CPU and CUDA alike. A formula of Bernoulli noise gets x, another
array, a bias, whether each lane is dropped, the scale of what is kept, and constants, of which the last is
the number of the activation. A formula of noise with a density gets x, the noise, and its numbers.

CPU kernels of Bernoulli noise have a family of formulas, and the number of one of them as another constant.
Numba then compiles most of a kernel once for the family, and a second kernel takes a tenth of the time. A
formula is selected by `where`, not by branches. The number is a constant in each kernel, so that LLVM drops
what is not selected. Beside branches Numba counts references to arrays, which cost 40 ns for each row.
"""

from __future__ import annotations

from typing import Any

from fastdrop._lanes.floats import absolute, fma, reciprocal
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.special import exp, exp_or_zero, normal_tail, short_normal_tail, sigmoid
from fastdrop._lanes.vectors import splat_like, where, zero_where

_NONE, _RELU, _GELU, _GELU_TANH, _SILU = range(5)  # their places in `fastdrop._arrays.plan.ACTIVATIONS`
_SHORT_GELU = 5  # gelu whose result is rounded to 16 bits
# the constants of gelu's approximation by tanh: 2 sqrt(2 / pi), and the weight of the cube
_TANH_SCALE, _CUBE = 1.5957691216057308, 0.044715


@inlined
def drop(x, other, bias, dropped, scale, constants):
    """Return dropout of x."""
    return zero_where(dropped, x * scale)


@inlined
def alpha(x, other, bias, dropped, scale, constants):
    """Return alpha dropout of x: constants are the shift of kept elements and the value of dropped ones."""
    return where(dropped, constants[1], x * scale + constants[0])


@inlined
def add(x, other, bias, dropped, scale, constants):
    """Return dropout of x, added to the other array."""
    return other + zero_where(dropped, x * scale)


@inlined
def replace(x, other, bias, dropped, scale, constants):
    """Return x times the scale where it is kept, and the other array where it is dropped."""
    return where(dropped, other, x * scale)


@inlined
def activate(x, other, bias, dropped, scale, constants):
    """Return dropout of the activation of x + bias."""
    return zero_where(dropped, _activation(x + bias, constants[-1]) * scale)


@inlined
def activate_add(x, other, bias, dropped, scale, constants):
    """Return dropout of the activation of x + bias, added to the other array."""
    return other + activate(x, other, bias, dropped, scale, constants)


@inlined
def differentiate(x, g, bias, dropped, scale, constants):
    """Return the gradient of `activate` with respect to x, from g, the gradient of its output."""
    return zero_where(dropped, g * scale * _derivative(x + bias, constants[-1]))


@inlined
def affine(x, other, bias, dropped, scale, constants):
    """Return the formula of a number: the one at this place in `AFFINE`."""
    number = constants[-2]
    y = drop(x, other, bias, dropped, scale, constants)
    y = where(number == 1, alpha(x, other, bias, dropped, scale, constants), y)
    y = where(number == 2, add(x, other, bias, dropped, scale, constants), y)
    return where(number == 3, replace(x, other, bias, dropped, scale, constants), y)


@inlined
def activated(x, other, bias, dropped, scale, constants):
    """Return the formula of a number: the one at this place in `ACTIVATED`."""
    number = constants[-2]
    y = activate(x, other, bias, dropped, scale, constants)
    y = where(number == 1, activate_add(x, other, bias, dropped, scale, constants), y)
    return where(number == 2, differentiate(x, other, bias, dropped, scale, constants), y)


AFFINE = "drop", "alpha", "add", "replace"
ACTIVATED = "activate", "activate_add", "differentiate"
DROP = 0.0, 0.0, 0, 0  # the constants of `drop` in its family


def in_family(name: str) -> tuple[Any, tuple[float, ...], int]:
    """Return a formula's family, what pads its constants to two, and its number."""
    padding = () if name == "alpha" else (0.0, 0.0)
    if name in AFFINE:
        return affine, padding, AFFINE.index(name)
    return activated, padding, ACTIVATED.index(name)


@inlined
def activation_of(number, short):
    """Return the number of an activation as a formula takes it, for elements of 16 bits or of more."""
    return _SHORT_GELU if short and number == _GELU else number


@inlined
def _activation(v, activation):
    y = where(activation == _RELU, where(v < 0, 0, v), v)
    y = where(activation == _GELU, _gelu(v, *normal_tail(v)[:2]), y)
    y = where(activation == _SHORT_GELU, _gelu(v, *short_normal_tail(v)), y)
    y = where(activation == _GELU_TANH, v * sigmoid(_tanh_argument(v))[0], y)
    return where(activation == _SILU, v * sigmoid(v)[0], y)


@inlined
def given(p, numbers):
    """Return the rates of dropout that a caller has given."""
    return p


@inlined
def gate(a, numbers):
    """Return the rates of standout, 1 - sigmoid(v); numbers are the slope and the shift that make v of a."""
    v = fma(a, numbers[0], splat_like(numbers[1], a))
    e = exp(-absolute(v))
    smaller = e / (e + 1.0)
    return where(v < 0, splat_like(1.0, a) - smaller, smaller)


@inlined
def _gelu(v, below, tail):
    """Return v P(Z <= v), which is max(v, 0) - |v| P(Z > |v|), from -|v| and P(Z > |v|)."""
    return fma(below, tail, where(v < 0, 0, v))


@inlined
def _gelu_slope(v):
    """Return the derivative of gelu at v: it is that at -|v|, or 1 less that."""
    below, tail, density = normal_tail(v)
    slope = fma(below, density, tail)
    return where(v < 0, slope, splat_like(1.0, v) - slope)


@inlined
def _tanh_argument(v):
    """Return twice the argument of the tanh in gelu's approximation.

    The sigmoid of the result is (1 + tanh) / 2, which is the factor that the approximation has.
    """
    return v * _TANH_SCALE * (v * v * _CUBE + 1.0)


@inlined
def _derivative(v, activation):
    one = splat_like(1.0, v)
    t, rest_t = sigmoid(_tanh_argument(v))
    s, rest_s = sigmoid(v)
    slope = v * _TANH_SCALE * (v * v * (3 * _CUBE) + 1.0)
    y = where(activation == _RELU, where(v < 0, 0, where(v == 0, 0, one)), one)
    y = where((activation == _GELU) | (activation == _SHORT_GELU), _gelu_slope(v), y)
    both = t * rest_t
    tanh_slope = where(both == 0, t, fma(slope, both, t))  # far out the slope is infinite
    y = where(activation == _GELU_TANH, tanh_slope, y)
    return where(activation == _SILU, s * fma(v, rest_s, one), y)


@inlined
def multiply(x, noise, numbers):
    """Return x times noise of mean 1: Gaussian dropout."""
    return x * fma(noise, numbers[0], splat_like(1.0, x))


@inlined
def shift(x, noise, numbers):
    """Return x plus noise."""
    return fma(noise, numbers[0], x)


@inlined
def alone(x, noise, numbers):
    """Return the noise, as `shift` gives it of zeros: without a negative zero."""
    return noise + 0.0


@inlined
def exponential(x, noise, numbers):
    """Information dropout: x times a noise whose logarithm is normal."""
    return x * exp(noise * numbers[0])


@inlined
def exponential_slope(x, noise, numbers):
    """Return the derivative of `exponential` with respect to its number."""
    return x * (exp(noise * numbers[0]) * noise)


def by_number(formula: Any, start: float) -> Any:
    """Return a formula like one of one number, where x holds the numbers; it makes a factor or term."""

    @inlined
    def element(x, noise, numbers):
        return formula(splat_like(start, x), noise, (x,))

    return element


@inlined
def concrete(x, noise, numbers):
    """Return x times the relaxed mask; `_numbers` in `fastdrop._noises.concrete` makes the numbers."""
    return x * _relaxed(noise, numbers)[0]


@inlined
def concrete_slope(x, noise, numbers):
    """Return the derivative of `concrete` with respect to the logit of its rate."""
    factor, dropped = _relaxed(noise, numbers)
    return x * factor * (splat_like(numbers[4], x) - dropped * numbers[0])


@inlined
def _relaxed(noise, numbers):
    """Return (1 - z) / (1 - p), and z itself: the sigmoid of v = (logit + noise) / temperature."""
    per_temperature, offset, kept, e, _ = numbers
    e_v = exp_or_zero(fma(noise, -per_temperature, splat_like(offset, noise)))  # exp(max(logit, 0) - v)
    z = reciprocal(fma(e_v, e, splat_like(1.0, noise)))
    return e_v * z * kept, z
