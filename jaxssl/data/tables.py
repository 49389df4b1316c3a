"""Tables of labels: CSV, TSV and Parquet, plain or gzipped, EcoTaxa's exports and import files."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxssl.data.walk import ImageFile, is_image, nfc, read_bytes
from jaxssl.errors import InputError

ENDINGS = (".csv", ".tsv", ".txt", ".parquet", ".csv.gz", ".tsv.gz", ".txt.gz")
MAX_BYTES = 2**31  # of a table unpacked
_HEADER_BYTES = 2**18
# Before the header: Excel's line that names the delimiter, and comments.
_PREFACE = re.compile(r"\A(?:sep=.\r?\n|#[^,;\t|\r\n]*\r?\n)+")
# Files of tables that other programs read.
_FOREIGN = (".xlsx", ".xls", ".ods", ".json", ".jsonl", ".xml", ".feather", ".h5", ".npz", ".mat")
_TYPES = re.compile(r"\[[tf]\]")  # EcoTaxa's second row: [t]ext or [f]loat

# Usual names of columns, the most telling first; letters and digits alone count.
PATHS = (
    *("img_file_name", "img_path", "image_path", "file_path", "path", "file_name", "file"),
    *("image_file", "image_name", "image", "img", "filepath", "filename", "url", "image_url"),
)
IDS = ("image_id", "img_id", "id", "roi_id", "object_id", "name")
LABELS = (
    *("object_annotation_category", "label", "labels", "class", "class_name", "category"),
    *("taxon", "taxa", "species", "annotation", "target"),
)
SPLITS = ("split", "set", "subset", "partition")
FOLDERS = ("folder", "directory", "dir", "subfolder", "folder_name")
GROUPS = ("group", "group_id")
ECOTAXA_LABEL, ECOTAXA_STATUS = "object_annotation_category", "object_annotation_status"
ECOTAXA_OBJECT = "object_id"
# What tables write where there is no label.
_MISSING = frozenset(
    {"", "nan", "na", "n/a", "#n/a", "none", "null", "<na>", "-", "?", "unlabelled", "unlabeled"}
    | {"unannotated", "unclassified", "unsorted", "not labelled"}
)


@dataclass(frozen=True)
class Table:
    """A table as text: the named columns' cells, row by row.

    Args:
      name: its name, for messages.
      folder: the folder it lies in by its name in ids, "" or "a/b/".
      columns: the names of its columns, in order.
      rows: a list of cells a row, as many as columns.
    """

    name: str
    folder: str
    columns: tuple[str, ...]
    rows: list[Sequence[str]]

    def find(self, usual: Iterable[str]) -> list[str]:
        """List the columns that have one of these usual names, in the order of the names."""
        plain = {_plain(column): column for column in reversed(self.columns)}
        found = [plain[key] for name in usual if (key := _plain(name)) in plain]
        return list(dict.fromkeys(found))

    def column(self, name: str) -> list[str]:
        """Return the cells of a column, whose name may differ in case.

        Raises:
          InputError: there is no such column; the line lists them.
        """
        names = [column for column in self.columns if column == name] or self.find([name])
        if not names:
            raise InputError(
                f"{self.name} has no column {name!r}; its columns: {', '.join(self.columns[:20])}"
            )
        places = [i for i, column in enumerate(self.columns) if column == names[0]]
        cells = [row[places[0]] for row in self.rows]
        if any([row[i] for row in self.rows] != cells for i in places[1:]):
            raise InputError(f"{self.name}: {names[0]!r} names two columns, which differ")
        return cells


def is_table(name: str) -> bool:
    """Tell whether the ending is one of a table read here."""
    return name.lower().endswith(ENDINGS)


def read_table(file: ImageFile, *, header_only: bool = False) -> Table:
    r"""Read a table as text, or its header alone, without rows.

    The delimiter is the commonest of tab, comma and semicolon in the header; the encoding UTF-8,
    with or without a byte order mark, or else Latin-1. EcoTaxa's row of types is left out, and so
    are Excel's `sep=;` and comments before the header. Two columns without a header, an image and
    its label a row, are taken as such.

    Raises:
      InputError: it cannot be read, or is no table.

    Example:
      >>> import tempfile
      >>> from jaxssl.data.source import Source
      >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as out:
      ...     _ = out.write("path;label\na.png;cat\n"), out.flush()
      ...     table = read_table(ImageFile("labels.csv", Source(out.name), (0, 0)))
      >>> table.columns, table.column("Label")
      (('path', 'label'), ['cat'])
    """
    if file.id.lower().endswith(_FOREIGN):
        raise InputError(f"{file.source} is no table read here: save it as CSV, TSV or Parquet")
    whole = not header_only or file.id.lower().endswith((".gz", ".parquet"))
    content = read_bytes(file, -1 if whole else _HEADER_BYTES)
    if file.id.lower().endswith(".parquet"):
        columns, rows = _parquet(file, content)
    else:
        if file.id.lower().endswith(".gz"):
            content = _unzipped(file, content)
        lines = _delimited(file, _text(content))
        columns = tuple(cell.strip() for cell in next(lines, []))
        rows = [] if header_only else list(lines)
    if not any(columns):
        raise InputError(f"{file.source} is no table with a header of names")
    if len(columns) == 2 and is_image(columns[0]) != is_image(columns[1]):
        # No header: the first row is one of the others, an image and its label.
        rows = [] if header_only else [columns, *rows]
        columns = ("path", "label") if is_image(columns[0]) else ("label", "path")
    return Table(str(file.source), file.id[: file.id.rfind("/") + 1], columns, rows)


def clean_labels(cells: Sequence[str]) -> list[str]:
    """Clean labels: composed Unicode, "" where none is given, whole numbers without ".0".

    Example:
      >>> clean_labels(["1.0", "nan", " 2.0 "]), clean_labels(["1.5", "None", "copepod"])
      (['1', '', '2'], ['1.5', '', 'copepod'])
    """
    plain = [nfc(cell.strip()) for cell in cells]
    plain = ["" if cell.casefold() in _MISSING else cell for cell in plain]
    if all(re.fullmatch(r"-?\d+\.0", cell) for cell in plain if cell):
        plain = [cell.removesuffix(".0") for cell in plain]  # pandas' numbers beside a gap
    return plain


def in_folders(table: Table, images: list[str]) -> list[str]:
    """Put the folder that a column of its own gives before a bare name."""
    column = table.find(FOLDERS)
    if not column or any("/" in name or "\\" in name for name in images):
        return images
    folders = table.column(column[0])
    return [f"{folder}/{name}" for folder, name in zip(folders, images, strict=True)]


def _unzipped(file: ImageFile, content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            plain = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file.source} is cut short or damaged ({error})") from error
    if len(plain) > MAX_BYTES:
        raise InputError(f"{file.source} unpacks to more than {MAX_BYTES >> 30} GiB: no table")
    return plain


def _text(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):  # what spreadsheets call Unicode text
        return content.decode("utf-16", "replace")
    if content[1:8:2] == b"\0\0\0\0":  # the same without its mark
        return content.decode("utf-16-le", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _delimited(file: ImageFile, text: str) -> Iterator[list[str]]:
    """Yield the rows that are not empty, each as long as the header."""
    text = _PREFACE.sub("", text)
    header = text[: text.find("\n") + 1 or None]
    delimiter = max("\t,;|", key=header.count)
    width = 0
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if not any(row) or (width and all(map(_TYPES.fullmatch, filter(None, row)))):
                continue
            width = width or len(row)
            yield (row + [""] * (width - len(row)))[:width]
    except csv.Error as error:
        raise InputError(f"{file.source} is no table: {error}") from error


def _parquet(file: ImageFile, content: bytes) -> tuple[tuple[str, ...], list[Sequence[str]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        reader = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        plain = [
            field.name
            for field in reader.schema_arrow
            if not (pyarrow.types.is_nested(field.type) or pyarrow.types.is_binary(field.type))
        ]  # embeddings and pictures are no labels
        data = reader.read(columns=plain)
        cells = [
            ["" if cell is None else str(cell) for cell in column.to_pylist()]
            for column in data.columns
        ]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{file.source} is no Parquet file, or damaged ({reason})") from error
    return tuple(plain), list(zip(*cells, strict=True))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
