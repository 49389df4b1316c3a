"""The evaluation of a trained network: its numbers, and their page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis import checks, figures
from jaxssl.analysis.classifier import classification, top_accuracy
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.linear_probe import linear_probe
from jaxssl.analysis.names import embedding_title
from jaxssl.analysis.neighbours import Neighbours
from jaxssl.analysis.page import FigureFiles, percent, plot, render
from jaxssl.analysis.probes import knn_votes
from jaxssl.analysis.projection import tsne_together, umap_together
from jaxssl.analysis.results import Classification
from jaxssl.analysis.sections import classifier, training
from jaxssl.analysis.sections.settings import words
from jaxssl.analysis.umap_figure import umap_panels
from jaxssl.files import write_record, write_text

__all__ = [
    "classification",
    "evaluate",
    "headline",
    "maps",
    "top_accuracy",
    "write",
    "write_page",
]

K, TEMPERATURE = 200, 0.1
MAP_LIMIT = 2500
# What the terminal says, by the key in a row.
CLASSIFIERS = {"linear": "linear", "knn": f"kNN (k {K}, T {TEMPERATURE:g})"}
# Name of a map -> the images drawn and their places.
Maps = Mapping[str, tuple[np.ndarray, np.ndarray]]


def evaluate(
    features: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], np.ndarray]:
    """Judge one embedding by linear evaluation and weighted kNN, on its test images.

    Args:
        features: "train", "val", "test" -> `[n, d]`.
        labels: The same -> int `[n]`.

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
    """Compute t-SNE and UMAP of the test images, at most 2,500 of them, drawn by class.

    Args:
        vectors: `[n, d]`.
        labels: int `[n]`, 0 or more.
        seed: Of the draw and of both.

    Returns:
        "t-SNE", "UMAP" -> row numbers `[m]` and places `[m, 2]`.

    Raises:
        ValueError: Shapes that do not fit, or labels that are no class numbers.
        InputError: Vectors that are not finite, or fewer than 5.
    """
    vectors, labels = checks.fit(vectors=(vectors, "n d"), labels=(labels, "n"))
    checks.finite("vectors", vectors)
    labels = checks.numbers("labels", labels, least=0)
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
    """Return the rows as a table for the terminal."""
    guesses = list(rows[0]["linear"]["top"])
    lines = []
    for way, title in CLASSIFIERS.items():
        lines.append(f"\n{title + ', test images':34}" + "".join(f"   top-{t}" for t in guesses))
        for row in rows:
            shares = "".join(f"{row[way]['top'][t]:8.1%}" for t in guesses)
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
    """Write `index.html`, which opens from disk, with its figures as PNG and numbers as JSON.

    Args:
        folder: Where; made where it is missing.
        results: What becomes `results.json`; `classification` is a `Classification`; `rows` and
            `epochs` are shown where they are there, `protocol` and the provenance as they stand.
        title: Of the page.
        points: From `maps`.
        names: The class of each test image, for `points`.
        neighbours: Test images with their nearest.
        records: Lines of `metrics.jsonl`.

    Returns:
        The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = FigureFiles(folder)
    found: Classification = results["classification"]
    curves = training.curves(records, files)
    provenance = ("devices", "machine", "commit", "started", "versions")
    page = render(
        "evaluation.html.j2",
        title=title,
        protocol=_facts(results["protocol"]),
        provenance=_facts({name: results[name] for name in provenance if results.get(name)}),
        command=results.get("command"),
        table=_table(results.get("rows", ())),
        classification=classifier.show(found, files),
        neighbours=neighbours and neighbours.section(files),
        map=points and _map(points, names, found.classes, files),
        epochs=_epochs(results.get("epochs", ()), files),
        training=curves and plot(curves, training.caption(records)),
    )
    write_text(folder / "index.html", page)
    return folder / "index.html"


def write(folder: Path, results: Mapping[str, Any], **shown: Any) -> Path:
    """Write `results.json`, and the page that `write_page` makes of it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "results.json", results)
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
    numbers = {
        way: [
            {"row": row, "class": names[row], "x": x, "y": y}
            for row, (x, y) in zip(rows.tolist(), places.tolist(), strict=True)
        ]
        for way, (rows, places) in points.items()
    }
    return files.add(
        "map",
        numbers,
        alt=", ".join(f"{way} of {len(rows):,} test images" for way, (rows, _) in points.items()),
        wide=umap_panels(panels, classes),
        narrow=umap_panels(panels, classes, columns=1),
        table=(
            ("way", "row", "class", "x", "y"),
            [(way, *one.values()) for way, ones in numbers.items() for one in ones],
        ),
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
        table=(tuple(last), [[row.get(name) for name in last] for row in rows]),
    )


def _facts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name.replace("_", " "): words(value) for name, value in values.items()}
