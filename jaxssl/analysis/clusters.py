"""Groups of look-alikes, found without labels."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.distances import Metric, as_points, nearest_columns, squares_from
from jaxssl.analysis.results import Cluster, Clusters
from jaxssl.analysis.retrieval import silhouette
from jaxssl.analysis.tables import Together

CANDIDATES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
SAMPLE, JUDGED = 10_000, 2_000
CENTRAL = 8


def k_means(
    vectors: np.ndarray, *, metric: Metric = "euclidean", seed: int = 0
) -> tuple[np.ndarray, np.ndarray, dict[int, float]]:
    """Cluster by k-means, with the k of highest mean silhouette.

    Of the candidates 2, 3, 4, 6, 8, 12, 16, 24, 32 and 48, those with ten images a cluster or more
    on average (2 in any case). k-means is fitted on 10,000 images drawn by chance, or on all, and
    the silhouette is of 2,000 of these: beyond, both only take longer.

    Args:
        vectors: `[n, d]`, n of 3 or more.
        metric: `"euclidean"`, or `"angular"` for k-means on unit vectors.
        seed: Of the draw and of k-means.

    Returns:
        Cluster of each image int `[n]`, the largest cluster first; centres `[k, d or d + 1]` among
        the points of `distances.as_points`; and the mean silhouette of each candidate, NaN where
        there are fewer distinct points.

    Raises:
        ValueError: Another shape, or fewer than 3 vectors.
        InputError: Vectors that are not finite.

    Reference:
        Rousseeuw: Silhouettes (J. Comput. Appl. Math. 20, 1987), section 4.

    Example:
        >>> x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1]])
        >>> found, centres, scores = k_means(x)
        >>> found.tolist(), centres.round(2).tolist(), list(scores)
        ([0, 0, 0, 1, 1], [[0.1], [9.05]], [2])
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    vectors = checks.vectors("vectors", vectors, least=3)
    points = as_points(vectors, metric)
    order = np.random.default_rng(seed).permutation(len(points))
    learnt, judged = np.sort(order[:SAMPLE]), np.sort(order[:JUDGED])
    fitted, scores = {}, {}
    for k in [k for k in CANDIDATES if k == 2 or 10 * k <= len(points)]:
        # One thread: sums in one order, and no waiting for the others under load.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than k
            fitted[k] = KMeans(k, n_init=3, random_state=seed).fit(points[learnt])
            labels = fitted[k].predict(points[judged])
        scores[k] = silhouette(vectors[judged], labels, metric=metric)
    best = max(scores, key=lambda k: np.nan_to_num(scores[k], nan=-1.0))
    with threadpool_limits(1):
        found = fitted[best].predict(points)
    by_size = np.argsort(-np.bincount(found, minlength=best), kind="stable")
    return np.argsort(by_size)[found], fitted[best].cluster_centers_[by_size], scores


def find_clusters(images: Together, *, seed: int = 0) -> Clusters | None:
    """Cluster all images of a run and describe each cluster.

    Args:
        images: Of `together`.
        seed: As `k_means`.

    Returns:
        The clusters, the largest first; None for fewer than 3 images.
    """
    if len(images) < 3:
        return None
    found, centres, scores = k_means(images.vectors, metric=images.distance, seed=seed)
    points = as_points(images.vectors, images.distance)

    def described(label: int) -> Cluster:
        rows = np.flatnonzero(found == label)
        squares = squares_from(centres[[label]], points[rows])
        central = rows[nearest_columns(squares[None], min(CENTRAL, len(rows)))[0]]
        names = Counter(images.class_names[row] for row in rows)
        known = {name: count for name, count in names.most_common() if name}
        return Cluster(len(rows), tuple(images.ids[row] for row in central), known)

    return Clusters(
        silhouettes={str(k): None if np.isnan(s) else s for k, s in scores.items()},
        clusters=tuple(described(label) for label in range(len(centres)) if label in found),
        members={
            name: tuple(int(c) for c, s in zip(found, images.sets, strict=True) if s == name)
            for name in dict.fromkeys(images.sets)
        },
    )
