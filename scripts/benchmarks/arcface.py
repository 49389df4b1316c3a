"""ArcFace's loss in value and gradients for many classes: time and memory, one matrix and tiles.

On two CPU cores, some minutes and 4 GB of memory:
  `python scripts/benchmarks/arcface.py --json arcface.json`

Embeddings [128, 128], weights [classes, 128], gradients by both: that by the weights is as large as
they are (512 MB at 10⁶ classes), and so are the inputs; both are part of the memory shown.

  here          `arcface_loss` as it chooses
  here, dense   one matrix of all logits
  here, tiles   tiles of 4,096 classes
  PyTorch       the same loss by linear and cross_entropy, one matrix, float32

How it is measured: `_measure.py`.
"""

from __future__ import annotations

import argparse
import math

import jax
import numpy as np
from _measure import Run, add_flags, measure, print_table, value_and_grad, write_json

from jaxssl.losses import arcface_loss

MARGIN, SCALE = 0.5, 64.0


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    parser.add_argument("--classes", type=int, nargs="+", default=(10**3, 10**4, 10**5, 10**6))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--d", type=int, default=128, help="length of an embedding")
    options = parser.parse_args(arguments)
    results = []
    for classes in options.classes[:1] if options.quick else options.classes:
        case = {"classes": classes, "batch": options.batch, "d": options.d}
        results += measure(__file__, CONTENDERS, case, options)
    print_table(results, reference="here")
    write_json(options.json, options, results, reference="here")


def problem(classes: int, batch: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw embeddings near their class's weight; return them with weights and labels."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((classes, d), np.float32)
    labels = rng.integers(0, classes, batch)
    return weights[labels] + rng.standard_normal((batch, d), np.float32), weights, labels


def here(classes: int, batch: int, d: int, tile_size: int | None = None) -> Run:
    """Run this library."""
    arguments = jax.device_put(problem(classes, batch, d))
    options = {"margin": MARGIN, "scale": SCALE, "tile_size": tile_size}
    return value_and_grad(arcface_loss, *arguments, argnums=(0, 1), **options)


def dense(classes: int, batch: int, d: int) -> Run:
    """Run one tile."""
    return here(classes, batch, d, tile_size=classes)


def tiles(classes: int, batch: int, d: int) -> Run:
    """Run tiles that fit a CPU's cache."""
    return here(classes, batch, d, tile_size=4096)


def pytorch(classes: int, batch: int, d: int) -> Run:
    """Run PyTorch: logits as one matrix, with the same floor under the sine."""
    import torch
    from torch.nn import functional

    z, weights, labels = map(torch.from_numpy, problem(classes, batch, d))
    z.requires_grad_()
    weights.requires_grad_()
    row = torch.arange(batch)

    def run() -> float:
        cosines = functional.linear(functional.normalize(z), functional.normalize(weights))
        true = cosines[row, labels]
        sine = (1 - true**2).clamp_min(1e-7).sqrt()
        widened = torch.where(
            true > -math.cos(MARGIN),
            true * math.cos(MARGIN) - sine * math.sin(MARGIN),
            true - MARGIN * math.sin(MARGIN),
        )
        logits = SCALE * cosines.index_put((row, labels), widened)
        loss = functional.cross_entropy(logits, labels)
        z.grad = weights.grad = None
        loss.backward()
        return loss.item()

    return run


CONTENDERS = {"here": here, "here, dense": dense, "here, tiles": tiles, "PyTorch": pytorch}
LIBRARIES = {"PyTorch": ["torch"]}

if __name__ == "__main__":
    main()
