"""ArcFace and CosFace in tiles, and with classes over devices: the numbers of one matrix."""

from functools import partial

import jax
import jax.extend
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxssl.losses import arcface_loss, cosface_loss, cosine_accuracy, cosine_logits

LOSSES = {"arcface": arcface_loss, "cosface": cosface_loss}


def problem(seed, n=6, d=3, k=10):
    rng = np.random.default_rng(seed)
    z, w = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    labels = rng.integers(0, k, n)
    z[1] = -1.1 * w[labels[1]] + 0.1  # beyond π − margin
    return z.astype(np.float32), w.astype(np.float32), labels


def equal(got, expected, rtol=1e-5, atol=1e-6):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def by_everything(loss, **options):
    """Value and gradients with respect to embeddings, weights, margin and scale."""

    def f(z, w, margin, scale, labels):
        return loss(z, w, labels, margin=margin, scale=scale, **options)

    return jax.value_and_grad(f, argnums=(0, 1, 2, 3))


TILES = (1, 4, 10)  # of 10 classes: the last is one matrix


@jax.jit
def in_tiles(*arguments):
    return {
        name: [by_everything(loss, tile_size=tile)(*arguments) for tile in TILES]
        for name, loss in LOSSES.items()
    }


@pytest.mark.parametrize("case", ["random", "zero rows", "no such class"])
def test_tiles_equal_one_matrix(case):
    z, w, labels = problem(0)
    if case == "zero rows":
        z[0] = w[labels[2]] = 0.0
    if case == "no such class":
        labels[:2] = -1, 10
    for results in in_tiles(z, w, 0.4, 16.0, labels).values():
        *tiles, dense = results
        for tile in tiles:
            equal(tile, dense, atol=1e-5)


# The batch is spread over another axis than the classes; over the same: test_margin_options.
@pytest.mark.parametrize("shape", [(2, 4)])
def test_classes_over_devices_equal_one_device(shape):
    z, w, labels = problem(2, n=16, k=8)
    options = {"margin": 0.4, "scale": 16.0}

    def one(z, w, labels):
        return arcface_loss(z, w, labels, **options)

    expected = jax.jit(jax.value_and_grad(one, argnums=(0, 1)))(z, w, labels)
    mesh = jax.make_mesh(shape, ("x", "y")[: len(shape)], axis_types=(AxisType.Auto,) * len(shape))
    classes = mesh.axis_names[-1]
    axes = {"axis_name": "x", "class_axis_name": classes, "tile_size": 1}

    def loss(z, w, labels):
        return arcface_loss(z, w, labels, **options, **axes)

    def inside(scaling, z, w, labels):
        def scaled(scaling, w):
            return loss(z * scaling, w, labels)

        by_scaling, by_w = jax.grad(scaled, argnums=(0, 1))(scaling, w)
        right = cosine_accuracy(z, w, labels, **axes)
        others = mesh.axis_names[:-1]  # along which the weights are replicated
        by_w = lax.pmean(by_w, others) if others else by_w
        return lax.pmean(by_scaling, mesh.axis_names), by_w, right

    rows, columns = P("x"), P(classes)

    def both(z, w, labels):
        for check_vma in (True, False):
            mapped = partial(jax.shard_map, mesh=mesh, check_vma=check_vma)
            outer = mapped(loss, in_specs=(rows, columns, rows), out_specs=P())
            inner = mapped(
                inside, in_specs=(P(), rows, columns, rows), out_specs=(P(), columns, P())
            )
            yield jax.value_and_grad(outer, argnums=(0, 1))(z, w, labels)
            yield inner(np.ones((1, 3), np.float32), z, w, labels)

    value, (by_z, by_w) = expected
    by_scaling = np.sum(by_z * z, axis=0, keepdims=True)
    right = np.mean(np.argmax(cosine_logits(z, w), axis=1) == labels)
    checked, inner_checked, unchecked, inner_unchecked = jax.jit(lambda *a: list(both(*a)))(
        z, w, labels
    )
    equal(checked, (value, (by_z, by_w)), atol=1e-5)
    equal(unchecked, (value, (by_z, by_w)), atol=1e-5)
    equal(inner_checked, (by_scaling, by_w, right), atol=1e-5)
    # As `arcface_loss` says: too large by the number of devices along the classes' axis.
    equal(inner_unchecked, (by_scaling, mesh.shape[classes] * by_w, right), atol=1e-4)


@pytest.mark.parametrize("tile", [None, 3])
def test_accuracy_is_that_of_the_logits(tile):
    z, w, labels = problem(3, n=50)
    logits = np.asarray(cosine_logits(z, w))
    labels[:30] = np.argmax(logits, axis=1)[:30]
    expected = np.mean(np.argmax(logits, axis=1) == labels)
    assert 0.6 <= expected < 1
    got = jax.jit(partial(cosine_accuracy, tile_size=tile))(z, w, labels)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def arrays_of(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from arrays_of(inner)


@pytest.mark.parametrize("tile", [None, 512])
def test_no_array_is_rows_times_classes(tile):
    z, w, labels = (
        np.ones((128, 4), np.float32),
        np.ones((10**5, 4), np.float32),
        np.zeros(128, int),
    )
    f = by_everything(arcface_loss, tile_size=tile)
    closed = jax.make_jaxpr(f)(z, w, 0.4, 16.0, labels)
    largest = max(aval.size for aval in arrays_of(closed.jaxpr))
    assert largest == max(w.size, 128 * (tile or 2**12))


@pytest.mark.parametrize("f", [*LOSSES.values(), cosine_accuracy])
def test_bad_arguments_are_named(f):
    z, w, labels = problem(4)
    with pytest.raises(ValueError, match="tile_size must be None or an integer >= 1, got 0"):
        f(z, w, labels, tile_size=0)
    with pytest.raises(ValueError, match=r"got \(6, 3\) and \(10, 2\)"):
        f(z, w[:, :2], labels, tile_size=2)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\), got 10 to 10"):
        f(z, w, np.full(6, 10), tile_size=2)


def test_labels_of_few_bits_reach_all_classes():
    """256 classes are more than 0 to 255 can be compared with."""
    z, weights, labels = problem(0, n=12, k=256)
    expected = arcface_loss(z, weights, labels)
    for dtype in (np.uint8,):
        loss = arcface_loss(z, weights, jax.numpy.array(labels, dtype), tile_size=100)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_label_that_is_no_class_is_not_right():
    z, weights = -np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    accuracy = jax.jit(lambda labels: cosine_accuracy(z, weights, labels))
    assert accuracy(np.array([-1, 7])) == 0


def test_arrays_that_jit_closes_over_are_checked_there():
    z, weights, labels = problem(1)
    inside, outside = jax.numpy.array(labels), jax.numpy.array(labels + 9)
    margin, too_wide = jax.numpy.ones(()), 2 * jax.numpy.ones(())
    loss = jax.jit(lambda z: arcface_loss(z, weights, inside, margin=margin))
    np.testing.assert_allclose(loss(z), arcface_loss(z, weights, labels, margin=1.0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\)"):
        jax.jit(lambda z: arcface_loss(z, weights, outside))(z)
    with pytest.raises(ValueError, match="margin must lie in"):
        jax.jit(lambda z: arcface_loss(z, weights, inside, margin=too_wide))(z)
