"""What a study's training step needs of TPU chips, found out without one.

`python -m experiments.compile simclr --for v5e-1 --preset plankton`

First the program's name, then its own flags, and --for and --largest-batch. The very step that
would run is compiled by the TPU's own compiler (pip install "jax[tpu]") for chips that are only
described: no image is read, nothing is computed. Printed are the memory of a chip by kind, what a
step computes, moves and sends, and the time it cannot go under: the most of computed / peak, moved
/ memory's bandwidth, sent / links' bandwidth. Moved is what passes between HBM and the core; what
an operation finds in the core's own memory is not.

Names of chips, as they are rented: v5e-1, v5e-4, v5e-8 ... v5e-256, the same of v6e; v5p-8 is
four chips. How many classes and resident images there are is not known without images: 10, CIFAR's
45,000, or what --classes and --resident-images say. What does not fit is one line with settings
that do: each was compiled too.

Exit code 2: it does not fit, or cannot be compiled as asked; one line says why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable
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
# Images on a side that does not fit at once are tried this much smaller, so often.
SMALLER, TRIES = 7 / 8, 3
# Programs without a training step of their own, and what has it.
WITHOUT = {
    "finetune": "its step is that of softmax: compile softmax with the run's --encoder, "
    "--image-size and --color, and --batch-size 64",
    "frozen": "nothing is trained",
}


@dataclasses.dataclass(frozen=True)
class Compiling:
    """The flags of compiling; those of the program join them."""

    chips: str = "v5e-1"
    """The chips that the step is compiled for, such as v5e-1, v5e-8, v6e-8 or v5p-8. Also --for."""
    largest_batch: bool = False
    """Search the largest batch that fits, of those that are the chips times a power of two."""
    classes: config.AtLeast1[int] | None = None
    """How many the images are in. Default: as many as --seen names, or 10; CIFAR-100's 100."""
    resident_images: config.AtLeast1[int] = RESIDENT
    """With --resident, how many images there are to train on."""
    text: str = ""
    """File for the compiled program's text (HLO)."""


def parse(arguments: list[str]) -> tuple[ModuleType, Any]:
    """Read the program, and its flags with those of compiling."""
    program, given = cli.choose_program(arguments, __doc__)
    if arguments[0] in WITHOUT:
        raise InputError(f"{arguments[0]} has no step to compile: {WITHOUT[arguments[0]]}")
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
    if flags.text and not Path(flags.text).absolute().parent.is_dir():
        raise InputError(f"--text {flags.text}: there is no folder of that name")
    _, chips = compiling.chips_of(flags.chips)
    if settings.batch_size % chips:
        raise InputError(
            f"--batch-size {settings.batch_size} cannot be split over {chips} chips: "
            "take a multiple of them"
        )
    tpu = compiling.describe_slice(flags.chips)

    def compile_with(**changed: Any) -> tuple[Cost, str]:
        one = dataclasses.replace(settings, **changed)
        return in_a_thread(
            lambda: cost(program, one, tpu, flags.resident_images, classes_of(flags))
        )

    print(f"{first_line(settings, flags, tpu)} ...", flush=True)
    found: Cost | None = None
    try:
        found, text = compile_with()
        print(table(found, tpu))
        if flags.text:
            files.write_text(Path(flags.text), text)
    except compiling.DoesNotFit as error:
        said = advice(error, settings, tpu, lambda **changed: compile_with(**changed)[0])
        if not flags.largest_batch:
            raise InputError(said) from None
        print(said)
        needs = error.needs
    else:
        needs = found.memory
    if flags.largest_batch:
        print(
            largest_batch(
                lambda batch_size: compile_with(batch_size=batch_size)[0],
                settings.batch_size,
                needs,
                tpu,
            )
        )
        if found is None:
            raise InputError(f"--batch-size {settings.batch_size} does not fit {tpu.name}")


