"""The images of a study: read, split by class and by part, reported.

A further data set is a function here and a line in `READERS`.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import presets
from jaxssl import data as images_room
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
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    unseen: Sets
    recipe: Recipe | None
    steps_per_epoch: int = 1
    total_steps: int = 1
    skipped: tuple[dict[str, str], ...] = ()

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
        import hashlib

        parts = [self.train, self.val, self.test, *self.unseen.values()]
        return hashlib.sha256("".join(p.fingerprint() for p in parts).encode()).hexdigest()

    def outline(self) -> dict[str, Any]:
        """What a method knows of it, for config.json: a run is opened again without its images."""
        names = ("classes", "shape", "steps_per_epoch", "total_steps")
        return {name: getattr(self, name) for name in names}


def of_outline(outline: Mapping[str, Any], settings: Images) -> Data:
    """The data of a run's config.json, without an image."""
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
    print(images_room.describe(parts))
    return data


def with_label_fraction(data: Data, fraction: float, *, seed: int) -> Data:
    """The same with only a fraction of the training images of each class."""
    if fraction == 1:
        return data
    train = images_room.label_fraction(data.train, fraction, seed=seed)
    print(f"learning from {len(train):,} of {len(data.train):,} training images", flush=True)
    return dataclasses.replace(data, train=train)


def recipe_of(settings: Images, background: int) -> Recipe | None:
    """The recipe of random views that the flags name, on a background of 0 to 255."""
    from jaxssl import augment

    fill = background / 255
    recipes: dict[str, Recipe | None] = {
        "plankton": functools.partial(augment.plankton, fill=fill),
        "digits": functools.partial(augment.digits, fill=fill),
        "cifar": augment.cifar,
        "none": None,
    }
    return recipes[settings.views]


def _digits(settings: Images, seed: int) -> Data:
    images = images_room.load_digits(size=settings.image_size, channels=settings.channels)
    return _split(images, settings, seed, _background(settings, lambda: 0))


def _folder(settings: Images, seed: int) -> Data:
    if not settings.data_dir:
        raise InputError("--dataset folder needs --data-dir, a folder of class folders")
    named = list(dict.fromkeys([*settings.seen, *settings.unseen, *harder_unseen(settings)]))

    def open_with(fill: int) -> Any:
        return images_room.open_images(
            settings.data_dir,
            classes=named if settings.seen else None,
            size=settings.image_size,
            channels=settings.channels,
            fill=fill,
            fit=settings.fit,
            on_bad_image=settings.on_bad_image,
            progress=_reading(),
        )

    fill = _background(settings, lambda: _border(open_with(255)[0]))
    images, report = open_with(fill)
    print(report)
    skipped = tuple({"path": path, "reason": why} for path, why in report.unreadable.items())
    return dataclasses.replace(_split(images, settings, seed, fill), skipped=skipped)


def _cifar10(settings: Images, seed: int) -> Data:
    """Its own test images, and a tenth of its training images to validate on."""
    official = {}
    for part in ("train", "test"):
        images = images_room.load_cifar10(
            part,
            size=settings.image_size,
            channels=settings.channels,
            data_dir=settings.data_dir or None,
            progress=_reading(),
        )
        official[part] = images_room.split_classes(
            images, settings.seen or images.class_names, settings.unseen
        )
    train, val = images_room.train_val(official["train"][0], fraction=0.1, seed=seed)
    test, unseen = official["test"]
    sets = {"unseen": unseen} if settings.unseen else {}
    return Data(train, val, test, sets, recipe_of(settings, _background(settings, lambda: 0)))


READERS: dict[str, Callable[[Images, int], Data]] = {
    "digits": _digits,
    "folder": _folder,
    "cifar10": _cifar10,
}


def harder_unseen(settings: Images) -> tuple[str, ...]:
    """The look-alikes: as given, or the preset's own."""
    if settings.lookalikes is not None:
        return settings.lookalikes
    return presets.LOOKALIKES.get((settings.seen, settings.unseen), ())


def _split(images: ImageSet, settings: Images, seed: int, background: int) -> Data:
    """By class and by part, as the protocol has it: 75 % train, 5 % validate, 20 % test."""
    harder = harder_unseen(settings)
    kept = {*settings.unseen, *harder}
    names = settings.seen or tuple(name for name in images.class_names if name not in kept)
    seen, unseen = images_room.split_classes(images, names, settings.unseen)
    sets = {"unseen": unseen} if settings.unseen else {}
    if harder:
        sets["unseen-lookalikes"] = images_room.split_classes(images, names, harder)[1]
    parts = images_room.train_val_test(seen, seed=seed)
    return Data(*parts, sets, recipe_of(settings, background))


def _background(settings: Images, measure: Callable[[], int]) -> int:
    """The colour that fills corners: as the flag says, or measured."""
    if settings.background == "auto":
        found = measure()
        print(f"background: {found} of 255, as the images' borders")
        return found
    if not settings.background.isdecimal() or int(settings.background) > 255:
        raise InputError(f"--background is {settings.background!r}: it must be auto or 0 to 255")
    return int(settings.background)


def _border(images: ImageSet) -> int:
    """The median of the border pixels of at most 200 images."""
    rows = np.linspace(0, len(images) - 1, min(200, len(images))).astype(int)
    pixels = images.batch(rows)["image"]
    sides = [pixels[:, [0, -1]].ravel(), pixels[:, :, [0, -1]].ravel()]
    return int(np.median(np.concatenate(sides)))


def _reading() -> Callable[[int, int], None]:
    """A bar while the images are checked; the second time they come from the cache."""
    from tqdm import tqdm

    from jaxssl.training import processes

    shown = processes.is_first() and sys.stderr.isatty()
    bar = tqdm(desc="checking images", unit="image", disable=not shown, leave=False)

    def progress(done: int, of: int) -> None:
        bar.total = of
        bar.update(done - bar.n)
        if done == of:
            bar.close()

    return progress
