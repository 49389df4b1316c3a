"""A folder of class folders, ROOT/<class>/<image>, to an `ImageSet` and a report."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.decode import EXTENSIONS, Fit, UnreadableImage, decode
from jaxssl.data.images import ImageSet
from jaxssl.data.scan import scan
from jaxssl.data.walk import Found, ImageFile, choose_classes, class_folders, nfc, stamp_of
from jaxssl.errors import InputError

_LINES = 20


@dataclass(frozen=True)
class FolderReport:
    """What a folder held, for people to read (`str`) and for programs to store.

    Attributes:
      root: the folder.
      counts: readable images per class.
      unreadable: file or folder left out -> reason.
      other_files: files of another extension, left out.
      duplicates: groups of ids whose files are byte-identical.
      warnings: one line each.
    """

    root: str
    counts: dict[str, int]
    unreadable: dict[str, str]
    other_files: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{sum(self.counts.values())} images in {len(self.counts)} classes of {self.root}"]
        if self.unreadable:
            lines.append(f"{len(self.unreadable)} that cannot be read, left out:")
            lines += _listing([f"{path}: {why}" for path, why in self.unreadable.items()])
        if self.other_files:
            kinds = Counter(
                os.path.splitext(name)[1].lower() or "none" for name in self.other_files
            )
            kinds_text = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
            lines.append(
                f"{len(self.other_files)} files of other kinds passed over ({kinds_text}):"
            )
            lines += _listing(self.other_files)
        if self.duplicates:
            extra = sum(len(ids) - 1 for ids in self.duplicates)
            lines.append(f"{extra} byte-identical copies, kept on one side of every split")
        if self.warnings:
            lines += ["warnings:", *_listing(self.warnings)]
        return "\n".join(lines)


def open_folder(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    size: int,
    channels: int,
    fill: int = 255,
    fit: Fit = "squash",
    on_bad_image: Literal["fail", "skip"] = "fail",
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageSet, FolderReport]:
    """Reads a folder of class folders; every image is decoded in full once before anything starts.

    Files may be nested inside a class folder. Hidden names, `__MACOSX`, `Thumbs.db` and
    `desktop.ini` are passed over; links to folders are not followed, links to files are. Order is
    that of `classes`, then code points. Verdicts and resized pixels are cached
    (`jaxssl.data.scan`), so a second opening decodes nothing; above 2 GiB of pixels, images are
    decoded when asked for.

    Args:
      root: the folder.
      classes: names of class folders to read, in this order; None reads all.
      size, channels, fill, fit: as in `jaxssl.data.decode.decode`.
      on_bad_image: "fail" raises with the list of all files that cannot be read; "skip" leaves
        them out and lists them in the report.
      cache_dir: None is `$XDG_CACHE_HOME/jaxssl` or `~/.cache/jaxssl`.
      progress: called with (files done, files to do) while decoding.

    Returns:
      The images, and the report. Byte-identical files share a group, also across classes.

    Raises:
      InputError: no such folder, no class folders, an unknown or repeated or empty class, or, with
        "fail", files that cannot be read.
      UnreadableImage: from the ImageSet, a file that changed after it was checked.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     for name in ("part<Crustacea", "other<living"):
      ...         Path(tmp, "root", name).mkdir(parents=True)
      ...         Image.new("L", (9, 9), 200).save(Path(tmp, "root", name, "0.png"))
      ...     images, report = open_folder(
      ...         Path(tmp, "root"), size=4, channels=1, cache_dir=Path(tmp, "cache")
      ...     )
      >>> images.ids
      ('other<living/0.png', 'part<Crustacea/0.png')
      >>> images.groups.tolist(), report.duplicates
      ([0, 0], (('other<living/0.png', 'part<Crustacea/0.png'),))
    """
    top, chosen, found = list_folder(root, classes)
    settings = {"size": size, "channels": channels, "fill": fill, "fit": fit}
    result = scan(found.files, root=top, settings=settings, cache_dir=cache_dir, progress=progress)
    rows = readable(top, chosen, found, [v.reason for v in result.verdicts], on_bad_image)
    if result.pixels is None:
        load = partial(_decode_unchanged, [found.files[i] for i in rows], settings)
    else:
        load = partial(_pixels_of_row, result.pixels, rows)
    hashes = [verdict.sha256 for verdict in result.verdicts]
    shape = (size, size, channels)
    return image_set(top, chosen, found, rows, hashes, load, shape)


def list_folder(
    root: str | Path, classes: Sequence[str] | None
) -> tuple[str, tuple[str, ...], Found]:
    """The folder's real path, the classes in order, and the files in them, none opened yet."""
    top, found = os.path.realpath(os.path.expanduser(root)), Found()
    chosen = choose_classes(top, class_folders(top, found), classes)
    for name, folder in chosen.items():
        found.gather(folder, prefix=name)
    _refuse_empty(top, chosen, [*(file.id for file in found.files), *found.unreadable], found)
    return top, tuple(chosen), found


