"""Monte-Carlo passes against two-pass sums, exact moments and densities, and the keys that they get."""

import pickle
import re
import sys
import threading
import time
import tracemalloc
from collections import Counter

import ml_dtypes
import numpy as np
import pytest
from arrays import frozen, normal, same_bits
from scipy import stats
from scipy.special import logsumexp

import fastdrop as fd
from fastdrop._training.monte_carlo import (
    mc_predict,
    mutual_information,
    predictive_entropy,
    predictive_log_likelihood,
)

KEY = fd.Key(5)
X = frozen(normal(7, 3, dtype=np.float64))
TINY = 1e-6


def noisy(x, key):
    return fd.gaussian_noise(x, 1.0, key)


def all_samples(f, x, n, key=KEY):
    return np.stack([np.asarray(f(x, key.fold_in(s)), np.float64) for s in range(n)])


@pytest.mark.parametrize("offset", [0, 1e6, -1e9])
@pytest.mark.parametrize("n", [2, 3, 100])
def test_mean_and_variance_of_two_passes(offset, n):
    found = mc_predict(noisy, X + offset, n, KEY)
    samples = all_samples(noisy, X + offset, n)
    np.testing.assert_allclose(found.mean, samples.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.variance, samples.var(0, ddof=1), rtol=TINY)
    np.testing.assert_allclose(found.standard_error, samples.std(0, ddof=1) / np.sqrt(n), rtol=TINY)
    assert found.n == n


