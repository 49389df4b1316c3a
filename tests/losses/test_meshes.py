"""Every loss on a mesh as `jax.make_mesh` makes it, with Explicit axes, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl import losses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 5)).astype(np.float32)
LABELS = RNG.integers(0, 6, 64)
WEIGHTS = RNG.normal(size=(6, 5)).astype(np.float32)

LOSSES = {
    "nt_xent": lambda x, labels, scale: losses.nt_xent(x[::2], x[1::2], temperature=scale),
    "in tiles": lambda x, labels, scale: losses.nt_xent(
        x[::2], x[1::2], temperature=scale, tile_size=4
    ),
    "sup_con": lambda x, labels, scale: losses.sup_con(x, labels, temperature=scale),
    "triplet": lambda x, labels, scale: losses.triplet_loss_and_stats(x, labels, margin=scale)[0],
    "batch all": lambda x, labels, scale: losses.batch_all_triplet_loss(x, labels, margin=scale),
    "arcface": lambda x, labels, scale: losses.arcface_loss(x, WEIGHTS, labels, margin=scale),
    "cosface": lambda x, labels, scale: losses.cosface_loss(
        x, WEIGHTS, labels, margin=scale, tile_size=2
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_explicit_axes_equal_one_device(name):
    mesh = jax.make_mesh((8,), ("data",))
    assert mesh.axis_types == (AxisType.Explicit,)
    x, labels = jax.device_put((X, LABELS), NamedSharding(mesh, P("data")))
    loss = jax.jit(jax.value_and_grad(LOSSES[name], argnums=(0, 2)))
    value, (grad, by_scale) = loss(x, labels, 0.3)
    expected, (expected_grad, expected_by_scale) = loss(X, LABELS, 0.3)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(by_scale, expected_by_scale, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-6)
    assert grad.sharding.is_equivalent_to(x.sharding, 2)


def test_outside_of_jit_too_and_errors_are_the_losses_own():
    mesh = jax.make_mesh((8,), ("data",))
    x, labels = jax.device_put((X, LABELS), NamedSharding(mesh, P("data")))
    accuracy = losses.cosine_accuracy(x, jnp.asarray(WEIGHTS), labels)
    np.testing.assert_allclose(accuracy, losses.cosine_accuracy(X, WEIGHTS, LABELS))
    with pytest.raises(ValueError, match="temperature must lie in"):
        losses.sup_con(x, labels, temperature=0.0)
