"""Embeddings of images in one call: from a run folder, or from a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxssl.augment import to_float
from jaxssl.data import ImageSet, eval_batches
from jaxssl.models import average_views
from jaxssl.training import Placement, TrainState, data_placement, make_eval_step
from jaxssl.training.bars import Bar
from jaxssl.training.method import Output
from jaxssl.training.state import model_state

# The same for every study: equal weights then give equal embeddings to the last bit.
BATCH = 256
Encode = Callable[[TrainState, Mapping[str, jax.Array], jax.Array], jax.Array]


def embed(
    images: ImageSet | np.ndarray | str | Path,
    source: nnx.Module | str | Path,
    *,
    output: Output | None = None,
    checkpoint: str = "best",
    method: str | None = None,
) -> np.ndarray:
    """Embed images by the encoder of a run, or by a model.

    h = f(x) of every image, in evaluation mode, in batches of 256 over all devices.

    Args:
      images: An `ImageSet`; an array uint8 [n, h, w, c], or float in [0, 1], of the size and
        channels that the network was trained on; or, for a run, a folder that is read as the run
        read its own.
      source: A run folder; or a module: an encoder (images -> h), or one with an `encoder`.
      output: `(model, images) -> [b, d]`, what is wanted in place of h.
      checkpoint: Of a run: "best" (on validation), "last", or a step.
      method: Of a run whose method is not of this package: the Python file that defines it, which
        is run.

    Returns:
      float32 [n, d], in the order of the images.

    Raises:
      InputError: No such run or checkpoint, images that cannot be read, or a run of a file that
        was not named.
      ValueError: An array that is no batch of images.

    Example:
      >>> from jaxssl import embed, models
      >>> encoder = models.ConvNet(channels=1, rngs=nnx.Rngs(0))
      >>> embed(np.zeros((3, 16, 16, 1), np.uint8), encoder).shape
      (3, 256)
    """
    placement = data_placement(jax.device_count())
    if isinstance(source, nnx.Module):
        if isinstance(images, str | Path):
            raise ValueError("a model does not say how a folder is to be read: give its images")
        chosen = output or (_by_encoder if hasattr(source, "encoder") else _call)
        state = placement.replicate(model_state(source))
        return embed_set(compile_output(source, chosen, placement), state, images, placement)
    # A run folder is what a program wrote; only its program can make the model of it again.
    from experiments import finished

    run = finished.open(str(source), method=method)
    if isinstance(images, str | Path):
        images = run.read_other(str(images))[0]
    chosen = output or average_views(run.method.encode, run.views(None))
    state = run.restore(run.step(checkpoint), placement)
    encode = compile_output(run.method.model, chosen, placement)
    return embed_set(encode, state, images, placement)


def compile_output(model: nnx.Module, output: Output, placement: Placement) -> Encode:
    """Compile `(state, batch, key) -> output(model, images)`, in evaluation mode."""
    return make_eval_step(
        model,
        lambda model, batch, key, step: output(model, to_float(batch["image"])),
        placement,
        by_image=True,
    )


def embed_set(
    encode: Encode,
    state: TrainState,
    images: ImageSet | np.ndarray,
    placement: Placement,
    *,
    title: str = "",
) -> np.ndarray:
    """Collect what `encode` makes of every image.

    Args:
      encode: From `compile_output`.
      state: On all devices.
      images: Set or array of n images.
      placement: That `encode` was compiled for.
      title: Of a bar with rate and time left on a terminal, where it takes more than 2 seconds,
        and of a line a minute elsewhere; none: neither.

    Returns:
      float32 [n, d], in the set's order.
    """
    if not isinstance(images, ImageSet):
        images = _as_set(np.asarray(images))
    key = jax.random.key(0)  # evaluation draws nothing; a compiled step takes a key
    many = placement.device_count
    size = max(BATCH // many, 1) * many
    rows = []
    with Bar(len(images), title=title, unit="image", delay=2) as bar:
        for batch in eval_batches(images, batch_size=size, part=placement.part(size)):
            rows.append(jax.device_get(encode(state, placement.put(batch), key)))
            bar.update(min(size, len(images) - bar.n))
    return np.concatenate(rows)[: len(images)]


def _as_set(pixels: np.ndarray) -> ImageSet:
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not len(pixels):
        raise ValueError(f"images are [n, h, w, 1 or 3], n of 1 or more, got {pixels.shape}")
    return ImageSet(
        ids=tuple(map(str, range(len(pixels)))),
        paths=("",) * len(pixels),
        labels=np.zeros(len(pixels), np.int32),
        class_names=("",),
        load=pixels.__getitem__,
        groups=np.arange(len(pixels)),
        shape=pixels.shape[1:],
    )


def _by_encoder(model: Any, images: jax.Array) -> jax.Array:
    return model.encoder(images)


def _call(model: Any, images: jax.Array) -> jax.Array:
    return model(images)
