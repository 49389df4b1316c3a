"""Which images to label next: pool-based active learning on frozen embeddings.

Four ways to choose, each a function of h and of the labels there are, the same for the same seed:

- `clusters`: typical images of clusters that have no label yet; best with few labels or none
- `margin`: images between two classes for a classifier on h; best once it is better than a guess
- `coreset`: images far from everything labelled
- `at_random`: what the others are compared with

No image that has a label is proposed, nor one that is nearly the same as an image with a label or
as one proposed before (`near_limit`). Memory is n·d and blocks: nothing is n x n.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.distances import Metric, as_points, nearest_points, squares_from
from jaxssl.analysis.probes import one_thread

By = Literal["margin", "coreset", "clusters", "random"]
NEAR = 0.05  # of the median distance to the eighth nearest: nearly the same picture
TYPICAL = 20  # neighbours in its cluster that say how typical an image is
SMALL = 5  # images of a cluster that may be noise
MOST_CLUSTERS = 500
_SAMPLE, _FITTED, _COPIES = 1000, 20_000, 7


class Proposals(NamedTuple):
    """Images to label.

    Attributes:
        rows: int64 `[m]`, the most wanted first; fewer than asked for where no more are left that
            differ from each other.
        scores: float64 `[m]`. By margin: the probability of the likeliest class less that of the
            second, 0 to 1. By coreset: the distance to the nearest image that is labelled or
            proposed before, in the metric's unit. By clusters: images of its cluster. At random:
            NaN.
    """

    rows: np.ndarray
    scores: np.ndarray


def propose(
    vectors: np.ndarray,
    labels: np.ndarray,
    number: int,
    *,
    by: By | None = None,
    metric: Metric = "euclidean",
    seed: int = 0,
) -> Proposals:
    """Choose images to label next.

    Args:
        vectors: h, `[n, d]`.
        labels: int `[n]`, -1 where there is none yet.
        number: How many to propose, 1 or more.
        by: The way; None: `default_way`.
        metric: The distance that h was trained for.
        seed: Of chance and of k-means.

    Returns:
        Rows without a label, the most wanted first.

    Raises:
        ValueError: Shapes that do not fit, labels that are no class numbers, a number below 1, an
            unknown way, or `"margin"` with labels of fewer than two classes.
        InputError: Vectors that are not finite.

    Example:
        >>> x = np.array([[0.0], [0.1], [5.0], [5.1], [2.4]])
        >>> propose(x, np.array([0, -1, 1, -1, -1]), 1, by="margin").rows.tolist()
        [4]
    """
    vectors, labels = _checked("vectors", vectors, labels, number)
    by = by or default_way(labels)
    if by not in get_args(By):
        raise ValueError(f"by is {by!r}, not one of {', '.join(get_args(By))}")
    if not (labels < 0).any():
        return _proposals([], [])
    points = as_points(vectors, metric)
    limit = near_limit(points, seed=seed)
    if by == "margin":
        score = margins(class_probabilities(vectors, labels))
        return margin(points, labels, score, number, limit=limit)
    if by == "coreset":
        found = coreset(points, labels, number, limit=limit)
        if metric == "angular":  # the angle of a chord
            degrees = np.degrees(2 * np.arcsin(np.minimum(found.scores / 2, 1)))
            return Proposals(found.rows, degrees)
        return found
    if by == "clusters":
        return clusters(points, labels, number, limit=limit, seed=seed)
    return at_random(points, labels, number, limit=limit, seed=seed)


def default_way(labels: np.ndarray) -> By:
    """Return `"margin"` where two classes or more have labels, else `"clusters"`.

    Raises:
        ValueError: Labels that are not `[n]`, or no class numbers.

    Example:
        >>> default_way(np.array([-1, -1])), default_way(np.array([0, 1, -1]))
        ('clusters', 'margin')
    """
    (labels,) = checks.fit(0, labels=(labels, "n"))
    labels = checks.numbers("labels", labels, least=-1)
    return "margin" if len(np.unique(labels[labels >= 0])) > 1 else "clusters"


def class_probabilities(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fit a classifier on the images that have labels, and ask it about all.

    Logistic regression, C = 1, on h standardised by the labelled images. A class with one image
    counts too: it is there to be told from others.

    Args:
        vectors: `[n, d]`.
        labels: int `[n]`, -1 where there is none; two classes or more.

    Returns:
        float64 `[n, k]`, rows of sum 1; columns are the classes with a label, ascending.

    Raises:
        ValueError: Shapes that do not fit, labels that are no class numbers, or fewer than two
            classes.
        InputError: Vectors that are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors, labels = _checked("vectors", vectors, labels)
    known = np.flatnonzero(labels >= 0)
    kinds = np.unique(labels[known])
    if len(kinds) < 2:
        raise ValueError(f"a classifier needs labels of two classes or more, not {len(kinds)}")
    vectors = np.asarray(vectors, np.float64)
    with one_thread():
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        return model.fit(vectors[known], labels[known]).predict_proba(vectors)


def margins(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of the likeliest class less that of the second, `[n]`, 0 to 1.

    Raises:
        ValueError: Another shape than `[n, k]`, k of 2 or more.
        InputError: Probabilities that are not finite.

    Reference:
        Scheffer, Decomain, Wrobel: Active Hidden Markov Models for Information Extraction
        (IDA 2001), section 4; Settles 2009, "Active Learning Literature Survey", section 3.1.

    Example:
        >>> margins(np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])).tolist()
        [0.25, 0.0]
    """
    probabilities = checks.vectors("probabilities", probabilities, least=0)
    if probabilities.shape[1] < 2:
        raise ValueError("probabilities are of one class: a margin is between two")
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    return first - second


