"""Linear evaluation: what the frozen network of a finished run knows of the classes.

`python -m experiments.linear_eval runs/simclr-digits-...`

On other labelled images than the run's, which are split as a study of them would be:
  `python -m experiments.linear_eval RUN --data-dir OTHER`, where needed `--labels-from TABLE`

Features of training, validation and test images, then on them a linear classifier
trained to convergence and a weighted kNN (k = 200, T = .1), beside the same network with random
weights and raw pixels. `--checkpoint all` adds the accuracy over epochs, of the checkpoints that
the run kept (`--keep-every` of the training programs).
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from experiments import cli, datasets, elsewhere, finished, study
from experiments.config import AtLeast0, AtLeast1, Devices, Elsewhere, Share
from jaxssl import data as images_room
from jaxssl import models, training

if TYPE_CHECKING:
    from experiments.finished import Finished
    from jaxssl.data import ImageSet
    from jaxssl.training import TrainState
    from jaxssl.training.method import Output

    Sets = dict[str, ImageSet]
    Features = dict[str, np.ndarray]

# Images for the accuracy over epochs: within a per cent, in seconds a checkpoint.
FEW = {"train": 5000, "val": 1000, "test": 2000}


@dataclasses.dataclass(frozen=True)
class LinearEval(Devices, Elsewhere):
    """The flags of linear evaluation."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    layer: str = "h"
    """h, the encoder's output; z, the head's; or a layer by the path that describe prints, whose
    maps give their mean."""
    checkpoint: str = "best"
    """best (on validation), last, a step, or all: the best, and the accuracy over epochs."""
    average_views: AtLeast1[Literal[1, 2, 4, 8] | None] = None
    """Average over the image turned by right angles (4) and mirrored too (8; 2: mirrored alone);
    takes as many times as long. Default: as the run was judged."""
    label_fraction: Share[float] = 1.0
    """Of the training labels, by class."""
    seed: AtLeast0[int] = 0
    """Of the labels drawn, the maps and the images shown."""
    out: str = ""
    """Folder of numbers and page. Default: RUN/linear_eval; of other images
    RUN/linear_eval/other/<name of DIR>."""
    method: str | None = None
    """The Python file of a run whose method is not of this package; it is run."""


def output_of(run: Finished, layer: str) -> Output:
    """Make `(model, images) -> features [b, d]` of a layer by its name."""
    if layer == "h":
        return run.method.encode
    if layer == "z":
        return lambda model, images: model(images)[1]
    return models.layer_output(run.method.model, layer)


def main(config: LinearEval) -> None:
    """Evaluate: run, images, features, numbers, page."""
    study.start_devices(config)
    run = finished.open(config.run_dir, method=config.method)
    import jax

    from jaxssl import embedding
    from jaxssl.analysis import evaluation, neighbours
    from jaxssl.training import devices, runs

    # Run and images.
    begin = time.monotonic()
    every = run.steps() if config.checkpoint == "all" else []
    step = run.step("best" if every else config.checkpoint)
    placement = training.data_placement(jax.device_count())
    views = run.views(config.average_views)
    output = models.average_views(output_of(run, config.layer), views)
    encode = embedding.compile_output(run.method.model, output, placement)
    state, untrained = run.restore(step, placement), run.untrained(placement)
    judged = elsewhere.judged_on(run, config)
    data = datasets.only_labelled(judged.data, "linear_eval")
    fraction = config.label_fraction
    labelled = datasets.with_label_fraction(data, fraction, seed=config.seed).train
    sets = {"train": labelled, "val": data.val, "test": data.test}

    # Features and numbers, of the network and of the baselines.
    def features(state: TrainState, sets: Sets) -> Features:
        return {
            n: embedding.embed_set(encode, state, x, placement, title=n) for n, x in sets.items()
        }

    many = sum(map(len, sets.values()))
    print(f"embedding {many:,} images, by this network and the untrained one ...", flush=True)
    vectors, random = features(state, sets), features(untrained, sets)
    print("linear classifiers, to convergence ...", flush=True)
    row, scores = evaluation.evaluate(vectors, _labels(sets))
    pixels = {name: images_room.raw_pixels(images) for name, images in sets.items()}
    rows = [
        {"embedding": config.layer, **row},
        {"embedding": "untrained", **_row(random, sets)},
        {"embedding": "raw_pixels", **_row(pixels, sets)},
    ]
    near = neighbours.find(
        vectors["test"], vectors["train"], test=data.test, train=labelled, seed=config.seed
    )
    few = _few(sets, config.seed)
    epochs = []
    for at in [0, *every] if every else []:
        row = _row(features(run.restore(at, placement) if at else untrained, few), few)
        top = {name: row[name]["top"]["1"] for name in ("linear", "knn")}
        epochs.append({"step": at, "epoch": run.epoch(at), **top})
        print(f"  step {at}: linear {top['linear']:.1%}, kNN {top['knn']:.1%}", flush=True)

    # Results and page.
    chosen = "best" if every else config.checkpoint
    about = {
        "dataset": judged.images.dataset,
        "encoder": run.record["config"].get("encoder"),
        **judged.about,
        **{
            name: getattr(config, name)
            for name in ("layer", "average_views", "label_fraction", "seed")
        },
        "run": run.folder.resolve().name,
        "checkpoint": f"{chosen}: step {step}, epoch {run.epoch(step):.4g}",
        "images": {name: len(images) for name, images in sets.items()},
    }
    page = evaluation.write(
        _place(config, run, judged),
        {
            "protocol": about,
            "rows": rows,
            "classification": evaluation.classification(
                scores, data.test.labels, data.test.class_names
            ),
            "epochs": epochs,
            "neighbours": near.record(),
            "wall_seconds": {"evaluation": time.monotonic() - begin},
            "trained_by": run.record,
            "devices": devices.summary(),
        }
        | runs.provenance(),
        title=f"Linear evaluation of {run.title}"
        + (f", judged on {judged.about['judged_on']}" if judged.about else ""),
        points=evaluation.maps(vectors["test"], data.test.labels, seed=config.seed),
        names=[data.test.class_names[label] for label in data.test.labels],
        neighbours=near,
    )
    print(evaluation.headline(rows))
    print(f"page: {page}")


def _place(config: LinearEval, run: Finished, judged: elsewhere.Judged) -> Path:
    """Return the folder of the results: other images have one of their own."""
    if config.out:
        return Path(config.out).expanduser()
    folder = run.folder / "linear_eval"
    if not judged.about:
        return folder
    images = judged.images
    named = images.dataset == "folder"
    return folder / "other" / (datasets.name_of(images.data_dir) if named else images.dataset)


def _row(vectors: Features, sets: Sets) -> dict[str, Any]:
    from jaxssl.analysis import evaluation

    return evaluation.evaluate(vectors, _labels(sets))[0]


def _labels(sets: Sets) -> dict[str, np.ndarray]:
    return {name: images.labels for name, images in sets.items()}


def _few(sets: Sets, seed: int) -> Sets:
    """Draw a part of the images, the same for every checkpoint."""
    from jaxssl.analysis.sampling import stratified_sample

    def part(images: ImageSet, limit: int) -> ImageSet:
        count = min(limit, len(images))
        rows = stratified_sample(images.labels, count, np.random.default_rng(seed))
        return images.subset(rows)

    return {name: part(images, FEW[name]) for name, images in sets.items()}


if __name__ == "__main__":
    cli.run(main, {"linear_eval": LinearEval()})
