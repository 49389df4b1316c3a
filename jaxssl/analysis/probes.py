"""How good frozen embeddings are: classifiers on few labels, weighted kNN on all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.distances import as_points, nearest_points
from jaxssl.analysis.parallel import in_order
from jaxssl.analysis.propagation import propagate, spread_labels, whitened_graph
from jaxssl.analysis.sampling import stratified_sample
from jaxssl.errors import InputError

CLASSIFIERS = ("svc", "linear", "knn")
# These see the images that they are judged on, though not their labels.
TRANSDUCTIVE = ("spread", "propagated")


def label_efficiency(
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    sizes: Sequence[int] | None = None,
    draws: int = 5,
    classifiers: Sequence[str] = CLASSIFIERS,
    graph: Any = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure balanced accuracy on held-out images when only n of the others are labelled.

    For each draw the images are split 70/30 by class; of the 70 % (the pool) n are labelled, drawn
    by class; features are standardised by those n; the classifiers learn from them and are scored
    on all of the 30 %. All classifiers, and every table of the same images and seed, see the same
    draws. `svc`: RBF kernel, C = 1, gamma = 1/d. `linear`: logistic regression, C = 1. `knn`: vote
    of the 10 nearest, or of all n where n < 10.

    Transductive ones, which also learn from how the other images lie, those of the 30 % too, as
    whoever has a folder to sort may: `spread`: the largest share of `spread_labels`; `propagated`:
    `propagation.propagate`.

    `low` and `high` are the 95 % t interval of the mean over draws, within [0, 1]. The draws share
    images, so it says how far the mean would move with other random splits of THESE images, and is
    too narrow for what other images would give.

    Args:
        vectors: `[n, d]`.
        labels: `[n]`, numbers or strings, two classes or more, each with two images or more.
        sizes: Numbers of labels; by default `default_sizes`. Those under the number of classes, or
            not under the pool's size, are left out; the whole pool always comes last.
        draws: Random splits, 2 or more.
        classifiers: Of `"svc"`, `"linear"`, `"knn"`, `"spread"`, `"propagated"`.
        graph: Of all n images, for the transductive ones; None: `whitened_graph` of the vectors.
        seed: Of the draws.

    Returns:
        One row a classifier and size: `classifier`, `labels` (how many), `mean`, `low`, `high`,
        `draws`, `scores` (one a draw), and `all`: True on the rows of the whole pool.

    Raises:
        InputError: Fewer than two classes, or a class with one image; vectors that are not finite,
            or NaN for a label.
        ValueError: Shapes that do not fit, labels of several kinds, a graph of other images, an
            unknown classifier, fewer than 2 draws.

    Reference:
        Brodersen et al.: The balanced accuracy and its posterior distribution (ICPR 2010).

    Example:
        >>> x = np.concatenate([np.zeros((20, 2)), np.ones((20, 2))])
        >>> y = np.repeat([0, 1], 20)
        >>> for row in label_efficiency(x, y, sizes=[4], classifiers=["knn"], draws=2):
        ...     print(row["labels"], row["mean"], row.get("all", False))
        4 0.5 False
        28 1.0 True
    """
    vectors, labels = _checked(vectors, labels, draws, classifiers)
    vectors = np.asarray(vectors, np.float64)
    classes = labels.max() + 1
    held_out = max(int(np.ceil(0.3 * len(labels))), classes)
    pool_size = len(labels) - held_out
    asked = default_sizes(pool_size) if sizes is None else sorted(set(sizes))
    counts = [n for n in asked if classes <= n < pool_size] + [pool_size]
    if graph is None and not {*TRANSDUCTIVE}.isdisjoint(classifiers):
        graph = whitened_graph(vectors)
    if graph is not None and graph.shape[0] != len(vectors):
        raise ValueError(f"graph is of {graph.shape[0]} images, vectors are of {len(vectors)}")
    splits = []  # of each draw, what the classifiers are scored on and what they may learn from
    for draw in range(draws):
        test = stratified_sample(labels, held_out, np.random.default_rng([seed, draw]))
        splits.append((test, np.setdiff1d(np.arange(len(labels)), test)))

    def scored(task: tuple[int, int]) -> list[float]:
        draw, n = task
        test, pool = splits[draw]
        train = pool[stratified_sample(labels[pool], n, np.random.default_rng([seed, draw, n]))]
        found = _predict(vectors[train], labels[train], vectors[test], classifiers)
        found |= _transduce(vectors, graph, train, labels[train], test, classifiers)
        return [_balanced_accuracy(labels[test], found[name]) for name in classifiers]

    tasks = [(draw, n) for n in counts for draw in range(draws)]
    with warnings.catch_warnings():
        # scikit-learn takes many classes of a label or two each for a regression's numbers.
        warnings.filterwarnings("ignore", "The number of unique classes is greater")
        scores = np.array(list(in_order(scored, tasks))).reshape(len(counts), draws, -1)
    return [
        {"classifier": name, "labels": n, **_interval(scores[position, :, column])}
        | ({"all": True} if n == pool_size else {})
        for column, name in enumerate(classifiers)
        for position, n in enumerate(counts)
    ]


