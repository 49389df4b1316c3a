"""The small encoder for a CPU: four strided convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models.layers import BatchNorm, Block, check_images, conv, normalized_conv


class ConvNet(nnx.Module):
    """3x3 convolutions of stride 2, each with BatchNorm and ReLU, then the global mean.

    Args:
      widths: channels of each convolution; the last is the size of h.
      channels: of the images, 1 or 3.
      dtype: computes in it; parameters, statistics and h are float32.
      rngs: source of the parameters.

    Example:
      >>> encoder = ConvNet(widths=(8, 16), channels=1, rngs=nnx.Rngs(0))
      >>> encoder.features, encoder.min_size
      (16, 4)
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        channels: int,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        ins = (channels, *widths[:-1])
        self.convs = nnx.List(
            conv(i, o, 3, 2, dtype=dtype, rngs=rngs) for i, o in zip(ins, widths, strict=True)
        )
        self.norms = nnx.List(BatchNorm(width, rngs=rngs) for width in widths)
        self.features = widths[-1]
        self.min_size = 2 ** len(widths)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] in [0, 1] to representations h float32 [b, features]."""
        check_images(images, self.convs[0].in_features)
        x = images
        for convolution, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(normalized_conv(convolution, norm, x))
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

    def blocks_list(self) -> list[Block]:
        """List the convolutions from the images on, each with its BatchNorm."""
        pairs = zip(self.convs, self.norms, strict=True)
        return [(f"block{index}", pair) for index, pair in enumerate(pairs)]
