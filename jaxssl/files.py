"""Files written whole or not at all, and read with one clear line where they are damaged.

The one place that renames a file into being, and the one that reads JSON and JSONL. A record has a
sha256 of its content beside it, a line of metrics and a file of numbers a CRC-32: a flipped bit is
found here, where the file is read, and never becomes another number.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from jaxssl.errors import InputError, WriteError, visible

MOST_JSON = 2**26  # bytes of a JSON file; results of a million images have 20 MB
MOST_LINES = 2**30  # bytes of a JSONL file; a million lines have 0.3 GB
SEAL = "sha256"
CONFIG = "config.json"  # of a run
NOTES = ".jaxssl.json"  # beside files that a person may change: what they held when written
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{6}\.tmp")
_PARQUET_SEAL = b"jaxssl crc32 "
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")
_LINE_END = re.compile(r', "crc": "([0-9a-f]{8})"\}$')
_FORBIDDEN = frozenset('<>:"/\\|?*')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # Windows'
_swept: set[Path] = set()  # folders, by this process
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_dir() -> Path:
    """Return the folder of all caches: `$XDG_CACHE_HOME/jaxssl`, or `~/.cache/jaxssl`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxssl"


@contextlib.contextmanager
def atomic(path: Path, *, note: str | None = None, above: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when every byte of it is on the disk.

    A reader, or a kill, meets the old file or the new one, whole (temporary file beside it, fsync,
    rename). What killed writers left in the folder is swept at the first write there.

    Args:
      path: The file; its folder must exist.
      note: Notes beside it what is written, and of what it was made, so that a change by hand is
        seen (`free`); None notes nothing.
      above: The note goes into the run's folder or, outside of one, into that above the file's:
        a page's own folder holds the page alone.

    Yields:
      A binary file to write to, and to read back; what raises while it is open leaves the old file
      as it was.

    Raises:
      WriteError: The disk is full, or the folder is gone or may not be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with atomic(Path(folder, "a.bin")) as file:
      ...         _ = file.write(b"whole")
      ...         before = os.path.exists(Path(folder, "a.bin"))
      ...     before, Path(folder, "a.bin").read_bytes()
      (False, b'whole')
    """
    if path.parent not in _swept:
        _swept.add(path.parent)
        sweep(path.parent)
    # Cut, since a name of a length that fits would not with the rest.
    short = os.fsdecode(os.fsencode(path.name)[:200])
    writer = f"{_machine()}-{os.getpid()}"
    temporary = path.with_name(f".{short}.{writer}-{secrets.token_hex(3)}.tmp")
    try:
        with open(temporary, "x+b") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
            if note is not None:  # before the file has its name: a kill leaves no file unknown
                out.seek(0)
                _note(path, hashlib.file_digest(out, "sha256").hexdigest(), note, above)
        os.replace(temporary, path)
    except OSError as error:
        # What the body read has a name of its own; a write has none.
        if isinstance(error, WriteError) or error.filename not in (None, str(temporary)):
            raise
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # gone where it was renamed
            os.unlink(temporary)


def not_written(path: Path, error: OSError) -> WriteError:
    """Say in one line that a file could not be written, why, and what to do.

    Example:
      >>> print(not_written(Path("/nowhere/a"), OSError(errno.ENOENT, "No such file or directory")))
      /nowhere/a cannot be written: No such file or directory: is its folder still there?
    """
    text = f"{path} cannot be written: {error.strerror or visible(str(error))[:160]}"
    way_out = "see to the folder's permissions and its disk"
    if error.errno in _FULL:
        with contextlib.suppress(OSError):
            text += f", {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB free there"
        way_out = "free space, and the same command with the run folder goes on"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        way_out = "is its folder still there?"
    failure = WriteError(f"{text}: {way_out}")
    failure.strerror = error.strerror
    return failure


def safe_name(text: str, *, most: int = 80) -> str:
    r"""Make a text that comes with the data the name of a file or folder, on any system.

    Path separators and what Windows forbids, control and bidirectional characters, blanks and dots
    at an end, and the names of devices are replaced; what is too long is cut. A name that was
    changed ends in a mark of the text, so two texts never share one.

    Args:
      text: Such as the name of a class, a set or a folder.
      most: Bytes of the longest name, at least 16; a file system takes 255 with the ending.

    Example:
      >>> safe_name("unseen-lookalikes"), safe_name("Ceratium förhöj")
      ('unseen-lookalikes', 'Ceratium förhöj')
      >>> safe_name("../../etc"), safe_name("con"), safe_name("a\x1b[2J\u202eb")
      ('_.._etc-74ccf3', '_con-1143da', 'a_[2J_b-cd40d6')
    """
    shown = unicodedata.normalize("NFC", text)
    name = "".join("_" if c in _FORBIDDEN or visible(c) != c else c for c in shown).strip(" .")
    if name.startswith("-") or _DEVICE.match(name):  # a program would take it for a flag
        name = f"_{name}"
    if name and name == text and len(name.encode()) <= most:
        return name
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{name.encode()[: most - 7].decode('utf-8', 'ignore')}-{mark}".lstrip("-")


def sweep(folder: Path, *, deep: bool = False, idle: float = 600.0) -> None:
    """Remove the temporary files that writers left which were killed; those at work keep theirs.

    Args:
      folder: Where to look; nothing happens where it is missing.
      deep: Whether its folders are looked through too.
      idle: Seconds without a write after which a file is one of those whose writer ran on another
        machine that shares the folder: of this machine's it is known whether it is gone.
    """
    with contextlib.suppress(OSError):
        for path in folder.glob("**/.*.tmp" if deep else ".*.tmp"):
            if writer := _TEMPORARY.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    here = writer[1] == _machine()
                    quiet = time.time() - path.stat().st_mtime >= idle
                    if (not _alive(int(writer[2]))) if here else quiet:
                        path.unlink()


@functools.cache
def _machine() -> str:
    """Return 8 digits for this machine since its start, and for the processes numbered with us.

    Containers of one machine number their processes each for itself.
    """
    about = [platform.node()]
    with contextlib.suppress(OSError):  # elsewhere than on Linux
        about += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return hashlib.sha256("\n".join(about).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    return True


def write_text(path: Path, text: str, *, note: str | None = None, above: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; noted as by `atomic`."""
    with atomic(path, note=note, above=above) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 1, note: str | None = None) -> None:
    """Write `plain(value)` as JSON, whole or not at all; all on one line with an indent of None."""
    write_text(path, json.dumps(plain(value), indent=indent, allow_nan=False) + "\n", note=note)


