"""The encoder and the optimizer that the flags name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments import config
from jaxssl import models, training

if TYPE_CHECKING:
    from experiments.datasets import Data


def make_encoder(settings: Any) -> tuple[Any, str, models.Rngs]:
    """Make the encoder f that the flags name.

    Returns:
      The encoder; in words, what its weights are; and the source of random weights after it.
    """
    rngs = models.Rngs(settings.seed)
    encoder = models.make_encoder(
        settings.encoder,
        image_size=settings.image_size,
        channels=settings.channels,
        negative_slope=0.01 if settings.leaky_relu else 0.0,
        width=settings.width,
        layer=settings.layer or None,
        dtype=dtype(settings),
        rngs=rngs,
    )
    start = "random weights; no --pretrained file given"
    if settings.pretrained:
        start = str(models.load_pretrained(encoder, settings.pretrained))
    if isinstance(settings, config.TrainedNetwork):
        start += _hold(encoder, settings)
    return encoder, start, rngs


def _hold(encoder: Any, settings: config.TrainedNetwork) -> str:
    """Hold what does not learn; return that in words."""
    said, frozen = "", settings.frozen_until
    trunk, adapt = getattr(encoder, "trunk", encoder), settings.batch_norm == "adapted"
    if settings.keeps_statistics:
        models.keep_statistics(trunk)
        said = "; BatchNorm keeps its statistics" * bool(settings.pretrained)
    if frozen == "trunk":
        models.freeze(trunk, adapt_statistics=adapt)
        return f"{said}; its trunk is frozen"
    if frozen != "none":
        until = int(frozen) if frozen.lstrip("-").isdecimal() else frozen
        models.freeze(encoder, until=until, adapt_statistics=adapt)
        return f"{said}; its blocks up to {frozen} are frozen"
    return said


def encoding(settings: config.Optimization, model: Any) -> dict[str, Any]:
    """Say which module of the model encodes, as `training.Method` is told.

    With --beside-start it is the encoder beside a copy of it as it is now.
    """
    if not settings.beside_start:
        return {}
    model.joined = models.BesideStart(model.encoder)
    return {"encoder": lambda model: model.joined}


def dtype(settings: Any) -> Any:
    """Return what --bfloat16 asks to compute in."""
    import jax.numpy as jnp

    return jnp.bfloat16 if settings.bfloat16 else jnp.float32


def make_optimizer(
    settings: config.Optimization, data: Data, model: Any, encoder: Any = None
) -> Any:
    """Make the optimizer that the flags name, over the length of the training.

    Args:
      settings: The flags.
      data: Says how long the training is.
      model: Whose parameters move.
      encoder: The part of it whose blocks --layer-decay tells apart; None: `model.encoder`.
    """
    import jax
    import optax

    cosine = settings.schedule == "cosine"
    optimizer = training.make_optimizer(
        settings.optimizer,
        learning_rate=settings.learning_rate,
        total_steps=data.total_steps,
        schedule=settings.schedule,
        warmup_steps=round(settings.warmup * data.total_steps) if cosine else 0,
        weight_decay=settings.weight_decay,
    )
    if settings.layer_decay == 1:
        return optimizer
    blocks = model.encoder if encoder is None else encoder
    scales = models.learning_rate_scales(model, blocks, settings.layer_decay)
    scaled = optax.stateless(
        lambda updates, _: jax.tree.map(lambda update, scale: update * scale, updates, scales)
    )
    return optax.chain(optimizer, scaled)
