"""Supervised contrastive learning (Khosla et al. 2020): SimCLR in which a class shares its views.

scikit-learn's digits:
  `python -m experiments.supcon`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.supcon --preset plankton-cpu --data-dir DIR`
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments import cli, presets, protocol, simclr
from experiments.images import load_data

# The network and the optimizer are SimCLR's: the two differ in the loss alone.
from experiments.simclr import make_model, make_optimizer

if TYPE_CHECKING:
    import jax

    from experiments.study import OnValidation
    from jaxssl.models import Embedder
    from jaxssl.training.step import Batch, Loss


@dataclasses.dataclass(frozen=True)
class Config(simclr.Config):
    """The flags of SimCLR."""

    temperature: float = 0.1
    """Of the loss; lower weighs the nearest images more."""
    balanced: bool = False
    """Draw every class equally often, whatever its size."""


PRESETS = {name: Config(**settings) for name, settings in presets.PRESETS.items()}


def main(config: Config, on_validation: OnValidation | None = None) -> None:
    """Data, model, method, loop, evaluation."""
    protocol.start(config)
    import jax.numpy as jnp

    from experiments import study
    from jaxssl.augment.views import two_views
    from jaxssl.losses import sup_con
    from jaxssl.training import devices, health

    model = make_model(config)
    if config.describe:
        return protocol.print_model(config, model)

    # Data.
    print(protocol.intention("SupCon", config), flush=True)
    placement = devices.data_placement(config.batch_size)
    data = load_data(config)
    plan = protocol.plan(config, data)

    # Method: the positives of a row are the other views of its class, those of its image among
    # them; all other rows are negatives.
    view = protocol.view_of(config)

    def supcon(model: Embedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        pairs = jnp.stack(two_views(key, batch["image"], view), axis=1)
        # Both views in one batch, an image's two side by side, as in SimCLR.
        _, z = model(pairs.reshape(-1, *pairs.shape[2:]))
        loss = sup_con(z, jnp.repeat(batch["label"], 2), temperature=config.temperature)
        z_a, z_b = jnp.moveaxis(z.reshape(-1, 2, config.features), 1, 0)
        chance = jnp.asarray(health.chance_loss(len(z_a)))
        return loss, {"chance": chance, **health.view_geometry(z_a, z_b)}

    # Loop and evaluation.
    study.run(
        config,
        data,
        model,
        supcon,
        make_optimizer(config, config.epochs * plan.steps_per_epoch),
        name="supcon",
        distance="angular",
        plan=plan,
        placement=placement,
        view=view,
        sampling={"balanced": config.balanced},
        on_validation=on_validation,
    )


if __name__ == "__main__":
    cli.run(main, PRESETS)
