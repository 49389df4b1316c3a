"""Classes seen and unseen; train, validation, test; label fractions. Seeded and stratified."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.images import ImageSet
from jaxssl.errors import InputError, setting, visible

_NO_LABEL = "(no label)"


class Splits(NamedTuple):
    """The three parts of a set of images; no group straddles two of them."""

    train: ImageSet
    val: ImageSet
    test: ImageSet


def split_classes(
    image_set: ImageSet, seen: Sequence[str], unseen: Sequence[str]
) -> tuple[ImageSet, ImageSet]:
    """Part a set by class: those trained on, and those kept for the evaluation of embeddings.

    Args:
      image_set: images of at least these classes.
      seen: names of the classes to train on; labels follow their order.
      unseen: names of the classes to keep, likewise. Classes in neither list are left out.

    Returns:
      (seen, unseen), each with labels from 0 in its own order. `unseen` may be empty.

    Raises:
      InputError: a class that is unknown, named twice, or in both lists.

    Example:
      >>> from jaxssl.data import load_digits
      >>> seen, unseen = split_classes(load_digits(size=8), seen=["5", "0"], unseen=["7"])
      >>> seen.class_names, unseen.class_names, len(seen), len(unseen)
      (('5', '0'), ('7',), 360, 179)
      >>> split_classes(load_digits(size=8), seen=["5", "0"], unseen=["0"])
      Traceback (most recent call last):
      ...
      jaxssl.errors.InputError: class '0' is both seen and unseen; take it out of one list (unseen)
    """
    for name, times in Counter(seen).items():
        if name in unseen:
            raise InputError(
                f"class {name!r} is both seen and unseen; take it out of one list"
                f"{setting('unseen', form=' ({})')}"
            )
        _refuse_repeated(name, times, "seen")
    for name, times in Counter(unseen).items():
        _refuse_repeated(name, times, "unseen")
    for name in (*seen, *unseen):
        if name not in image_set.class_names:
            raise InputError(
                f"no class {name!r}; the classes are {', '.join(map(repr, image_set.class_names))}"
            )
    return _only(image_set, seen), _only(image_set, unseen)


def train_val_test(
    image_set: ImageSet,
    *,
    fractions: tuple[float, float, float] = (0.75, 0.05, 0.20),
    seed: int,
) -> Splits:
    """Split seeded and stratified; byte-identical images (equal `groups`) stay on one side.

    Of n images of a class, round(n · fraction) go to validation and to test, at least one to each,
    and the rest to train. Groups of several images are placed first, each where it leaves most
    room, so only groups too large for their class's share can move a count. Order inside a part is
    that of `image_set`.

    Args:
      image_set: n labelled images of k classes.
      fractions: (train, validation, test), positive, sum 1.
      seed: equal seeds give equal splits.

    Returns:
      Splits(train, val, test), with the classes and labels of `image_set`.

    Raises:
      InputError: a class that cannot give one image to each part.
      ValueError: fractions out of range.

    Example:
      >>> from jaxssl.data import load_digits
      >>> [len(part) for part in train_val_test(load_digits(size=8), seed=0)]
      [1348, 90, 359]
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions must be positive and sum to 1, got {fractions}")
    labels, k = image_set.labels, len(image_set.class_names)
    if (labels < 0).any():
        raise ValueError("a stratified split needs labels; take `image_set.labelled()`")
    counts = np.bincount(labels, minlength=k)
    room = np.empty((k, 3), np.int64)  # places left, class by part
    room[:, 1:] = np.maximum(1, np.rint(counts[:, None] * np.array(fractions[1:])))
    room[:, 0] = counts - room[:, 1:].sum(axis=1)

    rng = np.random.default_rng(seed)
    part = _place_shared(image_set, room, rng)
    for c in range(k):
        single = rng.permutation(np.flatnonzero((labels == c) & (part < 0)))
        # Validation and test take their places first; train has the most, and takes the rest.
        val_end, test_end = np.cumsum(np.maximum(room[c, 1:], 0))
        part[single] = 0
        part[single[:val_end]] = 1
        part[single[val_end:test_end]] = 2
    _refuse_missing(image_set, part)
    return Splits(*(image_set.subset(np.flatnonzero(part == i)) for i in range(3)))


