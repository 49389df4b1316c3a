"""Clusters of look-alikes, found without labels: their size, pictures and classes."""

from __future__ import annotations

from markupsafe import Markup

from jaxssl.analysis.page import fragment
from jaxssl.analysis.pictures import Pictures
from jaxssl.analysis.sections.base import Context

_CLASSES = 4


def make(context: Context) -> Markup:
    """Show each cluster; `clusters.csv` has every image with its cluster."""
    found = context.results.clusters
    if found is None:
        return fragment("missing.html.j2", why="Clusters need three images or more.")
    pictures = Pictures(context.h)
    shown = [
        {
            "number": i + 1,
            "images": cluster.images,
            "central": [pictures[row_id] for row_id in cluster.central],
            "classes": list(cluster.classes.items())[:_CLASSES],
            "more": len(cluster.classes) - _CLASSES,
        }
        for i, cluster in enumerate(found.clusters)
    ]
    rows = [
        (row_id, table.paths[i], name, table.class_names[i], found.members[name][i] + 1)
        for name, table in context.h.items()
        if len(found.members.get(name, ())) == len(table)
        for i, row_id in enumerate(table.ids)
    ]
    tried = [f"{k} ({s:.3f})" for k, s in found.silhouettes.items() if s is not None]
    return fragment(
        "clusters.html.j2",
        clusters=shown,
        tried=", ".join(tried),
        file=context.files.table("clusters", ("id", "path", "set", "class", "cluster"), rows),
    )
