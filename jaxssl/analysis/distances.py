"""Distances between embeddings, and between classes of them, in blocks of bounded memory.

Two metrics run through this room: `"euclidean"`, |x − y|, and `"angular"`, the angle between x and
y in degrees. The zero vector has no direction: it is 90° from every other vector and 0° from
another zero vector, so a set that collapsed to zeros reads as equal points.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.parallel import in_order

Metric = Literal["euclidean", "angular"]


def class_distances(
    vectors: np.ndarray,
    class_index: np.ndarray,
    classes: int,
    *,
    metric: Metric = "euclidean",
    block: int = 1024,
) -> np.ndarray:
    """Average the distance between the images of each class and those of each other class.

    D_ij = mean of d(x, y) over x in class i and y in class j; D_ii over pairs of distinct images.

    Args:
        vectors: `[n, d]`.
        class_index: int `[n]`, 0 to `classes` - 1.
        classes: The number of classes k.
        metric: `"euclidean"`, or `"angular"` in degrees, 0 to 180.
        block: Rows and columns of a tile.

    Returns:
        float64 `[k, k]`, symmetric; NaN where a class has no image, and on the diagonal where it
        has one.

    Raises:
        ValueError: Shapes that do not fit, or a class_index outside 0 to `classes` - 1.
        InputError: Vectors that are not finite.

    Example:
        >>> x = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
        >>> class_distances(x, np.array([0, 0, 1]), 2).round(3)
        array([[5.   , 2.621],
               [2.621,   nan]])
    """
    sums = distance_sums(vectors, class_index, classes, metric=metric, block=block)
    return class_means(sums, class_index)


def distance_sums(
    vectors: np.ndarray,
    class_index: np.ndarray,
    classes: int,
    *,
    metric: Metric = "euclidean",
    block: int = 1024,
) -> np.ndarray:
    """Sum the distances of each image to the images of each class.

    S_xj = sum of d(x, y) over y in class j: what mean distances between classes and silhouettes
    are made of. In float64, each pair once, on tiles of `block` x `block` on all cores: memory
    grows with n·(d + k) + block², never with n².

    Args:
        vectors: `[n, d]`.
        class_index: int `[n]`, 0 to `classes` - 1.
        classes: The number of classes k.
        metric: `"euclidean"`, or `"angular"` in degrees.
        block: Rows and columns of a tile.

    Returns:
        float64 `[n, k]`.

    Raises:
        ValueError: Shapes that do not fit, or a class_index outside 0 to `classes` - 1.
        InputError: Vectors that are not finite.

    Example:
        >>> distance_sums(np.array([[0.0], [3.0], [5.0]]), np.array([0, 0, 1]), 2)
        array([[3., 5.],
               [3., 2.],
               [7., 0.]])
    """
    vectors, class_index = checks.fit(0, vectors=(vectors, "n d"), class_index=(class_index, "n"))
    class_index = _checked_classes(class_index, classes)
    order = np.argsort(class_index, kind="stable")
    points, labels = as_points(vectors, metric)[order], class_index[order]
    n = len(points)

    def tile_sums(corner: tuple[int, int]) -> tuple[slice, slice, np.ndarray, np.ndarray]:
        rows, columns = (slice(start, min(start + block, n)) for start in corner)
        tile = distance_tile(points[rows], points[columns], metric)
        if rows == columns:  # an image with itself: rounding would say 1e-8 of the spread
            np.fill_diagonal(tile, 0)
        return rows, columns, _sums(tile, labels[columns]), _sums(tile.T, labels[rows])

    sums = np.zeros((n, classes))
    starts = range(0, n, block)
    corners = ((top, left) for top in starts for left in starts if left >= top)
    for rows, columns, across, down in in_order(tile_sums, corners):
        # Sorted by class, a tile has a run of neighbouring classes each way.
        first, last = labels[columns.start], labels[columns.stop - 1]
        sums[rows, first : last + 1] += across
        if rows != columns:
            first, last = labels[rows.start], labels[rows.stop - 1]
            sums[columns, first : last + 1] += down
    found = np.empty_like(sums)
    found[order] = sums
    return found


def _sums(tile: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum rows over the columns of each class, from the first class of ascending labels on."""
    runs = np.searchsorted(labels, np.arange(labels[0], labels[-1] + 2))
    sums = [tile[:, start:end].sum(axis=1) for start, end in itertools.pairwise(runs)]
    return np.stack(sums, axis=1)


