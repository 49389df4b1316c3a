"""Labels, splits and groups for images that were listed: from tables, folders, names."""

from __future__ import annotations

import os
import re

from jaxssl.data import labels
from jaxssl.data.layout import choose_classes, order_by_class, read_folders
from jaxssl.data.reading import Reading
from jaxssl.data.source import Source
from jaxssl.data.walk import Found, ImageFile, stamp_of
from jaxssl.errors import InputError, setting


def columns_of(reading: Reading) -> labels.Columns:
    """Return the columns of a table that a reading names."""
    return labels.Columns(
        image=reading.image_column,
        label=reading.label_column,
        group=reading.group_by,
        validated_only=reading.validated_only,
        image_root=reading.image_root,
    )


def annotate(found: Found, table: ImageFile | None, reading: Reading) -> None:
    """Give images their labels, splits and groups, choose the classes and put them in order.

    Args:
      found: the images.
      table: the table that the place itself is, if it is one.
      reading: where labels come from, and which classes are read.

    Raises:
      InputError: as `jaxssl.data.opening.open_images`.
    """
    _label(found, table, reading)
    _group(found, reading.group_by)
    found.classes = choose_classes(found, reading.classes, found.empty)
    if reading.classes is None:
        found.files = order_by_class(found.files)


def _label(found: Found, table: ImageFile | None, reading: Reading) -> None:
    """Label the images and assign their splits, from a table or from folders."""
    columns, asked = columns_of(reading), reading.labels_from
    named = [table] if table is not None else []
    if asked not in ("auto", "folders", "none"):
        path = os.path.realpath(os.path.expanduser(asked))
        if not os.path.isfile(path):
            raise InputError(
                f"no table {asked} to take labels from{setting('labels_from', form=' ({})')}"
            )
        inside = os.path.relpath(path, found.root)
        id_ = inside if not inside.startswith("..") else os.path.basename(path)
        named = [ImageFile(id_, Source(path), stamp_of(path))]
    if named:
        read_folders(found, reading.classes, labels=False)  # a split that they give stays
        labels.join(found, named, columns)
        return
    if asked == "none":
        read_folders(found, reading.classes, labels=False)
        found.said.append("no labels, as asked")
        return
    there = labels.find_tables(found, columns) if asked == "auto" else []
    if not there or not _join_if_it_fits(found, there, reading):
        found.empty = read_folders(found, reading.classes)


def _join_if_it_fits(found: Found, there: list[ImageFile], reading: Reading) -> bool:
    """Use tables that were found, not named, where they fit the images, else mention them."""
    before = [(file.label, file.split, file.group, file.object_id) for file in found.files]
    said, warnings, other = list(found.said), list(found.warnings), dict(found.other)
    read_folders(found, reading.classes, labels=False)
    problem = ""
    try:
        labels.join(found, there, columns_of(reading))
        if not any(file.label or file.object_id for file in found.files):
            problem = f"{there[0].id} beside the images gives none of them a label"
    except InputError as error:
        read_folders(found, reading.classes)
        if not any(file.label for file in found.files):
            raise
        problem = f"a table beside the images is not used: {error}"
    if problem:
        for file, known in zip(found.files, before, strict=True):
            file.label, file.split, file.group, file.object_id = known
        found.said, found.warnings, found.other = said, [*warnings, problem], other
        found.grouped = False
    return not problem


def _by(group_by: str) -> str:
    return setting("group_by", group_by) or f"group by {group_by!r}"


def _group(found: Found, group_by: str) -> None:
    """Group images by a regular expression on ids, where no column of a table gave groups."""
    if not group_by or found.grouped:
        return
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"{_by(group_by)}: no column of a table, and no regular expression ({error})"
        ) from error
    matched = 0
    for file in found.files:
        match = pattern.search(file.id)
        if match:
            matched += 1
            file.group = "\0".join(filter(None, match.groups())) or match[0]
    if not matched:
        raise InputError(
            f"{_by(group_by)}: no column of a table has this name, and no image's path "
            f"matches it (the first is {found.files[0].id!r})"
        )
    groups = len({file.group for file in found.files if file.group})
    found.said.append(f"{groups:,} groups by {group_by!r}, each on one side of every split")
