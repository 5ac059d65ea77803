"""The functions on dask arrays, lazily: the same bits for any chunks as NumPy gives for the whole array.

Each block is a window of the whole array, so masks don't depend on chunks, schedulers or workers. What
comes back has x's chunks, dtype and kind of blocks, and nothing is computed before dask is asked to; the
values of an array p only then are checked. Blocks are done in one thread each, as dask runs many at once.
(`fastdrop.dropout` refuses a dask array, since it would have to compute all of it, and names this module.)

An array p belongs to the whole array: a NumPy array, or a dask array with any chunks, as a bias or a residual
may be. With `rows` each block gets the numbers of its own rows. Blocks are whole rows then, so that what
comes back has one chunk along every axis but the first. With `indices` each block gets those of its own
elements, and with `offsets` the parts of rows that lie in it, so that chunks stay as they are. `drop_block`
isn't here, since its scale needs the whole mask, nor is `attention`, where a query looks at all keys. The
extra ``dask`` installs what is needed.

Sums over several blocks, which are gradients of what blocks share (a bias, weights, a logit), are made in
float64, block by block: they are NumPy's to rounding. So are the products of `drop_connect`.

Examples
--------
>>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
>>> x = np.arange(1.0, 9.0)
>>> y = fd.dask.dropout(da.from_array(x, chunks=3), 0.5, fd.Key(42))
>>> y.chunks, y.dtype
(((3, 3, 2),), dtype('float64'))
>>> np.array_equal(y.compute(), fd.dropout(x, 0.5, fd.Key(42)))
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from inspect import signature
from types import MappingProxyType
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

import fastdrop as fd
from fastdrop._arrays.hints import checked_dtype, checked_shape
from fastdrop._arrays.listed import (
    Listed,
    Runs,
    axes_of_indices,
    check_flat,
    check_own_draws,
    check_shape,
    flat_indices,
    integers,
    ragged_rows,
    starts_of_rows,
)
from fastdrop._arrays.numbers import Rate, check_broadcast, flag
from fastdrop._arrays.plan import Axes, axes_in, check_one_way, integers_in, reduced, window_given
from fastdrop._backends import alone
from fastdrop._extras import missing
from fastdrop._noises._described import described_by
from fastdrop._noises.drop_path import path_axes, unscaled_dropout
from fastdrop._stream.keys import Key, natural, shown

try:
    import dask.array as da
    from dask import delayed
    from dask.base import tokenize
except ModuleNotFoundError as error:
    raise missing(__name__, error) from None

_NONE: Mapping[str, Any] = MappingProxyType({})
Rows: TypeAlias = ArrayLike | da.Array | None  # integers
Indices: TypeAlias = "ArrayLike | da.Array | tuple[Sequence[int], tuple[ArrayLike | da.Array, ...]] | None"
_NOT_LISTED = Listed()

_described_by = partial(
    described_by,
    words={
        "float or ndarray\n": "float, ndarray or dask array\n",
        "array_like of int": "ndarray or dask array of int",
        "array_like": "dask array",
        "ndarray\n": "dask array\n",
        "ndarray of": "dask array of",
    },
)


@_described_by(fd.dropout)
def dropout(
    x: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return x with each element dropped with probability p and the others scaled by 1/(1 - p).

    Parameters
    ----------
    x : dask array, any shape
        With known chunks, of a dtype that `fastdrop.dropout` takes.
    rows : ndarray or dask array of int, optional
        The number of each row of x, shape ``x.shape[:1]``, as in `fastdrop.dropout`: a mask belongs to a
        sample, whatever the chunks and the order. Blocks are whole rows then: x's chunks are kept along the
        first axis alone. The numbers of a dask array are checked when they are computed.
    indices : ndarray or dask array of int, or (full_shape, tuple of them), optional
        The index of each element of x, of x's shape, as in `fastdrop.dropout`: flat, or by axis of an array
        of `full_shape`. Chunks may be any, and those of x are kept. What a dask array holds is checked when
        it is computed.
    offsets : ndarray or dask array of int, optional
        x is flat, and its row r is ``x[offsets[r]:offsets[r + 1]]``, as in `fastdrop.dropout`. A chunk may
        end within a row. What a dask array holds is checked when it is computed.

    Returns
    -------
    dask array
        What `fastdrop.dropout` gives for the whole array, bit for bit.

    Raises
    ------
    TypeError
        If x is no dask array, or as `fastdrop.dropout`.
    ValueError
        If a chunk's size is unknown, or as `fastdrop.dropout`.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> fd.dask.dropout(da.ones((2, 4, 3), chunks=2), 0.5, fd.Key(42), shared_axes=1)[:, 0].compute()
    array([[0., 0., 2.],
           [2., 2., 2.]])

    Samples 3, 0 and 3 of a data set:

    >>> y = fd.dask.dropout(da.ones((3, 4), chunks=2), 0.5, fd.Key(42), rows=[3, 0, 3])
    >>> y.chunks, bool((y[0] == y[2]).all())
    (((2, 1), (4,)), True)

    Entries (0, 1) and (2, 0) of a sparse matrix of three columns:

    >>> entries, places = da.ones(2, chunks=1), (np.array([0, 2]), np.array([1, 0]))
    >>> y = fd.dask.dropout(entries, 0.5, fd.Key(42), indices=((3, 3), places))
    >>> np.array_equal(y.compute(), fd.dropout(np.ones((3, 3)), 0.5, fd.Key(42))[places])
    True
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(fd.dropout, x, rates={"p": p}, options=options, listed=Listed(rows, indices, offsets))


@_described_by(fd.dropout_backward)
def dropout_backward(
    g: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return the gradient of `dropout`: the same function of g, whatever its chunks.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.dropout_backward(da.ones(4, chunks=3), 0.5, fd.Key(42)).compute()
    array([0., 0., 2., 2.])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.dropout_backward, g, rates={"p": p}, options=options, listed=Listed(rows, indices, offsets)
    )


@_described_by(fd.keep_mask)
def keep_mask(
    shape: SupportsIndex | Sequence[SupportsIndex],
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    chunks: Any = "auto",
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return the mask that `dropout` applies: True where an element is kept.

    Parameters
    ----------
    chunks
        As `dask.array.ones` takes them: a size, sizes by axis, ``x.chunks``.

    Returns
    -------
    dask array of bool

    Examples
    --------
    >>> import fastdrop as fd, fastdrop.dask
    >>> fd.dask.keep_mask(8, 0.5, fd.Key(42), chunks=3).compute()
    array([False, False,  True,  True,  True,  True,  True,  True])
    """
    whole = _empty(shape, chunks, np.bool_)
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        _mask, whole, "keep_mask", rates={"p": p}, options=options, listed=Listed(rows, indices, offsets)
    )


