"""The plankton study's backbone: EfficientNetV2-S's first stages and a small trainable part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models.convolution import convolve
from jaxssl.models.efficientnet import Convention, EfficientNetTrunk
from jaxssl.models.heads import bias_of_01, xavier_uniform
from jaxssl.models.layers import BatchNorm, Block, Dropout, normalized_conv
from jaxssl.models.pooling import max_pool
from jaxssl.models.published import Published


class PlanktonBackbone(nnx.Module):
    """Trunk, two 3x3 convolutions of 64 (BatchNorm, ReLU), max-pool, linear, ReLU, dropout.

    With 128 px RGB images and a classifier of 6 classes on h: 1,503,198 parameters, 599,302 of them
    trainable after `freeze(backbone.trunk)`. Weights of the added layers are Xavier-uniform, biases
    .01.

    Args:
      image_size: side of the square images in pixels; it sizes the linear layer.
      channels: of the images, 1 or 3; pretrained weights need 3.
      features: size of h.
      negative_slope: of the ReLU before h; .01 makes it the later studies' LeakyReLU.
      dropout: rate on h, in training.
      convention: of the trunk, see `EfficientNetTrunk`.
      dtype: computes in it; parameters, statistics and h are float32.
      rngs: source of the parameters, of stochastic depth and of dropout.

    Example:
      >>> def build():
      ...     return PlanktonBackbone(image_size=128, channels=3, rngs=nnx.Rngs(0))
      >>> nnx.eval_shape(build).linear.kernel.shape
      (4096, 128)
    """

    min_size = 9  # three strides leave ceil(9 / 8) = 2 pixels for the 2x2 pool

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        features: int = 128,
        negative_slope: float = 0.0,
        dropout: float = 0.2,
        convention: Convention = "torchvision",
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.trunk = EfficientNetTrunk(
            channels=channels, convention=convention, dtype=dtype, rngs=rngs
        )
        width = self.trunk.features
        added = {
            "kernel_init": xavier_uniform,
            "bias_init": bias_of_01,
            "dtype": dtype,
            "rngs": rngs,
        }
        self.conv1 = nnx.Conv(width, width, (3, 3), padding=1, **added)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), padding=1, **added)
        self.bn2 = BatchNorm(width, rngs=rngs)
        for layer in (self.conv1, self.conv2):
            layer.conv_general_dilated = convolve
        side = -(-image_size // 8) // 2
        self.linear = nnx.Linear(side * side * width, features, **added)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.negative_slope = negative_slope
        self.features = features

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] in [0, 1] to representations h float32 [b, features]."""
        x = self.trunk(images)
        x = nnx.relu(normalized_conv(self.conv1, self.bn1, x))
        x = nnx.relu(normalized_conv(self.conv2, self.bn2, x))
        x = max_pool(x, (2, 2), (2, 2), (0, 0))
        x = self.linear(x.reshape(len(x), -1)).astype(jnp.float32)
        return self.dropout(nnx.leaky_relu(x, self.negative_slope))

    def blocks_list(self) -> list[Block]:
        """List the trunk's blocks, then the added layers."""
        return [
            *self.trunk.blocks_list(),
            ("conv1", (self.conv1, self.bn1)),
            ("conv2", (self.conv2, self.bn2)),
            ("linear", (self.linear, self.dropout)),
        ]

    def published(self) -> Published:
        """Name the trunk's weights; the added layers stay as they are."""
        return self.trunk.published()
