"""The evaluation of a trained network: its numbers, and their page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis import figures, sections
from jaxssl.analysis.classification import classification as classification_section
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.linear_probe import linear_probe
from jaxssl.analysis.neighbours import Neighbours
from jaxssl.analysis.page import FigureFiles, percent, render
from jaxssl.analysis.probes import knn_votes
from jaxssl.analysis.projection import tsne_together, umap_together
from jaxssl.analysis.sections import embedding_title
from jaxssl.analysis.umap_figure import umap_panels
from jaxssl.files import write_json, write_text

GUESSES = (1, 3, 5)
K, TEMPERATURE = 200, 0.1
MAP_LIMIT = 2500
# What the terminal says, by the key in a row.
CLASSIFIERS = {"linear": "linear", "knn": f"kNN (k {K}, T {TEMPERATURE:g})"}
# Name of a map -> the images drawn and their places.
Maps = Mapping[str, tuple[np.ndarray, np.ndarray]]


def top_accuracy(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of images whose class is among the t of highest score, for t of 1, 3, 5.

    Args:
        scores: `[n, k]`, higher for likelier classes; of equal scores the lower class comes first.
        labels: int `[n]`.

    Returns:
        `{"1": share, "3": …, "5": …}`; from t = k on every guess is right, which is left out.

    Example:
        >>> scores = np.array([[0.1, 0.5, 0.3, 0.1], [0.4, 0.3, 0.2, 0.1]])
        >>> top_accuracy(scores, np.array([2, 0]))
        {'1': 0.5, '3': 1.0}
    """
    ranked = np.argsort(-scores, axis=1, kind="stable")
    hits = ranked == np.asarray(labels)[:, None]
    guesses = [t for t in GUESSES if t == 1 or t < scores.shape[1]]
    return {str(t): float(hits[:, :t].any(axis=1).mean()) for t in guesses}


def classification(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """What a classifier gets right, in total and per class, and takes for what.

    Args:
        scores: `[n, k]`, logits or probabilities.
        labels: int `[n]`.
        classes: k names.

    Returns:
        `accuracy`, `top` (as `top_accuracy`), `per_class` (None for a class without images),
        `confusion` (`[i][j]` counts the images of class i that it gives to class j), `classes`.

    Example:
        >>> found = classification(np.eye(3)[[0, 1, 1]], np.array([0, 1, 0]), ("a", "b", "c"))
        >>> found["confusion"], found["per_class"]
        ([[1, 1, 0], [0, 1, 0], [0, 0, 0]], {'a': 0.5, 'b': 1.0, 'c': None})
    """
    k = len(classes)
    confusion = np.zeros((k, k), int)
    np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
    right, images = np.diagonal(confusion).tolist(), confusion.sum(axis=1).tolist()
    shares = [found / n if n else None for found, n in zip(right, images, strict=True)]
    return {
        "accuracy": sum(right) / len(labels),
        "top": top_accuracy(scores, labels),
        "per_class": dict(zip(classes, shares, strict=True)),
        "confusion": confusion.tolist(),
        "classes": list(classes),
    }


def evaluate(
    features: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], np.ndarray]:
    """Linear evaluation and weighted kNN of one embedding, on its test images.

    Args:
        features: "train", "val", "test" -> `[n, d]`.
        labels: the same -> int `[n]`.

    Returns:
        A row, and the linear classifier's scores of the test images, `[n, k]`. The row has
        `dimensions`; `linear` with `top`, `c`, `val_accuracy`, `iterations`, `converged`; `knn`
        with `top`, `k` and `temperature`.
    """
    probe = linear_probe(features["train"], labels["train"], features["val"], labels["val"])
    scores = probe.scores(features["test"])
    votes = knn_votes(
        features["train"], labels["train"], features["test"], k=K, temperature=TEMPERATURE
    )
    return {
        "dimensions": features["train"].shape[1],
        "linear": {
            "top": top_accuracy(scores, labels["test"]),
            "c": probe.c,
            "val_accuracy": probe.val_accuracy,
            "iterations": probe.iterations,
            "converged": probe.converged,
        },
        "knn": {
            "top": top_accuracy(votes, labels["test"]),
            "k": min(K, len(labels["train"])),
            "temperature": TEMPERATURE,
        },
    }, scores