@_described_by(fd.gaussian_dropout)
def gaussian_dropout(
    x: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return x times noise of mean 1 and variance p / (1 - p), bit for bit on one kind of machine.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.gaussian_dropout(da.ones(4, chunks=3), 0.5, fd.Key(42)).compute().round(3)
    array([ 1.975,  1.617, -0.197,  1.562])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.gaussian_dropout, x, rates={"p": p}, options=options, listed=Listed(rows, indices, offsets)
    )


@_described_by(fd.gaussian_dropout_backward)
def gaussian_dropout_backward(
    g: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return the gradient of `gaussian_dropout`: the same function of g.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.gaussian_dropout_backward(da.ones(2, chunks=1), 0.5, fd.Key(42)).compute().round(3)
    array([1.975, 1.617])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.gaussian_dropout_backward,
        g,
        rates={"p": p},
        options=options,
        listed=Listed(rows, indices, offsets),
    )


@_described_by(fd.gaussian_noise)
def gaussian_noise(
    x: da.Array,
    std: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return x plus normal noise of mean 0.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.gaussian_noise(da.zeros(4, chunks=3), 0.1, fd.Key(42)).compute().round(3)
    array([ 0.098,  0.062, -0.12 ,  0.056])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.gaussian_noise, x, rates={"std": std}, options=options, listed=Listed(rows, indices, offsets)
    )


