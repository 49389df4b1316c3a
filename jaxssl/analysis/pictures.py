"""The pictures of a page: each image once, with what a reader needs to find it again."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from jaxssl.analysis.atlas import data_uri, of_file, opened
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
        png: Its picture, b"" where there is none.
        micrometres: How many it is wide, 0 where that is not known.
        sides: Height and width of the file; (0, 0): the file is not looked at.
    """

    id: str
    set: str = ""
    path: str = ""
    class_name: str = ""
    png: bytes = b""
    micrometres: float = 0.0
    sides: tuple[int, int] = (0, 0)

    @functools.cached_property
    def source(self) -> str:
        """A `data:` address: of the file where it is there, else of what a network saw; or ""."""
        image = of_file(self.path, self.sides, _LONGEST) or opened(self.png, _LONGEST)
        return data_uri(image, quality=80) if image else ""


class Pictures:
    """The pictures of some tables, by id.

    Args:
        sets: Set -> table.
        files: Whether pictures are of the files themselves, where they are there: larger ones.
    """

    def __init__(self, sets: Sets, *, files: bool = True):
        self._rows: dict[str, tuple[str, Embeddings, int]] = {
            row_id: (name, table, row)
            for name, table in sets.items()
            for row, row_id in enumerate(table.ids)
        }
        self._wide = {name: table.micrometres for name, table in sets.items()}
        unknown: tuple[int, int] = (0, 0)
        self._sides = {n: t.sides if files else [unknown] * len(t) for n, t in sets.items()}

    def __getitem__(self, row_id: str) -> Picture:
        if row_id not in self._rows:
            return Picture(row_id)
        name, table, row = self._rows[row_id]
        return Picture(
            row_id,
            name,
            table.paths[row],
            table.class_names[row],
            table.thumbnails[row],
            self._wide[name][row],
            self._sides[name][row],
        )

    def path(self, row_id: str) -> str:
        """Return an image's file, "" where it has none."""
        _, table, row = self._rows.get(row_id, ("", None, 0))
        return table.paths[row] if table else ""
