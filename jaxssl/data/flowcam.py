"""FlowCam: images cut from collages by the run's .lst, and what is no image of an organism."""

from __future__ import annotations

import posixpath
import re

from jaxssl.data.walk import Found, ImageFile, is_image, read_listing
from jaxssl.errors import InputError

_CALIBRATION = re.compile(r"cal(ibration)?_image[_\d]*\.\w+", re.IGNORECASE)
_BINARY = re.compile(r".*_bin\.\w+", re.IGNORECASE)
_NUMBER = re.compile(r"_\d+\.\w+$")
_COLUMN = re.compile(r"(\w+)\|(\w+)")
_PLACE = ("collage_file", "image_x", "image_y", "image_w", "image_h")


def read_collages(found: Found) -> None:
    """Leave out FlowCam's calibration images and collages, or cut collages where a .lst tells how.

    A run's folder holds RUN.lst, RUN.ctx and RUN_000001.tif, ...: sheets of many images. A .lst
    lists its columns as "name|type", then a row an image with "|" between cells.

    Args:
      found: what the walk gathered; ids of images cut out are "<folder>/RUN#<number>".
    """
    cut: list[ImageFile] = []
    by_id = {file.id: file for file in found.files}
    marked = [id_ for id_ in sorted(found.other) if id_.lower().endswith((".lst", ".ctx"))]
    runs = {id_[:-4] for id_ in marked}
    lists = [id_ for id_ in marked if id_.lower().endswith(".lst")]
    for id_ in lists:
        cut += _cut(found.other.pop(id_), id_[:-4], by_id)
    sheets = {file.source.path + "\0" + file.source.member for file in cut}
    kept, left_out = [], 0
    for file in found.files:
        folder, name = posixpath.split(file.id)
        if name[:3].lower() == "cal" and _CALIBRATION.fullmatch(name):
            found.left_out[file.id] = "a FlowCam's calibration image"
        elif file.source.path + "\0" + file.source.member in sheets:
            left_out += 1
        elif runs and posixpath.join(folder, _NUMBER.sub("", name)) in runs:
            found.left_out[file.id] = "a FlowCam's collage, and no .lst beside it cuts it"
        elif runs and _BINARY.fullmatch(name):
            found.left_out[file.id] = "a FlowCam's binary image"
        else:
            kept.append(file)
    if cut:
        found.said.append(f"{len(cut):,} images cut from {left_out:,} FlowCam collages")
    found.files = kept
    if cut:
        found.files = sorted([*kept, *cut], key=lambda file: file.id.split("/"))


def _cut(lst: ImageFile, run: str, by_id: dict[str, ImageFile]) -> list[ImageFile]:
    """Cut the images of a run out of its collages, wherever these lie beside the .lst."""
    columns: list[str] = []
    rows: list[list[str]] = []
    for line in read_listing(lst).splitlines():
        named = _COLUMN.fullmatch(line.strip())
        if named and not rows and not named[1].isdigit():
            columns.append(named[1].casefold())
        elif columns and line.count("|") >= len(columns) - 1:
            rows.append(line.split("|"))
    if not set(_PLACE) <= set(columns):
        return []  # another program's .lst
    at = [columns.index(name) for name in _PLACE]
    number_at = columns.index("id") if "id" in columns else None
    images = []
    for place, row in enumerate(rows, start=1):
        name, *box = (row[i].strip() for i in at)
        sheet = by_id.get(posixpath.join(posixpath.dirname(run), name))
        if sheet is None or not is_image(name):
            continue
        try:
            left, top, width, height = map(int, box)
            number = int(row[number_at]) if number_at is not None else place
        except ValueError as error:
            raise InputError(f"{lst.source}, row {place}: {str(error)[:120]}") from error
        source = sheet.source._replace(box=(left, top, width, height))
        images.append(ImageFile(f"{run}#{number:05d}", source, sheet.stamp))
    return images
