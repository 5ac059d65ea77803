"""Monte Carlo dropout: what many passes with different noise predict, and how surely."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from itertools import islice
from typing import Any, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.hints import refuse_foreign
from fastdrop._arrays.host import real_array
from fastdrop._arrays.numbers import flag, positive
from fastdrop._arrays.plan import Axes, axes_in
from fastdrop._stream.keys import Key, as_key_or_seed, natural

StochasticPass: TypeAlias = Callable[[Any, Key], ArrayLike]

_OFF_ONE = 1e-2  # by how much probabilities in 16-bit floats may miss a sum of 1; logits miss it by more


class Prediction(NamedTuple):
    """What `mc_predict` found, in arrays of float64 of the shape that f returns.

    Attributes
    ----------
    mean : ndarray
        Over the samples.
    variance : ndarray
        Of one sample, about the mean; the sum of squares is divided by n - 1. NaN where n is 1.
    standard_error : ndarray
        Standard deviation of the mean, by which it would differ under another key. Of independent samples
        it is ``sqrt(variance / n)``; of antithetic pairs it is that of the mean over their n / 2 means.
        NaN where there is one of them.
    n : int
        Number of samples.
    samples : ndarray or None
        What each pass returned, along a first axis of length n, if `mc_predict` was told to keep it.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> found = fd.mc_predict(lambda x, key: fd.dropout(x, 0.5, key).sum(), np.ones(8), 100, fd.Key(42))
    >>> np.allclose(found.standard_error, np.sqrt(found.variance / found.n))
    True
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    n: int
    samples: NDArray[np.float64] | None = None


def mc_predict(
    f: StochasticPass,
    x: Any,
    n: SupportsIndex,
    key: Key | SupportsIndex,
    *,
    antithetic: bool = False,
    keep_samples: bool = False,
    threads: SupportsIndex = 1,
    progress: bool = False,
) -> Prediction:
    """Return mean and variance of n stochastic passes: what a network with dropout predicts, and how surely.

    Parameters
    ----------
    f : callable
        ``f(x, key)`` makes one pass, all of whose noise is a function of the key. It returns finite real
        numbers in an array, of the same shape for every key. Return probabilities and not logits to get
        those that a classifier predicts.
    x : object
        Is handed to f as it is.
    n : int
        Number of passes, at least 1.
    key : Key or int
        Sample s gets ``key.fold_in(s)``: a number has its own noise, for every n. It is that of one
        sub-network for a whole batch if f drops with ``shared_axes=0``, else each row has its own.
    antithetic : bool, default False
        Let samples 2s and 2s + 1 get ``key.fold_in(s)`` and its `Key.antithetic`. The mean's error is
        smaller if f is about monotonic in the noise, and larger if it is about symmetric in it. n must
        be even.
    keep_samples : bool, default False
        Return what each pass returned too: n times the memory, for `mutual_information`, quantiles or plots.
    threads : int, default 1
        How many passes run at once. With more than 1, f must change nothing outside, so no layers; give
        the BLAS one thread. Results are the same to the bit for any number.
    progress : bool, default False
        Show a bar of the passes. Needs tqdm.

    Returns
    -------
    Prediction
        ``(mean, variance, standard_error, n, samples)``, arrays in float64. The outputs are added up as they
        come (Welford), so without `keep_samples` memory does not depend on n; up to ``threads + 1`` of them
        are held at a time, and samples is None.

    Raises
    ------
    TypeError
        If n or threads is not an integer, key is not a key, or f returns something other than real numbers.
    ValueError
        If n or threads is less than 1, n is odd for antithetic pairs, or shapes differ.
    ImportError
        If a bar is asked for without tqdm.

    Warns
    -----
    UserWarning
        If f returned the same in all of several passes and never looked at its key. A function that uses
        its key, with p = 0 or in evaluation, is not warned of.

    Notes
    -----
    The variance is that of the network. An observation of precision tau has ``variance + 1 / tau``.

    Two models, or two rates, are compared best under the same keys, where most of the noise cancels: pass
    the difference of their outputs as f, and its standard error is that of the comparison.

    References
    ----------
    Gal, Ghahramani, "Dropout as a Bayesian Approximation", arXiv 1506.02142, section 4; they divide by n.
    Welford, "Note on a Method for Calculating Corrected Sums of Squares and Products", Technometrics 4.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, w1, w2 = np.ones((1, 4)), np.ones((4, 50)), np.ones((50, 1)) / 50
    >>> def network(x, key, p=0.5):
    ...     return fd.dropout(np.maximum(x @ w1, 0), p, key) @ w2
    >>> found = fd.mc_predict(network, x, 400, fd.Key(42))
    >>> found.mean.round(3), found.variance.round(3), found.standard_error.round(3)
    (array([[3.965]]), array([[0.294]]), array([[0.027]]))

    Layers take their key from each pass, and go on from the last one's unless it is set back:

    >>> layers = [fd.Dropout(0.5), fd.Dropout(0.5)]
    >>> def with_layers(x, key):
    ...     for number, layer in enumerate(layers):
    ...         layer.key = key.fold_in(number)
    ...     return layers[1](np.maximum(layers[0](x, training=True) @ w1, 0), training=True) @ w2
    >>> fd.mc_predict(with_layers, x, 400, fd.Key(42)).mean.shape
    (1, 1)

    Two rates under the same keys, and under different ones:

    >>> same = fd.mc_predict(lambda x, k: network(x, k, 0.5) - network(x, k, 0.4), x, 400, 42)
    >>> apart = fd.mc_predict(lambda x, k: network(x, k, 0.5) - network(x, k.fold_in(1), 0.4), x, 400, 42)
    >>> same.standard_error.round(3), apart.standard_error.round(3)
    (array([[0.015]]), array([[0.035]]))
    """
    passes, antithetic = _RunningMoments(), flag("antithetic", antithetic)
    means = (
        _RunningMoments() if antithetic else passes
    )  # of pairs, since only those are independent of each other
    kept: list[NDArray[Any]] | None = [] if flag("keep_samples", keep_samples) else None
    for output in _outputs(f, x, n, key, antithetic, threads, progress):
        passes.add(output)
        if kept is not None:
            kept.append(output.copy())  # since f may write its next output to the same memory
        if antithetic and passes.n % 2:
            first = np.array(output, np.float64)
        elif antithetic:
            means.add((first + output) / 2)
    error = np.sqrt(means.variance() / means.n)
    samples = None if kept is None else np.stack(kept, dtype=np.float64)
    return Prediction(passes.mean, passes.variance(), np.asarray(error), passes.n, samples)


