"""An RNN, LSTM or GRU that classifies images by reading them row by row.

scikit-learn's digits:
  `python -m experiments.rnn --cell lstm`

CIFAR-10, 32 rows of 96 values:
  `python -m experiments.rnn --dataset cifar10`

The settings that `python -m experiments.tune rnn --dataset cifar10` found best:
  `python -m experiments.rnn --config runs/tune-rnn-cifar10/best.json`

Beside the embedding h, the network's last output, the classes it gives to the test images are
judged: accuracy in total and per class, and the confusion matrix.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

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
    """The flags of the row classifiers beside those of every study."""

    encoder: Literal["rows"] = "rows"  # type: ignore[assignment]
    """The rows of the image, from the top, through --layers of --cell."""
    cell: Literal["rnn", "lstm", "gru"] = "gru"
    """Elman's tanh network, long short-term memory, or gated recurrent units; torch's formulas."""
    layers: int = 1
    """How many lie on one another."""
    hidden: int = 128
    """Size of their states, and of h."""
    l2: int = 64
    """Size of the first linear layer on h; BatchNorm, ReLU and dropout follow."""
    l3: int = 64
    """Size of the second; the same follow, then the classes."""
    dropout: float = 0.5
    """Probability of dropping a unit of these two."""
    batch_size: int = 128
    """Images a step, over all devices."""
    evaluate_epochs: float = 1.0
    """Epochs between validations; a checkpoint follows each."""
    views: bool = False
    """Train on a random view of each image; --no-views: on the images as they are."""
    learning_rate: float = 0.001
    """Of Adam, until the training loss stands still."""
    weight_decay: float = 0.0005
    """Added to the gradient, times the weights: Adam's L2 as torch has it, not AdamW's."""
    plateau: int = 10
    """Epochs without a lower training loss after which the learning rate is divided by 10."""


ROWS = {"encoder": "rows"}
OWN = {"cifar10": {"epochs": 100, "resident": True, "steps_per_dispatch": 10}}
PRESETS = {
    name: Config(**settings | ROWS | OWN.get(name, {}))
    for name, settings in presets.PRESETS.items()
}


def make_model(config: Config) -> Embedder:
    """h is the last output of the last layer, and the classifier on it is the head."""
    import jax.numpy as jnp
    from flax import nnx

    from jaxssl.models import Embedder
    from jaxssl.models.recurrent import MLPClassifier, RowEncoder

    rngs = nnx.Rngs(config.seed)
    encoder = RowEncoder(
        config.cell,
        layers=config.layers,
        hidden=config.hidden,
        image_size=config.image_size,
        channels=config.channels,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
        rngs=rngs,
    )
    sizes = (config.l2, config.l3)
    head = MLPClassifier(config.hidden, sizes, len(config.seen), dropout=config.dropout, rngs=rngs)
    return Embedder(encoder, head)


def make_optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """Adam with L2, whose rate falls to a tenth when the training loss stands still.

    The loss is the mean over an epoch's batches, as they were trained on (with dropout): it is
    known to the step without a validation. torch's scheduler waits one epoch longer.
    """
    import optax

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.adam(config.learning_rate),
        optax.contrib.reduce_on_plateau(
            factor=0.1,
            patience=config.plateau,
            accumulation_size=max(1, total_steps // config.epochs),
        ),
    )


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
    print(protocol.intention(config.cell.upper(), config), flush=True)
    placement = devices.data_placement(config.batch_size)
    data = load_data(config)
    plan = protocol.plan(config, data)
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
        name=config.cell,
        distance="euclidean",
        plan=plan,
        placement=placement,
        view=view,
        validate_by=validate,
        classify=lambda model, images: model(images)[1],
        on_validation=on_validation,
    )


if __name__ == "__main__":
    cli.run(main, PRESETS)
