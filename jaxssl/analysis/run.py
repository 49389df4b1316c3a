"""The files of a run, for the analysis: what training wrote, read and checked; results written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from jaxssl.analysis.embeddings import Embeddings, load
from jaxssl.errors import InputError
from jaxssl.files import read_lines, read_object

Tables = dict[str, Embeddings]

# The folder of each embedding below embeddings/, and its key in results.json: h of the checkpoint
# that is judged, h of the other one, and the baselines.
FOLDERS = {
    "h": ".",
    "last": "last",
    "best": "best",
    "untrained": "untrained",
    "raw_pixels": "raw_pixels",
}
_SETS = ("train", "val", "test", "unseen")


class Run(NamedTuple):
    """What a run folder holds, read and checked.

    Args:
        settings: Every setting of the program.
        provenance: What stands beside the settings: command, versions, commit, devices, weights.
        metrics: The lines of `metrics.jsonl`, [] where there are none.
        results: `results.json` as far as it is written.
        tables: By embedding ("h" and the baselines) and set ("train", ..., "unseen-NAME").
    """

    settings: dict[str, Any]
    provenance: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: dict[str, Any]
    tables: dict[str, Tables]


def read_run(run_dir: str | os.PathLike[str]) -> Run:
    """Reads a run folder; only the trained embedding is demanded, all else may be missing.

    Args:
        run_dir: The folder with `config.json`, `metrics.jsonl`, `embeddings/` and `results.json`.

    Returns:
        The run.

    Raises:
        InputError: If it is no folder, holds no embeddings, or a file of it cannot be read.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder; give the --run-dir of a finished run")
    tables = {name: _read_tables(folder / "embeddings" / sub) for name, sub in FOLDERS.items()}
    if not tables["h"]:
        raise InputError(f"{folder}: no embeddings/*.parquet; train it, or run experiments.embed")
    provenance = read_object(folder / "config.json")
    settings = provenance.pop("config", None)
    if settings is None:  # a flat file: the settings are what is not provenance
        known = ("study", "versions", "commit", "devices", "command", "machine", "started", "data")
        settings = {name: value for name, value in provenance.items() if name not in known}
        provenance = {name: value for name, value in provenance.items() if name in known}
    return Run(
        settings,
        provenance,
        _metrics(folder / "metrics.jsonl"),
        read_object(folder / "results.json"),
        tables,
    )


def _read_tables(folder: Path) -> Tables:
    found = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    wanted = [*_SETS, *(name for name in found if name.startswith("unseen-"))]
    return {name: load(found[name]) for name in wanted if name in found}


def _metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` that name a step."""
    rows = [row for row in read_lines(path) if "step" in row]
    return [{"split": "train", **row} for row in rows]
