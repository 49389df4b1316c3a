"""What a study's training step needs of TPU chips, found out without one.

`python -m experiments.compile simclr --for v5e-1 --preset plankton`

First the program's name, then its own flags, and --for and --largest-batch. The very step that
would run is compiled by the TPU's own compiler (pip install "jax[tpu]") for chips that are only
described: no image is read, nothing is computed. Printed are the memory of a chip by kind, what a
step computes, moves and sends, and the time it cannot go under: the most of computed / peak, moved
/ memory's bandwidth, sent / links' bandwidth. Moved is what passes between HBM and the core; what
an operation finds in the core's own memory is not.

Names of chips, as they are rented: v5e-1, v5e-4, v5e-8 ... v5e-256, the same of v6e; v5p-8 and
v4-8 are four chips.

Exit code 2: it does not fit; one line says which settings should.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from experiments import cli, config, datasets
from jaxssl import files
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from jaxssl.training import Method
    from jaxssl.training.compiling import Cost, DoesNotFit, Slice

# Of training images, where no image says how many there are: CIFAR's.
RESIDENT = 45_000
LARGEST = 2**17


@dataclasses.dataclass(frozen=True)
class Compiling:
    """The flags of compiling; those of the program join them."""

    chips: str = "v5e-1"
    """The chips that the step is compiled for, such as v5e-1, v5e-8, v6e-8 or v5p-8. Also --for."""
    largest_batch: bool = False
    """Search the largest batch that fits, of those that are the chips times a power of two."""
    text: str = ""
    """File for the compiled program's text (HLO)."""


def parse(arguments: list[str]) -> tuple[ModuleType, Any]:
    """Read the program, and its flags with those of compiling."""
    program, given = cli.choose_program(arguments, __doc__)
    kind = cli.flags_of(program)
    if not issubclass(kind, config.Images):
        raise InputError(f"{arguments[0]} has no network of its own: compile the run's program")
    # `for` is a word of Python's, which no field can be named.
    flags = [
        "--chips" + argument[len("--for") :] if argument.split("=")[0] == "--for" else argument
        for argument in given
    ]
    return program, cli.parse(flags, cli.joined_presets(program, Compiling))


def main(program: ModuleType, flags: Any) -> None:
    """Compile, and print what it takes."""
    prepare()
    from jaxssl.training import compiling

    config.check_ranges(flags)
    kind = cli.flags_of(program)
    settings = kind(
        **{field.name: getattr(flags, field.name) for field in dataclasses.fields(kind)}
    )
    tpu = compiling.describe_slice(flags.chips)

    def compile_for(batch_size: int) -> Cost:
        return cost(program, dataclasses.replace(settings, batch_size=batch_size), tpu)[0]

    size = f"{settings.image_size} px {settings.color}"
    print(
        f"{settings.title} on {settings.dataset}: a step of {settings.batch_size} images at {size} "
        f"on {tpu.name}, {len(tpu.devices)} x {tpu.devices[0].device_kind} ...",
        flush=True,
    )
    found: Cost | None = None
    try:
        found, text = cost(program, settings, tpu)
        print(table(found, tpu))
        if flags.text:
            files.write_text(Path(flags.text), text)
    except compiling.DoesNotFit as error:
        if not flags.largest_batch:
            raise InputError(advice(error, settings, tpu)) from None
        print(advice(error, settings, tpu))
        needs = error.needs
    else:
        needs = found.memory
    if flags.largest_batch:
        print(largest_batch(compile_for, settings.batch_size, needs, tpu))
        if found is None:
            raise InputError(f"--batch-size {settings.batch_size} does not fit {tpu.name}")


def prepare() -> None:
    """Set what JAX and libtpu read as they are loaded."""
    # Else libtpu asks for a machine that has a TPU, prints pages, and is loaded once at a time.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def cost(program: ModuleType, settings: Any, tpu: Slice) -> tuple[Cost, str]:
    """Compile the step that a program's settings give; its cost and its text."""
    from jaxssl.training import compiling

    shape = (settings.image_size, settings.image_size, settings.channels)
    method = shapes_of(program, settings)
    resident = RESIDENT if settings.resident else 0
    return compiling.compile_step(method, shape, settings.batch_size, tpu, resident)


