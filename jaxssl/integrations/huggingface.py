"""Hugging Face datasets: a run's tables as one of theirs, and one of theirs as images here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxssl.analysis.run import Run
from jaxssl.errors import InputError
from jaxssl.files import atomic
from jaxssl.integrations.exported import Exported, all_images

_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"BM": ".bmp"}
_ENDINGS |= {b"RIFF": ".webp", b"II*\0": ".tif", b"MM\0*": ".tif"}


def export(run: Run, out: Path) -> Exported:
    """Write the images, labels and embeddings of h as a `DatasetDict`, a split a set.

    Args:
      run: A finished run.
      out: A folder for `datasets.load_from_disk`.

    Returns:
      What was written.
    """
    import datasets

    table = all_images(run)
    classes = table.class_list
    columns: dict[str, Any] = {
        "id": datasets.Value("string"),
        "label": datasets.ClassLabel(names=list(classes)) if classes else datasets.Value("int32"),
        "embedding": datasets.List(datasets.Value("float32"), length=table.vectors.shape[1]),
        "image": datasets.Image(),
    }
    texts = [name for name in ("predicted",) if name in table.extra]
    columns |= {name: datasets.Value("string") for name in texts}
    parts = {}
    for name in dict.fromkeys(table.split):
        rows = [row for row, split in enumerate(table.split) if split == name]
        part = {
            "id": [table.ids[row] for row in rows],
            "label": [int(table.class_index[row]) for row in rows],
            "embedding": [table.vectors[row] for row in rows],
            "image": [{"bytes": table.thumbnails[row] or None, "path": None} for row in rows],
        }
        part |= {text: [str(table.extra[text][row]) for row in rows] for text in texts}
        # Their names of splits are words.
        word = re.sub(r"\W+", "_", name)
        parts[word] = datasets.Dataset.from_dict(part, features=datasets.Features(columns))
    datasets.DatasetDict(parts).save_to_disk(str(out))
    opened = f'python -c "import datasets; print(datasets.load_from_disk({str(out)!r}))"'
    return Exported(f"{len(table):,} images in {len(parts)} splits", out, opened)


def unpack(source: Any, folder: str | Path, *, image: str = "image", label: str = "label") -> str:
    """Write a data set's images as files, with a table of labels beside them.

    What `--data-dir` then names. The files' bytes are as they are in the data set; no name of the
    data set becomes a name of a file.

    Args:
      source: A `datasets.Dataset` or `DatasetDict`; or the path of one that `save_to_disk` wrote,
        or of a Parquet file.
      folder: A new or empty folder.
      image: The column of images.
      label: The column of labels, of class names or of a `ClassLabel`; unlabelled without one.

    Returns:
      What was written, for a line.

    Raises:
      InputError: No such column, or the folder has something in it.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name a new folder")
    if isinstance(source, str | Path):
        known = Path(source).is_dir()
        source = (
            datasets.load_from_disk(str(source))
            if known
            else datasets.Dataset.from_parquet(str(source))
        )
    parts = dict(source) if isinstance(source, Mapping) else {"": source}
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {"path": [], "label": [], "split": []}
    for split, part in parts.items():
        if image not in part.column_names:
            raise InputError(
                f"the data set has no column {image!r}; its columns: {', '.join(part.column_names)}"
            )
        names = getattr(part.features.get(label), "names", None)
        part = part.cast_column(image, datasets.Image(decode=False))
        for row in part:
            data, value = _bytes(row[image]), row.get(label)
            file = f"{len(rows['path']):06}{_ending(data)}"
            with atomic(folder / file) as out:
                out.write(data)
            known = value is not None and value != -1
            rows["path"].append(file)
            rows["label"].append(str(names[value] if names and known else value) if known else "")
            rows["split"].append(split)
    if not any(rows["split"]):
        del rows["split"]
    with atomic(folder / "labels.parquet") as out:
        pq.write_table(pa.table(rows), out)
    counts = Counter(rows["label"])
    return f"{len(rows['path']):,} images of {len(counts.keys() - {''})} classes in {folder}"


def _bytes(cell: Mapping[str, Any]) -> bytes:
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def _ending(data: bytes) -> str:
    found = [ending for start, ending in _ENDINGS.items() if data.startswith(start)]
    return found[0] if found else ".img"
