"""CIFAR-10's images and labels from what people have of it."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxssl.data.cifar_archive import read_files
from jaxssl.data.decode import EXTENSIONS, FORMATS
from jaxssl.errors import InputError

Split = Literal["train", "test"]
Progress = Callable[[int, int], None]

CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
COUNTS: dict[Split, int] = {"train": 50_000, "test": 10_000}
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
# As TFDS and Keras pin them.
SHA256 = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
}
_BATCHES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, eq=False)
class Labelled:
    """One split: images uint8 [n, 32, 32, 3] and labels uint8 [n], positions in `CLASS_NAMES`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def read_cifar10(
    source: str | Path, *, subset: int | None = None, progress: Progress | None = None
) -> dict[Split, Labelled]:
    """Reads and checks CIFAR-10 from an official archive or from images by split and class.

    The official archives keep their order. Images in folders are ordered by their place in their
    class, then by class, so that every stretch of them holds all classes alike.

    Args:
      source: `cifar-10-python.tar.gz`, `cifar-10-binary.tar.gz`, either of them unpacked, or a
        folder, tar or tar.gz of images `train/<class>/NAME` and `test/<class>/NAME`.
      subset: None demands all of it, an official archive untouched (sha256); n takes the first n
        images of each class and split, or as many as there are.
      progress: called with (images decoded, images to decode) from time to time.

    Returns:
      {"train": Labelled, "test": Labelled}.

    Raises:
      InputError: a source that cannot be read, is not whole, or holds something else: other
        classes, labels outside 0-9, images that are not 32 x 32 RGB.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     for name in ("train/ship", "test/ship", "train/cat"):
      ...         os.makedirs(f"{tmp}/{name}")
      ...         Image.new("RGB", (32, 32), "navy").save(f"{tmp}/{name}/0.png")
      ...     parts = read_cifar10(tmp, subset=1)
      >>> parts["train"].images.shape, parts["train"].labels.tolist()
      ((2, 32, 32, 3), [3, 8])
    """
    if subset is not None and subset < 1:
        raise InputError(f"a subset needs at least 1 image of each class, got {subset}")
    path = Path(source).expanduser()
    files = read_files(path)
    names = {name.rpartition("/")[2].removesuffix(".bin"): name for name in files}
    if any(batch in names for batches in _BATCHES.values() for batch in batches):
        if subset is None and path.is_file():
            _check_official(path)
        parts = {split: _batches(path, files, names, split) for split in _BATCHES}
        if subset is not None:
            parts = {split: _first(part, subset) for split, part in parts.items()}
    else:
        parts = _images(path, files, subset, progress)
    for split, part in parts.items():
        _check_counts(path, split, part, subset)
    return parts


def _check_official(path: Path) -> None:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in SHA256.values():
        raise InputError(
            f"{path} holds CIFAR-10's batches but is not the official archive (sha256 "
            f"{digest[:16]}...): cut short or changed; download it again from {PAGE}"
        )


def _check_counts(path: Path, split: Split, part: Labelled, subset: int | None) -> None:
    if not len(part.labels):
        raise InputError(
            f"{path} holds no {split} images; expected {' or '.join(SHA256)}, or images in "
            "train/<class>/ and test/<class>/"
        )
    counts = np.bincount(part.labels, minlength=len(CLASS_NAMES))
    want = COUNTS[split] // len(CLASS_NAMES)
    if subset is None and (counts != want).any():
        worst = int(np.abs(counts - want).argmax())
        raise InputError(
            f"{path} is not the whole of CIFAR-10: {counts[worst]} {split} images of "
            f"{CLASS_NAMES[worst]} for {want:,}; mend it, or take a part of it with --subset N"
        )


def _first(part: Labelled, n: int) -> Labelled:
    """The first n images of each class, in their order."""
    rank = np.zeros(len(part.labels), np.int64)
    for label in range(len(CLASS_NAMES)):
        mine = part.labels == label
        rank[mine] = np.arange(mine.sum())
    return Labelled(part.images[rank < n], part.labels[rank < n])


# ---------------------------------------------------------------------------- images by their class


def _images(
    path: Path, files: Mapping[str, bytes], subset: int | None, progress: Progress | None
) -> dict[Split, Labelled]:
    found = {split: _by_rank(path, files, split, subset) for split in COUNTS}
    total, done, parts = sum(map(len, found.values())), 0, {}
    for split, rows in found.items():
        images = np.empty((len(rows), 32, 32, 3), np.uint8)
        for i, (_, _, name) in enumerate(rows):
            images[i] = _decode(path, name, files[name])
            done += 1
            if progress is not None and (done % 500 == 0 or done == total):
                progress(done, total)
        parts[split] = Labelled(images, np.array([label for _, label, _ in rows], np.uint8))
    return parts