def first_line(settings: Any, flags: Any, tpu: Slice) -> str:
    """Say what is compiled, and what is assumed."""
    many = len(classes_of(flags))
    parts = [
        f"{settings.title} on {settings.dataset}: a step of {settings.batch_size} images at "
        f"{settings.image_size} px {settings.color}, {many} classes, on {tpu.name}, "
        f"{len(tpu.devices)} x {tpu.devices[0].device_kind}"
    ]
    if settings.resident:
        parts.append(f"{flags.resident_images:,} images resident on each")
    if settings.steps_per_dispatch > 1:
        parts.append(f"{settings.steps_per_dispatch} steps a dispatch")
    if settings.data_dir:
        parts.append("no image of --data-dir is read: --classes says how many there are")
    return "; ".join(parts)


def classes_of(settings: Any) -> tuple[str, ...]:
    """Names of the classes: --seen's, or as many as --classes says, where that is a flag."""
    told = getattr(settings, "classes", None)
    many = told or (100 if settings.dataset == "cifar100" else 10)
    return settings.seen if settings.seen and not told else tuple(map(str, range(many)))


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Do what hears no signal until it is done, such as compiling, beside a thread that does."""
    found: list[Any] = []
    errors = os.dup(2)  # while it compiles, what goes to 2 is libtpu's and is dropped

    def do() -> None:
        try:
            found.append((work(), None))
        except BaseException as fault:  # raised again where it is waited for
            found.append((None, fault))

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except BaseException as signal:
        sys.stdout.flush()
        os.write(errors, b"compile: interrupted; nothing is kept of what was compiled\n")
        os._exit(getattr(signal, "exit_code", 130))
    os.close(errors)
    result, error = found[0]
    if error is not None:
        raise error
    return result


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


def cost(
    program: ModuleType,
    settings: Any,
    tpu: Slice,
    resident: int = RESIDENT,
    classes: tuple[str, ...] = (),
) -> tuple[Cost, str]:
    """Compile the step that a program's settings give; its cost and its text."""
    from jaxssl.training import compiling

    shape = (settings.image_size, settings.image_size, settings.channels)
    return compiling.compile_step(
        shapes_of(program, settings, classes),
        shape,
        settings.batch_size,
        tpu,
        resident=resident if settings.resident else 0,
        steps=settings.steps_per_dispatch,
    )


def shapes_of(program: ModuleType, settings: Any, classes: tuple[str, ...] = ()) -> Method:
    """The method that a program's settings give, its model as shapes alone."""
    from flax import nnx

    shape = (settings.image_size, settings.image_size, settings.channels)
    classes = classes or classes_of(settings)
    outline = {"classes": classes, "shape": shape, "steps_per_epoch": 100, "total_steps": 10_000}
    data, made = datasets.of_outline(outline, settings), []

    def make() -> Any:
        made.append(program.make_method(settings.for_structure(), data))
        return made[0].model

    model = nnx.eval_shape(make)
    return dataclasses.replace(made[0], model=model)


def table(found: Cost, tpu: Slice) -> str:
    """What a step takes of one chip, as lines."""
    chip = tpu.chip
    bounds = found.bounds(chip)
    binds = max(bounds, key=bounds.__getitem__)
    kinds = {
        "state and batch": found.arguments,
        "results beside": found.results - found.reused,
        "temporaries": found.temporaries,
        "code": found.code,
        "in all": found.memory,
    }
    lines = [f"compiled in {found.seconds:.0f} s", "", "memory of a chip, GB"]
    lines += [f"  {name:16} {_short(size / 1e9):>8}" for name, size in kinds.items()]
    share = found.memory / chip.memory
    lines[-1] += f"  {_short(100 * share)}% of {chip.memory / 1e9:.1f}"
    amounts = {
        "memory": f"{_short(found.moved / 1e9)} GB moved at {chip.bandwidth / 1e9:.0f} GB/s",
        "matrix units": f"{_short(found.flops / 1e12)} TFLOP at {chip.flops / 1e12:.0f} a second",
        "links": f"{_short(found.sent / 1e6)} MB sent at {chip.links / 1e9:.0f} GB/s",
    }
    lines += ["", "a step's bound, ms"]
    lines += [
        f"  {name:16} {_short(1e3 * bounds[name]):>8}  {amount}{', which binds' * (name == binds)}"
        for name, amount in amounts.items()
    ]
    said = [
        f"{number} {operation} of {_short(size / 1e6)} MB"
        for operation, (number, size) in found.collectives.items()
    ]
    return "\n".join([*lines, "", f"collectives: {', '.join(said) or 'none'}"])