def predictive_entropy(probabilities: ArrayLike, axis: Axes = -1) -> NDArray[np.float64]:
    """Return the entropy of predicted probabilities, in nats: how unsure a prediction is of its class.

    Of the mean that `mc_predict` found it is the uncertainty from both causes: classes that overlap in the
    data, and sub-networks that disagree, whose part is the `mutual_information`.

    Parameters
    ----------
    probabilities : array_like
        Of a real dtype that `dropout` takes; at least 0, with sums within 0.01 of 1, as 16-bit floats have.
    axis : int or sequence of int, default -1
        Along which the classes lie.

    Returns
    -------
    ndarray of float64
        ``-sum(p * log(p))``, where a probability of 0 adds nothing; without the axis of the classes. It is 0
        where one class is sure, and at most the logarithm of their number.

    Raises
    ------
    TypeError
        If probabilities are not real floats.
    ValueError
        If they are below 0 or don't sum to 1, as logits don't, or an axis is out of range.

    References
    ----------
    Gal, "Uncertainty in Deep Learning", thesis, Cambridge 2016, section 3.3.1.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.predictive_entropy([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5]]).round(3)
    array([0.   , 0.325, 0.693])
    """
    return _entropy(*_probabilities("predictive_entropy", "probabilities", probabilities, axis))


def mutual_information(samples: ArrayLike, axis: Axes = -1) -> NDArray[np.float64]:
    """Return the mutual information of class and sub-network, in nats: how far passes disagree (BALD).

    It is small where all passes give the same probabilities, be they sure of a class or not, and large where
    each is sure of another: there a label would teach the network most.

    Parameters
    ----------
    samples : array_like
        Probabilities of each pass, along the first axis, as `mc_predict` returns them with `keep_samples`;
        otherwise as `predictive_entropy` takes them.
    axis : int or sequence of int, default -1
        Along which the classes lie; not the first.

    Returns
    -------
    ndarray of float64
        The entropy of the mean over the passes less the mean of their entropies, of the shape of one pass
        without the axis of the classes. It is at least 0, and at most the logarithm of the number of classes.
        Few passes give too little on average, since the entropy is concave: one gives 0.

    Raises
    ------
    TypeError
        If samples are not real floats.
    ValueError
        As `predictive_entropy`, or if there is no pass, or an axis of classes is the first.

    References
    ----------
    Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", arXiv 1112.5745;
    Gal, "Uncertainty in Deep Learning", thesis, Cambridge 2016, section 3.3.1.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> agree = [[0.5, 0.5], [0.5, 0.5]]  # two passes, both of which are unsure
    >>> differ = [[1.0, 0.0], [0.0, 1.0]]  # each is sure, of another class
    >>> fd.mutual_information(np.stack([agree, differ], axis=1)).round(3)
    array([0.   , 0.693])

    By `mc_predict`, whose passes are those of one key:

    >>> def classify(x, key):
    ...     scores = np.exp(fd.dropout(x, 0.5, key))
    ...     return scores / scores.sum(axis=-1, keepdims=True)
    >>> found = fd.mc_predict(classify, np.eye(2), 400, fd.Key(42), keep_samples=True)
    >>> fd.predictive_entropy(found.mean).round(3), fd.mutual_information(found.samples).round(3)
    (array([0.609, 0.623]), array([0.09 , 0.089]))
    """
    p, axes = _probabilities("mutual_information", "samples", samples, axis)
    if 0 in axes or not len(p):
        got = f"shape {p.shape} and axis {axis}"
        raise ValueError(f"samples must have passes along the first axis, and classes not there, got {got}")
    of_mean = _entropy(p.mean(0), tuple(each - 1 for each in axes))
    # Rounding may bring the difference below 0.
    return np.asarray(np.maximum(of_mean - _entropy(p, axes).mean(0), 0.0))


