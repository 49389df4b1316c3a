"""A packed file: the images of any place, decoded and resized once, as one ArrayRecord file.

`scripts/pack_images.py` writes it. One record an image, its bytes [h, w, c]; then one record of
JSON: what they were made with, and what was known of each file: id, path, label, split, group,
pixel size, height, width, sha256 and, where it was left out, why.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.annotate import annotate
from jaxssl.data.assemble import image_set, readable
from jaxssl.data.decode import UnreadableImage
from jaxssl.data.images import ImageSet
from jaxssl.data.layout import choose_classes, order_by_class
from jaxssl.data.look import Look, Verdict
from jaxssl.data.reading import Reading
from jaxssl.data.report import Report
from jaxssl.data.source import Source
from jaxssl.data.walk import Found, ImageFile
from jaxssl.errors import InputError, Stopped, setting

FORMAT = "jaxssl images 3"


def table_of(
    found: Found, verdicts: Sequence[Verdict], look: Look, reading: Reading
) -> dict[str, Any]:
    """Make the last record of a packed file, of what was listed and not passed by `readable` yet.

    Images that can be read are the other records, in order.
    """
    return {
        "format": FORMAT,
        "settings": reading.settings(),
        "look": dataclasses.asdict(look),
        "classes": found.classes,
        "images": [
            [
                *(file.id, "" if file.source.member else file.source.path),
                *(file.label, file.split, file.group, file.object_id, file.pixel_size),
                *(verdict.height, verdict.width),
                *(verdict.frames, verdict.sha256, verdict.reason),
            ]
            for file, verdict in zip(found.files, verdicts, strict=True)
        ],
        "unreadable": found.unreadable,
        "left_out": found.left_out,
        "other_files": sorted(found.other),
        "empty": found.empty,
        "said": found.said,
        "warnings": found.warnings,
    }


def read_packed(path: Path, reading: Reading) -> tuple[ImageSet, Report]:
    """Read a file that `scripts/pack_images.py` made.

    Args:
      path: the file.
      reading: as for the place it was made of; size, channels and fit must be those of the file.
        Labels may come from a table all the same.

    Returns:
      The images, and the report. Ids, paths, labels, groups, splits, pixels and so the fingerprint
      are those of the place when it was packed: a run that began on the one goes on on the other.

    Raises:
      InputError: as `open_images`; a file that is damaged, or of another size, colour or fit.
    """
    source, table = _read_table(path)
    look = Look(**table["look"])
    asked = reading.settings()
    if table["settings"] != asked or reading.background not in ("auto", look.fill):
        held, wanted = _words(table["settings"], look.fill), _words(asked, reading.background)
        raise InputError(
            f"{path} holds images of {held}, not of {wanted}: set the image size, colour, fit and "
            f"background to what it holds{_set(table['settings'], look.fill)}, or pack the images "
            "again with scripts/pack_images.py"
        )
    found = Found(
        os.path.abspath(path),
        files=[
            ImageFile(id_, Source(place), (-1, -1), *known)
            for id_, place, *known in (image[:7] for image in table["images"])
        ],
        unreadable=table["unreadable"],
        left_out=table["left_out"],
        other={id_: ImageFile(id_, Source(""), (-1, -1)) for id_ in table["other_files"]},
        said=table["said"],
        warnings=table["warnings"],
        empty=table["empty"],
    )
    verdicts = {
        id_: Verdict(sha256, reason, frames=frames, height=height, width=width)
        for id_, *_, height, width, frames, sha256, reason in table["images"]
    }
    good = (id_ for id_, verdict in verdicts.items() if not verdict.reason)
    records = {id_: record for record, id_ in enumerate(good)}
    _choose(found, reading)
    mine = [verdicts[file.id] for file in found.files]
    rows = readable(found, mine, reading)
    numbers = [records[found.files[i].id] for i in rows]
    shape = (reading.size, reading.size, reading.channels)
    load = partial(_read_pixels, source, path, numbers, shape)
    return image_set(found, rows, mine, load, look, reading)


def _choose(found: Found, reading: Reading) -> None:
    """Keep labels as they were packed, unless others are asked for; then choose the classes."""
    if reading.labels_from not in ("auto", "folders") or reading.group_by:
        # They come class by class; under other labels they are in the order of a folder again.
        found.files.sort(key=lambda file: file.id.split("/"))
        annotate(found, None, reading)
        return
    found.classes = choose_classes(found, reading.classes, found.empty)
    if reading.classes is None:
        found.files = order_by_class(found.files)


def _read_table(path: Path) -> tuple[Sequence[bytes], dict[str, Any]]:
    """Read the records, and the table in the last of them."""
    from grain.sources import ArrayRecordDataSource  # seconds to import: jax

    if not path.is_file():
        raise InputError(f"no packed file {path}; scripts/pack_images.py makes one of a folder")
    try:
        source = ArrayRecordDataSource([str(path)])
        table = json.loads(source[len(source) - 1])
        good = sum(not image[-1] for image in table["images"])
        if table["format"] != FORMAT or good != len(source) - 1:
            raise ValueError(f"its table is of another form: {str(table['format'])[:40]!r}")
    except Stopped:  # by a signal: the file is not at fault
        raise
    # What ArrayRecord raises on other files has no common class.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path} is no packed file of images ({reason}): pack the folder again with "
            "scripts/pack_images.py"
        ) from error
    return source, table


def _read_pixels(
    source: Sequence[bytes],
    path: Path,
    records: Sequence[int],
    shape: tuple[int, int, int],
    position: int,
) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(source[records[position]], np.uint8).reshape(shape)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = f"record {records[position]} cannot be read; pack the folder again"
        raise UnreadableImage(f"{path}: {reason}", reason) from error


def _set(settings: dict[str, Any], background: int) -> str:
    """Spell the settings that fit what a file holds."""
    spelled = [setting(*pair) for pair in [*settings.items(), ("background", background)]]
    return f" ({' '.join(spelled)})" if all(spelled) else ""


def _words(settings: dict[str, Any], background: int | str) -> str:
    color = {1: "grey", 3: "rgb"}[settings["channels"]]
    on = "" if background in ("auto", 255) else f" on {background}"
    return f"{settings['size']} px {color}, {settings['fit']}{on}"
