"""Images whose label, picture or split is probably wrong, with what speaks against them."""

from __future__ import annotations

from markupsafe import Markup

from jaxssl.analysis.page import fragment
from jaxssl.analysis.pictures import Pictures
from jaxssl.analysis.sections.base import Context

_SHOWN = 50


def make(context: Context) -> Markup:
    """Show the most suspect; `suspects.csv` has all that are listed."""
    found, pictures = context.results.suspects, Pictures(context.h)
    columns = ("rank", "id", "path", "set", "class", "proposed", "why", "copy of", "score")
    rows = [
        (i + 1, s.id, pictures.path(s.id), s.set, s.class_name, s.proposed, why, s.twin, s.score)
        for i, s in enumerate(found)
        for why in ["; ".join(s.why)]
    ]
    return fragment(
        "suspects.html.j2",
        suspects=[(one, pictures[one.id]) for one in found[:_SHOWN]],
        total=len(found),
        file=context.files.table("suspects", columns, rows),
    )
