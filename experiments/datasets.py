"""The images of a study: read, split by class and by part, reported.

A further data set is a function here and a line in `READERS`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import presets
from experiments.config import Elsewhere, flag
from jaxssl import data as images_room
from jaxssl import files
from jaxssl.data.walk import is_image
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.config import Images
    from jaxssl.augment import Recipe
    from jaxssl.data import ImageSet

Sets = Mapping[str, "ImageSet"]


@dataclasses.dataclass(frozen=True)
class Data:
    """What a study learns from and is judged on.

    Attributes:
      train: What it learns from, of the seen classes, as are the next two.
      val: What it is validated on.
      test: What it is judged on.
      unseen: Sets of classes it never sees: "unseen", "unseen-lookalikes"; may be empty.
      recipe: The random views, `(key, image) -> view`; None: images as they are.
      steps_per_epoch: Full batches in a pass over `train`.
      total_steps: Where a schedule of the learning rate ends.
      skipped: Files left out, `{"path": ..., "reason": ...}`.
      crop: Rows that are cut off below every picture, and one picture before and after.
      left_out: Classes with too few images to be split.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    unseen: Sets
    recipe: Recipe | None
    steps_per_epoch: int = 1
    total_steps: int = 1
    skipped: tuple[dict[str, str], ...] = ()
    crop: tuple[int, np.ndarray | None] = (0, None)
    left_out: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The seen classes."""
        return self.train.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of every image."""
        return self.train.shape

    @property
    def fingerprint(self) -> str:
        """Changes when an image, its label or the order does."""
        parts = [self.train, self.val, self.test, *self.unseen.values()]
        return hashlib.sha256("".join(p.fingerprint() for p in parts).encode()).hexdigest()

    def outline(self) -> dict[str, Any]:
        """Tell what a method knows of it, for config.json: a run is opened without its images."""
        names = ("classes", "shape", "steps_per_epoch", "total_steps")
        return {name: getattr(self, name) for name in names}


def of_outline(outline: Mapping[str, Any], settings: Images) -> Data:
    """Make the data of a run's config.json, without an image."""
    classes, shape = tuple(outline["classes"]), (*outline["shape"],)
    none = images_room.ImageSet(
        *((), (), np.zeros(0, np.int32), classes),
        load=lambda position: np.zeros(shape, np.uint8),
        groups=np.zeros(0, np.int64),
        shape=shape,
    )
    steps = outline["steps_per_epoch"], outline["total_steps"]
    return Data(none, none, none, {}, recipe_of(settings, 0), *steps)


def read(settings: Images, seed: int) -> Data:
    """Read, split and report the images that the flags name; prints the table of splits.

    Args:
      settings: The flags.
      seed: Of the split.
    """
    data = READERS[settings.dataset](settings, seed)
    parts = {"train": data.train, "val": data.val, "test": data.test, **data.unseen}
    if not len(data.test):
        parts = {"train": data.train}  # without labels, validation images are part of these
    print(images_room.describe(parts))
    return data


def check_flags(settings: Elsewhere | Images) -> None:
    """Refuse flags of images of one's own with a data set that brings its images and labels.

    Args:
      settings: Of a study, or of an evaluation of a run on other images.

    Raises:
      InputError: One is set; the line names it, and the preset for images of one's own.
    """
    brought = settings.dataset
    if brought in (None, "folder"):
        return
    if brought == "digits" and settings.data_dir:
        raise InputError(
            f"digits brings its own images, and those of --data-dir {settings.data_dir} would not "
            "be read: for them take --preset folder"
        )
    if settings.data_dir and _holds_images_alone(Path(settings.data_dir).expanduser(), brought):
        raise InputError(
            f"--data-dir {settings.data_dir} holds images and no prepared {brought}: for these "
            f"images take --preset folder; for {brought} name TFDS's folder, or leave --data-dir "
            "out"
        )
    means = {"seen", "unseen", "dataset", "data_dir"}
    means |= {"lookalikes", "min_images"} if brought == "digits" else set()
    for field in dataclasses.fields(Elsewhere):
        if field.name in means or getattr(settings, field.name) in (field.default, ()):
            continue
        raise InputError(
            f"{brought} brings its own images and labels, and {flag(field.name)} would change "
            "nothing: leave it out; for images of your own take --preset folder with --data-dir"
        )


