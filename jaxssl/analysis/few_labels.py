"""A classifier on frozen embeddings from a few labels, and how right it can be expected to be."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.probes import one_thread
from jaxssl.analysis.propagation import propagate, whitened_graph
from jaxssl.errors import InputError

KINDS = ("svc", "linear", "knn")
MOST_FOLDS = 5
# So many labels tell which classifier is best and how right it is; a kernel of more takes minutes.
MOST_COMPARED, MOST_FITTED = 1500, 10_000
_RESAMPLES = 1000


@dataclass(frozen=True)
class FewLabels:
    """A classifier that was fitted on a few labels.

    Args:
        kind: "svc", "linear" or "knn": the best in cross-validation.
        classes: k names.
        labels: How many it learnt from.
        accuracy: The balanced accuracy to expect on other images like these, by nested
            cross-validation: each image is predicted by a classifier that was chosen and fitted
            without it.
        low: Lower end of its interval, of 95 % (`_interval`).
        high: Upper end.
        temperature: What scores are divided by before they become probabilities, so that they are
            right as often as they say on images that were left out.
    """

    kind: str
    classes: tuple[str, ...]
    labels: int
    accuracy: float
    low: float
    high: float
    temperature: float
    _model: Any

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Return the probability of each class, `[m, k]`, rows of sum 1, for vectors `[m, d]`.

        Raises:
            ValueError: Another shape, or no real numbers.
            InputError: Vectors that are not finite.
        """
        (vectors,) = checks.fit(vectors=(vectors, f"m {self._model.n_features_in_}"))
        checks.finite("vectors", vectors)
        with one_thread():
            return _softmax(_scores(self._model, vectors) / self.temperature)


def fit_few_labels(
    vectors: np.ndarray, names: np.ndarray, *, kinds: tuple[str, ...] = KINDS, seed: int = 0
) -> FewLabels:
    """Fit the classifier of `kinds` that cross-validates best, and say what to expect of it.

    Features are standardised by the images learnt from. `svc`: RBF kernel, C = 1, gamma = 1/d.
    `linear`: logistic regression, C = 1. `knn`: vote of the 10 nearest. Folds are stratified, at
    most 5, no more than the largest class has images. Of more than 1,500 labels a stratified part
    is cross-validated, so that the accuracy is rather too low; at most 10,000 are fitted.

    Args:
        vectors: `[n, d]`, embeddings of the labelled images.
        names: str `[n]`, their classes; two classes or more, each with two images or more.
        kinds: Of `KINDS`.
        seed: Of the folds and of the resampling.

    Returns:
        The classifier, fitted on all n.

    Raises:
        InputError: One class, or a class with one image; the line names it. Vectors that are not
            finite, or NaN for a name.
        ValueError: Shapes that do not fit, or names of several kinds.

    Reference:
        Varma and Simon 2006, "Bias in error estimation when using cross-validation for model
        selection" (nested cross-validation); Guo et al. 2017, "On Calibration of Modern Neural
        Networks" (temperature).

    Example:
        >>> random = np.random.default_rng(0)
        >>> x = np.concatenate([random.normal(0, 1, (20, 2)), random.normal(9, 1, (20, 2))])
        >>> found = fit_few_labels(x, np.repeat(["a", "b"], 20))
        >>> found.accuracy, found.classes, found.probabilities(x[:1]).argmax()
        (1.0, ('a', 'b'), np.int64(0))
    """
    vectors, names = checks.fit(vectors=(vectors, "n d"), names=(names, "n"))
    checks.finite("vectors", vectors)
    classes, labels, _ = _checked(names)
    vectors = np.asarray(vectors, np.float64)
    all_vectors, all_labels = _part(vectors, labels, MOST_FITTED, seed)
    vectors, labels = _part(vectors, labels, MOST_COMPARED, seed)
    folds = _folds(labels)
    with one_thread():
        held_out = _nested(vectors, labels, kinds, folds, seed)
        kind = _best(vectors, labels, kinds, folds, seed)
        model = _make(kind, len(all_labels)).fit(all_vectors, all_labels)
    predicted = held_out.argmax(1)
    low, high = _interval(labels, predicted, seed)
    return FewLabels(
        kind=kind,
        classes=classes,
        labels=len(all_labels),
        accuracy=_balanced(labels, predicted),
        low=low,
        high=high,
        temperature=_temperature(held_out, labels),
        _model=model,
    )


