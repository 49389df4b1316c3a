"""A finished run, opened: its settings, its network at a checkpoint, its images.

The one place that reads a run folder back into a model.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cli, config, datasets, naming
from jaxssl import data as images_room
from jaxssl import files, models, training
from jaxssl.analysis import typed
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

    from experiments.datasets import Data
    from jaxssl.data import ImageSet
    from jaxssl.training import Checkpoints, Method, Placement, TrainState


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run folder and what its settings make.

    Attributes:
      folder: The run's.
      record: Its config.json: settings, versions, commit, data fingerprint.
      program: The module that trained it.
      config: The program's settings.
      images: The settings of its images.
    """

    folder: Path
    record: dict[str, Any]
    program: ModuleType
    config: Any
    images: config.Images

    @property
    def title(self) -> str:
        """Name method and data set, for a page."""
        return f"{self.record['study']} on {self.record['dataset']}"

    @functools.cached_property
    def method(self) -> Method:
        """Make the method as its program makes it, with random weights."""
        outline = datasets.of_outline(self.record["outline"], self.images)
        return self.program.make_method(self.config.for_structure(), outline)

    @property
    def checkpoints(self) -> Checkpoints:
        """Open its checkpoints, only to be read."""
        folder = (self.folder / "checkpoints").resolve()
        if not folder.is_dir():
            raise InputError(f"{self.folder} has no checkpoint: train it first")
        return training.Checkpoints(folder)

    def untrained(self, placement: Placement) -> TrainState:
        """Make the state of a network with random weights."""
        return placement.replicate(training.create_state(self.method))

    def steps(self) -> list[int]:
        """List the checkpoints there are, oldest first."""
        steps = self.checkpoints.steps()
        if not steps:
            raise InputError(f"{self.folder} has no checkpoint: train it first")
        return steps

    def step(self, checkpoint: str) -> int:
        """Return the step that "best", "last" or a number names."""
        steps = self.steps()
        if checkpoint == "last":
            return steps[-1]
        if checkpoint == "best":
            best = self.checkpoints.best_step()
            return steps[-1] if best is None else best
        if not checkpoint.isdigit() or int(checkpoint) not in steps:
            raise InputError(
                f"--checkpoint {checkpoint} is not in {self.folder}: choose best, last or one of "
                f"{', '.join(map(str, steps))}"
            )
        return int(checkpoint)

    def restore(self, step: int, placement: Placement) -> TrainState:
        """Load the state at a checkpoint, on the devices of `placement`."""
        return self.checkpoints.restore(self.untrained(placement), step=step)[0]

    def encoder(self, checkpoint: str | None, *, seed: int) -> tuple[Any, str]:
        """Make the encoder, whose every parameter learns; and say what it starts as.

        Args:
          checkpoint: The one whose weights it takes; None: random weights.
          seed: Draws the random weights.
        """
        settings = dataclasses.replace(self.config.for_structure(), seed=seed)
        if hasattr(settings, "freeze"):
            # Parameters that the run froze are trained here too.
            free: Any = False if isinstance(settings.freeze, bool) else "none"
            settings = dataclasses.replace(settings, freeze=free)
        if checkpoint is None and hasattr(settings, "batch_norm"):
            # Random weights have no statistics to keep.
            settings = dataclasses.replace(settings, batch_norm="adapted")
        outline = datasets.of_outline(self.record["outline"], self.images)
        method = self.program.make_method(settings, outline)
        encoder = method.encoder(method.model)
        if isinstance(encoder, models.BesideStart):
            encoder = encoder.encoder  # the half that learnt
        if checkpoint is None:
            return encoder, "random weights"
        import jax
        from flax import nnx

        step = self.step(checkpoint)
        state = self.restore(step, training.data_placement(jax.device_count()))
        nnx.update(method.model, state.params, state.rest)
        start = f"{self.title}, step {step} of {self.folder.resolve().name}"
        return encoder, start

    def views(self, asked: int | None) -> int:
        """Return over how many views h is averaged: as asked, else as the run was judged."""
        return asked or int(getattr(self.config, "average_views", 1))

    def epoch(self, step: int) -> float:
        """Return the epoch in which a step ends."""
        return step / self.record["outline"]["steps_per_epoch"]

    def load_data(self) -> Data:
        """Read the images of the run, split as in training; refuse others."""
        data = self.as_trained(datasets.read(self.images, self.config.seed))
        if data.fingerprint != self.record.get("data"):
            raise InputError(
                f"these are not the images that {self.folder} was trained on, or not all of them: "
                "its test images could have been trained on. Give its own --data-dir; any other is "
                "judged as another data set"
            )
        return data

    def as_trained(self, data: Data) -> Data:
        """Keep of the training images the part that the run learnt from."""
        fraction = getattr(self.config, "label_fraction", 1.0)
        return datasets.with_label_fraction(data, fraction, seed=self.config.seed)

    def reading(self, flags: config.Reading) -> images_room.Reading:
        """Say how other images are read: as the run's network sees its own, else as told."""
        names = [field.name for field in dataclasses.fields(config.Reading)]
        told = {name: getattr(flags, name) for name in names}
        settings = dataclasses.replace(self.images, **told, seen=(), unseen=(), lookalikes=())
        return datasets.reading_of(settings)

    def read_other(self, data_dir: str) -> tuple[ImageSet, Any]:
        """Read other images as the run read its own; and report what was found."""
        return images_room.open_images(data_dir, self.reading(self.images))


