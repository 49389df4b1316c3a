"""Images unlike all others, found without labels."""

from __future__ import annotations

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.results import Outlier
from jaxssl.analysis.tables import Together

LISTED = 100


def find_outliers(
    images: Together, nearest: np.ndarray, distances: np.ndarray, *, count: int = LISTED
) -> tuple[Outlier, ...]:
    """List the images that are farthest from their nearest neighbours.

    An image's distance is the mean one to its m nearest; its isolation is that over the mean of
    the same of these m, which is 1 where it lies as densely as they do: a class that is wide as a
    whole has large distances and an isolation of 1.

    Args:
        images: Of `together`.
        nearest: Rows of each image's nearest others, int `[n, m]`.
        distances: Their distances `[n, m]`.
        count: Most images listed.

    Returns:
        The farthest first.

    Raises:
        ValueError: Shapes that do not fit, or rows that there are not.
        InputError: Distances that are not finite.

    Reference:
        Angiulli, Pizzuti: Fast Outlier Detection in High Dimensional Spaces (PKDD 2002), the
        distance; Breunig et al.: LOF (SIGMOD 2000), the isolation, without its smoothing.

    Example:
        >>> from jaxssl.analysis.exemplars import nearest_neighbours
        >>> x = np.array([[0.0], [1.0], [2.0], [9.0]])
        >>> images = Together(x, tuple("abcd"), ("",) * 4, ("",) * 4, ("train",) * 4, (b"",) * 4,
        ...                   "euclidean")
        >>> find_outliers(images, *nearest_neighbours(x, x, count=1, exclude_self=True), count=1)
        (Outlier(id='d', set='train', class_name='', distance=7.0, isolation=7.0),)
    """
    nearest, distances = checks.neighbours(nearest, distances, len(images))
    mean = distances.mean(axis=1)
    around = mean[nearest].mean(axis=1)
    isolation = np.divide(mean, around, out=np.ones_like(mean), where=around > 0)
    return tuple(
        Outlier(
            id=images.ids[row],
            set=images.sets[row],
            class_name=images.class_names[row],
            distance=float(mean[row]),
            isolation=float(isolation[row]),
        )
        for row in np.argsort(-mean, kind="stable")[:count]
    )