def margin(
    points: np.ndarray, labels: np.ndarray, score: np.ndarray, number: int, *, limit: float = 0.0
) -> Proposals:
    """Propose the images of smallest margin.

    Args:
        points: Of `distances.as_points`, `[n, d]`.
        labels: int `[n]`, -1 where there is none.
        score: Of `margins`, `[n]`.
        number: How many.
        limit: Images no farther apart than this are one (`near_limit`).

    Returns:
        The smallest margin first, of equal ones the lower row.

    Raises:
        ValueError: As `propose`.
        InputError: Points or scores that are not finite.

    Example:
        >>> x, labels = np.arange(4.0)[:, None], np.array([0, -1, -1, -1])
        >>> margin(x, labels, np.array([0.0, 0.9, 0.1, 0.1]), 2).rows.tolist()
        [2, 3]
    """
    points, labels = _checked("points", points, labels, number)
    _, score = checks.fit(points=(points, "n d"), score=(score, "n"))
    checks.finite("score", score)
    order = np.argsort(score, kind="stable")
    rows = _apart(points, labels, order, number, limit)
    return _proposals(rows, score[rows])


def coreset(
    points: np.ndarray, labels: np.ndarray, number: int, *, limit: float = 0.0
) -> Proposals:
    """Propose by greedy k-centre: each time the image farthest from all labelled and proposed.

    row = argmax_i min_{j labelled or proposed} |x_i - x_j|: at most twice the smallest radius of
    balls around k centres that cover all images. Without a label the first is the image nearest to
    the mean.

    Args:
        points: Of `distances.as_points`, `[n, d]`.
        labels: int `[n]`, -1 where there is none.
        number: How many.
        limit: It ends where all images are this near to one that is labelled or proposed.

    Returns:
        The farthest first, with the distance in the space of points.

    Raises:
        ValueError: As `propose`.
        InputError: Points that are not finite.

    Reference:
        Sener, Savarese: Active Learning for Convolutional Neural Networks: A Core-Set Approach
        (ICLR 2018), algorithm 1; Gonzalez 1985, "Clustering to minimize the maximum intercluster
        distance" (the bound).

    Example:
        >>> x = np.array([[0.0], [1.0], [4.0], [9.0]])
        >>> rows, distances = coreset(x, np.array([0, -1, -1, -1]), 2)
        >>> rows.tolist(), distances.tolist()
        ([3, 2], [9.0, 4.0])
    """
    points, labels = _checked("points", points, labels, number)
    known = np.flatnonzero(labels >= 0)
    nearest = np.full(len(points), np.inf)
    if len(known):
        nearest = nearest_points(points, points[known], 1)[1][:, 0]
    free = labels < 0
    rows: list[int] = []
    scores: list[float] = []
    for _ in range(min(number, int(free.sum()))):
        if not len(known) and not rows:
            centre = points.mean(axis=0, keepdims=True)
            row = int(np.argmin(squares_from(centre, points)))
            reach = np.inf
        else:
            row = int(np.argmax(np.where(free, nearest, -1.0)))
            reach = float(np.sqrt(nearest[row]))
        if reach <= limit:
            break
        rows.append(row)
        scores.append(reach)
        free[row] = False
        np.minimum(nearest, squares_from(points[[row]], points), out=nearest)
    return _proposals(rows, scores)


