"""Files written whole or not at all, and JSON read with one clear line where it is damaged.

The one place that renames a file into being, and the one that reads JSON and JSONL.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from jaxssl.errors import InputError


def cache_dir() -> Path:
    """Return the folder of all caches: `$XDG_CACHE_HOME/jaxssl`, or `~/.cache/jaxssl`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxssl"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when every byte of it is on the disk.

    A reader, or a kill, meets the old file or the new one, whole (temporary file beside it, fsync,
    rename).

    Args:
      path: The file; its folder must exist.

    Yields:
      A binary file to write to; what raises while it is open leaves the old file as it was.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with atomic(Path(folder, "a.bin")) as file:
      ...         _ = file.write(b"whole")
      ...         before = os.path.exists(Path(folder, "a.bin"))
      ...     before, Path(folder, "a.bin").read_bytes()
      (False, b'whole')
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        with open(temporary, "xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # gone where it was renamed
            os.unlink(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `plain(value)` as JSON, whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold.

    Args:
      value: Mappings, sequences, dataclasses without methods of their own to tell (as mappings of
        their fields), arrays and NumPy numbers (anything with `tolist`), paths, numbers, strings.

    Returns:
      The same as dicts, lists and scalars; numbers that are not finite are None.

    Example:
      >>> import numpy as np
      >>> plain({"a": np.array([1.0, np.nan]), "b": (1, Path("x"))})
      {'a': [1.0, None], 'b': [1, 'x']}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
      InputError: It cannot be read, or holds no JSON; the line names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: cannot be read as JSON ({why}); restore or remove it") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, such as `results.json`; {} where there is no file.

    Raises:
      InputError: The file holds something else; the line names it.
    """
    if not path.exists():
        return {}
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds a {type(record).__name__}, not an object; remove it")
    return record


def read_record(run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `config.json` of a run folder: what was run, with which settings, on which data.

    Args:
      run_dir: The run folder.

    Returns:
      `study` (the name to show), `program`, `dataset`, `config` (all settings), `recipe` (the
      settings that make the method), `hash`, and what the program noted besides (`data`,
      `devices`, `pretrained`, `command`, `versions`, `commit`, ...).

    Raises:
      InputError: There is no such file, it cannot be read, an older version of jaxssl wrote it, or
        a field is missing; the line names folder or field.
    """
    folder = Path(run_dir)
    path = folder / "config.json"
    record = read_object(path)
    if not record:
        raise InputError(f"{folder}: no config.json, so no run; give a folder that training wrote")
    if record.get("format") != 2:
        raise InputError(
            f"{folder} is of an older version of jaxssl: its numbers stay readable in "
            "results.json, train it again to go on with it"
        )
    wanted: dict[str, type] = {"study": str, "dataset": str, "config": dict, "recipe": dict}
    for name, kind in wanted.items():
        if not isinstance(record.get(name), kind):
            what = "an object" if kind is dict else "a text"
            raise InputError(f"{path}: {name} is {record.get(name)!r:.40}, not {what}; restore it")
    return record


def read_list(path: Path) -> list[dict[str, Any]]:
    """Read a JSON list of objects, such as `skipped.json`; [] where there is no file.

    Raises:
      InputError: The file holds something else; the line names it.
    """
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f"{path}: holds no list of objects; remove it")
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSONL file such as `metrics.jsonl`; [] where there is no file.

    A line that is no JSON object, such as a last one that a kill cut short, is left out.

    Raises:
      InputError: The file cannot be read; the line names it.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows
