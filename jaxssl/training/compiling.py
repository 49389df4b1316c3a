"""A step compiled for TPUs that are not here: what it needs of a chip, and what bounds it.

libtpu compiles for a topology that is only described; on any machine, `pip install "jax[tpu]"`.
It reads the environment as it is loaded: `python -m experiments.compile` sets what it needs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl.errors import InputError
from jaxssl.training import hlo
from jaxssl.training.devices import Placement, Resident, check_resident, placement_over
from jaxssl.training.method import Method
from jaxssl.training.state import state_shapes
from jaxssl.training.step import make_train_step


class Chip(NamedTuple):
    """The vendor's figures for one chip.

    Attributes:
      flops: Peak, a second, of matrix products in bfloat16, which float32's default precision is.
      memory: Bytes of HBM.
      bandwidth: Of HBM, bytes a second.
      links: Of all links to other chips together, one way, bytes a second.
      cores_named: Cores a chip in its slices' names: v5p-8 is four chips.
      torus: Axes of its slices.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float
    cores_named: int
    torus: int


# cloud.google.com/tpu/docs/v5e, v5p, v6e, "key chip specifications", read in November 2026. No v4:
# libtpu 0.0.42 describes each of its cores as a device, and JAX computes on a chip as one.
CHIPS = {
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 1600e9 / 8, cores_named=1, torus=2),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 4800e9 / 8, cores_named=2, torus=3),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 3584e9 / 8, cores_named=1, torus=2),
}
# Names of the same under which they are rented elsewhere: accelerator types.
ALSO = {"v5litepod": "v5e", "v5lite": "v5e"}