def readable(
    top: str,
    classes: Sequence[str],
    found: Found,
    reasons: Sequence[str],
    on_bad_image: Literal["fail", "skip"],
) -> list[int]:
    """The positions of the good files; `reasons` are why each cannot be used, "" where it can.

    The others are noted in `found`, or refused.
    """
    for file, reason in zip(found.files, reasons, strict=True):
        if reason:
            found.unreadable[file.id] = reason
    if found.unreadable and on_bad_image == "fail":
        raise InputError(
            f"{len(found.unreadable)} files of {top} cannot be read; mend or remove them, "
            "or leave them out with --on-bad-image skip:\n"
            + "\n".join(_listing([f"{path}: {why}" for path, why in found.unreadable.items()]))
        )
    rows = [i for i, reason in enumerate(reasons) if not reason]
    _refuse_empty(top, classes, [found.files[i].id for i in rows], found)
    return rows


def image_set(
    top: str,
    classes: Sequence[str],
    found: Found,
    rows: Sequence[int],
    hashes: Sequence[str],
    load: Callable[[int], NDArray[np.uint8]],
    shape: tuple[int, int, int],
) -> tuple[ImageSet, FolderReport]:
    """The files at `rows`, read by `load`; `hashes` of all files say which are copies."""
    groups = np.unique([hashes[i] for i in rows], return_inverse=True)[1]
    names = tuple(classes)
    images = ImageSet(
        ids=tuple(found.files[i].id for i in rows),
        paths=tuple(found.files[i].path for i in rows),
        labels=np.array([names.index(_class_of(found.files[i].id)) for i in rows], np.int32),
        class_names=names,
        load=load,
        groups=groups.astype(np.int64),
        shape=shape,
    )
    return images, _report(top, images, found)


def _report(top: str, images: ImageSet, found: Found) -> FolderReport:
    members = defaultdict(list)
    for id_, group in zip(images.ids, images.groups.tolist(), strict=True):
        members[group].append(id_)
    duplicates = tuple(tuple(ids) for ids in members.values() if len(ids) > 1)
    counts = Counter(map(_class_of, images.ids))
    twins = _twins([*images.class_names, *images.ids])
    return FolderReport(
        root=top,
        counts={name: counts[name] for name in images.class_names},
        unreadable=found.unreadable,
        other_files=tuple(found.other_files),
        duplicates=duplicates,
        warnings=(*found.warnings, *twins, *_conflicts(duplicates)),
    )


def _refuse_empty(top: str, classes: Iterable[str], usable: Iterable[str], found: Found) -> None:
    used = set(map(_class_of, usable))
    empty = [name for name in classes if name not in used]
    if empty:
        bad, other = (
            sum(_class_of(id_) == empty[0] for id_ in ids)
            for ids in (found.unreadable, found.other_files)
        )
        raise InputError(
            f"class {empty[0]!r} of {top} holds no image that can be read ({bad} unreadable, "
            f"{other} files of other kinds); leave the class out or give it images "
            f"({' '.join(sorted(EXTENSIONS))})"
        )


def _decode_unchanged(
    files: Sequence[ImageFile], settings: dict[str, Any], position: int
) -> NDArray[np.uint8]:
    file = files[position]
    pixels = decode(file.path, **settings)
    if stamp_of(file.path) != file.stamp:
        reason = "changed since it was checked; start again to check the folder anew"
        raise UnreadableImage(f"{file.path}: {reason}", reason)
    return pixels


def _pixels_of_row(
    pixels: NDArray[np.uint8], rows: Sequence[int], position: int
) -> NDArray[np.uint8]:
    return pixels[rows[position]]


def _conflicts(duplicates: Sequence[Sequence[str]]) -> Iterator[str]:
    for ids in duplicates:
        if len(set(map(_class_of, ids))) > 1:
            yield f"the same image in more than one class: {' = '.join(map(_shown, ids))}"


def _twins(names: Sequence[str]) -> Iterator[str]:
    """Names that differ by case or by Unicode form only: one file on another machine's disk."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(nfc(name).casefold(), name)
        if first != name:
            yield f"names that differ only by case or Unicode form: {first!r} and {name!r}"


def _listing(lines: Sequence[str]) -> list[str]:
    shown = [f"  {_shown(line)}" for line in lines[:_LINES]]
    return shown if len(lines) <= _LINES else [*shown, f"  and {len(lines) - _LINES} more"]


def _shown(name: str) -> str:
    """A name as one line: control characters and line breaks escaped."""
    return name if name.isprintable() else ascii(name)


def _class_of(id_: str) -> str:
    return id_.split("/", 1)[0]
