"""A table of labels that grows: every change is on the disk before it is anywhere else.

Beside it a log of the clicks, `labels.clicks.jsonl` of `labels.csv`: a line a click, with what each
image's label was before and after, and a line for each that was taken back. It is read back when
the table is opened, so that a click can be taken back another day. The table alone says what the
labels are: of the log counts what agrees with it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxssl.errors import InputError
from jaxssl.files import content_of, line_of, write_text

# Image -> label before and after, None for none.
_Change = dict[str, tuple[str | None, str]]
COLUMNS = ["path", "label"]
_FORMULA = ("=", "+", "-", "@")
_LONGEST = 200
_MOST = 2**28  # bytes of a table that is read: ten million images


class LabelTable:
    """Labels of images as CSV of `path` and `label`, the form that a table of labels is read in.

    Each change is written to the log, then the table is written anew beside the old one and renamed
    (`files.atomic`): a kill leaves the table before or after it. Rows of images that are not among
    `ids` stay as they are.

    Args:
        path: The file, which need not be there yet.
        ids: Names of the images.

    Raises:
        InputError: A file with other columns or cells, which would be lost, or that cannot be read.

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
        self._stamp = _stamp(path)
        self._labels = _read(path)
        self._log = path.with_suffix(".clicks.jsonl")
        clicks = _read_clicks(self._log)
        self._next = max(clicks, default=0) + 1
        self._done = self._that_can_be_undone(clicks)

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
            InputError: A label that is empty, too long, or that a spreadsheet would run; or another
                program changed the table.
            OSError: It cannot be saved; nothing has changed.
        """
        names, label = [self._names[row] for row in dict.fromkeys(rows)], checked_label(label)
        change: _Change = {name: (self._labels.get(name), label) for name in names}
        self._save(
            {"click": self._next, "labels": change}, self._labels | dict.fromkeys(names, label)
        )
        self._done.append((self._next, change))
        self._next += 1

    def undo(self) -> list[int]:
        """Take the last change back, saved when this returns; return its rows, [] for none."""
        if not self._done:
            return []
        number, change = self._done[-1]
        self._save({"undo": number}, _without(change, self._labels))
        self._done.pop()
        return [self._row[name] for name in change]

    def _save(self, told: dict[str, Any], labels: dict[str, str]) -> None:
        if _stamp(self.path) != self._stamp and _read(self.path) != self._labels:
            raise InputError(
                f"{self.path} was changed by another program while it was open here: it stays as "
                "it is, and this click is not saved; end with Ctrl-C, and the same command goes on "
                "from the changed table"
            )
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerows([COLUMNS, *labels.items()])
        with _appended(self._log, line_of(told)):
            write_text(self.path, out.getvalue())
        self._labels, self._stamp = labels, _stamp(self.path)

    def _that_can_be_undone(self, clicks: dict[int, _Change]) -> list[tuple[int, _Change]]:
        """Keep the newest clicks as far back as the table is what they left."""
        labels, kept = self._labels, []
        for number, change in sorted(clicks.items(), reverse=True):
            known = all(name in self._row for name in change)
            if known and all(labels.get(name) == after for name, (_, after) in change.items()):
                kept.append((number, change))
                labels = _without(change, labels)
            elif any(labels.get(name) != before for name, (before, _) in change.items()):
                break  # the table was changed by another hand; else a kill came before the table
        return kept[::-1]


def _without(change: _Change, labels: dict[str, str]) -> dict[str, str]:
    """Return the labels as they were before a change."""
    wanted = dict(labels)
    for name, (before, _) in change.items():
        if before is None:
            wanted.pop(name, None)
        else:
            wanted[name] = before
    return wanted


@contextlib.contextmanager
def _appended(path: Path, line: str) -> Iterator[None]:
    """Append a line, on the disk when this is entered, and take it away if what follows fails."""
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        try:
            file.seek(max(0, size - 1))
            torn = file.read(1) not in (b"", b"\n")  # a kill cut the last line short
            file.write(b"\n" * torn + line.encode())
            file.flush()
            os.fsync(file.fileno())
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


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


def _read_clicks(path: Path) -> dict[int, _Change]:
    """Read a log: number -> change, of the clicks that were not taken back, in their order.

    A line that a kill cut short, that has changed or is something else is left out.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(
            f"{path}: the log of labels cannot be read ({error.strerror}): mend or remove it"
        ) from None
    clicks: dict[int, _Change] = {}
    for line in lines:
        try:
            told = json.loads(line)
            told.pop("crc")
            if line_of(told) != f"{line}\n":
                continue
            if "undo" in told:
                clicks.pop(told["undo"], None)
                continue
            change = {name: (before, after) for name, (before, after) in told["labels"].items()}
            if type(told["click"]) is int:
                clicks[told["click"]] = change
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return clicks


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
    labels: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != 2:
            raise InputError(
                f"{path}: row {number} has {len(row)} cells, not a path and a label alone, and the "
                "others would be lost: it stays as it is; mend the row, or name another table"
            )
        if labels.get(row[0], row[1]) != row[1]:
            raise InputError(
                f"{path}: {row[0]!r} has two labels, {labels[row[0]]!r} and {row[1]!r}: keep one"
            )
        labels[row[0]] = row[1]
    return labels


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return a file's size and time of change; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