def open(run_dir: str, *, method: str | None = None, otherwise: str = "") -> Finished:
    """Read a run folder's settings.

    Args:
      run_dir: A run folder.
      method: The Python file of a run whose method is not of this package. A run folder never
        makes a program import a file by itself.
      otherwise: What else a person may have meant who named no run.

    Raises:
      InputError: No run folder, or the run of a program that was not named.
    """
    folder = naming.run_folder(run_dir, otherwise=otherwise)
    record = files.read_record(folder)
    trained_by = record.get("program")
    if not isinstance(trained_by, str):
        raise InputError(f"{folder / 'config.json'}: program is no text; restore it")
    if trained_by not in cli.STUDIES and method is None:
        named = shlex.quote(trained_by) if len(trained_by) <= 100 else "FILE"
        raise InputError(
            f"{run_dir} was trained by {trained_by[:100]}, which is not part of jaxssl: to run "
            f"that file's code, name it with --method {named}"
        )
    program = cli.load_program(method or trained_by)
    kind = cli.flags_of(program)
    stored = record["config"]
    try:
        settings = _settings_of(stored, kind)
        images = _settings_of(stored, config.Images)
        if issubclass(kind, config.Images):
            settings |= images
        _check_outline(record["outline"])
        file = folder / "config.json"
        own: Any = typed.decode(kind, settings, file)
        config.check_ranges(own)
        shown = typed.decode(config.Images, images, file)
        return Finished(folder, record, program, own, shown)
    except (KeyError, TypeError) as error:
        lacks = f"it lacks {error}, as runs of other versions of jaxssl do; train anew"
        raise InputError(
            f"{folder / 'config.json'} is no run of {trained_by[:40]}: "
            f"{lacks if isinstance(error, KeyError) else error}"
        ) from None


def _check_outline(outline: Any) -> None:
    """Refuse an outline that `Data.outline` did not write: a foreign or damaged config.json."""
    numbers = [*outline["shape"], outline["steps_per_epoch"], outline["total_steps"]]
    names = outline["classes"]
    if len(numbers) != 5 or not all(type(n) is int and 0 < n < 2**31 for n in numbers):
        raise TypeError("its outline's shape or steps are no numbers above 0")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("its outline's classes are no list of names")


def _settings_of(stored: dict[str, Any], kind: type) -> dict[str, Any]:
    """Pick what an evaluation takes over; JSON has lists where flags have tuples."""
    scopes = config.scopes(kind)
    kept = {name: stored[name] for name, scope in scopes.items() if scope.kept}
    return {n: tuple(value) if isinstance(value, list) else value for n, value in kept.items()}
