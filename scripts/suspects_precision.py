"""How many of the first suspects have a label that was corrupted on purpose.

    python scripts/suspects_precision.py RUN [--shares 0.05 0.2] [--seed 0]

Takes the tables of h of a finished run, gives a share of the labelled images another class drawn by
chance, and prints the precision at 50 and 200 of the suspects by their neighbours, of confident
learning, and of cleanlab where it is installed. A label that was wrong before counts as right, so
that the precision is a lower bound.
"""

import argparse
import dataclasses

import numpy as np

from jaxssl.analysis.confident import confident_learning, held_out_probabilities
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.suspects import disagreement, find_suspects
from jaxssl.analysis.tables import read_tables, together

FIRST = (50, 200)


def corrupted(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Give a share of the labels another class, each other one equally likely."""
    wrong, k = labels.copy(), labels.max() + 1
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    wrong[rows] = (labels[rows] + rng.integers(1, k, len(rows))) % k
    return wrong


def main() -> None:
    """Corrupt, list, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.2])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    sets = read_tables(args.run, embeddings=("h",))["h"]
    images = together({name: t.labelled for name, t in sets.items() if len(t.labelled)})
    names = sorted(set(images.class_names))
    labels = np.array([names.index(name) for name in images.class_names])
    near = nearest_neighbours(
        images.vectors, images.vectors, count=10, metric=images.distance, exclude_self=True
    )
    print(f"{len(images):,} images of {len(names)} classes")
    print(f"{'corrupted':>9}  {'method':34}" + "".join(f"  P@{n:<4}" for n in FIRST))
    for share in args.shares:
        wrong = corrupted(labels, share, np.random.default_rng(args.seed))
        bad = wrong != labels
        told = tuple(names[label] for label in wrong)
        row = {row_id: i for i, row_id in enumerate(images.ids)}
        listed = find_suspects(dataclasses.replace(images, class_names=told), *near)
        p = held_out_probabilities(images.vectors, wrong, seed=args.seed)
        suspect, _, margin = confident_learning(wrong, p)
        orders = {
            "the list of suspects": np.array([row[one.id] for one in listed], int),
            "neighbours alone": np.argsort(-disagreement(wrong, *near)[0], kind="stable"),
            "confident learning": np.lexsort((margin, ~suspect)),
        }
        try:
            from cleanlab.filter import find_label_issues

            orders["cleanlab"] = find_label_issues(
                wrong, p, return_indices_ranked_by="normalized_margin"
            )
        except ImportError:
            pass
        for name, order in orders.items():
            scores = "".join(f"  {bad[order[:n]].mean():6.3f}" for n in FIRST)
            print(f"{share:9.0%}  {name:34}{scores}")


if __name__ == "__main__":
    main()
