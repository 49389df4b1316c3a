"""A triplet network with online mining and a curriculum: one class near, the others far.

scikit-learn's digits, two minutes on two CPU cores:
  `python -m experiments.triplet`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.triplet --preset plankton-cpu --data-dir DIR`

The study's curriculum: easy positives and semi-hard negatives in epochs 0-9, easy and hard in
10-24, then hard and hard; validation is always hard and hard. On the wide protocol's ten unseen
classes, 8 epochs: 61.9 % with 300 labels (README).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from experiments import cli, networks, presets, study
from experiments.config import AtLeast0, AtLeast1, Between, EncoderConfig
from jaxssl import augment, losses, models, training

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class Triplet(EncoderConfig):
    """The triplet network's own flags."""

    margin: Annotated[AtLeast0[float], Between(0.1, 1.5)] = 0.5
    """In squared distance of unit vectors, which lies in 0 to 4."""
    hard_negatives_from: AtLeast0[int] = 10
    """First epoch with hard negatives; semi-hard ones before."""
    hard_positives_from: AtLeast0[int] = 25
    """First epoch with the farthest positive; the nearest before."""
    images_per_class: AtLeast0[int] = 32
    """K of the P classes x K images in a batch; 0: plain shuffling, as the study did."""
    batch_size: AtLeast1[int] = 128
    epochs: AtLeast1[int] = 35


PRESETS = presets.of(Triplet)


def make_method(config: Triplet, data: Data) -> training.Method:
    """Make the method: triplets mined in the step, of one random view of each image."""
    encoder, start, _ = networks.make_encoder(config)
    model = models.Embedder(encoder)  # the embedding is h itself

    def triplets(model: Any, images: Any, labels: Any, **policy: Any) -> Any:
        unit = training.unit_rows(model(images)[0])
        loss, stats = losses.triplet_loss_and_stats(unit, labels, margin=config.margin, **policy)
        return loss, {"margin": config.margin, **stats._asdict()}

    def loss(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        # Which triplets are mined is an array, not a string: the switch compiles nothing anew.
        epoch = step // data.steps_per_epoch
        return triplets(
            model,
            augment.view(key, batch["image"], data.recipe),
            batch["label"],
            positive=epoch >= config.hard_positives_from,
            negative=epoch >= config.hard_negatives_from,
        )

    def hardest(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        images = augment.to_float(batch["image"])
        return triplets(model, images, batch["label"], positive="hard", negative="hard")

    return training.Method(
        config.title,
        model,
        loss,
        networks.make_optimizer(config, data, model),
        # The hardest triplets' loss is lowest, the margin, where all points are one.
        best=("knn_accuracy", "max"),
        validate=hardest,
        sampling={"images_per_class": config.images_per_class or None},
        start=start,
        **networks.encoding(config, model),
    )


def main(config: Triplet) -> None:
    """Run it: data, method, training, embedding, report."""
    with study.open(config) as run:
        data = study.load(run, labels=True)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
