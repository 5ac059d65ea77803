"""The parts of the example networks: gradients, and what layers, optimisers and data promise."""

import numpy as np
import pytest
from gradients import central_differences, check_gradients

import fastdrop as fd

torch = pytest.importorskip("torch")
KEY = fd.Key(5)


@pytest.fixture
def parts(example):
    return example("parts")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def check_layer(layer, x, g):
    """Compare the gradient of x, and those of parameters, with central differences of sum(y * g)."""

    def loss():
        return float((layer.forward(x, True) * g).sum())

    loss()
    dx = layer.backward(g)
    gradients = [a.copy() for a in getattr(layer, "gradients", ())]
    np.testing.assert_allclose(dx, central_differences(loss, x), rtol=1e-6, atol=1e-8)
    for w, a in zip(getattr(layer, "parameters", ()), gradients, strict=True):
        np.testing.assert_allclose(a, central_differences(loss, w), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["Dense", "BatchNorm", "ReLU", "SELU", "Reshape"])
def test_gradients_of_layers(parts, rng, name):
    layer = {
        "Dense": lambda: parts.Dense(4, 3, rng, dtype=np.float64),
        "BatchNorm": lambda: parts.BatchNorm(4, dtype=np.float64),
        "ReLU": parts.ReLU,
        "SELU": parts.SELU,
        "Reshape": lambda: parts.Reshape(2, 2),
    }[name]()
    x = rng.normal(size=(6, 4))
    for w in getattr(layer, "parameters", ()):
        w += rng.normal(size=w.shape) / 4
    check_layer(layer, x, rng.normal(size=layer.forward(x, True).shape))


def test_dense_takes_any_leading_axes(parts, rng):
    dense = parts.Dense(4, 3, rng, dtype=np.float64)
    x = rng.normal(size=(2, 5, 4))
    np.testing.assert_allclose(dense.forward(x, False), x @ dense.parameters[0])
    check_layer(dense, x, rng.normal(size=(2, 5, 3)))


def test_the_penalty_is_beside_the_output_and_in_the_gradient(parts, rng):
    layers = [parts.Dense(5, 4, rng, l1=0.01, l2=0.02, dtype=np.float64), parts.ReLU()]
    layers += [parts.Dense(4, 3, rng, l2=0.05, dtype=np.float64)]
    model = parts.Sequential(layers)
    x, labels = rng.normal(size=(7, 5)), rng.integers(3, size=7)
    output, penalty = model.forward(x, False)
    first, _, second, _ = model.parameters
    expected = 0.01 * np.abs(first).sum() + 0.02 * (first**2).sum() + 0.05 * (second**2).sum()
    assert penalty == pytest.approx(expected)
    loss, _ = model.loss_and_gradients(x, labels)
    assert loss == pytest.approx(parts.cross_entropy(output, labels)[0] + expected)
    first[np.abs(first) < 1e-3] = 0.1  # away from the kink of |w|
    check_gradients(model.parameters, lambda: model.loss_and_gradients(x, labels))


