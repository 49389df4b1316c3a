import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.models import Frozen, freeze
from jaxssl.models.layers import BatchNorm, Dropout, conv, he_normal


class Branch(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.parts = nnx.List([nnx.Linear(3, 3, rngs=rngs), BatchNorm(3, rngs=rngs)])
        self.depth = Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for part in self.parts:
            x = part(x)
        return self.depth(x)


def test_a_frozen_module_is_a_fixed_function_in_training():
    branch, x = Branch(), jax.random.normal(jax.random.key(0), (6, 2, 2, 3))
    branch.parts[1].mean.set_value(jnp.array([0.1, 0.2, 0.3]))
    fixed = nnx.view(branch, use_running_average=True, deterministic=True)(x)
    assert (branch(x) != fixed).any()
    branch.parts[1].mean.set_value(jnp.array([0.1, 0.2, 0.3]))
    branch.parts[1].var.set_value(jnp.ones(3))
    freeze(branch)
    branch.train()
    np.testing.assert_array_equal(branch(x), fixed)
    view = nnx.view(branch, use_running_average=False, deterministic=False)
    np.testing.assert_array_equal(view(x), fixed)
    np.testing.assert_allclose(branch.parts[1].mean[...], [0.1, 0.2, 0.3])


def test_frozen_parameters_are_no_parameters_and_still_state():
    branch = Branch()
    before = nnx.to_pure_dict(nnx.state(branch, nnx.Param))
    freeze(branch.parts[0])
    assert set(nnx.to_pure_dict(nnx.state(branch, nnx.Param))["parts"]) == {1}
    frozen = nnx.to_pure_dict(nnx.state(branch, Frozen))["parts"][0]
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(frozen[name], before["parts"][0][name])
    assert not branch.parts[1].frozen


def test_batchnorm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(40, 0.1, (64, 3)), jnp.bfloat16)
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    expected = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.05)
    assert norm.mean.dtype == norm.var.dtype == jnp.float32


def test_convolutions_start_as_torchvisions():
    kernel = conv(5, 40, 3, dtype=jnp.float32, rngs=nnx.Rngs(0)).kernel[...]
    ours = he_normal(jax.random.key(3), (3, 3, 5, 40), jnp.float32)
    flax = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    np.testing.assert_allclose(ours, flax(jax.random.key(3), (3, 3, 5, 40)), rtol=1e-6)
    assert abs(kernel.std() / (2 / (9 * 40)) ** 0.5 - 1) < 0.05
