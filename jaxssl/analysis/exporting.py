"""A table of embeddings in the form that its file's name asks for."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from jaxssl.analysis.embeddings import Embeddings, save
from jaxssl.errors import InputError
from jaxssl.files import defused, write_text


def export(path: str | Path, table: Embeddings, *, note: str | None = None) -> None:
    """Write a table of embeddings: `.parquet` as `embeddings.save`, `.csv` for a spreadsheet.

    The CSV has id, path, class_name, split and a column a number, "h0" to "h<d-1>", with nine
    digits, which float32 needs. A text that a spreadsheet would take for a formula (it begins with
    = + - @) gets an apostrophe before it.

    Args:
        path: The file; its folder is made where it is missing.
        table: n rows.
        note: Of what it was made, noted beside it (`jaxssl.files.free`); None notes nothing.

    Raises:
        InputError: Another ending.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> table = Embeddings(np.ones((1, 2)), ("=1",), ("",), ("a",), np.array([0]), ("test",))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(Path(folder, "x.csv"), table)
        ...     print(Path(folder, "x.csv").read_text(), end="")
        id,path,class_name,split,h0,h1
        '=1,,a,test,1,1
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        save(path, table, note=note)
        return
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path.name}: a table of embeddings is written as .parquet or .csv")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    width = table.vectors.shape[1]
    writer.writerow(["id", "path", "class_name", "split", *(f"h{i}" for i in range(width))])
    columns = zip(table.ids, table.paths, table.class_names, table.split, strict=True)
    for texts, vector in zip(columns, table.vectors.tolist(), strict=True):
        cells = [defused(text) for text in texts]
        writer.writerow([*cells, *(f"{value:.9g}" for value in vector)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, out.getvalue(), note=note)
