"""`Reading`: all that a user can set about how images are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxssl.data.decode import Fit

PACKED = ".array_record"


@dataclass(frozen=True)
class Reading:
    """How images are read: all that a user can set about it.

    Args:
      size: side in pixels to which images are resized, at least 1.
      channels: 1 (grey) or 3 (RGB).
      fit: "squash" to a square whatever the shape, or "pad": keep the shape, fill up.
      background: grey around what is shown, 0 to 255, or "auto": the median of the images' borders.
      crop_bottom: rows to take off under every picture, or "auto": a scale bar or caption that all
        pictures share is found.
      on_bad_image: "fail" stops and lists the unreadable images; "skip" leaves them out.
      classes: the classes to read, in this order; None reads all.
      labels_from: "auto" (a table beside the images that names them, else folders), "folders",
        "none", or the path of a table.
      image_column: the column of that table that names images; "" finds it by its usual names.
      label_column: the column of that table that holds labels; "" likewise.
      group_by: a column of that table, or a regular expression on the ids of images (its first
        group, or all that it matches): images of equal value stay on one side of every split.
      validated_only: of EcoTaxa's labels, whether only those count that a person has validated.
      follow_links: whether links to folders, and to files outside of the place, are followed.
      image_root: the folder that the paths of a table begin at; "" is the table's own.
      pages: "all" takes every page of a TIFF as an image, "first" its first alone.
      cache_dir: where checked images are kept; None is `jaxssl.files.cache_dir()`.
      pixel_size: micrometres that a pixel of the files shows; None: as a table says, where it does.
      hash_all: whether the content of every image is compared with what was checked before; else
        that of a sample, and of those whose file was touched since.

    Raises:
      ValueError: a size, number of channels, background, crop or pixel size out of range.
    """

    size: int
    channels: int = 1
    fit: Fit = "squash"
    background: int | Literal["auto"] = "auto"
    crop_bottom: int | Literal["auto"] = 0
    on_bad_image: Literal["fail", "skip"] = "fail"
    classes: tuple[str, ...] | None = None
    labels_from: str = "auto"
    image_column: str = ""
    label_column: str = ""
    group_by: str = ""
    validated_only: bool = True
    follow_links: bool = False
    image_root: str = ""
    pages: Literal["all", "first"] = "all"
    pixel_size: float | None = None
    cache_dir: str | Path | None = None
    hash_all: bool = False

    def __post_init__(self) -> None:
        grey = self.background == "auto" or 0 <= self.background <= 255
        crop = self.crop_bottom == "auto" or self.crop_bottom >= 0
        scale = self.pixel_size is None or self.pixel_size > 0
        if self.size < 1 or self.channels not in (1, 3) or not grey or not crop or not scale:
            raise ValueError(
                "a reading needs size >= 1, channels 1 or 3, background 0 to 255 or 'auto', "
                f"crop_bottom >= 0 or 'auto' and pixel_size > 0 or None, got {self}"
            )

    def settings(self) -> dict[str, Any]:
        """Return what `decode` must know beside the look of the set."""
        return {"size": self.size, "channels": self.channels, "fit": self.fit}
