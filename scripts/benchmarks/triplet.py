"""Triplet losses in value and gradient: time and memory here, of a loop, and of PyTorch's library.

On two CPU cores, some minutes:
  `python scripts/benchmarks/triplet.py --json triplet.json`

Unit embeddings [rows, 128], classes of 8 rows, margin 0.5. Three questions, each among those that
can answer it:
  easy, semi-hard   nearest positive; nearest negative beyond it and within the margin
  hard, hard        farthest positive, nearest negative
  all               every triplet above 0, averaged over them

  here              `triplet_loss` and `batch_all_triplet_loss` as they choose
  here, dense       one matrix of all distances
  here, tiles       tiles of 128 anchors
  loop              the original study's mining, written anew from its description: a Python loop
                    over the anchors with PyTorch on each one's row of the matrix of distances, of
                    which each adds its two to the loss; of several semi-hard negatives it takes
                    the first, not the nearest
  loop, kind        the same loop without gradient, which only collects the triplets, and one loss
                    for all of them
  PML               pytorch-metric-learning: BatchHardMiner and TripletMarginLoss; for all triplets
                    the loss alone (absent unless installed: pip install pytorch-metric-learning)

How it is measured: `_measure.py`.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
from _measure import Run, add_flags, measure, print_table, value_and_grad, write_json

from jaxssl.losses import batch_all_triplet_loss, triplet_loss

MARGIN = 0.5
SIZES = (128, 1024, 8192)
POLICIES = ("easy, semi-hard", "hard, hard", "all")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="multiples of 8")
    parser.add_argument("--d", type=int, default=128, help="length of an embedding")
    options = parser.parse_args(arguments)
    results = []
    for policy in POLICIES:
        others = ["PML"] * (policy != "easy, semi-hard")
        others += ["loop", "loop, kind"] * (policy != "all")
        for rows in options.rows[:1] if options.quick else options.rows:
            case = {"policy": policy, "rows": rows, "d": options.d}
            names = ["here", "here, dense", "here, tiles", *others]
            results += measure(__file__, names, case, options)
    print_table(results, reference="here")
    write_json(options.json, options, results, reference="here")


def batch(rows: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw unit embeddings, about as far apart as those of a network that has learned something."""
    rng = np.random.default_rng(0)
    labels = np.arange(rows) // 8
    centres = rng.normal(size=(labels[-1] + 1, d))
    z = centres[labels] + 2.0 * rng.normal(size=(rows, d))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32), labels


def here(policy: str, rows: int, d: int, tile_size: int | None = None) -> Run:
    """Run this library."""
    z, labels = jax.device_put(batch(rows, d))
    options = {"margin": MARGIN, "tile_size": tile_size}
    if policy == "all":
        return value_and_grad(batch_all_triplet_loss, z, labels, **options)
    positive, negative = policy.split(", ")
    return value_and_grad(triplet_loss, z, labels, positive=positive, negative=negative, **options)


def dense(policy: str, rows: int, d: int) -> Run:
    """Run one tile."""
    return here(policy, rows, d, tile_size=rows)


def tiles(policy: str, rows: int, d: int) -> Run:
    """Run tiles that fit a CPU's cache."""
    return here(policy, rows, d, tile_size=128)


def loop(policy: str, rows: int, d: int, kind: bool = False) -> Run:
    """Run the study's way, over anchors."""
    import torch

    z, labels = map(torch.from_numpy, batch(rows, d))
    z.requires_grad_()
    hard = policy == "hard, hard"

    def triplet(anchor: int, distances: torch.Tensor) -> tuple[int, int] | None:
        """Mine positive and negative of one anchor, from its row of distances."""
        same = labels == labels[anchor]
        negatives = torch.nonzero(~same)[:, 0]
        same[anchor] = False
        positives = torch.nonzero(same)[:, 0]
        if len(positives) == 0 or len(negatives) == 0:
            return None
        to_positives, to_negatives = distances[positives], distances[negatives]
        d_ap, i = to_positives.max(0) if hard else to_positives.min(0)
        fit = negatives[(d_ap < to_negatives) & (to_negatives < d_ap + MARGIN)]
        nearest = negatives[to_negatives.argmin()]
        return int(positives[i]), int(nearest if hard or len(fit) == 0 else fit[0])

    def squared_distances() -> torch.Tensor:
        squares = (z * z).sum(1)
        return squares[:, None] + squares[None, :] - 2 * z @ z.T

    def loss_of_each() -> torch.Tensor:
        distances, losses = squared_distances(), []
        for anchor in range(rows):
            if (chosen := triplet(anchor, distances.detach()[anchor])) is not None:
                d_ap, d_an = (distances[anchor, i] for i in chosen)
                losses.append(torch.relu(d_ap - d_an + MARGIN))
        return torch.stack(losses).mean()

    def loss_of_all() -> torch.Tensor:
        distances = squared_distances().detach()
        chosen = [(a, triplet(a, distances[a])) for a in range(rows)]
        indices = torch.tensor([(a, *pair) for a, pair in chosen if pair is not None])
        anchors, positives, negatives = (z[column] for column in indices.T)
        d_ap, d_an = ((anchors - x).square().sum(1) for x in (positives, negatives))
        return torch.relu(d_ap - d_an + MARGIN).mean()

    def run() -> float:
        loss = loss_of_all() if kind else loss_of_each()
        z.grad = None
        loss.backward()
        return loss.item()

    return run


def kind_loop(policy: str, rows: int, d: int) -> Run:
    """Run mining and loss apart."""
    return loop(policy, rows, d, kind=True)


def metric_learning(policy: str, rows: int, d: int) -> Run:
    """Run pytorch-metric-learning, with the same distances and means."""
    import torch
    from pytorch_metric_learning import distances, losses, miners, reducers

    z, labels = map(torch.from_numpy, batch(rows, d))
    z.requires_grad_()
    squared = distances.LpDistance(p=2, power=2, normalize_embeddings=False)
    everything = policy == "all"
    reducer = reducers.AvgNonZeroReducer() if everything else reducers.MeanReducer()
    loss_of = losses.TripletMarginLoss(margin=MARGIN, distance=squared, reducer=reducer)
    mine = miners.BatchHardMiner(distance=squared)

    def run() -> float:
        loss = loss_of(z, labels, None if everything else mine(z, labels))
        z.grad = None
        loss.backward()
        return loss.item()

    return run


CONTENDERS = {
    "here": here,
    "here, dense": dense,
    "here, tiles": tiles,
    "loop": loop,
    "loop, kind": kind_loop,
    "PML": metric_learning,
}
LIBRARIES = {
    "loop": ["torch"],
    "loop, kind": ["torch"],
    "PML": ["torch", "pytorch_metric_learning"],
}

if __name__ == "__main__":
    main()
