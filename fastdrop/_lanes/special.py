"""Special functions of lanes, by polynomials: exponentials, the normal distribution, Box and Muller's method.

Each polynomial interpolates its function at Chebyshev nodes. tests/kernels/test_special.py compares the
functions on 2**18 arguments with extended precision, and normal_cdf with SciPy. It fails above these bounds,
in units of the precision's eps (1.2e-7, 2.2e-16):

====================================  =======  =======
largest error                         float32  float64
====================================  =======  =======
exp, exp_of_negative, relative        1.0      1.0
sigmoid, relative                     1.5      1.5
normal_cdf, absolute                  1.5      2.0
radius, relative                      1.5      1.5
logistic, of the absolute or relative  2.0      2.0
rotation, absolute                        1.0      1.0
====================================  =======  =======
"""

from __future__ import annotations

import numpy as np

from fastdrop._lanes.floats import (
    SHIFTER,
    absolute,
    flip_sign,
    fma,
    integer,
    integer_shifted,
    polynomial,
    quotient,
    reciprocal,
    scale_by_power,
    split,
    sqrt,
)
from fastdrop._lanes.inline import inlined
from fastdrop._lanes.vectors import splat_like, where

# ln(1 + f) / f for f in [-1/2, 0]
_LOG = polynomial(
    single=(
        1.4079567,
        1.63021169,
        1.2050139,
        0.181571648,
        0.264547584,
        -0.24343744,
        0.333661992,
        -0.499993747,
        1.00000002,
    ),
    double=(
        -20.257030811841151,
        -80.259166004197752,
        -150.94872310656186,
        -175.75543665107824,
        -141.39884865921127,
        -82.715325512977131,
        -36.496887940701733,
        -12.172621488037811,
        -3.2578149603895037,
        -0.54399110479241475,
        -0.19756012949292534,
        0.099712935954793927,
        -0.12599522734445748,
        0.14279384801284681,
        -0.16666949087198193,
        0.1999999163507582,
        -0.25000000150977925,
        0.33333333331895704,
        -0.50000000000005418,
        1,
    ),
)

# sin(r pi / 4) / r over z = r**2 in [0, 1]
_SIN = polynomial(
    single=(
        -3.59542907e-05,
        0.0024900068,
        -0.0807454347,
        0.785398161,
    ),
    double=(
        6.877360573166326e-12,
        -1.7571500746983935e-09,
        3.1336162254334162e-07,
        -3.6576204158913872e-05,
        0.002490394570188844,
        -0.080745512188280535,
        0.78539816339744828,
    ),
)

# cos(r pi / 4) over z = r**2 in [0, 1]
_COS = polynomial(
    single=(
        -0.000318877475,
        0.0158499107,
        -0.308424252,
        0.999999972,
    ),
    double=(
        -3.8581890073416675e-13,
        1.1500512028217341e-10,
        -2.4611364033652597e-08,
        3.5908604460279522e-06,
        -0.00032599188692673765,
        0.015854344243815419,
        -0.30842513753404244,
        1,
    ),
)

# (exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2
_EXP = polynomial(
    single=(
        0.00139262508,
        0.00836323288,
        0.0416665542,
        0.166665767,
        0.5,
    ),
    double=(
        2.5100472505694996e-08,
        2.7620201591031547e-07,
        2.7557268276905696e-06,
        2.4801521057868204e-05,
        0.00019841269863171557,
        0.0013888888917367081,
        0.008333333333330039,
        0.041666666666623824,
        0.16666666666666669,
        0.50000000000000011,
    ),
)

# (a + 3) exp(a**2 / 2) P(Z > a) over t = (a - 3) / (a + 3) in [-1, 1]
_TAIL = polynomial(
    single=(
        3.79289966e-05,
        0.000112000354,
        -0.000220510459,
        -0.00100284235,
        0.00101274357,
        0.00695381927,
        -0.0104602959,
        -0.0472596734,
        0.230017593,
        -0.509332149,
        0.72908369,
    ),
    double=(
        -2.8435416213379825e-09,
        -1.0723630415693752e-08,
        7.6734294868639979e-09,
        8.35893001192161e-08,
        7.4457472559191281e-08,
        -2.5041222170411704e-07,
        -6.2717075964575687e-07,
        -1.7849579669530304e-08,
        2.2794005145699855e-06,
        3.658465192999732e-06,
        -3.5276456970743606e-06,
        -2.0697649065947336e-05,
        -1.3243250578850326e-05,
        7.8815205182456119e-05,
        0.00015439397462038462,
        -0.00025657581621760771,
        -0.0010458285721343121,
        0.0010275923098274707,
        0.0069726212377989689,
        -0.010462867026107948,
        -0.047263025142918726,
        0.23001771997466355,
        -0.50933198191748963,
        0.72908369013337282,
    ),
)

