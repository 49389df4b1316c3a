"""`ImageSet`: the one table of images that every program reads."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxssl.data.decode import Fit

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels, random access by position (Grain's `RandomAccessDataSource`).

    Nothing is read until an image is asked for; a subset shares the loader of its parent.

    Args:
      ids: n unique names, e.g. "chaetognath_other/271.jpg" or "digits/0003".
      paths: n absolute paths, "" where an image has no file.
      labels: int32 [n], positions in `class_names`; -1 where an image has no label.
      class_names: k names.
      load: position -> uint8 [h, w, c] of the shape `shape`.
      groups: int64 [n]; images of equal number must not straddle a split (byte-identical files).
      shape: (h, w, c) of every image; c is 1 (grey) or 3 (RGB).
      split: n times "train", "val", "test", or "" where the data says nothing; () is all "".
      sides: int32 [n, 2], height and width of the files in pixels; 0 where there is no file.
      pixel_size: float32 [n], micrometres that a pixel of the file shows; 0 where it is not known.
      fit: how the files became squares (`Reading.fit`).
      object_ids: EcoTaxa's names of what they show, "" where it is not known; () for none.

    Raises:
      ValueError: columns of different length, a repeated id, a label outside `class_names`, or an
        unknown split.

    Example:
      >>> import numpy as np
      >>> ramp = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2, 1)
      >>> images = ImageSet(
      ...     ids=("a/0", "a/1", "b/0"),
      ...     paths=("", "", ""),
      ...     labels=np.array([0, 0, 1], np.int32),
      ...     class_names=("a", "b"),
      ...     load=ramp.__getitem__,
      ...     groups=np.arange(3),
      ...     shape=(2, 2, 1),
      ... )
      >>> images[2]["image"].ravel().tolist(), int(images[2]["label"])
      ([8, 9, 10, 11], 1)
      >>> images.subset([2, 0]).ids
      ('b/0', 'a/0')
      >>> images.images().shape
      (3, 2, 2, 1)
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    load: Callable[[int], NDArray[np.uint8]]
    groups: NDArray[np.int64]
    shape: tuple[int, int, int]
    split: tuple[str, ...] = ()
    sides: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    pixel_size: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    fit: Fit = "squash"
    object_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.split:
            object.__setattr__(self, "split", ("",) * len(self.ids))
        if not len(self.sides):
            object.__setattr__(self, "sides", np.zeros((len(self.ids), 2), np.int32))
        if not len(self.pixel_size):
            object.__setattr__(self, "pixel_size", np.zeros(len(self.ids), np.float32))
        columns = (self.ids, self.paths, self.labels, self.groups, self.split)
        lengths = [*map(len, columns), len(self.sides), len(self.pixel_size)]
        if len(set(lengths)) > 1:
            raise ValueError(
                "ids, paths, labels, groups, split, sides, pixel_size must be equally long, got "
                f"{lengths}"
            )
        if len(set(self.ids)) < len(self.ids):
            raise ValueError("ids must be unique")
        outside = (self.labels < -1) | (self.labels >= len(self.class_names))
        if outside.any():
            raise ValueError(
                f"label {self.labels[outside][0]} outside the {len(self.class_names)} classes"
            )
        unknown = set(self.split) - {"", *SPLITS}
        if unknown:
            raise ValueError(f"a split is one of {', '.join(SPLITS)} or '', got {min(unknown)!r}")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one image: {"image": uint8 [h, w, c], "label": int32, "index": int32}."""
        return {
            "image": self.load(index),
            "label": self.labels[index],
            "index": np.int32(index),
        }

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> dict[str, NDArray[Any]]:
        """Read a batch: {"image": uint8 [b, h, w, c], "label": int32 [b], "index": int32 [b]}."""
        index = np.asarray(indices, np.int32)
        return {
            "image": np.stack([self.load(int(i)) for i in index]),
            "label": self.labels[index],
            "index": index,
        }

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> ImageSet:
        """Return the images at these positions, in this order, with the same classes."""
        index = np.arange(len(self))[np.asarray(indices, np.intp)]
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            paths=tuple(self.paths[i] for i in index),
            labels=self.labels[index],
            groups=self.groups[index],
            split=tuple(self.split[i] for i in index),
            sides=self.sides[index],
            pixel_size=self.pixel_size[index],
            object_ids=tuple(self.object_ids[i] for i in index) if self.object_ids else (),
            load=partial(_load_through, self.load, index),
        )

    def labelled(self) -> ImageSet:
        """Return the images that have a label."""
        return self.subset(np.flatnonzero(self.labels >= 0))

    def images(self) -> NDArray[np.uint8]:
        """Read all images in order: uint8 [n, h, w, c]."""
        pixels = np.empty((len(self), *self.shape), np.uint8)
        for i in range(len(self)):
            pixels[i] = self.load(i)
        return pixels

    def fingerprint(self) -> str:
        """Hash ordered ids, labels, splits and shape (sha256): a run resumes only on its own data.

        Pixels are not hashed: the scan in `open_images` notices files that change.
        """
        digest = hashlib.sha256(repr(self.shape).encode())
        digest.update("\0".join(self.ids).encode())
        digest.update(self.labels.astype("<i4").tobytes())
        if any(self.split):
            digest.update("\0".join(self.split).encode())
        return digest.hexdigest()


def _load_through(
    load: Callable[[int], NDArray[np.uint8]], index: NDArray[np.intp], position: int
) -> NDArray[np.uint8]:
    return load(int(index[position]))
