"""The output of any layer of a network, by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.errors import InputError


def layer_output(model: nnx.Module, layer: str) -> Callable[[Any, jax.Array], jax.Array]:
    """Make the function that gives a layer's features of images.

    Args:
      model: To look the layer up in; called on images [b, h, w, c].
      layer: A module's path as `describe` prints it, such as "encoder/convs/2"; maps
        [b, h, w, d] give their mean over the places.

    Returns:
      `(model, images) -> features [b, d]`, float32, for a model of the same structure, inside a
      compiled step.

    Raises:
      InputError: There is no such layer, or it puts out no row an image.

    Example:
      >>> from jaxssl.models import ConvNet
      >>> encoder = ConvNet(widths=(4, 8), channels=1, rngs=nnx.Rngs(0))
      >>> layer_output(encoder, "convs/0")(nnx.clone(encoder), jnp.ones((2, 8, 8, 1))).shape
      (2, 4)
    """
    parts = [(path, part) for path, part in nnx.iter_modules(model) if path]
    names = ["/".join(map(str, path)) for path, part in parts if callable(part)]
    if layer not in names:
        shown = [name for name in names if name.count("/") <= 2]
        raise InputError(f"layer {layer!r} is not in this network: choose {', '.join(shown)}")

    def output(model: Any, images: jax.Array) -> jax.Array:
        heard: list[Any] = []
        part = next(p for path, p in nnx.iter_modules(model) if "/".join(map(str, path)) == layer)
        _listen(part, heard)
        model(images)
        if not heard or not hasattr(heard[-1], "ndim"):
            raise InputError(f"layer {layer!r} puts out no row an image: choose another")
        maps = heard[-1].astype(jnp.float32)
        return maps.mean(axis=tuple(range(1, maps.ndim - 1)))

    return output


def _listen(part: nnx.Module, heard: list[Any]) -> None:
    """Give this one object (a traced copy) a class whose `__call__` notes what it returns."""
    kind = type(part)

    def call(self: nnx.Module, *args: Any, **options: Any) -> Any:
        output = kind.__call__(self, *args, **options)
        heard.append(output)
        return output

    object.__setattr__(part, "__class__", type(kind.__name__, (kind,), {"__call__": call}))