def default_sizes(pool: int) -> list[int]:
    """List numbers of labels under `pool`: 30 to 90 by 10, to 900 by 100, then 1,000 times 2^i.

    The plankton study's up to 1,000; beyond, each doubling costs as much as all before it, and
    those above two thirds of the pool would tell what the whole pool tells.

    Example:
        >>> default_sizes(250)
        [30, 40, 50, 60, 70, 80, 90, 100, 200]
        >>> default_sizes(4200)[-3:]
        [900, 1000, 2000]
    """
    studied = [*range(30, 100, 10), *range(100, 1001, 100)]
    doubled = (1000 * 2**i for i in range(1, 20))
    return [n for n in studied if n < pool] + [n for n in doubled if n <= 2 / 3 * pool]


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    **options: Any,
) -> float:
    """Measure the share of queries whose class wins the weighted vote of their neighbours.

    Args:
        bank: `[n, d]`, labelled.
        bank_labels: `[n]`, strings, or numbers of 0 or more.
        queries: `[m, d]`.
        query_labels: `[m]`, of the same kind; a class that the bank lacks is never found.
        **options: `k`, `temperature` and `block` of `knn_votes`.

    Returns:
        Top-1 accuracy, 0 to 1.

    Raises:
        ValueError: Shapes that do not fit, labels of several kinds or below 0, a k or temperature
            out of range.
        InputError: Vectors that are not finite, or NaN for a label.

    Example:
        >>> bank = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> knn_accuracy(bank, np.array([0, 1]), np.array([[2.0, 1.0]]), np.array([0]), k=2)
        1.0
    """
    bank, bank_labels, queries, query_labels = checks.fit(
        bank=(bank, "n d"),
        bank_labels=(bank_labels, "n"),
        queries=(queries, "m d"),
        query_labels=(query_labels, "m"),
    )
    kinds, labels, _ = checks.classes("bank_labels", bank_labels)
    asked = checks.classes("query_labels", query_labels)[0]
    if isinstance(kinds[0], str) != isinstance(asked[0], str):
        raise ValueError(
            "of bank_labels and query_labels one holds strings, the other numbers: pass both as "
            "strings, or both as numbers"
        )
    if not isinstance(kinds[0], str) and kinds[0] < 0:
        raise ValueError(
            f"bank_labels run from {kinds[0]}, below 0: leave out rows without a label"
        )
    votes = knn_votes(bank, labels, queries, **options)
    return float((kinds[votes.argmax(axis=1)] == query_labels).mean())


