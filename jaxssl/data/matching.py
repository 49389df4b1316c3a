"""Which image a row of a table means."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

from jaxssl.data.walk import ImageFile


class Index:
    """Images by name, for rows that give only the end of a path or a name without its ending."""

    def __init__(self, files: Sequence[ImageFile]) -> None:
        self.by_id = {file.id: i for i, file in enumerate(files)}
        self.by_end: dict[str, list[int]] = defaultdict(list)
        self.by_stem: dict[str, list[int]] = defaultdict(list)
        for i, file in enumerate(files):
            name = file.id.rpartition("/")[2]
            self.by_end[name].append(i)
            self.by_stem[name.rpartition(".")[0] or name].append(i)
        self.ids = [file.id for file in files]

    def find(self, value: str, folder: str) -> int | None:
        """Find the image that a row means: by its path, or by as much of its end as is unique."""
        name = os.path.normpath(value.replace("\\", "/")) if value else ""
        for exact in (os.path.normpath(folder + name), name):
            if exact in self.by_id:
                return self.by_id[exact]
        last = name.rpartition("/")[2]
        same = self.by_end.get(last) or self.by_stem.get(last) or []
        if len(same) < 2:
            return same[0] if same else None
        wanted = name.split("/")[::-1]
        agreed = [_agreement(wanted, self.ids[i].split("/")[::-1]) for i in same]
        best = max(agreed)
        if agreed.count(best) == 1:
            return same[agreed.index(best)]
        # A table speaks first of the images in its own folder.
        near = [i for i in same if self.ids[i].startswith(folder)] if folder else []
        return near[0] if len(near) == 1 else None


def _agreement(a: Sequence[str], b: Sequence[str]) -> int:
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))
