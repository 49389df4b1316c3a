"""Do images of one class lie together: retrieval, clustering and silhouette."""

from __future__ import annotations

import warnings

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.distances import (
    Metric,
    as_points,
    distance_sums,
    nearest_columns,
    ranking,
)
from jaxssl.analysis.parallel import in_order
from jaxssl.analysis.sampling import stratified_sample


def retrieval(
    vectors: np.ndarray, labels: np.ndarray, *, metric: Metric = "euclidean", block: int = 64
) -> dict[str, float]:
    """Measure P@1, R-precision and MAP@R: each image asks all the others for its class.

    With the others ranked by distance, rel(i) = 1 where the i-th is of the query's class, R the
    number of others of that class, and P(i) the share of rel = 1 among the first i:
    P@1 = rel(1); R-precision = P(R); MAP@R = (1/R) Σ_{i≤R} P(i)·rel(i). Each is the mean over
    queries; an image alone in its class asks nothing, and stays for the others to find.

    Args:
        vectors: `[n, d]`.
        labels: `[n]`, numbers or strings.
        metric: `"euclidean"` or `"angular"`.
        block: Queries at a time; memory is block·n, on each core.

    Returns:
        `precision_at_1`, `r_precision`, `map_at_r` in 0 to 1, NaN when nothing was asked, and
        `queries`, how many were.

    Raises:
        ValueError: Shapes that do not fit, or labels of several kinds.
        InputError: Vectors that are not finite, or NaN for a label.

    Reference:
        Musgrave, Belongie, Lim: A Metric Learning Reality Check (arXiv:2003.08505), section 3.2.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [2.5], [3.0], [9.0]]), np.array([0, 0, 0, 1, 2])
        >>> {name: round(value, 3) for name, value in retrieval(x, y).items()}
        {'precision_at_1': 0.667, 'r_precision': 0.833, 'map_at_r': 0.75, 'queries': 3}
    """
    vectors, labels = _checked(vectors, labels)
    points = as_points(vectors, metric)
    rank = ranking(points)
    others = np.bincount(labels)[labels] - 1
    asking = np.flatnonzero(others)

    def block_scores(rows: np.ndarray) -> np.ndarray:
        tile = rank(points[rows])
        tile[np.arange(len(rows)), rows] = np.inf
        total = np.zeros(3)
        for row, values in zip(rows, tile, strict=True):
            r = others[row]
            relevant = labels[nearest_columns(values[None], r)[0]] == labels[row]
            ranks = np.flatnonzero(relevant) + 1
            precision = np.arange(1, len(ranks) + 1) / ranks
            total += (relevant[0], len(ranks) / r, precision.sum() / r)
        return total

    blocks = (asking[top : top + block] for top in range(0, len(asking), block))
    totals = sum(in_order(block_scores, blocks), start=np.zeros(3))
    means = totals / len(asking) if asking.size else np.full(3, np.nan)
    names = ("precision_at_1", "r_precision", "map_at_r")
    return dict(zip(names, means.tolist(), strict=True)) | {"queries": len(asking)}


def clustering_nmi(
    vectors: np.ndarray, labels: np.ndarray, *, metric: Metric = "euclidean", seed: int = 0
) -> float:
    """Measure the normalised mutual information of the classes and as many k-means clusters.

    NMI = 2·I(C; L) / (H(C) + H(L)), the best of 10 starts of k-means by its own objective.

    Args:
        vectors: `[n, d]`.
        labels: `[n]`, numbers or strings, k classes.
        metric: `"euclidean"`, or `"angular"` for k-means on unit vectors.
        seed: Of k-means.

    Returns:
        0 (independent) to 1 (the same partition; also for one class, where both are trivial).

    Raises:
        ValueError: Shapes that do not fit, or labels of several kinds.
        InputError: Vectors that are not finite, or NaN for a label.

    Reference:
        Manning, Raghavan, Schütze: Introduction to Information Retrieval, section 16.3.

    Example:
        >>> clustering_nmi(np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([1, 1, 0, 0]))
        1.0
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    vectors, labels = _checked(vectors, labels)
    kmeans = KMeans(labels.max() + 1, n_init=10, random_state=seed)
    # One thread: sums in one order, and no waiting for the others under load.
    with warnings.catch_warnings(), threadpool_limits(1):
        # A collapsed embedding has fewer distinct points than classes; its NMI of 0 says so.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = kmeans.fit_predict(as_points(vectors, metric))
    return float(normalized_mutual_info_score(labels, clusters))


def silhouette(
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    metric: Metric = "euclidean",
    limit: int | None = None,
    seed: int = 0,
) -> float:
    """Average the silhouette: is an image nearer to its own class than to the next one?

    s = (b − a) / max(a, b), a the mean distance to the others of the class, b the smallest mean
    distance to another class; 0 for an image alone in its class. Of all images, exactly, from
    `distance_sums`.

    Args:
        vectors: `[n, d]`.
        labels: `[n]`, numbers or strings.
        metric: `"euclidean"` or `"angular"`.
        limit: At most this many images, drawn by class in proportion: time grows with its square.
        seed: Of the draw.

    Returns:
        -1 to 1; NaN with one class, or with no class of two images.

    Raises:
        ValueError: Shapes that do not fit, or labels of several kinds.
        InputError: Vectors that are not finite, or NaN for a label.

    Reference:
        Rousseeuw: Silhouettes (J. Comput. Appl. Math. 20, 1987).

    Example:
        >>> x, y = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1])
        >>> round(silhouette(x, y), 3)
        0.9
    """
    vectors, labels = _checked(vectors, labels)
    if limit is not None and limit < len(labels):
        rows = stratified_sample(labels, limit, np.random.default_rng(seed))
        vectors, labels = vectors[rows], labels[rows]
        labels = np.unique(labels, return_inverse=True)[1]
    sums = distance_sums(vectors, labels, labels.max() + 1, metric=metric)
    return mean_silhouette(sums, labels)


def mean_silhouette(sums: np.ndarray, labels: np.ndarray) -> float:
    """Return what `silhouette` does, from the `[n, k]` of `distance_sums`, no class empty.

    Raises:
        ValueError: Shapes that do not fit, or labels outside 0 to k - 1.
        InputError: Sums that are not finite.
    """
    sums, labels = checks.fit(sums=(sums, "n k"), labels=(labels, "n"))
    checks.finite("sums", sums)
    labels = checks.numbers("labels", labels, least=0, most=sums.shape[1] - 1)
    counts = np.bincount(labels, minlength=sums.shape[1])
    if not 2 <= len(counts) < len(labels):
        return float("nan")
    rows, own = np.arange(len(labels)), counts[labels]
    a = sums[rows, labels] / np.maximum(own - 1, 1)
    means = sums / counts
    means[rows, labels] = np.inf
    b = means.min(axis=1)
    widest = np.where((own > 1) & (np.maximum(a, b) > 0), np.maximum(a, b), np.inf)
    return float(((b - a) / widest).mean())


def _checked(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors, and the labels as 0 to k - 1."""
    vectors, labels = checks.fit(vectors=(vectors, "n d"), labels=(labels, "n"))
    return checks.finite("vectors", vectors), checks.classes("labels", labels)[1]
