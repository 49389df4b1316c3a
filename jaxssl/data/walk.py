"""What lies in a folder of class folders: a walk that follows no links to folders."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxssl.data.decode import EXTENSIONS
from jaxssl.errors import InputError

_PASSED_OVER = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class ImageFile:
    """A file found under a class folder; `stamp` (size, mtime in ns) tells when it changes."""

    id: str
    path: str
    stamp: tuple[int, int]


@dataclass
class Found:
    """What the walk over the class folders gathers."""

    files: list[ImageFile] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def gather(self, folder: str, *, prefix: str) -> None:
        """Adds all that lies in a folder and below; `prefix` is its name in ids."""
        try:
            with os.scandir(folder) as entries:
                visible = sorted(
                    (entry for entry in entries if not _passed_over(entry.name)),
                    key=lambda entry: entry.name,
                )
        except OSError as error:
            self.unreadable[prefix] = f"the folder cannot be listed ({error.strerror})"
            return
        self.note_links(visible, prefix=f"{prefix}/")
        for entry in visible:
            id_ = f"{prefix}/{entry.name}"
            if not _is_utf8(entry.name):
                readable = id_.encode("utf-8", "backslashreplace").decode()
                self.unreadable[readable] = "the name is not valid UTF-8; rename it"
            elif entry.is_dir(follow_symlinks=False):
                self.gather(entry.path, prefix=id_)
            elif _is_image(entry.name):
                self.files.append(ImageFile(id_, entry.path, stamp_of(entry.path)))
            elif not os.path.isdir(entry.path):
                self.other_files.append(id_)

    def note_links(self, entries: Sequence[os.DirEntry[str]], *, prefix: str) -> None:
        """Warns of links to folders: followed, they lead out of the folder or in circles."""
        for entry in entries:
            if entry.is_symlink() and os.path.isdir(entry.path):
                self.warnings.append(f"a link to a folder is not followed: {prefix}{entry.name}")


def class_folders(top: str, found: Found) -> dict[str, str]:
    """Name -> path of the folders in `top`."""
    if not _is_utf8(top):
        raise InputError(f"{os.fsencode(top)!r} is no UTF-8 path; rename or move the folder")
    try:
        with os.scandir(top) as entries:
            visible = [entry for entry in entries if not _passed_over(entry.name)]
    except OSError as error:
        raise InputError(f"cannot open the image folder {top}: {error.strerror}") from error
    folders = {entry.name: entry.path for entry in visible if entry.is_dir(follow_symlinks=False)}
    images = sum(_is_image(entry.name) for entry in visible if entry.name not in folders)
    if not folders:
        raise InputError(
            f"{top} holds no class folders (found {images} images and {len(visible) - images} "
            "other files); it should hold one folder a class: ROOT/<class>/<image>"
        )
    if images:
        found.warnings.append(f"{images} images lie beside the class folders and have no class")
    found.note_links(visible, prefix="")
    return dict(sorted(folders.items()))


def choose_classes(
    top: str, folders: dict[str, str], classes: Sequence[str] | None
) -> dict[str, str]:
    """The named class folders, in the order named; each failure says what was close."""
    if classes is None:
        for name in folders:
            if not _is_utf8(name):
                raise InputError(f"{os.fsencode(name)!r} in {top} is no UTF-8 name; rename it")
        return folders
    if not classes:
        raise InputError(f"no class of {top} is named; name at least one, or leave the list out")
    for name, times in Counter(classes).items():
        if times > 1:
            raise InputError(f"class {name!r} is named {times} times; name it once")
    # macOS writes é as two code points and a keyboard as one: the same name to every reader.
    composed = {nfc(name): path for name, path in folders.items()}
    chosen = {name: folders.get(name) or composed.get(nfc(name)) for name in classes}
    unknown = [name for name, path in chosen.items() if path is None]
    if unknown:
        close = difflib.get_close_matches(unknown[0], folders, n=3)
        below = [path for path in folders.values() if os.path.isdir(os.path.join(path, unknown[0]))]
        linked = os.path.islink(os.path.join(top, unknown[0]))
        raise InputError(
            f"no class folder {', '.join(map(repr, unknown[:5]))}"
            + (f" (and {len(unknown) - 5} more)" if len(unknown) > 5 else "")
            + f" among the {len(folders)} in {top}"
            + (f"; did you mean {' or '.join(map(repr, close))}?" if close else "")
            + (f"; it is in {below[0]}: name that folder instead" if below else "")
            + ("; links to folders are not followed" if linked else "")
        )
    return {name: path for name, path in chosen.items() if path is not None}


def stamp_of(path: str) -> tuple[int, int]:
    """(size, mtime in ns); (-1, -1) for a link to nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def nfc(name: str) -> str:
    """Composed Unicode form, in which names that look alike are equal."""
    return unicodedata.normalize("NFC", name)


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in _PASSED_OVER


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _is_utf8(name: str) -> bool:
    return name.isascii() or name.encode("utf-8", "replace").decode() == name
