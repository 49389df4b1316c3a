"""Images unlike all others, found without labels."""

from __future__ import annotations

from markupsafe import Markup

from jaxssl.analysis.page import fragment
from jaxssl.analysis.pictures import Pictures
from jaxssl.analysis.sections.base import Context

_SHOWN = 24


def make(context: Context) -> Markup:
    """Show the farthest; `outliers.csv` has all that are listed."""
    found, pictures = context.results.outliers, Pictures(context.h)
    shown = [
        {"image": pictures[one.id], "distance": one.distance, "isolation": one.isolation}
        for one in found[:_SHOWN]
    ]
    columns = ("rank", "id", "path", "set", "class", "distance", "isolation")
    rows = [
        (i + 1, o.id, pictures.path(o.id), o.set, o.class_name, o.distance, o.isolation)
        for i, o in enumerate(found)
    ]
    return fragment(
        "outliers.html.j2",
        outliers=shown,
        total=len(found),
        unit="°" if context.results.embedding.distance == "angular" else "",
        file=context.files.table("outliers", columns, rows),
    )
