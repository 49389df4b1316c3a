"""A step compiled for TPUs that are not here: what it needs of a chip, and what bounds it.

libtpu compiles for a topology that is only described; on any machine, `pip install "jax[tpu]"`.
It reads the environment as it is loaded: `python -m experiments.compile` sets what it needs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
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
from jaxssl.training.devices import Placement, Resident, placement_over
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


# cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, "key chip specifications", read in November 2026.
CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1200e9, 2400e9 / 8, cores_named=2, torus=3),
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 1600e9 / 8, cores_named=1, torus=2),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 4800e9 / 8, cores_named=2, torus=3),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 3584e9 / 8, cores_named=1, torus=2),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """TPU chips, described.

    Attributes:
      name: As it was asked for, such as "v5e-8".
      kind: A name in `CHIPS`.
      chips: How many.
      devices: What JAX sees of them: one a chip, on v4 one a core.
    """

    name: str
    kind: str
    chips: int
    devices: Sequence[Any]

    @property
    def device(self) -> Chip:
        """The figures of one of the devices."""
        chip, share = CHIPS[self.kind], self.chips / len(self.devices)
        return chip._replace(
            flops=share * chip.flops,
            memory=share * chip.memory,
            bandwidth=share * chip.bandwidth,
            links=share * chip.links,
        )


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
        super().__init__(f"needs {needs / 2**30:.1f} of {has / 2**30:.2f} GiB")
        self.needs, self.has = needs, has


def describe_slice(name: str) -> Slice:
    """Describe TPU chips by the name under which they are rented: "v5e-1", "v6e-8", "v5p-8".

    The number counts chips; of v4 and v5p, cores, two a chip. One chip alone is "v4-2", "v5p-2".

    Raises:
      InputError: no such kind, a number that is no slice, or no compiler for TPUs here.
    """
    found = re.fullmatch(r"(v\d[ep]?)-(\d+)", name)
    if found is None or found[1] not in CHIPS:
        raise InputError(
            f"{name!r} is no TPU: name one of {', '.join(CHIPS)} and a number, such as v5e-1, "
            "v5e-8, v6e-8 or v5p-8"
        )
    kind, number = found[1], int(found[2])
    chips, rest = divmod(number, CHIPS[kind].cores_named)
    if rest or chips not in (1, *(2**k for k in range(2, 9))):
        sizes = [CHIPS[kind].cores_named * n for n in (1, *(2**k for k in range(2, 9)))]
        raise InputError(f"{name}: {kind} comes in {', '.join(map(str, sizes))}")
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
    method: Method, shape: tuple[int, int, int], batch_size: int, tpu: Slice, resident: int = 0
) -> tuple[Cost, str]:
    """Compile a method's training step as it would run on TPU chips; nothing is allocated.

    Args:
      method: Its model may be shapes alone, from `nnx.eval_shape`.
      shape: (h, w, c) of an image.
      batch_size: The global batch.
      tpu: From `describe_slice`.
      resident: How many training images live on every device; 0: batches bring theirs.

    Returns:
      What a step costs each device; the program's text.

    Raises:
      DoesNotFit: The chips have too little memory.
      InputError: The batch cannot be split over them.
    """
    placement = placement_over(tpu.devices, batch_size)
    pixels = jax.ShapeDtypeStruct((resident, math.prod(shape)), jnp.uint8)
    images = Resident(pixels, shape) if resident else None
    step = make_train_step(method, placement, images=images)
    batch: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((batch_size,), jnp.int32) for name in ("label", "index")
    }
    if not resident:
        batch["image"] = jax.ShapeDtypeStruct((batch_size, *shape), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    begin = time.monotonic()
    try:
        with _quiet():
            program = step.lower(state_shapes(method), batch, key).compile()
    except jax.errors.JaxRuntimeError as error:
        too_much = out_of_memory(str(error))
        if too_much is None:
            raise
        raise too_much from None
    return cost_of(program, placement, time.monotonic() - begin), program.as_text() or ""


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
