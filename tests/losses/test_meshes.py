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
