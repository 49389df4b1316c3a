"""A softmax classifier, whose last layer but one is the embedding; it stops early.

scikit-learn's digits:
  `python -m experiments.softmax`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.softmax --preset plankton-cpu --data-dir DIR`

Beside the embedding, the classes it gives to the test images are judged: accuracy in total and per
class, and the confusion matrix, in results.json under "classification".
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments import cli, presets, protocol
from experiments.images import load_data, with_label_fraction

if TYPE_CHECKING:
    import jax
    import optax

    from experiments.study import OnValidation
    from jaxssl.models import Embedder
    from jaxssl.training.step import Batch, Loss


@dataclasses.dataclass(frozen=True)
class Config(protocol.Protocol):
    """The flags of the softmax classifier beside those of every study."""

    batch_size: int = 64
    """Images a step, over all devices."""
    epochs: int = 50
    """Most passes over the training images."""
    evaluate_epochs: float = 0.2
    """Epochs between validations; a checkpoint follows each."""
    patience: int = 12
    """Stop after so many validations without a lower loss; 0: train all epochs."""
    label_fraction: float = 1.0
    """Share of the training images of each class to learn from."""
    balanced: bool = False
    """Draw every class equally often, whatever its size."""
    views: bool = True
    """Train on a random view of each image; --no-views: on the images as they are."""
    learning_rate: float = 0.0014
    """Of Adam."""


PRESETS = {
    name: Config(**settings | {"epochs": Config.epochs})
    for name, settings in presets.PRESETS.items()
}


def make_model(config: Config) -> Embedder:
    """h is the embedding, and the classifier on it is the head."""
    from flax import nnx

    from jaxssl.models import Classifier, Embedder

    rngs = nnx.Rngs(config.seed)
    encoder = protocol.make_encoder(config, rngs)
    return Embedder(encoder, Classifier(encoder.features, len(config.seen), rngs=rngs))


def make_optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """Adam at a constant rate."""
    import optax

    return optax.adam(config.learning_rate)


def main(config: Config, on_validation: OnValidation | None = None) -> None:
    """Data, model, method, loop, evaluation."""
    protocol.start(config)
    import jax.numpy as jnp
    import optax

    from experiments import study
    from jaxssl.training import devices

    model = make_model(config)
    if config.describe:
        return protocol.print_model(config, model)

    # Data.
    print(protocol.intention("Softmax", config), flush=True)
    placement = devices.data_placement(config.batch_size)
    data = load_data(config)
    data = with_label_fraction(data, config.label_fraction, seed=config.seed)
    plan = dataclasses.replace(protocol.plan(config, data), patience=config.patience or None)
    view = protocol.view_of(config) if config.views else None

    # Method.
    def loss(model: Embedder, images: jax.Array, labels: jax.Array) -> Loss:
        _, logits = model(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), {"accuracy": jnp.mean(jnp.argmax(logits, axis=1) == labels)}

    def train(model: Embedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        return loss(model, study.augmented(key, batch["image"], view), batch["label"])

    def validate(model: Embedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        return loss(model, study.augmented(key, batch["image"], None), batch["label"])

    # Loop and evaluation.
    study.run(
        config,
        data,
        model,
        train,
        make_optimizer(config, config.epochs * plan.steps_per_epoch),
        name="softmax",
        distance="euclidean",
        plan=plan,
        placement=placement,
        view=view,
        validate_by=validate,
        classify=lambda model, images: model(images)[1],
        sampling={"balanced": config.balanced},
        on_validation=on_validation,
    )


if __name__ == "__main__":
    cli.run(main, PRESETS)
