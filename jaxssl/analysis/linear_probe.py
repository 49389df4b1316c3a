"""Linear evaluation: how well one linear layer tells the classes apart in frozen features."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.probes import one_thread
from jaxssl.errors import InputError

# 300 labels want the weak end, 50,000 the strong one.
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
MAX_ITERATIONS = 2000


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier on frozen features.

    Args:
        c: The inverse strength of its L2 penalty, C of scikit-learn.
        val_accuracy: Its share of validation images, the best of the grid.
        iterations: Of L-BFGS, over the whole path.
        converged: False where an optimisation ended for its number of iterations.
        model: scikit-learn's, of standardised features.
        scaler: scikit-learn's, of the training features.
    """

    c: float
    val_accuracy: float
    iterations: int
    converged: bool
    model: Any
    scaler: Any

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities `[m, highest label + 1]` of features `[m, d]`.

        Raises:
            ValueError: Another shape, or no real numbers.
            InputError: Features that are not finite.
        """
        (features,) = checks.fit(features=(features, f"m {self.scaler.n_features_in_}"))
        checks.finite("features", features)
        scores = np.zeros((len(features), self.model.classes_.max() + 1))
        with one_thread():
            found = self.model.predict_proba(self.scaler.transform(features))
        scores[:, self.model.classes_] = found
        return scores


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    *,
    grid: Sequence[float] = GRID,
) -> LinearProbe:
    """Fit L2-regularised logistic regression on frozen features: linear evaluation.

    Features are standardised by the training images. L-BFGS minimises the regularised
    cross-entropy to a gradient of at most 1e-4, from the strongest penalty to weaker ones, each
    from the solution before; the path ends where validation accuracy falls, and the best of it is
    taken, the stronger penalty of equals.

    Args:
        train: `[n, d]`.
        train_labels: int `[n]`, 0 or more, two classes or more.
        val: `[m, d]`, which choose the penalty; the classifier never learns from them.
        val_labels: int `[m]`.
        grid: Values of C, ascending.

    Returns:
        The classifier.

    Raises:
        ValueError: Shapes that do not fit, or labels that are no class numbers.
        InputError: Features that are not finite, or training images of one class.

    Reference:
        Kornblith, Shlens, Le: Do Better ImageNet Models Transfer Better? (arXiv:1805.08974),
        appendix A.6: L-BFGS, the penalty chosen on validation; so Chen et al. 2020, B.8.1.

    Example:
        >>> x, y = np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
        >>> probe = linear_probe(x, y, x, y, grid=(0.1, 1.0))
        >>> probe.c, probe.val_accuracy, probe.scores(x).argmax(axis=1).tolist()
        (0.1, 1.0, [0, 0, 1, 1])
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, train_labels, val, val_labels = checks.fit(
        train=(train, "n d"),
        train_labels=(train_labels, "n"),
        val=(val, "m d"),
        val_labels=(val_labels, "m"),
    )
    train, val = checks.finite("train", train), checks.finite("val", val)
    train_labels = checks.numbers("train_labels", train_labels, least=0)
    val_labels = checks.numbers("val_labels", val_labels)
    if train_labels.min() == train_labels.max():
        raise InputError(
            f"train_labels are all {train_labels[0]}: a classifier needs two classes or more"
        )
    scaler = StandardScaler().fit(train)
    x, x_val = scaler.transform(train), scaler.transform(val)
    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    best: Any = None
    accuracy, iterations, converged = -1.0, 0, True
    for c in grid:
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said in what is returned
            model.set_params(C=c).fit(x, train_labels)
            found = float((model.predict(x_val) == val_labels).mean())
        iterations += int(model.n_iter_.max())
        converged &= bool(model.n_iter_.max() < MAX_ITERATIONS)
        if found < accuracy:
            break
        if found > accuracy:
            best, accuracy = copy.deepcopy(model), found
    return LinearProbe(best.C, accuracy, iterations, converged, best, scaler)
