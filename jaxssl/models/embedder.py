"""Encoder f and projection head g in one module."""

from __future__ import annotations

import jax
from flax import nnx


class Embedder(nnx.Module):
    """h = f(x), z = g(h): the loss works on z, the analysis on h.

    Args:
      encoder: images [b, h, w, c] -> representation h [b, features].
      head: h -> projection z [b, d]; None: the loss works on h itself, z = h.

    Reference:
      Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
      section 2.1: h serves later tasks better than z.
    """

    def __init__(self, encoder: nnx.Module, head: nnx.Module | None = None):
        self.encoder = encoder
        self.head = nnx.data(head)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return (h, z) of float images."""
        h = self.encoder(images)
        return h, h if self.head is None else self.head(h)


class MarginEmbedder(Embedder):
    """An encoder and the class weights that a margin loss compares h with: no head, z = h.

    Args:
      encoder: images [b, h, w, c] -> representation h [b, features].
      class_weights: () -> weights [k, features], such as `ClassWeights`.

    Reference:
      Deng et al. 2019, "ArcFace", equation 3: the columns of W.
    """

    def __init__(self, encoder: nnx.Module, class_weights: nnx.Module):
        super().__init__(encoder)
        self.class_weights = class_weights
