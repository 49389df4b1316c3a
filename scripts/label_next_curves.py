"""How many labels each way to choose images needs for what random choice reaches.

    python scripts/label_next_curves.py RUN [--set unseen] [--at 300 1000] [--out FILE]

Takes one set of h of a finished run (of PlanktonSet's wide protocol: the unseen classes). For each
seed the images are split 70/30 by class. The 70 % are the pool: they get labels `--step` at a
time, chosen by `acquisition.propose`; after each step an SVC (RBF, C = 1, gamma = 1/d, on h
standardised by the labelled images) is scored by balanced accuracy on the 30 %. A class without a
label yet counts as wrong. Margin's first step is by clusters, as the program's default does it.

A seed's curve is made monotone (isotonic regression) and read where it crosses the accuracy that
random choice has on the same split with 300 and with 1,000 labels, the mean of its draws made
monotone too. Intervals are 95 % t intervals over the seeds.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis.acquisition import propose
from jaxssl.analysis.probes import one_thread
from jaxssl.analysis.sampling import stratified_sample
from jaxssl.analysis.tables import read_tables
from jaxssl.files import read_record, write_json

WAYS = ("random", "clusters", "margin", "coreset")


def accuracy(x: np.ndarray, labels: np.ndarray, known: np.ndarray, test: np.ndarray) -> float:
    """Score an SVC that learnt from the rows `known`: balanced accuracy on the rows `test`."""
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    scaler = StandardScaler().fit(x[known])
    if len(np.unique(labels[known])) < 2:
        return 1 / (labels.max() + 1)
    with one_thread():
        model = SVC(gamma="auto").fit(scaler.transform(x[known]), labels[known])
        guess = model.predict(scaler.transform(x[test]))
    right = np.bincount(labels[test], guess == labels[test])
    return float(np.mean(right / np.bincount(labels[test])))


def curve(
    x: np.ndarray, labels: np.ndarray, by: str, sizes: np.ndarray, seed: int, draw: int
) -> list[float]:
    """Label the pool of a seed step by step; return the accuracy at each size."""
    count = int(np.ceil(0.3 * len(labels)))
    test = stratified_sample(labels, count, np.random.default_rng([seed, 0]))
    pool = np.setdiff1d(np.arange(len(labels)), test)
    told = np.full(len(pool), -1)
    scores = []
    for position, size in enumerate(sizes):
        way = "clusters" if by == "margin" and position == 0 else by
        missing = int(size - (told >= 0).sum())
        chosen = propose(
            x[pool], told, missing, by=way, metric="angular", seed=seed * 1000 + draw * 100 + size
        )
        told[chosen.rows] = labels[pool[chosen.rows]]
        scores.append(accuracy(x, labels, pool[told >= 0], test))
    return scores


def monotone(sizes: np.ndarray, scores: Sequence[float]) -> np.ndarray:
    """Return the curve that never falls and is nearest to this one."""
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression().fit(sizes, scores).predict(sizes)


def crossing(sizes: np.ndarray, scores: Sequence[float], target: float) -> float:
    """Return how many labels a curve needs for an accuracy; infinite where it stays below."""
    smooth = monotone(sizes, scores)
    after = int(np.searchsorted(smooth, target))
    if after == len(sizes):
        return float("inf")
    if after == 0:
        return float(sizes[0])
    low, high = smooth[after - 1], smooth[after]
    return float(sizes[after - 1] + (target - low) / (high - low) * np.diff(sizes)[after - 1])


def interval(values: np.ndarray) -> dict[str, Any]:
    """Return the mean and its 95 % t interval, None where a seed's curve did not get there."""
    from scipy.special import stdtrit

    reached = int(np.isfinite(values).sum())
    if reached < len(values):
        return {"mean": None, "low": None, "high": None, "reached": reached, "seeds": len(values)}
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    ends = {"low": mean - float(half), "high": mean + float(half)}
    return {"mean": mean, **ends, "reached": reached, "seeds": reached}


def labels_needed(
    sizes: np.ndarray, curves: Mapping[str, Sequence[Sequence[float]]], at: Sequence[int]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Read every way's curves where they reach what random choice has: way -> labels -> interval.

    Args:
        sizes: Numbers of labels.
        curves: Way -> a curve a seed, "random" among them.
        at: Random choice's numbers of labels.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for by, made in curves.items():
        for n in at:
            goals = [monotone(sizes, one)[np.searchsorted(sizes, n)] for one in curves["random"]]
            values = [crossing(sizes, *pair) for pair in zip(made, goals, strict=True)]
            found.setdefault(by, {})[n] = interval(np.array(values))
    return found


def main() -> None:
    """Make the curves, read them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--set", default="unseen")
    parser.add_argument("--at", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--step", type=int, default=50)
    parser.add_argument("--most", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3, help="of random choice, a seed")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--out", default="")
    args = parser.parse_args()

    table = read_tables(args.run, embeddings=("h",))["h"][args.set].labelled
    x = np.asarray(table.vectors, np.float64)
    _, labels = np.unique(table.class_names, return_inverse=True)
    sizes = np.arange(args.step, args.most + 1, args.step)
    print(f"{len(x):,} images of {labels.max() + 1} classes, h of {x.shape[1]} numbers", flush=True)
    curves: dict[str, list[list[float]]] = {}
    for by in dict.fromkeys(["random", *args.ways]):
        draws = args.draws if by == "random" else 1
        for seed in range(args.seeds):
            begin = time.monotonic()
            made = [curve(x, labels, by, sizes, seed, draw) for draw in range(draws)]
            curves.setdefault(by, []).append(np.mean(made, axis=0).tolist())
            at = ", ".join(f"{n}: {curves[by][-1][n // args.step - 1]:.3f}" for n in args.at)
            print(f"{by} seed {seed}: {at}  ({time.monotonic() - begin:.0f} s)", flush=True)
    needed = labels_needed(sizes, curves, args.at)
    reached = {n: np.mean(curves["random"], axis=0)[n // args.step - 1] for n in args.at}
    print(
        "\nway       " + "".join(f"  labels for {a:.1%} (random's {n})" for n, a in reached.items())
    )
    for by, row in needed.items():
        cells = [
            f"{one['mean']:.0f} ({one['low']:.0f} to {one['high']:.0f})"
            if one["mean"] is not None
            else f"{one['reached']} of {one['seeds']} seeds get there"
            for one in row.values()
        ]
        print(f"{by:10}" + "".join(f"  {cell:32}" for cell in cells))
    if args.out:
        record = read_record(args.run)
        write_json(
            Path(args.out),
            {
                "what": __doc__.split("\n\n", 2)[2],
                "embedding": record["study"],
                "set": args.set,
                "images": len(x),
                "data": record.get("data"),
                "versions": record.get("versions"),
                "commit": record.get("commit"),
                "step": args.step,
                "sizes": sizes,
                "accuracy": curves,
                "random reaches": reached,
                "labels needed": needed,
            },
        )
        print(args.out)


if __name__ == "__main__":
    main()
