"""A vision transformer in DINOv3's layout, for the weights that Hugging Face has.

Reference: Siméoni et al. 2025, "DINOv3"; Su et al. 2021, "RoFormer: Enhanced Transformer with
Rotary Position Embedding"; Darcet et al. 2024, "Vision Transformers Need Registers".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.models.dinov2 import Dino, Rotation, normal, of_blocks

PATCH = 16
REGISTERS = 4
THETA = 100.0  # the longest wave is of so many patch grids


class Embeddings(nnx.Module):
    """Images to tokens: a class token, registers, a linear layer of each 16 x 16 patch."""

    def __init__(self, width: int, *, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        size = (PATCH, PATCH)
        self.patches = nnx.Conv(
            channels,
            width,
            size,
            PATCH,
            padding="VALID",
            dtype=dtype,
            kernel_init=normal,
            rngs=rngs,
        )
        self.cls_token = nnx.Param(normal(rngs.params(), (1, 1, width), jnp.float32))
        self.registers = nnx.Param(normal(rngs.params(), (1, REGISTERS, width), jnp.float32))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map [b, h, w, c] to tokens [b, 5 + (h // 16) (w // 16), width]."""
        x = self.patches(images)
        b, width = len(x), x.shape[-1]
        first = jnp.concatenate([self.cls_token[...], self.registers[...]], axis=1).astype(x.dtype)
        first = jnp.broadcast_to(first, (b, 1 + REGISTERS, width))
        return jnp.concatenate([first, x.reshape(b, -1, width)], axis=1)


def rotation(sides: tuple[int, int], size: int, *, first: int) -> Rotation:
    """Make the rotation of queries and keys by their patches' places (RoPE in two dimensions).

    A place is that of a patch's centre, from -1 to 1 in both directions. Of a head's numbers, i
    and i + size / 2 are a pair, which is turned by 2 pi place / 100^(4 j / size): j counts from 0
    to size / 4 for the vertical place, then again for the horizontal one.

    Args:
      sides: rows and columns of patches.
      size: of a head, a multiple of 4.
      first: so many tokens before the patches' are not turned.

    Returns:
      [b, first + rows * columns, heads, size] -> the same shape and type.

    Example:
      >>> turn = rotation((2, 3), 8, first=5)
      >>> turn(jnp.ones((1, 11, 2, 8))).shape
      (1, 11, 2, 8)
    """
    places = np.stack(
        np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in sides), indexing="ij"), axis=-1
    ).reshape(-1, 2, 1)
    angles = (2 * np.pi * places / THETA ** np.arange(0, 1, 4 / size)).reshape(-1, size // 2)
    angles = np.concatenate([np.zeros((first, size // 2)), angles])[None, :, None]
    cos, sin = (jnp.asarray(f(angles), jnp.float32) for f in (np.cos, np.sin))

    def rotate(x: jax.Array) -> jax.Array:
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)

    return rotate


class DinoV3(Dino):
    """DINOv3's transformer; `dinov3_s` (21.6 million parameters) and `dinov3_b` (85.7) build one.

    Places are rotations of queries and keys, so that images of any size fit; sides that are no
    multiple of 16 lose the rest at the right and bottom. RGB images are normalised inside. Weights:
    `facebook/dinov3-vits16-pretrain-lvd1689m` and `-vitb16-`. The arguments are those of `Dino`;
    the size of a head, width / heads, is a multiple of 4.

    Example:
      >>> encoder = nnx.eval_shape(lambda: dinov3_s(channels=3, rngs=nnx.Rngs(0)))
      >>> encoder.features, sum(x.size for x in jax.tree.leaves(nnx.state(encoder, nnx.Param)))
      (384, 21596160)
    """

    min_size = PATCH
    tokens = Embeddings
    extra = 1 + REGISTERS
    epsilon = 1e-5
    key_bias = False
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.patch_embeddings": "embeddings.patches",
        "embeddings.cls_token": "embeddings.cls_token",
        "embeddings.register_tokens": "embeddings.registers",
        "norm": "norm",
        **of_blocks(
            "layer",
            query="attention.q_proj",
            key="attention.k_proj",
            value="attention.v_proj",
            out="attention.o_proj",
            fc1="mlp.up_proj",
            fc2="mlp.down_proj",
        ),
    }

    def _rotation(self, images: jax.Array) -> Rotation:
        h, w = images.shape[1:3]
        size = self.norm.num_features // self.blocks[0].heads
        return rotation((h // PATCH, w // PATCH), size, first=self.extra)


dinov3_s = partial(DinoV3, width=384, heads=6)
dinov3_b = partial(DinoV3, width=768, heads=12)
