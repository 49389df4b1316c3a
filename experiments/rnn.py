"""An RNN, LSTM or GRU that classifies images by reading them row by row.

scikit-learn's digits, two minutes on two CPU cores:
  `python -m experiments.rnn --cell lstm`

CIFAR-10, 32 rows of 96 values; 15 epochs on two cores reach 52.6 % (GRU, docs/pages/results.md):
  `python -m experiments.rnn --dataset cifar10`
  with what `tune rnn --dataset cifar10` found best: `--config runs/tune-rnn-cifar10/best.json`
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from experiments import cli, networks, presets, study
from experiments.config import AtLeast0, AtLeast1, Below1, Between, Config, OneOf, Positive
from experiments.softmax import classifier
from jaxssl import models, training

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class RNN(Config):
    """The row classifiers' own flags; h is the last output of the last layer."""

    cell: Literal["rnn", "lstm", "gru"] = "gru"
    """Elman's tanh network, long short-term memory, or gated recurrent units; torch's formulas."""
    layers: Annotated[AtLeast1[int], OneOf((1, 3, 5))] = 1
    """How many lie on one another."""
    hidden: Annotated[AtLeast1[int], OneOf((128, 256, 512))] = 128
    """Size of their states, and of h."""
    l2: Annotated[AtLeast1[int], OneOf((16, 32, 64))] = 64
    """Size of the first linear layer on h; BatchNorm, ReLU and dropout follow."""
    l3: Annotated[AtLeast1[int], OneOf((16, 32, 64))] = 64
    """Size of the second; the same follow, then the classes."""
    dropout: Below1[float] = 0.5
    """Probability of dropping a unit of these two."""
    learning_rate: Annotated[Positive[float], Between(1e-4, 1e-1, log=True)] = 0.001
    """Of Adam, until the training loss stands still."""
    weight_decay: Annotated[AtLeast0[float], Between(5e-4, 1e-1, log=True)] = 0.0005
    """Added to the gradient, times the weights: Adam's L2 as torch has it, not AdamW's."""
    plateau: AtLeast1[int] = 10
    """Epochs without a lower training loss after which the learning rate is divided by 10."""
    bfloat16: bool = False
    """Compute in bfloat16 (parameters and losses stay float32)."""
    batch_size: Annotated[AtLeast1[int], OneOf(tuple(range(32, 257, 32)))] = 128
    evaluate_epochs: Positive[float] = 1.0

    @property
    def title(self) -> str:
        """Return the cell's name."""
        return self.cell.upper()


LONG = {"epochs": 100, "resident": True, "steps_per_dispatch": 10}
OWN = {"cifar10": LONG, "cifar100": LONG}
PRESETS = presets.of(RNN, OWN, views="none")


def make_optimizer(config: RNN, data: Data) -> Any:
    """Make Adam with L2, whose rate falls to a tenth when the training loss stands still.

    The loss is the mean over an epoch's batches, as they were trained on (with dropout): it is
    known to the step without a validation. torch's scheduler waits one epoch longer.
    """
    import optax  # it imports JAX, for which --help does not wait

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.adam(config.learning_rate),
        optax.contrib.reduce_on_plateau(
            factor=0.1, patience=config.plateau, accumulation_size=data.steps_per_epoch
        ),
    )


def make_method(config: RNN, data: Data) -> training.Method:
    """Make the method: cross-entropy of a small classifier on h."""
    rngs = models.Rngs(config.seed)
    size, _, channels = data.shape
    encoder = models.RowEncoder(
        config.cell,
        layers=config.layers,
        hidden=config.hidden,
        image_size=size,
        channels=channels,
        dtype=networks.dtype(config),
        rngs=rngs,
    )
    sizes, classes = (config.l2, config.l3), len(data.classes)
    head = models.MLPClassifier(config.hidden, sizes, classes, dropout=config.dropout, rngs=rngs)

    model = models.Embedder(encoder, head)
    return classifier(config.title, model, make_optimizer(config, data), data.recipe)


def main(config: RNN) -> None:
    """Run it: data, method, training, embedding, report."""
    with study.open(config) as run:
        data = study.load(run, labels=True)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
