"""Maps of several runs that are linked: an image that is chosen in one is marked in all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxssl.analysis.atlas import SHEET, coordinates, drawn, packed, rounded, shapes, sprite_sheets
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.names import NO_LABEL

_TILE = 48
MOST = 10_000  # images with a picture


def linked_data(runs: Mapping[str, Mapping[str, Embeddings]]) -> dict[str, Any] | None:
    """Pack the maps of several runs, their images matched by path, or by id where there is none.

    Args:
        runs: Name of the run -> set -> table; rows with `x_umap`, `y_umap` are drawn.

    Returns:
        JSON values: `classes`; of each image `ids`, `paths`, `label` (uint16 in base64) and, of the
        first 10,000, pictures (`sheets`, `shapes`, `um`); a panel a run of `name`, `x`, `y`
        (uint16) and `image` (uint32, which image a point is). None for fewer than two runs with
        a map.

    Example:
        >>> table = Embeddings(np.eye(2), ("1", "2"), ("", ""), ("a", "b"), np.array([0, 1]),
        ...                    ("test",) * 2, extra={"x_umap": [0.0, 1.0], "y_umap": [0.0, 2.0]})
        >>> found = linked_data({"A": {"test": table}, "B": {"test": table.select([1])}})
        >>> found["ids"], [panel["name"] for panel in found["panels"]]
        (['1', '2'], ['A', 'B'])
    """
    shown = {
        name: [part for table in sets.values() if len(part := drawn(table))]
        for name, sets in runs.items()
    }
    shown = {name: parts for name, parts in shown.items() if parts}
    if len(shown) < 2:
        return None
    place: dict[str, int] = {}
    ids: list[str] = []
    files: list[str] = []
    names: list[str] = []
    pictures: list[bytes] = []
    wide: list[float] = []
    panels = []
    for name, parts in shown.items():
        rows = []
        for table in parts:
            columns = (table.ids, table.paths, table.class_names, table.thumbnails)
            for row_id, path, class_name, picture, micrometres in zip(
                *columns, table.micrometres, strict=True
            ):
                key = path or row_id
                if key not in place:
                    place[key] = len(ids)
                    ids.append(row_id)
                    files.append(path)
                    names.append(class_name or NO_LABEL)
                    pictures.append(picture)
                    wide.append(micrometres)
                rows.append(place[key])
        xy = np.concatenate([coordinates(table) for table in parts])
        low, high = xy.min(axis=0), xy.max(axis=0)
        x, y = ((xy - (low + high) / 2) / max(float((high - low).max()), 1e-9) + 0.5).T * 65535
        panels.append(
            {
                "name": name,
                "x": packed(x, "<u2"),
                "y": packed(65535 - y, "<u2"),  # up on paper is down on a screen
                "image": packed(np.array(rows), "<u4"),
            }
        )
    classes = [name for name in dict.fromkeys(names) if name != NO_LABEL]
    classes += [NO_LABEL] * (NO_LABEL in names)
    index = {name: i for i, name in enumerate(classes)}
    return {
        "classes": classes,
        "unlabelled": index.get(NO_LABEL, -1),
        "ids": ids,
        "paths": files if any(files) else [],
        "label": packed(np.array([index[name] for name in names]), "<u2"),
        "panels": panels,
        "tile": _TILE,
        "across": SHEET // _TILE,
        "sheets": sprite_sheets(pictures[:MOST], tile=_TILE),
        "shapes": shapes(pictures[:MOST]),
        "um": rounded(wide[:MOST]),
    }
