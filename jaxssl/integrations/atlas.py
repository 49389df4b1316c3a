"""embedding-atlas: all images of a run in one Parquet file, with their places on the map."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from jaxssl.analysis.embeddings import save
from jaxssl.analysis.run import Run
from jaxssl.integrations.exported import Exported, all_images


def export(run: Run, out: Path) -> Exported:
    """Write the images that have a place on the map; all of them where none has.

    The run's own tables open in it too, a set at a time.

    Args:
      run: A finished run.
      out: A folder.

    Returns:
      What was written.
    """
    table = all_images(run)
    every = len(table)
    drawn = np.isfinite(table.extra.get("x_umap", np.full(every, np.nan)))
    how = "--vector embedding"
    if drawn.any():
        table, how = table.select(drawn), "--x x_umap --y y_umap"
    file = out / "images.parquet"
    save(file, table)
    shown = "--image image" if any(table.thumbnails) else "--text class_name"
    opened = f"embedding-atlas {shlex.quote(str(file))} {how} {shown}"
    return Exported(f"{len(table):,} of {every:,} images", file, opened)
