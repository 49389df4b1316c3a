"""Distances between embeddings, and between classes of them, in blocks of bounded memory.

Two metrics run through this room: `"euclidean"`, |x − y|, and `"angular"`, the angle between x and
y in degrees. The zero vector has no direction: it is 90° from every other vector and 0° from
another zero vector, so a set that collapsed to zeros reads as equal points.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Metric = Literal["euclidean", "angular"]


def class_distances(
    vectors: np.ndarray,
    class_index: np.ndarray,
    classes: int,
    *,
    metric: Metric = "euclidean",
    block: int = 2048,
) -> np.ndarray:
    """Mean distance between the images of each class and the images of each other class.

    D_ij = mean of d(x, y) over x in class i and y in class j; D_ii over pairs of distinct images.
    In float64 on tiles of `block` x `block`: memory grows with n·d + block², never with n².

    Args:
        vectors: `[n, d]`.
        class_index: int `[n]`, 0 to `classes` - 1.
        classes: the number of classes k.
        metric: `"euclidean"`, or `"angular"` in degrees, 0 to 180.
        block: rows and columns of a tile.

    Returns:
        float64 `[k, k]`, symmetric; NaN where a class has no image, and on the diagonal where it
        has one.

    Raises:
        ValueError: shapes that do not fit, or a class_index outside 0 to `classes` - 1.

    Example:
        >>> x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> class_distances(x, np.array([0, 0, 1]), 2).round(3)
        array([[5.   , 2.621],
               [2.621,   nan]])
    """
    vectors, class_index = np.asarray(vectors), np.asarray(class_index)
    _check_classes(vectors, class_index, classes)
    order = np.argsort(class_index, kind="stable")
    points = as_points(vectors[order], metric)
    counts = np.bincount(class_index, minlength=classes)
    ends = np.cumsum(counts)
    sums = np.zeros((classes, classes))
    for i, (start, end) in enumerate(zip(ends - counts, ends, strict=True)):
        for top in range(start, end, block):
            rows = slice(top, min(top + block, end))
            for left in range(start, len(points), block):
                columns = slice(left, min(left + block, len(points)))
                tile = distance_tile(points[rows], points[columns], metric)
                if left == top:  # an image with itself: rounding would say 1e-8 of the spread
                    np.fill_diagonal(tile, 0)
                sums[i] += np.bincount(class_index[order[columns]], tile.sum(axis=0), classes)
    sums = np.triu(sums) + np.triu(sums, 1).T
    pairs = np.outer(counts, counts) - np.diag(counts)
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)


def separation(matrix: np.ndarray) -> float:
    """How far apart the classes are, in units of how wide they are: 1 means not at all.

    separation = mean_{i<j} D_ij / mean_i D_ii, over the cells that are not NaN.

    Args:
        matrix: `[k, k]` of `class_distances`.

    Returns:
        The ratio, 0 or more; infinite where every class is one point and the classes differ; NaN
        with fewer than two classes, with no class of two images, or when all points are equal.

    Example:
        >>> separation(np.array([[1.0, 6.0], [6.0, 2.0]]))
        4.0
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix has shape {matrix.shape}, not [k, k]")
    between = matrix[np.triu_indices(len(matrix), 1)]
    within = np.diag(matrix)
    between, within = between[~np.isnan(between)], within[~np.isnan(within)]
    if not between.size or not within.size:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(between.mean() / within.mean())


def as_points(vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """The vectors as float64 points whose Euclidean distance orders pairs as `metric` does.

    Euclidean: the vectors themselves. Angular: on the unit sphere of one dimension more, which a
    zero vector takes for itself.

    Args:
        vectors: `[n, d]`.
        metric: `"euclidean"` or `"angular"`.

    Returns:
        float64 `[n, d]`, or `[n, d + 1]` for `"angular"`.

    Example:
        >>> as_points(np.array([[3.0, 4.0], [0.0, 0.0]]), "angular")
        array([[0.6, 0.8, 0. ],
               [0. , 0. , 1. ]])
    """
    if metric not in get_args(Metric):
        raise ValueError(f"metric is {metric!r}, not one of {', '.join(get_args(Metric))}")
    if np.ndim(vectors) != 2:
        raise ValueError(f"vectors have shape {np.shape(vectors)}, not [n, d]")
    if metric == "euclidean":
        return np.asarray(vectors, np.float64)
    points = np.zeros((len(vectors), vectors.shape[1] + 1))
    points[:, :-1] = vectors
    # Scaled by the largest entry first: squares of 1e-200 or 1e200 leave float64.
    largest = np.abs(points).max(axis=1, keepdims=True)
    points /= np.where(largest > 0, largest, 1)
    points[:, -1] = largest[:, 0] == 0
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def distance_tile(rows: np.ndarray, columns: np.ndarray, metric: Metric) -> np.ndarray:
    """Distances between two sets of points, all at once.

    |x − y|² = |x|² + |y|² − 2x·y loses the digits of |x − y| when x and y are close together and
    far from the origin, so the origin moves to the rows' mean: the error is then about 1e-8 of
    the rows' spread, wherever they lie. The angle of a chord c is 2·arcsin(c/2), which keeps
    small angles that arccos of a cosine near 1 rounds away.

    Args:
        rows: float64 points `[m, d]` of `as_points`.
        columns: float64 points `[n, d]` of `as_points`.
        metric: what the points were made for.

    Returns:
        float64 `[m, n]`: |x − y|, or the angle in degrees.

    Example:
        >>> x = as_points(np.array([[1.0, 0.0]]), "angular")
        >>> y = as_points(np.array([[0.0, 2.0], [-3.0, 0.0]]), "angular")
        >>> distance_tile(x, y, "angular").round(6)
        array([[ 90., 180.]])
    """
    origin = rows.mean(axis=0, keepdims=True)
    x, y = rows - origin, columns - origin
    tile = x @ y.T
    tile *= -2
    tile += np.einsum("id,id->i", x, x)[:, None]
    tile += np.einsum("id,id->i", y, y)
    np.sqrt(np.maximum(tile, 0, out=tile), out=tile)
    if metric == "angular":
        tile /= 2
        np.arcsin(np.minimum(tile, 1, out=tile), out=tile)
        tile *= 360 / np.pi
    return tile


def nearest_columns(tile: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` smallest values of each row, smallest first.

    Args:
        tile: `[m, n]`.
        count: 1 to n.

    Returns:
        int64 `[m, count]`; of equal values the lower column first, save where `count` cuts between.

    Example:
        >>> nearest_columns(np.array([[3.0, 1.0, 2.0]]), 2)
        array([[1, 2]])
    """
    nearest = np.sort(np.argpartition(tile, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(np.take_along_axis(tile, nearest, axis=1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)


def _check_classes(vectors: np.ndarray, class_index: np.ndarray, classes: int) -> None:
    if vectors.ndim != 2 or class_index.shape != vectors.shape[:1]:
        raise ValueError(
            f"vectors have shape {vectors.shape} and class_index {class_index.shape}, not [n, d] "
            "and [n]"
        )
    if class_index.size and not 0 <= class_index.min() <= class_index.max() < classes:
        raise ValueError(
            f"class_index runs from {class_index.min()} to {class_index.max()}, outside 0 to "
            f"{classes - 1} of {classes} classes"
        )
