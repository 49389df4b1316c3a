"""A finished run for other tools: TensorBoard, W&B, MLflow, safetensors, Hugging Face and others.

`jaxssl export RUN --to tensorboard`

One line says what was written and how to open it; nothing is sent anywhere. Of these only
safetensors needs JAX.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import tyro

from experiments import cli, naming
from experiments.config import Network, flag
from jaxssl import analysis
from jaxssl.analysis.run import read_about
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from jaxssl.integrations.exported import Exported


Tool = Literal["tensorboard", "wandb", "mlflow", "atlas", "fiftyone", "huggingface", "safetensors"]


@dataclasses.dataclass(frozen=True)
class Export:
    """The flags of the export."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    to: Tool | None = None
    """The tool; `pip install "jaxssl[NAME]"` brings it."""
    out: str = ""
    """Folder to write to; runs of wandb and mlflow may share one. Default: RUN/export/NAME."""
    checkpoint: str = "best"
    """Of safetensors: which of the run's checkpoints: best, last or a step."""
    method: str | None = None
    """Of safetensors: the Python file of a run whose method is not of this package; it is run."""


def main(config: Export) -> None:
    """Read the run, then write it."""
    if not config.to:
        raise InputError(f"--to is missing: choose one of {', '.join(get_args(Tool))}")
    folder = naming.run_folder(config.run_dir)
    out = Path(config.out or folder / "export" / config.to).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    if config.to == "safetensors":
        written = _encoder(config, out)
    else:
        tool = importlib.import_module(f"jaxssl.integrations.{config.to}")
        written = tool.export(_read(folder, config.to), out)
    print(f"{written.path}: {written.what}; open it by\n  {written.opened_by}")


def _read(folder: Path, tool: str) -> analysis.Run:
    """Read a run; for a tracker of curves also one that is training still."""
    if tool not in ("wandb", "mlflow"):
        return analysis.read_run(folder, embeddings=("h",))
    numbers = folder / "results.json"
    results = analysis.Results.read(numbers) if numbers.exists() else None
    return dataclasses.replace(read_about(folder), results=results)


def _encoder(config: Export, out: Path) -> Exported:
    """Write the encoder of a checkpoint."""
    from experiments import finished
    from jaxssl.integrations import safetensors

    run = finished.open(config.run_dir, method=config.method)
    if run.record["program"] == "frozen":
        raise InputError(f"{run.folder} was not trained: its weights are those it began with")
    encoder, start = run.encoder(config.checkpoint, seed=0)
    card = run.folder / "MODEL_CARD.md"
    names = ("encoder", "image_size", "color", "width", "layer", "leaky_relu")
    about = {name: getattr(run.config, name) for name in names if hasattr(run.config, name)}
    flags = [
        (flag(name), *(() if value is True else (str(value),)))
        for name, value in about.items()
        if name in names[:3] or value != getattr(Network, name)
    ]
    usage = ["jaxssl embed", *itertools.chain(*flags), "--pretrained", safetensors.FILE]
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    about["weights"] = start
    return safetensors.export(encoder, out, about, " ".join([*usage, "--data-dir DIR"]), text)


if __name__ == "__main__":
    cli.run(main, {"export": Export()})