def predictive_log_likelihood(
    f: StochasticPass,
    x: Any,
    y: ArrayLike,
    tau: float,
    n: SupportsIndex,
    key: Key | SupportsIndex,
    *,
    axis: Axes = (),
    antithetic: bool = False,
    threads: SupportsIndex = 1,
    progress: bool = False,
) -> NDArray[np.float64]:
    """Return the logarithm of the density that n stochastic passes give to observations y.

    Each pass predicts a normal about its output; the density is the mean of theirs. Where classes are
    predicted, it is the logarithm of the mean that `mc_predict` finds for the label's probability.

    Parameters
    ----------
    f, x, n, key, antithetic, threads, progress
        As in `mc_predict`; the same sub-networks under the same key.
    y : array_like of real numbers
        Observations, of the shape that f returns.
    tau : float
        Precision of an observation, 1 / its variance; above 0 and finite.
    axis : int or tuple of int, default ()
        Axes along which the elements of y are one joint observation, such as the outputs of one example.

    Returns
    -------
    ndarray of float64
        ``logsumexp_t(-tau / 2 * (y - f_t)**2) - log n - log(2 pi) / 2 + log(tau) / 2`` for each observation,
        of y's shape without the axes. Memory does not depend on n.

    Raises
    ------
    TypeError, ValueError, ImportError
        As `mc_predict`, or if y is not real, tau not above 0, an axis out of range, or f's output has
        another shape than y.

    References
    ----------
    Gal, Ghahramani, "Dropout as a Bayesian Approximation", arXiv 1506.02142, section 4.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> def noisy(x, key):
    ...     return fd.gaussian_noise(x, 1.0, key)
    >>> y = np.array([0.0, 3.0])
    >>> fd.predictive_log_likelihood(noisy, np.zeros(2), y, 4.0, 1000, fd.Key(42)).round(2)
    array([-1.03, -4.75])

    The exact one, of a normal of variance 1 + 1 / tau:

    >>> (-0.5 * y**2 / 1.25 - 0.5 * np.log(2 * np.pi * 1.25)).round(2)
    array([-1.03, -4.63])
    """
    y, tau = _real("y must be", y), positive("tau", tau)
    total: Any = -np.inf
    for output in _outputs(f, x, n, key, antithetic, threads, progress, y.shape):
        densities = np.log(tau / (2 * np.pi)) - tau * np.square(np.subtract(y, output, dtype=np.float64))
        total = np.logaddexp(total, 0.5 * np.sum(densities, axis))
    return np.asarray(total - np.log(natural("n", n)))


