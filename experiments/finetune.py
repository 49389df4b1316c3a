"""Fine-tuning: a finished run's encoder with a new classifier, on a part of the labels.

End to end on a tenth of the labels, from the run's weights:
  `python -m experiments.finetune runs/simclr-cifar10-... --label-fraction .1`

On other labelled images than the run's:
  `python -m experiments.finetune RUN --data-dir OTHER`

Only a linear layer on the frozen network, and the same two from random weights, for comparison:
  `python -m experiments.finetune RUN --freeze`, and with `--random`, `--random --freeze`

The images and their split are the run's. Top-1, top-3, top-5 and per-class accuracy on the test
images stand in results.json under "classification"; CIFAR-10 with 10 % of the labels: 56.6 %.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import tyro

from experiments import cli, finished, study
from experiments.config import (
    AtLeast1,
    Devices,
    Elsewhere,
    Judging,
    Positive,
    Session,
    Share,
    Training,
)
from experiments.softmax import classifier
from jaxssl import models, training

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class FineTune(Devices, Judging, Training, Elsewhere):
    """Fine-tuning's own flags."""

    start: tyro.conf.Positional[str] = ""
    """The folder of a run: its encoder, and unless others are named its images and their split."""
    checkpoint: str = "best"
    """Of the run: best (on validation), last, or a step."""
    random: bool = False
    """Start from random weights of the same encoder instead."""
    freeze: bool = False
    """Train the classifier alone; the encoder stays as it is, with its BatchNorm."""
    label_fraction: Share[float] = 0.1
    """Of the training labels, by class."""
    augment: bool = True
    """Train on a random view of each image, by the run's recipe; --no-augment: on the images."""
    learning_rate: Positive[float] = 0.001
    """Of Adam."""
    method: Session[str | None] = None
    """The Python file of a run whose method is not of this package; it is run."""
    batch_size: AtLeast1[int] = 64
    epochs: AtLeast1[int] = 50
    evaluate_epochs: Positive[float] = 1.0

    @property
    def title(self) -> str:
        """Say what is trained."""
        how = "Linear layer" if self.freeze else "Fine-tuning"
        return f"{how} from random weights" if self.random else how

    def for_structure(self) -> FineTune:
        """Return the same network without reading the weights that it started from."""
        return dataclasses.replace(self, random=True)


PRESETS = {"finetune": FineTune()}


def make_method(config: FineTune, data: Data) -> training.Method:
    """Make the method: cross-entropy of a new linear layer on the run's h."""
    import optax  # it imports JAX, for which --help does not wait

    encoder, start = finished.open(config.start, method=config.method).encoder(
        None if config.random else config.checkpoint, seed=config.seed
    )
    if config.freeze:
        models.freeze(encoder)
    rngs = models.Rngs(config.seed)
    head = models.Classifier(encoder.features, len(data.classes), rngs=rngs)
    return classifier(
        config.title if config.random else f"{config.title} from {start}",
        models.Embedder(encoder, head),
        optax.adam(config.learning_rate),
        data.recipe if config.augment else None,
        start=start,
    )


def main(config: FineTune) -> None:
    """Run it: start, data, method, training, embedding, report."""
    start = finished.open(config.start, method=config.method)
    with study.open(config, start) as run:
        data = study.load(run, labels=True)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
