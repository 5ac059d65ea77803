"""DropBlock: whole blocks of sequences, images and volumes dropped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import to_array
from fastdrop._arrays.numbers import flag, rate
from fastdrop._backends import cpu, masked
from fastdrop._noises._layer import ArrayLayer, Forward, RateLayer
from fastdrop._noises._noise import Noise, register
from fastdrop._noises.bernoulli import keep_mask
from fastdrop._noises.shared import check_data_format
from fastdrop._stream.keys import Key, Rng, natural, shown
from fastdrop.schedules import ScheduledRate

Size: TypeAlias = SupportsIndex | Sequence[SupportsIndex]  # of a block, for all spatial axes or for each


def drop_block(
    x: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    block_size: Size = 7,
    shared_channels: bool = False,
    data_format: str = "channels_first",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return images with whole blocks dropped, and the rest scaled to keep the mask's mean at 1.

    Parameters
    ----------
    x : array_like, 3-D, 4-D or 5-D
        Sequences, images or volumes, of a dtype that `dropout` takes.
    p : float
        The nominal rate. Blocks overlap, so that fewer elements are dropped: see Notes.
    key, out
        As in `dropout`. There is no window: the scale needs the whole mask.
    block_size : int or tuple of int, default 7
        Side of a block, or one for each spatial axis; cut to that of the image along each.
    shared_channels : bool, default False
        Drop the same blocks in all channels of an image, rather than others in each.
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, h, w) or (n, h, w, c); of sequences and volumes with one spatial axis, or three. The
        order of the axes is that of the draws too, so that a key has other blocks in the other format.

    Returns
    -------
    ndarray
        ``x * M * M.size / M.sum()``, with +0.0 where the mask M is 0.

    Raises
    ------
    TypeError, ValueError
        As `dropout`, or if x has another number of axes or an option isn't as above.

    Notes
    -----
    Overflow gives infinities without a warning, as in `dropout`.

    Blocks of height a and width b start at each of the (H - a + 1)(W - b + 1) places where they fit
    with probability gamma = p H W / (a b) / ((H - a + 1)(W - b + 1)), at most 1. An element that n
    starts cover is dropped with probability 1 - (1 - gamma)**n. In one and three dimensions it is alike.

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
    >>> fd.drop_block(np.ones((1, 1, 8)), 0.3, fd.Key(4), block_size=3).round(3)
    array([[[1.6, 1.6, 1.6, 1.6, 0. , 0. , 0. , 1.6]]])
    """
    x = to_array(x)
    mask, kept = _block_mask(x.shape, p, key, block_size, shared_channels, data_format)
    own = mask.ndim == 1  # for each channel of an image
    scale = math.prod(x.shape if own else mask.shape) / kept if kept else 0.0
    return masked(x, mask, scale, out, own)  # type: ignore[no-any-return]


