"""Other images through the encoder of a finished run: a table of embeddings, one row an image.

`python -m experiments.embed runs/simclr-... --data-dir DIR`

Without a run, by a published network, with a report and a map (experiments.frozen):
  `python -m experiments.embed --encoder efficientnet_lite0 --data-dir DIR`

Beside the table a page shows them on the run's map, with the run's images nearest to each.

The table opens in pandas, DuckDB and embedding-atlas.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import tyro

from experiments import cli, datasets, finished, frozen, labelling, newcomers, study
from experiments.config import AtLeast1, Devices, Reading, check_out
from jaxssl import analysis, files, models, training
from jaxssl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Embed(Reading, Devices):
    """The flags of embedding."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    data_dir: str = ""
    """What to embed: a folder, zip or table of images, as in training."""
    out: str = ""
    """The table, .parquet or .csv. Default: RUN/embeddings/other/<name of DIR>.parquet."""
    map: bool = True
    """Draw the images on the run's map: a page in a folder beside the table, of its name."""
    checkpoint: str = "best"
    """Which of the run's checkpoints: best, last or a step."""
    average_views: AtLeast1[Literal[1, 2, 4, 8] | None] = None
    """Average over the image turned by right angles (4) and mirrored too (8; 2: mirrored alone);
    takes as many times as long. Default: as the run was judged."""
    method: str | None = None
    """The Python file of a run whose method is not of this package; it is run."""


def main(config: Embed) -> None:
    """Embed: run, images, model, table."""
    published = "; or a published network without a run: --encoder efficientnet_lite0"
    run = finished.open(config.run_dir, method=config.method, otherwise=published)
    if not config.data_dir:
        raise InputError("--data-dir is missing: a folder, zip or table of images to embed")
    check_out(config.out, ".parquet", ".csv")
    study.start_devices(config)
    import jax

    from jaxssl import embedding

    images, report = labelling.open_images(run, config)
    print(report)
    placement = training.data_placement(jax.device_count())
    step = run.step(config.checkpoint)
    views = run.views(config.average_views)
    output = models.average_views(run.method.encode, views)
    encode = embedding.compile_output(run.method.model, output, placement)
    state = run.restore(step, placement)
    vectors = embedding.embed_set(encode, state, images, placement, title="embedding")
    name = datasets.name_of(config.data_dir)
    about = {"checkpoint": step, "views": views}
    made = f"step {step}, {views} views"
    own = files.free(run.folder / "embeddings" / "other" / f"{name}.parquet", made, say=print)
    out = Path(config.out).expanduser() if config.out else own
    if config.map:
        page = out.with_suffix("")
        table = newcomers.show(run, about, images, vectors, page, config.data_dir)
    else:
        table = newcomers.table_of(run, about, images, vectors)
    analysis.export(out, table, note=made)
    print(f"{len(images)} embeddings of {vectors.shape[1]} values: {out}")


if __name__ == "__main__":
    if any(argument.split("=")[0] == "--encoder" for argument in sys.argv):
        cli.run(frozen.main, frozen.PRESETS)
    else:
        cli.run(main, {"embed": Embed()})