def _holds_images_alone(place: Path, dataset: str) -> bool:
    """Tell whether a place holds images and not TFDS's data set, prepared or about to be."""
    if (place / dataset).is_dir() or not place.exists():
        return False
    if not place.is_dir():
        return True  # a table or a zip
    for _, folders, names in os.walk(place):
        folders[:] = [name for name in folders if name != "downloads"]  # TFDS's
        if any(map(is_image, names)):
            return True
    return False


def only_labelled(data: Data, method: str) -> Data:
    """Leave out the training images without a label; refuse data that has none."""
    train = data.train.labelled()
    if not len(train):
        raise InputError(
            f"{method} learns from labels, and no image has one: sort the images into a folder a "
            "class, name a table with --labels-from, or take a method without labels (simclr)"
        )
    if len(train) < len(data.train):
        print(f"learning from the {len(train):,} of {len(data.train):,} images that have a label")
    return dataclasses.replace(data, train=train)


def with_label_fraction(data: Data, fraction: float, *, seed: int) -> Data:
    """Keep only a fraction of the training images of each class."""
    if fraction == 1:
        return data
    train = images_room.label_fraction(data.train, fraction, seed=seed)
    print(f"learning from {len(train):,} of {len(data.train):,} training images", flush=True)
    return dataclasses.replace(data, train=train)


def recipe_of(settings: Images, background: int) -> Recipe | None:
    """Make the recipe of random views that the flags name, on a background of 0 to 255."""
    from jaxssl import augment

    fill = background / 255
    recipes: dict[str, Recipe | None] = {
        "plankton": functools.partial(augment.plankton, fill=fill),
        "digits": functools.partial(augment.digits, fill=fill),
        "cifar": augment.cifar,
        "none": None,
    }
    return recipes[settings.views]


def name_of(place: str) -> str:
    """Return a folder's name with a mark of its path, since many are called "images"."""
    path = Path(place).expanduser().resolve()
    return f"{files.safe_name(path.stem)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"


def _digits(settings: Images, seed: int) -> Data:
    images = images_room.load_digits(size=settings.image_size, channels=settings.channels)
    return _split(images, settings, seed, _number(settings.background, "background", auto=0))


def _folder(settings: Images, seed: int) -> Data:
    if not settings.data_dir:
        raise InputError("--dataset folder needs --data-dir: a folder, zip or table of images")
    settings = _without_foreign_classes(settings)
    images, report = images_room.open_images(
        settings.data_dir, reading_of(settings), progress=_reading()
    )
    print(report)
    skipped = tuple({"path": path, "reason": why} for path, why in report.unreadable.items())
    data = _split(images, settings, seed, report.background)
    crop = (report.crop_bottom, report.crop_example)
    return dataclasses.replace(data, skipped=skipped, crop=crop)


def reading_of(settings: Images, **changes: Any) -> images_room.Reading:
    """Collect how the flags say that images are read."""
    named = [*settings.seen, *settings.unseen, *harder_unseen(settings)]
    background: Any = "auto"
    if settings.background != "auto":
        background = _number(settings.background, "background")
    crop: Any = "auto"
    if settings.crop_bottom != "auto":
        crop = _number(settings.crop_bottom, "crop_bottom", most=10_000)
    names = ("labels_from", "image_column", "label_column", "validated_only", "group_by")
    more = ("image_root", "follow_links", "pages", "fit", "on_bad_image", "hash_all", "pixel_size")
    reading = images_room.Reading(
        size=settings.image_size,
        channels=settings.channels,
        background=background,
        crop_bottom=crop,
        classes=tuple(dict.fromkeys(named)) if _names_all(settings) else None,
        **{name: getattr(settings, name) for name in (*names, *more)},
    )
    return dataclasses.replace(reading, **changes)


def _names_all(settings: Images) -> bool:
    """Tell whether the flags name every class that is wanted, so that no other need be read."""
    by_number = len(settings.unseen) == 1 and settings.unseen[0].isdecimal()
    return bool(settings.seen) and settings.seen != ("all",) and not by_number


