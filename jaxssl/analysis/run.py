"""The files of a run, for the analysis: what training wrote, read and checked; results written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.analysis.embeddings import Embeddings, load
from jaxssl.errors import InputError

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
        _read_lines(folder / "metrics.jsonl"),
        read_object(folder / "results.json"),
        tables,
    )


def _read_tables(folder: Path) -> Tables:
    found = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    wanted = [*_SETS, *(name for name in found if name.startswith("unseen-"))]
    return {name: load(found[name]) for name in wanted if name in found}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, such as `results.json`; {} where there is no file.

    Raises:
        InputError: If the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); restore or remove it"
        ) from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds a {type(record).__name__}, not an object; remove it")
    return record


def read_list(path: Path) -> list[dict[str, Any]]:
    """A JSON list of objects, such as `skipped.json`; [] where there is no file.

    Raises:
        InputError: If the file holds something else.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); restore or remove it"
        ) from None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f"{path}: holds no list of objects; remove it")
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records.append({"step": record["step"], "split": "train", **record})
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # a killed run leaves half a line
                break
            raise InputError(f"{path}, line {number}: no metrics ({error}); remove it") from None
    return records


def plain(value: Any) -> Any:
    """The value as JSON holds it: arrays as lists, numbers that are not finite as null.

    Example:
        >>> plain({"a": np.array([1.0, np.nan])})
        {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Writes `plain(value)` so that a reader, or a kill, meets the old or the new file, whole."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all (temporary file, fsync, rename)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