def maps(vectors: np.ndarray, labels: np.ndarray, *, seed: int) -> Maps:
    """t-SNE and UMAP of the test images, at most 2,500 of them, drawn by class.

    Args:
        vectors: `[n, d]`.
        labels: int `[n]`.
        seed: of the draw and of both.

    Returns:
        "t-SNE", "UMAP" -> row numbers `[m]` and places `[m, 2]`.
    """
    names = tuple(map(str, range(len(labels))))
    table = Embeddings(
        vectors=vectors,
        ids=names,
        paths=("",) * len(labels),
        class_names=tuple(map(str, labels)),
        class_index=labels,
        split=("test",) * len(labels),
    )
    ways = {"t-SNE": tsne_together, "UMAP": umap_together}
    return {
        name: way({"test": table}, limit=MAP_LIMIT, seed=seed)["test"] for name, way in ways.items()
    }


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for the terminal."""
    guesses = list(rows[0]["linear"]["top"])
    lines = []
    for classifier, title in CLASSIFIERS.items():
        lines.append(f"\n{title + ', test images':34}" + "".join(f"   top-{t}" for t in guesses))
        for row in rows:
            shares = "".join(f"{row[classifier]['top'][t]:8.1%}" for t in guesses)
            lines.append(f"  {embedding_title(row['embedding']):32}{shares}")
    return "\n".join([*lines, ""])


def write_page(
    folder: Path,
    results: Mapping[str, Any],
    *,
    title: str,
    points: Maps | None = None,
    names: Sequence[str] = (),
    neighbours: Neighbours | None = None,
    records: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """`index.html`, which opens from disk, with its figures as PNG and their numbers as JSON.

    Args:
        folder: where; made where it is missing.
        results: `results.json`; `classification`, `rows`, `epochs` are shown where they are there,
            `protocol` and the provenance as they stand.
        title: of the page.
        points: from `maps`.
        names: the class of each test image, for `points`.
        neighbours: test images with their nearest.
        records: lines of `metrics.jsonl`.

    Returns:
        The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = FigureFiles(folder)
    provenance = ("devices", "machine", "commit", "started", "versions")
    page = render(
        "evaluation.html.j2",
        title=title,
        protocol=_words(results["protocol"]),
        provenance=_words({name: results[name] for name in provenance if results.get(name)}),
        command=results.get("command"),
        table=_table(results.get("rows", ())),
        classification=classification_section(results, files),
        neighbours=neighbours and neighbours.section(files),
        map=points and _map(points, names, results["classification"]["classes"], files),
        epochs=_epochs(results.get("epochs", ()), files),
        training=sections.training(records, files),
    )
    write_text(folder / "index.html", page)
    return folder / "index.html"


def write(folder: Path, results: Mapping[str, Any], **shown: Any) -> Path:
    """`results.json`, and the page that `write_page` makes of it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    return write_page(folder, results, **shown)


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    columns = [(name, t) for name in ("linear", "knn") for t in rows[0][name]["top"]]
    body = {
        embedding_title(row["embedding"]): [row[name]["top"][t] for name, t in columns]
        for row in rows
    }
    return {
        "columns": [f"{CLASSIFIERS[name]}, top-{t}" for name, t in columns],
        "rows": body,
        "best": [max(column) for column in zip(*body.values(), strict=True)],
        "notes": [
            f"{embedding_title(row['embedding'])}: {row['dimensions']:,} numbers, C "
            f"{row['linear']['c']:g}, {percent(row['linear']['val_accuracy'])} % of the validation "
            "images" + ("" if row["linear"]["converged"] else ", NOT converged")
            for row in rows
        ],
    }


def _map(
    points: Maps, names: Sequence[str], classes: Sequence[str], files: FigureFiles
) -> dict[str, Any]:
    panels = {}
    for way, (rows, places) in points.items():
        # Their units are their own: each fills its panel.
        places = (places - places.min(axis=0)) / max(np.ptp(places, axis=0).max(), 1e-9)
        panels[way] = (places, [names[row] for row in rows])
    return files.add(
        "map",
        {
            way: [
                {"row": row, "class": names[row], "x": x, "y": y}
                for row, (x, y) in zip(rows.tolist(), places.tolist(), strict=True)
            ]
            for way, (rows, places) in points.items()
        },
        alt=", ".join(f"{way} of {len(rows):,} test images" for way, (rows, _) in points.items()),
        wide=umap_panels(panels, classes),
        narrow=umap_panels(panels, classes, columns=1),
    )


def _epochs(rows: Sequence[Mapping[str, Any]], files: FigureFiles) -> dict[str, Any] | None:
    if not rows:
        return None
    last = rows[-1]
    return files.add(
        "epochs",
        rows,
        alt=f"Accuracy over epochs; after {last['epoch']:g}: linear {percent(last['linear'])} %, "
        f"kNN {percent(last['knn'])} %",
        wide=figures.accuracy_over_epochs(rows),
        narrow=figures.accuracy_over_epochs(rows),
    )


def _words(facts: Mapping[str, Any]) -> dict[str, str]:
    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {inner}" for name, inner in value.items())
        return str(value)

    return {name.replace("_", " "): words(value) for name, value in facts.items()}
