"""Does SimCLR learn here what it learns in PyTorch? The same recipe there, on the same images.

The twin of a run, each library by its own random numbers, the first weights too:
  `python -m experiments.simclr --preset cifar10-cpu --optimizer sgd --learning-rate .12
  --weight-decay 5e-4 --head mlp-bn --run-dir RUN`
  `python -m experiments.linear_eval RUN --checkpoint last`
  `python scripts/benchmarks/learning.py RUN --seed 0 --json learning.json`

lightly's own recipe for CIFAR-10, a ResNet-18 for 200 epochs, on a GPU:
  `python scripts/benchmarks/learning.py --lightly --seed 0 --json lightly.json`

The same by this library, from the same first weights (`jax_simclr.py`):
  `python scripts/benchmarks/learning.py --lightly --here --seed 0 --json here.json`

All is judged by `jaxssl.analysis`: linear evaluation and kNN of h on the test images.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_simclr

from experiments import datasets, finished, simclr
from jaxssl.analysis import evaluation, probes
from jaxssl.data import ImageSet
from jaxssl.files import write_json
from jaxssl.training import runs

# What the recipe must be for its twin to be in `torch_simclr`.
KNOWN = {"head": "mlp-bn", "optimizer": "sgd", "schedule": "cosine", "views": "cifar"}


def main() -> None:
    """Train the twin of a run, or by lightly's recipe, and judge it."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side: Any = importlib.import_module("jax_simclr" if options.here else "torch_simclr")
    if options.lightly:
        settings = dataclasses.replace(simclr.PRESETS["cifar10"], data_dir=options.data_dir)
        recipe, data = torch_simclr.LIGHTLY, datasets.read(settings, options.seed)
    else:
        run = finished.open(options.run)
        recipe, data = twin_of(run.record["recipe"], options.run), run.load_data()
    if options.epochs:
        recipe = dataclasses.replace(recipe, epochs=options.epochs)
    sets = {"train": data.train, "val": data.val, "test": data.test}
    pixels = {name: _pixels(images) for name, images in sets.items()}
    labels = {name: images.labels for name, images in sets.items()}
    knn: dict[int, dict[str, float]] = {}
    h: dict[str, np.ndarray] = {}  # when it was last judged

    def judge(epoch: int, model: Any) -> None:
        h.update({name: side.features(model, x, recipe) for name, x in pixels.items()})
        knn[epoch] = {
            name: probes.knn_accuracy(h["train"], labels["train"], h[name], labels[name])
            for name in ("val", "test")
        }
        print(f"  kNN after {epoch} epochs: {knn[epoch]}", flush=True)
        if options.weights:  # a machine on loan may be gone before the end
            side.save(model, options.weights)

    every = options.judge_every or recipe.epochs
    judged = {*range(every, recipe.epochs, every), recipe.epochs}
    after = {epoch: functools.partial(judge, epoch) for epoch in judged}
    _, epochs = side.train(pixels["train"], recipe, seed=options.seed, device=device, after=after)
    found: dict[str, Any] = {
        "by": "this library" if options.here else "PyTorch",
        "recipe": dataclasses.asdict(recipe),
        "seed": options.seed,
        "data": data.fingerprint,
        "images": {name: len(x) for name, x in pixels.items()},
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "epochs": epochs,
        "knn": knn,
        **runs.provenance(),
    }
    if options.json:
        write_json(options.json, found)
    if not options.no_linear:
        row, _ = evaluation.evaluate(h, labels)
        print(f"{found['by']}: linear {row['linear']['top']}, kNN {row['knn']['top']}")
        if options.json:
            write_json(options.json, {**found, "row": row})


def parse() -> argparse.Namespace:
    """Parse the flags: a run, or --lightly and its images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", help="the run whose twin is trained")
    parser.add_argument("--lightly", action="store_true", help="its recipe, instead of a run's")
    parser.add_argument("--here", action="store_true", help="by this library, from torch's weights")
    parser.add_argument("--data-dir", default="", help="--lightly: the folder of TFDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="others than the recipe's")
    parser.add_argument("--judge-every", type=int, help="kNN after every so many epochs")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--no-linear", action="store_true", help="kNN alone")
    parser.add_argument(
        "--weights", type=Path, help="file for the network, as often as it is judged"
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    if bool(options.run) == options.lightly:
        parser.error("name a run or --lightly, one of the two")
    return options


def twin_of(config: dict[str, Any], name: str) -> torch_simclr.Recipe:
    """Make the recipe of a run, as PyTorch is told."""
    other = {key: config[key] for key, value in KNOWN.items() if config[key] != value}
    if other:
        raise SystemExit(f"{name} has {other}: there is a twin of {KNOWN}")
    fields = dataclasses.fields(torch_simclr.Recipe)
    asked = [field.name for field in fields if field.default is dataclasses.MISSING]
    return torch_simclr.Recipe(**{name: config[name] for name in asked})


def _pixels(images: ImageSet) -> np.ndarray:
    return np.stack([images.load(i) for i in range(len(images))])


if __name__ == "__main__":
    main()
