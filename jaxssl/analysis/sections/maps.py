"""The map of the embedding: all sets side by side, and one to look into."""

from __future__ import annotations

from markupsafe import Markup

from jaxssl.analysis.atlas import coordinates, drawn, map_data
from jaxssl.analysis.names import listed, set_title
from jaxssl.analysis.page import fragment
from jaxssl.analysis.sections.base import Context
from jaxssl.analysis.umap_figure import umap_panels


def make(context: Context) -> Markup:
    """Draw UMAP side by side, and pack the data of the interactive map."""
    shown = {name: drawn(table) for name, table in context.h.items()}
    shown = {name: table for name, table in shown.items() if len(table)}
    if not shown:
        return fragment(
            "missing.html.j2",
            why="The embedding tables have no UMAP coordinates, so there is no map.",
        )
    # Every class of the run keeps its colour, drawn or not.
    classes = list(dict.fromkeys(name for t in context.h.values() for name in t.class_list))
    points = {name: coordinates(table).tolist() for name, table in shown.items()}
    numbers = {
        name: [
            {"id": row_id, "class": label, "x": x, "y": y}
            for row_id, label, (x, y) in zip(t.ids, t.class_names, points[name], strict=True)
        ]
        for name, t in shown.items()
    }
    panels = {set_title(name): (points[name], t.class_names) for name, t in shown.items()}
    figure = context.files.add(
        "umap",
        numbers,
        alt="UMAP: " + ", ".join(f"{len(t):,} {set_title(n)} images" for n, t in shown.items()),
        wide=umap_panels(panels, classes),
        table=(
            ("set", "id", "class", "x", "y"),
            [(n, p["id"], p["class"], p["x"], p["y"]) for n, ps in numbers.items() for p in ps],
        ),
        narrow=umap_panels(panels, classes, columns=1),
    )
    data = map_data(
        {set_title(name): t for name, t in context.h.items()},
        classes,
        metric=next(iter(shown.values())).distance,
    )
    context.files.sheets += data.pop("sheets")
    parts = [(len(t), len(context.h[name]), set_title(name)) for name, t in shown.items()]
    few = [f"{m:,} of {n:,} {name}" for m, n, name in parts if m < n]
    sample = f"A sample of the images: {listed(few)}." if few else ""
    caption = (
        "UMAP of all sets together, standardised, shown side by side with the same axes. Distances "
        "between far groups mean little."
    )
    return fragment(
        "maps.html.j2",
        figure=figure,
        caption=caption,
        data=data,
        sample=sample,
        whole=data["whole"],
    )
