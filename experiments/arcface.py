"""ArcFace and CosFace: a classifier on angles, with a margin that draws each class together.

scikit-learn's digits:
  `python -m experiments.arcface`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.arcface --preset plankton-cpu --data-dir DIR`

CosFace:
  `python -m experiments.arcface --kind cosface`
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from experiments import cli, presets, protocol
from experiments.images import load_data
from jaxssl.errors import InputError

if TYPE_CHECKING:
    import jax
    import optax

    from experiments.study import OnValidation
    from jaxssl.models import MarginEmbedder
    from jaxssl.training.step import Batch, Loss


@dataclasses.dataclass(frozen=True)
class Config(protocol.Protocol):
    """The flags of ArcFace and CosFace beside those of every study."""

    batch_size: int = 128
    """Images a step, over all devices."""
    epochs: int = 35
    """Passes over the training images."""
    kind: Literal["arcface", "cosface"] = "arcface"
    """The margin widens the angle to the true class (ArcFace) or lowers its cosine (CosFace)."""
    margin: float | None = None
    """In radians, not degrees (ArcFace; default .5), or in cosine (CosFace; default .35)."""
    scale: float = 16.0
    """Multiplies the cosines. The papers' 64 is for thousands of classes; with 6 of plankton, tries
    of 16 to 64 were alike and 8 was a little worse."""
    balanced: bool = False
    """Draw every class equally often, whatever its size."""
    views: bool = True
    """Train on a random view of each image; --no-views: on the images as they are."""
    learning_rate: float = 0.001
    """Of Adam."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """cosine: down to 0 over the epochs, after a short warm-up."""


PRESETS = {
    name: Config(**settings | {"epochs": Config.epochs})
    for name, settings in presets.PRESETS.items()
}


def make_model(config: Config) -> MarginEmbedder:
    """The embedding is h itself; the class weights are parameters of the model."""
    from flax import nnx

    from jaxssl.models import ClassWeights, MarginEmbedder

    rngs = nnx.Rngs(config.seed)
    encoder = protocol.make_encoder(config, rngs)
    weights = ClassWeights(len(config.seen), encoder.features, rngs=rngs)
    return MarginEmbedder(encoder, weights)


def make_optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """Adam; a twentieth of the steps is a warm-up where the rate changes."""
    from jaxssl.training import optimizers

    return optimizers.make_optimizer(
        "adam",
        learning_rate=config.learning_rate,
        total_steps=total_steps,
        schedule=config.schedule,
        warmup_steps=total_steps // 20 if config.schedule == "cosine" else 0,
    )


def margin_of(config: Config) -> float:
    """As given, or the default of the kind; refuses one that the loss cannot have."""
    default, high = {"arcface": (0.5, math.pi / 2), "cosface": (0.35, 1.0)}[config.kind]
    margin = default if config.margin is None else config.margin
    if not 0 <= margin < high:
        hint = ", in radians, not degrees" if config.kind == "arcface" else ""
        raise InputError(f"--margin is {margin}: {config.kind}'s lies in [0, {high:.4g}){hint}")
    return margin


def main(config: Config, on_validation: OnValidation | None = None) -> None:
    """Data, model, method, loop, evaluation."""
    # As it is meant, so that the run folder says it too.
    margin = margin_of(config)
    config = dataclasses.replace(config, margin=margin)
    protocol.start(config)
    import jax.numpy as jnp

    from experiments import study
    from jaxssl.losses import arcface_loss, cosface_loss, cosine_logits
    from jaxssl.training import devices

    model = make_model(config)
    if config.describe:
        return protocol.print_model(config, model)

    # Data.
    name = {"arcface": "ArcFace", "cosface": "CosFace"}[config.kind]
    print(protocol.intention(name, config), flush=True)
    placement = devices.data_placement(config.batch_size)
    data = load_data(config)
    plan = protocol.plan(config, data)
    view = protocol.view_of(config) if config.views else None

    # Method.
    margin_loss = arcface_loss if config.kind == "arcface" else cosface_loss

    def loss(model: MarginEmbedder, images: jax.Array, labels: jax.Array) -> Loss:
        h, _ = model(images)
        weights = model.class_weights()
        # Without the margin, with which a right answer would count as wrong.
        logits = cosine_logits(h, weights, scale=config.scale)
        accuracy = jnp.mean(jnp.argmax(logits, axis=1) == labels)
        loss = margin_loss(h, weights, labels, margin=margin, scale=config.scale)
        return loss, {"accuracy": accuracy}

    def train(model: MarginEmbedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        return loss(model, study.augmented(key, batch["image"], view), batch["label"])

    def validate(model: MarginEmbedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        return loss(model, study.augmented(key, batch["image"], None), batch["label"])

    # Loop and evaluation.
    study.run(
        config,
        data,
        model,
        train,
        make_optimizer(config, config.epochs * plan.steps_per_epoch),
        name=config.kind,
        distance="angular",
        plan=plan,
        placement=placement,
        view=view,
        validate_by=validate,
        classify=lambda model, images: cosine_logits(model.encoder(images), model.class_weights()),
        sampling={"balanced": config.balanced},
        on_validation=on_validation,
    )


if __name__ == "__main__":
    cli.run(main, PRESETS)
