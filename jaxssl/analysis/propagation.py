"""Labels that spread to alike images over the graph of nearest neighbours: transduction."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxssl.analysis.distances import Metric
from jaxssl.analysis.exemplars import nearest_neighbours

NEIGHBOURS = 15
ALPHA = 0.9
_TOLERANCE, _MOST_STEPS = 1e-6, 1000


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

    Reference:
        Zhou, Bousquet, Lal, Weston, Schölkopf 2004, "Learning with Local and Global Consistency"
        (S); Zelnik-Manor and Perona 2004, "Self-Tuning Spectral Clustering", equation 1 (σ_i).

    Example:
        >>> x = np.array([[0.0], [1.0], [10.0], [11.0]])
        >>> neighbour_graph(x, neighbours=1, metric="euclidean").toarray().round(3).tolist()
        [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    """
    from scipy import sparse

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


def spread(graph: Any, start: np.ndarray, *, alpha: float = ALPHA) -> np.ndarray:
    """Let scores flow over a graph until every image agrees with its neighbours and with its own.

    F = (1 − α)(I − αS)⁻¹ Y, by F ← αSF + (1 − α)Y until no image's scores move by a millionth of
    its largest: far from all labels scores are small, and say as much. Of Y with a 1 for each labelled image's class and 0 for all others this is label
    spreading; of a classifier's probabilities it smooths them.

    Args:
        graph: S of `neighbour_graph`.
        start: Y, `[n, k]`, 0 or more.
        alpha: α, in [0, 1): how much a neighbour counts; 0 returns Y.

    Returns:
        F, float64 `[n, k]`. An image that no labelled one can be reached from has zeros.

    Raises:
        ValueError: An α outside [0, 1), or another number of rows than the graph's.

    Reference:
        Zhou et al. 2004, section 2; smoothed predictions: Huang et al. 2021, "Combining Label
        Propagation and Simple Models Out-performs Graph Neural Networks", section 2.3.

    Example:
        >>> from scipy import sparse
        >>> chain = sparse.csr_array(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]))
        >>> spread(chain, np.array([[1.0], [0.0], [0.0]]), alpha=0.5).round(3).tolist()
        [[0.667], [0.333], [0.0]]
    """
    start = np.asarray(start, np.float64)
    if not 0 <= alpha < 1 or start.ndim != 2 or len(start) != graph.shape[0]:
        raise ValueError(
            f"alpha is {alpha} and start {start.shape}: [0, 1), and a row for each of the graph's "
            f"{graph.shape[0]}"
        )
    scores = start
    for _ in range(_MOST_STEPS):
        after = alpha * (graph @ scores) + (1 - alpha) * start
        moved, scores = np.abs(after - scores).max(axis=1), after
        if (moved <= _TOLERANCE * scores.max(axis=1)).all():
            break
    return scores
