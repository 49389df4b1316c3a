"""A vision transformer in DINOv2's layout, for the weights that Hugging Face has.

Reference: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"; Oquab et al. 2023, "DINOv2:
Learning Robust Visual Features without Supervision". DINOv3's is in `jaxssl.models.dinov3`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.layers import IMAGENET_MEAN, IMAGENET_STD, Block, check_images, normalize
from jaxssl.models.linear import dot_general
from jaxssl.models.published import Published

Layer = Literal["cls", "patches", "cls+patches"]
# Of queries and keys [b, t, heads, width / heads]: what tells the tokens' places apart, if it is
# not in the tokens.
Rotation = Callable[[jax.Array], jax.Array]
PATCH = 14
SIDE = 37  # of the square of patches that the position embeddings are of: 518 px


def normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Draw what a transformer's weights begin with: of standard deviation .02."""
    return 0.02 * jax.random.normal(key, shape, dtype)


class Embeddings(nnx.Module):
    """Images to tokens: a linear layer of each 14 x 14 patch, a class token, their positions."""

    def __init__(self, width: int, *, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.patches = nnx.Conv(
            channels,
            width,
            (PATCH, PATCH),
            PATCH,
            padding="VALID",
            dtype=dtype,
            kernel_init=normal,
            rngs=rngs,
        )
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, width), jnp.float32))
        self.positions = nnx.Param(normal(rngs.params(), (1, 1 + SIDE**2, width), jnp.float32))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map [b, h, w, c] to tokens [b, 1 + (h // 14) (w // 14), width]."""
        x = self.patches(images)
        b, h, w, width = x.shape
        positions = interpolated(self.positions[:, 1:].reshape(SIDE, SIDE, width), (h, w))
        x = x.reshape(b, h * w, width) + positions.reshape(1, h * w, width).astype(x.dtype)
        cls = self.cls_token[...] + self.positions[:, :1]
        return jnp.concatenate([jnp.broadcast_to(cls.astype(x.dtype), (b, 1, width)), x], axis=1)


def interpolated(grid: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """Resize a grid as torch's `interpolate(mode="bicubic", align_corners=False)` does.

    Args:
      grid: [h, w, d].
      sides: h', w'.

    Returns:
      [h', w', d].

    Reference:
      Keys 1981, "Cubic convolution interpolation for digital image processing", with a = -.75.
    """
    tall, wide = (
        jnp.asarray(_cubic(old, new)) for old, new in zip(grid.shape[:2], sides, strict=True)
    )
    return jnp.einsum("yh,xw,hwd->yxd", tall, wide, grid, precision=jax.lax.Precision.HIGHEST)


def _cubic(old: int, new: int) -> np.ndarray:
    """Make the matrix [new, old] of a one-dimensional resize; beyond the border, its value."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        x = np.abs(centre - (first + tap))
        near = 1.25 * x**3 - 2.25 * x**2 + 1
        far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        places = np.clip(first + tap, 0, old - 1)
        np.add.at(matrix, (np.arange(new), places), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


class TransformerBlock(nnx.Module):
    """x + s1 attention(norm(x)), then x + s2 MLP(norm(x)) with learned s1, s2 ("layer scale")."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        epsilon: float,
        key_bias: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        def linear(i: int, o: int, use_bias: bool = True) -> nnx.Linear:
            return nnx.Linear(
                i,
                o,
                use_bias=use_bias,
                dtype=dtype,
                kernel_init=normal,
                dot_general=dot_general,
                rngs=rngs,
            )

        self.norm1 = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.query, self.key = linear(width, width), linear(width, width, key_bias)
        self.value, self.out = linear(width, width), linear(width, width)
        self.scale1 = nnx.Param(jnp.ones(width, jnp.float32))
        self.norm2 = nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs)
        self.fc1, self.fc2 = linear(width, 4 * width), linear(4 * width, width)
        self.scale2 = nnx.Param(jnp.ones(width, jnp.float32))
        self.heads = heads

    def __call__(self, x: jax.Array, rotate: Rotation | None = None) -> jax.Array:
        """Map tokens [b, t, width] to the same shape, float32."""
        y = self.norm1(x)
        query, key, value = (
            layer(y).reshape(*x.shape[:2], self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        y = self.out(jax.nn.dot_product_attention(query, key, value).reshape(x.shape))
        x = x + y * self.scale1[...].reshape(1, 1, -1)
        y = self.fc2(nnx.gelu(self.fc1(self.norm2(x)), approximate=False))
        return x + y * self.scale2[...].reshape(1, 1, -1)


class Dino(nnx.Module):
    """What DINOv2 and DINOv3 have in common: embeddings, blocks, a last norm, and h of it.

    Args:
      width: of a token.
      heads: of the attention; their number divides the width.
      depth: blocks.
      layer: h is the class token after the last norm (`cls`, None), the mean of the patches'
        (`patches`), or both side by side (`cls+patches`).
      channels: of the images, 1 or 3; pretrained weights need 3.
      dtype: multiplies matrices in it; norms, sums, parameters and h are float32.
      rngs: source of the parameters.

    Attributes:
      tokens: makes images [b, h, w, c] tokens [b, t, width], the class token first.
      extra: how many tokens stand before those of the patches.
      epsilon: of the norms.
      key_bias: whether keys have a bias.
      names: Hugging Face's, of the parts here; a block's have the place of its number.

    Raises:
      InputError: for a layer that does not exist.
    """

    tokens: type[Any]
    extra = 1
    epsilon: float
    key_bias = True
    names: ClassVar[Mapping[str, str]]

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        depth: int = 12,
        layer: Layer | str | None = None,
        channels: int,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.layer = layer or "cls"
        if self.layer not in ("cls", "patches", "cls+patches"):
            raise InputError(f"layer {layer!r}: one of cls, patches, cls+patches")
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.embeddings = self.tokens(width, channels=channels, **options)
        options |= {"epsilon": self.epsilon, "key_bias": self.key_bias}
        self.blocks = nnx.List(TransformerBlock(width, heads, **options) for _ in range(depth))
        self.norm = nnx.LayerNorm(width, epsilon=self.epsilon, rngs=rngs)
        self.features = width * (2 if self.layer == "cls+patches" else 1)
        self.normalizes = channels == 3

    def _rotation(self, images: jax.Array) -> Rotation | None:
        return None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] in [0, 1] to representations h float32 [b, features]."""
        check_images(images, self.embeddings.patches.in_features)
        if self.normalizes:
            images = normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        x = self.embeddings(images).astype(jnp.float32)
        rotate = self._rotation(images)
        for block in self.blocks:
            x = block(x, rotate)
        x = self.norm(x)
        cls, patches = x[:, 0], x[:, self.extra :].mean(1)
        return {
            "cls": cls,
            "patches": patches,
            "cls+patches": jnp.concatenate([cls, patches], axis=1),
        }[self.layer]

    def blocks_list(self) -> list[Block]:
        """List the embeddings, the blocks and the last norm, from the images on."""
        blocks = [(f"block{index}", (block,)) for index, block in enumerate(self.blocks)]
        return [("embeddings", (self.embeddings,)), *blocks, ("norm", (self.norm,))]

    def published(self) -> Published:
        """Name the weights as Hugging Face does."""
        layers: dict[str, nnx.Module | nnx.Variable] = {}
        for name, part in self.names.items():
            if "{}" not in name:
                layers[name] = operator.attrgetter(part)(self)
                continue
            for index, block in enumerate(self.blocks):
                layers[name.format(index)] = getattr(block, part)
        return Published("Hugging Face", layers, ("embeddings.mask_token",))


def of_blocks(prefix: str, **parts: str) -> dict[str, str]:
    """Name the parts of a block, those that have other names in each generation and the others."""
    same = {"norm1": "norm1", "layer_scale1.lambda1": "scale1"}
    same |= {"norm2": "norm2", "layer_scale2.lambda1": "scale2"}
    names = same | {theirs: ours for ours, theirs in parts.items()}
    return {f"{prefix}.{{}}.{theirs}": ours for theirs, ours in names.items()}


class DinoV2(Dino):
    """DINOv2's transformer; `dinov2_s` (22 million parameters) and `dinov2_b` (86.6) build one.

    Sides that are no multiple of 14 lose the rest at the right and bottom. The position embeddings
    are of 37 x 37 patches, interpolated to the image's. RGB images are normalised inside. Weights:
    `facebook/dinov2-small` and `-base`. The arguments are those of `Dino`.

    Example:
      >>> encoder = nnx.eval_shape(lambda: dinov2_s(channels=3, rngs=nnx.Rngs(0)))
      >>> encoder.features, sum(x.size for x in jax.tree.leaves(nnx.state(encoder, nnx.Param)))
      (384, 22056192)
    """

    min_size = PATCH
    tokens = Embeddings
    epsilon = 1e-6
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.patch_embeddings.projection": "embeddings.patches",
        "embeddings.cls_token": "embeddings.cls_token",
        "embeddings.position_embeddings": "embeddings.positions",
        "layernorm": "norm",
        **of_blocks(
            "encoder.layer",
            query="attention.attention.query",
            key="attention.attention.key",
            value="attention.attention.value",
            out="attention.output.dense",
            fc1="mlp.fc1",
            fc2="mlp.fc2",
        ),
    }


dinov2_s = partial(DinoV2, width=384, heads=6)
dinov2_b = partial(DinoV2, width=768, heads=12)
