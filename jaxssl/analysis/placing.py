"""Other images on a map that is fitted already: each by its nearest neighbours of the map."""

from __future__ import annotations

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.distances import Metric
from jaxssl.analysis.exemplars import nearest_neighbours

NEIGHBOURS = 15  # as UMAP's default
_SAME = 1e-3  # of a standardised distance: the same image, embedded again


def place(
    vectors: np.ndarray, bank: np.ndarray, places: np.ndarray, *, neighbours: int = NEIGHBOURS
) -> np.ndarray:
    """Place images on a map by the weighted mean of their nearest images' places.

    Vectors are standardised by the bank's mean and deviation, as `umap_together` does. An image
    with distances d_j to its k nearest has the weights w_j = exp(-d_j / s), with s such that they
    sum to log2(k): where UMAP's own transform begins, before it moves points by gradient steps.
    That it needs the fitted object, which a run folder does not keep. An image that the map has
    lies where it lies.

    Args:
        vectors: Of the new images, `[m, d]`.
        bank: Of the images on the map, `[n, d]`, n of 1 or more.
        places: Theirs on it, `[n, 2]`.
        neighbours: k, at most n are taken.

    Returns:
        Places, float64 `[m, 2]`, inside the hull of the map's.

    Raises:
        ValueError: As many places as images in the bank are needed; shapes that do not fit.
        InputError: Vectors, bank or places that are not finite.

    Reference:
        McInnes, Healy, Melville: UMAP (arXiv:1802.03426), eq. 1 for the weights' scale.

    Example:
        >>> bank, places = np.array([[0.0], [1.0], [9.0]]), np.array([[0, 0], [1, 0], [9, 9]])
        >>> place(np.array([[1.0], [0.5]]), bank, places, neighbours=2).tolist()
        [[1.0, 0.0], [0.5, 0.0]]
    """
    bank, places = checks.vectors("bank", bank), checks.vectors("places", places)
    if len(bank) != len(places):
        raise ValueError(f"{len(bank)} images and {len(places)} places: one place an image")
    vectors, _, _ = checks.fit(vectors=(vectors, "m d"), bank=(bank, "n d"), places=(places, "n 2"))
    checks.finite("vectors", vectors)
    mean, spread = bank.mean(axis=0, dtype=np.float64), bank.std(axis=0, dtype=np.float64)
    spread[np.ptp(bank, axis=0) == 0] = 1
    near, distances = nearest_neighbours(
        (vectors - mean) / spread, (bank - mean) / spread, count=neighbours
    )
    weights = _weights(distances)
    known = distances[:, 0] <= _SAME
    weights[known] = np.eye(1, weights.shape[1])
    return np.einsum("mk,mkt->mt", weights, np.asarray(places, np.float64)[near])


def _weights(distances: np.ndarray) -> np.ndarray:
    """Weigh neighbours by distance, `[m, k]` ascending, to sums of 1."""
    wanted = np.log2(max(distances.shape[1], 2))
    shifted = distances - distances[:, :1]  # the same after normalisation, and no underflow
    low, high = np.zeros(len(distances)), np.full(len(distances), 1e3) * distances[:, -1] + 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        total = np.exp(-distances / middle[:, None]).sum(axis=1)
        low, high = np.where(total < wanted, middle, low), np.where(total < wanted, high, middle)
    weights = np.exp(-shifted / high[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def unlike(vectors: np.ndarray, bank: np.ndarray, *, metric: Metric) -> tuple[np.ndarray, float]:
    """Measure how far images are from all of a bank, against how far the bank's own are.

    Args:
        vectors: Of the new images, `[m, d]`.
        bank: Of the known ones, `[n, d]`, n of 2 or more.
        metric: "euclidean", or "angular" in degrees.

    Returns:
        Each image's distance to its nearest of the bank, float64 `[m]`; and the distance within
        which 95 % of the bank's images have another.

    Raises:
        ValueError: Shapes that do not fit, or a bank of one image.
        InputError: Vectors or bank that are not finite.

    Example:
        >>> unlike(np.array([[2.5], [99.0]]), np.arange(10.0)[:, None], metric="euclidean")
        (array([ 0.5, 90. ]), 1.0)
    """
    checks.vectors("bank", bank, least=2)
    checks.fit(vectors=(vectors, "m d"), bank=(bank, "n d"))
    checks.vectors("vectors", vectors)
    own = nearest_neighbours(bank, bank, count=1, metric=metric, exclude_self=True)[1][:, 0]
    far = nearest_neighbours(vectors, bank, count=1, metric=metric)[1][:, 0]
    return far, float(np.quantile(own, 0.95))
