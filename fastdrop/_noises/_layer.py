"""The base classes of all layers: their state, how it is saved, and which forward a backward belongs to."""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any, ClassVar, NamedTuple, Self, SupportsIndex, cast
from weakref import WeakSet

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays import device
from fastdrop._arrays.hints import refuse_foreign, refuse_schedule
from fastdrop._arrays.host import to_array
from fastdrop._arrays.listed import Indices, Listed
from fastdrop._arrays.numbers import flag, holds_reals, rate, reals
from fastdrop._arrays.plan import Axes, Window, integers_in, window_given
from fastdrop._backends import combined, on_gpu
from fastdrop._stream.keys import Key, Rng, as_key, as_key_or_seed, checked_key, shown
from fastdrop.schedules import Constant, ScheduledRate, restored_schedule, schedule_state

STATE_VERSION = 1

# A layer remembers so many training forwards for backward, and so many bytes of arrays with them. A thousand
# is more than the steps of most unrolled recurrent networks, at .3 KB for each forward. The arrays are
# inputs, which the gradients of some layers need. Without the second limit such a layer would hold a gigabyte
# after a few Monte Carlo passes, which have no backward.
MOST_FORWARDS = 1024
MOST_BYTES = 1 << 28

UNSTEPPED = 100  # after so many training forwards a schedule that was never stepped is warned of

_LAST_DRAW = (1 << 63) - 1  # the draw of a key that has no next
_new = tuple.__new__  # Forward(...) would take twice as long


class Locked:
    """A base for objects with state that threads share: code reads or changes it ``with self._lock``."""

    def __init__(self) -> None:
        self._lock = RLock()
        _all.add(self)

    def _forked(self) -> None:
        """Change in a forked child what must not be as in its parent."""

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        Locked.__init__(self)


_all: WeakSet[Locked] = WeakSet()