def clusters(
    points: np.ndarray, labels: np.ndarray, number: int, *, limit: float = 0.0, seed: int = 0
) -> Proposals:
    """Propose the most typical image of each large cluster that has fewest labels.

    k-means with as many clusters as there are labels and images to propose, at most 500, fitted on
    20,000 images at most. Again and again the cluster of fewest labels and proposals, of these the
    largest, gives its most typical image: the one with the highest 1 / (mean distance to its 20
    nearest in the cluster). Clusters of five images and fewer come last, since they may be noise.

    Args:
        points: Of `distances.as_points`, `[n, d]`.
        labels: int `[n]`, -1 where there is none.
        number: How many.
        limit: Images no farther apart than this are one.
        seed: Of k-means.

    Returns:
        Those of the emptiest and largest clusters first, with the size of their cluster.

    Raises:
        ValueError: As `propose`.
        InputError: Points that are not finite.

    Reference:
        Hacohen, Dekel, Weinshall: Active Learning on a Budget: Opposite Strategies Suit High and
        Low Budgets (ICML 2022), TypiClust, section 3.

    Example:
        >>> x = np.array([[0.0], [0.2], [0.3], [9.0], [9.1], [30.0]])
        >>> clusters(x, np.full(6, -1), 3).rows.tolist()
        [1, 3, 5]
    """
    points, labels = _checked("points", points, labels, number)
    known = labels >= 0
    owner = _k_means(points, min(int(known.sum()) + number, MOST_CLUSTERS, len(points)), seed)
    members = {c: np.flatnonzero(owner == c) for c in np.unique(owner).tolist()}
    waiting = {}
    for c, inside in members.items():
        order = inside[np.argsort(-_typicality(points[inside]), kind="stable")]
        waiting[c] = [row for row in order.tolist() if not known[row]]
    taken = {c: int(known[inside].sum()) for c, inside in members.items()}

    def in_turn() -> Iterable[int]:
        for noise in (False, True):
            left = {c for c in waiting if (len(members[c]) <= SMALL) == noise and waiting[c]}
            while left:
                c = min(left, key=lambda c: (taken[c], -len(members[c]), c))
                taken[c] += 1
                yield waiting[c].pop(0)
                if not waiting[c]:
                    left.discard(c)

    rows = _apart(points, labels, in_turn(), number, limit)
    return _proposals(rows, [len(members[owner[row]]) for row in rows])


def at_random(
    points: np.ndarray, labels: np.ndarray, number: int, *, limit: float = 0.0, seed: int = 0
) -> Proposals:
    """Propose images drawn by chance.

    Args:
        points: Of `distances.as_points`, `[n, d]`.
        labels: int `[n]`, -1 where there is none.
        number: How many.
        limit: Images no farther apart than this are one.
        seed: Of the draw.

    Returns:
        In the order of the draw.

    Raises:
        ValueError: As `propose`.
        InputError: Points that are not finite.

    Example:
        >>> at_random(np.arange(3.0)[:, None], np.array([-1, 0, -1]), 5).rows.tolist()
        [2, 0]
    """
    points, labels = _checked("points", points, labels, number)
    order = np.random.default_rng(seed).permutation(len(points))
    rows = _apart(points, labels, order, number, limit)
    return _proposals(rows, np.full(len(rows), np.nan))


