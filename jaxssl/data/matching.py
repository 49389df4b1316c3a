"""Which image a row of a table means."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence

from jaxssl.data.walk import ImageFile, is_image, nfc


class Index:
    """Images by name, for rows that give only the end of a path or a name without its ending.

    Names that differ by case, by Unicode form or by an image's ending are the same where no other
    is nearer; so are numbers that a spreadsheet has rewritten (7 or 7.0 for 0007).
    """

    def __init__(self, files: Sequence[ImageFile]) -> None:
        self.by_id = {file.id: i for i, file in enumerate(files)}
        self.by_end: dict[str, list[int]] = defaultdict(list)
        self.by_stem: dict[str, list[int]] = defaultdict(list)
        self.by_sound: dict[str, list[int]] = defaultdict(list)
        for i, file in enumerate(files):
            name = file.id.rpartition("/")[2]
            self.by_end[name].append(i)
            self.by_stem[name.rpartition(".")[0] or name].append(i)
            self.by_sound[_sound(name)].append(i)
        self.ids = [file.id for file in files]

    def find(self, value: str, folder: str) -> int | None:
        """Find the image that a row means: by its path, or by as much of its end as is unique."""
        name = os.path.normpath(value.replace("\\", "/")) if value else ""
        for exact in (os.path.normpath(folder + name), name):
            if exact in self.by_id:
                return self.by_id[exact]
        last = name.rpartition("/")[2]
        same = (
            self.by_end.get(last) or self.by_stem.get(last) or self.by_sound.get(_sound(last), [])
        )
        if len(same) < 2:
            return same[0] if same else None
        wanted = [_sound(last), *name.split("/")[-2::-1]]
        ids = [self.ids[i].split("/")[::-1] for i in same]
        agreed = [_agreement(wanted, [_sound(end), *folders]) for end, *folders in ids]
        best = max(agreed)
        if agreed.count(best) == 1:
            return same[agreed.index(best)]
        # A table speaks first of the images in its own folder.
        near = [i for i in same if self.ids[i].startswith(folder)] if folder else []
        return near[0] if len(near) == 1 else None


def _sound(name: str) -> str:
    """Return what is left of a file's name when its spelling is let go.

    Example:
      >>> _sound("Net_01.PNG"), _sound("0007.jpg"), _sound("7.0"), _sound("v1.2_a")
      ('net_01', '7', '7', 'v1.2_a')
    """
    stem = name.rpartition(".")[0] if is_image(name) and "." in name else name
    number = re.fullmatch(r"0*(\d+?)(?:\.0+)?", stem)
    return number[1] if number else nfc(stem).casefold()


def _agreement(a: Sequence[str], b: Sequence[str]) -> int:
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))
