"""Keys, and how the generator's key and counter are packed: the definition of stream version 1.

A mask is a function of a `Key` and of each element's index. It is made of words of Philox4x32-10. This
docstring is the one place that fixes how their key and counter are packed; whoever changes the packing
makes a new stream version.

========  ==========================================================================
key       64 bits from ``numpy.random.SeedSequence(seed)``, low word first; where the
          draw number exceeds 48 bits, its higher bits are the SeedSequence's spawn key
counter   word 0, 1: block number, low word first
          word 2: domain << 24 | bits 32 to 47 of the draw number << 8 | plane number
          (most significant digit first)
          word 3: low 32 bits of the draw number
mirror    bit 63 of the draw number goes into neither key nor counter. Where it is set, Bernoulli
          and logistic words are complemented and normals are negated
domain 0  Bernoulli. A tile is 1024 elements = 8 blocks: word w, bit k of block 8t + b
          holds the digit of element 1024t + 32k + 8w + b
domain 1  normals. A group is 32 elements = 8 blocks: words 0 and 1 of block 8g + b
          are radius and angle of elements 32g + b and 32g + 8 + b, by
          sqrt(-2 ln u) cos(2 pi v) and sin; words 2 and 3 those of elements 32g + 16 + b
          and 32g + 24 + b. u = (word + 1/2) / 2**32, v = word / 2**32; for float64
          the same words of plane 1 are 32 further digits of each
domain 2  logistic noise ln(u / (1 - u)). Word w of block 8g + b is that of element
          32g + 8w + b, u = (word + 1/2) / 2**32; further digits as in domain 1
========  ==========================================================================

Keys made of keys belong to it too: `Key.fold_in` and `Key.split` say how.
"""

from __future__ import annotations

import operator
import os
import reprlib
from functools import lru_cache
from hashlib import sha256
from typing import NoReturn, SupportsIndex, TypeAlias

import numpy as np

STREAM_VERSION = 1
TILE = 1024
BERNOULLI, NORMAL, LOGISTIC = 0, 1, 2  # domains
DOMAIN_SHIFT = 24
DRAW_BITS = 48  # so many bits of a draw number go into the counter
MIRROR_SHIFT = DRAW_BITS  # the bit of a draw word that tells kernels to mirror the noise
_DRAWS = 1 << DRAW_BITS
_MIRROR = 1 << 63

Rng: TypeAlias = "Key | int | np.random.SeedSequence | np.random.Generator | None"