def _short(value: float) -> str:
    """Three digits; what is too little for that is no 0.

    Example:
      >>> [_short(value) for value in (0, 0.0001, 0.0123, 1.0005, 45.678, 1234.5)]
      ['0', '<0.001', '0.0123', '1.00', '45.7', '1,234']
    """
    if 0 < value < 0.001:
        return "<0.001"
    digits = max(0, 2 - math.floor(math.log10(value))) if value else 0
    return f"{value:,.{digits}f}"


def advice(error: DoesNotFit, settings: Any, tpu: Slice, compile_with: Callable[..., Cost]) -> str:
    """One line: how much is too much, and what fits, each way tried by itself.

    Args:
      error: What the compiler said.
      settings: That do not fit.
      tpu: The chips.
      compile_with: Changed settings -> what they cost; raises `DoesNotFit`.
    """
    from jaxssl.training.compiling import DoesNotFit

    def first_that_fits(flag: str, values: Iterable[Any]) -> str:
        name = flag.removeprefix("--no-").removeprefix("--").replace("-", "_")
        for value in values:
            said = flag if isinstance(value, bool) else f"{flag} {value}"
            print(f"  trying {said} ...", flush=True)
            with contextlib.suppress(DoesNotFit, InputError):
                compile_with(**{name: value})
                return said
        return ""

    halved = error.needs < 2 * error.has  # bfloat16 saves no more
    ways = [
        first_that_fits("--no-resident", [False] * settings.resident),
        first_that_fits("--bfloat16", [True] * (not settings.bfloat16 and halved)),
        first_that_fits("--batch-size", _batches(error, settings, tpu)),
        first_that_fits("--image-size", _sides(error, settings)),
    ]
    ways = [way for way in ways if way]
    if settings.batch_size > tpu.chips and not settings.resident:
        ways.append("more chips")
    fits = f"{' or '.join(ways)} fits" if ways else "none of the settings tried fits"
    if ways == ["more chips"]:
        fits = "no setting tried fits: more chips may"
    return (
        f"--batch-size {settings.batch_size} at {settings.image_size} px does not fit {tpu.name}: "
        f"it needs {error.needs / 1e9:.1f} of {error.has / 1e9:.1f} GB a chip. {fits}"
    )


def _batches(error: DoesNotFit, settings: Any, tpu: Slice) -> list[int]:
    """Smaller batches, of chips times a power of two, from the one that might fit downwards."""
    share = 0.95 * error.has / error.needs * settings.batch_size / tpu.chips
    highest = math.floor(math.log2(max(1, share)))
    sizes = [tpu.chips * 2**power for power in range(highest, -1, -1)]
    return [size for size in sizes if size < settings.batch_size]


def _sides(error: DoesNotFit, settings: Any) -> list[int]:
    """Smaller images: memory goes as their area, but in whole tiles."""
    side = settings.image_size * math.sqrt(0.95 * error.has / error.needs)
    sides = [int(side * SMALLER**turn) // 8 * 8 for turn in range(TRIES)]
    return [side for side in dict.fromkeys(sides) if 8 <= side < settings.image_size]


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
    guess = math.floor(math.log2(max(1, asked * tpu.chip.memory / needs / many)))
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
    share = f"{best.memory / tpu.chip.memory:.0%} of a chip"
    size, next_size = many * 2**fits, many * 2 ** (fits + 1)
    if next_size > LARGEST:
        return f"at least {size:,} ({share}) fit {tpu.name}: larger were not tried"
    found = f"largest batch that fits {tpu.name}, of {many} x 2^k: {size:,} ({share})"
    return f"{found}; {next_size:,} does not"


if __name__ == "__main__":
    cli.start(main, parse)
