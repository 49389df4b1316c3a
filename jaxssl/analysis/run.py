"""A run folder, read and checked: what training wrote, its tables, its numbers."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxssl.analysis.results import Results
from jaxssl.analysis.tables import FOLDERS, Tables, read_tables
from jaxssl.errors import InputError
from jaxssl.files import read_lines, read_object, read_record


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Args:
        folder: Where it is.
        tables: By embedding and set.
        results: `results.json`; None where it is not written yet.
        metrics: The lines of `metrics.jsonl`, [] where there are none.
        record: `config.json` (`jaxssl.files.read_record`), {} where there is none.
    """

    folder: Path
    tables: Tables
    results: Results | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def study(self) -> str:
        """The name to show, "Embedding" where no program says one."""
        return str(self.record.get("study") or "Embedding")

    @property
    def dataset(self) -> str:
        """The data set's name, "" where it is not known."""
        return str(self.record.get("dataset") or "")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every setting of the program."""
        return self.record.get("config", {})

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The settings that make the method: no seed, nothing of session or process."""
        return self.record.get("recipe", {})

    @property
    def seed(self) -> Any:
        """The seed, None where there is none."""
        return self.settings.get("seed")

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What stands beside the settings: command, versions, commit, devices, weights."""
        own = ("format", "study", "program", "dataset", "config", "recipe", "hash")
        return {name: value for name, value in self.record.items() if name not in own}


def read_run(
    run_dir: str | os.PathLike[str], *, embeddings: Collection[str] = tuple(FOLDERS)
) -> Run:
    """Read a run folder; only the tables of h are demanded, all else may be missing.

    Args:
        run_dir: The folder with `config.json`, `metrics.jsonl`, `embeddings/` and `results.json`.
        embeddings: Those whose tables are read; vectors of baselines are large.

    Returns:
        The run.

    Raises:
        InputError: It is no folder, holds no embeddings, is of an older version, or a file of it
            cannot be read.
    """
    folder = Path(run_dir)
    about = read_about(folder)  # first: it refuses a folder of an older version as such
    tables = read_tables(folder, embeddings=embeddings)
    numbers = folder / "results.json"
    results = Results.read(numbers) if os.path.lexists(numbers) else None
    for line in _missing(folder, tables, results):
        print(line)
    return Run(folder, tables, results, about.metrics, about.record)


def _missing(folder: Path, tables: Tables, results: Results | None) -> list[str]:
    """Say which tables are not there that the numbers, or the tables of h, speak of."""
    there = tables["h"]
    gone = [name for name in (results.sets if results else ()) if name not in there]
    lines = [f"{folder}: the table of {name} is gone since its numbers were made" for name in gone]
    judged = {name for name in there if name not in ("train", "val")}
    for embedding, sets in tables.items():
        if lost := sorted(judged - sets.keys()):
            lines.append(f"{folder}: no table of {', '.join(lost)} in embeddings/{embedding}")
    return lines


def read_about(folder: Path) -> Run:
    """Read a run's settings and metrics alone: no tables, no results."""
    there = os.path.lexists(folder / "config.json")
    record = read_record(folder) if there else {}
    if not there:
        print(f"{folder}: no config.json: what was run with which settings is not known")
    return Run(folder, {}, None, _metrics(folder / "metrics.jsonl"), record)


def linear_evaluation(folder: Path) -> dict[str, float]:
    """Read the top-1 accuracy of linear evaluation by embedding; {} where it was not run.

    Raises:
        InputError: The file holds something else; the line names it.
    """
    path = folder / "linear_eval" / "results.json"
    rows = read_object(path).get("rows", [])
    try:
        return {row["embedding"]: float(row["linear"]["top"]["1"]) for row in rows}
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: rows has one without embedding or linear.top.1; evaluate it again"
        ) from None


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl`; those that are damaged are told."""
    return read_lines(path, say=print)