class Key:
    """An immutable, hashable pair of a seed and a draw number. Equal keys are equal masks.

    One key names one noise array of any size, so each layer needs a key of its own: two layers of
    one seed drop the same elements at every step. `fold_in` makes a key by a name or a number, and
    `split` makes many. A layer uses ``key``, ``key.next()``, ... for consecutive calls.

    Parameters
    ----------
    seed : int
        Any integer >= 0, spread over 64 bits by `numpy.random.SeedSequence`.
    draw : int, default 0
        Number of the draw under that seed, in [0, 2**64). From 2**63 on it is the antithetic draw of
        the number 2**63 less.

    Raises
    ------
    TypeError
        If seed or draw is not an integer.
    ValueError
        If seed is negative or draw is outside [0, 2**64).

    Examples
    --------
    Two layers from one key, each with masks of its own:

    >>> import numpy as np, fastdrop as fd
    >>> key = fd.Key(42)
    >>> first, second = fd.Dropout(0.5, rng=key.fold_in("first")), fd.Dropout(0.5, rng=key.fold_in("second"))
    >>> first(np.ones(8)), second(np.ones(8))
    (array([2., 2., 0., 0., 0., 0., 2., 2.]), array([0., 0., 0., 0., 2., 2., 0., 2.]))
    >>> fd.Dropout(0.5, rng=42)(np.ones(8)) == fd.Dropout(0.5, rng=42)(np.ones(8))  # one seed, one mask
    array([ True,  True,  True,  True,  True,  True,  True,  True])

    The next draw, and a key for each epoch:

    >>> key.next()
    Key(42, draw=1)
    >>> key.fold_in(7) == key.fold_in(8)
    False
    """

    __slots__ = ("draw", "seed")
    seed: int
    draw: int

    def __init__(self, seed: SupportsIndex, draw: SupportsIndex = 0) -> None:
        object.__setattr__(self, "seed", natural("seed", seed))
        object.__setattr__(self, "draw", natural("draw", draw, 1 << 64))

    def next(self) -> Key:
        """Return the key of the next draw of the same seed."""
        return checked_key(self.seed, next_draw(self.draw))

    def fold_in(self, data: SupportsIndex | str) -> Key:
        """Return an independent key by a number or a name: per layer, per rank, per epoch.

        Parameters
        ----------
        data : int or str
            Any integer >= 0, or any text, such as a layer's name. Each gives another key, and so does
            each draw number. A text stands for the integer whose 16 bytes, the lowest first, are the
            first ones of the SHA-256 digest of its UTF-8 encoding, on every machine and in every process.

        Returns
        -------
        Key
            Its seed is the 64-bit state of ``SeedSequence(seed, spawn_key=(draw, number))``.

        Raises
        ------
        TypeError
            If data is neither an integer nor a str.
        ValueError
            If it is a negative integer, or a text that UTF-8 can't encode.

        Examples
        --------
        >>> import fastdrop as fd
        >>> key = fd.Key(42)
        >>> key.fold_in("encoder.layer.0")
        Key(4038406521156705216)
        >>> key.fold_in("encoder.layer.0") == key.fold_in("encoder.layer.1")
        False
        """
        if isinstance(data, str):
            number = _number_of(data)
        elif hasattr(data, "__index__"):
            number = natural("data", data)
        else:
            raise TypeError(f"data must be an integer or a str, got {type(data).__name__} {shown(data)}")
        spawn_key = (self.draw & ~_MIRROR, number)
        return Key(_state(np.random.SeedSequence(self.seed, spawn_key=spawn_key)), self.draw & _MIRROR)

    def split(self, n: SupportsIndex) -> tuple[Key, ...]:
        """Return n independent keys, which differ from those of `fold_in` too.

        Parameters
        ----------
        n : int
            How many, at least 0. The first keys are the same for every n.

        Returns
        -------
        tuple of Key
            Key i is ``key.fold_in("fastdrop.Key.split").fold_in(i)``.

        Raises
        ------
        TypeError
            If n is not an integer.
        ValueError
            If n is negative.

        Examples
        --------
        >>> import fastdrop as fd
        >>> layers = [fd.Dropout(0.5, rng=key) for key in fd.Key(42).split(3)]
        >>> len({layer.key for layer in layers})
        3
        """
        count, branch = natural("n", n), self.fold_in("fastdrop.Key.split")
        return tuple(branch.fold_in(i) for i in range(count))

    @staticmethod
    def from_entropy() -> Key:
        """Return a key of 64 random bits of the system, which shows its seed so that a run can be repeated.

        Examples
        --------
        >>> import fastdrop as fd
        >>> key = fd.Key.from_entropy()
        >>> print(f"to repeat this run: {key}")  # doctest: +ELLIPSIS
        to repeat this run: Key(...)
        >>> eval(repr(key), {"Key": fd.Key}) == key == fd.Key(key.seed)
        True
        """
        return Key(int.from_bytes(os.urandom(8), "little"))  # without `secrets`, which is slow to import

    def antithetic(self) -> Key:
        """Return the key of the mirrored noise: what one draws high, the other draws low.

        Bernoulli uniforms become ``1 - u``, so that at p = 1/2 exactly the kept elements are dropped;
        normal and logistic noise is negated. A mean over pairs of such keys has a smaller variance
        than one over independent keys wherever its function is monotonic in the noise.

        Returns
        -------
        Key
            Of which the antithetic key is this one. Keys folded from it mirror those folded from this.

        References
        ----------
        Hammersley and Morton, "A New Monte Carlo Technique: Antithetic Variates", Mathematical
        Proceedings of the Cambridge Philosophical Society 52 (1956).

        Examples
        --------
        >>> import numpy as np, fastdrop as fd
        >>> key = fd.Key(42)
        >>> fd.dropout(np.ones(6), 0.5, key), fd.dropout(np.ones(6), 0.5, key.antithetic())
        (array([0., 0., 2., 2., 2., 2.]), array([2., 2., 0., 0., 0., 0.]))
        >>> bool((fd.normal(6, key) == -fd.normal(6, key.antithetic())).all())
        True
        """
        return Key(self.seed, self.draw ^ _MIRROR)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return self.seed == other.seed and self.draw == other.draw

    def __hash__(self) -> int:
        return hash((self.seed, self.draw))

    def __repr__(self) -> str:
        draw = self.draw & ~_MIRROR
        key = f"Key({self.seed}, draw={draw})" if draw else f"Key({self.seed})"
        return key if draw == self.draw else f"{key}.antithetic()"

    def __reduce__(self) -> tuple[type[Key], tuple[int, int]]:
        return Key, (self.seed, self.draw)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Key is immutable, cannot set {name}; make a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Key is immutable, cannot delete {name}")