def drop_block_backward(
    g: ArrayLike,
    p: float,
    key: Key | SupportsIndex,
    *,
    block_size: Size = 7,
    shared_channels: bool = False,
    data_format: str = "channels_first",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return the gradient of `drop_block` with respect to its input: the same function of g.

    Parameters
    ----------
    g : array_like, 3-D, 4-D or 5-D
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


def _block_mask(
    shape: tuple[int, ...],
    p: float,
    key: Key | SupportsIndex,
    block_size: Size,
    shared_channels: bool,
    data_format: str,
) -> tuple[NDArray[np.uint8], int]:
    """Return the mask of `drop_block`, and how many elements it keeps.

    It is packed, or if all channels share it, of bytes for one channel.
    """
    check_data_format(data_format)
    if not 3 <= len(shape) <= 5:
        raise ValueError(f"drop_block needs 3, 4 or 5 axes, got {len(shape)}; use x[None] for one image")
    last = data_format == "channels_last"
    axes = range(1, len(shape) - 1) if last else range(2, len(shape))
    gamma, sides = block_layout(tuple(shape[axis] for axis in axes), p, block_size)
    images = list(shape)
    shared = shared_channels is not False and flag("shared_channels", shared_channels)
    if shared:
        images[-1 if last else 1] = 1
    places = images.copy()
    for axis, side in zip(axes, sides, strict=True):
        places[axis] -= max(side - 1, 0)
    starts = keep_mask(places, gamma, key, packed=True)
    mask, kept = cpu().without_blocks(starts, tuple(places), tuple(images), axes)
    return (np.unpackbits(mask, count=math.prod(images)).reshape(images) if shared else mask), kept


def block_layout(image: tuple[int, ...], p: float, block_size: Size) -> tuple[float, tuple[int, ...]]:
    """Return the probability that a block starts at a place where it fits, and the block's sides."""
    rate(p)
    sizes = sizes_of(block_size, len(image))
    sides = tuple(min(size, length) for size, length in zip(sizes, image, strict=True))
    volume = math.prod(sides)
    places = math.prod(length - side + 1 for length, side in zip(image, sides, strict=True))
    return (min(1.0, float(p) * math.prod(image) / (volume * places)) if volume else 0.0), sides


def sizes_of(block_size: Size, count: int) -> tuple[int, ...]:
    """Return a block's size along each of so many spatial axes, or raise an error."""
    given: Any = tuple(block_size) if isinstance(block_size, (tuple, list)) else (block_size,) * count
    sizes = tuple(natural("block_size", size) for size in given)
    if len(sizes) != count:
        raise ValueError(
            f"block_size must be one int, or one for each of {count} axes, got {shown(block_size)}"
        )
    if min(sizes) < 1:
        raise ValueError(f"block_size must be at least 1, got {min(sizes)}")
    return sizes


class _DropBlock(ArrayLayer, RateLayer):
    """The base of DropBlock in one, two and three dimensions."""

    spatial: ClassVar[int]
    _function = "drop_block(x, p, key)"
    _gradient = "drop_block_backward(g, p, layer.key)"

    def __init__(
        self,
        p: ScheduledRate = 0.1,
        *,
        block_size: Size = 7,
        shared_channels: bool = False,
        data_format: str = "channels_first",
        rng: Rng = None,
    ) -> None:
        super().__init__(p, rng)
        self.options: dict[str, Any] = {
            "block_size": block_size,
            "shared_channels": flag("shared_channels", shared_channels),
            "data_format": data_format,
        }
        _block_mask((0,) * (self.spatial + 2), self.p, 0, **self.options)

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        if np.ndim(x) != self.spatial + 2:
            name, allowed = type(self).__name__, self.spatial + 2
            raise ValueError(f"{name} needs {allowed} axes, got shape {np.shape(x)}")
        return drop_block(x, forward.value, forward.key, out=out, **self.options)

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | self.options


class DropBlock1D(_DropBlock):
    """Dropout of stretches of sequences.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int, default 7
        Length of a stretch.
    shared_channels : bool, default False
        Drop the same stretches in all channels of a sequence.
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, length) or (n, length, c).
    rng
        As in `Dropout`.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.DropBlock1D(0.3, block_size=3, rng=4)(np.ones((1, 1, 8))).round(3)
    array([[[1.6, 1.6, 1.6, 1.6, 0. , 0. , 0. , 1.6]]])
    """

    spatial = 1


class DropBlock2D(_DropBlock):
    """Dropout of blocks of images.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int or tuple of two int, default 7
        Side of a block, or its height and width.
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

    spatial = 2


class DropBlock3D(_DropBlock):
    """Dropout of blocks of volumes.

    Layers of one seed draw the same noise: give each its own, such as ``rng=key.fold_in("name")``.

    Parameters
    ----------
    p : float or callable, default 0.1
        Nominal rate: `fastdrop.drop_block` says what fraction is dropped.
    block_size : int or tuple of three int, default 7
        Side of a block, or its depth, height and width.
    shared_channels : bool, default False
        Drop the same blocks in all channels of a volume.
    data_format : {"channels_first", "channels_last"}
        Axes (n, c, d, h, w) or (n, d, h, w, c).
    rng
        As in `Dropout`.

    References
    ----------
    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.DropBlock3D(0.3, block_size=(1, 2, 2), rng=4)(np.ones((1, 1, 3, 4, 4)))
    >>> (y[0, 0, 0] != 0).astype(int)
    array([[1, 1, 1, 1],
           [1, 0, 0, 1],
           [1, 0, 0, 1],
           [1, 1, 1, 1]])
    """

    spatial = 3


register(
    Noise(
        "drop_block",
        drop_block,
        drop_block_backward,
        self_adjoint=True,
        layers=(DropBlock1D, DropBlock2D, DropBlock3D),
        modules=("DropBlock1d", "DropBlock2d", "DropBlock3d"),
        moments="drop_block_rate",
        lacks={
            "CUDA": "its mask grows from seeds on the host",
            "dask": "its scale needs the whole mask",
        },
    )
)
