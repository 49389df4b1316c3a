"""The images that `label-next` and `label` work on, each with the label it has so far."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import datasets, naming
from experiments.config import Devices, Reading, flag
from jaxssl import analysis, files
from jaxssl.analysis.tables import Together, together
from jaxssl.data import labels, tables, walk
from jaxssl.data.labels import NoImageNamed
from jaxssl.data.matching import Index
from jaxssl.data.source import Source
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from jaxssl.analysis import Embeddings


# What `label-next` writes and a person fills in.
TABLES = ("label-next.csv", "ecotaxa_label_next.tsv")


@dataclasses.dataclass(frozen=True)
class Pool:
    """Images, and what is known about them.

    Attributes:
      images: All of them; a class is "" where there is no label.
      own: The classes that the run or the place gives, before the table that grows; n names.
      table: The table that `label` lets grow.
      folder: Where pages go.
      object_ids: id -> EcoTaxa's name of the object, where it is known.
    """

    images: Together
    own: tuple[str, ...]
    table: Path
    folder: Path
    object_ids: Mapping[str, str]

    def numbered(self) -> tuple[list[str], np.ndarray]:
        """Return the classes there are, and each image's place among them, -1 for no label."""
        names = sorted({name for name in self.images.class_names if name})
        index = {name: i for i, name in enumerate(names)} | {"": -1}
        return names, np.array([index[name] for name in self.images.class_names], np.int64)


@dataclasses.dataclass(frozen=True)
class Labelling(Reading, Devices):
    """The run, and which images."""

    data_dir: str = ""
    """Other images: a folder, zip or table, embedded by the run. Default: the run's own."""
    table: str = ""
    """The table of labels that `label` lets grow and both read. Default: RUN/labels.csv."""
    checkpoint: str = "best"
    """Which of the run's checkpoints embeds other images: best, last or a step."""
    method: str | None = None
    """The Python file of a run whose method is not of this package; it is run."""

    def again(self) -> str:
        """Spell the flags that name the same images and labels to another program."""
        given = {"--data-dir": self.data_dir, "--table": self.table}
        if self.labels_from != "auto":
            given["--labels-from"] = self.labels_from
        return "".join(f" {flag} {shlex.quote(value)}" for flag, value in given.items() if value)


def open_pool(config: Labelling, run_dir: str, *, out: str = "") -> Pool:
    """Read the images with their vectors and their labels.

    The run's own need no JAX. `--labels-from` replaces what the run or its folders say; the labels
    that were filled in in tables of `label-next` go before both, and the table that `label` lets
    grow before all.

    Args:
      config: The flags.
      run_dir: The run's folder.
      out: Another folder of tables of `label-next` than the run's.

    Raises:
      InputError: No run, no embeddings, or a table that names none of the images.
    """
    folder = Path(run_dir).expanduser()
    object_ids: Mapping[str, str] = {}
    if not run_dir:
        naming.run_folder(run_dir)
    if config.data_dir:
        new, object_ids = _embed(config, run_dir)
        images, name = together({"other": new}), datasets.name_of(config.data_dir)
        pages, table = folder / "label-next" / name, folder / f"labels-{name}.csv"
    else:
        _check_flags(config)
        told = analysis.read_tables(folder, embeddings=["h"])["h"]
        object_ids = {
            id_: name
            for one in told.values()
            for id_, name in zip(one.ids, one.object_ids, strict=True)
            if name
        }
        images = together(analysis.with_pixel_size(told, config.pixel_size))
        pages, table = folder / "label-next", folder / "labels.csv"
        if config.labels_from not in ("auto", "folders"):
            bare = dataclasses.replace(images, class_names=("",) * len(images))
            images = bare
            if config.labels_from != "none":
                images = with_labels(bare, _read(config.labels_from, images.ids, config))
    table = Path(config.table).expanduser() if config.table else table
    pages = Path(out).expanduser() if out else pages
    images = with_filled_in(images, pages)
    own = images.class_names
    if table.is_file():
        images = with_table(images, table)
    return Pool(images, own, table, pages, object_ids)


def _check_flags(config: Labelling) -> None:
    """Refuse flags of reading and embedding other images, where there are none."""
    unset = Labelling()
    names = ("group_by", "image_root", "follow_links", "pages", "crop_bottom", "on_bad_image")
    for name in (*names, "hash_all", "checkpoint", "method"):
        if getattr(config, name) != getattr(unset, name):
            raise InputError(
                f"{flag(name)} is for other images, and the run's own are read from its tables: "
                "leave it out, or name other images with --data-dir"
            )


def rounds(pages: Path) -> Iterator[Path]:
    """Name the folders that `label-next` writes to, the first alone where nothing is kept."""
    yield pages
    for number in itertools.count(2):
        yield pages / f"round-{number}"


