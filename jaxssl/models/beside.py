"""An encoder beside what it began as."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models.freezing import Frozen, freeze
from jaxssl.models.layers import BatchNorm, unit_rows


class BesideStart(nnx.Module):
    """h of an encoder and h of it as it began, side by side, each scaled to length 1.

    Training on from published weights wins what the new images teach and loses some of what the old
    ones taught; with few labels both count. The encoder is learnt as ever, by whatever holds it
    too; the copy is frozen. What the two have in common, frozen blocks, is held and computed once.

    Args:
      encoder: called on images float32 [b, h, w, c], with its weights of now; has `features`.

    Example:
      >>> from jaxssl.models import ConvNet
      >>> encoder = ConvNet(widths=(4, 8), channels=1, rngs=nnx.Rngs(0))
      >>> both = BesideStart(encoder)
      >>> encoder.eval()
      >>> h = both(jnp.ones((2, 16, 16, 1)))
      >>> h.shape, bool(jnp.allclose(h[:, :8], h[:, 8:], atol=1e-5))  # nothing is learnt yet
      ((2, 16), True)
    """

    def __init__(self, encoder: Any):
        self.encoder = encoder
        self.start = nnx.clone(encoder)
        freeze(self.start)
        self.features = 2 * encoder.features
        layers = zip(nnx.iter_modules(encoder), nnx.iter_modules(self.start), strict=True)
        for (_, layer), (_, copy) in layers:
            for name, value in list(vars(layer).items()):
                stands = isinstance(layer, BatchNorm) and layer.frozen
                if isinstance(value, Frozen) or (stands and isinstance(value, nnx.BatchStat)):
                    setattr(copy, name, value)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] in [0, 1] to float32 [b, features]."""
        return jnp.concatenate(
            [unit_rows(self.encoder(images)), unit_rows(self.start(images))], axis=1
        )
