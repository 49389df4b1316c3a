"""A softmax classifier, whose last layer but one is the embedding; it stops early.

scikit-learn's digits, a minute on two CPU cores:
  `python -m experiments.softmax`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.softmax --preset plankton-cpu --data-dir DIR`

Beside the embedding, the classes it gives to the test images are judged: accuracy in total and per
class, and the confusion matrix. On the wide protocol's ten unseen classes: 67.9 % with 300 labels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from experiments import cli, networks, presets, study
from experiments.config import AtLeast0, AtLeast1, Between, EncoderConfig, Positive, Share
from jaxssl import augment, models, training

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class Softmax(EncoderConfig):
    """The softmax classifier's own flags."""

    patience: AtLeast0[int] = 12
    """Stop after so many validations without a better accuracy; 0: train all epochs."""
    label_fraction: Share[float] = 1.0
    """Share of the training images of each class to learn from."""
    balanced: bool = False
    """Draw every class equally often, whatever its size."""
    batch_size: AtLeast1[int] = 64
    epochs: AtLeast1[int] = 50
    evaluate_epochs: Positive[float] = 0.2
    learning_rate: Annotated[Positive[float], Between(1e-4, 1e-2, log=True)] = 0.0014
    schedule: Literal["constant", "cosine"] = "constant"


PRESETS = presets.of(Softmax)


def classifier(name: str, model: Any, optimizer: Any, recipe: Any, **more: Any) -> training.Method:
    """Make the method of a classifier: cross-entropy of the model's logits.

    Args:
      name: Its name.
      model: `model(images) -> (h, logits [b, k])`.
      optimizer: Of its parameters.
      recipe: Of the random view of each training image; None: the images as they are.
      **more: Other attributes of the `Method`.
    """
    import optax  # it imports JAX, for which --help does not wait

    def of_images(model: Any, images: Any, labels: Any) -> Any:
        _, logits = model(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), {"accuracy": (logits.argmax(1) == labels).mean()}

    def loss(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        return of_images(model, augment.view(key, batch["image"], recipe), batch["label"])

    def validate(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        return of_images(model, augment.to_float(batch["image"]), batch["label"])

    return training.Method(
        name,
        model,
        loss,
        optimizer,
        best=("accuracy", "max"),
        validate=validate,
        logits=lambda model, images: model(images)[1],
        **more,
    )


def make_method(config: Softmax, data: Data) -> training.Method:
    """Make the method: a linear layer on h, of one random view of each image."""
    encoder, start, rngs = networks.make_encoder(config)
    model = models.Embedder(
        encoder, models.Classifier(encoder.features, len(data.classes), rngs=rngs)
    )
    return classifier(
        config.title,
        model,
        networks.make_optimizer(config, data, model),
        data.recipe,
        sampling={"balanced": config.balanced},
        patience=config.patience or None,
        start=start,
        **networks.encoding(config, model),
    )


def main(config: Softmax) -> None:
    """Run it: data, method, training, embedding, report."""
    with study.open(config) as run:
        data = study.load(run, labels=True)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
