"""Gradients of a large batch on a small device: encode in chunks, loss over all (GradCache)."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxssl.lowering import in_mesh_of

Parameters = TypeVar("Parameters")


def cached_gradients(
    encode: Callable[[Parameters, Any], Any],
    loss: Callable[[Any], jax.Array],
    parameters: Parameters,
    inputs: Any,
    *,
    chunk_size: int,
) -> tuple[jax.Array, Parameters]:
    r"""`jax.value_and_grad` of `loss(encode(parameters, inputs))` by the parameters, in chunks.

    A contrastive loss needs all embeddings at once, but not all activations: the inputs are encoded
    a chunk at a time, keeping the embeddings alone; the loss says what each embedding's gradient
    is; then each chunk is encoded once more and that gradient taken back through it. Memory is that
    of one chunk's activations and of all embeddings, the time one encoding more, and value and
    gradient are those of the whole batch, to rounding.

    Args:
        encode: (parameters, chunk) -> embeddings, one array or a tree of them, each with the
            chunk's rows first. A row's embedding must not depend on its chunk: no batch
            normalisation over it, and randomness from keys that are among the inputs.
        loss: embeddings of all inputs -> a scalar, such as a loss of this package.
        parameters: what the gradient is taken by, a tree of arrays.
        inputs: a tree of arrays [n, ...], such as images and keys.
        chunk_size: how many rows are encoded at a time, at least 1; n must be a multiple of it.

    Returns:
        The loss and its gradient, a tree as the parameters. Inside `shard_map` or `pmap`, where
        `loss` has an `axis_name`, both are as `nt_xent` says of those taken inside.

    Raises:
        ValueError: if inputs differ in their rows, or these are no multiple of `chunk_size`.

    Reference:
        Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021
        (https://arxiv.org/abs/2101.06983), section 3.2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxssl.losses import cached_gradients, nt_xent
        >>> encode = lambda w, x: {"a": x["a"] @ w, "b": x["b"] @ w}
        >>> views = {"a": jnp.eye(4), "b": 2.0 * jnp.eye(4)}
        >>> value, gradient = cached_gradients(
        ...     encode, lambda z: nt_xent(z["a"], z["b"]), jnp.eye(4), views, chunk_size=2
        ... )
        >>> print(f"{value:.4f}", gradient.shape)  # ln(e² + 6) − 2
        0.5944 (4, 4)
    """
    rows = {x.shape[:1] for x in jax.tree.leaves(inputs)}
    if len(rows) != 1 or () in rows:
        raise ValueError(
            f"inputs must all be [n, ...], got {[*map(jnp.shape, jax.tree.leaves(inputs))]}"
        )
    (n,) = rows.pop()
    if chunk_size < 1 or n % chunk_size or not n:
        raise ValueError(f"rows must be a multiple of chunk_size, got {n} and {chunk_size}")
    with in_mesh_of((parameters, inputs)):
        chunks = jax.tree.map(lambda x: _in_chunks(x, chunk_size), inputs)

        embeddings = lax.map(lambda chunk: encode(parameters, chunk), chunks)

        def of_all(embeddings: Any) -> jax.Array:
            return loss(jax.tree.map(_joined, embeddings))

        value, by_embeddings = jax.value_and_grad(of_all)(embeddings)

        def back(total: Parameters, chunk: tuple[Any, Any]) -> tuple[Parameters, None]:
            inputs, by_chunk = chunk
            _, pull = jax.vjp(lambda parameters: encode(parameters, inputs), parameters)
            return jax.tree.map(jnp.add, total, pull(by_chunk)[0]), None

        # As the gradient of a chunk, so that inside shard_map it varies over the same devices.
        first, rest = (
            jax.tree.map(lambda x, part=part: x[part], (chunks, by_embeddings))
            for part in (0, slice(1, None))
        )
        _, pull = jax.vjp(lambda parameters: encode(parameters, first[0]), parameters)
        gradient, _ = lax.scan(back, pull(first[1])[0], rest)
        return value, gradient


def _in_chunks(x: Any, size: int) -> Any:
    """[n, ...] as [n / size, size, ...]; on Explicit axes each chunk is spread as all rows are."""
    shape, spread = (-1, size, *x.shape[1:]), jax.typeof(x).sharding
    if not spread.mesh.explicit_axes:
        return x.reshape(shape)
    rows, *others = spread.spec
    axes = rows if isinstance(rows, tuple) else () if rows is None else (rows,)
    if size % math.prod(spread.mesh.shape[axis] for axis in axes):
        rows = None
    chunks = NamedSharding(spread.mesh, PartitionSpec(None, rows, *others))
    return jnp.reshape(x, shape, out_sharding=chunks)


def _joined(z: jax.Array) -> jax.Array:
    """[c, m, ...] as [c m, ...], spread as the chunks were."""
    shape, spread = (-1, *z.shape[2:]), jax.typeof(z).sharding
    if not spread.mesh.explicit_axes:
        return z.reshape(shape)
    rows = NamedSharding(spread.mesh, PartitionSpec(*spread.spec[1:]))
    return jnp.reshape(z, shape, out_sharding=rows)
