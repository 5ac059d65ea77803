"""DropBlock: square blocks of images dropped."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import to_array
from fastdrop._arrays.numbers import rate
from fastdrop._noises._layer import ArrayLayer, Forward, RateLayer
from fastdrop._noises._noise import Noise, register
from fastdrop._noises.bernoulli import keep_mask, masked
from fastdrop._noises.shared import check_data_format
from fastdrop._stream.keys import Key, Rng, natural
from fastdrop.schedules import ScheduledRate


def drop_block(
    x: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    block_size: int = 7,
    shared_channels: bool = False,
    data_format: str = "channels_first",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return images with square blocks dropped, and the rest scaled to keep the mask's mean at 1.

    Parameters
    ----------
    x : array_like, 4-D
        Images, of a dtype that `dropout` takes.
    p : float
        The nominal rate. Blocks overlap, so that fewer elements are dropped: see Notes.
    key, out
        As in `dropout`. There is no window: the scale needs the whole mask.
    block_size : int, default 7
        Side of a block, at most that of the image along each axis.
    shared_channels : bool, default False
        Drop the same blocks in all channels of an image, rather than others in each.
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, h, w) or (n, h, w, c).

    Returns
    -------
    ndarray
        ``x * M * M.size / M.sum()``, with +0.0 where the mask M is 0.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if x isn't 4-D or an option isn't as above.

    Notes
    -----
    Blocks of height a and width b start at each of the (H - a + 1)(W - b + 1) places where they fit
    with probability gamma = p H W / (a b) / ((H - a + 1)(W - b + 1)), at most 1. An element that n
    starts cover is dropped with probability 1 - (1 - gamma)**n.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv
    1810.12890, algorithm 1.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.drop_block(np.ones((1, 1, 5, 6)), 0.3, fd.Key(4), block_size=2)
    >>> (y[0, 0] != 0).astype(int)
    array([[1, 1, 1, 1, 0, 0],
           [1, 1, 1, 1, 0, 0],
           [0, 0, 1, 1, 1, 1],
           [0, 0, 1, 1, 1, 1],
           [1, 1, 1, 1, 1, 1]])
    >>> round(float(y.mean()), 12)
    1.0
    """
    x = to_array(x)
    mask = block_mask(x.shape, p, key, block_size, shared_channels, data_format)
    kept = np.count_nonzero(mask)
    return masked(x, mask, mask.size / kept if kept else 0.0, out)


def drop_block_backward(
    g: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    block_size: int = 7,
    shared_channels: bool = False,
    data_format: str = "channels_first",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the gradient of `drop_block` with respect to its input: the same function of g.

    Parameters
    ----------
    g : array_like, 4-D
        Gradient with respect to the output.
    p, key, block_size, shared_channels, data_format, out
        As given to `drop_block`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> g = np.ones((1, 1, 5, 6))
    >>> dx = fd.drop_block_backward(g, 0.3, fd.Key(4), block_size=2)
    >>> np.array_equal(dx, fd.drop_block(g, 0.3, fd.Key(4), block_size=2))
    True
    """
    options: dict[str, Any] = {"block_size": block_size, "shared_channels": shared_channels}
    return drop_block(g, p, key, data_format=data_format, out=out, **options)


def block_mask(
    shape: tuple[int, ...],
    p: float,
    key: Key | SupportsIndex,
    block_size: int,
    shared_channels: bool,
    data_format: str,
) -> NDArray[np.bool_]:
    """Return the mask of `drop_block`, with one channel if all channels share it."""
    check_data_format(data_format)
    if len(shape) != 4:
        raise ValueError(f"drop_block needs images of 4 axes, got shape {shape}; use x[None] for one image")
    last = data_format == "channels_last"
    axes = (1, 2) if last else (2, 3)
    gamma, sides = block_layout((shape[axes[0]], shape[axes[1]]), p, block_size)
    starts = list(shape)
    if shared_channels:
        starts[3 if last else 1] = 1
    for axis, side in zip(axes, sides, strict=True):
        starts[axis] -= max(side - 1, 0)
    dropped = ~keep_mask(starts, gamma, key)
    for axis, side in zip(axes, sides, strict=True):
        dropped = _dilated(dropped, axis, side)
    return ~dropped


def block_layout(image: tuple[int, int], p: float, block_size: int) -> tuple[float, tuple[int, int]]:
    """Return the probability that a block starts at a place where it fits, and the block's sides."""
    size = natural("block_size", block_size)
    if size < 1:
        raise ValueError(f"block_size must be at least 1, got {size}")
    rate(p)
    height, width = image
    sides = min(size, height), min(size, width)
    area = math.prod(sides)
    places = (height - sides[0] + 1) * (width - sides[1] + 1)
    return (min(1.0, p * height * width / (area * places)) if area else 0.0), sides


def _dilated(seeds: NDArray[np.bool_], axis: int, side: int) -> NDArray[np.bool_]:
    """Return where blocks are: at each seed and the `side` - 1 places after it along an axis.

    The result has `side` - 1 more places along that axis than the seeds have.
    """
    length = seeds.shape[axis]
    shape = tuple(n + max(side - 1, 0) if a == axis else n for a, n in enumerate(seeds.shape))
    grown = np.zeros(shape, np.bool_)
    for shift in range(side):
        part = tuple(slice(shift, shift + length) if a == axis else slice(None) for a in range(len(shape)))
        grown[part] |= seeds
    return grown


class DropBlock2D(ArrayLayer, RateLayer):
    """Dropout of square blocks of images.

    Parameters
    ----------
    p : float or callable, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int, default 7
        Side of a block.
    shared_channels : bool, default False
        Drop the same blocks in all channels of an image.
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, h, w) or (n, h, w, c).
    rng
        As in `Dropout`.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.DropBlock2D(0.3, block_size=2, rng=4)(np.ones((1, 1, 5, 6)))
    >>> bool((y == fd.drop_block(np.ones((1, 1, 5, 6)), 0.3, fd.Key(4), block_size=2)).all())
    True
    """

    _function = "drop_block(x, p, key)"
    _gradient = "drop_block_backward(g, p, layer.key)"

    def __init__(
        self,
        p: ScheduledRate = 0.1,
        *,
        block_size: int = 7,
        shared_channels: bool = False,
        data_format: str = "channels_first",
        rng: Rng = None,
    ) -> None:
        super().__init__(p, rng)
        self.options: dict[str, Any] = {
            "block_size": block_size,
            "shared_channels": shared_channels,
            "data_format": data_format,
        }
        block_mask((0, 0, 0, 0), self.p, 0, **self.options)

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        return drop_block(x, forward.value, forward.key, out=out, **self.options)

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | self.options


register(
    Noise(
        "drop_block",
        drop_block,
        drop_block_backward,
        self_adjoint=True,
        layers=(DropBlock2D,),
        modules=("DropBlock2d",),
        moments="drop_block_rate",
        lacks={
            "CUDA": "its mask grows from seeds on the host",
            "dask": "its scale needs the whole mask",
        },
    )
)
