"""Labels, splits and groups of a table brought to the images that its rows name."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxssl.data import scale, tables
from jaxssl.data.layout import split_of
from jaxssl.data.matching import Index
from jaxssl.data.source import Source
from jaxssl.data.tables import Table
from jaxssl.data.walk import Found, ImageFile, is_image, stamp_of
from jaxssl.errors import InputError, setting

_MANY = 100


class NoImageNamed(InputError):
    """A table names none of the images.

    Args:
      message: The line.
      table: The table's path.
    """

    def __init__(self, message: str, table: str):
        super().__init__(message)
        self.table = table


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns, "" where the usual names are to be found.

    Args:
      image: paths or ids of images.
      label: classes.
      group: what keeps images on one side of every split.
      validated_only: whether of EcoTaxa's labels only those a person has validated count.
      image_root: a folder that the table's paths begin at; "" is the table's own.
    """

    image: str = ""
    label: str = ""
    group: str = ""
    validated_only: bool = True
    image_root: str = ""


@dataclass(frozen=True)
class Row:
    """What a table says of one image."""

    image: str
    table: int
    label: str | None
    split: str
    group: str
    object_id: str
    predicted: bool
    pixel_size: float = 0.0


def find_tables(found: Found, columns: Columns) -> list[ImageFile]:
    """Find the tables beside the images whose own columns say that they hold labels.

    EcoTaxa's, wherever they lie; otherwise the tables beside the folders of images that have a
    column of images and one of labels by their usual names, or by those that the user gave. A table
    that names images and has no column of labels is mentioned.

    Raises:
      InputError: the user named a column that no table has.
    """
    candidates = [file for id_, file in sorted(found.other.items()) if tables.is_table(id_)]
    texts = sum(file.id.endswith(".txt") for file in candidates)
    if texts > _MANY:  # a text beside each image, not tables
        candidates = [file for file in candidates if not file.id.endswith(".txt")]
    ecotaxa: list[ImageFile] = []
    top: list[ImageFile] = []
    bare: list[tuple[ImageFile, Table]] = []
    images = [columns.image] if columns.image else tables.PATHS + tables.IDS
    wanted = [columns.label] if columns.label else tables.LABELS
    for file in candidates:
        header = _header(file)
        if header is None:
            continue
        if header.find([tables.ECOTAXA_OBJECT]) and header.find([tables.ECOTAXA_LABEL]):
            ecotaxa.append(file)
        elif header.find(images) and header.find(wanted):
            top.append(file)
        elif header.find(tables.PATHS):
            bare.append((file, header))
    if not ecotaxa and not top and bare:
        for named in filter(None, (columns.image, columns.label)):
            bare[0][1].column(named)  # says which columns there are
    if not ecotaxa and not top:
        found.warnings += [
            f"{file.id} names images, and none of its columns is one of labels by a usual name "
            f"({', '.join(header.columns[:8])}): name it as the label column"
            for file, header in bare[:3]
        ]
    depth = min((file.id.count("/") for file in top), default=0)
    return ecotaxa or [file for file in top if file.id.count("/") == depth]


def _header(file: ImageFile) -> Table | None:
    try:
        return tables.read_table(file, header_only=True)
    except InputError:  # a text that is no table: nobody said that it was one
        return None


def read_rows(table: Table, number: int, columns: Columns) -> list[Row]:
    """Yield the rows of a table.

    Raises:
      InputError: no column of images or of labels, or two that could be either.
    """
    images = table.column(_image_column(table, columns.image))
    images = tables.in_folders(table, images)
    label_column = _label_column(table, columns.label)
    labels = tables.clean_labels(table.column(label_column)) if label_column else [""] * len(images)
    blank = [""] * len(images)

    def optional(names: Sequence[str]) -> list[str]:
        found = table.find(names)
        return table.column(found[0]) if found else blank

    status = optional([tables.ECOTAXA_STATUS])
    objects = optional([tables.ECOTAXA_OBJECT])
    splits = optional(tables.SPLITS)
    groups = optional([columns.group] if columns.group else tables.GROUPS)
    sizes = scale.pixel_sizes(table)[1] or [0.0] * len(images)
    rows = []
    for image, label, state, split, group, object_id, size in zip(
        images, labels, status, splits, groups, objects, sizes, strict=True
    ):
        unsure = bool(state) and state.strip().casefold() not in ("v", "validated")
        kept = label if not (unsure and columns.validated_only) else ""
        part = split_of(split)
        rows.append(
            Row(
                image.strip(),
                number,
                kept or None,
                part,
                group,
                object_id,
                unsure and bool(label),
                size,
            )
        )
    return rows


def _image_column(table: Table, named: str) -> str:
    if named:
        return named
    found = table.find(tables.PATHS) or table.find(tables.IDS)
    if not found:
        raise InputError(
            f"{table.name} has no column that names images (looked for "
            f"{', '.join(tables.PATHS[:5])}, id ...); its columns: "
            f"{', '.join(table.columns[:20])}; name one as the image column"
            f"{setting('image_column', form=' ({})')}"
        )
    return found[0]


def _label_column(table: Table, named: str) -> str:
    if named:
        return named
    ecotaxa = table.find([tables.ECOTAXA_LABEL])
    if ecotaxa:
        return ecotaxa[0]
    found = table.find(tables.LABELS)
    if len(found) > 1 and any(table.column(found[0]) != table.column(name) for name in found[1:]):
        raise InputError(
            f"{table.name} has {len(found)} columns that could be the label: "
            f"{', '.join(map(repr, found))}; name one as the label column"
            f"{setting('label_column', form=' ({})')}"
        )
    return found[0] if found else ""


