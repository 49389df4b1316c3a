"""Triplets mined in tiles: those of the whole matrix, on one device and on eight."""

from functools import partial

import jax
import jax.extend
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl import lowering
from jaxssl.losses import (
    batch_all_triplet_loss,
    mine_triplets,
    triplet_loss,
    triplet_loss_and_stats,
)
from jaxssl.training import hlo


def mined(z, labels, positive, negative, tile_size):
    options = {"positive": positive, "negative": negative, "tile_size": tile_size}
    value_and_grad = jax.value_and_grad(triplet_loss_and_stats, has_aux=True)
    return mine_triplets(z, labels, **options), value_and_grad(z, labels, **options)


@jax.jit
def of_37(*arguments):
    return [mined(*arguments, tile_size=tile) for tile in (None, 1, 8)]


@pytest.mark.parametrize("integers", [True, False])
def test_tiles_are_the_whole_matrix(integers):
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (37, 2)) if integers else rng.normal(size=(37, 2))
    labels = rng.integers(0, 12, 37)  # few points: ties; some lone rows
    for positive in (False, True):
        for negative in (False, True):
            whole, *tiles = of_37(z.astype(np.float32), labels, positive, negative)
            assert 0 < whole[0].mask.sum() < 37
            for tile in tiles:
                jax.tree.map(np.testing.assert_array_equal, tile, whole)


def arrays_of(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from arrays_of(inner)


@pytest.mark.parametrize("loss", [triplet_loss, batch_all_triplet_loss])
@pytest.mark.parametrize("tile", [None, 512])
def test_no_array_is_rows_times_rows(loss, tile):
    z, labels = np.ones((4096, 4), np.float32), np.arange(4096) // 8
    closed = jax.make_jaxpr(jax.value_and_grad(partial(loss, tile_size=tile)))(z, labels)
    largest = max(aval.size for aval in arrays_of(closed.jaxpr))
    assert largest <= 2 * (tile or 1024) * 4096  # indices of rows and columns stand side by side


@pytest.mark.parametrize("f", [triplet_loss, batch_all_triplet_loss, mine_triplets])
def test_bad_tiles_are_named(f):
    with pytest.raises(ValueError, match="tile_size must be None or an integer >= 1, got -1"):
        f(np.ones((4, 3)), np.zeros(4, int), tile_size=-1)


@pytest.mark.parametrize("hard", [False, True])
def test_in_a_step_of_eight_devices_each_mines_its_own_rows(hard):
    """Shared out by the compiler, columns and distances went round in every tile."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(2048, 8)).astype(np.float32)
    labels, weights = rng.integers(0, 40, 2048), rng.uniform(size=2048).astype(np.float32)
    where = rng.uniform(size=2048) < 0.9
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, P("data"))

    def step(z, labels, where, weights, hard):
        value_and_grad = jax.value_and_grad(triplet_loss_and_stats, has_aux=True)
        policy = {"positive": hard, "negative": hard}
        return value_and_grad(z, labels, where=where, weights=weights, tile_size=256, **policy)

    arguments = z, labels, where, weights, np.array(hard)
    (expected, stats), gradient = jax.jit(step)(*arguments)
    program = jax.jit(
        lowering.made_for(mesh)(step), in_shardings=(rows, rows, rows, rows, None)
    ).lower(*arguments)
    compiled = program.compile()
    spread = jax.device_put(arguments[:4], rows)
    (loss, stats_of_8), gradient_of_8 = compiled(*spread, arguments[4])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient_of_8, gradient, rtol=1e-5, atol=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats_of_8, stats)
    said = hlo.communication(compiled.as_text())
    assert "all-to-all" not in said
    assert sum(size for _, size in said.values()) < 4 * (z.nbytes + 3 * 2048 * 8)
