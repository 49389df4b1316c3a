"""What lies in a folder or a zip: one walk, names and sizes only, nothing decoded."""

from __future__ import annotations

import contextlib
import io
import math
import os
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.source import EXTENSIONS, Source, open_file
from jaxssl.data.zips import MAX_MEMBER_BYTES, members
from jaxssl.errors import InputError, Stopped, setting
from jaxssl.files import CONFIG, MOST_JSON, is_run, is_run_folder, own_files

_OF_A_RUN = "folders of runs or exports"
_PASSED_OVER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

MAX_LISTING_BYTES = 2**28  # two million images


@dataclass(slots=True)
class ImageFile:
    """An image that was found, and what its folder or its row in a table says of it.

    Args:
      id: its name below the place that was opened, with "/" between folders; unique.
      source: where its pixels lie.
      stamp: (size, mtime in ns) of the file, or (size, checksum) in a zip: tells when it changes.
      label: the name of its class, None without one.
      split: "train", "val", "test", or "".
      group: images of an equal name that is not "" must stay on one side of every split.
      object_id: EcoTaxa's name of it, "" elsewhere.
      pixel_size: micrometres that one of its pixels shows, 0 where it is not known.
    """

    id: str
    source: Source
    stamp: tuple[int, int]
    label: str | None = None
    split: str = ""
    group: str = ""
    object_id: str = ""
    pixel_size: float = 0.0


@dataclass
class Found:
    """What a walk gathers, and what the readers of each kind of source make of it.

    Args:
      root: the folder or zip, its real path.
      files: the images.
      folders: every folder below the root, by its name in ids.
      unreadable: file or folder that cannot be used -> reason.
      left_out: image that is not to be used -> reason.
      other: files of other kinds, by name: what tables and instruments' files are looked for in.
      said: what was understood, one sentence each.
      warnings: one line each.
      links: (id, path) of links to folders that are not followed.
      classes: the names of the classes, in their order.
      empty: class folders without an image.
      grouped: whether a table has the column that the user named to group by.
      crop_example: a picture before and after its lowest rows were taken off.
    """

    root: str
    files: list[ImageFile] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    other: dict[str, ImageFile] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    empty: list[str] = field(default_factory=list)
    grouped: bool = False
    crop_example: NDArray[np.uint8] | None = None


def walk(root: str, *, follow_links: bool) -> Found:
    """List a folder or a zip.

    Folders of a run (with its config.json), and files that this package wrote and nobody changed
    since, are left out: a run below its own images would learn from its figures.
    Hidden names, `__MACOSX`, `Thumbs.db` and `desktop.ini` are passed over. Links to files inside
    the folder are followed; links to files outside, and links to folders, only where asked, each
    real folder once, so that links cannot lead in a circle.
    Order is by code point, folder by folder.

    Args:
      root: the real path of a folder or a zip.
      follow_links: whether links to folders, and to files outside, are followed.

    Raises:
      InputError: it cannot be opened; a zip that is not to be used (`jaxssl.data.zips.members`).
    """
    found = Found(root)
    if not _is_utf8(root):
        raise InputError(f"{os.fsencode(root)!r} is no UTF-8 path; rename or move the folder")
    if os.path.isfile(root):
        _walk_zip(found)
        return found
    try:
        os.scandir(root).close()
    except OSError as error:
        raise InputError(f"cannot open the image folder {root}: {error.strerror}") from error
    visited: set[str] = set()
    _gather(found, root, "", visited, follow_links)
    while follow_links and found.links:
        id_, path = found.links.pop(0)
        if _is_written_here(path):
            found.left_out[id_] = _OF_A_RUN
        elif os.path.realpath(path) in visited:
            found.warnings.append(f"a link to a folder that is read already: {id_}")
        else:
            found.folders.append(id_)
            _gather(found, path, f"{id_}/", visited, follow_links)
    found.warnings += [f"a link to a folder is not followed: {id_}" for id_, _ in found.links]
    found.files.sort(key=lambda file: file.id.split("/"))
    return found


