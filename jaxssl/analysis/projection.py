"""Two-dimensional maps of several tables together: UMAP and t-SNE."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.sampling import stratified_sample
from jaxssl.errors import InputError

Maps = dict[str, tuple[np.ndarray, np.ndarray]]

# Beyond this many points UMAP looks for neighbours by nearest-neighbour descent.
_EXACT = 4096
FEWEST = 5  # under this a neighbourhood means nothing, and the eigenvectors of UMAP do not exist


def standardise(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scale each feature to mean 0 and standard deviation 1 over all arrays together.

    (x − μ) / σ with μ and σ of the rows of all arrays; a constant feature becomes 0.

    Args:
        *arrays: `[n_i, d]`, of one d.

    Returns:
        One float64 `[n_i, d]` an array, in their order.

    Raises:
        ValueError: No array, arrays of different d, or no real numbers.
        InputError: Arrays that are not finite.

    Example:
        >>> standardise(np.array([[1.0], [3.0]]), np.array([[5.0]]))[1].round(3)
        array([[1.225]])
    """
    arrays = tuple(checks.as_array(f"array {i}", array) for i, array in enumerate(arrays))
    shapes = [array.shape for array in arrays]
    if not arrays or any(len(s) != 2 or s[1] != shapes[0][1] for s in shapes):
        raise ValueError(f"arrays have shapes {shapes}, not [n, d] with one d")
    for i, array in enumerate(arrays):
        checks.finite(f"array {i}", array)
    together = np.concatenate([np.asarray(array, np.float64) for array in arrays])
    spread = together.std(axis=0)
    # The mean of n equal numbers is off by rounding, which is no spread to divide by.
    constant = np.ptp(together, axis=0) == 0
    together = (together - together.mean(axis=0)) / np.where(constant, 1, spread)
    together[:, constant] = 0
    return tuple(np.split(together, np.cumsum([len(array) for array in arrays])[:-1]))


def umap_together(tables: Mapping[str, Embeddings], *, limit: int = 2500, seed: int = 0) -> Maps:
    """Place several sets in one plane by UMAP, so that their places can be compared.

    All sets are standardised together and fitted together, with umap-learn's defaults (15
    neighbours, or all the others where there are fewer; minimum distance .1; Euclidean).

    Args:
        tables: Name of a set to its table; one d for all.
        limit: At most this many images a set, drawn by class in proportion.
        seed: Of the draw and of UMAP; the same seed gives the same map on the same machine.

    Returns:
        For each set the row numbers drawn, int64 `[m]`, ascending, and their places, float32
        `[m, 2]`.

    Raises:
        InputError: Fewer than 5 images in all.

    Reference:
        McInnes, Healy, Melville: UMAP (arXiv:1802.03426).
    """
    return _together(tables, limit, seed, _umap)


def _umap(points: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # TensorFlow is missing, which only its ParametricUMAP uses.
        warnings.simplefilter("ignore", ImportWarning)
        # Equal points have no eigenvectors: it starts at random, and says so in five lines.
        warnings.filterwarnings("ignore", "Spectral initialisation failed", UserWarning)
        from umap import UMAP

        neighbours = min(15, len(points) - 1)
        options = {}
        if len(points) > _EXACT:
            # Descent takes 18 seconds to compile; all distances of some thousand points take one.
            warnings.filterwarnings("ignore", "precomputed_knn", UserWarning)
            near, far = nearest_neighbours(
                points, points, count=neighbours - 1, metric="euclidean", exclude_self=True
            )
            near = np.column_stack([np.arange(len(points)), near])  # UMAP counts the point itself
            far = np.column_stack([np.zeros(len(points)), far]).astype(np.float32)
            options["precomputed_knn"] = (near, far, None)
        # random_state forces n_jobs=1, and warns where that was not said.
        reducer = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1, **options)
        return reducer.fit_transform(points)


def tsne_together(tables: Mapping[str, Embeddings], *, limit: int = 2500, seed: int = 0) -> Maps:
    """Place several sets in one plane by t-SNE; the counterpart of `umap_together`.

    scikit-learn's defaults (perplexity 30, or a third of the others where there are fewer).

    Args:
        tables: Name of a set to its table; one d for all.
        limit: At most this many images a set, drawn by class in proportion.
        seed: Of the draw and of t-SNE.

    Returns:
        As `umap_together`.

    Raises:
        InputError: Fewer than 5 images in all.

    Reference:
        van der Maaten, Hinton: Visualizing Data using t-SNE (JMLR 9, 2008).
    """
    return _together(tables, limit, seed, _tsne)


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)
    # PCA's start needs two axes, and divides by its own spread.
    init = "pca" if points.shape[1] > 1 and points.any() else "random"
    # One thread: the sums of several come in any order, and under load they wait for another.
    with threadpool_limits(1):
        return TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(points)


def _together(
    tables: Mapping[str, Embeddings],
    limit: int,
    seed: int,
    fit: Callable[[np.ndarray, int], np.ndarray],
) -> Maps:
    rows = {
        name: stratified_sample(table.labels, min(limit, len(table)), np.random.default_rng(seed))
        for name, table in tables.items()
    }
    total = sum(map(len, rows.values()))
    if total < FEWEST:
        raise InputError(
            f"a map of {total} images ({', '.join(tables) or 'no set'}) shows nothing: "
            f"{FEWEST} or more are needed"
        )
    points = standardise(*(tables[name].vectors[rows[name]] for name in rows))
    places = fit(np.concatenate(points), seed).astype(np.float32)
    parts = np.split(places, np.cumsum([len(array) for array in points])[:-1])
    return {name: (rows[name], part) for name, part in zip(rows, parts, strict=True)}
