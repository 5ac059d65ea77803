"""A call of every kernel on arrays that lie where a test puts them."""

import ml_dtypes
import numpy as np
from every_noise import is_plain

import fastdrop as fd
from fastdrop._arrays.host import as_lanes, lanes_dtype
from fastdrop._arrays.plan import Pass, Rows
from fastdrop._cpu import bernoulli, calls
from fastdrop._noises._noise import NOISES
from fastdrop._stream.keys import TILE, stream

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
KEY = fd.Key(42)


def window(x):
    """An odd place in an array of long rows, or in one of rows little longer than x."""
    return ((x.size + 5000,), (1021,)) if x.ndim == 1 else ((len(x) + 3, x.shape[1] + 5), (1, 3))


def drop_by(inner, phase):
    def call(x, out, put):
        a, b = as_lanes(x).ravel(), as_lanes(out).ravel()
        rates = put(np.array([0, 0.1, 0.5, 0.9, 1]))
        calls.by_rate(a, b, rates, inner, phase, 1001, *stream(KEY), 0.0)

    return call


def by_columns(x, out, put):
    a, b = as_lanes(x).ravel(), as_lanes(out).ravel()
    part = a.size // 95 * 95
    b[part:] = a[part:]
    if part:
        calls.drop_matrices(a[:part], b[:part], 19, 5, 1001, (1 << 30, 4 / 3, *stream(KEY)))


def fused(x, out, put):
    a = as_lanes(x)
    bias = put(np.resize(np.arange(5, dtype=lanes_dtype(a)), 5 + TILE))
    a, b = a.ravel(), as_lanes(out).ravel()
    what, draw = Pass("activate_add", activation=2), (1 << 30, 4 / 3, *stream(KEY))
    calls.elements(what, a, a, bias, 5, b, Rows(a.size, 0, 9), draw)


def units(shared, inner):
    def call(x, out, put):
        a, b = as_lanes(x).ravel(), as_lanes(out).ravel()
        outer = a.size // (shared * inner)
        if outer:
            factors = put(np.resize(np.array([0, 1, 2], lanes_dtype(a)), outer * inner))
            part = outer * shared * inner
            b[part:] = a[part:]
            arrays = calls.Part(a[:part], a[:part], a[:part], bernoulli.NO_CYCLE, b[:part])
            calls.units(Pass(), arrays, factors, calls.Units(shared, inner, 0))

    return call


def activated(name, added):
    def call(x, out, put):
        bias, residual = put(x.reshape(-1, x.shape[-1])[0]), put(x) if added else None
        fd.bias_act_dropout(x, bias, 0.3, KEY, activation=name, residual=residual, out=out)

    return call


def of(noise, options=lambda x: {}):
    """A call of a noise by its record, its other arrays like x and its rate 0.3."""

    def call(x, out, put):
        rate = (0.3,) if noise.rate else ()
        noise.function(x, *(put(x) for _ in noise.like), *rate, KEY, out=out, **options(x))

    return call


PLAIN = [n for n in NOISES.values() if is_plain(n) and n.takes("shared_axes") and n.takes("window")]


def rates(x, put):
    return put(np.resize([0.0, 0.3, 1.0, 0.6], x.shape))


# Each takes x, out (of x's shape and dtype) and a function that puts another array where x's like lie.
CALLS = {
    "half": lambda x, out, put: fd.dropout(x, 0.5, KEY, out=out),
    "tenth": lambda x, out, put: fd.dropout(x, 0.1, KEY, out=out),
    "mirrored": lambda x, out, put: fd.dropout(x, 0.1, KEY.antithetic(), out=out),
    "window": lambda x, out, put: fd.dropout(x, 0.3, KEY, out=out, window=window(x)),
    "by element": lambda x, out, put: fd.dropout(x, rates(x, put), KEY, out=out),
    "by row": lambda x, out, put: fd.dropout(x, rates(x[..., :1], put), KEY, out=out),
    "by feature": lambda x, out, put: fd.dropout(x, rates(x[-1:], put), KEY, out=out),
    "shared first": lambda x, out, put: fd.dropout(x, 0.3, KEY, shared_axes=0, out=out),
    "shared last": lambda x, out, put: fd.dropout(x, 0.3, KEY, shared_axes=-1, out=out),
    **{noise.name: of(noise) for noise in PLAIN},
    **{f"{noise.name} in a window": of(noise, lambda x: {"window": window(x)}) for noise in PLAIN},
    "shared alpha": lambda x, out, put: fd.alpha_dropout(x, 0.3, KEY, shared_axes=-1, out=out),
    "mask": lambda x, out, put: fd.apply_mask(x, put(np.resize([True, False, True], x.shape)), 0.3, out=out),
    "cycled rates": drop_by(1, 3),
    "cycled rates of rows": drop_by(32, 41),  # 1001 - 41 is a multiple of 32
    "cycled rates of long runs": drop_by(5000, 4900),
    "by columns": by_columns,
    "cycled bias": fused,
    **{f"units {sizes}": units(*sizes) for sizes in ((1, 3), (2, 1), (5, 1), (3, 9), (1, 2000))},
    **{name: activated(name, False) for name in ("none", "relu", "gelu", "gelu_tanh", "silu")},
    "silu added": activated("silu", True),
    "differentiated": lambda x, out, put: fd.bias_act_dropout_backward(x, put(x), None, 0.3, KEY, out=out),
}


def is_of_use(name, dtype):
    """Whether a call in this dtype can go elsewhere than one in others: an activation is of numbers alone."""
    return name not in ("none", "gelu", "gelu_tanh") or dtype in (np.float32, np.float64)


def has_its_turn(name, dtype):
    """Whether `make test` has a call in this dtype: of the two of 16 bits, which lie alike, it has one."""
    return np.dtype(dtype).itemsize > 2 or dtype is DTYPES[list(CALLS).index(name) % 2]


def treat_as(far):
    """Let all arrays be treated as those in the caches, beyond them, or so far beyond that stores stream."""
    calls.SMALL = calls.FETCH_FROM = 1 << 62 if far == bernoulli.NEAR else 0
    calls.STREAM_FROM = 0 if far == bernoulli.PAST else 1 << 62