def shapes_of(program: ModuleType, settings: Any) -> Method:
    """The method that a program's settings give, its model as shapes alone."""
    from flax import nnx

    shape = (settings.image_size, settings.image_size, settings.channels)
    many = 100 if settings.dataset == "cifar100" else 10
    classes = settings.seen or tuple(map(str, range(many)))
    outline = {"classes": classes, "shape": shape, "steps_per_epoch": 100, "total_steps": 10_000}
    data, made = datasets.of_outline(outline, settings), []

    def make() -> Any:
        made.append(program.make_method(settings.for_structure(), data))
        return made[0].model

    model = nnx.eval_shape(make)
    return dataclasses.replace(made[0], model=model)


def table(found: Cost, tpu: Slice) -> str:
    """What a step takes of one chip, as lines."""
    chip = tpu.device
    bounds = found.bounds(chip)
    binds = max(bounds, key=bounds.__getitem__)
    kinds = {
        "state and batch": found.arguments,
        "results beside": found.results - found.reused,
        "temporaries": found.temporaries,
        "code": found.code,
        "in all": found.memory,
    }
    unit = "device (half a chip)" if len(tpu.devices) > tpu.chips else "chip"
    lines = [f"compiled in {found.seconds:.0f} s", "", f"memory of a {unit}, GB"]
    lines += [f"  {name:16} {size / 1e9:8.2f}" for name, size in kinds.items()]
    share = found.memory / chip.memory
    lines[-1] += f"  {share:.0%} of {chip.memory / 1e9:.1f}"
    amounts = {
        "memory": f"{found.moved / 1e9:.2f} GB moved at {chip.bandwidth / 1e9:.0f} GB/s",
        "matrix units": f"{found.flops / 1e12:.3f} TFLOP at {chip.flops / 1e12:.0f} a second",
        "links": f"{found.sent / 1e6:.1f} MB sent at {chip.links / 1e9:.0f} GB/s",
    }
    lines += ["", "a step's bound, ms"]
    lines += [
        f"  {name:16} {1e3 * bounds[name]:8.2f}  {amount}{', which binds' * (name == binds)}"
        for name, amount in amounts.items()
    ]
    said = [
        f"{number} {operation} of {size / 1e6:.2f} MB"
        for operation, (number, size) in found.collectives.items()
    ]
    return "\n".join([*lines, "", f"collectives: {', '.join(said) or 'none'}"])


def advice(error: DoesNotFit, settings: Any, tpu: Slice) -> str:
    """One line: how much is too much, and what should fit, memory going as the pixels do."""
    share, many = error.has / error.needs, len(tpu.devices)
    ways = []
    batch = many * 2 ** math.floor(math.log2(max(1, 0.95 * share * settings.batch_size / many)))
    if batch < settings.batch_size:
        ways.append(f"--batch-size {batch}")
    if getattr(settings, "bfloat16", True) is False and share > 0.55:
        ways.append("--bfloat16")
    side = int(settings.image_size * math.sqrt(0.95 * share)) // 8 * 8
    if side:
        ways.append(f"--image-size {side}")
    return (
        f"--batch-size {settings.batch_size} at {settings.image_size} px does not fit {tpu.name}: "
        f"it needs {error.needs / 2**30:.1f} of {error.has / 2**30:.2f} GiB a chip. "
        f"{' or '.join(ways)} should fit, or more chips"
    )


def largest_batch(compile_for: Callable[[int], Cost], asked: int, needs: float, tpu: Slice) -> str:
    """Search the largest batch of chips x 2^k that fits, from the one that was asked for.

    Memory goes about as the batch: the first guess is near, and each try halves what is left.

    Args:
      compile_for: batch -> its cost; raises `DoesNotFit`.
      asked: The batch whose memory is known.
      needs: Bytes that it takes.
      tpu: The chips.
    """
    from jaxssl.training.compiling import DoesNotFit

    many = len(tpu.devices)
    fits, too_large = -1, (LARGEST // many).bit_length()
    guess = math.floor(math.log2(max(1, asked * tpu.device.memory / needs / many)))
    best: Cost | None = None
    while too_large - fits > 1:
        guess = min(max(guess, fits + 1), too_large - 1)
        print(f"  trying {many * 2**guess:,} ...", flush=True)
        try:
            best = compile_for(many * 2**guess)
            fits, guess = guess, guess + 1
        except DoesNotFit:
            too_large, guess = guess, guess - 1
    if best is None:
        return f"not even {many} images fit {tpu.name}"
    share = best.memory / tpu.device.memory
    return f"largest batch that fits {tpu.name}: {many * 2**fits:,} ({share:.0%} of a chip)"


if __name__ == "__main__":
    cli.start(main, parse)
