"""SimCLR (Chen et al. 2020): an embedding learnt without labels, from two views of each image.

scikit-learn's digits, a minute on two CPU cores, kNN 99 % on the seen classes:
  `python -m experiments.simclr`

A folder of images, on two CPU cores (48 px grey):
  `python -m experiments.simclr --data-dir DIR`

The plankton study's classes at 128 px RGB, on a TPU:
  `python -m experiments.simclr --preset plankton --data-dir DIR --tpu`

CIFAR-10 by the paper's recipe, on a GPU:
  `python -m experiments.simclr --dataset cifar10 --gpu --bfloat16`
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from experiments import cli, networks, presets, study
from experiments.config import AtLeast1, Between, EncoderConfig, Positive
from jaxssl import augment, losses, models, training

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class SimCLR(EncoderConfig):
    """SimCLR's own flags."""

    head: Literal["mlp3", "mlp2", "mlp-bn", "mlp-bn2", "linear"] = "mlp3"
    """Projection head g: three linear layers with ReLU (the plankton study's), SimCLR's two, two
    with BatchNorm between them or after each (its authors' code), or one."""
    features: AtLeast1[int] = 128
    """Size of the projection z."""
    temperature: Annotated[Positive[float], Between(0.05, 1.0, log=True)] = 0.1
    """Of the loss; lower weighs the hardest negatives more."""
    learning_rate: Annotated[Positive[float], Between(1e-4, 1e-2, log=True)] = 0.0015
    views: Literal["plankton", "digits", "cifar"] = "plankton"


# CIFAR-10 as in Chen et al. 2020, appendix B.9, with the batch of google-research/simclr's README.
PAPER: dict[str, Any] = {
    "optimizer": "lars",
    "learning_rate": 2.0,
    "weight_decay": 1e-6,
    "batch_size": 512,
    "temperature": 0.5,
    "head": "mlp2",
}
OWN: dict[str, dict[str, Any]] = {
    "cifar10": PAPER | {"resident": True, "steps_per_dispatch": 10},
    "cifar10-cpu": {"temperature": 0.5, "head": "mlp2", "learning_rate": 0.001},
}
OWN |= presets.TWO_VIEWS_LITE0 | {"cifar100": OWN["cifar10"], "cifar100-cpu": OWN["cifar10-cpu"]}
PRESETS = presets.of(SimCLR, OWN)


def make_model(config: SimCLR) -> tuple[models.Embedder, str]:
    """Make f and g, and say what f starts as: h = f(x) is what we want, z = g(h) feeds the loss."""
    encoder, start, rngs = networks.make_encoder(config)
    head = models.ProjectionHead(
        encoder.features, kind=config.head, out_features=config.features, rngs=rngs
    )
    return models.Embedder(encoder, head), start


def make_method(config: SimCLR, data: Data) -> training.Method:
    """Make the method: NT-Xent over two views of each image."""
    model, start = make_model(config)

    def loss(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        # Rows i of z_a and z_b are two views of image i; all other rows are negatives.
        z_a, z_b = model.project(augment.views(key, batch["image"], data.recipe))
        loss = losses.nt_xent(z_a, z_b, temperature=config.temperature)
        return loss, training.pair_health(z_a, z_b)

    return training.Method(
        config.title,
        model,
        loss,
        networks.make_optimizer(config, data, model),
        distance="angular",
        start=start,
        **networks.encoding(config, model),
    )


def main(config: SimCLR) -> None:
    """Run it: data, method, training, embedding, report."""
    with study.open(config) as run:
        data = study.load(run)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
