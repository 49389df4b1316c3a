"""The numbers of a run: embedding tables in, `results.json` out; the report draws them later."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis import probes, sampling
from jaxssl.analysis.distances import Metric, class_means, distance_sums, separation
from jaxssl.analysis.embeddings import Embeddings, save
from jaxssl.analysis.exemplars import exemplars
from jaxssl.analysis.projection import umap_together
from jaxssl.analysis.retrieval import clustering_nmi, mean_silhouette, retrieval
from jaxssl.analysis.run import Tables, read_run
from jaxssl.errors import InputError
from jaxssl.files import plain, read_list, write_json


def analyse(
    run_dir: str | os.PathLike[str],
    *,
    draws: int = 5,
    sizes: Sequence[int] | None = None,
    limit: int = 2500,
    seed: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
    cache: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Computes everything the report shows and writes it to `results.json`.

    Keys written (all else in the file stays): `embedding`, `sets`, `spread`, `distances`,
    `separation`, `retrieval`, `nmi`, `silhouette`, `exemplars`, `label_efficiency`, `knn_accuracy`
    (of the test images among the training images). Distances, exemplars and `knn_accuracy` are of
    the trained embedding; the others have a value for each embedding. UMAP
    coordinates go into the tables, as columns `x_umap`, `y_umap`, NaN where a point was not drawn.

    Args:
        run_dir: The run folder.
        draws: Random draws of the labels for each point of a label-efficiency curve.
        sizes: Numbers of labels on the curves; default: the run's `labels`, or where it has none
            those of `label_efficiency`.
        limit: Most points of a set on the map.
        seed: For draws, UMAP and k-means.
        progress: Called with the name of each stage as it starts.
        cache: A folder in which label efficiency is remembered by what it was computed from: the
            runs of a comparison share their baselines, whose curves are most of an analysis.

    Returns:
        What `results.json` now holds.

    Raises:
        InputError: If the folder or one of its files cannot be used.
    """
    folder = Path(run_dir)
    run = read_run(folder)
    h = run.tables["h"]
    first = next(iter(h.values()))
    judged = {name: table for name, table in h.items() if name not in ("train", "val")}
    results = dict(run.results)
    results["embedding"] = {
        "layer": first.metadata.get("layer", "h"),
        "distance": proper_metric(first),
        "dimensions": first.vectors.shape[1],
    }
    results["sets"] = {name: {"images": len(t), "classes": _counts(t)} for name, t in h.items()}
    results["spread"] = {name: spread(table.vectors) for name, table in judged.items()}
    progress("exemplars")
    results["exemplars"] = {name: _exemplars(table) for name, table in judged.items()}
    progress("distances, retrieval and clustering")
    if "train" in h and "test" in h and h["train"].class_list == h["test"].class_list:
        results["knn_accuracy"] = probes.knn_accuracy(
            h["train"].vectors, h["train"].labels, h["test"].vectors, h["test"].labels
        )
    results.update(_by_set_and_embedding(run.tables, seed))
    results["label_efficiency"] = _label_efficiency(
        run.tables,
        draws,
        sizes or run.settings.get("labels") or None,
        seed,
        progress,
        Path(cache) if cache else None,
    )
    drawn = {name: table for name, table in h.items() if name != "val"}
    progress(f"UMAP of {sum(min(limit, len(table)) for table in drawn.values()):,} images")
    _write_umap(folder / "embeddings", drawn, limit, seed)
    write_json(folder / "results.json", results)
    return plain(results)


def proper_metric(table: Embeddings) -> Metric:
    """The distance the embedding was trained for, as its table says; Euclidean where it does not.

    Raises:
        InputError: If the table names another distance.
    """
    metric = table.metadata.get("distance", "euclidean")
    if metric not in ("euclidean", "angular"):
        raise InputError(f"the table's distance is {metric!r}; it must be euclidean or angular")
    return metric


def spread(vectors: np.ndarray) -> dict[str, float]:
    """Whether the embedding fills its space, on l2-normalised rows.

    `std` = mean over dimensions of std · sqrt(d): 1 = uniform on the sphere, 0 = one point.
    `effective_rank` = exp(entropy of the normalised squared singular values), centred: 1 to d.

    Args:
        vectors: `[n, d]`.

    Returns:
        `std` and `effective_rank`.

    Reference:
        Roy and Vetterli 2007, "The effective rank", on the covariance's spectrum.

    Example:
        >>> spread(np.ones((4, 3)))
        {'std': 0.0, 'effective_rank': 1.0}
        >>> spread(np.concatenate([np.eye(3), -np.eye(3)]))
        {'std': 1.0, 'effective_rank': 3.0}
    """
    rows = np.asarray(vectors, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    centred = rows - rows.mean(0, keepdims=True)
    covariance = centred.T @ centred / len(rows)
    spectrum = np.maximum(np.linalg.eigvalsh(covariance), 0)
    p = spectrum / max(spectrum.sum(), 1e-12)
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)))
    std = np.sqrt(np.diagonal(covariance)).mean() * math.sqrt(rows.shape[1])
    return {"std": round(float(std), 6), "effective_rank": round(math.exp(entropy), 6)}