# What a person may fill in, add to or mend: `free` finds a place that overwrites no such work.


def is_kept(path: Path, note: str = "", *, above: bool = False) -> bool:
    """Tell whether a file must not be overwritten.

    It must not where it is not what was last written there with a `note`, whoever changed it, or
    where it was made of something else.

    Args:
      path: The file.
      note: Of what the new one is made; "" where nothing distinguishes the two.
      above: As in `atomic`.
    """
    if not os.path.lexists(path):
        return False
    known = _noted(path, above)
    return known.get("of") != note or not _is_as_noted(path, known)


def free(
    path: Path,
    note: str = "",
    *,
    above: bool = False,
    say: Callable[[str], object] | None = None,
) -> Path:
    r"""Return where a file goes: its path or, where that one is kept, the same with a number.

    Args:
      path: The file.
      note: As in `is_kept`, and then in `atomic`.
      above: As in `atomic`.
      say: Told in a sentence which file is kept.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     table = Path(folder, "a.csv")
      ...     write_text(free(table), "label\n", note="")
      ...     again = free(table).name
      ...     _ = table.write_text("label\ncopepod\n")
      ...     again, free(table, say=print).name
      a.csv was changed since it was written and is kept: the new one is a-2.csv
      ('a.csv', 'a-2.csv')
    """
    place, number = path, 1
    while is_kept(place, note, above=above):
        number += 1
        place = path.with_name(f"{path.stem}-{number}{path.suffix}")
    if place != path and say is not None:
        untouched = _is_as_noted(path, _noted(path, above))
        why = "made otherwise" if untouched else "changed since it was written"
        say(f"{path.name} was {why} and is kept: the new one is {place.name}")
    return place


def mark_folder(folder: Path) -> None:
    """Note of a folder, where nothing is in it yet, that all of it is written here."""
    if not any(folder.iterdir()):
        write_json(folder / NOTES, {".": {"of": "folder"}})