def next_round(pages: Path) -> Path:
    """Return the folder of the next proposals: the first without a table that a person changed."""
    for place in rounds(pages):
        changed = [name for name in TABLES if files.is_kept(place / name)]
        if not changed:
            return place
        print(f"{place / changed[0]} was changed since it was written and is kept")
    raise AssertionError("there is always one more")


def with_filled_in(images: Together, pages: Path) -> Together:
    """Give images the labels that a person filled in in the tables of `label-next`."""
    for place in rounds(pages):
        table = place / TABLES[0]
        if not place.is_dir():
            return images
        if files.is_kept(table) and (told := _read(str(table), images.ids, Reading())):
            print(f"labels: {len(told):,} filled in in {table}")
            images = with_labels(images, told)
    return images


def with_labels(images: Together, told: Mapping[int, str]) -> Together:
    """Give rows another class."""
    names = [told.get(row, name) for row, name in enumerate(images.class_names)]
    return dataclasses.replace(images, class_names=tuple(names))


def with_table(images: Together, path: Path) -> Together:
    """Give the rows that a table of labels names the class that it gives them."""
    return with_labels(images, _read(str(path), images.ids, Reading()))


def rows_of(path: str, ids: Sequence[str]) -> list[int]:
    """Return the rows that a table names, in its order.

    Raises:
      InputError: No table, or it names none of the images.
    """
    return list(_rows(path, ids, Reading()))


def _read(path: str, ids: Sequence[str], reading: Reading) -> dict[int, str]:
    """Read a table of labels: row -> class."""
    found: dict[int, str] = {}
    for row, label in _rows(path, ids, reading).items():
        if label:
            found[row] = label
    return found


def _rows(path: str, ids: Sequence[str], reading: Reading) -> dict[int, str]:
    """Read what a table says of images: row -> class, "" for none."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"no table {path} to take labels from")
    columns = labels.Columns(
        image=reading.image_column,
        label=reading.label_column,
        validated_only=reading.validated_only,
    )
    source = Source(str(file))
    table = tables.read_table(walk.ImageFile(file.name, source, walk.stamp_of(str(file))))
    index = Index([walk.ImageFile(one, source, (0, 0)) for one in ids])
    found: dict[int, str] = {}
    told = labels.read_rows(table, 0, columns)
    for row in told:
        place = index.find(row.image, "")
        if place is None:
            continue
        before, now = found.get(place, ""), row.label or ""
        if before and now and before != now:
            raise InputError(
                f"{file.name} gives {ids[place]!r} two labels, {before!r} and {now!r}; keep one row"
            )
        found[place] = now or before
    if told and not found:
        raise InputError(
            f"{path} names {len(told):,} images and none of them is one of these {len(ids):,}; "
            f"missing, for one: {told[0].image!r}"
        )
    return found


def open_images(run: Any, flags: Any) -> tuple[Any, Any]:
    """Read the images that a program's flags name, for a run; and report what was found.

    Raises:
      InputError: They cannot be read, or the table of labels is one of the run's own images.
    """
    from jaxssl import data as images_room

    try:
        return images_room.open_images(flags.data_dir, run.reading(flags))
    except NoImageNamed as error:
        named = Path(flags.labels_from).expanduser().resolve() == Path(error.table)
        if named and _own_images_in(flags.labels_from, run.folder):
            raise InputError(
                f"{flags.labels_from} names the run's own images and none of {flags.data_dir}: "
                "leave --labels-from out, then predict learns from the run's own labels and "
                f"from {run.folder / 'labels.csv'}; or name a table of the new images"
            ) from None
        raise


def _own_images_in(table: str, folder: Path) -> bool:
    """Tell whether a table of labels names images that a run was judged on."""
    with contextlib.suppress(InputError):
        sets = analysis.read_tables(folder, embeddings=["h"])["h"]
        ids = [id_ for one in sets.values() for id_ in one.ids]
        return Path(table).expanduser().is_file() and bool(rows_of(table, ids))
    return False


def _embed(config: Labelling, run_dir: str) -> tuple[Embeddings, Mapping[str, str]]:
    """Embed other images by the run, with their labels and pictures."""
    from experiments import finished, newcomers, study

    run = finished.open(run_dir, method=config.method)
    study.start_devices(config)
    from jaxssl import embedding

    images, report = open_images(run, config)
    print(report)
    checkpoint = config.checkpoint
    vectors = embedding.embed(images, run_dir, checkpoint=checkpoint, method=config.method)
    about = {"checkpoint": run.step(checkpoint), "views": run.views(None)}
    return newcomers.table_of(run, about, images, vectors), report.object_ids
