"""Layers: a rate, a key and a training flag. All arithmetic is in `fastdrop.functional`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import functional
from fastdrop._rates import rate
from fastdrop.random import Key, Rng, as_key, as_key_or_seed

STATE_VERSION = 1


class NoiseLayer:
    """What layers have in common: a number, or an array, for their noise, a key and a training flag."""

    _parameter: ClassVar[str] = "p"  # the name of that number

    def __init__(self, value: Any, rng: Rng) -> None:
        self._value: Any = self._checked(value)
        self.key = as_key(rng)
        self.training = True
        # What backward needs of the last forward, as plain numbers: keys and tuples would take more.
        self._last_shape: tuple[int, ...] | None = None
        self._last_value = self._value
        self._last_seed: int | None = None  # None after evaluation
        self._last_draw = 0

    def _checked(self, value: Any) -> Any:
        """The number as it is held, or an error."""
        rate(value)
        return float(value)

    @property
    def key(self) -> Key:
        """The key of the next training forward."""
        return Key(self._seed, self._draw)

    @key.setter
    def key(self, key: Key) -> None:
        given = as_key_or_seed(key)
        self._seed, self._draw = given.seed, given.draw

    def __call__(
        self, x: ArrayLike, training: bool | None = None, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return `forward` of the same arguments."""
        return self.forward(x, training, out=out)

    def forward(
        self, x: ArrayLike, training: bool | None = None, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return x with elements dropped in training, and x itself in evaluation.

        Parameters
        ----------
        x : array_like, any shape
            Of a dtype that `fastdrop.dropout` takes.
        training : bool, optional
            For this call alone; by default `self.training`.
        out : ndarray, optional
            As in `fastdrop.dropout`; not written in evaluation.

        Raises
        ------
        TypeError, ValueError
            As `fastdrop.dropout`; the key is then not advanced.
        """
        if not (self.training if training is None else training):
            self._last_shape, self._last_seed = np.shape(x), None
            return x  # type: ignore[return-value]
        key, value = self._key_for(x), self._value
        y = self._drop(x, value, key, out)
        self._drawn(x, key)
        self._last_shape, self._last_value = y.shape, value
        self._last_seed, self._last_draw = key.seed, key.draw
        return y

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient with respect to the last forward's x; g itself after evaluation.

        Parameters
        ----------
        g : array_like
            Gradient with respect to what the last forward returned, of its shape.
        out : ndarray, optional
            As in `fastdrop.dropout_backward`; may be g.

        Raises
        ------
        RuntimeError
            Before any forward.
        ValueError
            If g has another shape than the last forward's x.
        """
        shape, seed = self._last_shape, self._last_seed
        if shape is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs a forward before it; call forward(x) first"
            )
        if np.shape(g) != shape:
            raise ValueError(f"g must have the last forward's shape {shape}, got {np.shape(g)}")
        if seed is None:
            return g  # type: ignore[return-value]
        return self._drop_backward(g, self._last_value, Key(seed, self._last_draw), out)

    def _key_for(self, x: ArrayLike) -> Key:
        """The key of the next training forward."""
        return self.key

    def _drawn(self, x: ArrayLike, key: Key) -> None:
        """Note that a training forward of x has used a key."""
        self._seed, self._draw = key.seed, key.draw + 1

    def _drop(self, x: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        """The layer's function of x."""
        raise NotImplementedError

    def _drop_backward(self, g: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        """Its gradient: most noises are linear, and the same forward and backward."""
        return self._drop(g, p, key, out)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation if mode is False; return the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation, where forward returns its input; return the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs for the same masks, as plain JSON-able data.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Dropout(0.5, rng=42).state_dict()
        {'version': 1, 'layer': 'Dropout', 'p': 0.5, 'seed': 42, 'draw': 0}
        """
        return {
            "version": STATE_VERSION,
            "layer": type(self).__name__,
            self._parameter: self._value.tolist() if isinstance(self._value, np.ndarray) else self._value,
            "seed": self.key.seed,
            "draw": self.key.draw,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned.

        Raises
        ------
        ValueError
            If the state is of another layer or version, or an entry is missing, unknown or bad; the
            layer is then as it was.
        """
        expected = self.state_dict()
        if not isinstance(state, Mapping) or state.keys() != expected.keys():
            got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"state must have the entries {sorted(expected)}, got {got}")
        for name in ("version", "layer"):
            if state[name] != expected[name]:
                raise ValueError(f"state must have {name} {expected[name]!r}, got {state[name]!r}")
        try:
            value = self._checked(state[self._parameter])
            self.key = Key(state["seed"], state["draw"])
        except TypeError as error:
            raise ValueError(f"state has a bad entry: {error}") from None
        self._value, self._last_shape = value, None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._parameter}={self._value}, rng={self.key})"


class Dropout(NoiseLayer):
    """Inverted dropout: in training each element is dropped with probability p.

    A layer holds its rate, its key and the shape of its last input. It stores no mask: backward
    recomputes it, and costs what forward costs.

    Parameters
    ----------
    p : float, default 0.5
        Probability to drop, in [0, 1].
    rng : None, int, Key, numpy.random.SeedSequence or numpy.random.Generator, optional
        Where the masks come from; None takes fresh entropy. Each training forward takes the next
        draw of this key.

    Attributes
    ----------
    p : float
        May be set between calls.
    key : Key
        The key of the next training forward.
    training : bool
        Whether forward drops; True at first.

    Raises
    ------
    TypeError, ValueError
        If p or rng is not of the kinds above.

    See Also
    --------
    fastdrop.dropout : the function under it.

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
    """

    def __init__(self, p: float = 0.5, *, rng: Rng = None) -> None:
        super().__init__(p, rng)

    @property
    def p(self) -> float:
        """Probability to drop."""
        return float(self._value)

    @p.setter
    def p(self, p: float) -> None:
        self._value = self._checked(p)

    def _drop(self, x: ArrayLike, p: float, key: Key, out: NDArray[Any] | None) -> NDArray[Any]:
        return functional.dropout(x, p, key, out=out)


class InvertedDropout(Dropout):
    """`Dropout` by the probability to keep.

    Parameters
    ----------
    keep_prob : float, default 0.5
        Probability to keep, in [0, 1]; p is ``1 - keep_prob``.
    rng
        As in `Dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> drop = fd.InvertedDropout(0.8, rng=1)
    >>> drop
    InvertedDropout(keep_prob=0.8, rng=Key(1))
    >>> sorted({float(v) for v in drop(np.ones(1000, np.float32))})
    [0.0, 1.25]
    """

    def __init__(self, keep_prob: float = 0.5, *, rng: Rng = None) -> None:
        rate(keep_prob, "keep_prob")
        super().__init__(1 - keep_prob, rng=rng)

    @property
    def keep_prob(self) -> float:
        """Probability to keep."""
        return 1 - self.p

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keep_prob={self.keep_prob}, rng={self.key})"