def _by_rank(
    path: Path, files: Mapping[str, bytes], split: Split, subset: int | None
) -> list[tuple[int, int, str]]:
    """(rank in its class, label, name) of a split's images, in that order."""
    classes: list[list[str]] = [[] for _ in CLASS_NAMES]
    for name in sorted(files):
        of, class_, file = ("", "", *name.split("/"))[-3:]
        if os.path.splitext(file)[1].lower() not in EXTENSIONS:
            continue
        if of not in COUNTS or class_ not in CLASS_NAMES:
            raise InputError(
                f"{path}: {name!r} does not lie in train/<class>/ or test/<class>/ with one of "
                f"the classes {' '.join(CLASS_NAMES)}"
            )
        if of == split:
            classes[CLASS_NAMES.index(class_)].append(name)
    return sorted(
        (rank, label, name)
        for label, names in enumerate(classes)
        for rank, name in enumerate(names[:subset])
    )


def _decode(path: Path, name: str, content: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            size, mode = image.size, image.mode
            if (size, mode) == ((32, 32), "RGB"):
                return np.asarray(image)
    # Pillow's decoders raise a zoo (SyntaxError, struct.error, EOFError, KeyError, ...).
    except Exception as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: {name!r} does not decode ({detail})") from error
    raise InputError(
        f"{path}: {name!r} is {size[0]} x {size[1]} pixels, {mode}; CIFAR-10's are 32 x 32, RGB"
    )


# ------------------------------------------------------------------------- the official batch files


def _batches(
    path: Path, files: Mapping[str, bytes], names: Mapping[str, str], split: Split
) -> Labelled:
    parts = []
    for batch in _BATCHES[split]:
        if batch not in names:
            raise InputError(f"{path}: {batch} is missing; unpack or download it again")
        where = f"{path}: {names[batch]}"
        read = _binary_batch if names[batch].endswith(".bin") else _python_batch
        parts.append(read(where, files[names[batch]]))
    # Stored channel by channel.
    pixels = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in parts])
    return Labelled(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels)


def _binary_batch(where: str, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if len(content) % (1 + _PIXELS):
        raise InputError(
            f"{where} is {len(content)} bytes, not a multiple of {1 + _PIXELS} (a label and "
            "32 x 32 x 3 pixels): cut short or damaged"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:], _labels(where, rows[:, 0].tolist())


def _python_batch(where: str, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        batch = _BatchReader(io.BytesIO(content), encoding="bytes").load()
        array, labels = batch[b"data"], batch[b"labels"]
        rows, width = array.shape
        pixels = np.frombuffer(array.content, np.uint8)
        good = array.code == b"u1" and not array.fortran and pixels.size == rows * width
    except InputError as error:
        raise InputError(f"{where} {error}") from error
    # A damaged pickle can raise nearly anything; it is data, and none of it is ours to mend.
    except Exception as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{where} is no batch of CIFAR-10, or damaged ({detail})") from error
    if not good or width != _PIXELS or len(labels) != rows:
        raise InputError(
            f"{where}: {len(labels)} labels and pixels {array.shape} of {pixels.size} bytes; "
            f"CIFAR-10 has {_PIXELS} bytes an image"
        )
    return pixels.reshape(rows, width), _labels(where, labels)


def _labels(where: str, labels: list[Any]) -> NDArray[np.uint8]:
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(CLASS_NAMES):
            raise InputError(f"{where}: the label of row {row} is {label!r}, outside 0-9")
    return np.array(labels, np.uint8)


class _PickledArray:
    """What a pickled NumPy array says of itself; no code of NumPy takes part in reading it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, dtype, self.fortran, self.content = state
        self.code = dtype.code


class _PickledType:
    def __init__(self, code: bytes, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


_ALLOWED = {
    "numpy.core.multiarray._reconstruct": _PickledArray,
    "numpy.ndarray": None,  # an argument of _reconstruct, never called
    "numpy.dtype": _PickledType,
}


# The Unpickler in Python: the one in C lets a few bytes ask for a table of gigabytes (LONG_BINPUT).
class _BatchReader(pickle._Unpickler):
    """Reads a pickle of bytes, numbers, lists and arrays of bytes, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise InputError(
                f"asks Python to load {module}.{name}, which no batch of images needs: "
                "nothing of it was run; do not use it"
            )
        return _ALLOWED[f"{module}.{name}"]
