"""What a run's own classifier gets right on the test images, and what it takes for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxssl.analysis.matrices import confusion_matrix, row_shares
from jaxssl.analysis.page import FigureFiles, fragment, matrix_table
from jaxssl.analysis.pictures import Pictures
from jaxssl.analysis.results import Classification
from jaxssl.analysis.sections.base import Context
from jaxssl.analysis.tables import Sets

# Pictures that one cell of the confusion matrix opens, and that all of them hold in the page.
_SHOWN, _PICTURES = 24, 2000


def make(context: Context) -> Markup | None:
    """Show the run's own classifier; None where it has none."""
    found = context.results.classification
    return show(found, context.files, _cells(found, context.h)) if found else None


def show(
    found: Classification, files: FigureFiles, cells: Mapping[str, Mapping[str, Any]] | None = None
) -> Markup:
    """Return the HTML that says what a classifier gets right, its figure written.

    Args:
        found: What it gets right.
        files: The page's.
        cells: "row.column" of the confusion matrix -> what its cell opens.
    """
    return fragment("classifier.html.j2", found=described(found, files), cells=cells or {})


def _cells(found: Classification, sets: Sets) -> dict[str, dict[str, Any]]:
    """Gather what each cell opens: its images by name, with the pictures of the first few."""
    table = sets.get("test")
    if table is None or "predicted" not in table.extra:
        return {}
    index = {name: i for i, name in enumerate(found.classes)}
    rows: dict[str, list[int]] = {}
    for row, (own, guess) in enumerate(
        zip(table.class_names, table.extra["predicted"].tolist(), strict=True)
    ):
        if own in index and guess in index:
            rows.setdefault(f"{index[own]}.{index[guess]}", []).append(row)
    shown = max(1, min(_SHOWN, _PICTURES // max(len(rows), 1)))
    pictures = Pictures({"test": table}, files=False)  # thousands
    cells = {}
    for cell, members in rows.items():
        own, guess = (found.classes[int(i)] for i in cell.split("."))
        cells[cell] = {
            "title": f"{own}, taken for {guess}" if own != guess else f"{own}, right",
            "total": len(members),
            "images": [
                {"id": one.id, "path": one.path, "source": one.source, "um": one.micrometres}
                for row in members[:shown]
                for one in [pictures[table.ids[row]]]
            ],
        }
    return cells


def described(found: Classification, files: FigureFiles) -> dict[str, Any]:
    """Describe accuracy in total and per class, and the confusion matrix.

    Args:
        found: Counts with a class a row and what it was taken for a column.
        files: The page's.

    Returns:
        `total`, `top`, `rows` (a class each, the worst first) and `matrix`.
    """
    classes, counts = found.classes, np.array(found.confusion, int)
    images, right = counts.sum(1), np.diagonal(counts)
    total = _share(int(right.sum()), int(images.sum()))
    figure = files.add(
        "confusion",
        found,
        alt=f"Confusion matrix of {len(classes)} classes on {total['images']:,} test images, "
        f"{total['right']:,} right",
        wide=confusion_matrix(counts, classes),
        table=(
            ("class", *(f"taken for {name}" for name in classes)),
            [(name, *row) for name, row in zip(classes, counts.tolist(), strict=True)],
        ),
    )
    texts = [[f"{count:,}" if count else "" for count in row] for row in counts.tolist()]
    by_class = [
        {"name": name, "taken_for": _taken_for(i, counts, classes)}
        | _share(int(right[i]), int(images[i]))
        for i, name in enumerate(classes)
    ]
    return {
        "total": total,
        "top": {n: share for n, share in found.top.items() if n != "1"},
        # A class without test images has no share: it stands last.
        "rows": sorted(by_class, key=lambda row: 2.0 if row["mean"] is None else row["mean"]),
        "matrix": {
            "rows": matrix_table(
                row_shares(counts),
                classes,
                dict(zip(classes, images.tolist(), strict=True)),
                texts=texts,
                limits=(0.0, 1.0),
                scale="b",
            ),
            "corner": "class ↓ taken for →",
            "figure": figure,
        },
    }


def _share(right: int, images: int) -> dict[str, Any]:
    """Return a share with its 95 % interval after Wilson, which stays within 0 and 1.

    Example:
        >>> {name: round(value, 3) for name, value in _share(9, 10).items()}
        {'right': 9, 'images': 10, 'mean': 0.9, 'low': 0.596, 'high': 0.982}
    """
    from scipy.stats import binomtest

    if not images:
        return {"right": 0, "images": 0, "mean": None, "low": None, "high": None}
    low, high = map(float, binomtest(right, images).proportion_ci(0.95, "wilson"))
    return {"right": right, "images": images, "mean": right / images, "low": low, "high": high}


def _taken_for(row: int, counts: np.ndarray, classes: Sequence[str]) -> tuple[str, int] | None:
    """Find the class it is most often taken for, and how often; None where it never errs."""
    wrong = counts[row].copy()
    wrong[row] = 0
    most = int(wrong.argmax())
    return (classes[most], int(wrong[most])) if wrong[most] else None
