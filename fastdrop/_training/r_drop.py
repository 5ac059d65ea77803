"""R-Drop: a loss of two passes with different noise, which is smaller the more they agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._arrays.host import real_array
from fastdrop._noises.gaussian import one_std


def r_drop_loss(
    logits1: ArrayLike, logits2: ArrayLike, labels: ArrayLike, alpha: float = 1.0
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Return the loss of two passes of one batch under different keys, and its gradients.

    The loss of an example is the mean of both cross-entropies plus alpha times the mean of both
    Kullback-Leibler divergences between the predictions.

    Parameters
    ----------
    logits1, logits2 : array_like, shape (..., classes)
        Outputs of the two passes: finite, of one shape and one real dtype that `dropout` takes.
    labels : array_like of int, shape (...)
        The right classes, in [0, classes).
    alpha : float, default 1
        Weight of the divergences, finite and not negative.

    Returns
    -------
    loss : float
        Mean over the examples.
    dlogits1, dlogits2 : ndarray
        Its gradients, of the logits' shape and dtype; 16-bit floats are computed in float32.

    Raises
    ------
    TypeError
        If logits are not real floats or of two dtypes, labels are not integers, or alpha is not real.
    ValueError
        If shapes don't fit, there is no example or no class, a label is not a class, or alpha is negative
        or not finite.

    References
    ----------
    Liang et al., "R-Drop: Regularized Dropout for Neural Networks", arXiv 2106.14448, section 2.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, w, labels = np.ones((2, 6)), np.eye(6)[:, :3], [0, 2]
    >>> key = fd.Key(42)
    >>> passes = [fd.dropout(x, 0.5, key.fold_in(s)) for s in range(2)]
    >>> loss, g1, g2 = fd.r_drop_loss(passes[0] @ w, passes[1] @ w, labels, alpha=0.5)
    >>> round(loss, 4)
    1.8959
    >>> g1.round(3)
    array([[-0.273,  0.295, -0.023],
           [-0.029,  0.139, -0.111]])

    The weights' gradient is the sum over both passes:

    >>> (passes[0].T @ g1 + passes[1].T @ g2).shape
    (6, 3)
    """
    first, second, classes = _checked(logits1, logits2, labels)
    alpha = one_std(alpha, "alpha")
    (log_p, p), (log_q, q) = _softmax(first), _softmax(second)
    ratio, right = log_p - log_q, (np.arange(len(classes)), classes)
    # The sum of both divergences. In this form no term is negative, so nothing cancels.
    divergence = ((p - q) * ratio).sum(1)
    losses = -log_p[right] - log_q[right] + alpha * divergence
    gradients = _gradient(p, q, ratio, right, alpha), _gradient(q, p, -ratio, right, alpha)
    dlogits1, dlogits2 = (g.reshape(np.shape(logits1)).astype(first.dtype) for g in gradients)
    return 0.5 * float(losses.mean(dtype=np.float64)), dlogits1, dlogits2


def _gradient(p: NDArray, q: NDArray, ratio: NDArray, right: tuple[NDArray, ...], alpha: float) -> NDArray:
    """The loss's gradient with respect to the logits of p, where ratio is log(p / q)."""
    inner = (p * ratio).sum(1, keepdims=True)
    g: NDArray = p + alpha * (p * (ratio - inner) + p - q)
    g[right] -= 1
    g /= 2 * len(p)
    return g


def _softmax(logits: NDArray) -> tuple[NDArray, NDArray]:
    """The logarithms of the probabilities and the probabilities, in float32 or float64."""
    wide = logits.astype(np.result_type(logits.dtype, np.float32))
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide, np.exp(wide)


def _checked(logits1: ArrayLike, logits2: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Both logits in the shape (labels, classes), and the labels in one axis."""
    first, second = (real_array(logits, "r_drop_loss") for logits in (logits1, logits2))
    right = np.asarray(labels)
    if first.shape != second.shape:
        raise ValueError(f"logits must have one shape, got {first.shape} and {second.shape}")
    if first.dtype != second.dtype:
        raise TypeError(f"logits must have one dtype, got {first.dtype} and {second.dtype}; use astype")
    if first.ndim == 0 or first.size == 0:
        raise ValueError(f"logits must have the shape (..., classes) and no axis of 0, got {first.shape}")
    if right.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {right.dtype}; use labels.astype(int)")
    if right.shape != first.shape[:-1]:
        raise ValueError(f"labels must have the shape {first.shape[:-1]}, got {right.shape}")
    classes = first.shape[-1]
    wrong = right[(right < 0) | (right >= classes)]
    if wrong.size:
        raise ValueError(f"labels must be in [0, {classes}), got {wrong.flat[0]}")
    return first.reshape(-1, classes), second.reshape(-1, classes), right.ravel()
