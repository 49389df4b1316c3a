"""The report's sections with figures: results and tables in, what the template shows out.

A section that the run has nothing for is None or [], and the template says so in a sentence.
`compare` draws the same pieces for many runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxssl.analysis import figures
from jaxssl.analysis.atlas import coordinates, data_uri, drawn, map_data, thumbnail
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.matrices import distance_matrix
from jaxssl.analysis.page import FigureFiles, matrix_table, percent, seriation
from jaxssl.analysis.results import proper_metric
from jaxssl.analysis.run import Tables
from jaxssl.analysis.umap_figure import umap_panels

Section = dict[str, Any]
Records = Sequence[Mapping[str, Any]]

EMBEDDINGS = {
    "h": "this embedding",
    "last": "its last step",
    "best": "its best step",
    "untrained": "untrained network",
    "raw_pixels": "raw pixels",
}
CLASSIFIERS = {"svc": "SVC", "linear": "Linear", "knn": "kNN"}
UNITS = {"euclidean": "Euclidean distance", "angular": "angle in degrees"}
EXEMPLARS = {
    "closest": "closest to the centre",
    "farthest": "farthest from it",
    "closest_of_others": "closest of other classes",
}
_THUMBNAIL = 64


def embedding_title(name: str) -> str:
    """An embedding's name as a title.

    Example:
        >>> embedding_title("raw_pixels"), embedding_title("imagenet")
        ('raw pixels', 'imagenet')
    """
    return EMBEDDINGS.get(name, name)


def set_title(name: str) -> str:
    """A set's name as a title.

    Example:
        >>> set_title("unseen-lookalikes"), set_title("test")
        ('unseen: lookalikes', 'test')
    """
    return name.replace("unseen-", "unseen: ", 1)


def training(records: Records, files: FigureFiles) -> Section | None:
    """Training curves from the lines of `metrics.jsonl`."""
    if not figures.metric_names(records):
        return None
    last = {record["split"]: record.get("loss") for record in records}
    losses = [
        f"{split} loss {loss:.3f}"
        for split, loss in last.items()
        if isinstance(loss, int | float) and math.isfinite(loss)
    ]
    return files.add(
        "training",
        records,
        alt=f"Training curves to step {records[-1]['step']:,}; {', '.join(losses)}",
        wide=figures.training_curves(records),
        narrow=figures.training_curves(records, columns=1),
    )


def curves(results: Mapping[str, Any], files: FigureFiles) -> list[Section]:
    """Label-efficiency curves and their numbers, a section for each unseen set."""
    by_set: dict[str, list[dict[str, Any]]] = {}
    for row in results.get("label_efficiency", []):
        by_set.setdefault(row["set"], []).append(row)
    sections = []
    for name, rows in by_set.items():
        chance = 1 / len(results["sets"][name]["classes"])
        lines: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            lines.setdefault(embedding_title(row["embedding"]), []).append(row)
        whole = ", ".join(
            f"{embedding_title(row['embedding'])} {percent(row['mean'])} %"
            for row in rows
            if row["classifier"] == "svc" and row.get("all")
        )
        figure = files.add(
            f"label-efficiency-{name}",
            {"chance": chance, "rows": rows},
            alt=f"Balanced accuracy over labels, {set_title(name)}. SVC, all labels: {whole}",
            wide=figures.label_efficiency(lines, chance=chance),
            narrow=figures.label_efficiency(lines, chance=chance, columns=1),
        )
        sections.append(
            {
                "set": set_title(name),
                "draws": rows[0]["draws"],
                "chance": chance,
                "figure": figure,
                "table": _curve_table(rows),
            }
        )
    return sections


def _curve_table(rows: Records) -> Section:
    columns = list(dict.fromkeys((row["classifier"], row["embedding"]) for row in rows))
    cells = {(row["classifier"], row["embedding"], row["labels"]): row for row in rows}
    sizes = sorted({row["labels"] for row in rows})
    return {
        "columns": [(CLASSIFIERS.get(c, c), embedding_title(e)) for c, e in columns],
        "rows": [(size, [cells.get((*column, size)) for column in columns]) for size in sizes],
    }


def maps(tables: Tables, files: FigureFiles) -> Section | None:
    """UMAP side by side, and the data of the interactive map."""
    shown = {name: drawn(table) for name, table in tables.items()}
    shown = {name: table for name, table in shown.items() if len(table)}
    if not shown:
        return None
    # Every class of the run keeps its colour, drawn or not.
    classes = list(dict.fromkeys(name for t in tables.values() for name in t.class_list))
    points = {name: coordinates(table).tolist() for name, table in shown.items()}
    numbers = {
        name: [
            {"id": row_id, "class": label, "x": x, "y": y}
            for row_id, label, (x, y) in zip(t.ids, t.class_names, points[name], strict=True)
        ]
        for name, t in shown.items()
    }
    panels = {set_title(name): (points[name], t.class_names) for name, t in shown.items()}
    return {
        "figure": files.add(
            "umap",
            numbers,
            alt="UMAP: " + ", ".join(f"{len(t):,} {set_title(n)} images" for n, t in shown.items()),
            wide=umap_panels(panels, classes),
            narrow=umap_panels(panels, classes, columns=1),
        ),
        "data": map_data(
            {set_title(name): table for name, table in shown.items()},
            classes,
            metric=proper_metric(next(iter(shown.values()))),
        ),
    }


def matrices(results: Mapping[str, Any], files: FigureFiles) -> list[Section]:
    """Distance matrices, Euclidean and angular, a section for each judged set."""
    sections = []
    for name, found in results.get("distances", {}).items():
        order = seriation(found["euclidean"])
        classes = [found["classes"][i] for i in order]
        shown = []
        for metric, unit in UNITS.items():
            matrix = np.array(found[metric], np.float64)[np.ix_(order, order)]
            ratio = results.get("separation", {}).get(name, {}).get("h", {}).get(metric)
            figure = files.add(
                f"distances-{name}-{metric}",
                {"classes": classes, metric: matrix, "separation": ratio},
                alt=f"Mean {unit} between the classes of {set_title(name)}",
                wide=distance_matrix(matrix, classes, unit=unit),
            )
            rows = matrix_table(matrix, classes, results["sets"][name]["classes"])
            shown.append({"unit": unit, "ratio": ratio, "rows": rows, "figure": figure})
        sections.append({"set": set_title(name), "matrices": shown})
    return sections


def retrieval(results: Mapping[str, Any]) -> list[Section]:
    """Retrieval and clustering: a table a set, an embedding a row, the best of a column marked."""
    names = ["P@1", "R-precision", "MAP@R", "NMI", "silhouette", "separation"]
    tables = []
    for name, found in results.get("retrieval", {}).items():
        rows = {
            embedding_title(embedding): [
                row["precision_at_1"],
                row["r_precision"],
                row["map_at_r"],
                results["nmi"][name][embedding],
                results["silhouette"][name][embedding],
                results["separation"][name][embedding]["angular"],
            ]
            for embedding, row in found.items()
        }
        best = [
            max((value for value in column if value is not None), default=None)
            for column in zip(*rows.values(), strict=True)
        ]
        tables.append({"set": set_title(name), "names": names, "rows": rows, "best": best})
    return tables


def exemplars(results: Mapping[str, Any], tables: Tables, files: FigureFiles) -> list[Section]:
    """For each class of each judged set its typical and odd images."""
    sections = []
    for name, found in results.get("exemplars", {}).items():
        if name not in tables:
            continue
        pictures = _pictures(tables[name], found)
        figure = None
        if any(pictures.values()):
            sheet, titles = _sheet(found, pictures)
            figure = files.add(
                f"exemplars-{name}",
                found,
                alt=f"Typical and odd images of the classes of {set_title(name)}",
                wide=figures.image_sheet(sheet, columns=titles, labels=list(found)),
            )
        sources = {
            row_id: image and data_uri(image, quality=75) for row_id, image in pictures.items()
        }
        classes = [
            {
                "name": label,
                "count": results["sets"][name]["classes"].get(label, 0),
                "kinds": {title: kinds[kind] for kind, title in EXEMPLARS.items()},
            }
            for label, kinds in found.items()
        ]
        unit = "°" if proper_metric(tables[name]) == "angular" else ""
        sections.append(
            {
                "set": set_title(name),
                "classes": classes,
                "sources": sources,
                "figure": figure,
                "unit": unit,
            }
        )
    return sections


def _pictures(table: Embeddings, found: Mapping[str, Any]) -> dict[str, Image.Image | None]:
    row = {row_id: i for i, row_id in enumerate(table.ids)}
    wanted = {i["id"] for kinds in found.values() for images in kinds.values() for i in images}
    return {
        row_id: thumbnail(table.thumbnails[row[row_id]], _THUMBNAIL) if row_id in row else None
        for row_id in sorted(wanted)
    }


def _sheet(
    found: Mapping[str, Any], pictures: Mapping[str, Image.Image | None]
) -> tuple[np.ndarray, list[str]]:
    """All exemplars as one sheet: a class a row, three blocks of columns with their titles."""
    count = max(len(images) for kinds in found.values() for images in kinds.values())
    sheet = np.full((len(found), 3 * count, _THUMBNAIL, _THUMBNAIL, 3), 255, np.uint8)
    for row, kinds in enumerate(found.values()):
        for block, kind in enumerate(EXEMPLARS):
            for i, image in enumerate(kinds[kind]):
                picture = pictures[image["id"]]
                if picture is not None:
                    sheet[row, block * count + i] = np.asarray(picture)
    titles = [""] * (3 * count)
    titles[count // 2 :: count] = EXEMPLARS.values()
    return sheet, titles
