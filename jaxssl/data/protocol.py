"""One set of images cut into training, validation, test and unseen classes, with no leak."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from jaxssl.data import near
from jaxssl.data.images import SPLITS, ImageSet
from jaxssl.data.layout import nearest
from jaxssl.data.splits import split_classes, train_val, train_val_test
from jaxssl.errors import InputError, setting

# A given split without validation images: what is cut off its training images.
_VAL = 0.1
MAX_COMPARED = 200_000


@dataclass(frozen=True)
class Parts:
    """The images of a study.

    Attributes:
      train: images to learn from; those of no class have label -1 (`train.labelled()` drops them).
      val: images to choose by, labelled; none where no image has a label.
      test: held-out images of the classes seen.
      unseen: all images of the classes that are kept for the evaluation of embeddings.
      note: what was decided and why, one sentence each.
      left_out: class -> images, of classes too small to be split.
      near: (held-out image, training image) by id, of images that are nearly the same.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    unseen: ImageSet
    note: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    near: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.note)


def split_protocol(
    images: ImageSet,
    *,
    seen: Sequence[str] | Literal["all"] | None = None,
    unseen: Sequence[str] | int | None = None,
    min_images: int = 3,
    seed: int,
    look_for_near: bool = True,
) -> Parts:
    """Cut a set of images into training, validation, test and unseen classes.

    - Without `seen` and `unseen` every class with enough images is seen; label efficiency is then
      measured on the test images.
    - A split that the data gives is taken: nothing of its test or validation folders is learnt
      from. Without a test part, its validation part is the test; without validation, a tenth of the
      training images is. An image that has a copy, or an image of its group, in the test or
      validation part is taken out of training.
    - Otherwise classes are split .75, .05, .20 (`train_val_test`), groups on one side.
    - Where no class has enough images, and none is named, labels are let go.
    - Images without a label are all learnt from, but for those whose group is held out.

    Args:
      images: any set.
      seen: classes to learn from, "all", or None: all that are large enough and not unseen.
      unseen: classes kept for the evaluation of embeddings; or how many, drawn by seed.
      min_images: classes with fewer are left out, unless they are named; at least 3 distinct
        images (groups) are needed in any case, and one in training and test where a split is given.
      seed: equal seeds give equal splits.
      look_for_near: whether near-duplicates across the split are looked for; all images are read
        for it. Sets of more than 200,000 images are not compared.

    Returns:
      The parts. Labels of `train`, `val` and `test` follow the order of the classes seen, those of
      `unseen` that of the unseen ones.

    Raises:
      InputError: unknown or repeated classes, more unseen classes than there are, or named classes
        too small to be split.

    Example:
      >>> from jaxssl.data import load_digits
      >>> parts = split_protocol(load_digits(size=8), unseen=2, seed=0)
      >>> [len(part) for part in (parts.train, parts.val, parts.test, parts.unseen)]
      [1076, 72, 287, 362]
      >>> print(parts.note[0])
      8 classes are seen, 2 are unseen (4, 6)
    """
    labelled = images.labelled()
    if not len(labelled):
        asked = unseen or (None if seen == "all" else seen)
        if asked:
            what = f"{asked} unseen classes" if isinstance(asked, int) else f"class {asked[0]!r}"
            raise InputError(f"{what}: no image has a label, so there is no class to choose")
        return _without_labels(images, look_for_near)
    if seen in (None, "all") and not unseen and not any(_splittable(labelled)):
        return _too_few(images, labelled, look_for_near)
    seen_names, unseen_names, left_out = _choose(labelled, seen, unseen, min_images, seed)
    note = [_said(seen_names, unseen_names)]
    if left_out:
        listed = ", ".join(f"{name!r} ({n})" for name, n in list(left_out.items())[:8])
        more = f" and {len(left_out) - 8} more" if len(left_out) > 8 else ""
        note.append(
            f"{len(left_out)} classes are left out, too few images to split: {listed}{more}"
        )
    ours, apart = split_classes(labelled, seen_names, unseen_names)
    if _is_given(labelled):
        train, val, test, said = _given(ours, seed)
        note += said
    else:
        train, val, test = train_val_test(ours, seed=seed)
    train, said = _with_unlabelled(images, train, [val, test, apart])
    note += said
    alike = _near(train, [val, test, apart], note) if look_for_near else ()
    return Parts(train, val, test, apart, tuple(note), left_out, alike)


