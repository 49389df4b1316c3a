"""Drawing rows so that every class keeps its share."""

from __future__ import annotations

import numpy as np

from jaxssl.analysis import checks


def stratified_sample(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` rows without replacement, each class in proportion to its size.

    Class i of n_i rows gets count·n_i/n rows, rounded so that they add up to `count`, and at least
    one when there are as many to give as classes.

    Args:
        labels: `[n]`, a class for each row: numbers or strings.
        count: Rows to draw, 0 to n.
        rng: The source of chance.

    Returns:
        int64 `[count]`, the rows, ascending.

    Raises:
        ValueError: A count outside 0 to n, labels that are not `[n]` or of several kinds.
        InputError: NaN for a label.

    Example:
        >>> labels = np.array([0] * 8 + [1] * 2)
        >>> labels[stratified_sample(labels, 5, np.random.default_rng(0))]
        array([0, 0, 0, 0, 1])
    """
    (labels,) = checks.fit(0, labels=(labels, "n"))
    if not 0 <= count <= len(labels):
        raise ValueError(f"count is {count}, outside 0 to the {len(labels)} rows there are")
    _, classes, sizes = checks.classes("labels", labels)
    share = count * sizes / max(len(labels), 1)
    least = int(count >= len(sizes))
    taken = np.maximum(np.floor(share).astype(int), least)
    while taken.sum() < count:
        taken[np.argmax(share - taken)] += 1
    while taken.sum() > count:
        taken[np.argmax(taken)] -= 1
    rows = [
        rng.choice(np.flatnonzero(classes == label), size, replace=False)
        for label, size in enumerate(taken)
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
