"""A study that runs, and its folder: its name, its config.json, what goes in first."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from experiments import cli, config, datasets, elsewhere
from jaxssl import augment, files, training
from jaxssl.errors import InputError

if TYPE_CHECKING:
    import contextlib

    from experiments.datasets import Data
    from experiments.finished import Finished


@dataclasses.dataclass
class Run:
    """A program that runs: its flags, its devices, and what it must close at its end.

    Attributes:
      config: The program's flags; `study.load` lowers a default batch that the images cannot fill.
      placement: Where batches and state live.
      start: The finished run that it starts from, whose images are its images unless the flags name
        others; None: its own.
      closing: Closes the run folder and the checkpoints.
    """

    config: Any
    placement: training.Placement
    start: Finished | None
    closing: contextlib.ExitStack

    @property
    def seed(self) -> int:
        """Return the seed of the split."""
        return self.start.config.seed if self.start else self.config.seed

    @functools.cached_property
    def judged(self) -> elsewhere.Judged | None:
        """Read the images of a run that starts from another, that one's or others; else None."""
        if self.start is None:
            return None
        return elsewhere.judged_on(self.start, self.config)

    @property
    def images(self) -> config.Images:
        """Return the flags that say which images."""
        return self.judged.images if self.judged else self.config


def recipe_of(run: Run) -> dict[str, Any]:
    """Pick the settings that make the method: the program's, and those of the images."""
    own = dataclasses.asdict(run.config)
    return config.recipe(own, type(run.config)) | config.recipe(_image_settings(run), config.Images)


def _image_settings(run: Run) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(config.Images)]
    settings = {name: getattr(run.images, name) for name in names}
    return settings | {"lookalikes": datasets.harder_unseen(run.images)}


def run_folder(run: Run, data: Data, method: training.Method) -> training.RunFolder:
    """Make the run's folder, which checks a resumed one against this configuration."""
    from jaxssl.training import devices, processes, runs

    settings, dataset = run.config, run.images.dataset
    program, recipe = cli.program_of(settings), recipe_of(run)
    path = settings.run_dir or runs.default_run_dir(Path(program).stem, dataset)
    print(f"run folder: {path}", flush=True)
    every = dataclasses.asdict(settings) | _image_settings(run)
    may_differ = {n for n, scope in config.scopes(type(settings)).items() if scope.resume}
    if again := how_to_go_on(settings, path):
        cli.goes_on(again)
    if not settings.run_dir and isinstance(settings, config.Training) and processes.is_first():
        before = runs.unfinished(Path(path), every, may_differ=may_differ, data=data.fingerprint)
        if before is not None and (first := how_to_go_on(settings, before)):
            print(f"{before}, of the same settings, is not finished: {first}", flush=True)
    typed = cli.command()
    return training.RunFolder(
        path,
        every,
        may_differ=may_differ,
        again=again,
        facts={
            **({"command": typed} if typed else {}),
            **({"go_on": command} if (command := _command(settings, path)) else {}),
            "study": method.name,
            "program": program,
            "dataset": dataset,
            "recipe": recipe,
            "hash": config.hash_of(recipe),
            "data": data.fingerprint,
            "outline": data.outline(),
            "cropped": data.crop[0],
            "left_out": list(data.left_out),
            "devices": devices.summary(),
            "pretrained": method.start,
            **(run.judged.about if run.judged else {}),
        },
    )


def check_apart(settings: Any, start: Finished | None) -> None:
    """Refuse a run folder that is the folder of the images, or has it somewhere below.

    A run folder is not searched for images, so that no run learns from its figures.

    Args:
      settings: The program's flags.
      start: The finished run that it starts from.
    """
    run_dir, data_dir = settings.run_dir, settings.data_dir
    dataset = settings.dataset
    if start is not None and not data_dir:
        dataset, data_dir = dataset or start.images.dataset, start.images.data_dir
    if not run_dir or not data_dir or dataset not in (None, "folder"):
        return
    place, run = Path(data_dir).expanduser().resolve(), Path(run_dir).expanduser().resolve()
    if place.is_dir() and (place == run or run in place.parents):
        raise InputError(
            f"--run-dir {run_dir} {'is' if place == run else 'has in it'} the folder of the "
            f"images, {data_dir}: give the run a folder of its own, such as runs/first"
        )


def _command(settings: Any, path: str | Path) -> str:
    more = () if cli.was_given("run_dir") else ("--run-dir", str(path))
    return "" if more and settings.run_dir else cli.command(*more)


def how_to_go_on(settings: Any, path: str | Path) -> str:
    """Say how a person goes on with a run, to be pasted; "" where code chose its folder."""
    from jaxssl.training import processes

    if not (command := _command(settings, path)):
        return ""
    if processes.count() > 1:  # each has flags of its own, and the first names the folder
        return "go on with the same command in all processes, with the --run-dir of the first"
    return f"go on with: {command}"


def save_what_goes_in(path: Path, data: Data, seed: int) -> None:
    """Write what `skipped.json` lists and `report/` shows: a few images with two views each.

    Where rows are cut off below every picture, one is shown before and after.
    """
    import jax

    from jaxssl.analysis import figures

    if data.skipped:
        files.write_json(path / "skipped.json", data.skipped)
    (path / "report").mkdir(exist_ok=True)
    if data.crop[1] is not None and data.crop[1].size:
        with files.atomic(path / "report" / "crop.png") as out:
            Image.fromarray(data.crop[1].squeeze(-1)).save(out, "PNG")
    if data.recipe is None or (path / "report" / "views.png").exists():
        return  # a resumed run has them: seconds of compilation
    images = data.train
    rows = np.random.default_rng(seed).permutation(len(images))[:8]
    originals = np.stack([images[i]["image"] for i in rows])
    views = jax.device_get(augment.views(jax.random.key(seed), originals, data.recipe))
    drawn = [np.asarray(np.round(255 * view), np.uint8) for view in views]
    figures.save_png(figures.view_sheet(originals, *drawn), path / "report" / "views.png")
