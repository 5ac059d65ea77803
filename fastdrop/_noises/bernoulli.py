"""Dropout with its mask, masks of one's own, and the layers of dropout by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import device, host
from fastdrop._arrays.hints import checked_shape, refuse_schedule
from fastdrop._arrays.numbers import FULL, Rate, flag, rate
from fastdrop._arrays.plan import NO_AXES, Axes, Indices, Layout, Pass, Plan, Window, layout_of, window_given
from fastdrop._backends import cpu, fuse, fused, masked
from fastdrop._noises._layer import ElementwiseLayer, Forward, RateLayer
from fastdrop._noises._noise import Noise, register
from fastdrop._stream.keys import Key, Rng, as_key_or_seed, stream
from fastdrop.schedules import Curriculum, ScheduledRate

DROP = Pass()
UNSCALED = Pass(scale=1.0)  # what is kept stays as it is
_BYTES, _BITS = Pass("keep", scale=1.0), Pass("keep_bits", scale=1.0)  # the masks themselves, on a GPU


def dropout(
    x: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return x with each element dropped with probability p and the others scaled by 1/(1 - p).

    Inverted Bernoulli dropout. The mask is a pure function of the key and of each element's C-order
    position, so nothing is stored: `dropout_backward` with the same key is the exact adjoint.

    Parameters
    ----------
    x : array_like, any shape
        float16, bfloat16 (of ml_dtypes), float32, float64, complex64 or complex128. Strides, memory
        order, byte order and dtype don't change the mask. 16-bit floats are computed in float32 and
        rounded once. Of objects of pandas and xarray the values are taken. PyTorch's tensors, dask's
        arrays, sparse matrices and what autograd traces are refused with the name of what takes them:
        converted without a word they would lose gradients, time or memory.
    p : float or ndarray
        Probability to drop, in [0, 1], exact to 2**-33. An array must broadcast to the mask's shape:
        x's, with length 1 along the shared axes. If x is on a GPU it may be there too, of floats, and is not
        checked: what isn't in [0, 1] gives NaNs.
    key : Key or int
        The same key gives the same mask; an int is the seed of a `Key`.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one draw: the spatial axes for spatial dropout, time for
        temporal dropout. The mask's index is then the position in the mask's shape.
    out : ndarray, optional
        Where to write: of x's shape and dtype, and either x itself or free of overlap with it.
    window : (full_shape, origin), optional
        x is the block at `origin` of an array of `full_shape`, and gets the mask that it has there.
        An array p belongs to the block.
    rows : array_like of int, optional
        The number of each row of x, shape ``x.shape[:1]``: row i gets the mask of row ``rows[i]`` of an
        array with any number of rows like it. So a mask belongs to a sample, whatever the batch and the
        order. Numbers are at least 0, with rows * (draws of a row) below 2**63, and may repeat.
    indices : array_like of int, or (full_shape, tuple of array_like of int), optional
        The index of each element of x, of x's shape: flat, or by axis of an array of `full_shape`, as
        `numpy.nonzero` returns them. An element gets the mask that it has there; equal indices get
        equal masks. For sparse data, whose masks then don't depend on how it is stored.
    offsets : array_like of int, optional
        x is flat, and its row r is ``x[offsets[r]:offsets[r + 1]]``, of up to 2**32 elements. Row r gets
        the mask of row ``rows[r]``, or r without `rows`, of an array with 2**32 columns: it doesn't
        depend on the lengths of other rows.

    Returns
    -------
    ndarray
        `out`, or a new C-order array. Dropped elements are +0.0 whatever x holds there; kept ones
        are ``x * s``, with s = 2**32 / (2**32 - round(p * 2**32)) rounded once to x's dtype.

    Raises
    ------
    TypeError
        If x has another dtype, p is not real, or key is neither a Key nor an int.
    ValueError
        If p is outside [0, 1] or NaN or doesn't broadcast, an axis is out of range or repeated, `out`,
        `window`, `rows`, `indices` or `offsets` doesn't fit x, or two of `window`, `indices` and
        `rows` with `offsets` are given.

    See Also
    --------
    dropout_backward : its gradient.
    keep_mask : the mask itself.

    Notes
    -----
    Where a kept element times s lies beyond its dtype, as 40000 * 2 does in float16, the result is infinite.
    `numpy.errstate` is not asked, here and in every other noise, and nothing warns: a look at each result
    would cost as much as the noise. ``np.isfinite(y).all()`` is that look, where x is finite.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014), section 10 for the scaling at training time. Tompson et al., "Efficient Object
    Localization Using Convolutional Networks", arXiv 1411.4280, section 3 for shared draws.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout(np.ones(8, np.float32), 0.5, fd.Key(42))
    array([0., 0., 2., 2., 2., 2., 2., 2.], dtype=float32)
    >>> whole = fd.dropout(np.ones((4, 3)), 0.5, fd.Key(42))
    >>> lower = fd.dropout(np.ones((2, 3)), 0.5, fd.Key(42), window=((4, 3), (2, 0)))
    >>> np.array_equal(whole[2:], lower)
    True
    >>> fd.dropout(np.ones((2, 4, 3)), 0.5, fd.Key(42), shared_axes=1)[:, :2]
    array([[[0., 0., 2.],
            [0., 0., 2.]],
           [[2., 2., 2.],
            [2., 2., 2.]]])

    A batch of samples 3, 0 and 3 of a data set, entries (0, 1) and (3, 2) of a sparse matrix, and rows
    of two and one elements:

    >>> np.array_equal(fd.dropout(np.ones((3, 3)), 0.5, fd.Key(42), rows=[3, 0, 3]), whole[[3, 0, 3]])
    True
    >>> entries = fd.dropout(np.ones(2), 0.5, fd.Key(42), indices=((4, 3), ([0, 3], [1, 2])))
    >>> np.array_equal(entries, whole[[0, 3], [1, 2]])
    True
    >>> fd.dropout(np.ones(3), 0.5, fd.Key(42), offsets=[0, 2, 3])
    array([0., 0., 2.])
    """
    if rows is not None or indices is not None or offsets is not None:
        window = window_given(window, rows, indices, offsets)
    if shared_axes is NO_AXES and window is None and not isinstance(p, np.ndarray):
        pair = host.plain_pair(x, out)
        if pair is not None:  # the quick way, which small calls need
            y, a, b, flat = pair
            threshold, scale = rate(p)
            if 0 < threshold < FULL:
                drop = cpu().drop_row if flat else cpu().drop_strided
                drop(a, b, 0, threshold, scale, *stream(key))
                return y
            as_key_or_seed(key)  # the key decides nothing, but may be none
            if threshold:
                b.fill(0)
            else:
                b[...] = a  # in half the time of np.copyto
            return y
    return fused(DROP, x, out, p, key, shared_axes, window)  # type: ignore[no-any-return]


