"""ArcFace and CosFace: a classifier on angles, with a margin that draws each class together.

scikit-learn's digits, two minutes on two CPU cores:
  `python -m experiments.arcface`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.arcface --preset plankton-cpu --data-dir DIR`

`--kind cosface`: on the wide protocol's ten unseen classes, 70.2 % with 300 labels (README).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from experiments import cli, networks, presets, study
from experiments.config import AtLeast0, AtLeast1, Between, EncoderConfig, Positive
from jaxssl import augment, losses, models, training
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class ArcFace(EncoderConfig):
    """ArcFace's own flags."""

    kind: Literal["arcface", "cosface"] = "arcface"
    """The margin widens the angle to the true class (ArcFace) or lowers its cosine (CosFace)."""
    margin: Annotated[AtLeast0[float | None], Between(0.1, 0.8)] = None
    """In radians (ArcFace; default .5), or in cosine (CosFace; default .35)."""
    scale: Annotated[Positive[float], Between(4, 64, log=True)] = 16.0
    """Multiplies the cosines. The papers' 64 is for thousands of classes; for 6, 16 was as good."""
    balanced: bool = False
    """Draw every class equally often, whatever its size."""
    batch_size: AtLeast1[int] = 128
    epochs: AtLeast1[int] = 35

    def __post_init__(self) -> None:
        # As it is meant, so that the run folder says it too.
        default, high = {"arcface": (0.5, math.pi / 2), "cosface": (0.35, 1.0)}[self.kind]
        if self.margin is None:
            object.__setattr__(self, "margin", default)
        elif self.margin >= high:
            hint = ", in radians, not degrees" if self.kind == "arcface" else ""
            raise InputError(
                f"--margin is {self.margin}: {self.kind}'s lies in [0, {high:.4g}){hint}"
            )

    @property
    def title(self) -> str:
        """Return the kind's name."""
        return {"arcface": "ArcFace", "cosface": "CosFace"}[self.kind]


PRESETS = presets.of(ArcFace)


def make_method(config: ArcFace, data: Data) -> training.Method:
    """Make the method: a margin loss of one view of each image; the model has the class weights."""
    encoder, start, rngs = networks.make_encoder(config)
    weights = models.ClassWeights(len(data.classes), encoder.features, rngs=rngs)
    model = models.MarginEmbedder(encoder, weights)
    margin_loss = losses.arcface_loss if config.kind == "arcface" else losses.cosface_loss
    margin = config.margin or 0.0  # never None once it is made

    def of_images(model: Any, images: Any, labels: Any) -> Any:
        h, _ = model(images)
        weights = model.class_weights()
        loss = margin_loss(h, weights, labels, margin=margin, scale=config.scale)
        # Without the margin, with which a right answer would count as wrong.
        right = losses.cosine_logits(h, weights).argmax(1) == labels
        return loss, {"accuracy": right.mean()}

    def loss(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        views = augment.view(key, batch["image"], data.recipe)
        return of_images(model, views, batch["label"])

    def validate(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        return of_images(model, augment.to_float(batch["image"]), batch["label"])

    return training.Method(
        config.title,
        model,
        loss,
        networks.make_optimizer(config, data, model),
        distance="angular",
        best=("accuracy", "max"),
        validate=validate,
        logits=lambda model, images: losses.cosine_logits(model(images)[0], model.class_weights()),
        sampling={"balanced": config.balanced},
        start=start,
        **networks.encoding(config, model),
    )


def main(config: ArcFace) -> None:
    """Run it: data, method, training, embedding, report."""
    with study.open(config) as run:
        data = study.load(run, labels=True)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