def _counts(table: Embeddings) -> dict[str, int]:
    counts = np.bincount(table.labels, minlength=len(table.class_list))
    return dict(zip(table.class_list, counts.tolist(), strict=True))


def _exemplars(table: Embeddings) -> dict[str, Any]:
    def listed(rows: np.ndarray, distances: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"id": table.ids[row], "class": table.class_names[row], "distance": distance}
            for row, distance in zip(rows, distances, strict=True)
        ]

    return {
        name: {
            "closest": listed(found.closest, found.closest_distances),
            "farthest": listed(found.farthest, found.farthest_distances),
            "closest_of_others": listed(found.closest_of_others, found.closest_of_others_distances),
        }
        for name, found in exemplars(table, metric=proper_metric(table)).items()
    }


def _judged(tables: Mapping[str, Tables]) -> Iterator[tuple[str, str, Embeddings]]:
    """(set, embedding, table) of every judged set, h first."""
    for embedding, sets in tables.items():
        for name, table in sets.items():
            if name in tables["h"] and name not in ("train", "val"):
                yield name, embedding, table


def _by_set_and_embedding(tables: Mapping[str, Tables], seed: int) -> dict[str, Any]:
    """distances: {set: matrices of h}; of sets with two classes or more separation, retrieval,
    nmi, silhouette: {set: {embedding: value}}."""
    names = ("distances", "separation", "retrieval", "nmi", "silhouette")
    results: dict[str, Any] = {name: {} for name in names}
    metrics: tuple[Metric, ...] = ("euclidean", "angular")
    for name, embedding, table in _judged(tables):
        metric, v, y, classes = proper_metric(table), table.vectors, table.labels, table.class_list
        # Every pair once: the matrices and the silhouette come from the same sums.
        sums = {m: distance_sums(v, y, len(classes), metric=m) for m in metrics}
        distances = {m: class_means(sums[m], y) for m in metrics}
        if embedding == "h":
            results["distances"][name] = {"classes": list(classes)} | distances
        if len(classes) < 2:
            continue
        values = {
            "separation": {m: separation(distances[m]) for m in metrics},
            "retrieval": retrieval(v, y, metric=metric),
            "nmi": clustering_nmi(v, y, metric=metric, seed=seed),
            "silhouette": mean_silhouette(sums[metric], y),
        }
        for key, value in values.items():
            results[key].setdefault(name, {})[embedding] = value
    return results


def _label_efficiency(
    tables: Mapping[str, Tables],
    draws: int,
    sizes: Sequence[int] | None,
    seed: int,
    progress: Callable[[str], None],
    cache: Path | None,
) -> list[dict[str, Any]]:
    rows = []
    for name, embedding, table in _judged(tables):
        # A draw needs an image to learn from and one to be tested on.
        several = len(table.class_list) > 1 and min(_counts(table).values()) > 1
        if not name.startswith("unseen") or not several:
            continue
        progress(f"label efficiency of {embedding} on {name}")
        curve = _remembered_curve(table, draws, sizes, seed, cache)
        rows += [{"set": name, "embedding": embedding, **row} for row in curve]
    return rows


def _remembered_curve(
    table: Embeddings, draws: int, sizes: Sequence[int] | None, seed: int, cache: Path | None
) -> list[dict[str, Any]]:
    """`label_efficiency` of a table, without the single scores; from the cache where it is."""
    import sklearn

    # Anything that can change the numbers changes the key, the code that computes them too.
    source = [inspect.getsource(module) for module in (probes, sampling)]
    digest = hashlib.sha256(repr((draws, sizes, seed, sklearn.__version__, *source)).encode())
    digest.update(np.ascontiguousarray(table.vectors, "<f4").tobytes())
    digest.update(np.ascontiguousarray(table.labels, "<i8").tobytes())
    file = cache and cache / f"{digest.hexdigest()}.json"
    if file and (known := read_list(file)):
        return known
    rows = probes.label_efficiency(table.vectors, table.labels, sizes=sizes, draws=draws, seed=seed)
    rows = [{name: value for name, value in row.items() if name != "scores"} for row in rows]
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, rows)
    return rows


def _write_umap(folder: Path, tables: Tables, limit: int, seed: int) -> None:
    for name, (rows, xy) in umap_together(tables, limit=limit, seed=seed).items():
        everywhere = np.full((2, len(tables[name])), np.nan, np.float32)
        everywhere[:, rows] = xy.T
        columns = dict(zip(("x_umap", "y_umap"), everywhere, strict=True))
        table = replace(tables[name], extra={**tables[name].extra, **columns})
        save(folder / f"{name}.parquet", table)