def _without_foreign_classes(settings: Images) -> Images:
    """Drop a preset's classes, which are never demanded of a folder that has others."""
    chosen = (settings.seen, settings.unseen)
    if not settings.seen or chosen not in presets.CLASSES:
        return settings
    top = Path(settings.data_dir).expanduser()
    there = {path.name for path in top.iterdir() if path.is_dir()} if top.is_dir() else set()
    if {*settings.seen, *settings.unseen} <= there or top.suffix == ".array_record":
        return settings
    print(f"the preset's classes are not in {settings.data_dir}: its own are seen")
    return dataclasses.replace(settings, seen=(), unseen=(), lookalikes=())


def _cifar(settings: Images, seed: int) -> Data:
    """Take its own test images, and a tenth of its training images to validate on."""
    official = {}
    for part in ("train", "test"):
        images = images_room.load_cifar(
            settings.dataset,
            part,
            size=settings.image_size,
            channels=settings.channels,
            data_dir=settings.data_dir or None,
            progress=_reading(),
        )
        names = settings.seen
        if names in ((), ("all",)):
            names = tuple(name for name in images.class_names if name not in settings.unseen)
        official[part] = images_room.split_classes(images, names, settings.unseen)
    train, val = images_room.train_val(official["train"][0], fraction=0.1, seed=seed)
    test, unseen = official["test"]
    sets = {"unseen": unseen} if settings.unseen else {}
    return Data(train, val, test, sets, recipe_of(settings, 0))


READERS: dict[str, Callable[[Images, int], Data]] = {
    "digits": _digits,
    "folder": _folder,
    "cifar10": _cifar,
    "cifar100": _cifar,
}


def harder_unseen(settings: Images) -> tuple[str, ...]:
    """Return the look-alikes: as given, or the preset's own."""
    if settings.lookalikes is not None:
        return settings.lookalikes
    return presets.LOOKALIKES.get((settings.seen, settings.unseen), ())


def _split(images: ImageSet, settings: Images, seed: int, background: int) -> Data:
    """Split by class and by part, as the protocol has it: 75 % train, 5 % validate, 20 % test."""
    harder = harder_unseen(settings)
    names, unseen = settings.seen, settings.unseen
    wanted: Any = unseen or None
    if len(unseen) == 1 and unseen[0].isdecimal() and unseen[0] not in images.class_names:
        wanted = int(unseen[0])
    if names in ((), ("all",)) and harder:
        names = tuple(n for n in images.class_names if n not in {*unseen, *harder})
    parts = images_room.split_protocol(
        images,
        seen=None if names in ((), ("all",)) else names,
        unseen=wanted,
        min_images=settings.min_images,
        seed=seed,
        look_for_near=settings.dataset == "folder",
    )
    if settings.dataset == "folder":
        print(parts)
    sets = {"unseen": parts.unseen} if len(parts.unseen) else {}
    if harder:
        seen = parts.train.class_names
        sets["unseen-lookalikes"] = images_room.split_classes(images.labelled(), seen, harder)[1]
    train, val = parts.train, parts.val
    if not len(val):
        # Nothing is held out where nothing is labelled: the loss is watched on a part of all.
        count = min(len(train), max(64, round(0.05 * len(train))))
        val = train.subset(np.sort(np.random.default_rng(seed).permutation(len(train))[:count]))
    data = Data(train, val, parts.test, sets, recipe_of(settings, background))
    return dataclasses.replace(data, left_out=tuple(parts.left_out))


def _number(text: str, name: str, *, auto: int = 0, most: int = 255) -> int:
    """Read a whole number that a flag gives as text."""
    if text == "auto":
        return auto
    if not text.isdecimal() or int(text) > most:
        raise InputError(f"{flag(name)} is {text!r}: it must be auto or 0 to {most}")
    return int(text)


def _reading() -> Callable[[int, int], None]:
    """Show how far the images are checked; the second time they come from the cache."""
    from jaxssl.training.bars import Bar

    bar = Bar(None, title="checking images", unit="image")

    def progress(done: int, of: int) -> None:
        bar.total = of
        bar.update(done - bar.n)
        if done == of:
            bar.close()

    return progress