def knn_votes(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    *,
    k: int = 200,
    temperature: float = 0.1,
    block: int = 64,
) -> np.ndarray:
    """Count the weighted votes of each query's nearest neighbours for every class.

    The k bank images of highest cosine each vote for their class with weight exp(cos / T), here
    relative to the nearest one's weight: the order is the same, and exp(1 / T) cannot overflow.

    Args:
        bank: `[n, d]`, labelled.
        bank_labels: int `[n]`, 0 or more.
        queries: `[m, d]`.
        k: Neighbours, 1 or more; all of the bank where it is smaller.
        temperature: T, above 0.
        block: Queries at a time; memory is block·n, on each core.

    Returns:
        float64 `[m, highest label + 1]`.

    Raises:
        ValueError: Shapes that do not fit, k or temperature out of range.

    Reference:
        Wu et al.: Unsupervised Feature Learning via Non-Parametric Instance Discrimination
        (arXiv:1805.01978), section 3.4, with its k = 200; T = .1 is lightly's.

    Example:
        >>> bank = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> knn_votes(bank, np.array([0, 1]), np.array([[5.0, 0.0]]), k=2).round(5).tolist()
        [[1.0, 5e-05]]
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k is {k} and temperature {temperature}: 1 or more, and above 0")
    bank, bank_labels, queries = checks.fit(
        bank=(bank, "n d"), bank_labels=(bank_labels, "n"), queries=(queries, "m d")
    )
    bank_labels = checks.numbers("bank_labels", bank_labels, least=0)
    x, y = as_points(queries, "angular", name="queries"), as_points(bank, "angular", name="bank")
    nearest, squares = nearest_points(x, y, min(k, len(y)), block=block)
    # Of unit vectors cos = 1 − |x − y|² / 2.
    weights = np.exp((squares[:, :1] - squares) / (2 * temperature))
    votes = np.zeros((len(x), bank_labels.max() + 1))
    np.add.at(votes, (np.arange(len(x))[:, None], bank_labels[nearest]), weights)
    return votes


def _predict(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classifiers: Sequence[str]
) -> dict[str, np.ndarray]:
    """Predict the labels of `test`, an array a classifier that learns from labelled ones alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import euclidean_distances
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    inductive = [name for name in classifiers if name in CLASSIFIERS]
    if not inductive:
        return {}
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    # One matrix product serves the SVC's kernel and kNN; libsvm's own kernel loop takes most of
    # the time on a thousand features.
    near, far = (euclidean_distances(x, train, squared=True) for x in (train, test))
    gamma = 1 / train.shape[1]
    predicted = {}
    for name in inductive:
        if name == "svc":
            model = SVC(kernel="precomputed").fit(np.exp(-gamma * near), labels)
            predicted[name] = model.predict(np.exp(-gamma * far))
        elif name == "knn":
            model = KNeighborsClassifier(min(10, len(train)), metric="precomputed")
            predicted[name] = model.fit(near, labels).predict(far)
        else:
            model = LogisticRegression(max_iter=1000)
            predicted[name] = model.fit(train, labels).predict(test)
    return predicted


def _transduce(
    vectors: np.ndarray,
    graph: Any,
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    classifiers: Sequence[str],
) -> dict[str, np.ndarray]:
    """Predict the labels of the rows `test`, an array a classifier that sees all rows."""
    options = {"classes": labels.max() + 1}
    predicted = {}
    for name in classifiers:
        if name == "spread":
            predicted[name] = spread_labels(graph, train, labels, **options)[test].argmax(1)
        elif name == "propagated":
            predicted[name] = propagate(vectors, graph, train, labels, **options)[test].argmax(1)
    return predicted


def one_thread() -> AbstractContextManager[object]:
    """Use one BLAS thread, for thousands of small matrix products.

    With two BLAS threads on two cores that had other work, logistic regression took 10 to 40
    times as long as with one.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Average over the classes the share of its images that are found."""
    found = np.bincount(labels, labels == predicted)
    return float(np.mean(found / np.bincount(labels)))


def _interval(scores: np.ndarray) -> dict[str, Any]:
    from scipy.special import stdtrit

    mean, draws = scores.mean(), len(scores)
    half = stdtrit(draws - 1, 0.975) * scores.std(ddof=1) / np.sqrt(draws)
    return {
        "mean": float(mean),
        "low": float(max(mean - half, 0)),
        "high": float(min(mean + half, 1)),
        "draws": draws,
        "scores": scores.tolist(),
    }


def _checked(
    vectors: np.ndarray, labels: np.ndarray, draws: int, classifiers: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors, and the labels as 0 to k - 1."""
    vectors, labels = checks.fit(vectors=(vectors, "n d"), labels=(labels, "n"))
    checks.finite("vectors", vectors)
    known = (*CLASSIFIERS, *TRANSDUCTIVE)
    unknown = set(classifiers) - set(known)
    if unknown or draws < 2:
        raise ValueError(
            f"classifiers are {list(classifiers)} and draws {draws}: of {list(known)}, and "
            "2 or more for an interval"
        )
    names, labels, sizes = checks.classes("labels", labels)
    if len(names) < 2:
        raise InputError(f"label efficiency needs two classes or more, there are {len(names)}")
    if sizes.min() < 2:
        raise InputError(
            f"label efficiency needs two images of each class, class {names[sizes.argmin()]} has "
            "one: leave it out"
        )
    return vectors, labels
