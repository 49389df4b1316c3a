"""SimCLR by this library and a recipe of `torch_simclr`, for `learning.py --here`.

The network starts from PyTorch's own first weights; views, order and step are this library's.
That a step is PyTorch's is held in tests/test_learning.py.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch_simclr
from flax import nnx

from jaxssl import augment, losses, training
from jaxssl.models import Embedder, ProjectionHead, make_encoder
from jaxssl.models.layers import IMAGENET_MEAN, IMAGENET_STD, normalize
from jaxssl.training import devices

Recipe = torch_simclr.Recipe


def model_of(recipe: Recipe, theirs: torch.nn.Module) -> Embedder:
    """Make f and g with the weights of PyTorch's, `torch_simclr.network(recipe)`: a ResNet's."""
    rngs, size = nnx.Rngs(0), recipe.image_size
    dtype = jnp.bfloat16 if recipe.bfloat16 else jnp.float32
    encoder: Any = make_encoder(recipe.encoder, image_size=size, channels=3, dtype=dtype, rngs=rngs)
    kind = "mlp-bn2" if recipe.norm_of_z else "mlp-bn"
    head = ProjectionHead(encoder.features, kind=kind, out_features=recipe.features, rngs=rngs)
    model = Embedder(encoder, head)
    for ours, array in zip(kernels(model), weights(theirs), strict=True):
        ours.set_value(jnp.asarray(array))
    return model


def kernels(model: Any) -> list[nnx.Param]:
    """List the kernels of a ResNet and its head, in the order of the images' way."""
    encoder = model.encoder
    found = [encoder.conv1]
    for stage in encoder.stages:
        for block in stage:
            found += [block.conv1, block.conv2]
            found += [] if block.downsample is None else [block.downsample.layers[0]]
    return [layer.kernel for layer in (*found, *model.head.linears)]


def weights(theirs: torch.nn.Module) -> list[np.ndarray]:
    """List PyTorch's kernels in its order, as ours lie: h, w, in, out and in, out."""
    arrays = [p.detach().numpy().astype(np.float32) for p in theirs.parameters() if p.ndim > 1]
    return [a.transpose((2, 3, 1, 0) if a.ndim == 4 else (1, 0)) for a in arrays]


def method_of(
    recipe: Recipe,
    model: Embedder,
    steps: int,
    views: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> training.Method:
    """Make the method; `views(key, images)` gives float [2, b, s, s, 3], `augment.cifar`'s here."""
    make = views or functools.partial(augment.views, recipe=augment.cifar)

    def loss(model: Any, batch: training.Batch, key: jax.Array, step: jax.Array) -> Any:
        both = make(key, batch["image"])
        both = jax.vmap(lambda view: _normalized(view, recipe))(both)
        if recipe.views_apart:
            z_a, z_b = (model.project(view[None])[0] for view in both)
        else:
            z_a, z_b = model.project(both)
        return losses.nt_xent(z_a, z_b, temperature=recipe.temperature), {}

    decay = recipe.weight_decay
    optimizer = training.make_optimizer(
        "sgd",
        learning_rate=recipe.learning_rate,
        total_steps=steps,
        schedule="cosine",
        warmup_steps=round(recipe.warmup * steps),
        weight_decay=0.0 if recipe.decays_all else decay,
    )
    if recipe.decays_all:
        optimizer = optax.chain(optax.add_decayed_weights(decay), optimizer)
    return training.Method("SimCLR", model, loss, optimizer)


def train(
    pixels: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    after: Mapping[int, Callable[[Embedder], None]] | None = None,
) -> tuple[Embedder, list[dict[str, float]]]:
    """Train f and g as `torch_simclr.train` does; on a GPU an epoch is one dispatch.

    Args:
      pixels: uint8 [n, s, s, 3]; they stay on the device.
      recipe: what and how.
      seed: of weights, order and views.
      device: "cuda" or "cpu"; JAX takes what it found.
      after: called with the network after so many epochs.

    Returns:
      The network, and loss and seconds of every epoch.
    """
    torch.manual_seed(seed)
    order, size = np.random.default_rng(seed), recipe.batch_size
    model = model_of(recipe, torch_simclr.network(recipe))
    steps = len(pixels) // size
    method = method_of(recipe, model, steps * recipe.epochs)
    placement = devices.placement_over(jax.devices()[:1], size)
    images = placement.reside(pixels.shape, lambda: pixels)
    step = training.make_train_step(method, placement, images=images)
    state, key = placement.replicate(training.create_state(method)), jax.random.key(seed)
    epochs = []
    for epoch in range(1, recipe.epochs + 1):
        begin = time.perf_counter()
        rows = order.permutation(len(pixels))[: steps * size].astype(np.int32)
        batches = [{"index": batch} for batch in rows.reshape(steps, size)]
        if device == "cuda":
            state, metrics = step.several(state, placement.put_stacked(batches), key)
        else:
            for batch in batches:
                state, metrics = step(state, placement.put(batch), key)
        last = float(metrics["loss"])
        epochs.append({"epoch": epoch, "last_loss": last, "seconds": time.perf_counter() - begin})
        print(f"epoch {epoch}: loss {last:.3f}, {epochs[-1]['seconds']:.1f} s", flush=True)
        if after and epoch in after:
            nnx.update(model, state.params, state.rest)
            after[epoch](model)
    return model, epochs


def features(model: Embedder, pixels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Compute h of uint8 [n, s, s, 3] images, in float32."""
    model.eval()
    graphdef, state = nnx.split(model.encoder)
    parts = np.array_split(pixels, max(1, len(pixels) // 500))
    found = [np.asarray(_encode(graphdef, state, part, recipe)) for part in parts]
    model.train()
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _encode(graphdef: Any, state: nnx.State, images: jax.Array, recipe: Recipe) -> jax.Array:
    x = _normalized(augment.to_float(images), recipe)
    return nnx.merge(graphdef, state)(x).astype(jnp.float32)


def save(model: Embedder, path: Path) -> None:
    """Save all variables in a file of NumPy's."""
    flat = nnx.to_flat_state(nnx.state(model))
    np.savez(path, **{"/".join(map(str, name)): leaf[...] for name, leaf in flat})


def _normalized(images: jax.Array, recipe: Recipe) -> jax.Array:
    return normalize(images, IMAGENET_MEAN, IMAGENET_STD) if recipe.normalizes else images
