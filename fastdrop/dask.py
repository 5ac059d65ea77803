"""The functions on dask arrays, lazily: the same bits for any chunks as NumPy gives for the whole array.

Each block is a window of the whole array, so masks don't depend on chunks, schedulers or workers. What
comes back has x's chunks, dtype and kind of blocks, and nothing is computed before dask is asked to; the
values of an array p only then are checked. Blocks are done in one thread each, as dask runs many at once.
(`fastdrop.dropout` takes a dask array too, but as NumPy does: it computes all of it.)

An array p belongs to the whole array: a NumPy array, or a dask array with any chunks, as a bias or a residual
may be. `drop_block` isn't here, since its scale needs the whole mask, nor `drop_connect`, a product whose
terms lie in several blocks. The extra ``dask`` installs what is needed.

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
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

import fastdrop as fd
from fastdrop._arrays.numbers import Rate, check_broadcast
from fastdrop._arrays.plan import Axes, axes_in
from fastdrop._backends import alone
from fastdrop._noises.drop_path import path_axes
from fastdrop._stream.keys import Key

try:
    import dask.array as da
    from dask.base import tokenize
except ModuleNotFoundError as error:
    message = f"fastdrop.dask needs {error.name}; use pip install 'fastdrop-numpy[dask]'"
    raise ModuleNotFoundError(message, name=error.name) from None


def dropout(x: da.Array, p: Rate | da.Array, key: Key | SupportsIndex, *, shared_axes: Axes = ()) -> da.Array:
    """Return x with each element dropped with probability p and the others scaled by 1/(1 - p).

    Parameters
    ----------
    x : dask array, any shape
        With known chunks, of a dtype that `fastdrop.dropout` takes.
    p : float, ndarray or dask array
        Probability to drop, in [0, 1]. An array must broadcast to the mask's shape: x's, with length 1
        along the shared axes.
    key, shared_axes
        As in `fastdrop.dropout`.

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
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.dropout(da.ones((2, 4, 3), chunks=2), 0.5, fd.Key(42), shared_axes=1)[:, 0].compute()
    array([[0., 0., 2.],
           [2., 2., 2.]])
    """
    return _lazily(fd.dropout, x, p, key, shared_axes)


def dropout_backward(
    g: da.Array, p: Rate | da.Array, key: Key | SupportsIndex, *, shared_axes: Axes = ()
) -> da.Array:
    """Return the gradient of `dropout`: the same function of g, whatever its chunks; see `dropout`."""
    return _lazily(fd.dropout_backward, g, p, key, shared_axes)


def keep_mask(
    shape: SupportsIndex | Sequence[SupportsIndex],
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    chunks: Any = "auto",
) -> da.Array:
    """Return the mask that `dropout` applies: True where an element is kept.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array to which the mask belongs.
    p, key, shared_axes
        As in `dropout`.
    chunks
        As `dask.array.ones` takes them: a size, sizes by axis, ``x.chunks``.

    Examples
    --------
    >>> import fastdrop as fd, fastdrop.dask
    >>> fd.dask.keep_mask(8, 0.5, fd.Key(42), chunks=3).compute()
    array([False, False,  True,  True,  True,  True,  True,  True])
    """
    return _lazily(_mask, da.empty(shape, chunks=chunks, dtype=np.bool_), p, key, shared_axes, "keep_mask")


def gaussian_dropout(
    x: da.Array, p: Rate | da.Array, key: Key | SupportsIndex, *, shared_axes: Axes = ()
) -> da.Array:
    """Return x times noise of mean 1 and variance p / (1 - p); see `fastdrop.gaussian_dropout`.

    Parameters
    ----------
    x, p, key, shared_axes
        As in `dropout`, with p below 1.

    Returns
    -------
    dask array
        What `fastdrop.gaussian_dropout` gives for the whole array, bit for bit on one kind of machine.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.gaussian_dropout(da.ones(4, chunks=3), 0.5, fd.Key(42)).compute().round(3)
    array([ 1.975,  1.617, -0.197,  1.562])
    """
    return _lazily(fd.gaussian_dropout, x, p, key, shared_axes)


def gaussian_dropout_backward(
    g: da.Array, p: Rate | da.Array, key: Key | SupportsIndex, *, shared_axes: Axes = ()
) -> da.Array:
    """Return the gradient of `gaussian_dropout`: the same function of g; see there."""
    return _lazily(fd.gaussian_dropout_backward, g, p, key, shared_axes)


def gaussian_noise(
    x: da.Array, std: Rate | da.Array, key: Key | SupportsIndex, *, shared_axes: Axes = ()
) -> da.Array:
    """Return x plus normal noise of mean 0; its gradient is g itself. See `fastdrop.gaussian_noise`.

    Parameters
    ----------
    x, key, shared_axes
        As in `dropout`.
    std : float, ndarray or dask array
        Standard deviation, finite and not negative; an array as the p of `dropout`.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.gaussian_noise(da.zeros(4, chunks=3), 0.1, fd.Key(42)).compute().round(3)
    array([ 0.098,  0.062, -0.12 ,  0.056])
    """
    return _lazily(fd.gaussian_noise, x, std, key, shared_axes)


def alpha_dropout(x: da.Array, p: float, key: Key | SupportsIndex, *, shared_axes: Axes = ()) -> da.Array:
    """Return x with elements set to SELU's limit, its moments kept; see `fastdrop.alpha_dropout`.

    Parameters
    ----------
    x, p, key, shared_axes
        As in `dropout`, with real numbers and one p.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.alpha_dropout(da.zeros(4, chunks=3), 0.5, fd.Key(42)).compute().round(4)
    array([-0.7792, -0.7792,  0.7792,  0.7792])
    """
    return _lazily(fd.alpha_dropout, x, p, key, shared_axes)


def alpha_dropout_backward(
    g: da.Array, p: float, key: Key | SupportsIndex, *, shared_axes: Axes = ()
) -> da.Array:
    """Return the gradient of `alpha_dropout`; see `fastdrop.alpha_dropout_backward`."""
    return _lazily(fd.alpha_dropout_backward, g, p, key, shared_axes)


def drop_path(x: da.Array, p: Rate | da.Array, key: Key | SupportsIndex, *, mode: str = "row") -> da.Array:
    """Return x with whole samples dropped; see `fastdrop.drop_path`.

    Parameters
    ----------
    x, p, key
        As in `dropout`, with samples along the first axis of x.
    mode : {"row", "batch"}, default "row"
        Draw for each sample, or once for all.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd, fastdrop.dask
    >>> fd.dask.drop_path(da.ones((4, 2), chunks=1), 0.5, fd.Key(7)).compute()
    array([[0., 0.],
           [2., 2.],
           [0., 0.],
           [2., 2.]])
    """
    return _lazily(fd.dropout, x, p, key, path_axes(np.ndim(x), mode), "drop_path")


def drop_path_backward(
    g: da.Array, p: Rate | da.Array, key: Key | SupportsIndex, *, mode: str = "row"
) -> da.Array:
    """Return the gradient of `drop_path`: the same function of g; see there."""
    return _lazily(fd.dropout, g, p, key, path_axes(np.ndim(g), mode), "drop_path_backward")


def dropout_add(
    x: da.Array,
    residual: NDArray[Any] | da.Array,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
) -> da.Array:
    """Return residual + dropout(x), block by block in one pass; see `fastdrop.dropout_add`.

    Parameters
    ----------
    x, p, key, shared_axes
        As in `dropout`.
    residual : ndarray or dask array
        Of x's shape and dtype.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> fd.dask.dropout_add(da.ones(6, chunks=4), np.arange(6.0), 0.5, fd.Key(42)).compute()
    array([0., 1., 4., 5., 6., 7.])
    """
    return _lazily(fd.dropout_add, x, p, key, shared_axes, arrays={"residual": residual})


def dropout_add_backward(
    g: da.Array, p: Rate | da.Array, key: Key | SupportsIndex, *, shared_axes: Axes = ()
) -> tuple[da.Array, da.Array]:
    """Return the gradients of `dropout_add`: that of `dropout`, and g itself."""
    return _lazily(fd.dropout_backward, g, p, key, shared_axes, "dropout_add_backward"), g


def bias_act_dropout(
    x: da.Array,
    bias: NDArray[Any] | da.Array | None,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    activation: str = "relu",
    residual: NDArray[Any] | da.Array | None = None,
    shared_axes: Axes = (),
) -> da.Array:
    """Return dropout of an activation of x + bias, plus a residual; see `fastdrop.bias_act_dropout`.

    Parameters
    ----------
    x, p, key, shared_axes
        As in `dropout`; x is real and has an axis.
    bias : ndarray or dask array of shape ``x.shape[-1:]``, or None
        Added to x.
    activation : {"none", "relu", "gelu", "gelu_tanh", "silu"}, default "relu"
        As in `fastdrop.bias_act_dropout`.
    residual : ndarray or dask array, optional
        Of x's shape and dtype, added at the end.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastdrop as fd, fastdrop.dask
    >>> x = da.from_array(np.array([[-3.0, -1.0, 1.0, 3.0]]), chunks=3)
    >>> fd.dask.bias_act_dropout(x, np.ones(4), 0.5, fd.Key(42)).compute()
    array([[0., 0., 4., 8.]])
    """
    arrays = {"bias": bias, "residual": residual}
    return _lazily(_activate, x, p, key, shared_axes, "bias_act_dropout", arrays, activation=activation)


def bias_act_dropout_backward(
    g: da.Array,
    x: NDArray[Any] | da.Array,
    bias: NDArray[Any] | da.Array | None,
    p: Rate | da.Array,
    key: Key | SupportsIndex,
    *,
    activation: str = "relu",
    shared_axes: Axes = (),
) -> tuple[da.Array, da.Array | None]:
    """Return the gradients of `bias_act_dropout` with respect to x and to the bias.

    Parameters
    ----------
    g : dask array
        Gradient with respect to the output.
    x, bias, p, key, activation, shared_axes
        As given to `bias_act_dropout`.

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
    arrays, name = {"x": x, "bias": bias}, "bias_act_dropout_backward"
    dx = _lazily(_activate_backward, g, p, key, shared_axes, name, arrays, activation=activation)
    if bias is None:
        return dx, None
    return dx, dx.sum(tuple(range(g.ndim - 1)), dtype=np.float64).astype(da.asarray(bias).dtype)


