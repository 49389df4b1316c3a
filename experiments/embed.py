"""Other images through the encoder of a finished run: a table of embeddings, one row an image.

`python -m experiments.embed runs/simclr-plankton-... --data-dir DIR`

DIR has one folder a class; for images without classes, one folder with all of them. The table opens
in pandas, DuckDB and embedding-atlas.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from experiments import cli, trained
from jaxssl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of embedding."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    data_dir: str = ""
    """A folder of class folders, or the file that scripts/pack_images.py made of it."""
    out: str = ""
    """The table. Default: RUN/embeddings/other/<name of DIR>.parquet."""
    checkpoint: str = "best"
    """Which of the run's checkpoints: best, last or a step."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """As in training."""


def main(config: Config) -> None:
    """Run, images, model, embedding."""
    run = trained.open_run(config.run_dir)
    if not config.data_dir:
        raise InputError("--data-dir is missing: a folder of class folders to embed")

    import jax

    from experiments import judging
    from jaxssl.data.packed import open_images
    from jaxssl.training import devices

    images, report = open_images(
        config.data_dir,
        size=run.config.image_size,
        channels=run.config.channels,
        fit=run.config.fit,
        on_bad_image=config.on_bad_image,
    )
    print(report)
    placement = devices.data_placement(jax.device_count())
    step = run.step(config.checkpoint)
    encode = judging.compile_encode(run.model(), placement)
    vectors = judging.embed(encode, run.restore(step, placement), images, placement)
    name = Path(config.data_dir).resolve().name
    out = Path(config.out or run.folder / "embeddings" / "other" / f"{name}.parquet")
    judging.save_table(out, images, "other", vectors, {"layer": "h", "checkpoint": step})
    print(f"{len(images)} embeddings of {vectors.shape[1]} values: {out}")


if __name__ == "__main__":
    cli.run(main, {"embed": Config()})