def test_batch_norm_is_torchs(parts, rng):
    ours, theirs = parts.BatchNorm(4, dtype=np.float64), torch.nn.BatchNorm1d(4, dtype=torch.float64)
    for _ in range(3):
        x = rng.normal(size=(8, 4)) * [1, 2, 3, 4] + 5
        expected = theirs.train()(torch.from_numpy(x)).detach()
        np.testing.assert_allclose(ours.forward(x, True), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.mean, theirs.running_mean)
    np.testing.assert_allclose(ours.variance, theirs.running_var)
    before = ours.mean.copy()
    expected = theirs.eval()(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(ours.forward(x, False), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(ours.mean, before)


def test_selu_is_torchs(parts):
    x = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(parts.SELU().forward(x, False), torch.nn.functional.selu(torch.from_numpy(x)))


def test_cross_entropy(parts, rng):
    logits, labels = 5 * rng.normal(size=(6, 2, 4)), rng.integers(4, size=(6, 2))
    loss, g = parts.cross_entropy(logits, labels)
    rows = torch.from_numpy(logits.reshape(-1, 4)), torch.from_numpy(labels.ravel())
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(*rows)))
    differences = central_differences(lambda: parts.cross_entropy(logits, labels)[0], logits)
    np.testing.assert_allclose(g, differences, rtol=1e-6, atol=1e-9)
    assert np.isfinite(parts.log_softmax(np.array([1e4, -1e4, 0]))).all()
    p = np.exp(parts.log_softmax(logits))
    np.testing.assert_allclose(p.sum(-1), 1)
    assert parts.accuracy(p, logits.argmax(-1)) == 100


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda parts, w: parts.SGD(w, 0.1, 0.9), lambda w: torch.optim.SGD(w, 0.1, momentum=0.9)),
        (lambda parts, w: parts.Adam(w, 0.1), lambda w: torch.optim.Adam(w, 0.1)),
    ],
)
def test_optimisers_are_torchs(parts, rng, ours, theirs):
    weights = [rng.normal(size=(3, 2)), np.array(0.5)]  # a 0-d one as of a learned rate
    copies = [torch.tensor(w, requires_grad=True) for w in weights]
    one, other = ours(parts, weights), theirs(copies)
    for _ in range(20):
        gradients = [np.asarray(np.cos(3 * w)) for w in weights]
        for copy, g in zip(copies, gradients, strict=True):
            copy.grad = torch.tensor(g)
        one.step(gradients)
        other.step()
    for w, copy in zip(weights, copies, strict=True):
        np.testing.assert_allclose(w, copy.detach(), rtol=1e-5)  # epsilon stands elsewhere in Adam's root


def test_noise_in_a_list_is_off_in_evaluation(parts, rng):
    model = parts.Sequential([fd.Dropout(0.5, rng=KEY), parts.Dense(5, 3, rng), parts.BatchNorm(3)])
    x = rng.normal(size=(40, 5)).astype(np.float32)
    model.forward(x, True)
    first, again = (model.probabilities(x) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert model.layers[0].key.draw == 1
    assert first.dtype == np.float32


def test_schedules_advance(parts):
    model = parts.Sequential([fd.CurriculumDropout(0.5, gamma=0.1, rng=KEY), parts.ReLU()])
    model.step()
    assert 0 < model.layers[0].p < 0.5


def test_batches_are_all_examples_once(parts, rng):
    found = list(parts.batches(10, 4, rng))
    assert [len(batch) for batch in found] == [4, 4, 2]
    assert sorted(np.concatenate(found)) == list(range(10))


@pytest.mark.parametrize(
    ("name", "n", "pixels"), [("digits", 1797, 64), pytest.param("mnist", 5000, 784, marks=pytest.mark.slow)]
)
def test_test_images_are_held_out_and_of_all_classes(parts, name, n, pixels):
    data, validation = parts.load(name), parts.load(name, validate=True)
    assert data.x_test.shape == (-(-n // 5), pixels)
    assert len(data.x_train) + len(data.x_test) == n
    shares = np.bincount(data.y_test) / len(data.y_test) - np.bincount(data.y_train) / len(data.y_train)
    assert np.abs(shares).max() < 0.005
    assert (data.x_train.mean(), data.x_train.std()) == pytest.approx((0, 1), abs=1e-4)

    def images(*parts):  # ranks of pixels: standardisation doesn't change them
        return {np.unique(x, return_inverse=True)[1].tobytes() for x in np.concatenate(parts)}

    assert len(validation.x_train) + len(validation.x_test) == len(data.x_train)
    seen = images(validation.x_train, validation.x_test)
    assert seen == images(data.x_train)
    assert len(seen & images(data.x_test)) < 0.01 * len(data.x_test)  # but for images that are alike
