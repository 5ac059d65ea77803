"""R-Drop against its written-out formula, central differences, and PyTorch's autograd."""

import numpy as np
import pytest
from arrays import DTYPES, frozen, normal, same_bits
from scipy.special import log_softmax

import fastdrop as fd
from fastdrop._training.r_drop import r_drop_loss

LABELS = frozen(np.array([[0, 4, 2], [1, 1, 3]]))
LOGITS = frozen(3 * normal(2, 2, 3, 5, dtype=np.float64))  # two passes of 2 x 3 examples, 5 classes


def written_out(logits1, logits2, labels, alpha):
    """The loss, example by example, from its definition."""
    total = 0.0
    for place in np.ndindex(labels.shape):
        p, q = (log_softmax(np.asarray(logits[place], np.float64)) for logits in (logits1, logits2))
        entropies = -p[labels[place]], -q[labels[place]]
        divergences = (np.exp(p) * (p - q)).sum(), (np.exp(q) * (q - p)).sum()
        total += sum(entropies) / 2 + alpha * sum(divergences) / 2
    return total / labels.size


def closed_form(logits1, logits2, labels, alpha):
    """The gradient with respect to the first logits, as derived by hand."""
    log_p, log_q = log_softmax(logits1, axis=-1), log_softmax(logits2, axis=-1)
    p, q, d = np.exp(log_p), np.exp(log_q), log_p - log_q
    divergences = 0.5 * (p * (d - (p * d).sum(-1, keepdims=True)) + p - q)
    entropies = 0.5 * (p - np.eye(p.shape[-1])[labels])
    return (entropies + alpha * divergences) / labels.size


