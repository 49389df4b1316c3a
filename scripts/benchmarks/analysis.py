"""What the analysis of many embeddings costs: time and memory of each function, here and direct.

`python scripts/benchmarks/analysis.py`

One question a function: distances between classes, exemplars, nearest neighbours, kNN votes,
retrieval, silhouette; of n embeddings of 128 numbers in 100 classes. "direct" is the form that one
would write with scikit-learn, which mostly holds n x n: at 10,000 images beside ours, at 300,000
nothing holds it (720 GB), and ours stands alone. At that size a run takes minutes, and is run once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from _measure import Run, add_flags, measure, print_table, write_json
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.neighbors import NearestNeighbors

from jaxssl.analysis.distances import class_distances
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.exemplars import exemplars, nearest_neighbours
from jaxssl.analysis.probes import knn_votes
from jaxssl.analysis.retrieval import retrieval, silhouette

# Votes are asked for by at most so many test images; the bank is all n.
QUERIES = 10_000


def embeddings(images: int, d: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw classes that overlap, as those of a trained network do; R is images / classes."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(images) % classes)
    centres = rng.normal(size=(classes, d)).astype(np.float32)
    noise = rng.normal(size=(images, d)).astype(np.float32)
    return centres[labels] + 5 * noise, labels


def table(vectors: np.ndarray, labels: np.ndarray) -> Embeddings:
    """Make a table as the programs hold it."""
    names = tuple(map(str, range(len(labels))))
    return Embeddings(
        vectors=vectors,
        ids=names,
        paths=names,
        class_names=tuple(map(str, labels)),
        class_index=labels,
        split=("test",) * len(labels),
    )


def here(ask: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., Run]:
    """Make a contender from a function of vectors and labels to one number that two forms share."""

    def contender(images: int, d: int, classes: int) -> Run:
        vectors, labels = embeddings(images, d, classes)
        return lambda: float(ask(vectors, labels))

    return contender


def sums_by_class(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average the distances of classes i and j, [k, k], without pairs of an image with itself."""
    one_hot = np.eye(labels.max() + 1)[labels]
    counts = one_hot.sum(axis=0)
    pairs = np.outer(counts, counts) - np.diag(counts)
    return one_hot.T @ distances @ one_hot / pairs


def direct_exemplars(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Find the distance of the farthest image of all from its own centre."""
    centres = np.stack([vectors[labels == i].mean(axis=0) for i in range(labels.max() + 1)])
    distances = pairwise_distances(centres, vectors.astype(np.float64))
    orders = np.argsort(distances, axis=1)  # typical and odd images and look-alikes in one
    return max(
        distances[i, [j for j in order if labels[j] == i][-1]] for i, order in enumerate(orders)
    )


def farthest_exemplar(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Find the same distance by this library."""
    found = exemplars(table(vectors, labels)).values()
    return max(of_class.farthest_distances[0] for of_class in found)


def direct_neighbours(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Average the distances of the five nearest others."""
    search = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(vectors)
    return search.kneighbors()[0].mean()


def direct_votes(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Vote by the 200 nearest by cosine, the image among them; return the share that is right."""
    queries = slice(0, QUERIES)
    search = NearestNeighbors(n_neighbors=200, algorithm="brute", metric="cosine").fit(vectors)
    away, near = search.kneighbors(vectors[queries])
    votes = np.zeros((len(away), labels.max() + 1))
    np.add.at(votes, (np.arange(len(away))[:, None], labels[near]), np.exp((1 - away) / 0.1))
    return (votes.argmax(axis=1) == labels[queries]).mean()


def our_votes(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Return the same share by this library."""
    votes = knn_votes(vectors, labels, vectors[:QUERIES])
    return (votes.argmax(axis=1) == labels[:QUERIES]).mean()


def direct_retrieval(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Compute MAP@R from a full sort of every row."""
    distances = pairwise_distances(vectors.astype(np.float64))
    np.fill_diagonal(distances, np.inf)
    r = (np.bincount(labels)[labels] - 1)[:, None]
    relevant = labels[np.argsort(distances, axis=1)[:, : r.max()]] == labels[:, None]
    ranks = np.arange(1, r.max() + 1)[None]
    relevant &= ranks <= r
    return (relevant.cumsum(axis=1) / ranks * relevant / r).sum(axis=1).mean()


CONTENDERS = {
    "class distances": here(lambda x, y: np.nanmean(class_distances(x, y, y.max() + 1))),
    "class distances, angular": here(
        lambda x, y: np.nanmean(class_distances(x, y, y.max() + 1, metric="angular"))
    ),
    "exemplars": here(farthest_exemplar),
    "5 nearest neighbours of all": here(
        lambda x, y: nearest_neighbours(x, x, exclude_self=True)[1].mean()
    ),
    "kNN votes, k 200, 10,000 asked": here(our_votes),
    "retrieval": here(lambda x, y: retrieval(x, y)["map_at_r"]),
    "silhouette": here(silhouette),
    "class distances, direct": here(
        lambda x, y: np.nanmean(sums_by_class(pairwise_distances(x.astype(np.float64)), y))
    ),
    "exemplars, direct": here(direct_exemplars),
    "5 nearest neighbours of all, direct": here(direct_neighbours),
    "kNN votes, k 200, 10,000 asked, direct": here(direct_votes),
    "retrieval, direct": here(direct_retrieval),
    "silhouette, direct": here(lambda x, y: silhouette_score(x.astype(np.float64), y)),
}


def main() -> None:
    """Measure beside the direct form at a size that it can hold; then alone at full size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_flags(parser)
    parser.set_defaults(limit_s=3600.0, rounds=3)
    parser.add_argument("--images", type=int, default=300_000, help="the full size")
    parser.add_argument("--compare", type=int, default=10_000, help="beside the direct form")
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--classes", type=int, default=100)
    options = parser.parse_args()
    if options.quick:
        options.compare, options.images, options.classes = 600, 1500, 10
    shape = {"d": options.d, "classes": options.classes}
    ours = [name for name in CONTENDERS if not name.endswith("direct")]
    results = []
    for name in ours:
        pair = [name, *(n for n in CONTENDERS if n == f"{name}, direct")]
        found = measure(__file__, pair, {"images": options.compare, **shape}, options)
        print_table(found, reference=name)
        results += found
    once = argparse.Namespace(**{**vars(options), "rounds": 0})
    for name in ours:
        found = measure(__file__, [name], {"images": options.images, **shape}, once)
        print_table(found, reference=name)
        results += found
    write_json(options.json, options, results, reference=ours[0])


if __name__ == "__main__":
    main()
