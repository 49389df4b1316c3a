"""A triplet network with online mining and a curriculum: one class near, the others far.

scikit-learn's digits:
  `python -m experiments.triplet`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.triplet --preset plankton-cpu --data-dir DIR`

The study's curriculum: easy positives and semi-hard negatives in epochs 0-9, easy and hard in
10-24, then hard and hard; validation is always hard and hard.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from experiments import cli, presets, protocol
from experiments.images import load_data

if TYPE_CHECKING:
    import jax
    import optax

    from experiments.study import OnValidation
    from jaxssl.models import Embedder
    from jaxssl.training.step import Batch, Loss


@dataclasses.dataclass(frozen=True)
class Config(protocol.Protocol):
    """The flags of the triplet network beside those of every study."""

    batch_size: int = 128
    """Images a step, over all devices."""
    epochs: int = 35
    """Passes over the training images."""
    margin: float = 0.5
    """In squared distance of unit vectors, which lies in 0 to 4."""
    hard_negatives_from: int = 10
    """First epoch with hard negatives; semi-hard ones before."""
    hard_positives_from: int = 25
    """First epoch with the farthest positive; the nearest before."""
    images_per_class: int = 32
    """K of the P classes x K images in a batch; 0: plain shuffling, as the study did."""
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


def make_model(config: Config) -> Embedder:
    """The embedding is h itself."""
    from flax import nnx

    from jaxssl.models import Embedder

    return Embedder(protocol.make_encoder(config, nnx.Rngs(config.seed)))


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


def main(config: Config, on_validation: OnValidation | None = None) -> None:
    """Data, model, method, loop, evaluation."""
    protocol.start(config)
    import jax
    import jax.numpy as jnp

    from experiments import study
    from jaxssl.losses import triplet_loss_and_stats
    from jaxssl.training import devices

    model = make_model(config)
    if config.describe:
        return protocol.print_model(config, model)

    # Data.
    print(protocol.intention("Triplet", config), flush=True)
    placement = devices.data_placement(config.batch_size)
    data = load_data(config)
    plan = protocol.plan(config, data)
    view = protocol.view_of(config) if config.views else None

    # Method.
    def loss(model: Embedder, images: jax.Array, labels: jax.Array, **policy: Any) -> Loss:
        h, _ = model(images)
        unit = h * jax.lax.rsqrt(jnp.maximum(jnp.sum(h**2, 1, keepdims=True), 1e-12))
        loss, stats = triplet_loss_and_stats(unit, labels, margin=config.margin, **policy)
        return loss, {"margin": jnp.asarray(config.margin), **stats._asdict()}

    def triplet(model: Embedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        # Which triplets are mined is an array, not a string: the switch compiles nothing anew.
        epoch = step // plan.steps_per_epoch
        return loss(
            model,
            study.augmented(key, batch["image"], view),
            batch["label"],
            positive=epoch >= config.hard_positives_from,
            negative=epoch >= config.hard_negatives_from,
        )

    def hardest(model: Embedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        images = study.augmented(key, batch["image"], None)
        return loss(model, images, batch["label"], positive="hard", negative="hard")

    # Loop and evaluation.
    study.run(
        config,
        data,
        model,
        triplet,
        make_optimizer(config, config.epochs * plan.steps_per_epoch),
        name="triplet",
        distance="euclidean",
        plan=plan,
        placement=placement,
        view=view,
        validate_by=hardest,
        sampling={"images_per_class": config.images_per_class or None},
        on_validation=on_validation,
    )


if __name__ == "__main__":
    cli.run(main, PRESETS)
