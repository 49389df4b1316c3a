"""CIFAR-10 as a data set of TensorFlow Datasets, written and read without TensorFlow.

TFDS's own builder calls TensorFlow to download and to encode. This one has its name, version,
features, keys and so its order of records, and hands over images already encoded.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from jaxssl.data.cifar import VERSION, cifar10_folder
from jaxssl.data.cifar_source import CLASS_NAMES, PAGE, Labelled, Progress, Split, read_cifar10
from jaxssl.errors import InputError


# TFDS has this class under the same name already; what is prepared here is read by that one.
class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's `cifar10` from arrays in memory, set as `parts` before it prepares."""

    VERSION = tfds.core.Version(VERSION)
    parts: dict[Split, Labelled]
    progress: Progress | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="60,000 colour images of 32 x 32 pixels in 10 classes.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=PAGE,
            citation="A. Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        return {split: self._generate_examples(split) for split in self.parts}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        part, total = self.parts[split], sum(len(part.labels) for part in self.parts.values())
        before = 0 if split == "train" else len(self.parts["train"].labels)
        for i, (image, label) in enumerate(zip(part.images, part.labels.tolist(), strict=True)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            # The key decides the order of records: the same as in TFDS's own builder.
            yield i, {"id": f"{split}_{i:05d}", "image": png.getvalue(), "label": label}
            done = before + i + 1
            if self.progress is not None and (done % 500 == 0 or done == total):
                self.progress(done, total)


def prepare_cifar10(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    subset: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Makes TFDS's `cifar10` from an archive or folder; `tfds.data_source("cifar10")` reads it.

    All of the source is read and checked before the first byte is written, to a temporary folder
    that takes its name when it is whole.

    Args:
      source: see `read_cifar10`.
      data_dir: TFDS's folder; None is `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      subset: None prepares all 60,000 images and refuses a source that has not all of them; n the
        first n of each class and split.
      progress: called with (images done, images to do), first of reading, then of writing.

    Returns:
      The new folder, DATA_DIR/cifar10/3.0.2.

    Raises:
      InputError: the folder is there already, the source cannot be used, or the disk is full.
    """
    folder = cifar10_folder(data_dir)
    if folder.exists():
        raise InputError(
            f"{folder} is there already and is not overwritten; remove it first, or name another "
            "folder with --data-dir"
        )
    parts = read_cifar10(source, subset=subset, progress=progress)
    tfds.disable_progress_bar()
    try:
        # TFDS prints what it would download: nothing.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = Cifar10(data_dir=folder.parent.parent)
            builder.parts, builder.progress = parts, progress
            builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def read_records(folder: Path, split: Split) -> Sequence[dict[str, Any]]:
    """The records of a prepared split, images still encoded: random access by position."""
    return tfds.data_source(
        f"cifar10:{VERSION}",
        split=split,
        data_dir=folder.parent.parent,
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
