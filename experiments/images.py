"""The images of a study: read, split by class and by part, reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.protocol import Protocol
    from jaxssl.data.images import ImageSet


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of one protocol."""

    train: ImageSet
    val: ImageSet
    test: ImageSet
    unseen: Mapping[str, ImageSet]  # "unseen", "unseen-lookalikes"
    skipped: list[dict[str, str]]

    @property
    def fingerprint(self) -> str:
        """Changes when an image, its label or the order does."""
        import hashlib

        parts = [self.train, self.val, self.test, *self.unseen.values()]
        return hashlib.sha256("".join(p.fingerprint() for p in parts).encode()).hexdigest()


def load_data(config: Protocol) -> Data:
    """Read, split and report the images; prints the table of classes and splits."""
    from jaxssl.data import splits

    skipped: list[dict[str, str]] = []
    if config.dataset == "digits":
        from jaxssl.data.digits import load_digits

        images = load_digits(size=config.image_size, channels=config.channels)
    elif config.dataset == "cifar10":
        return _official_split(config)
    else:
        if not config.data_dir:
            raise InputError("--dataset plankton needs --data-dir, a folder of class folders")
        from jaxssl.data.packed import open_images

        classes = list(dict.fromkeys([*config.seen, *config.unseen, *config.harder_unseen]))
        images, report = open_images(
            config.data_dir,
            classes=classes,
            size=config.image_size,
            channels=config.channels,
            fit=config.fit,
            on_bad_image=config.on_bad_image,
            progress=_reading(),
        )
        print(report)
        skipped = [{"path": path, "reason": why} for path, why in report.unreadable.items()]
    seen, unseen = splits.split_classes(images, config.seen, config.unseen)
    sets = {"unseen": unseen}
    if config.harder_unseen:
        harder = splits.split_classes(images, config.seen, config.harder_unseen)[1]
        sets["unseen-lookalikes"] = harder
    parts = splits.train_val_test(seen, seed=config.seed)
    print(splits.describe({"train": parts.train, "val": parts.val, "test": parts.test, **sets}))
    return Data(parts.train, parts.val, parts.test, sets, skipped)


def with_label_fraction(data: Data, fraction: float, *, seed: int) -> Data:
    """The same with only a fraction of the training images of each class."""
    from jaxssl.data import splits

    if not fraction > 0:
        raise InputError(f"--label-fraction is {fraction}: it must be above 0")
    if fraction > 1:
        raise InputError(f"--label-fraction is {fraction}: it must be 1 or less")
    if fraction == 1:
        return data
    train = splits.label_fraction(data.train, fraction, seed=seed)
    print(f"learning from {len(train):,} of {len(data.train):,} training images", flush=True)
    return dataclasses.replace(data, train=train)


def _official_split(config: Protocol) -> Data:
    """CIFAR-10: its own test images, and a tenth of its training images to validate on."""
    from jaxssl.data import splits
    from jaxssl.data.cifar import load_cifar10

    official = {}
    for part in ("train", "test"):
        images = load_cifar10(
            part,
            size=config.image_size,
            channels=config.channels,
            data_dir=config.data_dir or None,
            progress=_reading(),
        )
        official[part] = splits.split_classes(images, config.seen, config.unseen)
    train, val = splits.train_val(official["train"][0], fraction=0.1, seed=config.seed)
    test, unseen = official["test"]
    sets = {"unseen": unseen} if config.unseen else {}
    print(splits.describe({"train": train, "val": val, "test": test, **sets}))
    return Data(train, val, test, sets, [])


def _reading() -> Callable[[int, int], None]:
    """A bar while the images are checked; the second time they come from the cache."""
    import sys

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