def _renew() -> None:
    """Make new locks in a forked child, since the thread that holds an old one may not exist there."""
    for each in _all:
        each._lock = RLock()
        each._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class Layer(Locked):
    """The base of all layers: it holds the number (or array) of their noise, a key and the training mode.

    Threads may share a layer, since each call holds the lock from beginning to end.
    """

    _parameter: ClassVar[str] = "p"  # the name of that number
    _takes_schedules: ClassVar[bool] = True
    _function: ClassVar[str] = "dropout(x, p, key)"  # the function under the layer, for errors
    _unseeded = False  # whether nobody chose the key: it then is another one in a forked child

    def __init_subclass__(cls) -> None:
        """Make ``__call__`` the forward of a user's class too, as ``__call__ = forward`` does in ours.

        A ``__call__`` that calls forward would take half a microsecond more.
        """
        super().__init_subclass__()
        own = vars(cls)
        if "forward" in own and "__call__" not in own:
            type.__setattr__(cls, "__call__", own["forward"])

    def __init__(self, value: Any, rng: Rng) -> None:
        super().__init__()
        self._value: Any
        self._set(value)
        self.reseed(rng)
        self.training = True

    def _checked(self, value: Any) -> Any:
        """Return the number as the layer holds it, or raise an error."""
        rate(value)
        return float(value)

    def _assign(self, value: Any) -> None:
        """Hold a number or a schedule that the user assigns, which says what becomes of a former schedule."""
        if self._schedule is not None and not callable(value):
            raise ValueError(
                f"{self._parameter} follows {self._schedule!r}, got {shown(value)}; assign a schedule, such "
                f"as fastdrop.schedules.Constant({shown(value)}), which ends the former one"
            )
        self._set(value)

    def _set(self, value: Any, schedule: Callable[[int], float] | None = None, step: int = 0) -> None:
        """Hold a number, or a schedule and the number of its step."""
        if callable(value):
            schedule = value
        if not self._takes_schedules:
            refuse_schedule(self._parameter, schedule)
        if isinstance(schedule, type):
            got = f"the class {schedule.__name__}; use an instance of it"
            raise TypeError(f"{self._parameter} must be a number or a schedule, got {got}")
        number = self._checked(value if schedule is None else schedule(step))
        with self._lock:
            self._value, self._schedule, self._step = number, schedule, step
            self._unstepped = 0  # how many training forwards a schedule waits for its first step

    @property
    def p(self) -> Any:
        """Probability to drop, of layers that have a rate."""
        raise AttributeError(f"{type(self).__name__} has no p, but {self._parameter}")

    @p.setter
    def p(self, p: Any) -> None:
        raise AttributeError(f"{type(self).__name__} has no p that could be set, but {self._parameter}")

    @property
    def schedule(self) -> Callable[[int], float] | None:
        """The schedule of the number, which is a function of the step, or None if the number is constant."""
        return self._schedule

    def step(self) -> None:
        """Advance the schedule by one update; without one nothing happens.

        Raises
        ------
        TypeError, ValueError
            If the schedule returns what is no rate; it is then not advanced.
        """
        with self._lock:
            if self._schedule is not None:
                self._set(None, self._schedule, self._step + 1)

    @property
    def key(self) -> Key:
        """The key of the next training forward."""
        with self._lock:
            return self._key

    @key.setter
    def key(self, key: Key | SupportsIndex) -> None:
        given = as_key_or_seed(key)
        with self._lock:
            self._key, self._unseeded = given, False

    def reseed(self, rng: Rng = None) -> Self:
        """Take another key, as a layer has that is built with this rng; return the layer.

        That is for copies: a layer that was copied or unpickled is an exact copy, and draws the masks that
        the other one draws.

        Parameters
        ----------
        rng : None, int, Key, numpy.random.SeedSequence or numpy.random.Generator, optional
            As in `fastdrop.Dropout`. Forwards that wait for their backward keep the keys that they had.

        Raises
        ------
        TypeError, ValueError
            If rng is not of these kinds, or negative.

        Examples
        --------
        >>> import copy, fastdrop as fd
        >>> drop = fd.Dropout(0.5, rng=42)
        >>> copy.deepcopy(drop)
        Dropout(p=0.5, rng=Key(42))
        >>> copy.deepcopy(drop).reseed(drop.key.fold_in("copy"))
        Dropout(p=0.5, rng=Key(5623828017580252774))
        """
        key = as_key(rng)
        with self._lock:
            self._key, self._unseeded = key, rng is None
        return self

    def _forked(self) -> None:
        if self._unseeded:
            self.reseed()

    def _trains(self, training: bool | None) -> bool:
        """Return whether a call with this argument trains, or raise an error that says what to write."""
        mode = self.training if training is None else training
        if mode is True or mode is False:
            return mode
        return flag("training", mode, "True, False or None", self._advice())

    def _advice(self) -> str:
        """Return advice for a caller who gives a layer the key or number that it already has."""
        return f"a layer has its own {self._parameter} and key, fastdrop.{self._function} takes others"

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation if mode is False; return the layer.

        Raises
        ------
        TypeError
            If mode is neither True nor False.
        """
        training = flag("mode", mode, hint="use train() or eval()")
        with self._lock:
            self.training = training
        return self

    def eval(self) -> Self:
        """Switch to evaluation, where a layer draws nothing; return the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs for the same masks, as plain JSON-able data.

        Raises
        ------
        ValueError
            If the schedule is a lambda or a partial: a state has its name, and these have none.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Dropout(0.5, rng=42).state_dict()
        {'version': 1, 'layer': 'Dropout', 'p': 0.5, 'seed': 42, 'draw': 0}
        """
        with self._lock:
            return {
                "version": STATE_VERSION,
                "layer": type(self).__name__,
                self._parameter: self._number_state(),
                "seed": self._key.seed,
                "draw": self._key.draw,
            }

    def _entries(self) -> dict[str, Any]:
        """Return a state that `load_state_dict` would take, of a layer whose schedule may have no name."""
        with self._lock:
            schedule, self._schedule = self._schedule, None
            try:
                return self.state_dict()
            finally:
                self._schedule = schedule

    def _number_state(self) -> Any:
        if self._schedule is not None:
            return schedule_state(self._schedule, self._step)
        return self._value.tolist() if isinstance(self._value, np.ndarray) else self._value

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned; forwards before it have no backward any more.

        Of a schedule that is no class of `fastdrop.schedules` a state has the name and the step: build
        the layer with it first.

        Raises
        ------
        ValueError
            If the state is of another layer or version, or an entry is missing, unknown or such that
            forward could not use it; the layer is then as it was.
        """
        expected = self._entries()
        if not isinstance(state, Mapping) or state.keys() != expected.keys():
            got = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(f"state must have the entries {sorted(expected)}, got {got}")
        for name in ("version", "layer"):
            if state[name] != expected[name]:
                raise ValueError(f"state must have {name} {shown(expected[name])}, got {shown(state[name])}")
        for name, value in state.items():
            if isinstance(value, bool):  # which Python takes for 0 or 1
                raise ValueError(f"state has a bad entry: {name} must be no bool, got {value}")
        try:
            key = Key(state["seed"], state["draw"])
            key.next()  # which a forward will need
            with self._lock:
                self._set_from_state(state[self._parameter])
                self.key = key
                self._forget()
        except TypeError as error:
            raise ValueError(f"state has a bad entry: {error}") from None

    def _forget(self) -> None:
        """Drop what belongs to forwards before a state was loaded."""

    def _set_from_state(self, number: Any) -> None:
        if isinstance(number, Mapping):
            self._set(None, *restored_schedule(number, self._schedule))
        elif callable(number):
            raise TypeError(f"{self._parameter} must be plain data, got {shown(number)}")
        else:
            self._set(number)

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor, but for rng, as `__repr__` shows them."""
        return {self._parameter: self._value if self._schedule is None else self._schedule}

    def __repr__(self) -> str:
        arguments = "".join(f"{name}={value!r}, " for name, value in self._arguments().items())
        return f"{type(self).__name__}({arguments}rng={self.key})"


class RateLayer(Layer):
    """A layer whose number is a rate, p."""

    @property
    def p(self) -> float:
        """Probability to drop."""
        return float(self._value)

    @p.setter
    def p(self, p: ScheduledRate) -> None:
        self._assign(p)


class Forward(NamedTuple):
    """What a layer remembers of a forward for its backward."""

    key: Key
    value: Any  # the layer's number then
    shape: tuple[int, ...]  # of what forward returned
    window: Window | None = None
    kept: Any = None  # what else a layer's gradient depends on: inputs, rates, lengths

    def plain(self) -> tuple[Any, ...]:
        """Return it as plain tuples, so that pickles name no private class."""
        return tuple(tuple(part) if isinstance(part, Listed) else part for part in self)

    @classmethod
    def of(cls, plain: tuple[Any, ...]) -> Self:
        """Return the forward that `plain` made this of; a window has two parts, a `Listed` three."""
        key, value, shape, window, kept = plain
        return cls(
            key, value, shape, window_given(None, *window) if window and len(window) == 3 else window, kept
        )

    def nbytes(self) -> int:
        """Return how many bytes its arrays have."""
        value, kept = self[1], self[4]
        own = value.nbytes if isinstance(value, np.ndarray) else 0
        if isinstance(kept, tuple):
            return own + sum(a.nbytes for a in kept if isinstance(a, np.ndarray))
        return own + getattr(kept, "nbytes", 0)  # of an array on a GPU too


class NoiseLayer(Layer):
    """A layer with forward and backward, which remembers its training forwards until their backward.

    A backward belongs to the latest training forward that no backward has gone through yet; in evaluation
    mode only if no forward in that mode came after it. The oldest forwards are forgotten where more than
    `MOST_FORWARDS` wait, or where the arrays of more than one have more than `MOST_BYTES` together.
    """

    _gradient: ClassVar[str] = "dropout_backward(g, p, layer.key)"  # the function under backward, for errors
    # The latest forward in evaluation mode. Only layers keep it whose gradient in evaluation depends on their
    # input.
    _evaluated: Forward | None

    def __init__(self, value: Any, rng: Rng) -> None:
        super().__init__(value, rng)
        self._evaluated = None
        self._forwards: deque[Forward] = deque()
        self._older = 0  # how many of them are older than the latest forward in evaluation mode
        self._bytes = 0  # how many bytes their arrays have

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:  # forwards become plain tuples, so that pickles name no private class
            waiting: dict[str, Any] = {"_forwards": [forward.plain() for forward in self._forwards]}
            waiting["_evaluated"] = self._evaluated and self._evaluated.plain()
            return super().__getstate__() | waiting

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forwards = deque(map(Forward.of, self._forwards))
        if self._evaluated is not None:
            self._evaluated = Forward.of(self._evaluated)

    def _begin(self, x: ArrayLike, window: Window | None = None, kept: Any = None) -> Forward:
        """Return the record of a training forward of x that is about to be done."""
        key = self._key
        if key.draw >= _LAST_DRAW:
            key.next()  # raises if there is none, before anything is written
        shape = x.shape if type(x) is np.ndarray else np.shape(passed(x))
        return _new(Forward, (key, self._value, shape, window, kept))

    def _done(self, forward: Forward) -> None:
        """Remember a training forward, and go on to the next key."""
        if self._schedule is not None and not self._step and self._unstepped < UNSTEPPED:
            self._count_unstepped()
        key = forward[0]
        self._key = checked_key(key.seed, key.draw + 1)  # as key.next(), for which `_begin` has looked
        waiting = self._forwards
        waiting.append(forward)
        if forward[4] is not None:
            self._bytes += forward.nbytes()
            while self._bytes > MOST_BYTES and len(waiting) > 1:
                self._forget_oldest()
        if len(waiting) > MOST_FORWARDS:
            self._forget_oldest()

    def _count_unstepped(self) -> None:
        """Warn once of a schedule that was never stepped."""
        self._unstepped += 1
        if self._unstepped == UNSTEPPED and not isinstance(self._schedule, Constant):
            name, number = type(self).__name__, f"{self._parameter} = {self._value}"
            _warn_user(
                f"the schedule of {name} was never stepped in {UNSTEPPED} training forwards, so that still "
                f"{number}; call layer.step() after each update, or fastdrop.Scheduler(layers).step()"
            )

    def _forget_oldest(self) -> None:
        oldest = self._forwards.popleft()
        self._older = max(self._older - 1, 0)
        if oldest[4] is not None:
            self._bytes -= oldest.nbytes()

    def _note_evaluation(self, forward: Forward | None = None) -> None:
        """Note a forward in evaluation; in training mode it leaves nothing behind."""
        if not self.training:
            self._evaluated, self._older = forward, len(self._forwards)

    def _evaluates(self) -> bool:
        """Return whether a backward now is one of evaluation, and not of a training forward."""
        return not self._trains(None) and len(self._forwards) <= self._older

    def _latest(self, g: ArrayLike) -> Forward:
        """Return the forward that the backward of g belongs to, or raise an error."""
        waiting = self._forwards[-1] if self._forwards else None
        forward = waiting if self.training is True or not self._evaluates() else self._evaluated
        if forward is None:
            raise RuntimeError(self._nothing_left())
        shape = g.shape if type(g) is np.ndarray else np.shape(passed(g))
        if shape != forward[2]:
            raise ValueError(f"g must have the last forward's shape {forward.shape}, got {shape}")
        return forward

    def _finish(self, forward: Forward) -> None:
        """Forget a forward after its backward."""
        if forward is self._evaluated:
            self._evaluated = None
            return
        self._forwards.pop()
        if self._older:
            self._older = min(self._older, len(self._forwards))
        if forward[4] is not None:
            self._bytes -= forward.nbytes()

    def _nothing_left(self) -> str:
        name = type(self).__name__
        if not self.training:
            return f"{name}.backward in evaluation needs a forward in evaluation, one for each backward"
        return (
            f"{name}.backward needs a training forward that no backward has gone through yet, and none is "
            f"left (a layer remembers {MOST_FORWARDS} at most, and {MOST_BYTES >> 20} MiB of inputs); call "
            f"forward first, or take layer.key before it and use fastdrop.{self._gradient}"
        )

    def _forget(self) -> None:
        self._forwards, self._older, self._bytes, self._evaluated = deque(), 0, 0, None


class ArrayLayer(NoiseLayer):
    """A layer whose forward takes one array."""

    _passes_in_evaluation: ClassVar[bool] = True  # and returns it in evaluation

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
            If training is neither a bool nor None, or as `fastdrop.dropout`; the key is then not advanced.
        """
        return self._forward(x, training, out)

    __call__ = forward

    def _forward(
        self,
        x: ArrayLike,
        training: bool | None,
        out: NDArray[Any] | None,
        window: Window | None = None,
        kept: Any = None,
    ) -> NDArray[Any]:
        with self._lock:
            mode = self.training if training is None else training
            if mode is not True and not self._trains(mode):
                return self._evaluate(x, out)
            forward = self._begin(x, window, kept)
            y = self._drop(x, forward, out)
            self._done(forward)
            return y

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient with respect to x of a training forward, or g itself in evaluation.

        That is the latest training forward that no backward has gone through yet: where a network uses a
        layer twice, the first backward is that of the second use. In evaluation mode it is g itself, unless
        the latest forward was one in training. In training mode a forward in evaluation has no part in this.

        Parameters
        ----------
        g : array_like
            Gradient with respect to what that forward returned, of its shape.
        out : ndarray, optional
            As in `fastdrop.dropout_backward`; may be g. Not written in evaluation.

        Raises
        ------
        RuntimeError
            If there is no such forward, or it is not among the latest 1,024 that wait.
        ValueError
            If g has another shape than what that forward returned; it then still waits for its backward.
        """
        with self._lock:
            if self.training is not True and self._passes_in_evaluation and self._evaluates():
                return passed(g)
            forward = self._latest(g)
            dx = self._drop_backward(g, forward, out)
            self._finish(forward)
            return dx

    def _evaluate(self, x: ArrayLike, out: NDArray[Any] | None) -> NDArray[Any]:
        """Return what forward returns in evaluation: x itself, unless a layer says otherwise."""
        y = passed(x)
        self._note_evaluation()
        return y

    def _drop(self, x: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        """Return the layer's function of x, with the key and the number of a forward."""
        raise NotImplementedError

    def _drop_backward(self, g: ArrayLike, forward: Forward, out: NDArray[Any] | None) -> NDArray[Any]:
        """Return the gradient of a forward: most noises are linear, and the same function of g."""
        return self._drop(g, forward, out)


