"""A zip read in place, nothing unpacked: its names and sizes are checked before a byte is read."""

from __future__ import annotations

import os
import stat
import zipfile
from functools import lru_cache

from jaxssl.errors import InputError

# Limits against decompression bombs: the size that one member may state (one image is in memory at
# a time), and the ratio of the whole. Photographs hardly shrink, blank paper by 200 times, and
# deflate can do a thousand at most.
MAX_MEMBER_BYTES = 2**30
MAX_MEMBERS = 2_000_000
MAX_RATIO = 200
_BOMB_BYTES = 2**30  # no harm below it, whatever the ratio

_ENCRYPTED = 0x1


def open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip for reading from several threads; open it again when the file changes."""
    status = os.stat(path)
    return _opened(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _opened(path: str, size: int, mtime: int) -> zipfile.ZipFile:
    opened = zipfile.ZipFile(path)
    for member in opened.infolist():  # Windows' names are found under both forms
        opened.NameToInfo.setdefault(inner_name(member), member)
    return opened


def members(path: str) -> tuple[dict[str, zipfile.ZipInfo], list[str]]:
    """List the files and folders of a zip, and what is to be said of the others.

    Args:
      path: the zip.

    Returns:
      (name -> member, warnings), in the zip's order; names have "/" between folders, whatever the
      zip was made on, and after a folder.

    Raises:
      InputError: no zip, damaged, encrypted, larger unpacked than any folder of images (a bomb), or
        with a name that leads outside.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     with zipfile.ZipFile(f"{tmp}/x.zip", "w") as file:
      ...         file.writestr("a/0.png", b"")
      ...     list(members(f"{tmp}/x.zip")[0])
      ['a/0.png']
    """
    try:
        listed = open_zip(path).infolist()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path} is no zip, or it is cut short or damaged ({error}); download or copy it again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot open {path}: {error.strerror or error}") from error
    found: dict[str, zipfile.ZipInfo] = {}
    warnings, backslashes = [], 0
    for member in listed:
        backslashes += "\\" in member.filename
        name = inner_name(member)
        if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
            raise InputError(f"{path}: {name!r:.100} leads outside of it; do not use this zip")
        if member.flag_bits & _ENCRYPTED:
            raise InputError(
                f"{path} is encrypted ({name!r:.100}); unpack it with its password first"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            warnings.append(f"a link in the zip is not followed: {name}")
        elif name in found:
            raise InputError(f"{path}: {name!r:.100} is in it twice; make the zip again")
        else:
            found[name] = member
    total = sum(member.file_size for member in found.values())
    if len(found) > MAX_MEMBERS or (
        total > _BOMB_BYTES and total > MAX_RATIO * os.path.getsize(path)
    ):
        raise InputError(
            f"{path} would unpack to {len(found):,} files of {total / 1e9:,.1f} GB, "
            f"{total // max(1, os.path.getsize(path)):,} times its size: more than images do; "
            "unpack it yourself if you trust it"
        )
    if backslashes:
        warnings.append(f"{backslashes} names in the zip have backslashes; read as folders")
    return found, warnings


def inner_name(member: zipfile.ZipInfo) -> str:
    """Return the name of a member with "/" between folders."""
    return member.filename.replace("\\", "/").removeprefix("./")
