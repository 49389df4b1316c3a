"""A table of labels that grows: every change is on the disk before it is anywhere else."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jaxssl.errors import InputError
from jaxssl.files import content_of, write_text

COLUMNS = ["path", "label"]
_FORMULA = ("=", "+", "-", "@")
_LONGEST = 200
_MOST = 2**28  # bytes of a table that is read: ten million images


class LabelTable:
    """Labels of images as CSV of `path` and `label`, the form that a table of labels is read in.

    Each change writes the table anew beside the old one and renames it (`files.atomic`): a kill
    leaves the table before or after it. Rows of images that are not among `ids` stay as they are.

    Args:
        path: The file, which need not be there yet.
        ids: Names of the images.

    Raises:
        InputError: A file with other columns, which would be lost, or that cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = LabelTable(Path(folder, "labels.csv"), ["a/0.png", "=1.png"])
        ...     table.assign([0, 1], "copepod")
        ...     table.assign([0], "diatom")
        ...     print(table.undo(), Path(folder, "labels.csv").read_text(), end="")
        [0] path,label
        a/0.png,copepod
        ./=1.png,copepod
    """

    def __init__(self, path: Path, ids: Sequence[str]):
        self.path = path
        self._names = [safe_path(one) for one in ids]
        self._row = {name: row for row, name in enumerate(self._names)}
        self._labels = _read(path)
        self._done: list[dict[str, str | None]] = []

    @property
    def labels(self) -> dict[int, str]:
        """Row -> label, of the images there are, in the order in which they were labelled."""
        return {self._row[n]: label for n, label in self._labels.items() if n in self._row}

    @property
    def changes(self) -> int:
        """How many changes `undo` can take back."""
        return len(self._done)

    def assign(self, rows: Sequence[int], label: str) -> None:
        """Give rows a label, saved when this returns.

        Raises:
            InputError: A label that is empty, too long, or that a spreadsheet would run.
            OSError: It cannot be saved; nothing has changed.
        """
        names = [self._names[row] for row in dict.fromkeys(rows)]
        before = {name: self._labels.get(name) for name in names}
        self._save(self._labels | dict.fromkeys(names, checked_label(label)))
        self._done.append(before)

    def undo(self) -> list[int]:
        """Take the last change back, saved when this returns; return its rows, [] for none."""
        if not self._done:
            return []
        before = self._done[-1]
        wanted = dict(self._labels)
        for name, label in before.items():
            if label is None:
                wanted.pop(name, None)
            else:
                wanted[name] = label
        self._save(wanted)
        self._done.pop()
        return [self._row[name] for name in before]

    def _save(self, labels: dict[str, str]) -> None:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([COLUMNS, *labels.items()])
        write_text(self.path, out.getvalue())
        self._labels = labels


def safe_path(name: str) -> str:
    """Write a relative path so that no spreadsheet takes it for a formula; it names the same file.

    Example:
        >>> safe_path("=1.png"), safe_path("a/-1.png")
        ('./=1.png', 'a/-1.png')
    """
    return f"./{name}" if name.startswith(_FORMULA) else name


def checked_label(text: str) -> str:
    """Return a class's name without spaces around it.

    Raises:
        InputError: It is empty, longer than 200 characters, has a line break or another control
            character, or begins as a spreadsheet's formula does.

    Example:
        >>> checked_label(" part<Crustacea ")
        'part<Crustacea'
    """
    text = text.strip()
    if not text:
        raise InputError("a class needs a name")
    if len(text) > _LONGEST:
        raise InputError(f"the class's name has {len(text)} characters, more than {_LONGEST}")
    if not text.isprintable():
        raise InputError(f"the class {text!r} has a character that is not printed: leave it out")
    if text.startswith(_FORMULA):
        raise InputError(
            f"the class {text!r} begins with {text[0]}, which a spreadsheet takes for a formula: "
            "begin with another character"
        )
    return text


def _read(path: Path) -> dict[str, str]:
    """Read a table's rows: name -> label, in their order."""
    if not path.exists():
        return {}
    try:
        text = content_of(path, _MOST).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table of labels ({error})") from None
    if rows and rows[0] != COLUMNS:
        found = ", ".join(rows[0][:6])[:80]
        raise InputError(
            f"{path} has the columns {found}, not path and label alone: it stays "
            "as it is; name another table, and read labels from this one"
        )
    return {row[0]: row[1] for row in rows[1:] if len(row) == 2}
