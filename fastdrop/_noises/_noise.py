"""The registry: one record for each noise, which integrations, tests, benchmarks and the docs' table read.

Each file of this folder ends with the records of its noises. `NOISES` has all of them as soon as fastdrop is
imported. What a signature says is read from it, and not said again in the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any, Literal

# Names of the dtypes that a noise takes.
REAL = ("float16", "bfloat16", "float32", "float64")
EVERY = (*REAL, "complex64", "complex128")
PRODUCT = ("float32", "float64")  # what NumPy multiplies matrices of without a detour
INTEGERS = ("int32", "int64")  # and every other integer

# Where a noise may be found, and may be lacking.
PLACES = (
    "backward",
    "layer",
    "CUDA",
    "CUDA backward",
    "torch function",
    "torch module",
    "dask",
    "autograd",
    "moments",
)


@dataclass(frozen=True, eq=False, slots=True)
class Noise:
    """What one noise is.

    Attributes
    ----------
    name : str
        Its name, which is that of its function if it has one of its own.
    function : callable
        Its public function. Noises that are layers only name the function that they call.
    backward : callable, optional
        The function's gradient.
    kind : {"Bernoulli", "density"}
        Whether elements are kept or not, or multiplied with, or added to, numbers of a density.
    dtypes : tuple of str
        What the function takes: `EVERY`, `REAL`, `PRODUCT` or `INTEGERS`.
    like : tuple of str
        Names of the function's arrays that have the shape and dtype of its first one.
    rate : str
        Name of the number that says how much noise: "p", "std", "logit", or "" without one.
    by_element : bool
        Whether that may be an array too, of numbers for elements.
    self_adjoint : bool
        Whether the gradient is the same function of the gradient.
    layers : tuple of type
        Its public layers.
    beside : tuple
        Other public functions and classes of the noise: its mask, what it draws, what it needs.
    modules : tuple of str
        Its modules in fastdrop.torch, where their names aren't those of the layers.
    moments : str
        Name of the function of its moments, in fastdrop.moments or fastdrop, if it isn't the noise's name.
    lacks : mapping of str to str
        Where it isn't on purpose, of `PLACES`, with the reason.
    """

    name: str
    function: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    _: KW_ONLY
    kind: Literal["Bernoulli", "density"] = "Bernoulli"
    dtypes: tuple[str, ...] = EVERY
    like: tuple[str, ...] = ()
    rate: str = "p"
    by_element: bool = False
    self_adjoint: bool = False
    layers: tuple[type[Any], ...] = ()
    beside: tuple[Callable[..., Any], ...] = ()
    modules: tuple[str, ...] = ()
    moments: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_function(self) -> bool:
        """Whether the function is the noise's own."""
        return self.name == self.function.__name__

    @property
    def arguments(self) -> Mapping[str, Parameter]:
        """The function's arguments by name."""
        return signature(self.function).parameters

    @property
    def first(self) -> str:
        """Name of the first argument, whose noise it is."""
        return next(iter(self.arguments))

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the arguments that have no default."""
        return tuple(name for name, given in self.arguments.items() if given.default is Parameter.empty)

    def takes(self, argument: str) -> bool:
        """Whether the function has an argument, such as "window", "shared_axes" or "out"."""
        return argument in self.arguments

    @property
    def is_plain(self) -> bool:
        """Whether all that the function needs is arrays of one shape, perhaps a rate, and a key."""
        rate = (self.rate,) if self.rate else ()
        return self.has_function and self.needed == (self.first, *self.like, *rate, "key")

    @property
    def public(self) -> tuple[Callable[..., Any], ...]:
        """Every public function and class that belongs to it."""
        gradient = () if self.backward is None else (self.backward,)
        return (self.function, *gradient, *self.layers, *self.beside)


_noises: dict[str, Noise] = {}
NOISES: Mapping[str, Noise] = MappingProxyType(_noises)  # by name


def register(noise: Noise) -> None:
    """Add a record to `NOISES`.

    Raises
    ------
    ValueError
        If there is one of that name, or it lacks what is no place.
    """
    if noise.name in _noises:
        raise ValueError(f"each noise must have one record, got a second of {noise.name!r}")
    unknown = set(noise.lacks) - set(PLACES)
    if unknown:
        raise ValueError(f"{noise.name} must lack some of {PLACES}, got {sorted(unknown)}")
    _noises[noise.name] = noise
