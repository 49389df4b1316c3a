"""The front door: a folder, zip, table or packed file of images to an `ImageSet` and a report."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxssl.data import labels, tables
from jaxssl.data.annotate import annotate, columns_of
from jaxssl.data.assemble import find_crop, image_set, readable
from jaxssl.data.decode import UnreadableImage, decode
from jaxssl.data.flowcam import read_collages
from jaxssl.data.ifcb import read_rois
from jaxssl.data.images import ImageSet
from jaxssl.data.reading import PACKED, Reading
from jaxssl.data.report import Report
from jaxssl.data.scan import cache_folder, scan
from jaxssl.data.source import EXTENSIONS, Source
from jaxssl.data.stacks import read_pages
from jaxssl.data.walk import Found, ImageFile, a_run, is_image, stamp_of, walk
from jaxssl.errors import InputError, setting
from jaxssl.files import is_run_folder

_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


def open_images(
    place: str | Path,
    reading: Reading,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageSet, Report]:
    """Read any place that holds images; every image is decoded in full once before anything starts.

    A place is a folder (of class folders, of images, of train and test folders, or a mix), a zip of
    one, a table of images, an image file of several pages, or a packed file. Tables of labels
    (CSV, TSV, Parquet, EcoTaxa's), Imaging FlowCytobot's bins and FlowCam's collages are found in
    it. Verdicts and resized pixels are cached (`jaxssl.data.scan`), so a second opening decodes
    nothing; above 2 GiB of pixels, images are decoded when asked for.

    Args:
      place: the folder or file.
      reading: how.
      progress: called with (files done, files to do) while decoding.

    Returns:
      The images, and the report. Order is by class, then by code point; images without a label come
      last. Byte-identical files, pages of a file, images of one EcoTaxa object and of one group
      share a number in `groups`.

    Raises:
      InputError: nothing there, nothing that is an image, an unknown class, a table that does not
        fit, a zip that is not to be used, or, with "fail", files that cannot be read.
      UnreadableImage: from the ImageSet, a file that changed after it was checked.

    Example:
      >>> import tempfile
      >>> from PIL import Image
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     for name in ("part<Crustacea", "other<living"):
      ...         Path(tmp, "root", name).mkdir(parents=True)
      ...         Image.new("L", (9, 9), 200).save(Path(tmp, "root", name, "0.png"))
      ...     images, report = open_images(f"{tmp}/root", Reading(4, cache_dir=f"{tmp}/cache"))
      >>> images.ids
      ('other<living/0.png', 'part<Crustacea/0.png')
      >>> images.groups.tolist(), report.background
      ([0, 0], 200)
    """
    if str(place).endswith(PACKED):
        from jaxssl.data.packed import read_packed  # seconds to import: grain

        return read_packed(Path(place).expanduser(), reading)
    found = list_images(place, reading)
    crop = find_crop(found, reading.crop_bottom)
    result = scan(
        found.files,
        root=found.root,
        settings=reading.settings(),
        background=reading.background,
        crop_bottom=crop,
        cache_dir=reading.cache_dir,
        hash_all=reading.hash_all,
        progress=progress,
    )
    rows = readable(found, result.verdicts, reading)
    if result.pixels is None:
        settings = reading.settings() | result.look.settings()
        load = partial(_decode_unchanged, [found.files[i] for i in rows], settings)
    else:
        load = partial(_pixels_of_row, result.pixels, rows)
    images, report = image_set(found, rows, result.verdicts, load, result.look, reading)
    if is_image(str(place)):  # one file, not the folder that it lies in
        report = dataclasses.replace(report, place=os.path.realpath(os.path.expanduser(place)))
    return images, report


# -------------------------------------------------------------------------- what is there, unopened


def list_images(place: str | Path, reading: Reading) -> Found:
    """List the images of a place with their labels, splits and groups; none is decoded.

    Raises:
      InputError: as `open_images`, but for images that cannot be read.
    """
    found, table = _find(os.path.expanduser(place), reading)
    # Each kind of source is a file of this room, and one line here.
    read_collages(found)
    read_rois(found)
    read_pages(found, cache_folder(found.root, reading.cache_dir), pages=reading.pages)
    if not found.files:
        raise _nothing(place, found)
    annotate(found, table, reading)
    return found


def _find(place: str, reading: Reading) -> tuple[Found, ImageFile | None]:
    """Find what lies at a place, and the table that the place itself is."""
    root = os.path.realpath(place)
    if not os.path.isfile(root):
        if is_run_folder(root):
            raise a_run(root)
        found = walk(root, follow_links=reading.follow_links)
        if not found.files and reading.labels_from == "auto":
            for table in labels.find_tables(found, columns_of(reading))[:1]:
                if table.source.member == "":
                    return _of_table(table, reading)
        return found, None
    name = os.path.basename(root)
    if tables.is_table(name):
        return _of_table(ImageFile(name, Source(root), stamp_of(root)), reading)
    if name.lower().endswith(".zip") or zipfile.is_zipfile(root):
        return walk(root, follow_links=False), None
    if is_image(name):
        found = Found(os.path.dirname(root))
        found.files.append(ImageFile(name, Source(root), stamp_of(root)))
        return found, None
    way_out = "unpack it, and name the folder" if name.lower().endswith(_ARCHIVES) else "name one"
    raise InputError(
        f"{root} is no folder, zip, table ({' '.join(tables.ENDINGS)}), image or packed file "
        f"({PACKED}); {way_out}"
    )


def _of_table(table: ImageFile, reading: Reading) -> tuple[Found, ImageFile]:
    """Find the images that a table names: by path, or by id those of its folder."""
    found = labels.images_of(table, columns_of(reading))
    if not found.files:
        below = walk(found.root, follow_links=reading.follow_links)
        rows = labels.read_rows(tables.read_table(table), 0, columns_of(reading))
        if not below.files:
            raise labels.none_found([tables.read_table(table)], rows, below.root, 0)
        found = below
    return found, table


def _nothing(place: str | Path, found: Found) -> InputError:
    kinds = Counter(os.path.splitext(id_)[1].lower() or "(no ending)" for id_ in found.other)
    there = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common(5)) or "nothing"
    archives = [id_ for id_ in found.other if id_.lower().endswith((".zip", *_ARCHIVES))]
    links, first = len(found.links), next(iter(found.left_out.items()), None)
    return InputError(
        f"{place} holds no image ({' '.join(sorted(EXTENSIONS))}); it holds {there}"
        + (
            f", and {links} links to folders that are not followed ({found.links[0][0]!r}): "
            f"follow links{setting('follow_links', True, ' ({})')}, or name their targets"
            if links
            else ""
        )
        + (f"; unpack {archives[0]!r}: archives inside are not opened" if archives else "")
        + (f"; {len(found.left_out)} left out, {first[1]} ({first[0]!r})" if first else "")
    )


# ------------------------------------------------------------------------------------------ pixels


def _decode_unchanged(
    files: Sequence[ImageFile], settings: dict[str, Any], position: int
) -> NDArray[np.uint8]:
    file = files[position]
    pixels = decode(file.source, **settings)
    if not file.source.member and stamp_of(file.source.path) != file.stamp:
        reason = "changed since it was checked; start again to check the folder anew"
        raise UnreadableImage(f"{file.source}: {reason}", reason)
    return pixels


def _pixels_of_row(
    pixels: NDArray[np.uint8], rows: Sequence[int], position: int
) -> NDArray[np.uint8]:
    return pixels[rows[position]]
