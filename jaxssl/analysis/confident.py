"""Confident learning: which labels a classifier that has not seen them disagrees with."""

from __future__ import annotations

import warnings

import numpy as np

from jaxssl.analysis import checks


def confident_learning(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Find labels that are probably wrong.

    The threshold of class j is its mean probability over the images labelled j,
    t_j = mean of p_xj over x labelled j. An image is confidently j where p_xj >= t_j; of several
    such j the likeliest. It is suspect where that is another class than its label, and its label is
    not the likeliest class of all, as in the authors' cleanlab.

    Args:
        labels: int `[n]`, 0 to k - 1.
        probabilities: `[n, k]`, of classifiers that have not seen the image's label.

    Returns:
        bool `[n]`, whether the label is suspect; int `[n]`, the confident class, the label itself
        where there is none; and float `[n]`, p of the label minus that of the likeliest other
        class, the lowest the most suspect.

    Raises:
        ValueError: Shapes that do not fit, labels that are no class numbers, or probabilities
            outside 0 to 1.
        InputError: Probabilities that are not finite.

    Reference:
        Northcutt, Jiang, Chuang: Confident Learning (JAIR 70, 2021), equations 1 and 2, the
        ranking of section 3.2; without the calibration that estimates noise rates.

    Example:
        >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]])
        >>> confident_learning(np.array([0, 0, 1, 1, 1]), p)[0].tolist()
        [False, False, False, False, True]
    """
    labels, p = checks.fit(labels=(labels, "n"), probabilities=(probabilities, "n k"))
    p = checks.finite("probabilities", p).astype(np.float64)
    n, k = p.shape
    labels = checks.numbers("labels", labels, least=0, most=k - 1)
    if p.min() < -1e-6 or p.max() > 1 + 1e-6:
        raise ValueError(
            f"probabilities run from {p.min():.3g} to {p.max():.3g}, outside 0 to 1: pass the "
            "softmax of scores"
        )
    rows, counts = np.arange(n), np.bincount(labels, minlength=k)
    own = p[rows, labels]
    thresholds = np.full(k, np.inf)  # no image is confidently of a class that none is labelled
    np.divide(np.bincount(labels, own, minlength=k), counts, out=thresholds, where=counts > 0)
    # A mean of equal numbers is off by rounding.
    confident = np.where(p >= thresholds - 1e-6, p, -np.inf)
    known = np.isfinite(confident).any(axis=1) & (p.argmax(axis=1) != labels)
    found = np.where(known, confident.argmax(axis=1), labels)
    others = p.copy()
    others[rows, labels] = -np.inf
    return found != labels, found, own - others.max(axis=1)


def held_out_probabilities(
    vectors: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Estimate each image's classes by logistic regression on the other folds.

    Args:
        vectors: `[n, d]`.
        labels: int `[n]`, 0 to k - 1, every class with an image.
        folds: Parts that take turns at being left out, stratified by class.
        seed: Of the parts.

    Returns:
        float64 `[n, k]`; 0 for a class that the other folds do not have.

    Raises:
        ValueError: Shapes that do not fit, labels that are no class numbers, fewer than 2 folds.
        InputError: Vectors that are not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    vectors, labels = checks.fit(vectors=(vectors, "n d"), labels=(labels, "n"))
    checks.finite("vectors", vectors)
    labels = checks.numbers("labels", labels, least=0)
    if folds < 2:
        raise ValueError(f"folds is {folds}, not 2 or more")
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), int)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold[order] = np.arange(len(labels)) % folds
    found = np.zeros((len(labels), labels.max() + 1))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for an opinion
        for out in range(folds):
            train, test = fold != out, fold == out
            if not test.any():
                continue
            classes = np.unique(labels[train])
            if len(classes) < 2:
                found[np.ix_(test, classes)] = 1
                continue
            scaler = StandardScaler().fit(vectors[train])
            model = LogisticRegression(max_iter=200)
            model.fit(scaler.transform(vectors[train]), labels[train])
            guessed = model.predict_proba(scaler.transform(vectors[test]))
            found[np.ix_(test, model.classes_)] = guessed
    return found


def vote_shares(nearest_labels: np.ndarray, classes: int) -> np.ndarray:
    """Count the votes of each image's neighbours as shares, one vote spread over all classes.

    Args:
        nearest_labels: int `[n, m]`, the labels of each image's nearest others; -1 has no vote.
        classes: k.

    Returns:
        float64 `[n, k]`, rows of sum 1.

    Raises:
        ValueError: Another shape, or labels outside -1 to k - 1.

    Example:
        >>> vote_shares(np.array([[1, 1, 0, -1]]), 2)
        array([[0.375, 0.625]])
    """
    (nearest_labels,) = checks.fit(0, nearest_labels=(nearest_labels, "n m"))
    nearest_labels = checks.numbers("nearest_labels", nearest_labels, least=-1, most=classes - 1)
    votes = np.full((len(nearest_labels), classes), 1 / classes)
    rows, columns = np.nonzero(nearest_labels >= 0)
    np.add.at(votes, (rows, nearest_labels[rows, columns]), 1)
    return votes / votes.sum(axis=1, keepdims=True)
