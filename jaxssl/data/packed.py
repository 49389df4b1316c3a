"""A packed file: the images of a folder, decoded and resized once, as one ArrayRecord file.

`scripts/pack_images.py` writes it. One record an image, its bytes [h, w, c]; then one record of
JSON: what they were made with, and each file's id, path, sha256 and, where it was left out, why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.decode import Fit, UnreadableImage
from jaxssl.data.folder import FolderReport, image_set, open_folder, readable
from jaxssl.data.images import ImageSet
from jaxssl.data.walk import Found, ImageFile, choose_classes
from jaxssl.errors import InputError

EXTENSION = ".array_record"
FORMAT = "jaxssl images 1"


def open_images(
    place: str | Path,
    *,
    classes: Sequence[str] | None = None,
    size: int,
    channels: int,
    fill: int = 255,
    fit: Fit = "squash",
    on_bad_image: Literal["fail", "skip"] = "fail",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ImageSet, FolderReport]:
    """Reads a folder of class folders, or the packed file of one: the same images either way.

    Args:
      place: the folder, or a file that `scripts/pack_images.py` made of it.
      classes, size, channels, fill, fit, on_bad_image, progress: as in `open_folder`.

    Returns:
      The images, and the report. Ids, paths, labels, groups, pixels and so the fingerprint are
      those of the folder when it was packed: a run that began on the one goes on on the other.

    Raises:
      InputError: as `open_folder`; a packed file that is damaged, or of another size, colour or
        fit.
    """
    settings = {"size": size, "channels": channels, "fill": fill, "fit": fit}
    if str(place).endswith(EXTENSION):
        return _open_packed(Path(place).expanduser(), classes, settings, on_bad_image)
    return open_folder(
        place,
        classes=classes,
        size=size,
        channels=channels,
        fill=fill,
        fit=fit,
        on_bad_image=on_bad_image,
        progress=progress,
    )


def _open_packed(
    path: Path,
    classes: Sequence[str] | None,
    settings: dict[str, Any],
    on_bad_image: Literal["fail", "skip"],
) -> tuple[ImageSet, FolderReport]:
    source, table = _read_table(path)
    if table["settings"] != settings:
        raise InputError(
            f"{path} holds images of {_words(table['settings'])}, not of {_words(settings)}: set "
            "--image-size, --color and --fit to what it holds, or pack the folder again with "
            "scripts/pack_images.py"
        )
    top = os.path.abspath(path)
    # The name asked for -> the name packed: two Unicode forms of one name are one class.
    chosen = choose_classes(top, {name: name for name in table["classes"]}, classes)
    asked = {packed: name for name, packed in chosen.items()}

    def of_asked(id_: str) -> str:
        """The id that the folder would give: under the class as it was asked for; "" if not."""
        packed, rest = id_.split("/", 1) if "/" in id_ else (id_, "")
        return f"{asked[packed]}/{rest}".rstrip("/") if packed in asked else ""

    records = np.cumsum([not reason for reason in table["reasons"]]) - 1
    ids = [of_asked(id_) for id_ in table["ids"]]
    order = {name: place for place, name in enumerate(chosen)}
    # In the order of the classes asked for; within a class, sorting is stable, as it was packed.
    rows = sorted(
        (i for i, id_ in enumerate(ids) if id_), key=lambda i: order[ids[i].split("/", 1)[0]]
    )
    found = Found(
        files=[ImageFile(ids[i], table["paths"][i], (-1, -1)) for i in rows],
        unreadable={
            of_asked(id_): why for id_, why in table["unreadable"].items() if of_asked(id_)
        },
        other_files=[of_asked(id_) for id_ in table["other_files"] if of_asked(id_)],
        warnings=list(table["warnings"]),
    )
    reasons = [table["reasons"][i] for i in rows]
    good = readable(top, tuple(chosen), found, reasons, on_bad_image)
    shape = (settings["size"], settings["size"], settings["channels"])
    load = partial(_read_pixels, source, path, records[rows][good].tolist(), shape)
    hashes = [table["sha256"][i] for i in rows]
    return image_set(top, tuple(chosen), found, good, hashes, load, shape)


def _read_table(path: Path) -> tuple[Sequence[bytes], dict[str, Any]]:
    """The records, and what the last of them says."""
    from grain.sources import ArrayRecordDataSource  # seconds to import: jax

    if not path.is_file():
        raise InputError(f"no packed file {path}; scripts/pack_images.py makes one of a folder")
    try:
        source = ArrayRecordDataSource([str(path)])
        table = json.loads(source[len(source) - 1])
        if table["format"] != FORMAT or table["reasons"].count("") != len(source) - 1:
            raise ValueError(f"its table is of another form: {str(table['format'])[:40]!r}")
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


def _words(settings: dict[str, Any]) -> str:
    color = {1: "grey", 3: "rgb"}[settings["channels"]]
    fill = f" on {settings['fill']}" if settings["fill"] != 255 else ""
    return f"{settings['size']} px {color}, {settings['fit']}{fill}"
