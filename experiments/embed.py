"""Other images through the encoder of a finished run: a table of embeddings, one row an image.

`python -m experiments.embed runs/simclr-plankton-... --data-dir DIR`

DIR has one folder a class; for images without classes, one folder with all of them. The table opens
in pandas, DuckDB and embedding-atlas.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Literal

import tyro

from experiments import cli
from jaxssl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of embedding."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    data_dir: str = ""
    """A folder of class folders."""
    out: str = ""
    """The table. Default: RUN/embeddings/other/<name of DIR>.parquet."""
    checkpoint: Literal["best", "last"] = "best"
    """Which of the run's checkpoints."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """As in training."""


def main(config: Config) -> None:
    """Run, images, model, embedding."""
    from jaxssl.training.runs import read_json

    run_dir = Path(config.run_dir)
    if not (run_dir / "config.json").is_file():
        raise InputError(f"{config.run_dir!r} is no run folder: it has no config.json")
    if not config.data_dir:
        raise InputError("--data-dir is missing: a folder of class folders to embed")
    record = read_json(run_dir / "config.json")
    study = importlib.import_module(f"experiments.{record['program']}")
    fields = {field.name for field in dataclasses.fields(study.Config)}
    settings = {name: value for name, value in record["config"].items() if name in fields}
    trained = study.Config(**settings)

    from experiments import judging
    from jaxssl.data.folder import open_folder
    from jaxssl.training import devices
    from jaxssl.training.checkpoint import Checkpoints
    from jaxssl.training.state import create_state

    images, report = open_folder(
        config.data_dir,
        size=trained.image_size,
        channels=trained.channels,
        fit=trained.fit,
        on_bad_image=config.on_bad_image,
    )
    print(report)
    placement = devices.data_placement(trained.batch_size)
    model = study.make_model(trained)
    state = placement.replicate(create_state(model, study.make_optimizer(trained, 1)))
    checkpoints = Checkpoints((run_dir / "checkpoints").resolve())
    step = checkpoints.best_step() if config.checkpoint == "best" else max(checkpoints.steps())
    state, _ = checkpoints.restore(state, step=step)
    encode = judging.compile_encode(model, placement)
    vectors = judging.embed(encode, state, images, placement)
    name = Path(config.data_dir).resolve().name
    out = Path(config.out) if config.out else run_dir / "embeddings" / "other" / f"{name}.parquet"
    judging.save_table(out, images, "other", vectors, {"layer": "h", "checkpoint": step})
    print(f"{len(images)} embeddings of {vectors.shape[1]} values: {out}")


if __name__ == "__main__":
    cli.run(main, {"embed": Config()})
