"""What the names of folders say: the class of an image, and its part of a given split."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from jaxssl.data.walk import Found, ImageFile, nfc
from jaxssl.errors import InputError, setting

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What people add to these names: train_images, testset, 01_train.
_BESIDE = re.compile(r"[\W_\d]+|(?:set|images?|imgs?|data|dataset|folder|split)(?![a-z])")
_UNLABELLED = frozenset(
    {"unlabelled", "unlabeled", "unsorted", "unannotated", "unclassified", "no_label", "no_labels"}
    | {"not_labelled", "not_labeled", "nolabel", "without_label"}
)
_SHOWN = 8


def split_of(name: str) -> str:
    """Return the part of a split that a name means: "train", "val", "test", or "".

    Example:
      >>> [split_of(name) for name in ("Training", "01_valid", "test_images", "testudo")]
      ['train', 'val', 'test', '']
    """
    plain = name.strip().casefold()
    return SPLIT_NAMES.get(plain) or SPLIT_NAMES.get(_BESIDE.sub("", plain), "")


def _is_unlabelled(folder: str) -> bool:
    return _spelling(folder) in _UNLABELLED


def read_folders(found: Found, classes: Sequence[str] | None, *, labels: bool = True) -> list[str]:
    """Give every image the label and the split that its folders tell, and say what was understood.

    - `<class>/…/<image>`: the first folder is the class, however deep the image lies.
    - `train/<class>/<image>` beside `test/…` or `val/…` (and validation, train_images, …): a split.
    - `<class>/train/…/<image>` beside `<class>/test/…`, in all classes: a split too.
    - `<image>` beside the folders, or in a folder called unlabelled or unsorted: no label.
    - a folder that holds all others is passed through; one that holds all images is no class.

    Args:
      found: the images, whose `label` and `split` are set.
      classes: class folders that the user named; a folder of such a name is never passed through.
      labels: False takes the split alone, for labels that come from elsewhere.

    Returns:
      The names of class folders without any image.
    """
    if not found.files:
        return []
    base = base_of(found, set(classes or ()))
    inside = [file.id[len(base) :].split("/") for file in found.files]
    tops = {parts[0] for parts in inside if len(parts) > 1}
    splits = {top: split_of(top) for top in tops}
    others = {top for top in tops if not splits[top] and not _is_unlabelled(top)}
    given = set(splits.values()) - {""}
    is_split = "train" in given and len(given) > 1 and not others
    for file, parts in zip(found.files, inside, strict=True):
        if is_split and len(parts) > 1 and splits[parts[0]]:
            file.split = splits[parts[0]]
            parts = parts[1:]
        if labels and len(parts) > 1 and not _is_unlabelled(parts[0]):
            file.label = parts[0]
    if not is_split:
        _split_inside_classes(found, inside)
    if is_split:
        named = sorted(top for top in tops if splits[top])
        found.said.append(f"split as the folders {', '.join(named)} give it")
    if not labels:
        return []
    names = {file.label for file in found.files} - {None}
    alone = f" but one, {next(iter(names))!r}" if len(names) == 1 else ""
    if len(names) == 1 and not classes:
        # One folder of images tells nothing apart; its name is no label worth learning.
        for file in found.files:
            file.label = None
        names.clear()
    where = f" below {base.rstrip('/')}" if base else ""
    if names:
        found.said.append(f"labels from the names of folders{where}")
        if classes is None and all(_PLACE.fullmatch(name) for name in names if name):
            found.said.append(
                "these names look like places or days: if they are no classes, take no labels "
                f"from them{setting('labels_from', 'none', ' ({})')}"
            )
    else:
        found.said.append(f"no labels: the images lie in no class folders{alone}{where}")
    bases = [base + top + "/" for top in tops if splits[top]] if is_split else [base]
    return _empty(found, bases)


# What instruments and cruises name folders by, with a number or a letter behind it; and dates.
_PLACE = re.compile(
    r"(stations?|stn|st|casts?|hauls?|tows?|nets?|dives?|days?|dates?|samples?|legs?|sites?|"
    r"transects?|cruises?|profiles?|deployments?|runs?|batch|tray|replicate|depth|folder|dir|"
    r"cam(era)?|im(g|ages?))([\s_.-]*[a-z]?[\s_.-]*\d+[a-z]?|[\s_.-]+[a-z])"
    r"|(19|20)\d\d[-_. ]?[01]\d([-_. ]?[0-3]\d)?([-_t ].*)?",
    re.IGNORECASE,
)


def _split_inside_classes(found: Found, inside: Sequence[Sequence[str]]) -> None:
    """Take the split of `<class>/train/…` beside `<class>/test/…`, where all images lie so."""
    seconds = {parts[1] if len(parts) > 2 else "" for parts in inside}
    given = {split_of(second) for second in seconds}
    if "" in given or "train" not in given or len(given) < 2:
        return
    for file, parts in zip(found.files, inside, strict=True):
        file.split = split_of(parts[1])
    found.said.append(f"split as the folders {', '.join(sorted(seconds))} in each class give it")


def base_of(found: Found, classes: set[str]) -> str:
    """Return the folder, "" or "a/b/", below which folders differ; of no image, ""."""
    base = ""
    while True:
        rest = [file.id[len(base) :].split("/") for file in found.files]
        tops = {parts[0] for parts in rest}
        only = next(iter(tops), "")
        deeper = any(len(parts) > 2 for parts in rest)
        if len(tops) > 1 or not deeper or only in classes:
            return base
        base += only + "/"


def _child(folder: str, base: str) -> str:
    rest = folder[len(base) :] if folder.startswith(base) else "/"
    return "" if "/" in rest else rest


def _empty(found: Found, bases: Iterable[str]) -> list[str]:
    used = {parent for file in found.files for parent in _parents(file.id)}
    used |= {parent for id_ in (*found.unreadable, *found.left_out) for parent in _parents(id_)}
    used |= set(found.unreadable)
    return sorted(
        {
            child
            for base in bases
            for folder in found.folders
            if (child := _child(folder, base)) and folder not in used
        }
    )


def _parents(id_: str) -> Iterable[str]:
    while "/" in id_:
        id_ = id_.rpartition("/")[0]
        yield id_


# ------------------------------------------------------------------------------------------ classes


def choose_classes(
    found: Found, classes: Sequence[str] | None, empty: Sequence[str]
) -> tuple[str, ...]:
    """Put the classes in order; drop the images of those that were not named.

    Args:
      found: the images with their labels; those without a label stay.
      classes: the names asked for, in their order; None takes all, by code point.
      empty: class folders without an image.

    Returns:
      The class names, as they were asked for.

    Raises:
      InputError: a class that is unknown, empty, named twice, or there in two spellings.
    """
    counts = Counter(file.label for file in found.files if file.label is not None)
    there = sorted(counts)
    if classes is None:
        refuse_spellings(counts, found.root)
        return tuple(there)
    if not classes:
        raise InputError(
            f"no class of {found.root} is named; name at least one, or leave the list out"
            f"{setting('classes', form=' ({})')}"
        )
    for name, times in Counter(classes).items():
        if times > 1:
            raise InputError(f"class {name!r} is named {times} times; name it once")
    # macOS writes é as two code points and a keyboard as one: the same name to every reader.
    composed = {nfc(name).strip(): name for name in there}
    actual = {n: n if n in counts else composed.get(nfc(n).strip(), "") for n in classes}
    unknown = [name for name, known in actual.items() if not known]
    if unknown:
        raise _unknown(found, unknown, there, empty)
    asked = {known: name for name, known in actual.items()}
    refuse_spellings({known: counts[known] for known in asked}, found.root)
    kept = []
    for file in found.files:
        if file.label is None or file.label in asked:
            file.label = None if file.label is None else asked[file.label]
            kept.append(file)
    order: dict[str | None, int] = {name: place for place, name in enumerate(classes)}
    order[None] = len(order)
    found.files = sorted(kept, key=lambda file: order[file.label])  # stable: ids keep theirs
    _drop_folders(found, asked)
    return tuple(classes)


def _drop_folders(found: Found, asked: dict[str, str]) -> None:
    """Forget what lies in folders of classes that were not asked for."""
    if not all(asked.keys() & set(file.id.split("/")) for file in found.files if file.label):
        return  # labels of a table: folders are no classes

    def kept(id_: str) -> bool:
        return bool(asked.keys() & set(id_.split("/")))

    found.unreadable = {id_: why for id_, why in found.unreadable.items() if kept(id_)}
    found.left_out = {id_: why for id_, why in found.left_out.items() if kept(id_)}
    found.other = {id_: file for id_, file in found.other.items() if kept(id_)}
    found.empty = []


def refuse_spellings(counts: dict[str, int], where: str) -> None:
    """Refuse labels that differ by case, spaces, signs or Unicode form only."""
    seen: dict[str, str] = {}
    for name in sorted(counts):
        first = seen.setdefault(_spelling(name), name)
        if first != name:
            # The two Unicode forms of a name look alike.
            shown = [ascii(n) if nfc(first) == nfc(name) else repr(n) for n in (first, name)]
            raise InputError(
                f"{where} has one class in two spellings, {shown[0]} ({counts[first]} images) and "
                f"{shown[1]} ({counts[name]}); give them one name"
                f"{setting('classes', form=', or name the classes to read ({})')}"
            )


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", unicodedata.normalize("NFKC", name).casefold().strip(" _-"))


def nearest(name: str, there: Sequence[str]) -> list[str]:
    """Sort names by likeness, the nearest first."""
    spelling = _spelling(name)

    def distance(other: str) -> float:
        return -difflib.SequenceMatcher(None, spelling, _spelling(other)).ratio()

    return sorted(there, key=distance)


def _unknown(
    found: Found, unknown: list[str], there: list[str], empty: Sequence[str]
) -> InputError:
    name = unknown[0]
    if name in empty:
        return InputError(
            f"class {name!r} of {found.root} holds no image; leave the class out or give it images"
        )
    linked = any(id_.rpartition("/")[2] == name for id_, _ in found.links)
    listed = ", ".join(map(repr, nearest(name, there)[:_SHOWN]))
    return InputError(
        f"no class {', '.join(map(repr, unknown[:5]))}"
        + (f" (and {len(unknown) - 5} more)" if len(unknown) > 5 else "")
        + f" in {found.root}; "
        + (f"its {len(there)} classes, the nearest first: {listed}" if there else "it has none")
        + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
        + (
            f"; links to folders are not followed{setting('follow_links', True, ' without {}')}"
            if linked
            else ""
        )
    )


def order_by_class(files: list[ImageFile]) -> list[ImageFile]:
    """Order images class by class, by code point; those without a label come last."""
    return sorted(files, key=lambda file: (file.label is None, file.label or ""))