class ElementwiseLayer(ArrayLayer):
    """A layer with noise for each element, which axes may share, also of a block of a bigger array."""

    def __init__(self, value: Any, rng: Rng, shared_axes: Axes = ()) -> None:
        super().__init__(value, rng)
        self.shared_axes = integers_in(shared_axes)

    def forward(
        self,
        x: ArrayLike,
        training: bool | None = None,
        *,
        out: NDArray[Any] | None = None,
        window: Window | None = None,
        rows: ArrayLike | None = None,
        indices: Indices | None = None,
        offsets: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Return x with noise in training, and x itself in evaluation.

        Parameters
        ----------
        x : array_like, any shape
            Of a dtype that `fastdrop.dropout` takes.
        training : bool, optional
            For this call alone; by default `self.training`.
        out : ndarray, optional
            As in `fastdrop.dropout`; not written in evaluation.
        window : (full_shape, origin), optional
            As in `fastdrop.dropout`: x is the block at `origin` of an array of `full_shape`. It is of this
            call, and of the backward that belongs to it. The next call takes the next draw: blocks that
            shall be parts of one array need the same key, say in layers of the same rng.
        rows, indices, offsets
            As in `fastdrop.dropout`, and of this call alone, as `window` is. A call takes the next key, so
            set `key` before each one where a sample shall keep its mask.

        Raises
        ------
        TypeError, ValueError
            If training is neither a bool nor None, or as `fastdrop.dropout`; the key is then not advanced.
        """
        if window is not None or rows is not None or indices is not None or offsets is not None:
            window = unchanging(window, rows, indices, offsets)
        return self._forward(x, training, out, window)

    __call__ = forward

    def _axes(self, x: ArrayLike) -> Axes:
        """Return the axes of x that share draws."""
        return self.shared_axes

    def _axes_set(self) -> dict[str, Any]:
        """Return the axes as `__repr__` shows them, which is only if there are any."""
        return {"shared_axes": self.shared_axes} if self.shared_axes else {}

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | self._axes_set()


class LearnedLayer(ElementwiseLayer):
    """A layer with a learned parameter and its gradient, which remembers references to its inputs.

    The parameter is on the host. Its gradient is too, until a backward on a GPU: then it is an array there,
    so that nothing waits for the GPU until the user reads it.
    """

    _takes_schedules = False

    def __init__(self, value: NDArray[Any], rng: Rng, shared_axes: Axes = ()) -> None:
        super().__init__(value, rng, shared_axes)
        self._grad: Any = np.zeros_like(self._value)

    def _checked(self, value: Any) -> Any:
        name = self._parameter
        try:
            number = reals(name, value).copy()
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be real, got {shown(value)}") from None
        if not np.isfinite(number).all():
            raise ValueError(f"{name} must be finite, got {number}")
        shape = np.shape(getattr(self, "_value", number))
        if number.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {number.shape}")
        return number

    def zero_grad(self) -> None:
        """Set the gradient to 0; it is then on the host, where it may have been on a GPU."""
        with self._lock:
            if isinstance(self._grad, np.ndarray):
                self._grad.fill(0)
            else:
                self._grad = np.zeros_like(self._value)

    def _add(self, gradient: Any) -> None:
        """Add to the gradient a number or an array, which may be on a GPU; so is then the sum."""
        with self._lock:
            before = self._grad
            if not on_gpu(before, gradient):
                before += gradient
            elif isinstance(before, np.ndarray) and not before.any():
                self._grad = gradient
            elif on_gpu(gradient):
                self._grad = combined(gradient, before, "plus")
            else:
                self._grad = combined(before, np.broadcast_to(gradient, self._value.shape), "plus")

    def _forward(
        self,
        x: ArrayLike,
        training: bool | None,
        out: NDArray[Any] | None,
        window: Window | None = None,
        kept: Any = None,
    ) -> NDArray[Any]:
        self._check_apart(out, x)
        return super()._forward(x, training, out, window, kept)

    def _check_apart(self, out: NDArray[Any] | None, x: ArrayLike) -> None:
        if out is None:
            return
        on_a_gpu = device.is_there(x)
        if device.overlap(out, device.to_array(x)) if on_a_gpu else np.may_share_memory(out, x):
            advice = "leave it out" if on_a_gpu else "use np.empty_like(x)"
            raise ValueError(f"out must not overlap x, which backward needs; {advice}")

    def _begin(self, x: ArrayLike, window: Window | None = None, kept: Any = None) -> Forward:
        inputs: Any = x if device.is_there(x) else to_array(x)
        key, value, shape, _, _ = super()._begin(inputs)
        return _new(Forward, (key, value.copy(), shape, window, inputs))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state that `state_dict` returned; see `Dropout.load_state_dict`."""
        with self._lock:
            super().load_state_dict(state)
            self.zero_grad()


class LearnedAlpha(LearnedLayer):
    """A layer whose learned parameter is the logarithm of the alpha of its noise."""

    _parameter = "log_alpha"

    def __init__(self, alpha: ArrayLike = 1.0, *, shared_axes: Axes = (), rng: Rng = None) -> None:
        super().__init__(self._log_of(alpha), rng, shared_axes)

    @staticmethod
    def _log_of(alpha: ArrayLike) -> NDArray[np.float64]:
        """Return the logarithm of what a user gives for alpha, or raise an error."""
        given = np.asarray(alpha)
        if not holds_reals(given.dtype):
            raise TypeError(
                f"alpha must be real, got {shown(alpha)}; use the number that learning begins with"
            )
        wrong = given[~((given > 0) & (given < np.inf))]
        if wrong.size:
            raise ValueError(f"alpha must be above 0 and finite, got {wrong.flat[0]}")
        log_alpha: NDArray[np.float64] = np.log(given, dtype=np.float64)
        return log_alpha

    def _checked(self, value: Any) -> Any:
        number = super()._checked(value)
        with np.errstate(over="ignore", under="ignore"):
            alpha = np.exp(number)
        wrong = number[~((alpha > 0) & (alpha < np.inf))]
        if wrong.size:
            raise ValueError(
                f"log_alpha must be the logarithm of a number above 0 and finite, got {wrong.flat[0]}"
            )
        return number

    @property
    def log_alpha(self) -> NDArray[np.float64]:
        """Logarithm of `alpha`."""
        value: NDArray[np.float64] = self._value
        return value

    @log_alpha.setter
    def log_alpha(self, log_alpha: ArrayLike) -> None:
        self._set(log_alpha)

    @property
    def log_alpha_grad(self) -> NDArray[np.float64]:
        """Gradient with respect to `log_alpha`, added up since `zero_grad`; on a GPU where g was there."""
        grad: NDArray[np.float64] = self._grad
        return grad

    @property
    def alpha(self) -> NDArray[np.float64]:
        """What the noise is made with now. To set it is to set `log_alpha`."""
        alpha: NDArray[np.float64] = np.exp(self._value)
        return alpha

    @alpha.setter
    def alpha(self, alpha: ArrayLike) -> None:
        self._set(self._log_of(alpha))

    def backward(self, g: ArrayLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the gradient with respect to x, and add that of log_alpha; see `Dropout.backward`."""
        return super().backward(g, out=out)

    def _arguments(self) -> dict[str, Any]:
        others = {name: value for name, value in super()._arguments().items() if name != "log_alpha"}
        return {"alpha": self.alpha.tolist()} | others


def passed(x: ArrayLike) -> NDArray[Any]:
    """Return x itself, as evaluation does, or raise an error if training refuses objects of its kind."""
    if type(x) is not np.ndarray and not device.is_there(x):
        refuse_foreign(x)
    return cast("NDArray[Any]", x)


def unchanging(
    window: Window | None, rows: Any = None, indices: Any = None, offsets: Any = None
) -> Window | None:
    """Return what `window_given` does, but a copy, since the caller may change lists before backward."""
    window = window_given(window, rows, indices, offsets)
    if window is None or isinstance(window, Listed):  # which has copies
        return window
    try:
        full, origin = window
        return tuple(full), tuple(origin)
    except (TypeError, ValueError):
        return window


def _warn_user(message: str) -> None:
    """Warn at the line of the user's that called us, however deep the calls are."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastdrop":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