def own_files(folder: str | os.PathLike[str]) -> set[str]:
    """Name the files of a folder that were written here with a note and not changed since.

    "." is among them where the whole folder is (`mark_folder`).
    """
    place = Path(folder).absolute()
    start, notes = f"{place.name}/", _notes(place)
    above = {name: known for name, known in _notes(place.parent).items() if name.startswith(start)}
    notes |= {name.removeprefix(start): known for name, known in above.items()}
    own = {name for name, known in notes.items() if _is_as_noted(place / name, known)}
    return own | ({"."} & notes.keys())


def is_run_folder(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is a run's: by its `config.json`, of this version or another."""
    try:
        return is_run(content_of(Path(folder, CONFIG), MOST_JSON))
    except (OSError, ValueError):
        return False


def is_run(content: bytes) -> bool:
    """Tell whether a `config.json` is a run's, of this version or another."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return False
    named = isinstance(record, dict) and ("study" in record or "program" in record)
    return named and isinstance(record.get("config"), dict)


def _note(path: Path, digest: str, of: str, above: bool) -> None:
    """Note what a file is about to hold; what it holds until then stays known."""
    folder, name = _place_of_note(path, above)
    notes, known = _notes(folder), _noted(path, above)
    before = [one for one in known.get("sha256", []) if _is_as_noted(path, {"sha256": [one]})]
    notes[name] = {"sha256": sorted({*before, digest}), "of": of}
    with contextlib.suppress(OSError):  # without a note a file is kept as if it were a person's
        write_json(folder / NOTES, notes)


def _place_of_note(path: Path, above: bool) -> tuple[Path, str]:
    """Name the folder of a file's note, and the file in there."""
    folder = path.parent.absolute()
    if not above:
        return folder, path.name
    holder = next((one for one in folder.parents if is_run_folder(one)), folder.parent)
    return holder, (folder / path.name).relative_to(holder).as_posix()


def _noted(path: Path, above: bool) -> dict[str, Any]:
    folder, name = _place_of_note(path, above)
    return _notes(folder).get(name, {})


def _notes(folder: Path) -> dict[str, Any]:
    """Read what was noted of a folder's files; damaged notes are none."""
    with contextlib.suppress(InputError):
        notes = read_object(folder / NOTES)
        return {name: known for name, known in notes.items() if isinstance(known, dict)}
    return {}


def _is_as_noted(path: Path, known: Mapping[str, Any]) -> bool:
    digests = known.get("sha256")
    if not isinstance(digests, list) or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() in digests
    except OSError:
        return False


def write_record(path: Path, record: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write `plain(record)` as a JSON object with its own sha256 in it, which reading checks."""
    content = plain(record)
    write_json(path, {**content, SEAL: _seal_of(content)}, indent=indent)


def _seal_of(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def add_checksum(out: IO[bytes]) -> None:
    """Append 8 bytes to a file that `atomic` opened: the CRC-32 of all before, in hex digits."""
    out.seek(0)
    checksum = _crc(out)
    out.write(b"%08x" % checksum)


def checksum_fits(path: Path) -> bool:
    """Tell whether a file ends in the CRC-32 of all before, as `add_checksum` wrote it.

    Reads it all, about 2 GB a second where it is in memory.

    Raises:
      OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size - 8
        return size >= 0 and b"%08x" % _crc(file, size) == file.read()


def seal_parquet(out: IO[bytes]) -> None:
    """Put the CRC-32 of a Parquet file that `atomic` opened into it, before its footer.

    Pages have checksums of their own, the footer has none. Readers of Parquet go by the offsets
    that the footer states and never look between the last page and the footer.
    """
    out.seek(-8, os.SEEK_END)
    length = int.from_bytes(out.read(4), "little") + 8
    at = out.seek(-length, os.SEEK_END)
    footer = out.read()
    out.seek(0)
    checksum = zlib.crc32(footer, _crc(out, at))
    out.seek(at)
    out.write(_PARQUET_SEAL + b"%08x" % checksum + footer)


def parquet_changed(path: Path) -> bool:
    """Tell whether a Parquet file that `seal_parquet` sealed was changed; False of any other.

    Raises:
      OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 12:
            return False
        file.seek(-8, os.SEEK_END)
        at = size - int.from_bytes(file.read(4), "little") - 8 - len(_PARQUET_SEAL) - 8
        if at < 4:
            return False
        file.seek(at)
        seal, claimed, footer = file.read(len(_PARQUET_SEAL)), file.read(8), file.read()
        file.seek(0)
        return seal == _PARQUET_SEAL and claimed != b"%08x" % zlib.crc32(footer, _crc(file, at))


def _crc(file: IO[bytes], size: int = -1) -> int:
    checksum = 0
    while part := file.read(2**20 if size < 0 else min(size, 2**20)):
        checksum = zlib.crc32(part, checksum)
        size -= len(part) if size > 0 else 0
    return checksum


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


def read_json(path: Path, *, sealed: bool = False, most: int = MOST_JSON) -> Any:
    """Read a JSON file.

    Args:
      path: The file.
      sealed: Whether it must have been written by `write_record`.
      most: Bytes of the largest file that is read.

    Raises:
      InputError: It cannot be read, holds no JSON (a key twice, NaN), or was changed since
        `write_record` wrote it; the line names it.
    """
    try:
        value = json.loads(
            content_of(path, most).decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
        )
        claimed = value.pop(SEAL, None) if isinstance(value, dict) else None
        intact = claimed == _seal_of(value) if claimed is not None else not sealed
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        why = visible(str(error))[:120]
        raise InputError(f"{path}: cannot be read as JSON ({why}); restore or remove it") from None
    if not intact:
        raise InputError(
            f"{path}: was changed after it was written, its {SEAL} is of other content; restore or "
            f'remove it, or take "{SEAL}" out of it if the change is meant'
        )
    return value


def content_of(path: Path, most: int) -> bytes:
    """Read a regular file of a size within reason: a pipe would never end.

    Args:
      path: The file.
      most: Bytes of the largest one that is read.

    Raises:
      OSError: It cannot be read.
      ValueError: It is a folder, a pipe or a device, or larger.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode) or not stat.S_ISREG(status.st_mode):
        raise ValueError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size > most:
        raise ValueError(f"{status.st_size:,} bytes, more than the {most:,} that are read")
    return path.read_bytes()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, such as `results.json`; {} where there is no file.

    Raises:
      InputError: The file holds something else; the line names it.
    """
    if not os.path.lexists(path):  # a link to nothing is damage
        return {}
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path}: holds a {type(record).__name__}, not an object; remove it")
    return record


def defused(cell: str) -> str:
    """Make a cell of a spreadsheet safe: a text that it would run as a formula gets an apostrophe.

    Source: OWASP, "CSV injection".

    Example:
      >>> defused("=1+1"), defused("copepod")
      ("'=1+1", 'copepod')
    """
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


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
    if not os.path.lexists(path):
        return []
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InputError(f"{path}: holds no list of objects; remove it")
    return found


def line_of(row: Mapping[str, Any]) -> str:
    r"""Write a line of a `metrics.jsonl`, with its CRC-32 as its last value.

    Example:
      >>> line_of({"step": 1, "loss": 0.5})
      '{"step": 1, "loss": 0.5, "crc": "878c5e53"}\n'
    """
    text = json.dumps(row)
    return f'{text[:-1]}, "crc": "{zlib.crc32(text.encode()):08x}"}}\n'


def read_lines(path: Path, *, say: Callable[[str], object] | None = None) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`; [] where there is no file.

    A line is a JSON object of a "step", a "split" ("train" where it has none) and numbers. One that
    is something else, such as a last one that a kill cut short, or that is not what `line_of`
    wrote, is left out.

    Args:
      path: The file, of at most 1 GiB.
      say: Told in a sentence how many lines were left out, where any was.

    Raises:
      InputError: The file cannot be read; the line names it.
    """
    if not os.path.lexists(path):
        return []
    try:
        lines = content_of(path, MOST_LINES).split(b"\n")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({why}); restore or remove it") from None
    rows = [row for line in lines if (row := _row(line)) is not None]
    damaged = sum(bool(line.strip()) for line in lines) - len(rows)
    if damaged and say is not None:
        say(f"{path}: {damaged} damaged lines are left out")
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        text = line.decode("utf-8")
        end = _LINE_END.search(text)
        if end and int(end[1], 16) != zlib.crc32(f"{text[: end.start()]}}}".encode()):
            return None
        row = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or (row.pop("crc", None) is not None and not end):
        return None
    numbers = [value for name, value in row.items() if name != "split"]
    known = all(value is None or isinstance(value, int | float) for value in numbers)
    named = isinstance(row.get("step"), int) and isinstance(row.setdefault("split", "train"), str)
    return row if known and named else None
