"""NT-Xent in value and gradient: this project's tiles, the whole matrix, and other libraries'.

  `python scripts/benchmarks/nt_xent.py --json nt_xent.json`

Rows are both views of a batch, of 128 numbers; temperature .5. What is absent (PyTorch,
pytorch-metric-learning) or needs more than --memory-gb is said so in the table. The largest cases
are left to those that can hold them: the matrix of 131,072 rows takes 69 GB.
"""

from __future__ import annotations

import argparse

import _measure
import jax.numpy as jnp
import numpy as np

from jaxssl.losses import nt_xent

TEMPERATURE = 0.5
ROWS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)
# The first that a contender is too slow or too large for, as FACTS of the field have it.
MOST_ROWS = {
    "whole matrix": 16384,
    "torch, dense": 16384,
    "optax": 1024,
    "pytorch-metric-learning": 1024,
}


def views(rows: int, d: int) -> np.ndarray:
    """Draw random projections, [2, rows / 2, d]."""
    return np.random.default_rng(0).normal(size=(2, rows // 2, d)).astype(np.float32)


def here(rows: int, d: int) -> _measure.Run:
    """Run as `nt_xent` chooses."""
    return _of_jax(rows, d, None)


def whole_matrix(rows: int, d: int) -> _measure.Run:
    """Run `nt_xent` as plain JAX: one product, a log-softmax, autodiff."""
    return _of_jax(rows, d, rows)


def _of_jax(rows: int, d: int, tile_size: int | None) -> _measure.Run:
    z = jnp.asarray(views(rows, d))
    return _measure.value_and_grad(
        lambda z: nt_xent(z[0], z[1], temperature=TEMPERATURE, tile_size=tile_size), z
    )


def of_optax(rows: int, d: int) -> _measure.Run:
    """Run `optax.losses.ntxent`, both views as one batch with labels."""
    import optax

    labels = jnp.tile(jnp.arange(rows // 2), 2)
    z = jnp.asarray(views(rows, d).reshape(rows, d))
    return _measure.value_and_grad(
        lambda z: optax.losses.ntxent(z, labels, temperature=TEMPERATURE), z
    )


def torch_dense(rows: int, d: int) -> _measure.Run:
    """Run the usual form in PyTorch: normalise, one product, cross entropy."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    z = torch.tensor(views(rows, d).reshape(rows, d), device=device, requires_grad=True)
    positives = torch.arange(rows, device=device).roll(rows // 2)
    diagonal = torch.eye(rows, dtype=torch.bool, device=device)

    def run() -> float:
        z.grad = None
        unit = torch.nn.functional.normalize(z, dim=1)
        logits = (unit @ unit.T / TEMPERATURE).masked_fill(diagonal, -torch.inf)
        loss = torch.nn.functional.cross_entropy(logits, positives)
        loss.backward()
        return loss.item()

    return run


def metric_learning(rows: int, d: int) -> _measure.Run:
    """Run pytorch-metric-learning's NTXentLoss."""
    import torch
    from pytorch_metric_learning.losses import NTXentLoss

    z = torch.tensor(views(rows, d).reshape(rows, d), requires_grad=True)
    labels = torch.arange(rows // 2).repeat(2)
    loss_of = NTXentLoss(temperature=TEMPERATURE)

    def run() -> float:
        z.grad = None
        loss = loss_of(z, labels)
        loss.backward()
        return loss.item()

    return run


CONTENDERS = {
    "here": here,
    "whole matrix": whole_matrix,
    "torch, dense": torch_dense,
    "optax": of_optax,
    "pytorch-metric-learning": metric_learning,
}
# Not imported within the memory measured.
LIBRARIES = {
    "torch, dense": ["torch"],
    "optax": ["optax"],
    "pytorch-metric-learning": ["pytorch_metric_learning"],
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="of both views together")
    parser.add_argument("--d", type=int, default=128, help="numbers of a row")
    _measure.add_flags(parser)
    options = parser.parse_args()
    results = []
    for rows in options.rows[:1] if options.quick else options.rows:
        contenders = [n for n in CONTENDERS if rows <= MOST_ROWS.get(n, rows)]
        results += _measure.measure(__file__, contenders, {"rows": rows, "d": options.d}, options)
    _measure.print_table(results, reference="here")
    _measure.write_json(options.json, options, results, reference="here")


if __name__ == "__main__":
    main()
