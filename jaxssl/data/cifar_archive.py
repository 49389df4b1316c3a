"""The files of an archive or folder, read into memory and held to limits; nothing is unpacked."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxssl.errors import InputError

# What any form of CIFAR needs and some more (CIFAR-100's one training file: 154 MB; all: 184 MB).
MAX_FILE_BYTES = 256 * 1024**2
MAX_BYTES = 512 * 1024**2
MAX_FILES = 100_000
MAX_NAME_BYTES = 2**16


def read_files(source: str | Path) -> dict[str, bytes]:
    """Read every plain file of a tar, tar.gz or folder, by its name inside.

    Nothing is written to disk, so no name can lead outside a target folder. A name that would, and
    anything that is not a plain file or folder, is refused all the same: such an archive is
    malicious. Hidden files (names that begin with ".", `__MACOSX`) are passed over. Decompressed
    bytes are counted as they come; the sizes that the archive states are not trusted.

    Args:
      source: the path of a tar, a tar.gz or a folder; links inside are refused, not followed.

    Returns:
      Name, with "/" between folders, -> content; in the archive's order, a folder's by name.

    Raises:
      InputError: no such path, not a tar, cut short or damaged, a name that leads outside or
        comes twice, a link or device, or more than the limits above.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     _ = Path(tmp, "train").mkdir(), Path(tmp, "train", "note.txt").write_bytes(b"seen")
      ...     read_files(tmp)
      {'train/note.txt': b'seen'}
    """
    path = Path(source).expanduser()
    files: dict[str, bytes] = {}
    total = 0
    try:
        for count, (name, size, file) in enumerate(_entries(path), start=1):
            total += size
            if count > MAX_FILES or size > MAX_FILE_BYTES or total > MAX_BYTES:
                raise _too_large(path)
            if file is None:
                continue
            if name in files:
                raise InputError(f"{path}: {name!r:.100} comes twice; this is no archive of CIFAR")
            content = file.read(size)
            if len(content) != size:
                raise EOFError
            if not _hidden(name):
                files[name] = content
    except _LongName:
        raise _too_large(path) from None
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise InputError(
            f"{path} is not a tar or tar.gz, or it is cut short or damaged "
            f"({' '.join(str(error).split()) or 'unexpected end'}); download or copy it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return files


def _entries(path: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield (name, size, open file; None for a folder) of each entry that may be there."""
    if path.is_dir():
        yield from _of_folder(path)
    elif path.is_file():
        yield from _of_tar(path)
    else:
        raise InputError(f"{path}: no such file or folder")


def _of_tar(path: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Bounded(gzip.GzipFile(fileobj=raw) if zipped else raw, path)
        with tarfile.open(  # type: ignore[call-overload]
            fileobj=stream, mode="r|", bufsize=2**18, tarinfo=_Entry
        ) as tar:
            for member in tar:
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise InputError(f"{path}: {member.name!r:.100} leads outside; do not use it")
                if not (member.isreg() or member.isdir()):
                    raise _not_plain(path, member.name)
                # Sizes first, then content: `read_files` looks at the one before it asks for more.
                name = member.name.removeprefix("./")
                yield name, member.size, None if member.isdir() else tar.extractfile(member)
        while stream.read(2**18):  # to the end, where gzip keeps its checksum
            pass


def _of_folder(path: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted([*names, *folders]):
            full = Path(folder, name)
            status = full.lstat()
            inside = full.relative_to(path).as_posix()
            if stat.S_ISDIR(status.st_mode):
                yield inside, 0, None
            elif not stat.S_ISREG(status.st_mode):
                raise _not_plain(path, inside)
            else:
                with open(full, "rb") as file:
                    yield inside, status.st_size, file


class _LongName(Exception):
    pass


class _Entry(tarfile.TarInfo):
    """An entry whose name and attributes, which tarfile reads into memory, are within reason."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # tarfile's one place before anything of an entry but its first block is read; not public.
        if self.type not in tarfile.REGULAR_TYPES and self.size > MAX_NAME_BYTES:
            raise _LongName
        return super()._proc_member(tar)  # type: ignore[misc]


class _Bounded:
    """A stream that raises after `MAX_BYTES`: a decompression bomb is stopped as it unpacks."""

    def __init__(self, file: io.BufferedIOBase, path: Path) -> None:
        self.file, self.path, self.left = file, path, MAX_BYTES

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise _too_large(self.path)
        return data


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _not_plain(path: Path, name: str) -> InputError:
    return InputError(
        f"{path}: {name!r:.100} is a link or a device; only plain files and folders are read"
    )


def _too_large(path: Path) -> InputError:
    return InputError(
        f"{path} holds more than CIFAR can ({MAX_FILES:,} files, {MAX_FILE_BYTES >> 20} MiB "
        f"each, {MAX_BYTES >> 20} MiB in all); it is something else, or hostile"
    )
