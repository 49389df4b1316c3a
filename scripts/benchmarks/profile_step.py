"""Where a training step of an encoder spends its time on a CPU, operation by operation.

  `python scripts/benchmarks/profile_step.py efficientnet_lite0 --pixels 128 --images 16`

Of three steps under JAX's profiler: each compiled operation with its time in a step, its shape and
the line of JAX that it came from, and the same added up by kind. Operations run side by side on
several cores, so that they add up to more than the step. An operation that moves few numbers and
takes long is one that XLA makes badly: so BatchNorm's, max-pooling's and 1x1 convolutions'
gradients were found. What oneDNN is called for is in neither the profile nor XLA's names: it says
itself how long each call took (ONEDNN_VERBOSE), on how large maps (mb: images, ic, oc: channels,
ih, oh: sides, kh: the kernel's) or matrices. What is twice here was computed twice: so the copies
of maps were found that XLA made for loops.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Before oneDNN is called first.
os.environ.setdefault("ONEDNN_VERBOSE", "profile_exec")

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models import ENCODERS, keep_statistics, make_encoder

STEPS = 3


def main() -> None:
    """Profile a step and print what took longest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("encoder", choices=sorted(ENCODERS))
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--kept", action="store_true", help="BatchNorm keeps its statistics")
    parser.add_argument("--top", type=int, default=30)
    options = parser.parse_args()
    more = {"width": options.width} if options.encoder.startswith("resnet") else {}
    model = make_encoder(
        options.encoder, image_size=options.pixels, channels=3, rngs=nnx.Rngs(0), **more
    )
    if options.kept:
        keep_statistics(model)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x = jax.random.uniform(jax.random.key(0), (options.images, options.pixels, options.pixels, 3))

    @jax.jit
    def step(params: nnx.State) -> nnx.State:
        def loss(params: nnx.State) -> jax.Array:
            return jnp.mean(nnx.merge(graphdef, params, rest, copy=True)(x) ** 2)

        gradient = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)

    compiled = step.lower(params).compile()
    said: list[str] = []
    with _standard_output([]):
        jax.block_until_ready(compiled(params))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with _standard_output(said), jax.profiler.trace(folder):
            for _ in range(STEPS):
                jax.block_until_ready(compiled(params))
        seconds = (time.perf_counter() - begin) / STEPS
        found = _times(next(Path(folder).rglob("*.xplane.pb")))
    _print(found, _calls(said), compiled.as_text() or "", seconds, options.top)


@contextlib.contextmanager
def _standard_output(lines: list[str]) -> Iterator[None]:
    """Keep what libraries print there, not only Python."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+") as file:
        libc.fflush(None)
        before = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(before, 1)
            os.close(before)
        file.seek(0)
        lines += file.read().splitlines()


def _calls(lines: list[str]) -> dict[tuple[str, str], float]:
    """Add up the milliseconds of oneDNN's calls of one kind and one shape in a step."""
    milliseconds: dict[tuple[str, str], float] = collections.defaultdict(float)
    for line in lines:
        if line.startswith("onednn_verbose") and ",primitive,exec," in line:
            fields = line.split(",")
            milliseconds[f"oneDNN {fields[5]}", fields[-2]] += float(fields[-1]) / STEPS
    return milliseconds


def _times(trace: Path) -> dict[str, float]:
    """Add up the milliseconds of every operation in a step."""
    milliseconds: dict[str, float] = collections.defaultdict(float)
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                milliseconds[event.name] += event.duration_ns / 1e6 / STEPS
    return milliseconds


def _print(
    found: dict[str, float],
    calls: dict[tuple[str, str], float],
    program: str,
    seconds: float,
    top: int,
) -> None:
    """Print the operations of a program by their times."""
    lines = re.findall(r"^ *(?:ROOT )?%?([\w.\-]+) = (\S+) (.*)$", program, re.MULTILINE)
    rows = [(took, name, shape, "", name) for (name, shape), took in calls.items()]
    for name, shape, rest in lines:
        if name in found:
            origin = (re.findall(r'op_name="([^"]*)"', rest) or ["-"])[0]
            rows.append((found[name], name, shape, origin, re.sub(r"[.\d]+$", "", name)))
    kinds: dict[tuple[str, str, str], float] = collections.defaultdict(float)
    print(f"a step under the profiler: {1e3 * seconds:.0f} ms\n\n ms, operation, shape, from")
    for rank, (took, name, shape, origin, kind) in enumerate(sorted(rows, reverse=True)):
        way = "backward" if "transpose(" in origin else "forward" if origin else "both"
        kinds[way, kind, origin.rpartition("/")[2]] += took
        if rank < top:
            print(f"{took:6.1f}  {name:32} {shape:32} {origin[-60:]}")
    print(f"\nby kind, {sum(kinds.values()):.0f} ms in all")
    for kind in sorted(kinds, key=kinds.__getitem__, reverse=True)[:top]:
        print(f"{kinds[kind]:6.1f}  {kind[0]:8} {kind[1]:32} {kind[2]}")


if __name__ == "__main__":
    main()
