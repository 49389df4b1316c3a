"""How long each form of a convolution takes on a CPU, and what the rule's choice loses.

  `python scripts/benchmarks/forms.py --json forms.json`

Of one core, as where each is a device of its own; `--cores 8` of a device that has eight.
`models.convolution` and `models.winograd.best_tile` choose by a count of the work, in constants
that are of two processors: on another look here first. A layer is [images, side, channels of the
input, of the result, side of the kernel, stride]; milliseconds are lower quartiles.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl import lowering
from jaxssl.models import convolution, onednn, phases, winograd
from jaxssl.training.runs import provenance

Layer = tuple[int, int, int, int, int, int]
LAYERS: list[Layer] = [
    # ResNet-18 at 128 px, 8 images: a core's half of 16.
    (8, 32, 64, 64, 3, 1),
    (8, 16, 128, 128, 3, 1),
    (8, 8, 256, 256, 3, 1),
    (8, 4, 512, 512, 3, 1),
    (8, 8, 256, 512, 3, 2),
    # More and fewer images, and images whose maps end small.
    (4, 4, 512, 512, 3, 1),
    (16, 4, 512, 512, 3, 1),
    (64, 2, 512, 512, 3, 1),
    (128, 1, 512, 512, 3, 1),
    (32, 6, 256, 256, 3, 1),
    (16, 10, 128, 128, 3, 1),
    # ResNet-18 of width 16 at 32 px.
    (256, 32, 16, 16, 3, 1),
    (256, 16, 32, 32, 3, 1),
    (256, 8, 64, 64, 3, 1),
    (256, 4, 128, 128, 3, 1),
    # Stems: of a ResNet, of the small network, of ResNet-18 of width 16 at 32 px.
    (8, 128, 3, 64, 7, 2),
    (8, 128, 3, 32, 3, 2),
    (256, 32, 3, 16, 3, 1),
    # The small network's second layer.
    (8, 64, 32, 64, 3, 2),
    # 1x1, of ResNet-50.
    (8, 4, 512, 2048, 1, 1),
    (8, 8, 1024, 2048, 1, 2),
]
WORKS = ("forward", "gradient by the input", "by the kernel")


def forms(
    work: str, reach: int, strides: tuple[int, int], padding: Any
) -> dict[str, Callable[..., Any]]:
    """Name the forms of (x, kernel, gradient) for a kernel's side, "here" what the rule takes."""
    how = {"strides": strides, "padding": padding}

    def by(form: Callable[..., jax.Array], argument: int) -> Callable[..., Any]:
        def derived(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
            return jax.vjp(lambda *both: form(*both, **how), x, kernel)[1](gradient)[argument]

        return derived

    windows, xla = convolution._by_windows, convolution._xla
    tiles = {
        f"tiles of {m}": functools.partial(_in_tiles, work=work, padding=padding, tile=m)
        for m in winograd.POINTS
        if (reach, *strides) == (3, 1, 1)
    }
    if work == "forward":
        return {
            "here": lambda x, kernel, _: convolution.convolve(x, kernel, **how),
            "oneDNN": lambda x, kernel, _: onednn.convolve(x, kernel, **how),
            "windows": lambda x, kernel, _: windows(x, kernel, **how),
            **tiles,
            "XLA": lambda x, kernel, _: xla(x, kernel, **how),
        }
    if work == WORKS[1]:
        turned = functools.partial(_turned, **how)
        return {
            "here": by(convolution.convolve, 0),
            "oneDNN": turned,
            "windows": by(windows, 0),
            **tiles,
            "XLA": by(xla, 0),
        }
    own = {
        "windows, a few images": convolution._of_windows,
        "columns and rows": convolution._of_columns_and_rows,
        "the gradient as a kernel": convolution._by_the_gradient,
    }
    return {
        "here": by(convolution.convolve, 1),
        "windows": by(windows, 1),
        **{
            name: lambda x, kernel, gradient, form=form: form(
                x, gradient, kernel.shape[:2], strides, padding
            )
            for name, form in own.items()
        },
        **tiles,
        "XLA": by(xla, 1),
    }


def _in_tiles(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, work: str, padding: Any, tile: int
) -> jax.Array:
    if work == "forward":
        return winograd.convolve(x, kernel, padding, tile)
    if work == WORKS[1]:
        return winograd.by_input(x, kernel, gradient, padding, tile)
    return winograd.by_filter(x, gradient, padding, tile)


def _turned(x: jax.Array, kernel: jax.Array, gradient: jax.Array, **how: Any) -> jax.Array:
    def one(*of: Any) -> jax.Array:
        return onednn.convolve(*of, (1, 1), "HWOI")

    return phases.by_input(one, kernel, gradient, x.shape[1:], how["strides"], how["padding"])


def milliseconds(form: Callable[..., Any], arrays: Sequence[jax.Array], calls: int) -> float:
    """Time a form: the lower quartile of calls, since others run on the machine too."""
    compiled = jax.jit(form)
    jax.block_until_ready(compiled(*arrays))
    took = []
    for _ in range(calls):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        took.append(time.perf_counter() - begin)
    return 1e3 * float(np.quantile(took, 0.25))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--cores", type=int, default=1, help="that one device has")
    parser.add_argument("--calls", type=int, default=25, help="of each form")
    parser.add_argument("--quick", action="store_true", help="a small layer, to try the script")
    options = parser.parse_args()
    if not lowering.has_onednn():
        raise SystemExit("forms are compared where jaxlib carries oneDNN: Linux on x86-64")
    # JAX makes its threads by what the process may use when it computes first.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    lowering.CORES = options.cores
    layers, calls = ([(2, 4, 8, 8, 3, 1)], 2) if options.quick else (LAYERS, options.calls)
    random, found = np.random.default_rng(0), []
    print("| layer | | here | the others, ms | here / quickest |\n|---|---|---|---|---|")
    for layer in layers:
        images, side, channels, out, reach, stride = layer
        strides, padding = (stride, stride), ((reach // 2, reach // 2),) * 2
        x, kernel = (
            jnp.asarray(random.standard_normal(shape, np.float32))
            for shape in ((images, side, side, channels), (reach, reach, channels, out))
        )
        gradient = jnp.ones(convolution.convolved_shape(x, kernel, strides, padding))
        for work in WORKS:
            took = {
                name: milliseconds(form, (x, kernel, gradient), calls)
                for name, form in forms(work, reach, strides, padding).items()
            }
            loss = took["here"] / min(took.values())
            others = "; ".join(f"{name} {ms:.2f}" for name, ms in took.items() if name != "here")
            print(f"| {layer} | {work} | {took['here']:.2f} | {others} | {loss:.2f} |", flush=True)
            found.append({"layer": layer, "work": work, "ms": took})
    if options.json:
        record = {**provenance(), "cores": lowering.CORES, "rows": found}
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
