"""From images that were listed and checked to an `ImageSet` and its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jaxssl.data import caption
from jaxssl.data.images import ImageSet
from jaxssl.data.look import Look, Verdict
from jaxssl.data.reading import Reading
from jaxssl.data.report import Report, listing, shown
from jaxssl.data.source import EXTENSIONS
from jaxssl.data.walk import Found, ImageFile, twins
from jaxssl.errors import InputError, setting

# Fewer pictures may be alike by chance: a caption is then looked for only where asked.
_SURE = 8


def find_crop(found: Found, asked: int | Literal["auto"]) -> int:
    """Return the rows to take off under every picture; mentions a caption that is left there."""
    if asked != "auto" and (asked or len(found.files) < _SURE):
        if asked:
            found.crop_example = caption.before_and_after(found.files[0].source, asked)
        return asked
    rows = caption.find([file.source for file in found.files])
    if asked != "auto":
        if rows:
            found.warnings.append(
                f"a scale bar or caption of {rows} pixels lies under every picture and will be "
                f"learnt{setting('crop_bottom', 'auto', '; {} takes it off')}"
            )
        return 0
    if rows:
        found.crop_example = caption.before_and_after(found.files[0].source, rows)
    found.said.append(
        f"{rows} pixels under every picture are taken off: a scale bar or caption they share"
        if rows
        else "no scale bar or caption was found under the pictures"
    )
    return rows


def readable(found: Found, verdicts: Sequence[Verdict], reading: Reading) -> list[int]:
    """Return the positions of the good files; note the others in `found`, or refuse them."""
    for file, verdict in zip(found.files, verdicts, strict=True):
        if verdict.reason:
            found.unreadable[file.id] = verdict.reason
    if found.unreadable and reading.on_bad_image == "fail":
        raise InputError(
            f"{len(found.unreadable)} files of {found.root} cannot be read; mend or remove them, "
            f"or have bad images skipped{setting('on_bad_image', 'skip', ' ({})')}:\n"
            + "\n".join(listing([f"{path}: {why}" for path, why in found.unreadable.items()]))
        )
    rows = [i for i, verdict in enumerate(verdicts) if not verdict.reason]
    used = {found.files[i].label for i in rows}
    gone = [name for name in found.classes if name not in used]
    if gone and reading.classes is not None:
        raise InputError(
            f"class {gone[0]!r} of {found.root} holds no image that can be read; leave the class "
            f"out or give it images ({' '.join(sorted(EXTENSIONS))})"
        )
    if not rows:
        raise InputError(f"none of the {len(verdicts)} images of {found.root} can be read")
    found.classes = tuple(name for name in found.classes if name in used)
    found.empty = [*found.empty, *gone]
    return rows


def image_set(
    found: Found,
    rows: Sequence[int],
    verdicts: Sequence[Verdict],
    load: Callable[[int], NDArray[np.uint8]],
    look: Look,
    reading: Reading,
) -> tuple[ImageSet, Report]:
    """Make the set of the files at `rows`, whose pixels `load` reads, and the report."""
    files = [found.files[i] for i in rows]
    hashes = [verdicts[i].sha256 for i in rows]
    place_of: dict[str | None, int] = {name: i for i, name in enumerate(found.classes)}
    images = ImageSet(
        ids=tuple(file.id for file in files),
        paths=tuple("" if file.source.member else file.source.path for file in files),
        labels=np.array([place_of.get(file.label, -1) for file in files], np.int32),
        class_names=found.classes,
        load=load,
        groups=_groups(hashes, [file.group for file in files], [file.object_id for file in files]),
        shape=(reading.size, reading.size, reading.channels),
        split=tuple(file.split for file in files),
        sides=np.array([(verdicts[i].height, verdicts[i].width) for i in rows], np.int32),
        pixel_size=np.array([reading.pixel_size or file.pixel_size for file in files], np.float32),
        fit=reading.fit,
        object_ids=tuple(file.object_id for file in files),
    )
    # Of a TIFF `read_pages` has spoken already.
    more = [verdicts[i].frames - 1 for i in rows if ".tif" not in found.files[i].id.lower()]
    return images, _report(found, files, images, hashes, look, sum(more))


def _groups(
    hashes: Sequence[str], names: Sequence[str], objects: Sequence[str]
) -> NDArray[np.int64]:
    """Give one number to all that share a hash, or a name or an object that is not ""."""
    by_hash = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
    if not any(names) and not any(objects):
        return by_hash
    parent = list(range(len(names)))

    def head(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[tuple[str, Any], int] = {}
    for i, keys in enumerate(zip(by_hash.tolist(), names, objects, strict=True)):
        for key in zip(("hash", "name", "object"), keys, strict=True):
            if key[1] != "":
                parent[head(i)] = head(first.setdefault(key, i))
    return np.unique([head(i) for i in range(len(names))], return_inverse=True)[1].astype(np.int64)


def _report(
    found: Found,
    files: Sequence[ImageFile],
    images: ImageSet,
    hashes: Sequence[str],
    look: Look,
    frames: int,
) -> Report:
    members = defaultdict(list)
    for i, hash_ in enumerate(hashes):
        members[hash_].append(i)
    same = [group for group in members.values() if len(group) > 1]
    duplicates = tuple(tuple(images.ids[i] for i in group) for group in same)
    conflicts = [
        f"the same image in more than one class: {' = '.join(map(shown, ids))}"
        for ids, group in zip(duplicates, same, strict=True)
        if len({files[i].label for i in group} - {None}) > 1
    ]
    alike = [
        f"names that differ only by case or Unicode form: {first!r} and {name!r}"
        for first, name in twins(images.ids)
    ]
    counts = np.bincount(images.labels[images.labels >= 0], minlength=len(images.class_names))
    shade = {255: "white", 0: "black"}.get(look.fill, "grey")
    said = [*found.said, f"background: {shade} ({look.fill})"]
    if look.deep:
        bits = (look.white + 1).bit_length() - 1
        said.append(
            f"{look.deep:,} images of 16 bits a pixel hold {bits}: scaled by 0 to {look.white}"
        )
    if frames:
        said.append(f"{frames:,} frames beyond the first of a file are left out")
    mixed = (
        [f"{look.minority:.0%} of the images have a background on the other side of grey"]
        if look.minority > 0.25
        else []
    )
    return Report(
        place=found.root,
        counts=dict(zip(images.class_names, counts.tolist(), strict=True)),
        unlabelled=int((images.labels < 0).sum()),
        said=tuple(said),
        background=look.fill,
        crop_bottom=look.crop_bottom,
        crop_example=found.crop_example,
        unreadable=found.unreadable,
        left_out=found.left_out,
        other_files=tuple(sorted(found.other)),
        empty=tuple(found.empty),
        duplicates=duplicates,
        object_ids={file.id: file.object_id for file in files if file.object_id},
        warnings=(*found.warnings, *mixed, *alike, *conflicts),
    )
