"""The numbers of a run: embedding tables in, `Results` out."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis import probes, propagation, sampling, whitening
from jaxssl.analysis.clusters import find_clusters
from jaxssl.analysis.distances import Metric, class_means, distance_sums, separation
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.exemplars import exemplars, nearest_neighbours
from jaxssl.analysis.health import spread
from jaxssl.analysis.outliers import find_outliers
from jaxssl.analysis.parallel import in_order
from jaxssl.analysis.results import (
    ClassExemplars,
    Distances,
    Embedded,
    Exemplar,
    Facts,
    ImageCounts,
    LabelRow,
    Matrix,
    Results,
    RetrievalScores,
    Separation,
)
from jaxssl.analysis.retrieval import clustering_nmi, mean_silhouette, retrieval
from jaxssl.analysis.suspects import find_suspects
from jaxssl.analysis.tables import Sets, Tables, Together, judged, together, with_curves
from jaxssl.errors import InputError
from jaxssl.files import plain, read_json, write_record

METRICS: tuple[Metric, ...] = ("euclidean", "angular")
NEAREST = 10
# Of the draws of labels and of k-means: two analyses of the same tables are equal.
SEED = 0
# Of pixels logistic regression would take longer than everything else of a large folder's analysis,
# and it is far behind the SVC, which is therefore the baseline.
NOT_OF_PIXELS = "linear"


def analyse(
    tables: Tables,
    facts: Facts | None = None,
    *,
    draws: int = 5,
    sizes: Sequence[int] | None = None,
    classifiers: Sequence[str] = probes.CLASSIFIERS,
    progress: Callable[[str], None] = lambda stage: None,
    cache: str | os.PathLike[str] | None = None,
) -> Results:
    """Compute everything that the report shows.

    Clusters, outliers and suspects are of all images of the trained embedding h; distances,
    exemplars, spread and `knn_accuracy` of its judged sets; the others have a value for each
    embedding. "train" and "val" are not judged. What needs classes is of the labelled rows alone.

    Args:
        tables: Embedding -> set -> table; "h" is demanded.
        facts: What training knows of the run; nothing by default.
        draws: Random draws of the labels for each point of a label-efficiency curve, 2 or more.
        sizes: Numbers of labels on the curves; default: those of `probes.default_sizes`.
        classifiers: Of the curves, as `probes.label_efficiency` takes them, of raw pixels without
            the linear one. What a transductive one whitens by are an embedding's training images,
            where there is a table of them.
        progress: Called with the name of each stage as it starts.
        cache: A folder in which label-efficiency curves are remembered by what they were computed
            from: the runs of a comparison share their baselines, whose curves are most of an
            analysis. Nothing else is read or written.

    Returns:
        The numbers.

    Raises:
        InputError: A table's distance is unknown.
        ValueError: There is no table of h.
    """
    h, facts = tables.get("h") or {}, facts or Facts()
    if not h:
        raise ValueError(f"tables are of {list(tables)}, without one of h")
    first = next(iter(h.values()))
    of_h = {name: table for name, embedding, table in judged(tables) if embedding == "h"}
    layer = str(first.metadata.get("layer", "h"))
    embedding = Embedded(layer, first.distance, first.vectors.shape[1])
    progress("exemplars")
    odd = {name: _exemplars(table) for name, table in of_h.items()}
    progress("clusters and outliers")
    every = together(h)
    near = _neighbours(every)
    clusters = find_clusters(every, seed=SEED)
    progress("suspects")
    suspects = find_suspects(every, *near, seed=SEED) if near else ()
    progress("distances, retrieval and clustering")
    knn = _knn_accuracy(h)
    geometry = _geometry(tables)
    spread_of = {n: t for n, t in h.items() if n not in ("train", "val") and len(t)} or h
    return Results(
        embedding=embedding,
        sets={name: ImageCounts(len(t), _counts(t)) for name, t in h.items()},
        spread={name: spread(table.vectors) for name, table in spread_of.items()},
        clusters=clusters,
        outliers=find_outliers(every, *near) if near else (),
        suspects=suspects,
        nearest_right={n: _nearest_right(t) for n, t in of_h.items() if len(t.class_list) > 1},
        exemplars=odd,
        knn_accuracy=knn,
        label_efficiency=tuple(
            LabelRow(set=name, embedding=kind, **point)
            for name, kind, table in _told(with_curves(tables), progress)
            for point in _curve(
                table,
                tables[kind].get("train"),
                {"draws": draws, "sizes": list(sizes) if sizes else None, "seed": SEED}
                | {"classifiers": _classifiers_of(kind, classifiers)},
                cache,
            )
        ),
        label_sizes=tuple(sorted(set(sizes or ()))),
        protocol=plain(facts.protocol),
        training=plain(facts.training),
        wall_seconds=plain(facts.wall_seconds),
        classification=facts.classification,
        **geometry,
    )


def _classifiers_of(embedding: str, asked: Sequence[str]) -> list[str]:
    """List those whose curves are drawn of an embedding: of pixels all but one, where more are."""
    fewer = [name for name in asked if name != NOT_OF_PIXELS]
    return fewer if embedding == "raw_pixels" and fewer else list(asked)


def _knn_accuracy(h: Sets) -> float | None:
    if "train" not in h or "test" not in h:
        return None
    bank, queries = h["train"].labelled, h["test"].labelled
    label = {name: i for i, name in enumerate(bank.class_list)}
    if not len(queries) or not {*queries.class_list} <= {*label}:
        return None
    wanted = np.array([label[name] for name in queries.class_names])
    return probes.knn_accuracy(bank.vectors, bank.labels, queries.vectors, wanted)


def _nearest_right(table: Embeddings) -> dict[str, float | None]:
    """Measure class by class how many images have one of their class as their nearest other."""
    v, y = table.vectors, table.labels
    near, _ = nearest_neighbours(v, v, count=1, metric=table.distance, exclude_self=True)
    right, counts = np.bincount(y, y[near[:, 0]] == y), np.bincount(y)
    return {
        name: float(r / n) if n > 1 else None
        for name, r, n in zip(table.class_list, right, counts, strict=True)
    }


def _neighbours(images: Together) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the nearest others of every image; None where there are none."""
    if len(images) < 2:
        return None
    return nearest_neighbours(
        images.vectors, images.vectors, count=NEAREST, metric=images.distance, exclude_self=True
    )


