"""The run folder that a person names first, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path

from jaxssl.errors import InputError

_SHOWN = 3


def run_folder(run_dir: str, *, otherwise: str = "") -> Path:
    """Return the folder of a run that a person named.

    Args:
      run_dir: As it was typed; "" where none was.
      otherwise: What else the person may have meant who named none.

    Raises:
      InputError: None is named, or it is no run folder; runs that lie there are.
    """
    if not run_dir:
        raise InputError(
            "the folder of a finished run is missing: name it first"
            f"{_such_as(Path('runs'))}{otherwise}"
        )
    folder = Path(run_dir).expanduser()
    if not (folder / "config.json").is_file():
        why = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise InputError(f"{run_dir!r} is no run folder: {why}{_such_as(folder)}")
    return folder


def _such_as(folder: Path) -> str:
    """Name the newest runs in a folder."""
    try:
        found = folder.glob("*/config.json")  # written when a run begins
        newest = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError:
        return ""
    return f", such as {', '.join(str(path.parent) for path in newest[:_SHOWN])}" if newest else ""