def class_means(sums: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Return what `class_distances` does, from the `[n, k]` that `distance_sums` returns.

    Raises:
        ValueError: Shapes that do not fit, or a class_index outside 0 to k - 1.
        InputError: Sums that are not finite.
    """
    sums, class_index = checks.fit(0, sums=(sums, "n k"), class_index=(class_index, "n"))
    checks.finite("sums", sums)
    class_index = _checked_classes(class_index, sums.shape[1])
    counts = np.bincount(class_index, minlength=sums.shape[1])
    rows = np.split(np.argsort(class_index, kind="stable"), np.cumsum(counts)[:-1])
    totals = np.stack([sums[row].sum(axis=0) for row in rows])
    pairs = np.outer(counts, counts) - np.diag(counts)
    means = np.full_like(totals, np.nan)
    return np.divide((totals + totals.T) / 2, pairs, out=means, where=pairs > 0)


def separation(matrix: np.ndarray) -> float:
    """Measure how far apart classes are, in units of how wide they are: 1 means not at all.

    separation = mean_{i<j} D_ij / mean_i D_ii, over the cells that are not NaN.

    Args:
        matrix: `[k, k]` of `class_distances`.

    Returns:
        The ratio, 0 or more; infinite where every class is one point and the classes differ; NaN
        with fewer than two classes, with no class of two images, or when all points are equal.

    Raises:
        ValueError: A matrix that is not square.

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


def as_points(vectors: np.ndarray, metric: Metric, *, name: str = "vectors") -> np.ndarray:
    """Return the vectors as float64 points whose Euclidean distance orders pairs as `metric`.

    Euclidean: the vectors themselves. Angular: on the unit sphere of one dimension more, which a
    zero vector takes for itself.

    Args:
        vectors: `[n, d]`.
        metric: `"euclidean"` or `"angular"`.
        name: What an error calls the vectors.

    Returns:
        float64 `[n, d]`, or `[n, d + 1]` for `"angular"`.

    Raises:
        ValueError: An unknown metric, another shape, or no real numbers.
        InputError: Vectors that are not finite.

    Example:
        >>> as_points(np.array([[3.0, 4.0], [0.0, 0.0]]), "angular")
        array([[0.6, 0.8, 0. ],
               [0. , 0. , 1. ]])
    """
    if metric not in get_args(Metric):
        raise ValueError(f"metric is {metric!r}, not one of {', '.join(get_args(Metric))}")
    vectors = checks.vectors(name, vectors, least=0)
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
    """Compute the distances between two sets of points, all at once.

    |x − y|² = |x|² + |y|² − 2x·y loses the digits of |x − y| when x and y are close together and
    far from the origin, so the origin moves to the rows' mean: the error is then about 1e-8 of
    the rows' spread, wherever they lie. The angle of a chord c is 2·arcsin(c/2), which keeps
    small angles that arccos of a cosine near 1 rounds away.

    Args:
        rows: float64 points `[m, d]` of `as_points`.
        columns: float64 points `[n, d]` of `as_points`.
        metric: What the points were made for.

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
    one = np.ones((1, 1))
    # The squares are two more columns of the product: no passes of their own over the tile.
    left = np.hstack([-2 * x, _squares(x), np.broadcast_to(one, (len(x), 1))])
    right = np.hstack([y, np.broadcast_to(one, (len(y), 1)), _squares(y)])
    return as_distances(left @ right.T, metric)


def as_distances(squares: np.ndarray, metric: Metric) -> np.ndarray:
    """Turn squared distances of points of `as_points` into distances, in place.

    Example:
        >>> as_distances(np.array([-1e-17, 4.0]), "angular")
        array([  0., 180.])
    """
    np.maximum(squares, 0, out=squares)
    np.sqrt(squares, out=squares)
    if metric == "angular":
        squares /= 2
        np.arcsin(np.minimum(squares, 1, out=squares), out=squares)
        squares *= 360 / np.pi
    return squares


def ranking(columns: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Get points ready to be ordered by their distance from others.

    Args:
        columns: float64 points `[n, d]` of `as_points`.

    Returns:
        A function: points `[m, d]` to a new float64 `[m, n]`, |y|² − 2x·y about the columns' mean:
        less than the squared distances by a number for each row, in one product without a pass.

    Example:
        >>> ranking(np.array([[0.0], [4.0]]))(np.array([[1.0], [5.0]]))
        array([[ 0.,  8.],
               [16., -8.]])
    """
    origin = columns.mean(axis=0, keepdims=True)
    right = columns - origin
    right = np.hstack([right, _squares(right)])

    def rank(rows: np.ndarray) -> np.ndarray:
        return np.hstack([-2 * (rows - origin), np.ones((len(rows), 1))]) @ right.T

    return rank


def nearest_columns(tile: np.ndarray, count: int) -> np.ndarray:
    """Find the columns of the `count` smallest values of each row.

    The smallest comes first, and of two equal ones the lower column.

    Args:
        tile: `[m, n]`.
        count: 1 to n.

    Returns:
        int64 `[m, count]`.

    Example:
        >>> nearest_columns(np.array([[3.0, 1.0, 1.0, 1.0, 0.0]]), 3)
        array([[4, 1, 2]])
    """
    nearest = np.empty((len(tile), count), np.int64)
    for row, values, limit in zip(nearest, tile, _limits(tile, count), strict=True):
        near = np.flatnonzero(values <= limit)
        row[:] = near[np.argsort(values[near], kind="stable")[:count]]
    return nearest


def _limits(tile: np.ndarray, count: int) -> np.ndarray:
    """Find for each row `[m]` a number that `count` of its values do not exceed, and few more.

    Columns are dealt to groups; as many groups have such a value as have their smallest below
    the `count`-th smallest of these. One pass, where a partition of the row takes several.
    """
    size = max(tile.shape[1] // max(8 * count, 1024), 1)  # short runs are slow to go through
    groups = tile.shape[1] // size
    smallest = tile[:, : groups * size].reshape(len(tile), size, groups).min(axis=1)
    return np.partition(smallest, count - 1, axis=1)[:, count - 1]


def nearest_points(
    queries: np.ndarray,
    bank: np.ndarray,
    count: int,
    *,
    exclude_self: bool = False,
    block: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest points of a bank for each query, exact in float64, screened in float32.

    A float32 product says which points may be among the nearest: those within twice its bound of
    rounding, (d + 8)·2⁻²⁴·(2|x||y| + |y|²), of the `count`-th. Only these are measured, by their
    differences, so that equal points are equally far whatever the block.

    Args:
        queries: float64 points `[m, d]` of `as_points`.
        bank: float64 points `[n, d]` of `as_points`.
        count: How many, 1 to n; to n - 1 with `exclude_self`.
        exclude_self: The queries are the bank, and row i is no neighbour of query i.
        block: Queries compared with the whole bank at a time; memory is block·n, on each core.

    Returns:
        Rows of the bank int64 `[m, count]`, nearest first and the lower row first of two equally
        near, and squared distances float64 `[m, count]`.

    Raises:
        ValueError: Shapes that do not fit, or a count that the bank does not hold.
        InputError: Points that are not finite.

    Example:
        >>> nearest_points(np.array([[1.0]]), np.array([[0.0], [4.0], [2.0]]), 2)
        (array([[0, 2]]), array([[1., 1.]]))
    """
    queries, bank = checks.fit(queries=(queries, "m d"), bank=(bank, "n d"))
    checks.finite("queries", queries)
    checks.finite("bank", bank)
    if not 0 <= count <= len(bank) - exclude_self:
        raise ValueError(f"count is {count}: the bank has {len(bank) - exclude_self} others")
    origin = bank.mean(axis=0, keepdims=True)
    x, y = queries - origin, bank - origin
    unit = max(np.abs(x).max(), np.abs(y).max()) or 1.0  # squares of 1e20 leave float32
    x, y = x / unit, y / unit
    longest = np.sqrt(_squares(y).max())
    slack = (x.shape[1] + 8) * 2.0**-23 * (2 * np.sqrt(_squares(x)) * longest + longest**2)
    left = np.hstack([-2 * x, np.ones((len(x), 1))]).astype(np.float32)
    right = np.hstack([y, _squares(y)]).astype(np.float32)

    def of_block(top: int) -> tuple[np.ndarray, np.ndarray]:
        tile = left[top : top + block] @ right.T
        rows = np.arange(top, top + len(tile))
        if exclude_self:
            tile[rows - top, rows] = np.inf
        found = np.empty((len(tile), count), np.int64), np.empty((len(tile), count))
        limits = _limits(tile, count) + slack[rows, 0]
        for i, (values, limit) in enumerate(zip(tile, limits, strict=True)):
            near = np.flatnonzero(values <= limit)
            squares = squares_from(queries[[top + i]], bank[near])
            order = np.argsort(squares, kind="stable")[:count]
            found[0][i], found[1][i] = near[order], squares[order]
        return found

    parts = list(in_order(of_block, range(0, len(x), block)))
    indices, squares = (np.concatenate(part) for part in zip(*parts, strict=True))
    return indices, squares


def squares_from(centre: np.ndarray, points: np.ndarray, block: int = 1024) -> np.ndarray:
    """Square the distances of points `[n, d]` from one, `[1, d]`: by differences, in the cache."""
    found = np.empty(len(points))
    for top in range(0, len(points), block):
        found[top : top + block] = _squares(points[top : top + block] - centre)[:, 0]
    return found


def _squares(points: np.ndarray) -> np.ndarray:
    return np.einsum("id,id->i", points, points)[:, None]


def _checked_classes(class_index: np.ndarray, classes: int) -> np.ndarray:
    class_index = checks.numbers("class_index", class_index)
    if class_index.size and not 0 <= class_index.min() <= class_index.max() < classes:
        raise ValueError(
            f"class_index runs from {class_index.min()} to {class_index.max()}, outside 0 to "
            f"{classes - 1} of {classes} classes"
        )
    return class_index
