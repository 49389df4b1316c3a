"""The loss over all triplets, against three loops."""

import jax
import numpy as np
import pytest

from jaxssl.losses import batch_all_triplet_loss


def reference(z, labels, margin):
    """Triplet by triplet, in float64."""
    z, n = np.asarray(z, np.float64), len(z)
    total, count, grad = 0.0, 0, np.zeros_like(z)
    for a in range(n):
        for p in range(n):
            for q in range(n):
                if p == a or labels[p] != labels[a] or labels[q] == labels[a]:
                    continue
                loss = sum((z[a] - z[p]) ** 2) - sum((z[a] - z[q]) ** 2) + margin
                if loss > 0:
                    total, count = total + loss, count + 1
                    grad[a] += 2 * (z[q] - z[p])
                    grad[p] += 2 * (z[p] - z[a])
                    grad[q] += 2 * (z[a] - z[q])
    return total / max(count, 1), grad / max(count, 1), float(count > 0)


def everything(z, labels, margin, tile_size=None):
    """Value, gradients by embeddings and margin, and the value where no gradient is asked for."""

    def loss(z, margin):
        return batch_all_triplet_loss(z, labels, margin=margin, tile_size=tile_size)

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(z, margin)
    return value, *grads, loss(z, margin)


BATCHES = jax.jit(jax.vmap(everything))
TILES = jax.jit(lambda *a: [everything(*a, tile_size=tile) for tile in (None, 4, 12)])


def check(got, expected, rtol=1e-5, atol=1e-6):
    for a, b in zip(got, (*expected, expected[0]), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def test_integer_batches_equal_the_loops():
    rng = np.random.default_rng(0)
    # Few points and few classes: duplicates, ties of d_an with d_ap + margin, lone rows, one class.
    z = rng.integers(0, rng.integers(1, 5, (200, 1, 1)), (200, 7, 2)).astype(np.float32)
    labels = rng.integers(0, rng.integers(1, 8, (200, 1)), (200, 7))
    margins = rng.choice([0.0, 0.5, 1.0, 3.0], 200).astype(np.float32)
    got = jax.device_get(BATCHES(z, labels, margins))
    nothing = 0
    for i in range(200):
        expected = reference(z[i], labels[i], margins[i])
        nothing += expected[2] == 0
        check([x[i] for x in got], expected)
    assert 30 < nothing < 170, "the batches must cover none and some triplets above 0"


@pytest.mark.parametrize("case", ["random", "collapsed", "one class", "all lone"])
def test_every_tile_equals_the_loops(case):
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(13, 3)).astype(np.float32), rng.integers(0, 4, 13)
    if case == "collapsed":
        z[:] = z[0]
    if case in ("one class", "all lone"):
        labels = np.zeros(13, int) if case == "one class" else np.arange(13)
    expected = reference(z, labels, 0.5)
    for got in TILES(z, labels, 0.5):
        check(got, expected)
        if case != "random":
            assert not got[1].any()


def test_one_row_has_no_triplet():
    z, labels = np.ones((1, 3), np.float32), np.zeros(1, int)
    value, grad = jax.jit(jax.value_and_grad(batch_all_triplet_loss))(z, labels)
    assert value == 0
    assert not grad.any()
