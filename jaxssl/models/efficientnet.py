"""EfficientNetV2-S up to its third stage: torchvision's `features[:4]`, the plankton study's cut.

Reference: Tan and Le 2021, EfficientNetV2: Smaller Models and Faster Training.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models.layers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BatchNorm,
    Block,
    Dropout,
    check_images,
    conv,
    normalize,
    normalized_conv,
)
from jaxssl.models.published import Published

Convention = Literal["torchvision", "tensorflow"]

# (expansion, features, stride of the first block, blocks) of the stages that are kept.
STAGES = ((1, 24, 1, 2), (4, 48, 2, 4), (4, 64, 2, 4))
# The rate of stochastic depth grows to this over the 40 blocks of the whole network.
DEPTH_RATE, ALL_BLOCKS = 0.2, 40

# Prefixes of what the whole networks have beyond the trunk.
_TORCHVISION_REST = ("features.4.", "features.5.", "features.6.", "features.7.", "classifier.")
_TIMM_REST = ("blocks.3.", "blocks.4.", "blocks.5.", "conv_head.", "bn2.", "classifier.")


class FusedMBConv(nnx.Module):
    """A 3x3 convolution that widens, a 1x1 that narrows, and the sum with the input.

    Without expansion the 3x3 convolution stands alone.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        expansion: int,
        stride: int,
        depth_rate: float,
        same_padding: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        wide = features if expansion == 1 else expansion * in_features
        convs = [conv(in_features, wide, 3, stride, same=same_padding, dtype=dtype, rngs=rngs)]
        norms = [BatchNorm(wide, epsilon=1e-3, rngs=rngs)]
        if expansion != 1:
            convs.append(conv(wide, features, 1, dtype=dtype, rngs=rngs))
            norms.append(BatchNorm(features, epsilon=1e-3, rngs=rngs))
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        self.residual = stride == 1 and in_features == features
        self.depth = Dropout(depth_rate, broadcast_dims=(1, 2, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, in_features] to [b, ceil(h / stride), ceil(w / stride), features]."""
        y = nnx.silu(normalized_conv(self.convs[0], self.norms[0], x))
        for convolution, norm in zip(self.convs[1:], self.norms[1:], strict=True):
            y = normalized_conv(convolution, norm, y)
        return self.depth(y) + x if self.residual else y


class EfficientNetTrunk(nnx.Module):
    """Stem and three stages of fused blocks: images to maps of an eighth of the side, 64 channels.

    903,896 parameters. RGB images are normalised inside, as the pretrained weights expect.

    Args:
      channels: of the images, 1 or 3.
      convention: what the weights were, or will be, trained with. `torchvision`: symmetric padding,
        ImageNet's mean and deviation. `tensorflow`: SAME padding, mean and deviation .5 (timm's
        `tf_efficientnetv2_s`).
      dtype: computes in it; parameters and statistics are float32.
      rngs: source of the parameters and of stochastic depth.

    Example:
      >>> trunk = nnx.eval_shape(lambda: EfficientNetTrunk(channels=3, rngs=nnx.Rngs(0)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(nnx.state(trunk, nnx.Param)))
      903896
    """

    def __init__(
        self,
        *,
        channels: int,
        convention: Convention = "torchvision",
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        same_padding = convention == "tensorflow"
        features = STAGES[0][1]
        self.stem_conv = conv(channels, features, 3, 2, same=same_padding, dtype=dtype, rngs=rngs)
        self.stem_norm = BatchNorm(features, epsilon=1e-3, rngs=rngs)
        self.stages = nnx.List()
        index = 0
        for expansion, stage_features, first_stride, count in STAGES:
            blocks = nnx.List()
            for block in range(count):
                blocks.append(
                    FusedMBConv(
                        features,
                        stage_features,
                        expansion=expansion,
                        stride=first_stride if block == 0 else 1,
                        depth_rate=DEPTH_RATE * index / ALL_BLOCKS,
                        same_padding=same_padding,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                features = stage_features
                index += 1
            self.stages.append(blocks)
        self.convention = convention
        self.channels = channels
        self.features = features

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] in [0, 1] to maps [b, ceil(h / 8), ceil(w / 8), 64]."""
        check_images(images, self.channels)
        if self.channels == 3 and self.convention == "torchvision":
            images = normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        elif self.channels == 3:
            images = normalize(images, (0.5,) * 3, (0.5,) * 3)
        x = nnx.silu(normalized_conv(self.stem_conv, self.stem_norm, images))
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        return x

    def blocks_list(self) -> list[Block]:
        """List the blocks from the images on."""
        blocks = [(block,) for blocks in self.stages for block in blocks]
        return [
            ("stem", (self.stem_conv, self.stem_norm)),
            *((f"block{index}", block) for index, block in enumerate(blocks)),
        ]

    def published(self) -> Published:
        """Name the weights as torchvision or timm does, by the convention."""
        if self.convention == "tensorflow":
            return Published("timm", self._timm_names(), _TIMM_REST)
        return Published("torchvision", self._torchvision_names(), _TORCHVISION_REST)

    def _torchvision_names(self) -> dict[str, nnx.Module]:
        layers = {"features.0.0": self.stem_conv, "features.0.1": self.stem_norm}
        for stage, blocks in enumerate(self.stages, start=1):
            for index, block in enumerate(blocks):
                for part, pair in enumerate(zip(block.convs, block.norms, strict=True)):
                    prefix = f"features.{stage}.{index}.block.{part}"
                    layers |= {f"{prefix}.0": pair[0], f"{prefix}.1": pair[1]}
        return layers

    def _timm_names(self) -> dict[str, nnx.Module]:
        layers = {"conv_stem": self.stem_conv, "bn1": self.stem_norm}
        for stage, blocks in enumerate(self.stages):
            convs = ("conv",) if stage == 0 else ("conv_exp", "conv_pwl")
            for index, block in enumerate(blocks):
                for part, name in enumerate(convs):
                    layers[f"blocks.{stage}.{index}.{name}"] = block.convs[part]
                    layers[f"blocks.{stage}.{index}.bn{part + 1}"] = block.norms[part]
        return layers
