"""What a place of images held, for people to read and for programs to store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_LINES = 20


@dataclass(frozen=True, eq=False)
class Report:
    """What a place of images held; `str` tells it, what was understood first.

    Attributes:
      place: the folder or file that was opened.
      counts: readable images of each class.
      unlabelled: readable images without a label.
      said: what was understood, one sentence each: labels, splits, groups, background.
      background: the grey around what is shown, 0 (black) to 255 (white), for padding and rotation.
      crop_bottom: rows taken off under every picture.
      crop_example: where rows are taken off, one picture before and after, uint8 [h, w, 1].
      unreadable: file or folder left out because it cannot be read -> reason.
      left_out: image left out for what it is -> reason (a collage, a calibration image).
      other_files: files of other kinds, left out.
      empty: class folders without an image, left out.
      duplicates: ids whose files are byte-identical, a tuple each.
      object_ids: id -> EcoTaxa's name of the object, where a table gives it.
      warnings: one line each.
    """

    place: str
    counts: Mapping[str, int]
    unlabelled: int = 0
    said: tuple[str, ...] = ()
    background: int = 255
    crop_bottom: int = 0
    crop_example: NDArray[np.uint8] | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    other_files: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    object_ids: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        labelled = sum(self.counts.values())
        lines = [f"{labelled + self.unlabelled:,} images of {shown(self.place)}"]
        if labelled:
            without = f", {self.unlabelled:,} without a label" if self.unlabelled else ""
            lines[0] += f": {labelled:,} in {len(self.counts)} classes{without}"
        lines += [f"  {shown(line)}" for line in self.said]
        if self.empty:
            lines.append(f"{len(self.empty)} empty class folders left out: {_few(self.empty)}")
        for reason, ids in _by_reason(self.left_out).items():
            lines.append(f"{len(ids):,} left out, {reason}: {_few(ids)}")
        if self.unreadable:
            lines.append(f"{len(self.unreadable):,} that cannot be read, left out:")
            lines += listing([f"{path}: {why}" for path, why in self.unreadable.items()])
        if self.other_files:
            kinds = Counter(
                os.path.splitext(name)[1].lower() or "none" for name in self.other_files
            )
            kinds_text = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
            lines.append(
                f"{len(self.other_files):,} files of other kinds passed over ({kinds_text}):"
            )
            lines += listing(self.other_files)
        if self.duplicates:
            extra = sum(len(ids) - 1 for ids in self.duplicates)
            lines.append(f"{extra:,} byte-identical copies, kept on one side of every split")
        if self.warnings:
            lines += ["warnings:", *listing(self.warnings)]
        return "\n".join(lines)


def listing(lines: Sequence[str]) -> list[str]:
    """Indent lines, each kept on one line; those beyond the twentieth are counted."""
    first = [f"  {shown(line)}" for line in lines[:_LINES]]
    return first if len(lines) <= _LINES else [*first, f"  and {len(lines) - _LINES:,} more"]


def shown(name: str) -> str:
    """Show a name as one line: control characters and line breaks escaped."""
    return name if name.isprintable() else ascii(name)


def _few(names: Sequence[str]) -> str:
    text = ", ".join(map(shown, names[:3]))
    return text if len(names) <= 3 else f"{text} and {len(names) - 3:,} more"


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for id_, reason in left_out.items():
        reasons.setdefault(reason, []).append(id_)
    return reasons
