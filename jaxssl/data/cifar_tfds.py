"""CIFAR-10 and CIFAR-100 as data sets of TensorFlow Datasets, without TensorFlow.

TFDS's own builder calls TensorFlow to download and to encode. These have their names, version,
features, keys and so their order of records, and hand over images already encoded.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from jaxssl.data.cifar_kinds import CIFAR10, CIFAR100, KINDS, PAGE, VERSION, Cifar, Progress, Split
from jaxssl.data.cifar_source import Labelled, read_cifar
from jaxssl.errors import InputError


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's data set from arrays in memory, set as `parts` before it prepares."""

    VERSION = tfds.core.Version(VERSION)
    kind: Cifar
    parts: dict[Split, Labelled]
    progress: Progress | None = None

    def _info(self) -> tfds.core.DatasetInfo:
        k, coarse = len(self.kind.class_names), {}
        labels = tfds.features.ClassLabel(names=self.kind.class_names)
        if self.kind.groups:
            coarse = {"coarse_label": tfds.features.ClassLabel(num_classes=20)}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"60,000 colour images of 32 x 32 pixels in {k} classes.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": labels,
                    **coarse,
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
            record = {"id": f"{split}_{i:05d}", "image": png.getvalue(), "label": label}
            if self.kind.groups:
                record["coarse_label"] = self.kind.groups[label]
            yield i, record
            done = before + i + 1
            if self.progress is not None and (done % 500 == 0 or done == total):
                self.progress(done, total)


# TFDS has builders of these names already: they read what is prepared here.
class Cifar10(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's `cifar10`."""

    kind = CIFAR10


class Cifar100(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's `cifar100`."""

    kind = CIFAR100


_BUILDERS = {"cifar10": Cifar10, "cifar100": Cifar100}


def prepare_cifar(
    name: str,
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    subset: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make TFDS's `cifar10` or `cifar100` from an archive or folder; `tfds.data_source` reads it.

    All of the source is read and checked before the first byte is written, to a temporary folder
    that takes its name when it is whole.

    Args:
      name: "cifar10" or "cifar100".
      source: see `read_cifar`.
      data_dir: TFDS's folder; None is `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      subset: None prepares all 60,000 images and refuses a source that has not all of them; n the
        first n of each class and split.
      progress: called with (images done, images to do), first of reading, then of writing.

    Returns:
      The new folder, DATA_DIR/<name>/3.0.2.

    Raises:
      InputError: the folder is there already, the source cannot be used, or the disk is full.
    """
    kind = KINDS[name]
    folder = kind.folder(data_dir)
    if folder.exists():
        raise InputError(
            f"{folder} is there already and is not overwritten; remove it first, or name another "
            "data folder"
        )
    parts = read_cifar(kind, source, subset=subset, progress=progress)
    tfds.disable_progress_bar()
    try:
        # TFDS prints what it would download: nothing.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = _BUILDERS[name](data_dir=folder.parent.parent)
            builder.parts, builder.progress = parts, progress
            builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def read_records(folder: Path, split: Split) -> Sequence[dict[str, Any]]:
    """Open the records of a prepared split, images still encoded: random access by position."""
    return tfds.data_source(
        f"{folder.parent.name}:{VERSION}",
        split=split,
        data_dir=folder.parent.parent,
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