def test_a_large_offset_would_break_the_difference_of_squares():
    samples = all_samples(noisy, X + 1e6, 100)
    difference = np.square(samples).mean(0) - samples.mean(0) ** 2
    assert np.abs(difference * 100 / 99 / samples.var(0, ddof=1) - 1).max() > 10 * TINY


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_sums_are_of_float64(dtype):
    x = X.astype(dtype)
    found = mc_predict(noisy, x, 50, KEY)
    samples = all_samples(noisy, x, 50)
    assert {a.dtype for a in found[:3]} == {np.dtype(np.float64)}
    np.testing.assert_allclose(found.mean, samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, samples.var(0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("x", [np.ones(()), np.ones(0), np.ones((2, 0, 3)), X.T, X[::2, ::-1]])
def test_shapes(x):
    found = mc_predict(noisy, x, 4, KEY)
    samples = all_samples(noisy, x, 4)
    assert {type(a) for a in found[:3]} == {np.ndarray}
    assert {a.shape for a in found[:3]} == {x.shape}
    np.testing.assert_allclose(found.variance, samples.var(0, ddof=1), rtol=TINY)


def test_counts_numbers_and_truths_are_taken():
    def coin(x, key):
        return fd.keep_mask(1000, 0.25, key)

    found = mc_predict(coin, None, 40, KEY)
    total = all_samples(coin, None, 40).sum(0)
    np.testing.assert_allclose(found.mean, total / 40, rtol=1e-14)
    np.testing.assert_allclose(found.variance, total * (1 - total / 40) / 39, rtol=1e-12)
    assert mc_predict(lambda x, key: x + key.seed % 2, 3, 8, KEY).mean.shape == ()


def test_one_sample_has_no_variance():
    found = mc_predict(noisy, X, 1, KEY)
    assert np.array_equal(found.mean, noisy(X, KEY.fold_in(0)))
    assert np.isnan(found.variance).all()
    assert np.isnan(found.standard_error).all()
    pair = mc_predict(noisy, X, 2, KEY, antithetic=True)
    assert np.isfinite(pair.variance).all()
    assert np.isnan(pair.standard_error).all()


def keys_of(n, **options):
    seen = []
    mc_predict(lambda x, key: seen.append(key) or key.draw, None, n, KEY, **options)
    return seen


def test_a_sample_number_is_a_sub_network():
    assert keys_of(1000) == [KEY.fold_in(s) for s in range(1000)]
    assert len(set(keys_of(1000))) == 1000
    pairs = keys_of(10, antithetic=True)
    assert pairs[::2] == [KEY.fold_in(s) for s in range(5)]
    assert pairs[1::2] == [KEY.fold_in(s).antithetic() for s in range(5)]
    assert keys_of(6, antithetic=True) == pairs[:6]
    assert Counter(keys_of(50, threads=3)) == Counter(keys_of(50))
    assert same_bits(mc_predict(noisy, X, 9, 5).mean, mc_predict(noisy, X, 9, fd.Key(5)).mean)


def test_a_shared_mask_is_one_sub_network_for_all_rows():
    def predicted(rows, shared_axes):
        def call(x, key):
            return fd.dropout(x, 0.5, key, shared_axes=shared_axes)

        return mc_predict(call, rows, 10, KEY).variance

    x = X + 10
    assert same_bits(predicted(x[3:5], 0), predicted(x, 0)[3:5])
    assert not np.array_equal(predicted(x[3:5], ()), predicted(x, ())[3:5])


def layers_pass(layers):
    def call(x, key):
        for number, layer in enumerate(layers):
            layer.key = key.fold_in(number)
        return layers[1](np.tanh(layers[0](x, training=True)), training=True)

    return call


@pytest.mark.parametrize("antithetic", [False, True])
def test_layers_do_as_functions(antithetic):
    def call(x, key):
        hidden = np.tanh(fd.dropout(x, 0.3, key.fold_in(0)))
        return fd.gaussian_dropout(hidden, 0.2, key.fold_in(1))

    layers = [fd.Dropout(0.3).eval(), fd.GaussianDropout(0.2).eval()]
    by_layers, by_functions = (
        mc_predict(f, X, 20, KEY, antithetic=antithetic) for f in (layers_pass(layers), call)
    )
    assert all(same_bits(a, b) for a, b in zip(by_layers[:3], by_functions[:3], strict=True))


def test_an_output_may_be_one_buffer():
    buffer = np.empty_like(X)

    def in_place(x, key):
        return fd.gaussian_noise(x, 1.0, key, out=buffer)

    for antithetic in (False, True):
        one, other = (mc_predict(f, X, 10, KEY, antithetic=antithetic) for f in (noisy, in_place))
        assert all(same_bits(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def in_any_order(x, key):
    """Later samples often end before earlier ones."""
    time.sleep(key.seed % 4 * 1e-3)
    return noisy(x, key)


@pytest.mark.parametrize("antithetic", [False, True])
def test_threads_give_the_same_bits(antithetic):
    serial = mc_predict(noisy, X, 40, KEY, antithetic=antithetic)
    likely = predictive_log_likelihood(noisy, X, X, 2.0, 40, KEY, antithetic=antithetic)
    for threads in (2, 3, 8, 64):
        options = {"antithetic": antithetic, "threads": threads}
        found = mc_predict(in_any_order, X, 40, KEY, **options)
        assert all(same_bits(a, b) for a, b in zip(found[:3], serial[:3], strict=True))
        assert same_bits(predictive_log_likelihood(in_any_order, X, X, 2.0, 40, KEY, **options), likely)


def test_threads_do_not_run_ahead():
    begun, first_may_end = [], threading.Event()

    def call(x, key):
        begun.append(key)
        if key == KEY.fold_in(0):
            first_may_end.wait(10)
        return 0.0

    run = threading.Thread(target=mc_predict, args=(call, None, 100, KEY), kwargs={"threads": 4})
    run.start()
    while len(begun) < 4:
        time.sleep(0.001)
    time.sleep(0.1)
    assert len(begun) == 4  # while the first is under way
    first_may_end.set()
    run.join()
    assert len(begun) == 100


def test_threads_run_at_once_and_in_the_callers_context():
    together = threading.Barrier(2, timeout=10)

    def call(x, key):
        together.wait()
        np.log(x)
        return x * key.draw

    with np.errstate(divide="ignore"):  # else a warning, and here an error
        assert mc_predict(call, 0.0, 8, KEY, threads=2).n == 8


def test_an_error_in_a_thread_comes_out():
    def call(x, key):
        if key == KEY.fold_in(5):
            raise ZeroDivisionError("sample 5")
        return 0.0

    for threads in (1, 3):
        with pytest.raises(ZeroDivisionError, match="sample 5"):
            mc_predict(call, None, 1000, KEY, threads=threads)
    assert not [thread for thread in threading.enumerate() if "fastdrop-mc" in thread.name]


IGNORES = {
    "nothing random": lambda x, key: x + 1,
    "the same key always": lambda x, key: fd.dropout(x, 0.5, fd.Key(3)),
    "a layer in evaluation": lambda x, key: fd.Dropout(0.5, rng=3).eval()(x),
    "the key is kept and not used": lambda x, key: [x, key][0] * 2,
}


@pytest.mark.parametrize("options", [{}, {"antithetic": True}, {"threads": 3}, {"progress": True}], ids=str)
@pytest.mark.parametrize("f", IGNORES.values(), ids=IGNORES)
def test_a_function_that_ignores_its_key_is_warned_of(f, options):
    if "progress" in options:
        pytest.importorskip("tqdm")
    with pytest.warns(
        UserWarning, match=r"f ignored its key, and all 6 passes are equal; .*layer\.key"
    ) as found:
        mc_predict(f, X, 6, KEY, **options)
    assert [each.filename for each in found] == [__file__]
    with pytest.warns(UserWarning, match="f ignored its key") as found:
        predictive_log_likelihood(f, X, X, 1.0, 6, KEY, **options)
    assert [each.filename for each in found] == [__file__]


LAYER, SHARED = fd.Dropout(0.5), np.zeros(3)


def evaluates(x, key):
    LAYER.key = key
    return LAYER(x, training=False)


def late_user(x, key):
    """Uses its key in the last pass only."""
    late_user.calls += 1
    return x + (key.draw if late_user.calls == 6 else 0)


def hidden_state(x, key):
    """Ignores its key, but its passes differ."""
    return LAYER(x, training=True)


def same_memory(x, key):
    """Writes each output to the memory of the former one, which must not be compared with itself."""
    SHARED[:] += 1
    return SHARED


USES = {
    "p = 0": lambda x, key: fd.dropout(x, 0.0, key),
    "p = 1": lambda x, key: fd.dropout(x, 1.0, key),
    "zeros": lambda x, key: fd.dropout(x * 0, 0.5, key),
    "std = 0": lambda x, key: fd.gaussian_noise(x, 0.0, key),
    "a layer's key in evaluation": evaluates,
    "a reseeded layer in evaluation": lambda x, key: LAYER.reseed(key).eval()(x, training=False),
    "keys folded for layers of p = 0": lambda x, key: fd.dropout(x, 0, key.fold_in("layer")),
    "keys split for layers that are not there": lambda x, key: x + len(key.split(0)),
    "a hash": lambda x, key: {key: x}[key],
    "late": late_user,
    "another state": hidden_state,
    "one memory": same_memory,
}


@pytest.mark.parametrize("options", [{}, {"antithetic": True}, {"threads": 2}], ids=str)
@pytest.mark.parametrize("f", USES.values(), ids=USES)
def test_no_false_alarm(f, options):
    late_user.calls = 0
    mc_predict(f, X, 6, KEY, **options)
    mc_predict(IGNORES["nothing random"], X, 1, KEY)  # of one pass nothing can be said


def test_keys_that_are_watched_are_keys_like_others():
    keys = []
    with pytest.warns(UserWarning, match="f ignored its key"):
        mc_predict(lambda x, key: keys.append(key) or 0.0, None, 2, KEY)
    first, plain = keys[0], KEY.fold_in(0)
    assert isinstance(first, fd.Key)
    assert first == plain
    assert plain == first
    assert (hash(first), repr(first)) == (hash(plain), repr(plain))
    assert first.fold_in(1) == plain.fold_in(1)
    assert type(first.next()) is type(pickle.loads(pickle.dumps(first))) is fd.Key
    assert same_bits(fd.dropout(X, 0.5, first), fd.dropout(X, 0.5, plain))
    layer = fd.Dropout(0.5, rng=first)
    layer.key = first
    assert type(layer.key) is fd.Key


def peak(call):
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_does_not_grow_with_n(threads):
    x = np.ones(100_000, np.float32)
    calls = (
        lambda n: mc_predict(noisy, x, n, KEY, threads=threads),
        lambda n: mc_predict(noisy, x, n, KEY, threads=threads, antithetic=True),
        lambda n: predictive_log_likelihood(noisy, x, x, 1.0, n, KEY, threads=threads),
    )
    for call in calls:
        call(2)  # what is loaded or compiled once
        few, many = (peak(lambda n=n, call=call: call(n)) for n in (10, 200))
        # what a second thread holds beside the first is chance: its pass and its result
        assert many < few + (1 + 2 * (threads - 1)) * x.nbytes
        assert few < (20 + 2 * threads) * x.nbytes
    assert peak(lambda: all_samples(noisy, x, 50)) > 50 * x.nbytes  # the measure sees an array of samples


WEIGHTS = np.linspace(0.1, 1, 20)


def rising(x, key):
    """Rises with every uniform of the mask."""
    return np.exp(fd.dropout(WEIGHTS, 0.5, key).sum() / 10)


def even(x, key):
    """Is the same for a mask and its mirror."""
    return (fd.dropout(WEIGHTS, 0.5, key) - WEIGHTS).sum() ** 2


def errors(f, antithetic, n=10, repeats=1000):
    keys = (fd.Key(s, draw=int(antithetic)) for s in range(repeats))
    found = [mc_predict(f, None, n, key, antithetic=antithetic) for key in keys]
    return np.array([result.mean for result in found]), found


def p_of_smaller(one, other):
    """How likely the first's variance would be so small beside the second's, were they equal normals'."""
    ratio = one.var(ddof=1) / other.var(ddof=1)
    return stats.f.cdf(ratio, len(one) - 1, len(other) - 1)


def test_antithetic_pairs_help_what_is_monotonic_and_nothing_else():
    pairs, alone = errors(rising, True)[0], errors(rising, False)[0]
    assert p_of_smaller(pairs, alone) < 1e-6
    error = np.hypot(pairs.std(), alone.std()) / np.sqrt(len(alone))
    assert pairs.mean() == pytest.approx(alone.mean(), abs=5 * error)
    pairs, alone = errors(even, True)[0], errors(even, False)[0]
    assert p_of_smaller(pairs, alone) > 1 - 1e-6  # five samples where there seem to be ten


@pytest.mark.parametrize("f", [rising, even])
@pytest.mark.parametrize("antithetic", [False, True])
def test_the_standard_error_is_the_means(f, antithetic):
    means, found = errors(f, antithetic)
    said = np.mean([result.standard_error**2 for result in found])
    naive = np.mean([result.variance / result.n for result in found])
    assert 0.8 < said / means.var(ddof=1) < 1.25  # their standard error is about .05
    assert (0.8 < naive / means.var(ddof=1) < 1.25) != antithetic


def test_the_standard_error_of_pairs_is_that_of_their_means():
    def cubed(x, key):
        return noisy(x, key) ** 3

    samples = np.array([cubed(X, key) for key in keys_of(12, antithetic=True)])
    means = samples.reshape(6, 2, *X.shape).mean(1)
    found = mc_predict(cubed, X, 12, KEY, antithetic=True)
    np.testing.assert_allclose(found.variance, samples.var(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(found.standard_error, means.std(0, ddof=1) / np.sqrt(6), rtol=1e-12)
    linear = mc_predict(noisy, X, 12, KEY, antithetic=True)
    assert linear.standard_error.max() < 1e-15 < linear.variance.min()


def test_mean_and_variance_are_the_noises():
    x = np.linspace(-2, 2, 50)
    found = mc_predict(lambda x, key: fd.dropout(x, 0.3, key), x, 4000, KEY)
    exact = fd.moments.dropout(0.3, x)
    assert np.abs((found.mean - exact.mean) / found.standard_error).max() < 5
    spread = exact.variance * np.sqrt((exact.kurtosis + 2) / 4000)  # of a variance over 4000 samples
    assert np.abs((found.variance - exact.variance) / spread).max() < 5


def test_the_same_keys_compare_better():
    def at(p, x, key):
        return np.tanh(fd.dropout(WEIGHTS, p, key).sum() / 10)

    same = mc_predict(lambda x, key: at(0.5, x, key) - at(0.4, x, key), None, 300, KEY)
    apart = mc_predict(lambda x, key: at(0.5, x, key) - at(0.4, x, key.fold_in(1)), None, 300, KEY)
    assert same.standard_error < 0.8 * apart.standard_error
    assert abs(same.mean - apart.mean) < 5 * np.hypot(same.standard_error, apart.standard_error)


@pytest.mark.parametrize("tau", [0.1, 1, np.float32(30)])
@pytest.mark.parametrize("offset", [0, 300])  # whose densities underflow
def test_likelihood_is_its_formula(tau, offset):
    y = X + offset
    found = predictive_log_likelihood(noisy, X, y, tau, 60, KEY)
    squares, tau = np.square(y - all_samples(noisy, X, 60)), float(tau)
    exact = logsumexp(-tau / 2 * squares, axis=0) - np.log(60) + 0.5 * np.log(tau / (2 * np.pi))
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    assert found.dtype == np.float64
    joint = predictive_log_likelihood(noisy, X, y, tau, 60, KEY, axis=-1)
    exact = logsumexp(-tau / 2 * squares.sum(2), axis=0) - np.log(60) + 1.5 * np.log(tau / (2 * np.pi))
    np.testing.assert_allclose(joint, exact, rtol=1e-12)
    assert predictive_log_likelihood(noisy, X, y, tau, 60, KEY, axis=(0, 1)).shape == ()


def test_likelihood_of_one_pass_is_a_normals():
    found = predictive_log_likelihood(lambda x, key: x + key.draw, 1.0, 3.0, 0.25, 7, KEY)
    assert float(found) == pytest.approx(stats.norm.logpdf(3.0, 1.0, 2.0), rel=1e-12)


def test_likelihood_nears_the_exact_one():
    """Normal outputs and normal noise: the density of a normal of both variances, the mean by its error."""
    y = np.linspace(-3, 3, 30)
    found = predictive_log_likelihood(noisy, np.zeros(30), y, 4.0, 5000, KEY)
    exact = stats.norm.pdf(y, 0, np.sqrt(1 + 1 / 4))
    # E[density^2] of a normal about a normal, by hand: sqrt(tau / (4 pi)) * N(y; 0, 1 + 1 / (2 tau))
    second = np.sqrt(4 / (4 * np.pi)) * stats.norm.pdf(y, 0, np.sqrt(1 + 1 / 8))
    errors = np.sqrt((second - exact**2) / 5000)
    assert np.abs((np.exp(found) - exact) / errors).max() < 5
    wrong = stats.norm.pdf(y, 0, 1)  # without the observations' variance
    assert np.abs((np.exp(found) - wrong) / errors).max() > 10


@pytest.mark.parametrize("options", [{}, {"antithetic": True}, {"threads": 3}], ids=str)
def test_samples_are_kept_on_request(options):
    assert mc_predict(noisy, X, 6, KEY, **options).samples is None
    buffer = np.empty_like(X)

    def in_place(x, key):
        return fd.gaussian_noise(x, 1.0, key, out=buffer)

    f = noisy if "threads" in options else in_place
    found = mc_predict(f, X, 6, KEY, keep_samples=True, **options)
    keys = keys_of(6, antithetic="antithetic" in options)
    assert same_bits(found.samples, np.stack([noisy(X, key) for key in keys]))
    without = mc_predict(noisy, X, 6, KEY, **options)
    assert all(same_bits(a, b) for a, b in zip(found[:3], without[:3], strict=True))


@pytest.mark.parametrize("dtype", [np.bool_, np.float16, ml_dtypes.bfloat16, np.float32])
def test_samples_are_of_float64(dtype):
    def cast(x, key):
        return noisy(x, key).astype(dtype)

    found = mc_predict(cast, X, 3, KEY, keep_samples=True)
    assert same_bits(found.samples, all_samples(cast, X, 3))
    assert mc_predict(noisy, np.ones(()), 1, KEY, keep_samples=True).samples.shape == (1,)


REAL = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def probabilities(*shape, axis=-1, dtype=np.float64):
    """Random probabilities, some of which are 0 or 1."""
    scores = np.exp(3 * normal(*shape, dtype=np.float64))
    scores[np.abs(normal(*shape, dtype=np.float64, seed=1)) < 0.5] = 0
    first = np.zeros(shape, np.bool_)
    first[(slice(None),) * (axis % len(shape)) + (0,)] = True
    scores[first & (scores.sum(axis, keepdims=True) == 0)] = 1
    return frozen((scores / scores.sum(axis, keepdims=True)).astype(dtype))


def naive_entropy(p):
    """Of the probabilities in one list."""
    return -sum(each * np.log(each) for each in map(float, p) if each > 0)


@pytest.mark.parametrize("dtype", REAL)
def test_entropy_by_its_sum(dtype):
    p = probabilities(6, 40, 5, dtype=dtype)
    assert (p == 0).any()
    assert (p == 1).any()
    found = predictive_entropy(p)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.apply_along_axis(naive_entropy, -1, p), rtol=1e-12, atol=1e-15)
    assert same_bits(predictive_entropy(np.moveaxis(p, -1, 1), axis=1), found)
    assert same_bits(predictive_entropy(p.reshape(6, 40, 5, 1), axis=(2, -1)), found)
    np.testing.assert_allclose(found, stats.entropy(p.astype(np.float64), axis=-1), atol=0.05)


@pytest.mark.parametrize("dtype", REAL)
def test_mutual_information_by_its_definition(dtype):
    """The mean divergence of a pass from the mean of all."""
    samples = probabilities(6, 40, 5, dtype=dtype)
    p, mean = samples.astype(np.float64), samples.mean(0, dtype=np.float64)
    ratio = np.divide(p, mean, out=np.ones_like(p), where=p > 0)
    divergence = (p * np.log(ratio)).sum(-1).mean(0)
    found = mutual_information(samples)
    np.testing.assert_allclose(found, divergence, rtol=1e-12, atol=1e-14)
    assert same_bits(mutual_information(np.moveaxis(samples, -1, 1), axis=1), found)
    entropies = np.apply_along_axis(naive_entropy, -1, samples)
    naive = np.apply_along_axis(naive_entropy, -1, mean) - entropies.mean(0)
    np.testing.assert_allclose(found, naive, rtol=1e-12, atol=1e-14)


def test_extremes_of_entropy_and_information():
    sure, even = np.eye(4), np.full((4, 4), 0.25)
    assert same_bits(predictive_entropy(sure), np.zeros(4))  # no -0 among them
    np.testing.assert_allclose(predictive_entropy(even), np.log(4))
    np.testing.assert_allclose(mutual_information(sure), np.log(4))
    assert same_bits(mutual_information(even), np.zeros(()))
    assert same_bits(mutual_information(probabilities(1, 40, 5)), np.zeros(40))  # of one pass
    above = np.array([[1 + 2.0**-23, 0]], np.float32)  # as the rounding of a softmax may have it
    assert same_bits(predictive_entropy(above), np.zeros(1))
    alike = np.repeat(probabilities(1, 1000, 7), 3, 0)
    assert 0 <= mutual_information(alike).min() <= mutual_information(alike).max() < 1e-14
    assert predictive_entropy(np.ones((0, 3)) / 3).shape == (0,)


def test_information_of_passes_is_that_of_their_entropies():
    def classify(x, key):
        scores = np.exp(fd.dropout(x, 0.5, key))
        return scores / scores.sum(-1, keepdims=True)

    found = mc_predict(classify, X, 50, KEY, keep_samples=True)
    entropies = mc_predict(lambda x, key: predictive_entropy(classify(x, key)), X, 50, KEY)
    information = mutual_information(found.samples)
    np.testing.assert_allclose(information, predictive_entropy(found.mean) - entropies.mean, rtol=1e-9)
    assert (information > 0.01).all()


def test_a_bar_on_request(capsys):
    mc_predict(noisy, X, 12, KEY)
    assert capsys.readouterr().err == ""
    with_bar = mc_predict(noisy, X, 12, KEY, progress=True, threads=2)
    assert "12/12" in capsys.readouterr().err
    assert same_bits(with_bar.mean, mc_predict(noisy, X, 12, KEY).mean)
    predictive_log_likelihood(noisy, X, X, 1.0, 3, KEY, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_a_bar_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert len(keys_of(3)) == 3
    with pytest.raises(ImportError, match="progress=True needs tqdm; use pip install tqdm"):
        keys_of(3, progress=True)


def changing(x, key):
    return np.ones(3 if key == KEY.fold_in(0) else 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: keys_of(0), ValueError, "n must be at least 1, got 0"),
        (lambda: keys_of(-1), ValueError, "n must be >= 0, got -1"),
        (lambda: keys_of(1.5), TypeError, "n must be an integer, got float"),
        (lambda: keys_of(3, threads=0), ValueError, "threads must be at least 1, got 0"),
        (lambda: keys_of(3, threads="2"), TypeError, "threads must be an integer, got str"),
        (
            lambda: keys_of(3, antithetic=True),
            ValueError,
            "n must be even for antithetic pairs, got 3; use 4",
        ),
        (lambda: keys_of(3, keep_samples=1), TypeError, "keep_samples must be True or False, got 1"),
        (lambda: predictive_entropy(X), ValueError, r"must be in \[0, 1\], got .*; use a softmax of logits"),
        (lambda: predictive_entropy([np.nan, 1.0]), ValueError, r"must be in \[0, 1\], got nan"),
        (
            lambda: predictive_entropy([[0.5, 0.5], [0.5, 0.4]]),
            ValueError,
            "sum to 1 along axis -1, got 0.9; use another",
        ),
        (lambda: predictive_entropy([]), ValueError, "sum to 1 along axis -1, got 0.0"),
        (lambda: predictive_entropy([1.0], axis=1), ValueError, r"axis must be in \[-1, 1\)"),
        (lambda: predictive_entropy(1.0), ValueError, r"axis must be in \[-0, 0\) for an array of 0 axes"),
        (
            lambda: predictive_entropy([1, 0]),
            TypeError,
            r"^probabilities must be of .*, got int64; use np\.array\(probabilities, np\.float32\)$",
        ),
        (
            lambda: predictive_entropy(mc_predict(noisy, X, 2, KEY)),
            TypeError,
            "^probabilities must be an array, got a Prediction; use its mean$",
        ),
        (
            lambda: mutual_information(mc_predict(noisy, X, 2, KEY)),
            TypeError,
            "^samples must be an array, got a Prediction; use its samples$",
        ),
        (
            lambda: predictive_entropy([1j]),
            TypeError,
            "entropy needs real numbers, got complex128",
        ),
        (
            lambda: mutual_information(None),
            TypeError,
            "^samples must be an array, got None; use mc_predict with keep_samples=True$",
        ),
        (
            lambda: mutual_information([0.5, 0.5]),
            ValueError,
            r"passes along the first axis, .* got shape \(2,\) and axis -1",
        ),
        (lambda: mutual_information(np.ones((0, 3))), ValueError, r"got shape \(0, 3\)"),
        (lambda: mc_predict(noisy, X, 3, None), TypeError, "key must be a fastdrop.Key or an int"),
        (lambda: mc_predict(noisy, X * 1j, 3, KEY), TypeError, "f must return real numbers, got complex128"),
        (lambda: mc_predict(lambda x, key: "1", X, 3, KEY), TypeError, "f must return real numbers, got <U1"),
        (
            lambda: mc_predict(X, noisy, 3, KEY),
            TypeError,
            "^f must be callable, got ndarray; give f first, then x$",
        ),
        (lambda: mc_predict(lambda x, key: None, X, 3, KEY), TypeError, "numbers, got None$"),
        (
            lambda: mc_predict(changing, X, 3, KEY),
            ValueError,
            r"f must return the shape \(3,\) for every key, got \(1,\)",
        ),
        (
            lambda: predictive_log_likelihood(noisy, X, X[:, :1], 1.0, 3, KEY),
            ValueError,
            r"f must return the shape \(7, 1\) for every key, got \(7, 3\)",
        ),
        (
            lambda: predictive_log_likelihood(noisy, X, X * 1j, 1.0, 3, KEY),
            TypeError,
            "y must be real numbers, got complex128",
        ),
        (lambda: predictive_log_likelihood(noisy, X, X, 0.0, 3, KEY), ValueError, "tau must be above 0"),
        (lambda: predictive_log_likelihood(noisy, X, X, X, 3, KEY), TypeError, "tau must be a real number"),
        (lambda: predictive_log_likelihood(noisy, X, X, 1.0, 0, KEY), ValueError, "n must be at least 1"),
        (
            lambda: predictive_log_likelihood(noisy, X, X, 1.0, 3, KEY, axis=2),
            ValueError,
            "axis 2 is out of bounds",
        ),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("function", [predictive_entropy, mutual_information])
@pytest.mark.parametrize(
    ("package", "fix"), [("torch", "x.numpy(force=True) without a gradient"), ("dask.array", "x.compute()")]
)
def test_probabilities_of_other_packages_become_arrays(function, package, fix):
    other = pytest.importorskip(package).ones((2, 2))
    with pytest.raises(TypeError, match=f"; use {re.escape(fix)}$"):
        function(other)
