"""Encoder f and projection head g in one module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models.freezing import Frozen


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

    def project(self, views: jax.Array) -> jax.Array:
        """Project every view of every image, all in one batch (`over_views`).

        Args:
          views: float images [number, b, h, w, c]; views[:, i] are the views of image i.

        Returns:
          Projections z [number, b, d], so that two views unpack as `z_a, z_b = project(views)`.
        """
        return over_views(lambda images: self(images)[1], views)


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


def over_views(function: Callable[[jax.Array], Any], views: jax.Array) -> Any:
    """Apply a function of images to several views of each image, as one batch.

    BatchNorm sees all views together. An image's views lie side by side in the batch, so on a batch
    that is sharded over devices the views stay where their images are.

    Args:
      function: images [number * b, h, w, c] -> rows [number * b, ...], or a tree of such arrays.
      views: [number, b, h, w, c]; views[:, i] are the views of image i.

    Returns:
      What the function returns, each array as [number, b, ...].

    Raises:
      ValueError: if the views have not five axes.

    Example:
      >>> views = jnp.arange(6.0).reshape(2, 3, 1, 1, 1)  # two views of three images
      >>> over_views(lambda images: images.reshape(-1, 1), views)[1].tolist()
      [[3.0], [4.0], [5.0]]
    """
    if views.ndim != 5:
        raise ValueError(f"views have the shape {views.shape}: not [number, b, h, w, c]")
    number = views.shape[0]
    rows = function(jnp.moveaxis(views, 0, 1).reshape(-1, *views.shape[2:]))
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, number, *x.shape[1:]), 1, 0), rows)


def follow(teacher: nnx.Module, online: nnx.Module, decay: float | jax.Array) -> None:
    """Move a momentum teacher towards the online module, in place: t <- decay t + (1 - decay) o.

    Call it in the loss: the teacher is state of the model, saved with it, and no gradient flows.
    It is a frozen copy of the online module (`teacher = nnx.clone(online)`, `freeze(teacher)`), or
    of a part of it.

    BatchNorm's running statistics are copied, not averaged: they start far from the data's, and
    with a decay of .996 an average would keep the teacher's outputs wrong for a thousand steps.

    Args:
      teacher: a module whose parameters are `Frozen`.
      online: a module that has every variable of the teacher under the same path.
      decay: share of the teacher that stays, in [0, 1]; it may depend on the step.

    Raises:
      ValueError: if the teacher has trainable parameters, or the online module lacks a variable of
        the teacher or has it in another shape.

    Reference:
      Grill et al. 2020, "Bootstrap Your Own Latent", equation 1; He et al. 2020, "Momentum Contrast
      for Unsupervised Visual Representation Learning", equation 2.

    Example:
      >>> from jaxssl.models import ClassWeights, freeze
      >>> online = ClassWeights(2, 3, rngs=nnx.Rngs(0))
      >>> teacher = nnx.clone(online)
      >>> freeze(teacher)
      >>> online.weights.set_value(online.weights[...] + 1)
      >>> before = teacher()
      >>> follow(teacher, online, 0.9)
      >>> round(float((teacher() - before)[0, 0]), 3)
      0.1
    """
    if jax.tree.leaves(nnx.state(teacher, nnx.Param)):
        raise ValueError("the teacher has trainable parameters: freeze(teacher) first")
    leaders = dict(nnx.to_flat_state(nnx.state(online)))
    for path, variable in nnx.to_flat_state(nnx.state(teacher, (Frozen, nnx.BatchStat))):
        leader = leaders.get(path)
        if leader is None or leader.shape != variable.shape:
            name = "/".join(map(str, path))
            there = "nothing" if leader is None else f"the shape {leader.shape}"
            raise ValueError(
                f"the teacher's {name} has the shape {variable.shape}, the online module has "
                f"{there} there"
            )
        new = jax.lax.stop_gradient(leader[...])
        if isinstance(variable, Frozen):
            new = decay * variable[...] + (1 - decay) * new
        variable.set_value(new)