@dataclass(frozen=True, eq=False)
class Propagated:
    """Classes for all images of a folder, of which a few are labelled.

    Args:
        classes: k names.
        labels: How many images are labelled.
        accuracy: The balanced accuracy to expect on the others, by cross-validation: each labelled
            image is predicted from the labels of the other folds.
        low: Lower end of its interval, of 95 % (`_interval`).
        high: Upper end.
        probabilities: `[n, k]`, rows of sum 1.
    """

    classes: tuple[str, ...]
    labels: int
    accuracy: float
    low: float
    high: float
    probabilities: np.ndarray
    kind: str = "propagated labels"


def propagate_few_labels(
    vectors: np.ndarray, rows: np.ndarray, names: np.ndarray, *, seed: int = 0
) -> Propagated:
    """Classify all images from the labels of a few, and say what to expect of it.

    `propagation.propagate` on the graph of the whitened vectors: it learns from how the images
    without a label lie, and is for them alone. Folds as in `fit_few_labels`; the cost is that of
    the graph, n² d products of numbers once, and a d x d system a fold.

    Args:
        vectors: `[n, d]`, embeddings of all images.
        rows: int `[m]`, which are labelled.
        names: str `[m]`, their classes; two classes or more, each with two images or more.
        seed: Of the folds and of the resampling.

    Returns:
        The classes of all n.

    Raises:
        InputError: One class, or a class with one image; the line names it. Vectors that are not
            finite, or NaN for a name.
        ValueError: Shapes that do not fit, names of several kinds, or rows that there are not.

    Example:
        >>> random = np.random.default_rng(0)
        >>> x = np.concatenate([random.normal(0, 1, (40, 2)), random.normal(9, 1, (40, 2))])
        >>> found = propagate_few_labels(x, np.array([0, 1, 40, 41]), np.array([*"aabb"]))
        >>> found.accuracy, (found.probabilities.argmax(1) == np.repeat([0, 1], 40)).mean()
        (1.0, np.float64(1.0))
    """
    vectors = checks.vectors("vectors", vectors)
    rows, names = checks.fit(rows=(rows, "m"), names=(names, "m"))
    rows = checks.rows("rows", rows, len(vectors))
    classes, labels, folds = _checked(names)
    k = len(classes)
    with one_thread():
        graph = whitened_graph(vectors)
        held_out = np.zeros((len(labels), k))
        for train, test in _parted(labels, folds, seed):
            scores = propagate(vectors, graph, rows[train], labels[train], classes=k)
            held_out[test] = scores[rows[test]]
        scores = propagate(vectors, graph, rows, labels, classes=k)
    predicted = held_out.argmax(1)
    low, high = _interval(labels, predicted, seed)
    return Propagated(
        classes=classes,
        labels=len(labels),
        accuracy=_balanced(labels, predicted),
        low=low,
        high=high,
        probabilities=_softmax(scores / _temperature(held_out, labels)),
    )


def _checked(names: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, int]:
    """Return the classes, the labels as 0 to k - 1, and in how many folds they can be parted."""
    kinds, labels, counts = checks.classes("names", names)
    classes = kinds.tolist()
    if len(classes) < 2:
        raise InputError(f"all labels are {classes[0]!r}: a classifier needs two classes or more")
    if counts.min() < 2:
        lone = ", ".join(map(repr, kinds[counts < 2][:5].tolist()))
        raise InputError(f"one image alone is labelled {lone}: label a second, or none")
    return tuple(classes), labels, _folds(labels)


def _folds(labels: np.ndarray) -> int:
    """So many that most labels are learnt from: a class may have fewer, in as many of the folds."""
    return int(min(MOST_FOLDS, np.bincount(labels).max()))