def train_val(image_set: ImageSet, *, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Cut validation images off a training set whose test images are apart.

    Of n images of a class round(n · fraction), at least one, go to validation, and with them every
    image of their `groups`.

    Args:
      image_set: n labelled images of k classes.
      fraction: of validation, in (0, 1).
      seed: equal seeds give equal splits.

    Returns:
      (train, validation), in the order of `image_set`, with its classes and labels.

    Raises:
      InputError: a class that is left without training images.
      ValueError: fraction out of range.

    Example:
      >>> from jaxssl.data import load_digits
      >>> [len(part) for part in train_val(load_digits(size=8), fraction=0.1, seed=0)]
      [1618, 179]
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    _, group = np.unique(image_set.groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(group.max() + 1)[group]
    in_val = np.zeros(len(image_set), bool)
    for c, name in enumerate(image_set.class_names):
        members = np.flatnonzero(image_set.labels == c)
        first = members[np.argsort(place[members], kind="stable")]
        chosen = first[: max(1, round(len(members) * fraction))]
        in_val |= np.isin(place, place[chosen])
        if in_val[members].all():
            raise InputError(
                f"class {name!r} has {len(members)} images: too few for training and validation"
            )
    return image_set.subset(np.flatnonzero(~in_val)), image_set.subset(np.flatnonzero(in_val))


def label_fraction(image_set: ImageSet, fraction: float, *, seed: int) -> ImageSet:
    """Keep a stratified part of the labels: round(n · fraction) images a class, at least one.

    With one seed a smaller fraction is contained in every larger one.

    Args:
      image_set: labelled images.
      fraction: in (0, 1].
      seed: equal seeds give equal parts.

    Returns:
      The chosen images, in the order of `image_set`.

    Raises:
      ValueError: fraction out of range.

    Example:
      >>> from jaxssl.data import load_digits
      >>> len(label_fraction(load_digits(size=8), 0.1, seed=0))
      179
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    rng = np.random.default_rng(seed)
    kept: list[int] = []
    for c in range(len(image_set.class_names)):
        members = rng.permutation(np.flatnonzero(image_set.labels == c))
        kept += members[: max(1, round(len(members) * fraction))].tolist()
    return image_set.subset(sorted(kept))


def describe(parts: Mapping[str, ImageSet], *, most: int = 150) -> str:
    """Count images per class and part in a table, with the share of each class and of each part.

    Images without a label have a row of their own, "(no label)", where there are any.

    Args:
      parts: name -> images, e.g. {"train": ..., "val": ..., "test": ..., "unseen": ...}.
      most: classes that have a line each; of more the smallest are counted together in the last.

    Returns:
      Lines of text, one a class, then the totals.

    Example:
      >>> from jaxssl.data import load_digits
      >>> seen, unseen = split_classes(load_digits(size=8), seen=["0", "1"], unseen=["6"])
      >>> print(describe(train_val_test(seen, seed=0)._asdict() | {"unseen": unseen}))
      class  train   val   test  unseen   total   share
      0        133     9     36       0     178   32.9%
      1        137     9     36       0     182   33.6%
      6          0     0      0     181     181   33.5%
      total    270    18     72     181     541  100.0%
      share  49.9%  3.3%  13.3%   33.5%  100.0%
    """
    names = list(dict.fromkeys(name for part in parts.values() for name in part.class_names))
    counts = [
        Counter(part.class_names[c] if c >= 0 else _NO_LABEL for c in part.labels.tolist())
        for part in parts.values()
    ]
    names += [_NO_LABEL] * any(count[_NO_LABEL] for count in counts)
    total = sum(len(part) for part in parts.values())
    rows = [["class", *parts, "total", "share"]]
    table = {name: [count[name] for count in counts] for name in names}
    if len(table) > most:
        largest = sorted(table, key=lambda name: -sum(table[name]))[: most - 1]
        small = [row for name, row in table.items() if name not in largest]
        table = {name: row for name, row in table.items() if name in largest}
        table[f"({len(small)} smaller classes)"] = [
            sum(column) for column in zip(*small, strict=True)
        ]
    for name, row in table.items():
        rows.append([visible(name), *map(str, row), str(sum(row)), f"{sum(row) / total:.1%}"])
    sizes = [*map(len, parts.values()), total]
    rows.append(["total", *map(str, sizes), "100.0%"])
    rows.append(["share", *(f"{size / total:.1%}" for size in sizes), ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def _refuse_repeated(name: str, times: int, kind: str) -> None:
    if times > 1:
        raise InputError(f"class {name!r} is named {times} times as {kind}; name it once")


def _only(image_set: ImageSet, names: Sequence[str]) -> ImageSet:
    """Keep the images of these classes; renumber labels in the order of `names`."""
    renumber = np.full(len(image_set.class_names), -1, np.int32)
    renumber[[image_set.class_names.index(name) for name in names]] = np.arange(len(names))
    chosen = (image_set.labels >= 0) & (renumber[image_set.labels] >= 0)
    part = image_set.subset(np.flatnonzero(chosen))
    return dataclasses.replace(part, labels=renumber[part.labels], class_names=tuple(names))


def _place_shared(
    image_set: ImageSet, room: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Choose the part of images whose group has several, else -1; take places from `room`.

    Groups are placed in random order, the largest first. Each goes to the part where it leaves most
    room, unless it is the last chance of one of its classes to be in a part that lacks it.
    """
    labels, (k, parts) = image_set.labels, room.shape
    part = np.full(len(image_set), -1)
    _, group, sizes = np.unique(image_set.groups, return_inverse=True, return_counts=True)
    to_place = np.array([len(np.unique(group[labels == c])) for c in range(k)])
    empty = np.ones((k, parts), bool)

    shared = rng.permutation(np.flatnonzero(sizes > 1))
    for g in shared[np.argsort(-sizes[shared], kind="stable")]:
        members = np.flatnonzero(group == g)
        need = np.bincount(labels[members], minlength=k)
        of = np.flatnonzero(need)
        score = (room[of] - need[of, None]).min(axis=0)
        last_chance = to_place[of] <= empty[of].sum(axis=1)
        urgent = (empty[of] & last_chance[:, None]).any(axis=0)
        allowed = urgent if urgent.any() else np.full(parts, True)
        part[members] = chosen = np.where(allowed, score, score.min() - 1).argmax()
        room[:, chosen] -= need
        to_place[of] -= 1
        empty[of, chosen] = False
    return part


def _refuse_missing(image_set: ImageSet, part: NDArray[np.intp]) -> None:
    for c, name in enumerate(image_set.class_names):
        members = image_set.labels == c
        if len(np.unique(part[members])) < 3:
            distinct = len(np.unique(image_set.groups[members]))
            raise InputError(
                f"class {name!r} has {members.sum()} images ({distinct} distinct); the split needs "
                "at least 3 distinct ones, for train, validation and test; leave the class out or "
                "add images"
            )
