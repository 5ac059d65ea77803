"""Special functions of lanes, by polynomials: exponentials, the normal distribution, Box and Muller's method.

Each polynomial, or quotient of two, interpolates its function at Chebyshev nodes; those for 16-bit types have
the least largest error. tests/kernels/test_special.py compares the functions on 2**18 arguments with extended
precision, and normal_tail with SciPy. It fails above these bounds, in units of the precision's eps (1.2e-7,
2.2e-16):

====================================  =======  =======
largest error                         float32  float64
====================================  =======  =======
exp, exp_of_negative, relative        1.0      1.0
sigmoid, relative                     1.5      1.5
normal_tail, absolute                 1.25     1.0
radius, relative                      1.5      1.5
logistic, of the absolute or relative  2.0      2.0
rotation, absolute                        1.0      1.0
====================================  =======  =======
"""

from __future__ import annotations

import numpy as np

from fastdrop._lanes.floats import (
    SHIFTER,
    flip_sign,
    fma,
    integer,
    integer_shifted,
    negative,
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

# 2**r for |r| <= 1/2
_EXP2 = polynomial(
    single=(
        0.00133813025,
        0.00966636852,
        0.0555038101,
        0.24022349,
        0.693147181,
        1.0,
    ),
    double=(
        4.4549605981865184e-10,
        7.0725859492692237e-09,
        1.0178062445845774e-07,
        1.321544258792169e-06,
        1.5252733829836118e-05,
        0.0001540353044173605,
        0.0013333558146416935,
        0.0096181291076068885,
        0.055504108664821594,
        0.24022650695910098,
        0.69314718055994531,
        1.0,
    ),
)

# exp(a**2 / 2) P(Z > a) over -a, for a up to _DEVIATION_MOST: one polynomial divided by the other
_MILLS = polynomial(
    single=(
        3.83301862e-07,
        -0.0129843935,
        0.10141436,
        -0.328247715,
        0.499999988,
    ),
    double=(
        -1.1171115754014964e-06,
        3.1219653388839532e-05,
        -0.00042396687619909817,
        0.0036298378104399616,
        -0.021459540794708081,
        0.09062179070300096,
        -0.27356933424307086,
        0.57198648721576118,
        -0.75965708359773348,
        0.5,
    ),
)
_MILLS_DIVISOR = polynomial(
    single=(
        0.0325886422,
        -0.253446992,
        0.863275348,
        -1.45437817,
        1.0,
    ),
    double=(
        2.8001834608486123e-06,
        -7.8256065902975311e-05,
        0.001065527543336043,
        -0.0091769101287087391,
        0.054848219589246373,
        -0.23609726251673104,
        0.73743069603936919,
        -1.6434914453763232,
        2.4928300638134441,
        -2.317198727998332,
        1.0,
    ),
)

# For 16-bit types: 2**r for |r| <= 1/2, and log2(P(Z > a)) over -a, for a up to _SHORT_MOST
_SHORT_EXP2 = polynomial(single=(0.00957010176, 0.0559178603, 0.240247448, 0.693121815, 0.999999261))
_SHORT_LOG_TAIL = polynomial(
    single=(
        4.89554686e-08,
        2.76269048e-06,
        6.71162301e-05,
        0.000933805407,
        0.00842502851,
        0.0536531375,
        -0.458865167,
        1.1510727,
        -1.00000944,
    )
)
_SHORT_MOST = 12.9

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
_MINUS_HALF_LOG2_E = -0.72134752044448170  # exp(-x**2 / 2) is 2 to the power of this times x**2


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

    s is 0 where exp(v) is below the normal numbers, and 1 - s where exp(-v) is.
    """
    e, most = exp(-v), _EXP_MOST(v)
    s = reciprocal(e + 1.0)
    return where(v < -most, 0, s), where(most < v, 0, e * s)


@inlined
def normal_tail(x):
    """Return -|x| and, for a standard normal Z, P(Z > |x|) and its density at x.

    |x| is first cut to the range in which exp(-x**2 / 2) is a normal number; beyond it the others are 0.
    """
    most, below = _DEVIATION_MOST(x), negative(x)
    beyond = below < -most
    below = where(beyond, -most, below)
    square = below * below
    shifted = fma(square, _MINUS_HALF_LOG2_E, SHIFTER(x))
    e = scale_by_power(_EXP2(fma(square, _MINUS_HALF_LOG2_E, SHIFTER(x) - shifted)), shifted)
    e = where(beyond, 0, e)
    return below, e * _MILLS(below) * reciprocal(_MILLS_DIVISOR(below)), e * _DENSITY


@inlined
def _short_exp2(v):
    """Return 2**v, which must be a normal number, precise enough for results of 16 bits."""
    shifted = v + SHIFTER(v)
    return scale_by_power(_SHORT_EXP2(v - (shifted - SHIFTER(v))), shifted)


@inlined
def short_normal_tail(x):
    """Return -|x| and P(Z > |x|), as `normal_tail` does, precise enough for results of 16 bits."""
    most, below = splat_like(-_SHORT_MOST, x), negative(x)
    beyond = below < most
    below = where(beyond, most, below)
    return below, where(beyond, 0, _short_exp2(_SHORT_LOG_TAIL(below)))


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
