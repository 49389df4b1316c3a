"""The images and labels of CIFAR-10 and CIFAR-100, read from every form that people have."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxssl.data.cifar_archive import read_files
from jaxssl.data.cifar_kinds import COUNTS, PAGE, Cifar, Progress, Split
from jaxssl.data.source import EXTENSIONS, FORMATS
from jaxssl.errors import InputError, Stopped

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, eq=False)
class Labelled:
    """One split: images uint8 [n, 32, 32, 3] and labels uint8 [n], positions in the class names."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def read_cifar(
    kind: Cifar,
    source: str | Path,
    *,
    subset: int | None = None,
    progress: Progress | None = None,
) -> dict[Split, Labelled]:
    """Read and check CIFAR-10 or CIFAR-100 from an official archive or from images by class.

    The official archives keep their order. Images in folders are ordered by their place in their
    class, then by class, so that consecutive images hold all classes equally often.

    Args:
      kind: which of the two.
      source: `cifar-10-python.tar.gz`, `cifar-10-binary.tar.gz` (or -100-), unpacked or not, or a
        folder, tar or tar.gz of images `train/<class>/NAME` and `test/<class>/NAME`.
      subset: None demands all of it, an official archive untouched (sha256); n takes the first n
        images of each class and split, or as many as there are.
      progress: called with (images decoded, images to decode) from time to time.

    Returns:
      {"train": Labelled, "test": Labelled}.

    Raises:
      InputError: a source that cannot be read, is not whole, or holds something else: other
        classes, labels out of range, images that are not 32 x 32 RGB.

    Example:
      >>> import tempfile
      >>> from jaxssl.data.cifar_kinds import CIFAR10
      >>> with tempfile.TemporaryDirectory() as tmp:
      ...     for name in ("train/ship", "test/ship", "train/cat"):
      ...         os.makedirs(f"{tmp}/{name}")
      ...         Image.new("RGB", (32, 32), "navy").save(f"{tmp}/{name}/0.png")
      ...     parts = read_cifar(CIFAR10, tmp, subset=1)
      >>> parts["train"].images.shape, parts["train"].labels.tolist()
      ((2, 32, 32, 3), [3, 8])
    """
    if subset is not None and subset < 1:
        raise InputError(f"a subset needs at least 1 image of each class, got {subset}")
    path = Path(source).expanduser()
    files = read_files(path)
    names = {name.rpartition("/")[2].removesuffix(".bin"): name for name in files}
    if any(batch in names for batches in kind.batches.values() for batch in batches):
        if subset is None and path.is_file():
            _check_official(kind, path)
        parts = {split: _batches(kind, path, files, names, split) for split in kind.batches}
        if subset is not None:
            parts = {split: _first(part, subset) for split, part in parts.items()}
    else:
        parts = _images(kind, path, files, subset, progress)
    for split, part in parts.items():
        _check_counts(kind, path, split, part, subset)
    return parts


def _check_official(kind: Cifar, path: Path) -> None:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in kind.sha256.values():
        raise InputError(
            f"{path} holds {kind.title}'s batches but is not the official archive (sha256 "
            f"{digest[:16]}...): cut short or changed; download it again from {PAGE}"
        )


def _check_counts(
    kind: Cifar, path: Path, split: Split, part: Labelled, subset: int | None
) -> None:
    if not len(part.labels):
        raise InputError(
            f"{path} holds no {split} images; expected {' or '.join(kind.sha256)}, or images in "
            "train/<class>/ and test/<class>/"
        )
    counts = np.bincount(part.labels, minlength=len(kind.class_names))
    want = COUNTS[split] // len(kind.class_names)
    if subset is None and (counts != want).any():
        worst = int(np.abs(counts - want).argmax())
        raise InputError(
            f"{path} is not the whole of {kind.title}: {counts[worst]} {split} images of "
            f"{kind.class_names[worst]} for {want:,}; mend it, or take a part of it with --subset N"
        )


def _first(part: Labelled, n: int) -> Labelled:
    """Return the first n images of each class, in their order."""
    rank = np.zeros(len(part.labels), np.int64)
    for label in np.unique(part.labels):
        mine = part.labels == label
        rank[mine] = np.arange(mine.sum())
    return Labelled(part.images[rank < n], part.labels[rank < n])


# ---------------------------------------------------------------------------- images by their class


