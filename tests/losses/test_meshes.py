"""Losses called outside of jit on a mesh as `jax.make_mesh` makes it; inside: test_battery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl import losses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 5)).astype(np.float32)
LABELS = RNG.integers(0, 6, 64)
WEIGHTS = RNG.normal(size=(6, 5)).astype(np.float32)


def test_outside_of_jit_too_and_errors_are_the_losses_own():
    mesh = jax.make_mesh((8,), ("data",))
    x, labels = jax.device_put((X, LABELS), NamedSharding(mesh, P("data")))
    accuracy = losses.cosine_accuracy(x, jnp.asarray(WEIGHTS), labels)
    np.testing.assert_allclose(accuracy, losses.cosine_accuracy(X, WEIGHTS, LABELS))
    with pytest.raises(ValueError, match="temperature must lie in"):
        losses.sup_con(x, labels, temperature=0.0)


MESH = jax.make_mesh((8,), ("data",))
SPREAD, WHOLE = NamedSharding(MESH, P("data")), NamedSharding(MESH, P())
SOME = RNG.random(64) < 0.6


def three_ways(function, *arrays):
    """What a function gives outside of jit, under it, and under jax.set_mesh too."""
    yield function(*arrays)
    yield jax.jit(function)(*arrays)
    # What is labels and masks may be closed over: the rows alone are an argument.
    yield jax.jit(lambda first: function(first, *arrays[1:]))(arrays[0])
    with jax.set_mesh(MESH):
        yield function(*arrays)
        yield jax.jit(function)(*arrays)


def close(found, expected, **how):
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, **how)


@pytest.mark.parametrize(
    "name", ["arcface_loss", "cosface_loss", "cosine_accuracy", "adacos_scale"]
)
def test_rows_that_count_may_be_told_of_spread_labels(name):
    loss = getattr(losses, name)
    where = np.append(SOME[1:], False)
    labels = np.where(where, LABELS, -1)  # of rows that do not count nobody asks
    expected = loss(X, WEIGHTS, labels, where=where)
    x, spread_labels, spread_where = jax.device_put((X, labels, where), SPREAD)
    weights = jax.device_put(WEIGHTS, WHOLE)
    for found in three_ways(
        lambda *a: loss(*a[:3], where=a[3]), x, weights, spread_labels, spread_where
    ):
        close(found, expected)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 6\), got -1 to"):
        loss(x, weights, spread_labels)


@pytest.mark.parametrize("queue", ["whole", "on one device"])
def test_spread_rows_are_pushed_and_the_queue_is_whole_on_every_device(queue):
    start = losses.Queue.empty(50, 5).push(X[:10], LABELS[:10])
    expected = start.push(X, LABELS, where=SOME)
    rows = jax.device_put((X, LABELS, SOME), SPREAD)
    if queue == "whole":
        start = jax.device_put(start, WHOLE)
    for found in three_ways(
        lambda x, labels, where, start: start.push(x, labels, where=where), *rows, start
    ):
        close(found, expected)
        assert found.rows.sharding.is_fully_replicated


@pytest.mark.parametrize("chunk_size", [16, 4])
def test_cached_gradients_of_spread_rows_are_one_devices(chunk_size):
    def encode(w, x):
        return {"z": jnp.tanh(x["x"] @ w)}

    def found(x, w, labels):
        return losses.cached_gradients(
            encode, lambda z: losses.sup_con(z["z"], labels), w, {"x": x}, chunk_size=chunk_size
        )

    w = RNG.normal(size=(5, 8)).astype(np.float32)
    expected = jax.value_and_grad(lambda w: losses.sup_con(encode(w, {"x": X})["z"], LABELS))(w)
    x, labels = jax.device_put((X, LABELS), SPREAD)
    seen = []
    for got in three_ways(found, x, jax.device_put(w, WHOLE), labels):
        close(got, expected)
    # Parameters that are spread have gradients that are; a chunk is spread as all rows are.
    by_column = jax.device_put(w, NamedSharding(MESH, P(None, "data")))
    rows = jax.device_put(X, WHOLE)
    _, gradient = jax.jit(found)(rows, by_column, jax.device_put(LABELS, WHOLE))
    assert gradient.sharding.is_equivalent_to(by_column.sharding, 2)

    def noting(w, x):
        seen.append(jax.typeof(x).sharding.spec[0])
        return x @ w

    losses.cached_gradients(noting, jnp.sum, jax.device_put(w, WHOLE), x, chunk_size=chunk_size)
    assert set(seen) == {"data" if chunk_size == 16 else None}
