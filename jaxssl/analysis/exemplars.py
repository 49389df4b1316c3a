"""Which images stand for a class, which do not, and which look like a given one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxssl.analysis.distances import (
    Metric,
    as_distances,
    as_points,
    nearest_columns,
    nearest_points,
    squares_from,
)
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.parallel import in_order


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Rows of a table, int64, and their distances, float64, from the centre of one class.

    Args:
        closest: Images of the class, the nearest to its centre first.
        farthest: Images of the class, the farthest from its centre first.
        closest_of_others: Images of the other classes, the nearest to its centre first.
        closest_distances: Of `closest`; degrees for `"angular"`.
        farthest_distances: Of `farthest`.
        closest_of_others_distances: Of `closest_of_others`.
    """

    closest: np.ndarray
    farthest: np.ndarray
    closest_of_others: np.ndarray
    closest_distances: np.ndarray
    farthest_distances: np.ndarray
    closest_of_others_distances: np.ndarray


def exemplars(
    table: Embeddings, *, count: int = 5, metric: Metric = "euclidean"
) -> dict[str, Exemplars]:
    """Find for each class the most typical images, the least typical, and the look-alikes.

    The centre of a class is the mean of its vectors; for `"angular"` the direction of the mean of
    its unit vectors. Of images equally far, the one of the lower row comes first.

    Args:
        table: The embeddings.
        count: How many of each, 1 or more; a class with fewer images has fewer.
        metric: `"euclidean"`, or `"angular"` in degrees.

    Returns:
        `Exemplars` by class name, in the order of `table.class_list`.

    Raises:
        ValueError: A count below 1.

    Example:
        >>> table = Embeddings(
        ...     vectors=np.array([[0.0], [1.0], [5.0], [3.0]]),
        ...     ids=("a/1", "a/2", "a/3", "b/1"),
        ...     paths=("",) * 4,
        ...     class_names=("a", "a", "a", "b"),
        ...     class_index=np.array([0, 0, 0, 1]),
        ...     split=("test",) * 4,
        ... )
        >>> of_a = exemplars(table, count=2)["a"]
        >>> of_a.closest, of_a.farthest, of_a.closest_of_others
        (array([1, 0]), array([2, 0]), array([3]))
    """
    _check_count(count)
    points, labels = as_points(table.vectors, metric), table.labels

    def of_class(label: int) -> Exemplars:
        member = labels == label
        mean = points[member].mean(axis=0, keepdims=True)
        centre = mean if metric == "euclidean" else as_points(mean[:, :-1], metric)
        squares = squares_from(centre, points)

        def nearest(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
            most = min(count, len(rows))
            return rows[nearest_columns(values[None, rows], most)[0]] if most else rows

        inside, outside = np.flatnonzero(member), np.flatnonzero(~member)
        found = nearest(inside, squares), nearest(inside, -squares), nearest(outside, squares)
        return Exemplars(*found, *(as_distances(squares[rows], metric) for rows in found))

    classes = table.class_list
    return dict(zip(classes, in_order(of_class, range(len(classes))), strict=True))


def nearest_neighbours(
    queries: np.ndarray,
    bank: np.ndarray,
    *,
    count: int = 5,
    metric: Metric = "euclidean",
    exclude_self: bool = False,
    block: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest images of a bank for each query.

    Args:
        queries: `[m, d]`.
        bank: `[n, d]`.
        count: How many, 1 or more; at most what the bank holds (one less with `exclude_self`).
        metric: `"euclidean"`, or `"angular"` in degrees.
        exclude_self: The queries are the bank, and row i is no neighbour of query i.
        block: Queries compared with the whole bank at a time; memory is block·n, on
            each core.

    Returns:
        Rows of the bank int64 `[m, count]`, nearest first and the lower row first of two equally
        near, and their distances float64 `[m, count]`.

    Raises:
        ValueError: Queries and bank of different d, or not the same n with `exclude_self`; none,
            or a count below 1.
        InputError: Queries or bank that are not finite.

    Example:
        >>> bank = np.array([[0.0], [2.0], [3.0]])
        >>> nearest_neighbours(bank, bank, count=1, exclude_self=True)[0].tolist()
        [[1], [2], [1]]
    """
    _check_count(count)
    x, y = as_points(queries, metric, name="queries"), as_points(bank, metric, name="bank")
    if x.shape[1] != y.shape[1] or (exclude_self and len(x) != len(y)):
        raise ValueError(
            f"queries have shape {np.shape(queries)} and bank {np.shape(bank)}: not [m, d] and "
            f"[n, d]{' with m = n, to leave out self' if exclude_self else ''}"
        )
    count = min(count, len(y) - exclude_self)
    indices, squares = nearest_points(x, y, count, exclude_self=exclude_self, block=block)
    return indices, as_distances(squares, metric)


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count is {count}, not 1 or more")
