"""A finished run, opened: its settings, its network at a checkpoint, its images.

The one place that reads a run folder back into a model.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from experiments import protocol
from experiments.images import load_data, with_label_fraction
from jaxssl.errors import InputError

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from experiments.images import Data
    from experiments.judging import Output
    from experiments.protocol import Protocol
    from jaxssl.models import Embedder
    from jaxssl.training.devices import Placement
    from jaxssl.training.state import TrainState

# What a session of the run had, which its evaluation has not.
SESSION: dict[str, Any] = {
    "tpu": False,
    "gpu": False,
    "cpu": False,
    "describe": False,
    "preset": "",
    "run_dir": "",
    "coordinator": "",
    "processes": None,
    "process": None,
}
STEPS = 1000  # of a schedule whose state is only looked at for its shape


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run folder and what its settings make.

    Attributes:
      folder: the run's.
      record: its config.json: settings, versions, commit, data fingerprint.
      program: the module that trained it.
      config: the settings, as that program's configuration.
    """

    folder: Path
    record: dict[str, Any]
    program: ModuleType
    config: Protocol

    @property
    def title(self) -> str:
        """Method and data set, for a page."""
        from jaxssl.analysis.report import STUDIES

        study = self.record.get("study", "")
        return f"{STUDIES.get(study, study)} on {self.config.dataset}"

    def model(self) -> Embedder:
        """The network as the program makes it, with random weights."""
        return self.program.make_model(self.config)

    def untrained(self, placement: Placement) -> TrainState:
        """The state of a network with random weights."""
        from jaxssl.training.state import create_state

        optimizer = self.program.make_optimizer(self.config, STEPS)
        return placement.replicate(create_state(self.model(), optimizer))

    def steps(self) -> list[int]:
        """The checkpoints there are, oldest first."""
        from jaxssl.training.checkpoint import Checkpoints

        folder = self.folder / "checkpoints"
        steps = Checkpoints(folder).steps() if folder.is_dir() else []
        if not steps:
            raise InputError(f"{self.folder} has no checkpoint: train it first")
        return steps

    def step(self, checkpoint: str) -> int:
        """The step that "best", "last" or a number names."""
        from jaxssl.training.checkpoint import Checkpoints

        steps = self.steps()
        if checkpoint == "last":
            return steps[-1]
        if checkpoint == "best":
            best = Checkpoints(self.folder / "checkpoints").best_step()
            return steps[-1] if best is None else best
        if not checkpoint.isdigit() or int(checkpoint) not in steps:
            raise InputError(
                f"--checkpoint {checkpoint} is not in {self.folder}: choose best, last or one of "
                f"{', '.join(map(str, steps))}"
            )
        return int(checkpoint)

    def restore(self, step: int, placement: Placement) -> TrainState:
        """The state at a checkpoint, on the devices of `placement`."""
        from jaxssl.training.checkpoint import Checkpoints

        checkpoints = Checkpoints((self.folder / "checkpoints").resolve())
        return checkpoints.restore(self.untrained(placement), step=step)[0]

    def epoch(self, step: int, data: Data) -> float:
        """The epoch in which a step ends."""
        return step * self.config.batch_size / len(data.train)

    def load_data(self) -> Data:
        """The images of the run, split as in training; refuses others."""
        data = load_data(self.config)
        if hasattr(self.config, "label_fraction"):
            fraction = self.config.label_fraction
            data = with_label_fraction(data, fraction, seed=self.config.seed)
        if data.fingerprint != self.record.get("data"):
            raise InputError(
                f"these are not the images that {self.folder} was trained on, or not all of them: "
                "its test images could have been trained on. Give its own --data-dir"
            )
        return data


def open_run(run_dir: str, *, data_dir: str = "", **devices: bool) -> Trained:
    """Read a run folder's settings and choose the platform, before anything touches a device.

    Args:
      run_dir: a run folder.
      data_dir: where the images are now; "": where they were.
      **devices: `tpu`, `gpu`, `cpu`, to demand one.

    Raises:
      InputError: no run folder, or the run of a program that is not here.
    """
    from jaxssl.files import read_json

    folder = Path(run_dir).expanduser()
    if not run_dir or not (folder / "config.json").is_file():
        raise InputError(f"{run_dir!r} is no run folder: it has no config.json")
    record = read_json(folder / "config.json")
    try:
        program = importlib.import_module(f"experiments.{record['program']}")
        fields = {field.name for field in dataclasses.fields(program.Config)}
        stored = record["config"]
        settings = {name: _as_flag(stored[name]) for name in fields & stored.keys()}
        program.make_model  # noqa: B018 what has none is no study
    except (KeyError, TypeError, ImportError, AttributeError):
        raise InputError(f"{run_dir} is no run of a study: no program here made it") from None
    settings |= {name: value for name, value in SESSION.items() if name in fields}
    config = program.Config(**settings | devices | ({"data_dir": data_dir} if data_dir else {}))
    protocol.start(config, alone=True)
    return Trained(folder, record, program, config)


def layer_output(model: Embedder, layer: str) -> Output:
    """`(model, images) -> features [b, d]` of a layer by its name.

    Args:
      model: to look the layer up in.
      layer: "h", the encoder's output; "z", the head's; or a module's path as --describe prints
        it, such as "encoder/convs/2", whose maps [b, h, w, d] give their mean.

    Raises:
      InputError: there is no such layer, or it puts out no row an image.
    """
    from flax import nnx

    if layer == "h":
        return lambda model, images: model.encoder(images)
    if layer == "z":
        return lambda model, images: model(images)[1]
    parts = [(path, part) for path, part in nnx.iter_modules(model) if path]
    names = ["/".join(map(str, path)) for path, part in parts if callable(part)]
    if layer not in names:
        shown = [name for name in names if name.count("/") <= 2]
        raise InputError(f"--layer {layer} is not in this network: choose h, z, {', '.join(shown)}")

    def output(model: Embedder, images: jax.Array) -> jax.Array:
        import jax.numpy as jnp

        heard: list[Any] = []
        part = next(p for path, p in nnx.iter_modules(model) if "/".join(map(str, path)) == layer)
        _listen(part, heard)
        model(images)
        if not heard or not hasattr(heard[-1], "ndim"):
            raise InputError(f"--layer {layer} puts out no row an image: choose h, z or another")
        maps = heard[-1].astype(jnp.float32)
        return maps.mean(axis=tuple(range(1, maps.ndim - 1)))

    return output


def _listen(part: nnx.Module, heard: list[Any]) -> None:
    """Gives this one object (a traced copy) a class whose `__call__` notes what it returns."""
    kind = type(part)

    def call(self: nnx.Module, *args: Any, **options: Any) -> Any:
        output = kind.__call__(self, *args, **options)
        heard.append(output)
        return output

    object.__setattr__(part, "__class__", type(kind.__name__, (kind,), {"__call__": call}))


def _as_flag(value: Any) -> Any:
    """JSON has lists where flags have tuples."""
    return tuple(value) if isinstance(value, list) else value