def _counts(table: Embeddings) -> dict[str, int]:
    labels = table.labels
    counts = np.bincount(labels[labels >= 0], minlength=len(table.class_list))
    return dict(zip(table.class_list, counts.tolist(), strict=True))


def _exemplars(table: Embeddings) -> dict[str, ClassExemplars]:
    def listed(rows: np.ndarray, distances: np.ndarray) -> tuple[Exemplar, ...]:
        return tuple(
            Exemplar(table.ids[row], table.class_names[row], float(distance))
            for row, distance in zip(rows, distances, strict=True)
        )

    return {
        name: ClassExemplars(
            closest=listed(found.closest, found.closest_distances),
            farthest=listed(found.farthest, found.farthest_distances),
            closest_of_others=listed(found.closest_of_others, found.closest_of_others_distances),
        )
        for name, found in exemplars(table, metric=table.distance).items()
    }


def _geometry(tables: Tables) -> dict[str, Any]:
    """Compute what `Results` has of distances, separation, retrieval, NMI and silhouette."""
    found: dict[str, dict[str, Any]] = {"distances": {}, "separation": {}, "retrieval": {}}
    found |= {"nmi": {}, "silhouette": {}}
    entries = list(judged(tables))
    # k-means with a centre a class takes most of the time, and one core; the rest takes all.
    nmis = list(in_order(_nmi, [table for _, _, table in entries]))
    for (name, embedding, table), nmi in zip(entries, nmis, strict=True):
        metric, v, y, classes = table.distance, table.vectors, table.labels, table.class_list
        # Every pair once: the matrices and the silhouette come from the same sums.
        sums = {m: distance_sums(v, y, len(classes), metric=m) for m in METRICS}
        means = {m: class_means(sums[m], y) for m in METRICS}
        if embedding == "h":
            matrices = {m: _matrix(means[m]) for m in METRICS}
            found["distances"][name] = Distances(classes, **matrices)
        if nmi is None:
            continue
        scores = retrieval(v, y, metric=metric)
        values = {
            "separation": Separation(**{m: _number(separation(means[m])) for m in METRICS}),
            "retrieval": RetrievalScores(
                **{name: _number(scores[name]) for name in scores if name != "queries"},
                queries=int(scores["queries"]),
            ),
            "nmi": nmi,
            "silhouette": _number(mean_silhouette(sums[metric], y)),
        }
        for key, value in values.items():
            found[key].setdefault(name, {})[embedding] = value
    return found


def _nmi(table: Embeddings) -> float | None:
    """Compute `clustering_nmi` of a table; None where there is one class alone."""
    if len(table.class_list) < 2:
        return None
    return clustering_nmi(table.vectors, table.labels, metric=table.distance, seed=SEED)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _matrix(values: np.ndarray) -> Matrix:
    return tuple(tuple(map(_number, row)) for row in values)


def _told(
    found: Iterable[tuple[str, str, Embeddings]], progress: Callable[[str], None]
) -> Iterator[tuple[str, str, Embeddings]]:
    """Yield what has a label-efficiency curve, each told to `progress` as it comes."""
    for name, embedding, table in found:
        progress(f"label efficiency of {embedding} on {name}")
        yield name, embedding, table


def _curve(
    table: Embeddings,
    train: Embeddings | None,
    options: dict[str, Any],
    cache: str | os.PathLike[str] | None,
) -> list[dict[str, Any]]:
    """Compute `label_efficiency` of a table, or take it from the cache; no single scores."""
    import sklearn

    transductive = not {*probes.TRANSDUCTIVE}.isdisjoint(options["classifiers"])
    others = train.vectors if train is not None and len(train) > 1 and transductive else None
    # Anything that can change the numbers changes the key, the code that computes them too.
    source = [inspect.getsource(module) for module in (probes, sampling, propagation, whitening)]
    digest = hashlib.sha256(repr((sorted(options.items()), sklearn.__version__, *source)).encode())
    for vectors in (table.vectors, *([others] if others is not None else [])):
        digest.update(np.ascontiguousarray(vectors, "<f4").tobytes())
    digest.update(np.ascontiguousarray(table.labels, "<i8").tobytes())
    file = Path(cache) / f"{digest.hexdigest()}.json" if cache else None
    if file and file.exists():
        with contextlib.suppress(InputError):  # a damaged one is computed and written again
            return read_json(file, sealed=True)["rows"]
    graph = propagation.whitened_graph(table.vectors, others) if transductive else None
    rows = probes.label_efficiency(table.vectors, table.labels, graph=graph, **options)
    rows = [{name: value for name, value in row.items() if name != "scores"} for row in rows]
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_record(file, {"rows": rows})
    return rows