def _images(
    kind: Cifar,
    path: Path,
    files: Mapping[str, bytes],
    subset: int | None,
    progress: Progress | None,
) -> dict[Split, Labelled]:
    found = {split: _by_rank(kind, path, files, split, subset) for split in COUNTS}
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
    kind: Cifar, path: Path, files: Mapping[str, bytes], split: Split, subset: int | None
) -> list[tuple[int, int, str]]:
    """List (rank in its class, label, name) of a split's images, in that order."""
    classes: list[list[str]] = [[] for _ in kind.class_names]
    for name in sorted(files):
        of, class_, file = ("", "", *name.split("/"))[-3:]
        if os.path.splitext(file)[1].lower() not in EXTENSIONS:
            continue
        if of not in COUNTS or class_ not in kind.class_names:
            raise InputError(
                f"{path}: {name!r} does not lie in train/<class>/ or test/<class>/ with one of "
                f"the classes {' '.join(kind.class_names)}"
            )
        if of == split:
            classes[kind.class_names.index(class_)].append(name)
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
    except Stopped:  # by a signal: the file is not at fault
        raise
    # Pillow's decoders raise a zoo (SyntaxError, struct.error, EOFError, KeyError, ...).
    except Exception as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: {name!r} does not decode ({detail})") from error
    raise InputError(
        f"{path}: {name!r} is {size[0]} x {size[1]} pixels, {mode}; CIFAR's are 32 x 32, RGB"
    )


# ------------------------------------------------------------------------- the official batch files


def _batches(
    kind: Cifar, path: Path, files: Mapping[str, bytes], names: Mapping[str, str], split: Split
) -> Labelled:
    parts = []
    for batch in kind.batches[split]:
        if batch not in names:
            raise InputError(f"{path}: {batch} is missing; unpack or download it again")
        where = f"{path}: {names[batch]}"
        read = _binary_batch if names[batch].endswith(".bin") else _python_batch
        parts.append(read(kind, where, files[names[batch]]))
    # Stored channel by channel.
    pixels = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in parts])
    return Labelled(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels)


def _binary_batch(
    kind: Cifar, where: str, content: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    before = kind.label_bytes
    if len(content) % (before + _PIXELS):
        raise InputError(
            f"{where} is {len(content)} bytes, not a multiple of {before + _PIXELS} (a label and "
            "32 x 32 x 3 pixels): cut short or damaged"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, before + _PIXELS)
    return rows[:, before:], _labels(kind, where, rows[:, before - 1].tolist())


def _python_batch(
    kind: Cifar, where: str, content: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        batch = _BatchReader(io.BytesIO(content), encoding="bytes").load()
        array, labels = batch[b"data"], batch[kind.label_key]
        rows, width = array.shape
        if not (type(rows) is type(width) is int and type(labels) is list):
            raise TypeError("no rows of pixels, or no list of labels")
        pixels = np.frombuffer(array.content, np.uint8)
        good = array.code == b"u1" and not array.fortran and pixels.size == rows * width
    except InputError as error:
        raise InputError(f"{where} {error}") from error
    except Stopped:  # by a signal: the file is not at fault
        raise
    # A damaged pickle can raise nearly anything: the file's fault, not one of this code.
    except Exception as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{where} is no batch of {kind.title}, or damaged ({detail})") from error
    if not good or width != _PIXELS or len(labels) != rows:
        raise InputError(
            f"{where}: {len(labels)} labels and pixels {array.shape} of {pixels.size} bytes; "
            f"{kind.title} has {_PIXELS} bytes an image"
        )
    return pixels.reshape(rows, width), _labels(kind, where, labels)


def _labels(kind: Cifar, where: str, labels: list[Any]) -> NDArray[np.uint8]:
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < len(kind.class_names):
            last = len(kind.class_names) - 1
            # Never its repr: a list that holds itself twice, and so on, has one without end.
            what = label if type(label) is int and abs(label) < 10**9 else type(label).__name__
            raise InputError(f"{where}: the label of row {row} is {what}, outside 0-{last}")
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
    """Reads a pickle of bytes, numbers, lists and arrays of bytes, and calls nothing else.

    A tuple of twice a tuple, and so on, takes for ever to hash: keys are text, and there is no set.
    """

    stack: list[Any]  # pickle has no types
    pop_mark: Any
    append: Any
    dispatch: ClassVar[dict[int, Any]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code not in (b[0] for b in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET))
    }

    def _set(self, items: list[Any]) -> None:
        if not all(type(key) in (bytes, str) for key in items[::2]):
            raise TypeError("a key that is no text")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def load_setitem(self) -> None:
        """Set one item."""
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def load_setitems(self) -> None:
        """Set the items above the mark."""
        self._set(self.pop_mark())

    def load_dict(self) -> None:
        """Make a dict of the items above the mark."""
        items = self.pop_mark()
        self.append({})
        self._set(items)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise InputError(
                f"asks Python to load {f'{module}.{name}':.80}, which no batch of images needs: "
                "nothing of it was run; do not use it"
            )
        return _ALLOWED[f"{module}.{name}"]
