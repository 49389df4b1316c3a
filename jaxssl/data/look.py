"""What is decided over all images of a set: its background, the range of deep pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

_DEPTHS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))


@dataclass(frozen=True)
class Verdict:
    """What one full decode said: the sha256 of file or part, or the reason why it is of no use.

    From `high` to `width` they are those of `jaxssl.data.decode.Decoded`.
    """

    sha256: str
    reason: str = ""
    high: int = 0
    border: int = 255
    frames: int = 1
    filled: bool = False
    height: int = 0
    width: int = 0
    lasting: bool = True  # False: the system's fault (permission, memory, disk); ask again


@dataclass(frozen=True)
class Look:
    """What the images of a set have in common: decided over all of them, not image by image.

    Args:
      fill: the grey of the background, 0 (black) to 255 (white).
      white: the stored value of deep pixels that becomes 255.
      crop_bottom: rows taken off under every picture.
      deep: how many images have more than 8 bits.
      minority: the share of images whose own background is on the other side of grey, where the
        background was read off them.
    """

    fill: int = 255
    white: int = 65535
    crop_bottom: int = 0
    deep: int = 0
    minority: float = 0.0

    def settings(self) -> dict[str, int]:
        """Return the keyword arguments of `decode`."""
        return {"fill": self.fill, "white": self.white, "crop_bottom": self.crop_bottom}

    def changes(self, verdict: Verdict, first: Look) -> bool:
        """Tell whether this look changes the pixels of an image that was decoded with another."""
        return (verdict.high > 0 and self.white != first.white) or (
            verdict.filled and self.fill != first.fill
        )


def look_of(
    verdicts: Iterable[Verdict], *, background: int | Literal["auto"], crop_bottom: int
) -> Look:
    """Derive the look of a set from what decoding found in each of its images.

    The background is the median of the images' borders; within 15 of white or black it is white or
    black. Deep pixels are scaled by the smallest of 8, 10, 12, 14 and 16 bits that holds all.

    Example:
      >>> twelve_bits = [Verdict("", high=h, border=b) for h, b in ((4000, 40), (900, 32))]
      >>> look_of(twelve_bits, background="auto", crop_bottom=0)
      Look(fill=0, white=4095, crop_bottom=0, deep=2, minority=0.0)
    """
    good = [verdict for verdict in verdicts if not verdict.reason]
    deep = [verdict.high for verdict in good if verdict.high]
    white = next(full for full in _DEPTHS if full >= max(deep, default=65535))
    borders = np.array([v.border * 255 // white if v.high else v.border for v in good] or [255])
    fill = int(np.median(borders)) if background == "auto" else background
    if background == "auto":
        fill = 255 if fill >= 240 else 0 if fill <= 15 else fill
    minority = float(((borders < 128) != (fill < 128)).mean()) if background == "auto" else 0.0
    return Look(fill, white, crop_bottom, len(deep), minority)
