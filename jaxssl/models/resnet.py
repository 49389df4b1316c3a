"""ResNet-18 and ResNet-50 with torchvision's shapes, so that its weights fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.layers import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BatchNorm,
    Block,
    check_images,
    conv,
    normalize,
    normalized_conv,
)
from jaxssl.models.pooling import max_pool
from jaxssl.models.published import Published

Stem = Literal["cifar", "imagenet"]


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and the sum with the input (He et al. 2015)."""

    expansion = 1

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        *,
        last_scale: nnx.Initializer,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(in_features, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, scale_init=last_scale, rngs=rngs)
        self.downsample = _downsample(in_features, width, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, in] to [b, ceil(h / stride), ceil(w / stride), expansion * width]."""
        y = nnx.relu(normalized_conv(self.conv1, self.bn1, x))
        y = normalized_conv(self.conv2, self.bn2, y)
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 convolutions and the sum with the input; the stride is the 3x3's ("v1.5")."""

    expansion = 4

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        *,
        last_scale: nnx.Initializer,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        out_features = self.expansion * width
        self.conv1 = conv(in_features, width, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.conv3 = conv(width, out_features, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(out_features, scale_init=last_scale, rngs=rngs)
        self.downsample = _downsample(in_features, out_features, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, in] to [b, ceil(h / stride), ceil(w / stride), expansion * width]."""
        y = nnx.relu(normalized_conv(self.conv1, self.bn1, x))
        y = nnx.relu(normalized_conv(self.conv2, self.bn2, y))
        y = normalized_conv(self.conv3, self.bn3, y)
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(
    in_features: int, out_features: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Sequential | None:
    """Make the shortcut where the shape changes: a 1x1 convolution with BatchNorm."""
    if stride == 1 and in_features == out_features:
        return nnx.data(None)
    return nnx.Sequential(
        conv(in_features, out_features, 1, stride, dtype=dtype, rngs=rngs),
        BatchNorm(out_features, rngs=rngs),
    )


class ResNet(nnx.Module):
    """A residual network up to its global average pooling; `resnet18` and `resnet50` build one.

    Args:
      block: `BasicBlock` or `Bottleneck`.
      depths: blocks in each stage; every stage but the first halves the map.
      channels: of the images, 1 or 3.
      stem: `imagenet`: 7x7 convolution of stride 2 and a 3x3 max-pool of stride 2; `cifar`: 3x3
        convolution of stride 1 and no pool, for images of about 32 px (SimCLR, appendix B.9). With
        the former, RGB images are normalised by ImageNet's mean and deviation, as torchvision's
        weights expect.
      width: channels of the first stage; each further stage doubles them.
      zero_init_residual: the last BatchNorm of every block starts at scale 0, so that the block
        starts as the identity (Goyal et al. 2017).
      dtype: computes in it; parameters, statistics and h are float32.
      rngs: source of the parameters.

    Raises:
      ValueError: for an unknown stem.
      InputError: for a width under 1.

    Example:
      >>> build = lambda: resnet50(channels=3, stem="imagenet", rngs=nnx.Rngs(0))
      >>> encoder = nnx.eval_shape(build)  # shapes alone: nothing is computed
      >>> encoder.features, encoder.min_size
      (2048, 32)
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        channels: int,
        stem: Stem,
        width: int = 64,
        zero_init_residual: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem {stem!r}: one of cifar, imagenet")
        if width < 1:
            raise InputError(f"width {width} of a ResNet: at least 1")
        kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = conv(channels, width, kernel_size, stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.stages = nnx.List()
        features = width
        init = nnx.initializers.zeros if zero_init_residual else nnx.initializers.ones
        for stage, depth in enumerate(depths):
            blocks = nnx.List()
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                stage_width = width * 2**stage
                blocks.append(
                    block(features, stage_width, stride, last_scale=init, dtype=dtype, rngs=rngs)
                )
                features = block.expansion * stage_width
            self.stages.append(blocks)
        self.stem = stem
        self.normalizes = stem == "imagenet" and channels == 3
        self.features = features
        self.min_size = 2 ** (len(depths) - 1) * (4 if stem == "imagenet" else 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] in [0, 1] to representations h float32 [b, features]."""
        check_images(images, self.conv1.in_features)
        if self.normalizes:
            images = normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        x = nnx.relu(normalized_conv(self.conv1, self.bn1, images))
        if self.stem == "imagenet":
            x = max_pool(x, (3, 3), (2, 2), (1, 1))
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

    def blocks_list(self) -> list[Block]:
        """List the blocks from the images on, named as torchvision's layers."""
        return [
            ("stem", (self.conv1, self.bn1)),
            *(
                (f"layer{stage}.{index}", (block,))
                for stage, blocks in enumerate(self.stages, start=1)
                for index, block in enumerate(blocks)
            ),
        ]

    def published(self) -> Published:
        """Name the weights as torchvision and timm do."""
        if self.stem != "imagenet":
            raise InputError(
                "they need the ImageNet stem, this ResNet has the CIFAR stem: raise the image size "
                "above 64"
            )
        layers = {"conv1": self.conv1, "bn1": self.bn1}
        for stage, blocks in enumerate(self.stages, start=1):
            for index, block in enumerate(blocks):
                prefix = f"layer{stage}.{index}"
                for name in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"):
                    if hasattr(block, name):
                        layers[f"{prefix}.{name}"] = getattr(block, name)
                if block.downsample is not None:
                    for part, layer in enumerate(block.downsample.layers):
                        layers[f"{prefix}.downsample.{part}"] = layer
        return Published("torchvision", layers, ("fc.",))


# h of 8 * width and of 32 * width; the other arguments are ResNet's.
resnet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