def _parted(labels: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stratified folds: rows learnt from, rows left out."""
    from sklearn.model_selection import StratifiedKFold

    with warnings.catch_warnings():
        # That a class has fewer images than there are folds.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
        return list(parts)


def _part(
    vectors: np.ndarray, labels: np.ndarray, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A stratified part of at most so many, two of each class at least."""
    if len(labels) <= most:
        return vectors, labels
    random = np.random.default_rng(seed)
    share = most / len(labels)
    rows = []
    for c in range(labels.max() + 1):
        members = random.permutation(np.flatnonzero(labels == c))
        rows.append(members[: max(2, round(share * len(members)))])
    kept = np.sort(np.concatenate(rows))
    return vectors[kept], labels[kept]


def _make(kind: str, labels: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    makers = {
        "svc": lambda: SVC(gamma="auto", decision_function_shape="ovr"),
        "linear": lambda: LogisticRegression(max_iter=1000),
        "knn": lambda: KNeighborsClassifier(min(10, labels)),
    }
    return make_pipeline(StandardScaler(), makers[kind]())


def _scores(model: Any, vectors: np.ndarray) -> np.ndarray:
    """The model's scores `[m, k]`: margins, or the logarithms of votes."""
    if hasattr(model, "decision_function"):
        scores = model.decision_function(vectors)
        return np.stack([-scores, scores], 1) / 2 if scores.ndim == 1 else scores
    return np.log(model.predict_proba(vectors) + 0.01)  # no vote is not impossible


def _held_out(
    kind: str, vectors: np.ndarray, labels: np.ndarray, folds: int, seed: int
) -> np.ndarray:
    """Scores of every image by a model that was fitted without it, `[n, k]`.

    Of a class that none of the others is of the score is -inf.
    """
    scores = np.full((len(labels), labels.max() + 1), -np.inf)
    for train, test in _parted(labels, folds, seed):
        model = _make(kind, len(train)).fit(vectors[train], labels[train])
        scores[test[:, None], model.classes_] = _scores(model, vectors[test])
    return scores


def _best(
    vectors: np.ndarray, labels: np.ndarray, kinds: tuple[str, ...], folds: int, seed: int
) -> str:
    if len(kinds) == 1:
        return kinds[0]
    right = {
        kind: _balanced(labels, _held_out(kind, vectors, labels, folds, seed).argmax(1))
        for kind in kinds
    }
    return max(right, key=lambda kind: right[kind])


def _nested(
    vectors: np.ndarray, labels: np.ndarray, kinds: tuple[str, ...], folds: int, seed: int
) -> np.ndarray:
    """Scores of every image by a model that was chosen and fitted without it, `[n, k]`."""
    scores = np.full((len(labels), labels.max() + 1), -np.inf)
    for train, test in _parted(labels, folds, seed):
        inner = _folds(labels[train])
        kind = kinds[0]
        if inner > 1:
            kind = _best(vectors[train], labels[train], kinds, inner, seed + 1)
        model = _make(kind, len(train)).fit(vectors[train], labels[train])
        scores[test[:, None], model.classes_] = _scores(model, vectors[test])
    return scores


def _balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
    """The mean over classes of the share that is right."""
    return float(np.mean([np.mean(predicted[labels == c] == c) for c in np.unique(labels)]))


def _interval(labels: np.ndarray, predicted: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % of the balanced accuracy, drawn of what each class's may be.

    That of a class with r of n right is drawn from a Beta distribution of r + s and n - r + 1 - s:
    one image more, right to the share s of all images. Of few images alone a class would say
    little, and all that were right could not have been wrong. The ends are those of 99 % of the
    draws: with other labels it would be another classifier, which the draws know nothing of.
    """
    random = np.random.default_rng(seed)
    right, kinds = predicted == labels, np.unique(labels)
    share = (right.sum() + 1) / (len(right) + 2)
    means = np.zeros(_RESAMPLES)
    for c in kinds:
        n, r = (labels == c).sum(), right[labels == c].sum()
        means += random.beta(r + share, n - r + 1 - share, _RESAMPLES)
    low, high = np.quantile(means / len(kinds), [0.005, 0.995])
    accuracy = _balanced(labels, predicted)
    return min(float(low), accuracy), max(float(high), accuracy)


def _temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The temperature under which held-out scores are likeliest."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        p = _softmax(scores / np.exp(log_temperature))
        return -float(np.mean(np.log(p[np.arange(len(labels)), labels] + 1e-12)))

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