@dataclasses.dataclass(frozen=True)
class Slice:
    """TPU chips, described.

    Attributes:
      name: As it was asked for, such as "v5e-8".
      kind: A name in `CHIPS`.
      chips: How many.
      devices: What JAX sees of them, one a chip.
    """

    name: str
    kind: str
    chips: int
    devices: Sequence[Any]

    @property
    def chip(self) -> Chip:
        """The figures of one of them."""
        return CHIPS[self.kind]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a compiled program takes of one device, in bytes, FLOP and seconds.

    Attributes:
      arguments: Memory of the state and the batch.
      results: Of the new state and the metrics.
      reused: How much of the results lies where arguments were.
      temporaries: Memory for what lies between.
      code: Of the program.
      flops: Of a step's products of matrices and convolutions, loops as often as they run.
      moved: Bytes read from HBM and written to it, as the program's text says.
      accessed: Bytes that all operations read and write, as the compiler says: those that stay in
        the core's own memory (VMEM) too, and loops once.
      collectives: Operation -> (how many, bytes of their results); loops as often as they run.
      sent: Bytes that go out to other devices, every collective going round a ring.
      seconds: How long the compiler took.
    """

    arguments: int
    results: int
    reused: int
    temporaries: int
    code: int
    flops: float
    moved: float
    accessed: float
    collectives: Mapping[str, tuple[int, int]]
    sent: float
    seconds: float

    @property
    def memory(self) -> int:
        """Bytes that the program needs at once."""
        return self.arguments + self.results - self.reused + self.temporaries + self.code

    def of_each(self, steps: int) -> Cost:
        """Share what is done out over the steps of a program, a loop; its memory is what it is."""
        if steps == 1:
            return self
        return dataclasses.replace(
            self,
            flops=self.flops / steps,
            moved=self.moved / steps,
            sent=self.sent / steps,
            collectives={
                name: (round(number / steps), round(size / steps))
                for name, (number, size) in self.collectives.items()
            },
        )

    def bounds(self, chip: Chip) -> dict[str, float]:
        """Seconds that a step cannot go under, for each of what may bind it."""
        return {
            "memory": self.moved / chip.bandwidth,
            "matrix units": self.flops / chip.flops,
            "links": self.sent / chip.links,
        }


class DoesNotFit(Exception):
    """The program needs more memory than a device has.

    Attributes:
      needs: Bytes, as the compiler says.
      has: Bytes that it may use.
    """

    def __init__(self, needs: float, has: float):
        super().__init__(f"needs {needs / 1e9:.1f} of {has / 1e9:.1f} GB")
        self.needs, self.has = needs, has


def chips_of(name: str) -> tuple[str, int]:
    """Read the name under which TPU chips are rented: "v5e-1", "v6e-8", "v5p-8", "v5litepod-4".

    The number counts chips; of v5p, cores, two a chip. One chip alone is "v5p-2".

    Returns:
      A name in `CHIPS`, and how many.

    Raises:
      InputError: No such kind, or a number that is no slice of up to 256 chips.

    Example:
      >>> chips_of("v5litepod-8"), chips_of("v5p-8")
      (('v5e', 8), ('v5p', 4))
    """
    found = re.fullmatch(r"(v\d[a-z]*)-(\d+)", name.lower())
    if found is not None and found[1] == "v4":
        raise InputError(
            f"{name}: the compiler describes a v4's cores, and JAX computes on its chips: "
            f"name one of {', '.join(CHIPS)}, such as v5p-{found[2]}"
        )
    kind = ALSO.get(found[1], found[1]) if found else ""
    if found is None or kind not in CHIPS:
        raise InputError(
            f"{name!r} is no TPU: name one of {', '.join(CHIPS)} and a number, such as v5e-1, "
            "v5e-8, v6e-8 or v5p-8"
        )
    chips, rest = divmod(int(found[2]), CHIPS[kind].cores_named)
    known = (1, *(2**k for k in range(2, 9)))
    if rest or chips not in known:
        sizes = [str(CHIPS[kind].cores_named * n) for n in known]
        raise InputError(f"{name}: of {kind} this knows {', '.join(sizes)}")
    return kind, chips


def describe_slice(name: str) -> Slice:
    """Describe TPU chips by the name under which they are rented, as `chips_of` reads it.

    Raises:
      InputError: As `chips_of`; or no compiler for TPUs is here.
    """
    kind, chips = chips_of(name)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError('a TPU\'s compiler is needed, not a TPU: pip install "jax[tpu]"')
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": [1, 1, 1]} if chips == 1 else {}
    sides = "x".join(map(str, _sides(chips, CHIPS[kind].torus)))
    with _quiet():
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{sides}", **options
        )
    return Slice(name, kind, chips, topology.devices)


def _sides(chips: int, axes: int) -> tuple[int, ...]:
    """The box of a slice, as near to a cube as powers of two are: the last axes the longer ones.

    Example:
      >>> _sides(8, 2), _sides(256, 2), _sides(8, 3), _sides(128, 3)
      ((2, 4), (16, 16), (2, 2, 2), (4, 4, 8))
    """
    if chips == 4 and axes == 3:
        return 2, 2, 1  # a host
    short, longer = divmod(chips.bit_length() - 1, axes)
    return tuple(2 ** (short + (axis >= axes - longer)) for axis in range(axes))


def compile_step(
    method: Method,
    shape: tuple[int, int, int],
    batch_size: int,
    tpu: Slice,
    *,
    resident: int = 0,
    steps: int = 1,
) -> tuple[Cost, str]:
    """Compile a method's training step as it would run on TPU chips; nothing is allocated.

    Args:
      method: Its model may be shapes alone, from `nnx.eval_shape`.
      shape: (h, w, c) of an image.
      batch_size: The global batch.
      tpu: From `describe_slice`.
      resident: How many training images live on every device; 0: batches bring theirs.
      steps: How many one dispatch makes, as `TrainStep.several`.

    Returns:
      What a step costs each device, of `steps` the mean; the program's text.

    Raises:
      DoesNotFit: The chips have too little memory.
      InputError: The batch cannot be split over them, or too many images would be resident.
    """
    placement = placement_over(tpu.devices, batch_size)
    if resident:
        check_resident((resident, *shape))
    pixels = jax.ShapeDtypeStruct(Resident.laid_out((resident, *shape)), jnp.uint8)
    images = Resident(pixels, shape) if resident else None
    step = make_train_step(method, placement, images=images)
    rows = (batch_size,) if steps == 1 else (steps, batch_size)
    batch: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(rows, jnp.int32) for name in ("label", "index")
    }
    if not resident:
        batch["image"] = jax.ShapeDtypeStruct((*rows, *shape), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    begin = time.monotonic()
    try:
        with _quiet():
            program = step.lower(state_shapes(method), batch, key, steps).compile()
    except jax.errors.JaxRuntimeError as error:
        too_much = out_of_memory(str(error))
        if too_much is None:
            raise
        raise too_much from None
    found = cost_of(program, placement, time.monotonic() - begin)
    return found.of_each(steps), program.as_text() or ""


def out_of_memory(said: str) -> DoesNotFit | None:
    """Read the two numbers of the compiler's complaint; None: it complains of something else."""
    size = r"([\d.]+)([KMGT])"
    for form in (rf"Used {size} of {size} hbm", rf"\({size}\) exceeds available HBM \({size}\)"):
        if "RESOURCE_EXHAUSTED" in said and (found := re.search(form, said)):
            unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
            needs, has = float(found[1]) * unit[found[2]], float(found[3]) * unit[found[4]]
            return DoesNotFit(needs, has)
    return None


def cost_of(program: Any, placement: Placement, seconds: float = 0.0) -> Cost:
    """Read a compiled program's costs."""
    memory, cost, text = program.memory_analysis(), program.cost_analysis(), program.as_text()
    collectives = hlo.communication(text)
    return Cost(
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes,
        reused=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=hlo.multiplied(text),
        moved=hlo.moved(text),
        accessed=cost.get("bytes accessed", 0.0),
        collectives=collectives,
        sent=hlo.sent(collectives, placement.device_count),
        seconds=seconds,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep libtpu's warnings, which its C++ writes to the process's stderr, from the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