def _gather(found: Found, folder: str, prefix: str, visited: set[str], follow_links: bool) -> None:
    visited.add(os.path.realpath(folder))
    try:
        with os.scandir(folder) as entries:
            visible = sorted(
                (entry for entry in entries if not _passed_over(entry.name)),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        found.unreadable[prefix[:-1]] = f"the folder cannot be listed ({error.strerror})"
        return
    own = own_files(folder)
    for entry in visible:
        id_ = prefix + entry.name
        if entry.name in own:
            found.left_out[id_] = "written by jaxssl, no images or labels of yours"
        elif not _is_utf8(entry.name):
            readable = id_.encode("utf-8", "backslashreplace").decode()
            found.unreadable[readable] = "the name is not valid UTF-8; rename it"
        elif entry.is_dir(follow_symlinks=False) and _is_written_here(entry.path):
            found.left_out[id_] = _OF_A_RUN
        elif entry.is_dir(follow_symlinks=False):
            found.folders.append(id_)
            _gather(found, entry.path, f"{id_}/", visited, follow_links)
        elif entry.is_symlink() and os.path.isdir(entry.path):
            found.links.append((id_, entry.path))
        elif entry.is_symlink() and not follow_links and _outside(entry.path, found.root):
            found.left_out[id_] = (
                f"links that lead outside; follow links to read them"
                f"{setting('follow_links', True, ' ({})')}"
            )
        else:
            _note(found, ImageFile(id_, Source(entry.path), stamp_of(entry.path)))


def _outside(path: str, root: str) -> bool:
    return not os.path.realpath(path).startswith(root.rstrip(os.sep) + os.sep)


def _walk_zip(found: Found) -> None:
    inside, found.warnings = members(found.root)
    runs = _runs_in(found.root, inside)
    found.left_out |= dict.fromkeys((run[:-1] for run in runs), _OF_A_RUN)
    folders: set[str] = set()
    for name, member in inside.items():
        parts = name.rstrip("/").split("/")
        if any(map(_passed_over, parts)) or name.startswith(runs):
            continue
        depth = len(parts) + name.endswith("/")
        folders |= {"/".join(parts[:i]) for i in range(1, depth)}
        if name.endswith("/"):
            continue
        if member.file_size > MAX_MEMBER_BYTES:
            found.unreadable[name] = "more than 1 GiB unpacked"
            continue
        source = Source(found.root, name)
        _note(found, ImageFile(name, source, (member.file_size, member.CRC)))
    found.files.sort(key=lambda file: file.id.split("/"))
    found.folders = sorted(folders)


def _is_written_here(folder: str) -> bool:
    """Tell whether a folder is a run's, or one of an export."""
    return is_run_folder(folder) or "." in own_files(folder)


def _runs_in(root: str, inside: Mapping[str, zipfile.ZipInfo]) -> tuple[str, ...]:
    """Name the folders of runs in a zip, each with a "/" at its end.

    Raises:
      InputError: The zip itself is of a run.
    """
    runs = []
    for name, member in inside.items():
        folder, _, file = name.rpartition("/")
        if file == CONFIG and member.file_size <= MOST_JSON:
            record = ImageFile(name, Source(root, name), (0, 0))
            with contextlib.suppress(InputError):  # a damaged member is no run's
                if is_run(read_bytes(record, MOST_JSON)):
                    runs.append(f"{folder}/")
    if "/" in runs:
        raise a_run(root)
    return tuple(runs)


def a_run(root: str) -> InputError:
    """Make the error that says that a place is no folder of images."""
    return InputError(
        f"{root} is the folder of a run (it has a run's {CONFIG}), not one of images: name the "
        "images; where both lie in one folder, move the images into a folder of their own"
    )


def _note(found: Found, file: ImageFile) -> None:
    if is_image(file.id):
        found.files.append(file)
    else:
        found.other[file.id] = file


def read_bytes(file: ImageFile, limit: int = -1) -> bytes:
    """Read a file that was found, or its first bytes.

    Raises:
      InputError: it cannot be read; the line names it.
    """
    if not os.path.isfile(file.source.path):  # a FIFO would wait for a writer for ever
        raise InputError(f"{file.source} is no regular file, or a link to none")
    try:
        with open_file(file.source.path, file.source.member) as stream:
            # In parts: asked for all at once, Python sets as much aside, however small the file.
            content, left = io.BytesIO(), math.inf if limit < 0 else limit
            while left > 0 and (part := stream.read(int(min(left, 2**20)))):
                left -= content.write(part)
            return content.getvalue()
    except Stopped:  # by a signal: the file is not at fault
        raise
    except Exception as error:  # a zip's damage has many classes
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file.source} cannot be read: {reason}") from error


def read_listing(file: ImageFile) -> str:
    """Read an instrument's list of its images, .lst or .adc; latin-1, in which no byte is wrong.

    Raises:
      InputError: it cannot be read, or is larger than any such list.
    """
    content = read_bytes(file, MAX_LISTING_BYTES + 1)
    if len(content) > MAX_LISTING_BYTES:
        most = f"{MAX_LISTING_BYTES >> 20} MiB"
        raise InputError(f"{file.source} is larger than the {most} of a list of images: is it one?")
    return content.decode("latin-1")


def stamp_of(path: str) -> tuple[int, int]:
    """Return (size, mtime in ns); (-1, -1) for a link to nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def nfc(name: str) -> str:
    """Compose Unicode (form NFC), in which names that look alike are equal."""
    return unicodedata.normalize("NFC", name)


def twins(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pair names that differ by case or by Unicode form only: one file on another's disk."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(nfc(name).casefold(), name)
        if first != name:
            yield first, name


def is_image(name: str) -> bool:
    """Tell whether the ending is one of an image read here."""
    return f".{name.rpartition('.')[2].lower()}" in EXTENSIONS


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _PASSED_OVER


def _is_utf8(name: str) -> bool:
    return name.isascii() or name.encode("utf-8", "replace").decode() == name
