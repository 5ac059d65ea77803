"""The registry of noises: one record for each, read by integrations, tests, benchmarks and docs/noises.md.

Each file of this folder ends with the records of its noises. `NOISES` has all of them as soon as fastdrop is
imported. A record does not repeat what the function's signature says; that is read from the signature.
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

# Arguments that many noises have: which draws belong to the elements, and where the result goes.
COMMON = ("shared_axes", "out", "window", "rows", "indices", "offsets")

# The forms in which a noise can be had. A record gives a reason for each that it lacks.
FORMS = (
    "backward",
    "layer",
    "CUDA",
    "torch function",
    "torch module",
    "dask",
    "autograd",
    "moments",
)


@dataclass(frozen=True, eq=False, slots=True)
class Noise:
    """The record of one noise.

    Attributes
    ----------
    name : str
        Its name: the name of its function, if it has a function of its own.
    function : callable
        Its public function. A noise that has only layers names the function that they call.
    backward : callable, optional
        The function's gradient.
    kind : {"Bernoulli", "density"}
        Bernoulli noise keeps or drops elements. Noise with a density multiplies them by random numbers, or
        adds some.
    dtypes : tuple of str
        The dtypes that the function takes: `EVERY`, `REAL`, `PRODUCT` or `INTEGERS`.
    like : tuple of str
        Names of the function's arrays that have the shape and dtype of its first one.
    rate : str
        Name of the number that says how much noise: "p", "std", "logit", "alpha", or "" without one.
    by_element : bool
        Whether `rate` may also be an array, with a number for each element.
    self_adjoint : bool
        Whether backward is the function itself, applied to the gradient.
    layers : tuple of type
        Its public layers.
    beside : tuple
        Its other public functions and classes, such as the one that returns its mask.
    beside_on_gpu : tuple of str
        The names of those of `beside` that take arrays on a GPU.
    modules : tuple of str
        Its modules in fastdrop.torch, where their names aren't those of the layers.
    moments : str
        Name of the function of its moments, in fastdrop.moments or fastdrop, if it isn't the noise's name.
    lacks : mapping of str to str
        Those of `FORMS` where it is lacking on purpose, each with the reason.
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
    beside_on_gpu: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    moments: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_function(self) -> bool:
        """Whether the noise has a function of its own."""
        return self.name == self.function.__name__

    @property
    def arguments(self) -> Mapping[str, Parameter]:
        """The function's arguments by name."""
        return signature(self.function).parameters

    @property
    def first(self) -> str:
        """Name of the first argument, to which the noise is applied."""
        return next(iter(self.arguments))

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the arguments that have no default."""
        return tuple(name for name, given in self.arguments.items() if given.default is Parameter.empty)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the arguments with a default that are its own, and not `COMMON` to noises."""
        return tuple(name for name in self.arguments if name not in (*self.needed, *COMMON))

    def takes(self, argument: str) -> bool:
        """Return whether the function has an argument, such as "window", "shared_axes" or "out"."""
        return argument in self.arguments

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
        If there is a record of that name already, or `lacks` names something that is not one of `FORMS`.
    """
    if noise.name in _noises:
        raise ValueError(f"each noise must have one record, got a second of {noise.name!r}")
    unknown = set(noise.lacks) - set(FORMS)
    if unknown:
        raise ValueError(f"{noise.name} must lack some of {FORMS}, got {sorted(unknown)}")
    _noises[noise.name] = noise
