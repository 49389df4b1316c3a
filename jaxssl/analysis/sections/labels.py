"""How far few labels go: curves and all their numbers, a part for each set that has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxssl.analysis import figures
from jaxssl.analysis.headlines import not_measured, without_curve
from jaxssl.analysis.names import embedding_title, labels_title, set_title
from jaxssl.analysis.page import FigureFiles, fragment, percent
from jaxssl.analysis.results import ImageCounts, LabelRow
from jaxssl.analysis.sections.base import Context

CLASSIFIERS = {
    "svc": "SVC",
    "linear": "Linear",
    "knn": "kNN",
    "spread": "Label spreading",
    "propagated": "Propagated labels",
}


def make(context: Context) -> Markup | None:
    """Draw the curves; None for a run without a set that they could be of."""
    results = context.results
    if not results.label_efficiency and not without_curve(results):
        return None
    left = {labels_title(name): why for name, why in not_measured(results).items()}
    return fragment(
        "labels.html.j2",
        curves=curves(results.label_efficiency, results.sets, context.files),
        left=left,
        without={set_title(name): why for name, why in without_curve(results).items()},
    )


def curves(
    rows: Sequence[LabelRow], sets: Mapping[str, ImageCounts], files: FigureFiles
) -> list[dict[str, Any]]:
    """Draw label-efficiency curves, a figure for each set.

    Args:
        rows: Of a run, or of the methods of a comparison.
        sets: Set -> its classes.
        files: Where figures go.

    Returns:
        One object a set: `set`, `draws`, `chance`, `figure`, `table`, and `note`, which says of
        what there is no curve.
    """
    parts = []
    for name in dict.fromkeys(row.set for row in rows):
        here = [row for row in rows if row.set == name]
        # A class of one image has no curve (`tables.with_curves`).
        chance = 1 / sum(images > 1 for images in sets[name].classes.values())
        lines: dict[str, list[LabelRow]] = {}
        for row in here:
            lines.setdefault(embedding_title(row.embedding), []).append(row)
        whole = ", ".join(
            f"{embedding_title(row.embedding)} {percent(row.mean)} %"
            for row in here
            if row.classifier == "svc" and row.all
        )
        figure = files.add(
            f"label-efficiency-{name}",
            {"chance": chance, "rows": here},
            alt=f"Balanced accuracy over labels, {labels_title(name)}. SVC, all labels: {whole}",
            wide=figures.label_efficiency(lines, chance=chance),
            narrow=figures.label_efficiency(lines, chance=chance, columns=1),
            table=(
                ("embedding", "classifier", "labels", "mean", "low", "high", "draws"),
                [
                    (r.embedding, r.classifier, r.labels, r.mean, r.low, r.high, r.draws)
                    for r in here
                ],
            ),
        )
        parts.append(
            {
                "set": labels_title(name),
                "draws": here[0].draws,
                "chance": chance,
                "figure": figure,
                "table": _table(here),
                "note": _note(here),
            }
        )
    return parts


def _note(rows: Sequence[LabelRow]) -> str:
    pixels = {row.classifier for row in rows if row.embedding == "raw_pixels"}
    others = {row.classifier for row in rows if row.embedding != "raw_pixels"}
    missing = [title for name, title in CLASSIFIERS.items() if name in others - pixels]
    none = f" There is no curve of raw pixels for: {', '.join(missing)}."
    return none if pixels and missing else ""


def _table(rows: Sequence[LabelRow]) -> dict[str, Any]:
    columns = list(dict.fromkeys((row.classifier, row.embedding) for row in rows))
    cells = {(row.classifier, row.embedding, row.labels): row for row in rows}
    sizes = sorted({row.labels for row in rows})
    return {
        "columns": [(CLASSIFIERS.get(c, c), embedding_title(e)) for c, e in columns],
        "rows": [(size, [cells.get((*column, size)) for column in columns]) for size in sizes],
    }