def _entropy(p: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Return ``-sum(p * log(p))`` over the axes, and 0 where p is rounded so that it is below."""
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.asarray(np.maximum(0.0 - (p * logs).sum(axes), 0.0))


def _probabilities(
    function: str, name: str, values: ArrayLike, axis: Axes
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Return a function's probabilities as float64 and the axes of their classes, or raise an error."""
    if values is None and name == "samples":
        raise TypeError("samples must be an array, got None; use mc_predict with keep_samples=True")
    if isinstance(values, Prediction):
        part = "samples" if name == "samples" else "mean"
        raise TypeError(f"{name} must be an array, got a Prediction; use its {part}")
    refuse_foreign(values, elsewhere=False)
    p = real_array(values, function, name).astype(np.float64)
    axes = tuple(axes_in(axis, p.ndim, "axis"))
    wrong = p[~((p >= 0) & (p <= 1 + _OFF_ONE))]
    if wrong.size:
        raise ValueError(f"probabilities must be in [0, 1], got {wrong[0]}; use a softmax of logits")
    sums = p.sum(axes)
    off = sums[np.abs(sums - 1) > _OFF_ONE]
    if off.size:
        raise ValueError(f"probabilities must sum to 1 along axis {axis}, got {off[0]}; use another axis")
    return p, axes


class _RunningMoments:
    """The mean and the variance of arrays that come one by one (Welford's method)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: NDArray[np.float64] = np.empty(0)

    def add(self, value: NDArray[Any]) -> None:
        if self.n == 0:
            self.mean, self._squares, self._step = (np.zeros(value.shape) for _ in range(3))
        self.n += 1
        step = np.subtract(value, self.mean, out=self._step, dtype=np.float64)
        self.mean += step / self.n
        step *= step
        step *= 1 - 1 / self.n
        self._squares += step

    def variance(self) -> NDArray[np.float64]:
        if self.n == 1:
            return np.full_like(self.mean, np.nan)
        return np.asarray(self._squares / (self.n - 1))


def _outputs(
    f: StochasticPass,
    x: Any,
    n: SupportsIndex,
    key: Key | SupportsIndex,
    antithetic: bool,
    threads: SupportsIndex,
    progress: bool,
    shape: tuple[int, ...] | None = None,
) -> Iterator[NDArray[Any]]:
    """Yield the output of each sample, in order. All are checked to be real and of one shape."""
    if not callable(f):
        raise TypeError(f"f must be callable, got {type(f).__name__}; give f first, then x")
    n, threads, key = natural("n", n), natural("threads", threads), as_key_or_seed(key)
    antithetic, progress = flag("antithetic", antithetic), flag("progress", progress)
    for name, number in (("n", n), ("threads", threads)):
        if number == 0:
            raise ValueError(f"{name} must be at least 1, got 0")
    if antithetic and n % 2:
        raise ValueError(f"n must be even for antithetic pairs, got {n}; use {n + 1}")
    used = set[bool]()
    results = _in_order(f, x, _keys(key, n, antithetic, used), threads)
    first: Any = None  # of outputs that are all equal, if no key was used
    for number, result in enumerate(_with_bar(results, n) if progress else results):
        output = _real("f must return", result)
        shape = output.shape if shape is None else shape
        if output.shape != shape:
            raise ValueError(f"f must return the shape {shape} for every key, got {output.shape}")
        if number == 0 and not used:
            first = output.copy()
        elif first is not None and (used or not np.array_equal(first, output)):
            first = None
        yield output
    if n > 1 and first is not None:
        warnings.warn(_IGNORED.format(n=n), stacklevel=3)


_IGNORED = (
    "f ignored its key, and all {n} passes are equal; give it to the noise, as in fd.dropout(x, p, key), "
    "or set layer.key = key.fold_in(number) and call layer(x, training=True)"
)


class _Watched(Key):
    """A key that notes whether f looks at it."""

    __slots__ = ("_used",)

    def __init__(self, key: Key, used: set[bool]) -> None:
        super().__init__(key.seed, key.draw)
        object.__setattr__(self, "_used", used)

    def __getattribute__(self, name: str) -> Any:
        object.__getattribute__(self, "_used").add(True)
        return object.__getattribute__(self, name)


def _keys(key: Key, n: int, antithetic: bool, used: set[bool]) -> Iterator[Key]:
    """Yield the key of each sample, and have f watched until it uses one."""
    for s in range(n // 2 if antithetic else n):
        own = key.fold_in(s)
        for each in (own, own.antithetic()) if antithetic else (own,):
            yield each if used else _Watched(each, used)


def _in_order(f: StochasticPass, x: Any, keys: Iterable[Key], threads: int) -> Iterator[ArrayLike]:
    """Yield f's results in the order of the keys. At most `threads` passes run or wait to be taken.

    joblib does not do here: it runs ahead without a bound while the first result is awaited, and a call of
    it for each `threads` keys took 10 ms, which is longer than many a pass.
    """
    if threads == 1:
        yield from (f(x, key) for key in keys)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads, thread_name_prefix="fastdrop-mc") as pool:
        # Each pass runs in a copy of the caller's context, which holds np.errstate.
        calls = (pool.submit(copy_context().run, f, x, key) for key in keys)
        waiting = deque(islice(calls, threads))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(islice(calls, 1))
            yield result


def _with_bar(results: Iterator[ArrayLike], n: int) -> Iterable[ArrayLike]:
    """The same results, while a bar of tqdm counts them."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm; use pip install tqdm") from None
    bar: Iterable[ArrayLike] = tqdm(results, total=n, unit=" samples")
    return bar


def _real(what: str, value: ArrayLike) -> NDArray[Any]:
    """The value as an array of real numbers; `what` begins the error's sentence."""
    array = np.asarray(value)
    if not np.can_cast(array.dtype, np.float64):
        got = "None" if value is None else f"{array.dtype}; use float64"
        raise TypeError(f"{what} real numbers, got {got}")
    return array
