"""An output averaged over turned and mirrored copies of each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxssl import lowering

VIEWS = (1, 2, 4, 8)


def turned(images: jax.Array, view: jax.Array | int) -> jax.Array:
    """Turn and mirror images: one of the square's eight symmetries, the dihedral group D4.

    Args:
      images: [b, n, n, c].
      view: 0 to 7: quarter turns, anticlockwise, view % 4 of them, after a mirror image left to
        right where it is 4 or more. 0 changes nothing.

    Returns:
      [b, n, n, c].

    Example:
      >>> corner = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1)
      >>> turned(corner, 1)[0, :, :, 0].tolist(), turned(corner, 4)[0, :, :, 0].tolist()
      ([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    """
    images = jnp.where(jnp.asarray(view) >= 4, images[:, :, ::-1], images)
    turns = [lambda x, k=k: jnp.rot90(x, k, axes=(1, 2)) for k in range(4)]
    return lax.switch(jnp.asarray(view) % 4, turns, images)


def average_views(
    output: Callable[[Any, jax.Array], jax.Array], views: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """Make the function whose output is averaged over copies of each image.

    (1 / v) Σ f(T_i x) over the first v of: 1 the image itself; 2 with its mirror image; 4 the four
    right angles; 8 these and their mirror images. Whoever was turned by a right angle or mirrored
    then has the same h as before, but for rounding: plankton lies as it comes. The cost is v times
    that of one view; the copies go through the network one after the other, so memory stays.

    Args:
      output: `(model, images [b, n, n, c]) -> [b, d]`, in evaluation mode.
      views: 1, 2, 4 or 8.

    Returns:
      `(model, images) -> [b, d]`, float32; `output` itself for one view.

    Raises:
      ValueError: another number of views; images that are not square.

    Reference:
      Averaging at test time: Krizhevsky et al. 2012, section 4.1, over crops and mirror images;
      over the symmetries of a square, for plankton: Dieleman et al. 2016, "Exploiting Cyclic
      Symmetry in Convolutional Neural Networks".

    Example:
      >>> first_row = lambda model, images: images[:, 0].mean(1)
      >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
      >>> [average_views(first_row, n)(None, x).item() for n in (1, 2, 4)]
      [1.5, 1.5, 2.5]
    """
    if views not in VIEWS:
        raise ValueError(f"views are {views}: one of {', '.join(map(str, VIEWS))}")
    if views == 1:
        return output
    chosen = jnp.array([0, 4]) if views == 2 else jnp.arange(views)

    def averaged(model: Any, images: jax.Array) -> jax.Array:
        if images.shape[1] != images.shape[2]:
            raise ValueError(f"images are {images.shape[1:3]}: only square ones can be turned")

        def add(total: jax.Array, view: jax.Array) -> tuple[jax.Array, None]:
            return total + output(model, turned(images, view)).astype(jnp.float32), None

        with lowering.in_mesh_of(images):
            one = jax.eval_shape(lambda x: output(model, x), images)
            # Spread as the output is, which matters on Explicit axes.
            none = jnp.zeros(one.shape, jnp.float32, out_sharding=one.sharding)
            return lax.scan(add, none, chosen)[0] / views

    return averaged
