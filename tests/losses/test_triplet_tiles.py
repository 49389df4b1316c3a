"""Triplets mined in tiles: those of the whole matrix, on one device and on eight."""

from functools import partial

import jax
import jax.extend
import numpy as np
import pytest

from jaxssl.losses import (
    batch_all_triplet_loss,
    mine_triplets,
    triplet_loss,
    triplet_loss_and_stats,
)


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
