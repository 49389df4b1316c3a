"""Labels that spread to alike images over the graph of nearest neighbours: transduction."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.distances import Metric, as_points
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.whitening import fit_whitening

# Chosen on seen classes of PlanktonSet, by scripts/frozen_probes.py.
NEIGHBOURS = 15
ALPHA = 0.95
SHRINKAGE = 0.2
RIDGE = 0.01
_TOLERANCE, _MOST_STEPS = 1e-4, 1000


def neighbour_graph(
    vectors: np.ndarray, *, neighbours: int = NEIGHBOURS, metric: Metric = "angular"
) -> Any:
    """Join every image to its nearest, labelled or not, by edges that fall off with distance.

        w_ij = exp(−d_ij² / (σ_i σ_j)) where j is one of the nearest of i, or i one of j; else 0

    with σ_i the distance of i's last neighbour: it is the same share of the images that counts as
    near in a dense and in a thin part of the space. Then S = D^−½ W D^−½, D the row sums of W.

    Args:
        vectors: `[n, d]`, all images, those to be predicted among them.
        neighbours: Of each image, 1 or more.
        metric: Of the distances.

    Returns:
        S, a symmetric sparse `[n, n]` (scipy's CSR) of at most 2·n·`neighbours` numbers, with
        nothing on the diagonal; its eigenvalues lie in [−1, 1].

    Raises:
        ValueError: Fewer than two vectors, another shape, or fewer than 1 neighbour.
        InputError: Vectors that are not finite.

    Reference:
        Zhou, Bousquet, Lal, Weston, Schölkopf 2004, "Learning with Local and Global Consistency"
        (S); Zelnik-Manor and Perona 2004, "Self-Tuning Spectral Clustering", equation 1 (σ_i).

    Example:
        >>> x = np.array([[0.0], [1.0], [10.0], [11.0]])
        >>> neighbour_graph(x, neighbours=1, metric="euclidean").toarray().round(3).tolist()
        [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    """
    from scipy import sparse

    checks.vectors("vectors", vectors, least=2)
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}, not 1 or more")
    near, distances = nearest_neighbours(
        vectors, vectors, count=neighbours, metric=metric, exclude_self=True
    )
    n, k = near.shape
    # Copies of one image are at no distance; they are as near as can be, not at 0 / 0.
    sigma = np.maximum(distances[:, -1], 1e-12)
    weights = np.exp(-(distances**2) / (sigma[:, None] * sigma[near]))
    one_way = sparse.csr_array((weights.ravel(), near.ravel(), np.arange(0, n * k + 1, k)), (n, n))
    both = one_way.maximum(one_way.T)
    roots = 1 / np.sqrt(np.maximum(both.sum(axis=1), 1e-300))
    return sparse.csr_array(sparse.diags_array(roots) @ both @ sparse.diags_array(roots))


def whitened_graph(
    vectors: np.ndarray,
    others: np.ndarray | None = None,
    *,
    shrinkage: float = SHRINKAGE,
    neighbours: int = NEIGHBOURS,
) -> Any:
    """Make the graph of vectors scaled to unit length, whitened and compared by angle.

    Args:
        vectors: `[n, d]`, all images, those to be predicted among them.
        others: `[m, d]`, that the whitening learns from; None: the vectors themselves. Labels have
            no part in it.
        shrinkage: Of `fit_whitening`.
        neighbours: Of `neighbour_graph`.

    Returns:
        As `neighbour_graph`.

    Raises:
        ValueError: As `neighbour_graph` and `fit_whitening`, or others of another d.
        InputError: Vectors or others that are not finite.

    Example:
        >>> x = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
        >>> (whitened_graph(x, neighbours=1).toarray() > 0).astype(int).tolist()
        [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    """
    vectors = checks.vectors("vectors", vectors, least=2)
    x = y = as_points(vectors, "angular")
    if others is not None:
        checks.fit(vectors=(vectors, "n d"), others=(others, "m d"))
        y = as_points(checks.vectors("others", others, least=2), "angular", name="others")
    whiten = fit_whitening(y, shrinkage=shrinkage)
    return neighbour_graph(whiten(x), neighbours=neighbours)


def spread(graph: Any, start: np.ndarray, *, alpha: float = ALPHA) -> np.ndarray:
    """Let scores flow over a graph until every image agrees with its neighbours and with its own.

    F = (1 − α)(I − αS)⁻¹ Y. Of Y with a 1 for each labelled image's class and 0 for all others this
    is label spreading. Solved by Chebyshev's semi-iteration, F_{t+1} = ω_t (αSF_t + (1 − α)Y −
    F_{t−1}) + F_{t−1}, which takes a sixth of the steps of F ← αSF + (1 − α)Y at α = .95; until no
    image's scores move by 1e-4 of its largest: far from all labels scores are small, and say as
    much.

    Args:
        graph: S of `neighbour_graph`.
        start: Y, `[n, k]`, 0 or more.
        alpha: α, in [0, 1): how much a neighbour counts; 0 returns Y.

    Returns:
        F, float64 `[n, k]`. An image that no labelled one can be reached from has zeros.

    Raises:
        ValueError: An α outside [0, 1), or another number of rows than the graph's.
        InputError: A start that is not finite.

    Reference:
        Zhou et al. 2004, section 2; the iteration: Golub and Varga 1961, "Chebyshev semi-iterative
        methods", with αS's eigenvalues in [−α, α].

    Example:
        >>> from scipy import sparse
        >>> chain = sparse.csr_array(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]))
        >>> spread(chain, np.array([[1.0], [0.0], [0.0]]), alpha=0.5).round(3).tolist()
        [[0.667], [0.333], [0.0]]
    """
    start = checks.as_array("start", start)
    if not 0 <= alpha < 1 or start.ndim != 2 or len(start) != graph.shape[0]:
        raise ValueError(
            f"alpha is {alpha} and start {start.shape}: [0, 1), and a row for each of the graph's "
            f"{graph.shape[0]}"
        )
    start = np.asarray(checks.vectors("start", start), np.float64)
    own = (1 - alpha) * start
    before, scores, omega = np.zeros_like(start), own, 2.0
    for _ in range(_MOST_STEPS):
        omega = 1 / (1 - alpha**2 * omega / 4)
        after = omega * (alpha * (graph @ scores) + own - before) + before
        moved = np.abs(after - scores).max(axis=1)
        before, scores = scores, after
        if (moved <= _TOLERANCE * np.abs(scores).max(axis=1)).all():
            break
    return np.maximum(scores, 0)


def spread_labels(
    graph: Any, rows: np.ndarray, labels: np.ndarray, *, classes: int, alpha: float = ALPHA
) -> np.ndarray:
    """Give every image a share of each class: label spreading from balanced labels.

    `spread` of Y_ic = 1 / (number of labels of class c) where image i is labelled c, then rows of
    sum 1. So a class of few labels has as much to give as one of many: unbalanced, the large
    classes take over the graph.

    Args:
        graph: S of `neighbour_graph`, of n images.
        rows: int `[m]`, which images are labelled.
        labels: int `[m]`, 0 to `classes` - 1; each class once at least.
        classes: k.
        alpha: As in `spread`.

    Returns:
        float64 `[n, k]`, rows of sum 1; of an image that no label reaches, 1 / k each.

    Raises:
        ValueError: Rows that there are not, or labels outside 0 to `classes` - 1.

    Example:
        >>> x = np.array([[0.0], [1.0], [2.5], [8.0], [9.0], [9.5]])
        >>> graph = neighbour_graph(x, neighbours=2, metric="euclidean")
        >>> shares = spread_labels(graph, np.array([0, 5]), np.array([1, 0]), classes=2)
        >>> shares.argmax(axis=1)
        array([1, 1, 1, 0, 0, 0])
    """
    rows, labels = _labelled(graph, rows, labels, classes)
    start = np.zeros((graph.shape[0], classes))
    start[rows, labels] = 1 / np.bincount(labels, minlength=classes)[labels]
    scores = spread(graph, start, alpha=alpha)
    sums = scores.sum(axis=1, keepdims=True)
    return np.where(sums > 0, scores / np.where(sums > 0, sums, 1), 1 / classes)


def propagate(
    vectors: np.ndarray,
    graph: Any,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    alpha: float = ALPHA,
    ridge: float = RIDGE,
) -> np.ndarray:
    """Classify all images from a few labels: a linear classifier that learns from spread labels.

    Every image gets the class of its largest share of `spread_labels` and the certainty
    c_i = 1 − H(shares_i) / log k, H the entropy; a labelled one its label, and c = 1. Ridge
    regression of the classes on the standardised vectors x̂, with an intercept, then minimises

        Σ_i c_i / C(i) · |Vᵀ x̂_i − onehot_i|² + λ |V|²

    with C(i) the sum of certainties in i's class, so that classes count alike, and λ = `ridge`
    times the mean of the diagonal of Σ c_i/C(i) x̂_i x̂_iᵀ. The plane that all images agree on
    corrects what single steps on the graph got wrong. In closed form: a d × d system, no
    iteration.

    Args:
        vectors: `[n, d]`, all images, those to be predicted among them.
        graph: S of `neighbour_graph`, of these images; of whitened vectors it serves best.
        rows: int `[m]`, which are labelled.
        labels: int `[m]`, 0 to `classes` - 1; each class once at least.
        classes: k, 2 or more.
        alpha: As in `spread`.
        ridge: λ's factor, above 0.

    Returns:
        Scores float64 `[n, k]`, about 1 for a sure class and 0 for the others.

    Raises:
        ValueError: Another number of vectors than the graph's, rows that there are not, labels
            outside 0 to `classes` - 1, or fewer than 2 classes.
        InputError: Vectors that are not finite.

    Reference:
        Iscen, Tolias, Avrithis, Chum 2019, "Label Propagation for Deep Semi-supervised Learning",
        equations 6 to 11 (spread labels, certainty, weights by class); with a linear classifier
        in the network's place.

    Example:
        >>> x = np.array([[0.0], [1.0], [2.5], [8.0], [9.0], [9.5]])
        >>> graph = neighbour_graph(x, neighbours=2, metric="euclidean")
        >>> scores = propagate(x, graph, np.array([0, 5]), np.array([1, 0]), classes=2)
        >>> scores.argmax(axis=1)
        array([1, 1, 1, 0, 0, 0])
    """
    x = np.asarray(checks.vectors("vectors", vectors), np.float64)
    if len(x) != graph.shape[0]:
        raise ValueError(f"vectors have shape {x.shape}, the graph is of {graph.shape[0]} images")
    if classes < 2:
        raise ValueError(f"classes is {classes}, not 2 or more")
    rows, labels = _labelled(graph, rows, labels, classes)
    shares = spread_labels(graph, rows, labels, classes=classes, alpha=alpha)
    found = shares.argmax(axis=1)
    certainty = 1 + (shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1) / np.log(classes)
    found[rows], certainty[rows] = labels, 1
    certainty = np.maximum(certainty, 0)  # of equal shares rounding leaves less than nothing
    weights = certainty / np.bincount(found, certainty, minlength=classes)[found]
    deviation = x.std(axis=0)
    x = (x - x.mean(axis=0)[None]) / np.where(deviation > 0, deviation, 1)[None]
    x = np.hstack([x, np.ones((len(x), 1))])
    weighted = x * weights[:, None]
    covariance = weighted.T @ x
    covariance[np.diag_indices_from(covariance)] += ridge * np.trace(covariance) / len(covariance)
    return x @ np.linalg.solve(covariance, weighted.T @ np.eye(classes)[found])


def _labelled(
    graph: Any, rows: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a graph that are labelled, and their labels."""
    rows, labels = checks.fit(rows=(rows, "m"), labels=(labels, "m"))
    labels = checks.numbers("labels", labels, least=0, most=classes - 1)
    return checks.rows("rows", rows, graph.shape[0]), labels
