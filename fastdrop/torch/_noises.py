"""The noises of tensors: each as a function of arrays, with the noises that are its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

import fastdrop as fd
from fastdrop._noises.drop_path import unscaled_dropout
from fastdrop._stream.keys import Key

Arrays: TypeAlias = tuple[NDArray[Any], ...]  # of the tensor, and of the second one where the noise has it
Rates: TypeAlias = tuple[Any, ...]  # p or std, a number or an array, or other real numbers of the noise
Numbers: TypeAlias = tuple[int, ...]  # shared axes, or what other integers the noise takes
Out: TypeAlias = NDArray[Any] | None

PASSED = "passed"  # the name of a derivative that is what came in


class Noise(NamedTuple):
    """A noise that is linear in its tensors, apart from a constant.

    So its derivatives are linear noises too, and a name in `NOISES` is enough to say which.
    """

    of_arrays: Callable[[Arrays, Rates, Key, Numbers, Out], NDArray[Any]]
    gradient: str  # makes the first tensor's gradient from that of the output
    other_gradient: str = ""  # the same for the second tensor, or nothing where that has no gradient
    tangent: str = ""  # makes the output's tangent from the first tensor's, if `gradient` doesn't do it
    keeps_other: bool = False  # whether the derivatives need the second tensor
    on_gpu: bool = True  # whether it takes tensors on a GPU
    # The output's shape, found from both tensors and the numbers, where it isn't that of the first tensor.
    shape: Callable[[Any, Any, Numbers], tuple[int, ...]] | None = None


class NumbersWithDraws(tuple[int, ...]):
    """A noise's integers, and the draws that a caller listed, as functions of arrays take both.

    Operators take plain integers alone, so that graphs can't hold these.
    """

    window: Any

    def __new__(cls, numbers: Numbers, window: Any) -> NumbersWithDraws:
        """Return the integers with the draws."""
        made = super().__new__(cls, numbers)
        made.window = window
        return made

    def __bool__(self) -> bool:
        """Return True, also without shared axes: what has no numbers takes a quicker way."""
        return True


def _by_axes(function: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """A function of fastdrop whose integers are its shared axes."""

    def call(arrays: Arrays, rates: Rates, key: Key, axes: Numbers, out: Out) -> NDArray[Any]:
        return function(*arrays, *rates, key, out=out, **draws_of(axes))

    return call


def draws_of(axes: Numbers) -> dict[str, Any]:
    """The arguments of a function of arrays that say which draws belong to the elements."""
    return {"shared_axes": tuple(axes), "window": window_of(axes)} if axes else {}


def window_of(numbers: Numbers) -> Any:
    """What a function of arrays takes as its window: the draws that a caller listed, or None."""
    return numbers.window if isinstance(numbers, NumbersWithDraws) else None


def _elementwise(
    function: Callable[..., NDArray[Any]], backward: Callable[..., NDArray[Any]] | None = None
) -> dict[str, Noise]:
    """The entry of a noise by a rate and shared axes, and that of its gradient where it is another noise."""
    name, gradient = function.__name__, (backward or function).__name__
    found = {name: Noise(_by_axes(function), gradient)}
    return found if backward is None else found | {gradient: Noise(_by_axes(backward), gradient)}


def _drop_block(arrays: Arrays, rates: Rates, key: Key, numbers: Numbers, out: Out) -> NDArray[Any]:
    (x,), (p,), (*sizes, shared) = arrays, rates, numbers
    return fd.drop_block(x, p, key, block_size=sizes, shared_channels=bool(shared), out=out)


def _zeros_like(g: Any) -> Any:
    """Zeros where g is: in memory, or on a GPU."""
    return np.zeros(g.shape, g.dtype) if isinstance(g, np.ndarray) else torch.zeros_like(g)


def _zoneout_new(arrays: Arrays, rates: Rates, key: Key, axes: Numbers, out: Out) -> NDArray[Any]:
    """The part of a gradient that belongs to the new state."""
    (g,), (p,) = arrays, rates
    return fd.zoneout(g, _zeros_like(g), p, key, out=out, **draws_of(axes))


def _zoneout_previous(arrays: Arrays, rates: Rates, key: Key, axes: Numbers, out: Out) -> NDArray[Any]:
    """The part of a gradient that belongs to the previous state."""
    (g,), (p,) = arrays, rates
    return fd.zoneout(_zeros_like(g), g, p, key, out=out, **draws_of(axes))


def _standout(arrays: Arrays, rates: Rates, key: Key, numbers: Numbers, out: Out) -> NDArray[Any]:
    (h, a), (alpha, beta), (inverted,) = arrays, rates, numbers
    options = {"alpha": alpha, "beta": beta, "inverted": bool(inverted), "window": window_of(numbers)}
    return fd.standout_dropout(h, a, key, out=out, **options)


def _embedding(arrays: Arrays, rates: Rates, key: Key, numbers: Numbers, out: Out) -> NDArray[Any]:
    (weight, tokens), (p,) = arrays, rates
    return fd.embedding_dropout(tokens, weight, p, key)


def _embedding_backward(arrays: Arrays, rates: Rates, key: Key, numbers: Numbers, out: Out) -> NDArray[Any]:
    (g, tokens), (p,), (vocabulary,) = arrays, rates, numbers
    return fd.embedding_dropout_backward(g, tokens, p, key, vocabulary=vocabulary)


def _local(arrays: Arrays, rates: Rates, key: Key, numbers: Numbers, out: Out) -> NDArray[Any]:
    """The means plus normals of given standard deviations, in which this is linear."""
    mean, std = arrays
    if not np.isfinite(std).all():  # as the root of a negative variance
        wrong = std[~np.isfinite(std)].flat[0]
        raise ValueError(f"variance must be finite and >= 0, got one whose square root is {wrong}")
    if mean.dtype.kind == "c":
        raise TypeError(f"means must be real, got {mean.dtype}; use the real and imaginary parts")
    return fd.gaussian_noise(mean, std, key, out=out, window=window_of(numbers))


def _times_normal(arrays: Arrays, rates: Rates, key: Key, numbers: Numbers, out: Out) -> NDArray[Any]:
    (g,) = arrays
    normals = fd.normal(g.shape, key, dtype=g.dtype, window=window_of(numbers))
    y: NDArray[Any] = np.multiply(g, normals, out=out)
    return y


NOISES: dict[str, Noise] = {
    **_elementwise(fd.dropout),
    **_elementwise(unscaled_dropout),
    **_elementwise(fd.gaussian_dropout),
    **_elementwise(fd.alpha_dropout, fd.alpha_dropout_backward),
    "gaussian_noise": Noise(_by_axes(fd.gaussian_noise), PASSED),
    "drop_block": Noise(_drop_block, "drop_block", on_gpu=False),
    "zoneout": Noise(_by_axes(fd.zoneout), "zoneout_new", "zoneout_previous"),
    "zoneout_new": Noise(_zoneout_new, "zoneout_new"),
    "zoneout_previous": Noise(_zoneout_previous, "zoneout_previous"),
    "standout_dropout": Noise(_standout, "standout_dropout", keeps_other=True, on_gpu=False),
    "embedding_dropout": Noise(
        _embedding,
        "embedding_dropout_backward",
        tangent="embedding_dropout",
        keeps_other=True,
        on_gpu=False,
        shape=lambda weight, tokens, numbers: (*tokens.shape, weight.shape[-1]),
    ),
    "embedding_dropout_backward": Noise(
        _embedding_backward,
        "embedding_dropout",
        tangent="embedding_dropout_backward",
        keeps_other=True,
        on_gpu=False,
        shape=lambda g, tokens, numbers: (numbers[0], g.shape[-1]),
    ),
    "local_reparameterization": Noise(_local, PASSED, "times_normal", on_gpu=False),
    "times_normal": Noise(_times_normal, "times_normal", on_gpu=False),
}
