"""A classifier on the test images, as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.results import Classification

GUESSES = (1, 3, 5)


def top_accuracy(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Count how often the class is among the t of highest score, for t of 1, 3, 5.

    Args:
        scores: `[n, k]`, higher for likelier classes; of equal scores the lower class comes first.
        labels: int `[n]`; one that has no score is never guessed.

    Returns:
        Shares, `{"1": share, "3": …, "5": …}`; from t = k on every guess is right, which is left
        out.

    Raises:
        ValueError: Shapes that do not fit, or labels that are no class numbers.
        InputError: NaN for a score.

    Example:
        >>> scores = np.array([[0.1, 0.5, 0.3, 0.1], [0.4, 0.3, 0.2, 0.1]])
        >>> top_accuracy(scores, np.array([2, 0]))
        {'1': 0.5, '3': 1.0}
    """
    scores, labels = _checked(scores, labels)
    ranked = np.argsort(-scores, axis=1, kind="stable")
    hits = ranked == labels[:, None]
    guesses = [t for t in GUESSES if t == 1 or t < scores.shape[1]]
    return {str(t): float(hits[:, :t].any(axis=1).mean()) for t in guesses}


def classification(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Classification:
    """Judge a classifier, in total and class by class.

    Args:
        scores: `[n, k]`, logits or probabilities; of the first k classes, where the last have none.
        labels: int `[n]`, into `classes`.
        classes: Their names, k or more.

    Returns:
        What it gets right, and what it takes for what.

    Raises:
        ValueError: Shapes that do not fit, fewer names than scores, or labels outside the names.
        InputError: NaN for a score.

    Example:
        >>> found = classification(np.eye(3)[[0, 1, 1]], np.array([0, 1, 0]), ("a", "b", "c"))
        >>> found.confusion, found.per_class
        (((1, 1, 0), (0, 1, 0), (0, 0, 0)), {'a': 0.5, 'b': 1.0, 'c': None})
    """
    scores, labels = _checked(scores, labels)
    k = len(classes)
    if scores.shape[1] > k:
        raise ValueError(f"scores are of {scores.shape[1]} classes, and classes names {k}")
    labels = checks.numbers("labels", labels, least=0, most=k - 1)
    confusion = np.zeros((k, k), int)
    np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
    right, images = np.diagonal(confusion).tolist(), confusion.sum(axis=1).tolist()
    shares = [found / n if n else None for found, n in zip(right, images, strict=True)]
    return Classification(
        accuracy=sum(right) / len(labels),
        top=top_accuracy(scores, labels),
        per_class=dict(zip(classes, shares, strict=True)),
        confusion=tuple(map(tuple, confusion.tolist())),
        classes=tuple(classes),
    )


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = checks.fit(scores=(scores, "n k"), labels=(labels, "n"))
    scores = checks.finite("scores", scores, infinite=True)
    return scores, checks.numbers("labels", labels)
