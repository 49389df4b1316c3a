"""CIFAR-10 and CIFAR-100 from the folder of TensorFlow Datasets, decoded once and kept."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxssl.data.cifar_kinds import COUNTS, KINDS, PAGE, VERSION, Cifar, Progress, Split
from jaxssl.data.images import ImageSet
from jaxssl.data.pixels import read_cached
from jaxssl.data.scan import remove_stale
from jaxssl.errors import InputError, Stopped
from jaxssl.files import add_checksum, atomic, cache_dir, read_json

_URL = "https://www.cs.toronto.edu/~kriz/"
_COMMAND = "python scripts/prepare_cifar10.py"
# `group`: equal for images of equal pixels.
_ROW = np.dtype([("image", "u1", (32, 32, 3)), ("label", "u1"), ("group", "<i4")])


def load_cifar(
    name: str,
    split: Split,
    *,
    channels: int = 3,
    size: int = 32,
    data_dir: str | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Read one split of CIFAR-10 or CIFAR-100; downloads and prepares it where it is absent.

    The images are decoded the first time and then kept as pixels in `cache_dir()`: the
    next start maps them into memory. Other sizes (Pillow's bilinear filter) and grey (ITU-R 601
    luma) are made when an image is asked for.

    Args:
      name: "cifar10" or "cifar100".
      split: "train" (50,000 images) or "test" (10,000).
      channels: 3 (RGB) or 1 (grey).
      size: height and width in pixels, at least 1.
      data_dir: TFDS's folder; None is `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      progress: called with (images done, images to do) from time to time.

    Returns:
      An ImageSet with the class names, ids "train/00000"... in the order of the official
      files, whatever the order of the records is; images of equal pixels are of one group.

    Raises:
      InputError: no data and no network, a folder of another version, or damaged records.
      ValueError: an unknown name or split, size below 1, or channels neither 1 nor 3.

    Reference:
      A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    Example:
      >>> from unittest.mock import patch
      >>> from jaxssl.data.cifar_tfds import prepare_cifar
      >>> with tempfile.TemporaryDirectory() as tmp, patch.dict(os.environ, XDG_CACHE_HOME=tmp):
      ...     names = [f"{s}/{c}" for s in COUNTS for c in KINDS["cifar10"].class_names]
      ...     for folder in (f"{tmp}/images/{name}" for name in names):
      ...         os.makedirs(folder)
      ...         Image.new("RGB", (32, 32), "navy").save(f"{folder}/0.png")
      ...     _ = prepare_cifar("cifar10", f"{tmp}/images", data_dir=tmp, subset=1)
      ...     images = load_cifar("cifar10", "test", data_dir=tmp)
      >>> images.ids[8], images.class_names[images.labels[8]], images[8]["image"][0, 0].tolist()
      ('test/00008', 'ship', [0, 0, 128])
    """
    if name not in KINDS or split not in COUNTS or size < 1 or channels not in (1, 3):
        raise ValueError(
            "CIFAR has splits 'train' and 'test', and needs size >= 1 and channels 1 or 3, "
            f"got {name=}, {split=}, {size=}, {channels=}"
        )
    kind = KINDS[name]
    folder = kind.folder(data_dir)
    if not folder.is_dir():
        _refuse_other_versions(folder)
        _download(kind, folder, progress)
    rows = _rows(kind, folder, split, progress)
    n = len(rows)
    load: Callable[[int], NDArray[np.uint8]] = rows["image"].__getitem__
    if (size, channels) != (32, 3):
        load = partial(_converted, rows["image"], size, channels)
    return ImageSet(
        ids=tuple(f"{split}/{i:05d}" for i in range(n)),
        paths=("",) * n,
        labels=rows["label"].astype(np.int32),
        class_names=kind.class_names,
        load=load,
        groups=rows["group"].astype(np.int64),
        shape=(size, size, channels),
    )


def _converted(
    images: NDArray[np.uint8], size: int, channels: int, position: int
) -> NDArray[np.uint8]:
    image = Image.fromarray(images[position]).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return pixels.reshape(size, size, channels)


# ------------------------------------------------------------------------------ where it comes from


def _refuse_other_versions(folder: Path) -> None:
    there = sorted(
        p.name for p in folder.parent.glob("*") if re.fullmatch(r"\d+\.\d+\.\d+", p.name)
    )
    if there:
        raise InputError(
            f"{folder.parent} holds version {', '.join(there)}, not {VERSION}; name another data "
            "folder, or prepare it there with "
            f"{_COMMAND} --source PATH"
        )


