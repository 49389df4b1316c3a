"""TensorBoard: a run's curves, and its images in the projector with their pictures as sprites."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np

from jaxssl.analysis.atlas import thumbnail
from jaxssl.analysis.run import Run
from jaxssl.integrations.exported import Exported, all_images, clean, curves

_SHEET = 8192  # pixels a side of the largest sheet of sprites that the projector takes
_TILE = 48
_STEP = "00000"  # what the projector's files lie under; a run has one embedding there


def export(run: Run, out: Path) -> Exported:
    """Write scalars of training and validation, and the projector's files.

    Written by tensorboardX, which the programs log with; reading it takes `tensorboard`.

    Args:
      run: A finished run.
      out: A folder; what was written there before goes.

    Returns:
      What was written.
    """
    from tensorboardX import SummaryWriter

    # It adds to the events and to the projector's list that are there.
    for old in (*out.glob("events.out.tfevents.*"), *out.glob("projector_config.pbtxt")):
        old.unlink()
    shutil.rmtree(out / _STEP, ignore_errors=True)
    table = all_images(run)
    side = min(_TILE, _SHEET // int(np.ceil(np.sqrt(len(table)))))
    rows = curves(run)
    with SummaryWriter(str(out)) as writer:
        for step, values in rows:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        columns = zip(table.class_names, table.split, table.ids, strict=True)
        writer.add_embedding(
            table.vectors,
            metadata=[[clean(cell or "(no label)") for cell in row] for row in columns],
            metadata_header=["class", "set", "image"],
            label_img=_pictures(table.thumbnails, side) if any(table.thumbnails) else None,
            global_step=int(_STEP),
            tag="h",
        )
    what = f"{len(rows):,} lines of metrics, {len(table):,} images in the projector"
    return Exported(what, out, f"tensorboard --logdir {shlex.quote(str(out))}")


def _pictures(thumbnails: list[bytes], side: int) -> np.ndarray:
    """Return the pictures float [n, 3, side, side] in [0, 1]; one that is missing is white."""
    found = np.ones((len(thumbnails), side, side, 3), np.float32)
    for place, data in zip(found, thumbnails, strict=True):
        image = thumbnail(data, side)
        if image is not None:
            place[:] = np.asarray(image, np.float32) / 255
    return found.transpose(0, 3, 1, 2)
