"""How many of the first suspects have a label that was corrupted on purpose.

    python scripts/suspects_precision.py RUN [--shares 0.05 0.2] [--seeds 3] [--most 6000]

Takes the tables of h of a finished run, gives a share of the labelled images another class drawn by
chance, and prints the precision at 50 and 200 of the suspects by their neighbours, of confident
learning, and of cleanlab where it is installed (given the same held-out probabilities): the mean
over the seeds, and the least and the most. A label that was wrong before counts as right, so that
the precision is a lower bound.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from jaxssl.analysis.confident import confident_learning, held_out_probabilities
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.sampling import stratified_sample
from jaxssl.analysis.suspects import disagreement, find_suspects
from jaxssl.analysis.tables import Together, read_tables, together
from jaxssl.files import read_object, read_record, write_json

FIRST = (50, 200)


def corrupted(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Give a share of the labels another class, each other one equally likely."""
    wrong, k = labels.copy(), labels.max() + 1
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    wrong[rows] = (labels[rows] + rng.integers(1, k, len(rows))) % k
    return wrong


def precisions(images: Together, share: float, seed: int) -> dict[str, list[float]]:
    """Corrupt, list, count: way -> precision at each of FIRST."""
    names = sorted(set(images.class_names))
    labels = np.array([names.index(name) for name in images.class_names])
    near = nearest_neighbours(
        images.vectors, images.vectors, count=10, metric=images.distance, exclude_self=True
    )
    wrong = corrupted(labels, share, np.random.default_rng(seed))
    bad = wrong != labels
    told = tuple(names[label] for label in wrong)
    row = {row_id: i for i, row_id in enumerate(images.ids)}
    listed = find_suspects(dataclasses.replace(images, class_names=told), *near)
    p = held_out_probabilities(images.vectors, wrong, seed=seed)
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
    return {name: [float(bad[order[:n]].mean()) for n in FIRST] for name, order in orders.items()}


def main() -> None:
    """Read the tables; a line for each share and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.2])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--most", type=int, default=0, help="images, drawn by class; 0: all")
    parser.add_argument("--out", default="", help="a JSON file; other runs in it stay")
    parser.add_argument("--name", default="", help="of the data in it; default: the run's folder")
    args = parser.parse_args()

    sets = read_tables(args.run, embeddings=("h",))["h"]
    every = [table.labelled for table in sets.values() if len(table.labelled)]
    names = np.concatenate([table.class_names for table in every])
    kept = np.arange(len(names))
    if 0 < args.most < len(names):
        _, labels = np.unique(names, return_inverse=True)
        kept = stratified_sample(labels, args.most, np.random.default_rng(0))
    starts = np.cumsum([0, *map(len, every)])
    images = together(
        {
            name: table.select(kept[(kept >= start) & (kept < start + len(table))] - start)
            for name, table, start in zip(sets, every, starts, strict=False)
        }
    )
    print(f"{len(images):,} images of {len(set(images.class_names))} classes", flush=True)
    head = "".join(f"  P@{n:<16}" for n in FIRST)
    print(f"{'corrupted':>9}  {'way':22}{head}")
    rows = []
    for share in args.shares:
        found = [precisions(images, share, seed) for seed in range(args.seeds)]
        for way in found[0]:
            values = np.array([one[way] for one in found])
            cells = [
                f"{mean:.3f} ({low:.3f}-{high:.3f})"
                for mean, low, high in zip(
                    values.mean(0), values.min(0), values.max(0), strict=True
                )
            ]
            print(f"{share:9.0%}  {way:22}" + "".join(f"  {c:20}" for c in cells), flush=True)
            rows.append({"corrupted": share, "way": way, "first": FIRST, "precision": values})
    if args.out:
        record = read_record(args.run)
        name = args.name or Path(args.run).name
        about = {
            "images": len(images),
            "classes": len(set(images.class_names)),
            "embedding": record["study"],
            "seeds": args.seeds,
            "data": record.get("data"),
            "versions": record.get("versions"),
            "commit": record.get("commit"),
            "rows": rows,
        }
        write_json(Path(args.out), read_object(Path(args.out)) | {name: about})


if __name__ == "__main__":
    main()