def _download(kind: Cifar, folder: Path, progress: Progress | None) -> None:
    """Fetch the official archive, check its sha256 and prepare it in `folder`."""
    from jaxssl.data.cifar_tfds import prepare_cifar  # seconds to import: TFDS

    data_dir = folder.parent.parent
    try:
        with urllib.request.urlopen(_URL + kind.archive, timeout=20) as reply:
            data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=data_dir, prefix=f"{kind.name}-download-"
            ) as temporary:
                archive = Path(temporary, kind.archive)
                _receive(reply, archive, progress)
                prepare_cifar(kind.name, archive, data_dir=data_dir, progress=progress)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(
            f"{kind.title} is not in {folder} and cannot be downloaded ({reason}): fetch "
            f"{' or '.join(kind.sha256)} from {PAGE}, then run {_COMMAND} --name {kind.name} "
            f"--source PATH --data-dir {data_dir}"
        ) from error


def _receive(reply: http.client.HTTPResponse, archive: Path, progress: Progress | None) -> None:
    """Yield the bytes of a download; report progress as the number of images they hold."""
    size, total, images = 0, int(reply.headers.get("Content-Length") or 0), sum(COUNTS.values())
    with open(archive, "wb") as out:
        while block := reply.read(2**20):
            out.write(block)
            size += len(block)
            if progress is not None and total:
                progress(images * size // total, images)


# ----------------------------------------------------------------------------- pixels, decoded once


def _rows(kind: Cifar, folder: Path, split: Split, progress: Progress | None) -> NDArray[np.void]:
    """Read the packed split from the cache, or decode it and put it there."""
    cache = cache_dir() / f"{kind.name}-{_digest(os.path.realpath(folder))}"
    packed = cache / f"{split}-{_identity(kind, folder)}.npy"
    found = read_cached(packed)
    if found is not None and found.dtype == _ROW:
        return found
    rows = _decode_all(kind, folder, split, progress)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        remove_stale(cache, split, packed)
        with atomic(packed) as out:
            np.lib.format.write_array(out, rows, allow_pickle=False)
            add_checksum(out)
    except OSError as error:
        raise InputError(
            f"cannot write the image cache in {cache}: {error.strerror or error}; free space, "
            "or choose another place with the XDG_CACHE_HOME variable"
        ) from error
    return rows


def _identity(kind: Cifar, folder: Path) -> str:
    """Make a key that changes with any file; refuse a folder that is not what its name says."""
    try:
        info = read_json(folder / "dataset_info.json")
        stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()]
        said = [info["name"], info["version"], info["fileFormat"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(folder, str(error).replace(f"{folder}/", "")) from error
    if said != [kind.name, VERSION, "array_record"]:
        found = " ".join(map(str, said))[:80]
        raise InputError(
            f"{folder} holds {found}, not {kind.name} {VERSION} array_record; "
            "name another data folder, or prepare it there with "
            f"{_COMMAND} --source PATH"
        )
    return _digest(repr(sorted(stamps)))


def _decode_all(
    kind: Cifar, folder: Path, split: Split, progress: Progress | None
) -> NDArray[np.void]:
    from jaxssl.data.cifar_tfds import read_records  # seconds to import: TFDS

    try:
        records = read_records(folder, split)
        n = len(records)
        rows, seen, digests = np.zeros(n, _ROW), np.zeros(n, bool), np.zeros(n, "S32")
        for i in range(n):
            record = records[i]
            position = _position(record["id"], split, n)
            label, image = int(record["label"]), _pixels(record["image"])
            if seen[position] or not 0 <= label < len(kind.class_names):
                raise ValueError(f"record {record['id']!r} comes twice, or its label is {label}")
            seen[position] = True
            rows["image"][position], rows["label"][position] = image, label
            digests[position] = hashlib.sha256(image.tobytes()).digest()
            if progress is not None and ((i + 1) % 500 == 0 or i + 1 == n):
                progress(i + 1, n)
    except Stopped:  # by a signal: the file is not at fault
        raise
    # What TFDS, ArrayRecord and Pillow raise on damaged files has no common class.
    except Exception as error:
        raise _unusable(folder, str(error) or type(error).__name__) from error
    rows["group"] = np.unique(digests, return_inverse=True)[1]
    return rows


def _position(id_: bytes | str, split: Split, n: int) -> int:
    text = id_.decode() if isinstance(id_, bytes) else id_
    if not re.fullmatch(rf"{split}_\d{{5}}", text) or not int(text[-5:]) < n:
        raise ValueError(f"record {text!r} is none of {split}_00000 to {split}_{n - 1:05d}")
    return int(text[-5:])


def _pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        if (image.size, image.mode) != ((32, 32), "RGB"):
            raise ValueError(f"an image of {image.size[0]} x {image.size[1]} pixels, {image.mode}")
        return np.asarray(image)


def _unusable(folder: Path, why: str) -> InputError:
    return InputError(
        f"{folder} cannot be read ({' '.join(why.split())[:160]}): if it is damaged, remove it and "
        f"prepare it again with {_COMMAND} --source PATH"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