@pytest.mark.parametrize("alpha", [0, 0.3, np.float32(5)])
def test_loss_and_gradients_are_the_formulas(alpha):
    loss, g1, g2 = r_drop_loss(*LOGITS, LABELS, alpha)
    assert isinstance(loss, float)
    assert loss == pytest.approx(written_out(*LOGITS, LABELS, alpha), rel=1e-12)
    np.testing.assert_allclose(g1, closed_form(*LOGITS, LABELS, alpha), rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(g2, closed_form(*LOGITS[::-1], LABELS, alpha), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("alpha", [0, 0.7, 4])
def test_gradients_are_central_differences(alpha):
    step, gradients = 1e-4, r_drop_loss(*LOGITS, LABELS, alpha)[1:]
    logits = LOGITS.copy()
    differences = np.empty_like(logits)
    for place in np.ndindex(logits.shape):
        value, ends = logits[place], {}
        for steps in (-2, -1, 1, 2):
            logits[place] = value + steps * step
            ends[steps] = r_drop_loss(*logits, LABELS, alpha)[0]
        logits[place] = value
        differences[place] = (8 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12 * step)  # fourth order
    assert np.abs(gradients).max() > 0.01
    np.testing.assert_allclose(gradients, differences, rtol=1e-6, atol=1e-11)


def test_gradients_are_autograds():
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(logits.reshape(6, 5), requires_grad=True) for logits in LOGITS]
    p, q = (torch.log_softmax(t, 1) for t in tensors)
    labels = torch.tensor(LABELS.ravel())
    entropies = sum(torch.nn.functional.nll_loss(a, labels) for a in (p, q))
    kl = torch.nn.functional.kl_div
    divergences = sum(kl(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p)))
    wanted = 0.5 * entropies + 1.7 * 0.5 * divergences
    wanted.backward()
    loss, *gradients = r_drop_loss(*LOGITS, LABELS, 1.7)
    assert loss == pytest.approx(wanted.item(), rel=1e-10)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(gradient.reshape(6, 5), tensor.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_equal_passes_have_the_cross_entropys_loss():
    loss, g1, g2 = r_drop_loss(LOGITS[0], LOGITS[0], LABELS, 9.0)
    assert loss == r_drop_loss(LOGITS[0], LOGITS[0], LABELS, 0)[0]
    assert same_bits(g1, g2)
    assert same_bits(g1, r_drop_loss(LOGITS[0], LOGITS[0], LABELS, 0)[1])


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if np.dtype(dtype).kind != "c"])
def test_dtypes_and_layouts(dtype):
    logits1, logits2 = (np.asarray(logits.astype(dtype), order="F") for logits in LOGITS)
    before = logits1.copy()
    loss, g1, _ = r_drop_loss(logits1, logits2, LABELS.astype(np.uint8), 0.5)
    assert g1.dtype == logits1.dtype
    assert g1.shape == logits1.shape
    assert same_bits(logits1, before)
    wide = [logits.astype(np.float64) for logits in (logits1, logits2)]
    eps = float(np.finfo(dtype).eps) if dtype in (np.float32, np.float64) else 2**-7
    assert loss == pytest.approx(written_out(*wide, LABELS, 0.5), rel=20 * min(eps, 2**-23))
    wanted = closed_form(*wide, LABELS, 0.5)
    np.testing.assert_allclose(g1.astype(np.float64), wanted, rtol=20 * eps, atol=eps / 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_huge_logits_are_stable(dtype, size):
    logits1 = np.array([[size, 0, -size]], dtype)
    for logits2 in (logits1, logits1[:, ::-1].copy()):
        loss, *gradients = r_drop_loss(logits1, logits2, [0])
        assert np.isfinite(loss)
        assert np.isfinite(gradients).all()
    assert loss == pytest.approx(3 * size, rel=1e-6)  # entropies 0 and 2, two divergences of 2


def test_a_close_pair_loses_no_digits():
    """Divergences far below the rounding of the probabilities are still right."""
    tilt = np.array([1.0, -1.0, 0, 0, 0]) * 1e-6
    logits = LOGITS.astype(np.float64)
    without, found = (r_drop_loss(logits[0], logits[0] + tilt, LABELS, alpha)[0] for alpha in (0, 1e12))
    p = np.exp(log_softmax(logits[0], axis=-1))
    spread = (p * tilt**2).sum(-1) - (p * tilt).sum(-1) ** 2  # to second order
    assert (found - without) / 1e12 == pytest.approx(spread.mean(), rel=1e-5)


def test_two_dropped_passes_learn():
    """Plain gradient descent through dropout on both passes, at fixed keys, lowers the loss."""
    x, labels = normal(30, 8, dtype=np.float64), np.arange(30) % 3
    w, losses = np.zeros((8, 3)), []
    for _ in range(50):
        dropped = [fd.dropout(x, 0.2, fd.Key(1).fold_in(s)) for s in range(2)]
        loss, *gradients = r_drop_loss(*(d @ w for d in dropped), labels, 1.0)
        w -= 0.3 * sum(d.T @ g for d, g in zip(dropped, gradients, strict=True))
        losses.append(loss)
    assert losses[0] == pytest.approx(np.log(3))
    assert losses[-1] < 0.9 * losses[0]
    assert losses == sorted(losses, reverse=True)


ONE, TWO = np.zeros((2, 3)), np.zeros(2, int)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: r_drop_loss(ONE, ONE[:1], TWO),
            ValueError,
            r"logits must have one shape, got \(2, 3\) and \(1, 3\)",
        ),
        (
            lambda: r_drop_loss(ONE, ONE.astype(np.float32), TWO),
            TypeError,
            "logits must have one dtype, got float64 and float32",
        ),
        (lambda: r_drop_loss(ONE.astype(int), ONE.astype(int), TWO), TypeError, "got int64"),
        (lambda: r_drop_loss(ONE * 1j, ONE * 1j, TWO), TypeError, "r_drop_loss needs real numbers"),
        (lambda: r_drop_loss(ONE[:0], ONE[:0], TWO[:0]), ValueError, r"no axis of 0, got \(0, 3\)"),
        (lambda: r_drop_loss(ONE[:, :0], ONE[:, :0], TWO), ValueError, r"no axis of 0, got \(2, 0\)"),
        (lambda: r_drop_loss(1.0, 1.0, 0), ValueError, r"must have the shape \(..., classes\)"),
        (lambda: r_drop_loss(ONE, ONE, [0.0, 1.0]), TypeError, "labels must be integers, got float64"),
        (lambda: r_drop_loss(ONE, ONE, [True, False]), TypeError, "labels must be integers, got bool"),
        (
            lambda: r_drop_loss(ONE, ONE, [[0], [1]]),
            ValueError,
            r"labels must have the shape \(2,\), got \(2, 1\)",
        ),
        (lambda: r_drop_loss(ONE, ONE, [0, 3]), ValueError, r"labels must be in \[0, 3\), got 3"),
        (lambda: r_drop_loss(ONE, ONE, [0, -1]), ValueError, r"labels must be in \[0, 3\), got -1"),
        (lambda: r_drop_loss(ONE, ONE, TWO, -1), ValueError, "alpha must be finite and >= 0, got -1"),
        (lambda: r_drop_loss(ONE, ONE, TWO, np.nan), ValueError, "alpha must be finite and >= 0, got nan"),
        (lambda: r_drop_loss(ONE, ONE, TWO, np.ones(2)), TypeError, "got ndarray; use one number, since no"),
        (lambda: r_drop_loss(ONE, ONE, TWO, "1"), TypeError, "alpha must be a real number, got str"),
    ],
)
def test_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()