def look_alikes(
    vectors: np.ndarray, *, size: int = 40, metric: Metric = "euclidean", seed: int = 0
) -> list[np.ndarray]:
    """Part images into groups of look-alikes, to be labelled a group at a time.

    k-means with n / size clusters, at most 500, fitted on 20,000 images at most; a cluster of more
    than two sizes is cut by distance from its centre.

    Args:
        vectors: `[n, d]`, n of 1 or more.
        size: About how many images a group has, 1 or more.
        metric: The distance that h was trained for.
        seed: Of k-means.

    Returns:
        int64 rows of each group, the one nearest to the centre first; the groups whose images are
        nearest to their centre on average come first, lone images last.

    Raises:
        ValueError: Another shape, or a size below 1.
        InputError: Vectors that are not finite.

    Example:
        >>> x = np.array([[0.0], [9.0], [0.2], [9.5], [0.12]])
        >>> [rows.tolist() for rows in look_alikes(x, size=3)]
        [[4, 2, 0], [1, 3]]
    """
    if size < 1:
        raise ValueError(f"size is {size}, not 1 or more")
    points = as_points(checks.vectors("vectors", vectors), metric)
    owner = _k_means(points, min(-(-len(points) // size), MOST_CLUSTERS), seed)
    groups = []
    for c in np.unique(owner):
        rows = np.flatnonzero(owner == c)
        reach = np.sqrt(squares_from(points[rows].mean(axis=0, keepdims=True), points[rows]))
        order = np.argsort(reach, kind="stable")
        parts = max(1, round(len(rows) / size)) if len(rows) > 2 * size else 1
        for part in np.array_split(order, parts):
            groups.append((len(part) == 1, float(reach[part].mean()), rows[part]))
    return [rows for _, _, rows in sorted(groups, key=lambda one: (one[:2], one[2][0]))]


def near_limit(points: np.ndarray, *, seed: int = 0) -> float:
    """Return the distance up to which two images are nearly the same.

    5 % of the median distance to the eighth nearest other image, which up to seven copies of each
    image do not make small; the median is of 1,000 images drawn by chance, or of all.

    Args:
        points: Of `distances.as_points`, `[n, d]`.
        seed: Of the draw.

    Raises:
        ValueError: Another shape, or no real numbers.
        InputError: Points that are not finite.

    Example:
        >>> near_limit(np.array([[0.0], [1.0], [2.0]]))
        0.1
    """
    points = checks.vectors("points", points, least=0)
    if len(points) < 2:
        return 0.0
    rows = np.random.default_rng(seed).permutation(len(points))[:_SAMPLE]
    # The nearest of each is itself, or its equal.
    _, squares = nearest_points(points[rows], points, min(_COPIES + 2, len(points)))
    return NEAR * float(np.median(np.sqrt(squares[:, -1])))


def _checked(
    name: str, points: np.ndarray, labels: np.ndarray, number: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    points, labels = checks.fit(**{name: (points, "n d"), "labels": (labels, "n")})
    if number < 1:
        raise ValueError(f"number is {number}, not 1 or more")
    return checks.finite(name, points), checks.numbers("labels", labels, least=-1)


def _apart(
    points: np.ndarray, labels: np.ndarray, order: Iterable[int], number: int, limit: float
) -> list[int]:
    """Take rows without a label in an order, none near one with a label or one taken before."""
    known = points[labels >= 0]
    taken = np.empty((number, points.shape[1]))
    rows: list[int] = []
    for row in order:
        if labels[row] >= 0:
            continue
        others = (known, taken[: len(rows)])
        here = points[[row]]
        if any(len(one) and squares_from(here, one).min() <= limit**2 for one in others):
            continue
        taken[len(rows)] = here[0]
        rows.append(int(row))
        if len(rows) == number:
            break
    return rows


def _k_means(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Return the cluster of each point, int `[n]`."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = points.astype(np.float32)
    rows = np.sort(np.random.default_rng(seed).permutation(len(points))[: max(_FITTED, k)])
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than k
        return KMeans(k, n_init=1, random_state=seed).fit(points[rows]).predict(points)


def _typicality(points: np.ndarray) -> np.ndarray:
    """Return 1 / (mean distance to the 20 nearest of `points`) of each, `[n]`."""
    if len(points) < 2:
        return np.ones(len(points))
    count = min(TYPICAL, len(points) - 1)
    _, squares = nearest_points(points, points, count, exclude_self=True)
    return 1 / np.maximum(np.sqrt(squares).mean(axis=1), 1e-12)


def _proposals(rows: object, scores: object) -> Proposals:
    return Proposals(np.array(rows, np.int64), np.array(scores, np.float64))
