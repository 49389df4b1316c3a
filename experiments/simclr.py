"""SimCLR (Chen et al. 2020): an embedding learnt without labels, from two views of each image.

scikit-learn's digits, minutes on a laptop:
  `python -m experiments.simclr`

A folder of plankton images, one folder a class, on two CPU cores (48 px grey):
  `python -m experiments.simclr --preset plankton-cpu --data-dir DIR`

The study's 128 px RGB, on a TPU:
  `python -m experiments.simclr --dataset plankton --data-dir DIR --tpu`
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from experiments import cli, presets, protocol
from experiments.images import load_data

if TYPE_CHECKING:
    import optax

    from experiments.study import OnValidation
    from jaxssl.models import Embedder
    from jaxssl.training.step import Batch, Loss


@dataclasses.dataclass(frozen=True)
class Config(protocol.Protocol):
    """The flags of SimCLR beside those of every study."""

    head: Literal["mlp3", "mlp2", "mlp-bn", "linear"] = "mlp3"
    """Projection head g: three linear layers with ReLU (the plankton study's), SimCLR's two, two
    with BatchNorm, or one."""
    features: int = 128
    """Size of the projection z."""
    temperature: float = 0.1
    """Of NT-Xent; lower weighs the hardest negatives more."""
    optimizer: Literal["adam", "sgd", "lars"] = "adam"
    """lars, with a learning rate of about batch size / 256, is SimCLR's own, for large batches."""
    learning_rate: float = 0.0015
    """Of the optimizer, after the warm-up."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """constant, as in the study; cosine: down to 0 over the epochs."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises from 0 (cosine)."""
    weight_decay: float = 0.0
    """Of weights; biases and BatchNorm are left alone."""


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
PRESETS = {
    name: Config(**settings | OWN.get(name, {})) for name, settings in presets.PRESETS.items()
}


def make_model(config: Config) -> Embedder:
    """h = f(x) is what we want, z = g(h) is what the loss sees."""
    from flax import nnx

    from jaxssl.models import Embedder, ProjectionHead

    rngs = nnx.Rngs(config.seed)
    encoder = protocol.make_encoder(config, rngs)
    head = ProjectionHead(
        encoder.features, kind=config.head, out_features=config.features, rngs=rngs
    )
    return Embedder(encoder, head)


def make_optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    """The optimizer that the flags name."""
    from jaxssl.training import optimizers

    cosine = config.schedule == "cosine"
    return optimizers.make_optimizer(
        config.optimizer,
        learning_rate=config.learning_rate,
        total_steps=total_steps,
        schedule=config.schedule,
        warmup_steps=round(config.warmup * total_steps) if cosine else 0,
        weight_decay=config.weight_decay,
    )


def main(config: Config, on_validation: OnValidation | None = None) -> None:
    """Data, model, method, loop, evaluation."""
    protocol.start(config)
    import jax
    import jax.numpy as jnp

    from experiments import study
    from jaxssl.augment.views import two_views
    from jaxssl.losses import nt_xent
    from jaxssl.training import devices, health

    model = make_model(config)
    if config.describe:
        return protocol.print_model(config, model)

    # Data.
    print(protocol.intention("SimCLR", config), flush=True)
    placement = devices.data_placement(config.batch_size)
    data = load_data(config)
    plan = protocol.plan(config, data)

    # Method: rows i of z_a and z_b are two views of image i; all other rows are negatives.
    view = protocol.view_of(config)

    def simclr(model: Embedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        pairs = jnp.stack(two_views(key, batch["image"], view), axis=1)
        # Both views go through the network in one batch, so that BatchNorm sees them together; an
        # image's two lie side by side, so that nothing has to move between devices.
        _, z = model(pairs.reshape(-1, *pairs.shape[2:]))
        z_a, z_b = jnp.moveaxis(z.reshape(-1, 2, config.features), 1, 0)
        loss = nt_xent(z_a, z_b, temperature=config.temperature)
        chance = jnp.asarray(health.chance_loss(len(z_a)))
        return loss, {"chance": chance, **health.view_geometry(z_a, z_b)}

    # Loop and evaluation.
    study.run(
        config,
        data,
        model,
        simclr,
        make_optimizer(config, config.epochs * plan.steps_per_epoch),
        name="simclr",
        distance="angular",
        plan=plan,
        placement=placement,
        view=view,
        on_validation=on_validation,
    )


if __name__ == "__main__":
    cli.run(main, PRESETS)
