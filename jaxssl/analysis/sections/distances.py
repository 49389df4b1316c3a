"""Distances between classes, Euclidean and angular, a part for each judged set."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from jaxssl.analysis.matrices import distance_matrix
from jaxssl.analysis.names import set_title
from jaxssl.analysis.page import fragment, matrix_table, seriation
from jaxssl.analysis.sections.base import Context

UNITS = {"euclidean": "Euclidean distance", "angular": "angle in degrees"}


def make(context: Context) -> Markup | None:
    """Draw the matrices, look-alikes side by side; None for a run without labels."""
    if not context.labelled:
        return None
    results, parts = context.results, []
    for name, found in results.distances.items():
        order = seriation(np.array(found.euclidean, np.float64))
        classes = [found.classes[i] for i in order]
        shown = []
        for metric, unit in UNITS.items():
            matrix = np.array(getattr(found, metric), np.float64)[np.ix_(order, order)]
            separation = results.separation.get(name, {}).get("h")
            ratio = getattr(separation, metric) if separation else None
            figure = context.files.add(
                f"distances-{name}-{metric}",
                {"classes": classes, metric: matrix, "separation": ratio},
                alt=f"Mean {unit} between the classes of {set_title(name)}",
                wide=distance_matrix(matrix, classes, unit=unit),
                table=(
                    ("class", *classes),
                    [(label, *row) for label, row in zip(classes, matrix.tolist(), strict=True)],
                ),
            )
            rows = matrix_table(matrix, classes, results.sets[name].classes)
            shown.append({"unit": unit, "ratio": ratio, "rows": rows, "figure": figure})
        parts.append({"set": set_title(name), "matrices": shown})
    return fragment("distances.html.j2", distances=parts)
