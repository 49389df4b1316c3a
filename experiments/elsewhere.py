"""Pretrain here, judge there: the images that a finished run is judged on, its own or others."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import config, datasets
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.config import Elsewhere, Images
    from experiments.datasets import Data
    from experiments.finished import Finished

# Where files lie and which are passed over: flags that do not ask for other images than the run's.
_PLACE = {"data_dir", "labels_from", "image_root", "follow_links", "on_bad_image", "dataset"}


@dataclasses.dataclass(frozen=True)
class Judged:
    """The images that a run is judged on.

    Attributes:
      images: Their settings: the run's own, or others at the run's size, colour and background.
      data: The images, split.
      about: {} for the run's own; else "pretrained_on" and "judged_on", a sentence each.
    """

    images: Images
    data: Data
    about: dict[str, str]


def judged_on(run: Finished, flags: Elsewhere) -> Judged:
    """Read the images that flags name: the run's own, wherever they lie now, or others.

    Flags that only say where the images lie mean the run's own if the fingerprint is the run's.
    Others are split by the rules of a study of their own, with the run's seed, so that all
    evaluations of a run have the same test images.

    Args:
      run: What is judged.
      flags: Of the evaluation.

    Raises:
      InputError: No labels, one class alone, no image; or the run's own are not what they were.
    """
    asked = _asked(flags)
    if not asked:
        data = run.load_data()
        _refuse(data, "the run")
        return Judged(run.images, data, {})
    other = _settings(run, flags, asked)
    known: Data | None = None
    said, own = "", run.images
    if asked <= _PLACE and other.dataset == own.dataset:
        own = dataclasses.replace(own, **{name: getattr(other, name) for name in asked})
        known, said = _try(own, run)
        if known is not None and run.as_trained(known).fingerprint == run.record.get("data"):
            print(said, end="")
            _refuse(known, "the run")
            return Judged(own, run.as_trained(known), {})
    if known is not None and own == other:
        print(said, end="")
        data = known
    else:
        data = datasets.read(other, run.config.seed)
    here, there = _named(run.images), _named(other)
    _refuse(data, there)
    about = {"pretrained_on": f"{here} ({run.folder.resolve().name})", "judged_on": there}
    print(f"pretrained on {about['pretrained_on']}, judged on {there}")
    _warn_of_known(run, data)
    return Judged(other, data, about)


def _asked(flags: Elsewhere) -> set[str]:
    """Name the flags that were set."""
    unset = config.Elsewhere()
    names = {field.name for field in dataclasses.fields(config.Elsewhere)}
    return {name for name in names if getattr(flags, name) != getattr(unset, name)}


def _settings(run: Finished, flags: Elsewhere, asked: set[str]) -> Images:
    """Make the settings of a study of those images that the run's network can read."""
    dataset = flags.dataset or ("folder" if flags.data_dir else run.images.dataset)
    cifar = run.images.dataset.startswith("cifar") and flags.data_dir
    if not flags.dataset and cifar and (Path(flags.data_dir) / run.images.dataset).is_dir():
        dataset = run.images.dataset  # TFDS's folder, with the run's data set in it
    here = run.images.data_dir if dataset == run.images.dataset else ""
    told_of = {name: getattr(flags, name) for name in asked} | {"dataset": dataset}
    datasets.check_flags(config.Elsewhere(**told_of))
    told: dict[str, Any] = {name: getattr(flags, name) for name in asked}
    told |= {"dataset": dataset, "data_dir": flags.data_dir or here}
    seen = {name: getattr(run.images, name) for name in config.seen_by_the_network()}
    return config.Images(**{"lookalikes": (), **told, **seen})


def _try(settings: Images, run: Finished) -> tuple[Data | None, str]:
    """Read images as the run did, if they can be; return them, and what was said of them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return datasets.read(settings, run.config.seed), said.getvalue()
    except InputError:
        return None, ""


def _named(images: Images) -> str:
    """Say which images, as a sentence names them."""
    if images.dataset != "folder":
        return images.dataset
    labels = "" if images.labels_from == "auto" else f", labels from {images.labels_from}"
    return images.data_dir + labels


def _refuse(data: Data, place: str) -> None:
    """Refuse images without labels, or of one class, of which nothing can be judged."""
    labels = data.train.labels
    if not (labels >= 0).any() or not len(data.test):
        raise InputError(
            f"labels are needed, and no image of {place} has one; give --labels-from TABLE, or "
            "class folders as --data-dir"
        )
    if len(data.classes) < 2:
        raise InputError(
            f"two classes or more are needed, to be told apart: {place} has {data.classes[0]!r} "
            "alone"
        )


def _warn_of_known(run: Finished, data: Data) -> None:
    """Say how many test images bear the names of images that the run learnt from."""
    path = run.folder / "embeddings" / "train.parquet"
    if not path.is_file():
        return
    import pyarrow.parquet

    learnt = set(pyarrow.parquet.read_table(path, columns=["id"])["id"].to_pylist())
    known = sum(name in learnt for name in data.test.ids)
    if known:
        print(
            f"warning: {known:,} of {len(data.test):,} test images have the name of an image that "
            "the run learnt from; if they are the same, this tests no new images"
        )
