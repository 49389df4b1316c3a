"""BYOL (Grill et al. 2020): two networks learn from each other, without negatives.

A method from outside the package, as yours may be: a file anywhere on disk.
  `python tests/outside/byol.py --dataset digits`          trains, is judged, resumes
  `python -m experiments.linear_eval RUN --method tests/outside/byol.py`

The online network predicts what a teacher sees of the image's other view; the teacher is its
moving average, and gets no gradient.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import cli, networks, presets, study
from experiments.config import AtLeast1, Between, EncoderConfig, Share
from jaxssl import augment, losses, models, training

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class BYOL(EncoderConfig):
    """BYOL's own flags."""

    features: AtLeast1[int] = 128
    """Size of the projection z and of its prediction."""
    decay: Annotated[Share[float], Between(0.9, 0.999)] = 0.97
    """Of the teacher at the first step; it rises to 1 along half a cosine."""


PRESETS = presets.of(BYOL)


class Networks(nnx.Module):
    """The online network with its predictor, and the teacher."""

    def __init__(self, encoder: nnx.Module, features: int, rngs: nnx.Rngs):
        def mlp(size: int) -> models.ProjectionHead:
            return models.ProjectionHead(size, kind="mlp-bn", out_features=features, rngs=rngs)

        self.online = models.Embedder(encoder, mlp(encoder.features))
        self.predictor = mlp(features)
        # Frozen variables are no parameters: no gradient, no optimizer, but in every checkpoint.
        self.teacher = nnx.clone(self.online)
        models.freeze(self.teacher)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return h and the prediction of the teacher's z."""
        h, z = self.online(images)
        return h, self.predictor(z)


def make_method(config: BYOL, data: Data) -> training.Method:
    """The squared distance of prediction and teacher's projection, both of length 1."""
    encoder, start, rngs = networks.make_encoder(config)
    model = Networks(encoder, config.features, rngs)

    def loss(model: Networks, batch: training.Batch, key: jax.Array, step: jax.Array) -> Any:
        share = jnp.minimum(step / data.total_steps, 1.0)
        decay = 1 - (1 - config.decay) * (jnp.cos(math.pi * share) + 1) / 2
        # Before the step, towards what the last step made of the online network: as after it.
        models.follow(model.teacher, model.online, decay)
        views = augment.views(key, batch["image"], data.recipe)
        first, second = models.over_views(lambda x: model(x)[1], views)
        targets = model.teacher.project(views)  # the loss lets no gradient into it
        # Each view's prediction is of the other view.
        loss = losses.byol(first, targets[1]) + losses.byol(second, targets[0])
        health = training.pair_health(*targets)
        del health["chance"]  # of NT-Xent
        return loss, {**health, "decay": decay}

    return training.Method(
        config.title,
        model,
        loss,
        networks.make_optimizer(config, data, model, encoder),
        distance="angular",
        # The loss is lowest, 0, where all images are one point.
        best=("knn_accuracy", "max"),
        encoder=lambda model: model.online.encoder,
        start=start,
    )


def main(config: BYOL) -> None:
    """Data, method, training, embedding, report."""
    with study.open(config) as run:
        data = study.load(run)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