@_described_by(fd.gaussian_noise_backward)
def gaussian_noise_backward(
    g: da.Array,
    std: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return the gradient of `gaussian_noise` with respect to its input: g itself.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> g = da.ones(3, chunks=2)
    >>> fd.dask.gaussian_noise_backward(g, 0.1, fd.Key(42)) is g
    True
    """
    check_one_way(None, rows, indices, offsets)
    return _known(g, "g")  # whatever its rows are


@_described_by(fd.normal)
def normal(
    shape: SupportsIndex | Sequence[SupportsIndex],
    key: Key | SupportsIndex,
    *,
    dtype: DTypeLike = np.float64,
    shared_axes: Axes = (),
    chunks: Any = "auto",
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return the standard normals that Gaussian noise is made of.

    Parameters
    ----------
    chunks
        As `dask.array.ones` takes them: a size, sizes by axis, ``x.chunks``.

    Examples
    --------
    >>> import fastdrop as fd, fastdrop.dask
    >>> fd.dask.normal(4, fd.Key(42), chunks=3).compute().round(3)
    array([ 0.975,  0.617, -1.197,  0.562])
    """
    whole = _empty(shape, chunks, dtype)
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(_normals, whole, "normal", options=options, listed=Listed(rows, indices, offsets))


@_described_by(fd.local_reparameterization)
def local_reparameterization(
    mean: da.Array,
    variance: ArrayLike | da.Array,
    key: Key | SupportsIndex,
    *,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return normals of given means and variances: what a layer with Gaussian weights puts out.

    Parameters
    ----------
    variance : float, ndarray or dask array of real numbers >= 0
        Broadcastable to the means.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> mean, variance = da.zeros(3, chunks=2), np.array([0.0, 1.0, 4.0])
    >>> fd.dask.local_reparameterization(mean, variance, fd.Key(42)).compute().round(3)
    array([ 0.   ,  0.617, -2.393])
    """
    return _lazily(
        fd.local_reparameterization,
        mean,
        rates={"variance": variance},
        options={"key": key},
        listed=Listed(rows, indices, offsets),
    )


@_described_by(fd.local_reparameterization_backward)
def local_reparameterization_backward(
    g: da.Array,
    variance: ArrayLike | da.Array,
    key: Key | SupportsIndex,
    *,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> tuple[da.Array, da.Array]:
    """Return the gradients of `local_reparameterization` with respect to means and variances.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> g = da.ones(3, chunks=2)
    >>> dmean, dvariance = fd.dask.local_reparameterization_backward(g, 4.0, fd.Key(42))
    >>> dvariance.compute().round(3)
    array([ 0.244,  0.154, -0.299])
    """
    parts = _lazily(
        fd.local_reparameterization_backward,
        g,
        rates={"variance": variance},
        options={"key": key},
        listed=Listed(rows, indices, offsets),
    )
    return g, _part(parts, 1)


@_described_by(fd.alpha_dropout)
def alpha_dropout(
    x: da.Array,
    p: float,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return x with elements set to SELU's limit, then scaled and shifted to keep its moments.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.alpha_dropout(da.zeros(4, chunks=3), 0.5, fd.Key(42)).compute().round(4)
    array([-0.7792, -0.7792,  0.7792,  0.7792])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(fd.alpha_dropout, x, options=options | {"p": p}, listed=Listed(rows, indices, offsets))


@_described_by(fd.alpha_dropout_backward)
def alpha_dropout_backward(
    g: da.Array,
    p: float,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return the gradient of `alpha_dropout` with respect to its input.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.alpha_dropout_backward(da.ones(4, chunks=3), 0.5, fd.Key(42)).compute().round(4)
    array([0.    , 0.    , 0.8864, 0.8864])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.alpha_dropout_backward, g, options=options | {"p": p}, listed=Listed(rows, indices, offsets)
    )


@_described_by(fd.concrete_dropout)
def concrete_dropout(
    x: da.Array,
    logit: float,
    key: Key | SupportsIndex,
    *,
    temperature: float = 0.1,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return x times a relaxed dropout mask, which has a gradient with respect to its rate.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.concrete_dropout(da.ones(6, chunks=4), 0.0, fd.Key(42)).compute().round(3)
    array([0.013, 0.   , 0.   , 0.   , 1.949, 1.851])
    """
    options = {"logit": logit, "key": key, "temperature": temperature, "shared_axes": shared_axes}
    return _lazily(fd.concrete_dropout, x, options=options, listed=Listed(rows, indices, offsets))


@_described_by(fd.concrete_dropout_backward)
def concrete_dropout_backward(
    g: da.Array,
    x: NDArray[Any] | da.Array,
    logit: float,
    key: Key | SupportsIndex,
    *,
    temperature: float = 0.1,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> tuple[da.Array, da.Array]:
    """Return the gradients of `concrete_dropout` with respect to x and to the logit.

    Returns
    -------
    dx : dask array
        ``g * (1 - z) / (1 - p)``, in g's chunks.
    dlogit : dask array of float64, 0-D
        The sum of ``g * y * (p - z / temperature)``.

    Examples
    --------
    >>> import dask, dask.array as da, fastdrop as fd, fastdrop.dask
    >>> g = x = da.ones(6, chunks=4)
    >>> dx, dlogit = dask.compute(*fd.dask.concrete_dropout_backward(g, x, 0.0, fd.Key(42)))
    >>> dx.round(3), round(float(dlogit), 3)
    (array([0.013, 0.   , 0.   , 0.   , 1.949, 1.851]), -0.096)
    """
    options = {"logit": logit, "key": key, "temperature": temperature, "shared_axes": shared_axes}
    parts = _lazily(
        fd.concrete_dropout_backward, g, like={"x": x}, options=options, listed=Listed(rows, indices, offsets)
    )
    return _part(parts, 0), _total(parts, 1, ())


@_described_by(fd.information_dropout)
def information_dropout(
    x: da.Array,
    alpha: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return x times noise whose logarithm is normal, with mean 0 and standard deviation alpha.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.information_dropout(da.ones(4, chunks=3), 0.5, fd.Key(42)).compute().round(3)
    array([1.629, 1.361, 0.55 , 1.324])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.information_dropout,
        x,
        rates={"alpha": alpha},
        options=options,
        listed=Listed(rows, indices, offsets),
    )


@_described_by(fd.information_dropout_backward)
def information_dropout_backward(
    g: da.Array,
    x: NDArray[Any] | da.Array,
    alpha: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> tuple[da.Array, da.Array]:
    """Return the gradients of `information_dropout` with respect to x and to alpha.

    Returns
    -------
    dx : dask array
        ``g * exp(alpha * z)``, in g's chunks.
    dalpha : dask array of float64, of alpha's shape
        The sums of ``g * y * z`` over the elements of each alpha.

    Examples
    --------
    >>> import dask, dask.array as da, fastdrop as fd, fastdrop.dask
    >>> g = x = da.ones(4, chunks=3)
    >>> dx, dalpha = dask.compute(*fd.dask.information_dropout_backward(g, x, 0.5, fd.Key(42)))
    >>> dx.round(3), round(float(dalpha), 3)
    (array([1.629, 1.361, 0.55 , 1.324]), 2.515)
    """
    options = {"key": key, "shared_axes": shared_axes}
    call, rates = fd.information_dropout_backward, {"alpha": alpha}
    parts = _lazily(
        call, g, rates=rates, like={"x": x}, options=options, listed=Listed(rows, indices, offsets)
    )
    whole = _totals(parts, 1, shape) if (shape := np.shape(alpha)) else _total(parts, 1, ())
    return _part(parts, 0), whole


@_described_by(fd.standout_dropout)
def standout_dropout(
    h: da.Array,
    a: NDArray[Any] | da.Array,
    key: Key | SupportsIndex,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    inverted: bool = False,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return h with each element kept with a probability that its pre-activation tells.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> a = np.array([-9.0, -1.0, 0.0, 1.0, 9.0, 9.0])
    >>> fd.dask.standout_dropout(da.ones(6, chunks=4), a, fd.Key(42)).compute()
    array([0., 0., 1., 1., 1., 1.])
    """
    options = {"key": key, "alpha": alpha, "beta": beta, "inverted": inverted}
    return _lazily(
        fd.standout_dropout, h, like={"a": a}, options=options, listed=Listed(rows, indices, offsets)
    )


@_described_by(fd.standout_dropout_backward)
def standout_dropout_backward(
    g: da.Array,
    a: NDArray[Any] | da.Array,
    key: Key | SupportsIndex,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    inverted: bool = False,
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return the gradient of `standout_dropout` with respect to h.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.standout_dropout_backward(da.ones(4, chunks=3), da.zeros(4), fd.Key(42)).compute()
    array([0., 0., 1., 1.])
    """
    options = {"key": key, "alpha": alpha, "beta": beta, "inverted": inverted}
    return _lazily(
        fd.standout_dropout_backward, g, like={"a": a}, options=options, listed=Listed(rows, indices, offsets)
    )


@_described_by(fd.drop_path)
def drop_path(
    x: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    mode: str = "row",
    scale_by_keep: bool = True,
    rows: Rows = None,
) -> da.Array:
    """Return x with whole samples dropped: stochastic depth of a residual branch.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.drop_path(da.ones((4, 2), chunks=1), 0.5, fd.Key(7)).compute()
    array([[0., 0.],
           [2., 2.],
           [0., 0.],
           [2., 2.]])
    """
    return _by_path("drop_path", x, p, key, mode, scale_by_keep, rows)


def _by_path(
    name: str,
    x: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    mode: str,
    scale_by_keep: bool,
    rows: Rows,
) -> da.Array:
    """Return x, or a gradient, with whole samples dropped."""
    options = {"key": key, "shared_axes": path_axes(np.ndim(x), mode)}
    function = fd.dropout if flag("scale_by_keep", scale_by_keep) else unscaled_dropout
    return _lazily(function, x, name, rates={"p": p}, options=options, listed=Listed(rows))


@_described_by(fd.drop_path_backward)
def drop_path_backward(
    g: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    mode: str = "row",
    scale_by_keep: bool = True,
    rows: Rows = None,
) -> da.Array:
    """Return the gradient of `drop_path`: the same function of g.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.drop_path_backward(da.ones((4, 1), chunks=1), 0.5, fd.Key(7)).compute().ravel()
    array([0., 2., 0., 2.])
    """
    return _by_path("drop_path_backward", g, p, key, mode, scale_by_keep, rows)


@_described_by(fd.zoneout)
def zoneout(
    new: da.Array,
    previous: NDArray[Any] | da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return new with each element replaced, with probability p, by that of previous.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> new = da.arange(1.0, 7.0, chunks=4)
    >>> fd.dask.zoneout(new, -new, 0.5, fd.Key(42)).compute()
    array([-1., -2.,  3.,  4.,  5.,  6.])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.zoneout,
        new,
        rates={"p": p},
        like={"previous": previous},
        options=options,
        listed=Listed(rows, indices, offsets),
    )


@_described_by(fd.zoneout_backward)
def zoneout_backward(
    g: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> tuple[da.Array, da.Array]:
    """Return the gradients of `zoneout` with respect to new and to previous.

    Examples
    --------
    >>> import dask, dask.array as da, fastdrop as fd, fastdrop.dask
    >>> dask.compute(*fd.dask.zoneout_backward(da.arange(1.0, 7.0, chunks=4), 0.5, fd.Key(42)))
    (array([0., 0., 3., 4., 5., 6.]), array([1., 2., 0., 0., 0., 0.]))
    """
    options = {"key": key, "shared_axes": shared_axes}
    parts = _lazily(
        fd.zoneout_backward, g, rates={"p": p}, options=options, listed=Listed(rows, indices, offsets)
    )
    return _part(parts, 0), _part(parts, 1)


@_described_by(fd.dropout_add)
def dropout_add(
    x: da.Array,
    residual: NDArray[Any] | da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return residual + dropout(x), block by block in one pass.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> fd.dask.dropout_add(da.ones(6, chunks=4), np.arange(6.0), 0.5, fd.Key(42)).compute()
    array([0., 1., 4., 5., 6., 7.])
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.dropout_add,
        x,
        rates={"p": p},
        like={"residual": residual},
        options=options,
        listed=Listed(rows, indices, offsets),
    )


@_described_by(fd.dropout_add_backward)
def dropout_add_backward(
    g: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> tuple[da.Array, da.Array]:
    """Return the gradients of `dropout_add`: that of `dropout`, and g itself.

    Examples
    --------
    >>> import dask, dask.array as da, fastdrop as fd, fastdrop.dask
    >>> dask.compute(*fd.dask.dropout_add_backward(da.ones(4, chunks=3), 0.5, fd.Key(42)))
    (array([0., 0., 2., 2.]), array([1., 1., 1., 1.]))
    """
    options = {"key": key, "shared_axes": shared_axes}
    return _lazily(
        fd.dropout_backward,
        g,
        "dropout_add_backward",
        rates={"p": p},
        options=options,
        listed=Listed(rows, indices, offsets),
    ), g


@_described_by(fd.bias_act_dropout)
def bias_act_dropout(
    x: da.Array,
    bias: NDArray[Any] | da.Array | None,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    activation: str = "relu",
    residual: NDArray[Any] | da.Array | None = None,
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> da.Array:
    """Return dropout of an activation of x + bias, plus a residual, block by block in one pass.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> x = da.from_array(np.array([[-3.0, -1.0, 1.0, 3.0]]), chunks=3)
    >>> fd.dask.bias_act_dropout(x, np.ones(4), 0.5, fd.Key(42)).compute()
    array([[0., 0., 4., 8.]])
    """
    options = {"key": key, "activation": activation, "shared_axes": shared_axes}
    return _lazily(
        fd.bias_act_dropout,
        x,
        rates={"p": p},
        like={"residual": residual},
        last={"bias": bias},
        options=options,
        listed=Listed(rows, indices, offsets),
    )


@_described_by(fd.bias_act_dropout_backward)
def bias_act_dropout_backward(
    g: da.Array,
    x: NDArray[Any] | da.Array,
    bias: NDArray[Any] | da.Array | None,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    activation: str = "relu",
    shared_axes: Axes = (),
    rows: Rows = None,
    indices: Indices = None,
    offsets: Rows = None,
) -> tuple[da.Array, da.Array | None]:
    """Return the gradients of `bias_act_dropout` with respect to x and to the bias.

    Returns
    -------
    dx : dask array
        In g's chunks, with NumPy's bits.
    dbias : dask array or None
        Its sum over all axes but the last, of the bias's dtype. Blocks are summed one by one, in float64:
        it is NumPy's to rounding.

    Examples
    --------
    >>> import dask, dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> x = np.array([[-3.0, -1.0, 1.0, 3.0]])
    >>> g = da.ones((1, 4), chunks=3)
    >>> dask.compute(fd.dask.bias_act_dropout_backward(g, x, np.ones(4), 0.5, fd.Key(42)))
    ((array([[0., 0., 2., 2.]]), array([0., 0., 2., 2.])),)
    """
    dx = _lazily(
        _activation_backward,
        g,
        "bias_act_dropout_backward",
        rates={"p": p},
        like={"x": x},
        last={"bias": bias},
        options={"key": key, "activation": activation, "shared_axes": shared_axes},
        listed=Listed(rows, indices, offsets),
    )
    if bias is None:
        return dx, None
    return dx, dx.sum(tuple(range(g.ndim - 1)), dtype=np.float64).astype(da.asarray(bias).dtype)


@_described_by(fd.token_dropout)
def token_dropout(
    tokens: da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    replacement: SupportsIndex,
    protected: Iterable[SupportsIndex] = (),
    rows: Rows = None,
) -> da.Array:
    """Return tokens with each replaced, with probability p, by another, such as that of an unknown word.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> tokens = da.from_array(np.array([1, 17, 12, 15, 2, 0], np.uint16), chunks=4)
    >>> fd.dask.token_dropout(tokens, 0.5, fd.Key(42), replacement=3, protected=(0, 1, 2)).compute()
    array([ 1,  3, 12, 15,  2,  0], dtype=uint16)
    """
    words = tuple(protected) if isinstance(protected, Iterable) else protected
    options = {"key": key, "replacement": replacement, "protected": words}
    return _lazily(fd.token_dropout, tokens, rates={"p": p}, options=options, listed=Listed(rows))


@_described_by(fd.embedding_dropout)
def embedding_dropout(
    tokens: da.Array, weight: NDArray[Any] | da.Array, p: Rate, key: Key | SupportsIndex
) -> da.Array:
    """Return the embeddings of tokens, with words dropped: a word at all its places, or at none.

    Parameters
    ----------
    weight : ndarray or dask array of shape (vocabulary, features)
        The embedding, of a dtype that `fastdrop.dropout` takes. Each block reads it by words, whole.

    Returns
    -------
    dask array of shape ``(*tokens.shape, features)``
        In the tokens' chunks, and weight's along the features.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> tokens, weight = da.from_array(np.array([0, 3, 2]), chunks=2), np.arange(1.0, 9).reshape(4, 2)
    >>> fd.dask.embedding_dropout(tokens, weight, 0.5, fd.Key(42)).compute()
    array([[ 0.,  0.],
           [14., 16.],
           [10., 12.]])
    """
    tokens, table = _known(tokens, "tokens"), _known(_as_dask(weight, "weight"), "weight")
    if table.ndim != 2:
        raise ValueError(f"weight must have the shape (vocabulary, features), got {table.shape}")
    p = deepcopy(p)  # since the caller may change it
    fd.embedding_dropout(tokens._meta, np.empty((len(table), 0), table.dtype), p, key)
    axes = tuple(f"axis {n}" for n in range(tokens.ndim))
    unique = f"embedding_dropout-{tokenize(tokens, table, p, key)}"
    alike = {"dtype": table.dtype, "name": unique, "concatenate": True}
    operands = tokens, axes, table.rechunk({0: -1}), ("word", "feature")
    return da.blockwise(_embedded, (*axes, "feature"), *operands, p=p, key=key, **alike)


@_described_by(fd.embedding_dropout_backward)
def embedding_dropout_backward(
    g: da.Array,
    tokens: NDArray[Any] | da.Array,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    vocabulary: SupportsIndex,
) -> da.Array:
    """Return the gradient of `embedding_dropout` with respect to weight, the sum of those of the blocks.

    Returns
    -------
    dask array of shape (vocabulary, features)
        In g's chunks along the features.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> g, tokens = da.ones((5, 2), chunks=2), np.array([3, 0, 2, 3, 0])
    >>> fd.dask.embedding_dropout_backward(g, tokens, 0.5, fd.Key(42), vocabulary=4).compute()
    array([[0., 0.],
           [0., 0.],
           [2., 2.],
           [4., 4.]])
    """
    g, size = _known(g, "g"), natural("vocabulary", vocabulary)
    words = _as_dask(tokens, "tokens")
    if g.shape[:-1] != words.shape or g.ndim != words.ndim + 1:
        raise ValueError(f"g must have the shape (*{words.shape}, features), got {g.shape}")
    words = words.rechunk(g.chunks[:-1])
    p = deepcopy(p)  # since the caller may change it
    fd.embedding_dropout_backward(g._meta, words._meta, p, key, vocabulary=size)
    axes = tuple(f"axis {n}" for n in range(words.ndim))
    unique = f"embedding_dropout_backward-{tokenize(g, words, p, key, size)}"
    each = da.blockwise(
        _embedded_backward,
        (*axes, "word", "feature"),
        *(g, (*axes, "feature"), words, axes),
        p=p,
        key=key,
        vocabulary=size,
        new_axes={"word": size},
        adjust_chunks=dict.fromkeys(axes, _one),
        dtype=np.float64,
        name=unique,
    )
    return each.sum(tuple(range(words.ndim))).astype(g.dtype)


@_described_by(fd.drop_connect)
def drop_connect(
    x: da.Array,
    weight: NDArray[Any] | da.Array,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: NDArray[Any] | da.Array | None = None,
    per_example: bool = True,
    rows: Rows = None,
) -> da.Array:
    """Return ``x @ weight + bias`` with each weight and bias dropped with probability p, for each example.

    Blocks are rows of x: the weights, and the features of a row, lie in one.

    Returns
    -------
    dask array of shape (n, features_out)
        In x's chunks along the examples. What each example is multiplied with has NumPy's bits; the
        products, which BLAS sums in an order of its own, are NumPy's to rounding.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> x, weight = da.ones((2, 3), chunks=1), np.arange(6.0).reshape(3, 2)
    >>> fd.dask.drop_connect(x, weight, 0.5, fd.Key(42)).compute()
    array([[12., 16.],
           [ 0., 12.]])
    """
    arrays = _dense(x, weight, bias)
    options = {"p": p, "key": key, "per_example": flag("per_example", per_example)}
    _check_dense(arrays, options)
    alike = {"dtype": arrays["x"].dtype, "meta": arrays["x"]._meta}
    return _by_rows(fd.drop_connect, "drop_connect", ("row", "output"), arrays, options, rows, **alike)


@_described_by(fd.drop_connect_backward)
def drop_connect_backward(
    g: da.Array,
    x: NDArray[Any] | da.Array,
    weight: NDArray[Any] | da.Array,
    p: float,
    key: Key | SupportsIndex,
    *,
    bias: bool = False,
    per_example: bool = True,
    rows: Rows = None,
) -> tuple[da.Array, da.Array, da.Array | None]:
    """Return the gradients of `drop_connect` with respect to x, the weights and the bias.

    Examples
    --------
    >>> import dask, dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> g, x, weight = da.ones((2, 2), chunks=1), np.ones((2, 3)), np.arange(6.0).reshape(3, 2)
    >>> dx, dweight, _ = dask.compute(*fd.dask.drop_connect_backward(g, x, weight, 0.5, 42))
    >>> dx
    array([[ 0., 10., 18.],
           [ 2.,  0., 10.]])
    >>> dweight
    array([[2., 2.],
           [2., 2.],
           [2., 4.]])
    """
    bias = flag("bias", bias)
    g, x = _matrix(_known(g, "g"), "g"), _matrix(_as_dask(x, "x"), "x")
    features, outputs = _matrix(_as_dask(weight, "weight"), "weight").shape
    if g.shape != (len(x), outputs):
        raise ValueError(f"g must have the shape {(len(x), outputs)}, got {g.shape}")
    arrays = _dense(x.rechunk({0: g.chunks[0]}), weight, None)
    options = {"p": p, "key": key, "per_example": flag("per_example", per_example)}
    _check_dense(arrays, options)
    arrays, options = {"g": g.rechunk({1: -1}), **arrays}, options | {"bias": bias}
    alike = {"dtype": g.dtype, "meta": g._meta}
    name, axes = "drop_connect_backward", ("row", "feature")
    parts = _by_rows(fd.drop_connect_backward, name, axes, arrays, options, rows, **alike)
    dbias = _total(parts, 2, (outputs,)).astype(g.dtype) if bias else None
    return _part(parts, 0), _total(parts, 1, (features, outputs)).astype(g.dtype), dbias


def _empty(shape: Any, chunks: Any, dtype: Any) -> da.Array:
    """Return an array whose numbers nobody reads, cut into chunks, or raise an error."""
    wrong = f"chunks must be sizes of at least 1, as dask.array.ones takes them, got {shown(chunks)}"
    if chunks is None:
        raise TypeError(wrong)
    lengths = integers_in(checked_shape(shape), "shape")
    dtype = checked_dtype(dtype)
    try:
        given = da.core.normalize_chunks(chunks, lengths, dtype=dtype)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise (TypeError if isinstance(error, (TypeError, AttributeError)) else ValueError)(wrong) from error
    return da.empty(lengths, chunks=given, dtype=dtype)


def _known(x: Any, name: str) -> da.Array:
    """Return a dask array whose chunks are known, or raise an error."""
    if not isinstance(x, da.Array):
        kind = type(x).__name__
        raise TypeError(
            f"{name} must be a dask array, got {kind}; use dask.array.from_array({name}, chunks=...)"
        )
    if any(math.isnan(n) for n in x.shape):
        raise ValueError(
            f"chunks must have known sizes, got shape {x.shape}; use {name}.compute_chunk_sizes()"
        )
    return x


def _as_dask(x: Any, name: str) -> da.Array:
    """Return a caller's array as one of dask's, or raise an error if it is of objects."""
    try:
        return da.asarray(x)
    except NotImplementedError:
        dtype = getattr(x, "dtype", "object")
        raise TypeError(
            f"{name} must be an array of numbers, got one of {dtype}; use np.array({name}.tolist())"
        ) from None


def _lazily(
    call: Callable[..., Any],
    x: Any,
    name: str = "",
    *,
    rates: Mapping[str, Any] = _NONE,
    like: Mapping[str, Any] = _NONE,
    last: Mapping[str, Any] = _NONE,
    options: Mapping[str, Any] = _NONE,
    listed: Listed = _NOT_LISTED,
) -> da.Array:
    """The function's results for all blocks of x; what can be checked without them is checked now.

    Other arguments go by their names in the function: numbers, or arrays of them, that broadcast to the
    mask; arrays of x's shape; arrays of its last axis; and what is the same for all blocks. With rows the
    blocks are whole rows.
    """
    x = _known(x, next(iter(signature(call).parameters)))
    x, of_draws, runs = _drawn(x, options.get("shared_axes", ()), listed)
    of_rates = {n: _aligned(n, a, x, options.get("shared_axes", ())) for n, a in rates.items() if _chunked(a)}
    beside = {n: _beside(n, a, x, 0) for n, a in like.items() if a is not None}
    beside |= {n: _beside(n, a, x, max(x.ndim - 1, 0)) for n, a in last.items() if a is not None}
    blocks = of_rates | beside | of_draws
    given = {n: a for n, a in (*rates.items(), *like.items(), *last.items()) if n not in blocks}
    same = deepcopy({**options, **given})  # since the caller may change a logit, or a list of axes
    metas = {n: a._meta for n, a in beside.items()}
    metas |= {n: np.zeros((1,) * a.ndim, a.dtype) for n, a in of_rates.items()}  # any valid rates
    with np.errstate(all="ignore"):
        call(x._meta, **metas, **same, window=(x.shape, (0,) * x.ndim))
    unique = f"{name or call.__name__}-{tokenize(call, x, blocks, same, runs)}"
    settings = {"call": call, "names": tuple(blocks), "options": same, "runs": runs}
    alike = {"dtype": x.dtype, "meta": x._meta}
    return da.map_blocks(_block, x, *blocks.values(), **settings, name=unique, **alike)


def _block(
    x: NDArray[Any],
    *others: NDArray[Any],
    call: Callable[..., Any],
    names: tuple[str, ...],
    options: dict[str, Any],
    runs: Runs | None,
    block_info: Any,
) -> Any:
    """The function's result for a block of the array: where it lies, or for the draws that it has."""
    arrays, origin = dict(zip(names, others, strict=True)), block_info[0]["array-location"]
    window: Any = block_info[0]["shape"], tuple(start for start, _ in origin)
    if runs is not None:
        window = runs.cut(*origin[0]).quickest()
    elif "rows" in arrays:
        window = window_given(None, arrays.pop("rows").reshape(-1))
    elif "indices" in arrays:
        window = window_given(None, indices=arrays.pop("indices"))
    with alone():
        return call(x, **arrays, **options, window=window)


def _drawn(x: da.Array, shared_axes: Axes, listed: Listed) -> tuple[da.Array, dict[str, da.Array], Any]:
    """Return x and what says which draws its blocks have: arrays in their chunks, and `Runs` of the whole."""
    check_one_way(None, *listed)
    if listed.offsets is not None:
        return x, {}, _runs(listed, x.shape)
    if listed.indices is not None:
        check_own_draws(x.shape, reduced(x.shape, axes_in(shared_axes, x.ndim)))
        return x, {"indices": _indices(listed.indices, x)}, None
    if listed.rows is None:
        return x, {}, None
    numbers = _numbers(listed.rows, x.shape, x.chunks, shared_axes)
    numbers = numbers[(..., *(None,) * (x.ndim - 1))]  # as dask aligns the axes of blocks
    return x.rechunk(dict.fromkeys(range(1, x.ndim), -1)), {"rows": numbers}, None


def _numbers(rows: Any, shape: tuple[int, ...], chunks: Any, shared_axes: Axes = ()) -> da.Array:
    """Return the numbers of an array's rows in the array's chunks, or raise an error if they don't fit it.

    Those of a dask array aren't computed, so that only their shape and dtype are checked.
    """
    rows = _kept(rows, "rows")
    given = _stand_in(rows) if isinstance(rows, da.Array) else rows
    starts_of_rows(given, shape, reduced(shape, axes_in(shared_axes, len(shape))))
    return da.asarray(rows).rechunk(chunks[:1])


def _indices(indices: Any, x: da.Array) -> da.Array:
    """Return the flat indices of x's elements in x's chunks, or raise an error if they don't fit it.

    Those of dask arrays aren't computed, so that only their shapes and dtypes are checked.
    """
    axes = [(name, _kept(given, name), length) for name, given, length in axes_of_indices(indices)]
    for name, given, length in axes:
        if isinstance(given, da.Array):
            integers(name, _stand_in(given))
            check_shape(name, given.shape, x.shape)
        else:
            flat_indices([(name, given, length)], x.shape)
    if not axes:
        return da.zeros(x.shape, dtype=np.int64, chunks=x.chunks)
    names, each, lengths = zip(*axes, strict=True)
    settings = {
        "names": names,
        "lengths": lengths,
        "dtype": np.int64,
        "meta": np.empty((0,) * x.ndim, np.int64),
    }
    return da.map_blocks(_flat, *(da.asarray(given).rechunk(x.chunks) for given in each), **settings)


def _flat(*given: Any, names: tuple[str, ...], lengths: tuple[int, ...]) -> NDArray[np.int64]:
    return flat_indices(list(zip(names, given, lengths, strict=True)), given[0].shape)


def _runs(listed: Listed, shape: tuple[int, ...]) -> Any:
    """Return the rows of a flat array as dask hands them to blocks, or raise an error if they don't fit it.

    Where they are dask arrays, they are checked when they are computed.
    """
    check_flat(shape)
    rows = None if listed.rows is None else _kept(listed.rows, "rows")
    offsets = _kept(listed.offsets, "offsets")
    later = [
        (name, array) for name, array in (("rows", rows), ("offsets", offsets)) if isinstance(array, da.Array)
    ]
    if not later:
        return delayed(ragged_rows(rows, offsets, shape), pure=True, traverse=False)
    for name, array in later:
        integers(name, _stand_in(array))
    return delayed(ragged_rows, pure=True)(rows, offsets, shape)


def _kept(given: Any, name: str) -> Any:
    """Return a dask array of known size, or a copy of what else was given, since the caller may change it."""
    return _known(given, name) if isinstance(given, da.Array) else np.array(given, subok=True)


def _stand_in(array: da.Array) -> NDArray[Any]:
    """Return an array of the shape and dtype of a dask array, which takes neither memory nor time."""
    make = np.empty if array.dtype.hasobject else np.zeros  # of objects it is a None, which is no integer
    return np.broadcast_to(make((), array.dtype), array.shape)


def _chunked(number: Any) -> bool:
    """Return whether a value is an array, of which each block needs a part."""
    return isinstance(number, (np.ndarray, da.Array))


def _beside(name: str, array: Any, x: da.Array, first: int) -> da.Array:
    """Return another array in x's chunks; it has the shape that x has from an axis on."""
    array = _as_dask(array, name)
    if array.shape != x.shape[first:]:
        raise ValueError(f"{name} must have the shape {x.shape[first:]}, got {array.shape}")
    return array.rechunk(x.chunks[first:])


def _aligned(name: str, numbers: Any, x: da.Array, shared_axes: Axes) -> da.Array:
    """Return an array of numbers with x's axes, in x's chunks along the axes where it has x's length.

    One number gets no axes, since NumPy makes a float of it where it makes an array of what has axes.
    """
    shared = axes_in(shared_axes, x.ndim)
    check_broadcast(name, numbers, tuple(1 if axis in shared else n for axis, n in enumerate(x.shape)))
    numbers = _as_dask(numbers, name)
    if not numbers.ndim:
        return numbers
    numbers = numbers[(None,) * (x.ndim - numbers.ndim)]
    cuts = ((1,) if n == 1 else cut for n, cut in zip(numbers.shape, x.chunks, strict=True))
    return numbers.rechunk(tuple(cuts))


def _part(parts: da.Array, which: int) -> da.Array:
    """Return one array of a function that returns several, in the chunks of the parts."""
    unique = f"{parts.name}-{which}"
    alike = {"dtype": parts.dtype, "meta": parts._meta}
    return da.map_blocks(_nth, parts, which=which, name=unique, **alike)


def _total(parts: da.Array, which: int, shape: tuple[int, ...]) -> da.Array:
    """Return the sum over blocks, in float64, of one result of a function that returns several."""
    axes, new = tuple(range(parts.ndim)), tuple(range(parts.ndim, parts.ndim + len(shape)))
    each = da.blockwise(
        _summand,
        axes + new,
        parts,
        axes,
        which=which,
        axes=parts.ndim,
        new_axes=dict(zip(new, shape, strict=True)),
        adjust_chunks=dict.fromkeys(axes, _one),
        dtype=np.float64,
        name=f"{parts.name}-{which}",
    )
    return each.sum(axes)


def _totals(parts: da.Array, which: int, shape: tuple[int, ...]) -> da.Array:
    """As `_total` of a result that has a number for each of some numbers, which broadcast to the array."""
    padded = (1,) * (parts.ndim - len(shape)) + shape
    repeated = tuple(axis for axis, n in enumerate(padded) if n == 1)
    cuts = ((1,) * len(cut) if axis in repeated else cut for axis, cut in enumerate(parts.chunks))
    unique, meta = f"{parts.name}-{which}", np.zeros((0,) * parts.ndim)
    each = da.map_blocks(_nth, parts, which=which, chunks=tuple(cuts), name=unique, meta=meta)
    return each.sum(repeated, keepdims=True).reshape(shape)


def _nth(parts: Any, which: int) -> Any:
    return parts[which]


def _summand(parts: Any, which: int, axes: int) -> NDArray[np.float64]:
    """Return a block's result with leading axes that number the blocks."""
    found: NDArray[np.float64] = np.asarray(parts[which], np.float64)[(None,) * axes]
    return found


def _one(length: int) -> int:
    return 1


def _mask(x: NDArray[Any], **options: Any) -> NDArray[np.bool_]:
    return fd.keep_mask(x.shape, **options)


def _normals(x: NDArray[Any], **options: Any) -> NDArray[Any]:
    return fd.normal(x.shape, dtype=x.dtype, **options)


def _activation_backward(g: NDArray[Any], **arguments: Any) -> NDArray[Any]:
    return fd.bias_act_dropout_backward(g, **arguments)[0]


def _embedded(tokens: NDArray[Any], weight: NDArray[Any], p: Any, key: Any) -> NDArray[Any]:
    with alone():
        return fd.embedding_dropout(tokens, weight, p, key)


def _embedded_backward(
    g: NDArray[Any], tokens: NDArray[Any], p: Any, key: Any, vocabulary: int
) -> NDArray[np.float64]:
    with alone():
        dweight = fd.embedding_dropout_backward(g, tokens, p, key, vocabulary=vocabulary)
    return np.asarray(dweight, np.float64)[(None,) * tokens.ndim]


def _dense(x: Any, weight: Any, bias: Any) -> dict[str, da.Array]:
    """Return the arrays of a dense layer in one chunk, but for x, which may be cut along its rows."""
    x = _matrix(_known(x, "x"), "x")
    if weight is None:
        raise TypeError("weight must be an array of shape (features_in, features_out), got None")
    others = {"weight": weight, "bias": bias}
    found = {name: _as_dask(array, name) for name, array in others.items() if array is not None}
    _matrix(found["weight"], "weight")
    return {"x": x.rechunk({1: -1}), **{name: array.rechunk(-1) for name, array in found.items()}}


_MATRICES = {
    "g": "(n, features_out)",
    "x": "(n, features_in)",
    "weight": "(features_in, features_out)",
}


def _matrix(array: da.Array, name: str) -> da.Array:
    """Return an array of two axes, or raise an error."""
    if array.ndim != 2:
        raise ValueError(f"{name} must have the shape {_MATRICES[name]}, got {array.shape}")
    return array


def _check_dense(arrays: dict[str, da.Array], options: dict[str, Any]) -> None:
    """Raise the errors that `fastdrop.drop_connect` raises, by a call on a batch without examples."""
    empty: dict[str, Any] = {
        name: np.zeros(array.shape, array.dtype) for name, array in arrays.items() if name != "x"
    }
    x = arrays["x"]
    fd.drop_connect(np.zeros((0, *x.shape[1:]), x.dtype), **empty, **(options | {"per_example": True}))


_AXES = {
    "g": ("row", "output"),
    "x": ("row", "feature"),
    "weight": ("feature", "output"),
    "bias": ("output",),
}


def _by_rows(
    call: Callable[..., Any],
    name: str,
    axes: tuple[str, ...],
    arrays: dict[str, da.Array],
    options: dict[str, Any],
    rows: Rows,
    **alike: Any,
) -> da.Array:
    """The results of a function of a dense layer's arrays for the blocks of rows."""
    x = arrays["x"]
    if rows is None:
        full, places = x.shape, da.from_array(np.cumsum([0, *x.chunks[0][:-1]]), chunks=1)
    else:
        full, places = None, _numbers(rows, (*x.shape, arrays["weight"].shape[1]), x.chunks)
    operands = [part for name, array in arrays.items() for part in (array, _AXES[name])]
    unique = f"{name}-{tokenize(call, arrays, options, places)}"
    settings = {"call": call, "names": tuple(arrays), "full": full, "options": options}
    how = {"align_arrays": False, "concatenate": True, "name": unique}
    return da.blockwise(_rows, axes, *operands, places, ("row",), **settings, **how, **alike)


def _rows(
    *arrays: NDArray[Any],
    call: Callable[..., Any],
    names: tuple[str, ...],
    full: tuple[int, ...] | None,
    options: dict[str, Any],
) -> Any:
    """The function's result for a block of rows; last comes where it begins, or the numbers of its rows."""
    *given, rows = arrays
    window = window_given(None, rows) if full is None else (full, (int(rows[0]), 0))
    with alone():
        return call(**dict(zip(names, given, strict=True)), **options, window=window)