# ----------------------------------------------------------------------------- rows to their images


def join(found: Found, files: Sequence[ImageFile], columns: Columns) -> None:
    """Give images what the tables' rows say of them: label, split, group, EcoTaxa's object.

    A row names its image by a path below the table's folder or the place that was opened, or by
    the end of a path that is unique there, or by a file's name without its ending.

    Args:
      found: the images; all labels that folders gave them are taken back.
      files: the tables.
      columns: which columns to use.

    Raises:
      InputError: as `read_rows`; no row's image is there; two rows give one image two labels.
    """
    read = [tables.read_table(file) for file in files]
    rows = [row for i, table in enumerate(read) for row in read_rows(table, i, columns)]
    rows = _split_by_tables(read, rows, found)
    index = Index(found.files)
    for file in found.files:
        file.label = None
    seen: dict[int, Row] = {}
    missing = []
    for row in rows:
        place = index.find(row.image, read[row.table].folder)
        if place is None:
            missing.append(row)
            continue
        file = found.files[place]
        before = seen.setdefault(place, row)
        if before.label != row.label and None not in (before.label, row.label):
            raise InputError(
                f"{read[row.table].name} gives {file.id!r} two labels, {before.label!r} and "
                f"{row.label!r}; keep one row"
            )
        file.label = row.label or file.label
        file.split = row.split or file.split
        file.group = row.group or file.group
        file.object_id = row.object_id or file.object_id
        file.pixel_size = row.pixel_size or file.pixel_size
    if rows and not seen:
        raise none_found(read, rows, found.root, len(found.files))
    found.grouped = bool(columns.group) and any(table.find([columns.group]) for table in read)
    for used in files:
        found.other.pop(used.id, None)
    _say(found, read, columns, list(seen.values()), missing)


def _split_by_tables(read: Sequence[Table], rows: list[Row], found: Found) -> list[Row]:
    """Take the split that the names of several tables give: train.csv, test.csv."""
    stems = [os.path.basename(table.name).partition(".")[0] for table in read]
    parts = [split_of(stem) for stem in stems]
    if "train" not in parts or len(set(parts)) < 2 or "" in parts or any(r.split for r in rows):
        return rows
    found.said.append(f"split as the tables {', '.join(sorted(stems))} give it")
    return [dataclasses.replace(row, split=parts[row.table]) for row in rows]


def none_found(read: Sequence[Table], rows: Sequence[Row], root: str, there: int) -> NoImageNamed:
    """Make the error that says that no row's image lies where it should."""
    return NoImageNamed(
        f"{read[0].name} names {len(rows):,} images and 0 of them are among the {there:,} images "
        f"of {root}; missing, for one: {rows[0].image!r}; set the image root to the folder that "
        f"the table's paths begin at{setting('image_root', form=' ({})')}, or name the column of "
        f"images{setting('image_column', form=' ({})')}",
        read[0].name,
    )


def _say(
    found: Found, read: Sequence[Table], columns: Columns, seen: Sequence[Row], missing: list[Row]
) -> None:
    names = [os.path.basename(table.name) for table in read]
    which = names[0] if len(names) == 1 else f"{len(names)} tables ({', '.join(names[:3])})"
    label = _label_column(read[0], columns.label)
    count = sum(row.label is not None for row in seen)
    unsure = sum(row.predicted for row in seen)
    found.said.append(
        f"labels from {which}, column {label!r}: {count:,} of {len(found.files):,} images"
        if label
        else f"no labels: {which} has no column of labels"
    )
    if unsure:
        found.said.append(
            f"{unsure:,} labels of the table are predicted or dubious, not validated: "
            + ("not used" if columns.validated_only else "used as they are")
        )
    if any(row.split for row in seen) and not any(said.startswith("split") for said in found.said):
        found.said.append("split as the table gives it")
    objects = Counter(row.object_id for row in seen if row.object_id)
    if any(n > 1 for n in objects.values()):
        found.said.append(
            f"{len(objects):,} objects with up to {max(objects.values())} images each; those of "
            "one object stay on one side of every split"
        )
    found.said += [said for table in read for said in [scale.pixel_sizes(table)[0]] if said]
    if len(seen) < len(found.files):
        found.said.append(f"{len(found.files) - len(seen):,} images have no row in {which}")
    if missing:
        found.warnings.append(
            f"{len(missing):,} rows of {which} have no image: "
            + ", ".join(repr(row.image) for row in missing[:3])
            + (" ..." if len(missing) > 3 else "")
        )


# ---------------------------------------------------------------------- a table as the place itself


def images_of(file: ImageFile, columns: Columns) -> Found:
    """Find the images that a table names one by one: no folder is walked.

    Args:
      file: the table.
      columns: which columns to use; paths begin at `image_root`, or at the table's folder.

    Raises:
      InputError: as `read_rows`; none of the images is there.
    """
    table = tables.read_table(file)
    rows = read_rows(table, 0, columns)
    top = os.path.realpath(columns.image_root or os.path.dirname(file.source.path))
    found = Found(top)
    for id_, path in dict(_places(rows, top)).items():
        stamp = stamp_of(path)
        if is_image(path) and stamp != (-1, -1):
            found.files.append(ImageFile(id_, Source(path), stamp))
    found.files.sort(key=lambda image: image.id.split("/"))
    return found


def _places(rows: Sequence[Row], top: str) -> Iterator[tuple[str, str]]:
    for row in rows:
        name = row.image.replace("\\", "/")
        path = os.path.normpath(os.path.join(top, name))
        inside = os.path.commonpath([top, path]) == top
        yield (os.path.relpath(path, top) if inside else path.lstrip("/")), path
