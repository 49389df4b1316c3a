"""Predictions out: CSV, Parquet, and an import file that EcoTaxa takes back with its ids."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.errors import InputError
from jaxssl.files import atomic, defused, seal_parquet, write_text

ENDINGS = (".csv", ".parquet", ".tsv")
# EcoTaxa's columns and the types in the second row: text, or a number ("float").
_ECOTAXA = {
    "img_file_name": "[t]",
    "img_rank": "[f]",
    "object_id": "[t]",
    "object_annotation_category": "[t]",
    "object_annotation_status": "[t]",
    "object_prediction_score": "[f]",
}


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Args:
      id: the image, by its name below the place it was read from.
      label: the class it looks like most.
      score: how sure, 0 to 1.
      path: its file, "" without one.
      object_id: EcoTaxa's name of the object, "" where there is none (`Report.object_ids`).
      scores: class -> score, for columns of their own; {} for none.
    """

    id: str
    label: str
    score: float
    path: str = ""
    object_id: str = ""
    scores: dict[str, float] = field(default_factory=dict)


def write_predictions(
    path: str | Path,
    rows: Sequence[Prediction],
    *,
    min_score: float = 0.0,
    note: str | None = None,
) -> int:
    """Write a table of predictions, in the form that its name asks for, whole or not at all.

    - `.csv`: id, path, predicted, score, and a column a class where there are scores. A text that a
      spreadsheet would take for a formula (it begins with = + - @) gets an apostrophe before it.
    - `.parquet`: the same, untouched.
    - `.tsv`: an EcoTaxa import file. Status is "predicted"; object_id is EcoTaxa's own where it is
      known, else the file's name without its ending; images of one object share it, and its most
      certain prediction.

    Args:
      path: the file; its folder must exist.
      rows: one an image.
      min_score: rows below it stay unassigned: their class and status are empty.
      note: of what they were made, noted beside the file (`jaxssl.files.free`); None notes nothing.

    Returns:
      How many rows are assigned.

    Raises:
      InputError: a name with another ending, a folder that is not there, or a disk that is full.
      ValueError: a score outside 0 to 1.

    Example:
      >>> import tempfile
      >>> rows = [Prediction("a/0.png", "copepod", 0.9), Prediction("a/1.png", "=cmd", 0.4)]
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     assigned = write_predictions(f"{tmp}/x.csv", rows, min_score=0.5)
      ...     print(Path(tmp, "x.csv").read_text(), end="")
      id,path,predicted,score
      a/0.png,,copepod,0.9
      a/1.png,,,0.4
      >>> assigned
      1
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"{path.name}: predictions are written as {', '.join(ENDINGS)} (EcoTaxa's import file)"
        )
    for row in rows:
        if not (math.isfinite(row.score) and 0 <= row.score <= 1):
            raise ValueError(f"the score of {row.id!r} is {row.score}, outside 0 to 1")
    try:
        if path.suffix.lower() == ".tsv":
            best = _best_of_objects(rows)
            write_text(path, _ecotaxa(rows, best, min_score), note=note)
            return sum(best[_object(row)].score >= min_score for row in rows)
        table = _columns(rows, min_score)
        if path.suffix.lower() == ".csv":
            write_text(path, _csv(table), note=note)
        else:
            _write_parquet(path, table, note)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return sum(row.score >= min_score for row in rows)


def _columns(rows: Sequence[Prediction], min_score: float) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {
        "id": [row.id for row in rows],
        "path": [row.path for row in rows],
        "predicted": [row.label if row.score >= min_score else "" for row in rows],
        "score": [float(row.score) for row in rows],
    }
    if any(row.object_id for row in rows):
        table["object_id"] = [row.object_id for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row.scores):
        table[f"score {name}"] = [float(row.scores.get(name, np.nan)) for row in rows]
    return table


def _csv(table: dict[str, list[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([defused(name) for name in table])
    for row in zip(*table.values(), strict=True):
        writer.writerow([defused(cell) if isinstance(cell, str) else f"{cell:.6g}" for cell in row])
    return out.getvalue()


def _write_parquet(path: Path, table: dict[str, list[Any]], note: str | None) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {str: pyarrow.string(), float: pyarrow.float32()}
    text = ("id", "path", "predicted", "object_id")
    schema = pyarrow.schema([(name, kinds[str if name in text else float]) for name in table])
    with atomic(path, note=note) as out:
        pyarrow.parquet.write_table(
            pyarrow.table(table, schema=schema), out, write_page_checksum=True
        )
        seal_parquet(out)


# ------------------------------------------------------------------------------------------ EcoTaxa


def _object(row: Prediction) -> str:
    name = row.id.rpartition("/")[2]
    return row.object_id or name.rpartition(".")[0] or name


def _best_of_objects(rows: Sequence[Prediction]) -> dict[str, Prediction]:
    best: dict[str, Prediction] = {}
    for row in rows:
        known = best.setdefault(_object(row), row)
        best[_object(row)] = max(known, row, key=lambda one: one.score)
    return best


def _ecotaxa(rows: Sequence[Prediction], best: dict[str, Prediction], min_score: float) -> str:
    """Format tab-separated lines; a tab or line break inside a name would be a new cell or row."""
    ranks: dict[str, int] = {}
    lines = ["\t".join(_ECOTAXA), "\t".join(_ECOTAXA.values())]
    for row in rows:
        name = _object(row)
        ranks[name] = ranks.get(name, -1) + 1
        sure = best[name].score >= min_score
        cells = [
            row.id,
            str(ranks[name]),
            name,
            best[name].label if sure else "",
            "predicted" if sure else "",
            f"{best[name].score:.6g}",
        ]
        lines.append("\t".join(re.sub(r"[\t\r\n]", " ", cell) for cell in cells))
    return "\n".join(lines) + "\n"