def _without_labels(images: ImageSet, look_for_near: bool) -> Parts:
    """Learn from all images but those of a test part that the data gives."""
    held = np.array([part in ("val", "test") for part in images.split], bool)
    shared = np.isin(images.groups, images.groups[held])
    empty = images.subset([])
    note = ["no labels: all images are in the training part, and nothing is held out"]
    if held.any():
        note = [
            f"no labels: the {int(held.sum()):,} images of a given test part stay out of the "
            "training part"
        ]
        test = images.subset(np.flatnonzero(held))
        train = images.subset(np.flatnonzero(~held & ~shared))
        alike = _near(train, [test], note) if look_for_near else ()
        return Parts(train, empty, test, empty, tuple(note), {}, alike)
    return Parts(images, empty, empty, empty, tuple(note))


def _too_few(images: ImageSet, labelled: ImageSet, look_for_near: bool) -> Parts:
    """Learn from all images as if none had a label, and say why."""
    counts = np.bincount(labelled.labels)
    largest = f"the largest, {labelled.class_names[int(counts.argmax())]!r}, has {counts.max()}"
    why = f"no class has 3 distinct images to be split ({largest}; copies and groups count once)"
    if _is_given(labelled):
        why = (
            "no class has an image held out by the given split, and two in training that are no "
            "copies of one"
        )
    bare = dataclasses.replace(images, labels=np.full(len(images), -1, np.int32), class_names=())
    parts = _without_labels(bare, look_for_near)
    return dataclasses.replace(parts, note=(f"{why}: labels are not used", *parts.note))


# ------------------------------------------------------------------------------------------ classes


def _choose(
    labelled: ImageSet,
    seen: Sequence[str] | Literal["all"] | None,
    unseen: Sequence[str] | int | None,
    min_images: int,
    seed: int,
) -> tuple[list[str], list[str], dict[str, int]]:
    """Choose (seen, unseen, too small -> images); named classes are never left out."""
    names = labelled.class_names
    named_seen = list(seen) if seen is not None and seen != "all" else None
    named_unseen = [] if unseen is None or isinstance(unseen, int) else list(unseen)
    for name in (*(named_seen or []), *named_unseen):
        if name not in names:
            listed = ", ".join(map(repr, nearest(name, names)[:8]))
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise InputError(
                f"no class {name!r}; the {len(names)} classes, the nearest first: {listed}{more}"
            )
    counts = np.bincount(labelled.labels, minlength=len(names))
    whole = zip(names, counts, _splittable(labelled), strict=True)
    enough = [name for name, count, ok in whole if count >= min_images and ok]
    open_ = [name for name in enough if name not in named_unseen]
    if isinstance(unseen, int):
        pool = [name for name in open_ if name not in (named_seen or [])]
        least = 0 if named_seen else 1
        if not 0 <= unseen <= len(pool) - least:
            raise InputError(
                f"{unseen} unseen classes of {len(pool)} with at least {max(3, min_images)} "
                f"images: choose 0 to {max(0, len(pool) - least)}{setting('unseen', form=' ({})')}"
            )
        drawn = np.random.default_rng(seed).permutation(len(pool))[:unseen]
        named_unseen = [pool[i] for i in sorted(drawn)]
    chosen = named_seen or [name for name in open_ if name not in named_unseen]
    if not chosen:
        largest = names[int(counts.argmax())]
        raise InputError(
            f"no class has {max(3, min_images)} distinct images to split (the largest, "
            f"{largest!r}, has {counts.max()}; copies and groups count once); lower the minimum"
            f"{setting('min_images', form=' ({})')}, or leave the labels out"
            f"{setting('labels_from', 'none', ' ({})')}"
        )
    used = {*chosen, *named_unseen, *enough}
    small = {name: int(counts[c]) for c, name in enumerate(names) if name not in used}
    return chosen, named_unseen, small