_set_seed, _set_draw = (vars(Key)[name].__set__ for name in ("seed", "draw"))


def checked_key(seed: int, draw: int) -> Key:
    """Return a key of checked numbers in a third of the time, since layers make one for each forward."""
    key = Key.__new__(Key)
    _set_seed(key, seed)
    _set_draw(key, draw)
    return key


def next_draw(draw: int) -> int:
    """Return the number of the draw after another, or raise an error after the last one."""
    draw += 1
    if draw % _MIRROR == 0:
        raise ValueError(f"draw must be in [0, {_MIRROR}), got {_MIRROR}")
    return draw


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80


def shown(value: object) -> str:
    """Return a caller's value for an error message: its repr, cut where that is long."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except Exception:  # as of an int of more than 4300 digits
        return type(value).__name__


def integer(name: str, value: SupportsIndex) -> int:
    """Return the value as an int, or raise an error that names it."""
    try:
        if type(value) is not bool:  # which Python takes for 0 or 1
            return operator.index(value)
    except (TypeError, ValueError):  # the second comes from arrays of dask
        pass
    fix = "the key as it is, or key.seed" if isinstance(value, Key) else "int(...)"
    raise TypeError(f"{name} must be an integer, got {type(value).__name__} {shown(value)}; use {fix}")


def natural(name: str, value: SupportsIndex, end: int | None = None) -> int:
    """Return the value as an int in [0, end), or raise an error that names it."""
    number = integer(name, value)
    if number < 0 or (end is not None and number >= end):
        allowed = ">= 0" if end is None else f"in [0, {end})"
        raise ValueError(f"{name} must be {allowed}, got {shown(number)}")
    return number


def _number_of(text: str) -> int:
    """Return the integer that `Key.fold_in` takes for a text; a change to it is a new stream version."""
    return int.from_bytes(sha256(text.encode()).digest()[:16], "little")


def _state(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0])


@lru_cache(maxsize=1024)
def _philox_key(seed: int, high_draw: int = 0) -> int:
    """Return the 64-bit Philox key as a signed number, since kernels take their integers as int64."""
    spawn_key = (high_draw,) if high_draw else ()
    return signed(_state(np.random.SeedSequence(seed, spawn_key=spawn_key)))


def signed(word: int) -> int:
    """Return the low 64 bits of a number as a signed number, for kernels that take int64."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


def stream(key: Key | SupportsIndex) -> tuple[int, int]:
    """Return what kernels need of a key or an int seed: its Philox key and its draw word.

    The Philox key is a signed 64-bit number. The draw word holds the low 48 bits of the draw number, and
    above them the bit that mirrors the noise.
    """
    if type(key) is not Key:
        key = as_key_or_seed(key)
    draw = key.draw
    return (_philox_key(key.seed), draw) if draw < _DRAWS else draw_of(key.seed, draw)


def draw_of(seed: int, draw: int) -> tuple[int, int]:
    """Return what `stream` returns, from the seed and the draw number of a key."""
    if draw < _DRAWS:  # the usual case comes first, since it is the fastest
        return _philox_key(seed), draw
    number = draw & ~_MIRROR
    return _philox_key(seed, number >> DRAW_BITS), number % _DRAWS | draw >> 63 << MIRROR_SHIFT


def as_key_or_seed(key: object) -> Key:
    """Return a Key from a Key or an int seed, which is what functions without state take."""
    if type(key) is Key:
        return key
    if isinstance(key, Key):  # of a class of our own, that is good for one call and not to be kept
        if hasattr(key, "address"):  # its draw is a number in a GPU's memory
            raise TypeError("a key that a CUDA graph draws is for CUDA tensors alone; use another key")
        return Key(key.seed, key.draw)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return Key(key)
    raise TypeError(f"key must be a fastdrop.Key or an int, got {type(key).__name__}; use fastdrop.Key(seed)")


def as_key(rng: Rng, name: str = "rng") -> Key:
    """Return a Key from anything that SPEC 7 of Scientific Python allows as `rng`, or raise an error.

    None takes fresh entropy from the system. A Generator is advanced by one 64-bit draw.
    """
    if rng is None:
        return Key.from_entropy()
    if isinstance(rng, np.random.SeedSequence):
        return Key(_state(rng))
    if isinstance(rng, np.random.Generator):
        return Key(int(rng.integers(1 << 64, dtype=np.uint64)))
    try:
        return as_key_or_seed(rng)
    except TypeError:
        raise TypeError(
            f"{name} must be None, an int, a fastdrop.Key, a numpy.random.SeedSequence or a "
            f"numpy.random.Generator, got {type(rng).__name__}"
        ) from None