def dropout_backward(
    g: ArrayLike,
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    out: NDArray[Any] | None = None,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return the gradient of `dropout` with respect to its input.

    Dropout is linear and its mask is recomputed from the key: neither x, y nor a mask is needed.

    Parameters
    ----------
    g : array_like
        Gradient with respect to the output of `dropout`, of the same shape as its input.
    p, key, shared_axes, out, window, rows, indices, offsets
        As given to `dropout`; `out` may be g.

    Returns
    -------
    ndarray
        ``g * s`` where the element was kept, +0.0 where it was dropped (also where g is not finite).

    Raises
    ------
    TypeError, ValueError
        As `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout_backward(np.full(4, 0.5), 0.75, key=7)
    array([0., 2., 0., 2.])
    """
    window = window_given(window, rows, indices, offsets)
    return dropout(g, p, key, shared_axes=shared_axes, out=out, window=window)


def keep_mask(
    shape: SupportsIndex | Sequence[SupportsIndex],
    p: Rate,
    key: Key | SupportsIndex,
    *,
    shared_axes: Axes = (),
    packed: bool = False,
    window: Window | None = None,
    rows: ArrayLike | None = None,
    indices: Indices | None = None,
    offsets: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the mask that `dropout` applies: True where an element is kept.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array to which the mask belongs.
    p, key, shared_axes, window, rows, indices, offsets
        As in `dropout`.
    packed : bool, default False
        Return the bits in `numpy.packbits` order instead.
    out : ndarray, optional
        Where to write, of the dtype and shape below. If it is on a GPU, the mask is made there.

    Returns
    -------
    ndarray
        bool of the given shape, or uint8 of shape ``(ceil(size / 8),)`` if packed; `out` if that is given.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if out doesn't fit.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.keep_mask(8, 0.5, fd.Key(42))
    array([False, False,  True,  True,  True,  True,  True,  True])
    >>> fd.keep_mask(8, 0.5, fd.Key(42), packed=True)
    array([63], dtype=uint8)
    """
    window, packed = window_given(window, rows, indices, offsets), flag("packed", packed)
    if out is not None and device.is_there(out):
        lengths = np.broadcast_to(0, checked_shape(shape)).shape
        target = device.mask_target(out, lengths, packed)
        plan = Plan(device, target, target, None, None, layout_of(lengths, False, shared_axes, window), out)
        fuse(_BITS if packed else _BYTES, plan, p, key)
        return out
    mask = np.empty(checked_shape(shape), np.uint8)
    if out is not None:
        host.mask_target(out, mask.shape, packed)
    layout = layout_of(mask.shape, False, shared_axes, window)
    if isinstance(p, np.ndarray) and p.dtype == np.float32:
        p = p.astype(np.float64)  # the same rates, so that masks need no second kernel
    found = _drawn_as_bits(layout, p, key) if packed and isinstance(p, float) else None
    if found is None:
        mask.fill(1)
        fuse(UNSCALED, Plan(host, mask, mask, None, None, layout, None), p, key)
        found = np.packbits(mask) if packed else mask.view(np.bool_)
    if out is None:
        return found
    np.copyto(out, found)
    return out


def _drawn_as_bits(layout: Layout, p: float, key: Key | SupportsIndex) -> NDArray[np.uint8] | None:
    """Return a packed mask without one of bytes before it, or None if its draws don't begin with a byte."""
    threshold, scale = rate(p)
    row = None if layout.shared else layout.row
    if row is None or row.start % 8 or not 0 < threshold < FULL:
        return None
    bits: NDArray[np.uint8] = cpu().keep_bits(layout.count, row.start, (threshold, scale, *stream(key)))
    return bits


def apply_mask(
    x: ArrayLike, mask: ArrayLike, p: float, *, packed: bool = False, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return x dropped by a mask of your own: kept elements times 1/(1 - p), the others +0.0.

    Parameters
    ----------
    x : array_like, any shape
        Of a dtype that `dropout` takes.
    mask : array_like of bool or uint8
        True or nonzero where x is kept; broadcastable to x. If packed, its bits as `numpy.packbits`
        orders them, flat: uint8 of shape ``(ceil(x.size / 8),)``. On a GPU if x is, and only then.
    p : float
        The probability to drop that the mask was drawn with, in [0, 1].
    packed : bool, default False
        Whether the mask is packed.
    out : ndarray, optional
        As in `dropout`.

    Returns
    -------
    ndarray
        ``x * (1 / (1 - p))`` where kept, the factor rounded once to x's precision. That equals ONNX's
        ``mask * x * scale``, but +0.0 where that has -0.0 or NaN in dropped elements.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if the mask is of another dtype or doesn't fit x.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    References
    ----------
    Open Neural Network Exchange, operator Dropout, version 13.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.apply_mask(np.arange(4.0), [True, False, True, True], 0.5)
    array([0., 0., 4., 6.])
    >>> fd.apply_mask(np.arange(4.0), np.array([0b10110000], np.uint8), 0.5, packed=True)
    array([0., 0., 4., 6.])
    """
    rate(p)
    p = float(p)  # NumPy's small numbers would give a scale of their own precision
    packed = flag("packed", packed)
    return masked(x, mask, 1 / (1 - p) if p < 1 else 0.0, out, packed)  # type: ignore[no-any-return]


class Dropout(ElementwiseLayer, RateLayer):
    """Inverted dropout: in training each element is dropped with probability p.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    A layer holds its rate, its key and, of each training forward that waits for its backward, the shape,
    the rate and the key. It stores no mask: backward recomputes it, and costs what forward costs.

    Parameters
    ----------
    p : float or callable, default 0.5
        Probability to drop, in [0, 1], or a schedule of it: one of `fastdrop.schedules` or any function of
        the step, which `step` advances. One that was never stepped in 100 training forwards is warned of.
    shared_axes : int or tuple of int, default ()
        Axes along which all elements share one draw, as in `fastdrop.dropout`.
    rng : None, int, Key, numpy.random.SeedSequence or numpy.random.Generator, optional
        Where the masks come from: equal ones give equal masks. None takes fresh entropy, and a Generator
        gives a key here and is not asked again. Each training forward takes the next draw of this key.

    Attributes
    ----------
    p : float
        The rate now. It, or a schedule, may be set between calls; where a schedule rules, a schedule alone:
        ``fastdrop.schedules.Constant(0.3)`` ends the former one, and a number raises `ValueError`.
    key : Key
        The key of the next training forward.
    shared_axes : tuple of int
        Those given.
    training : bool
        Whether forward drops; True at first.

    Raises
    ------
    TypeError, ValueError
        If p, shared_axes or rng is not of the kinds above.

    See Also
    --------
    fastdrop.dropout : the function under it.

    Notes
    -----
    Of this and every other layer with a backward:

    A backward belongs to the latest training forward that no backward has gone through yet. So a network
    may use a layer several times, and goes backward through them in the opposite order. A forward in
    evaluation changes nothing in this. A backward uses the rate of its forward, whatever p is by then, and
    one that fails leaves its forward as it is. In evaluation mode a backward belongs to the latest forward,
    and returns the gradient as it is unless that was a training forward, as by ``training=True``.

    Forwards that never see a backward, such as Monte Carlo passes, do no harm: a layer forgets the oldest
    where more than 1,024 wait. A layer whose gradient needs its inputs also forgets them where those of
    more than one have more than 256 MiB together.

    Threads may share a layer: one call waits for another, and each training forward gets a draw of its
    own. But a backward doesn't know its thread: threads that train at once need a layer each, say with
    ``rng=key.fold_in(thread)``, or the functions.

    A copy of a layer, and what is unpickled of it, is exact: it draws the masks that the layer draws, unless
    `reseed` gives it another key. Processes that are started by spawn or forkserver, and those of joblib, get
    their layers by pickles, and all of them the same. A forked process has the layers of its parent. Those
    with ``rng=None`` draw anew there. With any other rng, or a key that was set or loaded, each process draws
    the same masks: call ``layer.reseed(layer.key.fold_in(worker))`` first, or give the functions a key for
    each sample.

    References
    ----------
    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
    JMLR 15 (2014).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> drop = fd.Dropout(0.5, rng=42)
    >>> drop(np.ones(6))
    array([0., 0., 2., 2., 2., 2.])
    >>> drop.backward(np.ones(6))
    array([0., 0., 2., 2., 2., 2.])
    >>> drop(np.ones(6), training=False)
    array([1., 1., 1., 1., 1., 1.])
    >>> drop
    Dropout(p=0.5, rng=Key(42, draw=1))

    Two layers from one key, each with masks of its own:

    >>> key = fd.Key(42)
    >>> first, second = fd.Dropout(0.5, rng=key.fold_in("first")), fd.Dropout(0.5, rng=key.fold_in("second"))
    >>> first(np.ones(6)), second(np.ones(6))
    (array([2., 2., 0., 0., 0., 0.]), array([0., 0., 0., 0., 2., 2.]))

    Used twice, the first backward is that of the second use:

    >>> once, again = drop(np.ones(6)), drop(np.ones(6))
    >>> [bool((drop.backward(np.ones(6)) == y).all()) for y in (again, once)]
    [True, True]

    With draws that axes share, and of a block of a bigger array:

    >>> fd.Dropout(0.5, shared_axes=1, rng=7)(np.ones((1, 2, 5)))
    array([[[0., 2., 0., 2., 0.],
            [0., 2., 0., 2., 0.]]])
    >>> lower = fd.Dropout(0.5, rng=42)(np.ones((2, 3)), window=((4, 3), (2, 0)))
    >>> np.array_equal(lower, fd.dropout(np.ones((4, 3)), 0.5, fd.Key(42))[2:])
    True
    """

    def __init__(self, p: ScheduledRate = 0.5, *, shared_axes: Axes = (), rng: Rng = None) -> None:
        super().__init__(p, rng, shared_axes)

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        key, p, _, window, _ = forward
        return dropout(x, p, key, shared_axes=self._axes(x), out=out, window=window)


class InvertedDropout(Dropout):
    """`Dropout` by the probability to keep.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    keep_prob : float, default 0.5
        Probability to keep, in [0, 1]; p is ``1 - keep_prob``. A schedule can be set as p.
    shared_axes, rng
        As in `Dropout`.

    Attributes
    ----------
    keep_prob, p : float
        Either may be set between calls, and changes the other.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> drop = fd.InvertedDropout(0.8, rng=1)
    >>> drop
    InvertedDropout(keep_prob=0.8, rng=Key(1))
    >>> sorted({float(v) for v in drop(np.ones(1000, np.float32))})
    [0.0, 1.25]
    """

    def __init__(self, keep_prob: float = 0.5, *, shared_axes: Axes = (), rng: Rng = None) -> None:
        super().__init__(_p_of(keep_prob), shared_axes=shared_axes, rng=rng)

    @property
    def keep_prob(self) -> float:
        """Probability to keep: the number with the fewest digits whose p is the layer's."""
        kept = 1 - self.p
        shorter = (round(kept, digits) for digits in range(17))
        return next((number for number in shorter if 1 - number == self.p), kept)

    @keep_prob.setter
    def keep_prob(self, keep_prob: float) -> None:
        self._assign(_p_of(keep_prob))

    def _arguments(self) -> dict[str, Any]:
        others = {name: value for name, value in super()._arguments().items() if name != "p"}
        return {"keep_prob": self.keep_prob} | others


def _p_of(keep_prob: float) -> float:
    """Return the probability to drop of one to keep, or raise an error."""
    refuse_schedule("keep_prob", keep_prob, "use fastdrop.Dropout(schedule), of rates to drop")
    rate(keep_prob, "keep_prob")
    return 1 - float(keep_prob)


class CurriculumDropout(Dropout):
    """`Dropout` whose rate rises from 0 towards p: ``p * (1 - exp(-gamma * updates))``.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float, default 0.5
        The rate that it tends to, in [0, 1].
    gamma : float
        How fast, finite and not negative: 10 over the number of updates is usual. The rate stays 0 until
        `step` is called: 100 training forwards without are warned of.
    shared_axes, rng
        As in `Dropout`.

    References
    ----------
    Morerio et al., "Curriculum Dropout", arXiv 1703.06229.

    Examples
    --------
    >>> import fastdrop as fd
    >>> drop = fd.CurriculumDropout(0.5, gamma=0.1, rng=42)
    >>> drop.p
    0.0
    >>> drop.step()  # after each update of the weights, or on_epoch_end() after each epoch
    >>> round(drop.p, 4)
    0.0476
    """

    def __init__(self, p: float = 0.5, *, gamma: float, shared_axes: Axes = (), rng: Rng = None) -> None:
        refuse_schedule("p", p, "use fastdrop.Dropout(schedule)")
        super().__init__(Curriculum(p, gamma), shared_axes=shared_axes, rng=rng)

    def on_epoch_end(self) -> None:
        """Advance the schedule, where its steps are epochs: gamma is then 10 over the number of these."""
        self.step()

    def _arguments(self) -> dict[str, Any]:
        if not isinstance(self.schedule, Curriculum):
            return super()._arguments()
        return {"p": self.schedule.p, "gamma": self.schedule.gamma, **self._axes_set()}


register(
    Noise(
        "dropout",
        dropout,
        dropout_backward,
        by_element=True,
        self_adjoint=True,
        layers=(Dropout, InvertedDropout, CurriculumDropout),
        beside=(keep_mask, apply_mask),
        beside_on_gpu=("keep_mask", "apply_mask"),
        modules=("Dropout",),
    )
)
