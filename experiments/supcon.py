"""Supervised contrastive learning (Khosla et al. 2020): SimCLR in which a class shares its views.

scikit-learn's digits, two minutes on two CPU cores:
  `python -m experiments.supcon`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.supcon --preset plankton-cpu --data-dir DIR`

On the wide protocol's ten unseen classes, 8 epochs: 69.4 % with 300 labels (README).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from experiments import cli, networks, presets, study
from experiments.simclr import SimCLR, make_model
from jaxssl import augment, losses, training

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class SupCon(SimCLR):
    """SupCon's own flag; the network and the optimizer are SimCLR's."""

    balanced: bool = False
    """Draw every class equally often, whatever its size."""


PRESETS = presets.of(SupCon, presets.TWO_VIEWS_LITE0)


def make_method(config: SupCon, data: Data) -> training.Method:
    """Make the method: SupCon over two views of each image."""
    model, start = make_model(config)

    def loss(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        z = model.project(augment.views(key, batch["image"], data.recipe))
        # The positives of a row are the other views of its class, those of its image among them;
        # all other rows are negatives. An image's views lie side by side: its label stands twice.
        rows = z.swapaxes(0, 1).reshape(-1, z.shape[-1])
        loss = losses.sup_con(rows, batch["label"].repeat(len(z)), temperature=config.temperature)
        return loss, training.pair_health(*z)

    return training.Method(
        config.title,
        model,
        loss,
        networks.make_optimizer(config, data, model),
        distance="angular",
        sampling={"balanced": config.balanced},
        start=start,
        **networks.encoding(config, model),
    )


def main(config: SupCon) -> None:
    """Run it: data, method, training, embedding, report."""
    with study.open(config) as run:
        data = study.load(run, labels=True)
        trained = study.train(run, data, make_method(config, data))
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