def _splittable(labelled: ImageSet) -> list[bool]:
    """Tell of each class whether it can give an image to each part."""
    classes = range(len(labelled.class_names))
    groups, labels = labelled.groups, labelled.labels
    if not _is_given(labelled):
        return [len(np.unique(groups[labels == c])) >= 3 for c in classes]
    split = np.array(labelled.split)
    held = np.isin(split, ("val", "test"))
    judged = split == ("test" if "test" in labelled.split else "val")
    learnt = ~held & ~np.isin(groups, groups[held])
    return [
        len(np.unique(groups[learnt & (labels == c)])) > 1 and bool(judged[labels == c].any())
        for c in classes
    ]


def _is_given(labelled: ImageSet) -> bool:
    """Tell whether the data says of labelled images that they are held out."""
    return "val" in labelled.split or "test" in labelled.split


def _said(seen: Sequence[str], unseen: Sequence[str]) -> str:
    text = f"{len(seen)} classes are seen"
    if unseen:
        shown = ", ".join(unseen[:8]) + (" ..." if len(unseen) > 8 else "")
        verb = "is" if len(unseen) == 1 else "are"
        return f"{text}, {len(unseen)} {verb} unseen ({shown})"
    return f"{text}, none is unseen: label efficiency is measured on held-out images"


# --------------------------------------------------------------------------- splits that are given


def _given(ours: ImageSet, seed: int) -> tuple[ImageSet, ImageSet, ImageSet, list[str]]:
    """Take the split that the data gives, mended where it lacks a part or leaks."""
    split = np.array([part or "train" for part in ours.split])
    note = ["the split that the data gives is used"]
    if not (split == "test").any():
        split[split == "val"] = "test"
        note.append("it has no test part: its validation images are the test, never learnt from")
    leaks = 0
    for part in ("test", "val"):
        shared = np.isin(ours.groups, ours.groups[split == part]) & (split != part)
        shared &= split != "test"
        leaks += int(shared.sum())
        split[shared] = ""
    if leaks:
        note.append(
            f"{leaks:,} images of it have a copy, or an image of their group, in a part that is "
            "held out: not used"
        )
    train, val, test = (ours.subset(np.flatnonzero(split == part)) for part in SPLITS)
    for c, name in enumerate(ours.class_names):
        if not (train.labels == c).any():
            raise InputError(
                f"class {name!r} has no training image in the split that the data gives, but for "
                "copies or group mates of held-out ones; leave the class out"
            )
    if not len(val):
        train, val = train_val(train, fraction=_VAL, seed=seed)
        note.append(f"it has no validation part: {len(val):,} training images are")
    return train, val, test, note


def _with_unlabelled(
    images: ImageSet, train: ImageSet, held: Sequence[ImageSet]
) -> tuple[ImageSet, list[str]]:
    """Add all images without a label to the training images, but for groups that are held out."""
    groups = np.concatenate([part.groups for part in held])
    loose = images.labels < 0
    given = np.array([part in ("val", "test") for part in images.split], bool)
    taken = loose & ~given & ~np.isin(images.groups, groups)
    if not loose.any():
        return train, []
    note = [f"{int(taken.sum()):,} images without a label are in the training part too"]
    if (loose & ~taken).any():
        note.append(
            f"{int((loose & ~taken).sum()):,} without a label are not: copies or group mates of "
            "held-out images, or of a test part that is given"
        )
    place = {id_: i for i, id_ in enumerate(images.ids)}
    labels = np.full(len(images), -1, np.int32)
    mine = np.array([place[id_] for id_ in train.ids], np.intp)
    labels[mine] = train.labels
    keep = taken.copy()
    keep[mine] = True
    both = dataclasses.replace(images, labels=labels, class_names=train.class_names)
    return both.subset(np.flatnonzero(keep)), note


def _near(
    train: ImageSet, held: Sequence[ImageSet], note: list[str]
) -> tuple[tuple[str, str], ...]:
    if len(train) + sum(map(len, held)) > MAX_COMPARED:
        note.append(f"near-duplicates are not looked for in more than {MAX_COMPARED:,} images")
        return ()
    known = near.thumbnails(train)
    pairs = tuple(
        (part.ids[i], train.ids[j])
        for part in held
        for i, j in near.pairs(near.thumbnails(part), known)
    )
    if pairs:
        shown = ", ".join(f"{a} ~ {b}" for a, b in pairs[:3]) + (" ..." if len(pairs) > 3 else "")
        note.append(
            f"{len(pairs):,} held-out images are nearly the same as a training image: {shown}"
        )
    return pairs
