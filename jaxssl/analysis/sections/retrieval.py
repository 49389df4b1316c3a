"""Retrieval and clustering: a table a set, an embedding a row."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from jaxssl.analysis.names import embedding_title, set_title
from jaxssl.analysis.page import fragment
from jaxssl.analysis.sections.base import Context

NAMES = ("P@1", "R-precision", "MAP@R", "NMI", "silhouette", "separation")


def make(context: Context) -> Markup | None:
    """Tabulate the numbers, the best of a column marked; None for a run without labels."""
    if not context.labelled:
        return None
    results = context.results
    tables: list[dict[str, Any]] = []
    for name, found in results.retrieval.items():
        shown = {
            embedding_title(embedding): [
                scores.precision_at_1,
                scores.r_precision,
                scores.map_at_r,
                results.nmi[name][embedding],
                results.silhouette[name][embedding],
                results.separation[name][embedding].angular,
            ]
            for embedding, scores in found.items()
        }
        best = [
            max((value for value in column if value is not None), default=None)
            for column in zip(*shown.values(), strict=True)
        ]
        tables.append({"set": set_title(name), "names": NAMES, "rows": shown, "best": best})
    rows = [(t["set"], name, *values) for t in tables for name, values in t["rows"].items()]
    file = context.files.table("retrieval", ("set", "embedding", *NAMES), rows) if rows else None
    return fragment("retrieval.html.j2", retrieval=tables, file=file)
