"""The pictures of a page: each image once, with what a reader needs to find it again."""

from __future__ import annotations

from dataclasses import dataclass

from jaxssl.analysis.atlas import data_uri, opened
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.tables import Sets

_LONGEST = 128


@dataclass(frozen=True)
class Picture:
    """An image as the macro `picture` shows it.

    Args:
        id: Its name.
        set: Its set, "" where the tables do not have it.
        path: Its file, "" where it has none.
        class_name: Its class, "" for no label.
        source: A `data:` address, "" where there is no picture.
    """

    id: str
    set: str
    path: str
    class_name: str
    source: str


class Pictures:
    """The pictures of some tables, by id.

    Args:
        sets: Set -> table.
    """

    def __init__(self, sets: Sets):
        self._rows: dict[str, tuple[str, Embeddings, int]] = {
            row_id: (name, table, row)
            for name, table in sets.items()
            for row, row_id in enumerate(table.ids)
        }

    def __getitem__(self, row_id: str) -> Picture:
        if row_id not in self._rows:
            return Picture(row_id, "", "", "", "")
        name, table, row = self._rows[row_id]
        image = opened(table.thumbnails[row], _LONGEST)
        source = data_uri(image, quality=80) if image else ""
        return Picture(row_id, name, table.paths[row], table.class_names[row], source)

    def path(self, row_id: str) -> str:
        """Return an image's file, "" where it has none."""
        _, table, row = self._rows.get(row_id, ("", None, 0))
        return table.paths[row] if table else ""