def _lazily(
    call: Callable[..., NDArray[Any]],
    x: Any,
    p: Any,
    key: Any,
    shared_axes: Axes,
    name: str = "",
    arrays: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> da.Array:
    """The function's results for all blocks of x; what can be checked without them is checked now."""
    if not isinstance(x, da.Array):
        kind = type(x).__name__
        raise TypeError(f"x must be a dask array, got {kind}; use dask.array.from_array(x, chunks=...)")
    if any(math.isnan(n) for n in x.shape):
        raise ValueError(f"chunks must have known sizes, got shape {x.shape}; use x.compute_chunk_sizes()")
    one: Any = p
    if isinstance(p, (np.ndarray, da.Array)):
        p, one = _aligned(p, x, shared_axes), np.zeros((1,) * x.ndim, p.dtype)
    options |= {"key": key, "shared_axes": shared_axes}
    others = [_beside(x, array, name) for name, array in arrays.items()]
    metas = [getattr(array, "_meta", None) for array in others]
    call(x._meta, *metas, one, **options, window=(x.shape, (0,) * x.ndim))
    unique = f"{name or call.__name__}-{tokenize(call, x, p, others, options)}"
    alike = {"dtype": x.dtype, "meta": x._meta}
    return da.map_blocks(_block, x, p, *others, call=call, options=options, name=unique, **alike)


def _block(
    x: NDArray[Any],
    p: Any,
    *others: NDArray[Any] | None,
    call: Callable[..., NDArray[Any]],
    options: dict[str, Any],
    block_info: Any,
) -> NDArray[Any]:
    """The function's result for a block of the array, where it lies."""
    origin = tuple(start for start, _ in block_info[0]["array-location"])
    with alone():
        return call(x, *others, p, **options, window=(block_info[0]["shape"], origin))


def _beside(x: da.Array, array: Any, name: str) -> da.Array | None:
    """Another array in x's chunks: of x's shape, or a bias."""
    if array is None:
        return None
    array, first = da.asarray(array), max(x.ndim - 1, 0) if name == "bias" else 0
    if array.shape != x.shape[first:]:
        raise ValueError(f"{name} must have the shape {x.shape[first:]}, got {array.shape}")
    return array.rechunk(x.chunks[first:])


def _aligned(p: Any, x: da.Array, shared_axes: Axes) -> da.Array:
    """An array of rates with x's number of axes, in x's chunks along those that it isn't repeated along."""
    shared = axes_in(shared_axes, x.ndim)
    check_broadcast("p", p, tuple(1 if axis in shared else n for axis, n in enumerate(x.shape)))
    p = da.asarray(p)[(None,) * (x.ndim - p.ndim)]
    return p.rechunk(tuple((1,) if n == 1 else cut for n, cut in zip(p.shape, x.chunks, strict=True)))


def _mask(x: NDArray[Any], p: Any, key: Any, **options: Any) -> NDArray[np.bool_]:
    return fd.keep_mask(x.shape, p, key, **options)


def _activate(x: NDArray[Any], bias: Any, residual: Any, p: Any, key: Any, **options: Any) -> NDArray[Any]:
    return fd.bias_act_dropout(x, bias, p, key, residual=residual, **options)


def _activate_backward(*args: Any, **options: Any) -> NDArray[Any]:
    return fd.bias_act_dropout_backward(*args, **options)[0]
