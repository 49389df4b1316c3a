"""What CIFAR-10 and CIFAR-100 are: names, counts, the official archives and their files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]
Progress = Callable[[int, int], None]

VERSION = "3.0.2"  # of both in TensorFlow Datasets
COUNTS: dict[Split, int] = {"train": 50_000, "test": 10_000}
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

# CIFAR-100's classes by the 20 groups of its "coarse" labels.
_GROUPS = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_GROUP_OF = {name: i for i, names in enumerate(_GROUPS.values()) for name in names.split()}


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets.

    Args:
      name: TFDS's name of it.
      title: its name in words.
      class_names: its classes, in the order of their labels.
      batches: the files of each split in the official archives, without their ending.
      label_bytes: how many labels stand before an image in the binary archive; the last is ours.
      label_key: the labels in the Python archive.
      sha256: of the official archives, as TFDS and Keras pin them.
      groups: the "coarse" label of each class; () for none.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    batches: dict[Split, tuple[str, ...]]
    label_bytes: int
    label_key: bytes
    sha256: dict[str, str]
    groups: tuple[int, ...] = ()

    @property
    def archive(self) -> str:
        """The official archive that is downloaded."""
        return f"{self.name.replace('cifar', 'cifar-')}-binary.tar.gz"

    def folder(self, data_dir: str | Path | None = None) -> Path:
        """Return the folder where TFDS keeps it; it need not exist.

        It is below `data_dir`; None is `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.

        Example:
          >>> CIFAR100.folder("/data").as_posix()
          '/data/cifar100/3.0.2'
        """
        top = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        return Path(top).expanduser().absolute() / self.name / VERSION


CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    class_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    batches={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    label_bytes=1,
    label_key=b"labels",
    sha256={
        "cifar-10-binary.tar.gz": (
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
        "cifar-10-python.tar.gz": (
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
        ),
    },
)
CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    class_names=tuple(sorted(_GROUP_OF)),
    batches={"train": ("train",), "test": ("test",)},
    label_bytes=2,
    label_key=b"fine_labels",
    sha256={
        "cifar-100-binary.tar.gz": (
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
        ),
        "cifar-100-python.tar.gz": (
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
        ),
    },
    groups=tuple(_GROUP_OF[name] for name in sorted(_GROUP_OF)),
)
KINDS = {kind.name: kind for kind in (CIFAR10, CIFAR100)}