# The largest arguments for which exp(v) and exp(-v) are both normal numbers
_EXP_MOST = polynomial(single=(87.0,), double=(708.0,))
# The largest a for which exp(-a**2 / 2) is a normal number, since a * a / 2 is at most _EXP_MOST
_DEVIATION_MOST = polynomial(single=(13.190905570983887,), double=(37.62977544445356,))
# The distance between neighbouring uniforms: one unit of a word
_STEP = polynomial(single=(2.0**-32,), double=(2.0**-64,))
_LN2 = 0.6931471805599453
# the upper part has 9 bits, so that its product with k is exact
_LN2_UPPER, _LN2_LOWER = 0.693359375, -2.1219444005469057e-4
_TOP = np.uint32(0x80000000)
_ALL = np.uint32(0xFFFFFFFF)
_NONE = np.uint32(0)
_SECOND = np.uint32(1 << 30)
_EIGHTH_TURN = np.uint32(1 << 29)
_DENSITY = 0.3989422804014327  # 1 / sqrt(2 pi)


@inlined
def _exp(v):
    """Return exp(v), which must be a normal number."""
    shifted = fma(v, 1.4426950408889634, SHIFTER(v))
    k = shifted - SHIFTER(v)
    r = fma(k, -_LN2_LOWER, fma(k, -_LN2_UPPER, v))
    return scale_by_power(fma(r * r, _EXP(r), r) + 1.0, shifted)


@inlined
def exp(v):
    """Return exp(v), where v is first cut to the range in which exp(v) and exp(-v) are normal numbers."""
    most = _EXP_MOST(v)
    v = where(v < most, v, most)
    return _exp(where(v < -most, -most, v))


@inlined
def exp_of_negative(v):
    """Return exp(v) for v <= 0: 0 where it is below the normal numbers, and NaN for NaN."""
    least = -_EXP_MOST(v)
    found = where(v < least, 0, _exp(where(v < least, least, v)))
    return where(v == v, found, v)


@inlined
def exp_or_zero(v):
    """Return `exp`, but 0 where the exponential is below the normal numbers."""
    return where(v < -_EXP_MOST(v), 0, exp(v))


@inlined
def sigmoid(v):
    """Return the sigmoid s = 1 / (1 + exp(-v)), and 1 - s to full relative precision.

    s is 0 where exp(v) is below the normal numbers.
    """
    e = exp(-v)
    s = reciprocal(e + 1.0)
    return where(v < -_EXP_MOST(v), 0, s), e * s


@inlined
def normal_cdf(x):
    """Return P(Z <= x) of a standard normal Z, and its density at x."""
    most = _DEVIATION_MOST(x)
    a = absolute(x)
    beyond, a = most < a, where(a < most, a, most)
    e = where(beyond, 0, _exp(a * a * -0.5))
    inverse = reciprocal(a + 3.0)
    tail = e * _TAIL(fma(inverse, -6.0, splat_like(1.0, x))) * inverse
    return where(x < 0, tail, splat_like(1.0, x) - tail), e * _DENSITY


@inlined
def _smaller(high, low, like):
    """Return the smaller of u and 1 - u, and whether it is 1 - u; u is (word + 1/2) / 2**bits.

    It is made from the digits of the word or of its complement, so that it is exact to its own digits near 0
    and near 1.
    """
    upper = (high & _TOP) != _NONE
    flip = where(upper, _ALL, splat_like(_NONE, high))
    return fma(integer(high ^ flip, low ^ flip, like), _STEP(like), _STEP(like) * 0.5), upper


@inlined
def radius(high, low, like):
    """Return sqrt(-2 ln u) of the uniform of a word, in the precision of `like`."""
    smaller, upper = _smaller(high, low, like)
    m, k = split(smaller)
    f = where(upper, -smaller, m - 1.0)
    return sqrt(fma(where(upper, 0, k), -2.0 * _LN2, f * -2.0 * _LOG(f)))


@inlined
def logistic(high, low, like):
    """Return ln(u / (1 - u)) of the uniform of a word, in the precision of `like`."""
    smaller, _ = _smaller(high, low, like)
    m, k = split(quotient(smaller, splat_like(1.0, like) - smaller))
    f = m - 1.0
    return flip_sign(fma(k, _LN2, f * _LOG(f)), high)


@inlined
def rotation(high, low, like):
    """Return the cosine and the sine of 2 pi word / 2**bits, in the precision of `like`."""
    # After an eighth of a turn was added, the upper two bits of the word are the number of the quadrant. r is
    # the angle from the middle of that quadrant, in [-1, 1], where 1 is half a quadrant.
    r = integer_shifted(high, low, like) * (_STEP(like) * 2.0)
    z = r * r
    sine, cosine = r * _SIN(z), _COS(z)
    quadrant = high + _EIGHTH_TURN
    odd = (quadrant & _SECOND) != _NONE
    x, y = where(odd, sine, cosine), where(odd, cosine, sine)
    return flip_sign(x, quadrant ^ (quadrant << np.uint32(1))), flip_sign(y, quadrant)
