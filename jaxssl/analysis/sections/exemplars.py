"""For each class of each judged set its typical and odd images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from jaxssl.analysis import figures
from jaxssl.analysis.atlas import thumbnail
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.names import set_title
from jaxssl.analysis.page import fragment
from jaxssl.analysis.pictures import Pictures
from jaxssl.analysis.results import ClassExemplars, Exemplar
from jaxssl.analysis.sections.base import Context

KINDS = {
    "closest": "closest to the centre",
    "farthest": "farthest from it",
    "closest_of_others": "closest of other classes",
}
_SIDE = 64


def make(context: Context) -> Markup | None:
    """Show the pictures, class by class; None for a run without labels."""
    if not context.labelled:
        return None
    found = [name for name in context.results.exemplars if name in context.h]
    return fragment("exemplars.html.j2", exemplars=[_of_set(context, name) for name in found])


def _of_set(context: Context, name: str) -> dict[str, Any]:
    found, table = context.results.exemplars[name], context.h[name]
    pictures, shown = _pictures(table, found), Pictures({name: table})
    figure = None
    if any(pictures.values()):
        sheet, titles = _sheet(found, pictures)
        figure = context.files.add(
            f"exemplars-{name}",
            found,
            alt=f"Typical and odd images of the classes of {set_title(name)}",
            wide=figures.image_sheet(sheet, columns=titles, labels=list(found)),
            table=(("shown with", "kind", "id", "class", "distance"), _rows(found)),
        )
    counts = context.results.sets[name].classes
    return {
        "set": set_title(name),
        "classes": [
            {
                "name": label,
                "count": counts.get(label, 0),
                "kinds": {title: _images(kinds, kind) for kind, title in KINDS.items()},
            }
            for label, kinds in found.items()
        ],
        "sources": {row_id: shown[row_id] for row_id in pictures},
        "figure": figure,
        "unit": "°" if table.distance == "angular" else "",
    }


def _rows(found: Mapping[str, ClassExemplars]) -> list[tuple[Any, ...]]:
    return [
        (label, title, image.id, image.class_name, image.distance)
        for label, kinds in found.items()
        for kind, title in KINDS.items()
        for image in _images(kinds, kind)
    ]


def _images(of_class: ClassExemplars, kind: str) -> tuple[Exemplar, ...]:
    return getattr(of_class, kind)


def _pictures(
    table: Embeddings, found: Mapping[str, ClassExemplars]
) -> dict[str, Image.Image | None]:
    row = {row_id: i for i, row_id in enumerate(table.ids)}
    wanted = {i.id for kinds in found.values() for kind in KINDS for i in _images(kinds, kind)}
    return {
        row_id: thumbnail(table.thumbnails[row[row_id]], _SIDE) if row_id in row else None
        for row_id in sorted(wanted)
    }


def _sheet(
    found: Mapping[str, ClassExemplars], pictures: Mapping[str, Image.Image | None]
) -> tuple[np.ndarray, list[str]]:
    """Lay all exemplars on one sheet: a class a row, three blocks of columns with their titles."""
    count = max(len(_images(kinds, kind)) for kinds in found.values() for kind in KINDS)
    sheet = np.full((len(found), 3 * count, _SIDE, _SIDE, 3), 255, np.uint8)
    for row, kinds in enumerate(found.values()):
        for block, kind in enumerate(KINDS):
            for i, image in enumerate(_images(kinds, kind)):
                picture = pictures[image.id]
                if picture is not None:
                    sheet[row, block * count + i] = np.asarray(picture)
    titles = [""] * (3 * count)
    titles[count // 2 :: count] = KINDS.values()
    return sheet, titles
