"""A study's network as a table: every layer with its output and its parameters.

`python -m experiments.describe simclr --preset plankton --encoder resnet50`

First the program's name, then its own flags. No image is read: the number of classes is that of
--seen.
"""

from __future__ import annotations

from typing import Any

from experiments import cli, config, datasets
from jaxssl import models
from jaxssl.errors import InputError


def main(program: Any, settings: Any) -> None:
    """Make the network, then print its table."""
    config.check_ranges(settings)
    shape = (settings.image_size, settings.image_size, settings.channels)
    outline = {"classes": settings.seen or ("a class",), "shape": shape}
    data = datasets.of_outline(outline | {"steps_per_epoch": 1, "total_steps": 100}, settings)
    method = program.make_method(settings, data)
    print(f"{method.name}; {method.start}\n\n{models.describe(method.model, shape)}")
    if getattr(settings, "freeze", None) == "auto" and settings.frozen_until == "none":
        trunk = getattr(method.encoder(method.model), "trunk", None)
        if trunk is not None:
            models.freeze(trunk)
            totals = models.describe(method.model, shape).split("\n\n")[-1]
            print(f"\nwith --freeze trunk, the default where --pretrained is given:\n{totals}")


def parse(arguments: list[str]) -> tuple[Any, Any]:
    """Read the program, and its flags."""
    program, flags = cli.choose_program(arguments, __doc__)
    kind = cli.flags_of(program)
    if not issubclass(kind, config.Images):
        raise InputError(f"{arguments[0]} has no network of its own: describe the run's program")
    return program, cli.parse(flags, program.PRESETS)


if __name__ == "__main__":
    cli.start(main, parse)
