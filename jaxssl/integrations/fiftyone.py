"""FiftyOne: all images of a run as a data set on disk, with labels, guesses and embeddings."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.run import Run
from jaxssl.files import mark_folder, write_json
from jaxssl.integrations.exported import Exported, all_images


def export(run: Run, out: Path) -> Exported:
    """Write samples, labels and pictures in FiftyOne's form that needs no database.

    An image that is a file here is named where it lies; of any other the table's picture is
    written to `data/`. `embedding` is a field of each sample, as FiftyOne's brain takes it; `x` and
    `y` are its place on the map.

    Args:
      run: A finished run.
      out: A folder.

    Returns:
      What was written.
    """
    table = all_images(run)
    (out / "data").mkdir(parents=True, exist_ok=True)
    mark_folder(out / "data")  # pictures, which are no images to learn from
    samples = [_sample(table, row, out) for row in range(len(table))]
    kept = [sample for sample in samples if sample is not None]
    name = run.folder.resolve().name
    write_json(out / "samples.json", {"samples": kept}, indent=None)
    write_json(out / "metadata.json", {"name": name, "media_type": "image"})
    left = f", {len(table) - len(kept):,} have neither file nor picture" * (len(kept) < len(table))
    named, place = shlex.quote(name), shlex.quote(str(out))
    opened = (
        f"fiftyone datasets create -n {named} -d {place} -t fiftyone.types.LegacyFiftyOneDataset "
        f"&& fiftyone app launch {named}"
    )
    return Exported(f"{len(kept):,} images{left}", out, opened)


def _sample(table: Embeddings, row: int, out: Path) -> dict[str, Any] | None:
    path = table.paths[row]
    if not path or not os.path.isfile(path):
        if not table.thumbnails[row]:
            return None
        path = f"data/{row:06}.png"
        (out / path).write_bytes(table.thumbnails[row])
    found: dict[str, Any] = {
        "filepath": path,
        "tags": [table.split[row]],
        "image": table.ids[row],
        "embedding": table.vectors[row],
    }
    labels = {"ground_truth": table.class_names[row]}
    if "predicted" in table.extra:
        labels["predicted"] = str(table.extra["predicted"][row])
    for name, label in labels.items():
        if label:
            found[name] = {"_cls": "Classification", "label": label}
    for name in ("x", "y"):
        if f"{name}_umap" in table.extra:
            found[name] = float(table.extra[f"{name}_umap"][row])
    return found
